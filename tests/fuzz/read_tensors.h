// What a reader has accepted must be readable: every byte of every tensor is touched, so that sanitizers see reads outside the memory.
#pragma once
#include <cstdlib>

#include <retape/autograd/ops.h>
#include <retape/autograd/tape.h>

namespace retape::testing {

inline void require(bool condition) {
  if (!condition) std::abort();
}

inline void read_all(const Tensor& t) {
  const NoGrad off;
  const int64_t last = t->storage->bytes ? int64_t(t->storage->bytes / size_of(t.dtype())) - 1 : -1;
  int64_t farthest = t.offset();
  for (int i = 0; i < t.dim(); ++i) farthest += (t.shape()[i] - 1) * t.strides()[i];
  if (t.numel() == 0) return;
  require(t.offset() >= 0 && farthest <= last);
  if (t.numel() > (1 << 20)) return;  // a dim with stride 0 is as long as it likes
  unsigned sum = 0;
  const Tensor c = contiguous(t);
  for (size_t i = 0; i < size_t(c.numel()) * size_of(c.dtype()); ++i)
    sum += unsigned((c->storage->data + size_t(c.offset()) * size_of(c.dtype()))[i]);
  [[maybe_unused]] volatile unsigned sink = sum;
}

}  // namespace retape::testing
