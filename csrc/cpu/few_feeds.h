// What a fused block reads and writes in planes, for the kernels of few channels: vectors of pixels, where vectors of
// channels would be all but empty. A tensor's row is taken apart once, at its own resolution; what it becomes is
// computed plane by plane, and enlarged or added up to half the size last.
#pragma once

#include "algorithm.h"
#include "few_windows.h"
#include "harvest.h"

namespace myconv2d::MYCONV2D_ISA {

// The first `count` lanes, which may be none or more than there are; zeros in the others, where what lies in memory may
// be denormal, and slow.
inline Lanes load_up_to(int64_t count, const float* from) {
  return count >= lanes ? load_vector<float>(from) : count > 0 ? FirstLanes(count).load(from) : Lanes{};
}
inline void store_up_to(int64_t count, float* to, Lanes value) {
  if (count >= lanes) store_vector<float, float>(to, value);
  else if (count > 0) FirstLanes(count).store(to, value);
}

// Batch norm and ReLU of a panel of results, in the registers of few_in_tiles.h.
struct Activate {
  Lanes scale[2], shift[2];
  bool affine, with_relu;

  MYCONV2D_INLINE Lanes operator()(Lanes value, int64_t vector) const {
    if (affine) value = scale[vector] * value + shift[vector];
    return with_relu ? relu<Lanes>(value) : value;
  }
};
inline Activate finish_of(const InferenceSink& sink, int64_t first, int64_t channels) {
  Activate result{{}, {}, sink.scale != nullptr, sink.with_relu};
  for (int64_t v = 0; sink.scale && v < 2; ++v) {
    result.scale[v] = load_up_to(channels - v * lanes, sink.scale + first + v * lanes);
    result.shift[v] = load_up_to(channels - v * lanes, sink.shift + first + v * lanes);
  }
  return result;
}

// Room for rows of so many planes; `step` floats from one to the next.
struct TurnedRows {
  int64_t step;
  float* data;

  TurnedRows(int64_t planes, int64_t columns)
      : step(round_up(columns, lanes) + lanes),
        data(static_cast<float*>(scratch(Scratch::turned, planes * step * sizeof(float)))) {}
  float* of(int64_t plane) const { return data + plane * step; }
  void take_apart(const float* pixels, int64_t stride, int64_t columns, int64_t channels, int64_t plane) const {
    if (channels == 1 && stride == 1) std::memcpy(of(plane), pixels, columns * sizeof(float));
    else transpose<float>(pixels, stride, columns, channels, of(plane), step);
  }
};

// `fill(image row, begin, end, to)` puts columns begin … end of the image's row into planes from `to` on; zeros around.
template <typename P, typename F>
MYCONV2D_INLINE void fill_planes(const P& source, const Window& window, float* planes, int64_t row_step,
                                 int64_t plane_step, const F& fill) {
  const int64_t begin = least(most(0, -window.x), window.columns);
  const int64_t end = most(begin, least(window.columns, source.width - window.x));
  for (int64_t i = 0; i < window.rows; ++i, planes += row_step) {
    const int64_t y = window.y + i;
    const bool inside = y >= 0 && y < source.height && begin < end;
    if (inside) fill(y, window.x + begin, window.x + end, planes + begin);
    for (int64_t c = 0; c < source.channels; ++c) {
      std::memset(planes + c * plane_step, 0, (inside ? begin : window.columns) * sizeof(float));
      if (inside) std::memset(planes + c * plane_step + end, 0, (window.columns - end) * sizeof(float));
    }
  }
}

inline void read_feed_planes(const Feed& feed, int64_t image, int64_t y, int64_t begin, int64_t end, float* to,
                             int64_t plane_step) {
  const bool up = feed.upsample;
  const int64_t first = begin >> up, columns = ((end - 1) >> up) + 1 - first;
  const float* row = feed.data + image * feed.strides.n + (y >> up) * feed.strides.h + first * feed.strides.w;
  const TurnedRows rows(feed.channels, columns);
  rows.take_apart(row, feed.strides.w, columns, feed.channels, 0);
  for (int64_t c = 0; c < feed.channels; ++c, to += plane_step) {
    float* values = rows.of(c);
    for (int64_t x = 0; x < columns; x += lanes) {
      Lanes value = load_up_to(columns - x, values + x), again;
      if (feed.scale) value = relu<Lanes>(feed.scale[c] * value + feed.shift[c]);
      if (!up) {
        store_up_to(columns - x, to + x, value);
      } else if (begin & 1) {
        store_vector<float, float>(values + x, value);
      } else {
        again = value;
        put_pair_together(value, again, std::make_index_sequence<lanes>());
        store_up_to(end - begin - 2 * x, to + 2 * x, value);
        store_up_to(end - begin - 2 * x - lanes, to + 2 * x + lanes, again);
      }
    }
    if (up && begin & 1)
      for (int64_t x = begin; x < end; ++x) to[x - begin] = values[(x >> 1) - first];
  }
}

// By way of pixels, as where channels are many.
template <typename P>
void turn_pixels(const P& source, const Window& window, float* planes, int64_t row_step, int64_t plane_step) {
  const int64_t stride = round_up(source.channels, lanes);
  float* pixels = static_cast<float*>(scratch(Scratch::turned, window.columns * stride * sizeof(float)));
  for (int64_t i = 0; i < window.rows; ++i, planes += row_step) {
    read_pixels(source, Window{window.image, window.y + i, window.x, 1, window.columns}, pixels, stride);
    transpose<float>(pixels, stride, window.columns, source.channels, planes, plane_step);
  }
}

inline void read_planes(const FeedSource& source, const Window& window, float* planes, int64_t row_step,
                        int64_t plane_step) {
  if (source.channels > few_channels) {
    for (const Feed& part : source.parts) {
      const FeedSource alone({part, {}}, source.height, source.width);
      if (part.scale || part.upsample)
        turn_pixels(alone, window, planes, row_step, plane_step);
      else if (part.channels)
        read_planes(Planes<const float>{part.data, part.strides, part.channels, source.height, source.width}, window,
                    planes, row_step, plane_step);
      planes += part.channels * plane_step;
    }
    return;
  }
  fill_planes(source, window, planes, row_step, plane_step, [&](int64_t y, int64_t begin, int64_t end, float* to) {
    for (const Feed& part : source.parts) {
      if (!part.channels) continue;
      if (part.upsample && y & 1 && y > window.y) {  // the row before, once more
        for (int64_t c = 0; c < part.channels; ++c)
          std::memcpy(to + c * plane_step, to + c * plane_step - row_step, (end - begin) * sizeof(float));
      } else {
        read_feed_planes(part, window.image, y, begin, end, to, plane_step);
      }
      to += part.channels * plane_step;
    }
  });
}

inline void read_planes(const GradientSource& source, const Window& window, float* planes, int64_t row_step,
                        int64_t plane_step) {
  if (!source.y) return read_planes(plain_gradient(source), window, planes, row_step, plane_step);
  const int64_t channels = source.channels;
  if (source.index || channels > few_channels) return turn_pixels(source, window, planes, row_step, plane_step);
  fill_planes(source, window, planes, row_step, plane_step, [&](int64_t y, int64_t begin, int64_t end, float* to) {
    const int64_t columns = end - begin;
    const Strides &gs = source.grad_strides, &ys = source.y_strides;
    const TurnedRows rows(2 * channels, columns);
    rows.take_apart(source.grad + window.image * gs.n + y * gs.h + begin * gs.w, gs.w, columns, channels, 0);
    rows.take_apart(source.y + window.image * ys.n + y * ys.h + begin * ys.w, ys.w, columns, channels, channels);
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t x = 0; x < columns; x += lanes) {
        const int64_t left = columns - x;
        const Lanes y = load_up_to(left, rows.of(channels + c) + x);
        store_up_to(left, to + c * plane_step + x,
                    load_up_to(left, rows.of(c) + x) + (source.offset[c] + source.slope[c] * y));
      }
  });
}

// Channels `channel` … of a part from planes[row · row_step + c · plane_step + column], as write_part() in harvest.h.
inline void write_part_planes(const FeedSink::Part& part, const float* planes, int64_t row_step, int64_t plane_step,
                              const Window& window, const FeedSink& sink, float* to_scale, float* to_shift) {
  const Feed& feed = part.feed;
  const int up = feed.upsample;
  const Strides &fs = feed.strides, &gs = part.gradient.strides;
  const int64_t columns = least(window.columns, sink.width - window.x) >> up, channels = feed.channels;
  const TurnedRows rows(2 * channels, columns);
  each_row_inside(sink, window, [&](int64_t i, int64_t y, int64_t) {
    if (up && i & 1) return;
    if (feed.scale)
      rows.take_apart(feed.data + window.image * fs.n + (y >> up) * fs.h + (window.x >> up) * fs.w, fs.w, columns,
                      channels, channels);
    for (int64_t c = 0; c < channels; ++c) {
      const float* from = planes + c * plane_step + i * row_step;
      Lanes scale_sum{}, shift_sum{};
      for (int64_t x = 0; x < columns; x += lanes) {
        const int64_t left = columns - x;
        Lanes d;
        if (up) {
          const float *above = from + 2 * x, *below = above + row_step;
          d = load_up_to(2 * left, above) + load_up_to(2 * left, below);
          Lanes next = load_up_to(2 * left - lanes, above + lanes) + load_up_to(2 * left - lanes, below + lanes);
          take_pair_apart(d, next, std::make_index_sequence<lanes>());
          d += next;
        } else {
          d = load_up_to(left, from + x);
        }
        if (feed.scale) {
          const Lanes value = load_up_to(left, rows.of(channels + c) + x);
          d = feed.scale[c] * value + feed.shift[c] > 0 ? d : Lanes{};
          scale_sum += d * value;
          shift_sum += d;
          d *= feed.scale[c];
        }
        store_vector<float, float>(rows.of(c) + x, d);
      }
      if (!feed.scale) continue;
      to_scale[c] += sum_of_lanes(scale_sum);
      to_shift[c] += sum_of_lanes(shift_sum);
    }
    float* to = part.gradient.data + window.image * gs.n + (y >> up) * gs.h + (window.x >> up) * gs.w;
    if (channels == 1 && gs.w == 1) std::memcpy(to, rows.of(0), columns * sizeof(float));
    else transpose<float>(rows.of(0), rows.step, channels, columns, to, gs.w);
  });
}

// A window's planes of all channels to where they belong.
inline void write_planes(const float* planes, int64_t row_step, int64_t plane_step, const Window& window,
                         const FeedSink& sink) {
  int64_t first = 0;
  for (const FeedSink::Part& part : sink.parts) {
    if (part.feed.channels && part.gradient.data)
      write_part_planes(part, planes + first * plane_step, row_step, plane_step, window, sink, sink.mine + first,
                        sink.mine + sink.channels + first);
    first += part.feed.channels;
  }
}

}  // namespace myconv2d::MYCONV2D_ISA
