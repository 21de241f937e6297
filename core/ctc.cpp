// Connectionist temporal classification (Graves et al. 2006): the forward-backward algorithm in logarithms. The states of a target of length L are
// blank, label, blank, ..., label, blank: 2 L + 1. Forward keeps log alpha; backward walks back with log beta and has the gradient of a
// frame at once. Threads take sequences.
#include <retape/core/put.h>

namespace retape::RETAPE_LEVEL {
namespace {

template <class C> constexpr C minus_infinity = -C(__builtin_inf());

// y = log(e^a + e^b + e^c), from values that may be -inf
template <class C> RETAPE_INLINE C log_add(C a, C b, C c) {
  C top = a > b ? a : b;
  top = c > top ? c : top;
  const C base = top > minus_infinity<C> ? top : C(0);
  return base + m::log(m::exp(a - base) + m::exp(b - base) + m::exp(c - base));
}

// What a sequence is, with two states before its first and behind its last, which nothing reaches.
template <class C> struct States {
  int64_t count;   // 2 L + 1
  int64_t* label;  // (count)
  C* skip;         // (count + 2): 0 where state s may follow state s - 2, else -inf
  C* emitted;      // (count)
  C* padded;       // (count + 4): a copy of a row of alpha or beta
};

// row[s] = log(e^before[s] + e^before[s - 1] + e^(before[s - 2] + skip[s])) + emitted[s]; before has two states in front
template <class C> [[gnu::noinline]] void step_forward(const C* before, const C* skip, const C* emitted, int64_t n, C* row) {
#pragma omp simd
  for (int64_t s = 0; s < n; ++s) row[s] = log_add(before[s + 2], before[s + 1], before[s] + skip[s]) + emitted[s];
}
// row[s] = log(e^next[s] + e^next[s + 1] + e^(next[s + 2] + skip[s + 2])); next has two states behind, and emissions are in it
template <class C> [[gnu::noinline]] void step_back(const C* next, const C* skip, int64_t n, C* row) {
#pragma omp simd
  for (int64_t s = 0; s < n; ++s) row[s] = log_add(next[s], next[s + 1], next[s + 2] + skip[s + 2]);
}
template <class C> [[gnu::noinline]] void posteriors(const C* alpha, const C* beta, C loss, int64_t n, C* out) {
#pragma omp simd
  for (int64_t s = 0; s < n; ++s) out[s] = m::exp(alpha[s] + beta[s] + loss);
}
template <class T, class C> [[gnu::noinline]] void softmax_part(const T* log_probs, C scale, int64_t n, C* out) {
#pragma omp simd
  for (int64_t c = 0; c < n; ++c) out[c] = scale * m::exp(C(log_probs[c]));
}
template <class T, class C> [[gnu::noinline]] void store_row(const C* from, int64_t n, T* to) {
#pragma omp simd
  for (int64_t c = 0; c < n; ++c) put(to[c], from[c]);
}

template <class C> RETAPE_INLINE void fill_states(const int64_t* target, int64_t length, int64_t blank, const States<C>& states) {
  for (int64_t s = 0; s < states.count; ++s) states.label[s] = s % 2 ? target[s / 2] : blank;
  for (int64_t s = 0; s < states.count + 2; ++s) {
    const bool may = s % 2 && s / 2 < length && s > 1 && target[s / 2] != target[s / 2 - 1];
    states.skip[s] = may ? C(0) : minus_infinity<C>;
  }
}
template <class T, class C> RETAPE_INLINE void emit(const T* log_probs, const States<C>& states) {
  for (int64_t s = 0; s < states.count; ++s) states.emitted[s] = C(log_probs[states.label[s]]);
}
template <class C> RETAPE_INLINE void copy_row(const C* from, int64_t n, C* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
}

// Scratch for all sequences, made before threads begin.
template <class C> struct Workspace {
  int64_t most, each;
  Scratch<int64_t> labels;
  Scratch<C> numbers;
  RETAPE_INLINE Workspace(int64_t sequences, int64_t most, int64_t classes)
      : most(most), each(6 * (most + 4) + classes), labels(sequences * most), numbers(sequences * each) {}
  RETAPE_INLINE States<C> states(int64_t b, int64_t length) const {
    C* const p = numbers + b * each;
    return {2 * length + 1, labels + b * most, p, p + (most + 4), p + 2 * (most + 4)};
  }
  RETAPE_INLINE C* extra(int64_t b, int i) const { return numbers + b * each + (3 + i) * (most + 4); }
};

// Half types are f32 here already.
template <class F> RETAPE_INLINE void with_wide(const char* kernel, DType d, const F& f) {
  if (d == DType::f64) f(double{});
  else if (d == DType::f32) f(float{});
  else detail::unsupported_dtype(kernel, d);
}

RETAPE_INLINE void check_labels(const int64_t* targets, const int64_t* places, int64_t sequences, int64_t classes) {
  for (int64_t b = 0; b < sequences; ++b)
    for (int64_t i = 0; i < places[3 * b + 1]; ++i)
      if (const int64_t label = targets[places[3 * b] + i]; label < 0 || label >= classes)
        detail::index_out_of_range("ctc_loss", label, classes);
}

}  // namespace

// log_probs (T, N, C); targets flat; places (N, 3): begin, target length, input length; losses (N), alpha (N, T, most)
void ctc(const Tensor& log_probs, const Tensor& targets, const Tensor& places, int64_t blank, Tensor& losses, Tensor& alpha) {
  const int64_t frames = log_probs.shape()[0], sequences = log_probs.shape()[1], classes = log_probs.shape()[2], most = alpha.shape()[2];
  const int64_t *labels = targets.data<int64_t>(), *place = places.data<int64_t>();
  check_labels(labels, place, sequences, classes);
  with_wide("ctc", log_probs.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const T* in = log_probs.data<T>();
    C *const loss = losses.mutable_data<C>(), *const alphas = alpha.mutable_data<C>();
    const Workspace<C> workspace(sequences, most, 0);
    parallel_for(sequences, 1, [&](int64_t b, int64_t) {
      const int64_t *target = labels + place[3 * b], length = place[3 * b + 1], steps = place[3 * b + 2];
      const States<C> states = workspace.states(b, length);
      fill_states(target, length, blank, states);
      C* const rows = alphas + b * frames * most;
      for (int64_t i = 0; i < frames * most; ++i) rows[i] = minus_infinity<C>;
      if (steps == 0) {
        loss[b] = length == 0 ? C(0) : -minus_infinity<C>;
        return;
      }
      const T* frame = in + b * classes;
      rows[0] = C(frame[blank]);
      if (length > 0) rows[1] = C(frame[target[0]]);
      states.padded[0] = states.padded[1] = minus_infinity<C>;
      for (int64_t t = 1; t < steps; ++t) {
        emit(in + (t * sequences + b) * classes, states);
        copy_row(rows + (t - 1) * most, states.count, states.padded + 2);
        step_forward(states.padded, states.skip, states.emitted, states.count, rows + t * most);
      }
      const C* last = rows + (steps - 1) * most;
      loss[b] = -log_add(last[2 * length], length > 0 ? last[2 * length - 1] : minus_infinity<C>, minus_infinity<C>);
    });
  });
}

// dlog_probs = dloss (e^log_probs - posterior of the class), which is the gradient of the logits, too, if log_probs are a log_softmax
void ctc_backward(const Tensor& dlosses, const Tensor& log_probs, const Tensor& targets, const Tensor& places, const Tensor& losses,
                  const Tensor& alpha, int64_t blank, bool zero_infinity, Tensor& dlog_probs) {
  const int64_t frames = log_probs.shape()[0], sequences = log_probs.shape()[1], classes = log_probs.shape()[2], most = alpha.shape()[2];
  const int64_t *labels = targets.data<int64_t>(), *place = places.data<int64_t>();
  with_wide("ctc_backward", log_probs.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const T* in = log_probs.data<T>();
    T* const out = dlog_probs.mutable_data<T>();
    const C *const loss = losses.data<C>(), *const alphas = alpha.data<C>(), *const dloss = dlosses.data<C>();
    const Workspace<C> workspace(sequences, most, classes);
    parallel_for(sequences, 1, [&](int64_t b, int64_t) {
      const int64_t *target = labels + place[3 * b], length = place[3 * b + 1], steps = place[3 * b + 2];
      const bool impossible = loss[b] == -minus_infinity<C>;
      const C everywhere = impossible && !zero_infinity ? C(__builtin_nan("")) : C(0);
      for (int64_t t = impossible ? 0 : steps; t < frames; ++t) {
        T* const to = out + (t * sequences + b) * classes;
        for (int64_t c = 0; c < classes; ++c) put(to[c], t < steps ? everywhere : C(0));
      }
      if (impossible) return;
      const States<C> states = workspace.states(b, length);
      fill_states(target, length, blank, states);
      C *const beta = workspace.extra(b, 0), *const shares = workspace.extra(b, 1), *const gradient = workspace.extra(b, 2);
      const int64_t n = states.count;
      const C g = dloss[b];
      for (int64_t s = 0; s < n; ++s) beta[s] = s + 2 >= n ? C(0) : minus_infinity<C>;
      states.padded[n] = states.padded[n + 1] = minus_infinity<C>;
      for (int64_t t = steps; t-- > 0;) {
        const T* const frame = in + (t * sequences + b) * classes;
        posteriors(alphas + (b * frames + t) * most, beta, loss[b], n, shares);
        softmax_part(frame, g, classes, gradient);
        for (int64_t s = 0; s < n; ++s) gradient[states.label[s]] -= g * shares[s];
        store_row(gradient, classes, out + (t * sequences + b) * classes);
        if (t == 0) break;
        emit(frame, states);
        for (int64_t s = 0; s < n; ++s) states.padded[s] = beta[s] + states.emitted[s];
        step_back(states.padded, states.skip, n, beta);
      }
    });
  });
}

}  // namespace retape::RETAPE_LEVEL
