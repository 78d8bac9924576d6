// The part of an image under a piece of a Gather's grid, as accumulators: [row][phase][block][column][width].
//
// Columns that one step of the grid apart are neighbours here (their phase is their number modulo the step), and channels
// lie in blocks: so from grid pixel to grid pixel it is `width` elements under every tap, for every stride, a constant that
// the register tiles are compiled for. What lies outside the image is zero. Whatever the layout and type outside, the
// kernels only ever read bands, which stay in L1/L2: a pixel is converted, turned and padded once for all taps.
#pragma once

#include "gather.h"
#include "transpose.h"

namespace myconv2d::MYCONV2D_ISA {

template <typename A>
struct Band {
  static constexpr int64_t lanes = Vector<A>::lanes;
  int64_t channels, width, blocks;
  int64_t rows, columns;           // of the source
  int64_t step, phase_columns;

  int64_t block_size() const { return phase_columns * width; }
  int64_t row_size() const { return step * blocks * block_size(); }
  int64_t size() const { return rows * row_size() + 64; }  // a register tile may look past the end
  int64_t column(int64_t x) const { return x % step * blocks * block_size() + x / step * width; }

  // For grid pieces of so many steps. Blocks of one vector, columns in phases.
  static Band in_blocks(const Gather& gather, int64_t channels, int64_t grid_rows, int64_t grid_columns) {
    const int64_t columns = gather.w.span(grid_columns), step = gather.w.step;
    return {channels, lanes, ceil_div(channels, lanes), gather.h.span(grid_rows), columns, step,
            ceil_div(columns, step)};
  }
  // Pixels with all their channels side by side: [row][column][channels].
  static Band dense(const Gather& gather, int64_t channels, int64_t grid_rows, int64_t grid_columns) {
    const int64_t columns = gather.w.span(grid_columns);
    return {channels, channels, 1, gather.h.span(grid_rows), columns, 1, columns};
  }
};

template <typename A>
inline void store_some(A* to, typename Vector<A>::type value, int64_t count) {
  if (count == Vector<A>::lanes)
    std::memcpy(to, &value, sizeof value);
  else
    for (int64_t i = 0; i < count; ++i) to[i] = value[i];
}

// Pixels from planes: visit(j, values of all planes at pixel j) for `pixels` ≥ 1 neighbours, up to a vector of planes.
template <typename A, typename T, typename F>
inline void turn_planes(const T* from, int64_t plane_stride, int64_t planes, int64_t pixels, const F& visit) {
  using V = typename Vector<A>::type;
  constexpr int lanes = Vector<A>::lanes;
  for (int64_t first = 0; first < pixels; first += lanes) {
    V block[lanes];
    if (pixels >= lanes) {
      const int64_t start = least(first, pixels - lanes);  // the last block overlaps the one before
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i)
        block[i] = i < planes ? load_vector<A>(from + i * plane_stride + start) : V{};
      exchange_all<lanes / 2>(block);
      for (int i = 0; i < lanes; ++i) visit(start + i, block[i]);
    } else {
      for (int64_t j = 0; j < pixels; ++j) {
        V value{};
        for (int64_t i = 0; i < planes; ++i) value[i] = load<A>(from[i * plane_stride + j]);
        visit(j, value);
      }
    }
  }
}

// Source columns x … of one row into a band's row; `inside` of them, beginning with the first, lie in the image.
template <typename T, typename A>
void read_row(const Band<A>& band, const T* from, const Strides& s, int64_t first_column, int64_t inside, A* to) {
  constexpr int64_t lanes = Vector<A>::lanes;
  for (int64_t c = 0; c < band.channels; c += lanes) {
    const int64_t count = least(lanes, band.channels - c);
    const T* block = from + c * s.c;
    A* target = to + c / band.width * band.block_size() + c % band.width;
    if (s.c == 1) {
      for (int64_t x = 0; x < inside; ++x) {
        A* pixel = target + band.column(first_column + x);
        if (count == lanes)
          store_some<A>(pixel, load_vector<A>(block + x * s.w), lanes);
        else
          for (int64_t i = 0; i < count; ++i) pixel[i] = load<A>(block[x * s.w + i]);
      }
    } else if (s.w == 1) {
      turn_planes<A>(block, s.c, count, inside, [&](int64_t x, typename Vector<A>::type value) {
        store_some<A>(target + band.column(first_column + x), value, count);
      });
    } else {
      for (int64_t x = 0; x < inside; ++x) {
        A* pixel = target + band.column(first_column + x);
        for (int64_t i = 0; i < count; ++i) pixel[i] = load<A>(block[x * s.w + i * s.c]);
      }
    }
  }
}

template <typename A>
void zero_columns(const Band<A>& band, int64_t begin, int64_t end, A* row) {
  for (int64_t j = begin; j < end; ++j)
    for (int64_t block = 0; block < band.blocks; ++block)
      std::memset(row + block * band.block_size() + band.column(j), 0, band.width * sizeof(A));
}

// The band under the grid from step (y, x) on. Rows outside the image are left undefined: Axis::taps_inside leaves them out.
template <typename T, typename A>
void read_band(const Band<A>& band, const Gather& gather, const T* image, const Strides& s, int64_t y, int64_t x, A* to) {
  const int64_t first_x = x * gather.w.step + gather.w.lowest(), first_y = y * gather.h.step + gather.h.lowest();
  const int64_t begin = least(most(0, -first_x), band.columns);
  const int64_t end = most(begin, least(band.columns, gather.w.source - first_x));
  for (int64_t i = 0; i < band.rows; ++i, to += band.row_size()) {
    if (first_y + i < 0 || first_y + i >= gather.h.source) continue;
    zero_columns(band, 0, begin, to);
    zero_columns(band, end, band.columns, to);
    read_row<T, A>(band, image + (first_y + i) * s.h + (first_x + begin) * s.w, s, begin, end - begin, to);
  }
}

// Rows of pixels back to an image: pixels[x][stride], `channels` up to a vector's width.
template <typename T, typename A>
void write_row(const A* pixels, int64_t stride, int64_t count, int64_t channels, T* to, const Strides& s) {
  constexpr int64_t lanes = Vector<A>::lanes;
  if (s.c == 1) {
    for (int64_t x = 0; x < count; ++x)
      if (channels == lanes)
        store_vector<T, A>(to + x * s.w, load_vector<A>(pixels + x * stride));
      else
        for (int64_t c = 0; c < channels; ++c) to[x * s.w + c] = narrow<T, A>(pixels[x * stride + c]);
  } else if (s.w == 1) {
    for (int64_t x = 0; x < count; x += lanes) {
      if (count < lanes) {
        for (int64_t c = 0; c < channels; ++c)
          for (int64_t i = 0; i < count; ++i) to[c * s.c + i] = narrow<T, A>(pixels[i * stride + c]);
        return;
      }
      const int64_t start = least(x, count - lanes);  // the last block overlaps the one before
      typename Vector<A>::type block[lanes];
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i) block[i] = load_vector<A>(pixels + (start + i) * stride);
      exchange_all<lanes / 2>(block);
      for (int64_t c = 0; c < channels; ++c) store_vector<T, A>(to + c * s.c + start, block[c]);
    }
  } else {
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t x = 0; x < count; ++x) to[c * s.c + x * s.w] = narrow<T, A>(pixels[x * stride + c]);
  }
}

}  // namespace myconv2d::MYCONV2D_ISA
