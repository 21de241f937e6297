#include <retape/core/random.h>

#include <fmt/format.h>

#include <numeric>

#include <retape/core/capture.h>
#include <retape/core/dispatch.h>

namespace retape {

void Generator::manual_seed(uint64_t seed) { set_state({seed, 0}); }
RandomState Generator::draw(int64_t count) {
  if (ctx.inside_forward)
    throw Error(
        "random numbers are drawn inside an op's forward, so a replay would draw others; draw before record() and hand the op the state");
  RandomState state = shared_->draw(count);
  state.later = detail::captured_value<RandomState>(state, [shared = shared_, count] { return shared->draw(count); });
  return state;
}
RandomState Generator::Shared::draw(int64_t count) {
  const std::lock_guard lock(mutex);
  const RandomState drawn = state;
  state.offset += uint64_t(count + 3) / 4;
  return drawn;
}
RandomState Generator::state() const {
  const std::lock_guard lock(shared_->mutex);
  return shared_->state;
}
void Generator::set_state(RandomState state) {
  const std::lock_guard lock(shared_->mutex);
  shared_->state = {state.seed, state.offset};
}
Generator& default_generator() {
  static Generator generator;
  return generator;
}
void manual_seed(uint64_t seed) { default_generator().manual_seed(seed); }

namespace detail {
namespace {
void check_floating(const char* name, const Tensor& x) {
  if (!is_floating(x.dtype()))
    throw Error(fmt::format("{}: dtype {} cannot hold these numbers; use a floating dtype", name, name_of(x.dtype())));
}
// Kernels fill contiguous memory; any other tensor gets a copy, so that its values do not depend on its strides.
template <class F> void fill_contiguous(Tensor& x, F&& f) {
  const Scoped inside(ctx.inside_forward, true);
  if (x.is_contiguous()) {
    f(x);
    return;
  }
  Tensor y = empty_like(x);
  f(y);
  RETAPE_DISPATCH(x.device(), copy(y, x));
}
}  // namespace
void fill_uniform(Tensor& x, double low, double high, Generator& generator) {
  check_floating("uniform", x);
  const RandomState state = generator.draw(x.dtype() == DType::f64 ? 2 * x.numel() : x.numel());
  fill_contiguous(x, [&](Tensor& y) { RETAPE_DISPATCH(y.device(), random_uniform(state, low, high, y)); });
}
void fill_normal(Tensor& x, double mean, double std, Generator& generator) {
  check_floating("normal", x);
  if (!(std >= 0)) throw Error(fmt::format("normal: standard deviation {} is not valid; it must be >= 0", std));
  const RandomState state = generator.draw(2 * x.numel() + 4);
  fill_contiguous(x, [&](Tensor& y) { RETAPE_DISPATCH(y.device(), random_normal(state, mean, std, y)); });
}
}  // namespace detail

Tensor uniform(const Shape& shape, double low, double high, Options options, Generator& generator) {
  if (!(low <= high)) throw Error(fmt::format("uniform: low {} is above high {}", low, high));
  Tensor y = empty(shape, options);
  detail::fill_uniform(y, low, high, generator);
  return y;
}
Tensor rand(const Shape& shape, Options options, Generator& generator) { return uniform(shape, 0, 1, options, generator); }
Tensor normal(const Shape& shape, double mean, double std, Options options, Generator& generator) {
  Tensor y = empty(shape, options);
  detail::fill_normal(y, mean, std, generator);
  return y;
}
Tensor randn(const Shape& shape, Options options, Generator& generator) { return normal(shape, 0, 1, options, generator); }
Tensor randint(int64_t low, int64_t high, const Shape& shape, Options options, Generator& generator) {
  if (low >= high) throw Error(fmt::format("randint: the range from {} to {} is empty; low must be below high", low, high));
  if (options.dtype == DType::boolean) throw Error("randint: dtype bool cannot hold integers");
  Tensor y = empty(shape, options);
  const RandomState state = generator.draw(2 * y.numel());
  const Scoped inside(ctx.inside_forward, true);
  RETAPE_DISPATCH(y.device(), random_integers(state, low, high, y));
  return y;
}
Tensor randperm(int64_t n, Generator& generator) {
  if (n < 0) throw Error(fmt::format("randperm: {} is negative", n));
  const RandomState state = generator.draw(2 * n);
  Tensor y = empty({n}, {DType::i64});
  int64_t* p = y.mutable_data<int64_t>();
  std::iota(p, p + n, int64_t{0});
  for (int64_t i = n; i-- > 1;) {  // Fisher-Yates; the bias of the multiplication is below 2^-64 * n
    const Philox r(state.seed, state.offset + uint64_t(i) / 2);
    const int lane = int(i % 2) * 2;
    const uint64_t bits = uint64_t(r.x[lane]) << 32 | r.x[lane + 1];
    std::swap(p[i], p[int64_t((unsigned __int128)(bits)*uint64_t(i + 1) >> 64)]);
  }
  return y;
}

}  // namespace retape
