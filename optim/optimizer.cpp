#include <retape/optim/optimizer.h>

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include <retape/autograd/index.h>
#include <retape/autograd/memory_report.h>
#include <retape/autograd/sparse.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>
#include <retape/optim/device.h>
#include <retape/optim/entries.h>

namespace retape {
namespace {

using detail::describe;

// Half types keep their running means in f32: a bf16 mean would not move any more once it is 256 times its increments.
DType state_dtype(const Tensor& param) { return param.dtype() == DType::f64 ? DType::f64 : DType::f32; }

// Whether a tensor fits what an optimizer keeps for a parameter.
bool fits(const Tensor& t, const std::pair<Shape, DType>& layout) { return t.shape() == layout.first && t.dtype() == layout.second; }

// x's rows `ids` become `values`, in place.
void put_rows(const Tensor& x, const Tensor& ids, const Tensor& values) {
  Tensor y = contiguous(x);
  RETAPE_DISPATCH(y.device(), index_put("optimizer", PutKind::replace, ids, values, 0, y));
  if (y.impl() != x.impl()) copy_into(y, x);
}

}  // namespace

void detail::check_not_negative(const char* optimizer, const char* option, double value) {
  if (!(value >= 0)) throw Error(fmt::format("{}: {} {} is not valid; it must be at least 0", optimizer, option, value));
}

void detail::update(Device device, UpdateKind rule, const UpdateArgs& args, const Tensor& found_inf,
                    const std::vector<OptimizerSlot>& slots) {
  RETAPE_DISPATCH(device, update(rule, args, found_inf, slots));
}

void detail::add_norms(std::vector<OptimizerSlot>& slots, int first, const Tensor& (*a)(const OptimizerSlot&),
                       const Tensor& (*b)(const OptimizerSlot&)) {
  if (slots.empty()) return;
  const int64_t n = int64_t(slots.size());
  const Device device = slots.front().value.device();
  std::vector<Tensor> all;
  for (const auto of : {a, b})
    for (const OptimizerSlot& slot : slots) all.push_back(of(slot));
  Tensor squares = empty({2 * n}, {DType::f64, device});
  RETAPE_DISPATCH(device, square_norms(all, squares));
  for (int64_t i = 0; i < n; ++i)
    for (int64_t k = 0; k < 2; ++k) slots[size_t(i)].state[first + int(k)] = select(squares, 0, k * n + i);
}

void detail::update_everywhere(UpdateKind rule, const UpdateArgs& args, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots) {
  std::vector<OptimizerSlot> plain = slots;
  for (OptimizerSlot& slot : plain) slot.value = contiguous(slot.value), slot.grad = contiguous(slot.grad);
  for (auto& some : split_by_device(plain, [](const OptimizerSlot& s) { return s.value.device(); })) {
    const Device device = some.front().value.device();
    update(device, rule, args, found_inf ? to(found_inf, device) : found_inf, some);
  }
  for (size_t i = 0; i < slots.size(); ++i)
    if (plain[i].value.impl() != slots[i].value.impl()) copy_into(plain[i].value, slots[i].value);
}

void detail::check_betas(const char* optimizer, std::pair<double, double> betas) {
  for (const double beta : {betas.first, betas.second})
    if (!(beta >= 0 && beta < 1)) throw Error(fmt::format("{}: beta {} is not valid; it must be at least 0 and below 1", optimizer, beta));
}

// ---- parameters and groups ------------------------------------------------------------------------------------------

void Optimizer::add_group(const char* optimizer, const std::vector<Tensor>& params) {
  if (params.empty()) throw Error(fmt::format("{}: the list of parameters is empty", optimizer));
  std::vector<int64_t> numbers;
  for (const Tensor& p : params) {
    const size_t i = states_.size();
    if (!p) throw Error(fmt::format("{}: parameter {} is undefined", optimizer, i));
    if (!is_floating(p.dtype()))
      throw Error(fmt::format("{}: parameter {} is {}; only floating tensors can be optimized", optimizer, i, describe(p)));
    if (!p.is_leaf())
      throw Error(fmt::format(
          "{}: can't optimize a non-leaf: parameter {} {} was made by an op; give the leaf that it was made from, or its detach()",
          optimizer, i, describe(p)));
    for (size_t j = 0; j < i; ++j)
      if (states_[j].param.impl() == p.impl())
        throw Error(fmt::format("{}: parameters {} and {} are the same tensor {}; each may be listed once", optimizer, j, i, describe(p)));
    numbers.push_back(int64_t(i));
    states_.push_back({p, {}, {}});
  }
  groups_.push_back(std::move(numbers));
}

void Optimizer::check_group(int group) const {
  if (group < 0 || group >= group_count())
    throw Error(fmt::format("{}: there is no parameter group {}; there are {}", name(), group, group_count()));
}
int Optimizer::group_of(int64_t index) const {
  int g = 0;
  while (index > groups_[size_t(g)].back()) ++g;
  return g;
}
double Optimizer::lr(int group) const {
  check_group(group);
  return const_cast<Optimizer*>(this)->lr_of(group);
}
void Optimizer::set_lr(int group, double lr) {
  check_group(group);
  detail::check_not_negative(name(), "lr", lr);
  lr_of(group) = lr;
}
void Optimizer::set_lr(double lr) {
  for (int g = 0; g < group_count(); ++g) set_lr(g, lr);
}

double Optimizer::momentum(int group) const {
  check_group(group);
  const double* at = const_cast<Optimizer*>(this)->momentum_of(group);
  if (!at) throw Error(fmt::format("{}: there is neither a momentum nor a beta in its options", name()));
  return *at;
}
void Optimizer::set_momentum(int group, double momentum) {
  this->momentum(group);
  if (!(momentum >= 0) || (has_betas() && momentum >= 1))
    throw Error(fmt::format("{}: momentum {} is not valid; it must be at least 0{}", name(), momentum, has_betas() ? " and below 1" : ""));
  *momentum_of(group) = momentum;
}

std::vector<Tensor> Optimizer::parameters() const {
  std::vector<Tensor> params;
  for (auto& state : states_) params.push_back(state.param);
  return params;
}
void Optimizer::zero_grad() {
  for (auto& state : states_) state.param.set_grad({});
}

void Optimizer::forget_state() {
  for (auto& [device, bytes] : counted_) detail::optimizer_bytes(device).fetch_sub(bytes, std::memory_order_relaxed);
  counted_.clear();
}
void Optimizer::count_state() {
  forget_state();
  for (auto& state : states_)
    for (auto& t : state.tensors) {
      if (!t || t.device().is_meta()) continue;
      const int64_t bytes = int64_t(t.device().is_cpu() ? detail::allocated_bytes(t->storage->bytes) : t->storage->bytes);
      counted_.emplace_back(t.device(), bytes);
      detail::optimizer_bytes(t.device()).fetch_add(bytes, std::memory_order_relaxed);
    }
}
Optimizer::~Optimizer() { forget_state(); }

// ---- the step -------------------------------------------------------------------------------------------------------

std::pair<Shape, DType> Optimizer::state_layout(const Tensor& param, int) const { return {param.shape(), state_dtype(param)}; }

Tensor Optimizer::step(const Closure& closure) {
  if (!closure) throw Error(fmt::format("{}: the closure is empty", name()));
  const Tensor loss = closure();
  step();
  return loss;
}

// With a gradient of some rows the slot has those rows of everything; put_rows() puts them back.
OptimizerSlot Optimizer::make_slot(int group, int64_t index, const std::optional<SparseRows>& rows, int states) const {
  const State& state = states_[size_t(index)];
  const Tensor& param = state.param;
  const Tensor grad = rows ? rows->values : param.grad();
  if (rows) {
    if (const char* why = refuses_rows(group))
      throw Error(
          fmt::format("{}: the gradient of parameter {} {} is sparse, of {} of its rows, which {} {} cannot take; use SGD without "
                      "momentum and weight_decay, Adagrad without weight_decay, or SparseAdam",
                      name(), index, describe(param), rows->ids.numel(), name(), why));
  } else if (!takes_dense()) {
    throw Error(fmt::format("{}: the gradient of parameter {} {} is dense; use Adam, or make it sparse (Embedding's option)", name(), index,
                            describe(param)));
  }
  if ((!rows && !(grad.shape() == param.shape())) || grad.dtype() != param.dtype() || !(grad.device() == param.device()))
    throw Error(fmt::format("{}: the gradient of parameter {} is {}, the parameter {}; both must have one shape, dtype and device", name(),
                            index, describe(grad), describe(param)));
  const auto no_steps = [&] { return zeros({}, {DType::i64, param.device()}); };
  const auto part = [&](const Tensor& t) { return rows ? index_select(t, 0, rows->ids) : t; };
  OptimizerSlot slot{.value = contiguous(part(param)), .grad = contiguous(grad), .state = {}, .step = state.step ? state.step : no_steps()};
  bool made = false, kept = false;
  for (int k = 0; k < states; ++k) {
    if (!uses_state(group, param, k)) continue;
    const auto layout = state_layout(param, k);
    slot.state[k] = state.tensors[k];
    if (!slot.state[k]) {
      slot.state[k] = full(layout.first, initial_state(group, k), {layout.second, param.device()});
      made = true;
      continue;
    }
    kept = true;
    if (!fits(slot.state[k], layout) || !(slot.state[k].device() == param.device()))
      throw Error(fmt::format("{}: parameter {} is {}, but its {} was made as {}; make the optimizer after moving or converting the model",
                              name(), index, describe(param), state_names()[size_t(k)], describe(slot.state[k])));
  }
  if (made && !kept) slot.step = no_steps();  // such as a momentum's, which begins with its buffer
  return slot;
}

void Optimizer::step(const Tensor& found_inf) {
  if (found_inf && (found_inf.dtype() != DType::f32 || found_inf.dim() != 0))
    throw Error(fmt::format("{}: found_inf is {}; it must be f32 without dims", name(), describe(found_inf)));
  const NoGrad no_grad;
  const Scoped op(ctx.op, name());
  bool new_state = false;
  const int states = int(state_names().size());
  struct Work {
    int group;
    std::vector<int64_t> indices;
    std::vector<OptimizerSlot> slots;  // of whole tensors; what the kernel gets may be rows of them
    std::vector<OptimizerSlot> parts;
    std::vector<Tensor> rows;  // ids, or undefined: all
  };
  std::vector<Work> all;
  for (int g = 0; g < group_count(); ++g) {
    check_options(g);
    Work work{g, {}, {}, {}, {}};
    for (const int64_t i : groups_[size_t(g)]) {
      const Tensor& param = states_[size_t(i)].param;
      const auto rows = sparse_grad(param);
      if (!rows && !param.grad()) continue;
      OptimizerSlot slot = make_slot(g, i, rows, states);
      work.slots.push_back(slot);
      if (rows)
        for (Tensor& t : slot.state)
          if (t) t = index_select(t, 0, rows->ids);
      work.parts.push_back(std::move(slot));
      work.rows.push_back(rows ? rows->ids : Tensor());
      work.indices.push_back(i);
    }
    if (!work.slots.empty()) all.push_back(std::move(work));
  }
  for (auto& [group, indices, slots, parts, rows] : all) {
    for (auto& some : detail::split_by_device(parts, [](const OptimizerSlot& s) { return s.value.device(); })) {
      const Device device = some.front().value.device();
      update(group, device, found_inf ? to(found_inf, device) : found_inf, some);
    }
    for (size_t j = 0; j < slots.size(); ++j) {
      State& state = states_[size_t(indices[j])];
      new_state |= slots[j].step.impl() != state.step.impl();
      state.step = slots[j].step;
      for (int k = 0; k < 4; ++k)
        if (slots[j].state[k]) state.tensors[k] = slots[j].state[k];
      if (rows[j]) {
        put_rows(state.param, rows[j], parts[j].value);
        for (int k = 0; k < 4; ++k)
          if (slots[j].state[k]) put_rows(state.tensors[k], rows[j], parts[j].state[k]);
      } else if (slots[j].value.impl() != state.param.impl()) {
        copy_into(slots[j].value, state.param);
      }
    }
  }
  if (new_state) count_state();
}

// ---- checkpoints ----------------------------------------------------------------------------------------------------

NamedTensors Optimizer::state_dict() const {
  NamedTensors out;
  for (int g = 0; g < group_count(); ++g) {
    out.emplace_back(fmt::format("param_groups.{}.lr", g), full({}, lr(g), {DType::f64}));
    out.emplace_back(fmt::format("param_groups.{}.params", g), tensor(groups_[size_t(g)]));
  }
  const auto names = state_names();
  for (size_t i = 0; i < states_.size(); ++i) {
    const State& state = states_[i];
    if (!state.step) continue;
    out.emplace_back(fmt::format("{}.step", i), state.step);
    for (size_t k = 0; k < names.size(); ++k)
      if (state.tensors[k]) out.emplace_back(fmt::format("{}.{}", i, names[k]), state.tensors[k]);
  }
  return out;
}

void Optimizer::load_state_dict(const NamedTensors& state) {
  const NoGrad no_grad;
  detail::Entries entries(name(), state);
  std::vector<double> lrs;
  for (int g = 0; g < group_count(); ++g) {
    const std::string lr_name = fmt::format("param_groups.{}.lr", g), params_name = fmt::format("param_groups.{}.params", g);
    const Tensor lr = entries.take(lr_name);
    if (!lr) entries.fail(fmt::format("entry {} is missing; this optimizer has {} parameter groups", lr_name, group_count()));
    lrs.push_back(entries.number(lr_name, lr, 0));
    const auto numbers = entries.require(params_name).to_vector<int64_t>(), &mine = groups_[size_t(g)];
    if (numbers.size() != mine.size())
      entries.fail(fmt::format("parameter group {} has {} parameters in the state and {} here", g, numbers.size(), mine.size()));
    if (numbers != mine) entries.fail(fmt::format("{} does not list the parameters {} to {}", params_name, mine.front(), mine.back()));
  }
  if (entries.take(fmt::format("param_groups.{}.lr", group_count())))
    entries.fail(fmt::format("the state has more parameter groups than this optimizer, which has {}", group_count()));

  std::vector<State> loaded;
  const auto names = state_names();
  for (size_t i = 0; i < states_.size(); ++i) {
    State& fresh = loaded.emplace_back();
    fresh.param = states_[i].param;
    const std::string step_name = fmt::format("{}.step", i);
    const Tensor step = entries.take(step_name);
    if (!step) continue;
    fresh.step = to(tensor(std::vector<int64_t>{entries.count(step_name, step)}, {}), fresh.param.device());
    for (size_t k = 0; k < names.size(); ++k) {
      const std::string entry = fmt::format("{}.{}", i, names[k]);
      const Tensor value = entries.take(entry);
      if (!value) {
        if (uses_state(group_of(int64_t(i)), fresh.param, int(k))) entries.fail(fmt::format("entry {} is missing", entry));
        continue;
      }
      const auto layout = state_layout(fresh.param, int(k));
      if (!fits(value, layout))
        entries.fail(
            fmt::format("{} is {}; parameter {} needs {} {}", entry, describe(value), i, name_of(layout.second), layout.first.str()));
      fresh.tensors[k] = clone(to(value.detach(), fresh.param.device()));
    }
  }
  entries.check_empty();

  states_ = std::move(loaded);
  count_state();
  for (int g = 0; g < group_count(); ++g) lr_of(g) = lrs[size_t(g)];
}

}  // namespace retape
