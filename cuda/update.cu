// The update rules of core/update_rules.h over all parameters at once. Steps and scalars change in a launch of their own, after all chunks
// have read them. A rule is compiled for f32 and f64; f16 and bf16 are converted as they are read and written.
#include <new>

#include <retape/core/update_rules.h>
#include <retape/cuda/chunks.h>

namespace retape::cuda {
namespace {

using functor::Updated;
constexpr int most_states = 3, most_scalars = 2;

struct Parameter {
  void* value;
  const void* grad;
  void* state[most_states];
  double* scalar[most_scalars];
  int64_t* step;
  int64_t n;
  DType dtype;
};
static_assert(sizeof(Table<Parameter>) + sizeof(UpdateArgs) + sizeof(float*) <= 4096, "a kernel's arguments are at most 4 KiB");
__device__ __forceinline__ Updated updated(const Parameter& p) {
  Updated out{p.step ? *p.step + 1 : 1, p.n, {}};
  for (int k = 0; k < most_scalars; ++k) out.scalar[k] = p.scalar[k] ? *p.scalar[k] : 0;
  return out;
}

template <class C> __device__ __forceinline__ C load(const void* x, DType dtype, int64_t k) {
  if constexpr (std::is_same_v<C, double>) return static_cast<const double*>(x)[k];
  else if (dtype == DType::bf16) return C(static_cast<const bf16*>(x)[k]);
  else if (dtype == DType::f16) return C(static_cast<const f16*>(x)[k]);
  else return static_cast<const float*>(x)[k];
}
template <class C> __device__ __forceinline__ void store(void* x, DType dtype, int64_t k, C v) {
  if constexpr (std::is_same_v<C, double>) static_cast<double*>(x)[k] = v;
  else if (dtype == DType::bf16) static_cast<bf16*>(x)[k] = bf16(v);
  else if (dtype == DType::f16) static_cast<f16*>(x)[k] = f16(v);
  else static_cast<float*>(x)[k] = v;
}

// One thread folds what is the same for all elements, which takes powers in double.
template <template <class> class Rule, class C>
__global__ void update_chunks(Table<Parameter> table, UpdateArgs args, const float* found_inf) {
  constexpr int states = Rule<C>::states;
  if (found_inf && *found_inf != 0) return;
  const Chunk here = chunk_of(table);
  const Parameter& p = table.at[here.tensor];
  __shared__ double room[(sizeof(Rule<C>) + 7) / 8];
  if (threadIdx.x == 0) new (room) Rule<C>(args.later ? *args.later : args, updated(p));
  __syncthreads();
  const Rule<C> update = *reinterpret_cast<const Rule<C>*>(room);
  if constexpr (requires { update.idle(); })
    if (update.idle()) return;

  C* const state[most_states] = {static_cast<C*>(p.state[0]), static_cast<C*>(p.state[1]), static_cast<C*>(p.state[2])};
  for (int64_t k = here.begin + threadIdx.x; k < here.end; k += blockDim.x) {
    C x = load<C>(p.value, p.dtype, k), s[most_states] = {};
    const C grad = load<C>(p.grad, p.dtype, k);
#pragma unroll
    for (int j = 0; j < states; ++j)
      if (state[j]) s[j] = state[j][k];
    if constexpr (states == 0) update(x, grad);
    else if constexpr (states == 1) update(x, grad, s[0]);
    else if constexpr (states == 2) update(x, grad, s[0], s[1]);
    else update(x, grad, s[0], s[1], s[2]);
#pragma unroll
    for (int j = 0; j < states; ++j)
      if (state[j]) state[j][k] = s[j];
    store(p.value, p.dtype, k, x);
  }
}

template <template <class> class Rule> __global__ void advance(Table<Parameter> table, UpdateArgs args, const float* found_inf) {
  if (found_inf && *found_inf != 0) return;
  for (int64_t i = thread_index(); i < table.count; i += thread_count()) {
    const Parameter& p = table.at[i];
    Updated after = updated(p);
    if constexpr (requires { Rule<double>::advance(args, after); }) {
      Rule<double>::advance(args.later ? *args.later : args, after);
      for (int k = 0; k < most_scalars; ++k)
        if (p.scalar[k]) *p.scalar[k] = after.scalar[k];
    }
    if (p.step) *p.step = after.step;
  }
}

struct SlotEntries {
  const std::vector<OptimizerSlot>& slots;
  int states, scalars;
  template <class C> bool has(int64_t i) const {
    const Tensor& value = slots[size_t(i)].value;
    return (value.dtype() == DType::f64) == std::is_same_v<C, double> && value.numel() > 0;
  }
  template <class C> Parameter entry(int64_t i) const {
    const OptimizerSlot& s = slots[size_t(i)];
    Parameter p = numbers(s);
    p.value = data_bytes(s.value), p.grad = data_bytes(s.grad), p.dtype = s.value.dtype();
    for (int k = 0; k < states; ++k) p.state[k] = data<C>(s.state[k]);
    return p;
  }
  Parameter numbers(const OptimizerSlot& s) const {
    Parameter p{};
    for (int k = 0; k < scalars; ++k) p.scalar[k] = data<double>(s.state[states + k]);
    p.step = data<int64_t>(s.step), p.n = s.value.numel();
    return p;
  }
};

void check_slots(const std::vector<OptimizerSlot>& slots, int states, int scalars) {
  for (const OptimizerSlot& s : slots) {
    const DType d = s.value.dtype();
    if (!is_floating(d)) retape::detail::unsupported_dtype("update", d);
    if (s.grad.dtype() != d) retape::detail::kernel_error("update: a gradient's dtype differs from its parameter's");
    for (int k = 0; k < states + scalars; ++k)
      if (s.state[k] && s.state[k].dtype() != (k >= states || d == DType::f64 ? DType::f64 : DType::f32))
        retape::detail::kernel_error(
            "update: a state's dtype does not fit its parameter's; it must be f64 for f64, else f32, and f64 for scalars");
    if (s.step && s.step.dtype() != DType::i64) retape::detail::kernel_error("update: a count of steps is not i64");
  }
}

// The host does not know whether the step is skipped, so that all counts as written.
template <template <class> class Rule>
void update_all(const UpdateArgs& args, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots) {
  constexpr int states = Rule<float>::states, scalars = Rule<float>::scalars;
  check_slots(slots, states, scalars);
  const float* const found = data<float>(found_inf);
  const SlotEntries entries{slots, states, scalars};
  const auto run = [&]<class C>(C) {
    in_tables<Parameter, C>(int64_t(slots.size()), entries, [&](const Table<Parameter>& table) {
      launch(update_chunks<Rule, C>, unsigned(table.first[table.count]), threads, 0, table, args, found);
    });
  };
  run(float{}), run(double{});
  Table<Parameter> counts;
  const auto count = [&] {
    launch(advance<Rule>, unsigned((counts.count + threads - 1) / threads), threads, 0, counts, args, found);
    counts = {};
  };
  for (const OptimizerSlot& s : slots) {
    counts.add(entries.numbers(s));
    if (counts.count == Table<Parameter>::capacity) count();
    if (s.step) count_write(s.step);
    count_write(s.value);
    for (int k = 0; k < states + scalars; ++k)
      if (s.state[k]) count_write(s.state[k]);
  }
  count();
}

}  // namespace

void update(UpdateKind rule, const UpdateArgs& args, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots) {
  switch (rule) {
#define RETAPE_X(kind, Rule) \
  case UpdateKind::kind: return update_all<functor::Rule>(args, found_inf, slots);
    RETAPE_UPDATE_RULES(RETAPE_X)
#undef RETAPE_X
  }
}

}  // namespace retape::cuda
