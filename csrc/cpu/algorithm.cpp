#include "algorithm.h"

namespace myconv2d {
namespace {

// F(4×4, 3×3) computes whole 4×4 tiles: what hangs over the edge is wasted.
double tiles_used(int64_t height, int64_t width) {
  const int64_t tiles = ((height + 3) / 4) * ((width + 3) / 4);
  return static_cast<double>(height * width) / static_cast<double>(16 * tiles);
}

// A strided grad_input takes the phases of the stride one by one, each with its own taps, or side by side as channels,
// each with the taps of all. Counted in vectors of 16 channels at every tap.
bool suits_phases(const Conv2d& conv) {
  if (conv.stride_h > 8 || conv.stride_w > 8 || conv.dilation_h != 1 || conv.dilation_w != 1) return false;
  const auto taps = [](int64_t kernel, int64_t stride, int64_t padding) {  // of all phases: the outputs they reach
    return (stride - 1 + padding) / stride + (kernel - 1 - padding) / stride + 1;
  };
  const int64_t channels = conv.group_in_channels();
  const int64_t together = taps(conv.kernel_height, conv.stride_h, conv.padding_h) *
                           taps(conv.kernel_width, conv.stride_w, conv.padding_w) *
                           ((conv.stride_h * conv.stride_w * channels + 15) / 16);
  return channels < 16 && together < conv.taps() * ((channels + 15) / 16);
}

// The first layer of many networks, 7×7: of the taps that a stride of 2 leaves to a phase three make an F(2, 3). With
// fewer taps, or few out channels to share the source's factors, the direct product is faster.
bool suits_strided_few_in(const Conv2d& conv) {
  const auto suits = [](int64_t kernel, int64_t stride) { return stride == 2 && kernel >= 5 && kernel <= 7; };
  return suits(conv.kernel_height, conv.stride_h) && suits(conv.kernel_width, conv.stride_w) &&
         conv.group_in_channels() >= 1 && conv.group_in_channels() <= few_channels && conv.group_out_channels() >= 32;
}

// By minimal filtering 81 products for 4×4 outputs, instead of 144. What that saves for a pair of channels must be more
// than it costs to transform their kernel; for grad_weight, to add up the ranges of its sums and take them back.
bool suits_strided_tiles(const Conv2d& conv, Pass pass) {
  const bool same = conv.kernel_height == 3 && conv.kernel_width == 3 && conv.stride_h == 2 && conv.stride_w == 2 &&
                    conv.dilation_h == 1 && conv.dilation_w == 1;
  const double used = tiles_used(conv.out_height, conv.out_width);
  const double saved = static_cast<double>(conv.batch * conv.out_pixels()) * (9 - 81 / (16 * used));
  return same && conv.group_in_channels() >= 16 && conv.group_out_channels() >= 16 && conv.out_pixels() > 0 &&
         used > .7 && saved > (pass == Pass::grad_weight ? 3000 : 1500);
}

bool fills_lanes(int64_t group) { return group == 2 || group == 4 || group == 8; }

}  // namespace

bool fits_a_block(const Conv2d& conv) {
  const int64_t r = conv.kernel_height, s = conv.kernel_width, k = conv.out_channels, c = conv.in_channels;
  const bool simple = conv.groups == 1 && conv.stride_h == 1 && conv.stride_w == 1 && conv.dilation_h == 1 &&
                      conv.dilation_w == 1;
  return simple && ((r == 3 && s == 3) ||
                    (r <= widest_few_kernel && s <= widest_few_kernel && (k < c ? k : c) <= few_channels));
}

// Products for a pair of channels: 100 for 8×8 pixels against 36 for 4×4, of whole tiles both.
bool suits_low_resolution(const Conv2d& conv, int64_t low_channels) {
  const bool same = conv.taps() == 9 && conv.kernel_height == 3 && conv.padding_h == 1 && conv.padding_w == 1;
  const auto tiles = [&](int64_t size) {
    return ((conv.in_height + size - 1) / size) * ((conv.in_width + size - 1) / size);
  };
  return same && 100 * low_channels * tiles(8) < 36 * conv.in_channels * tiles(4);
}

bool keeps_full(const Conv2d& conv) {  // the moments, (C·R·S)², are to be no more than the weight has
  const bool small = conv.in_channels <= few_channels && conv.kernel_height == 3 && conv.kernel_width == 3;
  return !small || conv.in_channels * conv.taps() > conv.out_channels;
}

Algorithm choose_algorithm(const Conv2d& conv, Type type, Pass pass) {
  if (conv.groups > 1 && conv.group_in_channels() == 1 && conv.group_out_channels() == 1) return Algorithm::depthwise;

  const bool in_float = type == Type::f32 || type == Type::f16 || type == Type::bf16;
  if (in_float && conv.groups > 1 && conv.group_in_channels() == conv.group_out_channels() &&
      fills_lanes(conv.group_in_channels()))
    return Algorithm::small_groups;

  const bool strided = conv.stride_h != 1 || conv.stride_w != 1;
  if (strided && pass == Pass::grad_input && suits_phases(conv)) return Algorithm::direct_phases;

  const bool dilated = conv.dilation_h != 1 || conv.dilation_w != 1;
  if (in_float && !dilated && pass == Pass::forward && suits_strided_few_in(conv)) return Algorithm::few_in;
  if (in_float && suits_strided_tiles(conv, pass)) return Algorithm::strided;
  if (!in_float || strided) return Algorithm::direct;

  // A product reads `in` channels and gives `out`; grad_weight reads both and is named after the fewer.
  const bool turned = pass == Pass::grad_input;
  const int64_t in = turned ? conv.group_out_channels() : conv.group_in_channels();
  const int64_t out = turned ? conv.group_in_channels() : conv.group_out_channels();
  if (in == 0 || out == 0) return Algorithm::direct;
  // Groups these do one by one, halo and all, and they know no dilation.
  const bool unfit = pass == Pass::grad_weight && (conv.groups > 1 || dilated);
  if (conv.kernel_height <= widest_few_kernel && conv.kernel_width <= widest_few_kernel && !unfit) {
    if (out <= few_channels && (pass != Pass::grad_weight || out < in)) return Algorithm::few_out;
    if (in <= few_channels && (out >= 8 || pass == Pass::grad_weight)) return Algorithm::few_in;
  }

  const int64_t height = turned ? conv.in_height : conv.out_height, width = turned ? conv.in_width : conv.out_width;
  const double used = tiles_used((height + conv.dilation_h - 1) / conv.dilation_h,
                                 (width + conv.dilation_w - 1) / conv.dilation_w);
  // A larger kernel is cut into blocks of 3×3. A tile takes 36 products for each, for 16 outputs of R·S.
  const int64_t blocks = ((conv.kernel_height + 2) / 3) * ((conv.kernel_width + 2) / 3);
  const bool suits = blocks == 1 ? conv.taps() == 9 : in % 16 == 0;
  const double saved = used * 16 * static_cast<double>(conv.taps()) / static_cast<double>(36 * blocks);
  const bool winograd = suits && in >= 8 && out >= 8 && saved > 1.6;
  return winograd ? Algorithm::winograd : Algorithm::direct;
}

const char* algorithm_name(Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::winograd: return "Winograd F(4x4, 3x3)";
    case Algorithm::strided: return "Winograd F(4x4, 3x3) of stride 2";
    case Algorithm::upsampled: return "Winograd F(4x4, 2x2) at half the resolution";
    case Algorithm::few_in: return "direct, few in channels";
    case Algorithm::few_out: return "direct, few out channels";
    case Algorithm::direct_phases: return "direct, phases as channels";
    case Algorithm::depthwise: return "depthwise";
    case Algorithm::small_groups: return "small groups, as depthwise ones";
    default: return "direct";
  }
}

}  // namespace myconv2d
