// The kernels' entry points: raw pointers, conv2d.h and a stream; no tensors, no CUDA headers.
// All enqueue their work and return; a failed launch throws std::runtime_error naming the kernel.
//
// Not yet run on a GPU: checked by host emulation of every block (tests/cuda) and by the compiler's own
// figures.
#pragma once

#include <functional>

#include "../conv2d.h"

namespace myconv2d::cuda {

struct Context {
  Type type;        // f64, f32, f16 or bf16
  bool allow_tf32;  // f32 on tensor cores, its factors rounded to TF32
  void* stream;     // cudaStream_t
  // Device memory that lives until the enqueued work is done.
  std::function<void*(int64_t bytes)> workspace;
};

// Of the current device: 90 for 9.0; 0 where there is none.
int compute_capability();

// Why no kernel can run on the current device, in the CUDA runtime's words: its driver is too old for the runtime, or
// the library has no machine code for it. Null where they can.
const char* device_problem();

// The three operators, by the algorithm that algorithm.h chooses (dispatch.cpp).

void forward(const Conv2d& conv, ConstImage input, ConstImage weight, ConstVector bias, Image output,
             const Context& context);

void grad_input(const Conv2d& conv, ConstImage grad_output, ConstImage weight, Image grad_input,
                const Context& context);

// grad_bias is contiguous, or null where it is not wanted.
void grad_weight(const Conv2d& conv, ConstImage grad_output, ConstImage input, Image grad_weight,
                 void* grad_bias, const Context& context);

// The algorithms. Forward and grad_input are one correlation (correlation.h); `transposed` is grad_input.

void correlate_gemm(const Conv2d& conv, bool transposed, ConstImage image, ConstImage weight,
                    ConstVector bias, Image out, const Context& context);

void correlate_few_in(const Conv2d& conv, bool transposed, ConstImage image, ConstImage weight,
                      ConstVector bias, Image out, const Context& context);

void correlate_few_out(const Conv2d& conv, bool transposed, ConstImage image, ConstImage weight,
                       ConstVector bias, Image out, const Context& context);

// For compute capability 9.0 alone; halo_shape.h says what it serves.
void correlate_halo(const Conv2d& conv, bool transposed, ConstImage image, ConstImage weight,
                    ConstVector bias, Image out, const Context& context);

void grad_weight_gemm(const Conv2d& conv, ConstImage grad_output, ConstImage input, Image grad_weight,
                      void* grad_bias, const Context& context);

void grad_weight_few(const Conv2d& conv, ConstImage grad_output, ConstImage input, Image grad_weight,
                     void* grad_bias, const Context& context);

}  // namespace myconv2d::cuda
