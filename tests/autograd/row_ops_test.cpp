// Behaviour of the ops that work row by row or through an index: what the table of op_cases.h cannot express.
#include <omp.h>

#include <cmath>

#include "../catch.h"

using namespace retape;
using namespace retape::testing;
using Values = std::vector<double>;

namespace {

constexpr double inf = INFINITY;

Tensor f64(const Values& values, const Shape& shape) { return tensor(values, shape); }
bool close(const Tensor& x, const Values& wanted, double tolerance = 1e-12) {
  const auto got = x.to_vector<double>();
  if (got.size() != wanted.size()) return false;
  for (size_t i = 0; i < got.size(); ++i)
    if (!(std::abs(got[i] - wanted[i]) <= tolerance * (1 + std::abs(wanted[i])))) return false;
  return true;
}
// Does f give the same bits with any number of threads?
template <class F> bool same_with_any_threads(F&& f) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  const Tensor one = f();
  bool same = true;
  for (int threads : {2, 3, 7}) {
    omp_set_num_threads(threads);
    same = same && same_bits(f(), one);
  }
  omp_set_num_threads(before);
  return same;
}

}  // namespace

// ---- softmax --------------------------------------------------------------------------------------------------------

TEST_CASE("a fully masked softmax row gives zeros and no gradient", "[softmax]") {
  Tensor x = f64({-inf, -inf, 0, std::log(3.0)}, {2, 2}).set_requires_grad();
  const Tensor y = softmax(x, -1);
  CHECK(close(y, {0, 0, 0.25, 0.75}));
  backward(sum(y * f64({1, 2, 1, 2}, {2, 2})));
  CHECK(close(x.grad(), {0, 0, -0.1875, 0.1875}));
  const auto logs = log_softmax(x, 1).to_vector<double>();
  CHECK((logs[0] == -inf && logs[1] == -inf));
  CHECK((logs[2] == Approx(std::log(0.25)) && logs[3] == Approx(std::log(0.75))));
}

TEST_CASE("softmax of large numbers does not overflow, and nan stays visible", "[softmax]") {
  for (DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    const Tensor x = cast(f64({1e4, 1e4, -1e4, 1e4}, {1, 4}), dtype);
    CHECK(close(softmax(x, 1), {1 / 3.0, 1 / 3.0, 0, 1 / 3.0}, tolerance(dtype)));
    for (const Tensor& y : {softmax(cast(f64({1, NAN, -inf}, {3}), dtype), 0), softmax(cast(f64({-inf, NAN, -inf}, {3}), dtype), 0)})
      for (double v : y.to_vector<double>()) CHECK(std::isnan(v));
  }
}

TEST_CASE("long softmax rows agree with their definition", "[softmax]") {
  for (DType dtype : {DType::f32, DType::bf16}) {
    const Tensor rising = arange(0, 3000, 1, {DType::f64}) / 100.0, rows = stack({rising, -1 * rising, values({3000}, -5, 5)});
    const Tensor x = cast(rows, dtype), high = cast(x, DType::f64), e = exp(high);
    CHECK(difference(softmax(x, 1), e / sum(e, {1}, true), dtype) <= 1);
    CHECK(difference(log_softmax(x, 1), high - log(sum(e, {1}, true)), dtype) <= 1);
  }
}

TEST_CASE("softmax takes scalars and empty tensors, but no integers", "[softmax]") {
  CHECK(softmax(full({}, 3), 0).item() == 1);
  CHECK(softmax(zeros({0, 3}), 1).shape() == Shape{0, 3});
  CHECK(softmax(zeros({3, 0}), 1).shape() == Shape{3, 0});
  CHECK_THAT(error_of([] { softmax(tensor<int64_t>({1, 2}), 0); }), ContainsSubstring("softmax: a tensor of i64"));
  CHECK_THAT(error_of([] { softmax(ones({2}), 1); }), ContainsSubstring("softmax"));
}

// ---- normalisation --------------------------------------------------------------------------------------------------

TEST_CASE("layer_norm divides by the deviation with divisor n", "[norm]") {
  const double s = 1 / std::sqrt(1.25 + 1e-5);
  const Tensor x = f64({1, 2, 3, 4}, {1, 4});
  CHECK(close(layer_norm(x, {4}), {-1.5 * s, -0.5 * s, 0.5 * s, 1.5 * s}));
  CHECK(close(layer_norm(x, {4}, f64({1, 2, 1, 2}, {4}), f64({0, 0, 1, 1}, {4})), {-1.5 * s, -s, 0.5 * s + 1, 3 * s + 1}));
  CHECK(close(layer_norm(x, {4}, {}, {}, 1.0), {-1, -1 / 3.0, 1 / 3.0, 1}));
}

TEST_CASE("layer_norm does not lose a small variance next to a large mean", "[norm]") {
  const Tensor x = values({4, 768}, -1, 1, 1, DType::f32);
  const Tensor far = x + 4096;
  const double half_step = 0x1p-12, deviation = std::sqrt(1 / 3.0);  // the mean is a float: at 4096 it can be off by so much
  CHECK(difference(layer_norm(far, {768}), layer_norm(cast(far, DType::f64), {768}), DType::f32) * tolerance(DType::f32) <=
        1.2 * half_step / deviation);
}

TEST_CASE("rms_norm's epsilon defaults to the dtype's own", "[norm]") {
  const Tensor x = full({1, 2}, 0x1p-13);  // squares are an eighth of f32's epsilon
  CHECK(close(rms_norm(x, {2}), {1 / 3.0, 1 / 3.0}, 1e-6));
  CHECK(close(rms_norm(x, {2}, full({2}, 3), 0.0), {3, 3}, 1e-6));
  CHECK(rms_norm(zeros({2, 2}), {2}).to_vector<double>() == Values(4, 0));
}

TEST_CASE("gradients of weights do not depend on the number of threads", "[norm]") {
  const Tensor x = values({301, 70}, -1, 1, 1, DType::f32), dy = values({301, 70}, -1, 1, 2, DType::f32);
  CHECK(same_with_any_threads([&] {
    Tensor w = ones({70}).set_requires_grad(), b = zeros({70}).set_requires_grad(), r = ones({70}).set_requires_grad();
    backward(sum(layer_norm(x, {70}, w, b) * dy + rms_norm(x, {70}, r) * dy));
    return cat({w.grad(), b.grad(), r.grad()});
  }));
}

TEST_CASE("many rows of half types add up their weight gradients in float", "[norm]") {
  Tensor w = cast(ones({2}), DType::bf16).set_requires_grad(), b = cast(zeros({2}), DType::bf16).set_requires_grad();
  backward(sum(layer_norm(cast(reshape(tensor<float>({-1, 1}), {1, 2}), DType::bf16), {2}, w, b)));
  CHECK(close(w.grad(), {-1, 1}, 1e-2));
  Tensor shift = cast(zeros({2}), DType::bf16).set_requires_grad();
  backward(sum(layer_norm(cast(ones({4096, 2}), DType::bf16), {2}, {}, shift)));
  CHECK(close(shift.grad(), {4096, 4096}));
}

TEST_CASE("a frozen weight gets no gradient, and a bias can be trained alone", "[norm]") {
  Tensor x = leaf({3, 4}), w = leaf({4}), b = leaf({4}, -1, 1, 3);
  w.set_requires_grad(false);
  backward(sum(layer_norm(x, {4}, w, b)));
  CHECK_FALSE(bool(w.grad()));
  CHECK(close(b.grad(), {3, 3, 3, 3}));
}

TEST_CASE("weights of another floating dtype are cast, and their gradients come back in it", "[norm]") {
  Tensor x = values({3, 4}, -1, 1, 1, DType::bf16), w = ones({4}).set_requires_grad();
  const Tensor y = layer_norm(x, {4}, w);
  CHECK(y.dtype() == DType::bf16);
  backward(sum(y));
  CHECK(w.grad().dtype() == DType::f32);
}

TEST_CASE("normalisation names shapes that do not fit", "[norm]") {
  const Tensor x = ones({2, 4});
  CHECK_THAT(error_of([&] { layer_norm(x, {3}); }), ContainsSubstring("layer_norm: normalized_shape [3] does not fit x of shape [2, 4]"));
  CHECK_THAT(error_of([&] { layer_norm(x, {4}, ones({4}), ones({2})); }), ContainsSubstring("bias of shape [2]"));
  CHECK_THAT(error_of([&] { rms_norm(x, {}); }), ContainsSubstring("rms_norm: normalized_shape []"));
  CHECK_THAT(error_of([&] { rms_norm(x, {4}, ones({2, 4})); }), ContainsSubstring("weight of shape [2, 4]"));
}

// ---- cross-entropy --------------------------------------------------------------------------------------------------

TEST_CASE("cross_entropy is the mean of -log p over targets that count", "[cross_entropy]") {
  Tensor x = f64({0, std::log(3.0), 5, 5, 7, 8}, {3, 2}).set_requires_grad();  // p = (1/4, 3/4), (1/2, 1/2)
  const Tensor target = tensor<int64_t>({1, 0, -100});
  const Tensor loss = cross_entropy(x, target);
  CHECK(loss.item() == Approx((std::log(4 / 3.0) + std::log(2.0)) / 2));
  backward(loss);
  CHECK(close(x.grad(), {0.125, -0.125, -0.25, 0.25, 0, 0}));
  CHECK(close(cross_entropy(x, target, {.reduction = Reduction::none}), {std::log(4 / 3.0), std::log(2.0), 0}));
  CHECK(cross_entropy(x, target, {.reduction = Reduction::sum}).item() == Approx(std::log(8 / 3.0)));
  CHECK(cross_entropy(f64({0, std::log(3.0)}, {2}), full({}, 1, {DType::i64})).item() == Approx(std::log(4 / 3.0)));
}

TEST_CASE("label smoothing spreads a share of the target over all classes", "[cross_entropy]") {
  Tensor x = f64({0, std::log(3.0)}, {1, 2}).set_requires_grad();
  const Tensor loss = cross_entropy(x, tensor<int64_t>({1}), {.label_smoothing = 0.2});
  CHECK(loss.item() == Approx(-0.9 * std::log(0.75) - 0.1 * std::log(0.25)));
  backward(loss);
  CHECK(close(x.grad(), {0.25 - 0.1, 0.75 - 0.9}));
}

TEST_CASE("cross_entropy of shares of classes is PyTorch's", "[cross_entropy]") {
  Tensor x = f64({1, 2, 0.5, -1, 0, 3}, {2, 3}).set_requires_grad();
  const Tensor target = f64({0.2, 0.5, 0.3, 1, 0, 0}, {2, 3});
  // torch.nn.functional.cross_entropy(x, target, label_smoothing=0.1), its gradient, and losses without smoothing
  const Tensor loss = cross_entropy(x, target, {.label_smoothing = 0.1});
  CHECK(loss.item() == Approx(2.515959677266).epsilon(1e-11));
  backward(loss);
  CHECK(close(x.grad(), {0.008945282144, 0.072599192939, -0.081544475084, -0.458092753894, 0.006639644622, 0.451453109272}, 1e-11));
  CHECK(close(cross_entropy(x, target, {.reduction = Reduction::none}), {1.114368784108, 4.065883903757}, 1e-11));
  CHECK(cross_entropy(x, target, {.reduction = Reduction::sum}).item() == Approx(5.180252687865).epsilon(1e-11));
  CHECK(cross_entropy(select(x, 0, 0), select(target, 0, 0)).item() == Approx(1.114368784108).epsilon(1e-11));
  // All of one class is what its number says.
  CHECK(cross_entropy(x, f64({0, 1, 0, 0, 0, 1}, {2, 3})).item() == Approx(cross_entropy(x, tensor<int64_t>({1, 2})).item()));
  CHECK_THAT(error_of([&] { cross_entropy(x, f64({1, 0}, {2})); }), ContainsSubstring("it must have shape [2, 3]"));
}

TEST_CASE("the mean cross_entropy of nothing that counts is nan, the sum is 0", "[cross_entropy]") {
  const Tensor target = tensor<int64_t>({-100, -100});
  CHECK(std::isnan(cross_entropy(zeros({2, 3}), target).item()));
  CHECK(cross_entropy(zeros({2, 3}), target, {.reduction = Reduction::sum}).item() == 0);
}

TEST_CASE("cross_entropy of huge logits is exact, also over many classes", "[cross_entropy]") {
  CHECK(cross_entropy(tensor<float>({1e6f, 1e6f + 1, -1e6f}, {1, 3}), tensor<int64_t>({0})).item() ==
        Approx(1 + std::log1p(std::exp(-1.0))));
  const Tensor x = values({5, 4001}, -8, 8, 1, DType::f32), target = tensor<int64_t>({0, 4000, 17, 1023, 1024});
  CHECK(difference(cross_entropy(x, target), cross_entropy(cast(x, DType::f64), target), DType::f32) <= 1);
}

TEST_CASE("a target out of range names itself and the number of classes", "[cross_entropy]") {
  const Tensor x = zeros({2, 3});
  CHECK_THAT(error_of([&] {
               cross_entropy(x, tensor<int64_t>({0, 3}));
             }),
             ContainsSubstring("cross_entropy: index 3 is out of range; expected 0 <= index < 3"));
  CHECK_THAT(error_of([&] { cross_entropy(x, tensor<int64_t>({-1, 0})); }), ContainsSubstring("index -1"));
  CHECK_THAT(error_of([&] { cross_entropy(x, tensor<int64_t>({0, 1, 2})); }), ContainsSubstring("it must have shape [2]"));
  CHECK_THAT(error_of([&] {
               cross_entropy(x, tensor<int32_t>({0, 1}));
             }),
             ContainsSubstring("class numbers must be i64, shares of classes floating"));
  CHECK_THAT(error_of([&] { cross_entropy(x, tensor<int64_t>({0, 1}), {.label_smoothing = 2}); }), ContainsSubstring("label_smoothing 2"));
}

// ---- indices --------------------------------------------------------------------------------------------------------

TEST_CASE("an index may repeat elements and may be i32", "[index]") {
  const Tensor x = tensor<int64_t>({1, 2, 3, 4, 5, 6}, {2, 3});
  CHECK(index_select(x, 1, tensor<int32_t>({2, 0, 2})).to_vector<int64_t>() == std::vector<int64_t>{3, 1, 3, 6, 4, 6});
  CHECK(index_add(x, 1, tensor<int64_t>({0, 0}), ones({2, 2})).to_vector<int64_t>() == std::vector<int64_t>{3, 2, 3, 6, 5, 6});
  CHECK(gather(x, 0, tensor<int64_t>({1, 0}, {1, 2})).to_vector<int64_t>() == std::vector<int64_t>{4, 2});
  CHECK(scatter_add(x, 1, tensor<int32_t>({2, 2}, {1, 2}), tensor<int64_t>({10, 20, 30}, {1, 3})).to_vector<int64_t>() ==
        std::vector<int64_t>{1, 2, 33, 4, 5, 6});
  CHECK(index_add(tensor<bool>({false, false}), 0, tensor<int64_t>({1, 1}), tensor<bool>({true, true})).to_vector<int64_t>() ==
        std::vector<int64_t>{0, 1});
}

TEST_CASE("gather and scatter_add take an index that is smaller than the tensor in every dim", "[index]") {
  const Tensor x = reshape(arange(24), {2, 3, 4});
  CHECK(gather(x, 1, tensor<int64_t>({2, 0, 1, 2}, {2, 1, 2})).to_vector<int64_t>() == std::vector<int64_t>{8, 1, 16, 21});
  CHECK(gather(x, 2, tensor<int64_t>({3, 0}, {1, 2, 1})).to_vector<int64_t>() == std::vector<int64_t>{3, 4});
  const Tensor y = scatter_add(zeros({2, 3, 4}), 0, tensor<int64_t>({1, 1, 0, 1}, {2, 2, 1}), tensor<float>({1, 2, 3, 4}, {2, 2, 1}));
  std::vector<float> wanted(24, 0);
  wanted[12] = 1, wanted[16] = 6, wanted[0] = 3;
  CHECK(y.to_vector<float>() == wanted);
}

TEST_CASE("an index out of range names itself and the size", "[index]") {
  const Tensor x = zeros({2, 3}), bad = tensor<int64_t>({0, 3}), negative = tensor<int64_t>({-1});
  CHECK_THAT(error_of([&] { index_select(x, 1, bad); }),
             ContainsSubstring("index_select: index 3 is out of range; expected 0 <= index < 3"));
  CHECK_THAT(error_of([&] { index_add(x, 1, negative, zeros({2, 1})); }), ContainsSubstring("index_add: index -1"));
  CHECK_THAT(error_of([&] { gather(x, 1, reshape(bad, {1, 2})); }), ContainsSubstring("gather: index 3"));
  CHECK_THAT(error_of([&] { scatter_add(x, 1, reshape(bad, {1, 2}), zeros({1, 2})); }), ContainsSubstring("scatter_add: index 3"));
  CHECK_THAT(error_of([&] { embedding(x, tensor<int64_t>({2})); }), ContainsSubstring("index 2 is out of range; expected 0 <= index < 2"));
  CHECK_THAT(error_of([&] {
               gather(x, 0, zeros({2, 4}, {DType::i64}));
             }),
             ContainsSubstring("an index of shape [2, 4] does not fit a tensor of shape [2, 3]"));
  CHECK_THAT(error_of([&] { index_select(x, 0, ones({1})); }), ContainsSubstring("it must be i64 or i32"));
  CHECK_THAT(error_of([&] { index_add(x, 0, tensor<int64_t>({0}), zeros({2, 3})); }), ContainsSubstring("must be [1, 3]"));
  CHECK_THAT(error_of([&] { scatter_add(x, 0, zeros({2, 3}, {DType::i64}), zeros({1, 3})); }), ContainsSubstring("source"));
}

TEST_CASE("an empty index selects nothing and adds nothing", "[index]") {
  Tensor x = leaf({3, 2});
  const Tensor none = zeros({0}, {DType::i64});
  const Tensor y = index_select(x, 0, none);
  CHECK(y.shape() == Shape{0, 2});
  backward(sum(y));
  CHECK(x.grad().to_vector<double>() == Values(6, 0));
  CHECK(same_bits(index_add(x, 0, none, zeros({0, 2})), x.detach()));
}

TEST_CASE("sums over an index do not depend on the number of threads", "[index]") {
  for (const Shape& shape : {Shape{3000, 3}, Shape{500, 300}}) {
    const int64_t k = shape[0], n = shape[1];
    Generator g(4);
    const Tensor source = values(shape, -1, 1, 1, DType::f32), few = randint(0, 5, {k}, {DType::i64}, g),
                 many = randint(0, 900, {k}, {DType::i64}, g);
    CHECK(same_with_any_threads([&] { return index_add(zeros({5, n}), 0, few, source); }));
    CHECK(same_with_any_threads([&] { return index_add(zeros({900, n}), 0, many, source); }));
    CHECK(same_with_any_threads([&] { return scatter_add(zeros({5, n}), 0, contiguous(expand(unsqueeze(few, 1), shape)), source); }));
    CHECK(difference(scatter_add(zeros({5, n}), 0, expand(unsqueeze(few, 1), shape), source), index_add(zeros({5, n}), 0, few, source),
                     DType::f32) <= 1);
  }
}

TEST_CASE("half types add up over an index in float", "[index]") {
  const Tensor x = cast(zeros({1, 2}), DType::bf16), one = cast(ones({1000, 2}), DType::bf16);  // bf16 alone would stop at 256
  CHECK(index_add(x, 0, zeros({1000}, {DType::i64}), one).to_vector<double>() == Values{1000, 1000});
  CHECK(scatter_add(x, 0, zeros({1000, 2}, {DType::i64}), one).to_vector<double>() == Values{1000, 1000});
}

TEST_CASE("the padding row of an embedding gets no gradient, also in second derivatives", "[index]") {
  Tensor w = f64({1, 2, 3, 4, 5, 6}, {3, 2}).set_requires_grad();
  const Tensor ids = tensor<int64_t>({2, 1, 2, 0}, {2, 2});
  const Tensor y = embedding(w, ids, 1);
  CHECK(y.shape() == Shape{2, 2, 2});
  CHECK(y.to_vector<double>() == Values{5, 6, 3, 4, 5, 6, 1, 2});
  const auto g = grad({sum(square(y))}, {w}, {.create_graph = true});
  CHECK(g[0].to_vector<double>() == Values{2, 4, 0, 0, 20, 24});
  CHECK(grad({sum(g[0])}, {w})[0].to_vector<double>() == Values{2, 2, 0, 0, 4, 4});
  CHECK_THAT(error_of([&] { embedding(w, ids, 3); }), ContainsSubstring("embedding: padding_idx 3 is out of range for 3 rows"));
}

// ---- dropout --------------------------------------------------------------------------------------------------------

TEST_CASE("dropout keeps exactly the elements whose number is at least p, and scales them", "[dropout]") {
  const RandomState state{9, 5};
  for (DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    Generator g;
    g.set_state(state);
    const auto y = dropout(full({5000}, 3, {dtype}), 0.25, true, g).to_vector<double>();
    int kept = 0;
    for (size_t i = 0; i < y.size(); ++i) {
      const bool keep = philox_uniform(state, i) >= 0.25f;
      REQUIRE(y[i] == (keep ? 4.0 : 0.0));
      kept += keep;
    }
    CHECK(std::abs(kept - 3750) < 150);
    CHECK(g.state().offset == state.offset + 1250);
  }
}

TEST_CASE("dropout with p of 0 or without training is x itself, with p of 1 it is zero", "[dropout]") {
  Tensor x = f64({1, inf, NAN}, {3}).set_requires_grad();
  Generator g(1);
  CHECK(dropout(x, 0, true, g).impl() == x.impl());
  CHECK(dropout(x, 0.5, false, g).impl() == x.impl());
  CHECK(g.state().offset == 0);
  const Tensor y = dropout(x, 1, true, g);
  CHECK(y.to_vector<double>() == Values{0, 0, 0});
  backward(sum(y));
  CHECK(x.grad().to_vector<double>() == Values{0, 0, 0});
  for (double p : {-0.1, 1.5, double(NAN)}) CHECK_THAT(error_of([&] { dropout(x, p); }), ContainsSubstring("is not a probability"));
}

TEST_CASE("backward and replay of dropout use forward's mask, two calls use two", "[dropout]") {
  Tensor x = ones({64}).set_requires_grad();
  Generator g(1);
  const Tensor y = dropout(x, 0.5, true, g), z = dropout(x, 0.5, true, g);
  CHECK_FALSE(same_bits(y, z));
  backward(sum(y));
  CHECK(same_bits(x.grad(), y.detach()));
  x.set_grad({});
  g.manual_seed(1);
  backward(sum(checkpoint([&](const Tensor& t) { return square(dropout(t, 0.5, true, g)); }, x)));
  CHECK(same_bits(x.grad(), (y * 4).detach()));  // kept elements are 2: 2 * 2 * 2
}

// ---- rope -----------------------------------------------------------------------------------------------------------

TEST_CASE("rope leaves position 0 alone and scores depend on distance only", "[rope]") {
  const auto [cos, sin] = rope_tables(6, 8, 100, {DType::f64});
  const Tensor q = expand(values({1, 8}, -1, 1, 1), {6, 8}), k = expand(values({1, 8}, -1, 1, 2), {6, 8});
  for (bool interleaved : {false, true}) {
    const Tensor a = rope(q, cos, sin, interleaved), b = rope(k, cos, sin, interleaved);
    CHECK(difference(narrow(a, 0, 0, 1), narrow(q, 0, 0, 1), DType::f64) <= 1);
    const auto scores = matmul(a, transpose(b)).to_vector<double>();
    for (int t = 1; t < 6; ++t)
      for (int s = 1; s < 6; ++s) CHECK(scores[size_t(t * 6 + s)] == Approx(scores[size_t((t - 1) * 6 + s - 1)]));
    CHECK(scores[1] != Approx(scores[6]));
  }
}

TEST_CASE("rope rotates by position times frequency, in either order of pairs", "[rope]") {
  const auto [cos, sin] = rope_tables(3, 4, 100, {DType::f64});  // frequencies 1 and 1/10
  CHECK(close(select(cos, 0, 2), {std::cos(2.0), std::cos(0.2)}));
  CHECK(close(select(sin, 0, 2), {std::sin(2.0), std::sin(0.2)}));
  const Tensor x = expand(f64({1, 2, 0, 0}, {1, 4}), {3, 4}), y = expand(f64({1, 0, 2, 0}, {1, 4}), {3, 4});
  CHECK(close(select(rope(x, cos, sin), 0, 2), {std::cos(2.0), 2 * std::cos(0.2), std::sin(2.0), 2 * std::sin(0.2)}));
  CHECK(close(select(rope(y, cos, sin, true), 0, 2), {std::cos(2.0), std::sin(2.0), 2 * std::cos(0.2), 2 * std::sin(0.2)}));
}

TEST_CASE("the gradient of rope is the inverse rotation", "[rope]") {
  const auto [cos, sin] = rope_tables(5, 6);
  for (bool interleaved : {false, true}) {
    Tensor x = values({2, 5, 6}, -1, 1, 1, DType::f32).set_requires_grad();
    const Tensor y = rope(x, cos, sin, interleaved);
    backward(y, {}, y.detach());
    CHECK(difference(x.grad(), x.detach(), DType::f32) <= 1);
  }
}

TEST_CASE("rope names tables that do not fit", "[rope]") {
  const auto [cos, sin] = rope_tables(3, 4);
  CHECK_THAT(error_of([&, c = cos, s = sin] { rope(ones({2, 4}), c, s); }), ContainsSubstring("both must have shape [2, 2]"));
  CHECK_THAT(error_of([&, c = cos, s = sin] { rope(ones({3, 5}), c, s); }), ContainsSubstring("with an even D"));
  CHECK_THAT(error_of([&, c = cos, s = sin] {
               rope(ones({3, 4}), ones({3, 2}).set_requires_grad(), s);
             }),
             ContainsSubstring("no gradient"));
  CHECK_THAT(error_of([] { rope_tables(3, 5); }), ContainsSubstring("head_dim even"));
}

// ---- attention ------------------------------------------------------------------------------------------------------

namespace {

struct AttentionCase {
  int64_t batch, heads, kv_heads, queries, keys, head_dim, value_dim;
  bool causal = false, bool_mask = false, bias = false;
  double dropout = 0;
};
struct AttentionRun {
  Tensor y, dq, dk, dv;
};

// Attention with and without the fused op, from the same numbers.
AttentionRun run_attention(const AttentionCase& c, DType dtype, bool fused) {
  const auto input = [&](const Shape& shape, uint64_t seed) {
    return cast(values(shape, -1, 1, seed, DType::f32), dtype).set_requires_grad();
  };
  Tensor q = input({c.batch, c.heads, c.queries, c.head_dim}, 1), k = input({c.batch, c.kv_heads, c.keys, c.head_dim}, 2);
  Tensor v = input({c.batch, c.kv_heads, c.keys, c.value_dim}, 3);
  Tensor mask;
  if (c.bool_mask) mask = gt(values({c.batch, 1, c.queries, c.keys}, -1, 1, 4), -0.5);
  if (c.bias) mask = values({c.heads, c.queries, c.keys}, -2, 2, 5, DType::f32);
  Generator g(6);
  Tensor y;
  if (fused) {
    y = scaled_dot_product_attention(q, k, v, {.mask = mask, .is_causal = c.causal, .dropout_p = c.dropout}, g);
  } else {
    const int64_t group = c.heads / c.kv_heads;
    const auto repeat = [&](const Tensor& x) {
      std::vector<Tensor> heads;
      for (int64_t h = 0; h < c.heads; ++h) heads.push_back(select(x, 1, h / group));
      return stack(heads, 1);
    };
    Tensor scores = matmul(q, transpose(repeat(k))) / std::sqrt(double(c.head_dim));
    if (c.bool_mask) scores = masked_fill(scores, logical_not(mask), -inf);
    if (c.bias) scores = scores + cast(mask, dtype);
    if (c.causal) scores = masked_fill(scores, gt(arange(double(c.keys)), unsqueeze(arange(double(c.queries)), 1)), -inf);
    y = matmul(dropout(softmax(scores, -1), c.dropout, true, g), repeat(v));
  }
  backward(y, {}, cast(values(y.shape(), -1, 1, 7, DType::f32), dtype));
  return {y.detach(), q.grad(), k.grad(), v.grad()};
}

}  // namespace

TEST_CASE("fused attention and its gradients agree with the composed form", "[attention]") {
  const std::vector<AttentionCase> cases = {
      {2, 3, 3, 5, 7, 8, 6},
      {1, 2, 2, 130, 130, 16, 16, true},
      {1, 4, 2, 70, 65, 8, 8, false, true},
      {2, 4, 1, 66, 66, 4, 12, true, false, true, 0.2},
      {1, 6, 2, 3, 100, 8, 8, false, true, false, 0.5},
      {1, 1, 1, 2, 5, 3, 3, true},
      {1, 1, 1, 5, 2, 3, 3, true},
      {2, 4, 2, 1, 131, 37, 21},  // one query: a kernel of its own
      {1, 2, 2, 1, 64, 32, 64},
      {1, 2, 1, 1, 9, 4, 4, true},
  };
  for (const auto& c : cases)
    for (DType dtype : {DType::f64, DType::f32, DType::bf16}) {
      INFO(c.heads << " heads, " << c.queries << " queries, " << c.keys << " keys, " << name_of(dtype));
      const AttentionRun a = run_attention(c, dtype, true), b = run_attention(c, DType::f64, false);
      const AttentionRun reference = dtype == DType::bf16 ? run_attention(c, dtype, false) : b;
      for (auto [x, y] : {std::pair{a.y, reference.y}, {a.dq, reference.dq}, {a.dk, reference.dk}, {a.dv, reference.dv}}) {
        CHECK(x.dtype() == dtype);
        CHECK(difference(x, y, dtype) <= (dtype == DType::bf16 ? 4 : 1));  // the composed form rounds the weights to bf16
      }
    }
}

TEST_CASE("a query that sees none of its keys is refused by name", "[attention]") {
  const Tensor q = values({2, 3, 2, 4}), k = values({2, 3, 5, 4}, -1, 1, 2);
  Tensor mask = ones({2, 1, 2, 5}, {.dtype = DType::boolean});
  CHECK_NOTHROW(scaled_dot_product_attention(q, k, k, {.mask = mask}));
  copy_into(zeros({5}, {.dtype = DType::boolean}), select(select(select(mask, 0, 1), 0, 0), 0, 1));
  const std::string message =
      "scaled_dot_product_attention: query 1 of head 0 of batch element 1 sees none of its 5 keys; let it see one, or set allow_masked_rows for a result of 0";
  CHECK(error_of([&] { scaled_dot_product_attention(q, k, k, {.mask = mask}); }) == message);
  const Tensor bias = masked_fill(zeros({2, 1, 2, 5}, q.options()), logical_not(mask), -inf);
  CHECK(error_of([&] { scaled_dot_product_attention(q, k, k, {.mask = bias}); }) == message);
}

TEST_CASE("where masked rows are allowed, a query that sees no key gets zero and passes no gradient", "[attention]") {
  Tensor q = leaf({1, 1, 2, 4}), k = leaf({1, 1, 3, 4}, -1, 1, 2), v = leaf({1, 1, 3, 4}, -1, 1, 3);
  const Tensor mask = tensor<bool>({false, false, false, true, true, false}, {2, 3});
  const Tensor y = scaled_dot_product_attention(q, k, v, {.mask = mask, .allow_masked_rows = true});
  CHECK(select(y, 2, 0).to_vector<double>() == Values(4, 0));
  backward(sum(y));
  CHECK(select(q.grad(), 2, 0).to_vector<double>() == Values(4, 0));
  CHECK(select(v.grad(), 2, 2).to_vector<double>() == Values(4, 0));
  CHECK(std::abs(sum(v.grad()).item() - 4) < 1e-12);
  CHECK(scaled_dot_product_attention(q, zeros({1, 1, 0, 4}, q.options()), zeros({1, 1, 0, 4}, q.options())).to_vector<double>() ==
        Values(8, 0));
}

TEST_CASE("a floating mask of -inf hides like a bool mask, and masks broadcast", "[attention]") {
  const Tensor q = values({2, 2, 3, 4}), k = values({2, 2, 3, 4}, -1, 1, 2), v = values({2, 2, 3, 4}, -1, 1, 3);
  const Tensor seen = tensor<bool>({true, false, true}), bias = f64({0, -inf, 0}, {3});
  const Tensor a = scaled_dot_product_attention(q, k, v, {.mask = seen}), b = scaled_dot_product_attention(q, k, v, {.mask = bias});
  CHECK(difference(a, b, DType::f64) <= 1);
  CHECK(difference(
            a, scaled_dot_product_attention(q, index_select(k, 2, tensor<int64_t>({0, 2})), index_select(v, 2, tensor<int64_t>({0, 2}))),
            DType::f64) <= 1);
}

TEST_CASE("a row hidden whole by a large finite mask attends to all keys evenly, backward too", "[attention]") {
  const Tensor q = cast(values({1, 1, 3, 4}), DType::f32), k = cast(values({1, 1, 8, 4}, -1, 1, 2), DType::f32);
  Tensor v = cast(values({1, 1, 8, 4}, -1, 1, 3), DType::f32).set_requires_grad();
  backward(sum(scaled_dot_product_attention(q, k, v, {.mask = full({3, 8}, -1e9)})));
  CHECK(v.grad().to_vector<float>() == std::vector<float>(32, 3.0f / 8));
}

TEST_CASE("attention's result merges its heads without a copy", "[attention]") {
  const Tensor x = values({2, 3, 5, 4});
  const Tensor y = scaled_dot_product_attention(x, x, x);
  CHECK(y.shape() == Shape{2, 3, 5, 4});
  CHECK(reshape(transpose(y, 1, 2), {2, 5, 12}).shares_storage(y));
}

TEST_CASE("attention dropout is drawn again in replay and drops everything at p of 1", "[attention]") {
  Tensor q = leaf({1, 2, 9, 4});
  std::vector<Tensor> grads;
  for (bool replay : {false, true}) {
    Generator g(3);
    q.set_grad({});
    const auto f = [&](const Tensor& x) { return square(scaled_dot_product_attention(x, x, x, {.dropout_p = 0.4}, g)); };
    backward(sum(replay ? checkpoint(f, q) : f(q)));
    grads.push_back(q.grad());
  }
  CHECK(same_bits(grads[0], grads[1]));
  const Tensor none = scaled_dot_product_attention(q, q, q, {.dropout_p = 1});
  CHECK(none.to_vector<double>() == Values(72, 0));
}

TEST_CASE("attention's memory grows with the length, not with its square", "[attention]") {
  const auto peak = [](int64_t length) {
    const auto input = [&](uint64_t seed) { return values({1, 2, length, 16}, -1, 1, seed, DType::f32).set_requires_grad(); };
    const Tensor q = input(1), k = input(2), v = input(3), dy = values({1, 2, length, 16}, -1, 1, 4, DType::f32);
    reset_peak_memory();
    const int64_t before = memory_stats().live;
    backward(scaled_dot_product_attention(q, k, v, {.is_causal = true}), {}, dy);
    return memory_stats().peak - before;
  };
  CHECK(double(peak(4096)) < 2.3 * double(peak(2048)));
  CHECK(peak(4096) < 4096 * 4096 * 4 / 4);  // a quarter of one head's scores
}

TEST_CASE("attention says what does not fit", "[attention]") {
  const Tensor q = ones({1, 4, 3, 8}), k = ones({1, 2, 5, 8});
  const auto error = [](const Tensor& a, const Tensor& b, const Tensor& c, AttentionParams p = {}) {
    return error_of([&] { scaled_dot_product_attention(a, b, c, p); });
  };
  CHECK_THAT(error(q, ones({1, 2, 5, 7}), k), ContainsSubstring("q has 8 features and k has 7"));
  CHECK_THAT(error(q, k, ones({1, 2, 4, 8})), ContainsSubstring("k has 5 positions and v has 4"));
  CHECK_THAT(error(q, ones({1, 3, 5, 8}), ones({1, 3, 5, 8})), ContainsSubstring("q's 4 must be a multiple of k's 3"));
  CHECK_THAT(error(q, ones({2, 2, 5, 8}), ones({2, 2, 5, 8})), ContainsSubstring("batch sizes"));
  CHECK_THAT(error(q, ones({2, 5, 8}), k), ContainsSubstring("4 dims"));
  CHECK_THAT(error(q, cast(k, DType::f64), k), ContainsSubstring("f32, f64 and f32"));
  CHECK_THAT(error(q, k, k, {.mask = tensor<bool>({true, false})}),
             ContainsSubstring("a mask of shape [2] does not broadcast to the scores' shape [1, 4, 3, 5]"));
  CHECK_THAT(error(q, k, k, {.mask = ones({3, 5}).set_requires_grad()}), ContainsSubstring("masks have none"));
  CHECK_THAT(error(q, k, k, {.mask = zeros({3, 5}, {DType::i64})}), ContainsSubstring("must be bool"));
  CHECK_THAT(error(q, k, k, {.dropout_p = -1}), ContainsSubstring("dropout_p = -1"));
}
