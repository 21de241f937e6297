#include <retape/nn/kv_cache.h>

#include <fmt/format.h>

#include <algorithm>

#include <retape/autograd/tape.h>

namespace retape::nn {
namespace {

void check(const char* name, const Tensor& x, const Tensor& buffer, const Tensor& q) {
  if (!x || x.dim() != 4 || !q || q.dim() != 4 || x.shape()[0] != q.shape()[0] || x.shape()[2] != q.shape()[2])
    throw Error(fmt::format("KVCache: {} {} does not fit q {}; they must be (B, H, T, D) with one B and one T", name,
                            x ? x.shape().str() : "(undefined)", q ? q.shape().str() : "(undefined)"));
  if (ctx.recording && (x.requires_grad() || q.requires_grad()))
    throw Error(fmt::format("KVCache: {} or q wants a gradient, which a cache has not; generate under NoGrad", name));
  if (!buffer) return;
  const Shape &s = x.shape(), &b = buffer.shape();
  if (s[0] != b[0] || s[1] != b[1] || s[3] != b[3] || x.dtype() != buffer.dtype() || !(x.device() == buffer.device()))
    throw Error(
        fmt::format("KVCache: {} {} of {} does not go on from what is cached, ({}, {}, positions, {}) of {}; clear() keeps these sizes, "
                    "so make a new cache for others",
                    name, s.str(), retape::name_of(x.dtype()), b[0], b[1], b[3], retape::name_of(buffer.dtype())));
}
void check(const AttentionParams& params, const KVCacheOptions& options) {
  const char* const what = params.mask                                             ? "a mask"
                           : params.dropout_p != 0                                 ? "dropout"
                           : params.window_left != -1 || params.window_right != -1 ? "a window"
                           : params.sinks != 0                                     ? "sinks"
                           : params.query_offset != 0                              ? "a query_offset"
                           : params.cu_seqlens_q || params.cu_seqlens_k            ? "packed sequences"
                           : params.block_mask && options.window > 0               ? "a block_mask next to the cache's window"
                           : options.sinks > 0 && (params.alibi_slopes || params.relative_bias)
                               ? "biases by distance next to the cache's sinks"
                               : nullptr;
  if (what)
    throw Error(fmt::format(
        "KVCache: attend() got {}; it takes scale, softcap, biases by distance and block_mask, and the rest is the cache's", what));
  for (const Tensor* x : {&params.alibi_slopes, &params.relative_bias})
    if (ctx.recording && *x && x->requires_grad())
      throw Error("KVCache: a bias wants a gradient, which a cache has not; generate under NoGrad");
}

}  // namespace

KVCache::KVCache(KVCacheOptions options) : options_(options) {
  if (options.capacity < 0 || options.window < 0 || options.sinks < 0)
    throw Error(fmt::format("KVCache: capacity {}, window {} and sinks {} are not valid; each must be 0 (none) or more", options.capacity,
                            options.window, options.sinks));
  if (options.sinks > 0 && options.window == 0)
    throw Error(fmt::format("KVCache: {} sinks without a window are like all other positions; give a window, too", options.sinks));
  if (options.capacity > 0 && options.window > 0)
    throw Error(
        fmt::format("KVCache: a window of {} bounds the memory, and any number of positions may follow; a capacity of {} would have no "
                    "meaning, so give one of the two",
                    options.window, options.capacity));
}
KVCache::KVCache(int64_t capacity) : options_{.capacity = capacity} {
  if (capacity <= 0) throw Error(fmt::format("KVCache: a capacity of {} positions is not valid; it must be positive", capacity));
}

void KVCache::select(const Tensor& rows) {
  // Room for some more positions rather than for all: rows are copied whole.
  int64_t room = (keys_.length() + 16) / 16 * 16;
  if (options_.capacity > 0) room = std::min(options_.capacity, room);
  keys_.select(rows, room), values_.select(rows, room);
}

Tensor KVCache::attend(const Tensor& q, const Tensor& k, const Tensor& v, AttentionParams params) {
  check("k", k, keys_.all(), q), check("v", v, values_.all(), q), check(params, options_);
  const int64_t more = q.shape()[2], kept = keys_.length(), end = kept + more, capacity = options_.capacity, window = options_.window;
  if (capacity > 0 && end > capacity)
    throw Error(
        fmt::format("KVCache: {} more positions do not fit behind {} of {}; make a larger cache or clear() it", more, length_, capacity));
  const NoGrad off;
  int64_t room = std::max(end, window > 0 ? options_.sinks + 2 * window : std::max<int64_t>(16, 2 * keys_.room()));
  if (capacity > 0) room = keys_.room() > 0 ? std::min(capacity, room) : capacity;
  GrowingTensor keys = keys_.with(k, room), values = values_.with(v, room);
  params.is_causal = true, params.query_offset = kept;
  if (window > 0 && more > 1) params.window_left = window - 1, params.sinks = options_.sinks;  // one position sees all that is kept
  const Tensor y = scaled_dot_product_attention(q, keys.all(), values.all(), params);
  keys_ = std::move(keys), values_ = std::move(values), length_ += more;
  if (window > 0)  // what the next position sees
    for (GrowingTensor* x : {&keys_, &values_}) {
      x->keep(window - 1, options_.sinks);
      x->shrink(options_.sinks + 2 * window);
    }
  return y;
}

}  // namespace retape::nn
