// Forward and grad_input of a 3×3 convolution on Hopper's tensor cores: the halo of a tile is loaded once,
// and wgmma multiplies nine shifted views of it; one thread's part. halo_shape.h has tiles and shared memory.
//
// In a plane of the halo, 16 bytes of channels a pixel, eight neighbouring pixels of a row are a core matrix
// wherever they begin. So a patch is an A of eight core matrices a halo row apart, its next channels are a
// plane further, and tap (r, s) is the same descriptor moved on by r rows and s pixels: no copy, no im2col. B
// are the filters, [tap][chunk][filter][16 bytes], in an order of its own: of D, thread q of four has the
// columns 8·j + 2·q + e, and there stand, for a few j, neighbouring filters: 16 bytes, stored at once.
//
// Bound by DRAM up to some 40 channels, as every tensor moves once, and the rims of the halos; above that by
// the tensor cores, and by shared memory where N is small, as a wgmma reads 64 + N rows of 32 bytes there.
// TF32 are fp32 words of which the tensor core ignores the 13 low bits: images are cut so, the filters
// rounded to nearest before (Machine::round).
#pragma once

#include "halo_shape.h"
#include "wgmma.h"

namespace myconv2d::cuda {

// Pixels whose channels lie side by side; strides in elements, 32 bits of which reach all pixels of an image.
template <class T>
struct HaloImages {
  T* data;
  int64_t image;
  int row, column;

  HOST_DEVICE T* at(int n, int y, int x) const { return data + n * image + (y * row + x * column); }
};

template <class T>
HaloImages<T> halo_images(T* data, const Strides& strides) {
  return {data, strides.n, static_cast<int>(strides.h), static_cast<int>(strides.w)};
}

template <class T>
struct HaloArguments {
  HaloShape shape;
  HaloImages<const T> image;
  const T* filter;       // packed (pack.h): a filter's taps one after another, all channels of each
  int64_t filter_pitch;  // elements from filter to filter
  bool turned;           // grad_input: tap (r, s) meets the pixel at (1 − r, 1 − s), not at (r − 1, s − 1)
  const T* bias;         // null for none
  int64_t bias_stride;
  HaloImages<T> out;
};

// A block's way through its tiles and, within each, through the blocks of channels, and the ring beside it.
struct HaloCursor {
  uint32_t tile;
  int block = 0, stage = 0;

  // True once a tile is complete.
  HOST_DEVICE bool advance(int channel_blocks, uint32_t to_next_tile) {
    stage = stage == halo_stages - 1 ? 0 : stage + 1;
    if (++block < channel_blocks) return false;
    block = 0;
    tile += to_next_tile;
    return true;
  }
};

// Machine is the processor's part: asynchronous copies and wgmma (halo.cu; in tests halo_machine.h).
template <class Machine, int N>
class HaloThread {
 public:
  using T = typename Machine::Element;
  using Arguments = HaloArguments<T>;

  HOST_DEVICE HaloThread(const Arguments& arguments, uint32_t block, uint32_t blocks, int thread,
                         unsigned char* shared)
      : args_(arguments),
        shared_(shared),
        filters_(Machine::address(shared) + arguments.shape.bias_bytes()),
        stages_(filters_ + arguments.shape.filter_bytes()),
        thread_(thread) {
    const HaloTile& tile = arguments.shape.tile;
    const int patch = Machine::uniform(thread / warpgroup), in_image = patch % (tile.down * tile.across);
    image_ = patch / (tile.down * tile.across);
    row_ = in_image / tile.across * patch_side;
    column_ = in_image % tile.across * patch_side;
    const int splits = arguments.shape.splits;
    to_next_tile_ = blocks / splits;
    first_filter_ = split_off(block, splits) * N;
    loaded_.tile = multiplied_.tile = block;
    const int64_t tiles = ceil_div(arguments.shape.tiles - block, to_next_tile_);
    steps_ = static_cast<int>(tiles) * arguments.shape.channel_blocks;
  }

  HOST_DEVICE int steps() const { return steps_; }
  HOST_DEVICE float (&sums()) [N / 2] { return sum_; }

  // Bias and filters, those beyond the last one as zeros; they count to the first step's copies.
  HOST_DEVICE void load_filters() {
    const HaloShape& shape = args_.shape;
    if (thread_ < N) {
      const int filter = first_filter_ + thread_;
      const bool there = args_.bias && filter < shape.filters;
      bias()[thread_] = there ? static_cast<float>(args_.bias[filter * args_.bias_stride]) : 0.0f;
    }
    for_each_filter_chunk([&](uint32_t target, int filter, int tap, int chunk) {
      const int row = first_filter_ + filter, channel = chunk * shape.chunk;
      const bool there = row < shape.filters && channel < shape.channels;
      const int source = (args_.turned ? halo_taps - 1 - tap : tap) * shape.channels + channel;
      Machine::copy(target, there ? args_.filter + row * args_.filter_pitch + source : args_.filter, there);
    });
  }

  // The next stage on its way, zeros for what lies outside the image; nothing beyond the last one.
  HOST_DEVICE void load() {
    const HaloShape& shape = args_.shape;
    if (started_ < steps_) {
      const Corner corner = corner_of(loaded_.tile);
      const uint32_t stage = stages_ + loaded_.stage * shape.tile.stage();
      const int first_chunk = loaded_.block * halo_planes;
      for (int i = thread_; i < halo_planes * shape.tile.halo_pixels(); i += shape.tile.threads()) {
        const int plane = i % halo_planes, pixel = i / halo_planes;
        if (first_chunk + plane >= shape.chunks) continue;
        const int image = shape.halo_image.quotient(pixel), in_image = pixel - image * shape.halo_image.value,
                  row = shape.halo_columns.quotient(in_image),
                  column = in_image - row * shape.halo_columns.value;
        const int n = corner.n + image, y = corner.y + row - 1, x = corner.x + column - 1,
                  channel = (first_chunk + plane) * shape.chunk;
        const bool inside =
            n < shape.batch && static_cast<uint32_t>(y) < static_cast<uint32_t>(shape.height) &&
            static_cast<uint32_t>(x) < static_cast<uint32_t>(shape.width) && channel < shape.channels;
        Machine::copy(stage + plane * shape.tile.plane() + pixel * 16,
                      inside ? args_.image.at(n, y, x) + channel : args_.image.data, inside);
      }
      loaded_.advance(shape.channel_blocks, to_next_tile_);
    }
    ++started_;
    Machine::commit();
  }

  // Waits until this thread's copies for the step are complete, and makes them visible to the tensor core.
  HOST_DEVICE void arrive(int step) {
    Machine::template wait<halo_stages - 2>();
    if (Machine::rounds && step == 0)
      for_each_filter_chunk([](uint32_t target, int, int, int) { Machine::round(target); });
    Machine::publish();
  }

  // Starts the products of one stage; D begins anew with the first block of channels.
  HOST_DEVICE void multiply() {
    const HaloShape& shape = args_.shape;
    const int columns = shape.tile.halo_columns(), plane = shape.tile.plane();
    const int pixel = (image_ * shape.tile.halo_rows() + row_) * columns + column_;
    const int first_chunk = multiplied_.block * halo_planes,
              halves = (shape.chunks - first_chunk) / step_chunks;
    const int to_next_tap = shape.chunks * shape.filter_plane() / 16;
    uint64_t a = operand(stages_ + multiplied_.stage * shape.tile.stage() + pixel * 16, plane, columns * 16);
    uint64_t b = operand(filters_ + first_chunk * shape.filter_plane(), shape.filter_plane(), 8 * 16);
    bool add = multiplied_.block != 0;
#pragma unroll 1  // else the compiler keeps the descriptors of all views in registers
    for (int half = 0; half < smaller(halves, halo_planes / step_chunks); ++half) {
      uint64_t view = a, filters = b;
      Machine::open();
#pragma unroll
      for (int r = 0; r < 3; ++r) {
#pragma unroll
        for (int s = 0; s < 3; ++s) {
          Machine::multiply(sum_, view + s, filters, add);
          filters += to_next_tap;
          add = true;
        }
        view += columns;
      }
      Machine::close();
      a += step_chunks * plane / 16;
      b += step_chunks * shape.filter_plane() / 16;
    }
  }

  // Once the products are there: the results of a complete tile, plus bias, 16 bytes at a time.
  HOST_DEVICE void write_result() {
    const uint32_t tile = multiplied_.tile;
    if (!multiplied_.advance(args_.shape.channel_blocks, to_next_tile_)) return;
    const HaloShape& shape = args_.shape;
    const Corner corner = corner_of(tile);
    const int thread = thread_ % warpgroup, n = corner.n + image_;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int pixel = d_row(thread, h);
      const int y = corner.y + row_ + pixel / patch_side, x = corner.x + column_ + pixel % patch_side;
      if (n >= shape.batch || y >= shape.height || x >= shape.width) continue;
      T* out = args_.out.at(n, y, x) + first_filter_;
#pragma unroll
      for (int group = 0; group < N / (4 * vector); ++group) {
        const int filter = 4 * vector * group + thread % 4 * vector;
        if (first_filter_ + filter >= shape.filters) continue;
        Chunk<T> result;
#pragma unroll
        for (int i = 0; i < vector; ++i) {
          const int j = group * (vector / 2) + i / 2;
          result.value[i] = static_cast<T>(sum_[4 * j + 2 * h + i % 2] + bias()[filter + i]);
        }
        *reinterpret_cast<Chunk<T>*>(out + filter) = result;
      }
    }
  }

 private:
  static constexpr int vector = Chunk<T>::size;  // filters that a thread stores at once

  struct Corner {  // the first pixel of a tile
    int n, y, x;
  };

  HOST_DEVICE Corner corner_of(uint32_t tile) const {
    const HaloShape& shape = args_.shape;
    const int across = split_off(tile, shape.tiles_across), down = split_off(tile, shape.tiles_down);
    return {static_cast<int>(tile) * shape.tile.images, down * shape.tile.rows(),
            across * shape.tile.columns()};
  }

  HOST_DEVICE float* bias() const { return reinterpret_cast<float*>(shared_); }

  // The column of B, and so of D, that a filter has: see above.
  HOST_DEVICE static int column_of(int filter) {
    const int group = filter / (4 * vector), q = filter / vector % 4, i = filter % vector;
    return d_column(q, group * (vector / 2) + i / 2, i % 2);
  }

  // Neighbouring threads have neighbouring chunks of a filter.
  template <class Visit>
  HOST_DEVICE void for_each_filter_chunk(Visit&& visit) const {
    const HaloShape& shape = args_.shape;
    const int chunks = shape.filter_chunks.value;
    for (int i = thread_; i < N * chunks; i += shape.tile.threads()) {
      const int filter = shape.filter_chunks.quotient(i), in_filter = i - filter * chunks,
                tap = shape.tap_chunks.quotient(in_filter), chunk = in_filter - tap * shape.chunks;
      visit(filters_ + in_filter * shape.filter_plane() + column_of(filter) * 16, filter, tap, chunk);
    }
  }

  const Arguments& args_;
  unsigned char* shared_;
  uint32_t filters_, stages_;  // addresses in shared memory
  int thread_, first_filter_;
  int image_, row_, column_;  // of this warpgroup's patch in the tile
  uint32_t to_next_tile_;
  int steps_, started_ = 0;
  HaloCursor loaded_, multiplied_;
  float sum_[N / 2];  // of D
};

// The life of a block. `phase` runs a function for every thread and then meets at a barrier; `products` waits
// for the tensor cores instead, `each` for nothing. While a stage is multiplied the one that the step before
// has freed is loaded: the barrier in between has seen the end of its products.
template <class Phase, class Products, class Each>
HOST_DEVICE void run_halo(Phase&& phase, Products&& products, Each&& each, int steps) {
  each([](auto& thread) {
    thread.load_filters();
    for (int stage = 0; stage < halo_stages - 1; ++stage) thread.load();
  });
  for (int step = 0; step < steps; ++step) {
    phase([step](auto& thread) { thread.arrive(step); });
    products([](auto& thread) {
      thread.multiply();
      thread.load();
    });
    each([](auto& thread) { thread.write_result(); });
  }
}

}  // namespace myconv2d::cuda
