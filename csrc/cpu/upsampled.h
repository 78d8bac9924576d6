// A 3×3 convolution of an image that was upsampled (nearest, twice), at the low resolution. Along one axis, with kernel
// g0 g1 g2 and low-resolution pixels x, output y is of two phases, each a convolution with two taps:
//
//   y[2i]     =  g0 · x[i − 1] + (g1 + g2) · x[i]          phase 0: the window begins at i − 1
//   y[2i + 1] =  (g0 + g1) · x[i] + g2 · x[i + 1]          phase 1: … at i
//
// So tap r of phase p goes to tap (p + r + 1)/2 − p of two. In two dimensions there are four phases of 2×2 taps, each by
// Winograd F(4×4, 2×2): for 8×8 outputs 4·25 products instead of 4·36, transforms in proportion, and a quarter of the
// input's pixels. A feed that is not upsampled joins in as four feeds, its even and odd rows × columns: of these,
// tap r of phase p reads the ones of parity (p + r + 1) mod 2. That makes 4 channels of one; algorithm.cpp weighs it.
//
// Per task, a few tiles of 4×4 low-resolution pixels: the input at 25 points for every phase, a hundred in all, and
// from there on what winograd_product.h does.
// Bound: the FMA units.
#pragma once

#include "harvest.h"
#include "winograd_backward.h"

namespace myconv2d::MYCONV2D_ISA {

constexpr int phases = 4;  // 2·(row's) + column's

// visit(r, s, tap of 2×2) for the taps of a phase that read the pixels of one parity, or of any (−1).
template <typename F>
MYCONV2D_INLINE void for_each_folded(int phase, int parity, const F& visit) {
  const int p = phase / 2, q = phase % 2;
  for (int r = 0; r < 3; ++r)
    for (int s = 0; s < 3; ++s)
      if (parity < 0 || parity == 2 * ((p + r + 1) % 2) + (q + s + 1) % 2)
        visit(r, s, 2 * ((p + r + 1) / 2 - p) + (q + s + 1) / 2 - q);
}

// visit(feed, parity, first channel of the weight) for the parts of an image of low resolution: an upsampled feed itself
// (parity −1), a quarter of the pixels of any other.
template <typename F>
void for_each_low_part(const Feeds& feeds, const F& visit) {
  if (feeds.first.upsample) visit(feeds.first, -1, 0);
  else for (int parity = 0; parity < 4; ++parity) visit(feeds.first, parity, 0);
  if (feeds.second.upsample) visit(feeds.second, -1, feeds.first.channels);
  else for (int parity = 0; parity < 4; ++parity) visit(feeds.second, parity, feeds.first.channels);
}

inline int64_t low_channels(const Feeds& feeds) {
  int64_t channels = 0;
  for_each_low_part(feeds, [&](const Feed& feed, int, int64_t) { channels += feed.channels; });
  return channels;
}

// The pixels of one parity, as an image of its own.
inline int64_t first_of(int parity, const Strides& s) { return parity < 0 ? 0 : parity / 2 * s.h + parity % 2 * s.w; }
inline Strides strides_of(int parity, const Strides& s) { return parity < 0 ? s : Strides{s.n, s.c, 2 * s.h, 2 * s.w}; }

inline Feed low_part(const Feed& feed, int parity) {
  return {feed.data + first_of(parity, feed.strides), strides_of(parity, feed.strides), feed.channels, feed.scale,
          feed.shift, false};
}

inline FeedSource low_source(const Feeds& feeds, int64_t height, int64_t width) {
  FeedSource source({}, height / 2, width / 2);
  Feed* part = source.parts;
  for_each_low_part(feeds, [&](const Feed& feed, int parity, int64_t) {
    if (feed.channels == 0) return;
    *part++ = low_part(feed, parity);
    source.channels += feed.channels;
  });
  return source;
}

// As far as a gradient is wanted.
inline FeedSink low_sink(const Feeds& feeds, const FeedGradient& first, const FeedGradient& second, TaskSums* sums,
                         int64_t height, int64_t width) {
  FeedSink sink{{}, sums, 0, height / 2, width / 2};
  FeedSink::Part* part = sink.parts;
  for_each_low_part(feeds, [&](const Feed& feed, int parity, int64_t) {
    const FeedGradient& gradient = &feed == &feeds.first ? first : second;
    if (feed.channels == 0 || (&feed == &feeds.second && !second.data)) return;
    *part++ = {low_part(feed, parity), {gradient.data ? gradient.data + first_of(parity, gradient.strides) : nullptr,
                                        strides_of(parity, gradient.strides), gradient.scale, gradient.shift}};
    sink.channels += feed.channels;
  });
  return sink;
}

// folded[phase][(r, s)][k][low-resolution channel]: 2×2 kernels of the four phases.
inline float* fold_weights(const Threads& threads, const Feeds& feeds, int64_t low_channels, int64_t out_channels,
                           const float* weight, const WeightView& view) {
  const int64_t of_tap = out_channels * low_channels;
  float* folded = static_cast<float*>(scratch(Scratch::turned, phases * 4 * of_tap * sizeof(float)));
  parallel_for(threads, out_channels, [&](int64_t k) {
    float* row = folded + k * low_channels;
    for_each_low_part(feeds, [&](const Feed& feed, int parity, int64_t first) {
      for (int64_t c = 0; c < feed.channels; ++c) {
        float taps[phases * 4] = {};
        const float* from = weight + k * view.k + (first + c) * view.c;
        for (int phase = 0; phase < phases; ++phase)
          for_each_folded(phase, parity,
                          [&](int r, int s, int tap) { taps[4 * phase + tap] += from[r * view.r + s * view.s]; });
        for (int tap = 0; tap < phases * 4; ++tap) row[tap * of_tap + c] = taps[tap];
      }
      row += feed.channels;
    });
  });
  return folded;
}

// What product_by_tiles() asks for (winograd_product.h): the points of all phases, one behind the other.
struct UpsampledTiles {
  static constexpr int points = phases * F2x2::points, pixels = 2 * tile_size, kernels = points;
  static constexpr int64_t kernel_at(int64_t point) { return point; }
  Window result(const TileRun& run) const { return run.pixels(pixels); }
  const Feeds& feeds;

  int64_t depth(int64_t channels) const { return channels; }
  int64_t band(int64_t tiles, int64_t channels, int64_t width) const {
    return most((tile_size + 2) * (tiles * tile_size + 2) * round_up(channels, lanes), pixels * pixels * tiles * width);
  }

  void pack(const Threads& threads, const float* weight, const WeightView& view, int64_t channels, const Panels& panels,
            float* packed) const {
    const int64_t of_tap = panels.channels * channels, chunks = ceil_div(channels, lanes);
    const float* folded = fold_weights(threads, feeds, channels, panels.channels, weight, view);
    const WeightView of_phase{1, channels, 2 * of_tap, of_tap, 0};
    parallel_for(threads, panels.count * phases * chunks, [&](int64_t task) {
      const int64_t panel = task / chunks / phases, phase = task / chunks % phases, first = task % chunks * lanes;
      const int64_t width = panels.at(panel).width(), first_out = panels.first_channel(panel);
      transform_kernels<F2x2>(folded + phase * 4 * of_tap + first_out * channels + first, of_phase,
                              least(lanes, channels - first), panels.channels_of(panel), 1, 1,
                              packed + (first_out * points + phase * F2x2::points * width) * channels + first * width,
                              channels * width, width);
    });
  }

  // The windows of two phases of columns begin one pixel apart and share the transform of their rows.
  template <typename Source>
  void read(const Source& from, const TileRun& run, int64_t first, float* band, const TilesAtPoints& input) const {
    const Window under = run.window(tile_size + 2, 1, 1);
    const int64_t stride = round_up(from.channels, lanes), row = under.columns * stride;
    read_pixels(from, under, band, stride);
    for_each_vector(from.channels, [&]<typename V>(int64_t c) {
      for (int64_t t = 0; t < run.count; ++t)
        for (int p = 0; p < 2; ++p) {
          const float* window = band + p * row + t * tile_size * stride + c;
          float* to = input.at(first + t, c) + 2 * p * F2x2::points * input.step;
          transform<InputToPoints<F2x2>, V, 2>(
              [&](int i, int j) __attribute__((always_inline)) { return get<V>(window + i * row + j * stride); },
              [&](int i, int j, V value) __attribute__((always_inline)) {
                constexpr int reach = F2x2::reach;
                put(to + (j / reach * F2x2::points + i * reach + j % reach) * input.step, value);
              });
        }
    });
  }

  template <typename V, typename Store>
  static MYCONV2D_INLINE void restore(float* at_points, int64_t step, const Store& store) {
    const auto phase = [&]<int p, int q>() __attribute__((always_inline)) {
      TilesOf<F2x2>::restore<V>(
          at_points + (2 * p + q) * F2x2::points * step, step,
          [&](int i, int j, V value) __attribute__((always_inline)) { store(2 * i + p, 2 * j + q, value); });
    };
    phase.template operator()<0, 0>();
    phase.template operator()<0, 1>();
    phase.template operator()<1, 0>();
    phase.template operator()<1, 1>();
  }
};

inline TileGrid low_grid(const Conv2d& conv) { return tile_grid(conv.batch, conv.in_height / 2, conv.in_width / 2); }

// Of the convolution of feeds whose image is `conv`'s input.
template <typename Sink>
void upsampled_product(const Conv2d& conv, const Threads& threads, const Feeds& feeds, const float* weight,
                       const WeightView& view, const float* bias, const Sink& result) {
  const FeedSource source = low_source(feeds, conv.in_height, conv.in_width);
  product_by_tiles(UpsampledTiles{feeds}, low_grid(conv), 1, threads, source, weight, view, bias, 1, result);
}

// ---- backward -------------------------------------------------------------------------------------------------
// The gradient of a phase's tap t is a sum of x[i] · gy[i + 1 − phase − t] over low-resolution pixels i; that of the
// image, over phases and taps of the same. Both need of a phase a window that begins at i − phase.
inline PointSums upsampled_sums(const Conv2d& conv, const TileGrid& grid, int64_t channels) {
  return {F2x2{}, phases, grid, 1, channels, Panels(conv.out_channels)};
}

inline bool upsampled_backward_suits(const Conv2d& conv, const Feeds& feeds) {
  const TileGrid grid = low_grid(conv);
  return enough_ranges(upsampled_sums(conv, grid, low_channels(feeds)), grid);
}

// grad_weight from the sums: at the points of each phase, as 2×2 kernels turned by half a turn, unfolded.
inline void unfold_grad_weight(const Threads& threads, const PointSums& sums, const Feeds& feeds, float* partial,
                               float* grad_weight, const Strides& strides) {
  parallel_for(threads, feeds.first.channels + feeds.second.channels, [&](int64_t channel) {
    for_each_vector(sums.panels.channels, [&]<typename V>(int64_t k) {
      V g[3][3] = {};
      int64_t low = 0;
      for_each_low_part(feeds, [&](const Feed& feed, int parity, int64_t first) {
        const int64_t c = channel - first;
        for (int phase = 0; phase < phases && c >= 0 && c < feed.channels; ++phase) {
          V taps[2][2];
          transform<PointsToKernel<F2x2>, V>(
              [&](int i, int j) { return sums.total<V>(partial, i * F2x2::reach + j, phase, low + c, k); },
              [&](int r, int s, V value) { taps[1 - r][1 - s] = value; });
          for_each_folded(phase, parity, [&](int r, int s, int tap) { g[r][s] += taps[tap / 2][tap % 2]; });
        }
        low += feed.channels;
      });
      for (int64_t i = 0; i < least(sizeof(V) / sizeof(float), sums.panels.channels - k); ++i)
        for (int r = 0; r < 3; ++r)
          for (int s = 0; s < 3; ++s)
            grad_weight[channel * strides.c + (k + i) * strides.n + r * strides.h + s * strides.w] = g[r][s][i];
    });
  });
}

// grad_input, of low_sink(), and grad_weight are null where they are not wanted.
template <typename Grads>
void upsampled_backward(const Conv2d& conv, const Threads& threads, const Grads& grad_output, const Feeds& feeds,
                        const float* weight, const WeightView& view, const FeedSink* grad_input, float* grad_weight,
                        const Strides& grad_strides, float* grad_bias) {
  const FeedSource source = low_source(feeds, conv.in_height, conv.in_width);
  const TileGrid grid = low_grid(conv);
  const PointSums sums = upsampled_sums(conv, grid, source.channels);
  const auto pack = [&](const Panels& panels) {  // packed[panel][point][(phase, k)][low-resolution channel]
    const int64_t out = conv.out_channels, chunks = ceil_div(out, lanes), of_tap = out * source.channels;
    const float* folded = fold_weights(threads, feeds, source.channels, out, weight, view);
    const WeightView turned{source.channels, 1, -2 * of_tap, -of_tap, 0};
    float* packed = static_cast<float*>(
        scratch(Scratch::weights, F2x2::points * phases * out * panels.padded() * sizeof(float)));
    parallel_for(threads, panels.count * phases * chunks, [&](int64_t task) {
      const int64_t panel = task / chunks / phases, phase = task / chunks % phases, k = task % chunks * lanes;
      const int64_t width = panels.at(panel).width(), first = panels.first_channel(panel);
      transform_kernels<F2x2>(folded + (4 * phase + 3) * of_tap + k * source.channels + first, turned,
                              least(lanes, out - k), panels.channels_of(panel), 1, 1,
                              packed + first * F2x2::points * phases * out + (phase * out + k) * width,
                              phases * out * width, width);
    });
    return packed;
  };
  const auto finish = [&](float* partial) {
    unfold_grad_weight(threads, sums, feeds, partial, grad_weight, grad_strides);
    if (grad_bias) sums.finish_bias(partial, grad_bias);
  };
  backward_by_tiles<F2x2, 2>(grid, sums, threads, grad_output, 1, 1, source, grad_input, pack, grad_weight, grad_bias,
                             finish);
}

}  // namespace myconv2d::MYCONV2D_ISA
