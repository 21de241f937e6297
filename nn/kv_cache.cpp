#include <retape/nn/kv_cache.h>

#include <fmt/format.h>

#include <algorithm>

#include <retape/autograd/index.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>

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
// The same positions in a buffer for `room`.
Tensor with_room(const Tensor& x, int64_t room) {
  const Shape& s = x.shape();
  const Tensor buffer = empty({s[0], s[1], room, s[3]}, x.options());
  copy_into(x, narrow(buffer, 2, 0, s[2]));
  return buffer;
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
KVCache::KVCache(const KVCache& o)
    : options_(o.options_), length_(o.length_), first_(o.first_), kept_(o.kept_), keys_(o.keys_), values_(o.values_) {
  const NoGrad off;
  if (keys_) keys_ = clone(keys_), values_ = clone(values_);
}
KVCache& KVCache::operator=(const KVCache& o) { return *this = KVCache(o); }

Tensor KVCache::keys() const { return keys_ ? narrow(keys_, 2, first_, kept_) : keys_; }
Tensor KVCache::values() const { return values_ ? narrow(values_, 2, first_, kept_) : values_; }

void KVCache::select(const Tensor& rows) {
  if (!keys_) return;
  const NoGrad off;
  // Room for some more positions rather than for all: rows are copied whole.
  int64_t room = (kept_ + 16) / 16 * 16;
  if (options_.capacity > 0) room = std::min(options_.capacity, room);
  const auto selected = [&](const Tensor& buffer) {
    if (first_ == 0 && buffer.size(2) == room) return index_select(buffer, 0, rows);
    return with_room(index_select(narrow(buffer, 2, first_, kept_), 0, rows), room);
  };
  const Tensor keys = selected(keys_);
  values_ = selected(values_);
  keys_ = keys, first_ = 0;
}

// Leaves what the next position sees: the sinks move next to the others, onto positions that are forgotten.
void KVCache::forget() {
  const int64_t sinks = std::min(options_.sinks, kept_), excess = kept_ - (options_.window - 1 + sinks);
  if (excess > 0) {
    for (const Tensor* x : {&keys_, &values_})
      if (sinks > 0) {
        const Tensor from = narrow(*x, 2, first_, sinks);
        copy_into(excess < sinks ? clone(from) : from, narrow(*x, 2, first_ + excess, sinks));
      }
    first_ += excess, kept_ -= excess;
  }
  const int64_t room = options_.sinks + 2 * options_.window;
  if (keys_.size(2) <= room) return;
  keys_ = with_room(keys(), room), values_ = with_room(values(), room), first_ = 0;
}

Tensor KVCache::attend(const Tensor& q, const Tensor& k, const Tensor& v, AttentionParams params) {
  check("k", k, keys_, q), check("v", v, values_, q), check(params, options_);
  const int64_t more = q.shape()[2], end = kept_ + more, capacity = options_.capacity, window = options_.window;
  if (capacity > 0 && end > capacity)
    throw Error(
        fmt::format("KVCache: {} more positions do not fit behind {} of {}; make a larger cache or clear() it", more, length_, capacity));
  const NoGrad off;
  int64_t first = first_;
  Tensor keys = keys_, values = values_;
  if (!keys || first_ + end > keys.size(2)) {
    int64_t room = std::max(end, window > 0 ? options_.sinks + 2 * window : keys ? 2 * keys.size(2) : int64_t{16});
    if (capacity > 0) room = keys ? std::min(capacity, room) : capacity;
    const auto larger = [&](const Tensor& before, const Tensor& x) {
      if (before) return with_room(narrow(before, 2, first_, kept_), room);
      const Shape& s = x.shape();
      return empty({s[0], s[1], room, s[3]}, x.options());
    };
    keys = larger(keys_, k), values = larger(values_, v), first = 0;
  }
  copy_into(k, narrow(keys, 2, first + kept_, more)), copy_into(v, narrow(values, 2, first + kept_, more));
  params.is_causal = true, params.query_offset = kept_;
  if (window > 0 && more > 1) params.window_left = window - 1, params.sinks = options_.sinks;  // one position sees all that is kept
  const Tensor y = scaled_dot_product_attention(q, narrow(keys, 2, first, end), narrow(values, 2, first, end), params);
  keys_ = keys, values_ = values, first_ = first, kept_ = end, length_ += more;
  if (window > 0) forget();
  return y;
}

}  // namespace retape::nn
