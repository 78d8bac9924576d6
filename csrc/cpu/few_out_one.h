// Products with one result channel and 3×3 taps. A vector of pixels, loaded once, meets all nine taps: the sums of a tap
// column lie where its pixels do, and are shifted against each other only when all channels are in:
//   sums[y][s][x] = Σ_(c, r) weights[c, r, s] · planes[c][y + r][x],   result[y][x] = bias + Σ_s sums[y][s][x + s]
// So no load crosses a cache line, and the image can be read where it lies, without zeros at its sides.
// Bound: the FMA units.
#pragma once

#include <type_traits>

#include "few_windows.h"

namespace myconv2d::MYCONV2D_ISA {

constexpr int rows_of_one = MYCONV2D_REGISTERS == 32 ? 6 : 3;  // at once: their sums fill the registers
constexpr int64_t window_rows_of_one = 6;                         // a multiple of these, and even

// Zeros on both sides, if any, and a vector of pixels between them.
inline bool suits_one(const Correlation& p, int64_t in_width, int64_t width) {
  return p.kernel_h == 3 && p.kernel_w == 3 && in_width >= lanes && p.padding_w >= 0 &&
         p.padding_w + in_width <= width + 2;
}

// The rows of a window's halo and those of the last group of rows, without the halo's columns: where they lie if they
// lie so, else copied.
template <typename Source>
PlanesRead planes_for_one(const Source& source, Window halo) {
  halo = {halo.image, halo.y, 0, round_up(halo.rows - 2, rows_of_one) + 2, source.width};
  if constexpr (std::is_same_v<Source, Planes<const float>>) {
    const Strides& s = source.strides;
    if (s.w == 1 && halo.y >= 0 && halo.y + halo.rows <= source.height)
      return {source.data + halo.image * s.n + halo.y * s.h, source.channels, 3, 3, s.h, s.c};
  }
  return planes_copied(source, halo, 3, 3);
}

// sums[y][s][…] for a vector of pixels and `rows_of_one` rows y, `step` floats from s to s.
inline void sum_columns(const PlanesRead& read, const float* pixels, const float* weights, float* sums, int64_t step) {
  Lanes sum[rows_of_one][3] = {};
  for (int64_t c = 0; c < read.channels; ++c, pixels += read.plane_step, weights += 9) {
    Lanes value[rows_of_one + 2];
#pragma GCC unroll 8
    for (int i = 0; i < rows_of_one + 2; ++i) value[i] = load_once(pixels + i * read.row_step);
#pragma GCC unroll 3
    for (int r = 0; r < 3; ++r)
#pragma GCC unroll 3
      for (int s = 0; s < 3; ++s) {
        const Lanes weight = in_register(Lanes{} + weights[3 * r + s]);
#pragma GCC unroll 6
        for (int y = 0; y < rows_of_one; ++y) sum[y][s] += weight * value[y + r];
      }
  }
#pragma GCC unroll 6
  for (int y = 0; y < rows_of_one; ++y)
#pragma GCC unroll 3
    for (int s = 0; s < 3; ++s) store_vector<float, float>(sums + (3 * y + s) * step, sum[y][s]);
}

// `rows` rows of `width` results, to[y · row_step + x], from planes of `in_width` pixels beside which lie zeros, `left`
// of them before. Reads whole groups of rows.
template <typename T>
void multiply_one(const PlanesRead& read, int64_t in_width, int64_t left, int64_t rows, int64_t width,
                  const float* weights, float bias, T* to, int64_t row_step) {
  const int64_t step = round_up(width + 2, lanes);
  float* sums = static_cast<float*>(scratch(Scratch::band, 3 * rows_of_one * step * sizeof(float)));
  for (int64_t i = 0; i < 3 * rows_of_one; ++i) {
    std::memset(sums + i * step, 0, left * sizeof(float));
    std::memset(sums + i * step + left + in_width, 0, (width + 2 - left - in_width) * sizeof(float));
  }
  for (int64_t first = 0; first < rows; first += rows_of_one) {
    const float* pixels = read.planes + first * read.row_step;
    for (int64_t x = 0; x < in_width; x += lanes) {
      const int64_t at = least(x, in_width - lanes);
      sum_columns(read, pixels + at, weights, sums + left + at, step);
    }
    for (int64_t y = 0; y < least(rows_of_one, rows - first); ++y) {
      const float *a = sums + 3 * y * step, *b = a + step + 1, *c = b + step + 1;
      T* row = to + (first + y) * row_step;
      int64_t x = 0;
      for (; x + lanes <= width; x += lanes)
        store_vector<T, float>(row + x, (load_vector<float>(a + x) + load_vector<float>(b + x)) +
                                            (load_vector<float>(c + x) + bias));
      for (; x < width; ++x) row[x] = narrow<T, float>((a[x] + b[x]) + (c[x] + bias));
    }
  }
}

}  // namespace myconv2d::MYCONV2D_ISA
