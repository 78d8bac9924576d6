// The halo kernel (halo.h): which convolutions it serves, its tiles, and where all lies in shared memory.
//
// A patch of 8×8 pixels is what one warpgroup computes: the 64 rows of a wgmma. A tile is up to four patches,
// side by side, one below the other or of different images, and a block computes one after another.
//
// Shared memory holds the bias, the filters of all nine taps for the block's life, and a ring of stages. A
// stage is the halo of a tile for one block of channels, 64 bytes of each pixel, as four planes of 16 bytes a
// pixel. So the depth of the images decides what fits by the filters alone.
#pragma once

#include "few_channels.h"

namespace myconv2d::cuda {

constexpr int patch_side = 8;
constexpr int warpgroup = 128;      // threads
constexpr int most_patches = 4;     // of a tile, so the warpgroups of a block
constexpr int halo_taps = 9;        // of 3×3
constexpr int halo_planes = 4;      // of a stage
constexpr int halo_stages = 3;      // two on their way while one is multiplied
constexpr int step_chunks = 2;      // of 16 bytes: the k of one wgmma, in every type
constexpr int narrowest_halo = 32;  // filters of a block, and
constexpr int widest_halo = 128;    // … of the widest
constexpr int block_shared = 227 << 10, multiprocessor_shared = 228 << 10;  // bytes, compute capability 9.0

// The patches of a tile.
struct HaloTile {
  int images, down, across;

  HOST_DEVICE int patches() const { return images * down * across; }
  HOST_DEVICE int threads() const { return patches() * warpgroup; }
  HOST_DEVICE int rows() const { return down * patch_side; }
  HOST_DEVICE int columns() const { return across * patch_side; }
  HOST_DEVICE int halo_rows() const { return rows() + 2; }
  HOST_DEVICE int halo_columns() const { return columns() + 2; }
  HOST_DEVICE int halo_pixels() const { return images * halo_rows() * halo_columns(); }

  // Bytes from plane to plane: four neighbouring threads copy the four chunks of a pixel, and where planes
  // begin a quarter of the banks apart the writes of eight threads, two pixels, meet in no bank.
  HOST_DEVICE int plane() const { return round_up(halo_pixels() * 16 - 32, 128) + 32; }
  HOST_DEVICE int stage() const { return halo_planes * plane(); }
};

struct HaloShape {
  int batch, height, width;  // of the image and of the result
  int channels, filters;
  int chunk;           // elements of 16 bytes
  int chunks;          // of a pixel, with one of zeros where they are odd
  int channel_blocks;  // of four chunks
  int columns;         // filters of a block
  int splits;          // blocks of filters
  HaloTile tile;
  int tiles_down, tiles_across;
  int64_t tiles;
  Divisor halo_columns, halo_image, tap_chunks, filter_chunks;  // of the loops that load

  // Bytes from a chunk of all filters to the next: one chunk more than these, so that the chunks of one
  // filter, which neighbouring threads copy, lie in different banks.
  HOST_DEVICE int filter_plane() const { return (columns + 1) * 16; }
  HOST_DEVICE int filter_bytes() const { return halo_taps * chunks * filter_plane(); }
  HOST_DEVICE int bias_bytes() const { return columns * static_cast<int>(sizeof(float)); }
  HOST_DEVICE int shared_bytes() const { return bias_bytes() + filter_bytes() + halo_stages * tile.stage(); }

  // Blocks that run side by side on a multiprocessor; a thread has up to 128 registers.
  int resident() const {
    return smaller(multiprocessor_shared / (shared_bytes() + 1024), most_patches / tile.patches());
  }
  int64_t blocks() const {
    const int64_t room = static_cast<int64_t>(multiprocessors) * resident() / splits;
    return splits * smaller(tiles, larger<int64_t>(room, 1));
  }
};

// --- on the host -------------------------------------------------------------------------------------------

inline void set_tile(HaloShape& shape, const HaloTile& tile) {
  shape.tile = tile;
  shape.tiles_down = static_cast<int>(ceil_div(shape.height, tile.rows()));
  shape.tiles_across = static_cast<int>(ceil_div(shape.width, tile.columns()));
  shape.tiles = ceil_div(shape.batch, tile.images) * shape.tiles_down * shape.tiles_across;
}

// Of the tiles that fit, the one for which the busiest multiprocessor loads the fewest bytes, halos and
// filters; the largest of several. False if none fits.
inline bool choose_halo_tile(HaloShape& shape) {
  constexpr HaloTile tiles[] = {{1, 2, 2}, {1, 1, 4}, {1, 4, 1}, {2, 1, 2}, {2, 2, 1},
                                {4, 1, 1}, {1, 1, 2}, {1, 2, 1}, {2, 1, 1}, {1, 1, 1}};
  HaloTile best{};
  int64_t least = INT64_MAX;
  for (const HaloTile& tile : tiles) {
    set_tile(shape, tile);
    if (shape.shared_bytes() > block_shared) continue;
    const int64_t rounds = ceil_div(shape.tiles * shape.splits, multiprocessors);
    const int64_t bytes = rounds * tile.halo_pixels() * shape.chunks * 16 +
                          smaller<int64_t>(rounds, shape.resident()) * shape.filter_bytes();
    if (bytes < least) least = bytes, best = tile;
  }
  if (least < INT64_MAX) set_tile(shape, best);
  return least < INT64_MAX;
}

// Whether 32 bits hold what the kernel counts; patches, of which there are as many as tiles or more, are.
inline bool halo_counts(const Conv2d& conv) {
  const int64_t patches =
      conv.batch * ceil_div(conv.in_height, patch_side) * ceil_div(conv.in_width, patch_side);
  return fits(conv) && larger(conv.in_channels, conv.out_channels) <= INT16_MAX &&
         larger(conv.batch, patches) <= INT32_MAX;
}

// The widest block of filters that fits, not wider than needed. False if not even the narrowest does.
inline bool choose_halo_shape(const Conv2d& conv, bool transposed, int element_bytes, HaloShape& shape) {
  shape = {};
  shape.batch = static_cast<int>(conv.batch);
  shape.height = static_cast<int>(conv.in_height), shape.width = static_cast<int>(conv.in_width);
  shape.channels = static_cast<int>(transposed ? conv.out_channels : conv.in_channels);
  shape.filters = static_cast<int>(transposed ? conv.in_channels : conv.out_channels);
  shape.chunk = 16 / element_bytes;
  shape.chunks = round_up(static_cast<int>(ceil_div(shape.channels, shape.chunk)), step_chunks);
  shape.channel_blocks = static_cast<int>(ceil_div(shape.chunks, halo_planes));
  shape.columns = narrowest_halo;
  while (shape.columns < widest_halo && shape.columns < shape.filters) shape.columns *= 2;
  for (; shape.columns >= narrowest_halo; shape.columns /= 2) {
    shape.splits = static_cast<int>(ceil_div(shape.filters, shape.columns));
    if (!choose_halo_tile(shape)) continue;
    shape.halo_columns = Divisor(shape.tile.halo_columns());
    shape.halo_image = Divisor(shape.tile.halo_rows() * shape.tile.halo_columns());
    shape.tap_chunks = Divisor(shape.chunks);
    shape.filter_chunks = Divisor(halo_taps * shape.chunks);
    return true;
  }
  return false;
}

// What decides beside shape and type: of a call, or as explain assumes it.
struct Setting {
  bool allow_tf32;
  bool channels_last;  // image and result, as suits_halo has it
  int capability;      // of the device, 90 for 9.0
};

// Whether the kernel can load, or store, the pixels of such an image, `channels` deep.
inline bool suits_halo(const Conv2d& conv, Type type, int64_t channels, const Strides& strides,
                       const void* data) {
  const bool vectors = type == Type::f32
                           ? moves_vectors(strides, channels, static_cast<const float*>(data))
                           : moves_vectors(strides, channels, static_cast<const uint16_t*>(data));
  const auto small = [](int64_t stride) { return stride >= 0 && stride <= INT32_MAX; };
  return vectors && small(strides.h) && small(strides.w) &&
         conv.in_height * strides.h + conv.in_width * strides.w <= INT32_MAX;
}

// Why this kernel cannot serve, in words; null if it can.
inline const char* halo_problem(const Conv2d& conv, Type type, bool transposed, const Setting& setting) {
#if !defined(MYCONV2D_HALO)
  return "the library was built without machine code for sm_90a";
#endif
  if (setting.capability != 90) return "wgmma is of compute capability 9.0 alone";
  const bool half = type == Type::f16 || type == Type::bf16;
  if (!half && !(type == Type::f32 && setting.allow_tf32)) return "wgmma takes float16, bfloat16 and TF32";
  const auto all = [](int64_t wanted, auto... values) { return ((values == wanted) && ...); };
  if (!all(3, conv.kernel_height, conv.kernel_width) || conv.groups != 1 ||
      !all(1, conv.stride_h, conv.stride_w, conv.padding_h, conv.padding_w, conv.dilation_h, conv.dilation_w))
    return "it is for 3x3 kernels of stride, padding, dilation and groups 1";
  const int element_bytes = half ? 2 : 4;
  if (conv.in_channels * element_bytes % 16 != 0 || conv.out_channels * element_bytes % 16 != 0)
    return "channels are not whole units of 16 bytes";
  if (!setting.channels_last) return "image or result is not in channels_last";
  if (conv.batch * conv.in_pixels() * conv.in_channels * conv.out_channels == 0) return "nothing to compute";
  if (!halo_counts(conv)) return "more than 32767 channels, or sizes beyond 32 bits";
  HaloShape shape;
  if (!choose_halo_shape(conv, transposed, element_bytes, shape)) return "the filters do not fit shared memory";
  return nullptr;
}

}  // namespace myconv2d::cuda
