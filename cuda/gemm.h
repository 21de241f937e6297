// Matrix products for kernels that need them on their way.
#pragma once
#include <retape/cuda/launch.h>

#include <retape/cuda/libraries/blas.h>

namespace retape::cuda {

/// As Gemm is explained in libraries/blas.h, but for strides of any kind, and sizes of 0.
void multiply(const blas::Gemm& gemm);

}  // namespace retape::cuda
