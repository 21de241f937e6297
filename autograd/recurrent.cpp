#include <retape/autograd/recurrent.h>

#include <fmt/format.h>

#include <retape/autograd/binary.h>
#include <retape/autograd/check.h>
#include <retape/autograd/index.h>
#include <retape/autograd/matmul.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>

namespace retape {
namespace {

int64_t gates_of(RecurrentKind kind) { return kind == RecurrentKind::lstm ? 4 : kind == RecurrentKind::gru ? 3 : 1; }

// The CPU computes half types in f32.
DType computed_as(const Tensor& x) { return x.device().is_cuda() || x.dtype() == DType::f64 ? x.dtype() : DType::f32; }
Tensor ready(const Tensor& x, DType dtype) { return x ? contiguous(cast(x, dtype)) : x; }
Tensor as_rows(const Tensor& x) { return reshape(x, {x.shape()[0] * x.shape()[1], x.shape()[2]}); }

// c = a b, or c += a b
void multiply_into(const Tensor& a, const Tensor& b, const Tensor& bias, bool accumulate, Tensor c) {
  RETAPE_DISPATCH(detail::cpu_for_meta(a.device()), matmul(a, b, bias, accumulate, c));
}
Tensor product(const Tensor& a, const Tensor& b) {
  Tensor c = empty({a.shape()[0], b.shape()[1]}, a.options());
  multiply_into(a, b, {}, false, c);
  return c;
}
Tensor column_sums(const Tensor& x) {  // (rows, n) to (n)
  return sum(x, {0});
}
// The rows of gates r, z, n, exchanged to n, r, z, and back.
Tensor fresh_first(const Tensor& x, int64_t units) { return cat({narrow(x, 0, 2 * units, units), narrow(x, 0, 0, 2 * units)}); }
Tensor fresh_last(const Tensor& x, int64_t units) { return cat({narrow(x, 0, units, 2 * units), narrow(x, 0, 0, units)}); }

// ---- the gradient, as a kernel and step by step ----

// Gives those of x, w_ih, w_hh, b_ih, b_hh, w_hr, h_0, c_0. gates, cells and extra are the kernel's own.
struct RecurrentBackward {
  static constexpr auto name = "recurrent_backward";
  static constexpr bool expensive = true;
  RecurrentKind kind;
  bool reverse;
  bool wants[8] = {};

  std::vector<Tensor> forward(const Tensor& dy, const Tensor& dh_n, const Tensor& dc_n, const Tensor& x, const Tensor& w_ih,
                              const Tensor& w_hh, const Tensor&, const Tensor&, const Tensor& w_hr, const Tensor& h_0, const Tensor& c_0,
                              const Tensor& lengths, const Tensor& y, const Tensor& gates, const Tensor& cells, const Tensor& extra) {
    const DType dtype = computed_as(x);
    const Options options{dtype, x.device()};
    const int64_t T = x.shape()[0], B = x.shape()[1], H = w_hh.shape()[0] / gates_of(kind), R = w_hh.shape()[1];
    const bool gru = kind == RecurrentKind::gru, lstm = kind == RecurrentKind::lstm;
    const Tensor weight = ready(w_hh, dtype), out = ready(y, dtype);
    const RecurrentLayer layer{kind,   reverse, weight, {}, ready(w_hr, dtype), ready(h_0, dtype), c_0 ? ready(c_0, cells.dtype()) : c_0,
                               lengths};
    // Rows a multiple of 4 KiB apart would all fall into the same few places of the cache.
    const int64_t columns = gru ? 4 * H : weight.shape()[0], row = columns % 128 ? columns : columns + 16;
    Tensor dgates = narrow(empty({T, B, row}, options), 2, 0, columns);
    Tensor dprojected = w_hr ? empty({T, B, R}, options) : Tensor{};
    Tensor dh_0 = wants[6] ? empty({B, R}, options) : Tensor{}, dc_0 = wants[7] ? empty({B, H}, cells.options()) : Tensor{};
    if (B > 0)
      RETAPE_DISPATCH(x.device(), recurrent_backward(layer, ready(dy, dtype), ready(dh_n, dtype), dc_n ? ready(dc_n, cells.dtype()) : dc_n,
                                                     gates, cells, extra, out, dgates, dprojected, dh_0, dc_0));
    const Tensor rows = as_rows(dgates), of_x = narrow(rows, 1, 0, gates_of(kind) * H), of_h = gru ? narrow(rows, 1, H, 3 * H) : rows;

    std::vector<Tensor> d(8);
    if (wants[0]) {
      const Tensor w = ready(w_ih, dtype);
      d[0] = reshape(product(of_x, gru ? fresh_first(w, H) : w), x.shape());
    }
    if (wants[1]) {
      const Tensor dw = product(transpose(of_x), as_rows(ready(x, dtype)));
      d[1] = gru ? fresh_last(dw, H) : dw;
    }
    if (wants[2]) {
      // y before each step; where a sequence begins it is h_0, which y does not have.
      const int64_t from = reverse ? 1 : 0, to = reverse ? 0 : 1;
      d[2] = product(transpose(narrow(of_h, 0, to * B, (T - 1) * B)), narrow(as_rows(out), 0, from * B, (T - 1) * B));
      if (h_0) multiply_into(transpose(of_first_steps(reshape(of_h, {T, B, of_h.shape()[1]}), lengths)), layer.h0, {}, true, d[2]);
    }
    if (wants[3] || wants[4]) {
      const Tensor sums = column_sums(rows);
      if (wants[3]) d[3] = gru ? fresh_last(narrow(sums, 0, 0, 3 * H), H) : sums;
      if (wants[4]) d[4] = gru ? narrow(sums, 0, H, 3 * H) : sums;
    }
    if (wants[5]) d[5] = product(transpose(as_rows(dprojected)), as_rows(extra));
    if (wants[6]) d[6] = dh_0;
    if (wants[7] && lstm) d[7] = dc_0;
    for (Tensor& t : d)
      if (t) t = cast(t, x.dtype());
    return d;
  }
  // (T, B, n) to (B, n): the step that each sequence begins with.
  Tensor of_first_steps(const Tensor& all, const Tensor& lengths) const {
    const int64_t T = all.shape()[0], B = all.shape()[1], n = all.shape()[2];
    if (!reverse) return contiguous(select(all, 0, 0));
    if (!lengths) return contiguous(select(all, 0, T - 1));
    const Tensor last = clamp(lengths, 1, T) - 1;
    return contiguous(select(gather(all, 0, expand(reshape(last, {1, B, 1}), {1, B, n})), 0, 0));
  }

  std::vector<Tensor> composite(const Tensor& dy, const Tensor& dh_n, const Tensor& dc_n, const Tensor& x, const Tensor& w_ih,
                                const Tensor& w_hh, const Tensor& b_ih, const Tensor& b_hh, const Tensor& w_hr, const Tensor& h_0,
                                const Tensor& c_0, const Tensor& lengths, const Tensor&, const Tensor&, const Tensor&, const Tensor&) {
    struct Step {  // what it was made from, and what it made
      Tensor x, active, h_before, c_before, hidden = {}, c = {}, unprojected = {};
      std::vector<Tensor> gates = {};
    };
    const int64_t T = x.shape()[0], B = x.shape()[1], H = w_hh.shape()[0] / gates_of(kind), R = w_hh.shape()[1];
    const auto or_zeros = [&](const Tensor& t, int64_t n) { return t ? t : zeros({B, n}, x.options()); };
    // a where the sequence goes on, else b
    const auto either = [](const Step& s, const Tensor& a, const Operand& b) { return s.active ? where(s.active, a, b) : a; };
    std::vector<Step> steps;
    Tensor h = or_zeros(h_0, R), c = or_zeros(c_0, H);
    for (int64_t i = 0; i < T; ++i) {
      const int64_t t = reverse ? T - 1 - i : i;
      Step s{.x = select(x, 0, t), .active = lengths ? unsqueeze(gt(lengths, t), 1) : Tensor{}, .h_before = h, .c_before = c};
      const Tensor from_x = linear(s.x, w_ih, b_ih), from_h = linear(h, w_hh, b_hh);
      Tensor made;
      if (kind == RecurrentKind::lstm) {
        const auto a = chunk(from_x + from_h, 4, 1);
        s.gates = {sigmoid(a[0]), sigmoid(a[1]), tanh(a[2]), sigmoid(a[3])};
        s.c = s.gates[1] * c + s.gates[0] * s.gates[2];
        s.unprojected = s.gates[3] * tanh(s.c);
        made = w_hr ? linear(s.unprojected, w_hr) : s.unprojected;
        c = either(s, s.c, c);
      } else if (kind == RecurrentKind::gru) {
        const auto a = chunk(from_x, 3, 1), b = chunk(from_h, 3, 1);
        s.hidden = b[2];
        s.gates = {sigmoid(a[0] + b[0]), sigmoid(a[1] + b[1])};
        s.gates.push_back(tanh(a[2] + s.gates[0] * s.hidden));
        made = s.gates[2] + s.gates[1] * (h - s.gates[2]);
      } else {
        made = kind == RecurrentKind::relu ? relu(from_x + from_h) : tanh(from_x + from_h);
        s.gates = {made};
      }
      h = either(s, made, h);
      steps.push_back(s);
    }

    std::vector<Tensor> d(8), dx(static_cast<size_t>(T));
    const auto add_to = [](Tensor& to, const Tensor& v) { to = to ? to + v : v; };
    Tensor dh = or_zeros(dh_n, R), dc = or_zeros(dc_n, H);
    for (int64_t i = T; i-- > 0;) {
      const int64_t t = reverse ? T - 1 - i : i;
      const Step& s = steps[size_t(i)];
      Tensor total = dy ? dh + select(dy, 0, t) : dh, of_x, of_h, direct = zeros({B, R}, x.options());
      if (w_hr) {
        total = either(s, total, 0);
        add_to(d[5], matmul(transpose(total), s.unprojected));
        total = matmul(total, w_hr);
      }
      if (kind == RecurrentKind::lstm) {
        const Tensor &in = s.gates[0], &forget = s.gates[1], &cell = s.gates[2], &out = s.gates[3], bent = tanh(s.c);
        const Tensor dcell = dc + total * out * (1 - bent * bent);
        of_x = of_h = cat({dcell * cell * in * (1 - in), dcell * s.c_before * forget * (1 - forget), dcell * in * (1 - cell * cell),
                           total * bent * out * (1 - out)},
                          1);
        dc = either(s, dcell * forget, dc);
      } else if (kind == RecurrentKind::gru) {
        const Tensor &reset = s.gates[0], &update = s.gates[1], &fresh = s.gates[2];
        const Tensor dn = total * (1 - update) * (1 - fresh * fresh), dr = dn * s.hidden * reset * (1 - reset),
                     dz = total * (s.h_before - fresh) * update * (1 - update);
        of_x = cat({dr, dz, dn}, 1), of_h = cat({dr, dz, dn * reset}, 1), direct = total * update;
      } else {
        of_x = of_h = kind == RecurrentKind::relu ? where(gt(s.gates[0], 0), total, 0.) : total * (1 - s.gates[0] * s.gates[0]);
      }
      of_x = either(s, of_x, 0), of_h = either(s, of_h, 0);
      dh = either(s, direct + matmul(of_h, w_hh), dh);
      dx[size_t(t)] = matmul(of_x, w_ih);
      add_to(d[1], matmul(transpose(of_x), s.x));
      add_to(d[2], matmul(transpose(of_h), s.h_before));
      add_to(d[3], sum(of_x, {0}));
      add_to(d[4], sum(of_h, {0}));
    }
    d[0] = stack(dx), d[6] = dh, d[7] = dc;
    for (size_t i = 0; i < 8; ++i)
      if (!wants[i]) d[i] = Tensor{};
    return d;
  }
};

struct Recurrent {
  const char* name;
  static constexpr bool expensive = true;
  static constexpr auto precision = Precision::low;
  RecurrentKind kind;
  bool reverse;
  Saved in[9] = {}, y = {}, gates = {}, cells = {}, extra = {};

  std::vector<Tensor> forward(const Tensor& x, const Tensor& w_ih, const Tensor& w_hh, const Tensor& b_ih, const Tensor& b_hh,
                              const Tensor& w_hr, const Tensor& h_0, const Tensor& c_0, const Tensor& lengths) {
    const DType dtype = computed_as(x), state = dtype == DType::f64 ? DType::f64 : DType::f32;
    const Options options{dtype, x.device()}, of_cells{state, x.device()};
    const int64_t T = x.shape()[0], B = x.shape()[1], H = w_hh.shape()[0] / gates_of(kind), R = w_hh.shape()[1];
    const bool gru = kind == RecurrentKind::gru, lstm = kind == RecurrentKind::lstm;
    const Tensor bias_x = ready(b_ih, dtype), bias_h = ready(b_hh, dtype);
    // One bias for both products, but for that of a GRU's n, which r scales.
    const Tensor both = !bias_x ? bias_x
                        : gru   ? cat({narrow(bias_x, 0, 0, 2 * H) + narrow(bias_h, 0, 0, 2 * H), narrow(bias_x, 0, 2 * H, H)})
                                : bias_x + bias_h;
    const RecurrentLayer layer{kind,
                               reverse,
                               ready(w_hh, dtype),
                               gru && bias_h ? contiguous(narrow(bias_h, 0, 2 * H, H)) : Tensor{},
                               ready(w_hr, dtype),
                               ready(h_0, dtype),
                               ready(c_0, state),
                               lengths};
    Tensor gate = empty({T, B, w_hh.shape()[0]}, options), out = lstm || gru ? empty({T, B, R}, options) : gate,
           h_n = empty({B, R}, options), cell = lstm ? empty({T, B, H}, of_cells) : Tensor{},
           c_n = lstm ? empty({B, H}, of_cells) : Tensor{}, more = gru || w_hr ? empty({T, B, H}, options) : Tensor{};
    multiply_into(as_rows(ready(x, dtype)), transpose(ready(w_ih, dtype)), both, false, as_rows(gate));
    if (B > 0) RETAPE_DISPATCH(x.device(), recurrent(layer, gate, cell, more, out, h_n, c_n));
    out = cast(out, x.dtype());
    const Tensor* const inputs[] = {&x, &w_ih, &w_hh, &b_ih, &b_hh, &w_hr, &h_0, &c_0, &lengths};
    for (int i = 0; i < 9; ++i)
      if (*inputs[i]) in[i] = save(*inputs[i]);
    y = save(out);
    if (lstm || gru) gates = save(gate);
    if (cell) cells = save(cell);
    if (more) extra = save(more);
    return {out, cast(h_n, x.dtype()), c_n ? cast(c_n, x.dtype()) : c_n};
  }
  void backward(const std::vector<Tensor>& dy, Grads& dx) {
    const auto read = [](Saved s) { return s ? *s : Tensor{}; };
    RecurrentBackward op{kind, reverse};
    for (int i = 0; i < 8; ++i) op.wants[i] = dx.wants(i);
    const auto d = record(op, dy[0], dy[1], dy[2], *in[0], *in[1], *in[2], read(in[3]), read(in[4]), read(in[5]), read(in[6]), read(in[7]),
                          read(in[8]), read(y), read(gates), read(cells), read(extra));
    for (int i = 0; i < 8; ++i)
      if (dx.wants(i)) dx.set(i, d[size_t(i)]);
  }
};

// ---- what fits ----

const char* name_of_kind(RecurrentKind kind) { return kind == RecurrentKind::lstm ? "lstm" : kind == RecurrentKind::gru ? "gru" : "rnn"; }
void check_shape(const char* name, const char* what, const Tensor& t, const Shape& wanted) {
  if (t && !(t.shape() == wanted))
    throw Error(fmt::format("{}: {} is {}, but its shape must be {}", name, what, t.shape().str(), wanted.str()));
}

}  // namespace

RecurrentResult recurrent_layer(RecurrentKind kind, const Tensor& x, const RecurrentWeights& w, const Tensor& h_0, const Tensor& c_0,
                                const Tensor& lengths, bool reverse) {
  const char* const name = name_of_kind(kind);
  check_defined(name, x), check_defined(name, w.w_ih), check_defined(name, w.w_hh);
  if (autocasting())
    return under_autocast(
        Recurrent::precision,
        [&](const Tensor& in, const Tensor& w_ih, const Tensor& w_hh, const Tensor& b_ih, const Tensor& b_hh, const Tensor& w_hr,
            const Tensor& h, const Tensor& c) {
          return recurrent_layer(kind, in, {w_ih, w_hh, b_ih, b_hh, w_hr}, h, c, lengths, reverse);
        },
        x, w.w_ih, w.w_hh, w.b_ih, w.b_hh, w.w_hr, h_0, c_0);
  check_one_device(name, x, w.w_ih, w.w_hh, w.b_ih, w.b_hh, w.w_hr, h_0, c_0, lengths);
  const int64_t gates = gates_of(kind);
  if (x.dim() != 3 || w.w_ih.dim() != 2 || w.w_hh.dim() != 2 || x.shape()[2] != w.w_ih.shape()[1])
    throw Error(fmt::format("{}: x {} does not fit weight_ih {} and weight_hh {}: they must be (T, B, I), ({} H, I) and ({} H, R)", name,
                            x.shape().str(), w.w_ih.shape().str(), w.w_hh.shape().str(), gates, gates));
  const int64_t T = x.shape()[0], B = x.shape()[1], H = w.w_hh.shape()[0] / gates, R = w.w_hh.shape()[1];
  if (T == 0) throw Error(fmt::format("{}: x {} has no steps; there must be at least one", name, x.shape().str()));
  if (H == 0 || R == 0 || w.w_hh.shape()[0] != gates * H)
    throw Error(
        fmt::format("{}: weight_hh is {}; both sizes must be above 0, and the first a multiple of {}", name, w.w_hh.shape().str(), gates));
  check_shape(name, "weight_ih", w.w_ih, {gates * H, w.w_ih.shape()[1]});
  check_shape(name, "bias_ih", w.b_ih, {gates * H});
  check_shape(name, "bias_hh", w.b_hh, {gates * H});
  if (bool(w.b_ih) != bool(w.b_hh)) throw Error(fmt::format("{}: one of bias_ih and bias_hh is undefined; give both or neither", name));
  if (w.w_hr && kind != RecurrentKind::lstm) throw Error(fmt::format("{}: got weight_hr; only an LSTM has a projection", name));
  if (c_0 && kind != RecurrentKind::lstm) throw Error(fmt::format("{}: got c_0; only an LSTM has cells", name));
  check_shape(name, "weight_hr", w.w_hr, {R, H});
  if (!w.w_hr) check_shape(name, "weight_hh", w.w_hh, {gates * H, H});
  check_shape(name, "h_0", h_0, {B, R});
  check_shape(name, "c_0", c_0, {B, H});
  check_shape(name, "lengths", lengths, {B});
  if (lengths && lengths.dtype() != DType::i64)
    throw Error(fmt::format("{}: lengths are {}; they must be i64", name, retape::name_of(lengths.dtype())));
  if (lengths && lengths.device().is_cpu()) {
    const auto values = lengths.to_vector<int64_t>();
    for (size_t b = 0; b < values.size(); ++b)
      if (values[b] < 1 || values[b] > T)
        throw Error(
            fmt::format("{}: sequence {} has length {}; lengths must lie in [1, {}], the number of steps of x", name, b, values[b], T));
  }
  DType dtype = x.dtype();
  for (const Tensor* t : {&x, &w.w_ih, &w.w_hh, &w.b_ih, &w.b_hh, &w.w_hr, &h_0, &c_0}) {
    if (!*t) continue;
    if (!is_floating(t->dtype()))
      throw Error(fmt::format("{}: an input is {}; all but lengths must be floating, use cast()", name, retape::name_of(t->dtype())));
    dtype = promote(dtype, t->dtype());
  }
  const auto as = [&](const Tensor& t) { return t ? cast(t, dtype) : t; };
  const auto out = record(Recurrent{name, kind, reverse}, as(x), as(w.w_ih), as(w.w_hh), as(w.b_ih), as(w.b_hh), as(w.w_hr), as(h_0),
                          as(c_0), lengths ? contiguous(lengths) : lengths);
  return {out[0], out[1], out[2]};
}

}  // namespace retape
