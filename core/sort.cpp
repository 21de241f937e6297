// Sorting lines along a dim, and binary search. A value becomes an unsigned key whose order is the value's (nan above all, -0 equal
// to 0); keys are sorted by counting a byte at a time from the lowest (radix sort), which is stable and has no bad cases.
#include <retape/core/elementwise.h>

namespace retape::RETAPE_LEVEL {
namespace {

template <int bytes> struct Unsigned;
template <> struct Unsigned<1> { using type = uint8_t; };
template <> struct Unsigned<2> { using type = uint16_t; };
template <> struct Unsigned<4> { using type = uint32_t; };
template <> struct Unsigned<8> { using type = uint64_t; };
template <class T> using key_t = typename Unsigned<int(sizeof(T))>::type;

template <class T> RETAPE_INLINE key_t<T> key_of(T x, bool descending) {
  using K = key_t<T>;
  constexpr K top = K(K(1) << (8 * sizeof(K) - 1));
  K key;
  if constexpr (std::is_integral_v<T>) {
    key = std::is_signed_v<T> ? K(K(x) ^ top) : K(x);
  } else {
    const compute_t<T> v = compute_t<T>(x);
    const K bits = v == 0 ? K(0) : detail::bits<K>(x);
    key = v != v ? K(~K(0)) : (bits & top) ? K(~bits) : K(bits | top);
  }
  return descending ? K(~key) : key;
}

// Sorts keys[0 .. n) and, with them, order[0 .. n). other_keys and other_order are space of the same size.
template <class K> void radix_sort(K* keys, int64_t* order, K* other_keys, int64_t* other_order, int64_t n) {
  if (n < 48) {
    for (int64_t i = 1; i < n; ++i) {
      const K key = keys[i];
      const int64_t at = order[i];
      int64_t j = i;
      for (; j > 0 && key < keys[j - 1]; --j) keys[j] = keys[j - 1], order[j] = order[j - 1];
      keys[j] = key, order[j] = at;
    }
    return;
  }
  constexpr int digits = sizeof(K);
  int64_t count[digits][256] = {};
  for (int64_t i = 0; i < n; ++i)
    for (int d = 0; d < digits; ++d) ++count[d][keys[i] >> (8 * d) & 255];
  K* k = keys;
  int64_t* o = order;
  for (int d = 0; d < digits; ++d) {
    if (count[d][k[0] >> (8 * d) & 255] == n) continue;  // all equal here
    int64_t at = 0;
    for (int64_t& c : count[d]) {
      const int64_t here = c;
      c = at;
      at += here;
    }
    for (int64_t i = 0; i < n; ++i) {
      const int64_t to = count[d][k[i] >> (8 * d) & 255]++;
      other_keys[to] = k[i], other_order[to] = o[i];
    }
    K* const spare_keys = k;
    int64_t* const spare_order = o;
    k = other_keys, o = other_order, other_keys = spare_keys, other_order = spare_order;
  }
  if (k != keys)
    for (int64_t i = 0; i < n; ++i) keys[i] = k[i], order[i] = o[i];
}

// Is a before b in a sorted line?
template <class T> RETAPE_INLINE bool before(T a, T b) { return key_of(a, false) < key_of(b, false); }

}  // namespace

void sort(const Tensor& x, int dim, bool descending, Tensor& y, Tensor& index) {
  int64_t outer = 1, inner = 1;
  const int64_t n = x.shape()[dim];
  for (int d = 0; d < x.dim(); ++d) (d < dim ? outer : inner) *= d == dim ? 1 : x.shape()[d];
  int64_t* indices = index.mutable_data<int64_t>();
  if (n == 0) return;
  with_any(x.dtype(), [&](auto zero) {
    using T = std::conditional_t<std::is_same_v<decltype(zero), bool>, uint8_t, decltype(zero)>;
    const T* in = reinterpret_cast<const T*>(bytes_of(x));
    T* out = reinterpret_cast<T*>(bytes_of(y));
    parallel_for(outer * inner, n >= 2048 ? 1 : 2048 / n, [&](int64_t begin, int64_t end) {
      const Scratch<key_t<T>> keys(2 * n);
      const Scratch<int64_t> order(2 * n);
      for (int64_t line = begin; line < end; ++line) {
        const int64_t base = line / inner * n * inner + line % inner;
        for (int64_t i = 0; i < n; ++i) keys[i] = key_of(in[base + i * inner], descending), order[i] = i;
        radix_sort<key_t<T>>(keys, order, keys + n, order + n, n);
        for (int64_t i = 0; i < n; ++i) indices[base + i * inner] = order[i], out[base + i * inner] = in[base + order[i] * inner];
      }
    });
  });
}

// index: how many elements of the sorted line are before the value (or, with `right`, not after it).
void search_sorted(const Tensor& sorted, const Tensor& values, bool right, Tensor& index) {
  const int64_t n = sorted.shape()[-1], lines = n ? sorted.numel() / n : 1, each = lines ? values.numel() / lines : 0;
  int64_t* out = index.mutable_data<int64_t>();
  with_any(sorted.dtype(), [&](auto zero) {
    using T = std::conditional_t<std::is_same_v<decltype(zero), bool>, uint8_t, decltype(zero)>;
    const T* in = reinterpret_cast<const T*>(bytes_of(sorted));
    const T* wanted = reinterpret_cast<const T*>(bytes_of(values));
    parallel_for(values.numel(), 1024, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T* line = in + (lines > 1 ? i / each * n : 0);
        int64_t low = 0, high = n;
        while (low < high) {
          const int64_t middle = (low + high) / 2;
          if (right ? !before(wanted[i], line[middle]) : before(line[middle], wanted[i])) low = middle + 1;
          else high = middle;
        }
        out[i] = low;
      }
    });
  });
}

}  // namespace retape::RETAPE_LEVEL
