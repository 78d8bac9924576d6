// The register tiles of few_grad_weight.h: the products of some tap rows and some of the many channels, summed over a
// window's pixels.
#pragma once

#include "few_windows.h"

namespace myconv2d::MYCONV2D_ISA {

// Planes of the few channels of a window, halo included. Tap row i = (r, channel) begins `tap_row(i)` floats on.
struct FewRows {
  const float* values;
  int64_t channels, row_step, plane_step;
  int64_t tap_row(int64_t i) const { return i / channels * row_step + i % channels * plane_step; }
};

struct ManyRows {  // as pixels: a step is a pixel's stride; as planes: a plane's
  const float* values;
  int64_t step, row_step, rows, columns;
};

// sums[tap row][s][vector] += Σ_(y, x) few[y][tap row][x + s] · many[y][x][vector] for some tap rows, `step` apart.
template <int tap_rows, int kernel_w, int vectors>
void correlate_pixels(const float* few, int64_t step, int64_t few_row, const ManyRows& many, const FirstLanes& last,
                      float* sums, int64_t padded) {
  Lanes sum[tap_rows][kernel_w][vectors] = {};
  for (int64_t y = 0; y < many.rows; ++y) {
    const float* taps = few + y * few_row;
    const float* pixel = many.values + y * many.row_step;
    for (int64_t x = 0; x < many.columns; ++x, ++taps, pixel += many.step) {
      Lanes value[vectors];
      if constexpr (vectors == 2) value[0] = load_once(pixel);
      value[vectors - 1] = last.load(pixel + (vectors - 1) * lanes);
#pragma GCC unroll 4
      for (int i = 0; i < tap_rows; ++i)
#pragma GCC unroll 6
        for (int s = 0; s < kernel_w; ++s)
#pragma GCC unroll 2
          for (int v = 0; v < vectors; ++v) sum[i][s][v] += taps[i * step + s] * value[v];
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < tap_rows; ++i)
#pragma GCC unroll 6
    for (int s = 0; s < kernel_w; ++s, sums += padded)
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v)
        store_vector<float, float>(sums + v * lanes, load_vector<float>(sums + v * lanes) + sum[i][s][v]);
}

// sums[m][s][lanes] += Σ_(y, x) few[y][x + s] · many[m][y][x], vectors of pixels; columns are whole vectors.
template <int channels, int kernel_w>
void correlate_planes(const float* few, int64_t few_row, const ManyRows& many, float* sums) {
  Lanes sum[channels][kernel_w] = {};
  for (int64_t y = 0; y < many.rows; ++y) {
    const float* taps = few + y * few_row;
    const float* row = many.values + y * many.row_step;
    for (int64_t x = 0; x < many.columns; x += lanes) {
      Lanes tap[kernel_w];
#pragma GCC unroll 6
      for (int s = 0; s < kernel_w; ++s) tap[s] = load_once(taps + x + s);
#pragma GCC unroll 4
      for (int m = 0; m < channels; ++m) {
        const Lanes value = load_once(row + m * many.step + x);
#pragma GCC unroll 6
        for (int s = 0; s < kernel_w; ++s) sum[m][s] += tap[s] * value;
      }
    }
  }
#pragma GCC unroll 4
  for (int m = 0; m < channels; ++m)
#pragma GCC unroll 6
    for (int s = 0; s < kernel_w; ++s, sums += lanes)
      store_vector<float, float>(sums, load_vector<float>(sums) + sum[m][s]);
}

// The tiles that the registers hold, by kernel width.
constexpr int tap_rows_at_once(int kernel_w) { return max_rows < 4 * kernel_w ? max_rows / kernel_w : 4; }
constexpr int channels_at_once(int kernel_w) {
  return MYCONV2D_REGISTERS == 32 || kernel_w <= 2 ? 4 : kernel_w <= 4 ? 3 : 2;
}

using CorrelatePixels = void (*)(const float*, int64_t, int64_t, const ManyRows&, const FirstLanes&, float*, int64_t);
using CorrelatePlanes = void (*)(const float*, int64_t, const ManyRows&, float*);

template <int kernel_w, int tap_rows = tap_rows_at_once(kernel_w)>
CorrelatePixels correlate_pixels_of(int64_t rows, int64_t vectors) {
  if constexpr (tap_rows > 1)
    if (rows < tap_rows) return correlate_pixels_of<kernel_w, tap_rows - 1>(rows, vectors);
  return vectors == 2 ? correlate_pixels<tap_rows, kernel_w, 2> : correlate_pixels<tap_rows, kernel_w, 1>;
}

template <int kernel_w, int channels = channels_at_once(kernel_w)>
CorrelatePlanes correlate_planes_of(int64_t count) {
  if constexpr (channels > 1)
    if (count < channels) return correlate_planes_of<kernel_w, channels - 1>(count);
  return correlate_planes<channels, kernel_w>;
}

struct FewTiles {  // of one kernel width
  int64_t tap_rows, channels;
  CorrelatePixels (*pixels)(int64_t, int64_t);
  CorrelatePlanes (*planes)(int64_t);
};

template <int kernel_w>
constexpr FewTiles few_tiles_of = {tap_rows_at_once(kernel_w), channels_at_once(kernel_w),
                                   correlate_pixels_of<kernel_w>, correlate_planes_of<kernel_w>};
inline const FewTiles& few_tiles(int64_t kernel_w) {
  static constexpr FewTiles table[] = {few_tiles_of<1>, few_tiles_of<2>, few_tiles_of<3>,
                                       few_tiles_of<4>, few_tiles_of<5>, few_tiles_of<6>};
  return table[kernel_w - 1];
}

}  // namespace myconv2d::MYCONV2D_ISA
