// What the dispatch asks of the device.
#include <cuda_runtime.h>

#include "kernels.h"

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

}  // namespace myconv2d::cuda
