// More update rules of optimizers, one struct each, shared by all devices: what a step does to one element. Those that most training uses,
// AdamW, SGD and Adagrad, have kernels of their own (core/optimizer_ops.h). A rule has
//
//   states, scalars   how many tensors like the parameter it keeps, and how many numbers; in a slot's `state` the numbers come last
//   a constructor     folds what is the same for all elements of a parameter, in double; T is the type that the update is computed in
//   operator()        changes value and states of one element; a state that is not kept is 0 at each call, and forgotten
//   advance           if it has scalars that change: what becomes of them after the step
//
// `grad` below is the gradient with its sign and coupled decay; m and v are running means of it and of its square.
#pragma once
#include <retape/core/kernel_args.h>
#include <retape/core/simd_math.h>

namespace retape::functor {

/// The parameter that a rule is made for: its step, counted from 1, its number of elements, and the scalars before the step.
struct Updated {
  int64_t step, n;
  double scalar[2];
};

template <class T> struct Gradient {
  T sign, decay;
  RETAPE_HD explicit Gradient(const UpdateArgs& a) : sign(a.maximize ? T(-1) : T(1)), decay(a.decoupled ? T(0) : T(a.weight_decay)) {}
  RETAPE_HD T operator()(T grad, T value) const { return sign * grad + decay * value; }
};
template <class T> RETAPE_HD T keep_of(const UpdateArgs& a) { return a.decoupled ? T(1 - a.lr * a.weight_decay) : T(1); }
template <class T> RETAPE_HD T larger(T a, T b) { return b > a || b != b ? b : a; }  // nan wins
template <class T> RETAPE_HD T sign_of(T x) { return x > T(0) ? T(1) : x < T(0) ? T(-1) : x; }

/// Running means of Adam and its kin, and their bias corrections: m / bias1 and sqrt(v) * correction.
template <class T> struct Moments {
  T beta1, rest1, beta2, rest2;
  double bias1, bias2;
  T correction;
  RETAPE_HD Moments(const UpdateArgs& a, const Updated& p)
      : beta1(T(a.beta1)),
        rest1(T(1 - a.beta1)),
        beta2(T(a.beta2)),
        rest2(T(1 - a.beta2)),
        bias1(1 - m::pow(a.beta1, double(p.step))),
        bias2(1 - m::pow(a.beta2, double(p.step))),
        correction(T(1 / m::sqrt(bias2))) {}
  RETAPE_HD void operator()(T grad, T& m, T& v) const {
    m = beta1 * m + rest1 * grad;
    v = beta2 * v + rest2 * grad * grad;
  }
};

/// Adam and AdamW that divide by the largest v so far (Reddi, Kale & Kumar 2018).
template <class T> struct AMSGrad {
  static constexpr int states = 3, scalars = 0;
  Gradient<T> gradient;
  Moments<T> moments;
  T keep, step_size, eps;

  RETAPE_HD AMSGrad(const UpdateArgs& a, const Updated& p)
      : gradient(a), moments(a, p), keep(keep_of<T>(a)), step_size(T(a.lr / moments.bias1)), eps(T(a.eps)) {}
  RETAPE_HD void operator()(T& value, T grad, T& m, T& v, T& largest) const {
    moments(gradient(grad, value), m, v);
    largest = larger(largest, v);
    value = keep * value - step_size * m / (m::sqrt(largest) * moments.correction + eps);
  }
};

/// Adam with Nesterov's momentum (Dozat 2016). other: momentum_decay. Scalar: the product of all momenta so far.
template <class T> struct NAdam {
  static constexpr int states = 2, scalars = 1;
  Gradient<T> gradient;
  Moments<T> moments;
  T keep, grad_rate, mean_rate, eps;

  RETAPE_HD static double momentum(const UpdateArgs& a, int64_t step) {
    return a.beta1 * (1 - 0.5 * m::pow(0.96, double(step) * a.other[0]));
  }
  RETAPE_HD NAdam(const UpdateArgs& a, const Updated& p) : gradient(a), moments(a, p), keep(keep_of<T>(a)), eps(T(a.eps)) {
    const double mu = momentum(a, p.step), next = momentum(a, p.step + 1), product = p.scalar[0] * mu;
    grad_rate = T(a.lr * (1 - mu) / (1 - product));
    mean_rate = T(a.lr * next / (1 - product * next));
  }
  RETAPE_HD void operator()(T& value, T grad, T& m, T& v) const {
    grad = gradient(grad, value);
    moments(grad, m, v);
    value = keep * value - (grad_rate * grad + mean_rate * m) / (m::sqrt(v) * moments.correction + eps);
  }
  RETAPE_HD static void advance(const UpdateArgs& a, Updated& p) { p.scalar[0] *= momentum(a, p.step); }
};

/// Adam whose rate is rectified while few steps have been seen (Liu et al. 2020).
template <class T> struct RAdam {
  static constexpr int states = 2, scalars = 0;
  Gradient<T> gradient;
  Moments<T> moments;
  T keep, rate, eps;
  bool adaptive;

  RETAPE_HD RAdam(const UpdateArgs& a, const Updated& p) : gradient(a), moments(a, p), keep(keep_of<T>(a)), eps(T(a.eps)) {
    const double most = 2 / (1 - a.beta2) - 1, rho = most - 2 * double(p.step) * (1 - moments.bias2) / moments.bias2;
    adaptive = rho > 5;
    const double rectified =
        adaptive ? m::sqrt((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho)) * m::sqrt(moments.bias2) : 1;
    rate = T(a.lr / moments.bias1 * rectified);
  }
  RETAPE_HD void operator()(T& value, T grad, T& m, T& v) const {
    moments(gradient(grad, value), m, v);
    const T root = m::sqrt(v) + eps;
    value = keep * value - rate * m / (adaptive ? root : T(1));
  }
};

/// Adam with the infinity norm (Kingma & Ba 2015, section 7.1). Second state: the largest gradient, fading.
template <class T> struct Adamax {
  static constexpr int states = 2, scalars = 0;
  Gradient<T> gradient;
  T beta1, rest1, beta2, rate, eps;

  RETAPE_HD Adamax(const UpdateArgs& a, const Updated& p)
      : gradient(a),
        beta1(T(a.beta1)),
        rest1(T(1 - a.beta1)),
        beta2(T(a.beta2)),
        rate(T(a.lr / (1 - m::pow(a.beta1, double(p.step))))),
        eps(T(a.eps)) {}
  RETAPE_HD void operator()(T& value, T grad, T& m, T& largest) const {
    grad = gradient(grad, value);
    m = beta1 * m + rest1 * grad;
    largest = larger(beta2 * largest, m::abs(grad) + eps);
    value -= rate * m / largest;
  }
};

/// Zeiler 2012. beta2: rho. States: running means of the squares of gradients and of changes.
template <class T> struct Adadelta {
  static constexpr int states = 2, scalars = 0;
  Gradient<T> gradient;
  T lr, rho, rest, eps;

  RETAPE_HD Adadelta(const UpdateArgs& a, const Updated&)
      : gradient(a), lr(T(a.lr)), rho(T(a.beta2)), rest(T(1 - a.beta2)), eps(T(a.eps)) {}
  RETAPE_HD void operator()(T& value, T grad, T& square, T& change) const {
    grad = gradient(grad, value);
    square = rho * square + rest * grad * grad;
    const T delta = m::sqrt(change + eps) / m::sqrt(square + eps) * grad;
    change = rho * change + rest * delta * delta;
    value -= lr * delta;
  }
};

/// Hinton 2012; centered: Graves 2013. beta1: momentum; beta2: alpha; option: centered. States: running mean of squares, momentum buffer,
/// running mean.
template <class T> struct RMSprop {
  static constexpr int states = 3, scalars = 0;
  Gradient<T> gradient;
  T lr, momentum, alpha, rest, eps;
  bool centered;

  RETAPE_HD RMSprop(const UpdateArgs& a, const Updated&)
      : gradient(a), lr(T(a.lr)), momentum(T(a.beta1)), alpha(T(a.beta2)), rest(T(1 - a.beta2)), eps(T(a.eps)), centered(a.option) {}
  RETAPE_HD void operator()(T& value, T grad, T& square, T& buffer, T& mean) const {
    grad = gradient(grad, value);
    square = alpha * square + rest * grad * grad;
    mean = alpha * mean + rest * grad;
    const T spread = centered ? square - mean * mean : square;
    buffer = momentum * buffer + grad / (m::sqrt(spread) + eps);
    value -= lr * buffer;
  }
};

/// Riedmiller & Braun 1993: the sign of the gradient alone. beta1, beta2: what a step size is multiplied by after a change of sign and
/// without; other: smallest and largest step size. States: the last gradient, the step size.
template <class T> struct Rprop {
  static constexpr int states = 2, scalars = 0;
  T sign, less, more, smallest, largest;

  RETAPE_HD Rprop(const UpdateArgs& a, const Updated&)
      : sign(a.maximize ? T(-1) : T(1)), less(T(a.beta1)), more(T(a.beta2)), smallest(T(a.other[0])), largest(T(a.other[1])) {}
  RETAPE_HD void operator()(T& value, T grad, T& last, T& size) const {
    grad = sign * grad;
    const T agrees = grad * last;
    size *= agrees > T(0) ? more : agrees < T(0) ? less : T(1);
    size = size < smallest ? smallest : size > largest ? largest : size;
    grad = agrees < T(0) ? T(0) : grad;
    value -= sign_of(grad) * size;
    last = grad;
  }
};

/// Averaged stochastic gradient descent (Polyak & Juditsky 1992). other: lambd, alpha, t0. State: the average. Scalars: eta, mu.
template <class T> struct ASGD {
  static constexpr int states = 1, scalars = 2;
  Gradient<T> gradient;
  T keep, eta, mu;

  RETAPE_HD ASGD(const UpdateArgs& a, const Updated& p)
      : gradient(a), keep(T(1 - a.other[0] * p.scalar[0])), eta(T(p.scalar[0])), mu(T(p.scalar[1])) {}
  RETAPE_HD void operator()(T& value, T grad, T& average) const {
    value = keep * value - eta * gradient(grad, value);
    average = mu == T(1) ? value : average + (value - average) * mu;
  }
  RETAPE_HD static void advance(const UpdateArgs& a, Updated& p) {
    p.scalar[0] = a.lr / m::pow(1 + a.other[0] * a.lr * double(p.step), a.other[1]);
    p.scalar[1] = 1 / larger(1.0, double(p.step) - a.other[2]);
  }
};

/// Chen et al. 2023: the sign of an interpolation of gradient and momentum.
template <class T> struct Lion {
  static constexpr int states = 1, scalars = 0;
  T sign, keep, lr, beta1, rest1, beta2, rest2;

  RETAPE_HD Lion(const UpdateArgs& a, const Updated&)
      : sign(a.maximize ? T(-1) : T(1)),
        keep(T(1 - a.lr * a.weight_decay)),
        lr(T(a.lr)),
        beta1(T(a.beta1)),
        rest1(T(1 - a.beta1)),
        beta2(T(a.beta2)),
        rest2(T(1 - a.beta2)) {}
  RETAPE_HD void operator()(T& value, T grad, T& m) const {
    grad = sign * grad;
    value = keep * value - lr * sign_of(beta1 * m + rest1 * grad);
    m = beta2 * m + rest2 * grad;
  }
};

/// AdamW without a schedule (Defazio et al. 2024): value is where gradients are taken, y; state z is the iterate, v as in Adam.
/// other: warmup_steps, r, weight_lr_power. Scalars: the sum of all weights so far, the largest rate.
template <class T> struct ScheduleFree {
  static constexpr int states = 2, scalars = 2;
  Moments<T> moments;
  T sign, decay, eps, lr, share, ahead;
  bool first;

  RETAPE_HD static double rate(const UpdateArgs& a, int64_t step) {
    return double(step) < a.other[0] ? a.lr * double(step) / a.other[0] : a.lr;
  }
  RETAPE_HD static double weight(const UpdateArgs& a, const Updated& p) {
    return m::pow(double(p.step), a.other[1]) * m::pow(larger(p.scalar[1], rate(a, p.step)), a.other[2]);
  }
  RETAPE_HD ScheduleFree(const UpdateArgs& a, const Updated& p)
      : moments(a, p), sign(a.maximize ? T(-1) : T(1)), decay(T(a.weight_decay)), eps(T(a.eps)), first(p.step == 1) {
    const double w = weight(a, p), sum = p.scalar[0] + w, c = sum > 0 ? w / sum : 0, speed = rate(a, p.step);
    lr = T(speed);
    share = T(c);
    ahead = T(speed * (a.beta1 * (1 - c) - 1));
  }
  RETAPE_HD void operator()(T& value, T grad, T& z, T& v) const {
    grad = sign * grad;
    v = moments.beta2 * v + moments.rest2 * grad * grad;
    const T change = grad / (m::sqrt(v) * moments.correction + eps) + decay * value;
    const T from = first ? value : z;
    value = value + share * (from - value) + ahead * change;
    z = from - lr * change;
  }
  RETAPE_HD static void advance(const UpdateArgs& a, Updated& p) {
    p.scalar[0] += weight(a, p);
    p.scalar[1] = larger(p.scalar[1], rate(a, p.step));
  }
};

// ---- rules with a rate for each parameter, which its norm decides --------------------------------------------------------

/// The first half of LAMB (You et al. 2020), Adam's step with the decay: ScaledStep takes it. States: m, v, the direction.
template <class T> struct LambDirection {
  static constexpr int states = 3, scalars = 0;
  T sign;
  Moments<T> moments;
  T scale, eps, decay;

  RETAPE_HD LambDirection(const UpdateArgs& a, const Updated& p)
      : sign(a.maximize ? T(-1) : T(1)), moments(a, p), scale(T(1 / moments.bias1)), eps(T(a.eps)), decay(T(a.weight_decay)) {}
  RETAPE_HD void operator()(T& value, T grad, T& m, T& v, T& direction) const {
    moments(sign * grad, m, v);
    direction = scale * m / (m::sqrt(v) * moments.correction + eps) + decay * value;
  }
};

/// value = (1 - lr weight_decay) value - lr other[0] direction, times |value| / |direction| if `option` and neither is 0. State: the
/// direction. Scalars: the squares of both norms.
template <class T> struct ScaledStep {
  static constexpr int states = 1, scalars = 2;
  T keep, rate;

  RETAPE_HD ScaledStep(const UpdateArgs& a, const Updated& p) : keep(T(1 - a.lr * a.weight_decay)) {
    const bool trust = a.option && p.scalar[0] > 0 && p.scalar[1] > 0;
    rate = T(a.lr * a.other[0] * (trust ? m::sqrt(p.scalar[0] / p.scalar[1]) : 1));
  }
  RETAPE_HD void operator()(T& value, T, T& direction) const { value = keep * value - rate * direction; }
};

/// You, Gitman & Ginsburg 2017. beta1: momentum; option: adapt; other: trust_coefficient. State: momentum buffer, which has the rates in
/// it. Scalars: the squares of the norms of value and gradient.
template <class T> struct Lars {
  static constexpr int states = 1, scalars = 2;
  Gradient<T> gradient;
  T momentum, rate;

  RETAPE_HD Lars(const UpdateArgs& a, const Updated& p) : gradient(a), momentum(T(a.beta1)) {
    const double value = m::sqrt(p.scalar[0]), grad = m::sqrt(p.scalar[1]);
    const bool adapts = a.option && value > 0 && grad > 0;
    rate = T(a.lr * (adapts ? a.other[0] * value / (grad + a.weight_decay * value + a.eps) : 1));
  }
  RETAPE_HD void operator()(T& value, T grad, T& buffer) const {
    buffer = momentum * buffer + rate * gradient(grad, value);
    value -= buffer;
  }
};

/// The last part of Adafactor (Shazeer & Stern 2018). eps: eps2; other: d. State: the direction. Scalars: the squares of the norms of value
/// and direction.
template <class T> struct AdafactorStep {
  static constexpr int states = 1, scalars = 2;
  T keep, rate;

  RETAPE_HD AdafactorStep(const UpdateArgs& a, const Updated& p) : keep(T(1 - a.lr * a.weight_decay)) {
    const double falling = 1 / m::sqrt(double(p.step)), rho = a.lr < falling ? a.lr : falling;
    const double value = m::sqrt(p.scalar[0] / double(p.n)), direction = m::sqrt(p.scalar[1] / double(p.n));
    rate = T(larger(a.eps, value) * rho / larger(1.0, direction / a.other[0]));
  }
  RETAPE_HD void operator()(T& value, T, T& direction) const { value = keep * value - rate * direction; }
};

/// The momentum of Muon (Jordan et al. 2024). beta1: momentum; option: nesterov. States: buffer, what is to be made orthogonal.
template <class T> struct MuonMomentum {
  static constexpr int states = 2, scalars = 0;
  T sign, momentum, rest;
  bool nesterov;

  RETAPE_HD MuonMomentum(const UpdateArgs& a, const Updated&)
      : sign(a.maximize ? T(-1) : T(1)), momentum(T(a.beta1)), rest(T(1 - a.beta1)), nesterov(a.option) {}
  RETAPE_HD void operator()(T&, T grad, T& buffer, T& direction) const {
    grad = sign * grad;
    buffer = momentum * buffer + rest * grad;
    direction = nesterov ? rest * grad + momentum * buffer : buffer;
  }
};

// ---- what stands around an optimizer --------------------------------------------------------------------------------------

/// Zhang et al. 2019. other: alpha, k. State: slow weights.
template <class T> struct Lookahead {
  static constexpr int states = 1, scalars = 0;
  T alpha;
  bool now;

  RETAPE_HD Lookahead(const UpdateArgs& a, const Updated& p) : alpha(T(a.other[0])), now(p.step % int64_t(a.other[1]) == 0) {}
  RETAPE_HD bool idle() const { return !now; }
  RETAPE_HD void operator()(T& value, T, T& slow) const {
    slow += alpha * (value - slow);
    value = slow;
  }
};

/// value becomes the average of all `grad` that were given: each counts the same or, with `option`, the last one by 1 - other[0].
template <class T> struct RunningAverage {
  static constexpr int states = 0, scalars = 0;
  T weight;
  bool first;

  RETAPE_HD RunningAverage(const UpdateArgs& a, const Updated& p)
      : weight(T(a.option ? 1 - a.other[0] : 1 / double(p.step))), first(p.step == 1) {}
  RETAPE_HD void operator()(T& value, T current) const { value = first ? current : value + weight * (current - value); }
};

/// Goes up to where the loss is worst nearby (Foret et al. 2021). other: rho; option: adaptive (Kwon et al. 2021), by the size of each
/// weight. State: the value from before. Scalar: the square of the norm of all gradients, times their weights' sizes if adaptive.
template <class T> struct SamAscent {
  static constexpr int states = 1, scalars = 1;
  T rate;
  bool adaptive;

  RETAPE_HD SamAscent(const UpdateArgs& a, const Updated& p) : rate(T(a.other[0] / (m::sqrt(p.scalar[0]) + 1e-12))), adaptive(a.option) {}
  RETAPE_HD void operator()(T& value, T grad, T& before) const {
    before = value;
    value += rate * grad * (adaptive ? value * value : T(1));
  }
};

/// value goes other[0] of the way to the state.
template <class T> struct MoveToward {
  static constexpr int states = 1, scalars = 0;
  T share;

  RETAPE_HD MoveToward(const UpdateArgs& a, const Updated&) : share(T(a.other[0])) {}
  RETAPE_HD void operator()(T& value, T, T& to) const { value += share * (to - value); }
};

}  // namespace retape::functor
