// Runs the halo kernel's blocks on the host, thread by thread between barriers, and compares with a naive
// convolution, as emulation.cpp does for the implicit GEMMs; halo_machine.h plays copies and tensor cores.
// Arguments: operator type (tf32, 16-bit, random for tf32 of random numbers) arrivals (early, late) weight's
// layout, filters of a block (0: as chosen) images × rows × columns of patches in a tile (0: as chosen) N C H
// W K R S stride(2) padding(2) dilation(2) groups. Prints the tile, the number of blocks and "ok", or the
// first differing element and exits with 1; of random numbers the largest errors. Exits with 3, and says why,
// where the kernel does not serve.

#include <cmath>
#include <cstring>
#include <random>
#include <tuple>

#define MYCONV2D_HALO
#include "cuda/halo.h"
#include "cuda/pack.h"
#include "halo_machine.h"
#include "naive.h"

using namespace myconv2d::cuda;

template <class T, int N>
void emulate(const HaloArguments<T>& args) {
  using Machine = HaloMachine<T>;
  using Thread = HaloThread<Machine, N>;
  const auto blocks = static_cast<uint32_t>(args.shape.blocks());
  for (uint32_t block = 0; block < blocks; ++block) {
    const int count = args.shape.tile.threads();
    unsigned char* shared = Machine::start_block(count, args.shape.shared_bytes());
    std::vector<Thread> threads;
    threads.reserve(count);
    for (int t = 0; t < count; ++t) threads.emplace_back(args, block, blocks, t, shared);
    const auto each = [&](auto&& work) {
      for (Machine::thread = 0; Machine::thread < count; ++Machine::thread) work(threads[Machine::thread]);
    };
    const auto products = [&](auto&& work) {
      each(work);
      Machine::settle();
    };
    run_halo(each, products, each, threads[0].steps());
  }
}

struct Options {
  bool random;
  std::string layout;  // of the weight
  int columns;
  HaloTile tile;
};

template <class T>
void randomise(Tensor<T>& tensor) {
  static std::mt19937 generator(1);
  for (T& value : tensor.data) value = static_cast<T>(std::normal_distribution<float>()(generator));
}

// Of the largest result, and of the sum of the result's own products without their signs.
template <class T>
int largest_errors(Tensor<T>& actual, Tensor<double>& expected, Tensor<double>& magnitude) {
  double error = 0, largest = 0, of_products = 0;
  for (int64_t n = 0; n < actual.size[0]; ++n)
    for (int64_t c = 0; c < actual.size[1]; ++c)
      for (int64_t h = 0; h < actual.size[2]; ++h)
        for (int64_t w = 0; w < actual.size[3]; ++w) {
          const double exact = expected.at(n, c, h, w),
                       here = std::abs(double(actual.at(n, c, h, w)) - exact);
          largest = std::max(largest, std::abs(exact));
          error = std::max(error, here);
          of_products = std::max(of_products, here / magnitude.at(n, c, h, w));
        }
  std::printf("%g %g\n", error / largest, of_products);
  return std::isnan(error);
}

template <class T>
Tensor<double> naive(const Conv2d& conv, bool transposed, Tensor<T>& image, Tensor<T>& weight,
                     const std::vector<T>& bias) {
  return transposed ? naive_grad_input(conv, image, weight) : naive_forward(conv, image, weight, bias);
}

template <class T>
int run(const Conv2d& conv, bool transposed, const Options& options) {
  const Setting setting{true, true, 90};
  const Type type = sizeof(T) == 4 ? Type::f32 : Type::bf16;
  if (const char* problem = halo_problem(conv, type, transposed, setting)) {
    std::puts(problem);
    return 3;
  }
  std::vector<int64_t> in{conv.batch, conv.in_channels, conv.in_height, conv.in_width},
      out{conv.batch, conv.out_channels, conv.out_height, conv.out_width};
  if (transposed) std::swap(in, out);
  Tensor<T> image(in, "channels_last", true), result(out, "channels_last", false),
      weight({conv.out_channels, conv.in_channels, 3, 3}, options.layout, true);
  std::vector<T> bias(2 * conv.out_channels);  // stride 2
  for (T& value : bias) value = static_cast<T>(random_digit());
  if (options.random) randomise(image), randomise(weight);
  Tensor<double> expected = naive(conv, transposed, image, weight, bias);

  HaloArguments<T> args{};
  choose_halo_shape(conv, transposed, sizeof(T), args.shape);
  if (options.columns) {
    args.shape.columns = options.columns;
    args.shape.splits = static_cast<int>(ceil_div(args.shape.filters, options.columns));
  }
  if (options.tile.images) {
    set_tile(args.shape, options.tile);
    args.shape.halo_columns = Divisor(options.tile.halo_columns());
    args.shape.halo_image = Divisor(options.tile.halo_rows() * options.tile.halo_columns());
  }
  const Correlation shape = correlation(conv, transposed, image.strides, result.strides);
  const FilterStrides strides = filter_strides(conv, transposed, weight.strides);
  PackArguments<T> packing{shape, strides, weight.data.data(), nullptr, packed_pitch<T>(shape)};
  std::vector<T> packed(packing.elements(), static_cast<T>(55));
  packing.packed = packed.data();
  for (int64_t i = 0; i < packing.elements(); ++i) pack_element(packing, i);
  const bool in_place = is_packed(shape, strides, weight.data.data());
  args.filter = in_place ? weight.data.data() : packed.data();
  args.filter_pitch = in_place ? strides.filter : packing.pitch;
  args.image = halo_images<const T>(image.data.data(), image.strides);
  args.turned = transposed;
  args.bias = transposed ? nullptr : bias.data();
  args.bias_stride = 2;
  args.out = halo_images(result.data.data(), result.strides);

  const HaloTile& tile = args.shape.tile;
  std::printf("%dx%dx%d patches, %d of %d filters, %d blocks, filters %s: ", tile.images, tile.down,
              tile.across, args.shape.columns, args.shape.filters, int(args.shape.blocks()),
              in_place ? "in place" : "packed");
  std::fflush(stdout);
  switch (args.shape.columns) {
    case 32:
      emulate<T, 32>(args);
      break;
    case 64:
      emulate<T, 64>(args);
      break;
    default:
      emulate<T, 128>(args);
  }
  if (!options.random) return compare(result, expected);
  for (auto* values : {&image.data, &weight.data, &bias})
    for (T& value : *values) value = std::abs(value);
  Tensor<double> magnitude = naive(conv, transposed, image, weight, bias);
  return largest_errors(result, expected, magnitude);
}

int main(int count, char** arguments) {
  if (count != 23) return 2;
  const std::string name = arguments[1], type = arguments[2];
  HaloMachine<int16_t>::late = HaloMachine<float>::late = std::string(arguments[3]) == "late";
  const Options options{type == "random",
                        arguments[4],
                        std::atoi(arguments[5]),
                        {std::atoi(arguments[6]), std::atoi(arguments[7]), std::atoi(arguments[8])}};
  const Conv2d conv = parse(arguments + 9);
  const bool transposed = name == "grad_input";
  return type == "16-bit" ? run<int16_t>(conv, transposed, options) : run<float>(conv, transposed, options);
}
