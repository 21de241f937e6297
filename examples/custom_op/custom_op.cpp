// An op and a layer of one's own, outside the library: x sigmoid(beta x) with a beta that is learned for each feature (Ramachandran,
// Zoph & Le 2017). The op has a forward with its own loop and a backward; gradients of any order, replay and error messages
// follow from that, exactly as for built-in ops.
#include <cmath>
#include <cstdio>

#include <retape/retape.h>

using namespace retape;

// ---- the op ----------------------------------------------------------------------------------------------------------

struct Swish {
  static constexpr auto name = "swish";
  Saved x = {}, beta = {};  // what backward needs; tickets, not tensors

  // x (rows, features), beta (features): the same shape as x
  Tensor forward(const Tensor& in, const Tensor& scale) {
    x = save(in), beta = save(scale);
    Tensor y = empty(in.shape(), in.options());
    if (in.device().is_meta()) return y;  // only shapes are asked for, as estimate_memory does
    if (in.dtype() == DType::f64) run<double>(contiguous(in), contiguous(scale), y);
    else run<float>(contiguous(in), contiguous(scale), y);
    return y;
  }
  // Written with ops, so that it can be differentiated again.
  void backward(const Tensor& dy, Grads& dx) {
    const Tensor in = *x, scale = *beta, gate = sigmoid(in * scale), slope = gate * (1 - gate);
    if (dx.wants(0)) dx.set(0, dy * (gate + in * scale * slope));
    if (dx.wants(1)) dx.set(1, dy * in * in * slope);  // summed over the rows where it is set
  }

 private:
  template <class T> static void run(const Tensor& in, const Tensor& scale, Tensor& y) {
    const T *p = in.data<T>(), *b = scale.data<T>();
    T* out = y.mutable_data<T>();
    const int64_t features = scale.numel();
    for (int64_t i = 0; i < in.numel(); ++i) out[i] = p[i] / (1 + std::exp(-b[i % features] * p[i]));
  }
};

Tensor swish(const Tensor& x, const Tensor& beta) {
  if (x.dtype() != beta.dtype() || (x.dtype() != DType::f64 && x.dtype() != DType::f32))
    throw Error("swish: x and beta must both be f32, or both f64");
  if (beta.dim() != 1 || x.dim() == 0 || x.size(-1) != beta.size(0))
    throw Error("swish: beta of shape " + beta.shape().str() + " does not fit x of shape " + x.shape().str() + "; it must be (features)");
  return record(Swish{}, x, beta);
}

// ---- the layer -------------------------------------------------------------------------------------------------------

struct SwishLayer : nn::Module {
  Parameter beta;
  explicit SwishLayer(int64_t features) : beta(ones({features})) {}
  Tensor forward(const Tensor& x) { return swish(x, beta); }
  RETAPE_FIELDS(beta)
};

struct Net : nn::Module {
  nn::Linear in, out;
  SwishLayer activation;
  Net() : in(2, 32), out(32, 1), activation(32) {}
  Tensor forward(const Tensor& x) { return out(activation(in(x))); }
  RETAPE_FIELDS(in, out, activation)
};

// ---- is it right, and does it learn? -----------------------------------------------------------------------------------

int main() {
  manual_seed(1);
  const auto f = [](const std::vector<Tensor>& x) { return swish(x[0], x[1]); };
  std::vector<Tensor> x = {uniform({3, 4}, -2, 2, {DType::f64}), uniform({4}, 0.5, 1.5, {DType::f64})};
  for (Tensor& t : x) t.set_requires_grad();
  const auto first = gradcheck(f, x), second = gradgradcheck(f, x);
  std::printf("gradcheck: %s, gradgradcheck: %s\n", first.passed ? "passed" : first.report.c_str(),
              second.passed ? "passed" : second.report.c_str());
  if (!first.passed || !second.passed) return 1;

  Net net;
  AdamW optimizer(net.parameters(), {.lr = 1e-2, .weight_decay = 0});
  double start = 0, loss_value = 0;
  for (int step = 0; step < 300; ++step) {
    const Tensor input = uniform({64, 2}, -2, 2), target = select(input, 1, 0) * select(input, 1, 1);
    const Tensor loss = mean(square(squeeze(net(input), 1) - target));
    optimizer.zero_grad();
    backward(loss);
    optimizer.step();
    loss_value = loss.item();
    if (step == 0) start = loss_value;
  }
  std::printf("x * y learned: loss %.3f -> %.4f\n", start, loss_value);
  if (!(loss_value < start / 10)) return 2;

  try {
    net(zeros({64, 3}));
  } catch (const Error& e) {
    std::printf("an error: %s\n", e.what());
    return 0;
  }
  return 3;
}
