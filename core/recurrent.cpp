// Recurrent layers: the loop over time, from which everything that does not depend on the step before has been taken out. The recurrent
// weight is packed once; then a step is one parallel loop over blocks of units, and a task multiplies the state by its block's columns and
// finishes these units, so that nothing but the state passes between threads.
#include <retape/core/kernel.h>

namespace retape::RETAPE_LEVEL {
namespace {

// The register tile: rows of the state by two vectors of columns.
#if defined(__AVX512F__)
constexpr int vector_bytes = 64, tile_rows = 12;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32, tile_rows = 6;
#else
constexpr int vector_bytes = 16, tile_rows = 6;
#endif
template <class C> struct Simd {
  typedef C V __attribute__((vector_size(vector_bytes)));
  static constexpr int lanes = vector_bytes / int(sizeof(C)), panel = 2 * lanes;
};
constexpr int64_t most_vectors = 8;  // of a block

template <class V, class C> RETAPE_INLINE V load(const C* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class V, class C> RETAPE_INLINE void store(C* p, V v) { __builtin_memcpy(p, &v, sizeof v); }

// out (rows, columns of a panel; out_row apart) = a (rows, depth) panel (depth, columns)
template <int rows, class C>
RETAPE_INLINE void multiply(const C* a, int64_t a_row, const C* panel, int64_t depth, C* out, int64_t out_row) {
  using V = typename Simd<C>::V;
  constexpr int lanes = Simd<C>::lanes;
  V sum[rows][2] = {};
  for (int64_t l = 0; l < depth; ++l) {
    const V b0 = load<V>(panel + l * 2 * lanes), b1 = load<V>(panel + l * 2 * lanes + lanes);
#pragma GCC unroll 12
    for (int r = 0; r < rows; ++r) {
      const C x = a[r * a_row + l];
      sum[r][0] += x * b0;
      sum[r][1] += x * b1;
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < rows; ++r) {
    store(out + r * out_row, sum[r][0]);
    store(out + r * out_row + lanes, sum[r][1]);
  }
}
template <class C> void multiply_rows(int64_t rows, const C* a, int64_t a_row, const C* panel, int64_t depth, C* out, int64_t out_row) {
  for (int64_t r = 0; r < rows;) {
    const C* const from = a + r * a_row;
    C* const to = out + r * out_row;
    const int64_t left = rows - r;
    if (left >= tile_rows) multiply<tile_rows>(from, a_row, panel, depth, to, out_row), r += tile_rows;
    else if (tile_rows > 8 && left >= 8) multiply<8>(from, a_row, panel, depth, to, out_row), r += 8;
    else if (left >= 4) multiply<4>(from, a_row, panel, depth, to, out_row), r += 4;
    else if (left >= 2) multiply<2>(from, a_row, panel, depth, to, out_row), r += 2;
    else multiply<1>(from, a_row, panel, depth, to, out_row), r += 1;
  }
}

// Columns of a matrix (depth, parts * units) in blocks of neighbouring units, each block with these units of every part: panels of two
// vectors, (depth, 2, lanes).
template <class C> struct Packed {
  static constexpr int64_t lanes = Simd<C>::lanes, panel = Simd<C>::panel, block = panel;  // units of a block
  int64_t depth, parts, units;
  int64_t width;  // columns of a block
  int64_t count;  // blocks
  Scratch<C> values;
  // An element lies at w + row * row_stride + column * column_stride.
  Packed(const C* w, int64_t depth_, int64_t row_stride, int64_t column_stride, int64_t parts_, int64_t units_)
      : depth(depth_),
        parts(parts_),
        units(units_),
        width(parts_ * block),
        count((units_ + block - 1) / block),
        values(count * width * depth_) {
    const int64_t panels = width / panel;
    parallel_for(count * panels, row_grain(depth * panel), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        C* const out = values + t * panel * depth;
        for (int64_t v = 0; v < 2; ++v) {
          const int64_t at = t % panels * panel + v * lanes, part = at / block, unit = t / panels * block + at % block;
          const int64_t there = max_of(int64_t{0}, min_of(lanes, units - unit));
          const C* const from = w + (part * units + unit) * column_stride;
          for (int64_t l = 0; l < depth; ++l) {
            C* const to = out + l * panel + v * lanes;
            for (int64_t i = 0; i < there; ++i) to[i] = from[l * row_stride + i * column_stride];
            for (int64_t i = there; i < lanes; ++i) to[i] = 0;
          }
        }
      }
    });
  }
  RETAPE_INLINE const C* block_at(int64_t i) const { return values + i * width * depth; }
};

// Calls f(row, row's end, unit, number of units, product) for every part of a w, a (rows, depth). `product` has a row of w.width for each
// of the rows, and in it w.block columns for each part of w. What belongs to which call follows from the shape alone.
template <class C, class F> RETAPE_INLINE void step(const C* a, int64_t a_row, int64_t rows, const Packed<C>& w, const F& f) {
  const int64_t part = w.count < 16 ? 2 * tile_rows : 4 * tile_rows, parts = (rows + part - 1) / part;
  const int64_t work = min_of(rows, part) * w.width * (w.depth + 32);
  parallel_for(parts * w.count, max_of(int64_t{1}, 65536 / max_of(int64_t{1}, work)), [&](int64_t begin, int64_t end) {
    alignas(64) C product[tile_rows * most_vectors * Simd<C>::lanes];
    for (int64_t t = begin; t < end; ++t) {
      const int64_t block = t / parts, unit = block * w.block, first = t % parts * part, last = min_of(rows, first + part);
      const C* const panels = w.block_at(block);
      for (int64_t r = first; r < last; r += tile_rows) {
        const int64_t stop = min_of(last, r + tile_rows);
        for (int64_t p = 0; p < w.width; p += Simd<C>::panel)
          multiply_rows(stop - r, a + r * a_row, a_row, panels + p * w.depth, w.depth, product + p, w.width);
        f(r, stop, unit, min_of(w.block, w.units - unit), static_cast<const C*>(product));
      }
    }
  });
}

// ---- what all kinds share ----

// e^r = 1 + rest * 2^n, x = n log 2 + r: inlined, so that a loop over units keeps its registers. f32, for |x| <= 87 and nan.
struct Exponential {
  float rest, power;
};
RETAPE_INLINE Exponential exponential(float x) {
  const float shifted = x * 0x1.715476p0f + (0x1.8p23f + 127.0f);  // the last bits of the sum are round(x / log 2) + 127
  const float n = shifted - (0x1.8p23f + 127.0f);
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // log 2 in two parts; the product with the first is exact
  float y = r * 0.00138146162659f + 0.00836871209586f;          // minimax for the relative error on |r| <= log(2) / 2
  y = y * r + 0.0416683874789f;
  y = y * r + 0.16666520671f;
  y = y * r + 0.499999934507f;
  return {y * r * r + r, __builtin_bit_cast(float, __builtin_bit_cast(int32_t, shifted) << 23)};
}
RETAPE_INLINE float sigmoid(float x) {
  const float low = x > 87 ? 87 : x, limited = low < -87 ? -87 : low;
  const Exponential e = exponential(-limited);
  return 1 / (1 + (e.rest * e.power + e.power));
}
RETAPE_INLINE float tanh(float x) {  // by e^2x - 1, which is as exact as x for small x
  const float low = x > 10 ? 10 : x, limited = low < -10 ? -10 : low;
  const Exponential e = exponential(2 * limited);
  const float less_one = e.rest * e.power + (e.power - 1);
  return less_one / (less_one + 2);
}
RETAPE_INLINE double sigmoid(double x) { return 1 / (1 + m::exp(-x)); }
RETAPE_INLINE double tanh(double x) { return m::tanh(x); }

RETAPE_INLINE int64_t gates_of(RecurrentKind kind) { return kind == RecurrentKind::lstm ? 4 : kind == RecurrentKind::gru ? 3 : 1; }
// Rows a multiple of 4 KiB apart would all fall into the same few places of the cache.
RETAPE_INLINE int64_t padded(int64_t n) { return n % 128 ? n : n + 16; }

template <class C> RETAPE_INLINE const C* pointer(const Tensor& x) { return x ? x.data<C>() : nullptr; }
template <class C> RETAPE_INLINE C* target(Tensor& x) { return x ? x.mutable_data<C>() : nullptr; }

template <class C> struct Layer {
  RecurrentKind kind;
  bool reverse;
  int64_t steps, rows, units, outputs;
  const int64_t* lengths;
  const C *w_hh, *w_hr, *h0, *c0;
  Layer(const RecurrentLayer& l, const Tensor& y, int64_t hidden)
      : kind(l.kind),
        reverse(l.reverse),
        steps(y.shape()[0]),
        rows(y.shape()[1]),
        units(hidden),
        outputs(y.shape()[2]),
        lengths(pointer<int64_t>(l.lengths)),
        w_hh(pointer<C>(l.w_hh)),
        w_hr(pointer<C>(l.w_hr)),
        h0(pointer<C>(l.h0)),
        c0(pointer<C>(l.c0)) {}
  RETAPE_INLINE bool active(int64_t t, int64_t row) const { return !lengths || t < lengths[row]; }
  // Whether step t is the first that is made of a row.
  RETAPE_INLINE bool begins(int64_t t, int64_t row) const {
    return reverse ? t == (lengths ? min_of(lengths[row], steps) : steps) - 1 : t == 0;
  }
  RETAPE_INLINE int64_t before(int64_t t) const { return reverse ? t + 1 : t - 1; }
};
template <class C> void copy_or_zero(const C* from, int64_t rows, int64_t n, C* to, int64_t to_row) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < n; ++i) to[r * to_row + i] = from ? from[r * n + i] : C(0);
}

// ---- forward ----

// `x` and `h` begin at the unit's column of the first gate, whose columns are `gate` and Packed::block apart; `n` units, whose results go to
// y and state. Loops of whole blocks have a length that the compiler knows.
template <class C, class N>
RETAPE_INLINE void lstm_units(N n, C* x, int64_t gate, const C* h, const C* c_before, C* c_now, C* y, C* state) {
  constexpr int64_t block = Packed<C>::block;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const C in = sigmoid(x[i] + h[i]), forget = sigmoid(x[gate + i] + h[block + i]);
    const C cell = tanh(x[2 * gate + i] + h[2 * block + i]), out = sigmoid(x[3 * gate + i] + h[3 * block + i]);
    const C c = forget * c_before[i] + in * cell;
    x[i] = in, x[gate + i] = forget, x[2 * gate + i] = cell, x[3 * gate + i] = out;
    c_now[i] = c;
    y[i] = state[i] = out * tanh(c);
  }
}
template <class C, class N>
RETAPE_INLINE void gru_units(N n, C* x, int64_t gate, const C* h, const C* bias, const C* before, C* hidden, C* y, C* state) {
  constexpr int64_t block = Packed<C>::block;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const C reset = sigmoid(x[i] + h[i]), update = sigmoid(x[gate + i] + h[block + i]), product = h[2 * block + i] + bias[i];
    const C fresh = tanh(x[2 * gate + i] + reset * product);
    x[i] = reset, x[gate + i] = update, x[2 * gate + i] = fresh;
    hidden[i] = product;
    y[i] = state[i] = fresh + update * (before[i] - fresh);
  }
}
template <class C, class N> RETAPE_INLINE void plain_units(N n, bool relu, const C* x, const C* h, C* y, C* state) {
  if (relu) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      const C v = x[i] + h[i];
      y[i] = state[i] = v > C(0) ? v : v != v ? v : C(0);
    }
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = state[i] = tanh(x[i] + h[i]);
  }
}
template <int64_t n> struct Known {
  RETAPE_INLINE operator int64_t() const { return n; }
};
// f(n), with n known where it is that of a whole block.
template <class C, class F> RETAPE_INLINE void for_units(int64_t n, const F& f) {
  if (n == Packed<C>::block) f(Known<Packed<C>::block>{});
  else f(n);
}
template <class C> RETAPE_INLINE void copy_units(const C* from, int64_t n, C* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
}
template <class C> RETAPE_INLINE void zero_units(int64_t n, C* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = 0;
}

template <class C> struct Forward {
  Layer<C> layer;
  C *gates, *cells, *extra, *y, *h_n, *c_n;
  const C* bias;

  void run() const {
    const Layer<C>& l = layer;
    const int64_t count = gates_of(l.kind), row = padded(l.outputs), R = l.outputs, H = l.units, cell_plane = l.rows * H;
    const Packed<C> w(l.w_hh, R, 1, R, count, H);
    const bool projects = l.w_hr != nullptr;
    const Packed<C> project(l.w_hr, projects ? H : 0, 1, H, 1, projects ? R : 0);
    Scratch<C> states(2 * l.rows * row), start(l.kind == RecurrentKind::lstm ? cell_plane : 0), m_padded(projects ? l.rows * padded(H) : 0);
    C *now = states, *next = now + l.rows * row;  // of all rows, before and after a step
    copy_or_zero(l.h0, l.rows, R, now, row);
    if (l.kind == RecurrentKind::lstm) copy_or_zero(l.c0, l.rows, H, static_cast<C*>(start), H);
    const C* c_before = start;
    for (int64_t s = 0; s < l.steps; ++s) {
      const int64_t t = l.reverse ? l.steps - 1 - s : s;
      C *const x = gates + t * l.rows * count * H, *const out = y + t * l.rows * R, *const c_now = cells + (cells ? t * cell_plane : 0);
      C* const hidden = extra + (extra ? t * cell_plane : 0);
      C* const to_project = m_padded;
      step(static_cast<const C*>(now), row, l.rows, w, [&](int64_t begin, int64_t end, int64_t unit, int64_t n, const C* product) {
        for (int64_t r = begin; r < end; ++r, product += w.width) {
          C* const xr = x + r * count * H + unit;
          C* const yr = projects ? to_project + r * padded(H) + unit : out + r * R + unit;
          C* const state = projects ? hidden + r * H + unit : next + r * row + unit;
          C* const cr = c_now ? c_now + r * H + unit : nullptr;
          const C* const before = now + r * row + unit;
          if (!l.active(t, r)) {
            for (int64_t g = 0; g < count; ++g) zero_units(n, xr + g * H);
            zero_units(n, yr);
            if (cells) copy_units(c_before + r * H + unit, n, cr);
            if (extra) zero_units(n, hidden + r * H + unit);
            if (!projects) copy_units(before, n, state);
            continue;
          }
          for_units<C>(n, [&](auto many) {
            if (l.kind == RecurrentKind::lstm) lstm_units(many, xr, H, product, c_before + r * H + unit, cr, yr, state);
            else if (l.kind == RecurrentKind::gru) gru_units(many, xr, H, product, bias + unit, before, hidden + r * H + unit, yr, state);
            else plain_units(many, l.kind == RecurrentKind::relu, xr, product, yr, state);
          });
        }
      });
      if (projects)
        step(static_cast<const C*>(to_project), padded(H), l.rows, project,
             [&](int64_t begin, int64_t end, int64_t unit, int64_t n, const C* product) {
               for (int64_t r = begin; r < end; ++r, product += project.width) {
                 copy_units(product, n, out + r * R + unit);  // 0 where the sequence has ended, since what was projected is
                 copy_units(l.active(t, r) ? product : now + r * row + unit, n, next + r * row + unit);
               }
             });
      C* const swap = now;
      now = next, next = swap;
      if (cells) c_before = c_now;
    }
    for (int64_t r = 0; r < l.rows; ++r) copy_units(static_cast<const C*>(now) + r * row, R, h_n + r * R);
    if (c_n) copy_units(c_before, cell_plane, c_n);
  }
};

// ---- backward ----

// dh, the gradient of the output, gives those of the gates before their functions, and turns dc into that of the cell before.
template <class C, class N>
RETAPE_INLINE void lstm_units_backward(N n, const C* dh, const C* gate, int64_t gate_step, const C* c, const C* c_before, C* dc, C* d,
                                       int64_t d_step) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const C in = gate[i], forget = gate[gate_step + i], cell = gate[2 * gate_step + i], out = gate[3 * gate_step + i];
    const C bent = tanh(c[i]), total = dc[i] + dh[i] * out * (C(1) - bent * bent);
    d[i] = total * cell * in * (C(1) - in);
    d[d_step + i] = total * c_before[i] * forget * (C(1) - forget);
    d[2 * d_step + i] = total * in * (C(1) - cell * cell);
    d[3 * d_step + i] = dh[i] * bent * out * (C(1) - out);
    dc[i] = total * forget;
  }
}
// The gradients of n, r and z before their functions, and of n's product with h; dh becomes what goes to the output before directly.
template <class C, class N>
RETAPE_INLINE void gru_units_backward(N n, C* dh, const C* gate, int64_t gate_step, const C* hidden, const C* before, C* d,
                                      int64_t d_step) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const C reset = gate[i], update = gate[gate_step + i], fresh = gate[2 * gate_step + i];
    const C dn = dh[i] * (C(1) - update) * (C(1) - fresh * fresh);
    d[i] = dn;
    d[d_step + i] = dn * hidden[i] * reset * (C(1) - reset);
    d[2 * d_step + i] = dh[i] * (before[i] - fresh) * update * (C(1) - update);
    d[3 * d_step + i] = dn * reset;
    dh[i] *= update;
  }
}
template <class C, class N> RETAPE_INLINE void plain_units_backward(N n, bool relu, const C* dh, const C* y, C* d) {
  if (relu) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) d[i] = y[i] > C(0) ? dh[i] : C(0);
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) d[i] = dh[i] * (C(1) - y[i] * y[i]);
  }
}

template <class C> struct Backward {
  Layer<C> layer;
  const C *dy, *dh_n, *dc_n, *gates, *cells, *extra, *y;
  C* dgates;
  int64_t dgates_row;
  C *dprojected, *dh0, *dc0;

  void run() const {
    const Layer<C>& l = layer;
    const RecurrentKind kind = l.kind;
    const int64_t count = gates_of(kind), R = l.outputs, H = l.units, plane = l.rows * H;
    const bool gru = kind == RecurrentKind::gru, lstm = kind == RecurrentKind::lstm, projects = l.w_hr != nullptr;
    const int64_t d_plane = l.rows * dgates_row, from_h = gru ? H : 0;  // where the gradients of the products with h begin
    const Packed<C> w(l.w_hh, count * H, R, 1, 1, R), project(l.w_hr, projects ? R : 0, H, 1, 1, projects ? H : 0);
    // `kept` is what reaches the output of the step before other than through the gates, dc the gradient of the cell.
    Scratch<C> kept_values(l.rows * R), dc_values(lstm ? plane : 0), zeros(lstm ? plane : 0), nothing_values(w.width + H);
    C *const kept = kept_values, *const dc = dc_values, *const nothing = nothing_values;
    zero_units(w.width + H, nothing);
    copy_or_zero(dh_n, l.rows, R, kept, R);
    if (lstm) copy_or_zero(dc_n, l.rows, H, dc, H);
    if (lstm) copy_or_zero(l.c0, l.rows, H, static_cast<C*>(zeros), H);
    const C* const c_start = zeros;

    // Of one row's units at step t: from dh, which a GRU overwrites, to the gates.
    const auto finish = [&](auto n, int64_t t, int64_t r, int64_t unit, C* dh) {
      const int64_t before = l.before(t);
      const C* const gate = gates ? gates + (t * l.rows + r) * count * H + unit : nullptr;
      C* const d = dgates + t * d_plane + r * dgates_row + unit;
      if (lstm) {
        const C* const c_before = before < 0 || before >= l.steps ? c_start : cells + before * plane;
        lstm_units_backward(n, dh, gate, H, cells + t * plane + r * H + unit, c_before + r * H + unit, dc + r * H + unit, d, H);
      } else if (gru) {
        const C* const h_before = !l.begins(t, r) ? y + before * plane + r * H + unit : l.h0 ? l.h0 + r * H + unit : nothing;
        gru_units_backward(n, dh, gate, H, extra + t * plane + r * H + unit, h_before, d, H);
      } else {
        plain_units_backward(n, kind == RecurrentKind::relu, dh, y + t * plane + r * H + unit, d);
      }
    };

    for (int64_t s = l.steps; s-- > 0;) {
      const int64_t t = l.reverse ? l.steps - 1 - s : s, after = l.reverse ? t - 1 : t + 1;
      const bool last = s == l.steps - 1;
      const auto combine = [&](int64_t begin, int64_t end, int64_t unit, int64_t n, const C* product) {
        alignas(64) C dh[Packed<C>::block];
        for (int64_t r = begin; r < end; ++r, product += last ? 0 : w.width) {
          C* const direct = kept + r * R + unit;
          const C* const own = dy ? dy + (t * l.rows + r) * R + unit : nothing;
          C* const to = projects ? dprojected + (t * l.rows + r) * R + unit : dh;
          if (!l.active(t, r)) {
            for (int64_t i = 0; i < n; ++i) direct[i] += product[i];
            if (projects) zero_units(n, to);
            else
              for (int64_t g = 0; g < (gru ? 4 : count); ++g) zero_units(n, dgates + t * d_plane + r * dgates_row + g * H + unit);
            continue;
          }
          for_units<C>(n, [&](auto many) {
#pragma omp simd
            for (int64_t i = 0; i < many; ++i) {
              to[i] = direct[i] + product[i] + own[i];
              direct[i] = 0;
            }
            if (projects) return;
            finish(many, t, r, unit, dh);
            if (gru) copy_units(static_cast<const C*>(dh), many, direct);
          });
        }
      };
      if (last) {
        for (int64_t unit = 0; unit < R; unit += w.block) combine(0, l.rows, unit, min_of(w.block, R - unit), nothing);
      } else {
        step<C>(dgates + after * d_plane + from_h, dgates_row, l.rows, w, combine);
      }
      if (projects)
        step<C>(dprojected + t * l.rows * R, R, l.rows, project,
                [&](int64_t begin, int64_t end, int64_t unit, int64_t n, const C* product) {
                  alignas(64) C dh[Packed<C>::block];
                  for (int64_t r = begin; r < end; ++r, product += project.width) {
                    if (!l.active(t, r)) {
                      for (int64_t g = 0; g < count; ++g) zero_units(n, dgates + t * d_plane + r * dgates_row + g * H + unit);
                      continue;
                    }
                    copy_units(product, n, dh);
                    for_units<C>(n, [&](auto many) { finish(many, t, r, unit, dh); });
                  }
                });
    }
    const int64_t first = l.reverse ? l.steps - 1 : 0;
    if (dh0)
      step<C>(dgates + first * d_plane + from_h, dgates_row, l.rows, w,
              [&](int64_t begin, int64_t end, int64_t unit, int64_t n, const C* product) {
                for (int64_t r = begin; r < end; ++r, product += w.width)
                  for (int64_t i = 0; i < n; ++i) dh0[r * R + unit + i] = kept[r * R + unit + i] + product[i];
              });
    if (dc0) copy_units(static_cast<const C*>(dc), plane, dc0);
  }
};

template <class F> RETAPE_INLINE void with_wide(const char* kernel, DType d, const F& f) {
  if (d == DType::f64) f(double{});
  else if (d == DType::f32) f(float{});
  else detail::unsupported_dtype(kernel, d);
}

}  // namespace

void recurrent(const RecurrentLayer& layer, Tensor& gates, Tensor& cells, Tensor& extra, Tensor& y, Tensor& h_n, Tensor& c_n) {
  with_wide("recurrent", y.dtype(), [&](auto zero) {
    using C = decltype(zero);
    const int64_t units = layer.w_hh.shape()[0] / gates_of(layer.kind);
    const Scratch<C> bias(layer.kind == RecurrentKind::gru ? units : 0);
    if (layer.kind == RecurrentKind::gru) copy_or_zero(pointer<C>(layer.b_hn), 1, units, static_cast<C*>(bias), units);
    const Forward<C> forward{Layer<C>(layer, y, units),
                             target<C>(gates),
                             target<C>(cells),
                             target<C>(extra),
                             target<C>(y),
                             target<C>(h_n),
                             target<C>(c_n),
                             bias};
    forward.run();
  });
}

void recurrent_backward(const RecurrentLayer& layer, const Tensor& dy, const Tensor& dh_n, const Tensor& dc_n, const Tensor& gates,
                        const Tensor& cells, const Tensor& extra, const Tensor& y, Tensor& dgates, Tensor& dprojected, Tensor& dh0,
                        Tensor& dc0) {
  with_wide("recurrent_backward", y.dtype(), [&](auto zero) {
    using C = decltype(zero);
    const int64_t units = layer.w_hh.shape()[0] / gates_of(layer.kind);
    const Backward<C> backward{Layer<C>(layer, y, units), pointer<C>(dy),    pointer<C>(dh_n), pointer<C>(dc_n),  pointer<C>(gates),
                               pointer<C>(cells),         pointer<C>(extra), pointer<C>(y),    target<C>(dgates), dgates.strides()[1],
                               target<C>(dprojected),     target<C>(dh0),    target<C>(dc0)};
    backward.run();
  });
}

}  // namespace retape::RETAPE_LEVEL
