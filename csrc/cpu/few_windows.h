// How the kernels for few channels cut images into tasks, and how they see where a result goes.
#pragma once

#include "gemm.h"
#include "parallel.h"
#include "scratch.h"
#include "tiles.h"

namespace myconv2d::MYCONV2D_ISA {

inline Lanes load_once(const float* from) { return in_register(load_vector<float>(from)); }

// Floats from one plane of a band to the next: an odd number of cache lines, so that the planes of many channels do
// not all fall into the same few sets.
inline int64_t plane_stride(int64_t floats) { return round_up(floats, 32) + 16; }

struct PlanesRead {  // what a product of few channels reads, halo included
  const float* planes;
  int64_t channels, kernel_h, kernel_w, row_step, plane_step;
};

template <typename Source>
PlanesRead planes_copied(const Source& source, const Window& halo, int64_t kernel_h, int64_t kernel_w) {
  const int64_t row_step = halo.columns, plane_step = plane_stride(halo.rows * row_step + lanes);
  float* planes = static_cast<float*>(scratch(Scratch::panel, source.channels * plane_step * sizeof(float)));
  read_planes(source, halo, planes, row_step, plane_step);
  return {planes, source.channels, kernel_h, kernel_w, row_step, plane_step};
}

inline float sum_of_lanes(Lanes value) {
  float part[lanes];
  std::memcpy(part, &value, sizeof part);
  for (int half = lanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) part[i] += part[i + half];
  return part[0];
}

// Windows of full-width rows, as many as fit `budget` bytes. All but an image's last have a multiple of `unit` rows, an
// even number, so that none cuts a 2×2 pooling window.
struct RowBlocks {
  int64_t height, rows, per_image;

  RowBlocks(int64_t height, int64_t row_bytes, int64_t budget, int64_t unit = 2) : height(height) {
    rows = least(most(height, 1), most(1, budget / most(row_bytes, 1) / unit) * unit);
    per_image = ceil_div(height, rows);
  }
  Window at(int64_t task, int64_t width) const {
    const int64_t y = task % per_image * rows;
    return {task / per_image, y, 0, least(rows, height - y), width};
  }
};

inline Window with_halo(const Window& w, const Correlation& p) {
  return {w.image, w.y * p.stride_h - p.padding_h, w.x * p.stride_w - p.padding_w,
          (w.rows - 1) * p.stride_h + p.kernel_h, (w.columns - 1) * p.stride_w + p.kernel_w};
}

// The element type of a result in memory, float if it is handed over as a band.
template <typename Sink>
struct ElementOf { using type = float; };
template <typename T>
struct ElementOf<Planes<T>> { using type = T; };
template <typename T>
struct ElementOf<Planes<const T>> { using type = T; };

template <typename>
constexpr bool in_memory = false;  // the source or sink is a tensor, whose strides say how it lies
template <typename T>
constexpr bool in_memory<Planes<T>> = true;

template <typename Image>
bool lies_as_planes(const Image& image) {
  if constexpr (in_memory<Image>) return image.strides.w == 1;
  return false;
}

template <typename Image>
bool lies_as_pixels(const Image& image) {
  if constexpr (in_memory<Image>) return image.strides.c == 1 || image.channels == 1;
  return false;
}

}  // namespace myconv2d::MYCONV2D_ISA
