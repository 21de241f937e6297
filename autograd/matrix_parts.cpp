#include <retape/autograd/matrix_parts.h>

#include <retape/autograd/binary.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>

namespace retape::detail {
namespace {

Tensor diagonal_view(const Tensor& x, int a, int b) {
  Shape shape = x.shape(), strides = x.strides();
  const int64_t n = shape[a], step = strides[a] + strides[b];
  shape.erase(std::max(a, b)), strides.erase(std::max(a, b));
  shape.erase(std::min(a, b)), strides.erase(std::min(a, b));
  shape.push_back(n), strides.push_back(step);
  return make_tensor(x->storage, {shape, strides, x.offset(), x.dtype()});
}

struct DiagonalBackward {  // zeros with dy on the diagonal
  static constexpr auto name = "diagonal_backward";
  int a, b;
  Shape from;
  Tensor forward(const Tensor& dy) {
    const Tensor dx = zeros(from, dy.options());
    Tensor view = diagonal_view(dx, a, b);
    RETAPE_DISPATCH(dy.device(), copy(dy, view));
    return dx;
  }
  void backward(const Tensor& ddx, Grads& g) { g.set(0, diagonal_of(ddx, a, b)); }
};
struct Diagonal {
  static constexpr auto name = "diagonal";
  int a, b;
  Shape from = {};
  Tensor forward(const Tensor& x) {
    from = x.shape();
    return diagonal_view(x, a, b);
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, record(DiagonalBackward{a, b, from}, dy)); }
};

// column - row of every element of the last two dims
Tensor distance(const Tensor& x) {
  const Options options{DType::i64, x.device()};
  return sub(arange(0, double(x.shape()[-1]), 1, options), unsqueeze(arange(0, double(x.shape()[-2]), 1, options), 1));
}

}  // namespace

Tensor diagonal_of(const Tensor& x, int a, int b) { return record(Diagonal{a, b}, x); }
Tensor diagonal_matrix(const Tensor& x) {
  Shape shape = x.shape();
  shape.push_back(shape[-1]);
  return record(DiagonalBackward{x.dim() - 1, x.dim(), shape}, x);
}
Tensor lower_part(const Tensor& x, int64_t k) { return where(le(distance(x), k), x, 0.); }
Tensor upper_part(const Tensor& x, int64_t k) { return where(ge(distance(x), k), x, 0.); }
Tensor identity_matrix(int64_t n, Options options) { return diagonal_matrix(ones({n}, options)); }

}  // namespace retape::detail
