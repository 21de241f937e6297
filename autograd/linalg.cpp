// Kernels work in memory that holds a matrix column by column: columns(x) makes such a copy, and the transpose of that memory is the
// result. Gradients: Giles 2008 (Cholesky, determinants, inverses), Walter & Lehmann 2010 (QR), Townsend 2016 (SVD).
#include <retape/autograd/linalg.h>

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <limits>

#include <retape/autograd/binary.h>
#include <retape/autograd/check.h>
#include <retape/autograd/diagonal.h>
#include <retape/autograd/matmul.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>

namespace retape {
namespace {

// ---- arguments ----

void check_matrix(const char* name, const Tensor& x) {
  if (!x) throw Error(fmt::format("{}: the matrix is an undefined tensor", name));
  if (x.dtype() != DType::f64 && x.dtype() != DType::f32)
    throw Error(fmt::format("{}: a matrix of {} is not supported; cast() it to f32 or f64", name, name_of(x.dtype())));
  if (x.dim() < 2) throw Error(fmt::format("{}: x {} has {} dims; a matrix needs at least two", name, x.shape().str(), x.dim()));
  for (int d : {-1, -2})
    if (x.shape()[d] > std::numeric_limits<int32_t>::max())
      throw Error(fmt::format("{}: x {} has size {}; LAPACK takes at most {}", name, x.shape().str(), x.shape()[d],
                              std::numeric_limits<int32_t>::max()));
}
void check_square(const char* name, const Tensor& x) {
  check_matrix(name, x);
  if (x.shape()[-1] != x.shape()[-2])
    throw Error(fmt::format("{}: x {} has matrices of {} rows and {} columns; they must be square", name, x.shape().str(), x.shape()[-2],
                            x.shape()[-1]));
}
void check_pair(const char* name, const Tensor& a, const Tensor& b) {
  if (a.dtype() != b.dtype())
    throw Error(
        fmt::format("{}: operands of {} and {}; both must have one dtype, use cast()", name, name_of(a.dtype()), name_of(b.dtype())));
  check_one_device(name, a, b);
}
// b has as many rows as the square a.
void check_rows(const char* name, const Tensor& a, const Tensor& b) {
  if (a.shape()[-2] != b.shape()[-2])
    throw Error(fmt::format("{}: a {} and b {} have {} and {} rows; they must have as many", name, a.shape().str(), b.shape().str(),
                            a.shape()[-2], b.shape()[-2]));
}
Shape batch_of(const Tensor& x, int dims = 2) { return Shape(x.shape().begin(), size_t(x.dim() - dims)); }
Shape with(Shape batch, std::initializer_list<int64_t> sizes) {
  for (int64_t n : sizes) batch.push_back(n);
  return batch;
}
Tensor with_batch(const Tensor& x, const Shape& batch) { return expand(x, with(batch, {x.shape()[-2], x.shape()[-1]})); }
void broadcast_batches(const char* name, Tensor& a, Tensor& b) {
  const Shape batch = broadcast_shapes(name, batch_of(a), batch_of(b));
  a = with_batch(a, batch), b = with_batch(b, batch);
}
bool is_vector(const Tensor& a, const Tensor& b) {
  return b.dim() == 1 || (b.dim() == a.dim() - 1 && b.shape() == Shape(a.shape().begin(), size_t(a.dim() - 1)));
}

// ---- inside forwards ----

// x's matrices, column by column, in new memory.
Tensor columns(const Tensor& x) { return clone(transpose(x)); }
Tensor new_info(const Tensor& x) { return empty(batch_of(x), {DType::i32, x.device()}); }
Tensor new_columns(const Tensor& like, int64_t m, int64_t n) { return empty(with(batch_of(like), {n, m}), like.options()); }

// Throws for the first matrix that LAPACK has failed on.
void check_info(const char* name, const Tensor& info, const char* what) {
  if (info.device().is_meta()) return;
  const std::vector<int32_t> p = info.to_vector<int32_t>();
  for (size_t i = 0; i < p.size(); ++i)
    if (p[i])
      throw Error(fmt::format("{}: matrix {} of the batch {} {} (LAPACK's info is {})", name, i, info.shape().str(),
                              p[i] < 0 ? "holds values that LAPACK does not take, such as nan" : what, p[i]));
}
constexpr auto singular = "is singular; it must have an inverse";

struct Factors {
  Tensor lu, pivots, info;
};
Factors factorize(const Tensor& x) {
  Factors f{columns(x), empty(with(batch_of(x), {std::min(x.shape()[-1], x.shape()[-2])}), {DType::i32, x.device()}), new_info(x)};
  RETAPE_DISPATCH(x.device(), lu_factor(f.lu, f.pivots, f.info));
  return f;
}
// The transposed inverse: columns of the inverse, read as rows.
Tensor inverse_transposed(const Factors& f) {
  Tensor y = clone(expand(eye(f.lu.shape()[-1], f.lu.options()), f.lu.shape()));
  RETAPE_DISPATCH(y.device(), lu_solve(f.lu, f.pivots, false, y));
  return y;
}
std::array<Tensor, 3> determinant(const Factors& f) {  // value, sign, logarithm of the absolute value
  const Shape batch = batch_of(f.lu);
  Tensor value = empty(batch, f.lu.options()), sign = empty_like(value), log = empty_like(value);
  RETAPE_DISPATCH(value.device(), lu_determinant(f.lu, f.pivots, value, sign, log));
  return {value, sign, log};
}
bool any_failed(const Tensor& info) {
  if (info.device().is_meta()) return false;
  for (const int32_t i : info.to_vector<int32_t>())
    if (i) return true;
  return false;
}
struct Svd3 {
  Tensor u, s, vh;
};
Svd3 run_svd(const char* name, const Tensor& x, bool vectors, bool full) {
  const int64_t m = x.shape()[-2], n = x.shape()[-1], k = std::min(m, n);
  const Tensor in = columns(x);
  Tensor u = vectors ? new_columns(x, m, full ? m : k) : Tensor{}, vt = vectors ? new_columns(x, full ? n : k, n) : Tensor{};
  Tensor s = empty(with(batch_of(x), {k}), x.options()), info = new_info(x);
  RETAPE_DISPATCH(x.device(), svd(in, u, s, vt, info));
  check_info(name, info, "has no singular values that the iteration converged to");
  return {vectors ? transpose(u) : u, s, vectors ? transpose(vt) : vt};
}
EighResult run_eigh(const char* name, const Tensor& x, bool upper, bool vectors) {
  Tensor a = columns(x), values = empty(with(batch_of(x), {x.shape()[-1]}), x.options()), info = new_info(x);
  RETAPE_DISPATCH(x.device(), eigh(upper, vectors, a, values, info));
  check_info(name, info, "has no eigenvalues that the iteration converged to");
  return {values, vectors ? transpose(a) : Tensor{}};
}

Tensor row(const Tensor& v) { return unsqueeze(v, -2); }
Tensor column(const Tensor& v) { return unsqueeze(v, -1); }
Tensor as_matrix(const Tensor& scalar) { return unsqueeze(unsqueeze(scalar, -1), -1); }
Tensor skew(const Tensor& x) { return x - transpose(x); }

// ---- triangular systems ----

struct SolveTriangular {  // a x = b, or a^T x = b
  const char* name;
  bool upper, transposed, unit;
  Saved a = {}, x = {};
  Tensor forward(const Tensor& matrix, const Tensor& b) {
    a = save(matrix);
    const Tensor in = contiguous(matrix);  // row by row: LAPACK sees the transpose, whose other triangle is filled
    Tensor y = columns(b), info = new_info(b);
    RETAPE_DISPATCH(b.device(), solve_triangular(in, !upper, !transposed, unit, y, info));
    check_info(name, info, "has a zero on its diagonal; it must have an inverse");
    const Tensor out = transpose(y);
    x = save(out, 0);
    return out;
  }
  void backward(const Tensor& dy, Grads& dx) {
    const Tensor db = record(SolveTriangular{name, upper, !transposed, unit}, *a, dy);
    if (dx.wants(0)) {
      const Tensor product = transposed ? matmul(*x, transpose(db)) : matmul(db, transpose(*x));
      dx.set(0, -(upper ? triu(product, unit ? 1 : 0) : tril(product, unit ? -1 : 0)));
    }
    if (dx.wants(1)) dx.set(1, db);
  }
};
Tensor triangular(const char* name, const Tensor& a, const Tensor& b, bool upper, bool transposed, bool unit = false) {
  return record(SolveTriangular{name, upper, transposed, unit}, a, b);
}
// x a = b, or x a^T = b
Tensor triangular_right(const char* name, const Tensor& a, const Tensor& b, bool upper, bool transposed, bool unit = false) {
  return transpose(triangular(name, a, transpose(b), upper, !transposed, unit));
}

struct Cholesky {
  static constexpr auto name = "cholesky";
  static constexpr bool expensive = true;
  bool upper;
  Saved y = {};
  Tensor forward(const Tensor& x) {
    Tensor a = columns(x), info = new_info(x);
    RETAPE_DISPATCH(x.device(), cholesky(upper, a, info));
    check_info(name, info, "is not positive definite");
    const Tensor out = transpose(a);
    y = save(out);
    return out;
  }
  void backward(const Tensor& dy, Grads& dx) {
    const Tensor l = upper ? transpose(*y) : *y, product = matmul(transpose(l), upper ? transpose(dy) : dy);
    const Tensor inner = (tril(product) + tril(product, -1)) * 0.5;
    const Tensor outer = triangular_right(name, l, triangular(name, l, inner, false, true), false, false);
    dx.set(0, (outer + transpose(outer)) * 0.5);
  }
};

// ---- QR ----

struct Qr {
  static constexpr auto name = "qr";
  static constexpr bool expensive = true;
  QrMode mode;
  Saved q = {}, r = {}, x = {};
  std::array<Tensor, 2> forward(const Tensor& in) {
    const int64_t m = in.shape()[-2], n = in.shape()[-1], k = mode == QrMode::complete ? m : std::min(m, n);
    const Tensor a = columns(in);
    Tensor u = new_columns(in, m, k), t = new_columns(in, k, n), info = new_info(in);
    RETAPE_DISPATCH(in.device(), qr(a, u, t, info));
    check_info(name, info, "has no QR decomposition");
    const std::array<Tensor, 2> out = {transpose(u), transpose(t)};
    if (m < n) x = save(in);
    q = save(out[0]), r = save(out[1]);
    return out;
  }
  void backward(const std::vector<Tensor>& dy, Grads& dx) {
    const Tensor u = *q, t = *r;
    const int64_t m = u.shape()[-2], n = t.shape()[-1];
    if (u.shape()[-1] > n)
      throw Error(fmt::format("qr: a complete decomposition of {} rows and {} columns has no gradient; use QrMode::reduced", m, n));
    Tensor du = dy[0], dt = dy[1], right;
    if (m < n) {  // x = [left, right], left = q r1, right = q r2
      right = narrow(*x, -1, m, n - m);
      if (dt) {
        const Tensor d2 = narrow(dt, -1, m, n - m), product = matmul(right, transpose(d2));
        du = du ? du + product : product;
        right = matmul(u, d2);
        dt = narrow(dt, -1, 0, m);
      } else {
        right = zeros_like(right);
      }
    }
    const Tensor square_r = m < n ? narrow(t, -1, 0, m) : t;
    Tensor inner;
    if (dt) inner = matmul(dt, transpose(square_r));
    if (du) {
      const Tensor product = matmul(transpose(u), du);
      inner = inner ? inner - product : -product;
    }
    inner = triu(inner);
    Tensor d = matmul(u, inner + transpose(triu(inner, 1)));
    if (du) d = d + du;
    d = triangular_right(name, square_r, d, true, true);
    dx.set(0, m < n ? cat({d, right}, -1) : d);
  }
};

// ---- LU: solve, inverse, determinants ----

struct SolveAgain {  // the system of a matrix whose factors are known
  static constexpr auto name = "solve";
  static constexpr bool expensive = true;
  bool transposed;
  Tensor forward(const Tensor&, const Tensor& b, const Tensor& lu, const Tensor& pivots) {
    Tensor y = columns(b);
    RETAPE_DISPATCH(b.device(), lu_solve(lu, pivots, transposed, y));
    return transpose(y);
  }
  Tensor composite(const Tensor& a, const Tensor& b, const Tensor&, const Tensor&) { return solve(transposed ? transpose(a) : a, b); }
};
struct Solve {
  static constexpr auto name = "solve";
  static constexpr bool expensive = true;
  Saved a = {}, x = {}, lu = {}, pivots = {};
  Tensor forward(const Tensor& matrix, const Tensor& b) {
    const Factors f = factorize(matrix);
    check_info(name, f.info, singular);
    Tensor y = columns(b);
    RETAPE_DISPATCH(b.device(), lu_solve(f.lu, f.pivots, false, y));
    const Tensor out = transpose(y);
    a = save(matrix), x = save(out, 0), lu = save(f.lu), pivots = save(f.pivots);
    return out;
  }
  void backward(const Tensor& dy, Grads& dx) {
    const Tensor db = record(SolveAgain{true}, *a, dy, *lu, *pivots);
    if (dx.wants(0)) dx.set(0, -matmul(db, transpose(*x)));
    if (dx.wants(1)) dx.set(1, db);
  }
};
struct Inverse {
  const char* name;
  Saved y = {};
  Tensor forward(const Tensor& x) {
    const Factors f = factorize(x);
    check_info(name, f.info, singular);
    const Tensor out = transpose(inverse_transposed(f));
    y = save(out);
    return out;
  }
  void backward(const Tensor& dy, Grads& dx) {
    const Tensor t = transpose(*y);
    dx.set(0, -matmul(t, matmul(dy, t)));
  }
};

// det(x) x^-T, which is finite where x is singular: det(u) det(v) u diag(product of the other s) v^T
struct Cofactors {
  static constexpr auto name = "det_backward";
  static constexpr bool expensive = true;
  Tensor forward(const Tensor& x) { return cofactors(x); }
  static Tensor cofactors(const Tensor& x) {
    const Factors f = factorize(x);
    if (!any_failed(f.info)) return as_matrix(determinant(f)[0]) * inverse_transposed(f);
    const Svd3 d = run_svd(name, x, true, false);
    const int64_t n = x.shape()[-1];
    std::vector<Tensor> others;
    Tensor before = ones_like(select(d.s, -1, 0));
    for (int64_t i = 0; i < n; ++i) {
      others.push_back(before);
      before = before * select(d.s, -1, i);
    }
    Tensor after = ones_like(before);
    for (int64_t i = n; i-- > 0;) {
      others[size_t(i)] = others[size_t(i)] * after;
      after = after * select(d.s, -1, i);
    }
    const Tensor sign = determinant(factorize(d.u))[1] * determinant(factorize(d.vh))[1];
    return as_matrix(sign) * matmul(d.u * row(stack(others, -1)), d.vh);
  }
  Tensor composite(const Tensor& x) { return as_matrix(det(x)) * transpose(record(Inverse{name}, x)); }
};
struct Det {
  static constexpr auto name = "det";
  static constexpr bool expensive = true;
  Saved x = {};
  Tensor forward(const Tensor& in) {
    x = save(in);
    return determinant(factorize(in))[0];
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, as_matrix(dy) * record(Cofactors{}, *x)); }
};
struct Slogdet {
  static constexpr auto name = "slogdet";
  static constexpr bool expensive = true;
  static constexpr int differentiable = 1;
  Saved x = {};
  std::array<Tensor, 2> forward(const Tensor& in) {
    x = save(in);
    const auto d = determinant(factorize(in));
    return {d[2], d[1]};
  }
  void backward(const std::vector<Tensor>& dy, Grads& dx) { dx.set(0, as_matrix(dy[0]) * transpose(record(Inverse{name}, *x))); }
};

struct Permutation {  // p of x = p l u
  static constexpr auto name = "lu_permutation";
  static constexpr bool expensive = true;
  static constexpr int differentiable = 0;
  int64_t m;
  DType dtype;
  Tensor forward(const Tensor& pivots) {
    const Tensor in = contiguous(pivots);
    Tensor p = empty(with(batch_of(pivots, 1), {m, m}), {dtype, pivots.device()});
    RETAPE_DISPATCH(p.device(), lu_permutation(in, p));
    return p;
  }
};
// The unit lower and the upper part of factors (..., m, n).
Tensor unit_lower(const Tensor& lu) {
  const int64_t m = lu.shape()[-2], k = std::min(m, lu.shape()[-1]);
  return tril(narrow(lu, -1, 0, k), -1) + narrow(eye(m, lu.options()), -1, 0, k);
}
Tensor upper_factor(const Tensor& lu) { return triu(narrow(lu, -2, 0, std::min(lu.shape()[-2], lu.shape()[-1]))); }

struct LuFactor {
  static constexpr auto name = "lu_factor";
  static constexpr bool expensive = true;
  static constexpr int differentiable = 1;
  Saved lu = {}, pivots = {};
  std::array<Tensor, 2> forward(const Tensor& x) {
    const Factors f = factorize(x);
    const std::array<Tensor, 2> out = {transpose(f.lu), f.pivots};
    lu = save(out[0]), pivots = save(out[1]);
    return out;
  }
  void backward(const std::vector<Tensor>& dy, Grads& dx) {
    const Tensor factors = *lu, p = record(Permutation{factors.shape()[-2], factors.dtype()}, *pivots), d = dy[0];
    const int64_t m = factors.shape()[-2], n = factors.shape()[-1], k = std::min(m, n);
    const Tensor l = unit_lower(factors), u = upper_factor(factors), l1 = narrow(l, -2, 0, k), u1 = narrow(u, -1, 0, k);
    Tensor dl = tril(narrow(narrow(d, -2, 0, k), -1, 0, k), -1), du = triu(narrow(narrow(d, -2, 0, k), -1, 0, k)), rest;
    if (m > n) {  // the rows below: l2 = x2 u^-1
      const Tensor l2 = narrow(l, -2, k, m - k);
      rest = triangular_right(name, u1, narrow(d, -2, k, m - k), true, true);
      du = du - matmul(transpose(l2), rest);
    } else if (m < n) {  // the columns behind: u2 = l^-1 x2
      const Tensor u2 = narrow(u, -1, k, n - k);
      rest = triangular(name, l1, narrow(d, -1, k, n - k), false, true, true);
      dl = dl - matmul(rest, transpose(u2));
    }
    const Tensor inner = tril(matmul(transpose(l1), dl), -1) + triu(matmul(du, transpose(u1)));
    Tensor y = triangular(name, l1, triangular_right(name, u1, inner, true, true), false, true, true);
    if (rest) y = cat({y, rest}, m > n ? -2 : -1);
    dx.set(0, matmul(p, y));
  }
};

// ---- singular values and eigenvalues ----

struct Svd {
  static constexpr auto name = "svd";
  static constexpr bool expensive = true;
  bool full;
  Saved u = {}, s = {}, vh = {};
  std::array<Tensor, 3> forward(const Tensor& x) {
    const Svd3 d = run_svd(name, x, true, full);
    u = save(d.u), s = save(d.s), vh = save(d.vh);
    return {d.u, d.s, d.vh};
  }
  // The gradient of the first k of n vectors along a dim; the others must have none.
  static Tensor first(const Tensor& d, int dim, int64_t k) {
    if (!d || d.shape()[dim] == k) return d;
    if (!d.device().is_meta()) {
      const NoGrad off;
      const Scoped plain(ctx.differentiating, false);
      const Tensor extra = narrow(d.detach(), dim, k, d.shape()[dim] - k);
      if (any(ne(extra, 0)).item<int64_t>())
        throw Error(fmt::format("svd: the {} singular vectors behind the first {} have no gradient; use full_matrices = false",
                                d.shape()[dim] - k, k));
    }
    return narrow(d, dim, 0, k);
  }
  void backward(const std::vector<Tensor>& dy, Grads& dx) {
    const Tensor values = *s;
    const int64_t k = values.shape()[-1];
    const Tensor left = narrow(*u, -1, 0, k), right = narrow(*vh, -2, 0, k), du = first(dy[0], -1, k), ds = dy[1],
                 dvh = first(dy[2], -2, k);
    const int64_t m = left.shape()[-2], n = right.shape()[-1];
    // s_j^2 - s_i^2, and 1 on the diagonal
    const Tensor gaps = (row(values) - column(values)) * (row(values) + column(values)) + eye(k, values.options());
    Tensor inner, sum;
    const auto add_to = [](Tensor& to, const Tensor& x) { to = to ? to + x : x; };
    if (du) {
      const Tensor product = matmul(transpose(left), du);
      add_to(inner, skew(product) / gaps * row(values));
      if (m > k) add_to(sum, matmul((du - matmul(left, product)) / row(values), right));
    }
    if (dvh) {
      const Tensor product = matmul(dvh, transpose(right));  // (v^T dv)^T
      add_to(inner, column(values) * (skew(transpose(product)) / gaps));
      if (n > k) add_to(sum, matmul(left / row(values), dvh - matmul(product, right)));
    }
    if (ds) add_to(inner, diag_embed(ds));
    if (inner) add_to(sum, matmul(left, matmul(inner, right)));
    dx.set(0, sum);
  }
};
struct SvdValues {
  const char* name;
  static constexpr int differentiable = 0;
  Tensor forward(const Tensor& x) { return run_svd(name, x, false, false).s; }
};
struct Eigh {
  static constexpr auto name = "eigh";
  static constexpr bool expensive = true;
  bool upper;
  Saved values = {}, vectors = {};
  std::array<Tensor, 2> forward(const Tensor& x) {
    const EighResult d = run_eigh(name, x, upper, true);
    values = save(d.values), vectors = save(d.vectors);
    return {d.values, d.vectors};
  }
  void backward(const std::vector<Tensor>& dy, Grads& dx) {
    const Tensor w = *values, v = *vectors;
    Tensor inner;
    if (dy[1]) {
      const Tensor one = eye(w.shape()[-1], w.options()), turned = matmul(transpose(v), dy[1]) / (row(w) - column(w) + one);
      inner = tril(turned, -1) + triu(turned, 1);
    }
    if (dy[0]) inner = inner ? inner + diag_embed(dy[0]) : diag_embed(dy[0]);
    dx.set(0, matmul(v, matmul(inner, transpose(v))));
  }
};
struct EighValues {
  static constexpr auto name = "eigvalsh";
  static constexpr bool expensive = true;
  static constexpr int differentiable = 0;
  bool upper;
  Tensor forward(const Tensor& x) { return run_eigh(name, x, upper, false).values; }
};

double epsilon_of(DType d) { return d == DType::f64 ? 0x1p-52 : 0x1p-23; }
struct Threshold {
  double atol, rtol;
};
Threshold threshold(const char* name, const Tensor& x, const RankOptions& options) {
  for (const auto& t : {options.atol, options.rtol})
    if (t && !(*t >= 0)) throw Error(fmt::format("{}: a tolerance of {} is not valid; it must be at least 0", name, *t));
  const double standard = options.atol.value_or(0) > 0 ? 0 : double(std::max(x.shape()[-1], x.shape()[-2])) * epsilon_of(x.dtype());
  return {options.atol.value_or(0), options.rtol.value_or(standard)};
}
// Which values count as more than 0; s (..., k)
Tensor counted(const Tensor& s, Threshold t) {
  if (s.shape()[-1] == 0) return gt(s, 0);
  return gt(abs(s), maximum(amax(abs(s), {-1}, true) * t.rtol, t.atol));
}

struct Pinv {
  const char* name;
  double atol, rtol;
  bool hermitian;
  Saved x = {}, y = {};
  Tensor forward(const Tensor& in) {
    x = save(in);
    const Tensor out = pseudoinverse(in);
    y = save(out);
    return out;
  }
  Tensor pseudoinverse(const Tensor& in) const {
    Tensor left, values, right;
    if (hermitian) {
      const EighResult d = run_eigh(name, in, false, true);
      left = d.vectors, values = d.values, right = transpose(d.vectors);
    } else {
      const Svd3 d = run_svd(name, in, true, false);
      left = d.u, values = d.s, right = d.vh;
    }
    const Tensor keep = counted(values, {atol, rtol}), inverted = where(keep, reciprocal(where(keep, values, 1.)), 0.);
    return matmul(transpose(right) * row(inverted), transpose(left));
  }
  void backward(const Tensor& dy, Grads& dx) {
    const Tensor a = *x, p = *y, pt = transpose(p), gt = transpose(dy);
    Tensor d = -matmul(pt, matmul(dy, pt));
    const Tensor b = matmul(gt, matmul(p, pt)), c = matmul(pt, matmul(p, gt));
    d = d + b - matmul(a, matmul(p, b)) + c - matmul(c, matmul(p, a));
    dx.set(0, d);
  }
};

// ---- matrix exponential ----

// x scaled by 2^-s, the Pade approximant of degree 13 (Higham 2005), squared s times; s by the 1-norm of each matrix.
Tensor exponential(const Tensor& x) {
  const int64_t n = x.shape()[-1], batch = x.numel() / std::max<int64_t>(1, n * n);
  if (x.numel() == 0) return clone(x);
  std::vector<int64_t> squarings(size_t(batch), 0);
  int64_t most = 0;
  if (!x.device().is_meta()) {
    const auto norms = amax(sum(abs(x), {-2}), {-1}).to_vector<double>();
    for (size_t i = 0; i < norms.size(); ++i)
      if (std::isfinite(norms[i]) && norms[i] > 5.371920351148152)
        squarings[i] = int64_t(std::ceil(std::log2(norms[i] / 5.371920351148152))), most = std::max(most, squarings[i]);
  }
  Tensor a = x, left;
  if (most > 0) {
    std::vector<double> factors;
    for (int64_t s : squarings) factors.push_back(std::ldexp(1., -int(s)));
    const Shape shape = with(batch_of(x), {1, 1});
    a = x * to(cast(tensor(factors, shape), x.dtype()), x.device());
    left = to(tensor(squarings, shape), x.device());
  }
  static constexpr double b[] = {64764752532480000.,
                                 32382376266240000.,
                                 7771770303897600.,
                                 1187353796428800.,
                                 129060195264000.,
                                 10559470521600.,
                                 670442572800.,
                                 33522128640.,
                                 1323241920.,
                                 40840800.,
                                 960960.,
                                 16380.,
                                 182.,
                                 1.};
  const auto c = [](int i) { return b[i] / b[0]; };
  const Tensor one = eye(n, x.options()), a2 = matmul(a, a), a4 = matmul(a2, a2), a6 = matmul(a4, a2);
  const Tensor odd = matmul(a, matmul(a6, a6 * c(13) + a4 * c(11) + a2 * c(9)) + a6 * c(7) + a4 * c(5) + a2 * c(3) + one * c(1));
  const Tensor even = matmul(a6, a6 * c(12) + a4 * c(10) + a2 * c(8)) + a6 * c(6) + a4 * c(4) + a2 * c(2) + one;
  const Factors f = factorize(even - odd);
  Tensor solution = columns(even + odd);
  RETAPE_DISPATCH(x.device(), lu_solve(f.lu, f.pivots, false, solution));
  Tensor y = contiguous(transpose(solution));
  for (int64_t i = 0; i < most; ++i) y = where(gt(left, i), matmul(y, y), y);
  return y;
}
struct MatrixExp {
  static constexpr auto name = "matrix_exp";
  static constexpr bool expensive = true;
  Saved x = {};
  Tensor forward(const Tensor& in) {
    x = save(in);
    return exponential(in);
  }
  // The upper right block of exp [[x^T, dy], [0, x^T]] is the derivative at x^T along dy (Mathias 1996).
  void backward(const Tensor& dy, Grads& dx) {
    const Tensor t = transpose(*x), block = cat({cat({t, dy}, -1), cat({zeros_like(t), t}, -1)}, -2);
    const int64_t n = t.shape()[-1];
    dx.set(0, narrow(narrow(record(MatrixExp{}, block), -2, 0, n), -1, n, n));
  }
};

bool wants_gradient(const Tensor& x) { return ctx.recording && x.requires_grad(); }

bool is_upper(const char* name, char uplo) {
  if (uplo != 'L' && uplo != 'U') throw Error(fmt::format("{}: uplo is '{}'; it must be 'L' or 'U'", name, uplo));
  return uplo == 'U';
}

// The two dims moved to the end.
Tensor matrices_of(const char* name, const Tensor& x, const Shape& dims) {
  if (!x) throw Error(fmt::format("{}: the matrix is an undefined tensor", name));
  if (dims.rank() != 2 || x.dim() < 2)
    throw Error(fmt::format("{}: dims {} of x {}; there must be two, and x must have them", name, dims.str(), x.shape().str()));
  const int r = normalize_dim(name, dims[0], x.dim()), c = normalize_dim(name, dims[1], x.dim());
  if (r == c) throw Error(fmt::format("{}: dims {} are one and the same; they must differ", name, dims.str()));
  Shape order;
  for (int d = 0; d < x.dim(); ++d)
    if (d != r && d != c) order.push_back(d);
  order.push_back(r), order.push_back(c);
  const Tensor y = permute(x, order);
  check_matrix(name, y);
  return y;
}
Tensor keep_dims(const Tensor& y, const Tensor& x, const Shape& dims, bool keepdim) {
  if (!keepdim) return y;
  Shape shape = x.shape();
  for (int64_t d : dims) shape[int(d)] = 1;
  return reshape(y, shape);
}
Tensor frobenius(const Tensor& m) {
  const Tensor squares = sum(square(m), {-2, -1}), nothing = eq(squares, 0);
  return masked_fill(sqrt(masked_fill(squares, nothing, 1)), nothing, 0);  // the gradient of a zero matrix is 0
}

}  // namespace

Tensor cholesky(const Tensor& x, bool upper) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& in) { return cholesky(in, upper); }, x);
  check_square("cholesky", x);
  return record(Cholesky{upper}, x);
}
Tensor cholesky_solve(const Tensor& b, const Tensor& factor, bool upper) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& p, auto& q) { return cholesky_solve(p, q, upper); }, b, factor);
  check_square("cholesky_solve", factor), check_matrix("cholesky_solve", b);
  check_pair("cholesky_solve", factor, b), check_rows("cholesky_solve", factor, b);
  Tensor l = factor, x = b;
  broadcast_batches("cholesky_solve", l, x);
  return triangular("cholesky_solve", l, triangular("cholesky_solve", l, x, upper, upper), upper, !upper);
}
Tensor cholesky_inverse(const Tensor& factor, bool upper) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& in) { return cholesky_inverse(in, upper); }, factor);
  check_square("cholesky_inverse", factor);
  const Tensor one = with_batch(eye(factor.shape()[-1], factor.options()), batch_of(factor));
  return triangular("cholesky_inverse", factor, triangular("cholesky_inverse", factor, one, upper, upper), upper, !upper);
}

QrResult qr(const Tensor& x, QrMode mode) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& in) { return qr(in, mode); }, x);
  check_matrix("qr", x);
  auto out = record(Qr{mode == QrMode::complete ? mode : QrMode::reduced}, x);
  if (mode == QrMode::r) out[0] = {};
  return {out[0], out[1]};
}

Tensor solve(const Tensor& a, const Tensor& b) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& p, auto& q) { return solve(p, q); }, a, b);
  check_square("solve", a);
  if (!b) throw Error("solve: b is an undefined tensor");
  check_pair("solve", a, b);
  if (b.dim() == 0) throw Error(fmt::format("solve: a {} and b {}: b needs at least one dim", a.shape().str(), b.shape().str()));
  const bool vector = is_vector(a, b);
  Tensor matrix = a, x = vector ? column(b) : b;
  check_rows("solve", matrix, x);
  broadcast_batches("solve", matrix, x);
  x = record(Solve{}, matrix, x);
  return vector ? squeeze(x, -1) : x;
}
Tensor solve_triangular(const Tensor& a, const Tensor& b, bool upper, SolveTriangularOptions options) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& p, auto& q) { return solve_triangular(p, q, upper, options); }, a, b);
  check_square("solve_triangular", a), check_matrix("solve_triangular", b), check_pair("solve_triangular", a, b);
  Tensor matrix = a, x = options.left ? b : transpose(b);
  check_rows("solve_triangular", matrix, x);
  broadcast_batches("solve_triangular", matrix, x);
  x = triangular("solve_triangular", matrix, x, upper, !options.left, options.unitriangular);
  return options.left ? x : transpose(x);
}
Tensor inverse(const Tensor& x) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& in) { return inverse(in); }, x);
  check_square("inverse", x);
  return record(Inverse{"inverse"}, x);
}
Tensor det(const Tensor& x) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& in) { return det(in); }, x);
  check_square("det", x);
  return record(Det{}, x);
}
SlogdetResult slogdet(const Tensor& x) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& in) { return slogdet(in); }, x);
  check_square("slogdet", x);
  const auto out = record(Slogdet{}, x);
  return {out[1], out[0]};
}
Tensor logdet(const Tensor& x) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& in) { return logdet(in); }, x);
  check_square("logdet", x);
  const auto [sign, log] = slogdet(x);
  return where(lt(sign, 0), full_like(log, NAN), log);
}

LuFactorResult lu_factor(const Tensor& x) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& in) { return lu_factor(in); }, x);
  check_matrix("lu_factor", x);
  const auto out = record(LuFactor{}, x);
  return {out[0], out[1]};
}
LuResult lu(const Tensor& x) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& in) { return lu(in); }, x);
  check_matrix("lu", x);
  const auto [factors, pivots] = lu_factor(x);
  return {record(Permutation{x.shape()[-2], x.dtype()}, pivots), unit_lower(factors), upper_factor(factors)};
}
Tensor lu_solve(const Tensor& lu, const Tensor& pivots, const Tensor& b, LuSolveOptions options) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& p, auto& q) { return lu_solve(p, pivots, q, options); }, lu, b);
  check_square("lu_solve", lu), check_matrix("lu_solve", b), check_pair("lu_solve", lu, b);
  if (!pivots || pivots.dtype() != DType::i32 || !(pivots.shape() == Shape(lu.shape().begin(), size_t(lu.dim() - 1))))
    throw Error(fmt::format("lu_solve: pivots {} of {} do not belong to lu {}; they must be i32 {}",
                            pivots ? pivots.shape().str() : "undefined", pivots ? name_of(pivots.dtype()) : "nothing", lu.shape().str(),
                            Shape(lu.shape().begin(), size_t(lu.dim() - 1)).str()));
  Tensor factors = lu, x = options.left ? b : transpose(b);
  check_rows("lu_solve", factors, x);
  broadcast_batches("lu_solve", factors, x);
  const Tensor p = record(Permutation{lu.shape()[-1], lu.dtype()}, pivots);
  if (options.adjoint == options.left) {  // (p l u)^T x = b
    x = triangular("lu_solve", factors, triangular("lu_solve", factors, x, true, true), false, true, true);
    x = matmul(p, x);
  } else {
    x = triangular("lu_solve", factors, matmul(transpose(p), x), false, false, true);
    x = triangular("lu_solve", factors, x, true, false);
  }
  return options.left ? x : transpose(x);
}

SvdResult svd(const Tensor& x, bool full_matrices) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& in) { return svd(in, full_matrices); }, x);
  check_matrix("svd", x);
  const auto out = record(Svd{full_matrices}, x);
  return {out[0], out[1], out[2]};
}
Tensor svdvals(const Tensor& x) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& in) { return svdvals(in); }, x);
  check_matrix("svdvals", x);
  return wants_gradient(x) ? record(Svd{false}, x)[1] : record(SvdValues{"svdvals"}, x);
}
EighResult eigh(const Tensor& x, char uplo) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& in) { return eigh(in, uplo); }, x);
  check_square("eigh", x);
  const auto out = record(Eigh{is_upper("eigh", uplo)}, x);
  return {out[0], out[1]};
}
Tensor eigvalsh(const Tensor& x, char uplo) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& in) { return eigvalsh(in, uplo); }, x);
  check_square("eigvalsh", x);
  const bool upper = is_upper("eigvalsh", uplo);
  return wants_gradient(x) ? record(Eigh{upper}, x)[0] : record(EighValues{upper}, x);
}

Tensor pinv(const Tensor& x, RankOptions options) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& in) { return pinv(in, options); }, x);
  if (options.hermitian) check_square("pinv", x);
  check_matrix("pinv", x);
  const Threshold t = threshold("pinv", x, options);
  return record(Pinv{"pinv", t.atol, t.rtol, options.hermitian}, x);
}
Tensor matrix_rank(const Tensor& x, RankOptions options) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& in) { return matrix_rank(in, options); }, x);
  if (options.hermitian) check_square("matrix_rank", x);
  check_matrix("matrix_rank", x);
  const Threshold t = threshold("matrix_rank", x, options);
  const Tensor in = x.detach(), values = options.hermitian ? record(EighValues{false}, in) : record(SvdValues{"matrix_rank"}, in);
  return sum(cast(counted(values, t), DType::i64), {-1});
}
LstsqResult lstsq(const Tensor& a, const Tensor& b, std::optional<double> rcond) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& p, auto& q) { return lstsq(p, q, rcond); }, a, b);
  check_matrix("lstsq", a);
  if (!b) throw Error("lstsq: b is an undefined tensor");
  check_pair("lstsq", a, b);
  if (b.dim() == 0) throw Error(fmt::format("lstsq: a {} and b {}: b needs at least one dim", a.shape().str(), b.shape().str()));
  const bool vector = is_vector(a, b);
  Tensor matrix = a, y = vector ? column(b) : b;
  check_rows("lstsq", matrix, y);
  broadcast_batches("lstsq", matrix, y);
  const Threshold t = threshold("lstsq", a, {.atol = {}, .rtol = rcond, .hermitian = false});
  LstsqResult result;
  const Tensor x = matmul(record(Pinv{"lstsq", 0, t.rtol, false}, matrix), y);
  result.singular_values = record(SvdValues{"lstsq"}, a.detach());
  result.rank = sum(cast(counted(result.singular_values, {0, t.rtol}), DType::i64), {-1});
  result.solution = vector ? squeeze(x, -1) : x;
  const int64_t n = a.shape()[-1];
  const bool determined = a.shape()[-2] > n && (a.device().is_meta() || !any(ne(result.rank, n)).item<int64_t>());
  if (determined) {
    const Tensor squares = sum(square(matmul(matrix, x) - y), {-2});
    result.residuals = vector ? squeeze(squares, -1) : squares;
  } else {
    result.residuals = zeros({0}, a.options());
  }
  return result;
}

Tensor matrix_norm(const Tensor& x, const std::string& ord, const Shape& dims, bool keepdim) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& in) { return matrix_norm(in, ord, dims, keepdim); }, x);
  const Tensor m = matrices_of("matrix_norm", x, dims);
  if (ord == "fro") return keep_dims(frobenius(m), x, dims, keepdim);
  if (ord == "nuc") return keep_dims(sum(svdvals(m), {-1}), x, dims, keepdim);
  throw Error(
      fmt::format("matrix_norm: ord is \"{}\"; it must be \"fro\", \"nuc\", or one of the numbers 1, 2, inf and their negatives", ord));
}
Tensor matrix_norm(const Tensor& x, double ord, const Shape& dims, bool keepdim) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& in) { return matrix_norm(in, ord, dims, keepdim); }, x);
  const Tensor m = matrices_of("matrix_norm", x, dims);
  const double size = std::abs(ord);
  if (size != 1 && size != 2 && size != INFINITY)
    throw Error(fmt::format("matrix_norm: ord is {}; it must be 1, 2, inf, a negative of them, \"fro\" or \"nuc\"", ord));
  const Tensor values = size == 2 ? svdvals(m) : sum(abs(m), {size == 1 ? -2 : -1});
  return keep_dims(ord > 0 ? amax(values, {-1}) : amin(values, {-1}), x, dims, keepdim);
}

namespace {
// |x| |x^-1|; inf where x is singular
template <class Ord> Tensor condition(const Tensor& x, const Ord& ord) {
  check_square("cond", x);
  const Tensor regular = ne(slogdet(x.detach()).sign, 0), one = eye(x.shape()[-1], x.options());
  const Tensor safe = where(as_matrix(regular), x, one);
  return where(regular, matrix_norm(safe, ord) * matrix_norm(record(Inverse{"cond"}, safe), ord), INFINITY);
}
}  // namespace

Tensor cond(const Tensor& x, double ord) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& in) { return cond(in, ord); }, x);
  check_matrix("cond", x);
  if (std::abs(ord) != 2) return condition(x, ord);
  const Tensor s = svdvals(x), largest = select(s, -1, 0), smallest = select(s, -1, -1);
  return ord > 0 ? largest / smallest : smallest / largest;
}
Tensor cond(const Tensor& x, const std::string& ord) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& in) { return cond(in, ord); }, x);
  check_matrix("cond", x);
  return condition(x, ord);
}
Tensor matrix_power(const Tensor& x, int64_t n) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& in) { return matrix_power(in, n); }, x);
  check_square("matrix_power", x);
  if (n == 0) return clone(with_batch(eye(x.shape()[-1], x.options()), batch_of(x)));
  Tensor power = n < 0 ? record(Inverse{"matrix_power"}, x) : x, y;
  for (uint64_t left = n < 0 ? 0 - uint64_t(n) : uint64_t(n); left; left >>= 1) {
    if (left & 1) y = y ? matmul(y, power) : power;
    if (left > 1) power = matmul(power, power);
  }
  return y;
}
Tensor matrix_exp(const Tensor& x) {
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& in) { return matrix_exp(in); }, x);
  check_square("matrix_exp", x);
  return record(MatrixExp{}, x);
}

}  // namespace retape
