// Making an absent value again: collect the nodes that are needed, run their forwards in order of sequence, and put the fresh
// bytes into the old storages. No recursion, and no user code runs. In a checkpoint all that its ops saved is made at once; under a
// memory budget only what is asked for, and all that is made on the way stays until it has to leave again.
#include <fmt/format.h>

#include <unordered_map>

#include <retape/autograd/budget.h>
#include <retape/autograd/checkpoint.h>
#include <retape/autograd/pass.h>

namespace retape::detail {

Ref<Region> open_region(CheckpointOptions options) {
  auto region = Ref<Region>::adopt(new Region);
  region->outer = Ref<Region>::share(ctx.region);
  region->recompute = options.recompute;
  return region;
}
void leave(Region* region, Tensor& t) {
  if (!t || t->storage->region != region) return;
  t->storage->region = region->outer.get();
  if (!t->storage->region && !ctx.budget) t->source = {};
}

void Untouched::check() const {
  for (int i = 0; i < seen_.size(); ++i)
    if (const auto& [tensor, version] = seen_[i]; tensor.version() != version)
      throw Error(
          fmt::format("checkpoint: the function wrote into its input {} in place (version {}, before {}); clone() it before the change", i,
                      tensor.version(), version));
}

int64_t segment_end(int64_t blocks, int64_t segments, int64_t segment) {
  if (segments < 1 || segments > blocks)
    throw Error(fmt::format("checkpoint_sequential: {} segments do not fit {} blocks; give 1 to {}", segments, blocks, blocks));
  return blocks * (segment + 1) / segments;
}

void materialise(Node& asking, Entry& e) {
  struct Item {
    int uses = 0;
    std::vector<Ref<Storage>> bytes;
  };
  std::unordered_map<Node*, Item> plan;
  std::vector<Node*> todo;
  std::vector<Storage*> wanted;
  std::vector<Ref<Storage>> pins;  // what the plan reads must not go away under its feet
  auto need = [&](Node& owner, Entry& x) -> Item& {
    Node* source = x.absent->source ? x.absent->source.get() : &owner;
    auto [it, fresh] = plan.try_emplace(source);
    if (fresh) todo.push_back(source);
    return it->second;
  };
  auto want = [&](Node& owner, Entry& x) {
    need(owner, x);
    x.storage()->wanted = true;
    wanted.push_back(x.storage());
  };
  struct Unmark {
    std::vector<Storage*>& all;
    ~Unmark() {
      for (auto* s : all) s->wanted = false;
    }
  } unmark{wanted};

  const Region* region = asking.replay ? asking.replay->region.get() : nullptr;
  want(asking, e);
  if (region && !ctx.budget)
    for (Node* n : region->nodes)
      for (int k = 0; n && k < n->saved.size(); ++k)
        if (Entry& x = n->saved[k]; !x.is_here() && !is_away(*x.storage())) want(*n, x);
  while (!todo.empty()) {
    Node* n = todo.back();
    todo.pop_back();
    for (auto& x : n->replay->inputs)
      if (!x.absent) continue;
      else if (x.is_here() || bring_back(*x.storage())) pins.push_back(x.storage()->lock());
      else ++need(*n, x).uses;
  }
  std::vector<Ref<Node>> order;
  for (auto& [n, item] : plan) order.push_back(Ref<Node>::share(n));
  std::sort(order.begin(), order.end(), Pass::earlier);

  for (auto& n : order) {
    std::vector<Tensor> in, out;
    std::vector<Ref<Node>> sources;
    for (auto& x : n->replay->inputs) {
      if (x.absent && x.absent->source) sources.push_back(x.absent->source);
      in.push_back(!x.absent && !x.held ? Tensor{} : resident(*n, x));
      if (in.back()) in.back() = make_tensor(in.back()->storage, in.back()->layout);
    }
    Replayed replayed;
    {
      const Scoped s1(ctx.recording, false), s2(ctx.inside_forward, true);
      const Scoped s3(ctx.current, n.get());
      const Scoped s4(ctx.replay, &replayed);
      const Scoped s5(ctx.op, n->name());
      const Scoped s6(ctx.where, n->where);
      n->forward(in, out);
    }
    Item& item = plan.at(n.get());
    auto refill = [&](Storage* slot, const Tensor& fresh) {
      if (!slot || slot->data || !slot->tape_refs || !fresh->storage->data) return;
      auto bytes = slot->revive(*fresh->storage);
      const bool boundary = slot->region != region && (!slot->region || slot->region->is_around(region));
      if (slot->wanted || boundary || ctx.budget) {
        keep(*slot, fresh.dtype(), *n);
        if (ctx.pass && !(ctx.budget && !slot->region)) ctx.pass->note(n->sequence, slot);
      }
      item.bytes.push_back(std::move(bytes));
    };
    for (int k = 0; k < n->saved.size(); ++k)
      if (auto& x = n->saved[k]; x.absent && x.what == Entry::hidden) refill(x.storage(), replayed.saved.at(size_t(k)));
    for (size_t j = 0; j < out.size(); ++j)
      if (out[j]) refill(n->replay->outputs[j].get(), out[j]);
    if (!item.uses) item.bytes.clear();
    for (auto& s : sources)
      if (auto it = plan.find(s.get()); it != plan.end() && --it->second.uses == 0) it->second.bytes.clear();
  }
  if (!e.is_here())
    throw Error(fmt::format("{}: replay did not make a saved value again; its forward must give the same each time", asking.name()));
}

}  // namespace retape::detail
