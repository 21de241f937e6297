// Recurrent layers: a product and one pointwise launch a step, a second product with a projection. See RecurrentLayer for what is kept.
#include <retape/cuda/gemm.h>

namespace retape::cuda {
namespace {

template <class C> __device__ __forceinline__ C sigmoid(C x) { return C(1) / (C(1) + m::exp(-x)); }

// Where a step stands, and which sequences it is a step of.
struct Position {
  int64_t t, rows, units;
  const int64_t* lengths;
  __device__ __forceinline__ bool active(int64_t row) const { return !lengths || t < lengths[row]; }
};

// ---- pointwise, forward: all (rows, units) but gates; a null `state` is not wanted, since y is the state ----

template <class T, class C> __global__ void lstm_forward(Position at, T* gates, const C* c_before, C* cells, T* y, T* state) {
  for (int64_t i = thread_index(); i < at.rows * at.units; i += thread_count()) {
    const int64_t row = i / at.units, H = at.units;
    T* const x = gates + row * 4 * H + i % H;
    const C before = c_before ? c_before[i] : C(0);
    if (!at.active(row)) {
      for (int g = 0; g < 4; ++g) x[g * H] = T(C(0));
      cells[i] = before, y[i] = T(C(0));
      continue;
    }
    const C in = sigmoid(C(x[0])), forget = sigmoid(C(x[H])), cell = m::tanh(C(x[2 * H])), out = sigmoid(C(x[3 * H]));
    const C c = forget * before + in * cell;
    x[0] = T(in), x[H] = T(forget), x[2 * H] = T(cell), x[3 * H] = T(out);
    cells[i] = c, y[i] = T(out * m::tanh(c));
    if (state) state[i] = y[i];
  }
}
template <class T, class C = compute_t<T>>
__global__ void gru_forward(Position at, T* gates, const T* products, const T* bias, const T* before, T* hidden, T* y, T* state) {
  for (int64_t i = thread_index(); i < at.rows * at.units; i += thread_count()) {
    const int64_t row = i / at.units, H = at.units, unit = i % H;
    T* const x = gates + row * 3 * H + unit;
    if (!at.active(row)) {
      for (int g = 0; g < 3; ++g) x[g * H] = T(C(0));
      hidden[i] = y[i] = T(C(0));
      continue;
    }
    const T* const h = products + row * 3 * H + unit;
    const C reset = sigmoid(C(x[0]) + C(h[0])), update = sigmoid(C(x[H]) + C(h[H])), product = C(h[2 * H]) + (bias ? C(bias[unit]) : C(0));
    const C fresh = m::tanh(C(x[2 * H]) + reset * product), made = fresh + update * (C(before[i]) - fresh);
    x[0] = T(reset), x[H] = T(update), x[2 * H] = T(fresh);
    hidden[i] = T(product), y[i] = T(made);
    if (state) state[i] = y[i];
  }
}
template <class T, class C = compute_t<T>> __global__ void plain_forward(Position at, bool relu, const T* gates, T* y, T* state) {
  for (int64_t i = thread_index(); i < at.rows * at.units; i += thread_count()) {
    if (!at.active(i / at.units)) {
      y[i] = T(C(0));
      continue;
    }
    const C v = C(gates[i]);
    y[i] = T(!relu ? m::tanh(v) : v > C(0) ? v : v != v ? v : C(0));
    if (state) state[i] = y[i];
  }
}
// What a step has made goes on, except behind the end of a sequence.
template <class T> __global__ void go_on(Position at, const T* y, T* state) {
  for (int64_t i = thread_index(); i < at.rows * at.units; i += thread_count())
    if (at.active(i / at.units)) state[i] = y[i];
}
template <class T> __global__ void copy_or_zero(const T* from, int64_t n, T* to) {
  for (int64_t i = thread_index(); i < n; i += thread_count()) to[i] = from ? from[i] : T(compute_t<T>(0));
}

// ---- pointwise, backward: `kept` is what reaches a step's output other than through dy, and then what it passes to the step before ----

// The gradient of a step's output, and what is kept if it goes through nothing but products.
template <class T, class C> __device__ __forceinline__ C taken(const T* dy, T* kept, int64_t i) {
  const C dh = C(kept[i]) + (dy ? C(dy[i]) : C(0));
  kept[i] = T(C(0));
  return dh;
}
template <class T, class C = compute_t<T>> __global__ void take(Position at, const T* dy, T* kept, T* dprojected) {
  for (int64_t i = thread_index(); i < at.rows * at.units; i += thread_count())
    dprojected[i] = T(at.active(i / at.units) ? taken<T, C>(dy, kept, i) : C(0));
}
// dh is given, or else made of dy and kept.
template <class T, class C>
__global__ void lstm_backward(Position at, const T* dh_given, const T* dy, T* kept, const T* gates, const C* cells, const C* c_before,
                              C* dc, int64_t d_row, T* dgates) {
  for (int64_t i = thread_index(); i < at.rows * at.units; i += thread_count()) {
    const int64_t row = i / at.units, H = at.units;
    T* const d = dgates + row * d_row + i % H;
    if (!at.active(row)) {
      for (int g = 0; g < 4; ++g) d[g * H] = T(C(0));
      continue;
    }
    const T* const gate = gates + row * 4 * H + i % H;
    const C dh = dh_given ? C(dh_given[i]) : taken<T, C>(dy, kept, i);
    const C in = C(gate[0]), forget = C(gate[H]), cell = C(gate[2 * H]), out = C(gate[3 * H]);
    const C bent = m::tanh(cells[i]), total = dc[i] + dh * out * (C(1) - bent * bent);
    d[0] = T(total * cell * in * (C(1) - in));
    d[H] = T(total * (c_before ? c_before[i] : C(0)) * forget * (C(1) - forget));
    d[2 * H] = T(total * in * (C(1) - cell * cell));
    d[3 * H] = T(dh * bent * out * (C(1) - out));
    dc[i] = total * forget;
  }
}
// y_before are the outputs of the step before, null where all sequences begin; in reverse, one may begin later.
template <class T, class C = compute_t<T>>
__global__ void gru_backward(Position at, const T* dy, T* kept, const T* gates, const T* hidden, const T* y_before, const T* h0,
                             bool reverse, int64_t d_row, T* dgates) {
  for (int64_t i = thread_index(); i < at.rows * at.units; i += thread_count()) {
    const int64_t row = i / at.units, H = at.units;
    T* const d = dgates + row * d_row + i % H;
    if (!at.active(row)) {
      for (int g = 0; g < 4; ++g) d[g * H] = T(C(0));
      continue;
    }
    const T* const gate = gates + row * 3 * H + i % H;
    const bool begins = !y_before || (reverse && at.lengths && at.t == at.lengths[row] - 1);
    const C before = !begins ? C(y_before[i]) : h0 ? C(h0[i]) : C(0);
    const C dh = taken<T, C>(dy, kept, i), reset = C(gate[0]), update = C(gate[H]), fresh = C(gate[2 * H]);
    const C dn = dh * (C(1) - update) * (C(1) - fresh * fresh);
    d[0] = T(dn);
    d[H] = T(dn * C(hidden[i]) * reset * (C(1) - reset));
    d[2 * H] = T(dh * (before - fresh) * update * (C(1) - update));
    d[3 * H] = T(dn * reset);
    kept[i] = T(dh * update);
  }
}
template <class T, class C = compute_t<T>>
__global__ void plain_backward(Position at, bool relu, const T* dy, T* kept, const T* y, int64_t d_row, T* dgates) {
  for (int64_t i = thread_index(); i < at.rows * at.units; i += thread_count()) {
    const int64_t row = i / at.units;
    T& d = dgates[row * d_row + i % at.units];
    if (!at.active(row)) {
      d = T(C(0));
      continue;
    }
    const C dh = taken<T, C>(dy, kept, i), v = C(y[i]);
    d = T(relu ? v > C(0) ? dh : C(0) : dh * (C(1) - v * v));
  }
}

// ---- the loops ----

int64_t gates_of(RecurrentKind kind) { return kind == RecurrentKind::lstm ? 4 : kind == RecurrentKind::gru ? 3 : 1; }

// c (rows, n) = a (rows, k) b, or c += a b; the element (l, j) of b lies at l * b_row + j * b_col
template <class T>
void product(const T* a, int64_t a_row, const T* b, int64_t b_row, int64_t b_col, int64_t rows, int64_t n, int64_t k, bool accumulate,
             T* c) {
  multiply({.dtype = dtype_of<T>,
            .batch = 1,
            .m = rows,
            .n = n,
            .k = k,
            .a = a,
            .a_row = a_row,
            .a_col = 1,
            .a_batch = 0,
            .b = b,
            .b_row = b_row,
            .b_col = b_col,
            .b_batch = 0,
            .c = c,
            .c_row = n,
            .c_batch = 0,
            .accumulate = accumulate,
            .bias = nullptr});
}
template <class T> void start(const T* from, int64_t n, T* to) { launch(copy_or_zero<T>, blocks_for(n), 256, 0, from, n, to); }

template <class T>
void forward(const RecurrentLayer& layer, const Tensor& gates_, const Tensor& cells_, const Tensor& extra_, const Tensor& y_,
             const Tensor& h_n, const Tensor& c_n) {
  using C = compute_t<T>;
  const RecurrentKind kind = layer.kind;
  const int64_t steps = y_.shape()[0], B = y_.shape()[1], R = y_.shape()[2], rows = layer.w_hh.shape()[0], H = rows / gates_of(kind);
  const T *const w_hh = data<T>(layer.w_hh), *const w_hr = data<T>(layer.w_hr);
  T *const gates = data<T>(gates_), *const extra = data<T>(extra_), *const y = data<T>(y_);
  C* const cells = data<C>(cells_);
  const bool gru = kind == RecurrentKind::gru, separate = bool(layer.lengths);  // where a sequence may have ended, y is not the state
  const Scratch<T> first(B * R), products(gru ? B * rows : 0);
  T* const state = first;
  start<T>(data<T>(layer.h0), B * R, state);
  const T* h = state;
  const C* c = data<C>(layer.c0);
  const dim3 grid = blocks_for(B * H);
  for (int64_t s = 0; s < steps; ++s) {
    const int64_t t = layer.reverse ? steps - 1 - s : s;
    const Position at{t, B, H, data<int64_t>(layer.lengths)};
    T *const x = gates + t * B * rows, *const out = y + t * B * R, *const more = extra ? extra + t * B * H : nullptr;
    T* const next = separate && !w_hr ? state : nullptr;
    product<T>(h, R, w_hh, 1, R, B, rows, R, !gru, gru ? static_cast<T*>(products) : x);
    if (kind == RecurrentKind::lstm) {
      launch(lstm_forward<T, C>, grid, 256, 0, at, x, c, cells + t * B * H, w_hr ? more : out, next);
      c = cells + t * B * H;
    } else if (gru) {
      launch(gru_forward<T>, grid, 256, 0, at, x, static_cast<T*>(products), data<T>(layer.b_hn), h, more, out, next);
    } else {
      launch(plain_forward<T>, grid, 256, 0, at, kind == RecurrentKind::relu, x, out, next);
    }
    if (w_hr) {
      product<T>(more, H, w_hr, 1, H, B, R, H, false, out);
      if (separate) launch(go_on<T>, blocks_for(B * R), 256, 0, Position{t, B, R, at.lengths}, out, state);
    }
    if (!separate) h = out;
  }
  start<T>(h, B * R, data<T>(h_n));
  if (c_n) start<C>(c, B * H, data<C>(c_n));
}

template <class T>
void backward(const RecurrentLayer& layer, const Tensor& dy_, const Tensor& dh_n, const Tensor& dc_n, const Tensor& gates_,
              const Tensor& cells_, const Tensor& extra_, const Tensor& y_, const Tensor& dgates_, const Tensor& dprojected_,
              const Tensor& dh0, const Tensor& dc0) {
  using C = compute_t<T>;
  const RecurrentKind kind = layer.kind;
  const int64_t steps = y_.shape()[0], B = y_.shape()[1], R = y_.shape()[2], rows = layer.w_hh.shape()[0], H = rows / gates_of(kind);
  const T *const w_hh = data<T>(layer.w_hh), *const w_hr = data<T>(layer.w_hr), *const dy = data<T>(dy_), *const y = data<T>(y_);
  const T *const gates = data<T>(gates_), *const extra = data<T>(extra_);
  const C* const cells = data<C>(cells_);
  T *const dgates = data<T>(dgates_), *const dprojected = data<T>(dprojected_);
  const bool gru = kind == RecurrentKind::gru, lstm = kind == RecurrentKind::lstm;
  const int64_t d_row = dgates_.strides()[1], d_plane = B * d_row, from_h = gru ? H : 0;  // the gradients of the products with h
  const Scratch<T> kept_values(B * R), of_projected(w_hr ? B * H : 0);
  const Scratch<C> dc_values(lstm ? B * H : 0);
  T* const kept = kept_values;
  C* const dc = dc_values;
  start<T>(data<T>(dh_n), B * R, kept);
  if (lstm) start<C>(data<C>(dc_n), B * H, dc);
  const dim3 grid = blocks_for(B * H);
  for (int64_t s = steps; s-- > 0;) {
    const int64_t t = layer.reverse ? steps - 1 - s : s, after = layer.reverse ? t - 1 : t + 1, before = layer.reverse ? t + 1 : t - 1;
    const Position at{t, B, H, data<int64_t>(layer.lengths)};
    const T *const own = dy ? dy + t * B * R : nullptr, *const gate = gates ? gates + t * B * rows : nullptr;
    T* const d = dgates + t * d_plane;
    if (s < steps - 1) product<T>(dgates + after * d_plane + from_h, d_row, w_hh, R, 1, B, R, rows, true, kept);
    if (w_hr) {
      launch(take<T>, blocks_for(B * R), 256, 0, Position{t, B, R, at.lengths}, own, kept, dprojected + t * B * R);
      product<T>(dprojected + t * B * R, R, w_hr, H, 1, B, H, R, false, of_projected);
    }
    if (lstm) {
      const C* const c_before = s > 0 ? cells + before * B * H : data<C>(layer.c0);
      launch(lstm_backward<T, C>, grid, 256, 0, at, w_hr ? static_cast<T*>(of_projected) : nullptr, own, kept, gate, cells + t * B * H,
             c_before, dc, d_row, d);
    } else if (gru) {
      launch(gru_backward<T>, grid, 256, 0, at, own, kept, gate, extra + t * B * H, s > 0 ? y + before * B * R : nullptr, data<T>(layer.h0),
             layer.reverse, d_row, d);
    } else {
      launch(plain_backward<T>, grid, 256, 0, at, kind == RecurrentKind::relu, own, kept, y + t * B * R, d_row, d);
    }
  }
  if (dh0) {
    const int64_t first = layer.reverse ? steps - 1 : 0;
    product<T>(dgates + first * d_plane + from_h, d_row, w_hh, R, 1, B, R, rows, true, kept);
    start<T>(kept, B * R, data<T>(dh0));
  }
  if (dc0) start<C>(dc, B * H, data<C>(dc0));
}

}  // namespace

void recurrent(const RecurrentLayer& layer, Tensor& gates, Tensor& cells, Tensor& extra, Tensor& y, Tensor& h_n, Tensor& c_n) {
  with_floating("recurrent", y.dtype(), [&](auto zero) { forward<decltype(zero)>(layer, gates, cells, extra, y, h_n, c_n); });
}
void recurrent_backward(const RecurrentLayer& layer, const Tensor& dy, const Tensor& dh_n, const Tensor& dc_n, const Tensor& gates,
                        const Tensor& cells, const Tensor& extra, const Tensor& y, Tensor& dgates, Tensor& dprojected, Tensor& dh0,
                        Tensor& dc0) {
  with_floating("recurrent_backward", y.dtype(),
                [&](auto zero) { backward<decltype(zero)>(layer, dy, dh_n, dc_n, gates, cells, extra, y, dgates, dprojected, dh0, dc0); });
}

}  // namespace retape::cuda
