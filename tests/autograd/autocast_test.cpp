// Mixed precision: what each op runs in, what is cast and for how long, and what replay and errors leave behind.
#include <fmt/format.h>

#include <optional>
#include <set>
#include <thread>

#include "../op_cases.h"
#include "../policies.h"

using namespace retape;
using namespace retape::testing;

namespace {
int64_t live() { return memory_stats().live; }
Tensor weight(const Shape& shape, uint64_t seed = 1) { return Tensor(values(shape, -1, 1, seed, DType::f32)).set_requires_grad(); }
constexpr int64_t n = 128, cast_bytes = n * n * 2;  // of a weight in a half type

struct Inputs {  // which dtype does forward see?
  static constexpr auto name = "inputs";
  static constexpr auto precision = Precision::low;
  static inline std::vector<DType> seen;
  Tensor forward(const Tensor& a, const std::vector<Tensor>& more) {
    seen = {a.dtype()};
    for (auto& t : more) seen.push_back(t.dtype());
    return clone(a);
  }
  void backward(const Tensor& dy, Grads& dx) {
    dx.set(0, dy);
    for (int i = 1; i < dx.size(); ++i) dx.none(i);
  }
};
struct Fragile {
  static constexpr auto name = "fragile";
  static constexpr auto precision = Precision::low;
  static inline bool in_forward, in_backward;
  Saved x = {};
  Tensor forward(const Tensor& in) {
    if (in_forward) throw Error("fragile: forward");
    x = save(in);
    return tanh(in);
  }
  void backward(const Tensor& dy, Grads& dx) {
    if (in_backward) throw Error("fragile: backward");
    dx.set(0, dy * (1 - square(tanh(*x))));
  }
};
struct Inner {
  static constexpr auto name = "inner";
  static constexpr int differentiable = 0;
  Tensor forward(const Tensor& x) { return matmul(x, softmax(x, 0)); }
};
}  // namespace

TEST_CASE("every op runs under autocast, close to f32, with gradients in the dtype of its inputs", "[autocast]") {
  for (auto& c : op_cases())
    for (DType low : {DType::bf16, DType::f16}) {
      INFO(c.name << " " << name_of(low));
      const auto plain = draw(c, DType::f32), mixed = draw(c, DType::f32);
      manual_seed(3);
      const Tensor a = c.f(plain);
      backward(sum(a));
      Tensor b;
      {
        const Autocast amp(low);
        manual_seed(3);
        b = c.f(mixed);
      }
      CHECK((b.dtype() == low || b.dtype() == DType::f32));
      backward(sum(b));
      if (c.half) CHECK(difference(b, a, low) <= 1);
      for (size_t i = 0; i < plain.size(); ++i) {
        REQUIRE(bool(plain[i].grad()) == bool(mixed[i].grad()));
        if (!plain[i].grad()) continue;
        CHECK(mixed[i].grad().dtype() == DType::f32);
        if (c.half) CHECK(difference(mixed[i].grad(), plain[i].grad(), low) <= 4);
      }
    }
}

TEST_CASE("saving memory under autocast changes no bit, with the region around it or inside", "[autocast]") {
  for (auto& c : op_cases()) {
    const auto gradients = [&](const Policy& policy, bool around) {
      const auto x = draw(c, DType::f32);
      manual_seed(3);
      std::optional<Autocast> amp;
      if (around) amp.emplace(DType::bf16);
      policy.differentiate([&] {
        const Autocast inner(DType::bf16);
        return sum(tanh(c.f(x)));
      });
      std::vector<Tensor> grads;
      for (auto& t : x) grads.push_back(t.grad());
      return grads;
    };
    const auto expected = gradients(keep_everything, false);
    for (auto& policy : lossless_policies())
      for (const bool around : {false, true}) {
        INFO(c.name << ", " << policy.name << (around ? ", inside the region" : ""));
        const auto grads = gradients(policy, around);
        for (size_t i = 0; i < grads.size(); ++i) {
          REQUIRE(bool(grads[i]) == bool(expected[i]));
          if (grads[i]) CHECK(same_bits(grads[i], expected[i]));
        }
      }
  }
}

// PyTorch's lists for CUDA; and for linear algebra and Fourier transforms, which have no half types, those for CPU.
TEST_CASE("ops run in the precision of PyTorch's lists", "[autocast]") {
  const Tensor f32 = values({3, 3}, 0.1, 0.9, 1, DType::f32), low = cast(values({3, 3}, 0.1, 0.9, 2), DType::bf16),
               f64 = values({3, 3}, 0.1, 0.9), row = select(f32, 0, 0), low_row = select(low, 0, 0);
  const Tensor ids = tensor<int64_t>({0, 2, 1});
  const auto batch = [](const Tensor& x) { return unsqueeze(x, 0); };
  const Autocast amp(DType::bf16);
  const auto dtypes = [](const std::vector<Tensor>& results) {
    std::set<std::string> names;
    for (auto& t : results) names.insert(name_of(t.dtype()));
    return names;
  };
  using Names = std::set<std::string>;
  CHECK(dtypes({matmul(f32, f32), matmul(low, f32), matmul(f32, row), linear(f32, f32, row), linear(low, f32), mm(f32, f32), mv(f32, row),
                bmm(batch(f32), batch(low)), einsum("ij,jk->ik", {f32, f32}), einsum("ij->j", {f32}), multi_dot({f32, low, f32}),
                chain_matmul({f32, f32}), addmm(f32, f32, f32), addmv(row, f32, row), baddbmm(f32, batch(f32), batch(f32)),
                addbmm(f32, batch(f32), batch(f32)), scaled_dot_product_attention(batch(f32), batch(low), batch(f32))}) == Names{"bf16"});
  CHECK(dtypes({softmax(low, 0),
                log_softmax(low, 0),
                layer_norm(low, {3}, row),
                layer_norm(low, {3}),
                rms_norm(low, {3}, low_row),
                cross_entropy(low, ids),
                mse_loss(low, low),
                sum(low),
                sum(low, {0}),
                prod(low, {0}),
                cumsum(low, 0),
                cumprod(low, 0),
                norm(low),
                norm(low, 3, {0}),
                norm(low, INFINITY),
                logsumexp(low, {0}),
                logcumsumexp(low, 0),
                pow(low, 3),
                pow(low, 2),
                pow(2, low),
                pow(low, low),
                quantile(low, 0.5, 0)}) == Names{"f32"});
  CHECK(dtypes({inverse(low), det(low), solve(low, f32), svd(low).s, qr(low).q, eigvalsh(low), cholesky(eye(3, {DType::bf16})),
                matrix_norm(low), matrix_exp(low), pinv(low), fft(low.at({Slice(), Slice(0, 2)})), rfft(low)}) == Names{"f32"});
  CHECK(dtypes({cat({low, f32}), stack({f32, low}), low + f32, addcmul(low, low, f32), atan2(low, f32), dot(low_row, row),
                tensordot(f32, low, 1), cross(low, f32, 0), scatter_add(low, 0, expand(ids, {3, 3}), f32), index_copy(low, 0, ids, f32),
                index_put(low, {0}, row), grid_sample(reshape(low, {1, 1, 3, 3}), zeros({1, 1, 1, 2}))}) == Names{"f32"});
  CHECK(dtypes({tensordot(low, low, 1), dot(low_row, low_row), scatter_add(low, 0, expand(ids, {3, 3}), low), cat({low, low}), low + low,
                dropout(low, 0.5), embedding(low, ids), transpose(low), where(gt(low, 0.5), low, 0)}) == Names{"bf16"});
  CHECK(dtypes({embedding(f32, ids), gelu(f32), tanh(f32), f32 * f32, cast(f32, DType::f32)}) == Names{"f32"});
  CHECK(dtypes({matmul(f64, f64), softmax(f64, 0), matmul(f64, f32), linear(low, f64)}) == Names{"f64"});
  CHECK(matmul(f32, f32).dtype() == DType::bf16);

  const std::set<std::string> full{"acos",  "asin", "cosh",  "erfinv", "exp",        "exp2",  "expm1", "log",
                                   "log10", "log2", "log1p", "sinh",   "reciprocal", "rsqrt", "tan",   "softplus"};
#define RETAPE_X(name, ...) \
  CAPTURE(#name);           \
  CHECK(name(low + 1).dtype() == (full.contains(#name) ? DType::f32 : DType::bf16));
  RETAPE_UNARY_OPS(RETAPE_X)
#undef RETAPE_X
}

TEST_CASE("a user's op states its precision; what a forward calls is not cast again", "[autocast]") {
  const Tensor a = weight({2}), b = values({2}, -1, 1, 2, DType::f32), ids = tensor<int64_t>({1});
  const Autocast amp(DType::f16);
  CHECK(record(Inputs{}, a, std::vector<Tensor>{b, ids, cast(b, DType::f64), cast(b, DType::bf16)}).dtype() == DType::f16);
  CHECK(Inputs::seen == std::vector<DType>{DType::f16, DType::f16, DType::i64, DType::f64, DType::f16});
  CHECK(record(Inner{}, values({2, 2}, -1, 1, 1, DType::f32)).dtype() == DType::f32);
  CHECK(record(Inner{}, values({2, 2}, -1, 1, 1, DType::bf16)).dtype() == DType::bf16);
}

TEST_CASE("a weight is cast once a region, and its cast goes with the region", "[autocast]") {
  const Tensor w = weight({n, n}), x = values({1, n}, -1, 1, 2, DType::f32);
  Tensor y, z;
  const int64_t base = live();
  {
    const Autocast amp(DType::bf16);
    y = matmul(x, w);
    const int64_t one = live();
    CHECK(one - base >= cast_bytes);
    z = matmul(x, w);
    CHECK(live() - one < cast_bytes);
  }
  CHECK(live() - base < cast_bytes);
  CHECK(same_bits(y, z));
  CHECK(same_bits(y, matmul(cast(x, DType::bf16), cast(w, DType::bf16)).detach()));
}

TEST_CASE("a weight that wants no gradient, and what is no weight, is not kept", "[autocast]") {
  const Tensor frozen = weight({n, n}).detach(), w = weight({n, n}), x = values({1, n}, -1, 1, 2, DType::f32);
  const Autocast amp(DType::bf16);
  const int64_t base = live();
  matmul(x, frozen), matmul(x, w * 1);
  CHECK(live() == base);
}

TEST_CASE("a kept cast sees writes into the weight, and other bytes under it", "[autocast]") {
  nn::Linear layer(n, n, {.bias = false});
  const Tensor x = values({2, n}, -1, 1, 2, DType::f32);
  const Tensor w = layer.weight;
  const auto expected = [&] { return linear(cast(x, DType::bf16), cast(w, DType::bf16)).detach(); };
  const Autocast amp(DType::bf16);
  layer(x);
  copy_into(values({n, n}, -1, 1, 7, DType::f32), w.detach());
  CHECK(same_bits(layer(x), expected()));
  {
    const Autocast exact(DType::f16);  // other bytes that were written as often
    const auto half = [&] { return linear(cast(x, DType::f16), cast(w, DType::f16)).detach(); };
    layer.to(DType::f16), layer.to(DType::f32);
    CHECK(same_bits(layer(x), half()));
    layer.to(DType::bf16), layer.to(DType::f32);
    CHECK(same_bits(layer(x), half()));
  }
  const NoGrad off;
  for (int i = 0; i < 20; ++i) {  // other weights at the same address, of the same bytes
    const Tensor view = (i % 2 ? w.detach() : transpose(w.detach())).set_requires_grad();
    CHECK(same_bits(matmul(x, view), matmul(cast(x, DType::bf16), cast(view, DType::bf16))));
  }
}

TEST_CASE("a cast made while nothing was recorded is not given to code that records", "[autocast]") {
  const Tensor w = weight({4, 4}), x = values({2, 4}, -1, 1, 2, DType::f32);
  const Autocast amp(DType::bf16);
  {
    const NoGrad off;
    CHECK_FALSE(matmul(x, w).requires_grad());
  }
  const Tensor y = matmul(x, w);
  REQUIRE(y.requires_grad());
  backward(sum(y));
  CHECK(w.grad().dtype() == DType::f32);
  const NoGrad off;
  CHECK_FALSE(matmul(x, w).requires_grad());
}

TEST_CASE("several backwards may pass a kept cast", "[autocast]") {
  const Tensor w = weight({4, 4}), x = values({2, 4}, -1, 1, 2, DType::f32), plain = weight({4, 4});
  const Autocast amp(DType::bf16);
  const Tensor first = sum(matmul(x, w)), second = sum(tanh(matmul(x, w)));
  backward(first), backward(second);
  const Tensor third = sum(matmul(x, w));
  backward(third);
  {
    const Autocast off(DType::bf16, false);
    const auto product = [&] { return matmul(cast(x, DType::bf16), cast(plain, DType::bf16)); };
    backward(2 * sum(cast(product(), DType::f32)) + sum(cast(tanh(product()), DType::f32)));
  }
  CHECK(difference(w.grad(), plain.grad(), DType::bf16) <= 1);
}

TEST_CASE("regions nest, and can be switched off inside", "[autocast]") {
  const Tensor w = weight({n, n}), x = values({1, n}, -1, 1, 2, DType::f32);
  const auto runs_in = [&] { return matmul(x, w).dtype(); };
  CHECK(runs_in() == DType::f32);
  {
    const Autocast amp(DType::bf16);
    CHECK(runs_in() == DType::bf16);
    {
      const Autocast off(DType::bf16, false);
      CHECK(runs_in() == DType::f32);
      const Autocast other(DType::f16);
      CHECK(runs_in() == DType::f16);
    }
    CHECK(runs_in() == DType::bf16);
    const int64_t before = live();
    CHECK(Autocast(DType::f16).low == DType::f16);  // the outermost region keeps what an inner one has cast
    CHECK(live() == before);
    backward(sum(matmul(x, w)));
    CHECK(runs_in() == DType::bf16);
  }
  CHECK(runs_in() == DType::f32);
}

TEST_CASE("a checkpoint's casts end with it, and replay makes them again after the region", "[autocast]") {
  const Tensor w = weight({n, n}), x = values({n, n}, -1, 1, 2, DType::f32);
  const auto f = [&] { return sum(tanh(matmul(tanh(matmul(x, w)), w))); };
  Tensor y, z;
  {
    const Autocast amp(DType::bf16);
    const int64_t base = live();
    y = checkpoint(f);
    CHECK(live() - base < cast_bytes);
    z = checkpoint([&] { return checkpoint(f); });
    CHECK(live() - base < cast_bytes);
  }
  backward(y);
  const Tensor g = w.grad();
  w.set_grad({});
  backward(z);
  CHECK(same_bits(w.grad(), g));
  w.set_grad({});
  const Autocast amp(DType::bf16);
  backward(f());
  CHECK(same_bits(w.grad(), g));
}

TEST_CASE("errors inside a region leave it as it was, and nothing behind", "[autocast]") {
  const Tensor w = weight({n, n}), x = values({n, n}, -1, 1, 2, DType::f32);
  const auto f = [&] { return sum(tanh(record(Fragile{}, matmul(tanh(matmul(x, w)), w)))); };
  const int64_t base = live();
  for (const bool replayed : {false, true})
    for (const int where : {0, 1, 2}) {
      INFO(replayed << where);
      {
        const Autocast amp(DType::bf16);
        const auto step = [&] {
          Fragile::in_forward = where == 0;
          const Tensor y = replayed ? checkpoint(f) : f();
          Fragile::in_forward = where == 2, Fragile::in_backward = where == 1;
          backward(y);
        };
        const std::string error = error_of(step);
        CHECK(error == (where == 0 || (where == 2 && replayed) ? "fragile: forward" : where == 1 ? "fragile: backward" : "(no error)"));
        Fragile::in_forward = Fragile::in_backward = false;
        CHECK(matmul(x, w).dtype() == DType::bf16);
        CHECK(ctx.region == nullptr);
        w.set_grad({});
        backward(f());
        w.set_grad({});
      }
      CHECK(live() == base);
      CHECK(matmul(x, w).dtype() == DType::f32);
    }
}

TEST_CASE("autocast refuses dtypes that are no half types", "[autocast]") {
  const Tensor x = values({2, 2}, -1, 1, 1, DType::f32);
  for (DType d : {DType::i64, DType::boolean, DType::f32, DType::f64}) {
    CHECK(error_of([&] { Autocast amp(d); }) == fmt::format("autocast: cannot run ops in {}; use bf16 or f16", name_of(d)));
    CHECK(matmul(x, x).dtype() == DType::f32);
  }
  const Autocast amp(DType::f16);
  CHECK_THAT(error_of([&] { Autocast inner(DType::i32, false); }), ContainsSubstring("i32"));
  CHECK(matmul(x, x).dtype() == DType::f16);
  CHECK_THAT(error_of([&] { matmul(x, values({3, 3}, -1, 1, 1, DType::f32)); }), ContainsSubstring("inner sizes 2 and 3"));
  CHECK_THAT(error_of([&] { matmul(tensor<int64_t>({1}, {1, 1}), x); }), ContainsSubstring("cannot be multiplied"));
}

TEST_CASE("autocast is a thread's own", "[autocast]") {
  const Tensor w = weight({2, 2});
  const Autocast amp(DType::bf16);
  DType other{};
  std::thread([&] {
    other = matmul(w, w).dtype();
    const Autocast inner(DType::f16);
    matmul(w, w);
  }).join();
  CHECK(other == DType::f32);
  CHECK(matmul(w, w).dtype() == DType::bf16);
}

TEST_CASE("modules run under autocast: attention with masks of either kind, normalisation, tied and frozen weights", "[autocast]") {
  manual_seed(2);
  nn::MultiheadAttention attention(8, 2, {.add_bias_kv = true});
  nn::LayerNorm norm(Shape{8});
  nn::Linear head(8, 8);
  head.weight = attention.out_proj.weight;
  Tensor bias = head.bias;
  bias.set_requires_grad(false);
  const Tensor x = values({3, 2, 8}, -1, 1, 2, DType::f32),
               hidden = tensor<bool>({false, true, true, false, false, true, false, false, false}, {3, 3}),
               scores = values({3, 3}, -1, 1, 4, DType::f32);
  const auto loss = [&] {
    Tensor h = x;
    for (const Tensor& mask : {hidden, scores}) h = h + attention(norm(h), norm(h), norm(h), {.attn_mask = mask}).output;
    return mse_loss(head(h), x);
  };
  const Tensor weight = head.weight;
  const Tensor plain = loss();
  backward(plain);
  const Tensor g = weight.grad();
  weight.set_grad({});
  for (const DType low : {DType::bf16, DType::f16}) {
    const Autocast amp(low);
    const Tensor mixed = loss();
    CHECK(mixed.dtype() == DType::f32);
    CHECK(difference(mixed, plain, low) <= 1);
    backward(mixed);
    CHECK(difference(weight.grad(), g, low) <= 1);
    CHECK_FALSE(bias.grad());
    weight.set_grad({});
  }
}
