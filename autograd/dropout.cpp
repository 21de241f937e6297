#include <retape/autograd/dropout.h>

#include <fmt/format.h>

#include <retape/autograd/check.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>

namespace retape {
namespace {

struct Dropout {  // linear in x, so it is its own backward
  static constexpr auto name = "dropout";
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

}  // namespace

Tensor dropout(const Tensor& x, double p, bool training, Generator& generator) {
  check_defined("dropout", x);
  if (!(p >= 0 && p <= 1)) throw Error(fmt::format("dropout: p = {} is not a probability; it must be from 0 to 1", p));
  if (!is_floating(x.dtype()))
    throw Error(fmt::format("dropout: a tensor of {} cannot be scaled by 1 / (1 - p); cast() it to a floating dtype", name_of(x.dtype())));
  if (!training || p == 0) return x;
  return record(Dropout{p, generator.draw(x.numel())}, x);
}

}  // namespace retape
