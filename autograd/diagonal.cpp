#include <retape/autograd/diagonal.h>

#include <fmt/format.h>

#include <algorithm>

#include <retape/autograd/binary.h>
#include <retape/autograd/check.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>

namespace retape {
namespace {

// Which diagonal of which dims.
struct Place {
  int64_t offset;
  int dim1, dim2;
};
Tensor diagonal_view(const Tensor& x, const Place& p) {
  Shape shape = x.shape(), strides = x.strides();
  const int64_t down = std::max<int64_t>(0, -p.offset), right = std::max<int64_t>(0, p.offset);
  const int64_t n = std::max<int64_t>(0, std::min(shape[p.dim1] - down, shape[p.dim2] - right));
  const int64_t offset = x.offset() + (n ? down * strides[p.dim1] + right * strides[p.dim2] : 0);
  const int64_t stride = strides[p.dim1] + strides[p.dim2];
  for (int d : {std::max(p.dim1, p.dim2), std::min(p.dim1, p.dim2)}) shape.erase(d), strides.erase(d);
  shape.push_back(n), strides.push_back(stride);
  return make_tensor(x->storage, {shape, strides, offset, x.dtype()});
}
struct DiagonalFrame {  // zeros with x on the diagonal
  static constexpr auto name = "diag_embed";
  Place place;
  Shape to;
  Tensor forward(const Tensor& x) {
    const Tensor y = zeros(to, x.options());
    Tensor part = diagonal_view(y, place);
    RETAPE_DISPATCH(x.device(), copy(x, part));
    return y;
  }
  void backward(const Tensor& dy, Grads& dx);
};
struct Diagonal {
  static constexpr auto name = "diagonal";
  Place place;
  Shape from = {};
  Tensor forward(const Tensor& x) {
    from = x.shape();
    return diagonal_view(x, place);
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, record(DiagonalFrame{place, from}, dy)); }
};
void DiagonalFrame::backward(const Tensor& dy, Grads& dx) { dx.set(0, record(Diagonal{place}, dy)); }

Place check_place(const char* name, const Shape& shape, int64_t offset, int64_t dim1, int64_t dim2) {
  const Place p{offset, normalize_dim(name, dim1, shape.rank()), normalize_dim(name, dim2, shape.rank())};
  if (p.dim1 == p.dim2 || shape.rank() < 2)
    throw Error(fmt::format("{}: dims {} and {} of {} make no matrix; they must differ", name, dim1, dim2, shape.str()));
  return p;
}

Tensor triangle(const char* name, const Tensor& x, int64_t diagonal, bool lower) {
  check_defined(name, x);
  if (x.dim() < 2) throw Error(fmt::format("{}: a tensor of shape {} is no matrix; at least two dims are needed", name, x.shape().str()));
  const Options options{DType::i64, x.device()};
  const Tensor column = arange(0, double(x.shape()[-1]), 1, options);
  const Tensor border = unsqueeze(arange(double(diagonal), double(diagonal + x.shape()[-2]), 1, options), 1);
  return where(lower ? le(column, border) : ge(column, border), x, zeros({}, x.options()));
}
Tensor triangle_indices(const char* name, int64_t rows, int64_t columns, int64_t offset, bool lower) {
  if (rows < 0 || columns < 0) throw Error(fmt::format("{}: {} rows and {} columns are no matrix; they must be >= 0", name, rows, columns));
  std::vector<int64_t> row, column;
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t border = std::clamp<int64_t>(i + offset + lower, 0, columns);
    for (int64_t j = lower ? 0 : border; j < (lower ? border : columns); ++j) row.push_back(i), column.push_back(j);
  }
  const int64_t n = int64_t(row.size());
  row.insert(row.end(), column.begin(), column.end());
  return tensor(row, {2, n});
}

}  // namespace

Tensor diagonal(const Tensor& x, int64_t offset, int64_t dim1, int64_t dim2) {
  check_defined("diagonal", x);
  return record(Diagonal{check_place("diagonal", x.shape(), offset, dim1, dim2)}, x);
}
Tensor diag_embed(const Tensor& x, int64_t offset, int64_t dim1, int64_t dim2) {
  check_defined("diag_embed", x);
  if (x.dim() == 0) throw Error("diag_embed: a tensor with no dims is no diagonal; at least one dim is needed");
  const int64_t n = x.shape()[-1] + std::abs(offset);
  Shape to = x.shape();
  to.push_back(n);
  const Place p = check_place("diag_embed", to, offset, dim1, dim2);
  to = x.shape();
  to.erase(to.rank() - 1);
  for (int d : {std::min(p.dim1, p.dim2), std::max(p.dim1, p.dim2)}) to.insert(d, n);
  return record(DiagonalFrame{p, to}, x);
}
Tensor diag(const Tensor& x, int64_t offset) {
  check_defined("diag", x);
  if (x.dim() != 1 && x.dim() != 2)
    throw Error(fmt::format("diag: the tensor has shape {}; it must be a vector or a matrix", x.shape().str()));
  return x.dim() == 1 ? diag_embed(x, offset) : diagonal(x, offset);
}
Tensor diagflat(const Tensor& x, int64_t offset) { return diag_embed(flatten(x), offset); }

Tensor tril(const Tensor& x, int64_t diagonal) { return triangle("tril", x, diagonal, true); }
Tensor triu(const Tensor& x, int64_t diagonal) { return triangle("triu", x, diagonal, false); }
Tensor tril_indices(int64_t rows, int64_t columns, int64_t offset) { return triangle_indices("tril_indices", rows, columns, offset, true); }
Tensor triu_indices(int64_t rows, int64_t columns, int64_t offset) {
  return triangle_indices("triu_indices", rows, columns, offset, false);
}

}  // namespace retape
