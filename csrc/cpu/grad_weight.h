// grad_weight and grad_bias: one product whose reduced axis is the pixels,
//   grad_weight[k, (tap, c)] = Σ_pixel grad_output[pixel, k] · input[pixel, tap, c]
//
// A piece of an image reads its band of the input, all channels of a pixel side by side, and its pixels of grad_output,
// two vectors of channels k at a time. A register tile then holds neighbouring (tap, c) × these k, and walks over the
// pixels: it broadcasts the input straight from the band, so that no im2col matrix is built.
//
// The pieces are split into a number of ranges that depends on the shape alone; each range sums into a partial result
// of its own, and the partial results are added in order. So results do not depend on the number of threads, and no
// two threads ever write to one place.
#pragma once

#include "band.h"
#include "gemm.h"
#include "parallel.h"
#include "scratch.h"

namespace myconv2d::MYCONV2D_ISA {

// The (tap, c) of a group as runs that lie side by side in a band: a whole row of the kernel, or a tap if it is dilated.
struct TapRuns {
  int64_t per_row, count, length;  // per row of the kernel, in all, and how many (tap, c) each
  int64_t rows, panels;            // of a register tile, and tiles to a run

  explicit TapRuns(const Gather& gather) {
    per_row = gather.w.spacing == 1 ? 1 : gather.w.taps;
    count = gather.h.taps * per_row;
    length = gather.w.taps / per_row * gather.channels;
    rows = length > 0 ? rows_per_panel(length) : 1;
    panels = ceil_div(length, rows);
  }
  int64_t size() const { return count * panels * rows; }
  int64_t place(int64_t tap, int64_t taps_w, int64_t c, int64_t channels) const {  // of (tap, c) in the sums
    const int64_t per_run = taps_w / per_row;
    return tap / per_run * panels * rows + tap % per_run * channels + c;
  }
};

template <typename T, typename A = typename Accumulator<T>::type>
void grad_weight_product(const Conv2d& conv, const Threads& threads, const T* grad_output,
                         const Strides& of_output, const T* input, const Strides& of_input, T* grad_weight,
                         const Strides& weight_strides, T* grad_bias) {
  constexpr int64_t lanes = Vector<A>::lanes;
  Gather gather = forward_gather(conv);
  Strides output_strides = of_output, input_strides = of_input;
  const int64_t groups = conv.groups, channels = conv.group_out_channels();
  if (channels == 0) return;
  if (gather.pixels() > 0) input += simplify(gather, input_strides, output_strides);
  const TapRuns runs(gather);
  const int64_t padded = round_up(channels, lanes), panels = ceil_div(padded, columns<A>);
  const int64_t range_size = (runs.size() + 1) * padded;  // of a group: [panel][(tap, c)][k], then the sums of grad_output

  const Pieces pieces(gather, most(1, gather.channels) * sizeof(A), 384);
  const int64_t all_pieces = gather.pixels() > 0 ? gather.batch * pieces.per_image() : 0;
  const int64_t affordable = (int64_t{8} << 20) / (groups * range_size);
  const int64_t ranges = most(1, least(most(2, affordable), least(least(32, gather.pixels() / 1024), all_pieces)));
  const int64_t parts = ranges * groups < 8 ? panels : 1;  // panels of k on their own threads, where ranges are few
  A* partial = static_cast<A*>(scratch(Scratch::partial_sums, groups * ranges * range_size * sizeof(A)));
  const Band<A> whole = Band<A>::dense(gather, gather.channels, pieces.rows, pieces.columns);
  // Without padding, and with the (tap, c) of a run side by side, the input is read where it lies.
  const bool in_place = sizeof(T) == sizeof(A) && input_strides.c == 1 && gather.h.stays_inside() &&
                        gather.w.stays_inside() && (runs.length == gather.channels || input_strides.w == gather.channels);
  const int64_t row_step = in_place ? input_strides.h : whole.row_size();
  const int64_t column_step = in_place ? input_strides.w : gather.channels;

  parallel_for(threads, ranges * groups * parts, [&](int64_t task) {
    const int64_t g = task / parts % groups, range = task / parts / groups;
    const int64_t first_panel = task % parts * panels / parts, end_panel = (task % parts + 1) * panels / parts;
    A* range_sums = partial + (range * groups + g) * range_size;
    A* bias_sums = range_sums + runs.size() * padded;
    A* pixels = static_cast<A*>(scratch(Scratch::band, whole.size() * sizeof(A)));
    A* grads = static_cast<A*>(
        scratch(Scratch::panel, pieces.rows * pieces.columns * columns<A> * sizeof(A)));
    const int64_t first_k = first_panel * columns<A>, end_k = least(end_panel * columns<A>, padded);
    std::memset(range_sums + first_k * runs.size(), 0, (end_k - first_k) * runs.size() * sizeof(A));
    std::memset(bias_sums + first_k, 0, (end_k - first_k) * sizeof(A));

    for (int64_t i = range * all_pieces / ranges; i < (range + 1) * all_pieces / ranges; ++i) {
      const Piece piece(gather, pieces, i);
      Band<A> band = whole;
      band.rows = gather.h.span(piece.rows);
      band.columns = gather.w.span(piece.columns);
      const T* image = input + g * gather.channels * input_strides.c + piece.image * input_strides.n;
      const A* source = pixels;
      if (in_place)
        source = reinterpret_cast<const A*>(image) + (piece.y * gather.h.step + gather.h.lowest()) * row_step +
                 (piece.x * gather.w.step + gather.w.lowest()) * column_step;
      else if (runs.size() > 0)
        read_band<T, A>(band, gather, image, input_strides, piece.y, piece.x, pixels);
      const Piece next(gather, pieces, least(i + 1, all_pieces - 1));
      Ahead<T> ahead(gather, next, input + g * gather.channels * input_strides.c + next.image * input_strides.n,
                     input_strides);
      const int64_t tiles = most(1, (end_panel - first_panel) * runs.count * runs.panels);
      const int64_t share = ceil_div(ahead.lines(), tiles);
      for (int64_t first = first_k; first < end_k; first += columns<A>) {
        const int64_t width = least(columns<A>, padded - first), real = least(width, channels - first);
        const Band<A> of_grads{real, width, 1, piece.rows, piece.columns, 1, piece.columns};
        if (real < width) std::memset(grads, 0, piece.rows * of_grads.row_size() * sizeof(A));
        const T* from = grad_output + (g * channels + first) * output_strides.c + piece.image * output_strides.n +
                        piece.y * output_strides.h + piece.x * output_strides.w;
        for (int64_t y = 0; y < piece.rows; ++y)
          read_row<T, A>(of_grads, from + y * output_strides.h, output_strides, 0, piece.columns,
                         grads + y * of_grads.row_size());

        const auto tile_for = width == lanes ? multiply_tile_for<A, 1, 1> : multiply_tile_for<A, 1, 2>;
        A* sums = range_sums + first * runs.size();
        for (int64_t run = 0; run < runs.count; ++run) {
          const int64_t r = run / runs.per_row, s = run % runs.per_row;
          const Axis::Range inside = steps_inside(gather.h, r, piece.y, piece.rows);
          const A* a = source + (gather.h.offset(r) + inside.begin * gather.h.step) * row_step +
                       gather.w.offset(s) * column_step;
          const A* b = grads + inside.begin * of_grads.row_size();
          for (int64_t panel = 0; panel < runs.panels; ++panel, sums += runs.rows * width) {
            ahead.next(share);
            tile_for(least(runs.rows, runs.length - panel * runs.rows))(
                inside.size() * piece.columns,
                {a + panel * runs.rows, gather.w.step * column_step, piece.columns, gather.h.step * row_step}, b, sums,
                width, true);
          }
        }
        if (grad_bias)
          for (int64_t v = 0; v < width; v += lanes) {
            const auto sum = sum_of_vectors<A>(grads + v, width, piece.rows * piece.columns);
            store_vector<A, A>(bias_sums + first + v, load_vector<A>(bias_sums + first + v) + sum);
          }
      }
    }
  });

  parallel_for(threads, conv.out_channels, [&](int64_t k) {
    const int64_t g = k / channels, of_group = k % channels, first = of_group / columns<A> * columns<A>;
    const int64_t width = least(columns<A>, padded - first);
    const auto total = [&](const A* from) {
      A sum = 0;
      for (int64_t range = 0; range < ranges; ++range) sum += from[range * groups * range_size];
      return sum;
    };
    const A* group_sums = partial + g * range_size;
    const A* sums = group_sums + first * runs.size() + of_group % columns<A>;
    for (int64_t tap = 0; tap < gather.taps(); ++tap)
      for (int64_t c = 0; c < gather.channels; ++c)
        grad_weight[k * weight_strides.n + c * weight_strides.c + tap / conv.kernel_width * weight_strides.h +
                    tap % conv.kernel_width * weight_strides.w] =
            narrow<T, A>(total(sums + runs.place(tap, gather.w.taps, c, gather.channels) * width));
    if (grad_bias) grad_bias[k] = narrow<T, A>(total(group_sums + runs.size() * padded + of_group));
  });
}

}  // namespace myconv2d::MYCONV2D_ISA
