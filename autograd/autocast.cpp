#include <retape/autograd/autocast.h>

#include <fmt/format.h>

#include <unordered_map>

#include <retape/autograd/node.h>
#include <retape/autograd/views.h>

namespace retape {

// A cast belongs to the region that can make it again, and one made while nothing was recorded is of no use to code that records.
// The entry keeps its weight, so that no other gets the address, and the version that it has read, which a weight that
// gets other bytes counts on, too.
struct Autocast::Cache {
  struct Key {
    const TensorImpl* weight;
    const Region* region;
    DType to;
    bool recorded;
    bool operator==(const Key&) const = default;
  };
  struct Hash {
    size_t operator()(const Key& k) const {
      return (reinterpret_cast<size_t>(k.weight) >> 4) * 31 + (reinterpret_cast<size_t>(k.region) >> 4) * 7 + size_t(k.to) * 2 + k.recorded;
    }
  };
  struct Cast {
    Tensor weight, value;
    uint32_t version = 0;
  };
  std::unordered_map<Key, Cast, Hash> casts;
};
thread_local Autocast::Cache* Autocast::cache_ = nullptr;

namespace {

bool casts(DType d) { return d == DType::f32 || d == DType::f16 || d == DType::bf16; }
DType checked(DType d) {
  if (d != DType::bf16 && d != DType::f16) throw Error(fmt::format("autocast: cannot run ops in {}; use bf16 or f16", name_of(d)));
  return d;
}

}  // namespace

Autocast::Autocast(DType dtype, bool enabled)
    : low(checked(dtype)), owned_(cache_ ? nullptr : std::make_unique<Cache>()), scope_(ctx.autocast, enabled ? this : nullptr) {
  if (owned_) cache_ = owned_.get();
}
Autocast::~Autocast() {
  if (owned_) cache_ = nullptr;
}

Tensor autocast_input(const Tensor& x, DType to) {
  if (!x || x.dtype() == to || !casts(x.dtype())) return x;
  if (!x->leaf_wants_grad) return cast(x, to);
  auto& casts = Autocast::cache_->casts;
  const Autocast::Cache::Key key{x.impl(), ctx.region, to, ctx.recording};
  if (const auto found = casts.find(key); found != casts.end()) {
    const auto& known = found->second;
    if (known.version == x->storage->version) return known.value;
  }
  const Tensor value = cast(x, to);
  if (value->producer) node_of(value->producer)->shared = true;
  casts[key] = {x, value, x->storage->version};
  return value;
}

void forget_casts(const Region* region) {
  if (!Autocast::cache_) return;
  std::erase_if(Autocast::cache_->casts, [&](const auto& entry) { return entry.first.region == region; });
}

void detail::widen(DType& to, const Tensor& x) {
  if (x && casts(x.dtype())) to = promote(to, x.dtype());
}

}  // namespace retape
