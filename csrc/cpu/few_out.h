// Products with few result channels: rows = out channels (broadcast weights), columns = pixels, read from planes under
// each tap. A register tile is a handful of vectors of pixels, each wherever it lies: side by side in a row, in the
// rows below, or, where rows are a bad fit for vectors, running on from row to row of the planes, halo included.
// Bound: L1 loads, most of which cross a cache line.
#pragma once

#include "few_out_one.h"

namespace myconv2d::MYCONV2D_ISA {

// Vectors of a tile: enough sums to hide the multiply-add's latency, few enough for the registers.
constexpr int few_out_vectors(int channels) {
  return channels == 1 ? 8 : channels == 2 ? 6 : channels == 3 || MYCONV2D_REGISTERS == 32 ? 4 : 3;
}

// to[k · plane + position] (or, interleaved, to[position · channels + k]) ← bias[k] + Σ_(c, r, s) weights[(c, r, s)][k]
// · planes[c][r][position + s] for `few_out_vectors` vectors of positions, read from[v] and written to[v] floats on.
template <typename T, int channels, bool interleaved>
void multiply_planes(const PlanesRead& read, const int32_t* from, const float* weights, const float* bias, T* to,
                     const int32_t* to_offset, int64_t plane) {
  constexpr int vectors = few_out_vectors(channels);
  Lanes sum[vectors][channels];
  const float* at[vectors];
#pragma GCC unroll 8
  for (int v = 0; v < vectors; ++v) {
    at[v] = read.planes + from[v];
#pragma GCC unroll 4
    for (int k = 0; k < channels; ++k) sum[v][k] = Lanes{} + bias[k];
  }
  for (int64_t c = 0; c < read.channels; ++c)
    for (int64_t r = 0; r < read.kernel_h; ++r) {
      const int64_t row = c * read.plane_step + r * read.row_step;
      for (int64_t s = 0; s < read.kernel_w; ++s, weights += channels)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) {
          const float* pixels = at[v] + row + s;
          const Lanes value = channels == 1 ? load_vector<float>(pixels) : load_once(pixels);
#pragma GCC unroll 4
          for (int k = 0; k < channels; ++k) sum[v][k] += weights[k] * value;
        }
    }
#pragma GCC unroll 8
  for (int v = 0; v < vectors; ++v) {
    if constexpr (interleaved) put_together<float, channels>(sum[v]);
#pragma GCC unroll 4
    for (int k = 0; k < channels; ++k)
      store_vector<T, float>(to + to_offset[v] + k * (interleaved ? lanes : plane), sum[v][k]);
  }
}

template <typename T>
using MultiplyPlanes = void (*)(const PlanesRead&, const int32_t*, const float*, const float*, T*, const int32_t*,
                                int64_t);

template <typename T, bool interleaved>
MultiplyPlanes<T> multiply_planes_for(int64_t channels) {
  static constexpr MultiplyPlanes<T> table[] = {multiply_planes<T, 1, interleaved>, multiply_planes<T, 2, interleaved>,
                                                multiply_planes<T, 3, interleaved>, multiply_planes<T, 4, interleaved>};
  return table[channels - 1];
}

// Rows of sums, each `row_step` behind the one before: to[row · row_step + (x, k)].
template <typename T, bool interleaved>
void multiply_rows(const PlanesRead& read, int64_t rows, int64_t width, const float* weights, const float* bias,
                   int64_t channels, T* to, int64_t row_step, int64_t plane) {
  const auto multiply = multiply_planes_for<T, interleaved>(channels);
  const int64_t vectors = few_out_vectors(static_cast<int>(channels)), last = most(0, width - lanes);
  const int64_t pixel = interleaved ? channels : 1;
  int32_t from[8], offset[8];
  int64_t filled = 0;
  for (int64_t y = 0; y < rows; ++y)
    for (int64_t x = 0; x < width; x += lanes) {
      const int64_t first = least(x, last);
      from[filled] = static_cast<int32_t>(y * read.row_step + first);
      offset[filled] = static_cast<int32_t>(y * row_step + first * pixel);
      if (++filled == vectors) multiply(read, from, weights, bias, to, offset, plane), filled = 0;
    }
  if (filled == 0) return;
  for (int64_t v = filled; v < vectors; ++v) from[v] = from[filled - 1], offset[v] = offset[filled - 1];
  multiply(read, from, weights, bias, to, offset, plane);
}

// A window into memory that lies as planes or as pixels: straight, or by way of a band whose rows are copied.
template <typename T, bool interleaved>
void multiply_window(const PlanesRead& read, const Window& window, const float* weights, const float* bias,
                     const Planes<T>& result) {
  const int64_t channels = result.channels, pixel = interleaved ? channels : 1, width = window.columns;
  const Strides& s = result.strides;
  T* to = result.data + window.image * s.n + window.y * s.h;
  const int64_t run = (window.rows - 1) * read.row_step + width;  // of positions, from row to row
  const bool straight = width >= lanes && window.rows * s.h <= INT32_MAX &&
                        6 * window.rows * ceil_div(width, lanes) <= 7 * ceil_div(run, lanes);
  if (straight)
    return multiply_rows<T, interleaved>(read, window.rows, width, weights, bias, channels, to, s.h, s.c);
  const int64_t plane = plane_stride(most(run, lanes)), planes = interleaved ? 1 : channels;
  T* band = static_cast<T*>(scratch(Scratch::accumulators, channels * plane * sizeof(T)));
  multiply_rows<T, interleaved>(read, 1, run, weights, bias, channels, band, 0, plane);
  for (int64_t k = 0; k < planes; ++k)
    for (int64_t y = 0; y < window.rows; ++y)
      std::memcpy(to + k * s.c + y * s.h, band + k * plane + y * read.row_step * pixel, width * pixel * sizeof(T));
}

template <typename Source, typename W, typename B, typename Sink>
void few_out_product(const Correlation& p, const Threads& threads, const Source& source, const W* weight,
                     const WeightView& view, const B* bias, int64_t bias_stride, const Sink& result) {
  const int64_t in_channels = source.channels, out_channels = result.channels, width = result.width;
  if (p.batch * result.height * width == 0) return;
  const int64_t size = (in_channels * p.kernel_h * p.kernel_w + 1) * out_channels;  // [(c, r, s)][k], then the bias
  const Packing packing(view.ahead, p.groups * size);
  float* packed = packing.data;
  for (int64_t g = 0; packing.missing && g < p.groups; ++g) {
    float* to = packed + g * size;
    for (int64_t c = 0; c < in_channels; ++c)
      for (int64_t r = 0; r < p.kernel_h; ++r)
        for (int64_t s = 0; s < p.kernel_w; ++s)
          for (int64_t k = 0; k < out_channels; ++k)
            *to++ = load<float>(weight[g * view.group + k * view.k + c * view.c + r * view.r + s * view.s]);
    for (int64_t k = 0; k < out_channels; ++k)
      *to++ = bias ? load<float>(bias[(g * out_channels + k) * bias_stride]) : 0.0f;
  }
  if (packing.only) return;

  const bool one = out_channels == 1 && suits_one(p, source.width, width);
  const int64_t row_floats = most(in_channels * (width + p.kernel_w - 1), out_channels * width);
  const RowBlocks blocks(result.height, row_floats * sizeof(float), in_memory<Sink> ? 65536 : 16384,
                         one ? window_rows_of_one : 2);
  begin_tasks(result, p.groups * p.batch * blocks.per_image);
  parallel_for(threads, p.groups * p.batch * blocks.per_image, [&](int64_t task) {
    const int64_t g = task % p.groups;
    const Window window = blocks.at(task / p.groups, width), halo = with_halo(window, p);
    const PlanesRead read = one ? planes_for_one(of_group(source, g), halo)
                                : planes_copied(of_group(source, g), halo, p.kernel_h, p.kernel_w);
    const float* weights = packed + g * size;
    const float* start = weights + size - out_channels;
    const Sink sink = for_task(of_group(result, g), task);
    const auto multiply_for_one = [&](auto* to, int64_t row_step) {
      multiply_one(read, source.width, p.padding_w, window.rows, width, weights, *start, to, row_step);
    };
    if constexpr (in_memory<Sink>) {
      using T = typename ElementOf<Sink>::type;
      if (sink.strides.w == 1 && one)
        return multiply_for_one(sink.data + window.image * sink.strides.n + window.y * sink.strides.h, sink.strides.h);
      if (sink.strides.w == 1) return multiply_window<T, false>(read, window, weights, start, sink);
      if (sink.strides.c == 1 && sink.strides.w == out_channels)
        return multiply_window<T, true>(read, window, weights, start, sink);
    }
    const int64_t plane = plane_stride(window.rows * width + lanes);
    float* band = static_cast<float*>(scratch(Scratch::accumulators, plane * out_channels * sizeof(float)));
    constexpr bool as_planes = requires { write_planes(band, width, plane, window, sink); };
    if (one)
      multiply_for_one(band, width);
    else if (as_planes)
      multiply_rows<float, false>(read, window.rows, width, weights, start, out_channels, band, width, plane);
    else
      multiply_rows<float, true>(read, window.rows, width, weights, start, out_channels, band, width * out_channels, 0);
    if constexpr (as_planes)
      write_planes(band, width, plane, window, sink);
    else
      write_pixels(band, out_channels, window, 0, out_channels, sink);
  });
}

}  // namespace myconv2d::MYCONV2D_ISA
