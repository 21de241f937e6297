// Optimizer steps over all parameters at once: the tensors are cut into chunks, and one parallel loop runs over the chunks of all
// of them, so that many small parameters cost no more than a large one.
#include <retape/core/chunks.h>
#include <retape/core/optimizer_ops.h>
#include <retape/core/put.h>

namespace retape::RETAPE_LEVEL {
namespace {

void check_slots(const char* kernel, const std::vector<OptimizerSlot>& slots, int states) {
  const OptimizerSlot* slot = slots.data();
  for (size_t i = 0; i < slots.size(); ++i) {
    const OptimizerSlot& s = slot[i];
    const DType d = s.value.dtype();
    if (!is_floating(d)) detail::unsupported_dtype(kernel, d);
    if (s.grad.dtype() != d) detail::kernel_error("optimizer: a gradient's dtype differs from its parameter's");
    for (int k = 0; k < states; ++k)
      if (s.state[k].dtype() != state_dtype(d))
        detail::kernel_error("optimizer: a state's dtype does not fit its parameter's; it must be f64 for f64, else f32");
    if (s.step.dtype() != DType::i64) detail::kernel_error("optimizer: a count of steps is not i64");
  }
}
void count_update(const std::vector<OptimizerSlot>& slots, int states) {
  for (const OptimizerSlot *s = slots.data(), *end = s + slots.size(); s != end; ++s) {
    ++*elements<int64_t>(s->step);
    count_write(s->step), count_write(s->value);
    for (int k = 0; k < states; ++k) count_write(s->state[k]);
  }
}

// Applies a rule of optimizer_ops.h, which has `states` tensors of its own, to every element of every parameter.
template <int states, template <class> class Rule, class Args>
RETAPE_INLINE void update_all(const char* kernel, const Args& args, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots) {
  check_slots(kernel, slots, states);
  if (found_inf && *found_inf.data<float>() != 0) return;
  const OptimizerSlot* all = slots.data();
  for_chunks(
      int64_t(slots.size()), [&](int64_t i) -> const Tensor& { return all[i].value; },
      [&](int64_t i, int64_t begin, int64_t end, int64_t) {
        const OptimizerSlot& slot = all[i];
        with_floating(kernel, slot.value.dtype(), [&](auto zero) {
          using T = decltype(zero);
          using C = compute_t<T>;
          const Rule<C> update(args, *elements<int64_t>(slot.step) + 1);
          T* __restrict value = elements<T>(slot.value);
          const T* __restrict grad = elements<T>(slot.grad);
          C* __restrict first = states > 0 ? elements<C>(slot.state[0]) : nullptr;
          C* __restrict second = states > 1 ? elements<C>(slot.state[1]) : nullptr;
#pragma omp simd
          for (int64_t k = begin; k < end; ++k) {
            C x = C(value[k]);
            if constexpr (states == 0) update(x, C(grad[k]));
            else if constexpr (states == 1) update(x, C(grad[k]), first[k]);
            else update(x, C(grad[k]), first[k], second[k]);
            put(value[k], x);
          }
        });
      });
  count_update(slots, states);
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

// The sum of a chunk is made in 32 lanes, and the chunks of a tensor are added in order: the number of threads does not matter.
void square_norms(const std::vector<Tensor>& xs, Tensor& y) {
  const Tensor* all = xs.data();
  const int64_t count = int64_t(xs.size());
  int64_t chunks = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (!is_floating(all[i].dtype())) detail::unsupported_dtype("square_norms", all[i].dtype());
    chunks += chunks_of(all[i]);
  }
  Scratch<double> partial(chunks);
  for_chunks(
      count, [&](int64_t i) -> const Tensor& { return all[i]; },
      [&](int64_t i, int64_t begin, int64_t end, int64_t c) {
        with_floating("square_norms", all[i].dtype(), [&](auto zero) {
          using T = decltype(zero);
          const T* x = elements<T>(all[i]);
          double lanes[32] = {};
          int64_t k = begin;
          for (; k + 32 <= end; k += 32) {
#pragma omp simd
            for (int lane = 0; lane < 32; ++lane) {
              const double v = double(compute_t<T>(x[k + lane]));
              lanes[lane] += v * v;
            }
          }
          for (; k < end; ++k) {
            const double v = double(compute_t<T>(x[k]));
            lanes[(k - begin) % 32] += v * v;
          }
          for (int width = 16; width; width /= 2)
            for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
          partial[c] = lanes[0];
        });
      });
  double* out = y.mutable_data<double>();
  for (int64_t i = 0, c = 0; i < count; ++i) {
    out[i] = 0;
    for (const int64_t end = c + chunks_of(all[i]); c < end; ++c) out[i] += partial[c];
  }
}

void scale(const Tensor& factor, const std::vector<Tensor>& xs) {
  const double f = *factor.data<double>();
  if (f == 1) return;
  const Tensor* all = xs.data();
  const int64_t count = int64_t(xs.size());
  for (int64_t i = 0; i < count; ++i)
    if (!is_floating(all[i].dtype())) detail::unsupported_dtype("scale", all[i].dtype());
  for (int64_t i = 0; i < count; ++i) count_write(all[i]);
  for_chunks(
      count, [&](int64_t i) -> const Tensor& { return all[i]; },
      [&](int64_t i, int64_t begin, int64_t end, int64_t) {
        with_floating("scale", all[i].dtype(), [&](auto zero) {
          using T = decltype(zero);
          using C = compute_t<T>;
          T* x = elements<T>(all[i]);
          const C by = C(f);
#pragma omp simd
          for (int64_t k = begin; k < end; ++k) put(x[k], C(x[k]) * by);
        });
      });
}

// Looks at the values as they come, before the product could round one to 0 or infinity.
void unscale(const Tensor& scale, const std::vector<Tensor>& xs, Tensor& found_inf) {
  const Tensor* all = xs.data();
  const int64_t count = int64_t(xs.size());
  for (int64_t i = 0; i < count; ++i)
    if (!is_floating(all[i].dtype())) detail::unsupported_dtype("unscale", all[i].dtype());
  for (int64_t i = 0; i < count; ++i) count_write(all[i]);
  const float inverse = float(1 / double(*scale.data<float>()));
  float* const found = found_inf.mutable_data<float>();
  for_chunks(
      count, [&](int64_t i) -> const Tensor& { return all[i]; },
      [&](int64_t i, int64_t begin, int64_t end, int64_t) {
        with_floating("unscale", all[i].dtype(), [&](auto zero) {
          using T = decltype(zero);
          using C = compute_t<T>;
          T* x = elements<T>(all[i]);
          const C by = C(inverse);
          int bad = 0;
#pragma omp simd reduction(| : bad)
          for (int64_t k = begin; k < end; ++k) {
            const C v = C(x[k]);
            bad |= !(v - v == 0);
            put(x[k], v * by);
          }
          if (!bad) return;
#pragma omp atomic write
          *found = 1;
        });
      });
}

void update_loss_scale(const LossScaleArgs& args, const Tensor& found_inf, Tensor& scale, Tensor& tracker) {
  const bool skipped = *found_inf.data<float>() != 0;
  float* const value = scale.mutable_data<float>();
  int32_t* const successes = tracker.mutable_data<int32_t>();
  if (skipped) {
    *value = float(double(*value) * args.backoff_factor);
    *successes = 0;
  } else if (++*successes == args.growth_interval) {
    const float grown = float(double(*value) * args.growth_factor);
    if (grown - grown == 0) *value = grown;
    *successes = 0;
  }
}

}  // namespace retape::RETAPE_LEVEL
