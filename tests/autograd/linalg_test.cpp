// Linear algebra: results and gradients against PyTorch's, decompositions against what they decompose, and bad input.
#include <omp.h>

#include "../sines.h"

using namespace retape;
using namespace retape::testing;

namespace {

// f64: element i is sin(seed + 1 + 0.7 i^2), so that no matrix has a low rank
Tensor rough(const Shape& shape, double seed = 0) {
  std::vector<double> v(size_t(shape.numel()));
  for (size_t i = 0; i < v.size(); ++i) v[i] = std::sin(seed + 1 + 0.7 * double(i * i));
  return tensor(v, shape);
}
Tensor leaf_of(const Tensor& x) { return Tensor(x).set_requires_grad(); }
bool near(const Tensor& a, const Tensor& b) { return difference(a, b, DType::f64) <= 10; }
Tensor numbers(const std::vector<double>& v, const Shape& shape) { return tensor(v, shape); }

}  // namespace

TEST_CASE("solve and cholesky equal PyTorch's, with gradients", "[linalg]") {
  Tensor a = leaf_of(rough({3, 3}));
  const Tensor x = solve(a, rough({3, 2}, 1));
  CHECK(close(x, {3, 2}, {0.215914735019952, 0.74874408503965, 1.7377141111649, -0.414816278028839, 1.62720544638399, -0.341079467045776}));
  backward(sum(square(x)));
  CHECK(close(a.grad(), {3, 3},
              {-0.622877647074461, -6.10373385051854, -5.7075516833906, -0.148941543658583, 11.8505156466078, 11.0009448456662,
               -0.643551913833007, -5.78983991833864, -5.41715094705487}));
  Tensor b = leaf_of(rough({3, 3}));
  const Tensor l = cholesky(matmul(b, transpose(b)) + eye(3, {DType::f64}));
  CHECK(close(l, {3, 3},
              {1.75095476619819, 0, 0, 0.325493180815942, 1.36488747800971, 0, -0.300839240583426, 0.551630398167892, 1.66426218299287}));
  backward(sum(cos(square(l))));
  CHECK(close(b.grad(), {3, 3},
              {-0.0042017250353538, -0.276565281381966, -0.0721059126380062, -1.3242059445489, 0.985440790075606, 0.51142419282434,
               -0.679631312441831, 0.370347328926668, -0.658985939889657}));
}

TEST_CASE("qr equals PyTorch's up to signs, with gradients", "[linalg]") {
  Tensor a = leaf_of(rough({4, 3}, 2));
  const auto [q, r] = qr(a);
  CHECK(close(abs(r), {3, 3},
              {0.202519068404078, 0.134160997074294, 0.0719420117384705, 0, 1.36668018010781, 1.20842728480396, 0, 0, 0.451690546880463}));
  backward(sum(square(q) * tensor<double>({0, 1, 2})) + sum(cos(square(r))));
  CHECK(close(a.grad(), {4, 3},
              {-1.13469751637501, 1.13774035992643, 1.08029467881782, 1.84928417398358, -1.95413179883816, -1.66767696308683,
               -1.10509716528307, 1.20636537483343, 0.876613943750915, -0.891644929805245, 0.813895082549041, 1.04260312787509}));
  Tensor b = leaf_of(rough({2, 3}, 2));
  const auto [q2, r2] = qr(b);
  backward(sum(square(q2) * numbers({0, 1, 2, 3}, {2, 2})) + sum(cos(square(r2))));
  CHECK(close(b.grad(), {2, 3},
              {-3.61341994638215, 1.33184827731098, 1.20675566918289, 4.07715136870662, -1.56499955197458, -1.45906123594087}));
}

TEST_CASE("qr has orthonormal columns in every mode", "[linalg]") {
  for (const Shape& shape : {Shape{2, 5, 3}, Shape{3, 5}, Shape{4, 4}, Shape{3, 0}, Shape{0, 3}}) {
    const Tensor x = rough(shape);
    for (QrMode mode : {QrMode::reduced, QrMode::complete}) {
      const auto [q, r] = qr(x, mode);
      const int64_t m = shape[-2], k = mode == QrMode::complete ? m : std::min(m, shape[-1]);
      CHECK(q.shape()[-1] == k);
      CHECK(near(matmul(q, r), x));
      CHECK(near(matmul(transpose(q), q), expand(eye(k, {DType::f64}), matmul(transpose(q), q).shape())));
    }
    const auto only = qr(x, QrMode::r);
    CHECK(!only.q);
    CHECK(same_bits(only.r, qr(x).r));
  }
  Tensor tall = leaf_of(rough({4, 2}));
  CHECK_THAT(error_of([&] { backward(sum(qr(tall, QrMode::complete).q)); }), ContainsSubstring("4 rows and 2 columns has no gradient"));
}

TEST_CASE("svd and eigh equal PyTorch's, with gradients", "[linalg]") {
  Tensor a = leaf_of(rough({4, 3}, 2));
  const auto [u, s, vh] = svd(a, false);
  CHECK(close(s, {3}, {1.85542955669603, 0.337367004884873, 0.199722384597584}));
  CHECK(near(svdvals(a.detach()), s.detach()));
  backward(sum(square(u) * tensor<double>({0, 1, 2})) + sum(cos(matmul(square(vh), tensor<double>({0, 1, 2})))) + sum(sin(s)));
  CHECK(close(a.grad(), {4, 3},
              {0.780105492831608, 0.43520248027884, -0.323989330299509, 0.437643563341507, 0.0835511780097058, -0.411055340593774,
               1.23538603098498, 0.534026983052081, -0.43083094858436, -1.07487041821265, -0.284405817421125, 0.465784355285598}));
  Tensor b = leaf_of(rough({3, 3}));
  const auto [w, v] = eigh(b + transpose(b));
  CHECK(close(w, {3}, {-1.98201406873579, 2.1018984689728, 2.78594525072897}));
  backward(sum(cos(matmul(square(v), tensor<double>({0, 1, 2})))) + sum(sin(w)));
  CHECK(close(b.grad(), {3, 3},
              {-1.68062247324651, -0.373912605008407, 0.226815949361676, -0.373912605008407, -0.93309893062286, 0.131655763187774,
               0.226815949361676, 0.131655763187774, -1.07354075618561}));
}

TEST_CASE("svd and eigh give back what they decompose", "[linalg]") {
  for (const Shape& shape : {Shape{2, 5, 3}, Shape{3, 5}, Shape{1, 1}, Shape{40, 40}}) {
    const Tensor x = rough(shape);
    const auto [u, s, vh] = svd(x, false);
    CHECK(near(matmul(u * unsqueeze(s, -2), vh), x));
    const auto full_result = svd(x);
    CHECK(full_result.u.shape()[-1] == shape[-2]);
    CHECK(near(matmul(full_result.vh, transpose(full_result.vh)), expand(eye(shape[-1], {DType::f64}), full_result.vh.shape())));
  }
  CHECK(near(svd(zeros({2, 0}, {DType::f64})).u, eye(2, {DType::f64})));
  const Tensor x = rough({2, 4, 4}), symmetric = x + transpose(x);
  const auto [w, v] = eigh(symmetric);
  CHECK(near(matmul(v * unsqueeze(w, -2), transpose(v)), symmetric));
  const Tensor triangle = numbers({1, 100, 2, 3}, {2, 2});  // reads one triangle only
  CHECK(near(eigvalsh(triangle), eigvalsh(numbers({1, 2, 2, 3}, {2, 2}))));
  CHECK(near(eigvalsh(triangle, 'U'), eigvalsh(numbers({1, 100, 100, 3}, {2, 2}))));
  CHECK_THAT(error_of([&] { eigh(triangle, 'x'); }), ContainsSubstring("uplo is 'x'"));
}

TEST_CASE("singular vectors that only complete a basis have no gradient", "[linalg]") {
  Tensor x = leaf_of(rough({4, 2}));
  CHECK_THAT(error_of([&] { backward(sum(svd(x).u)); }), ContainsSubstring("2 singular vectors behind the first 2"));
}

TEST_CASE("determinants equal PyTorch's and know singular matrices", "[linalg]") {
  Tensor a = leaf_of(rough({3, 3}));
  const Tensor d = det(a);
  CHECK(d.item() == Approx(-1.4425553663689));
  backward(d);
  CHECK(close(a.grad(), {3, 3},
              {-0.578922561247019, -1.12461782768303, -0.261229116528397, -0.54790268084419, 1.35186654788816, 1.43751398577949,
               -0.558811390701663, -0.232158853777004, -1.14478761710831}));
  CHECK(slogdet(a).sign.item() == -1);
  CHECK(slogdet(a).logabsdet.item() == Approx(0.366416100895011));
  CHECK(std::isnan(logdet(a).item()));
  Tensor singular = leaf_of(numbers({1, 2, 2, 4, 3, 1, 1, 3}, {2, 2, 2}));  // one that is, one that is not
  const Tensor both = det(singular);
  CHECK(close(both, {2}, {0, 8}));
  backward(sum(both));
  CHECK(close(singular.grad(), {2, 2, 2}, {4, -2, -2, 1, 3, -1, -1, 3}));
  const auto [sign, log] = slogdet(singular.detach());
  CHECK(sign.to_vector<double>()[0] == 0);
  CHECK(log.to_vector<double>()[0] == -INFINITY);
  CHECK(det(zeros({2, 0, 0}, {DType::f64})).to_vector<double>() == std::vector<double>{1, 1});
}

TEST_CASE("lu equals PyTorch's, whatever the shape", "[linalg]") {
  const auto [p, l, u] = lu(rough({4, 3}, 2));
  CHECK(close(p, {4, 4}, {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0}));
  CHECK(close(l, {4, 3},
              {1, 0, 0, 0.881904878111008, 1, 0, -0.0690152158198695, -0.48682368016198, 1, 0.526257379129795, -0.0749133848219172,
               -0.705307557116438}));
  CHECK(close(u, {3, 3},
              {0.141120008059867, -0.529836140908493, -0.464602179413757, 0, 1.46529172998307, 1.4065647226848, 0, 0, 0.391166685925971}));
  CHECK(lu_factor(rough({4, 3}, 2)).pivots.to_vector<int32_t>() == std::vector<int32_t>{1, 2, 4});
  for (const Shape& shape : {Shape{2, 3, 5}, Shape{5, 5}, Shape{2, 0}}) {
    const Tensor x = rough(shape);
    const LuResult d = lu(x);
    CHECK(near(matmul(d.p, matmul(d.l, d.u)), x));
  }
  const Tensor a = rough({3, 3}), b = rough({3, 3}, 1);
  const auto [factors, pivots] = lu_factor(a);
  CHECK(near(matmul(a, lu_solve(factors, pivots, b)), b));
  CHECK(near(matmul(transpose(a), lu_solve(factors, pivots, b, {.adjoint = true})), b));
  CHECK(near(matmul(lu_solve(factors, pivots, b, {.left = false}), a), b));
  CHECK(near(matmul(lu_solve(factors, pivots, b, {.left = false, .adjoint = true}), transpose(a)), b));
  const Tensor f = factors;
  CHECK_THAT(error_of([&] { lu_solve(f, tensor<int32_t>({1, 9, 3}), b); }), ContainsSubstring("index 8 is out of range"));
  CHECK_THAT(error_of([&] { lu_solve(f, tensor<int32_t>({1, 2}), b); }), ContainsSubstring("must be i32 [3]"));
}

TEST_CASE("triangular systems read one triangle", "[linalg]") {
  const Tensor a = numbers({2, NAN, 1, 4}, {2, 2}), b = numbers({2, 9}, {2, 1});
  CHECK(close(solve_triangular(a, b, false), {2, 1}, {1, 2}));
  CHECK(close(solve_triangular(transpose(a), transpose(b), true, {.left = false}), {1, 2}, {1, 2}));
  CHECK(close(solve_triangular(a, b, false, {.unitriangular = true}), {2, 1}, {2, 7}));
  CHECK_THAT(error_of([&] {
               solve_triangular(zeros({2, 2}, {DType::f64}), b, true);
             }),
             ContainsSubstring("solve_triangular: matrix 0") && ContainsSubstring("zero on its diagonal"));
}

TEST_CASE("pinv, rank and least squares equal PyTorch's", "[linalg]") {
  Tensor a = leaf_of(rough({4, 3}, 2));
  const Tensor p = pinv(a);
  CHECK(close(p, {3, 4},
              {3.70299461937392, 2.87134188994024, 1.66655313564612, 0.378373495394588, -0.491524363989745, -0.129796746984571,
               0.914253800405648, -1.80916538438905, 0.178472775231878, 0.701176593457599, -1.29906820208086, 1.64021230299298}));
  backward(sum(square(p)));
  CHECK(close(a.grad(), {4, 3},
              {-185.975344907214, 15.8657086000227, -14.3775309708463, -144.798548028851, 14.985118070934, -14.4868538355475,
               -77.5080823752147, -14.7336730452204, 16.8929754192523, -27.4303335863475, 31.0438312761088, -32.6148242135694}));
  const LstsqResult r = lstsq(rough({4, 3}, 2), rough({4, 2}));
  CHECK(close(r.solution, {3, 2},
              {1.09351138827458, 5.28743653359511, -2.24631253989909, 0.312283454427676, 1.62315442295711, 0.109220312832044}, 1e-10));
  CHECK(close(r.residuals, {2}, {0.210220295228917, 0.710749084740408}, 1e-10));
  CHECK(r.rank.item<int64_t>() == 3);
  const Tensor low = matmul(rough({4, 2}), rough({2, 3}));
  CHECK(matrix_rank(low).item<int64_t>() == 2);
  CHECK(matrix_rank(low, {.atol = 100}).item<int64_t>() == 0);
  CHECK(matrix_rank(matmul(low, transpose(low)), {.rtol = 1e-9, .hermitian = true}).item<int64_t>() == 2);
  const Tensor q = pinv(low);
  CHECK(near(matmul(low, matmul(q, low)), low));
  CHECK(lstsq(low, rough({4})).residuals.numel() == 0);
  CHECK(lstsq(low, rough({4})).solution.shape() == Shape{3});
  CHECK(pinv(zeros({3, 0}, {DType::f64})).shape() == Shape{0, 3});
}

TEST_CASE("norms and conditions of matrices equal PyTorch's", "[linalg]") {
  const Tensor t = rough({4, 3}, 2), a = rough({3, 3});
  CHECK(matrix_norm(t).item() == Approx(1.89639773432568));
  CHECK(matrix_norm(t, "nuc").item() == Approx(2.39251894617849));
  CHECK(matrix_norm(t, 1).item() == Approx(2.59323489263951));
  CHECK(matrix_norm(t, -1).item() == Approx(0.349579304964044));
  CHECK(matrix_norm(t, 2).item() == Approx(1.85542955669603));
  CHECK(matrix_norm(t, -2).item() == Approx(0.199722384597584));
  CHECK(matrix_norm(t, INFINITY).item() == Approx(2.11931087050222));
  CHECK(matrix_norm(t, -INFINITY).item() == Approx(0.948029093774896));
  CHECK(matrix_norm(rough({2, 3, 4}), 1, {0, -1}, true).shape() == Shape{1, 3, 1});
  CHECK(cond(a).item() == Approx(2.7207778224549));
  CHECK(cond(a, -2).item() == Approx(0.367541955005249));
  CHECK(cond(a, "fro").item() == Approx(4.34007512038529));
  CHECK(cond(a, "nuc").item() == Approx(10.9718956783524));
  CHECK(cond(a, 1).item() == Approx(5.94045696787349));
  CHECK(cond(a, INFINITY).item() == Approx(4.97065975547909));
  CHECK(cond(ones({2, 2}), 1).item() == INFINITY);
  Tensor zero = zeros({2, 2}).set_requires_grad();
  backward(matrix_norm(zero));
  CHECK(zero.grad().to_vector<float>() == std::vector<float>(4, 0));
  CHECK_THAT(error_of([&] { matrix_norm(t, 3); }), ContainsSubstring("ord is 3"));
  CHECK_THAT(error_of([&] { matrix_norm(t, "two"); }), ContainsSubstring("\"two\""));
  CHECK_THAT(error_of([&] { matrix_norm(t, 1, {0, -2}); }), ContainsSubstring("one and the same"));
}

TEST_CASE("powers and exponentials of matrices equal PyTorch's", "[linalg]") {
  Tensor a = leaf_of(rough({3, 3}));
  CHECK(close(matrix_power(a, -3), {3, 3},
              {-0.153092108068462, 0.2305793014511, 0.525228384581255, 0.68503672415803, -1.37571453678673, 0.23398196131466,
               0.0379109708499258, -0.949059119172236, 0.245146144300886}));
  CHECK(near(matrix_power(a, 0), eye(3, {DType::f64})));
  const Tensor e = matrix_exp(a * 3);
  CHECK(close(e, {3, 3},
              {-1.88300602400295, 19.5019305332812, -36.8732458709063, -1.40990622573195, 9.64214074546394, -18.4061903865926,
               23.3931249933473, 16.1718835693071, -13.0727107125353}));
  backward(sum(e));
  CHECK(close(a.grad(), {3, 3},
              {37.6384367413396, 24.3996335410149, 138.482907038457, 48.4250056293508, 33.4485695246865, 115.011459606809, -71.200836432242,
               -48.9365216190286, -79.8949444011342}));
  // each matrix of a batch is scaled for itself
  const Tensor x = rough({3, 3}), batch = matrix_exp(stack({x, x * 100 - 160 * eye(3, {DType::f64}), zeros_like(x)}));
  CHECK(same_bits(select(batch, 0, 0), select(matrix_exp(stack({x})), 0, 0)));
  CHECK(near(select(batch, 0, 2), eye(3, {DType::f64})));
  CHECK(near(matrix_exp(numbers({-50, 0, 0, 3}, {2, 2})), numbers({std::exp(-50), 0, 0, std::exp(3)}, {2, 2})));
  CHECK(std::isnan(sum(matrix_exp(full({2, 2}, NAN))).item()));
  CHECK(matrix_exp(zeros({0, 0})).shape() == Shape{0, 0});
}

TEST_CASE("systems broadcast over batches and take vectors", "[linalg]") {
  const Tensor a = rough({2, 1, 3, 3}) + 2 * eye(3, {DType::f64}), b = rough({4, 3, 2});
  CHECK(near(matmul(a, solve(a, b)), expand(b, {2, 4, 3, 2})));
  CHECK(solve(rough({3, 3}), rough({3})).shape() == Shape{3});
  CHECK(solve(rough({2, 3, 3}), rough({2, 3})).shape() == Shape{2, 3});
  CHECK(cholesky_solve(b, eye(3, {DType::f64})).shape() == b.shape());
  CHECK(solve(zeros({0, 0}), zeros({0, 2})).shape() == Shape{0, 2});
  CHECK(inverse(zeros({0, 3, 3})).shape() == Shape{0, 3, 3});
}

TEST_CASE("matrices without a result are named", "[linalg]") {
  const Tensor bad = stack({eye(2, {DType::f64}), numbers({1, 2, 2, 4}, {2, 2})}), indefinite = numbers({1, 2, 2, 1}, {2, 2});
  CHECK_THAT(error_of([&] {
               solve(bad, ones({2, 1}, {DType::f64}));
             }),
             ContainsSubstring("solve: matrix 1 of the batch [2] is singular") && ContainsSubstring("info is 2"));
  CHECK_THAT(error_of([&] { inverse(bad); }), ContainsSubstring("inverse: matrix 1"));
  CHECK_THAT(error_of([&] { cholesky(indefinite); }),
             ContainsSubstring("cholesky: matrix 0 of the batch [] is not positive definite") && ContainsSubstring("info is 2"));
  CHECK_THAT(error_of([&] { matrix_power(bad, -1); }), ContainsSubstring("matrix_power"));
  CHECK_THAT(error_of([&] { svd(full({2, 2}, NAN, {DType::f64})); }), ContainsSubstring("svd: matrix 0"));
}

TEST_CASE("linear algebra says what does not fit", "[linalg]") {
  const Tensor a = eye(3, {DType::f64}), half = cast(a, DType::bf16);
  CHECK_THAT(error_of([&] { inverse(half); }), ContainsSubstring("bf16") && ContainsSubstring("cast() it to f32 or f64"));
  CHECK_THAT(error_of([&] { det(rough({2, 3})); }), ContainsSubstring("2 rows and 3 columns"));
  CHECK_THAT(error_of([&] { qr(rough({3})); }), ContainsSubstring("qr: x [3] has 1 dims"));
  CHECK_THAT(error_of([&] { solve(a, rough({2, 2})); }), ContainsSubstring("3 and 2 rows"));
  CHECK_THAT(error_of([&] { solve(a, cast(a, DType::f32)); }), ContainsSubstring("f64 and f32"));
  CHECK_THAT(error_of([&] { solve(expand(a, {2, 3, 3}), expand(a, {4, 3, 3})); }), ContainsSubstring("solve"));
  CHECK_THAT(error_of([&] { lstsq(a, rough({2})); }), ContainsSubstring("lstsq"));
  CHECK_THAT(error_of([&] { pinv(a, {.rtol = -1}); }), ContainsSubstring("tolerance of -1"));
  CHECK_THAT(error_of([&] { cholesky_solve(rough({2, 2}), a); }), ContainsSubstring("cholesky_solve"));
}

TEST_CASE("linear algebra does not depend on the number of threads", "[linalg]") {
  const Tensor x = rough({9, 70, 70}), symmetric = matmul(x, transpose(x)) + eye(70, {DType::f64});
  const int before = omp_get_max_threads();
  const auto all = [&] { return stack({inverse(symmetric), cholesky(symmetric), svd(x).u, eigh(symmetric).vectors, qr(x).q}); };
  omp_set_num_threads(1);
  const Tensor one = all();
  omp_set_num_threads(3);
  CHECK(same_bits(all(), one));
  omp_set_num_threads(before);
}
