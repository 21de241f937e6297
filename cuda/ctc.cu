// Connectionist temporal classification: the forward-backward algorithm in logarithms, a block a sequence, its threads the states of a
// frame. A label that does not exist is reported; its sequence counts as impossible.
#include <retape/cuda/launch.h>

namespace retape::cuda {
namespace {

template <class C> __device__ __forceinline__ C infinity() { return C(__builtin_inf()); }
template <class C> __device__ __forceinline__ C log_add(C a, C b, C c) {
  C top = a > b ? a : b;
  top = c > top ? c : top;
  const C base = top > -infinity<C>() ? top : C(0);
  return base + m::log(m::exp(a - base) + m::exp(b - base) + m::exp(c - base));
}

// A target and its states: blank, label, blank, ..., label, blank.
struct Sequence {
  const int64_t* target;
  int64_t length, steps, blank;
  __device__ __forceinline__ Sequence(const int64_t* targets, const int64_t* places, int64_t b, int64_t blank)
      : target(targets + places[3 * b]), length(places[3 * b + 1]), steps(places[3 * b + 2]), blank(blank) {}
  __device__ __forceinline__ int64_t states() const { return 2 * length + 1; }
  __device__ __forceinline__ int64_t label(int64_t s) const { return s % 2 ? target[s / 2] : blank; }
  __device__ __forceinline__ bool skips(int64_t s) const {  // may s follow s - 2?
    return s % 2 && s > 1 && s < states() && target[s / 2] != target[s / 2 - 1];
  }
  // Every thread asks, so that all agree.
  __device__ __forceinline__ bool is_valid(int64_t classes, Fault* fault, const char* op) const {
    for (int64_t i = 0; i < length; ++i)
      if (target[i] < 0 || target[i] >= classes) {
        if (threadIdx.x == 0) report(fault, op, target[i], -1, classes);
        return false;
      }
    return true;
  }
};

template <class T>
__global__ void ctc_forward(const T* log_probs, const int64_t* targets, const int64_t* places, int64_t frames, int64_t sequences,
                            int64_t classes, int64_t most, int64_t blank, Fault* fault, const char* op, compute_t<T>* losses,
                            compute_t<T>* alpha) {
  using C = compute_t<T>;
  const int64_t b = blockIdx.x;
  const Sequence sequence(targets, places, b, blank);
  C* const rows = alpha + b * frames * most;
  for (int64_t i = threadIdx.x; i < frames * most; i += blockDim.x) rows[i] = -infinity<C>();
  if (!sequence.is_valid(classes, fault, op) || sequence.steps == 0) {
    if (threadIdx.x == 0) losses[b] = sequence.steps == 0 && sequence.length == 0 ? C(0) : infinity<C>();
    return;
  }
  for (int64_t t = 0; t < sequence.steps; ++t) {
    __syncthreads();
    const T* const frame = log_probs + (t * sequences + b) * classes;
    const C* const before = rows + (t - 1) * most;
    for (int64_t s = threadIdx.x; s < sequence.states(); s += blockDim.x) {
      if (t == 0 && s > 1) continue;
      const C emitted = C(frame[sequence.label(s)]);
      const C from =
          t == 0 ? C(0) : log_add(before[s], s > 0 ? before[s - 1] : -infinity<C>(), sequence.skips(s) ? before[s - 2] : -infinity<C>());
      rows[t * most + s] = from + emitted;
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    const C* const last = rows + (sequence.steps - 1) * most;
    losses[b] = -log_add(last[2 * sequence.length], sequence.length > 0 ? last[2 * sequence.length - 1] : -infinity<C>(), -infinity<C>());
  }
}

// Scratch for each sequence: two rows of log beta with emissions, posteriors, and for each state the next one with its label: 0 for none.
// What goes to one class is added by the thread of its first state, in order.
template <class T>
__global__ void ctc_gradients(const compute_t<T>* dlosses, const T* log_probs, const int64_t* targets, const int64_t* places,
                              const compute_t<T>* losses, const compute_t<T>* alpha, int64_t frames, int64_t sequences, int64_t classes,
                              int64_t most, int64_t blank, bool zero_infinity, compute_t<T>* numbers, int32_t* links, T* dlog_probs) {
  using C = compute_t<T>;
  const int64_t b = blockIdx.x;
  const Sequence sequence(targets, places, b, blank);
  const int64_t steps = sequence.steps, states = sequence.states();
  const C loss = losses[b], g = dlosses[b];
  const bool impossible = loss == infinity<C>();
  const C everywhere = impossible && !zero_infinity ? C(__builtin_nan("")) : C(0);
  for (int64_t t = impossible ? 0 : steps; t < frames; ++t)
    for (int64_t c = threadIdx.x; c < classes; c += blockDim.x)
      dlog_probs[(t * sequences + b) * classes + c] = T(t < steps ? everywhere : C(0));
  if (impossible) return;
  C* const own = numbers + b * 3 * most;
  int32_t* const next_alike = links + b * most;
  bool first = true;  // of this thread's states; recomputed below for more than one a thread
  for (int64_t s = threadIdx.x; s < states; s += blockDim.x) {
    next_alike[s] = 0;
    for (int64_t r = s + 1; r < states; ++r)
      if (sequence.label(r) == sequence.label(s)) {
        next_alike[s] = int32_t(r);
        break;
      }
  }
  const auto is_first = [&](int64_t s) {
    for (int64_t r = 0; r < s; ++r)
      if (sequence.label(r) == sequence.label(s)) return false;
    return true;
  };
  if (threadIdx.x < states) first = is_first(threadIdx.x);
  for (int64_t t = steps; t-- > 0;) {
    const T* const frame = log_probs + (t * sequences + b) * classes;
    T* const out = dlog_probs + (t * sequences + b) * classes;
    C *const here = own + t % 2 * most, *const shares = own + 2 * most;
    const C* const later = own + (t + 1) % 2 * most;
    for (int64_t s = threadIdx.x; s < states; s += blockDim.x) {
      C beta = s + 2 >= states ? C(0) : -infinity<C>();
      if (t + 1 < steps)
        beta = log_add(later[s], s + 1 < states ? later[s + 1] : -infinity<C>(), sequence.skips(s + 2) ? later[s + 2] : -infinity<C>());
      shares[s] = m::exp(alpha[(b * frames + t) * most + s] + beta + loss);
      here[s] = beta + C(frame[sequence.label(s)]);
    }
    for (int64_t c = threadIdx.x; c < classes; c += blockDim.x) out[c] = T(g * m::exp(C(frame[c])));
    __syncthreads();
    for (int64_t s = threadIdx.x; s < states; s += blockDim.x) {
      if (!(s == threadIdx.x ? first : is_first(s))) continue;
      C sum = 0;
      for (int64_t r = s;; r = next_alike[r]) {
        sum += shares[r];
        if (next_alike[r] == 0) break;
      }
      const int64_t c = sequence.label(s);
      out[c] = T(g * m::exp(C(frame[c])) - g * sum);
    }
    __syncthreads();
  }
}

constexpr int threads_for_states = 128;

// Half types are f32 here already.
template <class F> void with_wide(const char* kernel, DType d, const F& f) {
  if (d == DType::f64) f(double{});
  else if (d == DType::f32) f(float{});
  else retape::detail::unsupported_dtype(kernel, d);
}

}  // namespace

// log_probs (T, N, C); targets flat; places (N, 3): begin, target length, input length; losses (N), alpha (N, T, most)
void ctc(const Tensor& log_probs, const Tensor& targets, const Tensor& places, int64_t blank, Tensor& losses, Tensor& alpha) {
  const int64_t frames = log_probs.shape()[0], sequences = log_probs.shape()[1], classes = log_probs.shape()[2], most = alpha.shape()[2];
  with_wide("ctc", log_probs.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    launch(ctc_forward<T>, dim3(unsigned(sequences)), threads_for_states, 0, data<T>(log_probs), data<int64_t>(targets),
           data<int64_t>(places), frames, sequences, classes, most, blank, faults(), "ctc_loss", data<C>(losses), data<C>(alpha));
  });
}

// dlog_probs = dloss (e^log_probs - posterior of the class)
void ctc_backward(const Tensor& dlosses, const Tensor& log_probs, const Tensor& targets, const Tensor& places, const Tensor& losses,
                  const Tensor& alpha, int64_t blank, bool zero_infinity, Tensor& dlog_probs) {
  const int64_t frames = log_probs.shape()[0], sequences = log_probs.shape()[1], classes = log_probs.shape()[2], most = alpha.shape()[2];
  with_wide("ctc_backward", log_probs.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const Scratch<C> numbers(3 * sequences * most);
    const Scratch<int32_t> links(sequences * most);
    launch(ctc_gradients<T>, dim3(unsigned(sequences)), threads_for_states, 0, data<C>(dlosses), data<T>(log_probs), data<int64_t>(targets),
           data<int64_t>(places), data<C>(losses), data<C>(alpha), frames, sequences, classes, most, blank, zero_infinity,
           static_cast<C*>(numbers), static_cast<int32_t*>(links), data<T>(dlog_probs));
  });
}

}  // namespace retape::cuda
