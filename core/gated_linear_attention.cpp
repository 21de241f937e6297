// Linear attention with decay, in chunks (Yang et al. 2023, arXiv 2312.06635; Dao & Gu 2024). What each chunk adds to the state and what it makes of the state
// before it are products of matrices; only the pass over the states between chunks follows time. Decays are products of e^g, steps from the
// nearer to the farther: no quotient or difference of sums is taken, so none can overflow, and e^-infinity = 0 forgets exactly.
#include <retape/core/flush_denormals.h>
#include <retape/core/put.h>
#include <retape/core/tiles.h>

namespace retape::RETAPE_LEVEL {
namespace {

constexpr int64_t chunk = recurrence_chunk, sub = 16;  // steps; those between which decays of single features are multiplied out
static_assert(chunk == tile);

enum class Gate { none, of_head, of_feature };

template <class C> RETAPE_INLINE const C* pointer(const Tensor& t) { return t && !t.device().is_meta() ? t.data<C>() : nullptr; }
template <class C> RETAPE_INLINE C* target(Tensor& t) { return t ? t.mutable_data<C>() : nullptr; }
template <class A> RETAPE_INLINE void clear(A* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] = 0;
}

template <class T> struct Problem {
  using A = compute_t<T>;
  int64_t batch, steps, heads, keys, values, k_cols, v_cols, chunks;  // features of k and v; rounded up to whole vectors
  bool normalize;
  int64_t state_cols;  // those of v and, if y is normalised, the sum of k
  const T *q, *k, *v;
  const A* g;
  Gate gate;
  A scale;
  Problem(const Tensor& q_, const Tensor& k_, const Tensor& v_, const Tensor& g_, const Tensor& normaliser, double scale_)
      : batch(q_.shape()[0]),
        steps(q_.shape()[1]),
        heads(q_.shape()[2]),
        keys(q_.shape()[3]),
        values(v_.shape()[3]),
        k_cols(round_up(keys, padding<A>)),
        v_cols(round_up(values, padding<A>)),
        chunks(divide_up(steps, chunk)),
        normalize(bool(normaliser)),
        state_cols(values + int64_t(normalize)),
        q(pointer<T>(q_)),
        k(pointer<T>(k_)),
        v(pointer<T>(v_)),
        g(pointer<A>(g_)),
        gate(!g_             ? Gate::none
             : g_.dim() == 3 ? Gate::of_head
                             : Gate::of_feature),
        scale(A(scale_)) {}
  RETAPE_INLINE int64_t tasks() const { return batch * heads * chunks; }
  RETAPE_INLINE int64_t state() const { return keys * state_cols; }
  RETAPE_INLINE bool worth_threads() const { return batch * steps * heads * (keys + values) > 16384; }
};

// A chunk of a head, and its rows, rounded up to whole blocks of `sub` steps; those behind the sequence's end are 0.
template <class T> struct Place {
  using A = compute_t<T>;
  const Problem<T>& p;
  int64_t head, sequence, index, begin, many, rows;
  RETAPE_INLINE Place(const Problem<T>& p, int64_t task)
      : p(p),
        head(task / p.chunks % p.heads),
        sequence(task / p.chunks / p.heads),
        index(task % p.chunks),
        begin(index * chunk),
        many(min_of(chunk, p.steps - begin)),
        rows(round_up(many, sub)) {}
  RETAPE_INLINE int64_t first(int64_t features) const { return ((sequence * p.steps + begin) * p.heads + head) * features; }
  // to (rows, cols) = factor * x (steps, features)
  RETAPE_INLINE void load(const T* x, int64_t features, int64_t cols, A factor, A* to) const {
    const T* from = x + first(features);
    for (int64_t t = 0; t < many; ++t, from += p.heads * features) {
      for (int64_t i = 0; i < features; i += 64 / int64_t(sizeof(T))) __builtin_prefetch(from + 4 * p.heads * features + i);
#pragma omp simd
      for (int64_t i = 0; i < features; ++i) to[t * cols + i] = A(from[i]) * factor;
      for (int64_t i = features; i < cols; ++i) to[t * cols + i] = 0;
    }
    clear(to + many * cols, (rows - many) * cols);
  }
  RETAPE_INLINE void store(const A* from, int64_t features, int64_t cols, A factor, T* y) const {
    T* to = y + first(features);
    for (int64_t t = 0; t < many; ++t, to += p.heads * features)
#pragma omp simd
      for (int64_t i = 0; i < features; ++i) put(to[i], from[t * cols + i] * factor);
  }
  // grad (rows, v_cols), of_sums (rows): the gradients of y before it was divided, and of what it was divided by
  RETAPE_INLINE void load_gradient(const T* dy, const T* y, const A* normaliser, A* grad, A* of_sums) const {
    load(dy, p.values, p.v_cols, A(1), grad);
    if (!p.normalize) return;
    const T* from = y + first(p.values);
    for (int64_t t = 0; t < many; ++t, from += p.heads * p.values) {
      const A below = 1 / normaliser[first(1) + t * p.heads];
      A sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < p.values; ++i) {
        const A d = grad[t * p.v_cols + i] * below;
        grad[t * p.v_cols + i] = d;
        sum += d * A(from[i]);
      }
      of_sums[t] = -sum;
    }
    clear(of_sums + many, rows - many);
  }
  // decay (rows, k_cols) = e^g
  RETAPE_INLINE void load_decay(A* decay) const {
    for (int64_t t = 0; t < rows; ++t) {
      A* const to = decay + t * p.k_cols;
      const int64_t row = (sequence * p.steps + begin + t) * p.heads + head;
      if (t < many && p.gate == Gate::of_feature) {
#pragma omp simd
        for (int64_t i = 0; i < p.keys; ++i) to[i] = m::exp(p.g[row * p.keys + i]);
        for (int64_t i = p.keys; i < p.k_cols; ++i) to[i] = 1;
      } else {
        const A same = t < many && p.gate == Gate::of_head ? m::exp(p.g[row]) : A(1);
        for (int64_t i = 0; i < p.k_cols; ++i) to[i] = same;
      }
    }
  }
  // (keys, values) of one chunk, with padding, and the column of sums behind it, (k_cols)
  RETAPE_INLINE void load_state(const A* x, A* to, A* sums) const {
    for (int64_t i = 0; i < p.keys; ++i) {
      for (int64_t j = 0; j < p.values; ++j) to[i * p.v_cols + j] = x[i * p.state_cols + j];
      for (int64_t j = p.values; j < p.v_cols; ++j) to[i * p.v_cols + j] = 0;
    }
    clear(to + p.keys * p.v_cols, (p.k_cols - p.keys) * p.v_cols);
    if (!p.normalize) return;
    for (int64_t i = 0; i < p.keys; ++i) sums[i] = x[i * p.state_cols + p.values];
    clear(sums + p.keys, p.k_cols - p.keys);
  }
};

template <class A> RETAPE_INLINE void times(const A* x, const A* y, int64_t n, A* to) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = x[i] * y[i];
}
template <class A> RETAPE_INLINE void add_product(const A* x, const A* y, int64_t n, A* to) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] += x[i] * y[i];
}

// Within blocks of `length` rows: from_start (rows, cols), the product of all decays up to each row, and to_end, that of all behind it.
template <class A> RETAPE_INLINE void multiply_out(const A* decay, int64_t rows, int64_t cols, int64_t length, A* from_start, A* to_end) {
  for (int64_t t = 0; t < rows; ++t)
    for (int64_t i = 0; i < cols; ++i)
      from_start[t * cols + i] = t % length ? from_start[(t - 1) * cols + i] * decay[t * cols + i] : decay[t * cols + i];
  for (int64_t t = rows - 1; t >= 0; --t) {
    const bool last = t == rows - 1 || (t + 1) % length == 0;
    for (int64_t i = 0; i < cols; ++i) to_end[t * cols + i] = last ? A(1) : to_end[(t + 1) * cols + i] * decay[(t + 1) * cols + i];
  }
}

// scores (s, t), tile wide: rows of s for t at or behind it, else 0.
template <class A> RETAPE_INLINE void hide_later(A* scores, int64_t rows) {
  for (int64_t s = 0; s < rows; ++s)
    for (int64_t t = 0; t < s; ++t) scores[s * tile + t] = 0;
}
// scores (s, t) times the decay from s to t, the same for all features: the first column of `decay`.
template <class A> RETAPE_INLINE void fade(const A* decay, int64_t cols, int64_t rows, A* scores) {
  A factor[tile];
  for (int64_t t = 0; t < tile; ++t) factor[t] = 0;
  for (int64_t s = rows - 1; s >= 0; --s) {
    const A next = s + 1 < rows ? decay[(s + 1) * cols] : A(1);
#pragma omp simd
    for (int64_t t = 0; t < tile; ++t) factor[t] *= next;
    factor[s] = 1;
    for (int64_t t = s; t < rows; ++t) scores[s * tile + t] *= factor[t];
  }
}
// Between the steps of one block: scores (s, t) of k (rows, cols) and queries (cols, tile), which are overwritten; lanes are queries.
template <class A>
RETAPE_INLINE void score_block(const A* decay, const A* k, int64_t features, int64_t cols, int64_t first, A* queries, A* scores) {
  for (int64_t s = first + sub - 1; s >= first; --s) {
    A sum[sub] = {};
    for (int64_t i = 0; i < features; ++i) {
      const A x = k[s * cols + i], e = decay[s * cols + i];
      A* const w = queries + i * tile + first;
#pragma omp simd
      for (int64_t l = 0; l < sub; ++l) {
        sum[l] += w[l] * x;
        w[l] *= first + l >= s ? e : A(1);
      }
    }
    for (int64_t l = 0; l < sub; ++l) scores[s * tile + first + l] = first + l >= s ? sum[l] : A(0);
  }
}

// What both directions make of a chunk's q, k and decay before they go on.
template <class T> struct Chunk {
  using A = compute_t<T>;
  const Problem<T>& p;
  A *q, *k, *v, *decay, *from_start, *to_end;  // (rows, k_cols), v (rows, v_cols)
  A *q_start, *k_end, *k_now;          // q and k with decay from the start and to the end of their block; of the blocks so far, at last all
  A *q_all, *queries, *queries_start;  // q with the decay from the chunk's start; transposed q and q_start (k_cols, tile)
  A* scores;                           // (tile, tile)

  static int64_t space(const Problem<T>& p) { return 11 * tile * p.k_cols + tile * p.v_cols + tile * tile + 256; }
  RETAPE_INLINE Chunk(const Problem<T>& p, Arena<A>& arena) : p(p) {
    for (A** x : {&q, &k, &decay, &from_start, &to_end, &q_start, &k_end, &k_now, &q_all, &queries, &queries_start})
      *x = arena.take(tile * p.k_cols);
    v = arena.take(tile * p.v_cols), scores = arena.take(tile * tile);
  }
  // Calls before(i) as soon as k_now has all blocks before i as they are seen from its start.
  template <class F> void make(const Place<T>& at, const F& before) {
    const int64_t rows = at.rows, cols = p.k_cols;
    at.load(p.q, p.keys, cols, p.scale, q), at.load(p.k, p.keys, cols, A(1), k), at.load(p.v, p.values, p.v_cols, A(1), v);
    transpose(q, cols, rows, p.keys, rows, queries);
    if (p.gate != Gate::none) at.load_decay(decay);
    if (p.gate != Gate::of_feature) {
      if (p.gate == Gate::none) {
        q_all = q, k_now = k;
      } else {
        multiply_out(decay, rows, cols, chunk, from_start, to_end);
        times(q, from_start, rows * cols, q_all), times(k, to_end, rows * cols, k_now);
      }
      for (int64_t s = 0; s < rows; s += sub)  // queries before a block's first do not see it
        multiply<Into::overwrite>(sub, rows - s, p.keys, k + s * cols, cols, 1, queries + s, tile, scores + s * tile + s, tile);
      hide_later(scores, rows);
      if (p.gate == Gate::of_head) fade(decay, cols, rows, scores);
      return;
    }
    multiply_out(decay, rows, cols, sub, from_start, to_end);
    times(q, from_start, rows * cols, q_start), times(k, to_end, rows * cols, k_end);
    transpose(q_start, cols, rows, p.keys, rows, queries_start);
    for (int64_t t = 0; t < rows; t += sub) {
      const A* const whole = from_start + (t + sub - 1) * cols;  // the decay over the block
      before(t);
      if (t > 0) multiply<Into::overwrite>(t, sub, p.keys, k_now, cols, 1, queries_start + t, tile, scores + t, tile);
      score_block(decay, k, p.keys, cols, t, queries, scores);
      for (int64_t s = t; s < rows && s < t + sub; ++s)
        for (int64_t l = 0; l < t; ++l) scores[s * tile + l] = 0;
      for (int64_t s = 0; s < t; ++s) times(k_now + s * cols, whole, cols, k_now + s * cols);
      for (int64_t i = t * cols; i < (t + sub) * cols; ++i) k_now[i] = k_end[i];
    }
    // q_all: the decay of the blocks before, one after the other
    A* const past = queries_start;
    for (int64_t i = 0; i < cols; ++i) past[i] = 1;
    for (int64_t t = 0; t < rows; ++t) {
      times(q_start + t * cols, past, cols, q_all + t * cols);
      if ((t + 1) % sub == 0) times(past, from_start + t * cols, cols, past);
    }
  }
  void make(const Place<T>& at) {
    make(at, [](int64_t) {});
  }
};

// What chunks add to the state, or, from the end, to the gradient of the state before them: added (batch, heads, chunks, K, V), and the decay
// over each chunk (batch, heads, chunks, k_cols).
template <bool backward, class T>
RETAPE_FULL_WIDTH void add_chunks(const Problem<T>& p, const T* dy, const T* y, const compute_t<T>* normaliser, compute_t<T>* added,
                                  compute_t<T>* decays) {
  using A = compute_t<T>;
  const int64_t cols = p.k_cols, rows_size = tile * cols;
  const int64_t space = 4 * rows_size + tile * p.v_cols + cols * p.v_cols + cols + tile + 192;
  each_task<A>(p.tasks(), space, p.worth_threads(), [&](int64_t task, Arena<A> arena) RETAPE_FULL_WIDTH {
    const FlushDenormals no_denormals;
    const Place<T> at(p, task);
    A *const x = arena.take(rows_size), *const decay = arena.take(rows_size), *const from_start = arena.take(rows_size),
             *const to_end = arena.take(rows_size), *const v = arena.take(tile * p.v_cols), *const sum = arena.take(cols * p.v_cols),
             *const weights = arena.take(tile), *const weighted = arena.take(cols);  // for the column of sums: v's would be ones
    if constexpr (backward) at.load(p.q, p.keys, cols, p.scale, x), at.load_gradient(dy, y, normaliser, v, weights);
    else at.load(p.k, p.keys, cols, A(1), x), at.load(p.v, p.values, p.v_cols, A(1), v);
    if (p.gate == Gate::none) {
      for (int64_t i = 0; i < cols; ++i) decays[task * cols + i] = 1;
    } else {
      at.load_decay(decay);
      multiply_out(decay, at.rows, cols, chunk, from_start, to_end);
      for (int64_t i = 0; i < cols; ++i) decays[task * cols + i] = from_start[(at.rows - 1) * cols + i];
      times(x, backward ? from_start : to_end, at.rows * cols, x);
    }
    if (p.normalize) {
      clear(weighted, cols);
      for (int64_t t = 0; t < at.rows; ++t) {
        const A weight = backward ? weights[t] : A(1);
#pragma omp simd
        for (int64_t i = 0; i < cols; ++i) weighted[i] += x[t * cols + i] * weight;
      }
    }
    multiply<Into::overwrite>(round_up(p.keys, 4), p.v_cols, at.rows, x, 1, cols, v, p.v_cols, sum, p.v_cols);
    A* const to = added + task * p.state();
    for (int64_t i = 0; i < p.keys; ++i)
      for (int64_t j = 0; j < p.values; ++j) to[i * p.state_cols + j] = sum[i * p.v_cols + j];
    for (int64_t i = 0; i < p.keys && p.normalize; ++i) to[i * p.state_cols + p.values] = weighted[i];
  });
}
// From what every chunk adds to the state before each chunk, or the gradient of that behind it, in its place; and the last one.
template <bool backward, class T>
void join_chunks(const Problem<T>& p, const compute_t<T>* decays, const compute_t<T>* first, compute_t<T>* states, compute_t<T>* last) {
  using A = compute_t<T>;
  parallel_for(p.batch * p.heads * p.keys, row_grain(p.chunks * p.state_cols), [&](int64_t begin, int64_t end) {
    const FlushDenormals no_denormals;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t of = task / p.keys, i = task % p.keys;
      for (int64_t from = 0; from < p.state_cols; from += tile) {
        const int64_t width = min_of(tile, p.state_cols - from);
        A h[tile];
        for (int64_t j = 0; j < width; ++j) h[j] = first ? first[task * p.state_cols + from + j] : A(0);
        for (int64_t n = 0; n < p.chunks; ++n) {
          const int64_t c = of * p.chunks + (backward ? p.chunks - 1 - n : n);
          A* const own = states + c * p.state() + i * p.state_cols + from;
          const A decay = decays[c * p.k_cols + i];
          for (int64_t j = 0; j < width; ++j) {
            const A x = own[j];
            own[j] = h[j];
            h[j] = decay * h[j] + x;
          }
        }
        if (last)
          for (int64_t j = 0; j < width; ++j) last[task * p.state_cols + from + j] = h[j];
      }
    }
  });
}

template <class T>
RETAPE_FULL_WIDTH void outputs(const Problem<T>& p, const compute_t<T>* states, compute_t<T> eps, T* y, compute_t<T>* normaliser) {
  using A = compute_t<T>;
  const int64_t space = Chunk<T>::space(p) + tile * p.v_cols + p.k_cols * p.v_cols + p.k_cols + tile + 192;
  each_task<A>(p.tasks(), space, p.worth_threads(), [&](int64_t task, Arena<A> arena) RETAPE_FULL_WIDTH {
    const FlushDenormals no_denormals;
    const Place<T> at(p, task);
    Chunk<T> c(p, arena);
    A *const out = arena.take(tile * p.v_cols), *const state = arena.take(p.k_cols * p.v_cols), *const sums = arena.take(p.k_cols),
             *const below = arena.take(tile);
    c.make(at);
    at.load_state(states + task * p.state(), state, sums);
    for (int64_t t = 0; t < at.rows; t += sub) {
      A* const to = out + t * p.v_cols;
      multiply<Into::overwrite>(sub, p.v_cols, p.keys, c.q_all + t * p.k_cols, p.k_cols, 1, state, p.v_cols, to, p.v_cols);
      multiply<Into::add>(sub, p.v_cols, t + sub, c.scores + t, 1, tile, c.v, p.v_cols, to, p.v_cols);
    }
    if (p.normalize) {
      for (int64_t t = 0; t < at.rows; ++t) {
        A sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < p.k_cols; ++i) sum += c.q_all[t * p.k_cols + i] * sums[i];
        below[t] = sum + eps;
      }
      for (int64_t s = 0; s < at.rows; ++s)
#pragma omp simd
        for (int64_t t = s; t < at.rows; ++t) below[t] += c.scores[s * tile + t];
      for (int64_t t = 0; t < at.many; ++t) {
        normaliser[at.first(1) + t * p.heads] = below[t];
#pragma omp simd
        for (int64_t i = 0; i < p.v_cols; ++i) out[t * p.v_cols + i] /= below[t];
      }
    }
    at.store(out, p.values, p.v_cols, A(1), y);
  });
}

template <class T> struct Gradients {
  T *q, *k, *v;
  compute_t<T>* g;
};

// to (rows, cols) = x (features, tile) transposed
template <class A> RETAPE_INLINE void turn_back(const A* x, int64_t features, int64_t rows, int64_t cols, A* space, A* to) {
  for (int64_t f = 0; f < features; f += tile) {
    const int64_t width = min_of(tile, features - f);
    transpose(x + f * tile, tile, width, rows, width, space);  // (rows, tile)
    for (int64_t t = 0; t < rows; ++t)
      for (int64_t i = 0; i < width; ++i) to[t * cols + f + i] = space[t * tile + i];
  }
  for (int64_t t = 0; t < rows; ++t)
    for (int64_t i = features; i < cols; ++i) to[t * cols + i] = 0;
}

template <class T> int64_t gradients_space(const Problem<T>& p) {
  const int64_t cols = p.k_cols, v_cols = p.v_cols, most = max_of(cols, v_cols);
  return Chunk<T>::space(p) + 3 * tile * cols + 2 * tile * v_cols + 3 * tile * most + 2 * tile * tile + 2 * cols * v_cols + 3 * cols +
         tile + 1024;
}

// `states` before each chunk, dstates the gradients of those behind each, last the state behind the last one.
template <class T>
RETAPE_FULL_WIDTH void gradients(const Problem<T>& p, const compute_t<T>* states, const compute_t<T>* dstates, const compute_t<T>* last,
                                 const T* dy, const T* y, const compute_t<T>* normaliser, const Gradients<T>& d) {
  using A = compute_t<T>;
  const int64_t cols = p.k_cols, v_cols = p.v_cols;
  const int64_t most = max_of(cols, v_cols), space = gradients_space(p);
  each_task<A>(p.tasks(), space, p.worth_threads(), [&](int64_t task, Arena<A> arena) RETAPE_FULL_WIDTH {
    const FlushDenormals no_denormals;
    const Place<T> at(p, task);
    const int64_t rows = at.rows;
    Chunk<T> c(p, arena);
    A *const dq = arena.take(tile * cols), *const seen = arena.take(tile * cols), *dk = arena.take(tile * cols);
    A *const grad = arena.take(tile * v_cols), *const dv = arena.take(tile * v_cols);
    A *const turned = arena.take(tile * most), *const product = arena.take(tile * most), *const turned_v = arena.take(tile * most);
    A *const dscores = arena.take(tile * tile), *const room = arena.take(tile * tile);
    A *const state = arena.take(cols * v_cols), *const dstate = arena.take(cols * v_cols), *const past = arena.take(cols);
    A *const sums = arena.take(cols), *const dsums = arena.take(cols),
             *const weights = arena.take(tile);        // the column of sums, and the gradients of both
    const auto turn_values = [&](const A* x, A* to) {  // (values, tile)
      for (int64_t f = 0; f < p.values; f += tile) transpose(x + f, v_cols, rows, min_of(tile, p.values - f), rows, to + f * tile);
    };
    at.load_state(states + task * p.state(), state, sums), at.load_state(dstates + task * p.state(), dstate, dsums);
    at.load_gradient(dy, y, normaliser, grad, weights), at.load(p.v, p.values, v_cols, A(1), c.v);
    turn_values(grad, turned), turn_values(c.v, turned_v);
    // The gradients of the scores, (s, t), and what reaches q from the state before and k from that behind the chunk.
    for (int64_t s = 0; s < rows; s += sub)
      multiply<Into::overwrite>(sub, rows - s, p.values, c.v + s * v_cols, v_cols, 1, turned + s, tile, dscores + s * tile + s, tile);
    for (int64_t s = 0; s < rows && p.normalize; ++s)
#pragma omp simd
      for (int64_t t = s; t < rows; ++t) dscores[s * tile + t] += weights[t];
    hide_later(dscores, rows);
    multiply<Into::overwrite>(round_up(p.keys, 4), rows, p.values, state, v_cols, 1, turned, tile, product, tile);
    turn_back(product, p.keys, rows, cols, room, dq);
    multiply<Into::overwrite>(round_up(p.keys, 4), rows, p.values, dstate, v_cols, 1, turned_v, tile, product, tile);
    turn_back(product, p.keys, rows, cols, room, seen);
    for (int64_t t = 0; t < rows && p.normalize; ++t)
#pragma omp simd
      for (int64_t i = 0; i < cols; ++i) dq[t * cols + i] += weights[t] * sums[i], seen[t * cols + i] += dsums[i];

    if (p.gate != Gate::of_feature) {
      c.make(at);
      if (p.gate == Gate::of_head) {
        fade(c.decay, cols, rows, dscores);
        times(dq, c.from_start, rows * cols, dq), times(seen, c.to_end, rows * cols, seen);
      }
      dk = seen;
      for (int64_t t = 0; t < rows; t += sub) {
        multiply<Into::add>(sub, cols, t + sub, dscores + t, 1, tile, c.k, cols, dq + t * cols, cols);
        multiply<Into::add>(sub, cols, rows - t, dscores + t * tile + t, tile, 1, c.q + t * cols, cols, dk + t * cols, cols);
      }
    } else {
      for (int64_t i = 0; i < cols; ++i) past[i] = 1;
      c.make(at, [&](int64_t t) {
        for (int64_t r = t; r < t + sub; ++r) times(dq + r * cols, past, cols, dq + r * cols);
        if (t > 0) multiply<Into::add>(sub, cols, t, dscores + t, 1, tile, c.k_now, cols, dq + t * cols, cols);
        times(dq + t * cols, c.from_start + t * cols, sub * cols, dq + t * cols);
        times(past, c.from_start + (t + sub - 1) * cols, cols, past);
      });
      for (int64_t t = rows - sub; t >= 0; t -= sub) {
        // `seen` is what reaches k of the blocks up to this one from behind it, as it is seen from its end.
        times(seen + t * cols, c.to_end + t * cols, sub * cols, dk + t * cols);
        for (int64_t s = 0; s < t; ++s) times(seen + s * cols, c.from_start + (t + sub - 1) * cols, cols, seen + s * cols);
        if (t > 0) multiply<Into::add>(t, cols, sub, dscores + t, tile, 1, c.q_start + t * cols, cols, seen, cols);
      }
      for (int64_t t = 0; t < rows; ++t) {  // inside of each block
        for (int64_t i = 0; i < cols; ++i) past[i] = 1;
        for (int64_t s = t; s >= t / sub * sub; --s) {
          const A x = dscores[s * tile + t];
          A *const to_q = dq + t * cols, *const to_k = dk + s * cols;
          const A *const k = c.k + s * cols, *const q = c.q + t * cols, *const e = c.decay + s * cols;
#pragma omp simd
          for (int64_t i = 0; i < cols; ++i) {
            const A w = past[i] * x;
            to_q[i] += w * k[i], to_k[i] += w * q[i];
            past[i] *= e[i];
          }
        }
      }
    }
    // k_now is k with the decay up to the chunk's end.
    for (int64_t s = 0; s < rows; s += sub) {
      A* const to = dv + s * v_cols;
      multiply<Into::overwrite>(sub, v_cols, p.keys, c.k_now + s * cols, cols, 1, dstate, v_cols, to, v_cols);
      multiply<Into::add>(sub, v_cols, rows - s, c.scores + s * tile + s, tile, 1, grad + s * v_cols, v_cols, to, v_cols);
    }
    if (d.g) {
      // The logarithm of all that decays up to step t takes q dq of it and gives k dk; at the end, the state takes part as well.
      const A* const after =
          at.index + 1 < p.chunks ? states + (task + 1) * p.state() : last + (at.sequence * p.heads + at.head) * p.state();
      for (int64_t i = 0; i < cols; ++i) past[i] = 0;
      for (int64_t i = 0; i < p.keys; ++i)
        for (int64_t j = 0; j < p.values; ++j) past[i] += after[i * p.state_cols + j] * dstate[i * v_cols + j];
      for (int64_t i = 0; i < p.keys && p.normalize; ++i) past[i] += after[i * p.state_cols + p.values] * dsums[i];
      A whole = 0;
      for (int64_t i = 0; i < p.keys; ++i) whole += past[i];
      for (int64_t t = at.many - 1; t >= 0; --t) {
        const int64_t row = (at.sequence * p.steps + at.begin + t) * p.heads + at.head;
        A sum = 0;
        for (int64_t i = 0; i < p.keys; ++i) {
          const A x = c.q[t * cols + i] * dq[t * cols + i] - c.k[t * cols + i] * dk[t * cols + i];
          past[i] += x, sum += x;
        }
        whole += sum;
        if (p.gate == Gate::of_head) d.g[row] = whole;
        else
          for (int64_t i = 0; i < p.keys; ++i) d.g[row * p.keys + i] = past[i];
      }
    }
    at.store(dq, p.keys, cols, p.scale, d.q), at.store(dk, p.keys, cols, A(1), d.k), at.store(dv, p.values, v_cols, A(1), d.v);
  });
}

}  // namespace

void gated_linear_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& g, const Tensor& h0, double scale, double eps,
                            Tensor& y, Tensor& normaliser, Tensor& last, Tensor& states) {
  with_floating("gated_linear_attention", q.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using A = compute_t<T>;
    const Problem<T> p(q, k, v, g, normaliser, scale);
    const Scratch<A> decays(p.tasks() * p.k_cols);
    A* const all = states.mutable_data<A>();
    add_chunks<false>(p, static_cast<const T*>(nullptr), static_cast<const T*>(nullptr), static_cast<const A*>(nullptr), all,
                      static_cast<A*>(decays));
    join_chunks<false>(p, static_cast<const A*>(decays), pointer<A>(h0), all, last.mutable_data<A>());
    outputs(p, static_cast<const A*>(all), A(eps), y.mutable_data<T>(), target<A>(normaliser));
  });
}

// On meta it only counts the scratch memory that it would take.
void gated_linear_attention_backward(const Tensor& dy, const Tensor& dlast, const Tensor& q, const Tensor& k, const Tensor& v,
                                     const Tensor& g, const Tensor& y, const Tensor& normaliser, const Tensor& states, const Tensor& last,
                                     double scale, Tensor& dq, Tensor& dk, Tensor& dv, Tensor& dg, Tensor& dh0) {
  with_floating("gated_linear_attention_backward", q.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using A = compute_t<T>;
    const Problem<T> p(q, k, v, g, normaliser, scale);
    if (q.device().is_meta())
      return count_meta_scratch(bytes_of<A>(p.tasks() * p.k_cols), bytes_of<A>(p.tasks() * p.state()),
                                bytes_of<A>(scratch_of_tasks(p.tasks(), gradients_space(p), p.worth_threads())));
    const Scratch<A> decays(p.tasks() * p.k_cols), dstates(p.tasks() * p.state());
    const T* const out = pointer<T>(y);
    const A* const sums = pointer<A>(normaliser);
    add_chunks<true>(p, dy.data<T>(), out, sums, static_cast<A*>(dstates), static_cast<A*>(decays));
    join_chunks<true>(p, static_cast<const A*>(decays), pointer<A>(dlast), static_cast<A*>(dstates), target<A>(dh0));
    gradients(p, states.data<A>(), static_cast<const A*>(dstates), last.data<A>(), dy.data<T>(), out, sums,
              Gradients<T>{dq.mutable_data<T>(), dk.mutable_data<T>(), dv.mutable_data<T>(), target<A>(dg)});
  });
}

}  // namespace retape::RETAPE_LEVEL
