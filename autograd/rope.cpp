#include <retape/autograd/rope.h>

#include <fmt/format.h>

#include <cmath>

#include <retape/autograd/check.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>

namespace retape {
namespace {

struct Rope {
  static constexpr auto name = "rope";
  bool interleaved, inverse;
  Saved cos = {}, sin = {};
  Tensor forward(const Tensor& x, const Tensor& c, const Tensor& s) {
    cos = save(c), sin = save(s);
    const Tensor in = contiguous(x), cosines = contiguous(c), sines = contiguous(s);
    Tensor y = empty_like(in);
    RETAPE_DISPATCH(x.device(), rope(in, cosines, sines, interleaved, inverse, y));
    return y;
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, record(Rope{interleaved, !inverse}, dy, *cos, *sin)); }
};

}  // namespace

Tensor rope(const Tensor& x, const Tensor& cos, const Tensor& sin, bool interleaved) {
  if (!x || !cos || !sin) throw Error("rope: x, cos or sin is an undefined tensor");
  if (!is_floating(x.dtype()) || !is_floating(cos.dtype()) || !is_floating(sin.dtype()))
    throw Error(fmt::format("rope: x, cos and sin have dtypes {}, {} and {}; all must be floating", name_of(x.dtype()),
                            name_of(cos.dtype()), name_of(sin.dtype())));
  check_one_device("rope", x, cos, sin);
  if (x.dim() < 2 || x.shape()[-1] % 2)
    throw Error(fmt::format("rope: x has shape {}; it must be (..., T, D) with an even D", x.shape().str()));
  const Shape table{x.shape()[-2], x.shape()[-1] / 2};
  if (!(cos.shape() == table && sin.shape() == table))
    throw Error(fmt::format("rope: cos {} and sin {} do not fit x of shape {}; both must have shape {}", cos.shape().str(),
                            sin.shape().str(), x.shape().str(), table.str()));
  if (ctx.recording && (cos.requires_grad() || sin.requires_grad())) throw Error("rope: cos and sin have no gradient here; detach() them");
  const DType dtype = x.dtype() == DType::f64 ? DType::f64 : DType::f32;
  return record(Rope{interleaved, false}, x, cast(cos, dtype), cast(sin, dtype));
}

std::pair<Tensor, Tensor> rope_tables(int64_t length, int64_t head_dim, double base, Options options) {
  if (length < 0 || head_dim < 0 || head_dim % 2)
    throw Error(fmt::format("rope_tables: length {} and head_dim {} are not valid; both must be >= 0 and head_dim even", length, head_dim));
  if (!(base > 0)) throw Error(fmt::format("rope_tables: base {} is not valid; it must be positive", base));
  std::vector<double> frequencies;
  for (int64_t i = 0; i < head_dim / 2; ++i) frequencies.push_back(std::pow(base, -2.0 * double(i) / double(head_dim)));
  return rope_tables(length, frequencies, 1, options);
}

std::pair<Tensor, Tensor> rope_tables(int64_t length, const std::vector<double>& frequencies, double factor, Options options) {
  if (length < 0) throw Error(fmt::format("rope_tables: length {} is not valid; it must be >= 0", length));
  if (!is_floating(options.dtype))
    throw Error(fmt::format("rope_tables: dtype {} cannot hold cosines; use a floating dtype", name_of(options.dtype)));
  const int64_t half = int64_t(frequencies.size());
  if (options.device.is_meta()) return {empty({length, half}, options), empty({length, half}, options)};
  Tensor cos = empty({length, half}, {DType::f64}), sin = empty_like(cos);
  double *c = cos.mutable_data<double>(), *s = sin.mutable_data<double>();
  for (int64_t i = 0; i < half; ++i)
    for (int64_t t = 0; t < length; ++t) {
      c[t * half + i] = factor * std::cos(double(t) * frequencies[size_t(i)]);
      s[t * half + i] = factor * std::sin(double(t) * frequencies[size_t(i)]);
    }
  return {to(cast(cos, options.dtype), options.device), to(cast(sin, options.dtype), options.device)};
}

}  // namespace retape
