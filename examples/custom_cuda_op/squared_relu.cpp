// The ops: what the tape records. Where there is no kernel, on the CPU, an op may be written with others.
#include "squared_relu.h"

#include <retape/retape.h>

using namespace retape;

namespace {

Tensor composed(const Tensor& x, const Tensor& bias) { return square(relu(x + bias)); }

struct SquaredReluBackward {
  static constexpr auto name = "squared_relu_backward";
  Tensor forward(const Tensor& dy, const Tensor& x, const Tensor& bias) {
    if (!x.device().is_cuda()) return composite(dy, x, bias);
    Tensor dx = empty(x.shape(), x.options());
    kernels::squared_relu_backward(contiguous(dy), contiguous(x), contiguous(bias), dx);
    return dx;
  }
  // Of this, its own derivatives follow.
  Tensor composite(const Tensor& dy, const Tensor& x, const Tensor& bias) { return dy * 2 * relu(x + bias); }
};

struct SquaredRelu {
  static constexpr auto name = "squared_relu";
  Saved x = {}, bias = {};
  Tensor forward(const Tensor& in, const Tensor& b) {
    x = save(in), bias = save(b);
    if (!in.device().is_cuda()) return composed(in, b);
    Tensor y = empty(in.shape(), in.options());
    kernels::squared_relu(contiguous(in), contiguous(b), y);
    return y;
  }
  void backward(const Tensor& dy, Grads& dx) {
    const Tensor d = record(SquaredReluBackward{}, dy, *x, *bias);
    if (dx.wants(0)) dx.set(0, d);
    if (dx.wants(1)) dx.set(1, d);  // summed over the rows where it is set
  }
};

}  // namespace

Tensor squared_relu(const Tensor& x, const Tensor& bias) {
  if (!is_floating(x.dtype()) || x.dtype() != bias.dtype())
    throw Error(std::string("squared_relu: x is ") + name_of(x.dtype()) + " and bias " + name_of(bias.dtype()) +
                "; both must be of one floating dtype");
  if (bias.dim() != 1 || x.dim() == 0 || x.size(-1) != bias.size(0))
    throw Error("squared_relu: bias of shape " + bias.shape().str() + " does not fit x of shape " + x.shape().str() +
                "; it must be (features)");
  return record(SquaredRelu{}, x, bias);
}
