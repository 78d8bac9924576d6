// Runs a frozen network in one call (program.h). Images between the steps lie together where results lie (results.h), not
// in scratch memory, which every thread that ever called would keep; channels innermost. Every size follows from the
// input's, so one program serves any batch.
#include "program.h"

#include <algorithm>
#include <cstring>

#include "binding.h"
#include "block.h"
#include "cpu/algorithm.h"
#include "cpu/framework_threads.h"

namespace myconv2d {
namespace {

using torch::headeronly::ScalarType;

struct Picture {
  float* data;
  Strides strides;
  int64_t batch, channels, height, width;

  int64_t floats() const { return batch * channels * height * width; }
};

class Run {
 public:
  Run(const Tensor& input, const Tensor& steps, const Tensor& constants)
      : constants(static_cast<float*>(const_cast<void*>(constants.const_data_ptr()))), available(constants.numel()),
        steps(static_cast<const Step*>(steps.const_data_ptr())), count(steps.size(0)), threads(framework_threads()) {
    pictures.reserve(count + 1);
    pictures.push_back({static_cast<float*>(const_cast<void*>(input.const_data_ptr())), strides_of(input),
                        input.size(0), input.size(1), input.size(2), input.size(3)});
    for (int64_t i = 0; i < count; ++i) pictures.push_back(result_of(this->steps[i]));
  }

  Tensor run(const Tensor& like) {
    int64_t whole = count;  // the image that the result is a part of, or all
    while (whole > 0 && steps[whole - 1].kind == Step::crop) whole = steps[whole - 1].first;
    STD_TORCH_CHECK(whole > 0, "myconv2d: a program must compute something");
    const Picture& last = pictures[whole];
    Tensor result = fresh(like, {last.batch, last.channels, last.height, last.width});
    if (result.numel() == 0) return cropped(result, pictures[count]);

    int64_t floats = 0;
    for (int64_t i = 1; i <= count; ++i)
      if (i != whole && steps[i - 1].kind != Step::crop) floats += aligned(pictures[i].floats());
    const Tensor room = fresh(like, {floats});
    float* memory = static_cast<float*>(room.mutable_data_ptr());
    int64_t origin[2] = {0, 0};  // of the result in the whole
    for (int64_t i = 1; i <= count; ++i) {
      const Step& step = steps[i - 1];
      Picture& to = pictures[i];
      if (step.kind == Step::crop) {
        const Picture& from = pictures[step.first];
        to.strides = from.strides;
        to.data = from.data + step.numbers[0] * from.strides.h + step.numbers[1] * from.strides.w;
        continue;
      }
      to.data = i == whole ? static_cast<float*>(result.mutable_data_ptr()) : memory;
      to.strides = {to.height * to.width * to.channels, 1, to.width * to.channels, to.channels};
      if (i != whole) memory += aligned(to.floats());
      step.kind == Step::pad ? pad(step, to) : step.kind == Step::block ? block(step, to) : convolution(step, to);
    }
    for (int64_t i = count; i != whole; i = steps[i - 1].first)
      for (int d = 0; d < 2; ++d) origin[d] += steps[i - 1].numbers[d];
    return cropped(result, pictures[count], origin[0], origin[1]);
  }

 private:
  static constexpr int64_t most_elements = int64_t{1} << 40;  // no memory has more, and no arithmetic below overflows

  float* constants;
  int64_t available;
  const Step* steps;
  int64_t count;
  Threads threads;
  std::vector<Picture> pictures;

  static int64_t aligned(int64_t floats) { return (floats + 15) / 16 * 16; }

  static Tensor cropped(Tensor tensor, const Picture& part, int64_t y = 0, int64_t x = 0) {
    if (tensor.size(2) != part.height) tensor = torch::stable::narrow(tensor, 2, y, part.height);
    if (tensor.size(3) != part.width) tensor = torch::stable::narrow(tensor, 3, x, part.width);
    return tensor;
  }

  const Picture& picture(int64_t number) const {
    STD_TORCH_CHECK(number >= 0 && number < static_cast<int64_t>(pictures.size()),
                    "myconv2d: a step of a program reads an image that is not there yet");
    return pictures[number];
  }

  float* constant(int64_t begin, int64_t floats) const {
    STD_TORCH_CHECK(begin >= 0 && floats >= 0 && begin <= available && floats <= available - begin,
                    "myconv2d: a step of a program reads beyond the constants");
    return constants + begin;
  }

  // An image whose data is still missing.
  static Picture sized(int64_t batch, int64_t channels, int64_t height, int64_t width) {
    double all = 1;
    for (int64_t size : {batch, channels, height, width}) all *= static_cast<double>(std::max<int64_t>(size, 1));
    STD_TORCH_CHECK(all < most_elements, "myconv2d: an image of a program is too large for any memory");
    return {nullptr, {}, batch, channels, height, width};
  }

  // What a step will give; a step that could read or write out of bounds is refused.
  Picture result_of(const Step& step) const {
    const Picture& from = picture(step.first);
    const int64_t* n = step.numbers;
    if (step.kind == Step::pad) {
      for (int d = 0; d < 4; ++d)
        STD_TORCH_CHECK(n[d] >= 0 && n[d] < most_elements && from.height > 0 && from.width > 0,
                        "myconv2d: a program pads by a negative or huge number, or an image without pixels");
      return sized(from.batch, from.channels, from.height + n[0] + n[1], from.width + n[2] + n[3]);
    }
    if (step.kind == Step::crop) {
      STD_TORCH_CHECK(n[0] >= 0 && n[1] >= 0 && n[2] >= 0 && n[3] >= 0 && n[0] <= from.height &&
                          n[1] <= from.width && n[2] <= from.height - n[0] && n[3] <= from.width - n[1],
                      "myconv2d: a program crops an image to more than there is");
      return sized(from.batch, from.channels, n[2], n[3]);
    }
    STD_TORCH_CHECK(step.kind == Step::block || step.kind == Step::convolution, "myconv2d: a program has an unknown step");
    const Conv2d conv = conv_of(step);
    const bool pool = step.kind == Step::block && step.pool;
    return sized(conv.batch, conv.out_channels, conv.out_height >> pool, conv.out_width >> pool);
  }

  Feed feed_of(int64_t number, bool upsampled) const {
    const Picture& from = picture(number);
    return {from.data, from.strides, from.channels, nullptr, nullptr, upsampled};
  }

  Conv2d conv_of(const Step& step) const {
    const Picture& first = picture(step.first);
    const bool up = step.first_upsampled;
    int64_t input[4] = {first.batch, first.channels, first.height << up, first.width << up};
    STD_TORCH_CHECK(step.kind == Step::block || (!up && step.second < 0),
                    "myconv2d: only a program's blocks read two images, or enlarged ones");
    if (step.second >= 0) {
      const Picture& second = picture(step.second);
      const bool second_up = step.second_upsampled;
      STD_TORCH_CHECK(second.batch == input[0] && second.height << second_up == input[2] &&
                          second.width << second_up == input[3],
                      "myconv2d: the two images that a program's block reads must agree in batch, height and width");
      input[1] += second.channels;
    }
    STD_TORCH_CHECK(step.groups > 0 && step.out_channels > 0 && step.kernel_h > 0 && step.kernel_w > 0,
                    "myconv2d: a program's convolution has no groups, out channels or taps");
    const int64_t weight[4] = {step.out_channels, input[1] / step.groups, step.kernel_h, step.kernel_w};
    STD_TORCH_CHECK(elements(4, weight) < most_elements, "myconv2d: a weight of a program is too large for any memory");
    constant(step.weight, weight[0] * weight[1] * weight[2] * weight[3]);
    if (step.bias >= 0) constant(step.bias, step.out_channels);
    if (step.packed >= 0) constant(step.packed, step.packed_floats);
    const Conv2d conv = describe(input, weight, {step.stride_h, step.stride_w}, {step.padding_h, step.padding_w},
                                 {step.dilation_h, step.dilation_w}, step.groups);
    STD_TORCH_CHECK(step.kind == Step::convolution || fits_a_block(conv), "myconv2d: this step is no block");
    return conv;
  }

  ConstImage weight_of(const Step& step, const Conv2d& conv) const {
    const int64_t taps = conv.taps(), s = conv.kernel_width;
    return {constants + step.weight, {conv.group_in_channels() * taps, taps, s, 1}};
  }

  const float* bias_of(const Step& step) const { return step.bias < 0 ? nullptr : constants + step.bias; }

  void block(const Step& step, const Picture& to) const {
    PackedWeights packed{PackedWeights::use, constants + step.packed, step.packed_floats, step.packed_maker};
    BlockInference b{};
    b.conv = conv_of(step);
    b.input.first = feed_of(step.first, step.first_upsampled);
    if (step.second >= 0) b.input.second = feed_of(step.second, step.second_upsampled);
    b.weight = weight_of(step, b.conv);
    b.bias = bias_of(step);
    b.relu = step.relu, b.pool = step.pool;
    b.output = {to.data, to.strides};
    b.ahead = step.packed < 0 ? nullptr : &packed;
    kernels_for(Type::f32).block->inference(b, threads);
  }

  void convolution(const Step& step, const Picture& to) const {
    const Conv2d conv = conv_of(step);
    const Picture& from = picture(step.first);
    kernels_for(Type::f32).forward(conv, Type::f32, threads, {from.data, from.strides}, weight_of(step, conv),
                                   {bias_of(step), 1}, {to.data, to.strides});
  }

  void pad(const Step& step, const Picture& to) const {
    const Picture& from = picture(step.first);
    const auto inside = [](int64_t i, int64_t size) { return i < 0 ? 0 : i < size ? i : size - 1; };
    float* pixel = to.data;
    for (int64_t n = 0; n < to.batch; ++n)
      for (int64_t y = 0; y < to.height; ++y) {
        const float* row = from.data + n * from.strides.n + inside(y - step.numbers[0], from.height) * from.strides.h;
        for (int64_t x = 0; x < to.width; ++x, pixel += to.channels)
          std::memcpy(pixel, row + inside(x - step.numbers[2], from.width) * from.strides.w,
                      to.channels * sizeof(float));
      }
  }
};

Tensor replay(const Tensor& input, const Tensor& steps, const Tensor& constants) {
  STD_TORCH_CHECK(input.dim() == 4 && input.scalar_type() == ScalarType::Float,
                  "myconv2d: a frozen network takes a float32 tensor of 4 dimensions");
  STD_TORCH_CHECK(steps.dim() == 2 && steps.size(1) == step_fields && steps.scalar_type() == ScalarType::Long &&
                      steps.is_contiguous() && constants.dim() == 1 && constants.is_contiguous() &&
                      constants.scalar_type() == ScalarType::Float,
                  "myconv2d: a program is int64 steps of ", step_fields, " fields and a vector of float32 constants");
  const Tensor kept = innermost(input);
  return Run(kept, steps, constants).run(kept);
}

// The weights of a block over images of this size together, packed for it; empty where nothing can be made ahead. And who made
// them.
std::tuple<Tensor, int64_t> pack(const Tensor& weight, const std::optional<Tensor>& bias, const IntList& input_size,
                                 const IntList& padding, int64_t first_channels, bool first_upsampled,
                                 bool second_upsampled) {
  STD_TORCH_CHECK(input_size.size() == 4, "myconv2d: input_size takes four values");
  const Forward call(fresh(weight, input_size), weight, bias, {1, 1}, padding, {1, 1}, 1);
  STD_TORCH_CHECK(weight.scalar_type() == ScalarType::Float && weight.is_contiguous(),
                  "myconv2d: weights to be packed must be contiguous float32");
  STD_TORCH_CHECK(fits_a_block(call.conv), "myconv2d: only blocks have weights that are packed ahead");
  const int64_t second_channels = call.conv.in_channels - first_channels;
  STD_TORCH_CHECK(first_channels >= 0 && second_channels >= 0, "myconv2d: a block's first image has some of its channels");
  PackedWeights packed{PackedWeights::measure, nullptr, 0, 0};
  BlockInference b{};
  b.conv = call.conv;
  b.input.first = {nullptr, {}, first_channels, nullptr, nullptr, first_upsampled};
  b.input.second = {nullptr, {}, second_channels, nullptr, nullptr, second_upsampled};
  b.weight = read(weight);
  b.bias = static_cast<const float*>(call.bias.data);
  b.ahead = &packed;
  const auto inference = kernels_for(Type::f32).block->inference;
  inference(b, framework_threads());
  const Tensor result = fresh(weight, {packed.floats});
  packed.stage = PackedWeights::fill;
  packed.data = static_cast<float*>(result.mutable_data_ptr());
  if (packed.floats) inference(b, framework_threads());
  return {result, packed.maker};
}

}  // namespace
}  // namespace myconv2d

STABLE_TORCH_LIBRARY_IMPL(myconv2d, CPU, library) {
  library.impl("replay", TORCH_BOX(&myconv2d::replay));
  library.impl("pack", TORCH_BOX(&myconv2d::pack));
}
