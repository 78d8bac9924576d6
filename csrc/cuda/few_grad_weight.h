// grad_weight + grad_bias of layers with few channels (1 to 4) on one side, in one pass over both tensors.
//
// The tensor with few channels is `narrow`, the other `wide`: grad_output where the layer has few channels
// in, the input where it has few out (stride 1). So rows = (narrow channel, tap) are few, and
//
//   D[row, channel] = Σ_pixel narrow[window of the pixel, row] · wide[pixel, channel]
//
// (taps in the order of the image) is a sum over a long run of pixels. A block takes some rectangles of
// pixels, one after the other through shared memory: the narrow halo as planes, the wide pixels as rows of
// channels, the next rectangle on its way into registers. A thread adds up 9 rows × 4 channels over every
// lanes_-th pixel; at the end the block adds its lanes' sums in order and writes one partial result to a
// workspace, and a second kernel adds those in order (reduce.cuh). No atomics: the same bits from run to run.
// Bound by DRAM, nearly all of it `wide`, where the narrow channel is one; else by the instructions around
// the FFMAs, of which every second one is an FFMA.
#pragma once

#include "few_grad_weight_shape.h"

namespace myconv2d::cuda {

template <class T>
struct FewGradWeightArguments {
  FewGradWeightShape shape;
  const T *narrow, *wide;
  bool wide_vectors;  // whether the channels of a wide pixel can be loaded 16 bytes at a time
  float* partial;     // [split][row][wide channel], then the bias
};

template <class T>
class FewGradWeightThread {
 public:
  using Arguments = FewGradWeightArguments<T>;

  HOST_DEVICE FewGradWeightThread(const Arguments& arguments, uint32_t block, int thread, float* shared)
      : args_(arguments),
        halo_(arguments.shape.grid, 0, 0),
        thread_(thread),
        corner_(reinterpret_cast<int*>(shared)),
        wide_(shared + few_gw_pixels),
        planes_(wide_ + few_gw_pixels * wide_pitch),
        sums_(shared) {
    const FewGradWeightShape& shape = arguments.shape;
    first_channel_ = split_off(block, shape.tiles_wide()) * wide_tile;
    first_group_ = split_off(block, shape.tiles_rows()) * most_row_groups;
    split_ = block;
    first_rectangle_ = divide(split_ * shape.grid.rectangles(), shape.splits);
    end_rectangle_ = divide((split_ + 1) * shape.grid.rectangles(), shape.splits);

    // What this thread adds up: channels of `wide` fastest, so that a warp reads whole rows of them.
    const int channels = smaller(shape.narrow.filters - first_channel_, wide_tile);
    channel_lanes_ = static_cast<int>(ceil_div(channels, channel_group));
    group_lanes_ = smaller(shape.groups() - first_group_, most_row_groups);
    lanes_ = few_threads / (channel_lanes_ * group_lanes_);
    lane_ = thread / (channel_lanes_ * group_lanes_);
    channel_ = thread % channel_lanes_ * channel_group;
    const int group = first_group_ + thread / channel_lanes_ % group_lanes_;
    for (int i = 0; i < row_group; ++i) {
      int row = group * row_group + i;
      if (row >= shape.rows())
        row = smaller(i % 3, shape.rows() - 1);  // beyond the last: any, its sums are dropped
      const int channel = row / shape.taps(), tap = row % shape.taps();
      const int r = tap / halo_.w.taps, s = tap % halo_.w.taps;
      shift_[i] = channel * shape.grid.pitch + r * halo_.h.dilation * shape.grid.halo_columns.value +
                  s * halo_.w.dilation;
    }
  }

  // Whether rows 3n, 3n + 1 and 3n + 2 are neighbours in a plane.
  HOST_DEVICE bool three_columns() const { return halo_.w.taps == 3 && halo_.w.dilation == 1; }

  HOST_DEVICE int rectangles() const { return static_cast<int>(end_rectangle_ - first_rectangle_); }

  // A rectangle's values on their way to shared memory.
  HOST_DEVICE void load(int number) {
    const FewGradWeightShape& shape = args_.shape;
    halo_.move_to(static_cast<uint32_t>(first_rectangle_ + number));
#pragma unroll
    for (int i = 0; i < narrow_loads; ++i) {
      const Value value = value_of(i);
      const bool there = value.channel < shape.narrow.channels;
      const int64_t source = there ? halo_.source(value.position, shape.narrow_strides) : -1;
      next_narrow_[i] = load_if(source >= 0, args_.narrow + source + value.channel * shape.narrow_strides.c);
    }
#pragma unroll
    for (int i = 0; i < wide_loads; ++i) {
      const Place place = place_of(i);
      const int left = shape.narrow.filters - place.channel;
      const int64_t offset = output_of(place.pixel);
      const T* source = args_.wide + offset + place.channel * shape.wide.c;
      if (args_.wide_vectors) {
        next_wide_[i] = {};
        if (offset >= 0 && left > 0) next_wide_[i] = *reinterpret_cast<const Chunk<T>*>(source);
      } else {
#pragma unroll
        for (int e = 0; e < chunk; ++e)
          next_wide_[i].value[e] = load_if(offset >= 0 && e < left, source + e * shape.wide.c);
      }
    }
    next_corner_ = output_of(thread_) < 0 ? -1 : halo_.corner(shape.grid.pixel(thread_));
  }

  HOST_DEVICE void store() {
#pragma unroll
    for (int i = 0; i < narrow_loads; ++i) {
      const Value value = value_of(i);
      if (value.channel < args_.shape.narrow.channels)
        planes_[value.channel * args_.shape.grid.pitch + value.position] =
            static_cast<float>(next_narrow_[i]);
    }
#pragma unroll
    for (int i = 0; i < wide_loads; ++i) {
      const Place place = place_of(i);
#pragma unroll
      for (int e = 0; e < chunk; e += channel_group) {
        Chunk<float> values;
#pragma unroll
        for (int j = 0; j < channel_group; ++j)
          values.value[j] = static_cast<float>(next_wide_[i].value[e + j]);
        *reinterpret_cast<Chunk<float>*>(wide_ + place.pixel * wide_pitch + place.channel - first_channel_ +
                                         e) = values;
      }
    }
    if (thread_ < few_gw_pixels) corner_[thread_] = next_corner_;
  }

  template <bool three_columns>
  HOST_DEVICE void multiply() {
    if (lane_ >= lanes_) return;
    const int pixels = args_.shape.grid.tile.pixels();
    const float* source = wide_ + lane_ * wide_pitch + channel_;
    for (int pixel = lane_; pixel < pixels; pixel += lanes_, source += lanes_ * wide_pitch) {
      const int corner = corner_[pixel];
      if (corner < 0) continue;
      const float* window = planes_ + corner;
      const auto wide = *reinterpret_cast<const Chunk<float>*>(source);
#pragma unroll
      for (int i = 0; i < row_group; ++i) {
        const float narrow = three_columns ? window[shift_[i / 3 * 3] + i % 3] : window[shift_[i]];
#pragma unroll
        for (int j = 0; j < channel_group; ++j) sum_[i][j] += narrow * wide.value[j];
      }
#pragma unroll
      for (int j = 0; j < channel_group; ++j) sum_[row_group][j] += wide.value[j];
    }
  }

  HOST_DEVICE void stage_result() {
#pragma unroll
    for (int i = 0; i <= row_group; ++i)
#pragma unroll
      for (int j = 0; j < channel_group; ++j)
        sums_[(i * channel_group + j) * few_threads + thread_] = sum_[i][j];
  }

  HOST_DEVICE void write_result() {
    const FewGradWeightShape& shape = args_.shape;
    float* partial = args_.partial + split_ * shape.partial_size();
    const int per_lane = channel_lanes_ * group_lanes_;
    for (int index = thread_; index < thread_sums * per_lane; index += few_threads) {
      const int sum = index / per_lane, owner = index - sum * per_lane;
      const int channel = first_channel_ + owner % channel_lanes_ * channel_group + sum % channel_group;
      const int group = first_group_ + owner / channel_lanes_, i = sum / channel_group;
      const int row = group * row_group + i;
      const bool bias = i == row_group;
      if (channel >= shape.narrow.filters || (bias ? group != 0 || !sums_wide() : row >= shape.rows()))
        continue;
      float total = 0;
      for (int lane = 0; lane < lanes_; ++lane) total += sums_[sum * few_threads + lane * per_lane + owner];
      partial[bias ? shape.weights() + channel : static_cast<int64_t>(row) * shape.narrow.filters + channel] =
          total;
    }
  }

  // grad_bias where grad_output is the narrow tensor: each split adds up its share of it.

  HOST_DEVICE bool sums_narrow() const {
    return args_.shape.bias && !args_.shape.bias_of_wide && first_channel_ == 0 && first_group_ == 0;
  }

  HOST_DEVICE void sum_narrow() {
    const FewGradWeightShape& shape = args_.shape;
    const int64_t pixels = shape.narrow.batch * shape.narrow_height * shape.narrow_width,
                  share = ceil_div(pixels, shape.splits), end = smaller((split_ + 1) * share, pixels);
    float sum[4] = {};
    for (int64_t index = split_ * share + thread_; index < end; index += few_threads) {
      const Pixel pixel = locate_pixel(index, shape.narrow_height, shape.narrow_width);
      const Strides& strides = shape.narrow_strides;
      const T* source = args_.narrow + pixel.n * strides.n + pixel.p * strides.h + pixel.q * strides.w;
#pragma unroll
      for (int c = 0; c < 4; ++c)
        sum[c] += static_cast<float>(load_if(c < shape.narrow.channels, source + c * strides.c));
    }
#pragma unroll
    for (int c = 0; c < 4; ++c) sums_[c * few_threads + thread_] = sum[c];
  }

  HOST_DEVICE void fold_narrow() {
    if (thread_ >= 64) return;
    float total = 0;  // 64 threads, each 16 of the 4 × 256 sums
    for (int i = 0; i < 16; ++i) total += sums_[thread_ / 16 * few_threads + i * 16 + thread_ % 16];
    sums_[4 * few_threads + thread_] = total;
  }

  HOST_DEVICE void write_narrow() {
    const FewGradWeightShape& shape = args_.shape;
    if (thread_ >= shape.narrow.channels) return;
    float total = 0;
    for (int i = 0; i < 16; ++i) total += sums_[4 * few_threads + thread_ * 16 + i];
    args_.partial[split_ * shape.partial_size() + shape.weights() + thread_] = total;
  }

 private:
  static constexpr int chunk = Chunk<T>::size, chunks = wide_tile / chunk;
  static constexpr int wide_loads = few_gw_pixels * chunks / few_threads;

  HOST_DEVICE bool sums_wide() const { return args_.shape.bias && args_.shape.bias_of_wide; }

  // Where a pixel of the rectangle lies in `wide`; negative where there is none.
  HOST_DEVICE int64_t output_of(int pixel) const {
    const FewGrid& grid = args_.shape.grid;
    return pixel < grid.pixels.value ? halo_.output(grid.pixel(pixel), args_.shape.wide) : -1;
  }

  // Which values of the halo a thread loads.
  struct Value {
    int channel, position;
  };
  HOST_DEVICE Value value_of(int i) const {
    const Divisor& positions = args_.shape.grid.positions;
    const int index = thread_ + i * few_threads, channel = positions.quotient(index);
    return {channel, index - channel * positions.value};
  }

  // Which chunk of `wide` a thread loads: neighbours walk along the channels in channels_last, else the pixels.
  struct Place {
    int pixel, channel;
  };
  HOST_DEVICE Place place_of(int i) const {
    const int index = thread_ + i * few_threads;
    const bool along_channels = args_.shape.wide.c == 1;
    return {along_channels ? index / chunks : index % few_gw_pixels,
            first_channel_ + (along_channels ? index % chunks : index / few_gw_pixels) * chunk};
  }

  const Arguments& args_;
  Halo halo_;
  int thread_;
  int* corner_;  // per pixel of the rectangle: where its window begins in a plane; negative where there is none
  float *wide_, *planes_, *sums_;
  int64_t split_, first_rectangle_, end_rectangle_;
  int first_channel_, first_group_, channel_lanes_, group_lanes_, lanes_, lane_, channel_;
  int shift_[row_group];  // from a window's corner to each row's value
  T next_narrow_[narrow_loads];
  Chunk<T> next_wide_[wide_loads];
  int next_corner_;
  float sum_[row_group + 1][channel_group] = {};
};

// The life of a block; `phase` as in run_block (tile.h).
template <class Phase>
HOST_DEVICE void run_few_grad_weight(Phase&& phase, int rectangles, bool three_columns, bool sums_narrow) {
  if (rectangles > 0) phase([](auto& thread) { thread.load(0); });
  for (int number = 0; number < rectangles; ++number) {
    const bool more = number + 1 < rectangles;
    phase([](auto& thread) { thread.store(); });
    phase([=](auto& thread) {
      if (more) thread.load(number + 1);
      if (three_columns)
        thread.template multiply<true>();
      else
        thread.template multiply<false>();
    });
  }
  phase([](auto& thread) { thread.stage_result(); });
  phase([](auto& thread) { thread.write_result(); });
  if (!sums_narrow) return;
  phase([](auto& thread) { thread.sum_narrow(); });
  phase([](auto& thread) { thread.fold_narrow(); });
  phase([](auto& thread) { thread.write_narrow(); });
}

}  // namespace myconv2d::cuda
