// What the kernels for few channels share: a block's rectangle of outputs, the halo of the image under it in
// shared memory, and the inner loop of the correlation.
//
// These layers are bound by DRAM: they have a handful of products per byte. So a block reads the image under
// its outputs once, in fp32 planes [channel][image][row][column], and every tap is a shifted view of them. A
// thread computes `band_rows` outputs of one column, one below the other: its reads of the planes are next to
// its neighbours', and with three taps and step 1 six values of a column serve twelve products per filter.
#pragma once

#include "correlation.h"
#include "tile.h"

namespace myconv2d::cuda {

constexpr int few_threads = 256;  // of every block of these kernels
constexpr int most_few = 4;       // channels that count as few
constexpr int most_classes = 4;   // residue classes of an axis, so the stride of grad_input, at most
constexpr int band_rows = 4;
constexpr int multiprocessors = 132;    // of an H100: fewer blocks leave some of them idle
constexpr int most_shared = 96 * 1024;  // bytes of a block; what compute capability 8.6 and 8.9 have is 99 KB

HOST_DEVICE constexpr int round_up(int a, int b) { return (a + b - 1) / b * b; }

// An Axis with its taps in the order of the image: position = i·step + tap·dilation + origin, dilation ≥ 0.
struct Window {
  int size, outputs, taps, step, dilation, origin, first_output, output_step;
  int first_tap, tap_step;  // tap j is number first_tap + j·tap_step of the weight

  Window() = default;
  explicit Window(const Axis& axis)
      : size(axis.size),
        outputs(axis.outputs),
        taps(axis.taps),
        step(axis.step),
        dilation(axis.dilation),
        origin(axis.origin),
        first_output(axis.first_output),
        output_step(axis.output_step),
        first_tap(axis.first_tap),
        tap_step(axis.tap_step) {
    if (dilation >= 0) return;
    origin += (taps - 1) * dilation;
    dilation = -dilation;
    first_tap += (taps - 1) * tap_step;
    tap_step = -tap_step;
  }
};

// A block's outputs: a rectangle of each of so many images.
struct FewTile {
  int images, rows, columns;  // whole bands of rows

  HOST_DEVICE int pixels() const { return images * rows * columns; }
};

// About so many pixels, as even as the image's sides allow: full rows first, then rows, then images.
inline FewTile choose_tile(const Correlation& shape, int pixels) {
  const auto even = [](int size, int most) { return static_cast<int>(ceil_div(size, ceil_div(size, most))); };
  FewTile tile{1, band_rows, even(larger(shape.w.most_outputs(), 1), 32)};
  const int most_rows = larger(pixels / tile.columns / band_rows * band_rows, band_rows);
  tile.rows = round_up(even(larger(shape.h.most_outputs(), 1), most_rows), band_rows);
  tile.images = static_cast<int>(
      smaller<int64_t>(larger(pixels / (tile.rows * tile.columns), 1), larger<int64_t>(shape.batch, 1)));
  return tile;
}

// Makes a tile smaller; false if it is as small as can be.
inline bool shrink(FewTile& tile) {
  if (tile.images > 1)
    tile.images /= 2;
  else if (tile.rows > band_rows)
    tile.rows = round_up(tile.rows / 2, band_rows);
  else if (tile.columns > 1)
    tile.columns /= 2;
  else
    return false;
  return true;
}

// Image positions under so many neighbouring outputs, whatever their residue class.
inline int most_extent(const AxisRule& rule, int64_t count) {
  const int64_t step = rule.transposed ? 1 : rule.stride,
                dilation = rule.transposed ? rule.tap_dilation : rule.dilation;
  return static_cast<int>(
      smaller<int64_t>((count - 1) * step + (rule.most_taps() - 1) * dilation + 1, 1 << 15));
}

inline int64_t most_positions(const Correlation& shape, const FewTile& tile) {
  return int64_t{tile.images} * most_extent(shape.h, tile.rows) * most_extent(shape.w, tile.columns);
}

// Floats from plane to plane: 2 more than a multiple of 8, so that a warp which stores chunks of channels of
// neighbouring pixels, element by element, meets every bank once.
inline int64_t plane_pitch(const Correlation& shape, const FewTile& tile) {
  return ceil_div(most_positions(shape, tile) - 2, 8) * 8 + 2;
}

// The rectangles that cover an operator's outputs: side by side, then down the image, then images; and the
// halo of each.
struct FewGrid {
  Window h[most_classes], w[most_classes];  // of each residue class
  int classes_h, classes_w;
  FewTile tile;
  int across, down;
  int64_t deep, batch;
  int pitch;                                                     // from plane to plane
  Divisor tile_rows, tile_columns, pixels, bands, band_columns;  // of a rectangle: columns × bands
  Divisor halo_rows, halo_columns, positions;                    // of its halo: images × rows × columns
  Divisor kernel_columns, taps, filter_rows;                     // of the filters: channels × taps

  FewGrid() = default;
  FewGrid(const Correlation& shape, const FewTile& tile)
      : classes_h(shape.h.classes()),
        classes_w(shape.w.classes()),
        tile(tile),
        across(static_cast<int>(ceil_div(shape.w.most_outputs(), tile.columns))),
        down(static_cast<int>(ceil_div(shape.h.most_outputs(), tile.rows))),
        deep(ceil_div(shape.batch, tile.images)),
        batch(shape.batch),
        pitch(static_cast<int>(plane_pitch(shape, tile))),
        tile_rows(tile.rows),
        tile_columns(tile.columns),
        pixels(tile.pixels()),
        bands(tile.images * tile.rows / band_rows),
        band_columns(tile.pixels() / band_rows),
        halo_rows(most_extent(shape.h, tile.rows)),
        halo_columns(most_extent(shape.w, tile.columns)),
        positions(most_positions(shape, tile)),
        kernel_columns(shape.w.most_taps()),
        taps(shape.h.most_taps() * shape.w.most_taps()),
        filter_rows(shape.channels * taps.value) {
    for (int i = 0; i < classes_h; ++i) h[i] = Window(shape.h.axis(i));
    for (int i = 0; i < classes_w; ++i) w[i] = Window(shape.w.axis(i));
  }

  HOST_DEVICE int64_t rectangles() const { return static_cast<int64_t>(across) * down * deep; }

  HOST_DEVICE int64_t blocks() const { return rectangles() * classes_h * classes_w; }

  // A pixel of a rectangle, from its index among images × rows × columns.
  HOST_DEVICE Pixel pixel(int index) const {
    const int line = tile_columns.quotient(index), image = tile_rows.quotient(line);
    return {image, line - image * tile.rows, index - line * tile.columns};
  }
};

// The grid of the largest tile that is allowed, or of smaller ones where those would leave the device idle.
template <class Allowed>
bool choose_grid(const Correlation& shape, FewGrid& grid, Allowed&& allowed) {
  FewTile tile = choose_tile(shape, 256);
  while (!allowed(tile))
    if (!shrink(tile)) return false;
  grid = FewGrid(shape, tile);
  while (grid.blocks() < multiprocessors && tile.pixels() >= 128 && shrink(tile)) grid = FewGrid(shape, tile);
  return true;
}

// One block's rectangle and the halo under it.
struct Halo {
  const FewGrid& grid;
  const Window &h, &w;
  uint32_t images;              // the rectangle's, in units of tile.images
  int first_row, first_column;  // its outputs

  HOST_DEVICE Halo(const FewGrid& grid, int residue_h, int residue_w)
      : grid(grid), h(grid.h[residue_h]), w(grid.w[residue_w]) {}

  HOST_DEVICE void move_to(uint32_t rectangle) {
    first_column = split_off(rectangle, grid.across) * grid.tile.columns;
    first_row = split_off(rectangle, grid.down) * grid.tile.rows;
    images = rectangle;
  }

  // Where a position of the halo lies in the image; negative outside it.
  HOST_DEVICE int64_t source(int position, const Strides& strides) const {
    const int line = grid.halo_columns.quotient(position), image = grid.halo_rows.quotient(line);
    const int row = first_row * h.step + h.origin + line - image * grid.halo_rows.value,
              column = first_column * w.step + w.origin + position - line * grid.halo_columns.value;
    const int64_t n = static_cast<int64_t>(images) * grid.tile.images + image;
    const bool inside = n < grid.batch && static_cast<uint32_t>(row) < static_cast<uint32_t>(h.size) &&
                        static_cast<uint32_t>(column) < static_cast<uint32_t>(w.size);
    return inside ? n * strides.n + row * strides.h + column * strides.w : -1;
  }

  // Where a pixel of the rectangle lies among the outputs; negative beyond the last.
  HOST_DEVICE int64_t output(const Pixel& pixel, const Strides& strides) const {
    const int64_t p = first_row + pixel.p, q = first_column + pixel.q;
    const int64_t n = static_cast<int64_t>(images) * grid.tile.images + pixel.n;
    if (n >= grid.batch || p >= h.outputs || q >= w.outputs) return -1;
    return n * strides.n + (h.first_output + p * h.output_step) * strides.h +
           (w.first_output + q * w.output_step) * strides.w;
  }

  // Where the window of a pixel of the rectangle begins in a plane.
  HOST_DEVICE int corner(const Pixel& pixel) const {
    return (static_cast<int>(pixel.n) * grid.halo_rows.value + pixel.p * h.step) * grid.halo_columns.value +
           pixel.q * w.step;
  }

  HOST_DEVICE bool three_rows() const { return h.taps == 3 && h.step == 1 && h.dilation == 1; }
};

// The filters in shared memory: one row of `pitch` floats per channel and tap, one float per filter.
template <class T>
HOST_DEVICE void load_filters(float* shared, int pitch, int thread, const T* weight,
                              const FilterStrides& strides, const Halo& halo, int filters) {
  const FewGrid& grid = halo.grid;
#pragma unroll 2
  for (int i = thread; i < grid.filter_rows.value * pitch; i += few_threads) {
    const int filter = grid.filter_rows.quotient(i),
              row = i - filter * grid.filter_rows.value;  // along the weight's rows
    const int channel = grid.taps.quotient(row), tap = row - channel * grid.taps.value;
    const int r = grid.kernel_columns.quotient(tap), s = tap - r * grid.kernel_columns.value;
    const bool inside = filter < filters && r < halo.h.taps && s < halo.w.taps;
    const int64_t offset = filter * strides.filter + channel * strides.channel +
                           (halo.h.first_tap + r * halo.h.tap_step) * strides.h +
                           (halo.w.first_tap + s * halo.w.tap_step) * strides.w;
    shared[row * pitch + filter] = static_cast<float>(load_if(inside, weight + offset));
  }
}

template <int filters>
HOST_DEVICE void read_filters(const float* row, int next_chunk, float (&factor)[filters]) {
#pragma unroll
  for (int j = 0; j < filters; j += 4) {
    const auto chunk = *reinterpret_cast<const Chunk<float>*>(row + j / 4 * next_chunk);
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (j + e < filters) factor[j + e] = chunk.value[e];
  }
}

// Adds one channel's products to a band's sums. `plane` is the corner of the band's first window, `filter`
// the channel's first row of filters; `three_rows` says that halo.three_rows(), which the compiler unrolls.
template <int filters, bool three_rows>
HOST_DEVICE void add_channel(const float* plane, const Halo& halo, const float* filter, int pitch,
                             int next_chunk, float (&sum)[band_rows][filters]) {
  const int columns = halo.grid.halo_columns.value, next_row = halo.grid.kernel_columns.value * pitch;
  for (int s = 0; s < halo.w.taps; ++s, plane += halo.w.dilation, filter += pitch) {
    float factor[filters];
    if constexpr (three_rows) {
      float value[band_rows + 2];
#pragma unroll
      for (int i = 0; i < band_rows + 2; ++i) value[i] = plane[i * columns];
#pragma unroll
      for (int r = 0; r < 3; ++r) {
        read_filters(filter + r * next_row, next_chunk, factor);
#pragma unroll
        for (int i = 0; i < band_rows; ++i)
#pragma unroll
          for (int f = 0; f < filters; ++f) sum[i][f] += value[i + r] * factor[f];
      }
    } else {
      for (int r = 0; r < halo.h.taps; ++r) {
        read_filters(filter + r * next_row, next_chunk, factor);
#pragma unroll
        for (int i = 0; i < band_rows; ++i) {
          const float value = plane[(i * halo.h.step + r * halo.h.dilation) * columns];
#pragma unroll
          for (int f = 0; f < filters; ++f) sum[i][f] += value * factor[f];
        }
      }
    }
  }
}

template <class T>
struct FewArguments {
  Correlation shape;
  FewGrid grid;
  const T* image;
  const T* filter;
  FilterStrides filter_strides;
  const T* bias;  // null for none
  int64_t bias_stride;
  T* out;
  Divisor lanes;  // threads side by side: over the filters (few_in.h), or over the channels (few_out.h)
  Divisor inner, middle;            // few_in.h: how threads follow each other,
  int items;                        // and how many bands they compute
  int filter_pitch, filter_floats;  // in shared memory: from row to row, and all of them with the bias
  bool image_vectors, out_vectors;  // whether the channels of a pixel can be moved 16 bytes at a time
};

// A block's number apart: its residue classes and its rectangle.
template <class T>
HOST_DEVICE Halo halo_of(const FewArguments<T>& args, uint32_t block) {
  const int residue_w = split_off(block, args.grid.classes_w),
            residue_h = split_off(block, args.grid.classes_h);
  Halo halo(args.grid, residue_h, residue_w);
  halo.move_to(block);
  return halo;
}

}  // namespace myconv2d::cuda
