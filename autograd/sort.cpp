#include <retape/autograd/sort.h>

#include <fmt/format.h>

#include <cmath>

#include <retape/autograd/binary.h>
#include <retape/autograd/check.h>
#include <retape/autograd/index.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/scan.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>

namespace retape {
namespace {

// The permutation is found here; values are gathered by it, so that gradients are gather's.
struct Argsort {
  static constexpr auto name = "argsort";
  static constexpr int differentiable = 0;
  int dim;
  bool descending;
  std::array<Tensor, 2> forward(const Tensor& x) {
    const Tensor in = contiguous(x);
    Tensor y = empty(x.shape(), x.options()), index = empty(x.shape(), {DType::i64, x.device()});
    RETAPE_DISPATCH(x.device(), sort(in, dim, descending, y, index));
    return {y, index};
  }
};
struct SearchSorted {
  static constexpr auto name = "searchsorted";
  static constexpr int differentiable = 0;
  bool right;
  Tensor forward(const Tensor& sorted, const Tensor& values) {
    const Tensor s = contiguous(sorted), v = contiguous(values);
    Tensor index = empty(values.shape(), {DType::i64, values.device()});
    RETAPE_DISPATCH(values.device(), search_sorted(s, v, right, index));
    return index;
  }
};

void check_count(const char* name, const Tensor& x, int d, int64_t k, int64_t least) {
  const int64_t n = x.dim() ? x.shape()[d] : 1;
  if (k < least || k > n)
    throw Error(
        fmt::format("{}: k = {} is out of range for dim {} of shape {}; expected {} <= k <= {}", name, k, d, x.shape().str(), least, n));
}
void check_not_empty(const char* name, const Tensor& x, int d) {
  if (x.dim() && x.shape()[d] == 0) throw Error(fmt::format("{}: dim {} of shape {} has no elements", name, d, x.shape().str()));
}
WithIndices one(const Tensor& x, int d, const Tensor& at, bool keepdim) {  // at has size 1 in dim d
  if (x.dim() == 0) return {identity(x), at};
  const Tensor values = gather(x, d, at);
  return keepdim ? WithIndices{values, at} : WithIndices{squeeze(values, d), squeeze(at, d)};
}

// Marks the first of each run of equal slices along dim 0 of a matrix (n, m).
Tensor starts_of_runs(const Tensor& rows) {
  const int64_t n = rows.size(0);
  const Options flags{DType::boolean, rows.device()};
  if (n == 0) return empty({0}, flags);
  const Tensor differs = any(ne(narrow(rows, 0, 1, n - 1), narrow(rows, 0, 0, n - 1)), {1});
  return cat({ones({1}, flags), differs});
}
// rows (n, m), equal ones next to each other; order (n): where each came from, or undefined if they are in their old order.
Unique runs(const Tensor& rows, const Tensor& order) {
  const int64_t n = rows.size(0);
  const Tensor starts = starts_of_runs(rows), number = cumsum(starts, 0) - 1;  // of each row's run
  const int64_t count = n ? number.to_vector<int64_t>().back() + 1 : 0;
  const Options integers{DType::i64, rows.device()};
  const Tensor counts = index_add(zeros({count}, integers), 0, number, ones({n}, integers));
  const Tensor first = cumsum(counts, 0) - counts;
  return {index_select(rows, 0, first), order ? scatter_add(zeros({n}, integers), 0, order, number) : number, counts};
}
Unique unique_of(const char* name, const Tensor& input, std::optional<int64_t> dim, bool consecutive) {
  check_defined(name, input);
  const Tensor x = input.detach();
  const NoGrad off;
  if (!dim) {
    const Tensor flat = reshape(x, {-1, 1});
    Tensor order = consecutive ? Tensor{} : argsort(flat, 0);
    Unique u = runs(order ? gather(flat, 0, order) : flat, order ? reshape(order, {-1}) : order);
    return {reshape(u.values, {-1}), reshape(u.inverse, x.shape()), u.counts};
  }
  const int d = check_dim(name, x, *dim);
  if (x.dim() == 0) throw Error(fmt::format("{}: a tensor without dims has no dim {}", name, *dim));
  const int64_t n = x.shape()[d], m = n ? x.numel() / n : 0;
  const Tensor front = transpose(x, 0, d);
  const Tensor rows = m ? reshape(front, {n, m}) : zeros({n, 1}, x.options());
  Tensor order = consecutive ? Tensor{} : arange(0, double(n), 1, {DType::i64, x.device()});
  if (!consecutive)  // sorting by the last column first, stably, leaves rows in lexicographic order
    for (int64_t c = m; c-- > 0;) order = index_select(order, 0, argsort(index_select(select(rows, 1, c), 0, order), 0));
  Unique u = runs(order ? index_select(rows, 0, order) : rows, order);
  Shape shape = front.shape();
  shape[0] = u.counts.size(0);
  u.values = m ? transpose(reshape(u.values, shape), 0, d) : transpose(empty(shape, x.options()), 0, d);
  return u;
}

}  // namespace

WithIndices sort(const Tensor& x, int64_t dim, bool descending) {
  const int d = check_dim("sort", x, dim);
  if (x.dim() == 0) return {identity(x), zeros({}, {DType::i64, x.device()})};
  const auto sorted = record(Argsort{d, descending}, x);
  return {ctx.recording && x.requires_grad() ? gather(x, d, sorted[1]) : sorted[0], sorted[1]};
}
Tensor argsort(const Tensor& x, int64_t dim, bool descending) { return sort(x.detach(), dim, descending).indices; }
WithIndices topk(const Tensor& x, int64_t k, int64_t dim, bool largest) {
  const int d = check_dim("topk", x, dim);
  check_count("topk", x, d, k, 0);
  if (x.dim() == 0) return k ? sort(x) : WithIndices{reshape(zeros({0}, x.options()), {0}), zeros({0}, {DType::i64, x.device()})};
  const Tensor at = narrow(argsort(x, d, largest), d, 0, k);
  return {gather(x, d, at), at};
}
WithIndices kthvalue(const Tensor& x, int64_t k, int64_t dim, bool keepdim) {
  const int d = check_dim("kthvalue", x, dim);
  check_count("kthvalue", x, d, k, 1);
  return one(x, d, x.dim() ? narrow(argsort(x, d), d, k - 1, 1) : argsort(x), keepdim);
}
WithIndices median(const Tensor& x, int64_t dim, bool keepdim) {
  const int d = check_dim("median", x, dim);
  check_not_empty("median", x, d);
  if (x.dim() == 0) return one(x, d, argsort(x), keepdim);
  const int64_t n = x.shape()[d];
  const Tensor order = argsort(x, d), middle = narrow(order, d, (n - 1) / 2, 1), last = narrow(order, d, n - 1, 1);
  return one(x, d, where(isnan(gather(x.detach(), d, last)), last, middle), keepdim);
}
Tensor median(const Tensor& x) {
  check_defined("median", x);
  return median(reshape(x, {-1}), 0).values;
}

Tensor quantile(const Tensor& x, const Tensor& q, std::optional<int64_t> dim, bool keepdim, Interpolation interpolation) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& in) { return quantile(in, q, dim, keepdim, interpolation); }, x);
  if (!x || !q) throw Error("quantile: x or q is an undefined tensor");
  if (!is_floating(x.dtype()))
    throw Error(fmt::format("quantile: the tensor has dtype {}; cast() it to a floating dtype", name_of(x.dtype())));
  if (q.dim() > 1) throw Error(fmt::format("quantile: q has shape {}; it must be a number or have one dim", q.shape().str()));
  const auto wanted = q.to_vector<double>();
  for (const double v : wanted)
    if (!(v >= 0 && v <= 1)) throw Error(fmt::format("quantile: q = {} is out of range; expected 0 <= q <= 1", v));
  const Tensor lines = dim ? x : reshape(x, {-1});
  const int d = dim ? check_dim("quantile", x, *dim) : 0;
  if (x.dim() == 0) return expand(x, q.shape());
  check_not_empty("quantile", lines, d);
  const int64_t n = lines.shape()[d];
  const Tensor sorted = sort(lines, d).values, broken = any(isnan(lines), {d}, true);
  std::vector<Tensor> results;
  for (const double v : wanted) {
    const double at = v * double(n - 1), low = std::floor(at);
    const Tensor below = narrow(sorted, d, int64_t(low), 1), above = narrow(sorted, d, std::min(int64_t(low) + 1, n - 1), 1);
    Tensor y;
    switch (interpolation) {
      case Interpolation::linear: y = at == low ? below : lerp(below, above, at - low); break;
      case Interpolation::lower: y = below; break;
      case Interpolation::higher: y = at == low ? below : above; break;
      case Interpolation::midpoint: y = at == low ? below : (below + above) * 0.5; break;
      case Interpolation::nearest: y = narrow(sorted, d, int64_t(std::nearbyint(at)), 1); break;
    }
    y = where(broken, NAN, y);
    if (!keepdim) y = squeeze(y, d);
    else if (!dim) y = reshape(y, Shape::filled(x.dim(), 1));
    results.push_back(y);
  }
  return q.dim() == 0 ? results[0] : stack(results);
}
Tensor quantile(const Tensor& x, double q, std::optional<int64_t> dim, bool keepdim, Interpolation interpolation) {
  return quantile(x, full({}, q, {DType::f64}), dim, keepdim, interpolation);
}

Unique unique(const Tensor& x, std::optional<int64_t> dim) { return unique_of("unique", x, dim, false); }
Unique unique_consecutive(const Tensor& x, std::optional<int64_t> dim) { return unique_of("unique_consecutive", x, dim, true); }

Tensor searchsorted(const Tensor& sorted, const Tensor& values, bool right) {
  if (!sorted || !values) throw Error("searchsorted: sorted or values is an undefined tensor");
  if (sorted.dim() == 0) throw Error("searchsorted: sorted has no dims; it must have at least one");
  bool fits = sorted.dim() == 1 || sorted.dim() == values.dim();
  for (int d = 0; fits && sorted.dim() > 1 && d + 1 < sorted.dim(); ++d) fits = sorted.shape()[d] == values.shape()[d];
  if (!fits)
    throw Error(fmt::format("searchsorted: sorted {} does not fit values {}; it must have one dim, or equal sizes in all dims but the last",
                            sorted.shape().str(), values.shape().str()));
  check_one_device("searchsorted", sorted, values);
  const DType dtype = promote(sorted.dtype(), values.dtype());
  const NoGrad off;
  return record(SearchSorted{right}, cast(sorted.detach(), dtype), cast(values.detach(), dtype));
}
Tensor bucketize(const Tensor& x, const Tensor& boundaries, bool right) {
  if (boundaries && boundaries.dim() != 1)
    throw Error(fmt::format("bucketize: boundaries have shape {}; they must have one dim", boundaries.shape().str()));
  return searchsorted(boundaries, x, right);
}

Tensor bincount(const Tensor& x, const Tensor& weights, int64_t minlength) {
  check_defined("bincount", x);
  if (is_floating(x.dtype()) || x.dtype() == DType::boolean || x.dim() != 1)
    throw Error(fmt::format("bincount: x has shape {} and dtype {}; it must be (n) of integers", x.shape().str(), name_of(x.dtype())));
  if (weights && !(weights.shape() == x.shape()))
    throw Error(fmt::format("bincount: weights {} do not fit x {}; the shapes must be equal", weights.shape().str(), x.shape().str()));
  if (minlength < 0) throw Error(fmt::format("bincount: minlength {} must not be negative", minlength));
  int64_t bins = minlength;
  if (x.numel()) {
    const int64_t low = amin(x).item<int64_t>();
    if (low < 0) throw Error(fmt::format("bincount: x has the element {}; all must be at least 0", low));
    bins = std::max(bins, amax(x).item<int64_t>() + 1);
  }
  const Tensor each = weights ? weights : ones(x.shape(), {DType::i64, x.device()});
  return index_add(zeros({bins}, each.options()), 0, cast(x, DType::i64), each);
}
Tensor histc(const Tensor& x, int64_t bins, double low, double high) {
  if (!x || !is_floating(x.dtype())) throw Error("histc: x must be a floating tensor");
  if (bins < 1) throw Error(fmt::format("histc: {} bins are not possible; give at least 1", bins));
  const NoGrad off;
  const Tensor flat = cast(reshape(x.detach(), {-1}), DType::f64);
  if (low == high && flat.numel()) low = amin(flat).item(), high = amax(flat).item();
  if (low == high) low -= 1, high += 1;
  if (!(std::isfinite(low) && std::isfinite(high) && low < high))
    throw Error(fmt::format("histc: the range from {} to {} is not finite and ascending", low, high));
  const Tensor inside = logical_and(ge(flat, low), le(flat, high));
  const Tensor bin = clamp(cast(floor((where(inside, flat, low) - low) * (double(bins) / (high - low))), DType::i64), 0, bins - 1);
  return index_add(zeros({bins}, x.options()), 0, bin, cast(inside, x.dtype()));
}

}  // namespace retape
