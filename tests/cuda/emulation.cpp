// Runs the CUDA kernels' blocks on the host, thread by thread between barriers, and compares with a naive
// convolution.
//
// The code under test is the kernels' own (correlate.h, grad_weight.h and the tiles); only the barrier and
// the tensor-core instruction are played here. Data are small integers, so every result must be equal, not
// close. Arguments: operator arithmetic columns layout N C H W K R S stride(2) padding(2) dilation(2)
// groups. Prints "ok", or the first differing element and exits with 1.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "block.h"
#include "cuda/correlate.h"
#include "cuda/grad_weight.h"
#include "cuda/pack.h"
#include "cuda/tile_mma.h"
#include "cuda/tile_simt.h"
#include "naive.h"

using namespace myconv2d;
using namespace myconv2d::cuda;

// --- mma.sync, after the fragment tables of the PTX ISA ----------------------------------------------------

// An instruction that writes down what each thread asks for; replay() then performs it for whole warps.
template <class T, class W, class A, int k, int words>
struct Recorded {
  using Element = T;
  using Word = W;
  using Accumulator = A;
  struct Call {
    Accumulator* d;
    Word a[2 * words], b[words];
  };
  static inline std::vector<Call> calls[block_threads];
  static inline int thread = 0;

  template <class V>
  static V prepare(V value) {
    return value;
  }
  static void multiply(Accumulator (&d)[4], const Word (&a)[2 * words], const Word (&b)[words]) {
    Call call{d, {}, {}};
    std::copy(a, a + 2 * words, call.a);
    std::copy(b, b + words, call.b);
    calls[thread].push_back(call);
  }
  static void replay() {
    constexpr int per_word = sizeof(Word) / sizeof(Element);
    for (int warp = 0; warp < block_threads; warp += 32) {
      for (size_t i = 0; i < calls[warp].size(); ++i) {
        double a[16][k], b[k][8];
        for (int lane = 0; lane < 32; ++lane) {
          Element values[2 * words * per_word];
          const Call& call = calls[warp + lane][i];
          const int group = lane >> 2, in_group = lane % 4;
          std::memcpy(values, call.a, sizeof(call.a));
          for (int e = 0; e < 2 * words * per_word;
               ++e) {  // register e / per_word: rows alternate, then columns
            const int word = e / per_word;
            a[group + 8 * (word % 2)][(in_group + 4 * (word / 2)) * per_word + e % per_word] = values[e];
          }
          std::memcpy(values, call.b, sizeof(call.b));
          for (int e = 0; e < words * per_word; ++e)
            b[(in_group + 4 * (e / per_word)) * per_word + e % per_word][group] = values[e];
        }
        for (int lane = 0; lane < 32; ++lane)
          for (int e = 0; e < 4; ++e)
            for (int l = 0; l < k; ++l)
              calls[warp + lane][i].d[e] += a[(lane >> 2) + 8 * (e / 2)][l] * b[l][lane % 4 * 2 + e % 2];
      }
    }
    for (auto& list : calls) list.clear();
  }
};

using Tf32 = Recorded<float, float, float, 8, 2>;
using Bit16 = Recorded<int16_t, uint32_t, float, 16, 2>;  // integers stand in for the 16-bit floats
using Fp64 = Recorded<double, double, double, 4, 1>;

struct NoInstruction {
  static inline int thread = 0;
  static void replay() {}
};

// --- a block -----------------------------------------------------------------------------------------------

template <class Thread, class Instruction>
void emulate(const typename Thread::Arguments& args, int64_t blocks) {
  for (int64_t block = 0; block < blocks; ++block) {
    auto shared = std::make_unique<typename Thread::Shared>();
    std::memset(static_cast<void*>(shared.get()), 0x7f, sizeof(*shared));  // nothing may be taken for granted
    std::vector<Thread> threads;
    for (int t = 0; t < block_threads; ++t)
      threads.emplace_back(args, static_cast<uint32_t>(block), t, *shared);
    run_threads(
        threads, [&](auto&& phase) { run_block(phase, threads[0].steps()); },
        [](int t) { Instruction::thread = t; }, [] { Instruction::replay(); });
  }
}

// --- the operators -----------------------------------------------------------------------------------------

template <class Tile, class Instruction>
struct Operators {
  using T = typename Tile::Element;
  using Accumulator = typename Tile::Accumulator;
  Conv2d conv;
  std::string layout;
  std::vector<int64_t> in{conv.batch, conv.in_channels, conv.in_height, conv.in_width};
  std::vector<int64_t> out{conv.batch, conv.out_channels, conv.out_height, conv.out_width};
  std::vector<int64_t> filters{conv.out_channels, conv.group_in_channels(), conv.kernel_height,
                               conv.kernel_width};

  int correlate(const Correlation& shape, const FilterStrides& strides, Tensor<T>& image, Tensor<T>& weight,
                const T* bias, Tensor<T>& result, Tensor<double>& expected) {
    PackArguments<T> packing{shape, strides, weight.data.data(), nullptr, packed_pitch<T>(shape)};
    std::vector<T> packed(packing.elements(), static_cast<T>(55));
    packing.packed = packed.data();
    for (int64_t i = 0; i < packing.elements(); ++i) pack_element(packing, i);

    CorrelateArguments<T> args{shape, image.data.data(), packed.data(), packing.pitch, bias,
                               2,     result.data.data()};
    if (is_packed(shape, strides, weight.data.data())) {
      args.filter = weight.data.data();
      args.filter_pitch = strides.filter;
    }
    const bool vector_loads = loads_vectors(shape, args.image);
    std::printf("%s, %s: ", args.filter == packed.data() ? "filters packed" : "filters in place",
                vector_loads ? "16-byte loads" : "single loads");
    const int64_t blocks = args.blocks(Tile::M, Tile::N);
    if (vector_loads)
      emulate<CorrelateThread<Tile, true>, Instruction>(args, blocks);
    else
      emulate<CorrelateThread<Tile, false>, Instruction>(args, blocks);
    return compare(result, expected);
  }

  int forward() {
    Tensor<T> input(in, layout, true), weight(filters, layout, true), output(out, layout, false);
    std::vector<T> bias(2 * conv.out_channels);  // stride 2
    for (T& value : bias) value = static_cast<T>(random_digit());
    Tensor<double> expected = naive_forward(conv, input, weight, bias);
    return correlate(correlation(conv, false, input.strides, output.strides),
                     filter_strides(conv, false, weight.strides), input, weight, bias.data(), output,
                     expected);
  }

  int grad_input() {
    Tensor<T> grad_output(out, layout, true), weight(filters, layout, true), result(in, layout, false);
    Tensor<double> expected = naive_grad_input(conv, grad_output, weight);
    return correlate(correlation(conv, true, grad_output.strides, result.strides),
                     filter_strides(conv, true, weight.strides), grad_output, weight, nullptr, result,
                     expected);
  }

  int grad_weight() {
    Tensor<T> grad_output(out, layout, true), input(in, layout, true);
    Tensor<Accumulator> result(filters, layout, false);
    Tensor<Accumulator> bias({conv.out_channels, 1, 1, 1}, "contiguous", false);
    Tensor<double> expected = naive_grad_weight(conv, grad_output, input),
                   expected_bias = naive_grad_bias(conv, grad_output);

    GradWeightShape shape = grad_weight_shape(conv, grad_output.strides, input.strides, result.strides, true);
    const int64_t tiles = shape.tiles(Tile::M, Tile::N);
    set_splits(shape, tiles, step_size<T>);
    std::vector<Accumulator> partial(shape.splits * shape.partial_size(), 99);
    GradWeightArguments<T, Accumulator> args{shape, input.data.data(), grad_output.data.data(),
                                             partial.data()};
    emulate<GradWeightThread<Tile>, Instruction>(args, tiles * shape.splits);
    for (int64_t i = 0; i < shape.partial_size(); ++i) {
      Accumulator sum = 0;
      for (int64_t split = 0; split < shape.splits; ++split) sum += partial[split * shape.partial_size() + i];
      (i < shape.weights() ? result.data[weight_offset(shape, i)] : bias.data[i - shape.weights()]) = sum;
    }
    std::printf("%ld splits, weight ", long(shape.splits));
    if (compare(result, expected)) return 1;
    std::printf("bias ");
    return compare(bias, expected_bias);
  }
};

template <template <int, int> class Tile, class Instruction>
int run(const std::string& name, const std::string& columns, const Conv2d& conv, const std::string& layout) {
  const auto with_rows = [&](auto rows) {
    constexpr int m = decltype(rows)::value;
    const auto one = [&](auto operators) {
      return name == "forward" ? operators.forward() : name == "grad_input" ? operators.grad_input() : 2;
    };
    const auto other = [&](auto operators) { return operators.grad_weight(); };
    const auto choose = [&](auto operators) {
      if constexpr (m == block_threads)
        return one(operators);
      else
        return other(operators);
    };
    if (columns == "8") return choose(Operators<Tile<m, 8>, Instruction>{conv, layout});
    if (columns == "32") return choose(Operators<Tile<m, 32>, Instruction>{conv, layout});
    if constexpr (sizeof(typename Tile<m, 8>::Element) < 8)
      if (columns == "64") return choose(Operators<Tile<m, 64>, Instruction>{conv, layout});
    return 2;
  };
  if (name == "grad_weight") return with_rows(std::integral_constant<int, 64>{});
  return with_rows(std::integral_constant<int, block_threads>{});
}

template <int M, int N>
using Tf32Tile = MmaTile<Tf32, M, N>;
template <int M, int N>
using Bit16Tile = MmaTile<Bit16, M, N>;
template <int M, int N>
using Fp64Tile = MmaTile<Fp64, M, N>;

int main(int count, char** arguments) {
  if (count != 19) return 2;
  const std::string name = arguments[1], arithmetic = arguments[2], columns = arguments[3],
                    layout = arguments[4];
  const Conv2d conv = parse(arguments + 5);
  if (!fits(conv)) return 2;
  if (arithmetic == "simt") return run<SimtTile, NoInstruction>(name, columns, conv, layout);
#ifndef SIMT_ONLY  // compiles four times as fast
  if (arithmetic == "tf32") return run<Tf32Tile, Tf32>(name, columns, conv, layout);
  if (arithmetic == "16-bit") return run<Bit16Tile, Bit16>(name, columns, conv, layout);
  if (arithmetic == "fp64") return run<Fp64Tile, Fp64>(name, columns, conv, layout);
#endif
  return 2;
}
