// Runs the blocks of the kernels for few channels on the host and compares with a naive convolution, as
// emulation.cpp does for the implicit GEMMs; shared memory is as large as the launch asks for, so that the
// sanitizer sees what lies beyond it. Arguments: operator type (fp32, 16-bit) layouts of the first and of the
// second tensor N C H W K R S stride(2) padding(2) dilation(2) groups. Prints the algorithm, what is moved 16
// bytes at a time, the number of blocks and "ok", or the first differing element and exits with 1; with 3
// where the shape is for the implicit GEMM.

#include <cstring>

#include "block.h"
#include "cuda/algorithm.h"
#include "cuda/few_grad_weight.h"
#include "naive.h"

using namespace myconv2d::cuda;

using Bit16 = int16_t;  // integers stand in for the 16-bit floats

template <class Thread, class Run>
void emulate(const typename Thread::Arguments& args, int64_t blocks, int64_t floats, Run&& run) {
  for (int64_t block = 0; block < blocks; ++block) {
    std::vector<float> shared(floats);
    std::memset(shared.data(), 0x7f, floats * sizeof(float));  // nothing may be taken for granted
    std::vector<Thread> threads;
    for (int t = 0; t < few_threads; ++t)
      threads.emplace_back(args, static_cast<uint32_t>(block), t, shared.data());
    run_threads(threads, [&](auto&& phase) { run(phase, threads[0]); });
  }
}

template <class T>
struct Few {
  Conv2d conv;
  std::string first, second;  // layouts
  std::vector<int64_t> in{conv.batch, conv.in_channels, conv.in_height, conv.in_width};
  std::vector<int64_t> out{conv.batch, conv.out_channels, conv.out_height, conv.out_width};
  std::vector<int64_t> filters{conv.out_channels, conv.in_channels, conv.kernel_height, conv.kernel_width};

  Algorithm algorithm(Pass pass) const {
    const Algorithm chosen = choose_few(conv, Type::f32, pass);
    std::printf("%s", algorithm_name(chosen));
    if (chosen == Algorithm::implicit_gemm) std::exit(3);
    return chosen;
  }

  template <int filters>
  void few_out(const FewArguments<T>& args) const {
    emulate<FewOutThread<T, filters>>(
        args, args.grid.blocks(), few_out_shared(args.shape, args.grid.tile),
        [](auto&& phase, const auto& thread) { run_few_out(phase, thread.slices(), thread.three_rows()); });
  }

  int correlate(bool transposed, Tensor<T>& image, Tensor<T>& weight, const T* bias, Tensor<T>& result,
                Tensor<double> expected) {
    FewArguments<T> args{};
    args.shape = correlation(conv, transposed, image.strides, result.strides);
    args.image = image.data.data();
    args.filter = weight.data.data();
    args.filter_strides = filter_strides(conv, transposed, weight.strides);
    args.bias = bias;
    args.bias_stride = 2;
    args.out = result.data.data();
    args.image_vectors = moves_vectors(image.strides, args.shape.channels, args.image);
    args.out_vectors = moves_vectors(result.strides, args.shape.filters, args.out);
    if (algorithm(transposed ? Pass::grad_input : Pass::forward) == Algorithm::few_in) {
      choose_few_in_grid(args.shape, args.grid);
      arrange_few_in(args);
      std::printf(", 16-byte stores: %d, %ld blocks: ", args.out_vectors, long(args.grid.blocks()));
      emulate<FewInThread<T>>(
          args, args.grid.blocks(), few_in_shared(args.shape, args.grid.tile),
          [](auto&& phase, const auto& thread) { run_few_in(phase, thread.three_rows()); });
    } else {
      choose_few_out_grid(args.shape, args.grid);
      arrange_few_out(args);
      std::printf(", 16-byte loads: %d, %ld blocks: ", args.image_vectors, long(args.grid.blocks()));
      switch (args.shape.filters) {
        case 1:
          few_out<1>(args);
          break;
        case 2:
          few_out<2>(args);
          break;
        case 3:
          few_out<3>(args);
          break;
        default:
          few_out<4>(args);
      }
    }
    return compare(result, expected);
  }

  int forward() {
    Tensor<T> input(in, first, true), weight(filters, second, true), output(out, second, false);
    std::vector<T> bias(2 * conv.out_channels);  // stride 2
    for (T& value : bias) value = static_cast<T>(random_digit());
    return correlate(false, input, weight, bias.data(), output, naive_forward(conv, input, weight, bias));
  }

  int grad_input() {
    Tensor<T> grad_output(out, first, true), weight(filters, second, true), result(in, second, false);
    return correlate(true, grad_output, weight, nullptr, result, naive_grad_input(conv, grad_output, weight));
  }

  int grad_weight() {
    Tensor<T> grad_output(out, first, true), input(in, second, true);
    Tensor<float> result(filters, second, false), bias({conv.out_channels, 1, 1, 1}, "contiguous", false);
    Tensor<double> expected = naive_grad_weight(conv, grad_output, input),
                   expected_bias = naive_grad_bias(conv, grad_output);
    algorithm(Pass::grad_weight);
    FewGradWeightArguments<T> args{};
    FewGradWeightShape& shape = args.shape;
    shape = few_grad_weight_shape(conv, grad_output.strides, input.strides, result.strides, true);
    choose_few_grad_weight_grid(shape);
#if defined(SIDE_BY_SIDE)
    shape.splits = smaller<int64_t>(shape.splits, 2);  // few blocks, of several rectangles each
#endif
    args.narrow = (shape.bias_of_wide ? input : grad_output).data.data();
    args.wide = (shape.bias_of_wide ? grad_output : input).data.data();
    args.wide_vectors = moves_vectors(shape.wide, shape.narrow.filters, args.wide);
    std::vector<float> partial(shape.splits * shape.partial_size(), 99);
    args.partial = partial.data();
    std::printf(", 16-byte loads: %d, %ld blocks: ", args.wide_vectors, long(shape.blocks()));
    emulate<FewGradWeightThread<T>>(
        args, shape.blocks(), few_gw_shared(shape), [](auto&& phase, const auto& thread) {
          run_few_grad_weight(phase, thread.rectangles(), thread.three_columns(), thread.sums_narrow());
        });
    for (int64_t i = 0; i < shape.partial_size(); ++i) {
      float sum = 0;
      for (int64_t split = 0; split < shape.splits; ++split) sum += partial[split * shape.partial_size() + i];
      (i < shape.weights() ? result.data[weight_offset(shape, i)] : bias.data[i - shape.weights()]) = sum;
    }
    std::printf("weight ");
    if (compare(result, expected)) return 1;
    std::printf("bias ");
    return compare(bias, expected_bias);
  }

  int run(const std::string& name) {
    return name == "forward" ? forward() : name == "grad_input" ? grad_input() : grad_weight();
  }
};

int main(int count, char** arguments) {
  if (count != 19) return 2;
  const std::string name = arguments[1], type = arguments[2];
  const Conv2d conv = parse(arguments + 5);
  if (type == "fp32") return Few<float>{conv, arguments[3], arguments[4]}.run(name);
  return Few<Bit16>{conv, arguments[3], arguments[4]}.run(name);
}
