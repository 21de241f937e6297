#include <retape/autograd/scan.h>

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include <retape/autograd/binary.h>
#include <retape/autograd/check.h>
#include <retape/autograd/index.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>

namespace retape {
namespace {

// Scans a tensor as it lies in memory: y gets x's strides if x only has its dims in another order.
Tensor run(ScanKind kind, const Tensor& x, int dim, bool reverse) {
  if (!x.is_contiguous()) {
    std::vector<int64_t> order(size_t(x.dim())), place(order.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return x.strides()[int(a)] > x.strides()[int(b)]; });
    for (size_t d = 0; d < order.size(); ++d) place[size_t(order[d])] = int64_t(d);
    if (const Tensor in = permute(x, order); in.is_contiguous()) return permute(run(kind, in, int(place[size_t(dim)]), reverse), place);
  }
  const Tensor in = contiguous(x);
  Tensor y = empty(x.shape(), x.options());
  RETAPE_DISPATCH(x.device(), scan(kind, in, dim, reverse, y));
  return y;
}

struct CumSum {
  static constexpr auto name = "cumsum";
  static constexpr auto precision = Precision::full;
  int dim;
  bool reverse = false;
  Tensor forward(const Tensor& x) { return run(ScanKind::sum, x, dim, reverse); }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, record(CumSum{dim, !reverse}, dy)); }
};
Tensor sum_from(const Tensor& x, int dim) { return record(CumSum{dim, true}, x); }

struct CumProd {
  static constexpr auto name = "cumprod";
  static constexpr auto precision = Precision::full;
  int dim;
  Saved x = {}, y = {};
  Tensor forward(const Tensor& in) {
    const Tensor out = run(ScanKind::prod, in, dim, false);
    x = save(in), y = save(out);
    return out;
  }
  // dx_k = sum over i >= k of dy_i y_i / x_k. For the first 0 of a line, y_i / x_k is the product without it; behind it all is 0.
  void backward(const Tensor& dy, Grads& dx) {
    const Tensor in = *x, zero = eq(in, 0);
    if (!in.device().is_meta() && !any(zero).item<bool>()) return dx.set(0, sum_from(dy * *y, dim) / in);
    const Tensor first = logical_and(zero, eq(cumsum(zero, dim), 1));
    const Tensor without = cumprod(where(first, 1, in), dim);
    dx.set(0, where(first, sum_from(dy * without, dim), sum_from(dy * *y, dim) / where(zero, 1, in)));
  }
};

struct LogCumSumExpBackward {
  static constexpr auto name = "logcumsumexp_backward";
  int dim;
  Tensor forward(const Tensor& dy, const Tensor& x, const Tensor& y) {
    const Tensor g = contiguous(dy), in = contiguous(x), out = contiguous(y);
    Tensor dx = empty(x.shape(), x.options());
    RETAPE_DISPATCH(x.device(), logcumsumexp_backward(g, in, out, dim, dx));
    return dx;
  }
  // The weights e^(x_k - y_i), i >= k, as a matrix for each line: second derivatives are rare, and safe this way.
  Tensor composite(const Tensor& dy, const Tensor& x, const Tensor& y) {
    const int64_t n = x.size(dim);
    const Tensor steps = arange(0, double(n), 1, {DType::i64, x.device()});
    const Tensor later = ge(steps, unsqueeze(steps, 1));  // (k, i)
    const auto last = [&](const Tensor& t) { return transpose(t, dim, -1); };
    const Tensor difference = unsqueeze(last(x), -1) - unsqueeze(last(y), -2);
    const Tensor weights = where(later, exp(where(later, difference, 0)), 0);
    return transpose(sum(weights * unsqueeze(last(dy), -2), {-1}), dim, -1);
  }
};
struct LogCumSumExp {
  static constexpr auto name = "logcumsumexp";
  static constexpr auto precision = Precision::full;
  int dim;
  Saved x = {}, y = {};
  Tensor forward(const Tensor& in) {
    const Tensor out = run(ScanKind::logsumexp, in, dim, false);
    x = save(in), y = save(out);
    return out;
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, record(LogCumSumExpBackward{dim}, dy, *x, *y)); }
};

struct ScanArg {
  const char* name;
  ArgKind kind;
  int dim;
  static constexpr int differentiable = 0;
  Tensor forward(const Tensor& x) {
    const Tensor in = contiguous(x);
    Tensor index = empty(x.shape(), {DType::i64, x.device()});
    RETAPE_DISPATCH(x.device(), scan_arg(kind, in, dim, index));
    return index;
  }
};

// Runs f on x, or, for a tensor without dims, on x with one.
template <class F> Tensor along(const Tensor& x, const F& f) { return x.dim() ? f(x) : squeeze(f(unsqueeze(x, 0)), 0); }
Tensor whole(const Tensor& x) { return is_floating(x.dtype()) ? x : cast(x, DType::i64); }
WithIndices running(const char* name, ArgKind kind, const Tensor& x, int64_t dim) {
  const int d = check_dim(name, x, dim);
  const Tensor index = along(x, [&](const Tensor& t) { return record(ScanArg{name, kind, d}, t); });
  return {x.dim() ? gather(x, d, index) : identity(x), index};
}

}  // namespace

Tensor cumsum(const Tensor& x, int64_t dim) {
  const int d = check_dim("cumsum", x, dim);
  return along(whole(x), [&](const Tensor& t) { return record(CumSum{d}, t); });
}
Tensor cumprod(const Tensor& x, int64_t dim) {
  const int d = check_dim("cumprod", x, dim);
  return along(whole(x), [&](const Tensor& t) { return record(CumProd{d}, t); });
}
Tensor logcumsumexp(const Tensor& x, int64_t dim) {
  const int d = check_dim("logcumsumexp", x, dim);
  if (!is_floating(x.dtype())) throw Error(fmt::format("logcumsumexp: the tensor has dtype {}; it must be floating", name_of(x.dtype())));
  return along(x, [&](const Tensor& t) { return record(LogCumSumExp{d}, t); });
}
WithIndices cummax(const Tensor& x, int64_t dim) { return running("cummax", ArgKind::max, x, dim); }
WithIndices cummin(const Tensor& x, int64_t dim) { return running("cummin", ArgKind::min, x, dim); }

}  // namespace retape
