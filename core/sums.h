// Sums that grow in many places at once. For kernel files only.
#pragma once
#include <retape/core/put.h>

namespace retape::RETAPE_LEVEL {
namespace {

// What sums are held in while they grow: y itself, or for half types a copy in float. They begin with what y has, or with 0.
template <class T> class Sums {
 public:
  using C = compute_t<T>;
  static constexpr bool direct = std::is_same_v<T, C>;
  RETAPE_INLINE explicit Sums(Tensor& y, bool zero = false) : n_(y.numel()), y_(y.mutable_data<T>()), own_(direct ? 0 : n_) {
    if (direct && !zero) return;
    const T* from = y_;
    C* to = get();
    parallel_for(n_, 16384, [&](int64_t begin, int64_t end) {
      if (zero)
        for (int64_t i = begin; i < end; ++i) to[i] = 0;
      else
        for (int64_t i = begin; i < end; ++i) to[i] = C(from[i]);
    });
  }
  RETAPE_INLINE C* get() {
    if constexpr (direct) return y_;
    else return own_;
  }
  RETAPE_INLINE void store() {
    if constexpr (!direct) {
      const C* from = own_;
      T* to = y_;
      parallel_for(n_, 16384, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) put(to[i], from[i]);
      });
    }
  }

 private:
  int64_t n_;
  T* y_;
  Scratch<C> own_;
};

}  // namespace
}  // namespace retape::RETAPE_LEVEL
