#include <retape/nn/receptive_field.h>

#include <fmt/format.h>

#include <algorithm>

namespace retape::nn {
namespace {

// A unit at `place` of every channel and image.
Intervals unit_of(const Tensor& y, const std::vector<int64_t>& place) {
  Intervals box = all_elements(y.shape());
  for (size_t d = 0; d < place.size(); ++d) box[2 + d] = {place[d], place[d] + 1};
  return box;
}
int space(const Tensor& t) { return std::max(t.dim() - 2, 0); }

}  // namespace

ReceptiveField field_between(const Tensor& y, const Tensor& x) {
  if (x.dim() < 3) throw Error(fmt::format("receptive_field: input {} has no dims of space; it must be (N, C, space)", x.shape().str()));
  if (space(y) != space(x) && space(y) != 0)
    throw Error(fmt::format("receptive_field: the output {} has {} dims of space, and the input {} has {}; there must be as many, or none",
                            y.shape().str(), space(y), x.shape().str(), space(x)));
  ReceptiveField field;
  field.x_ = x, field.y_ = y;
  const size_t units = size_t(space(y));
  const auto seen = [&](size_t d, int64_t i) {
    std::vector<int64_t> place(units);
    if (units) place[d] = i;
    const Intervals box = reached_elements(y, unit_of(y, place), x, false);
    return box.empty() ? Interval{} : box[2 + d];
  };
  for (size_t d = 0; d < size_t(space(x)); ++d) {
    ReceptiveField::Dim dim;
    const Interval first = seen(d, 0);
    if (first.empty()) throw Error("receptive_field: the output does not depend on the input");
    dim.offset = first.begin, dim.size = first.end - first.begin;
    if (units) {
      constexpr int64_t far = 5040;  // a multiple of every small factor by which images grow
      const int64_t last = y.size(int(2 + d)) - 1;
      if (const Interval there = seen(d, far); !there.empty()) dim.stride = double(there.begin - first.begin) / far;
      else if (last > 0) dim.stride = double(seen(d, last).begin - first.begin) / double(last);  // an output of pieces ends where they do
      // Where an image grows, units do not see equally many pixels, and where it is parted into so many units, neither.
      const int64_t some = std::min<int64_t>(y.size(int(2 + d)), 64);
      for (int64_t i = 1; i < some; ++i) {
        const Interval at = seen(d, i);
        dim.size = std::max(dim.size, at.end - at.begin);
      }
    }
    field.dims.push_back(dim);
  }
  return field;
}

std::vector<Interval> ReceptiveField::of(const std::vector<int64_t>& unit) const {
  const size_t units = size_t(space(y_));
  if (unit.size() != units)
    throw Error(fmt::format("ReceptiveField: a place of {} numbers is not in the output {}, which has {} dims of space", unit.size(),
                            y_.shape().str(), units));
  for (size_t d = 0; d < units; ++d)
    if (unit[d] < 0 || unit[d] >= y_.size(int(2 + d)))
      throw Error(fmt::format("ReceptiveField: unit {} is not in dim {} of the output {}", unit[d], 2 + d, y_.shape().str()));
  const Intervals box = reached_elements(y_, unit_of(y_, unit), x_, true);
  return box.empty() ? std::vector<Interval>(dims.size()) : std::vector<Interval>(box.begin() + 2, box.end());
}

}  // namespace retape::nn
