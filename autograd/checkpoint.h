// Recomputation: inside checkpoint() the tape keeps recipes instead of values.
#pragma once
#include <array>
#include <iterator>
#include <tuple>
#include <utility>
#include <vector>

#include <retape/autograd/autocast.h>
#include <retape/autograd/node.h>

namespace retape {

struct CheckpointOptions {
  /// `all`: nothing that f makes is kept. `cheap`: results of ops that are costly to run again (matrix products, attention,
  /// convolutions, factorisations: ops that say `static constexpr bool expensive = true`) stay where backward or a replay needs them;
  /// activations, norms, sums, dropout, views are computed again.
  Recompute recompute = Recompute::all;
};

namespace detail {
Ref<Region> open_region(CheckpointOptions options);
void leave(Region* region, Tensor& t);  // what a region returns belongs to the one around it
template <class T> void leave(Region*, T&) {}
template <class T> void leave(Region* region, std::vector<T>& v) {
  for (auto& t : v) leave(region, t);
}
template <class T, size_t n> void leave(Region* region, std::array<T, n>& v) {
  for (auto& t : v) leave(region, t);
}
template <class A, class B> void leave(Region* region, std::pair<A, B>& p) { leave(region, p.first), leave(region, p.second); }
template <class... T> void leave(Region* region, std::tuple<T...>& all) {
  std::apply([&](T&... t) { (leave(region, t), ...); }, all);
}

// The versions of the tensors that a region was given, to see whether it wrote into one.
class Untouched {
 public:
  template <class... In> explicit Untouched(const In&... in) { (note(in), ...); }
  void check() const;  // throws Error

 private:
  struct Seen {
    Tensor tensor;
    uint32_t version;
  };
  template <class T> void note(const T&) {}
  void note(const Tensor& t) {
    if (t) seen_.push({t, t.version()});
  }
  void note(const std::vector<Tensor>& v) {
    for (auto& t : v) note(t);
  }
  Few<Seen, 4> seen_;
};
}  // namespace detail

/// Runs f(in...) and keeps none of the values that it makes: backward computes them again from the ops on the tape. f returns a Tensor, a
/// vector, array, pair or tuple of them, anything else besides, or nothing. f itself runs once, so random numbers, statistics
/// and control flow are what they were, and gradients are bit-identical to those without checkpoint(). Regions may nest. Throws
/// Error if f writes into one of its inputs. Chen et al. 2016; torch: utils.checkpoint.checkpoint.
template <class F, class... In>
requires std::is_invocable_v<F, const In&...>
auto checkpoint(CheckpointOptions options, F&& f, const In&... in) {
  if (!ctx.recording || ctx.inside_forward) return f(in...);
  const auto region = detail::open_region(options);
  const detail::Untouched inputs(in...);
  const auto inside = [&]() -> decltype(auto) {
    const Scoped here(ctx.region, region.get());
    const ForgetCasts forget{region.get()};
    return f(in...);
  };
  if constexpr (std::is_void_v<std::invoke_result_t<F, const In&...>>) {
    inside();
    inputs.check();
  } else {
    auto out = inside();
    inputs.check();
    detail::leave(region.get(), out);
    return out;
  }
}
template <class F, class... In>
requires std::is_invocable_v<F, const In&...>
auto checkpoint(F&& f, const In&... in) { return checkpoint(CheckpointOptions{}, std::forward<F>(f), in...); }

namespace detail {
int64_t segment_end(int64_t blocks, int64_t segments, int64_t segment);  // throws Error for a bad number of segments
}

/// Applies a range of functions or modules one after the other, `x = block(x)`, in `segments` checkpoints of about equal length, of which the
/// last is none, since backward needs its values at once. Memory is least for about sqrt(n) segments. Throws Error unless 1 <= segments
/// <= number of blocks. torch: utils.checkpoint.checkpoint_sequential.
template <class Blocks> Tensor checkpoint_sequential(Blocks&& blocks, int64_t segments, Tensor x, CheckpointOptions options = {}) {
  const auto first = std::begin(blocks);
  const int64_t count = std::distance(first, std::end(blocks));
  int64_t begin = 0;
  for (int64_t segment = 0; segment < segments || !segment; ++segment) {
    const int64_t end = detail::segment_end(count, segments, segment);
    const auto part = [&](const Tensor& in) {
      Tensor h = in;
      for (int64_t i = begin; i < end; ++i) h = (*std::next(first, i))(h);
      return h;
    };
    x = segment + 1 < segments ? checkpoint(options, part, x) : part(x);
    begin = end;
  }
  return x;
}

}  // namespace retape
