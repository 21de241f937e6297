// The selective scan of Mamba (Gu & Dao 2023). A task has a span of neighbouring channels of one sequence and goes through it chunk by chunk; a
// vector has one number of state of neighbouring channels, and four steps of it are taken in registers. Only states between chunks are kept:
// backward makes those of every fourth step again, and from these the others.
#include <retape/core/flush_denormals.h>
#include <retape/core/put.h>
#include <retape/core/tiles.h>

namespace retape::RETAPE_LEVEL {
namespace {

constexpr int64_t chunk = recurrence_chunk, at_once = 4, most_vectors = 8;  // steps; steps in registers; vectors of channels in a span

// e^x as a power of the base that is quickest, to which exponents are brought by a factor.
template <class A> constexpr A exponent_factor = A(1);
template <> constexpr float exponent_factor<float> = 0x1.715476p0f;  // log2(e)
// 2^x, 0 where that would be denormal; exactly 1 for 0. The polynomial is minimax for the relative error on |r| <= 1/2.
RETAPE_INLINE Simd<float>::V power(Simd<float>::V x) {
  using V = Simd<float>::V;
#if defined(__AVX512DQ__)
  const V r = (V)_mm512_maskz_reduce_ps(0xffff, (__m512)x, 8), n = x - r;  // 8: to the nearest integer; the rest of infinity is 0
#else
  using I = Simd<float>::I;
  x = x < -150.0f ? V{} - 150.0f : x;
  x = x > 130.0f ? V{} + 130.0f : x;
  const V shifted = x + 0x1.8p23f, n = shifted - 0x1.8p23f, r = x - n;  // the last bits of the sum are the integer
#endif
  V y = r * 0.00015353362f + 0.0013398875f;
  y = y * r + 0.009618437f;
  y = y * r + 0.055503324f;
  y = y * r + 0.24022648f;
  y = y * r + 0.6931472f;
  y = y * r + 1.0f;
#if defined(__AVX512DQ__)
  return (V)_mm512_maskz_scalef_ps(0xffff, (__m512)y, (__m512)n);
#else
  // In two halves: the power may be too large for an exponent where the result is not.
  const I whole = (I)shifted - 0x4b400000, half = whole >> 1;
  return y * (V)((half + 127) << 23) * (V)((whole - half + 127) << 23);
#endif
}
RETAPE_INLINE Simd<double>::V power(Simd<double>::V x) {
  Simd<double>::V y;
  for (int i = 0; i < lanes<double>; ++i) y[i] = m::exp(double(x[i]));
  return y;
}

template <class C> RETAPE_INLINE C sigmoid(C x) { return C(1) / (C(1) + m::exp(-x)); }
template <class C> RETAPE_INLINE const C* pointer(const Tensor& t) { return t && !t.device().is_meta() ? t.data<C>() : nullptr; }
template <class C> RETAPE_INLINE C* target(Tensor& t) { return t ? t.mutable_data<C>() : nullptr; }
template <class A> RETAPE_INLINE void clear(A* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] = 0;
}

template <class A> struct WholeVector {
  RETAPE_INLINE constexpr operator int64_t() const { return lanes<A>; }
};
// f(n), with n known where all lanes are used.
template <class A, class F> RETAPE_INLINE void for_lanes(int64_t n, const F& f) {
  if (n == lanes<A>) f(WholeVector<A>{});
  else f(n);
}

template <class T> struct Problem {
  using A = compute_t<T>;
  int64_t batch, steps, channels, groups, size, chunks;  // size: N
  int64_t of_group, span, spans;                         // channels of a group, of a span, spans of a group
  const T *u, *delta, *b, *c, *z;
  const A *a, *skip, *bias, *initial;
  bool softplus;

  explicit Problem(const SelectiveScanArgs& in)
      : batch(in.u.shape()[0]),
        steps(in.u.shape()[1]),
        channels(in.u.shape()[2]),
        groups(in.b.shape()[2]),
        size(in.a.shape()[1]),
        chunks(divide_up(steps, chunk)),
        of_group(channels / groups),
        span(most_vectors * lanes<A>),
        spans(divide_up(of_group, span)),
        u(pointer<T>(in.u)),
        delta(pointer<T>(in.delta)),
        b(pointer<T>(in.b)),
        c(pointer<T>(in.c)),
        z(pointer<T>(in.z)),
        a(pointer<A>(in.a)),
        skip(pointer<A>(in.skip)),
        bias(pointer<A>(in.delta_bias)),
        initial(pointer<A>(in.initial)),
        softplus(in.delta_softplus) {}
  RETAPE_INLINE int64_t tasks() const { return batch * groups * spans; }
  RETAPE_INLINE bool worth_threads() const { return batch * steps * channels * size > 16384; }
};

// Where a task stands: a span of a group's channels of one sequence.
template <class T> struct Span {
  using A = compute_t<T>;
  static constexpr int64_t n = lanes<A>;
  const Problem<T>& p;
  int64_t sequence, group, first, count, vectors;  // first channel, how many
  RETAPE_INLINE Span(const Problem<T>& p, int64_t task) : p(p) {
    const int64_t s = task % p.spans;
    group = task / p.spans % p.groups, sequence = task / p.spans / p.groups;
    first = group * p.of_group + s * p.span, count = min_of(p.span, p.of_group - s * p.span), vectors = divide_up(count, n);
  }
  RETAPE_INLINE int64_t width(int64_t v) const { return min_of(n, count - v * n); }
  RETAPE_INLINE int64_t channel(int64_t v) const { return first + v * n; }
  RETAPE_INLINE int64_t row(int64_t t) const { return (sequence * p.steps + t) * p.channels; }
  RETAPE_INLINE int64_t row_of_group(int64_t t) const { return ((sequence * p.steps + t) * p.groups + group) * p.size; }

  // x (D, N) of the span's vector v, to (N, lanes), and back
  RETAPE_INLINE void load_state(const A* x, int64_t v, A factor, A* to) const {
    const A* const from = x ? x + channel(v) * p.size : nullptr;
    const int64_t used = width(v);
    for (int64_t j = 0; j < p.size; ++j)
      for (int64_t l = 0; l < n; ++l) to[j * n + l] = from && l < used ? from[l * p.size + j] * factor : A(0);
  }
  RETAPE_INLINE void store_state(const A* from, int64_t v, A* x) const {
    A* const to = x + channel(v) * p.size;
    for (int64_t l = 0; l < width(v); ++l)
      for (int64_t j = 0; j < p.size; ++j) to[l * p.size + j] = from[j * n + l];
  }
  // The state between two chunks, of all that are kept.
  template <class S> RETAPE_INLINE S* kept(S* states, int64_t c, int64_t v) const {
    return states + (sequence * (p.chunks - 1) + c - 1) * p.size * p.channels + channel(v);
  }
  // B or C of some steps, (steps, N).
  RETAPE_INLINE void load_rows(const T* x, int64_t begin, int64_t many, A* to) const {
    for (int64_t t = 0; t < many; ++t)
      for (int64_t j = 0; j < p.size; ++j) to[t * p.size + j] = A(x[row_of_group(begin + t) + j]);
  }
  // Vector v of some steps of x (T, D), (steps, lanes).
  RETAPE_INLINE void load_steps(const T* x, int64_t v, int64_t begin, int64_t many, A* to) const {
    for_lanes<A>(width(v), [&](auto used) {
      for (int64_t t = 0; t < many; ++t) {
        const T* const from = x + row(begin + t) + channel(v);
        for (int64_t l = 0; l < used; ++l) to[t * n + l] = A(from[l]);
        for (int64_t l = used; l < n; ++l) to[t * n + l] = 0;
      }
    });
  }
  RETAPE_INLINE void store_steps(const A* from, int64_t v, int64_t begin, int64_t many, T* x) const {
    for_lanes<A>(width(v), [&](auto used) {
      for (int64_t t = 0; t < many; ++t) {
        T* const to = x + row(begin + t) + channel(v);
        for (int64_t l = 0; l < used; ++l) put(to[l], from[t * n + l]);
      }
    });
  }
  // What is added to delta, and what delta and its bias come to: the step sizes.
  RETAPE_INLINE void load_vector(const A* x, int64_t v, A* to) const {
    for (int64_t l = 0; l < n; ++l) to[l] = x && l < width(v) ? x[channel(v) + l] : A(0);
  }
  RETAPE_INLINE void load_step_sizes(int64_t v, int64_t begin, int64_t many, A* dt) const {
    load_steps(p.delta, v, begin, many, dt);
    if (!p.bias && !p.softplus) return;
    A bias[n];
    load_vector(p.bias, v, bias);
    for (int64_t t = 0; t < many; ++t) {
#pragma omp simd
      for (int64_t l = 0; l < n; ++l) {
        const A x = dt[t * n + l] + bias[l];
        dt[t * n + l] = !p.softplus || x > A(20) ? x : m::log1p(m::exp(x));
      }
    }
  }
  // The rows of the next or last chunk: the processor does not guess them, since each is on another page.
  RETAPE_INLINE void prefetch(const T* x, int64_t v, int64_t t) const {
    if (x && t >= 0 && t + at_once <= p.steps)
      for (int64_t k = 0; k < at_once; ++k) __builtin_prefetch(x + row(t + k) + channel(v), 0, 2);
  }
};

// f(count), a constant of the type, for a block of steps, of which the last may be shorter.
template <class F> RETAPE_INLINE void with_steps(int64_t left, const F& f) {
  switch (left) {
    case 1: return f(std::integral_constant<int64_t, 1>{});
    case 2: return f(std::integral_constant<int64_t, 2>{});
    case 3: return f(std::integral_constant<int64_t, 3>{});
    default: return f(std::integral_constant<int64_t, at_once>{});
  }
}

// Goes some steps on from `state` (N, lanes); a (N, lanes); dt and dtu, step sizes alone and times u, (steps, lanes); b, c (steps, N). y
// (steps, lanes) gets what C makes of the states, or `snapshots`, `apart` elements from one to the next, every fourth state before its
// steps. Calls each(t) on the way.
template <bool outputs, class A, class F>
RETAPE_INLINE void advance(int64_t steps, int64_t size, const A* a, const A* dt, const A* dtu, const A* b, const A* c, A* state, A* y,
                           A* snapshots, int64_t apart, const F& each) {
  using V = typename Simd<A>::V;
  constexpr int64_t n = lanes<A>;
  for (int64_t t = 0; t < steps; t += at_once) {
    each(t);
    with_steps(steps - t, [&](auto many) RETAPE_FULL_WIDTH {
      constexpr int64_t count = many;
      V d[count], w[count], sum[count];
      RETAPE_UNROLL
      for (int64_t k = 0; k < count; ++k) d[k] = vec(dt + (t + k) * n), w[k] = vec(dtu + (t + k) * n), sum[k] = V{};
      for (int64_t j = 0; j < size; ++j) {
        const V rate = vec(a + j * n);
        V h = vec(state + j * n);
        if constexpr (!outputs) vec(snapshots + t / at_once * apart + j * n) = h;
        RETAPE_UNROLL
        for (int64_t k = 0; k < count; ++k) {
          h = power(d[k] * rate) * h + w[k] * b[(t + k) * size + j];
          if constexpr (outputs) sum[k] += h * c[(t + k) * size + j];
        }
        vec(state + j * n) = h;
      }
      if constexpr (outputs) {
        RETAPE_UNROLL
        for (int64_t k = 0; k < count; ++k) vec(y + (t + k) * n) = sum[k];
      }
    });
  }
}

template <class T> RETAPE_FULL_WIDTH void forward(const Problem<T>& p, T* y, compute_t<T>* last, compute_t<T>* states) {
  using A = compute_t<T>;
  constexpr int64_t n = lanes<A>;
  const int64_t state_size = p.size * n, space = 2 * most_vectors * state_size + 2 * chunk * p.size + 4 * chunk * n + 64;
  each_task<A>(p.tasks(), space, p.worth_threads(), [&](int64_t task, Arena<A> arena) RETAPE_FULL_WIDTH {
    const FlushDenormals no_denormals;
    const Span<T> span(p, task);
    A *const rates = arena.take(most_vectors * state_size), *const state = arena.take(most_vectors * state_size);
    A *const b = arena.take(chunk * p.size), *const c = arena.take(chunk * p.size);
    A *const dt = arena.take(chunk * n), *const dtu = arena.take(chunk * n), *const out = arena.take(chunk * n),
             *const u = arena.take(chunk * n);
    const A* const initial = p.initial ? p.initial + span.sequence * p.channels * p.size : nullptr;
    for (int64_t v = 0; v < span.vectors; ++v) {
      span.load_state(p.a, v, exponent_factor<A>, rates + v * state_size);
      span.load_state(initial, v, A(1), state + v * state_size);
    }
    for (int64_t i = 0; i < p.chunks; ++i) {
      const int64_t begin = i * chunk, many = min_of(chunk, p.steps - begin);
      span.load_rows(p.b, begin, many, b), span.load_rows(p.c, begin, many, c);
      for (int64_t v = 0; v < span.vectors; ++v) {
        A* const h = state + v * state_size;
        if (i > 0) {
          A* const to = span.kept(states, i, v);
          for (int64_t j = 0; j < p.size; ++j)
            for (int64_t l = 0; l < span.width(v); ++l) to[j * p.channels + l] = h[j * n + l];
        }
        A skip[n];
        span.load_vector(p.skip, v, skip);
        span.load_step_sizes(v, begin, many, dt);
        span.load_steps(p.u, v, begin, many, u);
        for (int64_t t = 0; t < many; ++t) vec(dtu + t * n) = vec(dt + t * n) * vec(u + t * n);
        advance<true>(many, p.size, rates + v * state_size, dt, dtu, b, c, h, out, static_cast<A*>(nullptr), 0, [&](int64_t t) {
          const int64_t next = begin + chunk + t;
          span.prefetch(p.u, v, next), span.prefetch(p.delta, v, next), span.prefetch(p.z, v, next), span.prefetch(y, v, next);
        });
        if (p.skip)
          for (int64_t t = 0; t < many; ++t)
            for (int64_t l = 0; l < n; ++l) out[t * n + l] += skip[l] * u[t * n + l];
        if (p.z) {
          span.load_steps(p.z, v, begin, many, u);
#pragma omp simd
          for (int64_t k = 0; k < many * n; ++k) out[k] *= u[k] * sigmoid(u[k]);
        }
        span.store_steps(out, v, begin, many, y);
      }
    }
    for (int64_t v = 0; v < span.vectors; ++v) span.store_state(state + v * state_size, v, last + span.sequence * p.channels * p.size);
  });
}

// ---- backward ----

// The sum of a vector's lanes, as a tree.
template <class A> RETAPE_INLINE A sum_of_lanes(const A* x) {
  A s[lanes<A>];
  for (int64_t l = 0; l < lanes<A>; ++l) s[l] = x[l];
  for (int64_t half = lanes<A> / 2; half > 0; half /= 2)
    for (int64_t l = 0; l < half; ++l) s[l] += s[l + half];
  return s[0];
}

// Up to four steps, back: from the state before them, and g (steps, lanes), the gradients of what C makes of the states. dstate (N, lanes), the
// gradient of the state after them, becomes that of the state before; da gets the sums of the gradients of dt a times dt, db and dc (steps, N,
// lanes) the products that B's and C's gradients are sums of; ddtu and ddt those of dt u and, times exponent_factor, of dt by its powers. y gets
// what C makes of the states, if that is wanted.
template <bool outputs, int64_t count, class A>
RETAPE_INLINE void retreat(int64_t size, const A* a, const A* dt, const A* dtu, const A* g, const A* b, const A* c, const A* before,
                           A* dstate, A* da, A* db, A* dc, A* ddtu, A* ddt, A* y) {
  using V = typename Simd<A>::V;
  constexpr int64_t n = lanes<A>;
  V d[count], w[count], out[count], sum_w[count], sum_d[count], sum_y[count];
  RETAPE_UNROLL
  for (int64_t k = 0; k < count; ++k) {
    d[k] = vec(dt + k * n), w[k] = vec(dtu + k * n), out[k] = vec(g + k * n);
    sum_w[k] = sum_d[k] = sum_y[k] = V{};
  }
  for (int64_t j = 0; j < size; ++j) {
    const V rate = vec(a + j * n);
    V h[count + 1], factor[count], carry = vec(dstate + j * n), total = vec(da + j * n);
    h[0] = vec(before + j * n);
    RETAPE_UNROLL
    for (int64_t k = 0; k < count; ++k) {
      factor[k] = power(d[k] * rate);
      h[k + 1] = factor[k] * h[k] + w[k] * b[k * size + j];
      if constexpr (outputs) sum_y[k] += h[k + 1] * c[k * size + j];
    }
    RETAPE_UNROLL
    for (int64_t k = count - 1; k >= 0; --k) {
      carry += out[k] * c[k * size + j];
      vec(dc + (k * size + j) * n) += out[k] * h[k + 1];
      vec(db + (k * size + j) * n) += carry * w[k];
      sum_w[k] += carry * b[k * size + j];
      carry *= factor[k];
      const V of_power = carry * h[k];
      sum_d[k] += of_power * rate;
      total += of_power * d[k];
    }
    vec(dstate + j * n) = carry, vec(da + j * n) = total;
  }
  RETAPE_UNROLL
  for (int64_t k = 0; k < count; ++k) {
    vec(ddtu + k * n) = sum_w[k], vec(ddt + k * n) = sum_d[k];
    if constexpr (outputs) vec(y + k * n) = sum_y[k];
  }
}

template <class T> struct Gradients {
  using A = compute_t<T>;
  T *u, *delta, *z;
  A *a, *skip, *bias, *initial;  // skip and bias of each sequence, a likewise: their sums come later
  A *b, *c;                      // (groups, spans, batch, steps, N)
};

template <class T> int64_t backward_space(const Problem<T>& p) {
  const int64_t n = lanes<compute_t<T>>, state = p.size * n, span = most_vectors * state;
  return (3 + chunk / at_once) * span + 7 * most_vectors * chunk * n + 2 * chunk * p.size + (1 + 2 * at_once) * state + 256;
}

template <bool gated, class T>
RETAPE_FULL_WIDTH void backward(const Problem<T>& p, const compute_t<T>* states, const T* dy, const compute_t<T>* dlast,
                                const Gradients<T>& d) {
  using A = compute_t<T>;
  constexpr int64_t n = lanes<A>, blocks = chunk / at_once;
  const int64_t state_size = p.size * n, steps_size = chunk * n, of_span = most_vectors * state_size, space = backward_space(p);
  each_task<A>(p.tasks(), space, p.worth_threads(), [&](int64_t task, Arena<A> arena) RETAPE_FULL_WIDTH {
    const FlushDenormals no_denormals;
    const Span<T> span(p, task);
    A *const rates = arena.take(of_span), *const dstate = arena.take(of_span), *const da = arena.take(of_span);
    A *const snapshots = arena.take(blocks * of_span), *const h = arena.take(state_size);
    A *const b = arena.take(chunk * p.size), *const c = arena.take(chunk * p.size);
    A *const db = arena.take(at_once * state_size), *const dc = arena.take(at_once * state_size);
    const auto take_steps = [&] { return arena.take(most_vectors * steps_size); };
    A *const dt = take_steps(), *const dtu = take_steps(), *const g = take_steps(), *const u = take_steps(), *const ddt = take_steps(),
             *const ddtu = take_steps(), *const out = take_steps();
    A skip_sums[most_vectors * n] = {}, bias_sums[most_vectors * n] = {};
    const int64_t state_of_sequence = span.sequence * p.channels * p.size;
    for (int64_t v = 0; v < span.vectors; ++v) {
      span.load_state(p.a, v, exponent_factor<A>, rates + v * state_size);
      span.load_state(dlast ? dlast + state_of_sequence : nullptr, v, A(1), dstate + v * state_size);
    }
    clear(da, of_span);
    A *const db_rows = d.b + ((task % (p.spans * p.groups)) * p.batch + span.sequence) * p.steps * p.size,
             *const dc_rows = d.c + ((task % (p.spans * p.groups)) * p.batch + span.sequence) * p.steps * p.size;

    for (int64_t i = p.chunks; i-- > 0;) {
      const int64_t begin = i * chunk, many = min_of(chunk, p.steps - begin);
      span.load_rows(p.b, begin, many, b), span.load_rows(p.c, begin, many, c);
      for (int64_t v = 0; v < span.vectors; ++v) {
        const int64_t at = v * steps_size;
        span.load_step_sizes(v, begin, many, dt + at);
        span.load_steps(p.u, v, begin, many, u + at);
        span.load_steps(dy, v, begin, many, g + at);
        for (int64_t k = 0; k < many * n; k += n) vec(dtu + at + k) = vec(dt + at + k) * vec(u + at + k);
        if constexpr (gated) {
          span.load_steps(p.z, v, begin, many, ddt + at);
#pragma omp simd
          for (int64_t k = 0; k < many * n; ++k) g[at + k] *= ddt[at + k] * sigmoid(ddt[at + k]);
        }
        if (i == 0) {
          span.load_state(p.initial ? p.initial + state_of_sequence : nullptr, v, A(1), h);
        } else {
          const A* const from = span.kept(states, i, v);
          for (int64_t j = 0; j < p.size; ++j)
            for (int64_t l = 0; l < n; ++l) h[j * n + l] = l < span.width(v) ? from[j * p.channels + l] : A(0);
        }
        advance<false>(many, p.size, rates + v * state_size, dt + at, dtu + at, b, c, h, static_cast<A*>(nullptr),
                       snapshots + v * state_size, of_span, [&](int64_t t) {
                         const int64_t next = begin - chunk + t;
                         span.prefetch(p.u, v, next), span.prefetch(p.delta, v, next), span.prefetch(p.z, v, next);
                         span.prefetch(dy, v, next), span.prefetch(d.u, v, next), span.prefetch(d.delta, v, next);
                       });
      }
      for (int64_t t = (many - 1) / at_once * at_once; t >= 0; t -= at_once) {
        clear(db, at_once * state_size), clear(dc, at_once * state_size);
        for (int64_t v = 0; v < span.vectors; ++v) {
          const int64_t at = v * steps_size + t * n, s = v * state_size;
          with_steps(many - t, [&](auto count) RETAPE_FULL_WIDTH {
            retreat<gated, count>(p.size, rates + s, dt + at, dtu + at, g + at, b + t * p.size, c + t * p.size,
                                  snapshots + t / at_once * of_span + s, dstate + s, da + s, db, dc, ddtu + at, ddt + at, out + at);
          });
        }
        for (int64_t k = 0; k < min_of(at_once, many - t) * p.size; ++k) {
          db_rows[(begin + t) * p.size + k] = sum_of_lanes(db + k * n);
          dc_rows[(begin + t) * p.size + k] = sum_of_lanes(dc + k * n);
        }
      }
      for (int64_t v = 0; v < span.vectors; ++v) {
        A skip[n], bias[n];
        span.load_vector(p.skip, v, skip), span.load_vector(p.bias, v, bias);
        A *const x = u + v * steps_size, *const w = ddtu + v * steps_size, *const dd = ddt + v * steps_size,
                 *const y = out + v * steps_size;
        const A *const size = dt + v * steps_size, *const grad = g + v * steps_size;
        A* const spare = dtu + v * steps_size;
        if constexpr (gated) {  // y = (C h + skip u) z sigmoid(z)
          span.load_steps(p.z, v, begin, many, spare);
          for (int64_t t = 0; t < many; ++t)
            for (int64_t l = 0; l < n; ++l) y[t * n + l] += skip[l] * x[t * n + l];
#pragma omp simd
          for (int64_t k = 0; k < many * n; ++k) {
            const A gate = sigmoid(spare[k]);
            y[k] *= gate * (A(1) + spare[k] * (A(1) - gate));
          }
          span.load_steps(dy, v, begin, many, spare);
          for (int64_t k = 0; k < many * n; ++k) y[k] *= spare[k];
          span.store_steps(y, v, begin, many, d.z);
        }
        for (int64_t t = 0; t < many; ++t)
          for (int64_t l = 0; l < n; ++l) {
            const int64_t k = t * n + l;
            dd[k] = dd[k] * (A(1) / exponent_factor<A>)+w[k] * x[k];
            skip_sums[v * n + l] += grad[k] * x[k];
            w[k] = w[k] * size[k] + skip[l] * grad[k];
          }
        if (p.softplus) {
          span.load_steps(p.delta, v, begin, many, spare);
          for (int64_t t = 0; t < many; ++t) {
#pragma omp simd
            for (int64_t l = 0; l < n; ++l) {
              const A raw = spare[t * n + l] + bias[l];
              dd[t * n + l] *= raw > A(20) ? A(1) : sigmoid(raw);
            }
          }
        }
        for (int64_t t = 0; t < many; ++t)
          for (int64_t l = 0; l < n; ++l) bias_sums[v * n + l] += dd[t * n + l];
        span.store_steps(w, v, begin, many, d.u), span.store_steps(dd, v, begin, many, d.delta);
      }
    }
    for (int64_t v = 0; v < span.vectors; ++v) {
      span.store_state(da + v * state_size, v, d.a + state_of_sequence);
      if (d.initial) span.store_state(dstate + v * state_size, v, d.initial + state_of_sequence);
      for (int64_t l = 0; l < span.width(v); ++l) {
        if (d.skip) d.skip[span.sequence * p.channels + span.channel(v) + l] = skip_sums[v * n + l];
        if (d.bias) d.bias[span.sequence * p.channels + span.channel(v) + l] = bias_sums[v * n + l];
      }
    }
  });
}

// y (n) = the sum of `count` such rows
template <class A> void add_rows(const A* x, int64_t count, int64_t n, A* y) {
  if (!y) return;
  for (int64_t i = 0; i < n; ++i) {
    A sum = 0;
    for (int64_t r = 0; r < count; ++r) sum += x[r * n + i];
    y[i] = sum;
  }
}
// The gradient of B or C (batch, steps, groups, N) from those of each span.
template <class T> void add_spans(const Problem<T>& p, const compute_t<T>* parts, T* y) {
  using A = compute_t<T>;
  const int64_t rows = p.batch * p.steps;
  parallel_for(rows, row_grain(p.groups * p.spans * p.size), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t g = 0; g < p.groups; ++g)
        for (int64_t j = 0; j < p.size; ++j) {
          A sum = 0;
          for (int64_t s = 0; s < p.spans; ++s) sum += parts[((g * p.spans + s) * rows + r) * p.size + j];
          put(y[(r * p.groups + g) * p.size + j], sum);
        }
  });
}

}  // namespace

void selective_scan(const SelectiveScanArgs& in, Tensor& y, Tensor& last, Tensor& states) {
  with_floating("selective_scan", in.u.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using A = compute_t<T>;
    forward(Problem<T>(in), y.mutable_data<T>(), last.mutable_data<A>(), states.mutable_data<A>());
  });
}

// On meta it only counts the scratch memory that it would take.
void selective_scan_backward(const SelectiveScanArgs& in, const Tensor& states, const Tensor& dy, const Tensor& dlast,
                             SelectiveScanArgs& d) {
  with_floating("selective_scan_backward", in.u.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using A = compute_t<T>;
    const Problem<T> p(in);
    const int64_t matrix = p.channels * p.size, rows = p.batch * p.steps * p.groups * p.spans * p.size;
    if (in.u.device().is_meta())
      return count_meta_scratch(bytes_of<A>(p.batch * matrix), bytes_of<A>(rows), bytes_of<A>(rows),
                                bytes_of<A>(scratch_of_tasks(p.tasks(), backward_space(p), p.worth_threads())));
    const Scratch<A> a(p.batch * matrix), skip(p.batch * p.channels), bias(p.batch * p.channels), b(rows), c(rows);
    const Gradients<T> to{target<T>(d.u),
                          target<T>(d.delta),
                          target<T>(d.z),
                          a,
                          p.skip ? static_cast<A*>(skip) : nullptr,
                          p.bias ? static_cast<A*>(bias) : nullptr,
                          target<A>(d.initial),
                          b,
                          c};
    if (p.z) backward<true>(p, states.data<A>(), dy.data<T>(), pointer<A>(dlast), to);
    else backward<false>(p, states.data<A>(), dy.data<T>(), pointer<A>(dlast), to);
    add_rows(static_cast<const A*>(a), p.batch, matrix, target<A>(d.a));
    add_rows(static_cast<const A*>(skip), p.batch, p.channels, target<A>(d.skip));
    add_rows(static_cast<const A*>(bias), p.batch, p.channels, target<A>(d.delta_bias));
    add_spans(p, static_cast<const A*>(b), target<T>(d.b)), add_spans(p, static_cast<const A*>(c), target<T>(d.c));
  });
}

}  // namespace retape::RETAPE_LEVEL
