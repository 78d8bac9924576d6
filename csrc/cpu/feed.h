// What a fused block reads: feeds, which become activations as a band is filled, and the gradient of the
// convolution's output, which is put together there. Neither is ever stored as a whole.
#pragma once

#include "../block.h"
#include "tiles.h"

namespace myconv2d::MYCONV2D_ISA {

// visit<V>(first) for vectors that cover `channels` exactly: the last overlaps the one before it where that helps.
// A visit must give the same result twice; fewer channels than half a vector are visited one by one.
template <typename F>
MYCONV2D_INLINE void cover_channels(int64_t channels, const F& visit) {
  constexpr int64_t half = lanes / 2;
  if (channels < half) {
    for (int64_t c = 0; c < channels; ++c) visit.template operator()<OneLane>(c);
    return;
  }
  int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) visit.template operator()<Lanes>(c);
  if (c == channels) return;
  if (channels - c > half && channels >= lanes) return visit.template operator()<Lanes>(channels - lanes);
  if (channels - c > half) visit.template operator()<HalfLanes>(c);
  visit.template operator()<HalfLanes>(channels - half);
}

template <typename V>
MYCONV2D_INLINE V relu(V value) {  // NaN stays NaN
  return value < 0 ? V{} : value;
}

constexpr int most_parts = 5;  // of an image: one feed and another's four phases (upsampled.h)

struct FeedSource {
  Feed parts[most_parts] = {};
  int64_t channels, height, width;  // of the image that they stand for together

  FeedSource(const Feeds& feeds, int64_t height, int64_t width)
      : parts{feeds.first, feeds.second}, channels(feeds.first.channels + feeds.second.channels), height(height),
        width(width) {}
};

inline FeedSource of_group(const FeedSource& source, int64_t) { return source; }

inline FeedSource of_channels(FeedSource source, int64_t first, int64_t count) {
  int64_t before = 0;
  for (Feed& part : source.parts) {
    const int64_t channels = part.channels, skipped = least(most(first - before, 0), channels);
    part.channels = most(least(first + count - before, channels) - skipped, 0);
    part.data += skipped;
    if (part.scale) part.scale += skipped, part.shift += skipped;
    before += channels;
  }
  source.channels = count;
  return source;
}

// pixels[x][…] for columns begin … end of image row y; channels outermost, so that scale and shift stay in registers.
template <bool affine, bool up>
inline void read_feed_row(const Feed& feed, int64_t image, int64_t y, int64_t begin, int64_t end, float* pixels,
                          int64_t stride) {
  const float* row = feed.data + image * feed.strides.n + (y >> up) * feed.strides.h;
  const int64_t step = feed.strides.w;
  cover_channels(feed.channels, [&]<typename V>(int64_t c) __attribute__((always_inline)) {
    V scale{}, shift{};
    if constexpr (affine) scale = get<V>(feed.scale + c), shift = get<V>(feed.shift + c);
    const auto value_at = [&](int64_t x) __attribute__((always_inline)) {
      const V value = get<V>(row + (x >> up) * step + c);
      __builtin_prefetch(row + feed.strides.h + (x >> up) * step + c);
      if constexpr (affine) return relu<V>(scale * value + shift);
      else return value;
    };
    float* to = pixels + c;
    int64_t x = begin;
    if constexpr (up) {
      if (x & 1 && x < end) put(to, value_at(x)), ++x, to += stride;
      for (; x + 1 < end; x += 2, to += 2 * stride) {
        const V value = value_at(x);
        put(to, value);
        put(to + stride, value);
      }
    }
    for (; x < end; ++x, to += stride) put(to, value_at(x));
  });
}

inline void read_feed_row(const Feed& feed, int64_t image, int64_t y, int64_t begin, int64_t end, float* pixels,
                          int64_t stride) {
  const auto read = feed.scale ? (feed.upsample ? read_feed_row<true, true> : read_feed_row<true, false>)
                               : (feed.upsample ? read_feed_row<false, true> : read_feed_row<false, false>);
  read(feed, image, y, begin, end, pixels, stride);
}

// `fill(y, begin, end, pixels)` puts the inside of each row of a window in place; zeros around it.
template <typename P, typename F>
MYCONV2D_INLINE void fill_window(const P& planes, const Window& window, float* pixels, int64_t stride, const F& fill) {
  const int64_t begin = least(most(0, -window.x), window.columns);
  const int64_t end = most(begin, least(window.columns, planes.width - window.x));
  for (int64_t i = 0; i < window.rows; ++i, pixels += window.columns * stride) {
    const int64_t y = window.y + i;
    if (y < 0 || y >= planes.height) {
      std::memset(pixels, 0, window.columns * stride * sizeof(float));
      continue;
    }
    std::memset(pixels, 0, begin * stride * sizeof(float));
    std::memset(pixels + end * stride, 0, (window.columns - end) * stride * sizeof(float));
    clear_tails(pixels + begin * stride, end - begin, planes.channels, stride);
    fill(y, window.x + begin, window.x + end, pixels + begin * stride);
  }
}

inline void read_pixels(const FeedSource& source, const Window& window, float* pixels, int64_t stride) {
  fill_window(source, window, pixels, stride, [&](int64_t y, int64_t begin, int64_t end, float* to) {
    int64_t first = 0;
    for (const Feed& part : source.parts) {
      if (part.channels) read_feed_row(part, window.image, y, begin, end, to + first, stride);
      first += part.channels;
    }
  });
}

// The gradient of a convolution's output y: grad + offset + slope·y, where with pooling grad is that of the 2×2
// window's chosen pixel and zero for the others.
struct GradientSource {
  const float* grad;
  const float* y;        // null: no batch norm, grad is all there is
  const uint8_t* index;  // null: no pooling
  Strides grad_strides, y_strides, index_strides;
  const float *offset, *slope;
  int64_t channels, height, width;
};

inline GradientSource of_group(const GradientSource& source, int64_t) { return source; }

inline GradientSource of_channels(GradientSource source, int64_t first, int64_t count) {
  source.grad += first * source.grad_strides.c;
  if (source.y) source.y += first, source.offset += first, source.slope += first;
  if (source.index) source.index += first;
  source.channels = count;
  return source;
}

template <typename V>
struct IntsOf {
  typedef int32_t type __attribute__((vector_size(sizeof(V))));
  typedef uint16_t words __attribute__((vector_size(sizeof(V) / 2)));
  typedef uint8_t bytes __attribute__((vector_size(sizeof(V) / 4)));
};

// In two steps, because compilers take the whole way in one byte by byte.
template <typename V>
MYCONV2D_INLINE typename IntsOf<V>::type widened(typename IntsOf<V>::bytes bytes) {
  return __builtin_convertvector(__builtin_convertvector(bytes, typename IntsOf<V>::words), typename IntsOf<V>::type);
}

// Pixels from pixels[0] on, for columns x … x + count − 1, which share one window of the pooling.
template <bool has_grad, bool pool, int count>
MYCONV2D_INLINE void read_gradient(const float* values, int64_t step, int64_t below, const float* grad,
                                   const uint8_t* index, int code, const float* offset, const float* slope,
                                   int64_t channels, float* pixels, int64_t stride) {
  cover_channels(channels, [&]<typename V>(int64_t c) __attribute__((always_inline)) {
    const V add = get<V>(offset + c), factor = get<V>(slope + c);
    V of_grad{};
    typename IntsOf<V>::type codes{};
    if constexpr (has_grad) of_grad = get<V>(grad + c);
    if constexpr (has_grad && pool) {
      typename IntsOf<V>::bytes bytes;
      std::memcpy(&bytes, index + c, sizeof bytes);
      codes = widened<V>(bytes);
    }
#pragma GCC unroll 2
    for (int i = 0; i < count; ++i) {
      V value{};
      if constexpr (has_grad && pool) value = codes == code + i ? of_grad : V{};
      else if constexpr (has_grad) value = of_grad;
      const float* at = values + i * step + c;
      __builtin_prefetch(at + below);  // no hardware fetches beyond a page
      value += add + factor * get<V>(at);
      put(pixels + i * stride + c, value);
    }
  });
}

template <bool pool>
inline void read_gradient_row(const GradientSource& source, int64_t image, int64_t y, int64_t begin, int64_t end,
                              float* pixels, int64_t stride) {
  const Strides gs = source.grad_strides, ys = source.y_strides, is = source.index_strides;
  const float *offset = source.offset, *slope = source.slope;
  const float* grads = source.grad + image * gs.n + (y >> pool) * gs.h;
  const float* values = source.y + image * ys.n + y * ys.h;
  const uint8_t* index = pool ? source.index + image * is.n + (y >> 1) * is.h : nullptr;
  const int64_t channels = source.channels;
  // With pooling, an odd last row or column has no gradient of its own.
  const int64_t with_grad = !pool ? end : y < source.height / 2 * 2 ? least(end, source.width / 2 * 2) : begin;
  int64_t x = begin;
  while (x < end) {
    const auto read = [&]<bool has_grad, int count>() __attribute__((always_inline)) {
      read_gradient<has_grad, pool, count>(values + x * ys.w, ys.w, ys.h, grads + (x >> pool) * gs.w,
                                           index + (x >> 1) * is.w, 2 * (y & 1) + (x & 1), offset, slope, channels,
                                           pixels, stride);
      pixels += count * stride, x += count;
    };
    if (x >= with_grad) read.template operator()<false, 1>();
    else if (pool && !(x & 1) && x + 1 < end) read.template operator()<true, 1 + pool>();
    else read.template operator()<true, 1>();
  }
}

// Without batch norm the gradient is an image like any other.
inline Planes<const float> plain_gradient(const GradientSource& source) {
  return {source.grad, source.grad_strides, source.channels, source.height, source.width};
}

inline void read_pixels(const GradientSource& source, const Window& window, float* pixels, int64_t stride) {
  if (!source.y) return read_pixels(plain_gradient(source), window, pixels, stride);
  const auto read = source.index ? read_gradient_row<true> : read_gradient_row<false>;
  fill_window(source, window, pixels, stride, [&](int64_t y, int64_t begin, int64_t end, float* to) {
    read(source, window.image, y, begin, end, to, stride);
  });
}

}  // namespace myconv2d::MYCONV2D_ISA
