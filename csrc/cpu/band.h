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

// Walks over the source columns of a band's row, without a division at each.
template <typename A>
struct Column {
  A* at;
  int64_t phase, step, to_next_phase, back;

  Column(const Band<A>& band, A* row, int64_t x)
      : at(row + band.column(x)), phase(x % band.step), step(band.step),
        to_next_phase(band.blocks * band.block_size()), back(step * to_next_phase - band.width) {}
  void operator++() {
    at += to_next_phase;
    if (++phase == step) phase = 0, at -= back;
  }
};

template <typename A>
inline void store_some(A* to, typename Vector<A>::type value, int64_t count) {
  if (count == Vector<A>::lanes)
    std::memcpy(to, &value, sizeof value);
  else
    for (int64_t i = 0; i < count; ++i) to[i] = value[i];
}

// Pixels from planes: visit(first, count, values of all planes at these pixels), for up to a vector of planes.
template <typename A, typename T, typename F>
inline void turn_planes(const T* from, int64_t plane_stride, int64_t planes, int64_t pixels, const F& visit) {
  using V = typename Vector<A>::type;
  constexpr int lanes = Vector<A>::lanes;
  V block[lanes];
  if (pixels < lanes) {
    for (int64_t j = 0; j < pixels; ++j) {
      block[j] = V{};
      for (int64_t i = 0; i < planes; ++i) block[j][i] = load<A>(from[i * plane_stride + j]);
    }
    return visit(0, pixels, block);
  }
  for (int64_t x = 0; x < pixels; x += lanes) {
    const int64_t first = least(x, pixels - lanes);  // the last block overlaps the one before
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) block[i] = i < planes ? load_vector<A>(from + i * plane_stride + first) : V{};
    exchange_all<lanes / 2>(block);
    visit(first, lanes, block);
  }
}

// The sum of `count` vectors that are `step` apart, in four streams.
template <typename A, typename T>
inline typename Vector<A>::type sum_of_vectors(const T* from, int64_t step, int64_t count) {
  typename Vector<A>::type sum[4] = {};
  for (; count >= 4; count -= 4)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i, from += step) sum[i] += load_vector<A>(from);
  for (; count > 0; --count, from += step) sum[0] += load_vector<A>(from);
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// Source columns x … of one row into a band's row; `inside` of them, beginning with the first, lie in the image.
template <typename T, typename A>
void read_row(const Band<A>& band, const T* from, const Strides& s, int64_t first_column, int64_t inside, A* to) {
  constexpr int64_t lanes = Vector<A>::lanes;
  const bool dense = band.step == 1 && band.width == band.channels;
  if (dense && s.c == 1 && (s.w == band.channels || inside == 1)) {  // one stretch of memory here and there
    to += band.column(first_column);
    const int64_t count = inside * band.channels;
    int64_t i = 0;
    for (; i + lanes <= count; i += lanes) store_vector<A, A>(to + i, load_vector<A>(from + i));
    for (; i < count; ++i) to[i] = load<A>(from[i]);
    return;
  }
  if (dense && s.w == 1 && band.channels <= 4) {
    to += band.column(first_column);
    switch (band.channels) {
      case 1: return planes_to_pixels<A, 1>(from, s.c, inside, to);
      case 2: return planes_to_pixels<A, 2>(from, s.c, inside, to);
      case 3: return planes_to_pixels<A, 3>(from, s.c, inside, to);
      case 4: return planes_to_pixels<A, 4>(from, s.c, inside, to);
    }
  }
  const int64_t block_step = band.blocks > 1 ? band.block_size() : lanes;  // in the band, from vector to vector
  if (s.c != 1 && s.w == 1) {
    for (int64_t c = 0; c < band.channels; c += lanes, to += block_step) {
      const int64_t count = least(lanes, band.channels - c);
      turn_planes<A>(from + c * s.c, s.c, count, inside,
                     [&](int64_t first, int64_t pixels, const typename Vector<A>::type* values) {
                       Column<A> column(band, to, first_column + first);
                       for (int64_t x = 0; x < pixels; ++x, ++column) store_some<A>(column.at, values[x], count);
                     });
    }
    return;
  }
  if (s.c == 1 && band.step == 1 && band.channels % lanes == 0) {  // whole vectors of neighbouring columns
    to += band.column(first_column);
    for (int64_t x = 0; x < inside; ++x, from += s.w, to += band.width)
      for (int64_t c = 0, at = 0; c < band.channels; c += lanes, at += block_step)
        store_vector<A, A>(to + at, load_vector<A>(from + c));
    return;
  }
  // A pixel's last channels are copied as a whole vector too, where what is behind them is the next pixels, in the image
  // as in the band, which are still to come.
  const int64_t step = least(s.w, band.width), rest = round_up(band.channels, lanes) - band.channels;
  Column<A> column(band, to, first_column);
  for (int64_t x = 0; x < inside; ++x, ++column, from += s.w) {
    const int64_t in_vectors = band.channels + ((inside - 1 - x) * step >= rest ? rest : 0);
    A* pixel = column.at;
    int64_t c = 0;
    if (s.c == 1)
      for (; c + lanes <= in_vectors; c += lanes, pixel += block_step)
        store_some<A>(pixel, load_vector<A>(from + c), lanes);
    for (; c < band.channels; c += lanes, pixel += block_step)
      for (int64_t i = 0; i < least(lanes, band.channels - c); ++i) pixel[i] = load<A>(from[(c + i) * s.c]);
  }
}

template <typename A>
void zero_columns(const Band<A>& band, int64_t begin, int64_t end, A* row) {
  for (int64_t j = begin; j < end; ++j)
    for (int64_t block = 0; block < band.blocks; ++block)
      std::memset(row + block * band.block_size() + band.column(j), 0, band.width * sizeof(A));
}

// One row of a band, from the image's row y, columns first_x …. False, and nothing done, outside the image:
// Axis::taps_inside leaves such rows out.
template <typename T, typename A>
bool read_line(const Band<A>& band, const Gather& gather, const T* image, const Strides& s, int64_t y, int64_t first_x,
               A* to) {
  if (y < 0 || y >= gather.h.source) return false;
  const int64_t begin = least(most(0, -first_x), band.columns);
  const int64_t end = most(begin, least(band.columns, gather.w.source - first_x));
  zero_columns(band, 0, begin, to);
  zero_columns(band, end, band.columns, to);
  read_row<T, A>(band, image + y * s.h + (first_x + begin) * s.w, s, begin, end - begin, to);
  return true;
}

// The band under the grid from step (y, x) on.
template <typename T, typename A>
void read_band(const Band<A>& band, const Gather& gather, const T* image, const Strides& s, int64_t y, int64_t x,
               A* to) {
  const int64_t first_x = x * gather.w.step + gather.w.lowest(), first_y = y * gather.h.step + gather.h.lowest();
  for (int64_t i = 0; i < band.rows; ++i)
    read_line<T, A>(band, gather, image, s, first_y + i, first_x, to + i * band.row_size());
}

// Asks for the source of a later piece, a share at a time, while the one before is computed: reading a band is no time to
// wait for memory. Only where channels are innermost, so that a row of the band is one stretch of memory.
template <typename T>
struct Ahead {
  const T* from = nullptr;
  int64_t rows = 0, row_step = 0, row_lines = 0, line = 0;
  static constexpr int64_t line_size = 64 / sizeof(T);

  Ahead(const Gather& gather, const Piece& piece, const T* image, const Strides& s) {
    const auto inside = [](const Axis& axis, int64_t first, int64_t steps) -> Axis::Range {
      const int64_t begin = first * axis.step + axis.lowest();
      return {most(0, begin), least(axis.source, begin + axis.span(steps))};
    };
    const Axis::Range y = inside(gather.h, piece.y, piece.rows), x = inside(gather.w, piece.x, piece.columns);
    if (s.c != 1 || y.size() <= 0 || x.size() <= 0) return;
    from = image + y.begin * s.h + x.begin * s.w;
    rows = y.size();
    row_step = s.h;
    row_lines = ceil_div((x.size() - 1) * s.w + gather.channels, line_size);
  }
  int64_t lines() const { return rows * row_lines; }
  void next(int64_t count) {
    for (const int64_t end = least(line + count, lines()); line < end; ++line)
      __builtin_prefetch(from + line / row_lines * row_step + line % row_lines * line_size, 0, 2);
  }
};

// A row of pixels back to an image. Channels lie in blocks of one vector, `pixel_step` elements from pixel to pixel and
// `block_step` from block to block.
template <typename T, typename A>
void write_row(const A* pixels, int64_t pixel_step, int64_t block_step, int64_t count, int64_t channels, T* to,
               const Strides& s) {
  constexpr int64_t lanes = Vector<A>::lanes;
  const int64_t whole = channels / lanes * lanes;
  if (s.c == 1) {
    for (int64_t x = 0; x < count; ++x, pixels += pixel_step, to += s.w) {
      const A* block = pixels;
      for (int64_t c = 0; c < whole; c += lanes, block += block_step)
        store_vector<T, A>(to + c, load_vector<A>(block));
      for (int64_t c = whole; c < channels; ++c) to[c] = narrow<T, A>(block[c - whole]);
    }
    return;
  }
  for (int64_t c = 0; c < channels; c += lanes, pixels += block_step, to += lanes * s.c) {
    const int64_t planes = least(lanes, channels - c);
    if (s.w != 1 || count < lanes) {
      for (int64_t i = 0; i < planes; ++i)
        for (int64_t x = 0; x < count; ++x) to[i * s.c + x * s.w] = narrow<T, A>(pixels[x * pixel_step + i]);
      continue;
    }
    for (int64_t x = 0; x < count; x += lanes) {
      const int64_t first = least(x, count - lanes);  // the last block overlaps the one before
      typename Vector<A>::type block[lanes];
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i) block[i] = load_vector<A>(pixels + (first + i) * pixel_step);
      exchange_all<lanes / 2>(block);
      for (int64_t i = 0; i < planes; ++i) store_vector<T, A>(to + i * s.c + first, block[i]);
    }
  }
}

}  // namespace myconv2d::MYCONV2D_ISA
