// Depthwise convolutions: groups of one channel in and one out. Vectors run along the groups, whatever the layout.
//
// A task is a piece of one image and some vectors of channels. It walks down the piece; the rows of the source that are
// under the kernel lie in a ring, each read once. A register tile is some neighbouring pixels (forward, grad_input: of
// one phase of the stride) or the taps of a row of the kernel (grad_weight), and every multiply-add takes one operand
// from registers and one from the ring. Results go straight to where they belong if channels are innermost there.
// Bound: L1 loads for large kernels, memory for small ones.
#pragma once

#include "band.h"
#include "parallel.h"
#include "scratch.h"

namespace myconv2d::MYCONV2D_ISA {

constexpr int64_t most_blocks = 16;  // vectors of channels to a task

struct DepthwiseTap {
  int64_t source, weight;  // where its pixels and its weights begin
};

// sums[pixels] = bias + Σ_taps source[tap, pixel] · weights[tap]
template <typename A, int pixels>
void depthwise_tile(const DepthwiseTap* tap, const DepthwiseTap* end, const A* source, const A* weights, const A* bias,
                    A* sums, int64_t sums_step) {
  using V = typename Vector<A>::type;
  V sum[pixels];
#pragma GCC unroll 16
  for (int i = 0; i < pixels; ++i) sum[i] = *reinterpret_cast<const V*>(bias);
  for (; tap != end; ++tap) {
    const A* a = source + tap->source;
    const V weight = *reinterpret_cast<const V*>(weights + tap->weight);
#pragma GCC unroll 16
    for (int i = 0; i < pixels; ++i) sum[i] += reinterpret_cast<const V*>(a)[i] * weight;
  }
#pragma GCC unroll 16
  for (int i = 0; i < pixels; ++i) store_vector<A, A>(sums + i * sums_step, sum[i]);
}

template <typename A>
using DepthwiseTile = void (*)(const DepthwiseTap*, const DepthwiseTap*, const A*, const A*, const A*, A*, int64_t);

template <typename A>
constexpr DepthwiseTile<A> depthwise_tiles[] = {
    nullptr,
    depthwise_tile<A, 1>, depthwise_tile<A, 2>, depthwise_tile<A, 3>,  depthwise_tile<A, 4>,
    depthwise_tile<A, 5>, depthwise_tile<A, 6>, depthwise_tile<A, 7>,  depthwise_tile<A, 8>,
    depthwise_tile<A, 9>, depthwise_tile<A, 10>, depthwise_tile<A, 11>, depthwise_tile<A, 12>,
};

constexpr int window_pixels = 8;

// Several multiply-adds share a value: the compiler would fold its load into each of them as a memory operand.
template <typename V>
inline V in_register(V value) {
#if defined(__x86_64__)
  asm("" : "+v"(value));
#elif defined(__aarch64__)
  asm("" : "+w"(value));
#endif
  return value;
}

// The same for `window_pixels` pixels under rows of so many neighbouring taps: each pixel of the source is loaded once a row.
template <typename A, int taps>
void depthwise_window(const DepthwiseTap* tap, const DepthwiseTap* end, const A* source, const A* weights,
                      const A* bias, A* sums, int64_t sums_step) {
  using V = typename Vector<A>::type;
  V sum[window_pixels];
#pragma GCC unroll 8
  for (int i = 0; i < window_pixels; ++i) sum[i] = *reinterpret_cast<const V*>(bias);
  for (; tap != end; tap += taps) {
    const V* a = reinterpret_cast<const V*>(source + tap->source);
    V weight[taps];
#pragma GCC unroll 8
    for (int t = 0; t < taps; ++t) weight[t] = *reinterpret_cast<const V*>(weights + tap[t].weight);
#pragma GCC unroll 16
    for (int x = 0; x < window_pixels + taps - 1; ++x) {
      const V value = in_register(a[x]);
#pragma GCC unroll 8
      for (int t = 0; t < taps; ++t)
        if (x - t >= 0 && x - t < window_pixels) sum[x - t] += value * weight[t];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < window_pixels; ++i) store_vector<A, A>(sums + i * sums_step, sum[i]);
}

template <typename A>
DepthwiseTile<A> depthwise_window_for(const Axis& axis, int64_t pixels) {
  const bool neighbours = axis.step == 1 && (axis.spacing == 1 || axis.spacing == -1) && pixels >= window_pixels;
  if (neighbours && axis.taps == 3) return depthwise_window<A, 3>;
  if (neighbours && axis.taps == 5) return depthwise_window<A, 5>;
  if (neighbours && axis.taps == 7) return depthwise_window<A, 7>;
  return nullptr;
}

// Pieces of as many rows as keep the threads busy: each piece reads the halo above it anew.
inline Pieces tall_pieces(const Gather& gather, int64_t source_bytes, int64_t chunks, int64_t tasks) {
  Pieces pieces(gather, source_bytes, 768);
  const int64_t others = most(1, gather.batch * pieces.per_image_w * chunks);
  pieces.rows = ceil_div(gather.h.grid, least(gather.h.grid, ceil_div(tasks, others)));
  pieces.per_image_h = ceil_div(gather.h.grid, pieces.rows);
  return pieces;
}

// The last rows of the source that a walk down a piece has read, each in the place of its number modulo their count.
template <typename T, typename A>
struct Ring {
  const Gather& gather;
  Band<A> band;
  A* rows;
  int64_t first_y, first_x, next = 0;  // of the source; rows read so far

  Ring(const Gather& gather, const Band<A>& whole, const Piece& piece, A* rows)
      : gather(gather), band(whole), rows(rows), first_y(piece.y * gather.h.step + gather.h.lowest()),
        first_x(piece.x * gather.w.step + gather.w.lowest()) {
    band.columns = gather.w.span(piece.columns);
  }
  // Everything that step y of the piece reads.
  void advance(const T* image, const Strides& s, int64_t y) {
    for (next = most(next, y * gather.h.step); next < y * gather.h.step + band.rows; ++next)
      read_line<T, A>(band, gather, image, s, first_y + next, first_x, rows + next % band.rows * band.row_size());
  }
  int64_t row(int64_t source_y) const { return (source_y - first_y) % band.rows * band.row_size(); }
};

// bias: of each channel, or null.
template <typename T, typename A = typename Accumulator<T>::type>
void depthwise_product(const Phases& phases, const Threads& threads, const T* source, const Strides& source_strides,
                       const T* weight, const WeightView& view, const T* bias, int64_t bias_stride, T* result,
                       const Strides& result_strides) {
  const Gather gather = phases.all();
  if (gather.pixels() == 0) return;
  constexpr int64_t lanes = Vector<A>::lanes;
  const int64_t groups = phases.conv.groups, blocks = ceil_div(groups, lanes), taps = phases.conv.taps();
  const int64_t kernel_w = phases.conv.kernel_width;
  A* packed = static_cast<A*>(scratch(Scratch::weights, blocks * (taps + 1) * lanes * sizeof(A)));
  std::memset(packed, 0, blocks * (taps + 1) * lanes * sizeof(A));
  for (int64_t g = 0; g < groups; ++g) {  // [block][tap][lane], the last tap's place being the bias'
    A* to = packed + g / lanes * (taps + 1) * lanes + g % lanes;
    for (int64_t tap = 0; tap < taps; ++tap, to += lanes)
      *to = load<A>(weight[g * view.group + tap / kernel_w * view.r + tap % kernel_w * view.s]);
    if (bias) *to = load<A>(bias[g * bias_stride]);
  }

  const int64_t count = phases.count_h() * phases.count_w();
  Gather* gathers = static_cast<Gather*>(scratch(Scratch::partial_sums, count * sizeof(Gather)));
  for (int64_t i = 0; i < count; ++i) gathers[i] = phases.at(i / phases.count_w(), i % phases.count_w());

  // Where channels are innermost in memory a task takes many, so that it reads and writes memory in order.
  const int64_t together = source_strides.c == 1 ? least(blocks, most_blocks) : 1, chunks = ceil_div(blocks, together);
  const Pieces pieces = tall_pieces(gather, together * lanes * sizeof(A), chunks, 4 * threads.count);
  const Band<A> whole = Band<A>::in_blocks(gather, together * lanes, 1, pieces.columns);
  parallel_for(threads, gather.batch * pieces.per_image() * chunks, [&](int64_t task) {
    const int64_t first_block = task % chunks * together, first = first_block * lanes;
    const Piece piece(gather, pieces, task / chunks);
    const int64_t sums_step = pieces.columns * lanes, channels = least(together * lanes, groups - first);
    Ring<T, A> ring(gather, whole, piece, static_cast<A*>(scratch(Scratch::band, whole.size() * sizeof(A))));
    ring.band.channels = channels;
    A* sums = static_cast<A*>(scratch(Scratch::accumulators, together * sums_step * sizeof(A)));
    auto* list = static_cast<DepthwiseTap*>(scratch(Scratch::vectors, most(1, taps) * sizeof(DepthwiseTap)));
    const T* image = source + first * source_strides.c + piece.image * source_strides.n;
    T* image_result = result + first * result_strides.c + piece.image * result_strides.n;
    for (int64_t y = 0; y < piece.rows; ++y) {
      ring.advance(image, source_strides, y);
      for (int64_t h = 0; h < phases.count_h(); ++h)
        for (int64_t w = 0; w < phases.count_w(); ++w) {
          const Gather& phase = gathers[h * phases.count_w() + w];
          const int64_t pixels = least(piece.columns, phase.w.grid - piece.x), at = piece.y + y;
          if (at >= phase.h.grid || pixels <= 0) continue;
          const Axis::Range inside = phase.h.taps_inside(at);
          DepthwiseTap* end = list;
          for (int64_t r = inside.begin; r < inside.end; ++r)
            for (int64_t i = 0; i < phase.w.taps; ++i) {  // as they lie in the source
              const int64_t s = phase.w.spacing < 0 ? phase.w.taps - 1 - i : i;
              *end++ = {ring.row(at * phase.h.step + phase.h.origin + r * phase.h.spacing) +
                            whole.column(phase.w.origin + s * phase.w.spacing - gather.w.lowest()),
                        ((phase.h.first_tap + r * phase.h.tap_spacing) * kernel_w + phase.w.first_tap +
                         s * phase.w.tap_spacing) * lanes};
            }
          const DepthwiseTile<A> window = depthwise_window_for<A>(phase.w, pixels);
          const int64_t tile_pixels = window ? window_pixels : ceil_div(pixels, ceil_div(pixels, 12));
          const int64_t pixel_step = phases.count_w() * result_strides.w;
          T* to = image_result + (at * phases.count_h() + h) * result_strides.h +
                  (piece.x * phases.count_w() + w) * result_strides.w;
          const bool direct = sizeof(T) == sizeof(A) && result_strides.c == 1 && channels % lanes == 0;
          for (int64_t block = 0; block * lanes < channels; ++block) {
            const A* weights = packed + (first_block + block) * (taps + 1) * lanes;
            A* block_sums = direct ? reinterpret_cast<A*>(to) + block * lanes : sums + block * sums_step;
            const int64_t step = direct ? pixel_step : lanes;
            for (int64_t next = 0; next < pixels; next += tile_pixels) {
              const int64_t x = window ? least(next, pixels - tile_pixels) : next;  // the last overlaps the one before
              const auto tile = window ? window : depthwise_tiles<A>[least(tile_pixels, pixels - x)];
              tile(list, end, ring.rows + block * whole.block_size() + x * lanes, weights, weights + taps * lanes,
                   block_sums + x * step, step);
            }
          }
          if (!direct)
            write_row<T, A>(sums, lanes, sums_step, pixels, channels, to,
                            {0, result_strides.c, 0, pixel_step});
        }
    }
  });
}

// sums[taps] += Σ_pixels of one row grads[pixel] · band[pixel · step + tap · spacing], with few taps in two streams.
template <typename A, int taps>
void depthwise_reduce(int64_t pixels, const A* band, int64_t step, int64_t spacing, const A* grads, int64_t grads_step,
                      A* sums) {
  using V = typename Vector<A>::type;
  constexpr int streams = taps <= 4 ? 2 : 1, together = 4;
  V sum[streams][taps] = {};
  if (step == spacing)  // neighbouring pixels under neighbouring taps: each is loaded once
    for (; pixels >= together; pixels -= together, band += together * step) {
      V grad[together];
#pragma GCC unroll 4
      for (int i = 0; i < together; ++i, grads += grads_step) grad[i] = load_vector<A>(grads);
      const A* at = band;
#pragma GCC unroll 16
      for (int x = 0; x < together + taps - 1; ++x, at += step) {
        const V value = in_register(*reinterpret_cast<const V*>(at));
#pragma GCC unroll 8
        for (int t = 0; t < taps; ++t)
          if (x - t >= 0 && x - t < together) sum[x % streams][t] += value * grad[x - t];
      }
    }
  for (; pixels >= streams; pixels -= streams)
#pragma GCC unroll 2
    for (int i = 0; i < streams; ++i, band += step, grads += grads_step) {
      const V grad = load_vector<A>(grads);
#pragma GCC unroll 8
      for (int t = 0; t < taps; ++t) sum[i][t] += *reinterpret_cast<const V*>(band + t * spacing) * grad;
    }
  for (int t = 0; t < taps; ++t) {
    V total = reinterpret_cast<V*>(sums)[t] + sum[0][t];
    if constexpr (streams == 2) {
      total += sum[1][t];
      if (pixels == 1) total += *reinterpret_cast<const V*>(band + t * spacing) * load_vector<A>(grads);
    }
    reinterpret_cast<V*>(sums)[t] = total;
  }
}

template <typename A>
using DepthwiseReduce = void (*)(int64_t, const A*, int64_t, int64_t, const A*, int64_t, A*);

template <typename A>
constexpr DepthwiseReduce<A> depthwise_reduces[] = {
    nullptr, depthwise_reduce<A, 1>, depthwise_reduce<A, 2>, depthwise_reduce<A, 3>, depthwise_reduce<A, 4>,
    depthwise_reduce<A, 5>, depthwise_reduce<A, 6>, depthwise_reduce<A, 7>};

// As for grad_weight_product, the pixels are summed in ranges that the shape alone decides.
template <typename T, typename A = typename Accumulator<T>::type>
void depthwise_grad_weight(const Conv2d& conv, const Threads& threads, const T* grad_output,
                           const Strides& output_strides, const T* input, const Strides& input_strides, T* grad_weight,
                           const Strides& weight_strides, T* grad_bias) {
  using V = typename Vector<A>::type;
  constexpr int64_t lanes = Vector<A>::lanes;
  const Gather gather = forward_gather(conv);
  const int64_t blocks = ceil_div(conv.groups, lanes), taps = gather.taps();
  const int64_t together = input_strides.c == 1 ? least(blocks, most_blocks) : 1, chunks = ceil_div(blocks, together);
  const Pieces pieces = tall_pieces(gather, together * lanes * sizeof(A), 1, 16);
  const int64_t all_pieces = gather.pixels() > 0 ? gather.batch * pieces.per_image() : 0;
  const int64_t ranges = most(1, least(16, all_pieces)), range_size = (taps + 1) * lanes;  // [tap], then grad_output
  const Band<A> whole = Band<A>::dense(gather, together * lanes, 1, pieces.columns);
  A* partial = static_cast<A*>(scratch(Scratch::partial_sums, ranges * blocks * range_size * sizeof(A)));
  std::memset(partial, 0, ranges * blocks * range_size * sizeof(A));
  constexpr int64_t most_taps = 7;
  const int64_t tile_taps = ceil_div(gather.w.taps, ceil_div(gather.w.taps, most_taps));

  parallel_for(threads, ranges * chunks, [&](int64_t task) {
    const int64_t range = task / chunks, first_block = task % chunks * together, first = first_block * lanes;
    const int64_t channels = least(together * lanes, conv.groups - first), padded = together * lanes;
    A* pixels = static_cast<A*>(scratch(Scratch::band, whole.size() * sizeof(A)));
    A* grads = static_cast<A*>(scratch(Scratch::panel, pieces.columns * padded * sizeof(A)));
    std::memset(grads, 0, pieces.columns * padded * sizeof(A));
    constexpr int64_t line = 64 / sizeof(T);
    const bool in_place = sizeof(T) == sizeof(A) && output_strides.c == 1 && channels % lanes == 0;
    for (int64_t i = range * all_pieces / ranges; i < (range + 1) * all_pieces / ranges; ++i) {
      const Piece piece(gather, pieces, i);
      Ring<T, A> ring(gather, whole, piece, pixels);
      ring.band.channels = channels;
      const Band<A> of_grads{channels, padded, 1, 1, piece.columns, 1, piece.columns};
      const T* image = input + first * input_strides.c + piece.image * input_strides.n;
      const T* from = grad_output + first * output_strides.c + piece.image * output_strides.n +
                      piece.y * output_strides.h + piece.x * output_strides.w;
      for (int64_t y = 0; y < piece.rows; ++y, from += output_strides.h) {
        ring.advance(image, input_strides, y);
        if (!in_place) read_row<T, A>(of_grads, from, output_strides, 0, piece.columns, grads);
        const A* row_grads = in_place ? reinterpret_cast<const A*>(from) : grads;
        const int64_t grads_step = in_place ? output_strides.w : padded, at = piece.y + y;
        const Axis::Range inside = gather.h.taps_inside(at);
        if (in_place && y + 1 < piece.rows)
          for (int64_t x = 0; x < piece.columns; ++x)
            for (int64_t c = 0; c < channels; c += line)
              __builtin_prefetch(from + output_strides.h + x * output_strides.w + c, 0, 2);
        for (int64_t block = 0; block * lanes < channels; ++block) {
          A* sums = partial + (range * blocks + first_block + block) * range_size;
          const A* block_grads = row_grads + block * lanes;
          for (int64_t r = inside.begin; r < inside.end; ++r) {
            const A* row = pixels + ring.row(at * gather.h.step + gather.h.origin + r * gather.h.spacing) + block * lanes;
            for (int64_t s = 0; s < gather.w.taps; s += tile_taps)
              depthwise_reduces<A>[least(tile_taps, gather.w.taps - s)](
                  piece.columns, row + whole.column(gather.w.offset(s)), gather.w.step * padded,
                  gather.w.spacing * padded, block_grads, grads_step, sums + (r * gather.w.taps + s) * lanes);
          }
          if (!grad_bias) continue;
          *reinterpret_cast<V*>(sums + taps * lanes) += sum_of_vectors<A>(block_grads, grads_step, piece.columns);
        }
      }
    }
  });

  for (int64_t g = 0; g < conv.groups; ++g) {
    const auto total = [&](int64_t tap) {
      A sum = 0;
      for (int64_t range = 0; range < ranges; ++range)
        sum += partial[(range * blocks + g / lanes) * range_size + tap * lanes + g % lanes];
      return narrow<T, A>(sum);
    };
    for (int64_t tap = 0; tap < taps; ++tap)
      grad_weight[g * weight_strides.n + tap / gather.w.taps * weight_strides.h +
                  tap % gather.w.taps * weight_strides.w] = total(tap);
    if (grad_bias) grad_bias[g] = total(taps);
  }
}

}  // namespace myconv2d::MYCONV2D_ISA
