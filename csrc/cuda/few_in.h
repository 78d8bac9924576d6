// Few channels in (1 to 4), any number of filters out: forward of a first layer, grad_input of a last one.
//
// All filters and the halo of all channels lie in shared memory (few_channels.h); a thread computes 4 outputs
// of a column × 8 filters, in registers, and writes them 16 bytes at a time where the filters lie side by
// side. Neighbouring threads write neighbouring addresses: along the filters in channels_last, else along the
// columns. Bound by DRAM, nearly all of it the output; in 16 bits and with 3 channels, by the FFMA rate.
#pragma once

#include "few_channels.h"

namespace myconv2d::cuda {

constexpr int few_in_filters = 8;  // of a thread

// Threads side by side over the filters, and the floats of a row of filters.
inline int64_t filter_lanes(int64_t filters) { return ceil_div(filters, few_in_filters); }
inline int64_t filter_pitch(int64_t filters) {
  return ceil_div(filter_lanes(filters) * few_in_filters - 4, 32) * 32 + 4;
}

// Floats of shared memory: a row for the bias, the filters, the planes.
inline int64_t few_in_filter_floats(const Correlation& shape) {
  return (1 + shape.h.most_taps() * shape.w.most_taps() * shape.channels) * filter_pitch(shape.filters);
}

inline int64_t few_in_shared(const Correlation& shape, const FewTile& tile) {
  return few_in_filter_floats(shape) + shape.channels * plane_pitch(shape, tile);
}

inline bool choose_few_in_grid(const Correlation& shape, FewGrid& grid) {
  return choose_grid(shape, grid,
                     [&](const FewTile& tile) { return few_in_shared(shape, tile) * 4 <= most_shared; });
}

// Threads follow each other by lane, column, band in channels_last, else by column, band, lane.
template <class T>
void arrange_few_in(FewArguments<T>& args) {
  args.lanes = Divisor(filter_lanes(args.shape.filters));
  args.filter_pitch = static_cast<int>(filter_pitch(args.shape.filters));
  args.filter_floats = static_cast<int>(few_in_filter_floats(args.shape));
  args.items = args.lanes.value * args.grid.band_columns.value;
  const bool along_filters = args.shape.out.c == 1;
  args.inner = along_filters ? args.lanes : args.grid.tile_columns;
  args.middle = along_filters ? args.grid.tile_columns : args.grid.bands;
}

template <class T>
class FewInThread {
 public:
  using Arguments = FewArguments<T>;

  HOST_DEVICE FewInThread(const Arguments& arguments, uint32_t block, int thread, float* shared)
      : args_(arguments),
        halo_(halo_of(arguments, block)),
        thread_(thread),
        shared_(shared),
        planes_(shared + arguments.filter_floats) {}

  HOST_DEVICE bool three_rows() const { return halo_.three_rows(); }

  HOST_DEVICE void load() {
    const Correlation& shape = args_.shape;
    const int pitch = args_.filter_pitch;
#pragma unroll 2
    for (int i = thread_; i < args_.grid.positions.value; i += few_threads) {
      const int64_t source = halo_.source(i, shape.image);
#pragma unroll
      for (int c = 0; c < most_few; ++c)
        if (c < shape.channels)
          planes_[c * args_.grid.pitch + i] =
              static_cast<float>(load_if(source >= 0, args_.image + source + c * shape.image.c));
    }
    load_filters(shared_ + pitch, pitch, thread_, args_.filter, args_.filter_strides, halo_, shape.filters);
    for (int f = thread_; f < pitch; f += few_threads)
      shared_[f] =
          static_cast<float>(load_if(args_.bias && f < shape.filters, args_.bias + f * args_.bias_stride));
  }

  template <bool three_rows>
  HOST_DEVICE void compute() {
    const bool along_filters = args_.shape.out.c == 1;
    for (int i = thread_; i < args_.items; i += few_threads) {
      const int outer = args_.inner.quotient(i), a = i - outer * args_.inner.value;
      const int c = args_.middle.quotient(outer), b = outer - c * args_.middle.value;
      compute_band<three_rows>(along_filters ? a : c, along_filters ? b : a, along_filters ? c : b);
    }
  }

 private:
  static constexpr int chunk = Chunk<T>::size, chunks = few_in_filters / chunk;

  template <bool three_rows>
  HOST_DEVICE void compute_band(int lane, int column, int band) {
    const Correlation& shape = args_.shape;
    const FewGrid& grid = args_.grid;
    const int image = grid.tile_rows.quotient(band * band_rows);
    const Pixel pixel{image, band * band_rows - image * grid.tile.rows, column};  // its first
    // A thread's chunks of 16 bytes lie `lanes` apart, so that a warp writes whole lines.
    const int pitch = args_.filter_pitch, next_chunk = chunks == 1 ? 4 : args_.lanes.value * chunk;
    const float* filter = shared_ + lane * chunk;

    float sum[band_rows][few_in_filters], bias[few_in_filters];
    read_filters(filter, next_chunk, bias);
#pragma unroll
    for (int i = 0; i < band_rows; ++i)
#pragma unroll
      for (int f = 0; f < few_in_filters; ++f) sum[i][f] = bias[f];
    const float* plane = planes_ + halo_.corner(pixel);
    for (int c = 0; c < shape.channels; ++c, plane += grid.pitch)
      add_channel<few_in_filters, three_rows>(plane, halo_, filter + (1 + c * grid.taps.value) * pitch, pitch,
                                              next_chunk, sum);
    write(pixel, lane * chunk, args_.lanes.value * chunk, sum);
  }

  HOST_DEVICE void write(const Pixel& pixel, int first_filter, int next_chunk,
                         const float (&sum)[band_rows][few_in_filters]) const {
    const Correlation& shape = args_.shape;
    const int64_t offset = halo_.output(pixel, shape.out);
    if (offset < 0) return;
    T* out = args_.out + offset;
    const int rows = halo_.h.outputs - halo_.first_row - pixel.p;
#pragma unroll
    for (int i = 0; i < band_rows; ++i, out += halo_.h.output_step * shape.out.h) {
      if (i >= rows) return;
#pragma unroll
      for (int j = 0; j < chunks; ++j) {
        const int f = first_filter + j * next_chunk;
        if (args_.out_vectors) {
          Chunk<T> values;
#pragma unroll
          for (int e = 0; e < chunk; ++e) values.value[e] = static_cast<T>(sum[i][j * chunk + e]);
          if (f < shape.filters) *reinterpret_cast<Chunk<T>*>(out + f) = values;
        } else {
#pragma unroll
          for (int e = 0; e < chunk; ++e)
            if (f + e < shape.filters) out[(f + e) * shape.out.c] = static_cast<T>(sum[i][j * chunk + e]);
        }
      }
    }
  }

  const Arguments& args_;
  Halo halo_;
  int thread_;
  float *shared_, *planes_;
};

// The life of a block; `phase` as in run_block (tile.h).
template <class Phase>
HOST_DEVICE void run_few_in(Phase&& phase, bool three_rows) {
  phase([](auto& thread) { thread.load(); });
  if (three_rows)
    phase([](auto& thread) { thread.template compute<true>(); });
  else
    phase([](auto& thread) { thread.template compute<false>(); });
}

}  // namespace myconv2d::cuda
