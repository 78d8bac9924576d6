// Log-softmax, negative log-likelihood and their gradient in one pass over the logits.
//
// Pixels lie in the lanes: a tile of 64 pixels × K classes is read into L1, as rows of planes or, where the classes of a
// pixel are adjacent (channels_last), turned in registers; there it is made exponentials, sums and gradient, and
// written back the way it came. So every layout and every K has the same arithmetic and no reduction across lanes.
// Bound: reading the logits and writing the gradient once, and one exp each.
//
// The loss is summed in double, per task of 16 tiles and then over the tasks in order: the same bits whatever the
// number of threads. The logarithms of 16 sums are the one logarithm of their product, which double holds.
#include "../cross_entropy.h"
#include "exp.h"
#include "parallel.h"
#include "scratch.h"
#include "transpose.h"

namespace myconv2d::MYCONV2D_ISA {

template <typename V>
inline V load_as(const float* from) {
  V result;
  std::memcpy(&result, from, sizeof result);
  return result;
}

constexpr int64_t entropy_tile = 64, entropy_task = 16 * entropy_tile;  // pixels

// Axes that follow each other in the memory of all three tensors become one, so that tiles are full.
inline void merge_pixel_axes(CrossEntropy& p) {
  Strides* all[3] = {&p.logits.strides, &p.target.strides, &p.gradient.strides};
  const auto merge = [&](int64_t Strides::*outer, int64_t& outer_size) {
    bool follow = true;
    for (const Strides* s : all) follow &= p.width == 1 || s->*outer == p.width * s->w;
    if (outer_size == 1 || !follow) return;
    if (p.width == 1)
      for (Strides* s : all) s->w = s->*outer;
    p.width *= outer_size;
    outer_size = 1;
  };
  merge(&Strides::h, p.height);
  if (p.height == 1) merge(&Strides::n, p.batch);
}

// A tile's pixels: a part of one row.
struct EntropyTile {
  int64_t n, y, x, count;
  int64_t offset(const Strides& s) const { return n * s.n + y * s.h + x * s.w; }
};

template <typename F>
void for_each_tile(const CrossEntropy& p, int64_t begin, int64_t end, const F& visit) {
  const int64_t per_row = ceil_div(p.width, entropy_tile);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t row = i / per_row, x = i % per_row * entropy_tile;
    visit(EntropyTile{row / p.height, row % p.height, x, least(entropy_tile, p.width - x)});
  }
}

inline void read_targets(const CrossEntropy& p, const EntropyTile& tile, int64_t* targets) {
  const int64_t first = tile.offset(p.target.strides), step = p.target.strides.w;
  const auto read = [&](const auto* from) {
    for (int64_t i = 0; i < tile.count; ++i) targets[i] = from[first + i * step];
  };
  p.target_is_byte ? read(static_cast<const uint8_t*>(p.target.data)) : read(static_cast<const int64_t*>(p.target.data));
}

// to[column][row] = change(from[row][column], column). Blocks of at most 8 × 8, which waste nothing at K = 24.
template <typename F>
void turn(const float* from, int64_t from_stride, int64_t rows, int64_t columns, float* to, int64_t to_stride,
          const F& change) {
  constexpr int lanes = Vector<float>::lanes < 8 ? Vector<float>::lanes : 8;
  typedef float Row __attribute__((vector_size(lanes * sizeof(float)), may_alias));
  const int64_t full_rows = rows / lanes * lanes, full_columns = columns / lanes * lanes;
  for (int64_t i = 0; i < full_rows; i += lanes)
    for (int64_t j = 0; j < full_columns; j += lanes) {
      Row block[lanes];
#pragma GCC unroll 8
      for (int k = 0; k < lanes; ++k) block[k] = change(load_as<Row>(from + (i + k) * from_stride + j), j);
      exchange_all<lanes / 2>(block);
#pragma GCC unroll 8
      for (int k = 0; k < lanes; ++k) std::memcpy(to + (j + k) * to_stride + i, &block[k], sizeof(Row));
    }
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = i < full_rows ? full_columns : 0; j < columns; ++j)
      to[j * to_stride + i] = change(from[i * from_stride + j], j);
}

inline void read_logits(const CrossEntropy& p, const EntropyTile& tile, float* values) {
  const Strides& s = p.logits.strides;
  const float* from = static_cast<const float*>(p.logits.data) + tile.offset(s);
  if (s.c == 1 && s.w != 1)
    return turn(from, s.w, tile.count, p.classes, values, entropy_tile, [](auto x, int64_t) { return x; });
  for (int64_t k = 0; k < p.classes; ++k, from += s.c, values += entropy_tile)
    if (s.w == 1)
      std::memcpy(values, from, tile.count * sizeof(float));
    else
      for (int64_t i = 0; i < tile.count; ++i) values[i] = from[i * s.w];
}

// values[class][pixel] · factors[pixel]
inline void write_gradient(const CrossEntropy& p, const EntropyTile& tile, const float* values, const float* factors) {
  const Strides& s = p.gradient.strides;
  float* to = static_cast<float*>(p.gradient.data) + tile.offset(s);
  if (s.c == 1 && s.w != 1)
    return turn(values, entropy_tile, p.classes, tile.count, to, s.w,
                [&](auto x, int64_t pixel) { return x * load_as<decltype(x)>(factors + pixel); });
  for (int64_t k = 0; k < p.classes; ++k, to += s.c, values += entropy_tile)
    if (s.w == 1 && tile.count == entropy_tile)
      for (int64_t i = 0; i < entropy_tile; ++i) to[i] = values[i] * factors[i];
    else
      for (int64_t i = 0; i < tile.count; ++i) to[i * s.w] = values[i] * factors[i];
}

// values[class][pixel]: logits come in; where the gradient is wanted, it goes out as values · factors[pixel], `share`
// being what a pixel that counts has of the loss. Returns the tile's loss.
inline double entropy_of_tile(const CrossEntropy& p, const EntropyTile& tile, float share, float* values,
                              float* factors) {
  constexpr int64_t lanes = Vector<float>::lanes, vectors = 4;  // at a time: independent chains of operations
  const bool wanted = p.gradient.data != nullptr;
  int64_t targets[entropy_tile];
  read_targets(p, tile, targets);
  float* losses = p.loss + (tile.n * p.height + tile.y) * p.width + tile.x;  // with Reduction::none
  double loss = 0;
  for (int64_t first = 0; first < tile.count; first += vectors * lanes) {
    const auto at = [&](int64_t k, int v) { return values + k * entropy_tile + first + v * lanes; };
    Floats largest[vectors], sum[vectors] = {};
    for (int v = 0; v < vectors; ++v) largest[v] = load_vector<float>(at(0, v));
    for (int64_t k = 1; k < p.classes; ++k)
      for (int v = 0; v < vectors; ++v) {
        const Floats x = load_vector<float>(at(k, v));
        largest[v] = x > largest[v] ? x : largest[v];
      }
    const int64_t count = least(vectors * lanes, tile.count - first);
    float highest[vectors * lanes], right[vectors * lanes] = {};  // the target's logit less the largest
    std::memcpy(highest, largest, sizeof largest);
    for (int64_t i = 0; i < count; ++i)
      if (targets[first + i] != p.ignore_index) right[i] = *(at(targets[first + i], 0) + i) - highest[i];
    for (int64_t k = 0; k < p.classes; ++k)
      for (int v = 0; v < vectors; ++v) {
        const Floats e = exp_of_nonpositive(load_vector<float>(at(k, v)) - largest[v]);
        if (wanted) store_vector<float, float>(at(k, v), e);
        sum[v] += e;
      }
    float sums[vectors * lanes];
    std::memcpy(sums, sum, sizeof sum);
    for (int64_t begin = 0; begin < count; begin += 16) {
      double product = 1, rights = 0;
      for (int64_t i = begin; i < least(begin + 16, count); ++i) {
        const bool counts = targets[first + i] != p.ignore_index;
        product *= counts ? sums[i] : 1.0f;
        rights += right[i];
        factors[first + i] = (counts ? share : 0.0f) / sums[i];
        if (counts && wanted) *(at(targets[first + i], 0) + i) -= sums[i];
        if (p.reduction == Reduction::none)
          losses[first + i] = counts ? __builtin_log(double(sums[i])) - right[i] : 0.0;
      }
      if (p.reduction != Reduction::none) loss += __builtin_log(product) - rights;
    }
  }
  return loss;
}

BadTarget cross_entropy(CrossEntropy p, const Threads& threads) {
  const double nothing = 0;
  const bool reduced = p.reduction != Reduction::none;
  if (p.pixels() == 0) {
    if (reduced) *p.loss = p.reduction == Reduction::mean ? nothing / nothing : 0;
    return {false, 0};
  }
  merge_pixel_axes(p);
  const int64_t tiles = p.batch * p.height * ceil_div(p.width, entropy_tile);
  const int64_t per_task = entropy_task / entropy_tile, tasks = ceil_div(tiles, per_task);
  struct Part {
    double loss;
    int64_t counted;
    BadTarget bad;
  };
  Part* parts = static_cast<Part*>(scratch(Scratch::partial_sums, tasks * sizeof(Part)));
  const auto each_tile = [&](int64_t task, const auto& visit) {
    for_each_tile(p, task * per_task, least(tiles, (task + 1) * per_task), visit);
  };

  parallel_for(threads, tasks, [&](int64_t task) {  // every target is looked at before any work is done
    Part part{};
    each_tile(task, [&](const EntropyTile& tile) {
      int64_t targets[entropy_tile], good = 0, counted = 0;
      read_targets(p, tile, targets);
      for (int64_t i = 0; i < tile.count; ++i) {
        const bool counts = targets[i] != p.ignore_index;
        counted += counts;
        good += !counts | (static_cast<uint64_t>(targets[i]) < static_cast<uint64_t>(p.classes));
      }
      part.counted += counted;
      for (int64_t i = 0; i < tile.count && good < tile.count && !part.bad.found; ++i)
        if (targets[i] != p.ignore_index && static_cast<uint64_t>(targets[i]) >= static_cast<uint64_t>(p.classes))
          part.bad = {true, targets[i]};
    });
    parts[task] = part;
  });
  int64_t counted = 0;
  for (int64_t i = 0; i < tasks; ++i) {
    if (parts[i].bad.found) return parts[i].bad;
    counted += parts[i].counted;
  }

  const bool mean = p.reduction == Reduction::mean;
  const float share = mean ? static_cast<float>(1.0 / most(1, counted)) : 1.0f;
  parallel_for(threads, tasks, [&](int64_t task) {
    float* values = static_cast<float*>(scratch(Scratch::panel, p.classes * entropy_tile * sizeof(float)));
    std::memset(values, 0, p.classes * entropy_tile * sizeof(float));  // lanes behind a short tile hold numbers
    float factors[entropy_tile];
    double loss = 0;
    each_tile(task, [&](const EntropyTile& tile) {
      read_logits(p, tile, values);
      loss += entropy_of_tile(p, tile, share, values, factors);
      if (p.gradient.data) write_gradient(p, tile, values, factors);
    });
    parts[task].loss = loss;
  });
  double loss = 0;
  for (int64_t i = 0; i < tasks; ++i) loss += parts[i].loss;
  if (reduced) *p.loss = mean ? loss / counted : loss;
  return {false, 0};
}

}  // namespace myconv2d::MYCONV2D_ISA
