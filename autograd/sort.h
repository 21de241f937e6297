// Order: sorting, the largest few, medians and quantiles, unique values, searching and counting. nan counts as larger than all numbers.
#pragma once
#include <optional>

#include <retape/autograd/reduce.h>

namespace retape {

/// The elements along a dim in ascending or descending order, and where they were. Equal elements keep their order. torch: sort(stable).
WithIndices sort(const Tensor& x, int64_t dim = -1, bool descending = false);
/// The indices only. torch: argsort.
Tensor argsort(const Tensor& x, int64_t dim = -1, bool descending = false);
/// The k largest (or smallest) elements along a dim, sorted. Throws Error if there are fewer. torch: topk.
WithIndices topk(const Tensor& x, int64_t k, int64_t dim = -1, bool largest = true);
/// The k-th smallest element along a dim, k from 1. torch: kthvalue.
WithIndices kthvalue(const Tensor& x, int64_t k, int64_t dim = -1, bool keepdim = false);
/// The middle element along a dim (of an even number the lower one); nan if there is one. torch: median.
WithIndices median(const Tensor& x, int64_t dim, bool keepdim = false);
Tensor median(const Tensor& x);  ///< of all elements
/// How a quantile between two elements is found. torch: quantile(interpolation).
enum class Interpolation : uint8_t { linear, lower, higher, midpoint, nearest };
/// The q-quantiles along a dim, or of all elements without one; q is a number, or (k), which gives a leading dim of k. nan where
/// there is one. Throws Error unless 0 <= q <= 1, and for integers. torch: quantile.
Tensor quantile(const Tensor& x, double q, std::optional<int64_t> dim = {}, bool keepdim = false,
                Interpolation interpolation = Interpolation::linear);
Tensor quantile(const Tensor& x, const Tensor& q, std::optional<int64_t> dim = {}, bool keepdim = false,
                Interpolation interpolation = Interpolation::linear);

/// The different values, where each element of the input went (i64, the input's shape), and how often each value was there (i64).
struct Unique {
  Tensor values, inverse, counts;
};
/// The different elements in ascending order; with a dim, the different slices along it in lexicographic order (inverse is (size)
/// then). Every nan differs from all others. torch: unique(sorted).
Unique unique(const Tensor& x, std::optional<int64_t> dim = {});
/// Of each run of equal elements (or slices) one. torch: unique_consecutive.
Unique unique_consecutive(const Tensor& x, std::optional<int64_t> dim = {});

/// Where to insert each value so that `sorted` stays sorted: before equal elements, or behind them with `right`. sorted (n), or
/// (..., n) for values (..., m). Gives i64. torch: searchsorted, bucketize.
Tensor searchsorted(const Tensor& sorted, const Tensor& values, bool right = false);
Tensor bucketize(const Tensor& x, const Tensor& boundaries, bool right = false);
/// How often 0, 1, ... stand in x (n), integers that are not negative; or the sum of their weights (n). i64, or the weights' dtype;
/// at least `minlength` bins. torch: bincount.
Tensor bincount(const Tensor& x, const Tensor& weights = {}, int64_t minlength = 0);
/// How many elements lie in each of `bins` equal bins of [low, high]; low = high takes the extremes. x's dtype. torch: histc.
Tensor histc(const Tensor& x, int64_t bins = 100, double low = 0, double high = 0);

}  // namespace retape
