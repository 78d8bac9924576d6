// A 3×3 convolution of stride 2 by minimal filtering, all three passes. Along one axis an output y meets even and odd
// pixels x apart: y[i] = g0 · x[2i] + g2 · x[2i + 2] + g1 · x[2i + 1], two taps of a convolution of stride 1 and a single
// one. Of four outputs the two taps are an F(4, 2), 5 products instead of 8; the single one remains, 4 products. As
// bilinear maps that is one algorithm like any other: 9 pixels go to 9 values, the kernel to 6, the last of which meets
// the four pixels in between; in two dimensions 81 products for 4×4 outputs instead of 144, with 36 kernels. So
// Strided3x3 is to winograd_product.h and winograd_grad_weight.h what F3x3 is.
//
// grad_input is the transposed map, for 8 pixels from 5 gradients: x[2i + 1] = g1 · y[i] and x[2i + 2] = g2 · y[i] +
// g0 · y[i + 1], in pixels counted from the padding on. Tiles begin with the former: with an odd padding that is the
// image's first row, with an even one it is the one before.
// Bound: the FMA units, at 9/16 of the direct convolution's products.
#pragma once

#include "winograd_grad_weight.h"

namespace myconv2d::MYCONV2D_ISA {

struct Strided3x3 {
  static constexpr int taps = 3, reach = 9, points = 81, kernel_reach = 6, size = 2 * tile_size;
};
struct Transposed3x3 {
  static constexpr int taps = 3, reach = 9, points = 81, kernel_reach = 6, size = tile_size;
};

// Those of the two taps first, in pairs as F2x2 has them, then the four in between.
struct ToStridedPoints {
  static constexpr int to = 9, pairs = 5, at[5][2] = {{4, 4}, {0, 1}, {2, 3}, {5, 6}, {7, 8}};
};

template <>
struct InputToPoints<Strided3x3> : ToStridedPoints {
  static constexpr int from = 9;

  template <int pair, typename V, typename Load>
  static MYCONV2D_INLINE void map(const Load& d, V (&v)[2]) {
    const auto even = [&](int i) __attribute__((always_inline)) { return d(2 * i); };
    if constexpr (pair < 3) InputToPoints<F2x2>::map<pair>(even, v);
    else v[0] = d(4 * pair - 11), v[1] = d(4 * pair - 9);
  }
};

template <>
struct InputToPoints<Transposed3x3> : ToStridedPoints {
  static constexpr int from = 5;

  template <int pair, typename V, typename Load>
  static MYCONV2D_INLINE void map(const Load& d, V (&v)[2]) {
    if constexpr (pair < 3) InputToPoints<F2x2>::map<pair>(d, v);
    else v[0] = d(2 * pair - 6), v[1] = d(2 * pair - 5);
  }
};

template <>
struct KernelToPoints<Strided3x3> {
  static constexpr int from = 3, to = 6, pairs = 4, at[4][2] = {{4, 4}, {0, 1}, {2, 3}, {5, 5}};

  template <int pair, typename V, typename Load>
  static MYCONV2D_INLINE void map(const Load& g, V (&u)[2]) {
    const auto outer = [&](int i) __attribute__((always_inline)) { return g(2 * i); };
    if constexpr (pair < 3) KernelToPoints<F2x2>::map<pair>(outer, u);
    else u[0] = u[1] = g(1);
  }
};

template <>
struct KernelToPoints<Transposed3x3> : KernelToPoints<Strided3x3> {};

template <>
struct PointsToOutput<Strided3x3> {
  static constexpr int from = 9, to = 4, pairs = 2, at[2][2] = {{0, 2}, {1, 3}};

  template <int pair, typename V, typename Load>
  static MYCONV2D_INLINE void map(const Load& m, V (&y)[2]) {
    PointsToOutput<F2x2>::map<pair>(m, y);
    y[0] += m(5 + pair), y[1] += m(7 + pair);
  }
};

template <>
struct PointsToOutput<Transposed3x3> {
  static constexpr int from = 9, to = 8, pairs = 4, at[4][2] = {{1, 5}, {3, 7}, {0, 2}, {4, 6}};

  template <int pair, typename V, typename Load>
  static MYCONV2D_INLINE void map(const Load& m, V (&x)[2]) {
    if constexpr (pair < 2) PointsToOutput<F2x2>::map<pair>(m, x);
    else x[0] = m(2 * pair + 1), x[1] = m(2 * pair + 2);
  }
};

template <>
struct OutputToPoints<Strided3x3> : ToStridedPoints {
  static constexpr int from = 4;

  template <int pair, typename V, typename Load>
  static MYCONV2D_INLINE void map(const Load& g, V (&q)[2]) {
    if constexpr (pair < 3) OutputToPoints<F2x2>::map<pair>(g, q);
    else q[0] = g(2 * pair - 6), q[1] = g(2 * pair - 5);
  }
};

template <>
struct PointsToKernel<Strided3x3> {
  static constexpr int from = 6, to = 3, pairs = 2, at[2][2] = {{0, 2}, {1, 1}};

  template <int pair, typename V, typename Load>
  static MYCONV2D_INLINE void map(const Load& u, V (&g)[2]) {
    if constexpr (pair == 0) PointsToKernel<F2x2>::map<0>(u, g);
    else g[0] = g[1] = u(5);
  }
};

template <typename Source, typename W, typename Sink>
void strided_product(const Correlation& p, const Threads& threads, const Source& source, const W* weight,
                     const WeightView& view, const W* bias, int64_t bias_stride, const Sink& result) {
  product_by_tiles(BlockTiles<Strided3x3>(p), tile_grid(p.batch, result.height, result.width), p.groups, threads,
                   source, weight, view, bias, bias_stride, result);
}

// What BlockTiles reads and writes of grad_output and grad_input, with the forward pass's padding.
struct TransposedTiles : BlockTiles<Transposed3x3> {
  int64_t before_h, before_w;  // rows and columns of the first tiles that lie before the image

  explicit TransposedTiles(const Conv2d& conv)
      : BlockTiles(Correlation{conv.batch, conv.groups, 3, 3, 1 - (conv.padding_h + 1) / 2,
                               1 - (conv.padding_w + 1) / 2}),
        before_h(1 - conv.padding_h % 2), before_w(1 - conv.padding_w % 2) {}

  TileGrid grid(const Conv2d& conv) const {
    return {conv.batch, ceil_div(conv.in_height + before_h, pixels), ceil_div(conv.in_width + before_w, pixels)};
  }
  Window result(const TileRun& run) const {
    Window window = run.pixels(pixels);
    window.y -= before_h, window.x -= before_w;
    return window;
  }
};

// `weight` is the last tap, `turned` goes from there.
template <typename Grads, typename W, typename Sink>
void strided_grad_input(const Conv2d& conv, const Threads& threads, const Grads& grad_output, const W* weight,
                        const WeightView& turned, const Sink& grad_input) {
  const TransposedTiles tiles(conv);
  const W* no_bias = nullptr;
  product_by_tiles(tiles, tiles.grid(conv), conv.groups, threads, grad_output, weight, turned, no_bias, 0, grad_input);
}

}  // namespace myconv2d::MYCONV2D_ISA
