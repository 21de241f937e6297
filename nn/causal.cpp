#include <retape/nn/causal.h>

#include <fmt/format.h>

#include <retape/autograd/convolution.h>
#include <retape/autograd/views.h>

namespace retape::nn {

Tensor causal_conv1d(const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor* past) {
  detail::check_sequence("causal_conv1d", x, weight.dim() == 3 ? weight.size(0) : -1);
  if (weight.size(1) != 1 || weight.size(2) < 1)
    throw Error(fmt::format("causal_conv1d: weight is {}; its shape must be ({}, 1, K) with K >= 1", weight.shape().str(), x.size(2)));
  const int64_t batch = x.size(0), steps = x.size(1), channels = x.size(2), back = weight.size(2) - 1;
  if (steps == 0) return x;
  const auto convolve = [&](const Tensor& in, int64_t padding) {
    return transpose(conv1d(transpose(in, 1, 2), weight, bias, {.padding = padding, .groups = channels}), 1, 2);
  };
  if (!past || (!*past && steps >= back)) {
    // What lies behind the end because of the padding on that side is left out.
    const Tensor y = narrow(convolve(x, back), 1, 0, steps);
    if (past) *past = clone(narrow(x, 1, steps - back, back));
    return y;
  }
  const Shape wanted{batch, back, channels};
  detail::check_state("causal_conv1d", "past", *past, wanted);
  const Tensor all = cat({*past ? *past : zeros(wanted, x.options()), x}, 1);
  *past = clone(narrow(all, 1, steps, back));
  return convolve(all, 0);
}

namespace detail {

Tensor shifted(const Tensor& x, Tensor* past) {
  check_sequence("shifted", x, -1);
  const int64_t batch = x.size(0), steps = x.size(1), channels = x.size(2);
  if (past) check_state("shifted", "past", *past, {batch, channels});
  if (steps == 0) return x;
  const Tensor first = past && *past ? unsqueeze(*past, 1) : zeros({batch, 1, channels}, x.options());
  if (past) *past = clone(select(x, 1, steps - 1));
  return cat({cast(first, x.dtype()), narrow(x, 1, 0, steps - 1)}, 1);
}

void check_sequence(const char* layer, const Tensor& x, int64_t channels, bool step) {
  if (!x) throw Error(fmt::format("{}: the input is an undefined tensor", layer));
  if (x.dim() != 3 || (channels >= 0 && x.size(2) != channels))
    throw Error(fmt::format("{}: the input is {}; its shape must be (B, T, {})", layer, x.shape().str(),
                            channels < 0 ? "C" : std::to_string(channels)));
  if (!is_floating(x.dtype())) throw Error(fmt::format("{}: the input has dtype {}; it must be floating", layer, name_of(x.dtype())));
  if (step && x.size(1) < 1) throw Error(fmt::format("{}: step() got no positions, {}; it takes one or more", layer, x.shape().str()));
}
void check_state(const char* layer, const char* what, const Tensor& part, const Shape& shape) {
  if (part && !(part.shape() == shape))
    throw Error(fmt::format("{}: {} of the state is {}, but these sequences need {}; sequences that begin need a new state", layer, what,
                            part.shape().str(), shape.str()));
}
int64_t check_positive(const char* layer, const char* what, int64_t number) {
  if (number <= 0) throw Error(fmt::format("{}: {} is {}; it must be above 0", layer, what, number));
  return number;
}
double check_dropout(const char* layer, double p) {
  if (!(p >= 0 && p <= 1)) throw Error(fmt::format("{}: dropout {} is not valid; it must lie in [0, 1]", layer, p));
  return p;
}
Tensor widened(const Tensor& x) { return x && size_of(x.dtype()) < 4 ? cast(x, DType::f32) : x; }

}  // namespace detail

}  // namespace retape::nn
