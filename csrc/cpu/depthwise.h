// Forward and grad_input of depthwise convolutions and of small groups (depthwise_rows.h).
//
// A task is a piece of one image and some vectors of channels, and walks down the piece. A register tile is some
// neighbouring pixels (of one phase of the stride): every multiply-add takes one operand from registers. Results go
// straight to where they belong if channels are innermost there.
// Bound: memory for small kernels, L1 loads for large ones, the FMA units for groups.
#pragma once

#include "depthwise_rows.h"

namespace myconv2d::MYCONV2D_ISA {

struct DepthwiseTap {
  int64_t source, weight;  // where its pixels and its weights begin
};

// What a register tile reads and writes: some neighbouring pixels of one vector of channels.
template <typename A>
struct DepthwiseOperands {
  const DepthwiseTap *tap, *end;
  const A* source;  // of the first pixel; `step` elements from pixel to pixel
  int64_t step;
  const A *weights, *bias;
  A* result;
  int64_t result_step;
  bool stream;         // past the caches
  Axis::Range inside;  // source columns under a window that lie in the image
};

template <typename A, int pixels>
inline void depthwise_store(const DepthwiseOperands<A>& of, const typename Vector<A>::type (&sum)[pixels]) {
  if (of.stream) {
#pragma GCC unroll 8
    for (int i = 0; i < pixels; ++i) stream_vector<A>(of.result + i * of.result_step, sum[i]);
  } else {
#pragma GCC unroll 8
    for (int i = 0; i < pixels; ++i) store_vector<A, A>(of.result + i * of.result_step, sum[i]);
  }
}

// result[pixels] = bias + Σ_(taps, c) source[tap, pixel, c] · weights[tap, c]
template <typename A, int group, int pixels>
void depthwise_tile(const DepthwiseOperands<A>& of) {
  using V = typename Vector<A>::type;
  V sum[pixels];
#pragma GCC unroll 8
  for (int i = 0; i < pixels; ++i) sum[i] = *reinterpret_cast<const V*>(of.bias);
  for (const DepthwiseTap* tap = of.tap; tap != of.end; ++tap) {
    const V* weight = reinterpret_cast<const V*>(of.weights + tap->weight);
    for_group<group>([&]<int c>() {
      const A* a = of.source + tap->source;
#pragma GCC unroll 8
      for (int i = 0; i < pixels; ++i, a += of.step) sum[i] += of_group<A, group, c>(a) * weight[c];
    });
  }
  depthwise_store(of, sum);
}

// The same under rows of so many neighbouring taps: each pixel of the source is loaded once a row. At an edge those
// outside the image, which are not there to be loaded, are left out.
template <typename A, int group, int pixels, int taps, bool edge>
void depthwise_window(const DepthwiseOperands<A>& of) {
  using V = typename Vector<A>::type;
  V sum[pixels];
#pragma GCC unroll 8
  for (int i = 0; i < pixels; ++i) sum[i] = *reinterpret_cast<const V*>(of.bias);
  for (const DepthwiseTap* tap = of.tap; tap != of.end; tap += taps)
    for_group<group>([&]<int c>() {
      const A* a = of.source + tap->source;
      V weight[taps];
#pragma GCC unroll 8
      for (int t = 0; t < taps; ++t) weight[t] = reinterpret_cast<const V*>(of.weights + tap[t].weight)[c];
#pragma GCC unroll 16
      for (int x = 0; x < pixels + taps - 1; ++x, a += of.step) {
        if (edge && (x < of.inside.begin || x >= of.inside.end)) continue;
        const V value = in_register(of_group<A, group, c>(a));
#pragma GCC unroll 8
        for (int t = 0; t < taps; ++t)
          if (x - t >= 0 && x - t < pixels) sum[x - t] += value * weight[t];
      }
    });
  depthwise_store(of, sum);
}

template <typename A>
struct DepthwiseTile {
  int64_t pixels;
  using Run = void (*)(const DepthwiseOperands<A>&);
  Run run, at_edge;  // at_edge: null if it is for pixels that have all taps, or none
};

template <typename A, int group, int pixels, int taps>
constexpr DepthwiseTile<A> depthwise_window_of = {pixels, depthwise_window<A, group, pixels, taps, false>,
                                                  depthwise_window<A, group, pixels, taps, true>};

// For a row of so many pixels under `taps` neighbouring taps, if there is one.
template <typename A, int group>
DepthwiseTile<A> depthwise_window_for(const Axis& axis, int64_t pixels) {
  const bool neighbours = axis.step == 1 && (axis.spacing == 1 || axis.spacing == -1);
  // The last overlaps the one before: by seven or by eight, whichever does less twice.
  const bool sevens = round_up(pixels, 7) < round_up(pixels, 8);
  if (!neighbours || pixels < (sevens ? 7 : 8)) return {};
  if (axis.taps == 3) return sevens ? depthwise_window_of<A, group, 7, 3> : depthwise_window_of<A, group, 8, 3>;
  if constexpr (group == 1) {
    if (axis.taps == 5) return sevens ? depthwise_window_of<A, 1, 7, 5> : depthwise_window_of<A, 1, 8, 5>;
    if (axis.taps == 7) return sevens ? depthwise_window_of<A, 1, 7, 7> : depthwise_window_of<A, 1, 8, 7>;
  }
  return {};
}

// For some of so many pixels under any taps.
template <typename A, int group>
DepthwiseTile<A> depthwise_tile_for(int64_t pixels) {
  if (pixels >= 8) return {8, depthwise_tile<A, group, 8>, nullptr};
  if (pixels >= 4) return {4, depthwise_tile<A, group, 4>, nullptr};
  return {1, depthwise_tile<A, group, 1>, nullptr};
}

// The taps of some rows and columns of the kernel, ordered as they lie in the source.
template <typename T, typename A>
DepthwiseTap* list_taps(const Gather& phase, int64_t kernel_w, const SourceRows<T, A>& source, int64_t y, int64_t x,
                        const Axis::Range& rows, const Axis::Range& columns, int64_t weight_step, DepthwiseTap* to) {
  for (int64_t r = rows.begin; r < rows.end; ++r)
    for (int64_t i = 0; i < columns.size(); ++i) {
      const int64_t s = phase.w.spacing < 0 ? columns.end - 1 - i : columns.begin + i;
      const int64_t element = (phase.h.first_tap + r * phase.h.tap_spacing) * kernel_w + phase.w.first_tap +
                              s * phase.w.tap_spacing;
      *to++ = {source.row(y * phase.h.step + phase.h.origin + r * phase.h.spacing) +
                   (x * phase.w.step + phase.w.origin + s * phase.w.spacing) * source.column_step,
               element * weight_step};
    }
  return to;
}

// A task's blocks of channels: their weights, and where the first pixel of a row of results goes.
template <typename A>
struct DepthwiseBlocks {
  const A* packed;  // of a block: [tap][c][lane], then the bias
  int64_t packed_size, count;
  A* result;
  int64_t block_step, pixel_step;
  bool stream;
};

// A row of `pixels` results from (y, x) of the phase's grid on. Meanwhile it asks for rows `ahead` of the source.
template <int group, typename T, typename A>
void depthwise_row(const Gather& phase, int64_t kernel_w, const SourceRows<T, A>& rows, int64_t y, int64_t x,
                   int64_t pixels, const DepthwiseBlocks<A>& blocks, DepthwiseTap* list, const Axis::Range& ahead) {
  constexpr int64_t lanes = Vector<A>::lanes, weight_step = group * lanes;
  DepthwiseOperands<A> of{};
  of.step = phase.w.step * rows.column_step;
  of.result_step = blocks.pixel_step;
  of.stream = blocks.stream;
  const Axis::Range inside = phase.h.taps_inside(y);
  const auto window = depthwise_window_for<A, group>(phase.w, pixels);
  const Axis::Range in_whole =
      rows.in_place && !window.run ? whole_steps(phase.w, x, pixels) : Axis::Range{0, pixels};
  for (int64_t begin = 0, end; begin < pixels; begin = end) {  // pixels with the same taps
    const bool all = begin == in_whole.begin && in_whole.size() > 0;
    end = all ? in_whole.end : begin + 1;
    const Axis::Range columns = all ? Axis::Range{0, phase.w.taps} : phase.w.taps_inside(x + begin);
    of.tap = list;
    of.end = list_taps(phase, kernel_w, rows, y, x, inside, columns, weight_step, list);
    const auto tile = window.run ? window : depthwise_tile_for<A, group>(end - begin);
    for (int64_t next = begin; next < end; next += tile.pixels) {
      const int64_t i = least(next, end - tile.pixels);  // the last overlaps the one before
      of.inside = inside_of(phase.w, x + i, tile.pixels);
      const bool edge = rows.in_place && of.inside.size() < phase.w.span(tile.pixels);
      const auto run = edge && tile.at_edge ? tile.at_edge : tile.run;
      for (int64_t block = 0; block < blocks.count; ++block) {
        rows.ask(ahead, (x + i) * phase.w.step, tile.pixels * phase.w.step, block * lanes);
        of.weights = blocks.packed + block * blocks.packed_size;
        of.bias = of.weights + blocks.packed_size - lanes;
        of.source = rows.data + Channels<A, group>::source(block) + i * of.step;
        of.result = blocks.result + block * blocks.block_step + i * of.result_step;
        run(of);
      }
    }
  }
}

// The weights of each block of channels: [tap][c][lane], then the bias, if there is one.
template <int group, typename T, typename A>
A* pack_depthwise(const Conv2d& conv, const Channels<A, group>& cut, const T* weight, const WeightView& view,
                  const T* bias, int64_t bias_stride, int64_t packed_size) {
  constexpr int64_t lanes = Vector<A>::lanes;
  A* packed = static_cast<A*>(scratch(Scratch::weights, cut.blocks * packed_size * sizeof(A)));
  std::memset(packed, 0, cut.blocks * packed_size * sizeof(A));
  for (int64_t k = 0; k < cut.count; ++k) {
    A* to = packed + k / lanes * packed_size + k % lanes;
    for (int64_t tap = 0; tap < conv.taps(); ++tap)
      for (int64_t c = 0; c < group; ++c, to += lanes)
        *to = load<A>(weight[k / group * view.group + k % group * view.k + c * view.c +
                             tap / conv.kernel_width * view.r + tap % conv.kernel_width * view.s]);
    if (bias) *to = load<A>(bias[k * bias_stride]);
  }
  return packed;
}

template <int group, typename T, typename A = typename Accumulator<T>::type>
void depthwise_product(const Phases& phases, const Threads& threads, const T* source, const Strides& source_strides,
                       const T* weight, const WeightView& view, const T* bias, int64_t bias_stride, T* result,
                       const Strides& result_strides) {
  const Gather gather = phases.all();
  if (gather.pixels() == 0) return;
  constexpr int64_t lanes = Vector<A>::lanes;
  const Conv2d& conv = phases.conv;
  const Channels<A, group> cut(conv.groups, source_strides);
  const int64_t packed_size = (conv.taps() * group + 1) * lanes;
  const A* packed = pack_depthwise<group, T, A>(conv, cut, weight, view, bias, bias_stride, packed_size);

  const int64_t count_h = phases.count_h(), count_w = phases.count_w();
  Gather* gathers = static_cast<Gather*>(scratch(Scratch::partial_sums, count_h * count_w * sizeof(Gather)));
  for (int64_t i = 0; i < count_h * count_w; ++i) gathers[i] = phases.at(i / count_w, i % count_w);

  const Pieces pieces = tall_pieces(gather, cut.padded() * sizeof(A), cut.chunks, 4 * threads.count);
  const Band<A> whole = Band<A>::dense(gather, cut.padded(), 1, pieces.columns);
  const bool in_place = SourceRows<T, A>::suits(source_strides, cut.count);
  const int64_t elements = gather.batch * (conv.in_pixels() + conv.out_pixels()) * cut.count;
  const bool stream = streams(elements, result, result_strides);
  parallel_for(threads, gather.batch * pieces.per_image() * cut.chunks, [&](int64_t task) {
    const int64_t first_block = task % cut.chunks * cut.together, first = first_block * lanes;
    const Piece piece(gather, pieces, task / cut.chunks);
    const int64_t channels = least(cut.padded(), cut.count - first);
    SourceRows<T, A> rows(in_place, gather, whole, piece, channels,
                          source + first * source_strides.c + piece.image * source_strides.n, source_strides);
    A* sums = static_cast<A*>(scratch(Scratch::accumulators, cut.together * pieces.columns * lanes * sizeof(A)));
    auto* list = static_cast<DepthwiseTap*>(scratch(Scratch::vectors, most(1, conv.taps()) * sizeof(DepthwiseTap)));
    T* image_result = result + first * result_strides.c + piece.image * result_strides.n;
    const int64_t pixel_step = count_w * result_strides.w;
    const bool direct = sizeof(T) == sizeof(A) && result_strides.c == 1 && channels % lanes == 0;
    DepthwiseBlocks<A> blocks{packed + first_block * packed_size, packed_size, ceil_div(channels, lanes), sums,
                              pieces.columns * lanes, lanes, false};
    if (direct) blocks.block_step = lanes, blocks.pixel_step = pixel_step, blocks.stream = stream;
    for (int64_t y = 0; y < piece.rows; ++y) {
      rows.advance(y);
      for (int64_t h = 0; h < count_h; ++h)
        for (int64_t w = 0; w < count_w; ++w) {
          const Gather& phase = gathers[h * count_w + w];
          const int64_t pixels = least(piece.columns, phase.w.grid - piece.x), at = piece.y + y;
          if (at >= phase.h.grid || pixels <= 0) continue;
          T* to = image_result + (at * count_h + h) * result_strides.h + (piece.x * count_w + w) * result_strides.w;
          if (direct) blocks.result = reinterpret_cast<A*>(to);
          depthwise_row<group, T, A>(phase, conv.kernel_width, rows, at, piece.x, pixels, blocks, list,
                                     h + w == 0 ? rows.first_read_by(y + 1) : Axis::Range{0, 0});
          if (!direct)
            write_row<T, A>(sums, lanes, blocks.block_step, pixels, channels, to, {0, result_strides.c, 0, pixel_step});
        }
    }
    if (blocks.stream) end_of_stream();
  });
}

}  // namespace myconv2d::MYCONV2D_ISA
