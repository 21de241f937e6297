#include <retape/autograd/attention.h>

#include <fmt/format.h>

#include <cmath>

#include <retape/autograd/binary.h>
#include <retape/autograd/check.h>
#include <retape/autograd/dropout.h>
#include <retape/autograd/matmul.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/softmax.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>

namespace retape {
namespace {

// (B, H, T, D) that lies in memory as (B, T, H, D)
Tensor empty_heads(const Shape& s, Options options) { return transpose(empty({s[0], s[2], s[1], s[3]}, options), 1, 2); }
// The kernel wants features next to each other; all other strides are free.
Tensor dense_features(const Tensor& x) { return x.shape()[-1] == 1 || x.strides()[-1] == 1 ? x : contiguous(x); }
Options options_of_statistics(const Tensor& x) { return {x.dtype() == DType::f64 ? DType::f64 : DType::f32, x.device()}; }

// What dropout multiplies the attention weights by, (B, Hq, T, S): it has no input that could want a gradient, and comes from the
// kernel for dropout, whose numbering of elements the attention kernel shares.
Tensor dropout_factors(const Shape& shape, const AttentionOptions& options, Options of) {
  const Scoped inside(ctx.inside_forward, true);
  const Tensor one = ones(shape, of);
  Tensor y = empty_like(one);
  RETAPE_DISPATCH(y.device(), dropout(one, options.dropout, options.random, y));
  return y;
}

struct AttentionBackward {  // y and statistics are for the kernel; the composite makes the weights again
  static constexpr auto name = "attention_backward";
  static constexpr bool expensive = true;
  AttentionOptions options;
  std::array<Tensor, 3> forward(const Tensor& dy, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask, const Tensor& y,
                                const Tensor& statistics) {
    Tensor dq = empty_heads(q.shape(), q.options()), dk = empty_heads(k.shape(), k.options()), dv = empty_heads(v.shape(), v.options());
    const Tensor d = dense_features(dy), a = dense_features(q), b = dense_features(k), c = dense_features(v), out = dense_features(y);
    RETAPE_DISPATCH(detail::cpu_for_meta(q.device()), attention_backward(d, a, b, c, mask, out, statistics, options, dq, dk, dv));
    return {dq, dk, dv};
  }
  std::array<Tensor, 3> composite(const Tensor& dy, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask, const Tensor&,
                                  const Tensor&) {
    const int64_t batch = q.shape()[0], heads = q.shape()[1], kv_heads = k.shape()[1], group = heads / kv_heads, queries = q.shape()[2],
                  keys = k.shape()[2];
    const auto repeat = [&](const Tensor& x) {  // a head of k or v for each head of q
      return reshape(expand(unsqueeze(x, 2), {batch, kv_heads, group, keys, x.shape()[3]}), {batch, heads, keys, x.shape()[3]});
    };
    const auto gather_groups = [&](const Tensor& x) { return sum(reshape(x, {batch, kv_heads, group, keys, x.shape()[3]}), {2}); };
    const Tensor keys_of = repeat(k), values_of = repeat(v);
    Tensor scores = matmul(q, transpose(keys_of)) * options.scale;
    if (mask) scores = mask.dtype() == DType::boolean ? masked_fill(scores, logical_not(mask), -INFINITY) : scores + cast(mask, q.dtype());
    if (options.causal) {
      const Options positions{DType::i64, q.device()};
      scores =
          masked_fill(scores, gt(arange(0, double(keys), 1, positions), unsqueeze(arange(0, double(queries), 1, positions), 1)), -INFINITY);
    }
    const Tensor weights = softmax(scores, -1);
    const Tensor factors = options.dropout > 0 ? dropout_factors(weights.shape(), options, q.options()) : Tensor{};
    const auto drop = [&](const Tensor& x) { return factors ? x * factors : x; };
    const Tensor dv = matmul(transpose(drop(weights)), dy), dweights = drop(matmul(dy, transpose(values_of)));
    const Tensor dscores = weights * (dweights - sum(dweights * weights, {-1}, true)) * options.scale;
    return {matmul(dscores, keys_of), gather_groups(matmul(transpose(dscores), q)), gather_groups(dv)};
  }
};
struct Attention {
  static constexpr auto name = "attention";
  static constexpr bool expensive = true;
  static constexpr auto precision = Precision::low;
  AttentionOptions options;
  Saved q = {}, k = {}, v = {}, mask = {}, y = {}, statistics = {};
  Tensor forward(const Tensor& queries, const Tensor& keys, const Tensor& values, const Tensor& hidden) {
    const Shape& s = queries.shape();
    Tensor out = empty_heads({s[0], s[1], s[2], values.shape()[3]}, queries.options());
    Tensor rows = empty({s[0], s[1], 2, s[2]}, options_of_statistics(queries));
    const Tensor a = dense_features(queries), b = dense_features(keys), c = dense_features(values);
    RETAPE_DISPATCH(detail::cpu_for_meta(queries.device()), attention(a, b, c, hidden, options, out, rows));
    q = save(queries), k = save(keys), v = save(values), mask = save(hidden), y = save(out), statistics = save(rows);
    return out;
  }
  void backward(const Tensor& dy, Grads& dx) {
    const auto d = record(AttentionBackward{options}, dy, *q, *k, *v, *mask, *y, *statistics);
    dx.set(0, d[0]), dx.set(1, d[1]), dx.set(2, d[2]);
  }
};

constexpr auto op = "scaled_dot_product_attention";

void check(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionParams& params) {
  if (!q || !k || !v) throw Error(fmt::format("{}: q, k or v is an undefined tensor", op));
  const std::string shapes = fmt::format("q {}, k {} and v {}", q.shape().str(), k.shape().str(), v.shape().str());
  if (!is_floating(q.dtype()) || q.dtype() != k.dtype() || q.dtype() != v.dtype())
    throw Error(fmt::format("{}: q, k and v have dtypes {}, {} and {}; they must have one floating dtype", op, name_of(q.dtype()),
                            name_of(k.dtype()), name_of(v.dtype())));
  check_one_device(op, q, k, v, params.mask);
  if ((q.dim() != 3 && q.dim() != 4) || k.dim() != q.dim() || v.dim() != q.dim())
    throw Error(fmt::format("{}: {} must all have 4 dims, (batch, heads, positions, features), or 3 without batch", op, shapes));
  if (q.shape()[-1] != k.shape()[-1])
    throw Error(
        fmt::format("{}: {} do not fit: q has {} features and k has {}; they must be equal", op, shapes, q.shape()[-1], k.shape()[-1]));
  if (k.shape()[-2] != v.shape()[-2])
    throw Error(
        fmt::format("{}: {} do not fit: k has {} positions and v has {}; they must be equal", op, shapes, k.shape()[-2], v.shape()[-2]));
  const int64_t heads = q.shape()[-3], kv_heads = k.shape()[-3];
  if (kv_heads != v.shape()[-3] || (kv_heads == 0 ? heads != 0 : heads % kv_heads != 0))
    throw Error(fmt::format("{}: {} do not fit: k and v must have equally many heads, and q's {} must be a multiple of k's {}", op, shapes,
                            heads, kv_heads));
  if (q.dim() == 4 && (q.shape()[0] != k.shape()[0] || q.shape()[0] != v.shape()[0]))
    throw Error(fmt::format("{}: {} do not fit: their batch sizes must be equal", op, shapes));
  if (!(params.dropout_p >= 0 && params.dropout_p <= 1))
    throw Error(fmt::format("{}: dropout_p = {} is not a probability; it must be from 0 to 1", op, params.dropout_p));
}
// The mask as a view of shape (B, Hq, T, S).
Tensor check_mask(const Tensor& mask, const Shape& scores, int dims) {
  if (!mask) return mask;
  if (mask.dtype() != DType::boolean && !is_floating(mask.dtype()))
    throw Error(fmt::format("{}: the mask has dtype {}; it must be bool (true: attend) or floating", op, name_of(mask.dtype())));
  if (ctx.recording && mask.requires_grad())
    throw Error(
        fmt::format("{}: the mask wants a gradient, but masks have none; detach() it, or write attention with matmul() and softmax()", op));
  bool fits = mask.dim() <= dims;
  for (int d = 1; fits && d <= mask.dim(); ++d) fits = mask.shape()[-d] == 1 || mask.shape()[-d] == scores[-d];
  if (!fits)
    throw Error(fmt::format("{}: a mask of shape {} does not broadcast to the scores' shape {}", op, mask.shape().str(), scores.str()));
  return expand(mask, scores);
}

}  // namespace

Tensor scaled_dot_product_attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionParams& params,
                                    Generator& generator) {
  if (autocasting())
    return under_autocast(
        Attention::precision, [&](auto&... x) { return scaled_dot_product_attention(x..., params, generator); }, q, k, v);
  check(q, k, v, params);
  if (params.dropout_p == 1) {
    AttentionParams all = params;
    all.dropout_p = 0;
    return dropout(scaled_dot_product_attention(q, k, v, all, generator), 1, true, generator);
  }
  const auto batched = [&](const Tensor& x) { return x.dim() == 3 ? unsqueeze(x, 0) : x; };
  const Tensor a = batched(q), b = batched(k), c = batched(v);
  const Shape scores{a.shape()[0], a.shape()[1], a.shape()[2], b.shape()[2]};
  const Tensor mask = check_mask(params.mask, scores, q.dim());
  const double scale = params.scale != 0 ? params.scale : 1 / std::sqrt(double(q.shape()[-1]));
  const RandomState random = params.dropout_p > 0 ? generator.draw(scores.numel()) : RandomState{};
  const Tensor y = record(Attention{{scale, params.is_causal, params.dropout_p, random}}, a, b, c, mask);
  return q.dim() == 3 ? squeeze(y, 0) : y;
}

}  // namespace retape
