// What the implicit GEMM's launches take, counted on the host: for myconv2d.cuda_gemm_report.
#include <cstring>
#include <string>
#include <vector>

#include "correlate.h"
#include "grad_weight.h"
#include "pack.h"

namespace myconv2d::cuda {
namespace {

struct Launch {
  std::string kernel;  // as in C++, without namespaces
  int64_t blocks, threads;
  int64_t moved_bytes;  // what the blocks load, whole tiles, and store
  int64_t floor_bytes;  // each tensor once, workspaces not at all
};

// Strides of a dense tensor.
Strides dense(int64_t c, int64_t h, int64_t w, bool channels_last) {
  return channels_last ? Strides{h * w * c, 1, w * c, c} : Strides{c * h * w, h * w, w, 1};
}

constexpr int64_t step_bytes = row_chunks * 16;  // of a row of A or B, a step

struct Count {
  const Conv2d& conv;
  Type type;
  bool allow_tf32, channels_last;

  int64_t inputs() const { return conv.batch * conv.in_pixels() * conv.in_channels; }
  int64_t outputs() const { return conv.batch * conv.out_pixels() * conv.out_channels; }
  int64_t weights() const { return conv.out_channels * conv.group_in_channels() * conv.taps(); }
  Strides input() const { return dense(conv.in_channels, conv.in_height, conv.in_width, channels_last); }
  Strides output() const { return dense(conv.out_channels, conv.out_height, conv.out_width, channels_last); }
  Strides weight() const {
    return dense(conv.group_in_channels(), conv.kernel_height, conv.kernel_width, channels_last);
  }

  std::string element() const {
    return type == Type::f64 ? "double" : type == Type::f32 ? "float" : type == Type::f16 ? "__half" : "__nv_bfloat16";
  }
  std::string tile(int m, int n) const {
    const std::string size = std::to_string(m) + ", " + std::to_string(n) + ">";
    if (type == Type::f32 && !allow_tf32) return "SimtTile<" + size;
    const char* mma = type == Type::f64 ? "Fp64" : type == Type::f32 ? "Tf32" : type == Type::f16 ? "Fp16" : "Bf16";
    return std::string("MmaTile<") + mma + ", " + size;
  }

  template <class T>
  std::vector<Launch> correlation_launches(bool transposed) const {
    const Strides image = transposed ? output() : input(), out = transposed ? input() : output();
    const Correlation shape = correlation(conv, transposed, image, out);
    const FilterStrides filters = filter_strides(conv, transposed, weight());
    const int64_t size = sizeof(T), bias = transposed ? 0 : conv.out_channels;
    std::vector<Launch> launches;
    const T* nowhere = nullptr;
    if (!is_packed(shape, filters, nowhere)) {
      const PackArguments<T> pack{shape, filters, nullptr, nullptr, packed_pitch<T>(shape)};
      launches.push_back({"pack_filters<" + element() + ">", ceil_div(pack.elements(), 256), 256,
                          (weights() + pack.elements()) * size, weights() * size});
    }
    constexpr int m = block_threads;
    const int n = tile_columns(shape.filters, widest_tile(type));
    CorrelateArguments<T> args{};
    args.shape = shape;
    const int64_t blocks = args.blocks(m, n);
    int64_t steps = 0;  // of all blocks
    for (int h = 0; h < shape.h.classes(); ++h)
      for (int w = 0; w < shape.w.classes(); ++w)
        steps += blocks / shape.classes() *
                 ceil_div(shape.h.axis(h).taps * shape.w.axis(w).taps * ceil_div(shape.channels, Chunk<T>::size),
                          row_chunks);
    const std::string vectors = loads_vectors(shape, nowhere) ? "true" : "false";
    launches.push_back({"correlate<" + tile(m, n) + ", " + vectors + ">", blocks, block_threads,
                        steps * step_bytes * (m + n) + ((transposed ? inputs() : outputs()) + bias) * size,
                        (inputs() + outputs() + weights() + bias) * size});
    return launches;
  }

  template <class T>
  std::vector<Launch> grad_weight_launches() const {
    GradWeightShape shape = grad_weight_shape(conv, output(), input(), weight(), true);
    constexpr int m = 64;
    const int n = tile_columns(shape.group_outputs, widest_tile(type));
    const int64_t tiles = shape.tiles(m, n), size = sizeof(T), sum_size = type == Type::f64 ? 8 : 4;
    set_splits(shape, tiles, step_size<T>);
    const int64_t partial = shape.splits * shape.partial_size() * sum_size,
                  steps = tiles * ceil_div(shape.pixels(), step_size<T>);
    const std::string sums = type == Type::f64 ? "double" : "float";
    return {{"grad_weight_partial<" + tile(m, n) + ">", tiles * shape.splits, block_threads,
             steps * step_bytes * (m + n) + partial, (inputs() + outputs()) * size},
            {"grad_weight_reduce<" + element() + ", " + sums + ", GradWeightShape>",
             ceil_div(shape.partial_size(), reduce_elements), reduce_elements * reduce_slices,
             partial + shape.partial_size() * size, shape.partial_size() * size}};
  }

  template <class T>
  std::vector<Launch> launches(int pass) const {
    return pass == 2 ? grad_weight_launches<T>() : correlation_launches<T>(pass == 1);
  }
};

}  // namespace
}  // namespace myconv2d::cuda

#pragma GCC visibility push(default)
extern "C" {

// Launch number `index` of the implicit GEMM of a pass: its kernel, and in `counted` the other numbers of Launch; null
// beyond the last. The convolution, type and pass as for myconv2d_cuda_algorithm; all tensors have the layout given.
const char* myconv2d_cuda_gemm_launch(const int64_t* numbers, int type, int allow_tf32, int channels_last, int pass,
                                      int index, int64_t* counted) {
  using namespace myconv2d;
  Conv2d conv;
  std::memcpy(&conv, numbers, sizeof conv);
  const cuda::Count count{conv, static_cast<Type>(type), allow_tf32 != 0, channels_last != 0};
  const auto launches = count.type == Type::f64   ? count.launches<double>(pass)
                        : count.type == Type::f32 ? count.launches<float>(pass)
                                                  : count.launches<uint16_t>(pass);
  if (index >= static_cast<int>(launches.size())) return nullptr;
  thread_local std::string kernel;
  const cuda::Launch& launch = launches[index];
  kernel = launch.kernel;
  counted[0] = launch.blocks, counted[1] = launch.threads;
  counted[2] = launch.moved_bytes, counted[3] = launch.floor_bytes;
  return kernel.c_str();
}

}  // extern "C"
#pragma GCC visibility pop
