// Which source pixels a product reads.
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

struct Axis {             // one spatial axis of a Gather
  int64_t grid;           // how many steps
  int64_t step;           // source pixels a step
  int64_t source;         // size of the source
  int64_t taps;           // how many taps; tap i lies at `origin + i·spacing` in the source
  int64_t origin, spacing;
  int64_t first_tap, tap_spacing;  // … and is kernel element first_tap + i·tap_spacing

  int64_t lowest() const { return origin + least(0, (taps - 1) * spacing); }  // what step 0 reads first
  int64_t offset(int64_t tap) const { return origin + tap * spacing - lowest(); }
  int64_t span(int64_t steps) const {  // source pixels from the first to the last that so many steps read
    return taps == 0 ? 0 : (steps - 1) * step + (taps - 1) * (spacing < 0 ? -spacing : spacing) + 1;
  }

  bool stays_inside() const {  // every tap of every step lies in the source
    return taps > 0 && lowest() >= 0 && lowest() + span(grid) <= source;
  }

  struct Range {
    int64_t begin, end;
    int64_t size() const { return end - begin; }
  };
  // The taps that reach into the source at a step: all others read zeros.
  Range taps_inside(int64_t at) const {
    Range range{0, taps};
    const auto inside = [&](int64_t tap) {
      return static_cast<uint64_t>(at * step + origin + tap * spacing) < static_cast<uint64_t>(source);
    };
    while (range.begin < range.end && !inside(range.begin)) ++range.begin;
    while (range.begin < range.end && !inside(range.end - 1)) --range.end;
    return range;
  }
};

// Steps of a piece whose tap r lies in the source, as Axis::taps_inside is for the taps of one step.
inline Axis::Range steps_inside(const Axis& axis, int64_t tap, int64_t first, int64_t steps) {
  Axis::Range range{0, steps};
  const auto inside = [&](int64_t i) {
    return static_cast<uint64_t>((first + i) * axis.step + axis.origin + tap * axis.spacing) <
           static_cast<uint64_t>(axis.source);
  };
  while (range.begin < range.end && !inside(range.begin)) ++range.begin;
  while (range.begin < range.end && !inside(range.end - 1)) --range.end;
  return range;
}

struct Gather {
  int64_t batch, channels;  // channels of one group
  Axis h, w;

  int64_t pixels() const { return batch * h.grid * w.grid; }
  int64_t taps() const { return h.taps * w.taps; }
  int64_t depth() const { return taps() * channels; }  // ordered (tap, channel)
};

inline Gather forward_gather(const Conv2d& conv) {
  const int64_t step_h = conv.out_height > 1 ? conv.stride_h : 1;  // a stride may be huge where nothing steps
  const int64_t step_w = conv.out_width > 1 ? conv.stride_w : 1;
  return {conv.batch, conv.group_in_channels(),
          {conv.out_height, step_h, conv.in_height, conv.kernel_height, -conv.padding_h, conv.dilation_h, 0, 1},
          {conv.out_width, step_w, conv.in_width, conv.kernel_width, -conv.padding_w, conv.dilation_w, 0, 1}};
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

// The gathers of a product together, for kernels that read a band once for all of them: the one of forward, or those
// of grad_input, one per residue of the input pixels.
struct Phases {
  const Conv2d& conv;
  bool of_grad_input;

  int64_t count_h() const { return of_grad_input ? least(conv.stride_h, conv.in_height) : 1; }
  int64_t count_w() const { return of_grad_input ? least(conv.stride_w, conv.in_width) : 1; }
  Gather at(int64_t h, int64_t w) const { return of_grad_input ? grad_input_gather(conv, h, w) : forward_gather(conv); }
  bool some_have_no_taps() const {
    for (int64_t h = 0; h < count_h(); ++h)
      for (int64_t w = 0; w < count_w(); ++w)
        if (at(h, w).taps() == 0) return true;
    return false;
  }
  // What all of them read: the grid of the largest, and taps from the first to the last of any.
  Gather all() const {
    Gather gather = at(0, 0);
    if (!of_grad_input) return gather;
    for (int64_t h = 1; h < count_h(); ++h) join(gather.h, at(h, 0).h);
    for (int64_t w = 1; w < count_w(); ++w) join(gather.w, at(0, w).w);
    return gather;
  }

 private:
  static void join(Axis& all, const Axis& one) {
    if (one.taps == 0) return;
    const int64_t begin = all.taps == 0 ? one.lowest() : least(all.lowest(), one.lowest());
    const int64_t end = most(all.taps == 0 ? begin : all.lowest() + all.span(1), one.lowest() + one.span(1));
    all.origin = begin, all.taps = end - begin, all.spacing = 1;
  }
};

// An axis with one tap is a subsampled source without a stride. Returns how far the source's first pixel moves.
inline int64_t subsample(Axis& axis, int64_t& stride) {
  if (axis.taps != 1 || axis.step == 1) return 0;
  const int64_t below = axis.origin < 0 ? ceil_div(-axis.origin, axis.step) : -(axis.origin / axis.step);
  const int64_t shift = axis.origin + below * axis.step;
  axis.origin = -below;
  axis.source = ceil_div(most(0, axis.source - shift), axis.step);
  const int64_t offset = shift * stride;
  stride *= axis.step;
  axis.step = 1;
  return offset;
}

// The same product on fewer, longer rows: subsampled where an axis has one tap; and 1×1, as one row of pixels, where
// the rows (and the images) follow each other in memory. Returns how far the source's first pixel moves.
inline int64_t simplify(Gather& gather, Strides& source, Strides& grid) {
  Axis &h = gather.h, &w = gather.w;
  const int64_t offset = subsample(h, source.h) + subsample(w, source.w);
  const auto whole = [](const Axis& axis) {
    return axis.taps == 1 && axis.origin == 0 && axis.step == 1 && axis.grid == axis.source;
  };
  if (!whole(h) || !whole(w)) return offset;
  if (source.h == w.grid * source.w && grid.h == w.grid * grid.w) {
    w.grid = w.source = w.grid * h.grid;
    h.grid = h.source = 1;
    if (source.n == w.grid * source.w && grid.n == w.grid * grid.w) {
      w.grid = w.source = w.grid * gather.batch;
      gather.batch = 1;
    }
  }
  return offset;
}

// How the grid of a gather is cut into pieces: some rows of an image, so that the band under them stays in L2.
struct Pieces {
  int64_t rows, columns, per_image_h, per_image_w;

  // source_bytes: of a source pixel in a band. At most `limit` grid pixels to a piece.
  Pieces(const Gather& gather, int64_t source_bytes, int64_t limit) {
    const int64_t pixel_bytes = source_bytes * gather.h.step * gather.w.step;
    const int64_t pixels = most(48, least(least(limit, 768), (160 << 10) / pixel_bytes));
    per_image_w = ceil_div(gather.w.grid, most(96, pixels / 4));
    columns = ceil_div(gather.w.grid, per_image_w);
    rows = most(1, least(gather.h.grid, pixels / columns));
    per_image_h = ceil_div(gather.h.grid, rows);
    rows = ceil_div(gather.h.grid, per_image_h);
  }
  int64_t per_image() const { return per_image_h * per_image_w; }
};

struct Piece {
  int64_t image, y, x, rows, columns;

  Piece(const Gather& gather, const Pieces& pieces, int64_t index) {
    image = index / pieces.per_image();
    y = index / pieces.per_image_w % pieces.per_image_h * pieces.rows;
    x = index % pieces.per_image_w * pieces.columns;
    rows = least(pieces.rows, gather.h.grid - y);
    columns = least(pieces.columns, gather.w.grid - x);
  }
};

}  // namespace myconv2d::MYCONV2D_ISA
