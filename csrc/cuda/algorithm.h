// Which kernel serves a pass on CUDA: the one place where that is decided, by shape and type, and for the
// halo kernel by memory layout and device.
//
// With 4 channels or fewer on one side a convolution is bound by DRAM, and the tile of an implicit GEMM would
// be mostly padding: those layers have kernels of their own. So have 3×3 layers on Hopper's tensor cores, to
// load each halo once. Everything else is an implicit GEMM.
#pragma once

#include "few_grad_weight_shape.h"
#include "few_in.h"
#include "few_out.h"
#include "halo_shape.h"

namespace myconv2d::cuda {

enum class Pass { forward, grad_input, grad_weight };
enum class Algorithm { implicit_gemm, few_in, few_out, few_grad_weight, halo };

constexpr int64_t widest_few_kernel = 7;

// A kernel for few channels where they are `in` or `out`, else the implicit GEMM; grad_input reads the out
// channels and gives the in channels.
inline Algorithm choose_few(const Conv2d& conv, Type type, Pass pass) {
  const bool in_float = type == Type::f32 || type == Type::f16 || type == Type::bf16;
  const bool empty = conv.batch * conv.in_pixels() * conv.in_channels * conv.out_channels == 0;
  if (!in_float || empty || conv.groups != 1 || conv.kernel_height > widest_few_kernel ||
      conv.kernel_width > widest_few_kernel || !fits(conv))
    return Algorithm::implicit_gemm;

  const bool turned = pass == Pass::grad_input;
  const int64_t in = turned ? conv.out_channels : conv.in_channels,
                out = turned ? conv.in_channels : conv.out_channels;
  if (pass == Pass::grad_weight) {
    const bool by_input = out <= most_few && conv.stride_h == 1 && conv.stride_w == 1;
    FewGradWeightShape shape{};
    if ((in <= most_few || by_input) &&
        choose_few_grad_weight_grid(shape = few_grad_weight_shape(conv, {}, {}, {}, true)))
      return Algorithm::few_grad_weight;
    return Algorithm::implicit_gemm;
  }
  const Correlation shape = correlation(conv, turned, {}, {});
  FewGrid grid;
  if (shape.h.classes() > most_classes || shape.w.classes() > most_classes) return Algorithm::implicit_gemm;
  if (out <= most_few && choose_few_out_grid(shape, grid)) return Algorithm::few_out;
  if (out > most_few && in <= most_few && choose_few_in_grid(shape, grid)) return Algorithm::few_in;
  return Algorithm::implicit_gemm;
}

inline Algorithm choose_algorithm(const Conv2d& conv, Type type, Pass pass, const Setting& setting) {
  const Algorithm few = choose_few(conv, type, pass);
  if (few != Algorithm::implicit_gemm || pass == Pass::grad_weight) return few;
  return halo_problem(conv, type, pass == Pass::grad_input, setting) ? few : Algorithm::halo;
}

inline const char* algorithm_name(Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::few_in:
      return "few in channels";
    case Algorithm::few_out:
      return "few out channels";
    case Algorithm::few_grad_weight:
      return "few channels";
    case Algorithm::halo:
      return "halo by wgmma";
    default:
      return "implicit GEMM";
  }
}

}  // namespace myconv2d::cuda
