// Linear attention with decay. Sequences are cut into chunks: what each adds to the state, the states between them, then the steps from these. A
// thread has one row or one column of a state, as what it sums over asks, and goes through a chunk step by step.
#include <retape/cuda/launch.h>

#include <retape/core/simd_math.h>

namespace retape::cuda {
namespace {

constexpr int chunk = int(recurrence_chunk), tile = 16;  // steps; elements of its row or column that a thread has in registers

enum class Gate { none, of_head, of_feature };

template <class T> struct Problem {
  using C = compute_t<T>;
  int64_t batch, steps, heads, keys, values, chunks;
  Gate gate;
  const C* decay;  // e^g, of g's shape
  // `values` counts a column of ones behind v, if there is one.
  Problem(const Tensor& q, int64_t values, const Tensor& g, const C* decay)
      : batch(q.shape()[0]),
        steps(q.shape()[1]),
        heads(q.shape()[2]),
        keys(q.shape()[3]),
        values(values),
        chunks((steps + chunk - 1) / chunk),
        gate(!g             ? Gate::none
             : g.dim() == 3 ? Gate::of_head
                            : Gate::of_feature),
        decay(decay) {}
  int64_t pieces() const { return batch * heads * chunks; }
  // Row t of (B, T, H, ...) of a chunk's head; piece counts (B, H, chunks).
  __device__ __forceinline__ int64_t row(int64_t piece, int t) const {
    const int64_t h = piece / chunks % heads, b = piece / chunks / heads;
    return (b * steps + piece % chunks * chunk + t) * heads + h;
  }
  __device__ __forceinline__ int many(int64_t piece) const { return int(min_of(int64_t{chunk}, steps - piece % chunks * chunk)); }
  __device__ __forceinline__ C decay_at(int64_t row, int64_t key) const {
    return gate == Gate::none ? C(1) : gate == Gate::of_head ? decay[row] : decay[row * keys + key];
  }
};

template <class C> __global__ void powers(const C* g, int64_t n, C* y) {
  for (int64_t i = thread_index(); i < n; i += thread_count()) y[i] = m::exp(g[i]);
}
// The decay over each chunk (B, H, chunks, K).
template <class T> __global__ void multiply_out(Problem<T> p, compute_t<T>* y) {
  using C = compute_t<T>;
  for (int64_t task = thread_index(); task < p.batch * p.heads * p.chunks * p.keys; task += thread_count()) {
    const int64_t piece = task / p.keys;
    C product = 1;
    for (int t = 0; t < p.many(piece); ++t) product *= p.decay_at(p.row(piece, t), task % p.keys);
    y[task] = product;
  }
}

// At every step a state takes own other^T in, and gives its product with `seen`, a sum over the features of `other`. One thread for each feature
// of `own`: the state's columns, if that is v, or its rows.
template <class T> struct Roles {
  using C = compute_t<T>;
  const T *own, *other, *seen;  // seen null: only the state at the end is wanted
  int64_t own_size, other_size;
  bool own_is_key;
  C in_factor, out_factor;
  const C* start;  // (B, H, chunks, K, V), or null: 0
  T* out;          // in T, or wide
  C* wide;
  C* end;  // as start
};
// Forward, S_t = e^g_t S_(t-1) + ...; reverse, what comes in at t fades by e^g_t on its way to t - 1.
template <class T, bool reverse> __global__ void run_chunks(Problem<T> p, Roles<T> r) {
  using C = compute_t<T>;
  for (int64_t task = thread_index(); task < p.batch * p.heads * p.chunks * r.own_size; task += thread_count()) {
    const int64_t piece = task / r.own_size, own = task % r.own_size;
    const int many = p.many(piece);
    const int64_t state = piece * p.keys * p.values + (r.own_is_key ? own * p.values : own), step = r.own_is_key ? 1 : p.values;
    C sum[chunk];
    for (int64_t first = 0; first < r.other_size; first += tile) {
      const int count = int(min_of(int64_t{tile}, r.other_size - first));
      C s[tile];
#pragma unroll
      for (int j = 0; j < tile; ++j) s[j] = r.start && j < count ? r.start[state + (first + j) * step] : C(0);
      for (int i = 0; i < many; ++i) {
        const int t = reverse ? many - 1 - i : i;
        const int64_t row = p.row(piece, t);
        const T* const other = r.other + row * r.other_size + first;
        const C in = C(r.own[row * r.own_size + own]) * r.in_factor;
        const bool one = r.own_is_key || p.gate != Gate::of_feature;
        const C same = one ? p.decay_at(row, r.own_is_key ? own : 0) : C(1);
        C out = first ? sum[t] : C(0);
#pragma unroll
        for (int j = 0; j < tile; ++j)
          if (j < count) {
            const C decay = one ? same : p.decay_at(row, first + j), x = in * C(other[j]);
            if constexpr (reverse) s[j] += x;
            else s[j] = decay * s[j] + x;
            if (r.seen) out += s[j] * C(r.seen[row * r.other_size + first + j]);
            if constexpr (reverse) s[j] *= decay;
          }
        sum[t] = out;
      }
      if (r.end)
        for (int j = 0; j < count; ++j) r.end[state + (first + j) * step] = s[j];
    }
    for (int t = 0; t < many && r.seen; ++t) {
      const int64_t at = p.row(piece, t) * r.own_size + own;
      if (r.wide) r.wide[at] = sum[t] * r.out_factor;
      else r.out[at] = T(sum[t] * r.out_factor);
    }
  }
}

// From what each chunk adds to the state before each, or from the end the gradient of that behind each, in its place.
template <class T, bool reverse>
__global__ void join_chunks(Problem<T> p, const compute_t<T>* decays, const compute_t<T>* first, compute_t<T>* states, compute_t<T>* last) {
  using C = compute_t<T>;
  const int64_t size = p.keys * p.values;
  for (int64_t task = thread_index(); task < p.batch * p.heads * size; task += thread_count()) {
    const int64_t of = task / size, at = task % size;
    C h = first ? first[task] : C(0);
    for (int64_t n = 0; n < p.chunks; ++n) {
      const int64_t piece = of * p.chunks + (reverse ? p.chunks - 1 - n : n);
      C& own = states[piece * size + at];
      const C x = own;
      own = h;
      h = decays[piece * p.keys + at / p.values] * h + x;
    }
    if (last) last[task] = h;
  }
}

// The gradients of q and k in T, and of_gate (B, T, H, K), those of g for each feature: the logarithm of all that decays up to a step takes q dq
// of it and gives k dk, and at a chunk's end the state takes part as well.
template <class T>
__global__ void finish(Problem<T> p, const T* q, const T* k, const compute_t<T>* wide_q, const compute_t<T>* wide_k,
                       const compute_t<T>* states, const compute_t<T>* last, const compute_t<T>* dstates, T* dq, T* dk,
                       compute_t<T>* of_gate) {
  using C = compute_t<T>;
  const int64_t size = p.keys * p.values;
  for (int64_t task = thread_index(); task < p.batch * p.heads * p.chunks * p.keys; task += thread_count()) {
    const int64_t piece = task / p.keys, i = task % p.keys;
    C sum = 0;
    if (of_gate) {
      const C* const after =
          (piece % p.chunks + 1 < p.chunks ? states + (piece + 1) * size : last + piece / p.chunks * size) + i * p.values;
      for (int64_t j = 0; j < p.values; ++j) sum += after[j] * dstates[piece * size + i * p.values + j];
    }
    for (int t = p.many(piece); t-- > 0;) {
      const int64_t at = p.row(piece, t) * p.keys + i;
      sum += C(q[at]) * wide_q[at] - C(k[at]) * wide_k[at];
      dq[at] = T(wide_q[at]), dk[at] = T(wide_k[at]);
      if (of_gate) of_gate[at] = sum;
    }
  }
}
template <class C> __global__ void add_features(const C* x, int64_t rows, int64_t n, C* y) {
  for (int64_t r = thread_index(); r < rows; r += thread_count()) {
    C sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += x[r * n + i];
    y[r] = sum;
  }
}

// What y is divided by is what a column of ones behind v gives. x (rows, n) with that column:
template <class T> __global__ void append_ones(const T* x, int64_t rows, int64_t n, T* to) {
  for (int64_t i = thread_index(); i < rows * (n + 1); i += thread_count()) {
    const int64_t r = i / (n + 1), j = i % (n + 1);
    to[i] = j < n ? x[r * n + j] : T(1);
  }
}
template <class T> __global__ void drop_last(const T* x, int64_t rows, int64_t n, T* to) {
  for (int64_t i = thread_index(); i < rows * n; i += thread_count()) to[i] = x[i / n * (n + 1) + i % n];
}
template <class T, class C> __global__ void divide(const C* sums, int64_t rows, int64_t n, C eps, T* y, C* normaliser) {
  for (int64_t i = thread_index(); i < rows * n; i += thread_count()) {
    const int64_t r = i / n;
    const C below = sums[r * (n + 1) + n] + eps;
    y[i] = T(sums[r * (n + 1) + i % n] / below);
    if (i % n == 0) normaliser[r] = below;
  }
}
// The gradients of the sums and, last, of what they are divided by.
template <class T, class C> __global__ void divide_backward(const T* dy, const T* y, const C* normaliser, int64_t rows, int64_t n, T* d) {
  for (int64_t r = thread_index(); r < rows; r += thread_count()) {
    C sum = 0;
    for (int64_t j = 0; j < n; ++j) {
      const C of_sum = C(dy[r * n + j]) / normaliser[r];
      d[r * (n + 1) + j] = T(of_sum);
      sum += of_sum * C(y[r * n + j]);
    }
    d[r * (n + 1) + n] = T(-sum);
  }
}

template <class T> void fill_powers(const Tensor& g, compute_t<T>* to) {
  using C = compute_t<T>;
  if (g) launch(powers<C>, blocks_for(g.numel()), 256, 0, data<C>(g), g.numel(), to);
}
template <class T, bool reverse> void run(const Problem<T>& p, const Roles<T>& roles) {
  launch(run_chunks<T, reverse>, blocks_for(p.pieces() * roles.own_size, 128), 128, 0, p, roles);
}
template <class T, bool reverse> void join(const Problem<T>& p, const compute_t<T>* first, compute_t<T>* states, compute_t<T>* last) {
  using C = compute_t<T>;
  const Scratch<C> decays(p.pieces() * p.keys);
  launch(multiply_out<T>, blocks_for(p.pieces() * p.keys), 256, 0, p, static_cast<C*>(decays));
  launch(join_chunks<T, reverse>, blocks_for(p.batch * p.heads * p.keys * p.values), 256, 0, p, static_cast<C*>(decays), first, states,
         last);
}

}  // namespace

void gated_linear_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& g, const Tensor& h0, double scale, double eps,
                            Tensor& y, Tensor& normaliser, Tensor& last, Tensor& states) {
  with_floating("gated_linear_attention", q.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const Scratch<C> decay(g ? g.numel() : 0);
    fill_powers<T>(g, decay);
    const int64_t n = v.shape()[3], rows = normaliser ? normaliser.numel() : 0;
    const Problem<T> p(q, n + int64_t(bool(normaliser)), g, decay);
    const Scratch<T> with_ones(rows * (n + 1));
    const Scratch<C> sums(rows * (n + 1));
    if (normaliser) launch(append_ones<T>, blocks_for(rows * (n + 1)), 256, 0, data<T>(v), rows, n, static_cast<T*>(with_ones));
    Roles<T> roles{normaliser ? static_cast<T*>(with_ones) : data<T>(v),
                   data<T>(k),
                   nullptr,
                   p.values,
                   p.keys,
                   false,
                   C(1),
                   C(scale),
                   nullptr,
                   nullptr,
                   nullptr,
                   data<C>(states)};
    run<T, false>(p, roles);
    join<T, false>(p, data<C>(h0), data<C>(states), data<C>(last));
    roles.seen = data<T>(q), roles.start = data<C>(states), roles.end = nullptr, roles.out = data<T>(y);
    if (normaliser) roles.wide = sums;
    run<T, false>(p, roles);
    if (normaliser)
      launch(divide<T, C>, blocks_for(rows * n), 256, 0, static_cast<C*>(sums), rows, n, C(eps), data<T>(y), data<C>(normaliser));
  });
}

void gated_linear_attention_backward(const Tensor& dy, const Tensor& dlast, const Tensor& q, const Tensor& k, const Tensor& v,
                                     const Tensor& g, const Tensor& y, const Tensor& normaliser, const Tensor& states, const Tensor& last,
                                     double scale, Tensor& dq, Tensor& dk, Tensor& dv, Tensor& dg, Tensor& dh0) {
  with_floating("gated_linear_attention_backward", q.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const Scratch<C> decay(g ? g.numel() : 0);
    fill_powers<T>(g, decay);
    const int64_t n = v.shape()[3], rows = normaliser ? normaliser.numel() : 0;
    const Problem<T> p(q, n + int64_t(bool(normaliser)), g, decay);
    const Scratch<T> with_ones(rows * (n + 1)), of_sums(rows * (n + 1)), of_values(rows * (n + 1));
    const T* values = data<T>(v);
    const T* grad = data<T>(dy);
    T* to_values = data<T>(dv);
    if (normaliser) {
      launch(append_ones<T>, blocks_for(rows * (n + 1)), 256, 0, values, rows, n, static_cast<T*>(with_ones));
      launch(divide_backward<T, C>, blocks_for(rows), 256, 0, grad, data<T>(y), data<C>(normaliser), rows, n, static_cast<T*>(of_sums));
      values = with_ones, grad = of_sums, to_values = of_values;
    }
    const bool of_features = p.gate == Gate::of_feature;
    const Scratch<C> dstates(p.pieces() * p.keys * p.values), wide_q(q.numel()), wide_k(k.numel()),
        of_gate(dg && !of_features ? q.numel() : 0);
    Roles<T> of_v{grad, data<T>(q), nullptr, p.values, p.keys, false, C(scale), C(1), nullptr, nullptr, nullptr, dstates};
    run<T, true>(p, of_v);
    join<T, true>(p, data<C>(dlast), dstates, data<C>(dh0));
    of_v.seen = data<T>(k), of_v.start = dstates, of_v.end = nullptr, of_v.out = to_values;
    run<T, true>(p, of_v);
    if (normaliser) launch(drop_last<T>, blocks_for(rows * n), 256, 0, static_cast<const T*>(of_values), rows, n, data<T>(dv));
    run<T, true>(p, {data<T>(q), grad, values, p.keys, p.values, true, C(scale), C(1), dstates, nullptr, wide_k, nullptr});
    run<T, false>(p, {data<T>(k), values, grad, p.keys, p.values, true, C(1), C(scale), data<C>(states), nullptr, wide_q, nullptr});
    C* const gates = !dg ? nullptr : of_features ? data<C>(dg) : static_cast<C*>(of_gate);
    launch(finish<T>, blocks_for(p.pieces() * p.keys, 128), 128, 0, p, data<T>(q), data<T>(k), static_cast<C*>(wide_q),
           static_cast<C*>(wide_k), data<C>(states), data<C>(last), static_cast<C*>(dstates), data<T>(dq), data<T>(dk), gates);
    if (dg && !of_features)
      launch(add_features<C>, blocks_for(dg.numel()), 256, 0, static_cast<C*>(of_gate), dg.numel(), p.keys, data<C>(dg));
  });
}

}  // namespace retape::cuda
