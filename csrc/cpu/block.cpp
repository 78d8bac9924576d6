// The fused block of one instruction set: the products of kernels.cpp with feeds to read from and harvests to write
// to, and the arithmetic of batch norm between them, per channel and in double. Compiled once per instruction set.
#include "algorithm.h"
#include "few_channels.h"
#include "few_feeds.h"
#include "few_in_pooled.h"
#include "kernels.h"
#include "upsampled.h"
#include "winograd_backward.h"

namespace myconv2d::MYCONV2D_ISA {
namespace {

WeightView weight_view(const Conv2d& conv, const ConstImage& weight) {
  const Strides& s = weight.strides;
  return {s.c, s.n, s.h, s.w, conv.group_out_channels() * s.n};
}

// Of the algorithms that know feeds: what would be direct goes to the nearest of them.
Algorithm algorithm_of(const Conv2d& conv, Pass pass) {
  const Algorithm chosen = choose_algorithm(conv, Type::f32, pass);
  if (chosen != Algorithm::direct) return chosen;
  const bool turned = pass == Pass::grad_input;
  const int64_t in = turned ? conv.out_channels : conv.in_channels, out = turned ? conv.in_channels : conv.out_channels;
  return in <= few_channels ? Algorithm::few_in : out <= few_channels ? Algorithm::few_out : Algorithm::winograd;
}

bool at_low_resolution(const Conv2d& conv, const Feeds& input) {
  return (input.first.upsample || input.second.upsample) && suits_low_resolution(conv, low_channels(input));
}

template <typename Source, typename Sink>
void product(Algorithm algorithm, const Correlation& p, const Threads& threads, const Source& source,
             const float* weight, const WeightView& view, const float* bias, const Sink& sink) {
  switch (algorithm) {
    case Algorithm::few_in: return few_in_product(p, threads, source, weight, view, bias, 1, sink);
    case Algorithm::few_out: return few_out_product(p, threads, source, weight, view, bias, 1, sink);
    default: return winograd_product(p, threads, source, weight, view, bias, 1, sink);
  }
}

template <typename Sink>
void convolve(const Conv2d& conv, const Threads& threads, const Feeds& input, const ConstImage& weight,
              const float* bias, const Sink& sink, PackedWeights* ahead = nullptr) {
  const Correlation p{conv.batch,        1,              conv.kernel_height,
                      conv.kernel_width, conv.padding_h, conv.padding_w};
  Algorithm algorithm = algorithm_of(conv, Pass::forward);
  if (algorithm == Algorithm::winograd && at_low_resolution(conv, input)) algorithm = Algorithm::upsampled;
  WeightView view = weight_view(conv, weight);
  if (ahead) {
    const int64_t maker = 1000 * static_cast<int64_t>(algorithm) + MYCONV2D_VECTOR_BYTES;
    if (ahead->stage == PackedWeights::measure) ahead->maker = maker;
    if (ahead->maker == maker) view.ahead = ahead;
  }
  const float* weights = static_cast<const float*>(weight.data);
  if (algorithm == Algorithm::upsampled)
    return upsampled_product(conv, threads, input, weights, view, bias, sink);
  product(algorithm, p, threads, FeedSource(input, conv.in_height, conv.in_width), weights, view, bias, sink);
}

Planes<float> output_planes(const Conv2d& conv, const Image& image) {
  return {static_cast<float*>(image.data), image.strides, conv.out_channels, conv.out_height, conv.out_width};
}

// Sums over tasks in double: element `i` of each task's `channels`.
double total(const TaskSums& sums, int64_t i) {
  double result = 0;
  for (int64_t task = 0; task < sums.tasks; ++task) result += sums.of(task)[i];
  return result;
}

// Mean and variance of each channel from the tasks' shifted sums (Chan, Golub & LeVeque 1983), then the affine map. A
// vector of channels at a time; tasks have room behind their sums (harvest.h) for what the last one reads too much.
void finish_statistics(const BlockForward& b, const TaskSums& sums) {
  using Wide = Vector<double>::type;
  constexpr int64_t at_once = Vector<double>::lanes;
  const int64_t channels = b.conv.out_channels;
  for (int64_t first = 0; first < channels; first += at_once) {
    Wide count{}, mean{}, squares{};
    for (int64_t task = 0; task < sums.tasks; ++task) {
      const auto of = [&](int64_t row) {
        return __builtin_convertvector(get<HalfLanes>(sums.of(task) + row * channels + first), Wide);
      };
      const Wide n = of(0), shift = of(1), sum = of(2), square = of(3), every = count + n;
      const Wide own = n > 0 ? n : 1.0, all = every > 0 ? every : 1.0;  // a task may have none of a channel
      const Wide delta = shift + sum / own - mean, share = n / all;
      squares += square - sum * sum / own + delta * delta * count * share;
      mean += delta * share;
      count = every;
    }
    for (int64_t k = first; k < least(first + at_once, channels); ++k) {
      const int64_t i = k - first;
      const double var = count[i] > 0 ? squares[i] / count[i] : 0;
      const double scale = b.norm.gamma[k] / __builtin_sqrt((var < 0 ? 0 : var) + b.norm.eps);
      b.mean[k] = static_cast<float>(mean[i]);
      b.var[k] = static_cast<float>(var < 0 ? 0 : var);
      b.scale[k] = static_cast<float>(scale);
      b.shift[k] = static_cast<float>(b.norm.beta[k] - mean[i] * scale);
    }
  }
}

void block_forward(const BlockForward& b, const Threads& threads) {
  const int64_t channels = b.conv.out_channels;
  if (!b.norm.gamma)
    return convolve(b.conv, threads, b.input, b.weight, b.bias, output_planes(b.conv, b.raw));
  TaskSums sums;
  float* sign = static_cast<float*>(scratch(Scratch::vectors, channels * sizeof(float)));
  for (int64_t k = 0; k < channels; ++k) sign[k] = (b.norm.gamma[k] > 0) - (b.norm.gamma[k] < 0);
  const Image& y = b.pool ? b.full : b.raw;  // full has no data where it is not kept
  const BlockSink sink{static_cast<float*>(y.data),
                       b.pool ? static_cast<float*>(b.raw.data) : nullptr,
                       b.pool ? static_cast<uint8_t*>(b.index.data) : nullptr,
                       y.strides, b.raw.strides, b.index.strides, sign, &sums, channels,
                       b.conv.out_height, b.conv.out_width};
  convolve(b.conv, threads, b.input, b.weight, b.bias, sink);
  finish_statistics(b, sums);
}

void block_inference(const BlockInference& b, const Threads& threads) {
  const int64_t channels = b.conv.out_channels;
  if (!b.norm.gamma && !b.relu && !b.pool)
    return convolve(b.conv, threads, b.input, b.weight, b.bias, output_planes(b.conv, b.output), b.ahead);
  float *scale = nullptr, *shift = nullptr;
  if (b.norm.gamma) {  // relu(scale·y + shift)
    scale = static_cast<float*>(scratch(Scratch::vectors, 2 * channels * sizeof(float)));
    shift = scale + channels;
    for (int64_t k = 0; k < channels; ++k) {
      const double of = b.norm.gamma[k] / __builtin_sqrt(b.var[k] + b.norm.eps);
      scale[k] = static_cast<float>(of);
      shift[k] = static_cast<float>(b.norm.beta[k] - b.mean[k] * of);
    }
  }
  const InferenceSink sink{static_cast<float*>(b.output.data), b.output.strides, scale, shift, b.relu, b.pool,
                           channels, b.conv.out_height, b.conv.out_width};
  convolve(b.conv, threads, b.input, b.weight, b.bias, sink, b.ahead);
}

// What y gets through scale, shift, mean and var, which is constant + slope·(y − mean) (block_reference.py), and the
// gradients of gamma and beta.
struct NormGradient {
  double constant, slope, gamma, beta;

  NormGradient(const BlockBackward& b, int64_t k) {
    const double count = most(b.conv.batch * b.conv.out_pixels(), 1);
    const double mean = b.mean[k], r = 1 / __builtin_sqrt(b.var[k] + b.norm.eps);
    const double by_scale = b.grad_scale ? b.grad_scale[k] : 0, by_shift = b.grad_shift ? b.grad_shift[k] : 0;
    const double centred = by_scale - mean * by_shift;
    constant = -b.norm.gamma[k] * r * by_shift / count;
    slope = -r * r * r * b.norm.gamma[k] * centred / count;
    gamma = r * centred;
    beta = by_shift;
  }
};

// The gradient of y; with batch norm, grad + offset + slope·y.
GradientSource gradient_of_output(const BlockBackward& b, float* offset) {  // with room for the slope behind it
  const int64_t channels = b.conv.out_channels;
  GradientSource source{static_cast<const float*>(b.grad_raw.data), nullptr,
                        b.pool ? static_cast<const uint8_t*>(b.index.data) : nullptr,
                        b.grad_raw.strides, b.y.strides, b.index.strides, nullptr, nullptr, channels,
                        b.conv.out_height, b.conv.out_width};
  if (!b.norm.gamma) return source;
  float* slope = offset + channels;
  for (int64_t k = 0; k < channels; ++k) {
    const NormGradient norm(b, k);
    slope[k] = static_cast<float>(norm.slope);
    offset[k] = static_cast<float>(norm.constant - norm.slope * b.mean[k]);
    if (b.grad_gamma) b.grad_gamma[k] = static_cast<float>(norm.gamma);
    if (b.grad_beta) b.grad_beta[k] = static_cast<float>(norm.beta);
  }
  source.y = static_cast<const float*>(b.y.data);
  source.offset = offset;
  source.slope = slope;
  return source;
}

void finish_vectors(const FeedSink& sink) {
  int64_t first = 0;
  for (int i = 0, together; i < most_parts; i += together) {  // parts of one feed lie together
    const FeedSink::Part& part = sink.parts[i];
    const float* scale = part.gradient.scale;
    for (together = 1; scale && i + together < most_parts && sink.parts[i + together].gradient.scale == scale;) ++together;
    const int64_t channels = part.feed.channels, all = together * channels;
    for (int64_t c = 0; scale && c < channels; ++c) {
      double to_scale = 0, to_shift = 0;
      for (int64_t at = first + c; at < first + all; at += channels)
        to_scale += total(*sink.sums, at), to_shift += total(*sink.sums, sink.channels + at);
      part.gradient.scale[c] = static_cast<float>(to_scale);
      part.gradient.shift[c] = static_cast<float>(to_shift);
    }
    first += all;
  }
}

// Where y was not kept: the gradient of the weight without it, and for that of the feeds y once more, without the bias,
// which then must not be in its mean either.
void without_full(const BlockBackward& b, const Threads& threads, const GradientSource& gradient,
                  const FeedSource& feeds, float* offset) {
  const Conv2d& conv = b.conv;
  const Strides &ws = b.weight.strides, &gs = b.grad_weight.strides;
  const float* weight = static_cast<const float*>(b.weight.data);
  float* grad_weight = static_cast<float*>(b.grad_weight.data);
  const PooledSums sums = pooled_sums(conv, threads, gradient, feeds, grad_weight);
  for (int64_t k = 0; k < conv.out_channels; ++k) {
    const NormGradient norm(b, k);
    offset[k] = static_cast<float>(norm.constant - norm.slope * sums.output_mean(weight, ws, k));
    for (int64_t i = 0; grad_weight && i < sums.size; ++i)
      grad_weight[PooledSums::place(gs, k, i)] =
          static_cast<float>(sums.grad_weight(weight, ws, k, i, norm.constant, norm.slope));
  }
  if (b.again.data) convolve(conv, threads, b.input, b.weight, nullptr, output_planes(conv, b.again));
}

// The convolution's two derivatives, in one pass where both go by Winograd (even if only one is wanted: it must not
// depend on that), else each by its own algorithm.
void block_backward(const BlockBackward& b, const Threads& threads) {
  const Conv2d& conv = b.conv;
  float* offset = static_cast<float*>(scratch(Scratch::vectors, 2 * conv.out_channels * sizeof(float)));
  const GradientSource gradient = gradient_of_output(b, offset);
  const FeedSource feeds(b.input, conv.in_height, conv.in_width);
  TaskSums sums;
  const FeedSink sink{{{b.input.first, b.first}, {b.input.second, b.second}}, &sums, conv.in_channels,
                      conv.in_height, conv.in_width};
  const bool to_feeds = b.first.data || b.second.data, full = !b.pool || keeps_full(conv);
  const bool to_weight = b.grad_weight.data;
  const Algorithm for_feeds = algorithm_of(conv, Pass::grad_input), for_weight = algorithm_of(conv, Pass::grad_weight);
  const float* weight = static_cast<const float*>(b.weight.data);
  float* grad_weight = static_cast<float*>(b.grad_weight.data);
  float* grad_bias = b.norm.gamma ? nullptr : b.grad_bias;
  if (to_weight && b.norm.gamma && b.grad_bias)  // batch norm takes the bias out again
    std::memset(b.grad_bias, 0, conv.out_channels * sizeof(float));

  if (!full) without_full(b, threads, gradient, feeds, offset);
  const bool winograd = for_feeds == Algorithm::winograd && for_weight == Algorithm::winograd;
  if (winograd && at_low_resolution(conv, b.input) && upsampled_backward_suits(conv, b.input)) {
    const FeedSink low = low_sink(b.input, b.first, b.second, &sums, conv.in_height, conv.in_width);
    upsampled_backward(conv, threads, gradient, b.input, weight, weight_view(conv, b.weight), to_feeds ? &low : nullptr,
                       grad_weight, b.grad_weight.strides, grad_bias);
    if (to_feeds) finish_vectors(low);
    return;
  }
  if (winograd && winograd_backward_suits(conv)) {
    winograd_backward(conv, threads, gradient, feeds, weight, b.weight.strides, to_feeds ? &sink : nullptr, grad_weight,
                      b.grad_weight.strides, grad_bias);
    if (to_feeds) finish_vectors(sink);
    return;
  }
  if (to_feeds) {
    const WeightView view = weight_view(conv, b.weight);
    const WeightView turned{view.k, view.c, -view.r, -view.s, 0};  // by half a turn, from the last tap
    const float* last_tap = weight + (conv.kernel_height - 1) * view.r + (conv.kernel_width - 1) * view.s;
    const Correlation p{conv.batch, 1, conv.kernel_height, conv.kernel_width,
                        conv.kernel_height - 1 - conv.padding_h, conv.kernel_width - 1 - conv.padding_w};
    product<GradientSource, FeedSink>(for_feeds, p, threads, gradient, last_tap, turned, nullptr, sink);
    finish_vectors(sink);
  }
  if (!to_weight || !full) return;
  switch (for_weight) {
    case Algorithm::few_in:
      return few_in_grad_weight(conv, threads, gradient, feeds, grad_weight, b.grad_weight.strides, grad_bias);
    case Algorithm::few_out:
      return few_out_grad_weight(conv, threads, gradient, feeds, grad_weight, b.grad_weight.strides, grad_bias);
    default: winograd_grad_weight(conv, threads, gradient, feeds, grad_weight, b.grad_weight.strides, grad_bias);
  }
}

void activate(const Activation& a, const Threads& threads, Image output) {
  const int64_t height = a.height << a.feed.upsample, width = a.width << a.feed.upsample;
  parallel_for(threads, a.batch * height, [&](int64_t row) {
    float* to = static_cast<float*>(output.data) + row / height * output.strides.n + row % height * output.strides.h;
    read_feed_row(a.feed, row / height, row % height, 0, width, to, output.strides.w);
  });
}

void activate_backward(const Activation& a, const Threads& threads, ConstImage grad, FeedGradient gradient) {
  const int up = a.feed.upsample;
  const int64_t height = a.height << up, width = a.width << up, rows = 1 + up;
  TaskSums sums;
  const FeedSink sink{{{a.feed, gradient}, {}}, &sums, a.feed.channels, height, width};
  const int64_t per_task = most(1, 1024 / width) * rows, tasks = ceil_div(height, per_task);
  begin_tasks(sink, a.batch * tasks);
  parallel_for(threads, a.batch * tasks, [&](int64_t task) {
    const FeedSink mine = for_task(sink, task);
    const int64_t image = task / tasks, begin = task % tasks * per_task, end = least(begin + per_task, height);
    for (int64_t y = begin; y < end; y += rows)
      write_pixels(static_cast<const float*>(grad.data) + image * grad.strides.n + y * grad.strides.h, grad.strides.w,
                   Window{image, y, 0, rows, width}, 0, a.feed.channels, mine);
  });
  finish_vectors(sink);
}

}  // namespace

extern const BlockKernels block_kernels;
const BlockKernels block_kernels = {block_forward, block_inference, block_backward, activate, activate_backward};

}  // namespace myconv2d::MYCONV2D_ISA
