// Depthwise convolutions: groups of one channel in and one out. Vectors run along the groups, whatever the layout.
//
// A task is a piece of one image and one vector of channels. Its band is read once, as for the direct product; a register
// tile is some neighbouring pixels (forward, grad_input) or the taps of a row of the kernel (grad_weight), and every
// multiply-add takes one operand from registers and one from the band.
// Bound: L1 loads for large kernels, memory for small ones.
#pragma once

#include "band.h"
#include "parallel.h"
#include "scratch.h"

namespace myconv2d::MYCONV2D_ISA {

constexpr int64_t most_blocks = 16;  // vectors of channels to a task

// sums[pixels] = bias + Σ_taps band[tap offset + pixel] · weights[tap]
template <typename A, int pixels>
void depthwise_tile(const int64_t* offset, const int64_t* end, const A* band, const A* weights, const A* bias,
                    A* sums) {
  using V = typename Vector<A>::type;
  constexpr int lanes = Vector<A>::lanes;
  V sum[pixels];
#pragma GCC unroll 16
  for (int i = 0; i < pixels; ++i) sum[i] = *reinterpret_cast<const V*>(bias);
  for (; offset != end; ++offset, weights += lanes) {
    const A* a = band + *offset;
    const V weight = *reinterpret_cast<const V*>(weights);
#pragma GCC unroll 16
    for (int i = 0; i < pixels; ++i) sum[i] += reinterpret_cast<const V*>(a)[i] * weight;
  }
#pragma GCC unroll 16
  for (int i = 0; i < pixels; ++i) reinterpret_cast<V*>(sums)[i] = sum[i];
}

template <typename A>
using DepthwiseTile = void (*)(const int64_t*, const int64_t*, const A*, const A*, const A*, A*);

template <typename A>
constexpr DepthwiseTile<A> depthwise_tiles[] = {
    nullptr,
    depthwise_tile<A, 1>, depthwise_tile<A, 2>, depthwise_tile<A, 3>,  depthwise_tile<A, 4>,
    depthwise_tile<A, 5>, depthwise_tile<A, 6>, depthwise_tile<A, 7>,  depthwise_tile<A, 8>,
    depthwise_tile<A, 9>, depthwise_tile<A, 10>, depthwise_tile<A, 11>, depthwise_tile<A, 12>,
};

// The counterpart of direct_product: gather.channels is 1, and so is the number of resulting channels of a group.
template <typename T, typename A = typename Accumulator<T>::type>
void depthwise_product(const Gather& gather, int64_t groups, const Threads& threads, const T* source,
                       const Strides& source_strides, const T* weight, const WeightView& view, const T* bias,
                       int64_t bias_stride, T* result, const Strides& result_strides) {
  if (gather.pixels() == 0) return;
  constexpr int64_t lanes = Vector<A>::lanes;
  const int64_t blocks = ceil_div(groups, lanes), taps = gather.taps();
  A* packed = static_cast<A*>(scratch(Scratch::weights, blocks * (taps + 1) * lanes * sizeof(A)));
  std::memset(packed, 0, blocks * (taps + 1) * lanes * sizeof(A));
  for (int64_t g = 0; g < groups; ++g) {  // [block][tap][lane], the last tap's place being the bias'
    A* to = packed + g / lanes * (taps + 1) * lanes + g % lanes;
    for (int64_t r = 0; r < gather.h.taps; ++r)
      for (int64_t s = 0; s < gather.w.taps; ++s, to += lanes)
        *to = load<A>(weight[g * view.group + (gather.h.first_tap + r * gather.h.tap_spacing) * view.r +
                             (gather.w.first_tap + s * gather.w.tap_spacing) * view.s]);
    if (bias) *to = load<A>(bias[g * bias_stride]);
  }

  // Where channels are innermost in memory a task takes many, so that it reads and writes memory in order.
  const int64_t together = source_strides.c == 1 ? least(blocks, most_blocks) : 1, chunks = ceil_div(blocks, together);
  const Pieces pieces(gather, together * lanes * sizeof(A), ceil_div(gather.pixels() * chunks, 2 * threads.count));
  const Band<A> whole = Band<A>::in_blocks(gather, together * lanes, pieces.rows, pieces.columns);
  int64_t* offsets = static_cast<int64_t*>(scratch(Scratch::partial_sums, taps * sizeof(int64_t)));
  for (int64_t tap = 0; tap < taps; ++tap)
    offsets[tap] = gather.h.offset(tap / gather.w.taps) * whole.row_size() +
                   whole.column(gather.w.offset(tap % gather.w.taps));

  const int64_t tile_pixels = ceil_div(pieces.columns, ceil_div(pieces.columns, 12));
  parallel_for(threads, gather.batch * pieces.per_image() * chunks, [&](int64_t task) {
    const int64_t first_block = task % chunks * together, first = first_block * lanes;
    const Piece piece(gather, pieces, task / chunks);
    Band<A> band = whole;
    band.channels = least(together * lanes, groups - first);
    band.rows = gather.h.span(piece.rows);
    band.columns = gather.w.span(piece.columns);
    const int64_t sums_step = pieces.columns * lanes;
    A* pixels = static_cast<A*>(scratch(Scratch::band, whole.size() * sizeof(A)));
    A* sums = static_cast<A*>(scratch(Scratch::accumulators, together * sums_step * sizeof(A)));
    if (taps > 0)
      read_band<T, A>(band, gather, source + first * source_strides.c + piece.image * source_strides.n, source_strides,
                      piece.y, piece.x, pixels);
    T* to = result + first * result_strides.c + piece.image * result_strides.n + piece.y * result_strides.h +
            piece.x * result_strides.w;
    for (int64_t y = 0; y < piece.rows; ++y, to += result_strides.h) {
      const Axis::Range inside = gather.h.taps_inside(piece.y + y);
      for (int64_t block = 0; block * lanes < band.channels; ++block) {
        const A* weights = packed + (first_block + block) * (taps + 1) * lanes;
        for (int64_t x = 0; x < piece.columns; x += tile_pixels)
          depthwise_tiles<A>[least(tile_pixels, piece.columns - x)](
              offsets + inside.begin * gather.w.taps, offsets + inside.end * gather.w.taps,
              pixels + y * gather.h.step * band.row_size() + block * band.block_size() + x * lanes,
              weights + inside.begin * gather.w.taps * lanes, weights + taps * lanes,
              sums + block * sums_step + x * lanes);
      }
      write_row<T, A>(sums, lanes, sums_step, piece.columns, band.channels, to, result_strides);
    }
  });
}

// sums[taps] += Σ_pixels of one row grads[pixel] · band[pixel · step + tap · spacing], with few taps in two streams.
template <typename A, int taps>
void depthwise_reduce(int64_t pixels, const A* band, int64_t step, int64_t spacing, const A* grads, int64_t grads_step,
                      A* sums) {
  using V = typename Vector<A>::type;
  constexpr int streams = taps <= 4 ? 2 : 1;
  V sum[streams][taps] = {};
  for (; pixels >= streams; pixels -= streams)
#pragma GCC unroll 2
    for (int i = 0; i < streams; ++i, band += step, grads += grads_step) {
      const V grad = *reinterpret_cast<const V*>(grads);
#pragma GCC unroll 8
      for (int t = 0; t < taps; ++t) sum[i][t] += *reinterpret_cast<const V*>(band + t * spacing) * grad;
    }
  for (int t = 0; t < taps; ++t) {
    V total = reinterpret_cast<V*>(sums)[t] + sum[0][t];
    if constexpr (streams == 2) {
      total += sum[1][t];
      if (pixels == 1) total += *reinterpret_cast<const V*>(band + t * spacing) * *reinterpret_cast<const V*>(grads);
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
  const Pieces pieces(gather, together * lanes * sizeof(A), 512);
  const int64_t all_pieces = gather.pixels() > 0 ? gather.batch * pieces.per_image() : 0;
  const int64_t ranges = most(1, least(16, all_pieces)), range_size = (taps + 1) * lanes;  // [tap], then grad_output
  const Band<A> whole = Band<A>::dense(gather, together * lanes, pieces.rows, pieces.columns);
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
    for (int64_t i = range * all_pieces / ranges; i < (range + 1) * all_pieces / ranges; ++i) {
      const Piece piece(gather, pieces, i);
      Band<A> band = whole;
      band.channels = channels;
      band.rows = gather.h.span(piece.rows);
      band.columns = gather.w.span(piece.columns);
      const Band<A> of_grads{channels, padded, 1, 1, piece.columns, 1, piece.columns};
      read_band<T, A>(band, gather, input + first * input_strides.c + piece.image * input_strides.n, input_strides,
                      piece.y, piece.x, pixels);
      const T* from = grad_output + first * output_strides.c + piece.image * output_strides.n +
                      piece.y * output_strides.h + piece.x * output_strides.w;
      for (int64_t y = 0; y < piece.rows; ++y, from += output_strides.h) {
        read_row<T, A>(of_grads, from, output_strides, 0, piece.columns, grads);
        const Axis::Range inside = gather.h.taps_inside(piece.y + y);
        for (int64_t block = 0; block * lanes < channels; ++block) {
          A* sums = partial + (range * blocks + first_block + block) * range_size;
          for (int64_t r = inside.begin; r < inside.end; ++r) {
            const A* row = pixels + (y * gather.h.step + gather.h.offset(r)) * band.row_size() + block * lanes;
            for (int64_t s = 0; s < gather.w.taps; s += tile_taps)
              depthwise_reduces<A>[least(tile_taps, gather.w.taps - s)](
                  piece.columns, row + band.column(gather.w.offset(s)), gather.w.step * padded,
                  gather.w.spacing * padded, grads + block * lanes, padded, sums + (r * gather.w.taps + s) * lanes);
          }
          V* bias_sum = reinterpret_cast<V*>(sums + taps * lanes);
          for (int64_t x = 0; x < piece.columns; ++x)
            *bias_sum += *reinterpret_cast<const V*>(grads + x * padded + block * lanes);
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
