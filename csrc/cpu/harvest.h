// Where a fused block's results go, window by window: the convolution's output with its statistics, pooled or not,
// and the gradient of the feeds. Sums over pixels are kept per task, in float, and added up in double in the order of
// the tasks, which the shape alone decides.
#pragma once

#include "feed.h"

namespace myconv2d::MYCONV2D_ISA {

struct TaskSums {  // `size` floats a task
  float* data = nullptr;
  int64_t tasks = 0, size = 0;

  float* of(int64_t task) const { return data + task * size; }
};

// visit(row of the window, image row, pixel of the first column inside) for the rows inside, with their columns.
template <typename P, typename F>
MYCONV2D_INLINE void each_row_inside(const P& planes, const Window& window, const F& visit) {
  const int64_t columns = least(window.columns, planes.width - window.x);
  for (int64_t i = 0; i < window.rows && window.y + i < planes.height; ++i) visit(i, window.y + i, columns);
}

inline PixelRows rows_of(float* image, const Strides& s, int64_t width, const Window& window, int64_t first) {
  if (!image || window.columns != width || s.h != width * s.w) return {};
  return {image + window.image * s.n + window.y * s.h + first, s.w};
}

// ---- forward --------------------------------------------------------------------------------------------------
// y, the sums of its batch norm, and if `pooled` is there the pixel of each 2×2 window with the largest sign·y.
struct BlockSink {
  float* y;  // null: not kept, which takes pooling
  float* pooled;
  uint8_t* index;
  Strides y_strides, pooled_strides, index_strides;
  const float* sign;  // of gamma, per channel
  TaskSums* sums;     // [4][channels]: pixels, shift, Σ(y − shift), Σ(y − shift)²
  int64_t channels, height, width;
  float* mine = nullptr;
};

inline BlockSink of_group(const BlockSink& sink, int64_t) { return sink; }

inline void begin_tasks(const BlockSink& sink, int64_t tasks) {
  const int64_t size = round_up(4 * sink.channels, 32);  // whole cache lines: no two tasks share one
  *sink.sums = {static_cast<float*>(scratch(Scratch::task_sums, tasks * size * sizeof(float))), tasks, size};
  std::memset(sink.sums->data, 0, tasks * size * sizeof(float));
}

inline BlockSink for_task(BlockSink sink, int64_t task) {
  sink.mine = sink.sums->of(task);
  return sink;
}

// Replaces `best` where `value` is larger, or the first NaN; as the framework's max-pooling chooses.
template <typename V, typename I>
MYCONV2D_INLINE void choose(V value, V sign, int32_t code, V& best, V& kept, I& where) {
  const V signed_value = sign * value;
  const auto better = (signed_value > best) | (signed_value != signed_value);
  best = better ? signed_value : best;
  kept = better ? value : kept;
  where = better ? I{} + code : where;
}

template <typename V>
struct Statistics {  // of one vector of channels, two pixels at a time
  V shift, sums[2] = {}, squares[2] = {};

  MYCONV2D_INLINE void add(V value, int which) {
    const V d = value - shift;
    sums[which] += d;
    squares[which] += d * d;
  }
};

// One vector of channels of a window: y, statistics and pooling from one read of each value.
template <typename V, bool pool, bool keep>
inline void write_block(const float* pixels, int64_t stride, const Window& window, int64_t k, bool counted,
                        const BlockSink& sink) {
  using Ints = typename IntsOf<V>::type;
  const Strides ys = sink.y_strides, ps = sink.pooled_strides, is = sink.index_strides;
  const int64_t rows = least(window.rows, sink.height - window.y);
  const int64_t columns = least(window.columns, sink.width - window.x);
  Statistics<V> statistics;
  float *shifts = sink.mine + sink.channels + k, *sums = shifts + sink.channels, *squares = sums + sink.channels;
  if (!counted) put(shifts, get<V>(pixels));
  statistics.shift = get<V>(shifts);
  const V sign = get<V>(sink.sign + k);
  for (int64_t i = 0; i < rows; i += 2) {
    const bool two_rows = i + 1 < rows;
    const float *from = pixels + i * window.columns * stride, *below = from + window.columns * stride;
    float* y = keep ? sink.y + window.image * ys.n + (window.y + i) * ys.h + window.x * ys.w + k : nullptr;
    const int64_t pooled_at = (window.y + i) / 2, column_at = window.x / 2;
    float* pooled = pool ? sink.pooled + window.image * ps.n + pooled_at * ps.h + column_at * ps.w + k : nullptr;
    uint8_t* index = pool ? sink.index + window.image * is.n + pooled_at * is.h + column_at * is.w + k : nullptr;
    const auto one = [&](int64_t x, const float* of, int64_t row, int which) __attribute__((always_inline)) {
      const V value = get<V>(of + x * stride);
      if constexpr (keep) put(y + row * ys.h + x * ys.w, value);
      statistics.add(value, which);
      return value;
    };
    int64_t x = 0;
    if (two_rows)
      for (; x + 1 < columns; x += 2) {
        const V a = one(x, from, 0, 0), b = one(x + 1, from, 0, 1), c = one(x, below, 1, 0), d = one(x + 1, below, 1, 1);
        if constexpr (pool) {
          V kept = a, best = sign * a;
          Ints where{};
          choose<V>(b, sign, 1, best, kept, where);
          choose<V>(c, sign, 2, best, kept, where);
          choose<V>(d, sign, 3, best, kept, where);
          put(pooled, kept);
          const auto bytes = __builtin_convertvector(where, typename IntsOf<V>::bytes);
          std::memcpy(index, &bytes, sizeof bytes);
          pooled += ps.w;
          index += is.w;
        }
      }
    for (; x < columns; ++x) {
      one(x, from, 0, 0);
      if (two_rows) one(x, below, 1, 1);
    }
  }
  put(sums, get<V>(sums) + (statistics.sums[0] + statistics.sums[1]));
  put(squares, get<V>(squares) + (statistics.squares[0] + statistics.squares[1]));
}

template <bool pool, bool keep>
inline void write_block_window(const float* pixels, int64_t stride, const Window& window, int64_t first,
                               int64_t channels, const BlockSink& sink) {
  float* count = sink.mine + first;
  const bool counted = *count > 0;
  int64_t k = 0;
  for (; k + lanes <= channels; k += lanes)
    write_block<Lanes, pool, keep>(pixels + k, stride, window, first + k, counted, sink);
  for (; k + lanes / 2 <= channels; k += lanes / 2)
    write_block<HalfLanes, pool, keep>(pixels + k, stride, window, first + k, counted, sink);
  for (; k < channels; ++k)
    write_block<OneLane, pool, keep>(pixels + k, stride, window, first + k, counted, sink);
  const int64_t inside = least(window.rows, sink.height - window.y) * least(window.columns, sink.width - window.x);
  for (k = 0; k < channels; ++k) count[k] += inside;
}

inline void write_pixels(const float* pixels, int64_t stride, const Window& window, int64_t first, int64_t channels,
                         const BlockSink& sink) {
  const auto write = !sink.y       ? write_block_window<true, false>
                     : sink.pooled ? write_block_window<true, true>
                                   : write_block_window<false, true>;
  write(pixels, stride, window, first, channels, sink);
}

// Where the pixels of a window may be put for write_pixels() to see them there: where they go, if that is in rows.
inline PixelRows rows_in_place(const BlockSink& sink, const Window& window, int64_t first) {
  return sink.pooled ? PixelRows{} : rows_of(sink.y, sink.y_strides, sink.width, window, first);
}

// ---- inference ------------------------------------------------------------------------------------------------
struct InferenceSink {
  float* output;
  Strides strides;
  const float *scale, *shift;  // null: no batch norm
  bool with_relu, pool;
  int64_t channels, height, width;  // before the pooling
};

inline InferenceSink of_group(const InferenceSink& sink, int64_t) { return sink; }
inline void begin_tasks(const InferenceSink&, int64_t) {}
inline const InferenceSink& for_task(const InferenceSink& sink, int64_t) { return sink; }

template <typename V>
MYCONV2D_INLINE V larger(V a, V b) {  // NaN wins
  return ((b > a) | (b != b)) ? b : a;
}

inline void write_pixels(const float* pixels, int64_t stride, const Window& window, int64_t first, int64_t channels,
                         const InferenceSink& sink) {
  const int pool = sink.pool;
  const Strides& s = sink.strides;
  const int64_t row = window.columns * stride;
  each_row_inside(sink, window, [&](int64_t i, int64_t y, int64_t columns) {
    if (pool && (i & 1 || y + 1 >= sink.height || i + 1 >= window.rows)) return;
    float* to = sink.output + window.image * s.n + (y >> pool) * s.h + (window.x >> pool) * s.w + first;
    for (int64_t x = 0; x + pool < columns; x += 1 + pool, to += s.w) {
      const float* from = pixels + i * row + x * stride;
      cover_channels(channels, [&]<typename V>(int64_t k) __attribute__((always_inline)) {
        const auto at = [&](int64_t offset) __attribute__((always_inline)) {
          const V value = get<V>(from + offset + k);
          return sink.scale ? get<V>(sink.scale + first + k) * value + get<V>(sink.shift + first + k) : value;
        };
        V value = at(0);
        if (pool) value = larger<V>(larger<V>(larger<V>(value, at(stride)), at(row)), at(row + stride));
        put(to + k, sink.with_relu ? relu<V>(value) : value);
      });
    }
  });
}

// ---- backward -------------------------------------------------------------------------------------------------
// The gradient of the feeds' concatenation, taken back through upsampling, ReLU and scale to their tensors.
struct FeedSink {
  struct Part {
    Feed feed;
    FeedGradient gradient;
  } parts[most_parts];
  TaskSums* sums;  // [2][channels]: of the scales and the shifts
  int64_t channels, height, width;
  float* mine = nullptr;
};

template <>
inline constexpr bool channels_stand_alone<FeedSink> = true;

inline FeedSink of_group(const FeedSink& sink, int64_t) { return sink; }

inline void begin_tasks(const FeedSink& sink, int64_t tasks) {
  const int64_t size = round_up(2 * sink.channels, 32);
  *sink.sums = {static_cast<float*>(scratch(Scratch::task_sums, tasks * size * sizeof(float))), tasks, size};
  std::memset(sink.sums->data, 0, tasks * size * sizeof(float));
}

inline FeedSink for_task(FeedSink sink, int64_t task) {
  sink.mine = sink.sums->of(task);
  return sink;
}

// Channels `channel` … of a part from pixels[row][column][…], whose first float is channel `channel`.
inline void write_part(const FeedSink::Part& part, const float* pixels, int64_t stride, const Window& window,
                       int64_t channel, int64_t channels, const FeedSink& sink, float* to_scale, float* to_shift) {
  const Feed& feed = part.feed;
  const bool affine = feed.scale, up = feed.upsample;
  const Strides fs = feed.strides, gs = part.gradient.strides;
  const int64_t row = window.columns * stride;
  const auto visit = [&]<typename V>(int64_t c) {
    V scale{}, shift{}, scale_sum{}, shift_sum{};
    if (affine) scale = get<V>(feed.scale + channel + c), shift = get<V>(feed.shift + channel + c);
    each_row_inside(sink, window, [&](int64_t i, int64_t y, int64_t columns) {
      if (up && i & 1) return;
      const float* from = pixels + i * row + c;
      const float* tensor = feed.data + window.image * fs.n + (y >> up) * fs.h + (window.x >> up) * fs.w + channel + c;
      float* to = part.gradient.data + window.image * gs.n + (y >> up) * gs.h + (window.x >> up) * gs.w + channel + c;
      for (int64_t x = 0; x < columns; x += 1 + up, tensor += fs.w, to += gs.w, from += (1 + up) * stride) {
        V d = get<V>(from);
        if (up) d += get<V>(from + stride) + (get<V>(from + row) + get<V>(from + row + stride));
        __builtin_prefetch(to + gs.h, 1);
        if (affine) {
          const V value = get<V>(tensor);
          __builtin_prefetch(tensor + fs.h);
          d = scale * value + shift > 0 ? d : V{};
          scale_sum += d * value;
          shift_sum += d;
          d *= scale;
        }
        put(to, d);
      }
    });
    if (!affine) return;
    put(to_scale + c, get<V>(to_scale + c) + scale_sum);
    put(to_shift + c, get<V>(to_shift + c) + shift_sum);
  };
  int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) visit.template operator()<Lanes>(c);
  for (; c + lanes / 2 <= channels; c += lanes / 2) visit.template operator()<HalfLanes>(c);
  for (; c < channels; ++c) visit.template operator()<OneLane>(c);
}

inline PixelRows rows_in_place(const FeedSink& sink, const Window& window, int64_t first) {
  const auto& [feed, gradient] = sink.parts[0];
  const bool alone = feed.channels == sink.channels && !feed.upsample;
  return alone ? rows_of(gradient.data, gradient.strides, sink.width, window, first) : PixelRows{};
}

inline void write_pixels(const float* pixels, int64_t stride, const Window& window, int64_t first, int64_t channels,
                         const FeedSink& sink) {
  int64_t part_first = 0;
  for (const FeedSink::Part& part : sink.parts) {
    const int64_t begin = most(first, part_first), end = least(first + channels, part_first + part.feed.channels);
    const bool done = !part.feed.scale && pixels == rows_in_place(sink, window, first).data;  // nothing becomes of them
    if (begin < end && part.gradient.data && !done)
      write_part(part, pixels + (begin - first), stride, window, begin - part_first, end - begin, sink,
                 sink.mine + begin, sink.mine + sink.channels + begin);
    part_first += part.feed.channels;
  }
}

}  // namespace myconv2d::MYCONV2D_ISA
