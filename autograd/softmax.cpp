#include <retape/autograd/softmax.h>

#include <fmt/format.h>

#include <retape/autograd/binary.h>
#include <retape/autograd/check.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>

namespace retape {
namespace {

// The kernels work along the last dim of contiguous memory.
Tensor with_dim_last(const Tensor& x, int dim) { return contiguous(x.dim() ? transpose(x, dim, -1) : x); }
Tensor with_dim_back(const Tensor& y, int dim) { return y.dim() ? transpose(y, dim, -1) : y; }

struct SoftmaxBackward {
  const char* name;
  int dim;
  bool log;
  Tensor forward(const Tensor& dy, const Tensor& y) {
    const Tensor d = with_dim_last(dy, dim), p = with_dim_last(y, dim);
    Tensor dx = empty_like(p);
    RETAPE_DISPATCH(y.device(), softmax_backward(d, p, log, dx));
    return with_dim_back(dx, dim);
  }
  Tensor composite(const Tensor& dy, const Tensor& y) {
    if (log) return dy - exp(y) * sum(dy, {dim}, true);
    return y * (dy - sum(dy * y, {dim}, true));
  }
};
struct Softmax {
  static constexpr auto precision = Precision::full;
  const char *name, *backward_name;
  int dim;
  bool log;
  Saved y = {};
  Tensor forward(const Tensor& x) {
    const Tensor in = with_dim_last(x, dim);
    Tensor rows = empty_like(in);
    RETAPE_DISPATCH(x.device(), softmax(in, log, rows));
    const Tensor out = with_dim_back(rows, dim);
    y = save(out);
    return out;
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, record(SoftmaxBackward{backward_name, dim, log}, dy, *y)); }
  Intervals reach(const Reach& r) const { return all_of_dim(r, dim); }
};

void check(const char* name, const Tensor& x) {
  check_defined(name, x);
  if (!is_floating(x.dtype()))
    throw Error(fmt::format("{}: a tensor of {} has no softmax of its own dtype; cast() it to a floating dtype", name, name_of(x.dtype())));
}

}  // namespace

Tensor softmax(const Tensor& x, int64_t dim) {
  check("softmax", x);
  return record(Softmax{"softmax", "softmax_backward", normalize_dim("softmax", dim, x.dim()), false}, x);
}
Tensor log_softmax(const Tensor& x, int64_t dim) {
  check("log_softmax", x);
  return record(Softmax{"log_softmax", "log_softmax_backward", normalize_dim("log_softmax", dim, x.dim()), true}, x);
}

}  // namespace retape
