// Optimizer steps over all parameters at once: the tensors are cut into chunks, a block each, and a launch carries a table of as many
// tensors as fit among a kernel's arguments. Counts of steps change in a launch of their own, after all chunks have read them.
#include <new>

#include <retape/core/optimizer_ops.h>
#include <retape/cuda/chunks.h>

namespace retape::cuda {
namespace {

template <class F> void for_each_floating(const F& f) {
  f(float{});
  f(bf16{});
  f(f16{});
  f(double{});
}

// ---- update rules ------------------------------------------------------------------------------------------------------

struct Parameter {
  void* value;
  const void* grad;
  void* state[2];
  const int64_t* step;
  int64_t n;
};

template <int states, class Rule, class T, class C>
__device__ __forceinline__ void update_element(const Rule& update, T& value, T grad, C& first, C& second) {
  C x = C(value);
  if constexpr (states == 0) update(x, C(grad));
  else if constexpr (states == 1) update(x, C(grad), first);
  else update(x, C(grad), first, second);
  value = T(x);
}

// One thread folds what is the same for all elements, which takes powers in double.
template <int states, template <class> class Rule, class T, class Args>
__global__ void update_chunks(Table<Parameter> table, Args args, const float* found_inf) {
  using C = compute_t<T>;
  constexpr int width = 16 / int(sizeof(C));
  if (found_inf && *found_inf != 0) return;
  const Chunk here = chunk_of(table);
  const Parameter& p = table.at[here.tensor];
  __shared__ double room[(sizeof(Rule<C>) + 7) / 8];
  if (threadIdx.x == 0) new (room) Rule<C>(args.later ? *args.later : args, *p.step + 1);
  __syncthreads();
  const Rule<C> update = *reinterpret_cast<const Rule<C>*>(room);

  T* const value = static_cast<T*>(p.value);
  const T* const grad = static_cast<const T*>(p.grad);
  C *const first = static_cast<C*>(p.state[0]), *const second = static_cast<C*>(p.state[1]);
  const uintptr_t address = uintptr_t(value) | uintptr_t(grad) | uintptr_t(first) | uintptr_t(second);
  int64_t k = here.begin;
  if (address % 16 == 0) {
    const int64_t packs = (here.end - here.begin) / width;
    for (int64_t i = threadIdx.x; i < packs; i += blockDim.x) {
      const int64_t at = here.begin + i * width;
      auto values = *reinterpret_cast<const Pack<T, width>*>(value + at);
      const auto grads = *reinterpret_cast<const Pack<T, width>*>(grad + at);
      Pack<C, width> a{}, b{};
      if constexpr (states > 0) a = *reinterpret_cast<const Pack<C, width>*>(first + at);
      if constexpr (states > 1) b = *reinterpret_cast<const Pack<C, width>*>(second + at);
#pragma unroll
      for (int j = 0; j < width; ++j) update_element<states>(update, values.at[j], grads.at[j], a.at[j], b.at[j]);
      *reinterpret_cast<Pack<T, width>*>(value + at) = values;
      if constexpr (states > 0) *reinterpret_cast<Pack<C, width>*>(first + at) = a;
      if constexpr (states > 1) *reinterpret_cast<Pack<C, width>*>(second + at) = b;
    }
    k += packs * width;
  }
  for (k += threadIdx.x; k < here.end; k += blockDim.x) {
    C none = 0;
    update_element<states>(update, value[k], grad[k], states > 0 ? first[k] : none, states > 1 ? second[k] : none);
  }
}

struct Count {
  unsigned long long* step;
  int64_t n;
};
// Adding as integers do it atomically serves parameters that share a count, too.
__global__ void count_steps(Table<Count> table, const float* found_inf) {
  if (found_inf && *found_inf != 0) return;
  for (int64_t i = thread_index(); i < table.count; i += thread_count()) atomicAdd(table.at[i].step, 1ull);
}

struct SlotEntries {
  const std::vector<OptimizerSlot>& slots;
  int states;
  template <class T> bool has(int64_t i) const {
    const Tensor& value = slots[size_t(i)].value;
    return value.dtype() == dtype_of<T> && value.numel() > 0;
  }
  template <class T> Parameter entry(int64_t i) const {
    using C = compute_t<T>;
    const OptimizerSlot& s = slots[size_t(i)];
    return {data<T>(s.value),
            data<T>(s.grad),
            {states > 0 ? data<C>(s.state[0]) : nullptr, states > 1 ? data<C>(s.state[1]) : nullptr},
            data<int64_t>(s.step),
            s.value.numel()};
  }
};

void check_slots(const char* kernel, const std::vector<OptimizerSlot>& slots, int states) {
  for (const OptimizerSlot& s : slots) {
    const DType d = s.value.dtype();
    if (!is_floating(d)) retape::detail::unsupported_dtype(kernel, d);
    if (s.grad.dtype() != d) retape::detail::kernel_error("optimizer: a gradient's dtype differs from its parameter's");
    for (int k = 0; k < states; ++k)
      if (s.state[k].dtype() != (d == DType::f64 ? d : DType::f32))
        retape::detail::kernel_error("optimizer: a state's dtype does not fit its parameter's; it must be f64 for f64, else f32");
    if (s.step.dtype() != DType::i64) retape::detail::kernel_error("optimizer: a count of steps is not i64");
  }
}

// Applies a rule of optimizer_ops.h, which has `states` tensors of its own, to every element of every parameter. The host does not know
// whether the step is skipped, so that all counts as written.
template <int states, template <class> class Rule, class Args>
void update_all(const char* kernel, const Args& args, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots) {
  check_slots(kernel, slots, states);
  const float* const found = data<float>(found_inf);
  for_each_floating([&](auto zero) {
    using T = decltype(zero);
    in_tables<Parameter, T>(int64_t(slots.size()), SlotEntries{slots, states}, [&](const Table<Parameter>& table) {
      launch(update_chunks<states, Rule, T, Args>, unsigned(table.first[table.count]), threads, 0, table, args, found);
    });
  });
  Table<Count> counts;
  const auto count = [&] {
    launch(count_steps, unsigned((counts.count + threads - 1) / threads), threads, 0, counts, found);
    counts = {};
  };
  for (const OptimizerSlot& s : slots) {
    counts.add({data<unsigned long long>(s.step), 0});
    if (counts.count == Table<Count>::capacity) count();
    count_write(s.step), count_write(s.value);
    for (int k = 0; k < states; ++k) count_write(s.state[k]);
  }
  count();
}

// ---- lists of tensors --------------------------------------------------------------------------------------------------

struct Item {
  void* x;
  int64_t n, index;  // index: in the list
};
struct ItemEntries {
  const std::vector<Tensor>& xs;
  template <class T> bool has(int64_t i) const { return xs[size_t(i)].dtype() == dtype_of<T>; }
  template <class T> Item entry(int64_t i) const { return {data<T>(xs[size_t(i)]), xs[size_t(i)].numel(), i}; }
};
void check_floating(const char* kernel, const std::vector<Tensor>& xs) {
  for (const Tensor& x : xs)
    if (!is_floating(x.dtype())) retape::detail::unsupported_dtype(kernel, x.dtype());
}
template <class F> void for_tables(const std::vector<Tensor>& xs, const F& f) {
  for_each_floating([&](auto zero) {
    in_tables<Item, decltype(zero)>(int64_t(xs.size()), ItemEntries{xs}, [&](const Table<Item>& table) { f(zero, table); });
  });
}

/// Calls f(v) for all of the block's elements; with `writes`, what f made of v is stored.
template <class T, bool writes, class F> __device__ __forceinline__ void for_elements(T* x, const Chunk& here, const F& f) {
  using C = compute_t<T>;
  constexpr int width = 16 / int(sizeof(T));
  int64_t k = here.begin;
  if (uintptr_t(x) % 16 == 0) {
    const int64_t packs = (here.end - here.begin) / width;
    for (int64_t i = threadIdx.x; i < packs; i += blockDim.x) {
      auto* const at = reinterpret_cast<Pack<T, width>*>(x + here.begin + i * width);
      Pack<T, width> values = *at;
#pragma unroll
      for (int j = 0; j < width; ++j) {
        C v = C(values.at[j]);
        f(v);
        if constexpr (writes) values.at[j] = T(v);
      }
      if constexpr (writes) *at = values;
    }
    k += packs * width;
  }
  for (k += threadIdx.x; k < here.end; k += blockDim.x) {
    C v = C(x[k]);
    f(v);
    if constexpr (writes) x[k] = T(v);
  }
}

template <class T> __global__ void square_chunks(Table<Item> table, double* partial) {
  __shared__ double shared[33];
  const Chunk here = chunk_of(table);
  double sum = 0;
  for_elements<T, false>(static_cast<T*>(table.at[here.tensor].x), here, [&](compute_t<T>& v) { sum += double(v) * double(v); });
  sum = block_reduce(sum, shared, Plus{});
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}
// A block a tensor.
__global__ void add_up_squares(Table<Item> table, const double* partial, double* y) {
  __shared__ double shared[33];
  double sum = 0;
  for (int c = table.first[blockIdx.x] + int(threadIdx.x); c < table.first[blockIdx.x + 1]; c += int(blockDim.x)) sum += partial[c];
  sum = block_reduce(sum, shared, Plus{});
  if (threadIdx.x == 0) y[table.at[blockIdx.x].index] = sum;
}

template <class T> __global__ void scale_chunks(Table<Item> table, const double* factor) {
  if (*factor == 1) return;
  const Chunk here = chunk_of(table);
  const compute_t<T> by = compute_t<T>(*factor);
  for_elements<T, true>(static_cast<T*>(table.at[here.tensor].x), here, [&](compute_t<T>& v) { v *= by; });
}
// Looks at the values as they come, before the product could round one to 0 or infinity.
template <class T> __global__ void unscale_chunks(Table<Item> table, const float* scale, float* found_inf) {
  using C = compute_t<T>;
  const Chunk here = chunk_of(table);
  const C by = C(float(1 / double(*scale)));
  int bad = 0;
  for_elements<T, true>(static_cast<T*>(table.at[here.tensor].x), here, [&](C& v) {
    bad |= !(v - v == 0);
    v *= by;
  });
  if (__any_sync(all_lanes, bad) && threadIdx.x % 32 == 0) atomicExch(found_inf, 1.0f);
}

__global__ void loss_scale_step(LossScaleArgs args, const float* found_inf, float* scale, int32_t* successes) {
  if (*found_inf != 0) {
    *scale = float(double(*scale) * args.backoff_factor);
    *successes = 0;
  } else if (++*successes == args.growth_interval) {
    const float grown = float(double(*scale) * args.growth_factor);
    if (grown - grown == 0) *scale = grown;
    *successes = 0;
  }
}

}  // namespace

void adamw(const AdamWArgs& args, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots) {
  update_all<2, functor::AdamW>("adamw", args, found_inf, slots);
}
void adagrad(const AdagradArgs& args, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots) {
  update_all<1, functor::Adagrad>("adagrad", args, found_inf, slots);
}
void sgd(const SGDArgs& args, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots) {
  if (args.momentum != 0) update_all<1, functor::SGD>("sgd", args, found_inf, slots);
  else update_all<0, functor::SGD>("sgd", args, found_inf, slots);
}

void square_norms(const std::vector<Tensor>& xs, Tensor& y) {
  check_floating("square_norms", xs);
  for_tables(xs, [&](auto zero, const Table<Item>& table) {
    const int chunks = table.first[table.count];
    const Scratch<double> partial(chunks);
    launch(square_chunks<decltype(zero)>, unsigned(chunks), threads, 0, table, partial);
    launch(add_up_squares, unsigned(table.count), threads, 0, table, partial, data<double>(y));
  });
}

void scale(const Tensor& factor, const std::vector<Tensor>& xs) {
  check_floating("scale", xs);
  for (const Tensor& x : xs) count_write(x);
  for_tables(xs, [&](auto zero, const Table<Item>& table) {
    launch(scale_chunks<decltype(zero)>, unsigned(table.first[table.count]), threads, 0, table, data<double>(factor));
  });
}

void unscale(const Tensor& scale, const std::vector<Tensor>& xs, Tensor& found_inf) {
  check_floating("unscale", xs);
  for (const Tensor& x : xs) count_write(x);
  count_write(found_inf);
  for_tables(xs, [&](auto zero, const Table<Item>& table) {
    launch(unscale_chunks<decltype(zero)>, unsigned(table.first[table.count]), threads, 0, table, data<float>(scale),
           data<float>(found_inf));
  });
}

void update_loss_scale(const LossScaleArgs& args, const Tensor& found_inf, Tensor& scale, Tensor& tracker) {
  count_write(scale), count_write(tracker);
  launch(loss_scale_step, 1, 1, 0, args, data<float>(found_inf), data<float>(scale), data<int32_t>(tracker));
}

}  // namespace retape::cuda
