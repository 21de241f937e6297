#include <retape/autograd/fft.h>

#include <fmt/format.h>

#include <cmath>

#include <retape/autograd/binary.h>
#include <retape/autograd/check.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>

namespace retape {
namespace {

// ---- one dim; as a map of real numbers, the transform of pairs has its unscaled inverse as its transpose ----

struct Fft {
  const char* name;
  bool inverse;
  double scale;
  int dim;  // of the tensor as it is stored
  Tensor forward(const Tensor& x) {
    const Tensor in = contiguous(transpose(x, dim, -2));
    Tensor y = empty_like(in);
    RETAPE_DISPATCH(x.device(), fft(in, inverse, scale, y));
    return transpose(y, dim, -2);
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, record(Fft{name, !inverse, scale, dim}, dy)); }
};

// x (..., n / 2 + 1, 2) with the values that stand for two, themselves and their mirror image, times `factor`.
Tensor scale_doubled(const Tensor& x, int64_t n, double factor) {
  const Tensor k = arange(0, double(n / 2 + 1), 1, {DType::i64, x.device()});
  const Tensor single = logical_or(eq(k, 0), eq(k * 2, n));
  return x * unsqueeze(masked_fill(full({n / 2 + 1}, factor, x.options()), single, 1), 1);
}

struct RealFft {  // over the last dim
  const char* name;
  int64_t n;
  double scale;
  Tensor forward(const Tensor& x) {
    const Tensor in = contiguous(x);
    Shape shape = x.shape();
    shape[-1] = n / 2 + 1;
    shape.push_back(2);
    Tensor y = empty(shape, x.options());
    RETAPE_DISPATCH(x.device(), rfft(in, scale, y));
    return y;
  }
  void backward(const Tensor& dy, Grads& dx);
};
struct InverseRealFft {  // over the last dim of pairs
  const char* name;
  int64_t n;
  double scale;
  Tensor forward(const Tensor& x) {
    const Tensor in = contiguous(x);
    Shape shape = x.shape();
    shape.erase(x.dim() - 1);
    shape[-1] = n;
    Tensor y = empty(shape, x.options());
    RETAPE_DISPATCH(x.device(), irfft(in, scale, y));
    return y;
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, scale_doubled(record(RealFft{name, n, scale}, dy), n, 2)); }
};
void RealFft::backward(const Tensor& dy, Grads& dx) { dx.set(0, record(InverseRealFft{name, n, scale}, scale_doubled(dy, n, 0.5))); }

struct Angle {
  static constexpr auto name = "angle";
  Saved x = {};
  Tensor forward(const Tensor& in) {
    x = save(in);
    Shape shape = in.shape();
    shape.erase(in.dim() - 1);
    const Tensor pairs = contiguous(in);
    Tensor y = empty(shape, in.options());
    RETAPE_DISPATCH(in.device(), complex_angle(pairs, y));
    return y;
  }
  void backward(const Tensor& dy, Grads& dx) {
    const Tensor in = *x, re = real(in), im = imag(in), r = complex_abs(in), at_zero = eq(r, 0);
    const Tensor safe = masked_fill(r, at_zero, 1);  // divided by twice: a square might overflow
    dx.set(0, masked_fill(make_complex(-im / safe, re / safe), unsqueeze(at_zero, -1), 0) * unsqueeze(dy / safe, -1));
  }
};

// ---- arguments ----

void check_complex(const char* name, const Tensor& x) {
  check_defined(name, x);
  if (!is_floating(x.dtype()))
    throw Error(fmt::format("{}: a tensor of {} holds no complex numbers; cast() it to a floating dtype", name, name_of(x.dtype())));
  if (x.dim() < 1 || x.shape()[-1] != 2)
    throw Error(
        fmt::format("{}: x {} is not complex; its last dim must have size 2, the real and the imaginary part", name, x.shape().str()));
}
void check_real(const char* name, const Tensor& x) {
  check_defined(name, x);
  if (!is_floating(x.dtype()))
    throw Error(fmt::format("{}: a tensor of {} cannot be transformed; cast() it to a floating dtype", name, name_of(x.dtype())));
}
// Transforms happen in f32 or f64.
Tensor widened(const Tensor& x) { return cast(x, x.dtype() == DType::f64 ? DType::f64 : DType::f32); }

int normal_dim(const char* name, int64_t dim, int rank, const Tensor& x) {
  if (rank == 0) throw Error(fmt::format("{}: x {} has no dim to transform", name, x.shape().str()));
  return normalize_dim(name, dim, rank);
}
void check_size(const char* name, int64_t n, const Tensor& x) {
  if (n < 1) throw Error(fmt::format("{}: x {} would be transformed over {} values; at least one is needed", name, x.shape().str(), n));
}
// Dim d of x cut or padded with zeros to n.
Tensor resized(const Tensor& x, int d, int64_t n) {
  const int64_t have = x.shape()[d];
  if (have >= n) return have == n ? x : narrow(x, d, 0, n);
  Shape rest = x.shape();
  rest[d] = n - have;
  return cat({x, zeros(rest, x.options())}, d);
}
double scale_of(FftNorm norm, bool inverse, int64_t n) {
  switch (norm) {
    case FftNorm::ortho: return 1 / std::sqrt(double(n));
    case FftNorm::backward: return inverse ? 1 / double(n) : 1;
    default: return inverse ? 1 : 1 / double(n);
  }
}

// One dim d, of x in f32 or f64.
Tensor run_fft(const char* name, const Tensor& x, int64_t n, int d, FftNorm norm, bool inverse) {
  check_size(name, n, x);
  return record(Fft{name, inverse, scale_of(norm, inverse, n), d}, resized(x, d, n));
}
// `inverse` says which direction's factor is wanted: hfft and ihfft exchange them.
Tensor run_rfft(const char* name, const Tensor& x, int64_t n, int d, FftNorm norm, bool inverse) {
  check_size(name, n, x);
  const int last = x.dim() - 1;
  const Tensor y = record(RealFft{name, n, scale_of(norm, inverse, n)}, transpose(resized(x, d, n), d, last));
  return transpose(y, d, last);
}
Tensor run_irfft(const char* name, const Tensor& x, int64_t n, int d, FftNorm norm, bool inverse) {
  check_size(name, n, x);
  const int last = x.dim() - 2;
  const Tensor y = record(InverseRealFft{name, n, scale_of(norm, inverse, n)}, transpose(resized(x, d, n / 2 + 1), d, last));
  return transpose(y, d, last);
}

struct Several {
  std::vector<int> dims;
  std::vector<int64_t> sizes;  // -1: as it is
};
Several several(const char* name, const Tensor& x, int rank, const Shape& s, const Shape& dims) {
  Several result;
  if (s.rank() && dims.rank() && s.rank() != dims.rank())
    throw Error(fmt::format("{}: s {} and dims {} differ in number; there must be as many", name, s.str(), dims.str()));
  if (s.rank() > rank) throw Error(fmt::format("{}: s {} has more sizes than x {} has dims", name, s.str(), x.shape().str()));
  const int count = dims.rank() ? dims.rank() : s.rank() ? s.rank() : rank;
  if (count == 0) throw Error(fmt::format("{}: x {} has no dim to transform", name, x.shape().str()));
  unsigned seen = 0;
  for (int i = 0; i < count; ++i) {
    const int d = dims.rank() ? normal_dim(name, dims[i], rank, x) : rank - count + i;
    if (seen >> d & 1u) throw Error(fmt::format("{}: dim {} occurs twice in {}; each may be transformed once", name, d, dims.str()));
    seen |= 1u << d;
    result.dims.push_back(d);
    result.sizes.push_back(s.rank() ? s[i] : -1);
    if (s.rank() && s[i] != -1) check_size(name, s[i], x);
  }
  return result;
}
int64_t size_or(const Several& over, size_t i, const Tensor& x) { return over.sizes[i] == -1 ? x.shape()[over.dims[i]] : over.sizes[i]; }

Tensor transform(const char* name, const Tensor& x, std::optional<int64_t> n, int64_t dim, FftNorm norm, bool inverse) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& in) { return transform(name, in, n, dim, norm, inverse); }, x);
  check_complex(name, x);
  const int d = normal_dim(name, dim, x.dim() - 1, x);
  return cast(run_fft(name, widened(x), n.value_or(x.shape()[d]), d, norm, inverse), x.dtype());
}
Tensor transform_many(const char* name, const Tensor& x, const Shape& s, const Shape& dims, FftNorm norm, bool inverse) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& in) { return transform_many(name, in, s, dims, norm, inverse); }, x);
  check_complex(name, x);
  const Several over = several(name, x, x.dim() - 1, s, dims);
  Tensor y = widened(x);
  for (size_t i = over.dims.size(); i-- > 0;) y = run_fft(name, y, size_or(over, i, x), over.dims[i], norm, inverse);
  return cast(y, x.dtype());
}
Tensor real_to_half(const char* name, const Tensor& x, const Shape& s, const Shape& dims, FftNorm norm) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& in) { return real_to_half(name, in, s, dims, norm); }, x);
  check_real(name, x);
  const Several over = several(name, x, x.dim(), s, dims);
  const size_t last = over.dims.size() - 1;
  Tensor y = run_rfft(name, widened(x), size_or(over, last, x), over.dims[last], norm, false);
  for (size_t i = last; i-- > 0;) y = run_fft(name, y, size_or(over, i, x), over.dims[i], norm, false);
  return cast(y, x.dtype());
}
Tensor half_to_real(const char* name, const Tensor& x, const Shape& s, const Shape& dims, FftNorm norm) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& in) { return half_to_real(name, in, s, dims, norm); }, x);
  check_complex(name, x);
  const Several over = several(name, x, x.dim() - 1, s, dims);
  const size_t last = over.dims.size() - 1;
  Tensor y = widened(x);
  for (size_t i = 0; i < last; ++i) y = run_fft(name, y, size_or(over, i, x), over.dims[i], norm, true);
  const int64_t n = over.sizes[last] == -1 ? 2 * (x.shape()[over.dims[last]] - 1) : over.sizes[last];
  return cast(run_irfft(name, y, n, over.dims[last], norm, true), x.dtype());
}

Tensor shifted(const char* name, const Tensor& x, const Shape& dims, bool pairs, bool inverse) {
  check_defined(name, x);
  if (pairs) check_complex(name, x);
  const int rank = x.dim() - int(pairs);
  std::vector<int> normal;
  for (int64_t d : dims) normal.push_back(normal_dim(name, d, rank, x));
  if (normal.empty())
    for (int d = 0; d < rank; ++d) normal.push_back(d);
  Tensor y = x;
  for (int d : normal) {
    const int64_t n = x.shape()[d], first = inverse ? n / 2 : n - n / 2;  // which element comes first
    if (first != 0 && first != n) y = cat({narrow(y, d, first, n - first), narrow(y, d, 0, first)}, d);
  }
  return y;
}

Tensor frequencies(const char* name, int64_t n, double d, Options options) {
  if (n < 1 || !(d != 0))
    throw Error(fmt::format("{}: n = {} and d = {} give no frequencies; n must be at least 1 and d not 0", name, n, d));
  if (!is_floating(options.dtype))
    throw Error(fmt::format("{}: dtype {} cannot hold frequencies; use a floating dtype", name, name_of(options.dtype)));
  return arange(0, double(n / 2 + 1), 1, {DType::i64, options.device});
}

}  // namespace

Tensor fft(const Tensor& x, std::optional<int64_t> n, int64_t dim, FftNorm norm) { return transform("fft", x, n, dim, norm, false); }
Tensor ifft(const Tensor& x, std::optional<int64_t> n, int64_t dim, FftNorm norm) { return transform("ifft", x, n, dim, norm, true); }
Tensor rfft(const Tensor& x, std::optional<int64_t> n, int64_t dim, FftNorm norm) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& in) { return rfft(in, n, dim, norm); }, x);
  check_real("rfft", x);
  const int d = normal_dim("rfft", dim, x.dim(), x);
  return cast(run_rfft("rfft", widened(x), n.value_or(x.shape()[d]), d, norm, false), x.dtype());
}
Tensor irfft(const Tensor& x, std::optional<int64_t> n, int64_t dim, FftNorm norm) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& in) { return irfft(in, n, dim, norm); }, x);
  check_complex("irfft", x);
  const int d = normal_dim("irfft", dim, x.dim() - 1, x);
  return cast(run_irfft("irfft", widened(x), n.value_or(2 * (x.shape()[d] - 1)), d, norm, true), x.dtype());
}
Tensor hfft(const Tensor& x, std::optional<int64_t> n, int64_t dim, FftNorm norm) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& in) { return hfft(in, n, dim, norm); }, x);
  check_complex("hfft", x);
  const int d = normal_dim("hfft", dim, x.dim() - 1, x);
  return cast(run_irfft("hfft", complex_conj(widened(x)), n.value_or(2 * (x.shape()[d] - 1)), d, norm, false), x.dtype());
}
Tensor ihfft(const Tensor& x, std::optional<int64_t> n, int64_t dim, FftNorm norm) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& in) { return ihfft(in, n, dim, norm); }, x);
  check_real("ihfft", x);
  const int d = normal_dim("ihfft", dim, x.dim(), x);
  return cast(complex_conj(run_rfft("ihfft", widened(x), n.value_or(x.shape()[d]), d, norm, true)), x.dtype());
}

Tensor fftn(const Tensor& x, const Shape& s, const Shape& dims, FftNorm norm) { return transform_many("fftn", x, s, dims, norm, false); }
Tensor ifftn(const Tensor& x, const Shape& s, const Shape& dims, FftNorm norm) { return transform_many("ifftn", x, s, dims, norm, true); }
Tensor rfftn(const Tensor& x, const Shape& s, const Shape& dims, FftNorm norm) { return real_to_half("rfftn", x, s, dims, norm); }
Tensor irfftn(const Tensor& x, const Shape& s, const Shape& dims, FftNorm norm) { return half_to_real("irfftn", x, s, dims, norm); }
namespace {
const Shape& two(const char* name, const Shape& dims) {
  if (dims.rank() != 2) throw Error(fmt::format("{}: dims {} are {}; there must be two", name, dims.str(), dims.rank()));
  return dims;
}
}  // namespace
Tensor fft2(const Tensor& x, const Shape& s, const Shape& dims, FftNorm norm) {
  return transform_many("fft2", x, s, two("fft2", dims), norm, false);
}
Tensor ifft2(const Tensor& x, const Shape& s, const Shape& dims, FftNorm norm) {
  return transform_many("ifft2", x, s, two("ifft2", dims), norm, true);
}
Tensor rfft2(const Tensor& x, const Shape& s, const Shape& dims, FftNorm norm) {
  return real_to_half("rfft2", x, s, two("rfft2", dims), norm);
}
Tensor irfft2(const Tensor& x, const Shape& s, const Shape& dims, FftNorm norm) {
  return half_to_real("irfft2", x, s, two("irfft2", dims), norm);
}

Tensor fftfreq(int64_t n, double d, Options options) {
  frequencies("fftfreq", n, d, options);
  const Tensor k = arange(0, double(n), 1, {DType::f64, options.device});
  return cast(where(ge(k * 2, n), k - n, k) / (double(n) * d), options.dtype);
}
Tensor rfftfreq(int64_t n, double d, Options options) {
  return cast(cast(frequencies("rfftfreq", n, d, options), DType::f64) / (double(n) * d), options.dtype);
}
Tensor fftshift(const Tensor& x, const Shape& dims, bool pairs) { return shifted("fftshift", x, dims, pairs, false); }
Tensor ifftshift(const Tensor& x, const Shape& dims, bool pairs) { return shifted("ifftshift", x, dims, pairs, true); }

Tensor real(const Tensor& x) {
  check_complex("real", x);
  return select(x, -1, 0);
}
Tensor imag(const Tensor& x) {
  check_complex("imag", x);
  return select(x, -1, 1);
}
Tensor make_complex(const Tensor& real, const Tensor& imag) {
  check_real("make_complex", real), check_real("make_complex", imag);
  const Shape shape = broadcast_shapes("make_complex", real.shape(), imag.shape());
  return stack({expand(real, shape), expand(imag, shape)}, -1);
}
Tensor complex_mul(const Tensor& a, const Tensor& b) {
  check_complex("complex_mul", a), check_complex("complex_mul", b);
  const Tensor ar = real(a), ai = imag(a), br = real(b), bi = imag(b);
  return make_complex(ar * br - ai * bi, ar * bi + ai * br);
}
Tensor complex_conj(const Tensor& x) {
  check_complex("complex_conj", x);
  return stack({real(x), -imag(x)}, -1);
}
Tensor complex_abs(const Tensor& x) {
  check_complex("complex_abs", x);
  // |x| = s |x / s| for any number s: the larger part, without a gradient, keeps squares from overflowing
  const Tensor largest = amax(abs(x.detach()), {-1});
  const Tensor usable = logical_and(gt(largest, 0), lt(largest, INFINITY));
  const Tensor s = where(usable, largest, ones_like(largest)), part = x / unsqueeze(s, -1);
  const Tensor squares = sum(square(part), {-1}), nothing = eq(squares, 0);
  return masked_fill(s * sqrt(masked_fill(squares, nothing, 1)), nothing, 0);
}
Tensor angle(const Tensor& x) {
  check_complex("angle", x);
  return record(Angle{}, x);
}
Tensor polar(const Tensor& abs, const Tensor& angle) {
  check_real("polar", abs), check_real("polar", angle);
  return make_complex(abs * cos(angle), abs * sin(angle));
}

}  // namespace retape
