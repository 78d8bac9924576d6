// Any number of channels in, few filters out (1 to 4): forward of a last layer, grad_input of a first one.
//
// Channels pass through shared memory 16 at a time: while one slice is multiplied the next is on its way into
// registers, 16 bytes of channels to a load where they lie side by side. The threads of a block divide the
// channels of a slice between them, so that small images fill the device too; at the end each block adds its
// threads' sums in order. Bound by DRAM in fp32, nearly all of it the image, and by the FFMA rate in 16 bits.
#pragma once

#include "few_channels.h"

namespace myconv2d::cuda {

constexpr int slice_channels = 16;

template <class T>
constexpr int slice_loads = 6 * Chunk<float>::size / Chunk<T>::size;  // chunks of a slice per thread

// Floats of shared memory: all filters, then a slice's planes, whose place the threads' sums take in the end.
inline int64_t few_out_filter_floats(const Correlation& shape) {
  return int64_t{most_few} * shape.h.most_taps() * shape.w.most_taps() * shape.channels;
}

inline int64_t few_out_shared(const Correlation& shape, const FewTile& tile) {
  const int64_t planes = smaller(slice_channels, shape.channels) * plane_pitch(shape, tile);
  return few_out_filter_floats(shape) + larger<int64_t>(planes, few_threads * band_rows * shape.filters);
}

inline bool choose_few_out_grid(const Correlation& shape, FewGrid& grid) {
  return choose_grid(shape, grid, [&](const FewTile& tile) {
    constexpr int most_values =
        few_threads * slice_loads<float> * Chunk<float>::size;  // of a slice, in registers
    return few_out_shared(shape, tile) * 4 <= most_shared && tile.pixels() <= few_threads * band_rows &&
           most_positions(shape, tile) * slice_channels <= most_values;
  });
}

// As many threads share the channels of a slice as there are for them.
template <class T>
void arrange_few_out(FewArguments<T>& args) {
  const int wanted = smaller(slice_channels, args.shape.channels);
  args.lanes = Divisor(smaller(few_threads / args.grid.band_columns.value, wanted));
  args.filter_pitch = most_few;
  args.filter_floats = static_cast<int>(few_out_filter_floats(args.shape));
}

template <class T, int filters>
class FewOutThread {
 public:
  using Arguments = FewArguments<T>;

  HOST_DEVICE FewOutThread(const Arguments& arguments, uint32_t block, int thread, float* shared)
      : args_(arguments),
        halo_(halo_of(arguments, block)),
        thread_(thread),
        filter_(shared),
        planes_(shared + arguments.filter_floats) {
    const Correlation& shape = arguments.shape;
    const FewGrid& grid = arguments.grid;
    for (int i = 0; i < loads; ++i) {
      const Place place = place_of(i);
      source_[i] = place.position < grid.positions.value ? halo_.source(place.position, shape.image) : -1;
      if (source_[i] >= 0) source_[i] += place.chunk * chunk * shape.image.c;
    }
    // What this thread multiplies: one band of one column, every lanes-th channel.
    lane_ = grid.band_columns.quotient(thread);
    const int item = thread - lane_ * grid.band_columns.value, band = grid.tile_columns.quotient(item);
    first_pixel_ = band * band_rows * grid.tile.columns + item - band * grid.tile.columns;
    corner_ = halo_.corner(grid.pixel(first_pixel_));
  }

  HOST_DEVICE bool three_rows() const { return halo_.three_rows(); }
  HOST_DEVICE int slices() const { return static_cast<int>(ceil_div(args_.shape.channels, slice_channels)); }

  HOST_DEVICE void load_weights() {
    load_filters(filter_, most_few, thread_, args_.filter, args_.filter_strides, halo_, filters);
  }

  HOST_DEVICE void load(int slice) {
    const T* image = args_.image + slice * slice_channels * args_.shape.image.c;
    const int channels = args_.shape.channels - slice * slice_channels;
#pragma unroll
    for (int i = 0; i < loads; ++i) {
      const int left = channels - place_of(i).chunk * chunk;
      if (args_.image_vectors) {
        next_[i] = {};
        if (source_[i] >= 0 && left > 0) next_[i] = *reinterpret_cast<const Chunk<T>*>(image + source_[i]);
      } else {
#pragma unroll
        for (int e = 0; e < chunk; ++e)
          next_[i].value[e] =
              load_if(source_[i] >= 0 && e < left, image + source_[i] + e * args_.shape.image.c);
      }
    }
  }

  HOST_DEVICE void store(int slice) {
    const int channels = args_.shape.channels - slice * slice_channels;
#pragma unroll
    for (int i = 0; i < loads; ++i) {
      const Place place = place_of(i);
      if (place.position >= args_.grid.positions.value) continue;
#pragma unroll
      for (int e = 0; e < chunk; ++e)
        if (place.chunk * chunk + e < channels)
          planes_[(place.chunk * chunk + e) * args_.grid.pitch + place.position] =
              static_cast<float>(next_[i].value[e]);
    }
  }

  template <bool three_rows>
  HOST_DEVICE void multiply(int slice) {
    if (lane_ >= args_.lanes.value) return;
    const int taps = args_.grid.taps.value, first = slice * slice_channels,
              channels = smaller(args_.shape.channels - first, slice_channels);
    for (int c = lane_; c < channels; c += args_.lanes.value)
      add_channel<filters, three_rows>(planes_ + c * args_.grid.pitch + corner_, halo_,
                                       filter_ + (first + c) * taps * most_few, most_few, 4, sum_);
  }

  // The sums of a lane, filter by filter, in the order of the pixels.
  HOST_DEVICE void stage_result() {
    if (lane_ >= args_.lanes.value) return;
#pragma unroll
    for (int f = 0; f < filters; ++f)
#pragma unroll
      for (int i = 0; i < band_rows; ++i)
        planes_[(lane_ * filters + f) * args_.grid.pixels.value + first_pixel_ +
                i * args_.grid.tile.columns] = sum_[i][f];
  }

  HOST_DEVICE void write_result() {
    const Correlation& shape = args_.shape;
    const Divisor& pixels = args_.grid.pixels;
    const bool along_filters = shape.out.c == 1;
    for (int i = thread_; i < pixels.value * filters; i += few_threads) {
      const int f = along_filters ? i % filters : pixels.quotient(i),
                pixel = along_filters ? i / filters : i - f * pixels.value;
      float sum = args_.bias ? static_cast<float>(args_.bias[f * args_.bias_stride]) : 0.f;
      for (int lane = 0; lane < args_.lanes.value; ++lane)
        sum += planes_[(lane * filters + f) * pixels.value + pixel];
      const int64_t offset = halo_.output(args_.grid.pixel(pixel), shape.out);
      if (offset >= 0) args_.out[offset + f * shape.out.c] = static_cast<T>(sum);
    }
  }

 private:
  static constexpr int chunk = Chunk<T>::size, chunks = slice_channels / chunk, loads = slice_loads<T>;

  // Which chunk of a slice a thread loads: neighbours walk along the channels in channels_last, else the
  // positions.
  struct Place {
    int position, chunk;
  };
  HOST_DEVICE Place place_of(int i) const {
    const int index = thread_ + i * few_threads;
    if (args_.shape.image.c == 1) return {index / chunks, index % chunks};
    const Divisor& positions = args_.grid.positions;
    const int chunk_of = positions.quotient(index);
    return {chunk_of < chunks ? index - chunk_of * positions.value : positions.value, chunk_of};
  }

  const Arguments& args_;
  Halo halo_;
  int thread_;
  float *filter_, *planes_;
  int lane_, first_pixel_, corner_;
  int64_t source_[loads];  // in the image, of the first slice; negative outside it
  Chunk<T> next_[loads];
  float sum_[band_rows][filters] = {};
};

// The life of a block; `phase` as in run_block (tile.h).
template <class Phase>
HOST_DEVICE void run_few_out(Phase&& phase, int slices, bool three_rows) {
  phase([](auto& thread) { thread.load_weights(); });
  for (int slice = -1; slice < slices; ++slice) {
    phase([=](auto& thread) {
      if (slice + 1 < slices) thread.load(slice + 1);
      if (slice >= 0) {
        if (three_rows)
          thread.template multiply<true>(slice);
        else
          thread.template multiply<false>(slice);
      }
    });
    if (slice + 1 < slices) phase([=](auto& thread) { thread.store(slice + 1); });
  }
  phase([](auto& thread) { thread.stage_result(); });
  phase([](auto& thread) { thread.write_result(); });
}

}  // namespace myconv2d::cuda
