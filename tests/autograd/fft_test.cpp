// Fourier transforms: against the definition, PyTorch's results, and what they refuse.
#include <omp.h>

#include "../sines.h"

using namespace retape;
using namespace retape::testing;

namespace {

constexpr double pi = 3.14159265358979323846;

// The value k of the transform of one row of pairs, by definition.
std::pair<double, double> definition(const double* x, int64_t n, int64_t k) {
  double re = 0, im = 0;
  for (int64_t t = 0; t < n; ++t) {
    const double angle = -2 * pi * double(k * t % n) / double(n), c = std::cos(angle), s = std::sin(angle);
    re += x[2 * t] * c - x[2 * t + 1] * s;
    im += x[2 * t] * s + x[2 * t + 1] * c;
  }
  return {re, im};
}
// The largest error of fft(x), relative to the norm of x, at up to `points` values of the last of `rows` rows.
double worst_error(int64_t n, int64_t rows, DType dtype, int64_t points) {
  const Tensor x = values({rows, n, 2}, -1, 1, uint64_t(n), dtype);
  const auto in = x.to_vector<double>(), out = fft(x).to_vector<double>();
  const double *row = in.data() + (rows - 1) * 2 * n, *got = out.data() + (rows - 1) * 2 * n;
  double worst = 0;
  for (int64_t i = 0; i < std::min(n, points); ++i) {
    const int64_t k = i * std::max<int64_t>(1, n / points);
    const auto [re, im] = definition(row, n, k);
    worst = std::max({worst, std::abs(got[2 * k] - re), std::abs(got[2 * k + 1] - im)});
  }
  return worst / std::sqrt(double(n));
}
// x (n) and zeros as imaginary parts
Tensor with_zeros(const Tensor& x) { return make_complex(x, zeros_like(x)); }

}  // namespace

TEST_CASE("fft is the sum that defines it, for every small size", "[fft]") {
  for (int64_t n = 1; n <= 64; ++n) {
    INFO(n);
    CHECK(worst_error(n, 1, DType::f64, n) < 1e-14);
    CHECK(worst_error(n, 19, DType::f32, n) < 1e-6);  // a full group of lanes and a rest
  }
}

TEST_CASE("fft is the sum that defines it, for large sizes of every kind", "[fft]") {
  for (int64_t n : {97, 1000, 1024, 2401, 4099, 6561, 8192, 10007}) {
    INFO(n);
    CHECK(worst_error(n, 1, DType::f64, 8) < 2e-14);
    CHECK(worst_error(n, 17, DType::f32, 8) < 3e-6);
  }
}

TEST_CASE("real transforms equal complex ones", "[fft]") {
  for (int64_t n = 1; n <= 33; ++n) {
    INFO(n);
    const Tensor x = values({3, n}), full_spectrum = fft(with_zeros(x)), half = rfft(x);
    CHECK(difference(half, narrow(full_spectrum, 1, 0, n / 2 + 1), DType::f64) <= 1);
    CHECK(difference(irfft(half, n), x, DType::f64) <= 1);
    CHECK(difference(irfft(half, n), real(ifft(full_spectrum)), DType::f64) <= 1);
    CHECK(difference(hfft(ihfft(x), n), x, DType::f64) <= 1);
  }
}

TEST_CASE("transforms undo each other and keep energy", "[fft]") {
  for (int64_t n : {12, 22, 1024})
    for (FftNorm norm : {FftNorm::backward, FftNorm::ortho, FftNorm::forward}) {
      const Tensor x = values({2, n, 2});
      CHECK(difference(ifft(fft(x, {}, -1, norm), {}, -1, norm), x, DType::f64) <= 1);
    }
  const Tensor x = values({22, 9, 2});
  CHECK(sum(square(fftn(x, {}, {}, FftNorm::ortho))).item() == Approx(sum(square(x)).item()).epsilon(1e-12));
  const Tensor y = values({4, 5, 6});
  CHECK(difference(irfftn(rfftn(y), {4, 5, 6}), y, DType::f64) <= 1);
  CHECK(difference(irfft2(rfft2(y)), y, DType::f64) <= 1);
  CHECK(difference(ifft2(fft2(with_zeros(y))), with_zeros(y), DType::f64) <= 1);
}

TEST_CASE("transforms equal PyTorch's", "[fft]") {
  CHECK(close(fft(sines({6, 2})), {6, 2},
              {1.32252122883293, 1.19524454110117, 0.586290699989529, 2.85289148359445, 0.320691226645273, -0.198786162970683,
               -0.240212314075824, 0.533898085730699, -1.76916346821498, 0.856906058736205, 4.82869853567044, 0.709834856522972}));
  CHECK(close(ifft(sines({6, 2}), 8, -1, FftNorm::ortho), {8, 2},
              {0.467581864585467, 0.422582760094421, 0.924173707423786, -0.527608132697216, 0.242694491193539, 1.89784194355812,
               -0.0518242624152487, 0.0287966825202074, -0.0849278781037637, 0.188761478441347, 0.14176129636026, 0.194822679608304,
               1.00525722290435, 0.0959386450077953, -0.264677083830852, 0.503715592007072}));
  CHECK(close(rfft(sines({7}), 5, -1, FftNorm::forward), {3, 2},
              {0.387664349460418, 0, 0.0757474245662544, -0.379525502004959, 0.151155893107485, -0.0679337792349414}));
  CHECK(close(irfft(sines({4, 2}), 7), {7},
              {-0.114032535345078, 0.816207873834367, -0.138888680114834, -0.225868000818289, 0.0128761123739087, 0.293671958793858,
               0.197504256083963}));
  CHECK(close(irfft(sines({4, 2})), {6},
              {0.0142044847174346, 0.772226453633303, -0.311790101698708, -0.141619417076615, 0.276593781525145, 0.231855783707337}));
  CHECK(close(hfft(sines({3, 2}), {}, -1, FftNorm::ortho), {4},
              {0.79026972748374, 0.768245100308599, -0.560656633618562, 0.685083775442017}));
  CHECK(close(ihfft(sines({5})), {3, 2},
              {0.387664349460418, 0, 0.0757474245662544, 0.379525502004959, 0.151155893107485, 0.0679337792349414}));
  CHECK(close(rfft2(sines({2, 3})), {2, 2, 2},
              {0.960791629636991, 0, 0.844181656043286, -0.590520082012589, 4.05640632198604, 0, -0.828367677431112, 0.0428427935874163}));
  CHECK(close(irfftn(sines({2, 3, 2}), {2, 5}), {2, 5},
              {0.268702612857813, -0.136971891995549, -0.305264209104559, 0.0241277051678719, 0.128413947618295, -0.0749663000528605,
               0.800772193219589, -0.202306620743121, 0.231602975735648, 0.10736057210477}));
  const Tensor y = fftn(sines({2, 2, 2, 2}), {3}, {}, FftNorm::ortho);
  CHECK(y.shape() == Shape{2, 2, 3, 2});
  CHECK(close(select(select(y, 0, 1), 0, 0), {3, 2},
              {0.751074740101138, 0.873765275301005, 0.225749980122751, -0.195062043189267, -0.437219249959433, 0.794296203434114}));
}

TEST_CASE("frequencies and shifts", "[fft]") {
  CHECK(close(fftfreq(5, 0.5, {DType::f64}), {5}, {0, 0.4, 0.8, -0.8, -0.4}));
  CHECK(close(fftfreq(4), {4}, {0, 0.25, -0.5, -0.25}));
  CHECK(close(rfftfreq(5, 0.5, {DType::f64}), {3}, {0, 0.4, 0.8}));
  CHECK(fftshift(arange(5), {}, false).to_vector<int64_t>() == std::vector<int64_t>{3, 4, 0, 1, 2});
  CHECK(ifftshift(arange(5), {}, false).to_vector<int64_t>() == std::vector<int64_t>{2, 3, 4, 0, 1});
  const Tensor x = sines({4, 5, 2});
  CHECK(same_bits(ifftshift(fftshift(x)), x));
  CHECK(same_bits(fftshift(x, {-1}), stack({fftshift(real(x), {1}, false), fftshift(imag(x), {1}, false)}, -1)));
}

TEST_CASE("complex numbers: absolute values do not overflow, zero has no gradient", "[fft]") {
  const auto size = complex_abs(tensor<double>({3e200, -4e200, 0, 0, 3e-200, 4e-200, -INFINITY, 1}, {4, 2})).to_vector<double>();
  CHECK(size[0] == Approx(5e200));
  CHECK(size[1] == 0);
  CHECK(size[2] == Approx(5e-200));
  CHECK(size[3] == INFINITY);
  Tensor z = zeros({2}, {DType::f64}).set_requires_grad();
  backward(complex_abs(z) + angle(z));
  CHECK(z.grad().to_vector<double>() == std::vector<double>{0, 0});
  CHECK(close(angle(tensor<double>({1, 1, -1, 0, 0, -2}, {3, 2})), {3}, {pi / 4, pi, -pi / 2}));
  CHECK(close(complex_mul(tensor<double>({1, 2}), tensor<double>({3, -1}, {1, 2})), {1, 2}, {5, 5}));
}

TEST_CASE("half types are transformed in float", "[fft]") {
  const Tensor x = values({64, 2}, -1, 1, 1, DType::bf16), y = fft(x);
  CHECK(y.dtype() == DType::bf16);
  CHECK(same_bits(y, cast(fft(cast(x, DType::f32)), DType::bf16)));
}

TEST_CASE("transforms do not depend on the number of threads", "[fft]") {
  const Tensor x = values({300, 44, 2}, -1, 1, 1, DType::f32);
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  const Tensor one = fft(x);
  omp_set_num_threads(3);
  CHECK(same_bits(fft(x), one));
  omp_set_num_threads(before);
}

TEST_CASE("many sizes go through the cache of plans", "[fft]") {
  for (int round = 0; round < 2; ++round)
    for (int64_t n = 100; n < 160; ++n) CHECK(worst_error(n, 1, DType::f64, 2) < 1e-14);
}

TEST_CASE("transforms of nothing, and what they refuse", "[fft]") {
  CHECK(fft(zeros({0, 4, 2})).shape() == Shape{0, 4, 2});
  CHECK(rfft(zeros({0, 4})).shape() == Shape{0, 3, 2});
  CHECK(irfft(zeros({0, 3, 2})).shape() == Shape{0, 4});
  CHECK_THAT(error_of([] { fft(zeros({4, 3})); }), ContainsSubstring("fft: x [4, 3] is not complex"));
  CHECK_THAT(error_of([] { fft(zeros({0, 2})); }), ContainsSubstring("over 0 values"));
  CHECK_THAT(error_of([] { fft(zeros({4, 2}), 0); }), ContainsSubstring("over 0 values"));
  CHECK_THAT(error_of([] { irfft(zeros({1, 2})); }), ContainsSubstring("over 0 values"));
  CHECK_THAT(error_of([] { fft(zeros({4, 2}), {}, 1); }), ContainsSubstring("fft"));
  CHECK_THAT(error_of([] { fft(zeros({2})); }), ContainsSubstring("no dim"));
  CHECK_THAT(error_of([] { rfft(arange(4)); }), ContainsSubstring("i64"));
  CHECK_THAT(error_of([] { fftn(zeros({4, 4, 2}), {}, {0, -2}); }), ContainsSubstring("dim 0 occurs twice"));
  CHECK_THAT(error_of([] { fftn(zeros({4, 4, 2}), {2, 2}, {0}); }), ContainsSubstring("differ in number"));
  CHECK_THAT(error_of([] { fftn(zeros({4, 2}), {2, 2}); }), ContainsSubstring("more sizes"));
  CHECK_THAT(error_of([] { fft2(zeros({4, 4, 2}), {}, {0}); }), ContainsSubstring("there must be two"));
  CHECK_THAT(error_of([] { fftfreq(0); }), ContainsSubstring("n = 0"));
  CHECK_THAT(error_of([] { polar(arange(2), arange(2)); }), ContainsSubstring("polar"));
}
