// grad_input of a strided layer with few input channels, as one product of stride 1 over grad_output: its pixels are
// blocks of stride_h × stride_w input pixels, and its channels these phases times the input channels, [phase][c], which
// together fill a vector where each phase alone would fill a corner of one. Every phase gets the taps of all, those that
// it lacks as zeros; algorithm.cpp weighs that against the vectors saved.
// Bound: the FMA units; for patches (kernel = stride) memory.
#pragma once

#include "direct_product.h"

namespace myconv2d::MYCONV2D_ISA {

// Puts the blocks of a row of pixels back where they belong.
template <typename T>
struct Blocks {
  T* data;
  Strides strides;
  int64_t stride_h, stride_w, channels, height, width;
  static constexpr bool whole_pixels = true;

  template <typename A>
  void take(const A* sums, int64_t sums_step, const Piece& piece, int64_t y, int64_t group, int64_t) const {
    constexpr int64_t lanes = Vector<A>::lanes;
    const int64_t block = stride_w * channels, first_y = (piece.y + y) * stride_h, first_x = piece.x * stride_w;
    const int64_t pixels = least(piece.columns * stride_w, width - first_x);  // the last block may hang over the edge
    const int64_t whole = pixels / stride_w;
    const Strides& s = strides;
    for (int64_t phase = 0; phase < least(stride_h, height - first_y); ++phase, sums += block) {
      T* to = data + group * channels * s.c + piece.image * s.n + (first_y + phase) * s.h + first_x * s.w;
      int64_t x = 0;  // blocks done
      if ((s.c == 1 || channels == 1) && s.w == channels) {
        // A vector at a time, where what is behind a block is the next, still to come.
        const int64_t vectors = round_up(block, lanes);
        for (; x < whole && x * block + vectors <= pixels * channels && vectors <= sums_step; ++x)
          for (int64_t i = 0; i < block; i += lanes)
            store_vector<T, A>(to + x * block + i, load_vector<A>(sums + x * sums_step + i));
      } else if (s.w == 1 && stride_w >= 2 && stride_w <= 4) {
        A* planes = static_cast<A*>(scratch(Scratch::turned, block * whole * sizeof(A)));
        transpose<A, A, A>(sums, sums_step, whole, block, planes, whole);
        for (int64_t c = 0; c < channels; ++c) {
          const A* from = planes + c * whole;
          if (stride_w == 2) planes_to_pixels<A, 2>(from, channels * whole, whole, to + c * s.c);
          if (stride_w == 3) planes_to_pixels<A, 3>(from, channels * whole, whole, to + c * s.c);
          if (stride_w == 4) planes_to_pixels<A, 4>(from, channels * whole, whole, to + c * s.c);
        }
        x = whole;
      }
      for (int64_t j = x * stride_w; j < pixels; ++j)
        for (int64_t c = 0; c < channels; ++c)
          to[c * s.c + j * s.w] =
              narrow<T, A>(sums[j / stride_w * sums_step + j % stride_w * channels + c]);
    }
  }
};

// One axis of the product: tap i of a block reads output `origin + i`.
inline Axis blocks_axis(int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t padding) {
  const auto floor_div = [](int64_t a, int64_t b) { return a >= 0 ? a / b : -ceil_div(-a, b); };
  const int64_t origin = floor_div(padding - (kernel - 1) + stride - 1, stride);
  const int64_t last = floor_div(stride - 1 + padding, stride);
  return {ceil_div(in, stride), 1, out, last - origin + 1, origin, 1, 0, 1};
}

template <typename T>
void grad_input_in_phases(const Conv2d& conv, const Threads& threads, const T* grad_output, const Strides& of_output,
                          const T* weight, const WeightView& view, T* grad_input, const Strides& of_input) {
  const int64_t stride_h = conv.stride_h, stride_w = conv.stride_w, channels = conv.group_in_channels();
  const Gather gather{conv.batch, conv.group_out_channels(),
                      blocks_axis(conv.in_height, conv.out_height, conv.kernel_height, stride_h, conv.padding_h),
                      blocks_axis(conv.in_width, conv.out_width, conv.kernel_width, stride_w, conv.padding_w)};
  const int64_t phases = stride_h * stride_w, taps = gather.taps();
  // The weights that this product has, of the caller's type: [group][reduced channel][tap][phase][c].
  const int64_t of_tap = phases * channels, of_channel = taps * of_tap, of_group = gather.channels * of_channel;
  T* weights = static_cast<T*>(scratch(Scratch::phase_weights, conv.groups * of_group * sizeof(T)));
  T* to = weights;
  for (int64_t g = 0; g < conv.groups; ++g)
    for (int64_t k = 0; k < gather.channels; ++k)
      for (int64_t tap = 0; tap < taps; ++tap)
        for (int64_t phase = 0; phase < phases; ++phase) {
          const auto element = [](int64_t phase, int64_t padding, int64_t output, int64_t stride) {
            return phase + padding - output * stride;  // of the kernel, if it has one there
          };
          const int64_t r = element(phase / stride_w, conv.padding_h, gather.h.origin + tap / gather.w.taps, stride_h);
          const int64_t s = element(phase % stride_w, conv.padding_w, gather.w.origin + tap % gather.w.taps, stride_w);
          const bool inside = r >= 0 && r < conv.kernel_height && s >= 0 && s < conv.kernel_width;
          const T* from = weight + g * view.group + k * view.c + r * view.r + s * view.s;
          for (int64_t c = 0; c < channels; ++c) *to++ = inside ? from[c * view.k] : T{};
        }
  const WeightView of_blocks{of_channel, 1, gather.w.taps * of_tap, of_tap, of_group};
  const T* no_bias = nullptr;
  direct_product<T>(gather, conv.groups, of_tap, threads, grad_output, of_output, weights, of_blocks, no_bias, 0,
                    Blocks<T>{grad_input, of_input, stride_h, stride_w, channels, conv.in_height, conv.in_width});
}

}  // namespace myconv2d::MYCONV2D_ISA
