#include <retape/autograd/group_norm.h>

#include <fmt/format.h>

#include <retape/autograd/check.h>
#include <retape/autograd/normalized.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>

namespace retape {
namespace {

// (N, C, ...) as the kernels see it, (samples, positions, C), and back. With `whole`, all positions of all samples are those of one.
Tensor channels_last(const Tensor& x, bool whole) {
  const int64_t n = x.shape()[0], c = x.shape()[1];
  int64_t positions = 1;
  for (int d = 2; d < x.dim(); ++d) positions *= x.shape()[d];
  const Tensor last = contiguous(x.dim() > 2 ? movedim(x, 1, -1) : x);
  return reshape(last, whole ? Shape{1, n * positions, c} : Shape{n, positions, c});
}
Tensor channels_second(const Tensor& rows, const Shape& shape) {
  Shape last;
  for (int d = 0; d < shape.rank(); ++d)
    if (d != 1) last.push_back(shape[d]);
  last.push_back(shape[1]);
  const Tensor x = reshape(rows, last);
  return shape.rank() > 2 ? movedim(x, -1, 1) : x;
}

// Members that the op and its gradient share.
struct How {
  int64_t groups;
  bool whole, given;
  double eps;
};

struct GroupNormBackward {
  static constexpr auto name = "group_norm_backward";
  How how;
  bool want_weight, want_bias;
  std::array<Tensor, 3> forward(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& mean, const Tensor& var) {
    const Tensor d = channels_last(dy, how.whole), in = channels_last(x, how.whole);
    const Shape channels{in.shape()[2]};
    Tensor dx = empty_like(in), dw = want_weight ? empty(channels, var.options()) : Tensor{},
           db = want_bias ? empty(channels, var.options()) : Tensor{};
    if (x.numel() > 0)
      RETAPE_DISPATCH(x.device(), group_norm_backward(d, in, how.groups, how.given, weight ? contiguous(weight) : weight, contiguous(mean),
                                                      contiguous(var), how.eps, dx, dw, db));
    else {
      if (dw) dw = zeros_like(dw);
      if (db) db = zeros_like(db);
    }
    return {channels_second(dx, x.shape()), dw, db};
  }
  std::array<Tensor, 3> composite(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& given_mean,
                                  const Tensor& given_var) {
    const DType dtype = statistics_of(x).dtype;
    const Tensor flat = cast(channels_last(x, how.whole), dtype);
    const int64_t c = flat.shape()[2];
    const Shape grouped{flat.shape()[0], flat.shape()[1], how.groups, c / how.groups}, moment{-1, 1, how.groups, 1};
    const Tensor in = reshape(flat, grouped), d = reshape(cast(channels_last(dy, how.whole), dtype), grouped);
    const Tensor centred = in - (how.given ? reshape(given_mean, moment) : mean(in, {1, 3}, true));
    const Tensor rstd = rsqrt((how.given ? reshape(given_var, moment) : mean(square(centred), {1, 3}, true)) + how.eps),
                 hat = centred * rstd;
    const Tensor g = weight ? d * reshape(weight, {how.groups, c / how.groups}) : d;
    const Tensor dx = rstd * (how.given ? g : g - mean(g, {1, 3}, true) - hat * mean(g * hat, {1, 3}, true));
    return {channels_second(cast(dx, x.dtype()), x.shape()), want_weight ? reshape(sum(d * hat, {0, 1}), {c}) : Tensor{},
            want_bias ? reshape(sum(d, {0, 1}), {c}) : Tensor{}};
  }
};

struct GroupNorm {
  const char* name;
  Precision precision;
  static constexpr int differentiable = 1;
  How how;
  Saved x = {}, weight = {}, mean = {}, var = {};
  std::array<Tensor, 3> forward(const Tensor& in, const Tensor& w, const Tensor& b, const Tensor& given_mean, const Tensor& given_var) {
    const Tensor rows = channels_last(in, how.whole);
    const Shape moments{rows.shape()[0], how.groups};
    Tensor out = empty_like(rows);
    Tensor center = how.given ? contiguous(given_mean) : empty(moments, statistics_of(in)),
           spread = how.given ? contiguous(given_var) : empty(moments, statistics_of(in));
    RETAPE_DISPATCH(in.device(),
                    group_norm(rows, how.groups, how.given, w ? contiguous(w) : w, b ? contiguous(b) : b, how.eps, out, center, spread));
    x = save(in), weight = save(w), mean = save(how.given ? given_mean : center), var = save(how.given ? given_var : spread);
    return {channels_second(out, in.shape()), how.given ? Tensor{} : center, how.given ? Tensor{} : spread};
  }
  void backward(const std::vector<Tensor>& dy, Grads& dx) {
    const auto d = record(GroupNormBackward{how, dx.wants(1), dx.wants(2)}, dy[0], *x, *weight, *mean, *var);
    dx.set(0, d[0]);
    if (dx.wants(1)) dx.set(1, d[1]);
    if (dx.wants(2)) dx.set(2, d[2]);
    dx.none(3), dx.none(4);
  }
  Intervals reach(const Reach& r) const {
    if (how.given && r.input == 0) return r.box;
    Intervals box = all_elements(r.in);
    if (!how.whole && r.input == 0) box[0] = r.box[0];
    return box;
  }
};

void check_channels(const char* name, const Tensor& x, const char* what, const Tensor& t) {
  if (t && !(t.shape() == Shape{x.shape()[1]}))
    throw Error(fmt::format("{}: {} is {}, but x {} has {} channels; its shape must be [{}]", name, what, t.shape().str(), x.shape().str(),
                            x.shape()[1], x.shape()[1]));
}
std::array<Tensor, 3> run(const char* name, Precision precision, const How& how, const Tensor& x, const Tensor& weight, const Tensor& bias,
                          const Tensor& mean = {}, const Tensor& var = {}) {
  check_one_device(name, x, weight, bias, mean, var);
  check_channels(name, x, "weight", weight), check_channels(name, x, "bias", bias);
  check_channels(name, x, "the mean", mean), check_channels(name, x, "the variance", var);
  if (!is_floating(x.dtype())) throw Error(fmt::format("{}: x is {}; it must be floating, use cast()", name, retape::name_of(x.dtype())));
  const auto run_cast = [&](const Tensor& in, const Tensor& w, const Tensor& b) {
    const DType dtype = statistics_of(in).dtype;
    const auto as = [&](const Tensor& t) { return t ? cast(t, dtype) : t; };
    // Given moments count as those of one sample, which has all positions.
    const auto as_moments = [&](const Tensor& t) { return t ? reshape(cast(t.detach(), dtype), {1, how.groups}) : t; };
    return record(GroupNorm{name, precision, how}, in, as(w), as(b), as_moments(mean), as_moments(var));
  };
  if (precision == Precision::full && autocasting()) return under_autocast(precision, run_cast, x, weight, bias);
  return run_cast(x, weight, bias);
}
void check_dims(const char* name, const Tensor& x, int64_t least) {
  check_defined(name, x);
  if (x.dim() < least) throw Error(fmt::format("{}: x is {}; it must have at least {} dims, (N, C, ...)", name, x.shape().str(), least));
}
void check_values(const char* name, const Tensor& x, int64_t values) {
  if (values == 1 || (values == 0 && x.shape()[1] > 0))
    throw Error(fmt::format("{}: x {} has {} value{} to take moments of at a time; there must be more than one", name, x.shape().str(),
                            values, values == 1 ? "" : "s"));
}
int64_t positions_of(const Tensor& x) {
  int64_t n = 1;
  for (int d = 2; d < x.dim(); ++d) n *= x.shape()[d];
  return n;
}

}  // namespace

Tensor group_norm(const Tensor& x, int64_t num_groups, const Tensor& weight, const Tensor& bias, double eps) {
  constexpr auto name = "group_norm";
  check_dims(name, x, 2);
  const int64_t channels = x.shape()[1];
  if (num_groups <= 0 || channels == 0 || channels % num_groups != 0)
    throw Error(
        fmt::format("{}: {} groups do not fit x {}; they must divide its {} channels", name, num_groups, x.shape().str(), channels));
  if (x.shape()[0] * channels / num_groups * positions_of(x) == 1) check_values(name, x, 1);
  return run(name, Precision::full, {num_groups, false, false, eps}, x, weight, bias)[0];
}
NormWithMoments batch_norm_with_moments(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  constexpr auto name = "batch_norm";
  check_dims(name, x, 2);
  check_values(name, x, x.shape()[0] * positions_of(x));
  const int64_t c = x.shape()[1];
  if (c == 0) throw Error(fmt::format("{}: x {} has no channels; there must be at least one", name, x.shape().str()));
  const auto all = run(name, Precision::any, {c, true, false, eps}, x, weight, bias);
  return {all[0], reshape(all[1], {c}), reshape(all[2], {c})};
}
NormWithMoments instance_norm_with_moments(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  constexpr auto name = "instance_norm";
  check_dims(name, x, 3);
  check_values(name, x, positions_of(x));
  if (x.shape()[1] == 0) throw Error(fmt::format("{}: x {} has no channels; there must be at least one", name, x.shape().str()));
  const auto all = run(name, Precision::any, {x.shape()[1], false, false, eps}, x, weight, bias);
  return {all[0], all[1], all[2]};
}
Tensor norm_by_moments(const Tensor& x, const Tensor& mean, const Tensor& var, const Tensor& weight, const Tensor& bias, double eps) {
  constexpr auto name = "batch_norm";
  check_dims(name, x, 2);
  if (!mean || !var) throw Error(fmt::format("{}: a running moment is undefined; give both, or train", name));
  if (x.shape()[1] == 0) throw Error(fmt::format("{}: x {} has no channels; there must be at least one", name, x.shape().str()));
  return run(name, Precision::any, {x.shape()[1], true, true, eps}, x, weight, bias, mean, var)[0];
}
void update_running_moments(const NormWithMoments& of, int64_t count, const Operand& momentum, const Tensor& running_mean,
                            const Tensor& running_var) {
  const NoGrad off;
  const Tensor* const share = momentum.tensor();
  const Tensor rest = share ? 1 - *share : Tensor{};
  const auto update = [&](const Tensor& running, const Tensor& moment, double factor) {
    if (!running) return;
    const Tensor kept = mul(cast(running, moment.dtype()), share ? Operand(rest) : Operand(1 - momentum.value()));
    copy_into(kept + mul(moment * factor, momentum), running);
  };
  update(running_mean, of.mean.detach(), 1);
  update(running_var, of.var.detach(), double(count) / double(count - 1));
}

Tensor batch_norm(const Tensor& x, const Tensor& running_mean, const Tensor& running_var, const Tensor& weight, const Tensor& bias,
                  bool training, double momentum, double eps) {
  if (!training) return norm_by_moments(x, running_mean, running_var, weight, bias, eps);
  const NormWithMoments all = batch_norm_with_moments(x, weight, bias, eps);
  update_running_moments(all, x.shape()[0] * positions_of(x), momentum, running_mean, running_var);
  return all.y;
}
Tensor instance_norm(const Tensor& x, const Tensor& running_mean, const Tensor& running_var, const Tensor& weight, const Tensor& bias,
                     bool use_input_stats, double momentum, double eps) {
  if (!use_input_stats) return norm_by_moments(x, running_mean, running_var, weight, bias, eps);
  const NormWithMoments all = instance_norm_with_moments(x, weight, bias, eps);
  if (running_mean || running_var) {
    const NoGrad off;
    update_running_moments({{}, mean(all.mean, {0}), mean(all.var, {0})}, positions_of(x), momentum, running_mean, running_var);
  }
  return all.y;
}

Tensor local_response_norm(const Tensor& x, int64_t size, double alpha, double beta, double k) {
  constexpr auto name = "local_response_norm";
  check_defined(name, x);
  if (x.dim() < 3) throw Error(fmt::format("{}: x is {}; it must have at least 3 dims, (N, C, ...)", name, x.shape().str()));
  if (size <= 0) throw Error(fmt::format("{}: size is {}; it must be above 0", name, size));
  std::vector<int64_t> pads(size_t(2 * (x.dim() - 1)), 0);
  pads[pads.size() - 2] = size / 2, pads.back() = (size - 1) / 2;
  const Tensor total = sum(unfold(pad(square(x), pads), 1, size, 1), {-1});
  return x / pow(total * (alpha / double(size)) + k, beta);
}

}  // namespace retape
