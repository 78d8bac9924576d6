// Where an implicit GEMM finds its operands: the im2col matrix is never built, its tiles are gathered as needed.
//
// A Gather is a walk of a grid of pixels over the planes of a source image, with one value per tap and channel at
// each step: source[c, step_h·y + tap.h, step_w·x + tap.w], zero outside. The forward pass is one such walk over
// the input. grad_input is stride_h·stride_w of them over grad_output, one per residue class of the input pixels:
// within a class the transposed convolution has stride 1 and only the taps that hit, so no product is wasted.
#pragma once

#include "../conv2d.h"
#include "kernels.h"
#include "vector.h"

namespace myconv2d::MYCONV2D_ISA {

constexpr int64_t max_tile_pixels = 384;

struct Axis {             // one spatial axis of a Gather
  int64_t grid;           // how many steps
  int64_t step;           // source pixels a step
  int64_t source;         // size of the source
  int64_t taps;           // how many taps; tap i lies at `origin + i·spacing` in the source
  int64_t origin, spacing;
  int64_t first_tap, tap_spacing;  // … and is kernel element first_tap + i·tap_spacing
};

struct Gather {
  int64_t batch, channels;  // channels of one group
  Axis h, w;

  int64_t pixels() const { return batch * h.grid * w.grid; }
  int64_t taps() const { return h.taps * w.taps; }
  int64_t depth() const { return taps() * channels; }  // ordered (tap, channel)
};

inline Gather forward_gather(const Conv2d& conv) {
  return {conv.batch, conv.group_in_channels(),
          {conv.out_height, conv.stride_h, conv.in_height, conv.kernel_height, -conv.padding_h, conv.dilation_h, 0, 1},
          {conv.out_width, conv.stride_w, conv.in_width, conv.kernel_width, -conv.padding_w, conv.dilation_w, 0, 1}};
}

// Input positions residue, residue + stride, … : tap r reaches output (residue + padding − r·dilation) / stride + step
// when that division is exact, which happens for every (stride / gcd(stride, dilation))-th tap, if for any.
inline Axis transposed_axis(int64_t residue, int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t padding,
                            int64_t dilation) {
  Axis axis{residue < in ? ceil_div(in - residue, stride) : 0, 1, out, 0, 0, 0, 0, 1};
  for (int64_t r = 0; r < kernel; ++r) {
    const int64_t reach = residue + padding - r * dilation;
    if (reach % stride != 0) continue;
    if (axis.taps == 0) {
      axis.origin = reach / stride;
      axis.first_tap = r;
    } else if (axis.taps == 1) {
      axis.spacing = reach / stride - axis.origin;
      axis.tap_spacing = r - axis.first_tap;
    }
    ++axis.taps;
  }
  return axis;
}

inline Gather grad_input_gather(const Conv2d& conv, int64_t residue_h, int64_t residue_w) {
  return {conv.batch, conv.group_out_channels(),
          transposed_axis(residue_h, conv.in_height, conv.out_height, conv.kernel_height, conv.stride_h,
                          conv.padding_h, conv.dilation_h),
          transposed_axis(residue_w, conv.in_width, conv.out_width, conv.kernel_width, conv.stride_w,
                          conv.padding_w, conv.dilation_w)};
}

// A run of consecutive grid pixels (over the whole batch) and where each begins in the source and in the result.
struct PixelTile {
  int64_t count = 0;
  int64_t y[max_tile_pixels], x[max_tile_pixels];  // source position of tap offset 0
  int64_t source[max_tile_pixels];                 // offset of the image in the source
  int64_t target[max_tile_pixels];                 // offset of the pixel in the result

  // The result's pixel (0, 0) is `target_strides`-addressed from its start; a step covers its h and w strides.
  void locate(const Gather& gather, int64_t first, int64_t how_many, const Strides& source_strides,
              const Strides& target_strides) {
    count = how_many;
    int64_t gx = first % gather.w.grid, rest = first / gather.w.grid;
    int64_t gy = rest % gather.h.grid, n = rest / gather.h.grid;
    for (int64_t i = 0; i < count; ++i) {
      y[i] = gy * gather.h.step;
      x[i] = gx * gather.w.step;
      source[i] = n * source_strides.n;
      target[i] = n * target_strides.n + gy * target_strides.h + gx * target_strides.w;
      if (++gx == gather.w.grid) {
        gx = 0;
        if (++gy == gather.h.grid) gy = 0, ++n;
      }
    }
  }
};

// Offsets of `count` pixels' sources under one tap, −1 outside the image; true if they are consecutive in memory.
inline bool tap_offsets(const Gather& gather, int64_t tap, const PixelTile& tile, int64_t first, int64_t count,
                        const Strides& strides, int64_t* offsets) {
  const int64_t dy = gather.h.origin + tap / gather.w.taps * gather.h.spacing;
  const int64_t dx = gather.w.origin + tap % gather.w.taps * gather.w.spacing;
  bool consecutive = true;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t y = tile.y[first + i] + dy, x = tile.x[first + i] + dx;
    const bool inside = (static_cast<uint64_t>(y) < static_cast<uint64_t>(gather.h.source)) &
                        (static_cast<uint64_t>(x) < static_cast<uint64_t>(gather.w.source));
    offsets[i] = inside ? tile.source[first + i] + y * strides.h + x * strides.w : -1;
    consecutive &= inside & (offsets[i] == offsets[0] + i);
  }
  return consecutive;
}

// panel[depth_begin … depth_end][width]: lanes are pixels `first` … of the tile, zero behind its end.
template <typename T, typename A>
void pack_pixels(const Gather& gather, const PixelTile& tile, int64_t first, int64_t width, const T* source,
                 const Strides& strides, int64_t depth_begin, int64_t depth_end, A* panel) {
  const int64_t count = least(width, tile.count - first);
  int64_t offsets[64];  // width is at most two vectors of the narrowest accumulator
  for (int64_t depth = depth_begin; depth < depth_end;) {
    const int64_t tap = depth / gather.channels, channel = depth % gather.channels;
    const int64_t channels = least(gather.channels - channel, depth_end - depth);
    const T* from = source + channel * strides.c;
    const bool consecutive = tap_offsets(gather, tap, tile, first, count, strides, offsets);
    if (consecutive) {
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t i = 0; i < count; ++i) panel[c * width + i] = load<A>(from[offsets[0] + c * strides.c + i]);
    } else if (strides.c == 1) {
      for (int64_t i = 0; i < count; ++i)
        if (offsets[i] >= 0)
          for (int64_t c = 0; c < channels; ++c) panel[c * width + i] = load<A>(from[offsets[i] + c]);
        else
          for (int64_t c = 0; c < channels; ++c) panel[c * width + i] = A(0);
    } else {
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t i = 0; i < count; ++i)
          panel[c * width + i] = offsets[i] >= 0 ? load<A>(from[offsets[i] + c * strides.c]) : A(0);
    }
    for (int64_t i = count; i < width; ++i)
      for (int64_t c = 0; c < channels; ++c) panel[c * width + i] = A(0);
    panel += channels * width;
    depth += channels;
  }
}

}  // namespace myconv2d::MYCONV2D_ISA
