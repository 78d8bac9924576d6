// The native operators of the fused block (schemas: kernels/myconv2d/block_operators.py): from tensors to block.h.
#include "block.h"

#include "binding.h"
#include "cpu/algorithm.h"
#include "cpu/framework_threads.h"

namespace myconv2d {
namespace {

using MaybeTensor = std::optional<Tensor>;
using torch::headeronly::ScalarType;

Tensor none(const Tensor& like, ScalarType type = ScalarType::Float) { return fresh(like, {0}, type); }

void require_float(const Tensor& tensor, int64_t dim, const char* name) {
  STD_TORCH_CHECK(tensor.dim() == dim && tensor.scalar_type() == ScalarType::Float,
                  "myconv2d: ", name, " of a block must be float32 with ", dim, " dimensions");
}

const float* data_of(const Tensor& tensor) { return static_cast<const float*>(tensor.const_data_ptr()); }
float* mutable_data(const Tensor& tensor) {
  return tensor.numel() ? static_cast<float*>(tensor.mutable_data_ptr()) : nullptr;
}

// Vectors as the kernels read them, without gaps; what is copied for it lives as long as this does.
class Vectors {
 public:
  const float* of(const MaybeTensor& tensor, int64_t size, const char* name) {
    if (!tensor) return nullptr;
    require_float(*tensor, 1, name);
    STD_TORCH_CHECK(tensor->size(0) == size, "myconv2d: ", name, " of a block must have one value per channel, ", size);
    if (size < 2 || tensor->stride(0) == 1) return data_of(*tensor);
    return data_of(copies.emplace_back(torch::stable::contiguous(*tensor)));
  }

 private:
  std::vector<Tensor> copies;
};

// The feeds as tensors that live as long as this does, and in numbers.
struct FeedTensors {
  Tensor first;
  MaybeTensor second;
  Vectors vectors;
  Feeds feeds;
  int64_t batch, channels, height, width;

  FeedTensors(const Tensor& input, const MaybeTensor& scale, const MaybeTensor& shift, bool upsample,
              const MaybeTensor& skip, const MaybeTensor& skip_scale, const MaybeTensor& skip_shift,
              bool skip_upsample) : feeds{} {
    feeds.first = describe_feed(input, scale, shift, upsample, "input", first, vectors);
    batch = input.size(0), height = input.size(2) << upsample, width = input.size(3) << upsample;
    channels = input.size(1);
    if (!skip) return;
    Tensor kept;
    feeds.second = describe_feed(*skip, skip_scale, skip_shift, skip_upsample, "skip", kept, vectors);
    second = kept;
    STD_TORCH_CHECK(skip->size(0) == batch && skip->size(2) << skip_upsample == height &&
                        skip->size(3) << skip_upsample == width,
                    "myconv2d: input and skip of a block must agree in batch, height and width");
    channels += skip->size(1);
  }

  static Feed describe_feed(const Tensor& tensor, const MaybeTensor& scale, const MaybeTensor& shift, bool upsample,
                            const char* name, Tensor& kept, Vectors& vectors) {
    require_float(tensor, 4, name);
    STD_TORCH_CHECK(scale.has_value() == shift.has_value(), "myconv2d: scale and shift of a feed belong together");
    kept = innermost(tensor);
    const int64_t channels = kept.size(1);
    return {data_of(kept), strides_of(kept), channels, vectors.of(scale, channels, "scale"),
            vectors.of(shift, channels, "shift"), upsample};
  }
};

Conv2d describe_block(const FeedTensors& feeds, const Tensor& weight, const IntList& padding) {
  require_float(weight, 4, "weight");
  const int64_t input[4] = {feeds.batch, feeds.channels, feeds.height, feeds.width};
  const Conv2d conv = describe(input, weight.sizes().data(), {1, 1}, padding, {1, 1}, 1);
  STD_TORCH_CHECK(fits_a_block(conv), "myconv2d: the native blocks are 3x3, or up to 6x6 with 4 channels at most");
  return conv;
}

using BlockResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

BlockResult block(const Tensor& input, const MaybeTensor& scale, const MaybeTensor& shift, bool upsample,
                  const MaybeTensor& skip, const MaybeTensor& skip_scale, const MaybeTensor& skip_shift,
                  bool skip_upsample, const Tensor& weight, const MaybeTensor& bias, const IntList& padding,
                  const MaybeTensor& gamma, const MaybeTensor& beta, double eps, bool pool) {
  const FeedTensors feeds(input, scale, shift, upsample, skip, skip_scale, skip_shift, skip_upsample);
  BlockForward b{};
  Vectors vectors;
  b.conv = describe_block(feeds, weight, padding);
  const int64_t n = b.conv.batch, k = b.conv.out_channels, p = b.conv.out_height, q = b.conv.out_width;
  STD_TORCH_CHECK(gamma.has_value() == beta.has_value(), "myconv2d: gamma and beta of a block belong together");
  STD_TORCH_CHECK(gamma.has_value() || !pool, "myconv2d: pooling of a block needs gamma");
  b.input = feeds.feeds;
  b.weight = read(weight);
  b.bias = vectors.of(bias, k, "bias");
  b.norm = {vectors.of(gamma, k, "gamma"), vectors.of(beta, k, "beta"), eps};
  b.pool = pool;
  const Tensor raw = fresh(input, {n, k, pool ? p / 2 : p, pool ? q / 2 : q});
  const bool keeps = pool && keeps_full(b.conv);
  const Tensor full = keeps ? fresh(input, {n, k, p, q}) : none(input);
  const Tensor index = pool ? fresh(input, {n, k, p / 2, q / 2}, ScalarType::Byte) : none(input, ScalarType::Byte);
  b.raw = write(raw);
  if (pool) b.index = write(index);
  if (keeps) b.full = write(full);
  const std::vector<int64_t> size{gamma ? k : 0};
  const Tensor results[4] = {fresh(input, size), fresh(input, size), fresh(input, size), fresh(input, size)};
  b.scale = mutable_data(results[0]), b.shift = mutable_data(results[1]);
  b.mean = mutable_data(results[2]), b.var = mutable_data(results[3]);
  kernels_for(Type::f32).block->forward(b, framework_threads());
  return {raw, full, index, results[0], results[1], results[2], results[3]};
}

Tensor block_inference(const Tensor& input, bool upsample, const MaybeTensor& skip, bool skip_upsample,
                       const Tensor& weight, const MaybeTensor& bias, const IntList& padding, const MaybeTensor& gamma,
                       const MaybeTensor& beta, const MaybeTensor& mean, const MaybeTensor& var, double eps, bool relu,
                       bool pool) {
  const FeedTensors feeds(input, std::nullopt, std::nullopt, upsample, skip, std::nullopt, std::nullopt,
                          skip_upsample);
  BlockInference b{};
  Vectors vectors;
  b.conv = describe_block(feeds, weight, padding);
  b.input = feeds.feeds;
  b.weight = read(weight);
  b.bias = vectors.of(bias, b.conv.out_channels, "bias");
  const int64_t k = b.conv.out_channels;
  STD_TORCH_CHECK(gamma.has_value() == beta.has_value() && gamma.has_value() == mean.has_value() &&
                      gamma.has_value() == var.has_value(),
                  "myconv2d: gamma, beta, mean and var of a block belong together");
  b.norm = {vectors.of(gamma, k, "gamma"), vectors.of(beta, k, "beta"), eps};
  b.mean = vectors.of(mean, k, "mean"), b.var = vectors.of(var, k, "var");
  b.relu = relu, b.pool = pool;
  const Tensor output = fresh(input, {b.conv.batch, b.conv.out_channels, b.conv.out_height >> pool,
                                      b.conv.out_width >> pool});
  b.output = write(output);
  kernels_for(Type::f32).block->inference(b, framework_threads());
  return output;
}

struct FeedGradientTensors {
  Tensor tensor, scale, shift;

  FeedGradientTensors(const Tensor& like, const Tensor* feed, bool affine, bool wanted)
      : tensor(none(like)), scale(none(like)), shift(none(like)) {
    if (!feed || !wanted) return;
    tensor = fresh(like, {feed->size(0), feed->size(1), feed->size(2), feed->size(3)});
    if (!affine) return;
    scale = fresh(like, {feed->size(1)});
    shift = fresh(like, {feed->size(1)});
  }
  FeedGradient numbers() const {
    if (!tensor.numel()) return {};
    return {mutable_data(tensor), strides_of(tensor), mutable_data(scale), mutable_data(shift)};
  }
};

using BackwardResult =
    std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

BackwardResult block_backward(const Tensor& grad_raw, const MaybeTensor& grad_scale, const MaybeTensor& grad_shift,
                              const Tensor& input, const MaybeTensor& scale, const MaybeTensor& shift, bool upsample,
                              const MaybeTensor& skip, const MaybeTensor& skip_scale, const MaybeTensor& skip_shift,
                              bool skip_upsample, const Tensor& weight, const IntList& padding,
                              const MaybeTensor& gamma, const MaybeTensor& mean, const MaybeTensor& var, double eps,
                              const Tensor& y, const Tensor& index, bool pool, bool bias,
                              const std::vector<bool>& wanted) {
  const FeedTensors feeds(input, scale, shift, upsample, skip, skip_scale, skip_shift, skip_upsample);
  BlockBackward b{};
  Vectors vectors;
  b.conv = describe_block(feeds, weight, padding);
  const int64_t n = b.conv.batch, k = b.conv.out_channels, p = b.conv.out_height, q = b.conv.out_width;
  require_float(grad_raw, 4, "grad_raw");
  STD_TORCH_CHECK(wanted.size() == 3, "myconv2d: wanted of a block takes three flags");
  STD_TORCH_CHECK(grad_raw.size(0) == n && grad_raw.size(1) == k && grad_raw.size(2) == p >> pool &&
                      grad_raw.size(3) == q >> pool,
                  "myconv2d: grad_raw does not have the size of the block's output");
  const Tensor grad = gamma ? innermost(grad_raw) : grad_raw;  // without batch norm, an image like any other
  b.input = feeds.feeds;
  b.weight = read(weight);
  b.norm = {vectors.of(gamma, k, "gamma"), nullptr, eps};
  b.mean = vectors.of(mean, k, "mean"), b.var = vectors.of(var, k, "var");
  b.grad_scale = vectors.of(grad_scale, k, "grad_scale"), b.grad_shift = vectors.of(grad_shift, k, "grad_shift");
  b.grad_raw = read(grad);
  b.pool = pool;
  std::optional<Tensor> values, chosen;  // as long as the kernels read them
  STD_TORCH_CHECK(!gamma || (b.mean && b.var), "myconv2d: mean and var of a block belong to gamma");
  if (gamma && pool && !keeps_full(b.conv)) {  // y is not read
    if (wanted[0] || wanted[1]) values = fresh(input, {n, k, p, q}), b.again = write(*values), b.y = read(*values);
  } else if (gamma) {
    require_float(y, 4, "y");
    STD_TORCH_CHECK(y.size(0) == n && y.size(1) == k && y.size(2) == p && y.size(3) == q,
                    "myconv2d: y does not have the size of the block's convolution");
    values = innermost(y);
    b.y = read(*values);
  }
  if (pool) {
    STD_TORCH_CHECK(index.dim() == 4 && index.scalar_type() == ScalarType::Byte && index.size(0) == n &&
                        index.size(1) == k && index.size(2) == p / 2 && index.size(3) == q / 2,
                    "myconv2d: index must be uint8, of the size of the block's output");
    chosen = innermost(index);
    b.index = read(*chosen);
  }
  const FeedGradientTensors first(y, &input, scale.has_value(), wanted[0]);
  const FeedGradientTensors second(y, skip ? &*skip : nullptr, skip_scale.has_value(), wanted[1]);
  b.first = first.numbers(), b.second = second.numbers();
  const bool parameters = wanted[2];
  const Tensor grad_weight = parameters ? torch::stable::empty_like(weight) : none(y);
  const Tensor grad_bias = parameters && bias ? fresh(y, {k}) : none(y);
  const Tensor grad_gamma = parameters && gamma ? fresh(y, {k}) : none(y);
  const Tensor grad_beta = parameters && gamma ? fresh(y, {k}) : none(y);
  if (parameters) b.grad_weight = write(grad_weight);
  b.grad_bias = mutable_data(grad_bias);
  b.grad_gamma = mutable_data(grad_gamma), b.grad_beta = mutable_data(grad_beta);
  kernels_for(Type::f32).block->backward(b, framework_threads());
  return {first.tensor, first.scale, first.shift, second.tensor, second.scale,
          second.shift, grad_weight, grad_bias, grad_gamma, grad_beta};
}

Tensor activate(const Tensor& raw, const Tensor& scale, const Tensor& shift, bool upsample) {
  Tensor kept;
  Vectors vectors;
  const Feed feed = FeedTensors::describe_feed(raw, scale, shift, upsample, "raw", kept, vectors);
  const Tensor output = fresh(raw, {raw.size(0), raw.size(1), raw.size(2) << upsample, raw.size(3) << upsample});
  const Activation a{feed, raw.size(0), raw.size(2), raw.size(3)};
  if (output.numel()) kernels_for(Type::f32).block->activate(a, framework_threads(), write(output));
  return output;
}

std::tuple<Tensor, Tensor, Tensor> activate_backward(const Tensor& grad, const Tensor& raw, const Tensor& scale,
                                                     const Tensor& shift, bool upsample) {
  require_float(grad, 4, "grad");
  Tensor kept;
  Vectors vectors;
  const Feed feed = FeedTensors::describe_feed(raw, scale, shift, upsample, "raw", kept, vectors);
  STD_TORCH_CHECK(grad.size(0) == raw.size(0) && grad.size(1) == raw.size(1) &&
                      grad.size(2) == raw.size(2) << upsample && grad.size(3) == raw.size(3) << upsample,
                  "myconv2d: grad does not have the size of the activation");
  const Tensor from = torch::stable::contiguous(grad, channels_last);  // rows without gaps
  const FeedGradientTensors result(raw, &raw, true, true);
  const Activation a{feed, raw.size(0), raw.size(2), raw.size(3)};
  if (grad.numel()) {
    kernels_for(Type::f32).block->activate_backward(a, framework_threads(), read(from), result.numbers());
  } else {
    Tensor to_scale = result.scale, to_shift = result.shift;
    torch::stable::zero_(to_scale);
    torch::stable::zero_(to_shift);
  }
  return {result.tensor, result.scale, result.shift};
}

}  // namespace
}  // namespace myconv2d

STABLE_TORCH_LIBRARY_IMPL(myconv2d, CPU, library) {
  library.impl("block.native", TORCH_BOX(&myconv2d::block));
  library.impl("block_backward.native", TORCH_BOX(&myconv2d::block_backward));
  library.impl("block_inference.native", TORCH_BOX(&myconv2d::block_inference));
  library.impl("activate.native", TORCH_BOX(&myconv2d::activate));
  library.impl("activate_backward.native", TORCH_BOX(&myconv2d::activate_backward));
}
