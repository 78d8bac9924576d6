// The backward of a pooled block of few in channels without its convolution y, which was not kept (`keeps_full` in
// algorithm.h).
//
// The gradient of y is g + α + β·(y − ȳ), where g is that of the pooled image at the pixel chosen of each 2×2 window
// and zero elsewhere (GradientSource in feed.h). With w, the C·R·S input values under a pixel, y = weight·w + bias, so
// y − ȳ = weight·(w − w̄), whatever the bias. Hence the gradient of the weight is, over all pixels,
//
//   Σ g·w  +  α·Σ w  +  β·weight·Σ (w − w̄)(w − w̄)ᵀ
//
// and takes the pooled gradient, the input and its window_moments.h, (C·R·S)² numbers for all out channels, but not y,
// which is four times as large as the pooled image and would be written only to be read again.
//
// Σ g·w: vectors of out channels. In each lane a permutation of a 4×4 patch of the input picks what the chosen pixel has
// under a tap. Sums are in float for a band, then in double, in the order of the bands.
// Bound: the FMA and shuffle units.
#pragma once

#include "few_feeds.h"
#include "window_moments.h"

namespace myconv2d::MYCONV2D_ISA {

constexpr int64_t patch_size = 16;

// In each lane from[0], from[1], from[4] or from[5], as `where` says. May read a vector.
template <typename V>
MYCONV2D_INLINE V pick(const float* from, typename IntsOf<V>::type where) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64)  // half a vector is enough, and seldom in two cache lines
    return (V)_mm512_maskz_permutexvar_ps(0xffff, (__m512i)where, _mm512_castps256_ps512(_mm256_loadu_ps(from)));
#endif
#if defined(__AVX2__)
  if constexpr (sizeof(V) == 32) return (V)_mm256_permutevar8x32_ps(_mm256_loadu_ps(from), (__m256i)where);
#endif
  V value = V{} + from[0];
  value = where == 1 ? V{} + from[1] : value;
  value = where == 4 ? V{} + from[4] : value;
  return where == 5 ? V{} + from[5] : value;
}

// sums[tap][vector] = Σ g·w of some out channels over a band's pooling windows, whose patches follow one another.
template <typename V>
inline void sum_chosen(const float* patches, const float* grad, const uint8_t* index, const GradientSource& source,
                       int64_t rows, int64_t columns, float* sums, int64_t step) {
  const Strides &gs = source.grad_strides, &is = source.index_strides;
  V sum[window_taps] = {};
  for (int64_t y = 0; y < rows; ++y, grad += gs.h, index += is.h) {
    const float* from = grad;
    const uint8_t* code = index;
    for (int64_t x = 0; x < columns; ++x, from += gs.w, code += is.w, patches += patch_size) {
      typename IntsOf<V>::bytes bytes;
      std::memcpy(&bytes, code, sizeof bytes);
      const auto codes = widened<V>(bytes), where = codes + (codes & 2);  // 2·dy + dx, in a patch 4·dy + dx
      const V value = get<V>(from);
      __builtin_prefetch(from + gs.h);
      __builtin_prefetch(code + is.h);
#pragma GCC unroll 9
      for (int tap = 0; tap < window_taps; ++tap) sum[tap] += value * pick<V>(patches + tap / 3 * 4 + tap % 3, where);
    }
  }
  for (int64_t tap = 0; tap < window_taps; ++tap) put(sums + tap * step, sum[tap]);
}

// totals[C·R·S][out channel] += Σ g·w of a band that begins at `window`.
inline void add_chosen(const InputBand& band, const GradientSource& source, const Window& window, double* totals) {
  const int64_t rows = band.rows / 2, columns = band.columns / 2, many = source.channels;
  const int64_t patch_floats = patch_size * (rows * columns + 1), chosen = window_taps * many;
  float* patches = static_cast<float*>(scratch(Scratch::accumulators, (patch_floats + chosen) * sizeof(float)));
  float* sums = patches + patch_floats;
  const float* grad = source.grad + window.image * source.grad_strides.n + window.y / 2 * source.grad_strides.h;
  const uint8_t* index = source.index + window.image * source.index_strides.n + window.y / 2 * source.index_strides.h;
  for (int64_t c = 0; c < band.channels; ++c, totals += chosen) {
    const float* plane = band.planes + c * band.plane_step;
    float* to = patches;
    for (int64_t y = 0; y < rows; ++y)
      for (int64_t x = 0; x < columns; ++x)
        for (int64_t r = 0; r < 4; ++r, to += 4)
          std::memcpy(to, plane + (2 * y + r) * band.row_step + 2 * x, 4 * sizeof(float));
    std::memset(to, 0, patch_size * sizeof(float));  // the last picks reach behind
    cover_channels(many, [&]<typename V>(int64_t k) {
      sum_chosen<V>(patches, grad + k, index + k, source, rows, columns, sums + k, many);
    });
    for (int64_t i = 0; i < chosen; ++i) totals[i] += sums[i];
  }
}

struct PooledSums {  // in scratch memory, over all pixels
  const WindowMoments* windows;
  const double* chosen;  // Σ g·w: [C·R·S][out channel]
  int64_t size, out_channels;

  static int64_t place(const Strides& s, int64_t k, int64_t i) {  // in a weight; i = (c, r, s)
    return k * s.n + i / window_taps * s.c + i % window_taps / 3 * s.h + i % 3 * s.w;
  }
  double output_mean(const float* weight, const Strides& s, int64_t k) const {  // ȳ without the bias
    double mean = 0;
    for (int64_t i = 0; i < size; ++i) mean += weight[place(s, k, i)] * windows->mean[i];
    return mean;
  }
  double grad_weight(const float* weight, const Strides& s, int64_t k, int64_t i, double alpha, double beta) const {
    double covariance = 0;
    for (int64_t j = 0; j < size; ++j) covariance += weight[place(s, k, j)] * windows->product(i, j);
    return chosen[i * out_channels + k] + alpha * windows->count * windows->mean[i] + beta * covariance;
  }
};

// Σ g·w only if that is wanted.
inline PooledSums pooled_sums(const Conv2d& conv, const Threads& threads, const GradientSource& source,
                              const FeedSource& input, bool chosen_wanted) {
  const int64_t channels = conv.in_channels, size = channels * window_taps, chosen = size * conv.out_channels;
  const int64_t row_floats = 7 * channels * conv.out_width;  // shifted planes, and four floats a pixel in patches
  const RowBlocks blocks(conv.out_height, row_floats * sizeof(float), 16384);
  const int64_t tasks = conv.batch * blocks.per_image, ranges = least(16, most(tasks, 1));
  const size_t bytes = ranges * (sizeof(WindowMoments) + chosen * sizeof(double));
  WindowMoments* moments = static_cast<WindowMoments*>(scratch(Scratch::partial_sums, bytes));
  double* sums = reinterpret_cast<double*>(moments + ranges);
  std::memset(sums, 0, ranges * chosen * sizeof(double));
  parallel_for(threads, ranges, [&](int64_t range) {
    BandMoments of_bands(channels);
    for (int64_t task = range * tasks / ranges; task < (range + 1) * tasks / ranges; ++task) {
      const Window window = blocks.at(task, conv.out_width);
      const Window halo{window.image, window.y - conv.padding_h, -conv.padding_w, window.rows + 2, window.columns + 2};
      const int64_t floats = halo.rows * halo.columns, plane_step = plane_stride(floats + lanes);
      float* planes = static_cast<float*>(scratch(Scratch::panel, channels * plane_step * sizeof(float)));
      read_planes(input, halo, planes, halo.columns, plane_step);
      for (int64_t c = 0; c < channels; ++c)
        std::memset(planes + c * plane_step + floats, 0, (plane_step - floats) * sizeof(float));
      const InputBand band{planes, channels, window.rows, window.columns, halo.columns, plane_step};
      of_bands.add(band);
      if (chosen_wanted) add_chosen(band, source, window, sums + range * chosen);
    }
    moments[range] = of_bands.moments();
  });
  for (int64_t range = 1; range < ranges; ++range) {
    moments->join(moments[range], size);
    for (int64_t i = 0; i < chosen; ++i) sums[i] += sums[range * chosen + i];
  }
  return {moments, sums, size, conv.out_channels};
}

}  // namespace myconv2d::MYCONV2D_ISA
