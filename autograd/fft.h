// Discrete Fourier transforms. A complex tensor is a real one whose last dim holds the pairs (real, imaginary): x (..., n, 2). Dims are
// counted without that pair, so dim -1 of a complex x is x's last but one. f64 and f32; half types are computed in float. n and s cut
// or pad (with zeros, at the end) a dim before it is transformed. Any size is O(n log n): sizes with prime factors up to 7 directly,
// others by Bluestein's algorithm. Everything throws Error for a real tensor where a complex one is needed, for sizes below 1 and
// for dims that occur twice.
#pragma once
#include <optional>

#include <retape/core/tensor.h>

namespace retape {

/// Which direction is divided by n: the inverse one, both by sqrt(n), or the forward one.
enum class FftNorm : uint8_t { backward, ortho, forward };

/// y[k] = sum over t of x[t] exp(-2 pi i k t / n): complex to complex. torch: fft.fft.
Tensor fft(const Tensor& x, std::optional<int64_t> n = {}, int64_t dim = -1, FftNorm norm = FftNorm::backward);
/// The inverse of fft(). torch: fft.ifft.
Tensor ifft(const Tensor& x, std::optional<int64_t> n = {}, int64_t dim = -1, FftNorm norm = FftNorm::backward);
/// fft() of a real x (..., n): its first n / 2 + 1 values, (..., n / 2 + 1, 2). torch: fft.rfft.
Tensor rfft(const Tensor& x, std::optional<int64_t> n = {}, int64_t dim = -1, FftNorm norm = FftNorm::backward);
/// The inverse of rfft(): complex x (..., n / 2 + 1, 2) to real (..., n). n is 2 (size - 1) unless given. Imaginary parts that a real
/// signal cannot have (of the first value and, for even n, the last) are not read. torch: fft.irfft.
Tensor irfft(const Tensor& x, std::optional<int64_t> n = {}, int64_t dim = -1, FftNorm norm = FftNorm::backward);
/// The real transform of a signal that is Hermitian in time: x (..., n / 2 + 1, 2), its first half, to (..., n). torch: fft.hfft.
Tensor hfft(const Tensor& x, std::optional<int64_t> n = {}, int64_t dim = -1, FftNorm norm = FftNorm::backward);
/// The inverse of hfft(): real x (..., n) to (..., n / 2 + 1, 2). torch: fft.ihfft.
Tensor ihfft(const Tensor& x, std::optional<int64_t> n = {}, int64_t dim = -1, FftNorm norm = FftNorm::backward);

/// Over several dims; s has a size for each (-1: as it is). Without dims: the last ones, as many as s has; without s, all.
/// rfftn and irfftn treat the last of them like rfft and irfft. torch: fft.fftn, fft.ifftn, fft.rfftn, fft.irfftn.
Tensor fftn(const Tensor& x, const Shape& s = {}, const Shape& dims = {}, FftNorm norm = FftNorm::backward);
Tensor ifftn(const Tensor& x, const Shape& s = {}, const Shape& dims = {}, FftNorm norm = FftNorm::backward);
Tensor rfftn(const Tensor& x, const Shape& s = {}, const Shape& dims = {}, FftNorm norm = FftNorm::backward);
Tensor irfftn(const Tensor& x, const Shape& s = {}, const Shape& dims = {}, FftNorm norm = FftNorm::backward);
/// Over two dims. torch: fft.fft2, fft.ifft2, fft.rfft2, fft.irfft2.
Tensor fft2(const Tensor& x, const Shape& s = {}, const Shape& dims = {-2, -1}, FftNorm norm = FftNorm::backward);
Tensor ifft2(const Tensor& x, const Shape& s = {}, const Shape& dims = {-2, -1}, FftNorm norm = FftNorm::backward);
Tensor rfft2(const Tensor& x, const Shape& s = {}, const Shape& dims = {-2, -1}, FftNorm norm = FftNorm::backward);
Tensor irfft2(const Tensor& x, const Shape& s = {}, const Shape& dims = {-2, -1}, FftNorm norm = FftNorm::backward);

/// The frequencies of fft()'s values for samples d apart: 0, 1, ..., -2, -1 over n d. torch: fft.fftfreq.
Tensor fftfreq(int64_t n, double d = 1, Options options = {});
/// The frequencies of rfft()'s values: 0, 1, ..., n / 2 over n d. torch: fft.rfftfreq.
Tensor rfftfreq(int64_t n, double d = 1, Options options = {});
/// x rolled along dims (all, if none are given) so that frequency 0 comes to the middle. `pairs`: x is complex, and dims do not count
/// its last one; false for real tensors, such as fftfreq()'s. torch: fft.fftshift.
Tensor fftshift(const Tensor& x, const Shape& dims = {}, bool pairs = true);
/// Undoes fftshift(). torch: fft.ifftshift.
Tensor ifftshift(const Tensor& x, const Shape& dims = {}, bool pairs = true);

/// The real and the imaginary parts of complex x, as views. torch: real, imag.
Tensor real(const Tensor& x);
Tensor imag(const Tensor& x);
/// Complex from its parts, which broadcast. torch: complex.
Tensor make_complex(const Tensor& real, const Tensor& imag);
/// Complex product; broadcasts. torch: mul.
Tensor complex_mul(const Tensor& a, const Tensor& b);
/// torch: conj.
Tensor complex_conj(const Tensor& x);
/// |x|, without overflow on the way; the gradient at 0 is 0. torch: abs.
Tensor complex_abs(const Tensor& x);
/// atan2(imaginary, real), in (-pi, pi]; the gradient at 0 is 0. torch: angle.
Tensor angle(const Tensor& x);
/// Complex from absolute value and angle, which broadcast. torch: polar.
Tensor polar(const Tensor& abs, const Tensor& angle);

}  // namespace retape
