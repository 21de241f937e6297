#include <retape/optim/wrappers.h>

#include <fmt/format.h>

#include <retape/autograd/binary.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/sparse.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>
#include <retape/optim/device.h>
#include <retape/optim/entries.h>

namespace retape {
namespace {

DType wide(DType d) { return d == DType::f64 ? d : DType::f32; }

}  // namespace

// ---- Lookahead --------------------------------------------------------------------------------------------------------

Lookahead::Lookahead(Optimizer& optimizer, const LookaheadOptions& options)
    : optimizer_(optimizer), options_(options), params_(optimizer.parameters()) {
  if (options.k < 1) throw Error(fmt::format("lookahead: k {} is not valid; it must be at least 1", options.k));
  if (!(options.alpha >= 0 && options.alpha <= 1))
    throw Error(fmt::format("lookahead: alpha {} is not valid; it must be between 0 and 1", options.alpha));
  const NoGrad no_grad;
  for (int g = 0; g < optimizer.group_count(); ++g) {
    std::vector<Tensor> group;
    for (const int64_t i : numbers_of(optimizer, g)) group.push_back(params_[size_t(i)]);
    add_group("lookahead", group);
  }
  for (const Tensor& p : params_) {
    slow_.push_back(clone(cast(p.detach(), wide(p.dtype()))));
    steps_.push_back(zeros({}, {DType::i64, p.device()}));
  }
}

void Lookahead::follow(const Tensor& found_inf) {
  const NoGrad no_grad;
  std::vector<OptimizerSlot> slots;
  for (size_t i = 0; i < params_.size(); ++i)
    slots.push_back({.value = params_[i], .grad = params_[i], .state = {slow_[i]}, .step = steps_[i]});
  detail::update_everywhere(UpdateKind::lookahead, {.other = {options_.alpha, double(options_.k)}}, found_inf, slots);
}
void Lookahead::step(const Tensor& found_inf) {
  optimizer_.step(found_inf);
  follow(found_inf);
}
Tensor Lookahead::step(const Closure& closure) {
  const Tensor loss = optimizer_.step(closure);
  follow({});
  return loss;
}

NamedTensors Lookahead::state_dict() const {
  NamedTensors out = optimizer_.state_dict();
  for (size_t i = 0; i < params_.size(); ++i) {
    out.emplace_back(fmt::format("{}.slow_buffer", i), slow_[i]);
    out.emplace_back(fmt::format("{}.lookahead_step", i), steps_[i]);
  }
  return out;
}
void Lookahead::load_state_dict(const NamedTensors& state) {
  const NoGrad no_grad;
  const auto ends = [](const std::string& name, std::string_view end) { return name.ends_with(end); };
  NamedTensors mine, theirs;
  for (auto& entry : state) (ends(entry.first, ".slow_buffer") || ends(entry.first, ".lookahead_step") ? mine : theirs).push_back(entry);
  detail::Entries entries("lookahead", mine);
  std::vector<Tensor> slow, steps;
  for (size_t i = 0; i < params_.size(); ++i) {
    const std::string name = fmt::format("{}.slow_buffer", i);
    const Tensor value = entries.require(name);
    if (!(value.shape() == slow_[i].shape()) || value.dtype() != slow_[i].dtype())
      entries.fail(fmt::format("{} is {}; parameter {} needs {}", name, detail::describe(value), i, detail::describe(slow_[i])));
    slow.push_back(clone(to(value.detach(), params_[i].device())));
    steps.push_back(to(detail::count_entry(entries.count(fmt::format("{}.lookahead_step", i))), params_[i].device()));
  }
  entries.check_empty();
  optimizer_.load_state_dict(theirs);
  slow_ = std::move(slow), steps_ = std::move(steps);
}

// ---- SAM --------------------------------------------------------------------------------------------------------------

SAM::SAM(Optimizer& optimizer, const SAMOptions& options) : optimizer_(optimizer), options_(options) {
  detail::check_not_negative("sam", "rho", options.rho);
}

void SAM::first_step() {
  if (up_) throw Error("sam: first_step() was already called; call second_step(), which goes back, before the next one");
  const NoGrad no_grad;
  std::vector<OptimizerSlot> slots;
  const auto params = optimizer_.parameters();
  for (size_t i = 0; i < params.size(); ++i) {
    const Tensor& p = params[i];
    if (sparse_grad(p)) throw Error(fmt::format("sam: the gradient of parameter {} {} is sparse; make it dense", i, detail::describe(p)));
    if (!p.grad()) continue;
    slots.push_back({.value = p, .grad = p.grad(), .state = {empty(p.shape(), {wide(p.dtype()), p.device()})}, .step = {}});
  }
  if (slots.empty()) throw Error("sam: no parameter has a gradient; call backward() before first_step()");
  Tensor sum;
  for (auto& some : detail::split_by_device(slots, [](const OptimizerSlot& s) { return s.value.device(); })) {
    std::vector<Tensor> grads;
    for (auto& slot : some) grads.push_back(contiguous(options_.adaptive ? slot.value.detach() * slot.grad : slot.grad));
    Tensor squares = empty({int64_t(grads.size())}, {DType::f64, grads.front().device()});
    RETAPE_DISPATCH(squares.device(), square_norms(grads, squares));
    const Tensor part = retape::sum(squares);
    sum = sum ? sum + to(part, sum.device()) : part;
  }
  before_.clear();
  for (auto& slot : slots) {
    slot.state[1] = to(sum, slot.value.device());
    before_.emplace_back(slot.value, slot.state[0]);
  }
  detail::update_everywhere(UpdateKind::sam_ascent, {.other = {options_.rho}, .option = options_.adaptive}, {}, slots);
  up_ = true;
}
void SAM::go_back() {
  const NoGrad no_grad;
  for (auto& [param, value] : before_) copy_into(cast(value, param.dtype()), param);
  before_.clear();
  up_ = false;
}
void SAM::second_step(const Tensor& found_inf) {
  if (!up_) throw Error("sam: second_step() before first_step()");
  go_back();
  optimizer_.step(found_inf);
}
Tensor SAM::step(const Closure& closure) {
  if (!closure) throw Error("sam: the closure is empty");
  const Tensor loss = closure();
  first_step();
  try {
    closure();
  } catch (...) {
    go_back();
    throw;
  }
  second_step();
  return loss;
}

}  // namespace retape
