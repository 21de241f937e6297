// The tape's side of the gate: nodes, saved values, and the engine that walks them backwards.
#include <retape/autograd/tape.h>

#include <fmt/format.h>

#include <retape/autograd/backward.h>
#include <retape/autograd/binary.h>
#include <retape/autograd/budget.h>
#include <retape/autograd/check.h>
#include <retape/autograd/hook_list.h>
#include <retape/autograd/memory_report.h>
#include <retape/autograd/pass.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/sparse.h>
#include <retape/autograd/views.h>

namespace retape {

// ---- nodes ----------------------------------------------------------------------------------------------------------

Entry::Absent::Absent(Storage* s, const Layout& l, Ref<Node> n) : storage(s), layout(l), source(std::move(n)) { ++s->tape_refs; }
Entry::Absent::~Absent() {
  if (--storage->tape_refs == 0) {
    storage->unkeep();
    if (storage->slot) detail::forget_place(*storage.get());
  }
  if (source) --source->replay->dependents;
}

Node::~Node() {
  if (replay && replay->region) replay->region->nodes[replay->place] = nullptr;
}
void Node::destroy() noexcept {
  next_dead = std::exchange(ctx.dead, this);
  if (ctx.burying) return;
  ctx.burying = true;
  while (Node* n = ctx.dead) {
    ctx.dead = n->next_dead;
    n->free();
  }
  ctx.burying = false;
}
void Node::forget() {
  passed = true;
  saved.clear();
  edges.clear();
  if (replay && replay->dependents == 0) replay->inputs.clear();
}

namespace detail {
namespace {

// What the hooks of saved values are called in: an ordinary program that records nothing.
struct HookScope {
  Scoped<bool> recording{ctx.recording, false}, inside{ctx.inside_forward, false}, differentiating{ctx.differentiating, false};
  Scoped<Node*> current{ctx.current, nullptr};
  Scoped<Region*> region{ctx.region, nullptr};
};
void pack(Entry& e) {
  const HookScope scope;
  auto packed = std::make_unique<Entry::Packed>();
  packed->hooks = *ctx.saved_hooks;
  packed->shape = e.held.shape(), packed->dtype = e.held.dtype();
  packed->value = packed->hooks->pack(make_tensor(e.held->storage, e.held->layout));
  e.packed = std::move(packed);
  e.held = {};
}
Tensor unpack(Node& owner, const Entry& e) {
  const HookScope scope;
  const Tensor t = e.packed->hooks->unpack(e.packed->value);
  if (!t || !(t.shape() == e.packed->shape) || t.dtype() != e.packed->dtype)
    throw Error(fmt::format("{}: an unpack hook gave {} for a saved value of {} {}", owner.name(),
                            t ? fmt::format("{} {}", name_of(t.dtype()), t.shape().str()) : "nothing", name_of(e.packed->dtype),
                            e.packed->shape.str()));
  return make_tensor(t->storage, t->layout);
}

}  // namespace

Tensor resident(Node& owner, Entry& e) {
  if (e.packed) return unpack(owner, e);
  if (!e.absent && !e.held) return {};  // an optional input that was not given
  if (!e.is_here() && !bring_back(*e.absent->storage.get())) materialise(owner, e);
  if (e.storage()->version != e.version)
    throw Error(fmt::format(
        "{}: a value that it saved for backward was changed in place afterwards (version {}, saved at {}); clone() it before the change",
        owner.name(), e.storage()->version, e.version));
  if (!e.absent) return e.held;
  touch(*e.absent->storage.get());
  return make_tensor(e.absent->storage->lock(), e.absent->layout);
}

}  // namespace detail

Tensor Node::read(int ticket) {
  if (passed) throw Error(fmt::format("{}: its saved values are gone; a second backward needs retain_graph", name()));
  Entry& e = saved[ticket];
  Tensor t = detail::resident(*this, e);
  if (!t || !ctx.recording || (e.held && e.what >= 0)) return t;  // a held input still has its history
  if (e.held) t = make_tensor(t->storage, t->layout);
  if (e.what >= 0 && edges[e.what].wants()) {
    const Edge& edge = edges[e.what];
    if (edge.leaf) return Tensor(edge.leaf);
    t->producer = Ref<Object>::share(edge.node.get());
    t->index = uint16_t(edge.index);
  } else if (e.what <= Entry::own_output) {
    t->producer = Ref<Object>::share(this);
    t->index = uint16_t(Entry::own_output - e.what);
  } else {
    t->opaque = e.what == Entry::hidden;
  }
  return t;
}

// ---- saving ---------------------------------------------------------------------------------------------------------

Tensor Saved::operator*() const {
  if (!ctx.current || ctx.inside_forward) throw Error("Saved: can be read in backward only");
  if (ticket_ < 0) throw Error(fmt::format("{}: backward reads a Saved that forward did not save", ctx.current->name()));
  return ctx.current->read(ticket_);
}

Saved save(const Tensor& t, int for_input) {
  Saved s;
  Node* node = ctx.current;
  if (!node || !ctx.inside_forward) return s;  // nobody records
  if (for_input >= 0 && !node->edges[for_input].wants()) return s;
  if (ctx.replay) {
    s.ticket_ = int16_t(ctx.replay->saved.size());
    ctx.replay->saved.push_back(t);
    return s;
  }
  s.ticket_ = int16_t(node->saved.size());
  Entry e;
  e.held = t;
  e.what = Entry::pending;
  node->saved.push(std::move(e));
  return s;
}

// ---- gradients of one node ------------------------------------------------------------------------------------------

void Grads::set(int i, Tensor dx) {
  if (!wants(i)) return;
  const Edge& e = node_.edges[i];
  const Shape& shape = e.leaf ? e.leaf->layout.shape : e.node->outputs[e.index].shape;
  const DType dtype = e.leaf ? e.leaf->layout.dtype : e.node->outputs[e.index].dtype;
  if (!(dx.shape() == shape)) {
    bool fits = dx.dim() >= shape.rank();
    for (int d = 1; fits && d <= shape.rank(); ++d) fits = shape[-d] == dx.shape()[-d] || shape[-d] == 1;
    if (!fits)
      throw Error(
          fmt::format("{}: backward gave a gradient of shape {} for input {} of shape {}", node_.name(), dx.shape().str(), i, shape.str()));
    dx = sum_to(dx, shape);
  }
  if (dx.dtype() != dtype) dx = cast(dx, dtype);
  at(i) = std::move(dx);
}
Tensor& Grads::at(int i) {
  while (values_.size() <= i) values_.push({});
  return values_[i];
}
bool Grads::is_none(int i) const { return std::find(none_.begin(), none_.end(), i) != none_.end(); }

[[maybe_unused]] const bool memory_is_explained = (out_of_memory_hook = detail::out_of_memory, true);

// ---- the gate -------------------------------------------------------------------------------------------------------

namespace detail {
namespace {

// A value that can be made again is referred to weakly; if backward will read it, the tape itself holds its bytes, unless that is a
// checkpoint's to decide.
Entry remember(const Tensor& t, int what, bool for_backward) {
  Entry e;
  e.version = t->storage->version;
  e.what = what;
  if (t->source && (ctx.region || ctx.budget) && !(for_backward && ctx.saved_hooks && !t->storage->region)) {
    ++node_of(t->source)->replay->dependents;
    e.absent = std::make_unique<Entry::Absent>(t->storage.get(), t->layout, share_node(t->source));
    if (for_backward && !t->storage->region) keep(t, *node_of(t->source));
    else touch(*t->storage.get());
  } else {
    e.held = t;
  }
  return e;
}

bool owns_alone(const Tensor& t) {
  return t->refs.load() == 1 && t->storage->owners() == 1 && (t.is_contiguous() || t.is_contiguous(MemoryFormat::channels_last));
}

void add_in_place(Tensor& into, const Tensor& x) {
  const Scoped inside(ctx.inside_forward, true);
  ++into->storage->version;
  RETAPE_DISPATCH(into.device(), accumulate(x, into));
}

void accumulate_grad(Tensor& sum, Tensor& dx, bool create_graph) {
  if (!sum) {
    sum = std::move(dx);
  } else if (create_graph) {
    sum = add(sum, dx);
  } else if (owns_alone(sum)) {
    add_in_place(sum, dx);
  } else if (owns_alone(dx)) {
    add_in_place(dx, sum);
    sum = std::move(dx);
  } else {
    sum = add(sum, dx);
  }
}

// Several backward passes may add to a leaf at the same time.
class LeafLock {
 public:
  explicit LeafLock(TensorImpl& leaf) : flag_(leaf.lock) {
    while (flag_.test_and_set(std::memory_order_acquire)) {}
  }
  LeafLock(const LeafLock&) = delete;
  ~LeafLock() { flag_.clear(std::memory_order_release); }

 private:
  std::atomic_flag& flag_;
};

void add_to_leaf(Pass& pass, TensorImpl& leaf, Tensor& dx);
void to_leaf(Pass& pass, TensorImpl& leaf, Tensor& dx) {
  if (!leaf.hooks) return add_to_leaf(pass, leaf, dx);
  for (auto& [hooked, sum] : pass.hooked)  // the hooks get the whole gradient, when all of it is there
    if (hooked.get() == &leaf) return accumulate_grad(sum, dx, pass.create_graph);
  pass.hooked.push_back({Ref<TensorImpl>::share(&leaf), std::move(dx)});
}
void add_to_leaf(Pass& pass, TensorImpl& leaf, Tensor& dx) {
  for (auto& c : pass.captures)
    if (c.leaf == &leaf) {
      accumulate_grad(c.grad, dx, pass.create_graph);
      return;
    }
  if (pass.only_captures) return;
  const LeafLock lock(leaf);
  if (!dx.is_contiguous() && dx.memory_format() != Tensor(Ref<TensorImpl>::share(&leaf)).memory_format()) dx = clone(dx);
  if (!leaf.gradient) leaf.gradient = owns_alone(dx) ? std::move(dx) : clone(dx);  // optimizers write into it: nobody may share it
  else accumulate_grad(leaf.gradient, dx, false);
  if (leaf.row_gradient) merge_rows(leaf);
}
void rows_to_leaf(TensorImpl& leaf, const Pass::Rows& rows) {
  const LeafLock lock(leaf);
  add_rows(leaf, {rows.ids, rows.values.detach(), leaf.layout.shape});
}

}  // namespace

bool takes_rows(int input) {
  const Edge& e = ctx.current->edges[input];
  const Pass& pass = *ctx.pass;
  return e.leaf && !e.leaf->hooks && !pass.create_graph && !pass.only_captures && pass.captures.empty();
}
void set_rows(int input, Tensor ids, Tensor values) { ctx.pass->rows.push_back({input, std::move(ids), std::move(values)}); }

namespace {

void run(Pass& pass) {
  const Scoped s1(ctx.recording, pass.create_graph);
  const Scoped s2(ctx.differentiating, pass.create_graph);
  const Scoped s3(ctx.region, nullptr);
  const Scoped s4(ctx.inside_forward, false);
  const Scoped s5(ctx.module, nullptr);
  const Scoped s6(ctx.autocast, nullptr);
  while (!pass.heap.empty()) {
    const Ref<Node> node = pass.pop();
    Few<Tensor, 1> dy;
    for (int j = 0; j < node->outputs.size(); ++j) dy.push(std::move(node->outputs[j].grad));
    node->pass = nullptr;
    for (int j = 0; j < dy.size(); ++j)
      if (node->outputs[j].hooks && dy[j]) dy[j] = call_hooks(node->outputs[j].hooks, dy[j], node->name());
    bool captured = false;
    for (auto& c : pass.captures)
      if (c.node == node.get() && dy[c.index]) {
        captured = true;
        c.grad = dy[c.index];
      }
    if (captured && pass.stop_before) continue;
    if (node->passed) throw Error(fmt::format("{}: backward has passed here and freed it; keep it with retain_graph", node->name()));
    Grads dx(*node);
    pass.rows.clear();
    const auto rows_for = [&](int input) {
      const auto found = std::find_if(pass.rows.begin(), pass.rows.end(), [&](const Pass::Rows& r) { return r.input == input; });
      return found == pass.rows.end() ? nullptr : &*found;
    };
    {
      const Scoped me(ctx.current, node.get());
      const Scoped named(ctx.op, node->name());
      const Scoped where(ctx.where, node->where);
      const OpRange range(ctx.ranges ? fmt::format("backward of {}", node->name()).c_str() : "");
      node->backward(dy, dx);
    }
    bool linear_in_graph = false;
    if (pass.create_graph)
      for (int j = 0; j < dy.size(); ++j) linear_in_graph |= dy[j].requires_grad();
    const int n = node->edges.size();
    if (detecting_anomalies) {
      std::vector<Tensor> given;
      for (int j = 0; j < dy.size(); ++j) given.push_back(dy[j]);
      const Scoped where(ctx.where, node->where);
      for (int i = 0; i < n; ++i)
        if (node->edges[i].wants()) check_gradient(node->name(), given, rows_for(i) ? rows_for(i)->values : dx.at(i));
    }
    dy.clear();
    Few<Edge, 3> edges;
    for (int i = 0; i < n; ++i) {
      if (!node->edges[i].wants()) {
        edges.push({});
        continue;
      }
      Tensor& d = dx.at(i);
      if (!d && !dx.is_none(i) && !rows_for(i))
        throw Error(fmt::format("{}: backward set no gradient for input {}; call dx.none({}) if it is zero", node->name(), i, i));
      if (d && linear_in_graph && !d.requires_grad())
        throw Error(fmt::format("{}: its backward left the graph, so a second derivative would be cut", node->name()));
      edges.push(pass.retain || node->shared ? node->edges[i] : std::move(node->edges[i]));
    }
    if (!pass.retain && !node->shared) node->forget();
    for (int i = 0; i < n; ++i) {
      Tensor& d = dx.at(i);
      if (!edges[i].wants()) continue;
      if (const Pass::Rows* const rows = rows_for(i)) {
        rows_to_leaf(*edges[i].leaf, *rows);
        continue;
      }
      if (!d) {
        if (edges[i].leaf) edges[i].leaf->ended_by.store(node->name(), std::memory_order_relaxed);
        continue;
      }
      if (edges[i].leaf) {
        to_leaf(pass, *edges[i].leaf, d);
        continue;
      }
      Node& to = *edges[i].node;
      if (to.sequence < pass.stop_before) continue;
      if (to.pass && to.pass != &pass)
        throw Error(fmt::format("{}: two backward passes meet here at the same time; run them one after the other", to.name()));
      if (!to.pass) {
        to.pass = &pass;
        pass.push(edges[i].node);
      }
      accumulate_grad(to.outputs[edges[i].index].grad, d, pass.create_graph);
      d = {};
    }
    pass.drop_replayed(node->sequence);
  }
  for (auto& [leaf, sum] : pass.hooked) {
    Tensor g = call_hooks(leaf->hooks, sum, "a leaf");
    sum = {};
    add_to_leaf(pass, *leaf, g);
  }
  pass.hooked.clear();
}

void seed(Pass& pass, const Tensor& y, const Tensor& given) {
  if (given && !(given.shape() == y.shape()))
    throw Error(fmt::format("backward: dy has shape {}, but y has shape {}; they must be equal", given.shape().str(), y.shape().str()));
  Tensor dy = given ? given : ones_like(y);
  if (dy.dtype() != y.dtype()) dy = cast(dy, y.dtype());
  if (!y->producer) {
    if (!y->leaf_wants_grad)
      throw Error(
          "backward: the tensor has no history: none of the values it was made from wants a gradient (or it was made under NoGrad)");
    to_leaf(pass, *y.impl(), dy);
    return;
  }
  Node& n = *node_of(y->producer);
  if (!n.pass) {
    n.pass = &pass;
    pass.push(Ref<Node>::share(&n));
  }
  accumulate_grad(n.outputs[y->index].grad, dy, pass.create_graph);
}

std::vector<Tensor> grad_since(const std::vector<Tensor>& y, const std::vector<Tensor>& x, GradOptions options,
                               const std::vector<Tensor>& dy, uint64_t stop_before) {
  Pass pass;
  pass.create_graph = options.create_graph;
  pass.retain = options.retain_graph || options.create_graph;
  pass.only_captures = true;
  pass.stop_before = stop_before;
  for (auto& t : x) pass.captures.push_back({node_of(t->producer), t->index, t->producer ? nullptr : t.impl(), {}});
  for (size_t i = 0; i < y.size(); ++i)
    if (y[i].requires_grad()) seed(pass, y[i], i < dy.size() ? dy[i] : Tensor{});
  run(pass);
  std::vector<Tensor> out;
  for (auto& c : pass.captures) out.push_back(c.grad);
  return out;
}

}  // namespace

void cut_by_private_value(const char* op) {
  throw Error(fmt::format(
      "{}: its backward gives a private saved value to {}, so a second derivative would be cut; make that backward one op with a composite",
      ctx.current ? ctx.current->name() : "backward", op));
}

void check_devices(const char* op, const Tensor* const* in, int n) {
  bool cuda = false;
  for (int i = 0; i < n; ++i) cuda = cuda || (*in[i] && in[i]->device().is_cuda());
  if (cuda) throw_different_devices(op, in, n);
}
void begin(Node& node, const char* op, const Tensor* const* in, int n, bool expensive) {
  uint64_t clock = ctx.clock;
  for (int i = 0; i < n; ++i) {
    Edge e;
    if (TensorImpl* t = in[i]->impl()) {
      if (t->source) clock = std::max(clock, node_of(t->source)->sequence);
      if (t->producer) {
        clock = std::max(clock, node_of(t->producer)->sequence);
        if (ctx.recording) {
          e.node = share_node(t->producer);
          e.index = t->index;
        }
      } else if (t->leaf_wants_grad && ctx.recording) {
        e.leaf = in[i]->ref();
        t->read_by.store(op, std::memory_order_relaxed);
        t->ended_by.store(nullptr, std::memory_order_relaxed);
      }
    }
    node.edges.push(std::move(e));
  }
  node.sequence = ctx.clock = clock + 1;
  node.where = ctx.where;
  if (!ctx.region && !ctx.budget) return;
  Replay& replay = *(node.replay = std::make_unique<Replay>());
  const Region* home = ctx.region;
  while (home && expensive && home->recompute == Recompute::cheap) home = home->outer.get();
  replay.home = home;
  replay.again = home || ctx.budget;
  if (ctx.region) {
    replay.region = Ref<Region>::share(ctx.region);
    replay.place = ctx.region->nodes.size();
    ctx.region->nodes.push_back(&node);
  }
  if (replay.again)
    for (int i = 0; i < n; ++i) replay.inputs.push_back(*in[i] ? remember(*in[i], i, false) : Entry{});
  if (ctx.budget) replay.seconds = -seconds_now();
}

void finish(Node& node, const Tensor* const* in, int n, Tensor* const* out, int m, int differentiable) {
  Replay* const replay = node.replay.get();
  if (replay && ctx.budget) replay->seconds += seconds_now();
  bool wants = false;
  for (int i = 0; i < n; ++i) wants |= node.edges[i].wants();
  for (int k = 0; k < node.saved.size(); ++k) {  // saved inputs keep their history; a saved output must not keep its node
    Entry& e = node.saved[k];
    if (!e.held) continue;
    for (int i = 0; i < n && e.what == Entry::pending; ++i)
      if (in[i]->impl() == e.held.impl()) e = remember(*in[i], i, true);
    for (int j = 0; j < m && e.what == Entry::pending; ++j)
      if (out[j]->impl() == e.held.impl()) {
        e.what = Entry::own_output - j;
        e.held = make_tensor(e.held->storage, e.held->layout);
      }
    if (e.what == Entry::pending) e.what = Entry::hidden;
    if (e.what >= 0) continue;
    e.version = e.held->storage->version;
    bool view_of_input = false;
    for (int i = 0; i < n; ++i) view_of_input |= *in[i] && (*in[i])->storage == e.held->storage;
    if (replay && replay->again && !view_of_input && !(ctx.saved_hooks && !replay->home)) {
      Storage* s = e.held->storage.get();
      s->region = replay->home;
      e.absent = std::make_unique<Entry::Absent>(s, e.held->layout, Ref<Node>{});
      if (!replay->home) keep(e.held, node);
      e.held = {};
    }
  }
  if (ctx.saved_hooks)
    for (int k = 0; k < node.saved.size(); ++k)
      if (node.saved[k].held) pack(node.saved[k]);
  for (int j = 0; j < m; ++j) {
    Tensor& t = *out[j];
    node.outputs.push({});
    if (replay && replay->again) replay->outputs.emplace_back();
    if (!t) continue;
    const Tensor* base = nullptr;
    for (int i = 0; i < n && !base; ++i)
      if (*in[i] && (*in[i])->storage == t->storage) base = in[i];
    if (t->refs.load() > 1) t = make_tensor(t->storage, t->layout);  // forward returned its input: this is a new value
    node.outputs[j].shape = t.shape();
    node.outputs[j].dtype = t.dtype();
    node.outputs[j].device = t.device();
    if (wants && j < differentiable && is_floating(t.dtype())) {
      t->producer = Ref<Object>::share(&node);
      t->index = uint16_t(j);
    }
    if (replay && base) t->source = (*base)->source;
    if (!replay || base || !replay->again) continue;
    t->source = Ref<Object>::share(&node);
    t->storage->region = replay->home;
    replay->outputs.back() = WeakStorage(t->storage.get());
  }
}

// dx_i = sum_j dy_j d composite_j / d x_i. When this is itself recorded, the result depends on the inputs' own history.
void differentiate_composite(Node& node, Few<Tensor, 1>& dy, const void* op, CompositeCall call, Grads& dx) {
  const bool create_graph = ctx.recording;
  std::vector<Tensor> x, targets, y, dys;
  std::vector<int> which;
  {
    const Scoped on(ctx.recording, true);
    const Scoped off(ctx.differentiating, false);  // the composite is an ordinary program
    const uint64_t start = ctx.clock + 1;
    for (int i = 0; i < node.edges.size(); ++i) {
      Tensor t = [&] {
        const Scoped as(ctx.recording, create_graph);
        return node.read(i);  // record() saved every input, in order
      }();
      if (t && node.edges[i].wants()) {
        if (!create_graph) {
          t = make_tensor(t->storage, t->layout);
          t.set_requires_grad();
        }
        t = identity(t);  // so that one tensor given twice is two inputs
        targets.push_back(t);
        which.push_back(i);
      } else if (t) {
        t = make_tensor(t->storage, t->layout);
      }
      x.push_back(t);
    }
    const auto out = call(op, x);
    for (size_t j = 0; j < out.size(); ++j)
      if (dy[int(j)]) {
        y.push_back(out[j]);
        dys.push_back(dy[int(j)]);
      }
    const auto g = grad_since(y, targets, {.create_graph = create_graph}, dys, start);
    for (size_t k = 0; k < which.size(); ++k) {
      if (g[k]) dx.set(which[k], g[k]);
      else dx.none(which[k]);
    }
  }
}

}  // namespace detail

void backward(const Tensor& y, BackwardOptions options, const Tensor& dy) {
  if (!y) throw Error("backward: the tensor is undefined");
  Pass pass;
  pass.retain = options.retain_graph;
  detail::seed(pass, y, dy);
  detail::run(pass);
}

std::vector<Tensor> grad(const std::vector<Tensor>& y, const std::vector<Tensor>& x, GradOptions options, const std::vector<Tensor>& dy) {
  for (auto& t : x)
    if (!t.requires_grad()) throw Error("grad: an input does not want a gradient; call set_requires_grad() on it before it is used");
  bool any = false;
  for (auto& t : y) any |= t.requires_grad();
  if (!any) throw Error("grad: no output has a history: none of the values they were made from wants a gradient");
  return detail::grad_since(y, x, options, dy, 0);
}

}  // namespace retape
