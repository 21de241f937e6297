// How kernels that need much scratch memory tell how much: run on meta tensors, they count it and do nothing else. For kernel files
// only.
#pragma once
#include <retape/core/kernel.h>

namespace retape::RETAPE_LEVEL {

template <class T> RETAPE_INLINE int64_t bytes_of(int64_t n) { return n * int64_t(sizeof(T)); }
/// Counts scratch of these sizes, held at the same time, among the memory of this thread's meta tensors.
template <class... Bytes> RETAPE_INLINE void count_meta_scratch(Bytes... bytes) {
  const int64_t all = (0 + ... + int64_t(detail::allocated_bytes(size_t(bytes))));
  detail::count_meta(all);
  detail::count_meta(-all);
}

}  // namespace retape::RETAPE_LEVEL
