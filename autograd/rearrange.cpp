#include <retape/autograd/rearrange.h>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include <retape/autograd/binary.h>
#include <retape/autograd/check.h>
#include <retape/autograd/index.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>
#include <retape/autograd/window.h>

namespace retape {
namespace {

using detail::Window;

Tensor integers(const std::vector<int64_t>& values, Device device) { return to(tensor(values), device); }

struct Cat {
  static constexpr auto name = "cat";
  int dim;
  std::vector<int64_t> sizes = {};
  Tensor forward(const std::vector<Tensor>& xs) {
    Shape shape = xs[0].shape();
    shape[dim] = 0;
    sizes.clear();
    for (auto& x : xs) {
      sizes.push_back(x.shape()[dim]);
      shape[dim] += sizes.back();
    }
    const Tensor y = empty(shape, xs[0].options());
    int64_t at = 0;
    for (size_t i = 0; i < xs.size(); at += sizes[i++]) {
      Tensor part = narrow(y, dim, at, sizes[i]);
      RETAPE_DISPATCH(y.device(), copy(xs[i], part));
    }
    return y;
  }
  void backward(const Tensor& dy, Grads& dx) {
    int64_t at = 0;
    for (size_t i = 0; i < sizes.size(); at += sizes[i++])
      if (dx.wants(int(i))) dx.set(int(i), narrow(dy, dim, at, sizes[i]));
  }
  Intervals reach(const Reach& r) const {
    Intervals box = r.box;
    Interval& along = box[size_t(dim)];
    for (int i = 0; i < r.input; ++i) along.begin -= sizes[size_t(i)], along.end -= sizes[size_t(i)];
    along = {std::max<int64_t>(along.begin, 0), std::min(along.end, sizes[size_t(r.input)])};
    return box;
  }
};

}  // namespace

Tensor cat(const std::vector<Tensor>& xs, int64_t dim) {
  if (xs.empty()) throw Error("cat: no tensors are given; at least one is needed");
  const int d = sized_dim("cat", xs[0], dim);
  DType dtype = xs[0].dtype();
  for (auto& x : xs) {
    check_defined("cat", x);
    Shape a = xs[0].shape(), b = x.shape();
    if (a.rank() == b.rank()) a[d] = b[d] = 0;
    if (!(a == b))
      throw Error(fmt::format("cat: {} and {} cannot be joined along dim {}: all other sizes must be equal", xs[0].shape().str(),
                              x.shape().str(), d));
    check_one_device("cat", xs[0], x);
    dtype = promote(dtype, x.dtype());
  }
  std::vector<Tensor> same;
  for (auto& x : xs) same.push_back(cast(x, dtype));
  return record(Cat{d}, same);
}
Tensor stack(const std::vector<Tensor>& xs, int64_t dim) {
  if (xs.empty()) throw Error("stack: no tensors are given; at least one is needed");
  std::vector<Tensor> rows;
  for (auto& x : xs) {
    check_defined("stack", x);
    if (!(x.shape() == xs[0].shape()))
      throw Error(fmt::format("stack: shapes {} and {} differ; they must be equal", xs[0].shape().str(), x.shape().str()));
    rows.push_back(unsqueeze(x, normalize_dim("stack", dim, x.dim() + 1)));
  }
  return cat(rows, normalize_dim("stack", dim, xs[0].dim() + 1));
}

namespace {
template <class F> std::vector<Tensor> each(const std::vector<Tensor>& xs, const F& f) {
  std::vector<Tensor> ys;
  for (auto& x : xs) ys.push_back(f(x));
  return ys;
}
}  // namespace

Tensor hstack(const std::vector<Tensor>& xs) {
  const auto ys = each(xs, atleast_1d);
  return cat(ys, !ys.empty() && ys[0].dim() == 1 ? 0 : 1);
}
Tensor vstack(const std::vector<Tensor>& xs) { return cat(each(xs, atleast_2d), 0); }
Tensor dstack(const std::vector<Tensor>& xs) { return cat(each(xs, atleast_3d), 2); }
Tensor column_stack(const std::vector<Tensor>& xs) {
  return cat(each(xs,
                  [](const Tensor& x) {
                    check_defined("column_stack", x);
                    return x.dim() <= 1 ? reshape(x, {x.numel(), 1}) : x;
                  }),
             1);
}

Tensor flip(const Tensor& x, const Shape& dims) {
  check_defined("flip", x);
  Window w = Window::whole(x.shape());
  for (int64_t dim : dims) {
    const int d = normalize_dim("flip", dim, x.dim());
    if (x.dim() == 0) continue;
    if (w.step[d] < 0) throw Error(fmt::format("flip: dim {} occurs twice in {}; every dim may occur once", d, dims.str()));
    w = w.with(d, x.shape()[d] - 1, x.shape()[d], -1);
  }
  return dims.rank() && x.dim() ? detail::read_window("flip", x, w) : clone(x);
}
Tensor fliplr(const Tensor& x) {
  check_defined("fliplr", x);
  if (x.dim() < 2) throw Error(fmt::format("fliplr: a tensor of shape {} has no dim 1; at least two dims are needed", x.shape().str()));
  return flip(x, {1});
}
Tensor flipud(const Tensor& x) {
  sized_dim("flipud", x, 0);
  return flip(x, {0});
}
Tensor rot90(const Tensor& x, int64_t k, const Shape& dims) {
  check_defined("rot90", x);
  if (dims.rank() != 2 || x.dim() < 2 || normalize_dim("rot90", dims[0], x.dim()) == normalize_dim("rot90", dims[1], x.dim()))
    throw Error(fmt::format("rot90: dims {} do not span a plane of {}; two different dims are needed", dims.str(), x.shape().str()));
  switch ((k % 4 + 4) % 4) {
    case 1: return transpose(flip(x, {dims[1]}), dims[0], dims[1]);
    case 2: return flip(x, dims);
    case 3: return flip(transpose(x, dims[0], dims[1]), {dims[1]});
    default: return clone(x);
  }
}
Tensor roll(const Tensor& x, const Shape& shifts, const Shape& dims) {
  check_defined("roll", x);
  if (shifts.rank() != dims.rank())
    throw Error(fmt::format("roll: {} shifts are given for {} dims; there must be one for each", shifts.rank(), dims.rank()));
  Tensor y = x;
  for (int k = 0; k < dims.rank(); ++k) {
    const int d = sized_dim("roll", x, dims[k]);
    const int64_t n = x.shape()[d], shift = n ? (shifts[k] % n + n) % n : 0;
    if (shift) y = cat({narrow(y, d, n - shift, shift), narrow(y, d, 0, n - shift)}, d);
  }
  return y.impl() == x.impl() ? clone(x) : y;
}
Tensor roll(const Tensor& x, int64_t shift) { return reshape(roll(flatten(x), shift, 0), x.shape()); }

namespace {
// Every element of dim d `count` times: in a row, or the whole dim again and again.
Tensor repeated(const Tensor& x, int d, int64_t count, bool in_a_row) {
  Shape shape = x.shape();
  shape.insert(in_a_row ? d + 1 : d, count);
  const Tensor y = expand(unsqueeze(x, in_a_row ? d + 1 : d), shape);
  shape = x.shape();
  shape[d] *= count;
  return reshape(y, shape);
}
}  // namespace

Tensor repeat(const Tensor& x, const Shape& sizes) {
  check_defined("repeat", x);
  if (sizes.rank() < x.dim())
    throw Error(fmt::format("repeat: {} gives {} numbers for the {} dims of {}; there must be one for each", sizes.str(), sizes.rank(),
                            x.dim(), x.shape().str()));
  Shape shape = Shape::filled(sizes.rank(), 1);
  for (int d = 0; d < x.dim(); ++d) shape[sizes.rank() - x.dim() + d] = x.shape()[d];
  Tensor y = reshape(x, shape);
  for (int d = sizes.rank(); d-- > 0;) {
    if (sizes[d] < 0) throw Error(fmt::format("repeat: {} times dim {} is not valid; it must be at least 0", sizes[d], d));
    if (sizes[d] != 1) y = repeated(y, d, sizes[d], false);
  }
  return y.shares_storage(x) ? clone(y) : y;
}
Tensor tile(const Tensor& x, const Shape& sizes) {
  check_defined("tile", x);
  Shape all = sizes;
  while (all.rank() < x.dim()) all.insert(0, 1);
  return repeat(x, all);
}
Tensor repeat_interleave(const Tensor& x, int64_t repeats, int64_t dim) {
  const int d = sized_dim("repeat_interleave", x, dim);
  if (repeats < 0) throw Error(fmt::format("repeat_interleave: {} repeats are not valid; there must be at least 0", repeats));
  const Tensor y = repeated(x, d, repeats, true);
  return y.shares_storage(x) ? clone(y) : y;
}
Tensor repeat_interleave(const Tensor& x, int64_t repeats) { return repeat_interleave(flatten(x), repeats, 0); }
Tensor repeat_interleave(const Tensor& x, const Tensor& repeats, int64_t dim) {
  const int d = sized_dim("repeat_interleave", x, dim);
  check_defined("repeat_interleave", repeats);
  const int64_t n = x.shape()[d];
  if ((repeats.dtype() != DType::i64 && repeats.dtype() != DType::i32) || repeats.dim() > 1 ||
      (repeats.numel() != n && repeats.numel() != 1))
    throw Error(fmt::format("repeat_interleave: repeats of shape {} and {} do not fit dim {} of {}; they must be i64 or i32 of shape [{}]",
                            repeats.shape().str(), name_of(repeats.dtype()), d, x.shape().str(), n));
  if (repeats.device().is_meta()) throw Error("repeat_interleave: meta tensors have no values, so the result's shape is not known");
  const auto counts = repeats.to_vector<int64_t>();
  std::vector<int64_t> index;
  for (int64_t j = 0; j < n; ++j) {
    const int64_t count = counts[counts.size() == 1 ? 0 : size_t(j)];
    if (count < 0) throw Error(fmt::format("repeat_interleave: {} repeats are not valid; there must be at least 0", count));
    index.insert(index.end(), size_t(count), j);
  }
  return index_select(x, d, integers(index, x.device()));
}
Tensor repeat_interleave(const Tensor& x, const Tensor& repeats) { return repeat_interleave(flatten(x), repeats, 0); }

namespace {
// For each element of a padded dim of size n, the element that it copies.
std::vector<int64_t> padding_index(int64_t n, int64_t before, int64_t after, PadMode mode) {
  std::vector<int64_t> index;
  for (int64_t i = -before; i < n + after; ++i) switch (mode) {
      case PadMode::reflect: index.push_back(i < 0 ? -i : i < n ? i : 2 * (n - 1) - i); break;
      case PadMode::circular: index.push_back((i + n) % n); break;
      default: index.push_back(std::clamp<int64_t>(i, 0, n - 1)); break;
    }
  return index;
}
}  // namespace

Tensor pad(const Tensor& x, const std::vector<int64_t>& pads, PadMode mode, double value) {
  check_defined("pad", x);
  if (pads.size() % 2 || pads.size() > 2 * size_t(x.dim()))
    throw Error(fmt::format("pad: {} numbers do not fit a tensor of shape {}; expected a pair for each padded dim, at most {}", pads.size(),
                            x.shape().str(), 2 * x.dim()));
  if (mode == PadMode::constant && !is_floating(x.dtype()) && value != std::floor(value))
    throw Error(fmt::format("pad: the value {} is not one of {}; give a whole number or cast() x", value, name_of(x.dtype())));
  Window kept = Window::whole(x.shape());
  Shape to = x.shape(), begin = Shape::filled(x.dim(), 0);
  Tensor y = x;
  for (size_t k = 0; k < pads.size() / 2; ++k) {
    const int d = x.dim() - 1 - int(k);
    const int64_t n = x.shape()[d], before = pads[2 * k], after = pads[2 * k + 1], most = std::max(before, after);
    if (n + before + after < 0 || n + std::min<int64_t>(before, 0) + std::min<int64_t>(after, 0) < 0)
      throw Error(fmt::format("pad: {} before and {} after take more from dim {} of {} than it has", before, after, d, x.shape().str()));
    if (mode == PadMode::constant) {
      kept = kept.with(d, std::max<int64_t>(0, -before), n + std::min<int64_t>(before, 0) + std::min<int64_t>(after, 0));
      to[d] = n + before + after;
      begin[d] = std::max<int64_t>(0, before);
      continue;
    }
    if (before == 0 && after == 0) continue;
    const int64_t limit = mode == PadMode::reflect ? n - 1 : n;
    if (n == 0 || (mode != PadMode::replicate && most > limit))
      throw Error(fmt::format("pad: {} before and {} after are too many for dim {} of {} in this mode; at most {}", before, after, d,
                              x.shape().str(), std::max<int64_t>(0, limit)));
    y = index_select(y, d, integers(padding_index(n, before, after, mode), x.device()));
  }
  if (mode != PadMode::constant) return y.impl() == x.impl() ? clone(x) : y;
  if (!(kept.length == x.shape())) y = detail::read_window("pad", y, kept);
  return detail::frame_window("pad", y, {begin, kept.length, Shape::filled(x.dim(), 1)}, to, value);
}

Tensor cartesian_prod(const std::vector<Tensor>& xs) {
  for (auto& x : xs) {
    check_defined("cartesian_prod", x);
    if (x.dim() != 1) throw Error(fmt::format("cartesian_prod: a tensor has shape {}; all must have one dim", x.shape().str()));
  }
  if (xs.size() == 1) return xs[0];
  return stack(each(meshgrid(xs), [](const Tensor& x) { return flatten(x); }), 1);
}
Tensor combinations(const Tensor& x, int64_t r, bool with_replacement) {
  check_defined("combinations", x);
  if (x.dim() != 1) throw Error(fmt::format("combinations: the tensor has shape {}; it must have one dim", x.shape().str()));
  if (r < 0) throw Error(fmt::format("combinations: r {} is not valid; it must be at least 0", r));
  if (r == 0) return empty({0}, x.options());
  // Choices in lexicographic order: the last place that can still grow does, and those behind it start over.
  const int64_t n = x.shape()[0], gap = with_replacement ? 0 : 1;
  std::vector<int64_t> choice, all;
  for (int64_t k = 0; k < r; ++k) choice.push_back(k * gap);
  const auto last = [&](int64_t k) { return n - 1 - (r - 1 - k) * gap; };
  while (choice[0] <= last(0) && last(0) >= 0) {
    all.insert(all.end(), choice.begin(), choice.end());
    int64_t k = r - 1;
    while (k > 0 && choice[size_t(k)] == last(k)) --k;
    ++choice[size_t(k)];
    for (int64_t j = k + 1; j < r; ++j) choice[size_t(j)] = choice[size_t(j - 1)] + gap;
  }
  return reshape(index_select(x, 0, integers(all, x.device())), {int64_t(all.size()) / r, r});
}
Tensor one_hot(const Tensor& x, int64_t num_classes) {
  check_defined("one_hot", x);
  if (x.dtype() != DType::i64 && x.dtype() != DType::i32)
    throw Error(fmt::format("one_hot: classes of {} are given; they must be i64 or i32", name_of(x.dtype())));
  if (num_classes < -1 || num_classes == 0)
    throw Error(fmt::format("one_hot: {} classes are not valid; there must be at least 1, or -1 to count them", num_classes));
  if (num_classes == -1 && (x.numel() == 0 || x.device().is_meta()))
    throw Error(fmt::format("one_hot: the number of classes cannot be found from a tensor of shape {} without values; give num_classes",
                            x.shape().str()));
  if (x.numel() && !x.device().is_meta()) {
    const int64_t low = amin(x).item<int64_t>(), high = amax(x).item<int64_t>();
    if (num_classes == -1) num_classes = high + 1;
    if (low < 0 || high >= num_classes)
      throw Error(fmt::format("one_hot: class {} is out of range; expected 0 <= class < {}", low < 0 ? low : high, num_classes));
  }
  return cast(eq(unsqueeze(x, -1), arange(0, double(num_classes), 1, {x.dtype(), x.device()})), DType::i64);
}

}  // namespace retape
