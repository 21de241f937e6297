#include <retape/autograd/sample.h>

#include <fmt/format.h>

#include <retape/autograd/binary.h>
#include <retape/autograd/check.h>
#include <retape/autograd/scan.h>
#include <retape/autograd/sort.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>

namespace retape {
namespace {

void check_floating(const char* name, const Tensor& x) {
  check_defined(name, x);
  if (!is_floating(x.dtype())) throw Error(fmt::format("{}: a tensor of {} is given; it must be floating", name, name_of(x.dtype())));
}

}  // namespace

Tensor rand_like(const Tensor& x, Generator& generator) {
  check_floating("rand_like", x);
  return rand(x.shape(), x.options(), generator);
}
Tensor randn_like(const Tensor& x, Generator& generator) {
  check_floating("randn_like", x);
  return randn(x.shape(), x.options(), generator);
}
Tensor bernoulli(const Tensor& p, Generator& generator) {
  check_floating("bernoulli", p);
  const NoGrad off;
  if (!p.device().is_meta() && !all(logical_and(ge(p, 0), le(p, 1))).item<bool>())
    throw Error("bernoulli: p has elements outside of [0, 1]");
  const DType wide = p.dtype() == DType::f64 ? DType::f64 : DType::f32;
  return cast(lt(rand(p.shape(), {wide, p.device()}, generator), cast(p, wide)), p.dtype());
}
Tensor normal(const Tensor& mean, const Tensor& std, Generator& generator) {
  check_floating("normal", mean), check_floating("normal", std);
  const NoGrad off;
  if (!std.device().is_meta() && !all(ge(std, 0)).item<bool>()) throw Error("normal: std has elements below 0");
  return mean + std * randn(broadcast_shapes("normal", mean.shape(), std.shape()), std.options(), generator);
}
Tensor multinomial(const Tensor& weights, int64_t count, bool replacement, Generator& generator) {
  check_floating("multinomial", weights);
  const NoGrad off;
  if (weights.dim() != 1 && weights.dim() != 2)
    throw Error(fmt::format("multinomial: weights have shape {}; they must be (n) or (rows, n)", weights.shape().str()));
  if (count < 1) throw Error(fmt::format("multinomial: {} samples are not possible; draw at least 1", count));
  if (!all(logical_and(isfinite(weights), ge(weights, 0))).item<bool>())
    throw Error("multinomial: weights must be finite and not negative");
  const Tensor w = cast(weights.detach(), DType::f64), possible = count_nonzero(w, {-1});
  const int64_t fewest = possible.numel() ? amin(possible).item<int64_t>() : count;
  if (fewest < (replacement ? 1 : count))
    throw Error(fmt::format("multinomial: {} samples {} replacement need {} weights above 0 in each row; one has {}", count,
                            replacement ? "with" : "without", replacement ? 1 : count, fewest));
  if (!replacement) {  // the largest of w / e with e exponential: e arrives first in proportion to w (Efraimidis & Spirakis 2006)
    const Tensor e = neg(log1p(neg(rand(w.shape(), w.options(), generator))));
    return topk(where(eq(w, 0), -1, w / e), count, -1).indices;
  }
  const Tensor sums = cumsum(w, -1);
  Shape shape = w.shape();
  shape[-1] = count;
  const Tensor at = rand(shape, w.options(), generator) * narrow(sums, -1, w.size(-1) - 1, 1);
  // Rounding may reach the total: then the last weight above 0 is meant, whose running sum equals the total first.
  const Tensor last = searchsorted(sums, narrow(sums, -1, w.size(-1) - 1, 1));
  return minimum(searchsorted(sums, at, true), last);
}

}  // namespace retape
