// The update rules of core/update_rules.h over all parameters at once. Only a loop over one stretch of a tensor is compiled for each rule,
// in f32 and f64; half types go through f32 in pieces that stay in the cache. (core/optimizer.cpp has the rules that must be fastest.)
#include <retape/core/chunks.h>
#include <retape/core/put.h>
#include <retape/core/update_rules.h>

namespace retape::RETAPE_LEVEL {
namespace {

using functor::Updated;
constexpr int most_states = 3;
constexpr int64_t piece = 1024;  // elements

// Applies a rule to n elements. states[k] may not be null.
template <template <class> class Rule, class T>
[[gnu::noinline]] void run(const UpdateArgs& args, const Updated& parameter, T* __restrict value, const T* grad, T* const* state,
                           int64_t n) {
  constexpr int states = Rule<T>::states;
  const Rule<T> update(args, parameter);
  if constexpr (requires { update.idle(); })
    if (update.idle()) return;
  T* __restrict a = state[0];
  T* __restrict b = state[1];
  T* __restrict c = state[2];
#pragma omp simd
  for (int64_t k = 0; k < n; ++k) {
    T x = value[k];
    if constexpr (states == 0) update(x, grad[k]);
    else if constexpr (states == 1) update(x, grad[k], a[k]);
    else if constexpr (states == 2) update(x, grad[k], a[k], b[k]);
    else update(x, grad[k], a[k], b[k], c[k]);
    value[k] = x;
  }
}
template <template <class> class Rule> void advance([[maybe_unused]] const UpdateArgs& args, [[maybe_unused]] Updated& parameter) {
  if constexpr (requires { Rule<double>::advance(args, parameter); }) Rule<double>::advance(args, parameter);
}

struct Entry {
  int states, scalars;
  void (*run_f32)(const UpdateArgs&, const Updated&, float*, const float*, float* const*, int64_t);
  void (*run_f64)(const UpdateArgs&, const Updated&, double*, const double*, double* const*, int64_t);
  void (*advance)(const UpdateArgs&, Updated&);
};
template <template <class> class Rule> constexpr Entry entry_of() {
  return {Rule<float>::states, Rule<float>::scalars, run<Rule, float>, run<Rule, double>, advance<Rule>};
}
#define RETAPE_X(kind, Rule) entry_of<functor::Rule>(),
constexpr Entry rules[] = {RETAPE_UPDATE_RULES(RETAPE_X)};
#undef RETAPE_X

template <class T> [[gnu::noinline]] void widen(const T* x, float* y, int64_t n) {
#pragma omp simd
  for (int64_t k = 0; k < n; ++k) y[k] = float(x[k]);
}
template <class T> [[gnu::noinline]] void narrow(const float* x, T* y, int64_t n) {
#pragma omp simd
  for (int64_t k = 0; k < n; ++k) put(y[k], x[k]);
}

// Elements [begin, end) of a parameter, in pieces if it is of a half type or lacks a state, which then reads as 0.
template <class T, class C, class Run>
[[gnu::noinline]] void run_chunk(const Run& rule, int states, const UpdateArgs& args, const Updated& parameter, const OptimizerSlot& slot,
                                 int64_t begin, int64_t end) {
  constexpr bool half = !std::is_same_v<T, C>;
  C* state[most_states] = {};
  bool missing = false;
  for (int k = 0; k < states; ++k) {
    if (slot.state[k]) state[k] = elements<C>(slot.state[k]) + begin;
    else missing = true;
  }
  T* value = elements<T>(slot.value) + begin;
  const T* grad = elements<T>(slot.grad) + begin;
  if constexpr (!half)
    if (!missing) return rule(args, parameter, value, grad, state, end - begin);
  C values[half ? piece : 1], grads[half ? piece : 1], none[most_states][piece];
  for (int64_t n = end - begin; n > 0; n -= piece, value += piece, grad += piece) {
    const int64_t count = min_of(n, piece);
    C* here[most_states];
    for (int k = 0; k < most_states; ++k) {
      here[k] = state[k] ? state[k] + (end - begin - n) : none[k];
      if (!state[k] && k < states) __builtin_memset(none[k], 0, sizeof none[k]);
    }
    if constexpr (half) {
      widen(value, values, count), widen(grad, grads, count);
      rule(args, parameter, values, grads, here, count);
      narrow(values, value, count);
    } else {
      rule(args, parameter, value, grad, here, count);
    }
  }
}

void check_slots(const std::vector<OptimizerSlot>& slots, const Entry& rule) {
  for (const OptimizerSlot *s = slots.data(), *end = s + slots.size(); s != end; ++s) {
    const DType d = s->value.dtype();
    if (!is_floating(d)) detail::unsupported_dtype("update", d);
    if (s->grad.dtype() != d) detail::kernel_error("update: a gradient's dtype differs from its parameter's");
    for (int k = 0; k < rule.states + rule.scalars; ++k)
      if (s->state[k] && s->state[k].dtype() != (k < rule.states ? state_dtype(d) : DType::f64))
        detail::kernel_error("update: a state's dtype does not fit its parameter's; it must be f64 for f64, else f32, and f64 for scalars");
    if (s->step && s->step.dtype() != DType::i64) detail::kernel_error("update: a count of steps is not i64");
  }
}
Updated updated(const OptimizerSlot& s, const Entry& rule) {
  Updated p{s.step ? *elements<int64_t>(s.step) + 1 : 1, s.value.numel(), {}};
  for (int k = 0; k < rule.scalars; ++k)
    if (const Tensor& t = s.state[rule.states + k]) p.scalar[k] = *elements<double>(t);
  return p;
}

}  // namespace

void update(UpdateKind kind, const UpdateArgs& args, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots) {
  const Entry& rule = rules[int(kind)];
  check_slots(slots, rule);
  if (found_inf && *found_inf.data<float>() != 0) return;
  const OptimizerSlot* all = slots.data();
  for_chunks(
      int64_t(slots.size()), [&](int64_t i) -> const Tensor& { return all[i].value; },
      [&](int64_t i, int64_t begin, int64_t end, int64_t) {
        const OptimizerSlot& slot = all[i];
        const Updated parameter = updated(slot, rule);
        switch (slot.value.dtype()) {
          case DType::f64: return run_chunk<double, double>(rule.run_f64, rule.states, args, parameter, slot, begin, end);
          case DType::f16: return run_chunk<f16, float>(rule.run_f32, rule.states, args, parameter, slot, begin, end);
          case DType::bf16: return run_chunk<bf16, float>(rule.run_f32, rule.states, args, parameter, slot, begin, end);
          default: return run_chunk<float, float>(rule.run_f32, rule.states, args, parameter, slot, begin, end);
        }
      });
  for (const OptimizerSlot *s = all, *end = all + slots.size(); s != end; ++s) {
    Updated after = updated(*s, rule);
    rule.advance(args, after);
    for (int k = 0; k < rule.states + rule.scalars; ++k) {
      const Tensor& t = s->state[k];
      if (!t) continue;
      if (k >= rule.states) *elements<double>(t) = after.scalar[k - rule.states];
      count_write(t);
    }
    if (s->step) ++*elements<int64_t>(s->step), count_write(s->step);
    count_write(s->value);
  }
}

}  // namespace retape::RETAPE_LEVEL
