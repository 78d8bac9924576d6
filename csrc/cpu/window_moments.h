// The first two moments of the windows under an image's pixels: w = the C·R·S input values that a 3×3 convolution of
// few channels multiplies there, zeros outside the image included.
//
// In a band of rows, what all pixels have under tap (c, r, s) is channel c's plane, moved by s columns, from row r on. So
// the products of two tap rows (c, r) are one 3×3 register tile over vectors of pixels. Values are taken about the mean
// of a range's first band; sums are in float for a band, then in double, lane by lane.
// Bound: the FMA units.
#pragma once

#include "few_grad_weight.h"

namespace myconv2d::MYCONV2D_ISA {

constexpr int64_t window_taps = 9, most_in_window = few_channels * window_taps;

// Of some windows: how many, their mean w̄, and Σ (w − w̄)(w − w̄)ᵀ, of which the part from the diagonal on is kept.
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

// A band of `rows` × `columns` pixels, and the input under it as planes with their halo; zeros behind each.
struct InputBand {
  const float* planes;
  int64_t channels, rows, columns, row_step, plane_step;
};

inline void add_lanes(double* to, Lanes value) {
  HalfLanes halves[2];
  std::memcpy(halves, &value, sizeof value);
  for (int i = 0; i < 2; ++i, to += lanes / 2)
    store_vector<double, double>(
        to, load_vector<double>(to) + __builtin_convertvector(halves[i], Vector<double>::type));
}

// products[s][t] += Σ a[s]·b[t] in lanes, and if wanted sums[t] += Σ b[t], of three planes each, `plane` floats apart.
template <bool with_sums>
void multiply_tap_rows(const float* a, const float* b, int64_t plane, int64_t floats, double* products, double* sums) {
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
  for (int t = 0; t < 3; ++t) {
#pragma GCC unroll 3
    for (int s = 0; s < 3; ++s) add_lanes(products + (3 * s + t) * lanes, product[s][t]);
    if constexpr (with_sums) add_lanes(sums + t * lanes, sum[t]);
  }
}

// Of the bands of a range, one after the other.
class BandMoments {
  int64_t channels, tap_rows, plane = 0, whole = 0;
  double count = 0;
  float about[few_channels];
  double *sums, *products;  // [tap][lanes] and, for tap rows i ≤ j, [i, j][s][t][lanes]

  // [channel][s][row]: the band from column s on, and zeros up to whole vectors.
  const float* shifted_planes(const InputBand& band) {
    const int64_t halo = band.rows + 2;
    whole = round_up(band.columns, lanes), plane = plane_stride(halo * whole);
    float* shifted = static_cast<float*>(scratch(Scratch::band, 3 * channels * plane * sizeof(float)));
    for (int64_t c = 0; c < channels; ++c) {
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
    return shifted;
  }

 public:
  explicit BandMoments(int64_t channels) : channels(channels), tap_rows(3 * channels) {
    const int64_t size = (3 * tap_rows + 9 * tap_rows * (tap_rows + 1) / 2) * lanes;
    sums = static_cast<double*>(scratch(Scratch::task_sums, size * sizeof(double)));
    products = sums + 3 * tap_rows * lanes;
    std::memset(sums, 0, size * sizeof(double));
  }

  void add(const InputBand& band) {
    const float* shifted = shifted_planes(band);
    const auto tap_row = [&](int64_t i) { return shifted + i / 3 * 3 * plane + i % 3 * whole; };  // i = (channel, r)
    double* to = products;
    for (int64_t i = 0; i < tap_rows; ++i)
      for (int64_t j = i; j < tap_rows; ++j, to += 9 * lanes)
        (i == 0 ? multiply_tap_rows<true> : multiply_tap_rows<false>)(tap_row(i), tap_row(j), plane, band.rows * whole,
                                                                      to, sums + 3 * j * lanes);
    count += static_cast<double>(band.rows * band.columns);
  }

  WindowMoments moments() const {
    const auto total = [](const double* in_lanes) {
      double result = 0;
      for (int64_t l = 0; l < lanes; ++l) result += in_lanes[l];
      return result;
    };
    WindowMoments m{};
    if (count == 0) return m;
    m.count = count;
    double sum[most_in_window];
    for (int64_t i = 0; i < 3 * tap_rows; ++i) {
      sum[i] = total(sums + i * lanes);
      m.mean[i] = about[i / window_taps] + sum[i] / count;
    }
    const double* from = products;
    for (int64_t i = 0; i < tap_rows; ++i)
      for (int64_t j = i; j < tap_rows; ++j)
        for (int64_t a = 3 * i; a < 3 * i + 3; ++a)
          for (int64_t b = 3 * j; b < 3 * j + 3; ++b, from += lanes)
            m.products[a][b] = total(from) - sum[a] * sum[b] / count;
    return m;
  }
};

}  // namespace myconv2d::MYCONV2D_ISA
