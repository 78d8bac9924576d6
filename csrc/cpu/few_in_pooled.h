// What the gradients of a pooled block take where its convolution y was not kept (`keeps_full` in algorithm.h).
//
// The gradient of y is g + α + β·(y − ȳ), where g is that of the pooled image at the pixel chosen of each 2×2 window and
// zero elsewhere (GradientSource in feed.h). With the C·R·S input values w under a pixel, y = weight·w + bias, so
// y − ȳ = weight·(w − w̄) whatever the bias, and the weight's gradient is, over all pixels,
//
//   Σ g·w  +  α·Σ w  +  β·weight·Σ (w − w̄)(w − w̄)ᵀ
//
// The last two take the moments of the windows, (C·R·S)² numbers for all out channels, and the first the pooled gradient
// and the input: y, four times as large and written only to be read again, is nowhere needed.
//
//   moments   vectors of pixels, 3×3 products for every pair of tap rows, about the mean of a band
//   Σ g·w     vectors of out channels; a permutation of a 4×4 patch of the input picks what each has chosen
// Sums are in float for a band of rows, then in double, in the order of the bands. Kernels are 3×3.
// Bound: the FMA units and the shuffles.
#pragma once

#include "few_feeds.h"

namespace myconv2d::MYCONV2D_ISA {

constexpr int64_t taps_3x3 = 9, most_in_window = few_channels * taps_3x3;

// Of some windows w: how many, their mean w̄, and Σ (w − w̄)(w − w̄)ᵀ from the diagonal on.
struct WindowMoments {
  double count, mean[most_in_window], products[most_in_window][most_in_window];

  double product(int64_t i, int64_t j) const { return i < j ? products[i][j] : products[j][i]; }
  void join(const WindowMoments& other, int64_t size) {  // Chan, Golub & LeVeque 1983
    if (other.count == 0) return;
    const double share = other.count / (count + other.count);
    double delta[most_in_window];
    for (int64_t i = 0; i < size; ++i) delta[i] = other.mean[i] - mean[i];
    for (int64_t i = 0; i < size; ++i) {
      for (int64_t j = i; j < size; ++j) products[i][j] += other.products[i][j] + delta[i] * delta[j] * count * share;
      mean[i] += delta[i] * share;
    }
    count += other.count;
  }
};

// A band of `rows` result rows, and the input under it as planes with their halo, zeros behind.
struct PooledBand {
  const float* planes;
  int64_t channels, rows, columns, row_step, plane_step;
};

// Adds to doubles, lane by lane.
inline void add_lanes(double* to, Lanes value) {
  using Wide = Vector<double>::type;
  HalfLanes halves[2];
  std::memcpy(halves, &value, sizeof value);
  for (int i = 0; i < 2; ++i, to += lanes / 2)
    store_vector<double, double>(to, load_vector<double>(to) + __builtin_convertvector(halves[i], Wide));
}

// products[s][t] += Σ a[s]·b[t] in lanes, and where wanted sums[t] += Σ b[t], of three planes each, `plane` floats apart.
template <bool with_sums>
inline void multiply_tap_rows(const float* a, const float* b, int64_t plane, int64_t floats, double* products,
                              double* sums) {
  Lanes product[3][3] = {}, sum[3] = {};
  for (int64_t q = 0; q < floats; q += lanes) {
    const Lanes left[3] = {load_once(a + q), load_once(a + plane + q), load_once(a + 2 * plane + q)};
#pragma GCC unroll 3
    for (int t = 0; t < 3; ++t) {
      const Lanes right = load_once(b + t * plane + q);
#pragma GCC unroll 3
      for (int s = 0; s < 3; ++s) product[s][t] += left[s] * right;
      if constexpr (with_sums) sum[t] += right;
    }
  }
#pragma GCC unroll 3
  for (int s = 0; s < 3; ++s)
#pragma GCC unroll 3
    for (int t = 0; t < 3; ++t) add_lanes(products + (3 * s + t) * lanes, product[s][t]);
  if constexpr (with_sums)
    for (int t = 0; t < 3; ++t) add_lanes(sums + t * lanes, sum[t]);
}

// The moments of the bands of a range, about the mean of its first.
struct BandMoments {
  int64_t channels, tap_rows;
  double count = 0;
  float about[few_channels];
  double *sums, *products;  // [tap][lanes] and, for i ≤ j, [tap rows i, j][s][t][lanes]

  explicit BandMoments(int64_t channels) : channels(channels), tap_rows(3 * channels) {
    const int64_t size = (3 * tap_rows + taps_3x3 * tap_rows * (tap_rows + 1) / 2) * lanes;
    sums = static_cast<double*>(scratch(Scratch::task_sums, size * sizeof(double)));
    products = sums + 3 * tap_rows * lanes;
    std::memset(sums, 0, size * sizeof(double));
  }

  void add(const PooledBand& band) {
    const int64_t halo = band.rows + 2, whole = round_up(band.columns, lanes), plane = plane_stride(halo * whole);
    float* shifted = static_cast<float*>(scratch(Scratch::band, 3 * channels * plane * sizeof(float)));
    for (int64_t c = 0; c < channels; ++c) {  // [channel][s]: from column s on, zeros behind
      const float* from = band.planes + c * band.plane_step;
      const int64_t floats = halo * band.row_step;
      if (count == 0) about[c] = sum_of_lanes(sum_of_rows(from, 1, 0, floats)) / static_cast<float>(floats);
      for (int64_t s = 0; s < 3; ++s)
        for (int64_t y = 0; y < halo; ++y) {
          float* to = shifted + (3 * c + s) * plane + y * whole;
          for (int64_t x = 0; x < whole; x += lanes)
            store_vector<float, float>(to + x, load_vector<float>(from + y * band.row_step + s + x) - about[c]);
          for (int64_t x = band.columns; x < whole; ++x) to[x] = 0;
        }
    }
    count += static_cast<double>(band.rows * band.columns);
    const auto tap_row = [&](int64_t i) { return shifted + i / 3 * 3 * plane + i % 3 * whole; };  // i = (channel, r)
    double* to = products;
    for (int64_t i = 0; i < tap_rows; ++i)
      for (int64_t j = i; j < tap_rows; ++j, to += taps_3x3 * lanes)
        (i == 0 ? multiply_tap_rows<true> : multiply_tap_rows<false>)(tap_row(i), tap_row(j), plane, band.rows * whole,
                                                                      to, sums + 3 * j * lanes);
  }

  void finish(WindowMoments& moments) const {
    const auto total = [](const double* in_lanes) {
      double sum = 0;
      for (int64_t l = 0; l < lanes; ++l) sum += in_lanes[l];
      return sum;
    };
    moments.count = count;
    double sum[most_in_window];
    for (int64_t i = 0; i < 3 * tap_rows; ++i) {
      sum[i] = total(sums + i * lanes);
      moments.mean[i] = about[i / taps_3x3] + sum[i] / count;
    }
    const double* from = products;
    for (int64_t i = 0; i < tap_rows; ++i)
      for (int64_t j = i; j < tap_rows; ++j)
        for (int64_t m = 3 * i; m < 3 * i + 3; ++m)
          for (int64_t n = 3 * j; n < 3 * j + 3; ++n, from += lanes)
            moments.products[m][n] = total(from) - sum[m] * sum[n] / count;
  }
};

// In each lane from[0], from[1], from[4] or from[5], as `where` says.
template <typename V>
MYCONV2D_INLINE V pick(const float* from, typename IntsOf<V>::type where) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64)  // half a vector is enough, and hardly ever in two cache lines
    return (V)_mm512_maskz_permutexvar_ps(0xffff, (__m512i)where, _mm512_castps256_ps512(_mm256_loadu_ps(from)));
#endif
#if defined(__AVX2__)
  if constexpr (sizeof(V) == 32) return (V)_mm256_permutevar8x32_ps((__m256)get<V>(from), (__m256i)where);
#endif
  V value = V{} + from[0];
  value = where == 1 ? V{} + from[1] : value;
  value = where == 4 ? V{} + from[4] : value;
  return where == 5 ? V{} + from[5] : value;
}

// sums[tap][vector] = Σ grad·w of some out channels over a band's pooled pixels, whose patches follow one another.
template <typename V>
inline void sum_chosen(const float* patches, const float* grad, const uint8_t* index, const GradientSource& source,
                       int64_t rows, int64_t columns, float* sums, int64_t step) {
  V sum[taps_3x3] = {};
  for (int64_t y = 0; y < rows; ++y) {
    const float* from = grad + y * source.grad_strides.h;
    const uint8_t* codes = index + y * source.index_strides.h;
    for (int64_t x = 0; x < columns; ++x, patches += 16, from += source.grad_strides.w, codes += source.index_strides.w) {
      typename IntsOf<V>::bytes bytes;
      std::memcpy(&bytes, codes, sizeof bytes);
      const auto code = widened<V>(bytes);  // 2·dy + dx, which is 4·dy + dx in a patch
      const auto where = code + (code & 2);
      const V value = get<V>(from);
#pragma GCC unroll 9
      for (int tap = 0; tap < taps_3x3; ++tap) sum[tap] += value * pick<V>(patches + tap / 3 * 4 + tap % 3, where);
    }
  }
  for (int64_t tap = 0; tap < taps_3x3; ++tap) put(sums + tap * step, sum[tap]);
}

// totals[channel of the input, tap][out channel] += Σ g·w of a band that begins at `window`.
inline void add_chosen(const PooledBand& band, const GradientSource& source, const Window& window, double* totals) {
  const int64_t rows = band.rows / 2, columns = band.columns / 2, many = source.channels;
  float* patches = static_cast<float*>(scratch(Scratch::accumulators, (16 * (rows * columns + 1) + taps_3x3 * many) * sizeof(float)));
  float* sums = patches + 16 * (rows * columns + 1);
  const float* grad = source.grad + window.image * source.grad_strides.n + window.y / 2 * source.grad_strides.h;
  const uint8_t* index = source.index + window.image * source.index_strides.n + window.y / 2 * source.index_strides.h;
  for (int64_t c = 0; c < band.channels; ++c, totals += taps_3x3 * many) {
    float* to = patches;
    for (int64_t y = 0; y < rows; ++y)
      for (int64_t x = 0; x < columns; ++x)
        for (int64_t r = 0; r < 4; ++r, to += 4)
          std::memcpy(to, band.planes + c * band.plane_step + (2 * y + r) * band.row_step + 2 * x, 4 * sizeof(float));
    std::memset(to, 0, 16 * sizeof(float));  // the last vectors reach behind
    cover_channels(many, [&]<typename V>(int64_t k) {
      sum_chosen<V>(patches, grad + k, index + k, source, rows, columns, sums + k, many);
    });
    for (int64_t i = 0; i < taps_3x3 * many; ++i) totals[i] += sums[i];
  }
}

struct PooledSums {  // in scratch memory
  const WindowMoments* windows;
  const double* chosen;  // Σ g·w: [C·R·S][out channels]
  int64_t size, out_channels;

  double output_mean(const float* weight, const Strides& s, int64_t k) const {  // without the bias
    double mean = 0;
    for (int64_t i = 0; i < size; ++i) mean += windows->mean[i] * of_weight(weight, s, k, i);
    return mean;
  }
  double grad_weight(const float* weight, const Strides& s, int64_t k, int64_t i, double constant, double slope) const {
    double covariance = 0;
    for (int64_t j = 0; j < size; ++j) covariance += windows->product(i, j) * of_weight(weight, s, k, j);
    return chosen[i * out_channels + k] + constant * windows->count * windows->mean[i] + slope * covariance;
  }
  static int64_t place(const Strides& s, int64_t k, int64_t i) {  // i = (c, r, s)
    return k * s.n + i / taps_3x3 * s.c + i % taps_3x3 / 3 * s.h + i % 3 * s.w;
  }
  static double of_weight(const float* weight, const Strides& s, int64_t k, int64_t i) { return weight[place(s, k, i)]; }
};

// What is chosen is added up only if it is wanted.
inline PooledSums pooled_sums(const Conv2d& conv, const Threads& threads, const GradientSource& source,
                              const FeedSource& input, bool chosen_wanted) {
  const int64_t channels = conv.in_channels, size = channels * taps_3x3, chosen = size * conv.out_channels;
  const int64_t row_floats = 7 * channels * conv.out_width;  // three shifted planes, and four floats a pixel in patches
  const RowBlocks blocks(conv.out_height, row_floats * sizeof(float), 16384);
  const int64_t tasks = conv.batch * blocks.per_image, ranges = least(16, most(tasks, 1));
  const size_t bytes = ranges * (sizeof(WindowMoments) + chosen * sizeof(double));
  WindowMoments* moments = static_cast<WindowMoments*>(scratch(Scratch::partial_sums, bytes));
  double* sums = reinterpret_cast<double*>(moments + ranges);
  std::memset(moments, 0, bytes);
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
      const PooledBand band{planes, channels, window.rows, window.columns, halo.columns, plane_step};
      of_bands.add(band);
      if (chosen_wanted) add_chosen(band, source, window, sums + range * chosen);
    }
    if (of_bands.count > 0) of_bands.finish(moments[range]);
  });
  for (int64_t range = 1; range < ranges; ++range) {
    moments->join(moments[range], size);
    for (int64_t i = 0; i < chosen; ++i) sums[i] += sums[range * chosen + i];
  }
  return {moments, sums, size, conv.out_channels};
}

}  // namespace myconv2d::MYCONV2D_ISA
