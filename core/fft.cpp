// Fourier transforms. Rows are transformed several at a time, one a lane: data lies as [k][lane], real and imaginary parts apart, so that
// every pass of the Stockham scheme runs along lanes, whatever its radix. A row alone gets its lanes from the passes before
// (stride 1, 4, 16, ...). Inverse transforms exchange real and imaginary parts on the way in and out.
#include <retape/core/kernel.h>
#include <retape/core/runtime/fft_plan.h>

namespace retape::RETAPE_LEVEL {
namespace {

using fft_plan::Pass;
using fft_plan::Plan;

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif
template <class T> struct Vector { typedef T type __attribute__((vector_size(vector_bytes))); };

template <class V, class T> RETAPE_INLINE V load(const T* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class V, class T> RETAPE_INLINE void store(T* p, V v) { __builtin_memcpy(p, &v, sizeof v); }

// ---- butterflies: (a, b), real and imaginary parts of `radix` values, become their transform ----

template <int radix> struct Circle;  // cos and sin of 2 pi k / radix
template <> struct Circle<3> {
  static constexpr double cos[] = {1, -0.5, -0.5}, sin[] = {0, 0.86602540378443864676, -0.86602540378443864676};
};
template <> struct Circle<5> {
  static constexpr double cos[] = {1, 0.30901699437494742410, -0.80901699437494742410, -0.80901699437494742410, 0.30901699437494742410};
  static constexpr double sin[] = {0, 0.95105651629515357212, 0.58778525229247312917, -0.58778525229247312917, -0.95105651629515357212};
};
template <> struct Circle<7> {
  static constexpr double cos[] = {1,
                                   0.62348980185873353053,
                                   -0.22252093395631440429,
                                   -0.90096886790241912624,
                                   -0.90096886790241912624,
                                   -0.22252093395631440429,
                                   0.62348980185873353053};
  static constexpr double sin[] = {0,
                                   0.78183148246802980871,
                                   0.97492791218182360702,
                                   0.43388373911755812048,
                                   -0.43388373911755812048,
                                   -0.97492791218182360702,
                                   -0.78183148246802980871};
};

template <class T, int radix, class V> RETAPE_INLINE void butterfly(V (&a)[radix], V (&b)[radix]) {
  if constexpr (radix == 2) {
    const V c = a[0] - a[1], d = b[0] - b[1];
    a[0] += a[1], b[0] += b[1];
    a[1] = c, b[1] = d;
  } else if constexpr (radix == 4) {
    const V ac = a[0] + a[2], am = a[0] - a[2], bc = b[0] + b[2], bm = b[0] - b[2];
    const V cc = a[1] + a[3], cm = a[1] - a[3], dc = b[1] + b[3], dm = b[1] - b[3];
    a[0] = ac + cc, b[0] = bc + dc;
    a[2] = ac - cc, b[2] = bc - dc;
    a[1] = am + dm, b[1] = bm - cm;
    a[3] = am - dm, b[3] = bm + cm;
  } else {  // odd: pairs k, radix - k share their products
    constexpr int half = radix / 2;
    V ap[half + 1], am[half + 1], bp[half + 1], bm[half + 1];
    V a0 = a[0], b0 = b[0];
#pragma GCC unroll 8
    for (int k = 1; k <= half; ++k) {
      ap[k] = a[k] + a[radix - k], am[k] = a[k] - a[radix - k];
      bp[k] = b[k] + b[radix - k], bm[k] = b[k] - b[radix - k];
      a0 += ap[k], b0 += bp[k];
    }
#pragma GCC unroll 8
    for (int j = 1; j <= half; ++j) {
      V c = a[0], d = b[0], e = am[1] * T(Circle<radix>::sin[j]), f = bm[1] * T(Circle<radix>::sin[j]);
#pragma GCC unroll 8
      for (int k = 1; k <= half; ++k) {
        c += ap[k] * T(Circle<radix>::cos[j * k % radix]), d += bp[k] * T(Circle<radix>::cos[j * k % radix]);
        if (k > 1) e += am[k] * T(Circle<radix>::sin[j * k % radix]), f += bm[k] * T(Circle<radix>::sin[j * k % radix]);
      }
      a[j] = c + f, b[j] = d - e;
      a[radix - j] = c - f, b[radix - j] = d + e;
    }
    a[0] = a0, b[0] = b0;
  }
}

// ---- passes ----

template <class T> struct Work {  // [k][lane], twice: input and output of a pass
  T *re, *im, *re2, *im2;
  RETAPE_INLINE void exchange() {
    T *a = re, *b = im;
    re = re2, im = im2, re2 = a, im2 = b;
  }
};

// Columns q of one p: y[s (radix p + j) + q] = w^(j p) sum over k of x[s (p + m k) + q] exp(-2 pi i j k / radix).
template <class V, int radix, class T>
RETAPE_INLINE void column(const T* xr, const T* xi, int64_t step, const T* w, int64_t m, T* yr, T* yi, int64_t s) {
  V a[radix], b[radix];
#pragma GCC unroll 8
  for (int k = 0; k < radix; ++k) a[k] = load<V>(xr + k * step), b[k] = load<V>(xi + k * step);
  butterfly<T, radix>(a, b);
  store(yr, a[0]), store(yi, b[0]);
#pragma GCC unroll 8
  for (int j = 1; j < radix; ++j) {
    const T c = w[(2 * j - 2) * m], d = w[(2 * j - 1) * m];
    store(yr + j * s, a[j] * c - b[j] * d), store(yi + j * s, a[j] * d + b[j] * c);
  }
}

template <int radix, class T> void run_pass(const T* twiddles, int64_t m, int64_t s, const Work<T>& x) {
  using V = typename Vector<T>::type;
  constexpr int lanes = vector_bytes / int(sizeof(T));
  const int64_t step = s * m;
  for (int64_t p = 0; p < m; ++p) {
    const T *w = twiddles + p, *xr = x.re + s * p, *xi = x.im + s * p;
    T *yr = x.re2 + s * radix * p, *yi = x.im2 + s * radix * p;
    int64_t q = 0;
    for (; q + lanes <= s; q += lanes) column<V, radix>(xr + q, xi + q, step, w, m, yr + q, yi + q, s);
    for (; q < s; ++q) column<T, radix>(xr + q, xi + q, step, w, m, yr + q, yi + q, s);
  }
}

// The transform of `lanes` rows of a plan without a convolution, from (re, im) to (re, im).
template <class T> void run_passes(const Plan<T>& plan, int64_t lanes, Work<T>& x) {
  int64_t s = lanes;
  for (int i = 0; i < plan.passes; ++i) {
    const Pass& pass = plan.pass[i];
    const T* w = plan.twiddles + pass.twiddles;
    switch (pass.radix) {
      case 2: run_pass<2>(w, pass.m, s, x); break;
      case 3: run_pass<3>(w, pass.m, s, x); break;
      case 4: run_pass<4>(w, pass.m, s, x); break;
      case 5: run_pass<5>(w, pass.m, s, x); break;
      default: run_pass<7>(w, pass.m, s, x); break;
    }
    x.exchange();
    s *= pass.radix;
  }
}

// (re, im)[k][lane] *= w[k], whose imaginary parts lie n behind.
template <class T> void multiply(const T* w, int64_t n, int64_t count, int64_t lanes, T* re, T* im) {
  for (int64_t k = 0; k < count; ++k) {
    const T c = w[k], d = w[n + k];
#pragma omp simd
    for (int64_t l = 0; l < lanes; ++l) {
      const T a = re[k * lanes + l], b = im[k * lanes + l];
      re[k * lanes + l] = a * c - b * d;
      im[k * lanes + l] = a * d + b * c;
    }
  }
}

template <class T> void transform(const Plan<T>& plan, int64_t lanes, Work<T>& x) {
  if (!plan.convolution) return run_passes(plan, lanes, x);
  const int64_t n = plan.n, size = plan.convolution->n;
  multiply(plan.chirp, n, n, lanes, x.re, x.im);
  for (int64_t i = n * lanes; i < size * lanes; ++i) x.re[i] = x.im[i] = 0;
  run_passes(*plan.convolution, lanes, x);
  multiply(plan.filter, size, size, lanes, x.re, x.im);
  Work<T> back{x.im, x.re, x.im2, x.re2};
  run_passes(*plan.convolution, lanes, back);
  x = {back.im, back.re, back.im2, back.re2};
  multiply(plan.chirp, n, n, lanes, x.re, x.im);
}

template <class T> void transform_filter(const Plan<T>& plan, T* re, T* im) {
  const Scratch<T> other(2 * plan.n);
  Work<T> x{re, im, other, other + plan.n};
  run_passes(plan, 1, x);
  if (x.re == re) return;
  __builtin_memcpy(re, x.re, size_t(plan.n) * sizeof(T));
  __builtin_memcpy(im, x.im, size_t(plan.n) * sizeof(T));
}

// ---- between rows and lanes ----

constexpr int64_t block = 16;  // values of a row, so that each cache line is used once

// Pairs (count) of each row, at `row` T's from each other.
template <class T> void read_pairs(const T* x, int64_t row, int64_t count, int64_t lanes, T* re, T* im) {
  for (int64_t k0 = 0; k0 < count; k0 += block)
    for (int64_t l = 0; l < lanes; ++l)
      for (int64_t k = k0; k < min_of(count, k0 + block); ++k) {
        re[k * lanes + l] = x[l * row + 2 * k];
        im[k * lanes + l] = x[l * row + 2 * k + 1];
      }
}
template <class T> void write_pairs(const T* re, const T* im, T scale, int64_t row, int64_t count, int64_t lanes, T* y) {
  for (int64_t k0 = 0; k0 < count; k0 += block)
    for (int64_t l = 0; l < lanes; ++l)
      for (int64_t k = k0; k < min_of(count, k0 + block); ++k) {
        y[l * row + 2 * k] = re[k * lanes + l] * scale;
        y[l * row + 2 * k + 1] = im[k * lanes + l] * scale;
      }
}

// Calls f(first row, rows, work) for groups of rows that share their lanes.
template <class T, class F> RETAPE_INLINE void in_groups(const Plan<T>& plan, int64_t batch, const F& f) {
  const int64_t size = (plan.convolution ? plan.convolution->n : plan.n) + 1;  // one more: real transforms have n + 1 values
  int64_t lanes = 64 / int64_t(sizeof(T));
  while (lanes > 1 && (lanes > batch || lanes * size * 4 * int64_t(sizeof(T)) > (1 << 20))) lanes /= 2;
  parallel_for(batch, lanes, [&](int64_t begin, int64_t end) {
    const Scratch<T> memory(4 * size * (end - begin));
    const int64_t part = size * (end - begin);
    f(begin, end - begin, Work<T>{memory, memory + part, memory + 2 * part, memory + 3 * part});
  });
}

template <class T> class Planned {
 public:
  RETAPE_INLINE explicit Planned(int64_t n) : plan_(fft_plan::acquire<T>(n, transform_filter<T>)) {}
  Planned(const Planned&) = delete;
  RETAPE_INLINE ~Planned() { fft_plan::release(plan_); }
  RETAPE_INLINE const Plan<T>& operator*() const { return *plan_; }

 private:
  const Plan<T>* plan_;
};

template <class F> RETAPE_INLINE void with_f32_or_f64(const char* kernel, DType d, const F& f) {
  if (d == DType::f64) f(double{});
  else if (d == DType::f32) f(float{});
  else detail::unsupported_dtype(kernel, d);
}

// Z, the transform of pairs (x[2 t], x[2 t + 1]), to the first h + 1 values of x's: X[k] = E[k] + w^k O[k], where E and O, the
// transforms of even and odd elements, are the parts of Z that are symmetric and antisymmetric.
template <class T> void split_halves(const T* w, int64_t h, int64_t lanes, const Work<T>& x) {
  for (int64_t k = 0; k <= h; ++k) {
    const T wr = w[k], wi = w[h + 1 + k];
    const int64_t i = (k == h ? 0 : k) * lanes, j = (k == 0 ? 0 : h - k) * lanes;
#pragma omp simd
    for (int64_t l = 0; l < lanes; ++l) {
      const T er = x.re[i + l] + x.re[j + l], ei = x.im[i + l] - x.im[j + l];
      const T dr = x.re[i + l] - x.re[j + l], di = x.im[i + l] + x.im[j + l];
      x.re2[k * lanes + l] = T(0.5) * (er + wr * di + wi * dr);
      x.im2[k * lanes + l] = T(0.5) * (ei + wi * di - wr * dr);
    }
  }
}
// The other way, doubled; (re2, im2) to (re, im).
template <class T> void join_halves(const T* w, int64_t h, int64_t lanes, const Work<T>& x) {
  for (int64_t l = 0; l < lanes; ++l) x.im2[l] = x.im2[h * lanes + l] = 0;
  for (int64_t k = 0; k < h; ++k) {
    const T wr = w[k], wi = w[h + 1 + k];
    const int64_t i = k * lanes, j = (h - k) * lanes;
#pragma omp simd
    for (int64_t l = 0; l < lanes; ++l) {
      const T ar = x.re2[i + l] + x.re2[j + l], ai = x.im2[i + l] - x.im2[j + l];
      const T br = x.re2[i + l] - x.re2[j + l], bi = x.im2[i + l] + x.im2[j + l];
      x.re[i + l] = ar + wi * br - wr * bi;
      x.im[i + l] = ai + wi * bi + wr * br;
    }
  }
}

}  // namespace

// x, y (..., n, 2)
void fft(const Tensor& x, bool inverse, double scale, Tensor& y) {
  const int64_t n = x.shape()[-2];
  if (x.numel() == 0) return;
  with_f32_or_f64("fft", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const Planned<T> plan(n);
    const T* in = x.data<T>();
    T* out = y.mutable_data<T>();
    in_groups(*plan, x.numel() / (2 * n), [&](int64_t first, int64_t rows, Work<T> work) {
      read_pairs(in + first * 2 * n, 2 * n, n, rows, inverse ? work.im : work.re, inverse ? work.re : work.im);
      transform(*plan, rows, work);
      write_pairs(inverse ? work.im : work.re, inverse ? work.re : work.im, T(scale), 2 * n, n, rows, out + first * 2 * n);
    });
  });
}

// x (..., n), y (..., n / 2 + 1, 2)
void rfft(const Tensor& x, double scale, Tensor& y) {
  const int64_t n = x.shape()[-1], h = n / 2;
  if (x.numel() == 0) return;
  with_f32_or_f64("rfft", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const Planned<T> plan(n % 2 ? n : h);
    const T* in = x.data<T>();
    T* out = y.mutable_data<T>();
    in_groups(*plan, x.numel() / n, [&](int64_t first, int64_t rows, Work<T> work) {
      if (n % 2) {
        for (int64_t l = 0; l < rows; ++l)
          for (int64_t k = 0; k < n; ++k) work.re[k * rows + l] = in[(first + l) * n + k], work.im[k * rows + l] = 0;
        transform(*plan, rows, work);
      } else {
        read_pairs(in + first * n, n, h, rows, work.re, work.im);
        transform(*plan, rows, work);
        split_halves((*plan).circle, h, rows, work);
        work.exchange();
      }
      write_pairs(work.re, work.im, T(scale), 2 * (h + 1), h + 1, rows, out + first * 2 * (h + 1));
    });
  });
}

// x (..., n / 2 + 1, 2), y (..., n)
void irfft(const Tensor& x, double scale, Tensor& y) {
  const int64_t n = y.shape()[-1], h = n / 2;
  if (y.numel() == 0) return;
  with_f32_or_f64("irfft", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const Planned<T> plan(n % 2 ? n : h);
    const T* in = x.data<T>();
    T* out = y.mutable_data<T>();
    in_groups(*plan, y.numel() / n, [&](int64_t first, int64_t rows, Work<T> work) {
      if (n % 2) {
        read_pairs(in + first * 2 * (h + 1), 2 * (h + 1), h + 1, rows, work.re, work.im);
        for (int64_t l = 0; l < rows; ++l) work.im[l] = 0;
        for (int64_t k = 1; k <= h; ++k)
          for (int64_t l = 0; l < rows; ++l) {
            work.re[(n - k) * rows + l] = work.re[k * rows + l];
            work.im[(n - k) * rows + l] = -work.im[k * rows + l];
          }
        Work<T> back{work.im, work.re, work.im2, work.re2};
        transform(*plan, rows, back);
        for (int64_t l = 0; l < rows; ++l)
          for (int64_t k = 0; k < n; ++k) out[(first + l) * n + k] = back.im[k * rows + l] * T(scale);
      } else {
        read_pairs(in + first * 2 * (h + 1), 2 * (h + 1), h + 1, rows, work.re2, work.im2);
        join_halves((*plan).circle, h, rows, work);
        Work<T> back{work.im, work.re, work.im2, work.re2};
        transform(*plan, rows, back);
        write_pairs(back.im, back.re, T(scale), n, h, rows, out + first * n);
      }
    });
  });
}

// x (..., 2), y (...)
void complex_angle(const Tensor& x, Tensor& y) {
  with_floating("angle", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* in = x.data<T>();
    T* out = y.mutable_data<T>();
    parallel_for(y.numel(), 4096, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        if constexpr (std::is_same_v<T, double>) out[i] = ::atan2(in[2 * i + 1], in[2 * i]);
        else out[i] = T(::atan2f(float(in[2 * i + 1]), float(in[2 * i])));
      }
    });
  });
}

}  // namespace retape::RETAPE_LEVEL
