#include <retape/autograd/dropout.h>

#include <fmt/format.h>

#include <cmath>

#include <retape/autograd/binary.h>
#include <retape/autograd/check.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>

namespace retape {
namespace {

struct Dropout {  // linear in x, so it is its own backward
  static constexpr auto name = "dropout";
  static constexpr bool elementwise = true;
  double p;
  RandomState state;
  Tensor forward(const Tensor& x) {
    const Tensor in = contiguous(x);
    Tensor y = empty_like(in);
    RETAPE_DISPATCH(x.device(), dropout(in, p, state, y));
    return y;
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, record(Dropout{p, state}, dy)); }
};

void check(const char* name, const Tensor& x, double p) {
  check_defined(name, x);
  if (!(p >= 0 && p <= 1)) throw Error(fmt::format("{}: p = {} is not a probability; it must be from 0 to 1", name, p));
  if (!is_floating(x.dtype()))
    throw Error(fmt::format("{}: a tensor of {} cannot be scaled by 1 / (1 - p); cast() it to a floating dtype", name, name_of(x.dtype())));
}
// x's shape with 1 for all dims behind the first `dims`
Shape leading(const char* name, const Tensor& x, int64_t dims) {
  if (dims < 1 || dims > x.dim())
    throw Error(fmt::format("{}: x of shape {} has fewer than {} dims, or none are wanted", name, x.shape().str(), dims));
  Shape shape = x.shape();
  for (int d = int(dims); d < x.dim(); ++d) shape[d] = 1;
  return shape;
}
// Where `keep` is false x becomes a, the least value of selu; then mean and variance are restored.
Tensor alpha(const Tensor& x, const Shape& shape, double p, Generator& generator) {
  constexpr double least = -1.7580993408473766;
  if (p == 1) return x * 0;
  const double scale = 1 / std::sqrt((1 - p) * (1 + p * least * least)), shift = -scale * least * p;
  const Tensor keep = cast(ge(rand(shape, {DType::f32, x.device()}, generator), p), x.dtype());
  return x * (keep * scale) + (keep * (-scale * least) + (scale * least + shift));
}

}  // namespace

Tensor feature_dropout(const Tensor& x, int64_t dims, double p, bool training, Generator& generator) {
  check("feature_dropout", x, p);
  const Shape shape = leading("feature_dropout", x, dims);
  if (!training || p == 0) return x;
  return x * dropout(ones(shape, x.options()), p, true, generator);
}
Tensor alpha_dropout(const Tensor& x, double p, bool training, Generator& generator) {
  check("alpha_dropout", x, p);
  return training && p > 0 ? alpha(x, x.shape(), p, generator) : x;
}
Tensor feature_alpha_dropout(const Tensor& x, double p, bool training, Generator& generator) {
  check("feature_alpha_dropout", x, p);
  const Shape shape = leading("feature_alpha_dropout", x, 2);
  return training && p > 0 ? alpha(x, shape, p, generator) : x;
}

Tensor dropout(const Tensor& x, double p, bool training, Generator& generator) {
  check("dropout", x, p);
  if (!training || p == 0) return x;
  return record(Dropout{p, generator.draw(x.numel())}, x);
}

}  // namespace retape
