// The packed filters: the B of forward and grad_input (correlate.h) as plain rows, read 16 bytes at a time.
//
// One row per tap set, group and filter: its taps in order, the channels of each padded with zeros to whole
// chunks, the row padded to whole steps.
#pragma once

#include "correlation.h"
#include "tile.h"

namespace myconv2d::cuda {

template <class T>
struct PackArguments {
  Correlation shape;
  FilterStrides strides;
  const T* weight;
  T* packed;
  int64_t pitch;

  HOST_DEVICE int64_t elements() const {
    return static_cast<int64_t>(shape.h.tap_sets()) * shape.w.tap_sets() * shape.groups * shape.filters *
           pitch;
  }
};

template <class T>
int64_t packed_pitch(const Correlation& shape) {
  const int64_t row =
      shape.h.most_taps() * shape.w.most_taps() * ceil_div(shape.channels, Chunk<T>::size) * Chunk<T>::size;
  return ceil_div(row, step_size<T>) * step_size<T>;
}

template <class T>
HOST_DEVICE void pack_element(const PackArguments<T>& args, int64_t index) {
  const Correlation& shape = args.shape;
  const int64_t row = divide(index, args.pitch);
  const int column = static_cast<int>(index - row * args.pitch);
  const int padded_channels = static_cast<int>(ceil_div(shape.channels, Chunk<T>::size)) * Chunk<T>::size;
  const int tap = column / padded_channels, channel = column % padded_channels;

  const int64_t group_row = divide(row, shape.filters), filter = row - group_row * shape.filters;
  const int set = static_cast<int>(divide(group_row, shape.groups));
  const int64_t group = group_row - static_cast<int64_t>(set) * shape.groups;
  const int first_h = set / shape.w.tap_sets(), first_w = set % shape.w.tap_sets();
  const int taps_h = shape.h.taps_from(first_h), taps_w = shape.w.taps_from(first_w);

  T value{};
  if (channel < shape.channels && tap < taps_h * taps_w) {
    const int64_t r = first_h + tap / taps_w * shape.h.tap_step,
                  s = first_w + tap % taps_w * shape.w.tap_step;
    value = args.weight[group * args.strides.group + filter * args.strides.filter +
                        channel * args.strides.channel + r * args.strides.h + s * args.strides.w];
  }
  args.packed[index] = value;
}

// A channels_last weight whose rows are whole steps is packed already: no copy is made of it.
template <class T>
bool is_packed(const Correlation& shape, const FilterStrides& strides, const T* weight) {
  const int64_t line = static_cast<int64_t>(shape.w.kernel) * shape.channels;
  return shape.h.tap_step == 1 && shape.w.tap_step == 1 && strides.channel == 1 &&
         (strides.w == shape.channels || shape.w.kernel == 1) && (strides.h == line || shape.h.kernel == 1) &&
         shape.channels % Chunk<T>::size == 0 && shape.h.kernel * line % step_size<T> == 0 &&
         strides.filter % Chunk<T>::size == 0 && strides.group == strides.filter * shape.filters &&
         aligned(weight);
}

}  // namespace myconv2d::cuda
