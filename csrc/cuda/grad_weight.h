// grad_weight + grad_bias: the implicit GEMM over the pixels, one thread's part of it.
//
// D[row, k] = Σ_pixel image[pixel, row] · grad_output[pixel, k] with row = (tap, channel), for one group. A
// block computes M = 64 rows × N outputs over a run of pixels (split-K): the splits' partial sums go to a
// workspace and are added in order by a second kernel (grad_weight.cu), so the result is the same bit for
// bit from run to run; how many splits there are follows from the shape alone. A chunk is 16 bytes of
// consecutive pixels of one row, gathered element by element; where the pixels of a step lie is worked out
// once, in a table in shared memory. grad_bias costs nothing to read: the first row tile's blocks add up
// what they load of grad_output anyway. Bound by the gather's instructions, a shared and a global read and
// some ten more per element.
#pragma once

#include "correlation.h"
#include "tile.h"

namespace myconv2d::cuda {

struct GradWeightShape {
  Axis h, w;  // of the forward convolution
  int64_t batch;
  int groups, group_channels, group_outputs;
  Strides image, grad_output, weight;  // weight: the result's
  bool bias;
  int64_t splits, split_pixels;

  HOST_DEVICE int rows() const { return h.taps * w.taps * group_channels; }
  HOST_DEVICE int64_t pixels() const { return batch * h.outputs * w.outputs; }
  HOST_DEVICE int64_t outputs() const { return static_cast<int64_t>(groups) * group_outputs; }
  HOST_DEVICE int64_t weights() const { return outputs() * rows(); }
  HOST_DEVICE int64_t partial_size() const { return weights() + (bias ? outputs() : 0); }  // of one split
  // At least one: grad_bias is wanted even where there are no channels.
  HOST_DEVICE int row_tiles(int m) const { return static_cast<int>(ceil_div(rows() ? rows() : 1, m)); }
  HOST_DEVICE int64_t tiles(int m, int n) const { return row_tiles(m) * ceil_div(group_outputs, n) * groups; }
};

inline GradWeightShape grad_weight_shape(const Conv2d& conv, const Strides& grad_output, const Strides& input,
                                         const Strides& weight, bool bias) {
  const Correlation forward = correlation(conv, false, input, grad_output);
  GradWeightShape shape{};
  shape.h = forward.h.axis(0);
  shape.w = forward.w.axis(0);
  shape.batch = conv.batch;
  shape.groups = forward.groups;
  shape.group_channels = forward.channels;
  shape.group_outputs = forward.filters;
  shape.image = input;
  shape.grad_output = grad_output;
  shape.weight = weight;
  shape.bias = bias;
  return shape;
}

// Enough blocks to fill a large device a few times over, but not so many that a split has less than eight
// steps.
inline void set_splits(GradWeightShape& shape, int64_t tiles, int step) {
  constexpr int64_t wanted_blocks = 512, least_steps = 8;
  const int64_t steps = ceil_div(shape.pixels(), step), wanted = ceil_div(wanted_blocks, tiles);
  const int64_t split_steps =
      smaller(steps, steps / wanted < least_steps ? least_steps : ceil_div(steps, wanted));
  shape.splits = steps ? ceil_div(steps, split_steps) : 1;  // no pixels: one split of zeros
  shape.split_pixels = split_steps * step;
}

template <class T, class Accumulator>
struct GradWeightArguments {
  GradWeightShape shape;
  const T *image, *grad_output;
  Accumulator* partial;  // [split][weights: output, tap, channel; then the bias: output]
};

// Where a pixel lies: its offset in the image at tap (0, 0), that tap's position, its offset in grad_output.
struct alignas(16) PixelEntry {
  int64_t image;
  int y, x;
  int64_t grad_output;
};

template <class Tile>
struct GradWeightShared {
  SharedTiles<Tile> tiles;
  PixelEntry pixels[2][step_size<typename Tile::Element>];
  typename Tile::Accumulator bias[Tile::N][row_chunks];
};

template <class Tile>
class GradWeightThread {
 public:
  using T = typename Tile::Element;
  using Accumulator = typename Tile::Accumulator;
  using Arguments = GradWeightArguments<T, Accumulator>;
  using Shared = GradWeightShared<Tile>;

  HOST_DEVICE GradWeightThread(const Arguments& arguments, uint32_t block, int thread, Shared& shared)
      : args_(arguments), shared_(shared), thread_(thread) {
    const GradWeightShape& shape = arguments.shape;
    const int tile_m = split_off(block, shape.row_tiles(Tile::M));
    first_output_ = split_off(block, static_cast<int>(ceil_div(shape.group_outputs, Tile::N))) * Tile::N;
    group_ = split_off(block, shape.groups);
    split_ = block;
    first_row_ = tile_m * Tile::M;
    first_pixel_ = split_ * shape.split_pixels;
    end_pixel_ = smaller(first_pixel_ + shape.split_pixels, shape.pixels());
    sums_bias_ = shape.bias && tile_m == 0;

    for (int i = 0; i < a_chunks; ++i) {
      const int row = first_row_ + a_place(i).row, tap = row < shape.rows() ? row / shape.group_channels : 0;
      const int64_t channel =
          static_cast<int64_t>(group_) * shape.group_channels + row - tap * shape.group_channels;
      dy_[i] = tap / shape.w.taps * shape.h.dilation;
      dx_[i] = tap % shape.w.taps * shape.w.dilation;
      height_[i] = row < shape.rows() ? shape.h.size : 0;  // a row beyond the last lies outside every image
      row_offset_[i] = channel * shape.image.c + dy_[i] * shape.image.h + dx_[i] * shape.image.w;
    }
    for (int i = 0; i < b_chunks; ++i) {
      const int output = first_output_ + b_place(i).row;
      const bool live = copies_b(i) && output < shape.group_outputs;
      output_offset_[i] =
          live ? (static_cast<int64_t>(group_) * shape.group_outputs + output) * shape.grad_output.c : -1;
    }
  }

  HOST_DEVICE int steps() const {
    return static_cast<int>(ceil_div(end_pixel_ - first_pixel_, step_size<T>));
  }

  // Fills the table for a step, one thread a pixel.
  HOST_DEVICE void locate(int step) {
    if (thread_ >= step_size<T>) return;
    const GradWeightShape& shape = args_.shape;
    const int64_t index = first_pixel_ + static_cast<int64_t>(step) * step_size<T> + thread_;
    PixelEntry entry{0, INT32_MIN, 0, -1};  // beyond the last pixel: outside under every tap
    if (index < end_pixel_) {
      const Pixel pixel = locate_pixel(index, shape.h.outputs, shape.w.outputs);
      entry.y = pixel.p * shape.h.step + shape.h.origin;
      entry.x = pixel.q * shape.w.step + shape.w.origin;
      entry.image = pixel.n * shape.image.n + entry.y * shape.image.h + entry.x * shape.image.w;
      entry.grad_output =
          pixel.n * shape.grad_output.n + pixel.p * shape.grad_output.h + pixel.q * shape.grad_output.w;
    }
    shared_.pixels[step & 1][thread_] = entry;
  }

  HOST_DEVICE void load(int step) {
    const PixelEntry* pixels = shared_.pixels[step & 1];
#pragma unroll
    for (int i = 0; i < a_chunks; ++i)
#pragma unroll
      for (int e = 0; e < chunk; ++e) {
        const PixelEntry& pixel = pixels[a_place(i).chunk * chunk + e];
        const bool inside =
            static_cast<uint32_t>(pixel.y + dy_[i]) < static_cast<uint32_t>(height_[i]) &&
            static_cast<uint32_t>(pixel.x + dx_[i]) < static_cast<uint32_t>(args_.shape.w.size);
        a_[i].value[e] = load_if(inside, args_.image + pixel.image + row_offset_[i]);
      }
#pragma unroll
    for (int i = 0; i < b_chunks; ++i)
#pragma unroll
      for (int e = 0; e < chunk; ++e) {
        const int64_t pixel = copies_b(i) ? pixels[b_place(i).chunk * chunk + e].grad_output : -1;
        const bool inside = pixel >= 0 && output_offset_[i] >= 0;
        b_[i].value[e] = load_if(inside, args_.grad_output + pixel + output_offset_[i]);
      }
  }

  HOST_DEVICE void store(int stage) {
#pragma unroll
    for (int i = 0; i < a_chunks; ++i)
      store_chunk<Tile>(shared_.tiles.a[stage], a_place(i).row, a_place(i).chunk, a_[i]);
#pragma unroll
    for (int i = 0; i < b_chunks; ++i) {
      if (!copies_b(i)) continue;
      store_chunk<Tile>(shared_.tiles.b[stage], b_place(i).row, b_place(i).chunk, b_[i]);
      if (sums_bias_)
#pragma unroll
        for (int e = 0; e < chunk; ++e) bias_[i] += static_cast<Accumulator>(b_[i].value[e]);
    }
  }

  HOST_DEVICE void multiply(int stage) {
    tile_.multiply(shared_.tiles.a[stage], shared_.tiles.b[stage], thread_);
  }

  HOST_DEVICE void stage_result() {
    tile_.for_each(thread_, [this](int m, int n, auto value) { shared_.tiles.result[m][n] = value; });
    for (int i = 0; i < b_chunks; ++i)
      if (copies_b(i)) shared_.bias[b_place(i).row][b_place(i).chunk] = bias_[i];
  }

  HOST_DEVICE void write_result() {
    const GradWeightShape& shape = args_.shape;
    Accumulator* partial = args_.partial + split_ * shape.partial_size();
    const int64_t output = static_cast<int64_t>(group_) * shape.group_outputs + first_output_;
    const int rows = smaller(shape.rows() - first_row_, Tile::M),
              outputs = smaller(shape.group_outputs - first_output_, Tile::N);
    for (int i = thread_; i < Tile::M * Tile::N; i += block_threads) {
      const int m = i % Tile::M, n = i / Tile::M;
      if (m < rows && n < outputs)
        partial[(output + n) * shape.rows() + first_row_ + m] = shared_.tiles.result[m][n];
    }
    if (sums_bias_ && thread_ < outputs) {
      const Accumulator* sums = shared_.bias[thread_];
      partial[shape.weights() + output + thread_] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }
  }

 private:
  static constexpr int chunk = Chunk<T>::size;
  static constexpr int a_chunks = Tile::M * row_chunks / block_threads;
  static constexpr int b_chunks = (Tile::N * row_chunks + block_threads - 1) / block_threads;

  HOST_DEVICE bool copies_b(int i) const { return thread_ + i * block_threads < Tile::N * row_chunks; }

  // Which chunk a thread gathers: neighbours walk along the channels in channels_last, else along the pixels.
  struct Place {
    int row, chunk;
  };
  HOST_DEVICE static Place place(int index, int rows, bool along_rows) {
    return along_rows ? Place{index % rows, index / rows} : Place{index / row_chunks, index % row_chunks};
  }
  HOST_DEVICE Place a_place(int i) const {
    return place(thread_ + i * block_threads, Tile::M, args_.shape.image.c == 1);
  }
  HOST_DEVICE Place b_place(int i) const {
    return place(thread_ + i * block_threads, Tile::N, args_.shape.grad_output.c == 1);
  }

  const Arguments& args_;
  Shared& shared_;
  int thread_, group_, first_row_, first_output_;
  bool sums_bias_;
  int64_t split_, first_pixel_, end_pixel_;
  int dy_[a_chunks], dx_[a_chunks], height_[a_chunks];
  int64_t row_offset_[a_chunks], output_offset_[b_chunks];
  Chunk<T> a_[a_chunks], b_[b_chunks];
  Accumulator bias_[b_chunks] = {};
  Tile tile_;
};

// Where element `index` of a split's partial sums belongs in the result.
HOST_DEVICE int64_t weight_offset(const GradWeightShape& shape, int64_t index) {
  const int64_t output = divide(index, shape.rows());
  const int row = static_cast<int>(index - output * shape.rows()), tap = row / shape.group_channels;
  return output * shape.weight.n + (row - tap * shape.group_channels) * shape.weight.c +
         tap / shape.w.taps * shape.weight.h + tap % shape.w.taps * shape.weight.w;
}

}  // namespace myconv2d::cuda
