// The geometry that forward and grad_input share: both are a correlation of an image with filters,
//
//   out[n, f, i, j] = bias[f] + Σ_{c, r, s} image[n, c, y(i, r), x(j, s)] · filter[f, c, r, s],
//
// where an output position i and a tap r meet at y = i·step + r·dilation + origin, and the image is zero
// outside. For forward this is the definition. For grad_input the image is grad_output, the filters are the
// weight's transpose, and the input positions fall into `stride` residue classes per axis: the positions
// a, a + stride, … of class a are reached by every tap_step-th tap only, and within the class the formula
// above holds with step 1 and a negative dilation. So no multiplication by an inserted zero is ever done.
#pragma once

#include "portable.h"
#include "../conv2d.h"

namespace myconv2d::cuda {

// One spatial axis of a correlation (of one residue class).
struct Axis {
  int size;     // of the image
  int outputs;  // positions computed
  int taps;
  int step, dilation, origin;     // image position = i·step + tap·dilation + origin
  int first_output, output_step;  // position i is number first_output + i·output_step of the result
  int first_tap, tap_step;        // tap j is number first_tap + j·tap_step of the weight
};

// One spatial axis of an operator: the numbers of the forward convolution, and the Axis of each residue
// class.
struct AxisRule {
  int in, out, kernel, stride, padding, dilation;
  bool transposed;   // grad_input
  int tap_step;      // stride / gcd(stride, dilation): taps this far apart serve the same class
  int tap_dilation;  // dilation / gcd(stride, dilation)

  HOST_DEVICE int classes() const { return transposed ? smaller(stride, in) : 1; }
  HOST_DEVICE int most_outputs() const { return transposed ? static_cast<int>(ceil_div(in, stride)) : out; }
  HOST_DEVICE int most_taps() const { return static_cast<int>(ceil_div(kernel, tap_step)); }
  HOST_DEVICE int tap_sets() const { return smaller(tap_step, kernel); }  // a set is named by its first tap

  HOST_DEVICE int taps_from(int first_tap) const {
    return first_tap < kernel ? (kernel - 1 - first_tap) / tap_step + 1 : 0;
  }

  HOST_DEVICE Axis axis(int residue) const {
    if (!transposed) return {in, out, kernel, stride, dilation, -padding, 0, 1, 0, 1};
    const int shift = residue + padding;
    int first_tap = 0;
    while (first_tap < tap_sets() && (shift - first_tap * dilation) % stride != 0) ++first_tap;
    if (first_tap == tap_sets()) first_tap = kernel;  // no tap reaches this class: its gradient is zero
    const int taps = taps_from(first_tap);
    const int origin = taps ? (shift - first_tap * dilation) / stride : 0;
    const int outputs = (in - 1 - residue) / stride + 1;
    return {out, outputs, taps, 1, -tap_dilation, origin, residue, stride, first_tap, tap_step};
  }
};

// Two axes and everything beside them. Channels are summed over, filters are computed; both per group.
struct Correlation {
  AxisRule h, w;
  int64_t batch;
  int groups, channels, filters;
  Strides image, out;

  HOST_DEVICE int classes() const { return h.classes() * w.classes(); }
  HOST_DEVICE int64_t most_pixels() const { return batch * h.most_outputs() * w.most_outputs(); }
};

// Where the taps of a filter's channel lie in the weight.
struct FilterStrides {
  int64_t group, filter, channel, h, w;
};

// --- from conv2d.h, on the host ----------------------------------------------------------------------------

inline int greatest_common_divisor(int a, int b) { return b == 0 ? a : greatest_common_divisor(b, a % b); }

// Positions are 32-bit on the device (offsets are 64-bit): see fits() for what is refused.
inline AxisRule axis_rule(int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t padding,
                          int64_t dilation, bool transposed) {
  const int64_t extent = in + 2 * padding;
  AxisRule rule{};
  rule.in = static_cast<int>(in);
  rule.out = static_cast<int>(out);
  rule.kernel = static_cast<int>(kernel);
  rule.padding = static_cast<int>(padding);
  rule.stride = static_cast<int>(smaller(stride, extent + 1));  // the same convolution, and no overflow
  rule.dilation = static_cast<int>(kernel == 1 ? 1 : dilation);
  rule.transposed = transposed;
  const int divisor = greatest_common_divisor(rule.stride, rule.dilation);
  rule.tap_step = transposed ? rule.stride / divisor : 1;
  rule.tap_dilation = rule.dilation / divisor;
  return rule;
}

inline bool fits(const Conv2d& conv) {
  constexpr int64_t limit = INT32_MAX - 1;
  return conv.in_height + 2 * conv.padding_h < limit && conv.in_width + 2 * conv.padding_w < limit &&
         conv.in_channels < limit && conv.out_channels < limit &&
         conv.taps() * (conv.group_in_channels() + 32) < limit &&
         conv.taps() * (conv.group_out_channels() + 32) < limit;
}

// image and out: input and output, or grad_output and grad_input where transposed.
inline Correlation correlation(const Conv2d& conv, bool transposed, const Strides& image,
                               const Strides& out) {
  const int inputs = static_cast<int>(conv.group_in_channels()),
            outputs = static_cast<int>(conv.group_out_channels());
  return {axis_rule(conv.in_height, conv.out_height, conv.kernel_height, conv.stride_h, conv.padding_h,
                    conv.dilation_h, transposed),
          axis_rule(conv.in_width, conv.out_width, conv.kernel_width, conv.stride_w, conv.padding_w,
                    conv.dilation_w, transposed),
          conv.batch,
          static_cast<int>(conv.groups),
          transposed ? outputs : inputs,
          transposed ? inputs : outputs,
          image,
          out};
}

inline FilterStrides filter_strides(const Conv2d& conv, bool transposed, const Strides& weight) {
  const int64_t group = conv.group_out_channels() * weight.n;
  if (transposed) return {group, weight.c, weight.n, weight.h, weight.w};
  return {group, weight.n, weight.c, weight.h, weight.w};
}

}  // namespace myconv2d::cuda
