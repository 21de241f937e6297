#include <retape/autograd/gradcheck.h>

#include <fmt/format.h>

#include <cmath>

#include <retape/autograd/backward.h>
#include <retape/autograd/binary.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/tape.h>
#include <retape/core/random.h>

namespace retape {
namespace {

// Fixed random weights make one number of a tensor without hiding errors that cancel in a plain sum.
Tensor weighted_sum(const Tensor& y, uint64_t seed) {
  Generator generator(seed);
  return sum(y * uniform(y.shape(), 0.5, 1.5, {DType::f64, y.device()}, generator));
}
void check_inputs(const char* name, const std::vector<Tensor>& x) {
  bool any = false;
  for (size_t i = 0; i < x.size(); ++i) {
    if (!x[i] || !x[i].requires_grad()) continue;
    any = true;
    if (x[i].dtype() != DType::f64 || !x[i].is_leaf())
      throw Error(
          fmt::format("{}: input {} is {}{}; inputs that want gradients must be f64 leaves, or differences of 1e-6 drown in rounding", name,
                      i, name_of(x[i].dtype()), x[i].is_leaf() ? "" : " and no leaf"));
  }
  if (!any) throw Error(fmt::format("{}: no input wants a gradient; call set_requires_grad() on some", name));
}

// Element k of row-major order, behind the version counter's back: values come back as they were.
void put(const Tensor& x, int64_t k, double value) {
  Layout layout;
  layout.dtype = x.dtype();
  layout.offset = x.offset();
  for (int d = x.dim(); d-- > 0; k /= x.shape()[d]) layout.offset += k % x.shape()[d] * x.strides()[d];
  Tensor element = make_tensor(x->storage, layout);
  const Scoped version(x->storage->version, x->storage->version);
  RETAPE_DISPATCH(x.device(), fill(value, element));
}

GradcheckResult compare(const std::vector<Tensor>& analytic, const std::vector<Tensor>& x, const std::function<double()>& f,
                        const GradcheckOptions& o) {
  GradcheckResult result;
  double worst = 1;  // in units of the tolerance
  for (size_t i = 0; i < x.size(); ++i) {
    const auto got = analytic[i] ? analytic[i].to_vector<double>() : std::vector<double>(size_t(x[i].numel()), 0.0);
    const auto values = x[i].to_vector<double>();
    for (int64_t k = 0; k < x[i].numel(); ++k) {
      const double before = values[size_t(k)];
      put(x[i], k, before + o.eps);
      const double up = f();
      put(x[i], k, before - o.eps);
      const double down = f();
      put(x[i], k, before);
      const double numeric = (up - down) / (2 * o.eps), error = std::abs(got[size_t(k)] - numeric) / (o.atol + o.rtol * std::abs(numeric));
      if (error <= worst) continue;  // a nan is not, and fails
      if (error > worst) worst = error;
      result.passed = false;
      result.report = fmt::format("input {} element {}: analytic {:.8g}, numeric {:.8g}", i, k, got[size_t(k)], numeric);
    }
  }
  return result;
}

}  // namespace

GradcheckResult gradcheck(const TensorFunction& f, const std::vector<Tensor>& x, GradcheckOptions options) {
  check_inputs("gradcheck", x);
  std::vector<Tensor> wanted;
  for (auto& t : x)
    if (t && t.requires_grad()) wanted.push_back(t);
  const auto analytic = grad({weighted_sum(f(x), 99)}, wanted);
  return compare(
      analytic, wanted,
      [&] {
        const NoGrad off;
        return weighted_sum(f(x), 99).item();
      },
      options);
}

GradcheckResult gradgradcheck(const TensorFunction& f, const std::vector<Tensor>& x, GradcheckOptions options) {
  check_inputs("gradgradcheck", x);
  std::vector<Tensor> wanted;
  for (auto& t : x)
    if (t && t.requires_grad()) wanted.push_back(t);
  Generator generator(7);
  const Tensor y = f(x);
  Tensor dy = uniform(y.shape(), 0.5, 1.5, {DType::f64, y.device()}, generator);
  dy.set_requires_grad();
  auto first = [&](bool graph) {
    Tensor total = zeros({}, {DType::f64, dy.device()});
    uint64_t seed = 20;
    for (auto& g : grad({f(x)}, wanted, {.create_graph = graph}, {dy}))
      if (++seed; g) total = total + weighted_sum(g, seed);
    return total;
  };
  std::vector<Tensor> all = wanted;
  all.push_back(dy);
  const Tensor total = first(true);
  // A function that is linear has a first derivative without history, and nothing to differentiate.
  const auto analytic = total.requires_grad() ? grad({total}, all) : std::vector<Tensor>(all.size());
  return compare(
      analytic, all, [&] { return first(false).item(); }, options);
}

}  // namespace retape
