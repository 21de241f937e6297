// Update rules of optimizers, one struct each, shared by all devices: what a step does to one element. The constructor folds
// everything that is the same for all elements of a parameter, in double; T is the type that the update is computed in.
#pragma once
#include <retape/core/kernel_args.h>
#include <retape/core/simd_math.h>

namespace retape::functor {

/// Adam (Kingma & Ba 2015), and AdamW (Loshchilov & Hutter 2019) where the decay is decoupled. eps is added outside the bias
/// correction, as PyTorch does. m and v are the running means of the gradient and of its square.
template <class T> struct AdamW {
  T sign, decay, keep, beta1, rest1, beta2, rest2, step_size, correction, eps;

  RETAPE_HD AdamW(const AdamWArgs& a, int64_t step)
      : sign(a.maximize ? T(-1) : T(1)),
        decay(a.decoupled ? T(0) : T(a.weight_decay)),
        keep(a.decoupled ? T(1 - a.lr * a.weight_decay) : T(1)),
        beta1(T(a.beta1)),
        rest1(T(1 - a.beta1)),
        beta2(T(a.beta2)),
        rest2(T(1 - a.beta2)),
        step_size(T(a.lr / (1 - m::pow(a.beta1, double(step))))),
        correction(T(1 / m::sqrt(1 - m::pow(a.beta2, double(step))))),
        eps(a.eps_inside ? T(a.eps / m::sqrt(1 - m::pow(a.beta2, double(step)))) : T(a.eps)) {}

  RETAPE_HD void operator()(T& value, T grad, T& m, T& v) const {
    grad = sign * grad + decay * value;
    m = beta1 * m + rest1 * grad;
    v = beta2 * v + rest2 * grad * grad;
    value = keep * value - step_size * m / (m::sqrt(v) * correction + eps);
  }
};

/// Gradient descent with momentum (Sutskever et al. 2013, in PyTorch's form: the learning rate is outside the buffer). The first
/// step sets the buffer to the gradient.
template <class T> struct SGD {
  T sign, decay, momentum, rest, lr, ahead;
  bool nesterov;

  RETAPE_HD SGD(const SGDArgs& a, int64_t step)
      : sign(a.maximize ? T(-1) : T(1)),
        decay(T(a.weight_decay)),
        momentum(step == 1 ? T(0) : T(a.momentum)),
        rest(step == 1 ? T(1) : T(1 - a.dampening)),
        lr(T(a.lr)),
        ahead(T(a.momentum)),
        nesterov(a.nesterov) {}

  RETAPE_HD void operator()(T& value, T grad) const { value -= lr * (sign * grad + decay * value); }
  RETAPE_HD void operator()(T& value, T grad, T& buffer) const {
    grad = sign * grad + decay * value;
    buffer = momentum * buffer + rest * grad;
    value -= lr * (nesterov ? grad + ahead * buffer : buffer);
  }
};

/// Adagrad (Duchi, Hazan & Singer 2011): each element's rate falls with the sum of its squared gradients.
template <class T> struct Adagrad {
  T sign, decay, rate, eps;

  RETAPE_HD Adagrad(const AdagradArgs& a, int64_t step)
      : sign(a.maximize ? T(-1) : T(1)), decay(T(a.weight_decay)), rate(T(a.lr / (1 + double(step - 1) * a.lr_decay))), eps(T(a.eps)) {}

  RETAPE_HD void operator()(T& value, T grad, T& sum) const {
    grad = sign * grad + decay * value;
    sum += grad * grad;
    value -= rate * grad / (m::sqrt(sum) + eps);
  }
};

}  // namespace retape::functor
