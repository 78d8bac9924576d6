// Forward and grad_input: the implicit GEMM of a correlation (correlation.h), one thread's part of it.
//
// D[pixel, filter] = Σ_k A[pixel, k] · B[filter, k] with k = (tap, channel), channels padded to whole
// chunks. A block computes M = 128 pixels × N filters of one group and one residue class. Thread m gathers
// row m of A: each chunk is 16 bytes of channels under one tap, so halo and channel bounds are tested once
// a chunk, the taps advance alike in all threads, and neighbouring threads read neighbouring pixels. Where
// the channels lie side by side (channels_last) a chunk is one 16-byte load. B comes packed (pack.h):
// plain rows, zero-padded. Bound by shared memory's traffic and the gather's instructions when filters are
// many, by DRAM when they are few.
#pragma once

#include "correlation.h"
#include "tile.h"

namespace myconv2d::cuda {

template <class T>
struct CorrelateArguments {
  Correlation shape;
  const T* image;
  const T* filter;       // packed: row f of tap set t and group g is row (t · groups + g) · filters + f
  int64_t filter_pitch;  // elements from row to row
  const T* bias;         // null for none
  int64_t bias_stride;
  T* out;

  HOST_DEVICE int64_t blocks(int m, int n) const {
    return ceil_div(shape.most_pixels(), m) * ceil_div(shape.filters, n) * shape.groups * shape.classes();
  }
};

// Whether sixteen bytes of channels can be loaded at once wherever a tap falls.
template <class T>
bool loads_vectors(const Correlation& shape, const T* image) {
  return shape.channels > 0 && moves_vectors(shape.image, shape.channels, image);
}

template <class Tile>
struct CorrelateShared {
  SharedTiles<Tile> tiles;
  int64_t out_offset[Tile::M];  // of each pixel's result; negative beyond the last pixel
};

template <class Tile, bool vector_loads>
class CorrelateThread {
 public:
  using T = typename Tile::Element;
  using Arguments = CorrelateArguments<T>;
  using Shared = CorrelateShared<Tile>;
  static_assert(Tile::M == block_threads, "a thread owns a row of A");

  HOST_DEVICE CorrelateThread(const Arguments& arguments, uint32_t block, int thread, Shared& shared)
      : args_(arguments), shared_(shared), thread_(thread) {
    const Correlation& shape = arguments.shape;
    const int tile_n = split_off(block, static_cast<int>(ceil_div(shape.filters, Tile::N)));
    group_ = split_off(block, shape.groups);
    const int residue_w = split_off(block, shape.w.classes()),
              residue_h = split_off(block, shape.h.classes());
    const Axis h = shape.h.axis(residue_h), w = shape.w.axis(residue_w);

    // Row m of A, and where its result goes.
    const int64_t index = static_cast<int64_t>(block) * Tile::M + thread;
    const bool live = index < shape.batch * h.outputs * w.outputs;
    const Pixel pixel = live ? locate_pixel(index, h.outputs, w.outputs) : Pixel{0, 0, 0};
    y_ = pixel.p * h.step + h.origin;
    x_ = pixel.q * w.step + w.origin;
    height_ = live ? h.size : 0;  // a row beyond the last pixel lies outside every image
    width_ = w.size;
    image_offset_ = pixel.n * shape.image.n + static_cast<int64_t>(group_) * shape.channels * shape.image.c +
                    y_ * shape.image.h + x_ * shape.image.w;
    shared.out_offset[thread] =
        live ? pixel.n * shape.out.n +
                   static_cast<int64_t>(h.first_output + pixel.p * h.output_step) * shape.out.h +
                   static_cast<int64_t>(w.first_output + pixel.q * w.output_step) * shape.out.w
             : -1;

    taps_h_ = h.taps;
    taps_w_ = w.taps;
    dilation_h_ = h.dilation;
    dilation_w_ = w.dilation;
    const int64_t channel_chunks = ceil_div(shape.channels, chunk);
    steps_ = static_cast<int>(ceil_div(h.taps * w.taps * channel_chunks, row_chunks));
    to_next_channel_ = chunk * shape.image.c;
    to_next_tap_ = w.dilation * shape.image.w - (channel_chunks - 1) * to_next_channel_;
    to_next_line_ = h.dilation * shape.image.h - (w.taps - 1) * w.dilation * shape.image.w -
                    (channel_chunks - 1) * to_next_channel_;

    // The chunks of B that this thread copies; rows beyond the last filter repeat it, their results are
    // dropped.
    first_filter_ = tile_n * Tile::N;
    const int64_t set =
        h.taps && w.taps ? static_cast<int64_t>(h.first_tap) * shape.w.tap_sets() + w.first_tap : 0;
    for (int i = 0; i < b_chunks; ++i) {
      const int filter = smaller(first_filter_ + b_row(i), shape.filters - 1);
      const int64_t row = (set * shape.groups + group_) * shape.filters + filter;
      filter_row_[i] = arguments.filter + row * arguments.filter_pitch + thread % row_chunks * chunk;
    }
  }

  HOST_DEVICE int steps() const { return steps_; }

  HOST_DEVICE void locate(int) {}

  HOST_DEVICE void load(int step) {
#pragma unroll
    for (int i = 0; i < row_chunks; ++i) {
      a_[i] = gather();
      next_chunk();
    }
    const int64_t column = static_cast<int64_t>(smaller(step, steps_ - 1)) * step_size<T>;
#pragma unroll
    for (int i = 0; i < b_chunks; ++i)
      if (copies_b()) b_[i] = *reinterpret_cast<const Chunk<Packed<T>>*>(filter_row_[i] + column);
  }

  HOST_DEVICE void store(int stage) {
#pragma unroll
    for (int i = 0; i < row_chunks; ++i) store_chunk<Tile>(shared_.tiles.a[stage], thread_, i, a_[i]);
#pragma unroll
    for (int i = 0; i < b_chunks; ++i)
      if (copies_b()) store_chunk<Tile>(shared_.tiles.b[stage], b_row(i), thread_ % row_chunks, b_[i]);
  }

  HOST_DEVICE void multiply(int stage) {
    tile_.multiply(shared_.tiles.a[stage], shared_.tiles.b[stage], thread_);
  }

  HOST_DEVICE void stage_result() {
    tile_.for_each(thread_, [this](int m, int n, auto value) { shared_.tiles.result[m][n] = value; });
  }

  // Neighbouring threads write neighbouring addresses: along the filters in channels_last, else along the
  // pixels.
  HOST_DEVICE void write_result() {
    using Accumulator = typename Tile::Accumulator;
    const Strides& out = args_.shape.out;
    const bool along_filters = out.c == 1;
    int m = along_filters ? thread_ / Tile::N : thread_, n = along_filters ? thread_ % Tile::N : 0;
    const int next_m = along_filters ? block_threads / Tile::N : 0, next_n = along_filters ? 0 : 1;
    const int filters = args_.shape.filters - first_filter_;
    const int64_t first = static_cast<int64_t>(group_) * args_.shape.filters + first_filter_;
    for (int i = 0; i < Tile::N; ++i, m += next_m, n += next_n) {
      const int64_t pixel = shared_.out_offset[m];
      if (pixel < 0 || n >= filters) continue;
      Accumulator value = shared_.tiles.result[m][n];
      if (args_.bias) value += static_cast<Accumulator>(args_.bias[(first + n) * args_.bias_stride]);
      args_.out[pixel + (first + n) * out.c] = static_cast<T>(value);
    }
  }

 private:
  using Gathered = Chunk<std::conditional_t<vector_loads, Packed<T>, T>>;
  static constexpr int chunk = Chunk<T>::size;
  static constexpr int b_chunks = (Tile::N * row_chunks + block_threads - 1) / block_threads;

  HOST_DEVICE bool copies_b() const { return Tile::N * row_chunks >= block_threads || b_row(0) < Tile::N; }
  HOST_DEVICE int b_row(int i) const { return (thread_ + i * block_threads) / row_chunks; }

  // The chunk under the current tap and channel: zeros in the halo, beyond the last channel and the last tap.
  HOST_DEVICE Gathered gather() const {
    const int y = y_ + tap_h_ * dilation_h_, x = x_ + tap_w_ * dilation_w_;
    const bool inside = tap_h_ < taps_h_ && static_cast<uint32_t>(y) < static_cast<uint32_t>(height_) &&
                        static_cast<uint32_t>(x) < static_cast<uint32_t>(width_);
    const T* source = args_.image + image_offset_;
    Gathered result{};
    if constexpr (vector_loads) {
      if (inside) result = *reinterpret_cast<const Gathered*>(source);
    } else {
      const int channels = args_.shape.channels - channel_;
#pragma unroll
      for (int e = 0; e < chunk; ++e)
        result.value[e] = load_if(inside && e < channels, source + e * args_.shape.image.c);
    }
    return result;
  }

  HOST_DEVICE void next_chunk() {
    channel_ += chunk;
    const bool tap = channel_ >= args_.shape.channels;
    channel_ = tap ? 0 : channel_;
    tap_w_ += tap;
    const bool line = tap_w_ == taps_w_;
    tap_w_ = line ? 0 : tap_w_;
    tap_h_ += line;
    image_offset_ += line ? to_next_line_ : tap ? to_next_tap_ : to_next_channel_;
  }

  const Arguments& args_;
  Shared& shared_;
  int thread_, group_, first_filter_, steps_;
  int y_, x_, height_, width_, taps_h_, taps_w_, dilation_h_, dilation_w_;
  int tap_h_ = 0, tap_w_ = 0, channel_ = 0;               // of the next chunk,
  int64_t image_offset_;                                  // and where it lies
  int64_t to_next_channel_, to_next_tap_, to_next_line_;  // from chunk to chunk
  const T* filter_row_[b_chunks];
  Gathered a_[row_chunks];
  Chunk<Packed<T>> b_[b_chunks];
  Tile tile_;
};

}  // namespace myconv2d::cuda
