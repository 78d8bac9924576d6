// What the dispatch asks of the device.
#include <cuda_runtime.h>

#include "kernels.h"
#include "pack.cuh"

namespace myconv2d::cuda {

int compute_capability() {
  int device, major, minor;
  const bool known =
      cudaGetDevice(&device) == cudaSuccess &&
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess;
  if (known) return 10 * major + minor;
  cudaGetLastError();  // clears it: the next check_launch would report it as its own
  return 0;
}

const char* device_problem() {
  cudaFuncAttributes unused;
  const cudaError_t error = cudaFuncGetAttributes(&unused, pack_filters<float>);  // as good as any but the halo kernel
  if (error == cudaSuccess) return nullptr;
  cudaGetLastError();
  return cudaGetErrorString(error);
}

}  // namespace myconv2d::cuda
