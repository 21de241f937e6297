// What every SequenceMixer is tested for.
#pragma once
#include <fmt/format.h>

#include "golden.h"

namespace retape::testing {

/// step() over pieces of the given lengths, one after the other.
template <nn::SequenceMixer M> Tensor in_pieces(M& m, const Tensor& x, const std::vector<int64_t>& lengths) {
  typename M::State state;
  std::vector<Tensor> ys;
  int64_t at = 0;
  for (const int64_t n : lengths) ys.push_back(m.step(narrow(x, 1, at, n), state)), at += n;
  return cat(ys, 1);
}
/// forward() equals steps one by one and pieces of uneven lengths, in f64 and f32, and a copy of a state goes on by itself.
template <nn::SequenceMixer M> void check_pieces(M m, int64_t features) {
  m.eval();
  const NoGrad off;
  for (const DType dtype : {DType::f64, DType::f32}) {
    INFO(m.type_name() << " in " << name_of(dtype));
    m.to(dtype);
    const Tensor x = cast(wave({2, 13, features}, 0.2), dtype), whole = m(x);
    CHECK(whole.shape() == x.shape());
    CHECK(whole.dtype() == dtype);
    const double most = dtype == DType::f64 ? 1e-10 : 1e-5;
    CHECK(relative_difference(in_pieces(m, x, std::vector<int64_t>(13, 1)), whole) <= most);
    CHECK(relative_difference(in_pieces(m, x, {3, 1, 6, 2, 1}), whole) <= most);
    typename M::State state;
    m.step(narrow(x, 1, 0, 4), state);
    m.step(narrow(x, 1, 4, 2), state);
    typename M::State copy = state;
    m.step(narrow(x, 1, 0, 5), copy);
    CHECK(relative_difference(m.step(narrow(x, 1, 6, 7), state), narrow(whole, 1, 6, 7)) <= most);
  }
}
/// Every parameter gets a gradient that is not 0, through forward() and through steps, whose gradients agree; but for `without`, which changes nothing: a bias
/// of all keys alike moves no weight of a softmax over keys.
template <nn::SequenceMixer M> void check_gradients(M m, int64_t features, const std::string& without = {}) {
  m.eval();
  m.to(DType::f64);
  const Tensor x = wave({2, 13, features}, 0.2), weights = wave(x.shape(), 0.5);
  const auto gradients = [&](const Tensor& y) {
    m.zero_grad();
    backward(sum(y * weights));
    NamedTensors all;
    for (auto& [name, p] : m.named_parameters()) all.emplace_back(name, p.grad());
    return all;
  };
  const NamedTensors whole = gradients(m(x)), pieces = gradients(in_pieces(m, x, {5, 1, 7}));
  for (size_t i = 0; i < whole.size(); ++i) {
    INFO(m.type_name() << ": " << whole[i].first);
    const Tensor& g = whole[i].second;
    if (!g) {
      FAIL_CHECK("no gradient");
      continue;
    }
    CHECK(std::isfinite(sum(abs(g)).item()));
    if (whole[i].first == without) {
      CHECK(sum(abs(g)).item() < 1e-12);
      continue;
    }
    CHECK(sum(abs(g)).item() > 1e-8);
    CHECK(relative_difference(pieces[i].second, g) <= 1e-8);
  }
}
/// A layer on meta has the shape of its result, and a state.
template <class Make> void check_meta(Make&& make, int64_t features) {
  const nn::DefaultOptions on_meta({.device = Device::meta()});
  auto m = make();
  const Tensor x = empty({2, 13, features}, {.device = Device::meta()});
  CHECK(m(x).shape() == x.shape());
  CHECK(in_pieces(m, x, {5, 8}).shape() == x.shape());
}
/// Under autocast and as a module of a half type, numbers are those in f32 but for some of that type's roundings.
template <nn::SequenceMixer M> void check_half(M m, int64_t features) {
  m.eval();
  const NoGrad off;
  const Tensor x = cast(wave({2, 13, features}, 0.2), DType::f32), exact = m(x);
  for (const DType low : {DType::bf16, DType::f16}) {
    INFO(m.type_name() << " in " << name_of(low));
    const double most = 24 * (low == DType::bf16 ? 1.0 / 256 : 1.0 / 2048);
    {
      const Autocast amp(low);
      const Tensor y = m(x);
      CHECK(y.dtype() == low);
      CHECK(relative_difference(cast(y, DType::f32), exact) <= most);
      CHECK(relative_difference(cast(in_pieces(m, x, {4, 9}), DType::f32), exact) <= most);
    }
    auto half = m.clone();
    half.to(low);
    const Tensor y = half(cast(x, low));
    CHECK(y.dtype() == low);
    CHECK(relative_difference(cast(y, DType::f32), exact) <= most);
  }
}
/// What all of them refuse, and empty inputs.
template <nn::SequenceMixer M> void check_bad_input(M m, int64_t features) {
  INFO(m.type_name());
  typename M::State state;
  CHECK_THAT(error_of([&] {
               m(zeros({2, 3, features + 1}));
             }),
             ContainsSubstring(fmt::format("[2, 3, {}]; its shape must be (B, T, {})", features + 1, features)));
  CHECK_THAT(error_of([&] { m(zeros({3, features})); }), ContainsSubstring("its shape must be (B, T,"));
  CHECK_THAT(error_of([&] { m(Tensor()); }), ContainsSubstring("undefined"));
  CHECK_THAT(error_of([&] { m(zeros({2, 3, features}, {DType::i64})); }), ContainsSubstring("must be floating"));
  CHECK_THAT(error_of([&] { m.step(zeros({2, 0, features}), state); }), ContainsSubstring("no positions"));
  m.step(zeros({2, 3, features}), state);
  CHECK_THAT(error_of([&] { m.step(zeros({3, 1, features}), state); }), ContainsSubstring("of the state is [2, "));
  for (const Shape& s : {Shape{0, 3, features}, Shape{2, 0, features}}) CHECK(m(zeros(s)).shape() == s);
}
template <class Make> void check_mixer(Make&& make, int64_t features, const std::string& without = {}) {
  manual_seed(1);
  check_pieces(make(), features);
  check_gradients(make(), features, without);
  check_half(make(), features);
  check_meta(make, features);
  check_bad_input(make(), features);
}

}  // namespace retape::testing
