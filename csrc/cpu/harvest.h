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

// ---- forward --------------------------------------------------------------------------------------------------
// y, the sums of its batch norm, and if `pooled` is there the pixel of each 2×2 window with the largest sign·y.
struct BlockSink {
  float* y;
  float* pooled;
  uint8_t* index;
  Strides y_strides, pooled_strides, index_strides;
  const float* sign;  // of gamma, per channel; null: no batch norm
  TaskSums* sums;     // [4][channels]: pixels, shift, Σ(y − shift), Σ(y − shift)²
  int64_t channels, height, width;
  float* mine = nullptr;
};

inline BlockSink of_group(const BlockSink& sink, int64_t) { return sink; }

inline void begin_tasks(const BlockSink& sink, int64_t tasks) {
  if (!sink.sign) return;
  const int64_t size = round_up(4 * sink.channels, 32);  // whole cache lines: no two tasks share one
  *sink.sums = {static_cast<float*>(scratch(Scratch::task_sums, tasks * size * sizeof(float))), tasks, size};
  std::memset(sink.sums->data, 0, tasks * size * sizeof(float));
}

inline BlockSink for_task(BlockSink sink, int64_t task) {
  if (sink.sign) sink.mine = sink.sums->of(task);
  return sink;
}

inline void add_statistics(const BlockSink& sink, const float* pixels, int64_t stride, const Window& window,
                           int64_t first, int64_t channels) {
  float *count = sink.mine + first, *shift = count + sink.channels, *sum = shift + sink.channels,
        *square = sum + sink.channels;
  if (*count == 0) std::memcpy(shift, pixels, channels * sizeof(float));
  const int64_t rows = least(window.rows, sink.height - window.y);
  const int64_t columns = least(window.columns, sink.width - window.x);
  for (int64_t k = 0; k < channels; ++k) count[k] += rows * columns;
  const auto visit = [&]<typename V>(int64_t k) {
    const V s = get<V>(shift + k);
    V sums[2] = {}, squares[2] = {};
    for (int64_t i = 0; i < rows; ++i) {
      const float* from = pixels + i * window.columns * stride + k;
      for (int64_t x = 0; x < columns; ++x, from += stride) {
        const V d = get<V>(from) - s;
        sums[x & 1] += d;
        squares[x & 1] += d * d;
      }
    }
    put(sum + k, get<V>(sum + k) + (sums[0] + sums[1]));
    put(square + k, get<V>(square + k) + (squares[0] + squares[1]));
  };
  int64_t k = 0;
  for (; k + lanes <= channels; k += lanes) visit.template operator()<Lanes>(k);
  for (; k + lanes / 2 <= channels; k += lanes / 2) visit.template operator()<HalfLanes>(k);
  for (; k < channels; ++k) visit.template operator()<float>(k);
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
MYCONV2D_INLINE void pool_four(const float* pixels, int64_t stride, int64_t row, V sign, float* to, uint8_t* index) {
  using Ints = typename IntsOf<V>::type;
  V kept = get<V>(pixels), best = sign * kept;
  Ints where{};
  choose<V>(get<V>(pixels + stride), sign, 1, best, kept, where);
  choose<V>(get<V>(pixels + row), sign, 2, best, kept, where);
  choose<V>(get<V>(pixels + row + stride), sign, 3, best, kept, where);
  put(to, kept);
  const auto bytes = __builtin_convertvector(where, typename IntsOf<V>::bytes);
  std::memcpy(index, &bytes, sizeof bytes);
}

template <>
MYCONV2D_INLINE void pool_four<float>(const float* pixels, int64_t stride, int64_t row, float sign, float* to,
                                      uint8_t* index) {
  const float values[4] = {pixels[0], pixels[stride], pixels[row], pixels[row + stride]};
  float best = sign * values[0];
  uint8_t where = 0;
  for (uint8_t i = 1; i < 4; ++i) {
    const float value = sign * values[i];
    if (value > best || value != value) best = value, where = i;
  }
  *to = values[where];
  *index = where;
}

inline void write_pixels(const float* pixels, int64_t stride, const Window& window, int64_t first, int64_t channels,
                         const BlockSink& sink) {
  const Strides& ys = sink.y_strides;
  each_row_inside(sink, window, [&](int64_t i, int64_t y, int64_t columns) {
    const float* from = pixels + i * window.columns * stride;
    float* to = sink.y + window.image * ys.n + y * ys.h + window.x * ys.w + first;
    for (int64_t x = 0; x < columns; ++x) copy_channels(from + x * stride, channels, to + x * ys.w);
  });
  if (sink.sign) add_statistics(sink, pixels, stride, window, first, channels);
  if (!sink.pooled) return;
  const Strides &ps = sink.pooled_strides, &is = sink.index_strides;
  const int64_t row = window.columns * stride;
  each_row_inside(sink, window, [&](int64_t i, int64_t y, int64_t columns) {
    if (i & 1 || y + 1 >= sink.height || i + 1 >= window.rows) return;
    float* to = sink.pooled + window.image * ps.n + y / 2 * ps.h + window.x / 2 * ps.w + first;
    uint8_t* index = sink.index + window.image * is.n + y / 2 * is.h + window.x / 2 * is.w + first;
    for (int64_t x = 0; x + 1 < columns; x += 2, to += ps.w, index += is.w) {
      const float* from = pixels + i * row + x * stride;
      cover_channels(channels, [&]<typename V>(int64_t k) __attribute__((always_inline)) {
        pool_four<V>(from + k, stride, row, get<V>(sink.sign + first + k), to + k, index + k);
      });
    }
  });
}

template <bool write>
void prefetch_row(const BlockSink& sink, const Window& window, int64_t i) {
  const Strides& ys = sink.y_strides;
  if (window.y + i < sink.height)
    prefetch_line(sink.y + window.image * ys.n + (window.y + i) * ys.h + window.x * ys.w,
                  least(window.columns, sink.width - window.x) * ys.w, write);
}

// ---- inference ------------------------------------------------------------------------------------------------
struct InferenceSink {
  float* output;
  Strides strides;
  bool with_relu, pool;
  int64_t channels, height, width;  // before the pooling
};

inline InferenceSink of_group(const InferenceSink& sink, int64_t) { return sink; }
inline void begin_tasks(const InferenceSink&, int64_t) {}
inline const InferenceSink& for_task(const InferenceSink& sink, int64_t) { return sink; }

template <typename V>
MYCONV2D_INLINE V larger(V a, V b) {  // NaN wins
  return (b > a) | (b != b) ? b : a;
}

template <>
MYCONV2D_INLINE float larger<float>(float a, float b) {
  return b > a || b != b ? b : a;
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
        V value = get<V>(from + k);
        if (pool)
          value = larger<V>(larger<V>(larger<V>(value, get<V>(from + stride + k)), get<V>(from + row + k)),
                            get<V>(from + row + stride + k));
        put(to + k, sink.with_relu ? relu<V>(value) : value);
      });
    }
  });
}

template <bool write>
void prefetch_row(const InferenceSink& sink, const Window& window, int64_t i) {
  const int pool = sink.pool;
  const int64_t y = window.y + i, columns = least(window.columns, sink.width - window.x) >> pool;
  if (y >= sink.height || (pool && (y & 1 || y + 1 >= sink.height))) return;
  prefetch_line(sink.output + window.image * sink.strides.n + (y >> pool) * sink.strides.h +
                    (window.x >> pool) * sink.strides.w,
                columns * sink.strides.w, write);
}

// ---- backward -------------------------------------------------------------------------------------------------
// The gradient of the feeds' concatenation, taken back through upsampling, ReLU and scale to their tensors.
struct FeedSink {
  struct Part {
    Feed feed;
    FeedGradient gradient;
  } parts[2];
  TaskSums* sums;  // [2][channels]: of the scales and the shifts
  int64_t channels, height, width;
  float* mine = nullptr;
};

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
  const int up = feed.upsample;
  const Strides &fs = feed.strides, &gs = part.gradient.strides;
  const int64_t row = window.columns * stride;
  const auto visit = [&]<typename V>(int64_t c) {
    V scale{}, shift{}, scale_sum{}, shift_sum{};
    if (feed.scale) scale = get<V>(feed.scale + channel + c), shift = get<V>(feed.shift + channel + c);
    each_row_inside(sink, window, [&](int64_t i, int64_t y, int64_t columns) {
      if (up && i & 1) return;
      const float* from = pixels + i * row + c;
      const float* tensor = feed.data + window.image * fs.n + (y >> up) * fs.h + (window.x >> up) * fs.w + channel + c;
      float* to = part.gradient.data + window.image * gs.n + (y >> up) * gs.h + (window.x >> up) * gs.w + channel + c;
      for (int64_t x = 0; x < columns; x += 1 + up, tensor += fs.w, to += gs.w, from += (1 + up) * stride) {
        V d = get<V>(from);
        if (up) d += get<V>(from + stride) + (get<V>(from + row) + get<V>(from + row + stride));
        if (feed.scale) {
          const V value = get<V>(tensor);
          d = scale * value + shift > 0 ? d : V{};
          scale_sum += d * value;
          shift_sum += d;
          d *= scale;
        }
        put(to, d);
      }
    });
    if (!feed.scale) return;
    put(to_scale + c, get<V>(to_scale + c) + scale_sum);
    put(to_shift + c, get<V>(to_shift + c) + shift_sum);
  };
  int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) visit.template operator()<Lanes>(c);
  for (; c + lanes / 2 <= channels; c += lanes / 2) visit.template operator()<HalfLanes>(c);
  for (; c < channels; ++c) visit.template operator()<float>(c);
}

inline void write_pixels(const float* pixels, int64_t stride, const Window& window, int64_t first, int64_t channels,
                         const FeedSink& sink) {
  int64_t part_first = 0;
  for (const FeedSink::Part& part : sink.parts) {
    const int64_t begin = most(first, part_first), end = least(first + channels, part_first + part.feed.channels);
    if (begin < end && part.gradient.data)
      write_part(part, pixels + (begin - first), stride, window, begin - part_first, end - begin, sink,
                 sink.mine + begin, sink.mine + sink.channels + begin);
    part_first += part.feed.channels;
  }
}

template <bool write>
void prefetch_row(const FeedSink& sink, const Window& window, int64_t i) {
  const int64_t y = window.y + i, columns = least(window.columns, sink.width - window.x);
  if (y >= sink.height) return;
  for (const FeedSink::Part& part : sink.parts) {
    const int up = part.feed.upsample;
    if (!part.gradient.data || (up && y & 1)) continue;
    const Strides &fs = part.feed.strides, &gs = part.gradient.strides;
    const int64_t count = ceil_div(columns, 1 + up);
    prefetch_line(part.gradient.data + window.image * gs.n + (y >> up) * gs.h + (window.x >> up) * gs.w, count * gs.w, write);
    if (part.feed.scale)
      prefetch_line(part.feed.data + window.image * fs.n + (y >> up) * fs.h + (window.x >> up) * fs.w, count * fs.w, false);
  }
}

}  // namespace myconv2d::MYCONV2D_ISA
