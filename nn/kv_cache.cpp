#include <retape/nn/kv_cache.h>

#include <fmt/format.h>

#include <algorithm>

#include <retape/autograd/attention.h>
#include <retape/autograd/binary.h>
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
Tensor buffer_for(const Tensor& x, int64_t capacity) {
  const Shape& s = x.shape();
  return empty({s[0], s[1], capacity, s[3]}, x.options());
}
// The same positions in a buffer for `room`.
Tensor with_room(const Tensor& x, int64_t room) {
  const Tensor buffer = buffer_for(x, room);
  copy_into(x, narrow(buffer, 2, 0, x.size(2)));
  return buffer;
}
}  // namespace

KVCache::KVCache(int64_t capacity) : capacity_(capacity) {
  if (capacity <= 0) throw Error(fmt::format("KVCache: a capacity of {} positions is not valid; it must be positive", capacity));
}

Tensor KVCache::keys() const { return keys_ ? narrow(keys_, 2, 0, length_) : keys_; }
Tensor KVCache::values() const { return values_ ? narrow(values_, 2, 0, length_) : values_; }

void KVCache::select(const Tensor& rows) {
  if (!keys_) return;
  const NoGrad off;
  // Room for some more positions rather than for all: rows are copied whole.
  const int64_t room = std::min(capacity_, (length_ + 16) / 16 * 16);
  const auto selected = [&](const Tensor& buffer) {
    if (buffer.size(2) == room) return index_select(buffer, 0, rows);
    return with_room(index_select(narrow(buffer, 2, 0, length_), 0, rows), room);
  };
  const Tensor keys = selected(keys_);
  values_ = selected(values_);
  keys_ = keys;
}

Tensor KVCache::attend(const Tensor& q, const Tensor& k, const Tensor& v, double scale) {
  check("k", k, keys_, q), check("v", v, values_, q);
  const int64_t more = q.shape()[2], end = length_ + more;
  if (end > capacity_)
    throw Error(
        fmt::format("KVCache: {} more positions do not fit behind {} of {}; make a larger cache or clear() it", more, length_, capacity_));
  const NoGrad off;
  const auto buffer = [&](const Tensor& before, const Tensor& x) {
    if (!before) return buffer_for(x, capacity_);
    return end <= before.size(2) ? before
                                 : with_room(narrow(before, 2, 0, length_), std::min(capacity_, std::max(2 * before.size(2), end)));
  };
  const Tensor keys = buffer(keys_, k), values = buffer(values_, v);
  copy_into(k, narrow(keys, 2, length_, more)), copy_into(v, narrow(values, 2, length_, more));
  AttentionParams params{.is_causal = length_ == 0, .scale = scale};
  if (length_ > 0 && more > 1) {
    const Options positions{.dtype = DType::i64, .device = q.device()};
    params.mask = le(arange(end, positions), unsqueeze(arange(double(length_), double(end), 1, positions), 1));
  }
  const Tensor y = scaled_dot_product_attention(q, narrow(keys, 2, 0, end), narrow(values, 2, 0, end), params);
  keys_ = keys, values_ = values, length_ = end;
  return y;
}

}  // namespace retape::nn
