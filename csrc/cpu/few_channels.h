// Convolutions of stride 1 with few channels on one side, the first and last layers of every network: where the
// implicit GEMM would spend its time on packing and the vendor's libraries pad one or three channels to eight.
//
// The image with few channels is kept as planes with a halo. Then im2col needs no copy at all: under tap (c, r, s)
// the next pixel's value is the next float of the plane, so the register tile reads its operand straight from there.
//   few_in_product    few source channels:  rows = pixels (broadcast from planes), columns = out channels
//   few_out_product   few result channels:  rows = out channels (broadcast weights), columns = pixels
//   few_*_grad_weight  few on either side:   rows = horizontal taps (broadcast from planes), columns = the other's channels
// Bound: the FMA units for few_in and few_grad_weight, L1 loads for few_out.
#pragma once

#include "gemm.h"
#include "parallel.h"
#include "scratch.h"
#include "tiles.h"

namespace myconv2d::MYCONV2D_ISA {

constexpr int64_t task_pixels = 1024;

// One task's part of the work: some rows of one image of one group.
struct RowBlocks {
  int64_t per_image, rows, height;

  RowBlocks(int64_t height, int64_t width) : height(height) {
    rows = least(height, most(1, task_pixels / width));
    per_image = ceil_div(height, rows);
  }
  Window at(int64_t task, int64_t width) const {
    const int64_t y = task % per_image * rows;
    return {task / per_image, y, 0, least(rows, height - y), width};
  }
};

inline Window with_halo(const Window& w, const Correlation& p) {
  return {w.image, w.y - p.padding_h, w.x - p.padding_w, w.rows + p.kernel_h - 1, w.columns + p.kernel_w - 1};
}

template <typename T>
void few_in_product(const Correlation& p, const Threads& threads, const Planes<const T>& source, const T* weight,
                    const WeightView& view, const T* bias, int64_t bias_stride, const Planes<T>& result) {
  const int64_t in_channels = source.channels, out_channels = result.channels, width = result.width;
  if (p.batch * result.height * width == 0) return;
  const int64_t padded = round_up(out_channels, columns<float>), depth = p.kernel_h * in_channels * p.kernel_w;
  float* packed = static_cast<float*>(scratch(Scratch::weights, p.groups * (depth + 1) * padded * sizeof(float)));
  for (int64_t g = 0; g < p.groups; ++g) {  // [panel][(r, c, s)][two vectors], then the bias
    float* to = packed + g * (depth + 1) * padded;
    const auto value = [&](int64_t k, int64_t r, int64_t c, int64_t s) {
      return k < out_channels
                 ? load<float>(weight[g * view.group + k * view.k + c * view.c + r * view.r + s * view.s])
                 : 0.0f;
    };
    for (int64_t panel = 0; panel < padded; panel += columns<float>)
      for (int64_t r = 0; r < p.kernel_h; ++r)
        for (int64_t c = 0; c < in_channels; ++c)
          for (int64_t s = 0; s < p.kernel_w; ++s)
            for (int64_t k = 0; k < columns<float>; ++k) *to++ = value(panel + k, r, c, s);
    for (int64_t k = 0; k < padded; ++k)
      *to++ = bias && k < out_channels ? load<float>(bias[(g * out_channels + k) * bias_stride]) : 0.0f;
  }

  const RowBlocks blocks(result.height, width);
  const int64_t rows = rows_per_panel(width);
  parallel_for(threads, p.groups * p.batch * blocks.per_image, [&](int64_t task) {
    const int64_t g = task % p.groups;
    const Window window = blocks.at(task / p.groups, width), halo = with_halo(window, p);
    const int64_t plane = halo.columns;
    float* planes = static_cast<float*>(scratch(
        Scratch::panel, (halo.rows * in_channels * plane + max_rows) * sizeof(float)));
    float* pixels = static_cast<float*>(scratch(
        Scratch::accumulators, window.rows * width * padded * sizeof(float)));
    read_planes(of_group(source, g), halo, planes, in_channels * plane, plane);
    const float* weights = packed + g * (depth + 1) * padded;
    for (int64_t i = 0; i < window.rows * width; ++i)
      std::memcpy(pixels + i * padded, weights + depth * padded, padded * sizeof(float));
    for (int64_t y = 0; y < window.rows; ++y)
      for (int64_t x = 0; x < width; x += rows)
        for (int64_t panel = 0; panel < padded; panel += columns<float>)
          multiply_tile_for<float>(least(rows, width - x))(
              depth, {planes + y * in_channels * plane + x, 1, p.kernel_w, plane}, weights + panel * depth,
              pixels + (y * width + x) * padded + panel, padded, true);
    write_pixels(pixels, padded, window, 0, out_channels, of_group(result, g));
  });
}

// sums[rows][vectors · lanes positions] = bias + Σ_(c, r, s) weights[(c, r, s)][rows] · planes[c][r][position + s]
template <int rows, int vectors>
void multiply_planes(int64_t channels, int64_t kernel_h, int64_t kernel_w, const float* planes, int64_t plane_step,
                     int64_t row_step, const float* weights, const float* bias, float* sums, int64_t sums_stride) {
  Lanes sum[rows][vectors];
  for (int i = 0; i < rows; ++i)
    for (int v = 0; v < vectors; ++v) sum[i][v] = Lanes{} + bias[i];
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t r = 0; r < kernel_h; ++r) {
      const float* row = planes + c * plane_step + r * row_step;
      for (int64_t s = 0; s < kernel_w; ++s, weights += rows)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) {
          const Lanes value = load_vector<float>(row + s + v * lanes);
#pragma GCC unroll 8
          for (int i = 0; i < rows; ++i) sum[i][v] += weights[i] * value;
        }
    }
  for (int i = 0; i < rows; ++i)
    for (int v = 0; v < vectors; ++v) store_vector<float, float>(sums + i * sums_stride + v * lanes, sum[i][v]);
}

constexpr int few_vectors = 4;
using MultiplyPlanes = void (*)(int64_t, int64_t, int64_t, const float*, int64_t, int64_t, const float*, const float*,
                                float*, int64_t);
constexpr MultiplyPlanes multiply_planes_of[] = {nullptr, multiply_planes<1, few_vectors>,
                                                 multiply_planes<2, few_vectors>, multiply_planes<3, few_vectors>,
                                                 multiply_planes<4, few_vectors>};

template <typename T>
void few_out_product(const Correlation& p, const Threads& threads, const Planes<const T>& source, const T* weight,
                     const WeightView& view, const T* bias, int64_t bias_stride, const Planes<T>& result) {
  const int64_t in_channels = source.channels, out_channels = result.channels, width = result.width;
  if (p.batch * result.height * width == 0) return;
  const int64_t size = (in_channels * p.kernel_h * p.kernel_w + 1) * out_channels;  // [(c, r, s)][k], then the bias
  float* packed = static_cast<float*>(scratch(Scratch::weights, p.groups * size * sizeof(float)));
  for (int64_t g = 0; g < p.groups; ++g) {
    float* to = packed + g * size;
    for (int64_t c = 0; c < in_channels; ++c)
      for (int64_t r = 0; r < p.kernel_h; ++r)
        for (int64_t s = 0; s < p.kernel_w; ++s)
          for (int64_t k = 0; k < out_channels; ++k)
            *to++ = load<float>(weight[g * view.group + k * view.k + c * view.c + r * view.r + s * view.s]);
    for (int64_t k = 0; k < out_channels; ++k)
      *to++ = bias ? load<float>(bias[(g * out_channels + k) * bias_stride]) : 0.0f;
  }

  const RowBlocks blocks(result.height, width);
  constexpr int64_t step = few_vectors * lanes;
  parallel_for(threads, p.groups * p.batch * blocks.per_image, [&](int64_t task) {
    const int64_t g = task % p.groups;
    const Window window = blocks.at(task / p.groups, width), halo = with_halo(window, p);
    // Positions run on from row to row of the planes, halo columns included: their sums are never written.
    const int64_t row_step = halo.columns, plane_step = halo.rows * row_step, positions = window.rows * row_step;
    const int64_t sums_stride = round_up(positions, step);
    float* planes = static_cast<float*>(
        scratch(Scratch::panel, (in_channels * plane_step + step + p.kernel_w) * sizeof(float)));
    float* sums = static_cast<float*>(scratch(Scratch::accumulators, out_channels * sums_stride * sizeof(float)));
    read_planes(of_group(source, g), halo, planes, row_step, plane_step);
    const float* weights = packed + g * size;
    for (int64_t first = 0; first < positions; first += step)
      multiply_planes_of[out_channels](in_channels, p.kernel_h, p.kernel_w, planes + first, plane_step, row_step,
                                       weights, weights + size - out_channels, sums + first, sums_stride);
    const Planes<T> to = of_group(result, g);
    const Strides& s = to.strides;
    for (int64_t y = 0; y < window.rows; ++y) {
      T* row = to.data + window.image * s.n + (window.y + y) * s.h;
      for (int64_t k = 0; k < out_channels; ++k)
        for (int64_t x = 0; x < width; ++x)
          row[k * s.c + x * s.w] = narrow<T, float>(sums[k * sums_stride + y * row_step + x]);
    }
  });
}

// weight_of(few channel, r, s, many channel) ← Σ_pixels few[pixel + (r, s) − padding] · many[pixel].
// Images are split into as many ranges as the shape says, whose sums are added in order; the sums of `many` over all
// pixels, one per channel, go to `sums_of_many` where that is wanted.
template <typename T, typename Store>
void few_grad_weight(const Correlation& p, const Threads& threads, const Planes<const T>& few,
                     const Planes<const T>& many, const Store& store, T* sums_of_many) {
  const int64_t padded = round_up(many.channels, columns<float>), taps = p.kernel_h * few.channels * p.kernel_w;
  const int64_t range_size = (taps + 1) * padded;  // [(r, few channel, s)][many channel], then the sums of many
  const RowBlocks blocks(many.height, most(many.width, 1));
  const int64_t tasks = p.batch * blocks.per_image, ranges = least(16, most(tasks, 1));
  float* partial =
      static_cast<float*>(scratch(Scratch::partial_sums, p.groups * ranges * range_size * sizeof(float)));

  parallel_for(threads, p.groups * ranges, [&](int64_t task) {
    const int64_t g = task / ranges, range = task % ranges;
    float* sums = partial + task * range_size;
    std::memset(sums, 0, range_size * sizeof(float));
    for (int64_t block = range * tasks / ranges; block < (range + 1) * tasks / ranges; ++block) {
      const Window window = blocks.at(block, many.width), halo = with_halo(window, p);
      const int64_t plane = halo.columns, depth = window.rows * window.columns;
      float* planes = static_cast<float*>(
          scratch(Scratch::panel, halo.rows * few.channels * plane * sizeof(float)));
      float* pixels = static_cast<float*>(scratch(Scratch::band, depth * columns<float> * sizeof(float)));
      read_planes(of_group(few, g), halo, planes, few.channels * plane, plane);
      for (int64_t first = 0; first < many.channels; first += columns<float>) {
        Planes<const T> panel = of_group(many, g);
        panel.data += first * panel.strides.c;
        panel.channels = least(columns<float>, many.channels - first);
        read_pixels(panel, window, pixels, columns<float>);
        for (int64_t plane_row = 0; plane_row < p.kernel_h * few.channels; ++plane_row)
          multiply_tile_for<float>(p.kernel_w)(
              depth, {planes + plane_row * plane, 1, window.columns, few.channels * plane}, pixels,
              sums + plane_row * p.kernel_w * padded + first, padded, true);
        if (sums_of_many)
          for (int half = 0; half < 2; ++half) {
            Lanes sum{};
            for (int64_t i = 0; i < depth; ++i)
              sum += *reinterpret_cast<const Lanes*>(pixels + i * columns<float> + half * lanes);
            *reinterpret_cast<Lanes*>(sums + taps * padded + first + half * lanes) += sum;
          }
      }
    }
  });

  for (int64_t g = 0; g < p.groups; ++g) {
    float* total = partial + g * ranges * range_size;
    for (int64_t range = 1; range < ranges; ++range)
      for (int64_t i = 0; i < range_size; ++i) total[i] += total[range * range_size + i];
    for (int64_t r = 0; r < p.kernel_h; ++r)
      for (int64_t c = 0; c < few.channels; ++c)
        for (int64_t s = 0; s < p.kernel_w; ++s)
          for (int64_t m = 0; m < many.channels; ++m)
            store(g, c, r, s, m, total[((r * few.channels + c) * p.kernel_w + s) * padded + m]);
    if (sums_of_many)
      for (int64_t m = 0; m < many.channels; ++m)
        sums_of_many[g * many.channels + m] = narrow<T, float>(total[taps * padded + m]);
  }
}

// Few in channels: the input is the image with few, grad_output the one with many.
template <typename T>
void few_in_grad_weight(const Conv2d& conv, const Threads& threads, const Planes<const T>& grad_output,
                        const Planes<const T>& input, T* grad_weight, const Strides& s, T* grad_bias) {
  const Correlation p{conv.batch,        conv.groups,    conv.kernel_height,
                      conv.kernel_width, conv.padding_h, conv.padding_w};
  few_grad_weight<T>(
      p, threads, input, grad_output,
      [&](int64_t g, int64_t c, int64_t r, int64_t t, int64_t k, float value) {
        grad_weight[(g * conv.group_out_channels() + k) * s.n + c * s.c + r * s.h + t * s.w] =
            narrow<T, float>(value);
      },
      grad_bias);
}

// Few out channels: the other way round, which turns the kernel by half a turn.
template <typename T>
void few_out_grad_weight(const Conv2d& conv, const Threads& threads, const Planes<const T>& grad_output,
                         const Planes<const T>& input, T* grad_weight, const Strides& s, T* grad_bias) {
  const int64_t last_r = conv.kernel_height - 1, last_s = conv.kernel_width - 1;
  const Correlation p{conv.batch,         conv.groups,
                      conv.kernel_height, conv.kernel_width,
                      last_r - conv.padding_h, last_s - conv.padding_w};
  few_grad_weight<T>(
      p, threads, grad_output, input,
      [&](int64_t g, int64_t k, int64_t r, int64_t t, int64_t c, float value) {
        grad_weight[(g * conv.group_out_channels() + k) * s.n + c * s.c + (last_r - r) * s.h + (last_s - t) * s.w] =
            narrow<T, float>(value);
      },
      nullptr);
  if (grad_bias)
    parallel_for(threads, conv.out_channels, [&](int64_t k) {
      double total = 0;
      for (int64_t n = 0; n < conv.batch; ++n)
        for (int64_t y = 0; y < grad_output.height; ++y) {
          const T* row = grad_output.data + n * grad_output.strides.n + k * grad_output.strides.c +
                         y * grad_output.strides.h;
          float sum = 0;
          for (int64_t x = 0; x < grad_output.width; ++x) sum += load<float>(row[x * grad_output.strides.w]);
          total += sum;
        }
      grad_bias[k] = narrow<T, float>(static_cast<float>(total));
    });
}

}  // namespace myconv2d::MYCONV2D_ISA
