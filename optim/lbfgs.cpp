#include <retape/optim/lbfgs.h>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include <retape/autograd/binary.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/sparse.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>
#include <retape/optim/entries.h>

namespace retape {
namespace {

constexpr double armijo = 1e-4, curvature = 0.9;

Tensor dot(const Tensor& a, const Tensor& b) { return sum(a * b); }
double largest(const Tensor& x) { return x.numel() ? amax(abs(x)).item() : 0; }

/// The least point in [low, high] of the cubic through two points with their slopes.
double cubic_minimum(double x1, double f1, double g1, double x2, double f2, double g2, double low, double high) {
  if (x1 > x2) std::swap(x1, x2), std::swap(f1, f2), std::swap(g1, g2);
  const double d1 = g1 + g2 - 3 * (f1 - f2) / (x1 - x2), square = d1 * d1 - g1 * g2;
  if (!(square >= 0)) return (low + high) / 2;
  const double d2 = std::sqrt(square);
  return std::min(std::max(x2 - (x2 - x1) * ((g2 + d2 - d1) / (g2 - g1 + 2 * d2)), low), high);
}

}  // namespace

void LBFGSOptions::check() const {
  detail::check_not_negative(optimizer, "lr", lr);
  detail::check_not_negative(optimizer, "tolerance_grad", tolerance_grad);
  detail::check_not_negative(optimizer, "tolerance_change", tolerance_change);
  if (max_iter < 1) throw Error(fmt::format("lbfgs: max_iter {} is not valid; it must be at least 1", max_iter));
  if (max_eval && *max_eval < 1) throw Error(fmt::format("lbfgs: max_eval {} is not valid; it must be at least 1", *max_eval));
  if (history_size < 1) throw Error(fmt::format("lbfgs: history_size {} is not valid; it must be at least 1", history_size));
}

LBFGS::LBFGS(const std::vector<Tensor>& params, const LBFGSOptions& options) : OptimizerWith(params, options), params_(params) {
  const Tensor& first = params.front();
  for (size_t i = 1; i < params.size(); ++i)
    if (params[i].dtype() != first.dtype() || !(params[i].device() == first.device()))
      throw Error(fmt::format("lbfgs: parameter {} is {} on {} and parameter 0 {} on {}; all must have one dtype and device", i,
                              detail::describe(params[i]), params[i].device().str(), detail::describe(first), first.device().str()));
}

void LBFGS::step(const Tensor&) {
  throw Error("lbfgs: step() needs a closure that computes the loss and its gradients; a GradScaler has none");
}

double LBFGS::call(const Closure& closure, Tensor* first) const {
  const Tensor loss = closure();
  if (!loss || loss.numel() != 1)
    throw Error(fmt::format("lbfgs: the closure returned {}; it must return the loss, one number",
                            loss ? detail::describe(loss) : "an undefined tensor"));
  if (first) *first = loss;
  return options().maximize ? -loss.item() : loss.item();
}
// Half types are computed in f32.
Tensor LBFGS::gather_grad() const {
  const NoGrad no_grad;
  std::vector<Tensor> parts;
  for (const Tensor& p : params_) {
    const auto rows = sparse_grad(p);
    const Tensor grad = rows ? to_dense(*rows) : p.grad() ? p.grad() : zeros_like(p.detach());
    parts.push_back(reshape(grad, {p.numel()}));
  }
  const Tensor all = cat(parts), wide = cast(all, all.dtype() == DType::f64 ? DType::f64 : DType::f32);
  return options().maximize ? -wide : wide;
}
// Elements go t times the direction.
void LBFGS::move(const Tensor& direction, double t) const {
  const NoGrad no_grad;
  int64_t at = 0;
  for (const Tensor& p : params_) {
    const Tensor part = reshape(narrow(direction, 0, at, p.numel()), p.shape());
    copy_into(cast(cast(p.detach(), direction.dtype()) + part * t, p.dtype()), p);
    at += p.numel();
  }
}

LBFGS::Point LBFGS::search(const Closure& closure, const Point& start, double t, const Tensor& direction, int64_t max_calls,
                           int64_t& calls) const {
  std::vector<Tensor> weights;
  for (const Tensor& p : params_) weights.push_back(clone(p.detach()));
  const auto at = [&](double far) {
    move(direction, far);
    Point point{.t = far, .loss = call(closure), .grad = gather_grad(), .slope = 0};
    const NoGrad no_grad;
    for (size_t i = 0; i < params_.size(); ++i) copy_into(weights[i], params_[i]);
    point.slope = dot(point.grad, direction).item();
    ++calls;
    return point;
  };
  const auto falls_enough = [&](const Point& p) { return p.loss <= start.loss + armijo * p.t * start.slope; };
  const auto is_flat = [&](const Point& p) { return std::abs(p.slope) <= -curvature * start.slope; };

  // Go on until the minimum lies between two points, or a point will do.
  Point before = start, now = at(t);
  int64_t round = 0;
  bool done = false;
  Point bracket[2];
  while (true) {
    if (round == max_calls) {
      bracket[0] = start, bracket[1] = now;
      break;
    }
    if (!falls_enough(now) || (round > 1 && now.loss >= before.loss) || (now.slope >= 0 && !is_flat(now))) {
      bracket[0] = before, bracket[1] = now;
      break;
    }
    if (is_flat(now)) {
      bracket[0] = bracket[1] = now;
      done = true;
      break;
    }
    const double next =
        cubic_minimum(before.t, before.loss, before.slope, now.t, now.loss, now.slope, now.t + 0.01 * (now.t - before.t), now.t * 10);
    before = now;
    now = at(next);
    ++round;
  }

  // Make the bracket smaller.
  const double size = largest(direction);
  bool little_progress = false;
  int low = bracket[1].loss < bracket[0].loss ? 1 : 0;  // not one that is nan
  while (!done && round < max_calls) {
    const double left = std::min(bracket[0].t, bracket[1].t), right = std::max(bracket[0].t, bracket[1].t);
    if ((right - left) * size < options().tolerance_change) break;
    double next =
        cubic_minimum(bracket[0].t, bracket[0].loss, bracket[0].slope, bracket[1].t, bracket[1].loss, bracket[1].slope, left, right);
    // Twice close to an end, or at it: a tenth away from that end instead.
    const double margin = 0.1 * (right - left);
    if (std::min(right - next, next - left) < margin) {
      if (little_progress || next >= right || next <= left) {
        next = std::abs(next - right) < std::abs(next - left) ? right - margin : left + margin;
        little_progress = false;
      } else {
        little_progress = true;
      }
    } else {
      little_progress = false;
    }
    const Point point = at(next);
    ++round;
    const int high = 1 - low;
    if (!falls_enough(point) || point.loss >= bracket[low].loss) {
      bracket[high] = point;
      low = bracket[1].loss < bracket[0].loss ? 1 : 0;
    } else {
      if (is_flat(point)) done = true;
      else if (point.slope * (bracket[high].t - bracket[low].t) >= 0) bracket[high] = bracket[low];
      bracket[low] = point;
    }
  }
  return bracket[low];
}

Tensor LBFGS::step(const Closure& closure) {
  if (!closure) throw Error("lbfgs: the closure is empty");
  const LBFGSOptions o = options();
  o.check();
  const int64_t max_eval = o.max_eval.value_or(o.max_iter * 5 / 4);
  Memory& m = memory_;

  Tensor first_loss;
  Point now{.t = 0, .loss = call(closure, &first_loss), .grad = gather_grad(), .slope = 0};
  int64_t evals = 1;
  ++m.func_evals;
  const auto is_optimal = [&] { return largest(now.grad) <= o.tolerance_grad; };
  if (is_optimal()) return first_loss;

  for (int64_t iteration = 1; iteration <= o.max_iter; ++iteration) {
    ++m.n_iter;
    if (!m.d) {
      m.d = -now.grad;
    } else {
      const Tensor y = now.grad - m.prev_flat_grad, s = m.d * m.t, ys = dot(y, s);
      if (const double product = ys.item(); product > 1e-10) {
        if (int64_t(m.old_dirs.size()) >= o.history_size)
          for (auto* list : {&m.old_dirs, &m.old_stps, &m.ro}) list->erase(list->begin());
        m.old_dirs.push_back(y), m.old_stps.push_back(s), m.ro.push_back(1 / ys);
        m.h_diag = product / dot(y, y).item();
      }
      // The inverse Hessian times the gradient, in two passes over what is remembered.
      const int64_t n = int64_t(m.old_dirs.size());
      std::vector<Tensor> alpha(static_cast<size_t>(n));
      Tensor q = -now.grad;
      for (size_t i = size_t(n); i-- > 0;) {
        alpha[i] = dot(m.old_stps[i], q) * m.ro[i];
        q = q - m.old_dirs[i] * alpha[i];
      }
      q = q * m.h_diag;
      for (size_t i = 0; i < size_t(n); ++i) q = q + m.old_stps[i] * (alpha[i] - dot(m.old_dirs[i], q) * m.ro[i]);
      m.d = q;
    }
    m.prev_flat_grad = now.grad;
    m.prev_loss = now.loss;

    m.t = m.n_iter == 1 ? std::min(1.0, 1 / sum(abs(now.grad)).item()) * o.lr : o.lr;
    now.slope = dot(now.grad, m.d).item();
    if (now.slope > -o.tolerance_change) break;

    int64_t calls = 0;
    if (o.line_search_fn == LineSearch::strong_wolfe) {
      now.t = 0;
      now = search(closure, now, m.t, m.d, max_eval - evals, calls);
      m.t = now.t;
      move(m.d, m.t);
    } else {
      move(m.d, m.t);
      if (iteration != o.max_iter) {
        now.loss = call(closure);
        now.grad = gather_grad();
        calls = 1;
      }
    }
    evals += calls;
    m.func_evals += calls;
    if (iteration == o.max_iter || evals >= max_eval || is_optimal()) break;
    if (largest(m.d) * std::abs(m.t) <= o.tolerance_change || std::abs(now.loss - m.prev_loss) < o.tolerance_change) break;
  }
  return first_loss;
}

NamedTensors LBFGS::state_dict() const {
  NamedTensors out = Optimizer::state_dict();
  const Memory& m = memory_;
  out.emplace_back("0.func_evals", detail::count_entry(m.func_evals));
  out.emplace_back("0.n_iter", detail::count_entry(m.n_iter));
  if (!m.d) return out;
  const NoGrad no_grad;
  const auto list = [&](const char* name, const std::vector<Tensor>& of, const Shape& none) {
    out.emplace_back(name, of.empty() ? zeros(none, m.d.options()) : stack(of));
  };
  out.emplace_back("0.d", m.d);
  out.emplace_back("0.t", detail::number_entry(m.t));
  list("0.old_dirs", m.old_dirs, {0, m.d.numel()});
  list("0.old_stps", m.old_stps, {0, m.d.numel()});
  list("0.ro", m.ro, {0});
  out.emplace_back("0.H_diag", detail::number_entry(m.h_diag));
  out.emplace_back("0.prev_flat_grad", m.prev_flat_grad);
  out.emplace_back("0.prev_loss", detail::number_entry(m.prev_loss));
  return out;
}

void LBFGS::load_state_dict(const NamedTensors& state) {
  const NoGrad no_grad;
  NamedTensors mine, theirs;
  for (auto& entry : state) (entry.first.starts_with("0.") ? mine : theirs).push_back(entry);
  detail::Entries entries("lbfgs", mine);
  Memory m;
  m.func_evals = entries.count("0.func_evals"), m.n_iter = entries.count("0.n_iter");
  const Tensor like = gather_grad();
  const auto vector = [&](const char* name, const Tensor& value) {
    if (!(value.shape() == like.shape()) || value.dtype() != like.dtype())
      entries.fail(fmt::format("{} is {}; these parameters need {}", name, detail::describe(value), detail::describe(like)));
    return clone(to(value.detach(), like.device()));
  };
  if (const Tensor d = entries.take("0.d")) {
    m.d = vector("0.d", d);
    m.prev_flat_grad = vector("0.prev_flat_grad", entries.require("0.prev_flat_grad"));
    m.t = entries.number("0.t"), m.h_diag = entries.number("0.H_diag"), m.prev_loss = entries.number("0.prev_loss");
    const Tensor ro = entries.require("0.ro");
    if (ro.dim() != 1 || ro.dtype() != like.dtype())
      entries.fail(fmt::format("0.ro is {}; it must be {} numbers in one dim", detail::describe(ro), name_of(like.dtype())));
    const int64_t n = ro.numel();
    const auto list = [&](const char* name) {
      const Tensor value = entries.require(name);
      if (!(value.shape() == Shape{n, like.numel()}) || value.dtype() != like.dtype())
        entries.fail(
            fmt::format("{} is {}; it must be {} {}", name, detail::describe(value), name_of(like.dtype()), Shape{n, like.numel()}.str()));
      return unbind(clone(to(value.detach(), like.device())));
    };
    m.old_dirs = list("0.old_dirs"), m.old_stps = list("0.old_stps");
    m.ro = unbind(clone(to(ro.detach(), like.device())));
  }
  entries.check_empty();
  OptimizerWith::load_state_dict(theirs);
  memory_ = std::move(m);
}

}  // namespace retape
