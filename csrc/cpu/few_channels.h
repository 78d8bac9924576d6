// Convolutions of stride 1 with few channels on one side, the first and last layers of every network: where the
// direct product would spend its time on bands and the vendor's libraries pad one or three channels to eight.
//
// A task is a window of full-width rows, read once with its halo, as planes: under tap (c, r, s) the next pixel's
// value is the next float of a plane, so that im2col needs no copy. Results go from registers straight to where they
// belong if they lie there as the register tile holds them, and by way of a band in L1 otherwise.
//   few_in.h           few source channels: F(2, 3) along the rows
//   few_out.h          few result channels: vectors of pixels
//   few_out_one.h      one, under 3×3 taps: a sum for each tap column
//   few_grad_weight.h  few on either side
//   few_feeds.h        what fused blocks read and write as planes (included by block.cpp)
//   few_in_pooled.h    the backward of pooled blocks with few source channels (included by block.cpp)
#pragma once

#include "few_grad_weight.h"
#include "few_in.h"
#include "few_out.h"
