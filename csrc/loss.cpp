// The CPU implementation of the cross-entropy operators, which loss.py defines: tensors become cross_entropy.h.
#include <stdexcept>
#include <string>

#include "binding.h"
#include "cpu/framework_threads.h"

namespace myconv2d {
namespace {

// Beside the logits, with their strides where those leave no gaps.
Tensor gradient_of(const Tensor& logits) {
  const auto sizes = logits.sizes(), strides = logits.strides();
  for (const auto& order : {std::array{3, 2, 1, 0}, std::array{1, 3, 2, 0}}) {
    int64_t next = 1;
    bool follows = true;
    for (int d : order) follows &= strides[d] == next, next *= sizes[d];
    if (follows) return empty_strided(logits, aoti_torch_dtype_float32(), 4, sizes.data(), strides.data());
  }
  return torch::stable::empty_like(logits);
}

// (loss, gradient); the gradient only if it is wanted.
std::tuple<Tensor, std::optional<Tensor>> run(const Tensor& logits, const Tensor& target, int64_t reduction,
                                              int64_t ignore_index, bool wanted) {
  STD_TORCH_CHECK(logits.dim() == 4 && target.dim() == 3 && logits.size(0) == target.size(0) &&
                      logits.size(2) == target.size(1) && logits.size(3) == target.size(2),
                  "myconv2d: cross-entropy takes logits (N, K, H, W) and a target (N, H, W)");
  const Type type = type_of(target);
  STD_TORCH_CHECK(type_of(logits) == Type::f32 && (type == Type::i64 || type == Type::u8) &&
                      logits.device() == target.device(),
                  "myconv2d: cross-entropy takes float32 logits and an int64 or uint8 target on one device");
  STD_TORCH_CHECK(logits.size(1) > 0 && reduction >= 0 && reduction <= 2,
                  "myconv2d: cross-entropy takes one class or more, and reductions 0, 1, 2");
  const bool reduced = static_cast<Reduction>(reduction) != Reduction::none;
  const Tensor loss = torch::stable::empty({target.sizes().data(), reduced ? size_t(0) : size_t(3)}, logits.scalar_type(),
                                           std::nullopt, logits.device());
  std::optional<Tensor> gradient;
  if (wanted) gradient = gradient_of(logits);
  const Strides target_strides{target.stride(0), 0, target.stride(1), target.stride(2)};
  const CrossEntropy problem{logits.size(0), logits.size(1), logits.size(2), logits.size(3),
                             static_cast<Reduction>(reduction), ignore_index, read(logits),
                             {target.const_data_ptr(), target_strides}, type == Type::u8,
                             static_cast<float*>(loss.mutable_data_ptr()),
                             wanted ? write(*gradient) : Image{nullptr, strides_of(logits)}};
  const BadTarget bad = kernels_for(Type::f32).cross_entropy(problem, framework_threads());
  if (bad.found) throw std::out_of_range("Target " + std::to_string(bad.value) + " is out of bounds.");  // IndexError
  return {loss, gradient};
}

Tensor cross_entropy(const Tensor& logits, const Tensor& target, int64_t reduction, int64_t ignore_index) {
  return std::get<0>(run(logits, target, reduction, ignore_index, false));
}

std::tuple<Tensor, Tensor> cross_entropy_with_gradient(const Tensor& logits, const Tensor& target, int64_t reduction,
                                                       int64_t ignore_index) {
  const auto [loss, gradient] = run(logits, target, reduction, ignore_index, true);
  return {loss, *gradient};
}

}  // namespace
}  // namespace myconv2d

STABLE_TORCH_LIBRARY_IMPL(myconv2d, CPU, library) {
  library.impl("cross_entropy", TORCH_BOX(&myconv2d::cross_entropy));
  library.impl("cross_entropy_with_gradient", TORCH_BOX(&myconv2d::cross_entropy_with_gradient));
}
