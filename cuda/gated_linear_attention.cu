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
  Problem(const Tensor& q, const Tensor& v, const Tensor& g, const C* decay)
      : batch(q.shape()[0]),
        steps(q.shape()[1]),
        heads(q.shape()[2]),
        keys(q.shape()[3]),
        values(v.shape()[3]),
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

void gated_linear_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& g, const Tensor& h0, double scale, Tensor& y,
                            Tensor& last, Tensor& states) {
  with_floating("gated_linear_attention", q.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const Scratch<C> decay(g ? g.numel() : 0);
    fill_powers<T>(g, decay);
    const Problem<T> p(q, v, g, decay);
    Roles<T> roles{data<T>(v), data<T>(k), nullptr, p.values, p.keys, false, C(1), C(scale), nullptr, nullptr, nullptr, data<C>(states)};
    run<T, false>(p, roles);
    join<T, false>(p, data<C>(h0), data<C>(states), data<C>(last));
    roles.seen = data<T>(q), roles.start = data<C>(states), roles.end = nullptr, roles.out = data<T>(y);
    run<T, false>(p, roles);
  });
}

void gated_linear_attention_backward(const Tensor& dy, const Tensor& dlast, const Tensor& q, const Tensor& k, const Tensor& v,
                                     const Tensor& g, const Tensor& states, const Tensor& last, double scale, Tensor& dq, Tensor& dk,
                                     Tensor& dv, Tensor& dg, Tensor& dh0) {
  with_floating("gated_linear_attention_backward", q.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const Scratch<C> decay(g ? g.numel() : 0);
    fill_powers<T>(g, decay);
    const Problem<T> p(q, v, g, decay);
    const bool of_features = p.gate == Gate::of_feature;
    const Scratch<C> dstates(p.pieces() * p.keys * p.values), wide_q(q.numel()), wide_k(k.numel()),
        of_gate(dg && !of_features ? q.numel() : 0);
    Roles<T> of_v{data<T>(dy), data<T>(q), nullptr, p.values, p.keys, false, C(scale), C(1), nullptr, nullptr, nullptr, dstates};
    run<T, true>(p, of_v);
    join<T, true>(p, data<C>(dlast), dstates, data<C>(dh0));
    of_v.seen = data<T>(k), of_v.start = dstates, of_v.end = nullptr, of_v.out = data<T>(dv);
    run<T, true>(p, of_v);
    run<T, true>(p, {data<T>(q), data<T>(dy), data<T>(v), p.keys, p.values, true, C(scale), C(1), dstates, nullptr, wide_k, nullptr});
    run<T, false>(p,
                  {data<T>(k), data<T>(v), data<T>(dy), p.keys, p.values, true, C(1), C(scale), data<C>(states), nullptr, wide_q, nullptr});
    C* const gates = !dg ? nullptr : of_features ? data<C>(dg) : static_cast<C*>(of_gate);
    launch(finish<T>, blocks_for(p.pieces() * p.keys, 128), 128, 0, p, data<T>(q), data<T>(k), static_cast<C*>(wide_q),
           static_cast<C*>(wide_k), data<C>(states), data<C>(last), static_cast<C*>(dstates), data<T>(dq), data<T>(dk), gates);
    if (dg && !of_features)
      launch(add_features<C>, blocks_for(dg.numel()), 256, 0, static_cast<C*>(of_gate), dg.numel(), p.keys, data<C>(dg));
  });
}

}  // namespace retape::cuda
