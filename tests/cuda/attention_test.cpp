// Attention's options over several tiles on CUDA against the CPU.
#include "../catch.h"

using namespace retape;
using namespace retape::testing;

namespace {

const Device gpu = Device::cuda();

struct Case {
  const char* name;
  Shape q, kv;
  AttentionParams params;
  bool biased = false;
};
// Value and gradients of q, k, v and, if there are, relative biases.
std::vector<Tensor> run(const Case& c, DType dtype, Device device) {
  const auto input = [&](const Shape& shape, uint64_t seed) {
    return Tensor(to(cast(values(shape, -1, 1, seed, DType::f32), dtype), device).detach()).set_requires_grad();
  };
  const bool packed = bool(c.params.cu_seqlens_q);
  std::vector<Tensor> x = {input(c.q, 1), input(c.kv, 2), input(c.kv, 3)};
  AttentionParams p = c.params;
  p.allow_masked_rows = true;  // blocks may hide all
  for (Tensor* t : {&p.mask, &p.alibi_slopes, &p.block_mask, &p.cu_seqlens_q, &p.cu_seqlens_k})
    if (*t) *t = to(*t, device);
  if (c.biased) {
    const int positions = packed ? -3 : -2;
    x.push_back(input({c.q[packed ? -2 : -3], c.q[positions] + c.kv[positions] - 1}, 4));
    p.relative_bias = x[3];
  }
  Generator g(6);
  const Tensor y = scaled_dot_product_attention(x[0], x[1], x[2], p, g);
  backward(y, {}, to(cast(values(y.shape(), -1, 1, 7, DType::f32), dtype), device));
  std::vector<Tensor> all = {y.detach()};
  for (auto& t : x) all.push_back(t.grad());
  return all;
}

Tensor blocks(const Shape& shape) { return gt(values(shape, -1, 1, 9), -0.3); }

}  // namespace

TEST_CASE("attention's options over several tiles on CUDA agree with the CPU", "[cuda][attention]") {
  const Tensor slopes = tensor<float>({0.1f, 0.2f, 0.05f, 0.4f});
  const std::vector<Case> cases = {
      {"causal", {1, 2, 140, 8}, {1, 1, 140, 8}, {.is_causal = true}},
      {"window", {1, 2, 150, 8}, {1, 1, 170, 8}, {.window_left = 30, .window_right = 3}},
      {"window and sinks", {1, 2, 210, 4}, {1, 2, 210, 4}, {.is_causal = true, .window_left = 10, .sinks = 67}},
      {"offset, biases",
       {2, 4, 20, 4},
       {2, 2, 150, 4},
       {.is_causal = true, .window_left = 90, .query_offset = 130, .alibi_slopes = slopes},
       true},
      {"capped, biases", {2, 2, 130, 4}, {2, 1, 100, 4}, {.softcap = 0.5}, true},
      {"blocks", {1, 4, 200, 4}, {1, 4, 200, 4}, {.is_causal = true, .query_offset = 40, .block_mask = blocks({4, 4, 4})}},
      {"packed",
       {150, 4, 4},
       {160, 2, 4},
       {.is_causal = true,
        .softcap = 2,
        .alibi_slopes = slopes,
        .cu_seqlens_q = tensor<int64_t>({0, 70, 70, 75, 150}),
        .cu_seqlens_k = tensor<int64_t>({0, 66, 80, 80, 160}),
        .max_seqlen_q = 80,
        .max_seqlen_k = 90},
       true},
      {"all together",
       {1, 4, 150, 4},
       {1, 2, 200, 4},
       {.mask = gt(values({1, 1, 150, 200}, -1, 1, 8), -0.8),
        .is_causal = true,
        .dropout_p = 0.2,
        .window_left = 100,
        .sinks = 2,
        .query_offset = 50,
        .softcap = 0.7,
        .alibi_slopes = slopes,
        .block_mask = blocks({4, 2, 2}),
        .block_size = 128},
       true},
  };
  for (const Case& c : cases)
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
      INFO(c.name << ", " << name_of(dtype));
      const auto a = run(c, dtype, gpu), b = run(c, dtype, Device::cpu());
      for (size_t i = 0; i < a.size(); ++i) {
        INFO((i ? "gradient " + std::to_string(i - 1) : std::string("value")));
        CHECK(difference(a[i], b[i], dtype) <= (i ? 4 : 1));
      }
    }
}

TEST_CASE("packed sequences that are not where they may be are an error on CUDA, and nothing is read out of bounds", "[cuda][attention]") {
  const Tensor x = ones({6, 1, 2}, {.device = gpu}), good = to(tensor<int64_t>({0, 2, 6}), gpu);
  const auto error = [&](const std::vector<int64_t>& cu, int64_t longest = 0) {
    return error_of([&] {
      const Tensor bad = to(tensor(cu, {3}), gpu);
      scaled_dot_product_attention(x, x, x, {.cu_seqlens_q = bad, .cu_seqlens_k = good, .max_seqlen_q = longest}).to_vector<float>();
    });
  };
  CHECK(error({0, 2, 6}) == "(no error)");
  for (const auto& cu : {std::vector<int64_t>{0, 2, 7}, {0, 4, 2}, {1, 2, 6}, {-5, 2, 6}, {0, 900, 6}, {0, 2, 5}})
    CHECK_THAT(error(cu), ContainsSubstring("scaled_dot_product_attention: cu_seqlens"));
  CHECK_THAT(error({0, 2, 6}, 3), ContainsSubstring("scaled_dot_product_attention: cu_seqlens"));
}

TEST_CASE("a query that sees none of its keys is reported from CUDA", "[cuda][attention]") {
  const Tensor x = ones({2, 2, 70, 4}, {.device = gpu});
  Tensor mask = ones({2, 1, 70, 70}, {.dtype = DType::boolean});
  const auto error = [&](AttentionParams p) {
    p.mask = to(mask, gpu);
    return error_of([&] { scaled_dot_product_attention(x, x, x, p).to_vector<float>(); });
  };
  CHECK(error({}) == "(no error)");
  copy_into(zeros({70}, {.dtype = DType::boolean}), select(select(select(mask, 0, 1), 0, 0), 0, 66));
  CHECK_THAT(error({}), ContainsSubstring("query 66 of head ") && ContainsSubstring(" of batch element 1 sees none of its 70 keys"));
  CHECK(error({.allow_masked_rows = true}) == "(no error)");
}
