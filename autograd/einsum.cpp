// Everything here is a composite of other ops. A factor is a tensor whose dims carry labels: multiply() contracts two of them.
#include <retape/autograd/einsum.h>

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include <retape/autograd/autocast.h>
#include <retape/autograd/binary.h>
#include <retape/autograd/diagonal.h>
#include <retape/autograd/matmul.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/views.h>

namespace retape {
namespace {

using Labels = std::vector<int>;
struct Factor {
  Tensor x;
  Labels labels;  // one a dim, all different
};

bool has(const Labels& labels, int label) { return std::find(labels.begin(), labels.end(), label) != labels.end(); }
int place(const Labels& labels, int label) { return int(std::find(labels.begin(), labels.end(), label) - labels.begin()); }
int64_t size_of_label(const Factor& f, int label) { return f.x.shape()[place(f.labels, label)]; }

// Sums the dims whose label is in `drop`.
Factor sum_labels(const Factor& f, const Labels& drop) {
  Shape dims;
  Labels left;
  for (size_t d = 0; d < f.labels.size(); ++d) {
    if (has(drop, f.labels[d])) dims.push_back(int64_t(d));
    else left.push_back(f.labels[d]);
  }
  return dims.rank() ? Factor{sum(f.x, dims), left} : f;
}
Tensor ordered(const Factor& f, const Labels& order) {
  if (f.labels == order) return f.x;
  Shape dims;
  for (int label : order) dims.push_back(place(f.labels, label));
  return permute(f.x, dims);
}

// a b, summed over the labels that are not in `keep`. Sizes of a shared label are equal or 1.
Factor multiply(Factor a, Factor b, const Labels& keep) {
  Labels drop_a, drop_b;
  for (int label : a.labels)
    if (!has(keep, label) && (!has(b.labels, label) || size_of_label(b, label) != size_of_label(a, label))) drop_a.push_back(label);
  for (int label : b.labels)
    if (!has(keep, label) && (!has(a.labels, label) || size_of_label(a, label) != size_of_label(b, label))) drop_b.push_back(label);
  a = sum_labels(a, drop_a), b = sum_labels(b, drop_b);
  // A size 1 that broadcasts is left to the other factor.
  for (int label : Labels(a.labels)) {
    if (!has(b.labels, label) || size_of_label(a, label) == size_of_label(b, label)) continue;
    Factor& one = size_of_label(a, label) == 1 ? a : b;
    const int d = place(one.labels, label);
    one.x = squeeze(one.x, d);
    one.labels.erase(one.labels.begin() + d);
  }
  Labels batch, inner, rows, columns;
  for (int label : a.labels) (!has(b.labels, label) ? rows : has(keep, label) ? batch : inner).push_back(label);
  for (int label : b.labels)
    if (!has(a.labels, label)) columns.push_back(label);

  Labels all = batch;
  all.insert(all.end(), rows.begin(), rows.end());
  all.insert(all.end(), columns.begin(), columns.end());
  const DType dtype = promote(a.x.dtype(), b.x.dtype());
  if (inner.empty() || !is_floating(dtype)) {  // elementwise, with size 1 where a factor lacks a label
    Labels wide = all;
    wide.insert(wide.end(), inner.begin(), inner.end());
    const auto spread = [&wide](const Factor& f) {
      Labels order;
      Shape shape;
      for (int label : wide) {
        if (has(f.labels, label)) order.push_back(label);
        shape.push_back(has(f.labels, label) ? size_of_label(f, label) : 1);
      }
      return reshape(ordered(f, order), shape);
    };
    Factor product{mul(spread(a), spread(b)), wide};
    return sum_labels(product, inner);
  }
  Shape shape;
  const auto volume = [&shape](const Factor& f, const Labels& labels, bool add) {
    int64_t n = 1;
    for (int label : labels) {
      n *= size_of_label(f, label);
      if (add) shape.push_back(size_of_label(f, label));
    }
    return n;
  };
  const int64_t q = volume(a, batch, true), m = volume(a, rows, true), n = volume(b, columns, true), k = volume(a, inner, false);
  const auto joined = [](Labels x, const Labels& y, const Labels& z) {
    x.insert(x.end(), y.begin(), y.end());
    x.insert(x.end(), z.begin(), z.end());
    return x;
  };
  const Shape left = batch.empty() ? Shape{m, k} : Shape{q, m, k}, right = batch.empty() ? Shape{k, n} : Shape{q, k, n};
  const Tensor p = cast(reshape(ordered(a, joined(batch, rows, inner)), left), dtype);
  const Tensor r = cast(reshape(ordered(b, joined(batch, inner, columns)), right), dtype);
  return {reshape(matmul(p, r), shape), all};
}

// ---- einsum's equation ----

constexpr int first_ellipsis = 256;  // labels from here on are dims of "...", counted from the last one

struct Term {
  Labels labels;  // letters; -1 where the ellipsis stands
  int letters = 0;
  bool ellipsis = false;
};
std::vector<Term> parse_terms(const std::string& equation, const std::string& text) {
  std::vector<Term> terms(1);
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == ' ') continue;
    if (c == ',') {
      terms.emplace_back();
    } else if (text.compare(i, 3, "...") == 0) {
      if (terms.back().ellipsis) throw Error(fmt::format("einsum: a term of \"{}\" has \"...\" twice; it may stand there once", equation));
      terms.back().ellipsis = true;
      terms.back().labels.push_back(-1);
      i += 2;
    } else if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) {
      terms.back().labels.push_back(c);
      ++terms.back().letters;
    } else {
      throw Error(fmt::format("einsum: '{}' in \"{}\" is no subscript; there may be letters, \"...\", \",\" and one \"->\"", c, equation));
    }
  }
  return terms;
}
Labels spell_out(const Term& term, int ellipsis_dims) {
  Labels labels;
  for (int label : term.labels) {
    if (label >= 0) labels.push_back(label);
    else
      for (int d = ellipsis_dims; d-- > 0;) labels.push_back(first_ellipsis + d);
  }
  return labels;
}
// x with the diagonal of every letter that occurs more than once.
Factor without_repeats(Tensor x, Labels labels, const std::string& equation, size_t operand) {
  for (size_t i = 0; i < labels.size();) {
    const auto again = std::find(labels.begin() + int64_t(i) + 1, labels.end(), labels[i]);
    if (again == labels.end()) {
      ++i;
      continue;
    }
    const int a = int(i), b = int(again - labels.begin()), label = labels[i];
    if (x.shape()[a] != x.shape()[b])
      throw Error(fmt::format("einsum: subscript '{}' occurs twice in operand {} of \"{}\" with sizes {} and {}; they must be equal",
                              char(label), operand, equation, x.shape()[a], x.shape()[b]));
    x = diagonal(x, 0, a, b);
    labels.erase(again), labels.erase(labels.begin() + a);
    labels.push_back(label);
  }
  return {x, labels};
}

void check(const char* name, const Tensor& a, const Tensor& b) {
  if (!a || !b) throw Error(fmt::format("{}: an operand is an undefined tensor", name));
}
void check_dims(const char* name, const char* operand, const Tensor& x, int dims) {
  if (!x) throw Error(fmt::format("{}: {} is an undefined tensor", name, operand));
  if (x.dim() != dims)
    throw Error(fmt::format("{}: {} is {} with {} dims; it must have {}", name, operand, x.shape().str(), x.dim(), dims));
}
void check_inner(const char* name, const Tensor& a, const Tensor& b) {
  const int64_t k = a.shape()[-1], l = b.shape()[b.dim() == 1 ? 0 : -2];
  if (k != l)
    throw Error(fmt::format("{}: cannot multiply {} by {}: inner sizes {} and {} differ", name, a.shape().str(), b.shape().str(), k, l));
}
void check_bmm(const char* name, const Tensor& a, const Tensor& b) {
  check_dims(name, "a", a, 3), check_dims(name, "b", b, 3);
  if (a.shape()[0] != b.shape()[0])
    throw Error(fmt::format("{}: a {} and b {} have batches of {} and {}; they must be equal", name, a.shape().str(), b.shape().str(),
                            a.shape()[0], b.shape()[0]));
  check_inner(name, a, b);
}
Tensor add_product(const char* name, const Tensor& input, const Tensor& product, double beta, double alpha) {
  if (!input) throw Error(fmt::format("{}: input is an undefined tensor", name));
  const Tensor scaled = alpha == 1 ? product : product * alpha;
  if (!(broadcast_shapes(name, input.shape(), product.shape()) == product.shape()))
    throw Error(fmt::format("{}: input {} does not broadcast to the product {}; sizes must be equal or 1", name, input.shape().str(),
                            product.shape().str()));
  if (beta == 0) return scaled;  // as in BLAS, nan in input does not matter then
  return (beta == 1 ? input : input * beta) + scaled;
}

}  // namespace

Tensor einsum(const std::string& equation, const std::vector<Tensor>& operands) {
  if (autocasting())
    return under_autocast(
        Precision::low, [&](auto& in) { return einsum(equation, in); }, operands);
  if (operands.empty()) throw Error("einsum: no operands are given; at least one is needed");
  for (auto& x : operands)
    if (!x) throw Error("einsum: an operand is an undefined tensor");
  const size_t arrow = equation.find("->");
  const auto terms = parse_terms(equation, equation.substr(0, arrow));
  if (terms.size() != operands.size())
    throw Error(
        fmt::format("einsum: \"{}\" has {} terms for {} operands; there must be one each", equation, terms.size(), operands.size()));

  int ellipsis_dims = 0;
  for (size_t i = 0; i < terms.size(); ++i) {
    const int dims = operands[i].dim(), rest = dims - terms[i].letters;
    if (rest < 0 || (rest > 0 && !terms[i].ellipsis))
      throw Error(fmt::format("einsum: operand {} is {} with {} dims, but its term in \"{}\" has {} subscripts; {}", i,
                              operands[i].shape().str(), dims, equation, terms[i].letters,
                              rest < 0 ? "it must not have more" : "there must be as many, or \"...\""));
    if (terms[i].ellipsis) ellipsis_dims = std::max(ellipsis_dims, rest);
  }
  std::vector<Factor> factors;
  std::vector<std::pair<int, int64_t>> sizes;  // of labels, and how often they occur
  std::vector<int> counts;
  for (size_t i = 0; i < terms.size(); ++i) {
    const Labels labels = spell_out(terms[i], operands[i].dim() - terms[i].letters);
    for (size_t d = 0; d < labels.size(); ++d) {
      const int64_t n = operands[i].shape()[int(d)];
      auto known = std::find_if(sizes.begin(), sizes.end(), [&](auto& s) { return s.first == labels[d]; });
      if (known == sizes.end()) {
        sizes.push_back({labels[d], n});
        counts.push_back(1);
        continue;
      }
      ++counts[size_t(known - sizes.begin())];
      if (known->second != n && known->second != 1 && n != 1)
        throw Error(fmt::format("einsum: subscript {} of \"{}\" has size {} in operand {} {} and {} before; they must be equal or 1",
                                labels[d] < first_ellipsis ? fmt::format("'{}'", char(labels[d])) : "...", equation, n, i,
                                operands[i].shape().str(), known->second));
      if (known->second == 1) known->second = n;
    }
    factors.push_back(without_repeats(operands[i], labels, equation, i));
  }

  Labels output;
  if (arrow != std::string::npos) {
    const std::string after = equation.substr(arrow + 2);
    const auto out = parse_terms(equation, after);
    if (out.size() != 1) throw Error(fmt::format("einsum: \"{}\" has {} outputs; there must be one", equation, out.size()));
    output = spell_out(out[0], ellipsis_dims);
    for (size_t d = 0; d < output.size(); ++d) {
      if (std::find(output.begin(), output.begin() + int64_t(d), output[d]) != output.begin() + int64_t(d))
        throw Error(
            fmt::format("einsum: subscript '{}' occurs twice in the output of \"{}\"; it may stand there once", char(output[d]), equation));
      if (std::none_of(sizes.begin(), sizes.end(), [&](auto& s) { return s.first == output[d]; }))
        throw Error(fmt::format("einsum: output subscript '{}' of \"{}\" is in no operand's term", char(output[d]), equation));
    }
  } else {
    for (int d = ellipsis_dims; d-- > 0;) output.push_back(first_ellipsis + d);
    Labels once;
    for (size_t i = 0; i < sizes.size(); ++i)
      if (counts[i] == 1 && sizes[i].first < first_ellipsis) once.push_back(sizes[i].first);
    std::sort(once.begin(), once.end());
    output.insert(output.end(), once.begin(), once.end());
  }

  Factor result = factors[0];
  for (size_t i = 1; i < factors.size(); ++i) {
    Labels keep = output;  // and what later operands have
    for (size_t j = i + 1; j < factors.size(); ++j) keep.insert(keep.end(), factors[j].labels.begin(), factors[j].labels.end());
    result = multiply(result, factors[i], keep);
  }
  Labels drop;
  for (int label : result.labels)
    if (!has(output, label)) drop.push_back(label);
  return ordered(sum_labels(result, drop), output);
}

Tensor tensordot(const Tensor& a, const Tensor& b, const Shape& dims_a, const Shape& dims_b) {
  if (autocasting())
    return under_autocast(
        Precision::widest, [&](auto& p, auto& q) { return tensordot(p, q, dims_a, dims_b); }, a, b);
  check("tensordot", a, b);
  if (dims_a.rank() != dims_b.rank())
    throw Error(fmt::format("tensordot: dims {} of a and {} of b differ in number; they go in pairs", dims_a.str(), dims_b.str()));
  Factor p{a, {}}, q{b, {}};
  for (int d = 0; d < a.dim(); ++d) p.labels.push_back(d);
  for (int d = 0; d < b.dim(); ++d) q.labels.push_back(100 + d);
  Labels summed;
  for (int i = 0; i < dims_a.rank(); ++i) {
    if (a.dim() == 0 || b.dim() == 0)
      throw Error(fmt::format("tensordot: a {} and b {} have no dims to sum; dims must be empty", a.shape().str(), b.shape().str()));
    const int d = normalize_dim("tensordot", dims_a[i], a.dim()), e = normalize_dim("tensordot", dims_b[i], b.dim());
    if (has(summed, d) || q.labels[size_t(e)] < 100)
      throw Error(fmt::format("tensordot: a dim occurs twice in {} or in {}; it may be summed once", dims_a.str(), dims_b.str()));
    if (a.shape()[d] != b.shape()[e] && a.shape()[d] != 1 && b.shape()[e] != 1)
      throw Error(fmt::format("tensordot: dim {} of a {} has size {} and dim {} of b {} has {}; they must be equal", d, a.shape().str(),
                              a.shape()[d], e, b.shape().str(), b.shape()[e]));
    q.labels[size_t(e)] = d;
    summed.push_back(d);
  }
  Labels keep;
  for (int label : p.labels)
    if (!has(summed, label)) keep.push_back(label);
  for (int label : q.labels)
    if (label >= 100) keep.push_back(label);
  return ordered(multiply(p, q, keep), keep);
}
Tensor tensordot(const Tensor& a, const Tensor& b, int64_t dims) {
  check("tensordot", a, b);
  if (dims < 0 || dims > a.dim() || dims > b.dim())
    throw Error(
        fmt::format("tensordot: cannot sum {} dims of a {} and b {}; both must have as many", dims, a.shape().str(), b.shape().str()));
  Shape last, first;
  for (int64_t d = 0; d < dims; ++d) last.push_back(a.dim() - dims + d), first.push_back(d);
  return tensordot(a, b, last, first);
}
Tensor outer(const Tensor& a, const Tensor& b) {
  check_dims("outer", "a", a, 1), check_dims("outer", "b", b, 1);
  return unsqueeze(a, 1) * b;
}
Tensor kron(const Tensor& a, const Tensor& b) {
  check("kron", a, b);
  const int dims = std::max(a.dim(), b.dim());
  if (2 * dims > Shape::max_rank)
    throw Error(fmt::format("kron: a {} and b {} have more than {} dims", a.shape().str(), b.shape().str(), Shape::max_rank / 2));
  Shape left, right, out;  // (a0, 1, a1, 1, ...) times (1, b0, 1, b1, ...)
  for (int d = 0; d < dims; ++d) {
    const int i = d - dims + a.dim(), j = d - dims + b.dim();
    const int64_t n = i < 0 ? 1 : a.shape()[i], m = j < 0 ? 1 : b.shape()[j];
    left.push_back(n), left.push_back(1), right.push_back(1), right.push_back(m), out.push_back(n * m);
  }
  return reshape(reshape(a, left) * reshape(b, right), out);
}

Tensor bmm(const Tensor& a, const Tensor& b) {
  check_bmm("bmm", a, b);
  return matmul(a, b);
}
Tensor mm(const Tensor& a, const Tensor& b) {
  check_dims("mm", "a", a, 2), check_dims("mm", "b", b, 2), check_inner("mm", a, b);
  return matmul(a, b);
}
Tensor mv(const Tensor& a, const Tensor& x) {
  check_dims("mv", "a", a, 2), check_dims("mv", "x", x, 1), check_inner("mv", a, x);
  return matmul(a, x);
}
Tensor dot(const Tensor& a, const Tensor& b) {
  if (autocasting())
    return under_autocast(
        Precision::widest, [&](auto& p, auto& q) { return dot(p, q); }, a, b);
  check_dims("dot", "a", a, 1), check_dims("dot", "b", b, 1), check_inner("dot", a, b);
  return multiply({a, {0}}, {b, {0}}, {}).x;
}
Tensor inner(const Tensor& a, const Tensor& b) {
  check("inner", a, b);
  if (a.dim() == 0 || b.dim() == 0) return a * b;
  if (a.shape()[-1] != b.shape()[-1])
    throw Error(fmt::format("inner: the last sizes of a {} and b {} are {} and {}; they must be equal", a.shape().str(), b.shape().str(),
                            a.shape()[-1], b.shape()[-1]));
  return tensordot(a, b, Shape{-1}, Shape{-1});
}
Tensor trace(const Tensor& x) {
  check_dims("trace", "x", x, 2);
  return sum(diagonal(x));
}
Tensor cross(const Tensor& a, const Tensor& b, int64_t dim) {
  check("cross", a, b);
  if (a.dim() != b.dim())
    throw Error(fmt::format("cross: a {} and b {} have {} and {} dims; they must have as many", a.shape().str(), b.shape().str(), a.dim(),
                            b.dim()));
  broadcast_shapes("cross", a.shape(), b.shape());
  const int d = normalize_dim("cross", dim, a.dim());
  if (a.dim() == 0 || a.shape()[d] != 3 || b.shape()[d] != 3)
    throw Error(fmt::format("cross: a {} and b {} must have size 3 at dim {}", a.shape().str(), b.shape().str(), d));
  const auto part = [d](const Tensor& x, int64_t i) { return select(x, d, i); };
  std::vector<Tensor> parts;
  for (int64_t i = 0; i < 3; ++i) {
    const int64_t j = (i + 1) % 3, k = (i + 2) % 3;
    parts.push_back(part(a, j) * part(b, k) - part(a, k) * part(b, j));
  }
  return stack(parts, d);
}

namespace {
// Cormen et al., Introduction to Algorithms: the order of a matrix chain by dynamic programming.
Tensor multiply_chain(const std::vector<Tensor>& m) {
  const size_t n = m.size();
  std::vector<double> cost(n * n, 0);
  std::vector<size_t> cut(n * n, 0);
  for (size_t length = 2; length <= n; ++length)
    for (size_t i = 0; i + length <= n; ++i) {
      const size_t j = i + length - 1;
      cost[i * n + j] = std::numeric_limits<double>::infinity();
      for (size_t k = i; k < j; ++k) {
        const double c =
            cost[i * n + k] + cost[(k + 1) * n + j] + double(m[i].shape()[0]) * double(m[k].shape()[1]) * double(m[j].shape()[1]);
        if (c < cost[i * n + j]) cost[i * n + j] = c, cut[i * n + j] = k;
      }
    }
  const auto product = [&](auto& self, size_t i, size_t j) -> Tensor {
    return i == j ? m[i] : matmul(self(self, i, cut[i * n + j]), self(self, cut[i * n + j] + 1, j));
  };
  return product(product, 0, n - 1);
}
}  // namespace

Tensor multi_dot(const std::vector<Tensor>& matrices) {
  if (autocasting())
    return under_autocast(
        Precision::low, [&](auto& in) { return multi_dot(in); }, matrices);
  if (matrices.size() < 2) throw Error(fmt::format("multi_dot: {} matrices are given; at least two are needed", matrices.size()));
  std::vector<Tensor> m = matrices;
  for (auto& x : m)
    if (!x) throw Error("multi_dot: a matrix is an undefined tensor");
  const bool row = m.front().dim() == 1, column = m.back().dim() == 1;
  if (row) m.front() = unsqueeze(m.front(), 0);
  if (column) m.back() = unsqueeze(m.back(), 1);
  for (size_t i = 0; i < m.size(); ++i) {
    check_dims("multi_dot", "a matrix", m[i], 2);
    if (i) check_inner("multi_dot", m[i - 1], m[i]);
  }
  Tensor y = multiply_chain(m);
  if (column) y = squeeze(y, 1);
  return row ? squeeze(y, 0) : y;
}
Tensor chain_matmul(const std::vector<Tensor>& matrices) {
  if (autocasting())
    return under_autocast(
        Precision::low, [&](auto& in) { return chain_matmul(in); }, matrices);
  if (matrices.empty()) throw Error("chain_matmul: no matrices are given; at least one is needed");
  for (size_t i = 0; i < matrices.size(); ++i) {
    check_dims("chain_matmul", "a matrix", matrices[i], 2);
    if (i) check_inner("chain_matmul", matrices[i - 1], matrices[i]);
  }
  return multiply_chain(matrices);
}

Tensor addmm(const Tensor& input, const Tensor& a, const Tensor& b, double beta, double alpha) {
  if (autocasting())
    return under_autocast(
        Precision::low, [&](auto& p, auto& q, auto& r) { return addmm(p, q, r, beta, alpha); }, input, a, b);
  check_dims("addmm", "a", a, 2), check_dims("addmm", "b", b, 2), check_inner("addmm", a, b);
  return add_product("addmm", input, matmul(a, b), beta, alpha);
}
Tensor addmv(const Tensor& input, const Tensor& a, const Tensor& x, double beta, double alpha) {
  if (autocasting())
    return under_autocast(
        Precision::low, [&](auto& p, auto& q, auto& r) { return addmv(p, q, r, beta, alpha); }, input, a, x);
  check_dims("addmv", "a", a, 2), check_dims("addmv", "x", x, 1), check_inner("addmv", a, x);
  return add_product("addmv", input, matmul(a, x), beta, alpha);
}
Tensor baddbmm(const Tensor& input, const Tensor& a, const Tensor& b, double beta, double alpha) {
  if (autocasting())
    return under_autocast(
        Precision::low, [&](auto& p, auto& q, auto& r) { return baddbmm(p, q, r, beta, alpha); }, input, a, b);
  check_bmm("baddbmm", a, b);
  return add_product("baddbmm", input, matmul(a, b), beta, alpha);
}
Tensor addbmm(const Tensor& input, const Tensor& a, const Tensor& b, double beta, double alpha) {
  if (autocasting())
    return under_autocast(
        Precision::low, [&](auto& p, auto& q, auto& r) { return addbmm(p, q, r, beta, alpha); }, input, a, b);
  check_bmm("addbmm", a, b);
  // sum over b and k at once: (M, B K) times (B K, N)
  const int64_t q = a.shape()[0], m = a.shape()[1], k = a.shape()[2], n = b.shape()[2];
  return add_product("addbmm", input, matmul(reshape(transpose(a, 0, 1), {m, q * k}), reshape(b, {q * k, n})), beta, alpha);
}

}  // namespace retape
