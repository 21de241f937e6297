#include <retape/autograd/dplr_kernel.h>

#include <retape/autograd/binary.h>
#include <retape/autograd/fft.h>
#include <retape/autograd/normalized.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>

namespace retape {
namespace {

constexpr auto op = "dplr_kernel";

struct DplrKernelBackward {
  static constexpr auto name = "dplr_kernel_backward";
  static constexpr bool expensive = true;
  std::array<Tensor, 5> forward(const Tensor& dy, const Tensor& factor, const Tensor& p, const Tensor& q, const Tensor& b,
                                const Tensor& c) {
    const Tensor grad = contiguous(dy), in[] = {contiguous(factor), contiguous(p), contiguous(q), contiguous(b), contiguous(c)};
    std::array<Tensor, 5> d;
    for (Tensor& t : d) t = empty(factor.shape(), factor.options());
    RETAPE_DISPATCH(detail::cpu_for_meta(factor.device()),
                    dplr_kernel_backward(grad, in[0], in[1], in[2], in[3], in[4], d[0], d[1], d[2], d[3], d[4]));
    return d;
  }
  // Position by position: the states, then their gradients from the last on.
  std::array<Tensor, 5> composite(const Tensor& dy, const Tensor& factor, const Tensor& p, const Tensor& q, const Tensor& b,
                                  const Tensor& c) {
    const int64_t length = dy.shape()[1];
    std::array<Tensor, 5> d = {0. * factor, 0. * p, 0. * q, 0. * b, 0. * c};
    if (dy.numel() == 0) return d;
    std::vector<Tensor> x = {b}, s;
    for (int64_t l = 0; l + 1 < length; ++l) {
      s.push_back(2 * sum(real(complex_mul(q, x.back())), {1}, true));
      x.push_back(complex_mul(factor, x.back()) - p * unsqueeze(s.back(), 2));
    }
    Tensor g;  // of the state one position on
    for (int64_t l = length; l-- > 0;) {
      const Tensor of_output = 2 * unsqueeze(narrow(dy, 1, l, 1), 2), back = complex_conj(x[size_t(l)]);
      Tensor own = complex_conj(c) * of_output;
      d[4] = d[4] + back * of_output;
      if (g) {
        const Tensor ds = -2 * sum(p * g, {1, 2}, true);
        own = own + complex_mul(complex_conj(factor), g) + complex_conj(q) * ds;
        d[0] = d[0] + complex_mul(g, back), d[1] = d[1] - g * unsqueeze(s[size_t(l)], 2), d[2] = d[2] + back * ds;
      }
      g = own;
    }
    d[3] = g;
    return d;
  }
};
struct DplrKernel {
  static constexpr auto name = op;
  static constexpr auto precision = Precision::full;
  static constexpr bool expensive = true;
  int64_t length;
  std::array<Saved, 5> in = {};
  Tensor forward(const Tensor& factor, const Tensor& p, const Tensor& q, const Tensor& b, const Tensor& c) {
    Tensor y = empty({factor.shape()[0], length}, factor.options());
    const Tensor x[] = {contiguous(factor), contiguous(p), contiguous(q), contiguous(b), contiguous(c)};
    RETAPE_DISPATCH(factor.device(), dplr_kernel(x[0], x[1], x[2], x[3], x[4], y));
    in = {save(factor), save(p), save(q), save(b), save(c)};
    return y;
  }
  void backward(const Tensor& dy, Grads& dx) {
    const auto d = record(DplrKernelBackward{}, dy, *in[0], *in[1], *in[2], *in[3], *in[4]);
    for (int i = 0; i < 5; ++i) dx.set(i, d[size_t(i)]);
  }
};

}  // namespace

Tensor dplr_kernel(const Tensor& factor, const Tensor& p, const Tensor& q, const Tensor& b, const Tensor& c, int64_t length) {
  const Tensor* const all[] = {&factor, &p, &q, &b, &c};
  constexpr const char* names[] = {"factor", "p", "q", "b", "c"};
  for (const Tensor* t : all) check_defined(op, *t);
  if (autocasting())
    return under_autocast(
        DplrKernel::precision,
        [&](const Tensor& f, const Tensor& u, const Tensor& v, const Tensor& x, const Tensor& z) {
          return dplr_kernel(f, u, v, x, z, length);
        },
        factor, p, q, b, c);
  check_one_device(op, factor, p, q, b, c);
  const Shape& s = factor.shape();
  if (factor.dim() != 3 || s[2] != 2) throw Error(fmt::format("{}: factor is {}; its shape must be (H, N, 2)", op, s.str()));
  DType dtype = factor.dtype();
  for (int i = 0; i < 5; ++i) {
    if (!is_floating(all[i]->dtype()))
      throw Error(fmt::format("{}: {} has dtype {}; it must be floating, use cast()", op, names[i], name_of(all[i]->dtype())));
    if (!(all[i]->shape() == s))
      throw Error(fmt::format("{}: {} is {}, but factor is {}; they must be equal", op, names[i], all[i]->shape().str(), s.str()));
    dtype = promote(dtype, all[i]->dtype());
  }
  if (length < 0) throw Error(fmt::format("{}: length is {}; it must be 0 or more", op, length));
  const DType wide = dtype == DType::f64 ? dtype : DType::f32;
  return cast(record(DplrKernel{length}, cast(factor, wide), cast(p, wide), cast(q, wide), cast(b, wide), cast(c, wide)), dtype);
}

}  // namespace retape
