#include <retape/autograd/memory_budget.h>

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include <retape/autograd/budget.h>
#include <retape/autograd/memory_report.h>
#include <retape/autograd/spill_file.h>
#include <retape/core/device_runtime.h>
#include <retape/core/dispatch.h>

namespace retape {
namespace {

// The bytes of a value that has left memory.
struct Place {
  virtual ~Place() = default;
  virtual void load(Tensor& flat) = 0;
};
struct InFile final : Place {
  SpillFile::Extent extent;
  explicit InFile(SpillFile::Extent e) : extent(std::move(e)) {}
  void load(Tensor& flat) override { extent.read(flat->storage->data); }
};
struct InHost final : Place {
  Tensor value;  // pinned
  explicit InHost(Tensor v) : value(std::move(v)) {}
  void load(Tensor& flat) override {
    detail::cuda_runtime->use(flat.device().index);
    detail::cuda_runtime->from_host(value->storage->data, flat->storage->data, value->storage->bytes, true);
  }
};
struct Rounded final : Place {
  Tensor value;
  explicit Rounded(Tensor v) : value(std::move(v)) {}
  void load(Tensor& flat) override {
    const Scoped inside(ctx.inside_forward, true);
    RETAPE_DISPATCH(flat.device(), copy(value, flat));
  }
};

// In Storage::slot of every value that a budget has seen.
struct Slot final : Object {
  Node* source;  // lives as long as an entry of the tape names the storage
  DType dtype;
  bool listed = false;  // among the candidates of a budget
  uint64_t last_use = 0;
  std::unique_ptr<Place> place;
  Slot(Node* n, DType d) : source(n), dtype(d) {}
  void destroy() noexcept override { delete this; }
};
Slot* slot_of(const Storage& s) { return static_cast<Slot*>(s.slot.get()); }

Tensor flat(Storage& s, DType dtype) {
  Layout layout;
  layout.shape = {int64_t(s.bytes / size_of(dtype))};
  layout.strides = {1};
  layout.dtype = dtype;
  return make_tensor(Ref<Storage>::share(&s), layout);
}

// The time that the ops took which would have to run to make a value again.
double seconds_to_make(Node* source) {
  constexpr size_t far_enough = 256;
  static thread_local uint64_t walk = 0;
  static thread_local std::vector<Node*> todo;
  todo.assign(1, source);
  source->replay->visited = ++walk;
  double seconds = 0;
  for (size_t i = 0; i < todo.size(); ++i) {
    seconds += todo[i]->replay->seconds;
    for (Entry& x : todo[i]->replay->inputs) {
      if (!x.absent || x.is_here() || detail::is_away(*x.storage())) continue;
      Node* n = x.absent->source.get();
      if (n->replay->visited == walk || todo.size() >= far_enough) continue;
      n->replay->visited = walk;
      todo.push_back(n);
    }
  }
  return seconds;
}

}  // namespace

struct Budget {
  int64_t bytes;
  MemoryBudgetOptions options;
  Budget* next = ctx.budget;
  Budget* outer = of(options.device);
  std::vector<WeakStorage> own;
  std::vector<WeakStorage>& candidates = outer ? outer->candidates : own;
  std::shared_ptr<SpillFile> file;
  size_t largest = 0, turn = 0;

  Budget(int64_t b, MemoryBudgetOptions o) : bytes(b), options(std::move(o)) {}
  /// The innermost one of a device; null if there is none.
  static Budget* of(Device device) {
    Budget* b = ctx.budget;
    while (b && !(b->options.device == device)) b = b->next;
    return b;
  }
  int64_t live() const { return detail::live_memory(options.device); }
  int64_t limit() const {
    int64_t least = std::numeric_limits<int64_t>::max();
    for (const Budget* b = this; b; b = b->outer)
      if (b->bytes != MemoryBudget::least) least = std::min(least, b->bytes);
    return least;
  }

  void watch(Storage& s) {
    Slot& slot = *slot_of(s);
    if (slot.listed) return;
    candidates.emplace_back(&s);
    slot.listed = true;
    largest = std::max(largest, s.bytes);
  }
  void unlist(size_t i) {
    slot_of(*candidates[i].get())->listed = false;
    std::swap(candidates[i], candidates.back());
    candidates.pop_back();
  }
  bool may_go(const Storage& s) const {
    if (!s.kept || s.owners() != 1) return false;
    return options.evict != Evict::bf16 || (slot_of(s)->dtype == DType::f32 && live() <= limit() - room_to_round(s.bytes));
  }
  static int64_t room_to_round(size_t bytes) { return int64_t(bytes * 5 / 8); }  // half, as the allocator may round it up
  void drop_stale() {
    for (size_t i = candidates.size(); i-- > 0;)
      if (const Storage& s = *candidates[i].get(); !s.data || !s.tape_refs) unlist(i);
  }

  // Of very many candidates only every n-th is looked at, unless none of those may go.
  static constexpr size_t looked_at = 1024;
  size_t next_to_go() {
    drop_stale();
    const size_t step = candidates.size() / looked_at + 1;
    size_t found = best_of(turn++ % step, step);
    if (found == candidates.size() && step > 1) found = best_of(0, 1);
    return found;
  }
  size_t best_of(size_t first, size_t step) {
    size_t best = candidates.size();
    double least = 0;
    for (size_t i = first; i < candidates.size(); i += step) {
      const Storage& s = *candidates[i].get();
      if (!may_go(s)) continue;
      const Slot& slot = *slot_of(s);
      const double cost = options.evict == Evict::recompute ? seconds_to_make(slot.source) / double(s.bytes) : 1;
      const double value = cost / double(ctx.clock - slot.last_use + 1);
      if (best == candidates.size() || value < least) best = i, least = value;
    }
    return best;
  }
  void evict(size_t i) {
    Storage& s = *candidates[i].get();
    Slot& slot = *slot_of(s);
    if (options.evict == Evict::spill && !slot.place && s.device.is_cuda()) {
      slot.place = std::make_unique<InHost>(detail::copy_to(flat(s, slot.dtype), Device::cpu(), true));
    } else if (options.evict == Evict::spill && !slot.place) {
      slot.place = std::make_unique<InFile>(SpillFile::write(file, s.data, s.bytes));
    } else if (options.evict == Evict::bf16) {
      const Scoped free_of_limits(detail::make_room, nullptr);  // may_go() has seen to it
      const Scoped inside(ctx.inside_forward, true);
      const Tensor x = flat(s, DType::f32);
      Tensor y = empty(x.shape(), {DType::bf16, s.device});
      RETAPE_DISPATCH(s.device, copy(x, y));
      slot.place = std::make_unique<Rounded>(y);
    }
    unlist(i);
    s.unkeep();
  }
  void make_room(int64_t more) {
    if (bytes == MemoryBudget::least) {
      drop_stale();
      for (size_t i = candidates.size(); i-- > 0;)
        if (may_go(*candidates[i].get())) evict(i);
    }
    const int64_t most = limit() - (options.evict == Evict::bf16 ? room_to_round(largest) : 0);  // so that the next one can be rounded
    while (live() > most - more) {
      const size_t i = next_to_go();
      if (i < candidates.size()) evict(i);
      else if (live() <= limit() - more) return;
      else cannot_fit(more);
    }
  }
  [[noreturn]] void cannot_fit(int64_t more) const {
    const int64_t used = live();
    if (!more)
      throw Error(fmt::format("memory budget: {} bytes{} are too few: tensors that cannot be dropped hold {} bytes already", limit(),
                              options.device.is_cpu() ? "" : " on " + options.device.str(), used));
    throw Error(fmt::format(
        "memory budget: {} needs {} bytes, but {} of the {} bytes are in use by values that cannot be dropped; give at least {}. {}",
        ctx.op ? ctx.op : "a new tensor", more, used, limit(), used + more, detail::memory_holders(options.device)));
  }
};

namespace {
void make_room(Device device, int64_t bytes) {
  if (Budget* const budget = Budget::of(device)) budget->make_room(bytes);
}
}  // namespace

MemoryBudget::MemoryBudget(int64_t bytes, MemoryBudgetOptions options)
    : budget_(std::make_unique<Budget>(bytes, std::move(options))),
      scope_(ctx.budget, budget_.get()),
      hook_(detail::make_room, retape::make_room) {
  if (bytes <= 0 && bytes != least)
    throw Error(fmt::format("memory budget: {} bytes are not valid; give a positive number, or MemoryBudget::least", bytes));
  if (budget_->options.device.is_meta()) throw Error("memory budget: meta has no memory; give the CPU or a CUDA device");
  if (budget_->options.evict == Evict::spill && budget_->options.device.is_cpu())
    budget_->file = SpillFile::create(budget_->options.spill_folder);
  budget_->make_room(0);
}
MemoryBudget::~MemoryBudget() {
  for (auto& s : budget_->own) slot_of(*s.get())->listed = false;
}

namespace detail {

void keep(Storage& s, DType dtype, Node& source) {
  s.keep();
  Budget* const budget = Budget::of(s.device);
  if (!budget || (s.is_small() && budget->bytes != MemoryBudget::least)) return;
  if (!s.slot) s.slot = Ref<Object>::adopt(new Slot(&source, dtype));
  slot_of(s)->last_use = ctx.clock;
  budget->watch(s);
}
void touch(Storage& s) {
  if (s.slot) slot_of(s)->last_use = ++ctx.clock;
}
bool is_away(const Storage& s) { return !s.data && s.slot && slot_of(s)->place; }
bool bring_back(Storage& s) {
  if (!is_away(s)) return false;
  Slot& slot = *slot_of(s);
  const Ref<Storage> fresh = Storage::make(s.bytes, s.device);
  Tensor to = flat(*fresh, slot.dtype);
  slot.place->load(to);
  to = {};
  if (const Budget* b = Budget::of(s.device); b && b->options.evict == Evict::bf16) slot.place.reset();
  const Ref<Storage> bytes = s.revive(*fresh);
  keep(s, slot.dtype, *slot.source);
  return true;
}
void forget_place(Storage& s) { slot_of(s)->place.reset(); }
double seconds_now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace detail
}  // namespace retape
