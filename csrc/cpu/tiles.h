// Bands: a window of an image as float, in the arrangement that a kernel wants, whatever the layout and the element
// type outside. Reading one fills in the zeros around the image and turns planes into pixels or pixels into planes;
// writing one turns them back. A band lives in L1/L2, so no layout is ever copied as a whole.
#pragma once

#include "../conv2d.h"
#include "winograd.h"

namespace myconv2d::MYCONV2D_ISA {

template <typename T>
struct Planes {  // one group's channels of an image
  T* data;
  Strides strides;
  int64_t channels, height, width;
};

template <typename T>
Planes<T> of_group(Planes<T> planes, int64_t g) {
  planes.data += g * planes.channels * planes.strides.c;
  return planes;
}

// `count` channels of an image, from `first` on.
template <typename T>
Planes<T> of_channels(Planes<T> planes, int64_t first, int64_t count) {
  planes.data += first * planes.strides.c;
  planes.channels = count;
  return planes;
}

struct Window {  // rows × columns pixels from (y, x) on; may reach out of the image
  int64_t image, y, x, rows, columns;
};

// The part of a window's columns, and whether any part of a row of it, that lies in the image.
template <typename T>
struct Inside {
  const Planes<T>& planes;
  const Window& window;
  int64_t begin, end;

  Inside(const Planes<T>& planes, const Window& window)
      : planes(planes), window(window), begin(least(most(0, -window.x), window.columns)),
        end(most(begin, least(window.columns, planes.width - window.x))) {}
  int64_t columns() const { return end - begin; }
  bool row(int64_t i) const { return window.y + i >= 0 && window.y + i < planes.height; }
  T* first_pixel(int64_t i) const {
    const Strides& s = planes.strides;
    return planes.data + window.image * s.n + (window.y + i) * s.h + (window.x + begin) * s.w;
  }
};

// One pixel's channels, both sides contiguous: whole vectors, the last one ending with the last channel.
template <typename From, typename To>
MYCONV2D_INLINE void copy_channels(const From* from, int64_t channels, To* to) {
  const auto copy = [&]<typename V>(int64_t first) {
    V value = load_lanes<V>(from + first);
    if constexpr (std::is_same_v<To, float>)  // as elements: bytes might be the strides, for all that the compiler knows
      for (size_t i = 0; i < sizeof(V) / sizeof(float); ++i) to[first + i] = value[i];
    else
      store_lanes(to + first, value);
  };
  constexpr int64_t half = lanes / 2;
  if (channels >= lanes) {
    int64_t c = 0;
    for (; c + lanes <= channels; c += lanes) copy.template operator()<Lanes>(c);
    if (c + half < channels)
      copy.template operator()<Lanes>(channels - lanes);
    else if (c < channels)
      copy.template operator()<HalfLanes>(channels - half);
  } else if (channels >= half) {
    copy.template operator()<HalfLanes>(0);
    if (channels > half) copy.template operator()<HalfLanes>(channels - half);
  } else {
    for (int64_t c = 0; c < channels; ++c) to[c] = narrow<To, float>(load<float>(from[c]));
  }
}

// Zeros behind the channels of `count` pixels as far as vectors reach, before the pixels are filled in. Their results
// are dropped, but what is found in memory may be denormal, and slows a vector's whole arithmetic down by an order.
MYCONV2D_INLINE void clear_tails(float* pixels, int64_t count, int64_t channels, int64_t stride) {
  if (channels % (lanes / 2) == 0) return;
  float* last = pixels + round_up(channels, lanes) - lanes;
  for (int64_t x = 0; x < count; ++x) put(last + x * stride, Lanes{});
}

// pixels[row][column][channel], `stride` floats from pixel to pixel, the channels in whole vectors.
template <typename T>
void read_pixels(const Planes<const T>& from, const Window& window, float* pixels, int64_t stride) {
  const Inside<const T> inside(from, window);
  const Strides& s = from.strides;
  for (int64_t i = 0; i < window.rows; ++i, pixels += window.columns * stride) {
    if (!inside.row(i)) {
      std::memset(pixels, 0, window.columns * stride * sizeof(float));
      continue;
    }
    std::memset(pixels, 0, inside.begin * stride * sizeof(float));
    std::memset(pixels + inside.end * stride, 0, (window.columns - inside.end) * stride * sizeof(float));
    const T* row = inside.first_pixel(i);
    float* to = pixels + inside.begin * stride;
    clear_tails(to, inside.columns(), from.channels, stride);
    if (s.w == 1 && s.c != 1)
      transpose<float>(row, s.c, from.channels, inside.columns(), to, stride);
    else if (s.c == 1)
      for (int64_t x = 0; x < inside.columns(); ++x) copy_channels(row + x * s.w, from.channels, to + x * stride);
    else
      for (int64_t x = 0; x < inside.columns(); ++x)
        for (int64_t c = 0; c < from.channels; ++c) to[x * stride + c] = load<float>(row[x * s.w + c * s.c]);
  }
}

// Planes: element (row, channel, column) at row · row_step + channel · plane_step + column.
template <typename T>
void read_planes(const Planes<const T>& from, const Window& window, float* planes, int64_t row_step,
                 int64_t plane_step) {
  const Inside<const T> inside(from, window);
  const Strides& s = from.strides;
  for (int64_t i = 0; i < window.rows; ++i, planes += row_step) {
    const bool row_inside = inside.row(i);
    for (int64_t c = 0; c < from.channels; ++c) {
      float* to = planes + c * plane_step;
      const int64_t begin = row_inside ? inside.begin : window.columns;
      std::memset(to, 0, begin * sizeof(float));
      if (row_inside) std::memset(to + inside.end, 0, (window.columns - inside.end) * sizeof(float));
    }
    if (!row_inside) continue;
    const T* row = inside.first_pixel(i);
    float* to = planes + inside.begin;
    if (s.c == 1 && s.w != 1)
      transpose<float>(row, s.w, inside.columns(), from.channels, to, plane_step);
    else
      for (int64_t c = 0; c < from.channels; ++c)
        for (int64_t x = 0; x < inside.columns(); ++x)
          to[c * plane_step + x] = load<float>(row[x * s.w + c * s.c]);
  }
}

// The image's channels `first` … from pixels[row][column][channel], as far as the window lies in the image.
template <typename T>
void write_pixels(const float* pixels, int64_t stride, const Window& window, int64_t first, int64_t channels,
                  const Planes<T>& to) {
  const Inside<T> inside(to, window);
  const Strides& s = to.strides;
  for (int64_t i = 0; i < window.rows; ++i) {
    if (!inside.row(i)) continue;
    const float* from = pixels + (i * window.columns + inside.begin) * stride;
    T* row = inside.first_pixel(i) + first * s.c;
    if (s.w == 1 && s.c != 1)
      transpose<float>(from, stride, inside.columns(), channels, row, s.c);
    else if (s.c == 1)
      for (int64_t x = 0; x < inside.columns(); ++x) copy_channels(from + x * stride, channels, row + x * s.w);
    else
      for (int64_t x = 0; x < inside.columns(); ++x)
        for (int64_t c = 0; c < channels; ++c)
          row[x * s.w + c * s.c] = narrow<T, float>(from[x * stride + c]);
  }
}

// Where results go may want to know of the tasks that bring them (harvest.h); a plain image does not.
template <typename T>
void begin_tasks(const Planes<T>&, int64_t) {}
template <typename T>
const Planes<T>& for_task(const Planes<T>& planes, int64_t) { return planes; }

// … or have channels whose sums must be the same whichever others are wanted with them.
template <typename Sink>
constexpr bool channels_stand_alone = false;

struct PixelRows {  // of a window, one behind the other, `step` floats from pixel to pixel
  float* data;
  int64_t step;
};

struct TileGrid {  // the Winograd tiles of a batch
  int64_t batch, rows, columns;
  int64_t count() const { return batch * rows * columns; }
};

inline TileGrid tile_grid(int64_t batch, int64_t height, int64_t width) {
  return {batch, ceil_div(height, tile_size), ceil_div(width, tile_size)};
}

struct TileRun {  // neighbours in one row of tiles
  int64_t image, row, column, count;

  // The pixels under the run: `reach` rows, and as much more than the tiles in columns, less the padding.
  Window window(int64_t reach, int64_t padding_h, int64_t padding_w, int64_t size = tile_size) const {
    return {image, row * size - padding_h, column * size - padding_w, reach, count * size + reach - size};
  }

  // Those of a result whose tiles are size × size.
  Window pixels(int64_t size = tile_size) const { return window(size, 0, 0, size); }
};

// The runs of tiles `begin` … `end`, with the number of tiles before each.
template <typename F>
void for_each_run(const TileGrid& grid, int64_t begin, int64_t end, const F& visit) {
  for (int64_t tile = begin; tile < end;) {
    const int64_t column = tile % grid.columns, row = tile / grid.columns % grid.rows;
    const TileRun run{tile / grid.columns / grid.rows, row, column, least(grid.columns - column, end - tile)};
    visit(run, tile - begin);
    tile += run.count;
  }
}

}  // namespace myconv2d::MYCONV2D_ISA
