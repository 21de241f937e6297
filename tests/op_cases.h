// The table of ops. A row gives a function of tensors, where its inputs are drawn from and, where there is one, the same function
// written with simpler ops. From each row ops_test.cpp makes: first and second derivatives against differences, the comparison
// with the composite, bit-equality under replay, results for other memory layouts, half types against float, dims without elements and
// of one element, and integers against f64.
//
// To add an op: add a row. {"name", function, {{shape, low, high}, ...}, composite or {}, flags}.
#pragma once
#include "catch.h"

namespace retape::testing {

struct Input {
  Shape shape;
  double low = -1, high = 1;
};
struct OpCase {
  std::string name;
  TensorFunction f;
  std::vector<Input> inputs;
  TensorFunction composite = {};
  bool half = true;            // false: an integer-like or piecewise function whose half result says nothing
  bool exact_integers = true;  // false: integers are rounded on the way
  bool second = true;          // false: there is no second derivative, and asking for one is an error
};

// All that a recurrent layer gives, as one vector.
inline Tensor joined(const RecurrentResult& r) {
  std::vector<Tensor> all = {reshape(r.y, {-1}), reshape(r.h_n, {-1})};
  if (r.c_n) all.push_back(reshape(r.c_n, {-1}));
  return cat(all);
}

// Boxes of images, inside, across a border, and outside.
inline Tensor regions(const Tensor& x) {
  const Tensor boxes =
      tensor<double>({0, 0.3, 0.6, 3.2, 4.3, 1, -1.3, 1.2, 2.6, 6.7, 0, 7.2, 8.1, 9.3, 9.4, 1, 0.7, 0.2, 2.4, 3.6}, {4, 5});
  return to(boxes, x.device());
}

// h_t = a_t h_(t-1) + b_t with simpler ops; complex if b has four dims.
inline Tensor recurred(const Tensor& a, const Tensor& b, Tensor h, bool reverse = false) {
  const int64_t T = b.size(1);
  const Tensor factors = expand(a, b.shape());
  const auto times = [&](const Tensor& x, const Tensor& y) {
    if (b.dim() == 3) return x * y;
    const Tensor p = select(x, -1, 0), q = select(x, -1, 1), r = select(y, -1, 0), s = select(y, -1, 1);
    return stack({p * r - q * s, p * s + q * r}, -1);
  };
  std::vector<Tensor> all(size_t(T), Tensor{});
  for (int64_t i = 0; i < T; ++i) {
    const int64_t t = reverse ? T - 1 - i : i;
    const Tensor in = select(b, 1, t);
    all[size_t(t)] = h = h ? times(select(factors, 1, t), h) + in : in;
  }
  return stack(all, 1);
}

// All that a scan or linear attention gives, as one vector.
template <class Result> Tensor with_state(const Result& r) {
  return cat({reshape(r.y, {r.y.numel()}), cast(reshape(r.last_state, {r.last_state.numel()}), r.y.dtype())});
}
// The selective scan step by step; B and C (batch, T, groups, N).
inline SelectiveScanResult scanned(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
                                   const SelectiveScanOptions& o = {}) {
  const int64_t T = u.size(1), D = u.size(2), N = A.size(1), G = B.size(2);
  const auto each = [&](const Tensor& x, int64_t t) {
    return reshape(expand(unsqueeze(select(x, 1, t), 2), {u.size(0), G, D / G, N}), {u.size(0), D, N});
  };
  Tensor h = o.initial ? o.initial : zeros({u.size(0), D, N}, u.options());
  std::vector<Tensor> all;
  for (int64_t t = 0; t < T; ++t) {
    const Tensor x = select(u, 1, t), raw = o.delta_bias ? select(delta, 1, t) + o.delta_bias : select(delta, 1, t);
    const Tensor dt = unsqueeze(o.delta_softplus ? softplus(raw) : raw, 2);
    h = exp(dt * A) * h + dt * each(B, t) * unsqueeze(x, 2);
    Tensor y = sum(each(C, t) * h, {2});
    if (o.D) y = y + o.D * x;
    all.push_back(o.z ? y * silu(select(o.z, 1, t)) : y);
  }
  return {stack(all, 1), h};
}
// Linear attention step by step.
inline GatedLinearAttentionResult attended(const Tensor& q, const Tensor& k, const Tensor& v, const GatedLinearAttentionOptions& o = {}) {
  Tensor h = o.initial ? o.initial : zeros({q.size(0), q.size(2), q.size(3), v.size(3)}, q.options());
  std::vector<Tensor> all;
  for (int64_t t = 0; t < q.size(1); ++t) {
    if (o.g) h = h * exp(o.g.dim() == 3 ? unsqueeze(unsqueeze(select(o.g, 1, t), 2), 3) : unsqueeze(select(o.g, 1, t), 3));
    h = h + unsqueeze(select(k, 1, t), 3) * unsqueeze(select(v, 1, t), 2);
    all.push_back((o.scale != 0 ? o.scale : 1 / std::sqrt(std::max(1., double(q.size(3))))) * sum(unsqueeze(select(q, 1, t), 3) * h, {2}));
  }
  return {stack(all, 1), h};
}
// With weights that sum to 1 but for eps: a column of ones behind v gives their sum.
inline GatedLinearAttentionResult averaged_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                                     const GatedLinearAttentionOptions& o) {
  const auto r = attended(q, k, cat({v, ones({v.size(0), v.size(1), v.size(2), 1}, v.options())}, 3), o);
  return {narrow(r.y, 3, 0, v.size(3)) / (narrow(r.y, 3, v.size(3), 1) + o.eps), r.last_state};
}
// The kernel of a state space from its states, position by position.
inline Tensor kernel_of_states(const std::vector<Tensor>& x, int64_t length) {
  Tensor state = x[3];
  std::vector<Tensor> all;
  for (int64_t l = 0; l < length; ++l) {
    all.push_back(2 * sum(real(complex_mul(x[4], state)), {1}));
    state = complex_mul(x[0], state) - x[1] * unsqueeze(2 * sum(real(complex_mul(x[2], state)), {1}, true), 2);
  }
  return stack(all, 1);
}
// All that RWKV's average gives, as one vector, the state as it is without its exponent.
inline Tensor with_sums(const WkvResult& r) {
  const Tensor scale = exp(r.last_state.exponent);
  const auto flat = [&](const Tensor& t) { return cast(reshape(t, {t.numel()}), r.y.dtype()); };
  return cat({flat(r.y), flat(r.last_state.numerator * scale), flat(r.last_state.denominator * scale)});
}
// RWKV's average step by step, with sums that are as large as they are.
inline WkvResult averaged(const Tensor& decay, const Tensor& first, const Tensor& k, const Tensor& v, Tensor n = {}, Tensor d = {}) {
  const Tensor zero = zeros({k.size(0), k.size(2)}, k.options());
  if (!n) n = zero, d = zero;
  std::vector<Tensor> all;
  for (int64_t t = 0; t < k.size(1); ++t) {
    const Tensor key = select(k, 1, t), value = select(v, 1, t), now = exp(first + key);
    all.push_back((n + now * value) / (d + now));
    n = exp(decay) * n + exp(key) * value, d = exp(decay) * d + exp(key);
  }
  return {stack(all, 1), {n, d, zero}};
}

// Attention with simpler ops: q, k and v of grouped heads, a bias of the scores, and what is hidden.
inline Tensor distances(const std::vector<Tensor>& x, int64_t offset) {  // (T, S), of keys from queries
  return arange(x[1].size(-2)) - unsqueeze(arange(x[0].size(-2)) + offset, 1);
}
inline Tensor within(const std::vector<Tensor>& x, int64_t left, int64_t right, int64_t offset) {  // what a window hides
  const Tensor d = distances(x, offset);
  return logical_or(lt(d, -left), gt(d, right));
}
inline Tensor attended_with(const std::vector<Tensor>& x, double softcap, const Tensor& bias, const Tensor& hidden, double dropped = 0) {
  const int64_t heads = x[0].size(1), group = heads / x[1].size(1);
  const auto repeat = [&](const Tensor& t) { return index_select(t, 1, floor_divide(arange(heads), group)); };
  Tensor scores = matmul(x[0], transpose(repeat(x[1]))) / std::sqrt(std::max(1., double(x[0].size(-1))));
  if (softcap > 0) scores = softcap * tanh(scores / softcap);
  if (bias) scores = scores + bias;
  Generator g(2);
  return matmul(dropout(softmax(masked_fill(scores, hidden, -INFINITY), -1), dropped, true, g), repeat(x[2]));
}

inline std::vector<OpCase> op_cases() {
  const Tensor ids = tensor<int64_t>({1, 0, 2, 1}), pairs = tensor<int64_t>({0, 2, 1, 1, 0, 0}, {2, 3});
  const Tensor lengths = tensor<int64_t>({2, 3});
  const Tensor mask = tensor<bool>({true, false, true, true, true, false}, {2, 3});
  std::vector<OpCase> cases;
#define RETAPE_X(name, F, low, high, ...) cases.push_back({#name, [](auto& x) { return name(x[0]); }, {{{2, 3}, low, high}}});
  RETAPE_UNARY_OPS(RETAPE_X)
#undef RETAPE_X
  const auto positive = [](const Tensor& x) { return matmul(x, transpose(x)) + 2 * matrix_power(matmul(x, transpose(x)), 0); };
  const auto regular = [](const Tensor& x) { return x + 2 * matrix_power(x, 0); };
  // clang-format off
  const std::vector<OpCase> more = {
      {"add, broadcast", [](auto& x) { return x[0] + x[1]; }, {{{2, 3}}, {{3}}}},
      {"add, the same tensor twice", [](auto& x) { return x[0] + x[0]; }, {{{2, 3}}}},
      {"sub, broadcast", [](auto& x) { return x[0] - x[1]; }, {{{2, 3}}, {{2, 1}}}},
      {"mul, broadcast", [](auto& x) { return x[0] * x[1]; }, {{{2, 3}}, {{2, 1}}}},
      {"mul, the same tensor twice", [](auto& x) { return x[0] * x[0]; }, {{{2, 3}}}},
      {"mul by a number", [](auto& x) { return 3 * x[0] * 0.5; }, {{{2, 3}}}},
      {"div", [](auto& x) { return x[0] / x[1]; }, {{{2, 3}}, {{3}, 1, 2}}},
      {"pow", [](auto& x) { return pow(x[0], x[1]); }, {{{2, 3}, 0.5, 2}, {{3}, -2, 2}}},
      {"pow of a number", [](auto& x) { return pow(x[0], 3); }, {{{2, 3}, -1, 1}}},
      {"maximum", [](auto& x) { return maximum(x[0], x[1]); }, {{{2, 3}}, {{3}}}},
      {"minimum", [](auto& x) { return minimum(x[0], x[1]); }, {{{2, 3}}, {{3}}}},
      {"fmax", [](auto& x) { return fmax(x[0], x[1]); }, {{{2, 3}}, {{3}}}},
      {"fmin", [](auto& x) { return fmin(x[0], x[1]); }, {{{2, 3}}, {{3}}}},
      {"fmod", [](auto& x) { return fmod(x[0], x[1]); }, {{{2, 3}, 2.1, 2.9}, {{3}, 0.8, 1}}, [](auto& x) { return x[0] - x[1] * trunc(x[0] / x[1]); }, false},
      {"remainder", [](auto& x) { return remainder(x[0], x[1]); }, {{{2, 3}, -2.9, -2.1}, {{3}, 0.8, 1}}, [](auto& x) { return x[0] - x[1] * floor(x[0] / x[1]); }, false},
      {"div, rounded", [](auto& x) { return x[0] * div(x[0], x[1], Rounding::floor); }, {{{2, 3}, 1.6, 1.9}, {{3}, 0.55, 0.6}}, [](auto& x) { return x[0] * floor(x[0] / x[1]); }, false},
      {"atan2", [](auto& x) { return atan2(x[0], x[1]); }, {{{2, 3}, 0.1, 2}, {{3}, 0.5, 2}}, [](auto& x) { return atan(x[0] / x[1]); }},
      {"hypot", [](auto& x) { return hypot(x[0], x[1]); }, {{{2, 3}, 0.1, 2}, {{3}, -2, -0.5}}, [](auto& x) { return sqrt(square(x[0]) + square(x[1])); }},
      {"copysign", [](auto& x) { return square(copysign(x[0], x[1])) + copysign(x[0], x[1]); }, {{{2, 3}, 0.1, 2}, {{3}, -2, -0.5}}, [](auto& x) { return square(x[0]) - x[0] + 0 * x[1]; }},
      {"logaddexp", [](auto& x) { return logaddexp(x[0], x[1]); }, {{{2, 3}, -2, 2}, {{3}, -2, 2}}, [](auto& x) { return log(exp(x[0]) + exp(x[1])); }},
      {"xlogy", [](auto& x) { return xlogy(x[0], x[1]); }, {{{2, 3}, 0.1, 2}, {{3}, 0.5, 2}}, [](auto& x) { return x[0] * log(x[1]); }},
      {"lerp", [](auto& x) { return lerp(x[0], x[1], x[2]); }, {{{2, 3}}, {{2, 3}}, {{3}}}},
      {"addcmul", [](auto& x) { return addcmul(x[0], x[1], x[2], 0.5); }, {{{2, 3}}, {{3}}, {{2, 1}}}},
      {"addcdiv", [](auto& x) { return addcdiv(x[0], x[1], x[2], 0.5); }, {{{2, 3}}, {{3}}, {{2, 1}, 1, 2}}},
      {"nan_to_num", [](auto& x) { return square(nan_to_num(x[0])); }, {{{2, 3}}}},
      {"clamp between tensors", [](auto& x) { return clamp(x[0], x[1], x[2]); }, {{{2, 3}}, {{3}, -0.6, -0.4}, {{2, 1}, 0.4, 0.6}}},
      {"logit with eps", [](auto& x) { return logit(x[0], 0.2); }, {{{2, 3}, 0.21, 0.79}}},
      {"clamp", [](auto& x) { return clamp(x[0], -0.5, 0.5); }, {{{2, 3}}}},
      {"where", [mask](auto& x) { return where(to(mask, x[0].device()), x[0], x[1]); }, {{{2, 3}}, {{3}}}},
      {"masked_fill", [mask](auto& x) { return square(masked_fill(x[0], to(mask, x[0].device()), 2)); }, {{{2, 3}}}},
      {"reshape of a transpose", [](auto& x) { return square(reshape(transpose(x[0]), {6})); }, {{{2, 3}}}},
      {"permute", [](auto& x) { return square(permute(x[0], {2, 0, 1})); }, {{{2, 3, 2}}}},
      {"expand", [](auto& x) { return square(expand(x[0], {2, 3, 2})); }, {{{3, 1}}}},
      {"unsqueeze, squeeze", [](auto& x) { return squeeze(square(unsqueeze(x[0], 1)), 1); }, {{{2, 3}}}},
      {"slice with a step", [](auto& x) { return square(slice(x[0], 1, 0, 5, 2)); }, {{{2, 5}}}},
      {"select", [](auto& x) { return square(select(x[0], 0, -1)); }, {{{2, 3}}}},
      {"split, one part unused", [](auto& x) { const auto p = split(tanh(x[0]), 2, 1); return p.front() * p.back(); }, {{{2, 6}}}},
      {"cat, one tensor twice", [](auto& x) { return square(cat({x[0], x[1], x[0]}, 1)); }, {{{2, 3}}, {{2, 1}}}},
      {"stack", [](auto& x) { return square(stack({x[0], x[1]}, 1)); }, {{{2, 3}}, {{2, 3}}}},
      {"clone", [](auto& x) { return square(clone(x[0])); }, {{{2, 3}}}},
      {"sum over a dim", [](auto& x) { return square(sum(x[0], {1})); }, {{{2, 3, 2}}}},
      {"sum over all", [](auto& x) { return square(sum(x[0])); }, {{{2, 3, 2}}}},
      {"mean, keepdim", [](auto& x) { return square(mean(x[0], {0, -1}, true)); }, {{{2, 3, 2}}}},
      {"var", [](auto& x) { return var(x[0], {1}); }, {{{2, 3, 2}}}},
      {"amax", [](auto& x) { return square(amax(x[0], {1})); }, {{{2, 3, 2}}}},
      {"amin", [](auto& x) { return square(amin(x[0], {0, 2})); }, {{{2, 3, 2}}}},
      {"prod", [](auto& x) { return prod(x[0], {0, 2}); }, {{{2, 3, 2}, 0.5, 2}}, [](auto& x) { return exp(sum(log(x[0]), {0, 2})); }},
      {"prod over all", [](auto& x) { return prod(x[0]); }, {{{2, 3}, 0.5, 2}}},
      {"std, keepdim", [](auto& x) { return std(x[0], {1}, 0, true); }, {{{2, 3, 2}}}},
      {"norm", [](auto& x) { return norm(x[0], 2, {1}); }, {{{2, 3, 2}}}, [](auto& x) { return sqrt(sum(square(x[0]), {1})); }},
      {"norm, p = 3", [](auto& x) { return norm(x[0], 3, {0, 2}); }, {{{2, 3, 2}, 0.2, 2}}},
      {"norm, p = 1", [](auto& x) { return norm(x[0], 1, {1}); }, {{{2, 3}, 0.2, 2}}},
      {"norm, p = inf", [](auto& x) { return square(norm(x[0], INFINITY)); }, {{{2, 3}}}},
      {"logsumexp", [](auto& x) { return logsumexp(x[0], {0, 2}); }, {{{2, 3, 2}, -2, 2}}, [](auto& x) { return log(sum(exp(x[0]), {0, 2})); }},
      {"nansum", [](auto& x) { return square(nansum(x[0], {1})); }, {{{2, 3}}}},
      {"nanmean", [](auto& x) { return square(nanmean(x[0], {1})); }, {{{2, 3}}}},
      {"max along a dim", [](auto& x) { return square(max(x[0], 1).values); }, {{{2, 3, 2}}}, [](auto& x) { return square(amax(x[0], {1})); }},
      {"min along a dim, keepdim", [](auto& x) { return square(min(x[0], -1, true).values); }, {{{2, 3}}}, [](auto& x) { return square(amin(x[0], {-1}, true)); }},
      {"cumsum", [](auto& x) { return square(cumsum(x[0], 1)); }, {{{2, 3, 2}}}, [](auto& x) { const auto p = [&](int k) { return narrow(x[0], 1, k, 1); }; return square(cat({p(0), p(0) + p(1), p(0) + p(1) + p(2)}, 1)); }},
      {"cumprod", [](auto& x) { return cumprod(x[0], 1); }, {{{2, 3, 2}, 0.5, 2}}, [](auto& x) { return exp(cumsum(log(x[0]), 1)); }},
      {"logcumsumexp", [](auto& x) { return logcumsumexp(x[0], 1); }, {{{2, 3, 2}, -2, 2}}, [](auto& x) { return log(cumsum(exp(x[0]), 1)); }},
      {"cummax", [](auto& x) { return square(cummax(x[0], 1).values); }, {{{2, 4}}}},
      {"cummin", [](auto& x) { return square(cummin(x[0], 0).values); }, {{{4, 2}}}},
      {"sort", [](auto& x) { return square(sort(x[0], 1, true).values) * arange(4, {x[0].dtype(), x[0].device()}); }, {{{2, 4}}}},
      {"topk", [](auto& x) { return square(topk(x[0], 2, 0).values); }, {{{4, 2}}}},
      {"kthvalue", [](auto& x) { return square(kthvalue(x[0], 2, 0).values); }, {{{4, 2}}}},
      {"median", [](auto& x) { return square(median(x[0], 1).values); }, {{{2, 4}}}},
      {"quantile", [](auto& x) { return square(quantile(x[0], 0.3, 1)); }, {{{2, 4}}}},
      {"iteration", [](auto& x) { Tensor y = 1 + 0 * sum(x[0], {0}); for (const Tensor& row : x[0]) y = y * row; return y; }, {{{3, 2}}}, [](auto& x) { return prod(x[0], {0}); }},
      {"sum_to", [](auto& x) { return square(sum_to(x[0], {3, 1})); }, {{{2, 3, 2}}}},
      {"matmul", [](auto& x) { return matmul(x[0], x[1]); }, {{{2, 3}}, {{3, 4}}}, [](auto& x) { return sum(unsqueeze(x[0], 2) * x[1], {1}); }},
      {"matmul, batches broadcast", [](auto& x) { return matmul(x[0], transpose(x[1])); }, {{{2, 2, 3}}, {{2, 1, 4, 3}}}},
      {"matmul by a vector", [](auto& x) { return matmul(x[0], x[1]); }, {{{2, 2, 3}}, {{3}}}},
      {"matmul of a batch by a matrix", [](auto& x) { return matmul(x[0], x[1]); }, {{{2, 2, 3}}, {{3, 2}}}},
      {"feed_forward", [](auto& x) { return feed_forward(x[0], x[1], x[2], x[3], x[4]); }, {{{2, 2, 3}}, {{8, 3}}, {{8}}, {{5, 8}}, {{5}}},
       [](auto& x) { return linear(gelu_tanh(linear(x[0], x[1], x[2])), x[3], x[4]); }},
      {"feed_forward without biases", [](auto& x) { return feed_forward(x[0], x[1], Tensor{}, x[2], Tensor{}); }, {{{3, 4}}, {{5, 4}}, {{2, 5}}},
       [](auto& x) { return linear(gelu_tanh(linear(x[0], x[1])), x[2]); }},
      {"linear", [](auto& x) { return linear(x[0], x[1], x[2]); }, {{{2, 2, 3}}, {{4, 3}}, {{4}}}, [](auto& x) { return matmul(x[0], transpose(x[1])) + x[2]; }},
      {"linear without bias", [](auto& x) { return linear(x[0], x[1]); }, {{{2, 3}}, {{4, 3}}}},
      {"einsum, batched product", [](auto& x) { return einsum("bij,bjk->bki", {x[0], x[1]}); }, {{{2, 2, 3}}, {{2, 3, 4}}}, [](auto& x) { return transpose(matmul(x[0], x[1])); }},
      {"einsum, diagonals", [](auto& x) { return einsum("iij,jj->ij", {x[0], x[1]}); }, {{{2, 2, 3}}, {{3, 3}}},
       [](auto& x) { const Tensor eye = where(eq(unsqueeze(arange(3), 1), arange(3)), ones({3, 3}, x[0].options()), 0.); return stack({select(select(x[0], 0, 0), 0, 0), select(select(x[0], 0, 1), 0, 1)}) * sum(x[1] * eye, {1}); }},
      {"einsum, three operands, ellipsis", [](auto& x) { return einsum("...i,ij,j...->...", {x[0], x[1], x[2]}); }, {{{2, 3}}, {{3, 4}}, {{4, 2}}},
       [](auto& x) { return sum(matmul(x[0], x[1]) * transpose(x[2]), {1}); }},
      {"tensordot", [](auto& x) { return tensordot(x[0], x[1], {0, 2}, {1, 0}); }, {{{2, 3, 4}}, {{4, 2, 2}}}},
      {"kron", [](auto& x) { return kron(x[0], x[1]); }, {{{2, 3}}, {{2}}}},
      {"outer, dot, inner", [](auto& x) { return outer(x[0], x[1]) * dot(x[0], x[0]) + inner(x[0], x[0]); }, {{{3}}, {{2}}}},
      {"trace", [](auto& x) { return square(trace(x[0])); }, {{{2, 3}}}, [](auto& x) { return square(select(select(x[0], 0, 0), 0, 0) + select(select(x[0], 0, 1), 0, 1)); }},
      {"cross", [](auto& x) { return cross(x[0], x[1], 0); }, {{{3, 2}}, {{3, 1}}}},
      {"multi_dot", [](auto& x) { return multi_dot({x[0], x[1], x[2], x[3]}); }, {{{2}}, {{2, 3}}, {{3, 2}}, {{2}}}, [](auto& x) { return matmul(matmul(x[0], matmul(x[1], x[2])), x[3]); }},
      {"baddbmm", [](auto& x) { return baddbmm(x[0], x[1], x[2], 0.5, 2); }, {{{4}}, {{2, 2, 3}}, {{2, 3, 4}}}, [](auto& x) { return 0.5 * x[0] + 2 * matmul(x[1], x[2]); }},
      {"addbmm", [](auto& x) { return addbmm(x[0], x[1], x[2], 0.5, 2); }, {{{2, 4}}, {{2, 2, 3}}, {{2, 3, 4}}}, [](auto& x) { return 0.5 * x[0] + 2 * sum(matmul(x[1], x[2]), {0}); }},
      {"conv1d, stride, padding", [](auto& x) { return conv1d(x[0], x[1], x[2], {.stride = 2, .padding = 1}); }, {{{2, 2, 5}}, {{3, 2, 3}}, {{3}}},
       [](auto& x) { const Tensor p = pad(x[0], {1, 1}); Tensor y = unsqueeze(x[2], 1); for (int k = 0; k < 3; ++k) y = y + einsum("ncl,oc->nol", {slice(p, 2, k, k + 5, 2), select(x[1], 2, k)}); return y; }},
      {"conv1d, same, even kernel", [](auto& x) { return conv1d(x[0], x[1], {}, {.padding = "same", .dilation = 3}); }, {{{3, 6}}, {{2, 3, 2}}},
       [](auto& x) { const Tensor p = pad(x[0], {1, 2}); return einsum("cl,oc->ol", {narrow(p, 1, 0, 6), select(x[1], 2, 0)}) + einsum("cl,oc->ol", {narrow(p, 1, 3, 6), select(x[1], 2, 1)}); }},
      {"conv2d", [](auto& x) { return conv2d(x[0], x[1], x[2], {.padding = {0, 1}}); }, {{{2, 3, 4, 3}}, {{2, 3, 2, 3}}, {{2}}},
       [](auto& x) { return einsum("ncijhw,ochw->noij", {unfold(unfold(pad(x[0], {1, 1}), 2, 2, 1), 3, 3, 1), x[1]}) + reshape(x[2], {2, 1, 1}); }},
      {"conv2d, more channels than places", [](auto& x) { return conv2d(x[0], x[1], x[2], {.stride = 2, .padding = 1}); }, {{{1, 2, 3, 4}}, {{9, 2, 2, 3}}, {{9}}},
       [](auto& x) { const Tensor y = matmul(reshape(x[1], {9, 12}), im2col(x[0], {2, 3}, {.padding = 1, .stride = 2})); return reshape(y, {1, 9, 2, 2}) + reshape(x[2], {9, 1, 1}); }},
      {"conv2d, more channels than places, groups", [](auto& x) { return conv2d(x[0], x[1], x[2], {.groups = 2}); }, {{{1, 4, 2, 3}}, {{6, 2, 2, 2}}, {{6}}},
       [](auto& x) { const auto half = [&](int g) { return conv2d(narrow(x[0], 1, 2 * g, 2), narrow(x[1], 0, 3 * g, 3), narrow(x[2], 0, 3 * g, 3)); }; return cat({half(0), half(1)}, 1); }},
      {"conv2d, 1 x 1", [](auto& x) { return conv2d(x[0], x[1], x[2]); }, {{{2, 3, 2, 2}}, {{4, 3, 1, 1}}, {{4}}},
       [](auto& x) { return einsum("nchw,oc->nohw", {x[0], flatten(x[1], 1)}) + reshape(x[2], {4, 1, 1}); }},
      {"conv2d, groups, dilation", [](auto& x) { return conv2d(x[0], x[1], x[2], {.stride = {2, 1}, .padding = {2, 0}, .dilation = {2, 1}, .groups = 2}); }, {{{1, 4, 5, 3}}, {{6, 2, 3, 2}}, {{6}}},
       [](auto& x) { const auto half = [&](int g) { return conv2d(narrow(x[0], 1, 2 * g, 2), narrow(x[1], 0, 3 * g, 3), narrow(x[2], 0, 3 * g, 3), {.stride = {2, 1}, .padding = {2, 0}, .dilation = {2, 1}}); }; return cat({half(0), half(1)}, 1); }},
      {"conv1d, depthwise, stride, dilation", [](auto& x) { return conv1d(x[0], x[1], x[2], {.stride = 2, .padding = 3, .dilation = 2, .groups = 3}); }, {{{2, 3, 7}}, {{3, 1, 3}}, {{3}}},
       [](auto& x) { return conv1d(x[0], x[1] * unsqueeze(eye(3, x[1].options()), 2), x[2], {.stride = 2, .padding = 3, .dilation = 2}); }},
      {"conv_transpose1d, depthwise", [](auto& x) { return conv_transpose1d(x[0], x[1], {}, {.stride = 2, .padding = 1, .groups = 3}); }, {{{2, 3, 4}}, {{3, 1, 3}}},
       [](auto& x) { return conv_transpose1d(x[0], x[1] * unsqueeze(eye(3, x[1].options()), 2), {}, {.stride = 2, .padding = 1}); }},
      {"conv2d, depthwise", [](auto& x) { return conv2d(x[0], x[1], {}, {.padding = 1, .groups = 3}); }, {{{2, 3, 3, 3}}, {{3, 1, 3, 3}}},
       [](auto& x) { return einsum("ncijhw,chw->ncij", {unfold(unfold(pad(x[0], {1, 1, 1, 1}), 2, 3, 1), 3, 3, 1), select(x[1], 1, 0)}); }},
      {"conv3d", [](auto& x) { return conv3d(x[0], x[1], x[2], {.stride = 2, .padding = {1, 0, 1}}); }, {{{1, 2, 3, 3, 4}}, {{2, 2, 2, 1, 3}}, {{2}}},
       [](auto& x) { return einsum("ncijkdhw,ocdhw->noijk", {unfold(unfold(unfold(pad(x[0], {1, 1, 0, 0, 1, 1}), 2, 2, 2), 3, 1, 2), 4, 3, 2), x[1]}) + reshape(x[2], {2, 1, 1, 1}); }},
      {"conv_transpose1d", [](auto& x) { return conv_transpose1d(x[0], x[1], x[2], {.stride = 2, .padding = 1, .output_padding = 1}); }, {{{2, 2, 3}}, {{2, 3, 3}}, {{3}}},
       [](auto& x) { const Tensor spread = flatten(stack({x[0], 0 * x[0]}, 3), 2); return conv1d(pad(spread, {1, 1}), flip(transpose(x[1], 0, 1), {2}), x[2]); }},
      {"conv_transpose2d, groups, dilation", [](auto& x) { return conv_transpose2d(x[0], x[1], {}, {.padding = {1, 0}, .groups = 2, .dilation = {1, 2}}); }, {{{1, 4, 3, 2}}, {{4, 1, 2, 2}}},
       [](auto& x) { const auto half = [&](int g) { return conv_transpose2d(narrow(x[0], 1, 2 * g, 2), narrow(x[1], 0, 2 * g, 2), {}, {.padding = {1, 0}, .dilation = {1, 2}}); }; return cat({half(0), half(1)}, 1); }},
      {"conv_transpose3d", [](auto& x) { return conv_transpose3d(x[0], x[1], x[2], {.stride = {1, 2, 1}}); }, {{{2, 2, 2, 1, 2}}, {{2, 2, 1, 2, 2}}, {{2}}}},
      {"im2col", [](auto& x) { return square(im2col(x[0], {2, 3}, {.dilation = {1, 2}, .padding = {1, 0}, .stride = {2, 1}})); }, {{{2, 2, 3, 6}}},
       [](auto& x) { const Tensor rows = unfold(pad(x[0], {0, 0, 1, 1}), 2, 2, 2), all = slice(unfold(rows, 3, 5, 1), 5, 0, 5, 2); return square(reshape(permute(all, {0, 1, 4, 5, 2, 3}), {2, 12, -1})); }},
      {"col2im", [](auto& x) { return square(col2im(x[0], {3, 4}, 2, {.stride = {1, 2}})); }, {{{2, 8, 4}}}},
      {"deform_conv2d", [](auto& x) { return deform_conv2d(x[0], x[1], x[2], x[3], {.stride = {1, 2}, .padding = 1}); }, {{{2, 3, 4, 5}}, {{2, 12, 4, 3}, 0.2, 0.8}, {{4, 3, 3, 2}}, {{4}}}, {}, true, true, false},
      {"deform_conv2d, mask, groups", [](auto& x) { return deform_conv2d(x[0], x[1], x[2], {}, {}, x[3]); }, {{{2, 4, 3, 4}}, {{2, 16, 2, 3}, -0.8, -0.2}, {{6, 2, 2, 2}}, {{2, 8, 2, 3}}}, {}, true, true, false},
      {"deform_conv2d without offsets", [](auto& x) { const Tensor y = 0 * narrow(x[0], 1, 0, 1); return deform_conv2d(x[0], cat({y, y}, 1), x[1]); }, {{{2, 3, 4, 3}}, {{2, 3, 1, 1}}}, [](auto& x) { return conv2d(x[0], x[1]); }, true, true, false},
      {"roi_align", [](auto& x) { return roi_align(x[0], regions(x[0]), {3, 2}); }, {{{2, 3, 5, 4}}}, {}},
      {"roi_align, aligned samples", [](auto& x) { return square(roi_align(x[0], regions(x[0]), 2, {.spatial_scale = 0.6, .sampling_ratio = 2, .aligned = true})); }, {{{2, 3, 5, 4}}}, {}},
      {"roi_pool", [](auto& x) { return roi_pool(x[0], regions(x[0]), {3, 2}); }, {{{2, 3, 5, 4}}}, {}, true, true, false},
      {"ps_roi_align", [](auto& x) { return ps_roi_align(x[0], regions(x[0]), {3, 1}); }, {{{2, 6, 5, 4}}}, {}},
      {"ps_roi_pool", [](auto& x) { return ps_roi_pool(x[0], regions(x[0]), {1, 3}); }, {{{2, 6, 5, 4}}}, {}},
      {"max_pool1d, dilation", [](auto& x) { return square(max_pool1d(x[0], 3, {.stride = 2, .padding = 1, .dilation = 2, .ceil_mode = true})); }, {{{2, 2, 7}}},
       [](auto& x) { return square(amax(slice(unfold(pad(x[0], {1, 2}, PadMode::constant, -INFINITY), 2, 5, 2), 3, 0, 5, 2), {3})); }},
      {"max_pool2d", [](auto& x) { return square(max_pool2d(x[0], 3, {.stride = 2, .padding = 1})); }, {{{2, 2, 5, 4}}},
       [](auto& x) { return square(amax(unfold(unfold(pad(x[0], {1, 1, 1, 1}, PadMode::constant, -INFINITY), 2, 3, 2), 3, 3, 2), {4, 5})); }},
      {"max_pool3d", [](auto& x) { return square(max_pool3d(x[0], {1, 2, 2})); }, {{{2, 2, 2, 4, 3}}},
       [](auto& x) { return square(amax(unfold(unfold(x[0], 3, 2, 2), 4, 2, 2), {5, 6})); }},
      {"adaptive_max_pool2d", [](auto& x) { return square(adaptive_max_pool2d(x[0], {2, -1})); }, {{{2, 2, 5, 3}}},
       [](auto& x) { return square(stack({amax(narrow(x[0], 2, 0, 3), {2}), amax(narrow(x[0], 2, 2, 3), {2})}, 2)); }},
      {"max_unpool2d", [](auto& x) { const Pooled p = max_pool2d_with_indices(x[0], 2); return square(max_unpool2d(p.values, p.indices, 2)); }, {{{1, 2, 4, 4}}},
       [](auto& x) { const Tensor y = amax(unfold(unfold(x[0], 2, 2, 2), 3, 2, 2), {4, 5}), at = repeat_interleave(repeat_interleave(y, 2, 2), 2, 3); return square(where(eq(at, x[0]), x[0], 0)); }},
      {"avg_pool1d", [](auto& x) { return square(avg_pool1d(x[0], 3, {.stride = 2, .padding = 1})); }, {{{2, 2, 5}}},
       [](auto& x) { return square(mean(unfold(pad(x[0], {1, 1}), 2, 3, 2), {3})); }},
      {"avg_pool2d, ceil, without padding", [](auto& x) { return square(avg_pool2d(x[0], 2, {.padding = 1, .ceil_mode = true, .count_include_pad = false})); }, {{{2, 2, 3, 4}}},
       [](auto& x) { const auto windows = [](const Tensor& t) { return sum(unfold(unfold(pad(t, {1, 1, 1, 2}), 2, 2, 2), 3, 2, 2), {4, 5}); }; const Tensor one = 0 * x[0] + 1; return square(narrow(windows(x[0]), 2, 0, 2) / narrow(windows(one), 2, 0, 2)); }},
      {"avg_pool3d, divisor", [](auto& x) { return square(avg_pool3d(x[0], {1, 2, 2}, {.stride = 1, .divisor_override = 3})); }, {{{1, 2, 2, 3, 3}}},
       [](auto& x) { return square(sum(unfold(unfold(x[0], 3, 2, 1), 4, 2, 1), {5, 6}) / 3); }},
      {"adaptive_avg_pool2d", [](auto& x) { return square(adaptive_avg_pool2d(x[0], {3, 1})); }, {{{2, 2, 5, 3}}},
       [](auto& x) { const auto rows = [&](int from, int n) { return mean(narrow(x[0], 2, from, n), {2, 3}); }; return square(unsqueeze(stack({rows(0, 2), rows(1, 3), rows(3, 2)}, 2), 3)); }},
      {"lp_pool2d", [](auto& x) { return lp_pool2d(x[0], 3, 2); }, {{{2, 2, 4, 4}, 0.2, 1}}, [](auto& x) { return pow(sum(pow(unfold(unfold(x[0], 2, 2, 2), 3, 2, 2), 3), {4, 5}), 1. / 3); }},
      {"interpolate, nearest", [](auto& x) { return square(interpolate(x[0], {.size = {3, 5}})); }, {{{2, 2, 4, 3}}},
       [](auto& x) { const auto at = [&](std::initializer_list<int64_t> i) { return to(tensor<int64_t>(i), x[0].device()); }; return square(index_select(index_select(x[0], 2, at({0, 1, 2})), 3, at({0, 0, 1, 1, 2}))); }},
      {"interpolate, nearest_exact", [](auto& x) { return square(interpolate(x[0], {.scale_factor = 1.5, .mode = InterpolateMode::nearest_exact})); }, {{{2, 2, 4}}},
       [](auto& x) { return square(index_select(x[0], 2, to(tensor<int64_t>({0, 1, 1, 2, 3, 3}), x[0].device()))); }},
      {"interpolate, linear, corners", [](auto& x) { return square(interpolate(x[0], {.size = 5, .mode = InterpolateMode::linear, .align_corners = true})); }, {{{2, 2, 3}}},
       [](auto& x) { return square(linear(x[0], cast(to(tensor<double>({1, 0, 0, 0.5, 0.5, 0, 0, 1, 0, 0, 0.5, 0.5, 0, 0, 1}, {5, 3}), x[0].device()), x[0].dtype()))); }},
      {"interpolate, bilinear", [](auto& x) { return square(interpolate(x[0], {.scale_factor = 2, .mode = InterpolateMode::bilinear})); }, {{{2, 2, 3, 3}}},
       [](auto& x) {
         const Tensor m = cast(to(tensor<double>({1, 0, 0, 0.75, 0.25, 0, 0.25, 0.75, 0, 0, 0.75, 0.25, 0, 0.25, 0.75, 0, 0, 1}, {6, 3}), x[0].device()), x[0].dtype());
         return square(einsum("nchw,ih,jw->ncij", {x[0], m, m}));
       }},
      {"interpolate, bilinear, smaller", [](auto& x) { return square(interpolate(x[0], {.size = {2, 1}, .mode = InterpolateMode::bilinear})); }, {{{2, 2, 5, 7}}},
       [](auto& x) { const auto row = [&](int64_t a, double u) { return select(x[0], 2, a) * (1 - u) + select(x[0], 2, a + 1) * u; }; return square(narrow(stack({row(0, 0.75), row(3, 0.25)}, 2), 3, 3, 1)); }},
      {"interpolate, bicubic", [](auto& x) { return square(interpolate(x[0], {.scale_factor = {1.5, 0.7}, .mode = InterpolateMode::bicubic})); }, {{{2, 2, 4, 5}}}},
      {"interpolate, trilinear", [](auto& x) { return square(interpolate(x[0], {.size = {2, 5, 4}, .mode = InterpolateMode::trilinear})); }, {{{2, 2, 3, 4, 2}}}},
      {"interpolate, area", [](auto& x) { return square(interpolate(x[0], {.size = {3, 1}, .mode = InterpolateMode::area})); }, {{{2, 2, 5, 3}}}, [](auto& x) { return square(adaptive_avg_pool2d(x[0], {3, 1})); }},
      {"pixel_shuffle", [](auto& x) { return square(pixel_shuffle(x[0], 2)); }, {{{2, 8, 3, 1}}},
       [](auto& x) { const auto row = [&](int i) { return flatten(stack({slice(x[0], 1, 2 * i, 8, 4), slice(x[0], 1, 2 * i + 1, 8, 4)}, 4), 3); }; return square(flatten(stack({row(0), row(1)}, 3), 2, 3)); }},
      {"pixel_unshuffle", [](auto& x) { return square(pixel_unshuffle(x[0], 2)); }, {{{3, 4, 6}}},
       [](auto& x) { const auto part = [&](int i, int j) { return slice(slice(x[0], 1, i, 4, 2), 2, j, 6, 2); }; return square(flatten(stack({part(0, 0), part(0, 1), part(1, 0), part(1, 1)}, 1), 0, 1)); }},
      {"channel_shuffle", [](auto& x) { return square(channel_shuffle(x[0], 3)); }, {{{2, 6, 4}}}, [](auto& x) { return square(index_select(x[0], 1, to(tensor<int64_t>({0, 2, 4, 1, 3, 5}), x[0].device()))); }},
      {"grid_sample, bilinear, zeros", [](auto& x) { return grid_sample(x[0], x[1] * 1.4); }, {{{2, 3, 4, 3}}, {{2, 5, 2, 2}}}},
      {"grid_sample, bilinear, border, corners", [](auto& x) { return grid_sample(x[0], x[1] * 1.4, {.padding_mode = GridSamplePadding::border, .align_corners = true}); }, {{{2, 3, 4, 3}}, {{2, 2, 5, 2}}}},
      {"grid_sample, bilinear, reflection", [](auto& x) { return grid_sample(x[0], x[1] * 3, {.padding_mode = GridSamplePadding::reflection}); }, {{{1, 2, 4, 3}}, {{1, 4, 3, 2}}}, {}, false},
      {"grid_sample, nearest", [](auto& x) { return square(grid_sample(x[0], x[1] * 1.3, {.mode = GridSampleMode::nearest})); }, {{{2, 3, 4, 3}}, {{2, 5, 2, 2}}}, {}, false},
      {"grid_sample, bicubic, zeros", [](auto& x) { return grid_sample(x[0], x[1], {.mode = GridSampleMode::bicubic}); }, {{{1, 2, 5, 4}}, {{1, 3, 2, 2}}}, {}, false},
      {"grid_sample, bicubic, reflection, corners", [](auto& x) { return grid_sample(x[0], x[1] * 2, {.mode = GridSampleMode::bicubic, .padding_mode = GridSamplePadding::reflection, .align_corners = true}); }, {{{1, 2, 4, 4}}, {{1, 3, 2, 2}}}, {}, false},
      {"grid_sample, trilinear", [](auto& x) { return grid_sample(x[0], x[1] * 1.3, {.padding_mode = GridSamplePadding::border}); }, {{{2, 1, 4, 3, 5}}, {{2, 2, 3, 1, 3}}}},
      {"grid_sample, nearest, three dims", [](auto& x) { return square(grid_sample(x[0], x[1], {.mode = GridSampleMode::nearest, .padding_mode = GridSamplePadding::reflection})); }, {{{2, 2, 3, 4, 3}}, {{2, 1, 3, 2, 3}}}, {}, false},
      {"affine_grid", [](auto& x) { return square(affine_grid(x[0], {2, 1, 3, 5})); }, {{{2, 2, 3}}},
       [](auto& x) { const Tensor u = (to(arange(5, x[0].options()), x[0].device()) * 2 - 4) / 5, v = unsqueeze((to(arange(3, x[0].options()), x[0].device()) * 2 - 2) / 3, 1); const auto t = [&](int i) { return reshape(narrow(x[0], 2, i, 1), {2, 1, 1, 2}); }; return square(t(0) * unsqueeze(u, 1) + t(1) * unsqueeze(v, 2) + t(2)); }},
      {"affine_grid and grid_sample, three dims, corners", [](auto& x) { return grid_sample(x[0], affine_grid(x[1], {1, 2, 2, 3, 2}, true), {.padding_mode = GridSamplePadding::reflection, .align_corners = true}); }, {{{1, 2, 3, 4, 3}}, {{1, 3, 4}}}, {}, false},
      {"fft", [](auto& x) { return square(fft(x[0], {}, 0)); }, {{{6, 2, 2}}}},
      {"fft of a size with a large prime factor, ortho", [](auto& x) { return square(fft(x[0], 11, -1, FftNorm::ortho)); }, {{{2, 11, 2}}}},
      {"ifft, padded", [](auto& x) { return square(ifft(x[0], 6)); }, {{{2, 5, 2}}}},
      {"rfft, even", [](auto& x) { return square(rfft(x[0])); }, {{{2, 6}}}},
      {"rfft, odd, cut", [](auto& x) { return square(rfft(x[0], 5, 0, FftNorm::forward)); }, {{{6, 2}}}},
      {"irfft, even", [](auto& x) { return square(irfft(x[0])); }, {{{2, 4, 2}}}},
      {"irfft, odd", [](auto& x) { return square(irfft(x[0], 5)); }, {{{2, 3, 2}}}},
      {"hfft", [](auto& x) { return square(hfft(x[0], 5)); }, {{{3, 2}}}},
      {"ihfft", [](auto& x) { return square(ihfft(x[0])); }, {{{6}}}},
      {"fftn", [](auto& x) { return square(fftn(x[0], {3, -1}, {0, 1})); }, {{{2, 4, 2}}}, [](auto& x) { return square(fft(fft(x[0], 3, 0), {}, 1)); }},
      {"rfft2 and back", [](auto& x) { const Tensor y = rfft2(x[0]); return irfft2(complex_mul(y, y), {3, 4}); }, {{{3, 4}}}},
      {"complex_abs, angle", [](auto& x) { return complex_abs(x[0]) * angle(x[0]); }, {{{3, 2}, 0.3, 1}}},
      {"polar", [](auto& x) { return square(complex_conj(polar(x[0], x[1]))); }, {{{3}}, {{2, 1}}}},
      {"cholesky", [positive](auto& x) { return cholesky(positive(x[0])); }, {{{2, 3, 3}}}, {}, false},
      {"cholesky, upper", [positive](auto& x) { return cholesky(positive(x[0]), true); }, {{{3, 3}}}, [positive](auto& x) { return transpose(cholesky(positive(x[0]))); }, false},
      {"cholesky_solve", [positive](auto& x) { return cholesky_solve(x[1], cholesky(positive(x[0]))); }, {{{3, 3}}, {{2, 3, 2}}}, [positive](auto& x) { return solve(positive(x[0]), x[1]); }, false},
      {"cholesky_inverse, upper", [positive](auto& x) { return cholesky_inverse(cholesky(positive(x[0]), true), true); }, {{{3, 3}}}, [positive](auto& x) { return inverse(positive(x[0])); }, false},
      {"qr, tall", [](auto& x) { const auto [q, r] = qr(x[0]); return cat({q * q, r * abs(r)}, -2); }, {{{2, 4, 3}}}, {}, false},
      {"qr, wide", [](auto& x) { const auto [q, r] = qr(x[0]); return cat({q * q, r * abs(r)}, -1); }, {{{3, 5}}}, {}, false},
      {"qr, r only", [](auto& x) { return square(qr(x[0], QrMode::r).r); }, {{{3, 2}}}, {}, false},
      {"solve", [regular](auto& x) { return solve(regular(x[0]), x[1]); }, {{{2, 3, 3}}, {{3, 2}}}, [regular](auto& x) { return matmul(inverse(regular(x[0])), x[1]); }, false},
      {"solve, a vector", [regular](auto& x) { return solve(regular(x[0]), x[1]); }, {{{3, 3}}, {{3}}}, {}, false},
      {"solve_triangular", [regular](auto& x) { return solve_triangular(regular(x[0]), x[1], false); }, {{{3, 3}}, {{2, 3, 2}}}, [regular](auto& x) { return solve(where(ge(unsqueeze(to(arange(3), x[0].device()), 1), to(arange(3), x[0].device())), regular(x[0]), 0.), x[1]); }, false},
      {"solve_triangular from the right, unit diagonal", [](auto& x) { return solve_triangular(x[0], x[1], true, {.left = false, .unitriangular = true}); }, {{{3, 3}}, {{2, 3}}}, {}, false},
      {"inverse", [regular](auto& x) { return inverse(regular(x[0])); }, {{{2, 3, 3}}}, {}, false},
      {"det", [regular](auto& x) { return det(regular(x[0])); }, {{{2, 3, 3}}}, {}, false},
      {"slogdet", [regular](auto& x) { return slogdet(regular(x[0])).logabsdet; }, {{{3, 3}}}, [regular](auto& x) { return log(det(regular(x[0]))); }, false},
      {"logdet", [positive](auto& x) { return logdet(positive(x[0])); }, {{{2, 2, 2}}}, [positive](auto& x) { return log(det(positive(x[0]))); }, false},
      {"lu, square", [regular](auto& x) { const auto [p, l, u] = lu(regular(x[0])); return l * l + matmul(l, u) * u; }, {{{2, 3, 3}}}, {}, false},
      {"lu, tall", [](auto& x) { const auto [p, l, u] = lu(x[0]); return square(l) + sum(u * abs(u)); }, {{{4, 2}}}, {}, false},
      {"lu, wide", [](auto& x) { const auto [p, l, u] = lu(x[0]); return square(u) + sum(l * abs(l)); }, {{{2, 4}}}, {}, false},
      {"lu_solve", [regular](auto& x) { return lu_solve(lu_factor(regular(x[0])).lu, lu_factor(regular(x[0])).pivots, x[1]); }, {{{3, 3}}, {{3, 2}}}, [regular](auto& x) { return solve(regular(x[0]), x[1]); }, false},
      {"lu_solve, adjoint, from the right", [regular](auto& x) { return lu_solve(lu_factor(regular(x[0])).lu, lu_factor(regular(x[0])).pivots, x[1], {.left = false, .adjoint = true}); }, {{{3, 3}}, {{2, 3}}}, [regular](auto& x) { return transpose(solve(regular(x[0]), transpose(x[1]))); }, false},
      {"svd, tall", [](auto& x) { const auto [u, s, vh] = svd(x[0], false); return cat({square(u), square(vh) * unsqueeze(s, 1)}, 0); }, {{{4, 3}}}, {}, false},
      {"svd, wide, full", [](auto& x) { const auto [u, s, vh] = svd(x[0]); return matmul(square(u) * unsqueeze(s, -2), square(narrow(vh, -2, 0, 2))); }, {{{2, 2, 3}}}, {}, false},
      {"svdvals", [](auto& x) { return svdvals(x[0]); }, {{{2, 3, 2}}}, {}, false},
      {"eigh", [](auto& x) { const auto [w, v] = eigh(x[0] + transpose(x[0])); return square(v) * unsqueeze(w, 1); }, {{{3, 3}}}, {}, false},
      {"eigvalsh, of the upper triangle", [](auto& x) { return eigvalsh(x[0] + transpose(x[0]), 'U'); }, {{{2, 3, 3}}}, {}, false},
      {"pinv", [](auto& x) { return pinv(x[0]); }, {{{2, 4, 2}}}, [](auto& x) { return matmul(inverse(matmul(transpose(x[0]), x[0])), transpose(x[0])); }, false},
      {"pinv of a symmetric matrix of rank 2", [](auto& x) { return pinv(matmul(x[0], transpose(x[0])), {.rtol = 1e-4, .hermitian = true}); }, {{{3, 2}}}, {}, false},
      {"lstsq", [](auto& x) { return lstsq(x[0], x[1]).solution; }, {{{4, 2}}, {{4, 3}}}, [](auto& x) { return matmul(pinv(x[0]), x[1]); }, false},
      {"matrix_norm, fro", [](auto& x) { return matrix_norm(x[0]); }, {{{2, 3, 2}}}, [](auto& x) { return sqrt(sum(square(x[0]), {1, 2})); }, false},
      {"matrix_norm, nuc", [](auto& x) { return matrix_norm(x[0], "nuc", {0, 2}, true); }, {{{3, 2, 2}}}, {}, false},
      {"matrix_norm, 1 and inf", [](auto& x) { return matrix_norm(x[0], 1) * matrix_norm(x[0], INFINITY); }, {{{2, 3}}}, {}, false},
      {"cond", [regular](auto& x) { return cond(regular(x[0])) * cond(regular(x[0]), 1); }, {{{3, 3}}}, {}, false},
      {"matrix_power", [](auto& x) { return matrix_power(x[0], 5); }, {{{2, 2, 2}}}, [](auto& x) { return matmul(matmul(matmul(matmul(x[0], x[0]), x[0]), x[0]), x[0]); }, false},
      {"matrix_power, negative", [regular](auto& x) { return matrix_power(regular(x[0]), -2); }, {{{3, 3}}}, {}, false},
      {"matrix_exp", [](auto& x) { return matrix_exp(x[0] * 2); }, {{{2, 3, 3}}}, {}, false},
      {"checkpoint", [](auto& x) { return checkpoint([&](const Tensor& h) { return tanh(tanh(h * x[1]) * x[1]); }, x[0]); }, {{{2, 3}}, {{2, 1}}}, [](auto& x) { return tanh(tanh(x[0] * x[1]) * x[1]); }},
      {"softmax", [](auto& x) { return softmax(x[0], -1); }, {{{2, 3}, -2, 2}}, [](auto& x) { return exp(x[0]) / sum(exp(x[0]), {-1}, true); }},
      {"softmax over a middle dim", [](auto& x) { return softmax(x[0], 1); }, {{{2, 3, 2}, -2, 2}}, [](auto& x) { return exp(x[0]) / sum(exp(x[0]), {1}, true); }},
      {"log_softmax", [](auto& x) { return log_softmax(x[0], -1); }, {{{2, 3}, -2, 2}}, [](auto& x) { return x[0] - log(sum(exp(x[0]), {-1}, true)); }},
      {"log_softmax over the first dim", [](auto& x) { return log_softmax(x[0], 0); }, {{{3, 2, 2}, -2, 2}}, [](auto& x) { return x[0] - log(sum(exp(x[0]), {0}, true)); }},
      {"layer_norm", [](auto& x) { return layer_norm(x[0], {4}, x[1], x[2]); }, {{{2, 3, 4}}, {{4}}, {{4}}},
       [](auto& x) { const Tensor c = x[0] - mean(x[0], {-1}, true); return c * rsqrt(mean(square(c), {-1}, true) + 1e-5) * x[1] + x[2]; }},
      {"layer_norm over two dims, no bias", [](auto& x) { return layer_norm(x[0], {2, 3}, x[1]); }, {{{2, 2, 3}}, {{2, 3}}},
       [](auto& x) { const Tensor c = x[0] - mean(x[0], {1, 2}, true); return c * rsqrt(mean(square(c), {1, 2}, true) + 1e-5) * x[1]; }},
      {"layer_norm without parameters", [](auto& x) { return layer_norm(x[0], {4}); }, {{{3, 4}}}},
      {"rms_norm", [](auto& x) { return rms_norm(x[0], {4}, x[1], 1e-6); }, {{{2, 3, 4}}, {{4}}}, [](auto& x) { return x[0] * rsqrt(mean(square(x[0]), {-1}, true) + 1e-6) * x[1]; }},
      {"rms_norm without weight", [](auto& x) { return rms_norm(x[0], {2, 3}, {}, 1e-5); }, {{{2, 2, 3}}}},
      {"cross_entropy", [ids](auto& x) { return cross_entropy(x[0], to(ids, x[0].device())); }, {{{4, 3}, -2, 2}},
       [ids](auto& x) { return -mean(gather(log_softmax(x[0], 1), 1, unsqueeze(ids, 1))); }},
      {"cross_entropy, smooth, one ignored, by element", [ids](auto& x) { return cross_entropy(x[0], to(ids, x[0].device()), {.ignore_index = 0, .label_smoothing = 0.2, .reduction = Reduction::none}); }, {{{4, 3}, -2, 2}},
       [ids](auto& x) { const Tensor l = log_softmax(x[0], 1); return masked_fill(-0.8 * squeeze(gather(l, 1, unsqueeze(ids, 1)), 1) - 0.2 * mean(l, {1}), eq(ids, 0), 0); }},
      {"cross_entropy of shares", [](auto& x) { return cross_entropy(x[0], x[1], {.label_smoothing = 0.1}); }, {{{4, 3}, -2, 2}, {{4, 3}, 0, 1}},
       [](auto& x) { return mean(sum((x[1] * 0.9 + 0.1 / 3) * (logsumexp(x[0], {1}, true) - x[0]), {1})); }},
      {"cross_entropy of shares, positions behind the classes", [](auto& x) { return cross_entropy(x[0], x[1], {.reduction = Reduction::none}); }, {{{2, 3, 3}, -2, 2}, {{2, 3, 3}, 0, 1}}},
      {"cross_entropy with positions behind the classes", [pairs](auto& x) { return cross_entropy(x[0], to(pairs, x[0].device()), {.ignore_index = 2, .reduction = Reduction::sum}); }, {{{2, 3, 3}, -2, 2}},
       [pairs](auto& x) { return -sum(masked_fill(squeeze(gather(log_softmax(x[0], 1), 1, unsqueeze(pairs, 1)), 1), eq(pairs, 2), 0)); }},
      {"index_select", [ids](auto& x) { return square(index_select(x[0], 1, to(ids, x[0].device()))); }, {{{2, 3, 2}}},
       [](auto& x) { std::vector<Tensor> p; for (int i : {1, 0, 2, 1}) p.push_back(select(x[0], 1, i)); return square(stack(p, 1)); }},
      {"index_add", [ids](auto& x) { return square(index_add(x[0], 0, to(ids, x[0].device()), x[1])); }, {{{3, 2}}, {{4, 2}}},
       [](auto& x) { return square(x[0] + stack({select(x[1], 0, 1), select(x[1], 0, 0) + select(x[1], 0, 3), select(x[1], 0, 2)})); }},
      {"gather", [pairs](auto& x) { return square(gather(x[0], 1, to(pairs, x[0].device()))); }, {{{3, 3}}}},
      {"scatter_add", [pairs](auto& x) { return square(scatter_add(x[0], 0, to(pairs, x[0].device()), x[1])); }, {{{3, 4}}, {{2, 5}}}},
      {"embedding", [pairs](auto& x) { return square(embedding(x[0], to(pairs, x[0].device()))); }, {{{3, 2}}},
       [pairs](auto& x) { return square(reshape(index_select(x[0], 0, reshape(pairs, {6})), {2, 3, 2})); }},
      {"at, slices and integers", [](auto& x) { return square(x[0].at({1, Slice(None, None, -1), None, Slice(1, 4, 2)})); }, {{{2, 3, 4}}}},
      {"at, index tensors", [pairs](auto& x) { return square(x[0].at({to(pairs, x[0].device()), Slice(), to(pairs, x[0].device())})); }, {{{3, 2, 3}}}},
      {"at, an index tensor in the middle", [ids](auto& x) { return square(x[0].at({Slice(), to(ids, x[0].device()), Slice(1)})); }, {{{2, 3, 3}}}},
      {"put, slices", [](auto& x) { Tensor y = x[0]; y.put({1, Slice(None, None, -2)}, x[1]); return square(y); }, {{{2, 3, 4}}, {{2, 1}}}},
      {"put, slices, adding", [](auto& x) { return square(index_put(x[0], {Ellipsis, Slice(1, 3)}, x[1], true)); }, {{{2, 3, 4}}, {{3, 1}}}},
      {"put, an index tensor with repeats", [ids](auto& x) { return square(index_put(x[0], {Slice(), to(ids, x[0].device())}, x[1])); }, {{{2, 3, 2}}, {{2, 4, 2}}}},
      {"put, an index tensor and a slice, adding", [ids](auto& x) { return square(index_put(x[0], {to(ids, x[0].device()), Slice(1)}, x[1], true)); }, {{{3, 3}}, {{4, 2}}}},
      {"index_copy", [ids](auto& x) { return square(index_copy(x[0], 1, to(ids, x[0].device()), x[1])); }, {{{2, 4}}, {{2, 4}}}},
      {"index_fill", [ids](auto& x) { return square(index_fill(x[0], 0, to(ids, x[0].device()), x[1])); }, {{{4, 2}}, {{}}}},
      {"scatter", [pairs](auto& x) { return square(scatter(x[0], 0, to(pairs, x[0].device()), x[1])); }, {{{3, 4}}, {{2, 5}}}},
      {"scatter, multiply", [pairs](auto& x) { return square(scatter(x[0], 1, to(pairs, x[0].device()), x[1], ScatterMode::multiply)); }, {{{2, 4}, 0.5, 1}, {{2, 3}, 0.5, 1}}},
      {"scatter_reduce, mean", [pairs](auto& x) { return square(scatter_reduce(x[0], 1, to(pairs, x[0].device()), x[1], ReduceMode::mean)); }, {{{2, 4}}, {{2, 3}}}, {}, true, false},
      {"scatter_reduce, amax", [pairs](auto& x) { return square(scatter_reduce(x[0], 1, to(pairs, x[0].device()), x[1], ReduceMode::amax)); }, {{{2, 4}}, {{2, 3}}}},
      {"scatter_reduce, amin without x", [pairs](auto& x) { return square(scatter_reduce(x[0], 1, to(pairs, x[0].device()), x[1], ReduceMode::amin, false)); }, {{{2, 4}}, {{2, 3}}}},
      {"index_reduce, prod without x", [ids](auto& x) { return square(index_reduce(x[0], 0, to(ids, x[0].device()), x[1], ReduceMode::prod, false)); }, {{{4, 2}}, {{4, 2}, 0.5, 1}}},
      {"take", [pairs](auto& x) { return square(take(x[0], to(pairs, x[0].device()) - 2)); }, {{{2, 3}}}},
      {"put at flat positions", [pairs](auto& x) { return square(put(x[0], to(pairs, x[0].device()) - 2, x[1], true)); }, {{{2, 3}}, {{6}}}},
      {"take_along_dim", [pairs](auto& x) { return square(take_along_dim(x[0], to(pairs, x[0].device()), 1)); }, {{{1, 4}}}},
      {"flip", [](auto& x) { return square(flip(x[0], {0, -1})) * x[0]; }, {{{2, 3, 2}}}},
      {"rot90", [](auto& x) { return square(rot90(x[0], 3, {0, 2})); }, {{{2, 3, 4}}}},
      {"roll", [](auto& x) { return square(roll(x[0], {1, -2}, {0, 1})) * x[0]; }, {{{2, 3}}}},
      {"repeat", [](auto& x) { return square(repeat(x[0], {2, 1, 3})); }, {{{2, 3}}}},
      {"repeat_interleave", [](auto& x) { return square(repeat_interleave(x[0], 2, 0)); }, {{{2, 3}}}},
      {"unfold, overlapping", [](auto& x) { return square(unfold(x[0], 1, 3, 2)); }, {{{2, 7, 2}}}},
      {"movedim", [](auto& x) { return square(movedim(x[0], {0, 2}, {2, 1})); }, {{{2, 3, 4}}}},
      {"tensor_split, unbind", [](auto& x) { return stack(unbind(tensor_split(tanh(x[0]), 2, 1)[0], 0)) * x[0].at({Slice(), Slice(0, 2)}); }, {{{2, 3}}}},
      {"diagonal", [](auto& x) { return square(diagonal(x[0], 1, 0, 2)); }, {{{2, 3, 4}}}},
      {"diag_embed", [](auto& x) { return square(diag_embed(x[0], -1, 0, 2)); }, {{{2, 3}}}},
      {"tril", [](auto& x) { return square(tril(x[0], 1)); }, {{{2, 3, 4}}}},
      {"triu", [](auto& x) { return square(triu(x[0])); }, {{{3, 3}}}},
      {"pad, constant", [](auto& x) { return square(pad(x[0], {1, -1, 0, 2}, PadMode::constant, 0.5)); }, {{{2, 2, 3}}}},
      {"pad, reflect", [](auto& x) { return square(pad(x[0], {2, 1, 0, 1}, PadMode::reflect)); }, {{{2, 3}}}},
      {"pad, replicate", [](auto& x) { return square(pad(x[0], {2, -1}, PadMode::replicate)); }, {{{2, 3}}}},
      {"pad, circular", [](auto& x) { return square(pad(x[0], {2, 1}, PadMode::circular)); }, {{{2, 3}}}},
      {"column_stack, dstack", [](auto& x) { return square(dstack({column_stack({x[0], x[1]}), transpose(vstack({x[0], x[1]}))})); }, {{{3}}, {{3}}}},
      {"meshgrid, cartesian_prod", [](auto& x) { auto g = meshgrid({x[0], x[1]}, Indexing::xy); return square(cartesian_prod({x[0], x[1]})) * reshape(g[0] * g[1], {6, 1}); }, {{{2}}, {{3}}}},
      {"combinations", [](auto& x) { return square(combinations(x[0], 2, true)); }, {{{3}}}},
      {"dropout", [](auto& x) { Generator g(5); return dropout(x[0], 0.4, true, g); }, {{{3, 5}}},
       [](auto& x) { Generator g(5); return x[0] * dropout(ones({3, 5}, x[0].options()), 0.4, true, g); }},
      {"leaky_relu", [](auto& x) { return leaky_relu(x[0], 0.2); }, {{{2, 3}}}, [](auto& x) { return where(gt(x[0], 0), x[0], x[0] * 0.2); }},
      {"prelu", [](auto& x) { return prelu(x[0], x[1]); }, {{{2, 3, 2}}, {{3}}}, [](auto& x) { return where(gt(x[0], 0), x[0], x[0] * reshape(x[1], {-1, 1})); }},
      {"rrelu", [](auto& x) { Generator g(5); return rrelu(x[0], 0.1, 0.3, true, g); }, {{{2, 3}}}},
      {"elu", [](auto& x) { return elu(x[0], 0.7); }, {{{2, 3}, -2, 2}}, [](auto& x) { return where(gt(x[0], 0), x[0], 0.7 * expm1(x[0])); }},
      {"celu", [](auto& x) { return celu(x[0], 0.7); }, {{{2, 3}, -2, -0.1}}, [](auto& x) { return 0.7 * expm1(x[0] / 0.7); }},
      {"hardtanh", [](auto& x) { return square(hardtanh(x[0], -0.5, 0.5)); }, {{{2, 3}}}, [](auto& x) { return square(clamp(x[0], -0.5, 0.5)); }},
      {"hardshrink", [](auto& x) { return square(hardshrink(x[0], 0.3)); }, {{{2, 3}, 0.35, 2}}, [](auto& x) { return square(x[0]); }},
      {"softshrink", [](auto& x) { return square(softshrink(x[0], 0.3)); }, {{{2, 3}, -2, -0.35}}, [](auto& x) { return square(x[0] + 0.3); }},
      {"threshold", [](auto& x) { return square(threshold(x[0], 0.1, 3)); }, {{{2, 3}, 0.2, 2}}, [](auto& x) { return square(x[0]); }},
      {"softplus with beta", [](auto& x) { return softplus(x[0], 3); }, {{{2, 3}, -2, 2}}, [](auto& x) { return softplus(x[0] * 3) / 3; }},
      {"glu", [](auto& x) { return glu(x[0], 0); }, {{{4, 3}}}},
      {"gumbel_softmax", [](auto& x) { Generator g(5); return gumbel_softmax(x[0], 0.9, false, 1, g); }, {{{2, 3}}}},
      {"feature_dropout", [](auto& x) { Generator g(5); return feature_dropout(square(x[0]), 2, 0.4, true, g); }, {{{2, 3, 2}}}},
      {"alpha_dropout", [](auto& x) { Generator g(5); return square(alpha_dropout(x[0], 0.4, true, g)); }, {{{2, 3}}}},
      {"smooth_l1_loss", [](auto& x) { return smooth_l1_loss(x[0], x[1], Reduction::none, 0.8); }, {{{2, 3}}, {{2, 3}}},
       [](auto& x) { const Tensor d = abs(x[0] - x[1]); return where(lt(d, 0.8), square(d) / 1.6, d - 0.4); }},
      {"huber_loss", [](auto& x) { return huber_loss(x[0], x[1], Reduction::sum, 0.8); }, {{{2, 3}}, {{2, 3}}},
       [](auto& x) { const Tensor d = abs(x[0] - x[1]); return sum(where(lt(d, 0.8), square(d) / 2, 0.8 * (d - 0.4))); }},
      {"binary_cross_entropy", [](auto& x) { return binary_cross_entropy(x[0], x[1], {.reduction = Reduction::none}); }, {{{2, 3}, 0.1, 0.9}, {{2, 3}, 0.1, 0.9}},
       [](auto& x) { return -(x[1] * log(x[0]) + (1 - x[1]) * log(1 - x[0])); }},
      {"binary_cross_entropy_with_logits", [](auto& x) { return binary_cross_entropy_with_logits(x[0], x[1]); }, {{{2, 3}, -2, 2}, {{2, 3}, 0, 1}},
       [](auto& x) { return mean(softplus(x[0]) - x[0] * x[1]); }},
      {"binary_cross_entropy_with_logits, pos_weight", [](auto& x) { return binary_cross_entropy_with_logits(x[0], x[1], {.pos_weight = x[2]}); }, {{{2, 3}, -2, 2}, {{2, 3}, 0, 1}, {{3}, 0.5, 2}},
       [](auto& x) { return mean(x[1] * x[2] * softplus(neg(x[0])) + (1 - x[1]) * softplus(x[0])); }},
      {"kl_div", [](auto& x) { return kl_div(x[0], x[1], {.reduction = Reduction::batchmean}); }, {{{2, 3}, -2, -0.5}, {{2, 3}, 0.1, 0.9}},
       [](auto& x) { return sum(x[1] * (log(x[1]) - x[0])) / double(x[0].size(0)); }},
      {"gaussian_nll_loss", [](auto& x) { return gaussian_nll_loss(x[0], x[1], x[2]); }, {{{2, 3}}, {{2, 3}}, {{2, 1}, 0.5, 2}},
       [](auto& x) { return mean(log(x[2]) + square(x[0] - x[1]) / x[2]) / 2; }},
      {"nll_loss, weights, one ignored", [ids](auto& x) { return nll_loss(x[0], to(ids, x[0].device()), {.weight = x[1], .ignore_index = 0}); }, {{{4, 3}}, {{3}, 0.5, 2}}},
      {"cross_entropy, weights", [ids](auto& x) { return cross_entropy(x[0], to(ids, x[0].device()), {.weight = x[1], .label_smoothing = 0.2, .reduction = Reduction::none}); }, {{{4, 3}, -2, 2}, {{3}, 0.5, 2}},
       [ids](auto& x) { const Tensor l = log_softmax(x[0], 1) * x[1]; return -0.8 * squeeze(gather(l, 1, unsqueeze(ids, 1)), 1) - 0.2 * mean(l, {1}); }},
      {"cosine_embedding_loss", [](auto& x) { return cosine_embedding_loss(x[0], x[1], ones({2}, x[0].options())); }, {{{2, 3}, 0.5, 1}, {{2, 3}, -1, -0.5}},
       [](auto& x) { return 1 - mean(cosine_similarity(x[0], x[1])); }},
      {"info_nce_loss", [](auto& x) { return info_nce_loss(x[0], x[1], x[2]); }, {{{2, 3}}, {{2, 3}}, {{4, 3}}}, {}, false},
      {"ctc_loss", [ids](auto& x) { return ctc_loss(log_softmax(x[0], 2), reshape(to(ids, x[0].device()) + 1, {2, 2}), {6, 5}, {2, 1}, {.reduction = Reduction::none}); }, {{{6, 2, 4}}}, {}, true, true, false},
      {"embedding_bag", [ids](auto& x) { return square(embedding_bag(to(ids, x[0].device()), x[0], {.offsets = to(tensor<int64_t>({0, 3, 3}), x[0].device()), .padding_idx = 2})); }, {{{3, 2}}},
       [](auto& x) { return square(stack({(select(x[0], 0, 1) + select(x[0], 0, 0)) / 2, zeros({2}, x[0].options()), select(x[0], 0, 1)})); }},
      {"rope", [](auto& x) { const auto [c, s] = rope_tables(3, 4, 10, x[0].options()); return rope(x[0], c, s); }, {{{2, 3, 4}}},
       [](auto& x) {
         const auto [c, s] = rope_tables(3, 4, 10, x[0].options());
         const Tensor a = narrow(x[0], -1, 0, 2), b = narrow(x[0], -1, 2, 2);
         return cat({a * c - b * s, b * c + a * s}, -1);
       }},
      {"rope, interleaved", [](auto& x) { const auto [c, s] = rope_tables(3, 4, 10, x[0].options()); return rope(x[0], c, s, true); }, {{{2, 3, 4}}},
       [](auto& x) {
         const auto [c, s] = rope_tables(3, 4, 10, x[0].options());
         const Tensor a = slice(x[0], -1, 0, 4, 2), b = slice(x[0], -1, 1, 4, 2);
         return reshape(stack({a * c - b * s, b * c + a * s}, 3), {2, 3, 4});
       }},
      {"attention", [](auto& x) { return scaled_dot_product_attention(x[0], x[1], x[2]); }, {{{2, 2, 3, 4}}, {{2, 2, 5, 4}}, {{2, 2, 5, 3}}},
       [](auto& x) { return matmul(softmax(matmul(x[0], transpose(x[1])) / std::sqrt(std::max(1., double(x[0].size(-1)))), -1), x[2]); }},
      {"attention, causal, grouped heads", [](auto& x) { return scaled_dot_product_attention(x[0], x[1], x[2], {.is_causal = true}); }, {{{1, 4, 3, 2}}, {{1, 2, 3, 2}}, {{1, 2, 3, 2}}}},
      {"attention, masked, no batch", [mask](auto& x) { return scaled_dot_product_attention(x[0], x[1], x[2], {.mask = to(mask, x[0].device()), .scale = 0.3}); }, {{{2, 2, 3}}, {{2, 3, 3}}, {{2, 3, 2}}},
       [mask](auto& x) { return matmul(softmax(masked_fill(matmul(x[0], transpose(x[1])) * 0.3, logical_not(mask), -INFINITY), -1), x[2]); }},
      {"attention with dropout", [](auto& x) { Generator g(2); return scaled_dot_product_attention(x[0], x[1], x[2], {.dropout_p = 0.3}, g); }, {{{1, 2, 3, 4}}, {{1, 2, 5, 4}}, {{1, 2, 5, 3}}},
       [](auto& x) { Generator g(2); return matmul(dropout(softmax(matmul(x[0], transpose(x[1])) / std::sqrt(std::max(1., double(x[0].size(-1)))), -1), 0.3, true, g), x[2]); }},
      {"attention, window, sinks, capped", [](auto& x) { return scaled_dot_product_attention(x[0], x[1], x[2], {.window_left = 1, .window_right = 1, .sinks = 1, .query_offset = 1, .softcap = 0.8}); },
       {{{1, 4, 5, 2}}, {{1, 2, 6, 2}}, {{1, 2, 6, 3}}}, [](auto& x) { return attended_with(x, 0.8, {}, logical_and(within(x, 1, 1, 1), ge(arange(6), 1))); }},
      {"attention, causal, biases by distance, dropout", [](auto& x) { Generator g(2); return scaled_dot_product_attention(x[0], x[1], x[2], {.is_causal = true, .dropout_p = 0.3, .query_offset = 2, .alibi_slopes = x[4], .relative_bias = x[3]}, g); },
       {{{2, 2, 4, 3}}, {{2, 2, 6, 3}}, {{2, 2, 6, 5}}, {{2, 9}}, {{2}, 0.1, 1}},
       [](auto& x) {
         const Tensor d = reshape(distances(x, 2), {24}), bias = index_select(x[3], 1, d + 5) - unsqueeze(x[4], 1) * cast(abs(d), x[4].dtype());
         return attended_with(x, 0, reshape(bias, {2, 4, 6}), within(x, 100, 0, 2), 0.3);
       }},
      {"attention, packed sequences", [](auto& x) { return scaled_dot_product_attention(x[0], x[1], x[2], {.window_left = 1, .softcap = 2, .relative_bias = x[3], .cu_seqlens_q = to(tensor<int32_t>({0, 2, 2, 5}), x[0].device()), .cu_seqlens_k = to(tensor<int32_t>({0, 3, 4, 6}), x[0].device())}); },
       {{{5, 4, 3}}, {{6, 2, 3}}, {{6, 2, 2}}, {{4, 10}}},
       [](auto& x) {
         const auto of = [&](int64_t q, int64_t n, int64_t k, int64_t m) {
           const auto heads = [](const Tensor& t, int64_t first, int64_t count) { return unsqueeze(transpose(narrow(t, 0, first, count), 0, 1), 0); };
           const std::vector<Tensor> one = {heads(x[0], q, n), heads(x[1], k, m), heads(x[2], k, m)};
           const Tensor bias = reshape(index_select(x[3], 1, reshape(distances(one, 0) + 4, {n * m})), {4, n, m});
           return transpose(squeeze(attended_with(one, 2, bias, within(one, 1, 100, 0)), 0), 0, 1);
         };
         return cat({of(0, 2, 0, 3), of(2, 3, 4, 2)});
       }},
      {"group_norm", [](auto& x) { return group_norm(x[0], 2, x[1], x[2]); }, {{{2, 4, 3}}, {{4}}, {{4}}},
       [](auto& x) {
         const Tensor in = reshape(x[0], {2, 2, 2, 3}), c = in - mean(in, {2, 3}, true);
         return reshape(c * rsqrt(mean(square(c), {2, 3}, true) + 1e-5), {2, 4, 3}) * unsqueeze(x[1], 1) + unsqueeze(x[2], 1);
       }},
      {"group_norm without parameters", [](auto& x) { return group_norm(x[0], 1, {}, {}, 1e-2); }, {{{2, 3, 2, 2}}}},
      {"batch_norm, of the batch", [](auto& x) { return batch_norm(x[0], {}, {}, x[1], x[2], true); }, {{{3, 2, 2}}, {{2}}, {{2}}},
       [](auto& x) { const Tensor c = x[0] - mean(x[0], {0, 2}, true); return c * rsqrt(mean(square(c), {0, 2}, true) + 1e-5) * unsqueeze(x[1], 1) + unsqueeze(x[2], 1); }},
      {"batch_norm, by running moments", [](auto& x) { return batch_norm(x[0], full({2}, 0.3, {DType::f64, x[0].device()}), full({2}, 0.8, {DType::f64, x[0].device()}), x[1], x[2]); }, {{{3, 2, 2, 2}}, {{2}}, {{2}}},
       [](auto& x) { return (x[0] - 0.3) / std::sqrt(0.8 + 1e-5) * reshape(x[1], {2, 1, 1}) + reshape(x[2], {2, 1, 1}); }},
      {"instance_norm", [](auto& x) { return instance_norm(x[0], {}, {}, x[1]); }, {{{2, 3, 4}}, {{3}}},
       [](auto& x) { const Tensor c = x[0] - mean(x[0], {2}, true); return c * rsqrt(mean(square(c), {2}, true) + 1e-5) * unsqueeze(x[1], 1); }},
      {"local_response_norm", [](auto& x) { return local_response_norm(x[0], 3, 0.5, 0.6, 2); }, {{{2, 4, 2}}}},
      {"lstm", [](auto& x) { return joined(recurrent_layer(RecurrentKind::lstm, x[0], {x[1], x[2], x[3], x[4], {}}, x[5], x[6])); }, {{{3, 2, 3}}, {{8, 3}}, {{8, 2}}, {{8}}, {{8}}, {{2, 2}}, {{2, 2}}},
       [](auto& x) {
         Tensor h = x[5], c = x[6];
         std::vector<Tensor> y;
         for (int64_t t = 0; t < x[0].size(0); ++t) {
           const auto a = chunk(linear(select(x[0], 0, t), x[1], x[3]) + linear(h, x[2], x[4]), 4, 1);
           c = sigmoid(a[1]) * c + sigmoid(a[0]) * tanh(a[2]), h = sigmoid(a[3]) * tanh(c), y.push_back(h);
         }
         return joined({stack(y), h, c});
       }},
      {"lstm, reverse, lengths, projection", [lengths](auto& x) { return joined(recurrent_layer(RecurrentKind::lstm, x[0], {x[1], x[2], {}, {}, x[3]}, x[4], x[5], to(lengths, x[0].device()), true)); }, {{{3, 2, 1}}, {{12, 1}}, {{12, 2}}, {{2, 3}}, {{2, 2}}, {{2, 3}}}},
      {"lstm, lengths, no start", [lengths](auto& x) { return joined(recurrent_layer(RecurrentKind::lstm, x[0], {x[1], x[2], x[3], x[3], {}}, {}, {}, to(lengths, x[0].device()))); }, {{{3, 2, 3}}, {{8, 3}}, {{8, 2}}, {{8}}}},
      {"gru", [](auto& x) { return joined(recurrent_layer(RecurrentKind::gru, x[0], {x[1], x[2], x[3], x[4], {}}, x[5])); }, {{{3, 2, 3}}, {{6, 3}}, {{6, 2}}, {{6}}, {{6}}, {{2, 2}}},
       [](auto& x) {
         Tensor h = x[5];
         std::vector<Tensor> y;
         for (int64_t t = 0; t < x[0].size(0); ++t) {
           const auto a = chunk(linear(select(x[0], 0, t), x[1], x[3]), 3, 1), b = chunk(linear(h, x[2], x[4]), 3, 1);
           const Tensor z = sigmoid(a[1] + b[1]);
           h = (1 - z) * tanh(a[2] + sigmoid(a[0] + b[0]) * b[2]) + z * h, y.push_back(h);
         }
         return joined({stack(y), h, {}});
       }},
      {"gru, reverse, lengths", [lengths](auto& x) { return joined(recurrent_layer(RecurrentKind::gru, x[0], {x[1], x[2], {}, {}, {}}, x[3], {}, to(lengths, x[0].device()), true)); }, {{{3, 2, 3}}, {{6, 3}}, {{6, 2}}, {{2, 2}}}},
      {"rnn, tanh", [](auto& x) { return joined(recurrent_layer(RecurrentKind::tanh, x[0], {x[1], x[2], x[3], x[4], {}}, x[5])); }, {{{3, 2, 3}}, {{4, 3}}, {{4, 4}}, {{4}}, {{4}}, {{2, 4}}}},
      {"rnn, relu, reverse, lengths", [lengths](auto& x) { return joined(recurrent_layer(RecurrentKind::relu, x[0], {x[1], x[2], {}, {}, {}}, x[3], {}, to(lengths, x[0].device()), true)); }, {{{3, 2, 3}}, {{4, 3}}, {{4, 4}}, {{2, 4}}}},
      {"linear_recurrence", [](auto& x) { return linear_recurrence(x[0], x[1]); }, {{{2, 5, 3}}, {{2, 5, 3}}}, [](auto& x) { return recurred(x[0], x[1], {}); }},
      {"linear_recurrence, reverse, initial", [](auto& x) { return linear_recurrence(x[0], x[1], {.initial = x[2], .reverse = true}); }, {{{2, 5, 3}}, {{2, 5, 3}}, {{2, 3}}}, [](auto& x) { return recurred(x[0], x[1], x[2], true); }},
      {"linear_recurrence, factors of all steps", [](auto& x) { return linear_recurrence(x[0], x[1], {.initial = x[2]}); }, {{{3}}, {{2, 5, 3}}, {{2, 3}}}, [](auto& x) { return recurred(x[0], x[1], x[2]); }},
      {"linear_recurrence, complex", [](auto& x) { return linear_recurrence(x[0], x[1], {.initial = x[2], .complex = true}); }, {{{3, 5, 4, 2}, -0.7, 0.7}, {{3, 5, 4, 2}}, {{3, 4, 2}}}, [](auto& x) { return recurred(x[0], x[1], x[2]); }},
      {"linear_recurrence, complex, factors of all steps, reverse", [](auto& x) { return linear_recurrence(x[0], x[1], {.reverse = true, .complex = true}); }, {{{4, 2}, -0.7, 0.7}, {{3, 5, 4, 2}}}, [](auto& x) { return recurred(x[0], x[1], {}, true); }},
      {"selective_scan", [](auto& x) { return selective_scan(x[0], x[1], x[2], x[3], x[4]); }, {{{2, 3, 4}}, {{2, 3, 4}, 0.1, 1}, {{4, 5}, -1, -0.2}, {{2, 3, 5}}, {{2, 3, 5}}}, [](auto& x) { return scanned(x[0], x[1], x[2], unsqueeze(x[3], 2), unsqueeze(x[4], 2)).y; }},
      {"selective_scan, groups, all options", [](auto& x) { return with_state(selective_scan_with_state(x[0], x[1], x[2], x[3], x[4], {.D = x[5], .z = x[6], .delta_bias = x[7], .delta_softplus = true, .initial = x[8]})); },
       {{{3, 5, 4}}, {{3, 5, 4}}, {{4, 6}, -1, -0.2}, {{3, 5, 2, 6}}, {{3, 5, 2, 6}}, {{4}}, {{3, 5, 4}}, {{4}}, {{3, 4, 6}}},
       [](auto& x) { return with_state(scanned(x[0], x[1], x[2], x[3], x[4], {.D = x[5], .z = x[6], .delta_bias = x[7], .delta_softplus = true, .initial = x[8]})); }},
      {"selective_scan_step", [](auto& x) { return with_state(selective_scan_step(x[0], x[1], x[2], x[3], x[4], x[5])); }, {{{2, 4, 5}}, {{2, 4}}, {{2, 4}, 0.1, 1}, {{4, 5}, -1, -0.2}, {{2, 5}}, {{2, 5}}},
       [](auto& x) { auto t = [&](int i) { return unsqueeze(x[size_t(i)], 1); }; auto r = scanned(t(1), t(2), x[3], unsqueeze(t(4), 2), unsqueeze(t(5), 2), {.initial = x[0]}); return with_state(r); }},
      {"gated_linear_attention without decay", [](auto& x) { return gated_linear_attention(x[0], x[1], x[2]).y; }, {{{2, 5, 3, 4}}, {{2, 5, 3, 4}}, {{2, 5, 3, 6}}}, [](auto& x) { return attended(x[0], x[1], x[2]).y; }},
      {"gated_linear_attention, decay of heads", [](auto& x) { return with_state(gated_linear_attention(x[0], x[1], x[2], {.g = x[3], .scale = 0.7, .initial = x[4]})); }, {{{2, 5, 3, 4}}, {{2, 5, 3, 4}}, {{2, 5, 3, 6}}, {{2, 5, 3}, -2, 0}, {{2, 3, 4, 6}}},
       [](auto& x) { return with_state(attended(x[0], x[1], x[2], {.g = x[3], .scale = 0.7, .initial = x[4]})); }},
      {"gated_linear_attention, decay of features", [](auto& x) { return with_state(gated_linear_attention(x[0], x[1], x[2], {.g = x[3], .initial = x[4]})); }, {{{2, 5, 3, 4}}, {{2, 5, 3, 4}}, {{2, 5, 3, 6}}, {{2, 5, 3, 4}, -2, 0}, {{2, 3, 4, 6}}},
       [](auto& x) { return with_state(attended(x[0], x[1], x[2], {.g = x[3], .initial = x[4]})); }},
      {"gated_linear_attention, normalised", [](auto& x) { return with_state(gated_linear_attention(x[0], x[1], x[2], {.normalize = true, .eps = 0.1})); }, {{{2, 5, 3, 4}, 0.1, 1}, {{2, 5, 3, 4}, 0.1, 1}, {{2, 5, 3, 6}}},
       [](auto& x) { return with_state(averaged_attention(x[0], x[1], x[2], {.normalize = true, .eps = 0.1})); }},
      {"gated_linear_attention, normalised, decay of heads", [](auto& x) { return with_state(gated_linear_attention(x[0], x[1], x[2], {.g = x[3], .scale = 0.7, .initial = x[4], .normalize = true, .eps = 0.1})); }, {{{2, 5, 3, 4}, 0.1, 1}, {{2, 5, 3, 4}, 0.1, 1}, {{2, 5, 3, 6}}, {{2, 5, 3}, -2, 0}, {{2, 3, 4, 7}, 0.1, 1}},
       [](auto& x) { return with_state(averaged_attention(x[0], x[1], x[2], {.g = x[3], .scale = 0.7, .initial = x[4], .normalize = true, .eps = 0.1})); }},
      {"gated_linear_attention, normalised, decay of features", [](auto& x) { return with_state(gated_linear_attention(x[0], x[1], x[2], {.g = x[3], .initial = x[4], .normalize = true, .eps = 0.1})); }, {{{2, 5, 3, 4}, 0.1, 1}, {{2, 5, 3, 4}, 0.1, 1}, {{2, 5, 3, 6}}, {{2, 5, 3, 4}, -2, 0}, {{2, 3, 4, 7}, 0.1, 1}},
       [](auto& x) { return with_state(averaged_attention(x[0], x[1], x[2], {.g = x[3], .initial = x[4], .normalize = true, .eps = 0.1})); }},
      {"dplr_kernel", [](auto& x) { return dplr_kernel(x[0], x[1], x[2], x[3], x[4], 5); }, {{{2, 3, 2}, -0.7, 0.7}, {{2, 3, 2}, -0.5, 0.5}, {{2, 3, 2}, -0.5, 0.5}, {{2, 3, 2}}, {{2, 3, 2}}}, [](auto& x) { return kernel_of_states(x, 5); }},
      {"gated_linear_attention_step", [](auto& x) { return with_state(gated_linear_attention_step(x[0], x[1], x[2], x[3], {.g = x[4]})); }, {{{2, 3, 4, 6}}, {{2, 3, 4}}, {{2, 3, 4}}, {{2, 3, 6}}, {{2, 3}, -2, 0}}},
      {"wkv", [](auto& x) { return wkv(x[0], x[1], x[2], x[3]).y; }, {{{3}, -2, -0.1}, {{3}}, {{2, 5, 3}}, {{2, 5, 3}}}, [](auto& x) { return averaged(x[0], x[1], x[2], x[3]).y; }},
      {"wkv, initial", [](auto& x) { return with_sums(wkv(x[0], x[1], x[2], x[3], {x[4], x[5], zeros_like(x[4].detach()) + 0.3})); }, {{{3}, -2, -0.1}, {{3}}, {{2, 4, 3}}, {{2, 4, 3}}, {{2, 3}}, {{2, 3}, 0.5, 1.5}},
       [](auto& x) { return with_sums(averaged(x[0], x[1], x[2], x[3], x[4] * std::exp(0.3), x[5] * std::exp(0.3))); }},
  };
  // clang-format on
  cases.insert(cases.end(), more.begin(), more.end());
  return cases;
}

inline std::vector<Tensor> draw(const OpCase& c, DType dtype = DType::f64) {
  std::vector<Tensor> x;
  for (size_t i = 0; i < c.inputs.size(); ++i) {
    Tensor t = values(c.inputs[i].shape, c.inputs[i].low, c.inputs[i].high, i + 1, dtype);
    x.push_back(t.set_requires_grad());
  }
  return x;
}

// The same values in another memory layout.
inline Tensor stored_transposed(const Tensor& x) { return x.dim() < 2 ? x : transpose(clone(transpose(x, 0, -1)), 0, -1); }
inline Tensor sliced_out(const Tensor& x) {
  if (x.dim() == 0) return x;
  Shape shape = x.shape();
  for (int d = 0; d < x.dim(); ++d) shape[d] = shape[d] * 2 + 1;
  Tensor view = full(shape, 77, x.options());
  for (int d = 0; d < x.dim(); ++d) view = slice(view, d, 1, shape[d], 2);
  copy_into(x, view);
  return view;
}

}  // namespace retape::testing
