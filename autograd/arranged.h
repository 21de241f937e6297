// The layout in which an elementwise kernel should get its operands. Private to autograd's sources.
#pragma once
#include <retape/autograd/views.h>

namespace retape::detail {

constexpr int64_t worth_arranging = 4096;  // elements

/// x itself, or, where walking it in row-major order would touch a cache line for each element, a copy in that order: copy() goes
/// through such tensors in blocks.
inline Tensor arranged(const Tensor& x) {
  if (x.numel() < worth_arranging) return x;
  int last = x.dim() - 1;
  while (last >= 0 && x.shape()[last] == 1) --last;
  bool dense_elsewhere = false;
  for (int d = 0; d < last; ++d) dense_elsewhere = dense_elsewhere || (x.strides()[d] == 1 && x.shape()[d] >= 8);
  return dense_elsewhere && x.strides()[last] >= 16 && x.shape()[last] >= 8 ? contiguous(x) : x;
}

}  // namespace retape::detail
