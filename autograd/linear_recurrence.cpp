#include <retape/autograd/linear_recurrence.h>

#include <retape/autograd/binary.h>
#include <retape/autograd/normalized.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>

namespace retape {
namespace {

Tensor conjugate(const Tensor& x, bool complex) {
  if (!complex) return x;
  return cat({narrow(x, -1, 0, 1), -narrow(x, -1, 1, 1)}, -1);
}
Tensor product(const Tensor& x, const Tensor& y, bool complex) {
  if (!complex) return x * y;
  const Tensor a = select(x, -1, 0), b = select(x, -1, 1), c = select(y, -1, 0), d = select(y, -1, 1);
  return stack({a * c - b * d, a * d + b * c}, -1);
}

struct How {
  bool reverse, complex;
};

Tensor states(const How& how, const Tensor& a, const Tensor& b, const Tensor& initial);

struct LinearRecurrenceBackward {
  static constexpr auto name = "linear_recurrence_backward";
  How how;
  bool want_initial;
  std::array<Tensor, 3> forward(const Tensor& dh, const Tensor& a, const Tensor& h, const Tensor& initial) {
    const bool constant = a.dim() < h.dim();
    const Options state = statistics_of(h);
    Tensor da = empty(a.shape(), constant ? state : a.options()), db = empty(h.shape(), h.options());
    Tensor dinitial;
    if (want_initial) dinitial = empty(initial.shape(), state);
    if (h.numel() == 0) return {zeros(a.shape(), da.options()), db, want_initial ? zeros(initial.shape(), state) : dinitial};
    const Tensor d = contiguous(dh), factor = contiguous(a), out = contiguous(h), before = initial ? contiguous(initial) : initial;
    RETAPE_DISPATCH(h.device(), linear_recurrence_backward(d, factor, out, before, how.reverse, how.complex, da, db, dinitial));
    return {da, db, dinitial};
  }
  std::array<Tensor, 3> composite(const Tensor& dh, const Tensor& a, const Tensor& h, const Tensor& initial) {
    const int64_t T = h.shape()[1], first = how.reverse ? T - 1 : 0;
    const Options state = statistics_of(h);
    if (h.numel() == 0) return {0. * a, 0. * dh, want_initial ? 0. * initial : Tensor{}};
    const bool constant = a.dim() < h.dim();
    // The gradients of the states are a recurrence in the other direction, with the factors of the steps that come after each.
    const Tensor factor = expand(conjugate(a, how.complex), h.shape()), edge = zeros_like(narrow(h, 1, 0, 1));
    const auto shifted = [&](const Tensor& x, const Tensor& end, bool later) {
      return later ? cat({narrow(x, 1, 1, T - 1), end}, 1) : cat({end, narrow(x, 1, 0, T - 1)}, 1);
    };
    const Tensor db = states({!how.reverse, how.complex}, shifted(factor, edge, !how.reverse), dh, {});
    const Tensor start = initial ? cast(unsqueeze(initial, 1), h.dtype()) : edge;
    const Tensor da = product(db, conjugate(shifted(h, start, how.reverse), how.complex), how.complex);
    return {constant ? sum(cast(da, state.dtype), {0, 1}) : da, db,
            want_initial ? cast(product(select(db, 1, first), select(factor, 1, first), how.complex), state.dtype) : Tensor{}};
  }
};
struct LinearRecurrence {
  static constexpr auto name = "linear_recurrence";
  static constexpr auto precision = Precision::full;
  How how;
  Saved a = {}, h = {}, initial = {};
  Tensor forward(const Tensor& factor, const Tensor& b, const Tensor& start) {
    Tensor out = empty(b.shape(), b.options());
    const Tensor x = contiguous(factor), y = contiguous(b), before = start ? contiguous(start) : start;
    if (b.numel() > 0) RETAPE_DISPATCH(b.device(), linear_recurrence(x, y, before, how.reverse, how.complex, out));
    a = save(factor), h = save(out), initial = save(start);
    return out;
  }
  void backward(const Tensor& dh, Grads& dx) {
    const auto d = record(LinearRecurrenceBackward{how, dx.wants(2)}, dh, *a, *h, *initial);
    dx.set(0, d[0]), dx.set(1, d[1]);
    if (dx.wants(2)) dx.set(2, d[2]);
  }
};
Tensor states(const How& how, const Tensor& a, const Tensor& b, const Tensor& initial) {
  return record(LinearRecurrence{how}, a, b, initial);
}

constexpr auto op = "linear_recurrence";
void check_floating(const char* what, const Tensor& t) {
  if (t && !is_floating(t.dtype()))
    throw Error(fmt::format("{}: {} has dtype {}; it must be floating, use cast()", op, what, name_of(t.dtype())));
}
// a as it is for one step, if it is the same for all, else as it is for each.
Tensor factors(const Tensor& a, const Shape& shape, int channel_dims) {
  bool fits = a.dim() <= shape.rank(), constant = true;
  for (int d = 1; fits && d <= a.dim(); ++d) {
    const bool pair = channel_dims == 2 && d == 1;  // a number alone is no complex one
    fits = a.shape()[-d] == shape[-d] || (a.shape()[-d] == 1 && !pair);
    if (d > channel_dims) constant = constant && a.shape()[-d] == 1;
  }
  if (!fits || (channel_dims == 2 && a.dim() == 0))
    throw Error(fmt::format("{}: a {} does not broadcast to b {}; it must have b's shape, or that of a step, {}", op, a.shape().str(),
                            shape.str(), channel_dims == 2 ? "(C, 2)" : "(C)"));
  if (!constant) return expand(a, shape);
  Tensor step = a;
  while (step.dim() > channel_dims) step = squeeze(step, 0);
  return expand(step, channel_dims == 2 ? Shape{shape[2], 2} : Shape{shape[2]});
}

}  // namespace

Tensor linear_recurrence(const Tensor& a, const Tensor& b, const LinearRecurrenceOptions& o) {
  check_defined(op, a), check_defined(op, b);
  if (autocasting())
    return under_autocast(
        LinearRecurrence::precision,
        [&](const Tensor& x, const Tensor& y, const Tensor& h) {
          return linear_recurrence(x, y, {.initial = h, .reverse = o.reverse, .complex = o.complex});
        },
        a, b, o.initial);
  check_one_device(op, b, a, o.initial);
  check_floating("a", a), check_floating("b", b), check_floating("initial", o.initial);
  const Shape& s = b.shape();
  if (b.dim() != (o.complex ? 4 : 3) || (o.complex && s[3] != 2))
    throw Error(
        fmt::format("{}: b is {}; its shape must be {}", op, s.str(), o.complex ? "(B, T, C, 2) for complex numbers" : "(B, T, C)"));
  Shape start{s[0], s[2]};
  if (o.complex) start.push_back(2);
  if (o.initial && !(o.initial.shape() == start))
    throw Error(fmt::format("{}: initial is {}, but b {} asks for {}", op, o.initial.shape().str(), s.str(), start.str()));
  const DType dtype = promote(a.dtype(), b.dtype());
  const Tensor y = cast(b, dtype);
  return states({o.reverse, o.complex}, factors(cast(a, dtype), s, o.complex ? 2 : 1), y,
                o.initial ? cast(o.initial, statistics_of(y).dtype) : o.initial);
}

Tensor recurrence_radius(const Tensor& a, bool complex) {
  constexpr auto name = "recurrence_radius";
  check_defined(name, a);
  if (!is_floating(a.dtype())) throw Error(fmt::format("{}: a has dtype {}; it must be floating", name, name_of(a.dtype())));
  if (complex && (a.dim() == 0 || a.shape()[-1] != 2))
    throw Error(fmt::format("{}: a is {}; complex numbers have a last dim of size 2", name, a.shape().str()));
  const NoGrad off;
  if (a.numel() == 0) return zeros({}, a.options());
  const Tensor size = complex ? hypot(select(a, -1, 0), select(a, -1, 1)) : abs(a);
  return amax(size);
}

}  // namespace retape
