// Recomputation: inside checkpoint() the tape keeps recipes instead of values.
#pragma once
#include <vector>

#include <retape/autograd/node.h>

namespace retape {

namespace detail {
void leave(Region* region, Tensor& t);  // what a region returns belongs to the one around it
inline void leave(Region* region, std::vector<Tensor>& v) {
  for (auto& t : v) leave(region, t);
}
}  // namespace detail

/// Runs f(in...), which returns a Tensor or a std::vector<Tensor>, and keeps none of the values that it makes: backward computes
/// them again from the ops on the tape. f itself runs once, so random numbers, statistics and control flow are what they were,
/// and gradients are bit-identical to those without checkpoint(). Regions may nest. Chen et al. 2016; torch: checkpoint.
template <class F, class... In> auto checkpoint(F&& f, const In&... in) {
  auto region = Ref<Region>::adopt(new Region);
  region->outer = Ref<Region>::share(ctx.region);
  if (!ctx.recording || ctx.inside_forward) return f(in...);
  auto out = [&] {
    const Scoped inside(ctx.region, region.get());
    return f(in...);
  }();
  detail::leave(region.get(), out);
  return out;
}

}  // namespace retape
