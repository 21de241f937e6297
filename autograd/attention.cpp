#include <retape/autograd/attention.h>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include <retape/autograd/binary.h>
#include <retape/autograd/check.h>
#include <retape/autograd/dropout.h>
#include <retape/autograd/index.h>
#include <retape/autograd/matmul.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/softmax.h>
#include <retape/autograd/sort.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
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

// Where queries and keys stand, and so what they see of each other: for the composite, which stores all scores.
struct Positions {
  Tensor hidden;    // bool, broadcasts to (B, Hq, T, S); undefined if nothing is
  Tensor distance;  // i64 (T * S): a column of the table of relative biases
  Positions(const AttentionOptions& o, int64_t queries, int64_t keys, const AttentionTensors& tensors, Device device) {
    const Options integers{.dtype = DType::i64, .device = device};
    const auto hide = [&](const Tensor& more) { hidden = hidden ? logical_or(hidden, more) : more; };
    Tensor of_query = arange(queries, integers), of_key = arange(keys, integers);
    if (tensors.cu_q) {
      const auto sequence = [](const Tensor& at, const Tensor& cu) { return searchsorted(cu, at, true) - 1; };
      const Tensor a = sequence(of_query, tensors.cu_q), b = sequence(of_key, tensors.cu_k);
      hide(ne(unsqueeze(a, 1), b));
      of_query = of_query - index_select(tensors.cu_q, 0, a), of_key = of_key - index_select(tensors.cu_k, 0, b);
    }
    distance = reshape(of_key - unsqueeze(of_query, 1) + (queries - 1), {queries * keys});
    of_query = of_query + o.offset;
    const Tensor rows = unsqueeze(of_query, 1);
    if (o.right < o.unlimited) hide(gt(of_key, rows + o.right));
    if (o.left < o.unlimited) hide(logical_and(lt(of_key, rows - o.left), ge(of_key, o.sinks)));
    if (tensors.blocks) {
      const auto blocks = [&](const Tensor& x, int dim, const Tensor& at) { return index_select(x, dim, floor_divide(at, o.block_size)); };
      hide(logical_not(blocks(blocks(tensors.blocks, 1, of_query), 2, of_key)));
    }
  }
};

struct AttentionBackward {  // y and statistics are for the kernel; the composite makes the weights again
  static constexpr auto name = "attention_backward";
  static constexpr bool expensive = true;
  AttentionOptions options;
  bool of_relative;  // else the last result has no elements
  std::array<Tensor, 4> forward(const Tensor& dy, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask,
                                const Tensor& relative, const Tensor& blocks, const Tensor& cu_q, const Tensor& cu_k, const Tensor& y,
                                const Tensor& statistics) {
    Tensor dq = empty_heads(q.shape(), q.options()), dk = empty_heads(k.shape(), k.options()), dv = empty_heads(v.shape(), v.options());
    Tensor drelative = of_relative ? empty(relative.shape(), relative.options()) : Tensor{};
    const Tensor d = dense_features(dy), a = dense_features(q), b = dense_features(k), c = dense_features(v), out = dense_features(y);
    const AttentionTensors tensors{mask, relative, blocks, cu_q, cu_k};
    RETAPE_DISPATCH(detail::cpu_for_meta(q.device()),
                    attention_backward(d, a, b, c, tensors, out, statistics, options, dq, dk, dv, drelative));
    return {dq, dk, dv, drelative ? drelative : empty({0}, options_of_statistics(q))};
  }
  std::array<Tensor, 4> composite(const Tensor& dy, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask,
                                  const Tensor& relative, const Tensor& blocks, const Tensor& cu_q, const Tensor& cu_k, const Tensor&,
                                  const Tensor&) {
    const int64_t batch = q.shape()[0], heads = q.shape()[1], kv_heads = k.shape()[1], group = heads / kv_heads, queries = q.shape()[2],
                  keys = k.shape()[2];
    const auto repeat = [&](const Tensor& x) {  // a head of k or v for each head of q
      return reshape(expand(unsqueeze(x, 2), {batch, kv_heads, group, keys, x.shape()[3]}), {batch, heads, keys, x.shape()[3]});
    };
    const auto gather_groups = [&](const Tensor& x) { return sum(reshape(x, {batch, kv_heads, group, keys, x.shape()[3]}), {2}); };
    const Positions positions(options, queries, keys, {mask, relative, blocks, cu_q, cu_k}, q.device());
    const Tensor keys_of = repeat(k), values_of = repeat(v);
    Tensor scores = matmul(q, transpose(keys_of)) * options.scale, slopes;
    if (options.softcap > 0) {
      const Tensor t = tanh(scores / options.softcap);
      scores = t * options.softcap, slopes = 1 - t * t;
    }
    if (relative) scores = scores + cast(reshape(index_select(relative, 1, positions.distance), {heads, queries, keys}), q.dtype());
    if (mask) scores = mask.dtype() == DType::boolean ? masked_fill(scores, logical_not(mask), -INFINITY) : scores + cast(mask, q.dtype());
    if (positions.hidden) scores = masked_fill(scores, positions.hidden, -INFINITY);
    const Tensor weights = softmax(scores, -1);
    const Tensor factors = options.dropout > 0 ? dropout_factors(weights.shape(), options, q.options()) : Tensor{};
    const auto drop = [&](const Tensor& x) { return factors ? x * factors : x; };
    const Tensor dv = matmul(transpose(drop(weights)), dy), dweights = drop(matmul(dy, transpose(values_of)));
    Tensor dscores = weights * (dweights - sum(dweights * weights, {-1}, true));
    Tensor drelative = empty({0}, options_of_statistics(q));
    if (of_relative)
      drelative = index_add(zeros(relative.shape(), relative.options()), 1, positions.distance,
                            cast(reshape(sum(dscores, {0}), {heads, queries * keys}), relative.dtype()));
    if (slopes) dscores = dscores * slopes;
    dscores = dscores * options.scale;
    return {matmul(dscores, keys_of), gather_groups(matmul(transpose(dscores), q)), gather_groups(dv), drelative};
  }
};
struct Attention {
  static constexpr auto name = "attention";
  static constexpr bool expensive = true;
  static constexpr auto precision = Precision::low;
  AttentionOptions options;
  Saved q = {}, k = {}, v = {}, mask = {}, relative = {}, blocks = {}, cu_q = {}, cu_k = {}, y = {}, statistics = {};
  Tensor forward(const Tensor& queries, const Tensor& keys, const Tensor& values, const Tensor& hidden, const Tensor& of_distance,
                 const Tensor& of_blocks, const Tensor& begin_q, const Tensor& begin_k) {
    const Shape& s = queries.shape();
    Tensor out = empty_heads({s[0], s[1], s[2], values.shape()[3]}, queries.options());
    Tensor rows = empty({s[0], s[1], 2, s[2]}, options_of_statistics(queries));
    const Tensor a = dense_features(queries), b = dense_features(keys), c = dense_features(values);
    const AttentionTensors tensors{hidden, of_distance, of_blocks, begin_q, begin_k};
    RETAPE_DISPATCH(detail::cpu_for_meta(queries.device()), attention(a, b, c, tensors, options, out, rows));
    q = save(queries), k = save(keys), v = save(values), mask = save(hidden), relative = save(of_distance), blocks = save(of_blocks);
    cu_q = save(begin_q), cu_k = save(begin_k), y = save(out), statistics = save(rows);
    return out;
  }
  void backward(const Tensor& dy, Grads& dx) {
    const auto d =
        record(AttentionBackward{options, dx.wants(4)}, dy, *q, *k, *v, *mask, *relative, *blocks, *cu_q, *cu_k, *y, *statistics);
    dx.set(0, d[0]), dx.set(1, d[1]), dx.set(2, d[2]);
    if (dx.wants(4)) dx.set(4, d[3]);
  }
};

constexpr auto op = "scaled_dot_product_attention";

void check(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionParams& params) {
  if (!q || !k || !v) throw Error(fmt::format("{}: q, k or v is an undefined tensor", op));
  const std::string shapes = fmt::format("q {}, k {} and v {}", q.shape().str(), k.shape().str(), v.shape().str());
  if (!is_floating(q.dtype()) || q.dtype() != k.dtype() || q.dtype() != v.dtype())
    throw Error(fmt::format("{}: q, k and v have dtypes {}, {} and {}; they must have one floating dtype", op, name_of(q.dtype()),
                            name_of(k.dtype()), name_of(v.dtype())));
  check_one_device(op, q, k, v, params.mask, params.alibi_slopes, params.relative_bias, params.block_mask, params.cu_seqlens_q,
                   params.cu_seqlens_k);
  const bool packed = bool(params.cu_seqlens_q);
  if (packed != bool(params.cu_seqlens_k))
    throw Error(fmt::format("{}: cu_seqlens_{} is given and cu_seqlens_{} is not; packed sequences need both", op, packed ? "q" : "k",
                            packed ? "k" : "q"));
  if (packed && (q.dim() != 3 || k.dim() != 3 || v.dim() != 3))
    throw Error(fmt::format("{}: packed sequences {} must all have 3 dims, (positions, heads, features)", op, shapes));
  if ((q.dim() != 3 && q.dim() != 4) || k.dim() != q.dim() || v.dim() != q.dim())
    throw Error(fmt::format("{}: {} must all have 4 dims, (batch, heads, positions, features), or 3 without batch", op, shapes));
  if (q.shape()[-1] != k.shape()[-1])
    throw Error(
        fmt::format("{}: {} do not fit: q has {} features and k has {}; they must be equal", op, shapes, q.shape()[-1], k.shape()[-1]));
  const int positions = packed ? -3 : -2, of_heads = packed ? -2 : -3;
  if (k.shape()[positions] != v.shape()[positions])
    throw Error(fmt::format("{}: {} do not fit: k has {} positions and v has {}; they must be equal", op, shapes, k.shape()[positions],
                            v.shape()[positions]));
  const int64_t heads = q.shape()[of_heads], kv_heads = k.shape()[of_heads];
  if (kv_heads != v.shape()[of_heads] || (kv_heads == 0 ? heads != 0 : heads % kv_heads != 0))
    throw Error(fmt::format("{}: {} do not fit: k and v must have equally many heads, and q's {} must be a multiple of k's {}", op, shapes,
                            heads, kv_heads));
  if (q.dim() == 4 && (q.shape()[0] != k.shape()[0] || q.shape()[0] != v.shape()[0]))
    throw Error(fmt::format("{}: {} do not fit: their batch sizes must be equal", op, shapes));
  if (!(params.dropout_p >= 0 && params.dropout_p <= 1))
    throw Error(fmt::format("{}: dropout_p = {} is not a probability; it must be from 0 to 1", op, params.dropout_p));
  if (params.window_left < -1 || params.window_right < -1)
    throw Error(fmt::format("{}: window_left = {} and window_right = {} are not a window; both must be -1 (no limit), 0 or more", op,
                            params.window_left, params.window_right));
  if (params.query_offset < 0 || params.query_offset >= AttentionOptions::unlimited || params.sinks < 0)
    throw Error(fmt::format("{}: query_offset = {} and sinks = {} do not count positions; both must be 0 or more", op, params.query_offset,
                            params.sinks));
  if (!(params.softcap >= 0 && std::isfinite(params.softcap)))
    throw Error(fmt::format("{}: softcap = {} is not valid; it must be positive, or 0 for none", op, params.softcap));
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
// What depends on distances alone, as one table.
Tensor relative_table(const AttentionParams& params, const Shape& scores, Options options) {
  const int64_t heads = scores[1], queries = scores[2], columns = std::max(int64_t{0}, queries + scores[3] - 1);
  const auto check_table = [&](const char* name, const Tensor& x, const Shape& expected) {
    if (!(x.shape() == expected) || !is_floating(x.dtype()))
      throw Error(fmt::format("{}: {} is {} of {}; for scores {} it must be {} of a floating dtype", op, name, x.shape().str(),
                              name_of(x.dtype()), scores.str(), expected.str()));
  };
  Tensor table;
  if (params.relative_bias) {
    check_table("relative_bias", params.relative_bias, {heads, columns});
    table = cast(params.relative_bias, options.dtype);
  }
  if (params.alibi_slopes) {
    check_table("alibi_slopes", params.alibi_slopes, {heads});
    const double first = double(queries - 1 + params.query_offset);
    const Tensor distance = abs(arange(-first, double(columns) - first, 1, options));
    const Tensor alibi = neg(unsqueeze(cast(params.alibi_slopes, options.dtype), 1) * distance);
    table = table ? table + alibi : alibi;
  }
  return table ? contiguous(table) : table;
}
Tensor check_blocks(const AttentionParams& params, int64_t heads, int64_t queries, int64_t keys) {
  const Tensor& blocks = params.block_mask;
  if (!blocks) return blocks;
  const int64_t size = params.block_size;
  if (size <= 0 || size % 64 != 0)
    throw Error(fmt::format("{}: a block_size of {} does not divide into tiles; it must be a positive multiple of 64", op, size));
  const Shape one{1, (queries + params.query_offset + size - 1) / size, (keys + size - 1) / size}, each{heads, one[1], one[2]};
  const Tensor all = blocks.dim() == 2 ? unsqueeze(blocks, 0) : blocks;
  if (blocks.dtype() != DType::boolean || !(all.shape() == one || all.shape() == each))
    throw Error(
        fmt::format("{}: block_mask is {} of {}; for {} queries from position {} and {} keys in blocks of {} it must be {} or {} of bool",
                    op, blocks.shape().str(), name_of(blocks.dtype()), queries, params.query_offset, keys, size, one.str(), each.str()));
  return contiguous(all);
}
// cu_seqlens as i64; its values are looked at where they can be without waiting for a device.
Tensor check_sequences(const char* name, const Tensor& cu, int64_t total, int64_t longest) {
  if (!cu) return cu;
  if ((cu.dtype() != DType::i64 && cu.dtype() != DType::i32) || cu.dim() != 1 || cu.numel() == 0)
    throw Error(fmt::format("{}: {} is {} of {}; it must be i32 or i64 (N + 1)", op, name, cu.shape().str(), name_of(cu.dtype())));
  if (longest < 0) throw Error(fmt::format("{}: the longest sequence of {} has {} positions; it must be 0 or more", op, name, longest));
  const Tensor begin = contiguous(cast(cu.detach(), DType::i64));
  if (!begin.device().is_cpu()) return begin;
  const int64_t *const at = begin.data<int64_t>(), count = begin.numel();
  if (at[0] != 0 || at[count - 1] != total)
    throw Error(
        fmt::format("{}: {} goes from {} to {}; it must go from 0 to {}, the positions there are", op, name, at[0], at[count - 1], total));
  for (int64_t n = 0; n + 1 < count; ++n)
    if (at[n + 1] < at[n] || at[n + 1] - at[n] > longest)
      throw Error(fmt::format("{}: sequence {} of {} goes from {} to {}; it must have from 0 to {} positions", op, n, name, at[n],
                              at[n + 1], longest));
  return begin;
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
  const bool packed = bool(params.cu_seqlens_q);
  const auto batched = [&](const Tensor& x) { return packed ? unsqueeze(transpose(x, 0, 1), 0) : x.dim() == 3 ? unsqueeze(x, 0) : x; };
  const Tensor a = batched(q), b = batched(k), c = batched(v);
  const Shape scores{a.shape()[0], a.shape()[1], a.shape()[2], b.shape()[2]};
  if (packed && params.mask) throw Error(fmt::format("{}: packed sequences take no mask; hide keys by windows or block_mask", op));
  const int64_t longest_q = packed && params.max_seqlen_q != 0 ? params.max_seqlen_q : scores[2];
  const int64_t longest_k = packed && params.max_seqlen_k != 0 ? params.max_seqlen_k : scores[3];
  const Tensor cu_q = check_sequences("cu_seqlens_q", params.cu_seqlens_q, scores[2], longest_q);
  const Tensor cu_k = check_sequences("cu_seqlens_k", params.cu_seqlens_k, scores[3], longest_k);
  if (packed && cu_q.numel() != cu_k.numel())
    throw Error(fmt::format("{}: cu_seqlens_q is of {} sequences and cu_seqlens_k of {}; they must be as many", op, cu_q.numel() - 1,
                            cu_k.numel() - 1));
  const Tensor mask = check_mask(params.mask, scores, q.dim()), blocks = check_blocks(params, scores[1], longest_q, longest_k);
  const Tensor relative = relative_table(params, scores, options_of_statistics(q));
  const auto limit = [](int64_t n) { return n < 0 ? AttentionOptions::unlimited : std::min(n, AttentionOptions::unlimited); };
  AttentionOptions options{.scale = params.scale != 0 ? params.scale : 1 / std::sqrt(double(q.shape()[-1])),
                           .left = limit(params.window_left),
                           .right = params.is_causal ? 0 : limit(params.window_right),
                           .offset = params.query_offset,
                           .sinks = std::min(params.sinks, scores[3]),
                           .block_size = params.block_size,
                           .softcap = params.softcap,
                           .dropout = params.dropout_p,
                           .longest_queries = longest_q,
                           .longest_keys = longest_k,
                           .refuse_masked_rows = !params.allow_masked_rows && (mask || blocks || params.window_left >= 0)};
  if (options.left == options.unlimited) options.sinks = 0;
  if (params.dropout_p > 0) options.random = generator.draw(scores.numel());
  const Tensor y = record(Attention{options}, a, b, c, mask, relative, blocks, cu_q, cu_k);
  return packed ? transpose(squeeze(y, 0), 0, 1) : q.dim() == 3 ? squeeze(y, 0) : y;
}

}  // namespace retape
