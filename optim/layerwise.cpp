#include <retape/optim/layerwise.h>

#include <fmt/format.h>

#include <limits>

#include <retape/autograd/binary.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>

namespace retape {
namespace {

const Tensor& value_of(const OptimizerSlot& slot) { return slot.value; }
const Tensor& grad_of(const OptimizerSlot& slot) { return slot.grad; }
const Tensor& first_state(const OptimizerSlot& slot) { return slot.state[0]; }

// New values of a state, unless the step is skipped, which the device alone knows.
void put_state(const Tensor& value, const Tensor& state, const Tensor& found_inf) {
  copy_into(found_inf ? where(eq(found_inf, 0), value, state) : value, state);
}
double epsilon(DType dtype) {
  switch (dtype) {
    case DType::f64: return std::numeric_limits<double>::epsilon();
    case DType::f16: return 0x1p-10;
    case DType::bf16: return 0x1p-7;
    default: return std::numeric_limits<float>::epsilon();
  }
}

}  // namespace

void LAMBOptions::check() const {
  detail::check_not_negative(optimizer, "lr", lr);
  detail::check_not_negative(optimizer, "eps", eps);
  detail::check_not_negative(optimizer, "weight_decay", weight_decay);
  detail::check_betas(optimizer, betas);
}

void LAMB::update(int group, Device device, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots) {
  std::vector<OptimizerSlot> directions = slots, steps = slots;
  for (size_t i = 0; i < slots.size(); ++i) {
    const Tensor direction = empty_like(slots[i].state[0]);
    directions[i].state[2] = direction;
    steps[i].state[0] = direction;
    steps[i].step = {};
  }
  const auto direction = +[](const LAMBOptions& o) -> UpdateArgs {
    return {.beta1 = o.betas.first, .beta2 = o.betas.second, .eps = o.eps, .weight_decay = o.weight_decay, .maximize = o.maximize};
  };
  const auto step = +[](const LAMBOptions& o) -> UpdateArgs { return {.lr = o.lr, .other = {1}, .option = o.adapt}; };
  detail::update(device, UpdateKind::lamb, arguments(group, direction), found_inf, directions);
  detail::add_norms(steps, 1, value_of, first_state);
  detail::update(device, UpdateKind::scaled_step, arguments(group, step), found_inf, steps);
}

void LARSOptions::check() const {
  detail::check_not_negative(optimizer, "lr", lr);
  detail::check_not_negative(optimizer, "momentum", momentum);
  detail::check_not_negative(optimizer, "weight_decay", weight_decay);
  detail::check_not_negative(optimizer, "trust_coefficient", trust_coefficient);
  detail::check_not_negative(optimizer, "eps", eps);
}

void LARS::update(int group, Device device, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots) {
  std::vector<OptimizerSlot> steps = slots;
  detail::add_norms(steps, 1, value_of, grad_of);
  const auto args = +[](const LARSOptions& o) -> UpdateArgs {
    return {.lr = o.lr,
            .beta1 = o.momentum,
            .eps = o.eps,
            .weight_decay = o.weight_decay,
            .other = {o.trust_coefficient},
            .maximize = o.maximize,
            .option = o.adapt};
  };
  detail::update(device, UpdateKind::lars, arguments(group, args), found_inf, steps);
}

void AdafactorOptions::check() const {
  detail::check_not_negative(optimizer, "lr", lr);
  detail::check_not_negative(optimizer, "weight_decay", weight_decay);
  if (eps.first) detail::check_not_negative(optimizer, "eps", *eps.first);
  detail::check_not_negative(optimizer, "eps", eps.second);
  if (!(beta2_decay <= 0)) throw Error(fmt::format("adafactor: beta2_decay {} is not valid; it must be at most 0", beta2_decay));
  if (!(d >= 1)) throw Error(fmt::format("adafactor: d {} is not valid; it must be at least 1", d));
}

std::pair<Shape, DType> Adafactor::state_layout(const Tensor& param, int k) const {
  auto layout = Optimizer::state_layout(param, k);
  if (k < 2) layout.first[param.dim() - 1 - k] = 1;
  return layout;
}

void Adafactor::update(int group, Device device, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots) {
  const AdafactorOptions& o = options(group);
  std::vector<OptimizerSlot> steps = slots;
  for (size_t i = 0; i < slots.size(); ++i) {
    const OptimizerSlot& slot = slots[i];
    const double least = o.eps.first ? *o.eps.first : epsilon(slot.value.dtype());
    const DType dtype = Optimizer::state_layout(slot.value, 2).second;
    const Tensor share = pow(cast(slot.step, DType::f64) + 1, o.beta2_decay), grad = cast(slot.grad, dtype), squares = square(grad);
    Tensor variance;
    if (slot.value.dim() > 1) {
      const Tensor rows = lerp(slot.state[0], mean(squares, {-1}, true), share),
                   columns = lerp(slot.state[1], mean(squares, {-2}, true), share);
      variance = rows / clamp(mean(rows, {-2}, true), least, INFINITY) * columns;
      put_state(rows, slot.state[0], found_inf), put_state(columns, slot.state[1], found_inf);
    } else {
      variance = lerp(slot.state[2], squares, share);
      put_state(variance, slot.state[2], found_inf);
    }
    const Tensor direction = grad * rsqrt(clamp(variance, least * least, INFINITY));
    steps[i].state[0] = contiguous(o.maximize ? -direction : direction);
  }
  detail::add_norms(steps, 1, value_of, first_state);
  const auto args = +[](const AdafactorOptions& of) -> UpdateArgs {
    return {.lr = of.lr, .eps = of.eps.second, .weight_decay = of.weight_decay, .other = {of.d}};
  };
  detail::update(device, UpdateKind::adafactor, arguments(group, args), found_inf, steps);
}

}  // namespace retape
