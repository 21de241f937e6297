#include <retape/autograd/interpolate.h>

#include <algorithm>
#include <cmath>

#include <retape/autograd/image.h>
#include <retape/autograd/pool.h>
#include <retape/autograd/tape.h>

namespace retape {
namespace {

constexpr auto op = "interpolate";

struct Interpolate;
struct InterpolateBackward {
  static constexpr auto name = "interpolate_backward";
  int rank;
  InterpolateArgs args;
  Tensor forward(const Tensor& dy) {
    const Tensor grad = dense_channels_behind(dy);
    Tensor out = empty(image_shape(dy.shape()[0], dy.shape()[1], rank, args.in), dy.options(), MemoryFormat::channels_last),
           image = channels_behind(out);
    RETAPE_DISPATCH(dy.device(), interpolate_backward(args, grad, image));
    return out;
  }
  void backward(const Tensor& ddx, Grads& dx);
};
struct Interpolate {
  static constexpr auto name = op;
  int rank;
  InterpolateArgs args;
  Tensor forward(const Tensor& x) {
    const Tensor image = dense_channels_behind(x);
    Tensor y = empty(image_shape(x.shape()[0], x.shape()[1], rank, args.out), x.options(), MemoryFormat::channels_last),
           values = channels_behind(y);
    RETAPE_DISPATCH(x.device(), interpolate(args, image, values));
    return y;
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, record(InterpolateBackward{rank, args}, dy)); }
  // The first pixel, or the last one, that element o of dim d is made of.
  int64_t pixel(int d, int64_t o, bool last) const {
    const bool between = args.kind == InterpolationKind::linear || args.kind == InterpolationKind::cubic;
    const double middle = args.kind == InterpolationKind::nearest || args.align_corners ? 0 : 0.5,
                 at = (double(o) + middle) * args.scale[d] - (between ? middle : 0), before = std::floor(at);
    const int64_t more = args.kind == InterpolationKind::cubic && at != before ? 1 : 0;
    return last ? int64_t(between ? std::ceil(at) : before) + more : int64_t(before) - more;
  }
  Intervals reach(const Reach& r) const {
    Intervals box = r.box;
    for (int d = 0; d < rank; ++d) {
      // An element that lies on a pixel is made of fewer than those beside it, so of two at each end.
      const Interval i = box[size_t(2 + d)];
      const auto at = [&](int64_t o, bool last) { return pixel(3 - rank + d, std::clamp(o, i.begin, i.end - 1), last); };
      box[size_t(2 + d)] = {std::min(at(i.begin, false), at(i.begin + 1, false)), std::max(at(i.end - 1, true), at(i.end - 2, true)) + 1};
    }
    return box;
  }
};
void InterpolateBackward::backward(const Tensor& ddx, Grads& dx) { dx.set(0, record(Interpolate{rank, args}, ddx)); }

struct Mode {
  const char* name;
  int rank;  // dims of space; 0: any
  InterpolationKind kind;
  bool weighted;
};
Mode described(InterpolateMode mode) {
  switch (mode) {
    case InterpolateMode::nearest: return {"nearest", 0, InterpolationKind::nearest, false};
    case InterpolateMode::nearest_exact: return {"nearest_exact", 0, InterpolationKind::nearest_exact, false};
    case InterpolateMode::area: return {"area", 0, InterpolationKind::nearest, false};
    case InterpolateMode::linear: return {"linear", 1, InterpolationKind::linear, true};
    case InterpolateMode::bilinear: return {"bilinear", 2, InterpolationKind::linear, true};
    case InterpolateMode::trilinear: return {"trilinear", 3, InterpolationKind::linear, true};
    case InterpolateMode::bicubic: return {"bicubic", 2, InterpolationKind::cubic, true};
  }
  throw Error(fmt::format("{}: mode {} is not known; it must be one of InterpolateMode", op, int(mode)));
}
double factor_at(const ScaleFactor& factor, int d, int rank) {
  if (factor.values.size() != 1 && int(factor.values.size()) != rank)
    throw Error(
        fmt::format("{}: scale_factor has {} numbers; it must have one, or {}, one for each dim of space", op, factor.values.size(), rank));
  const double value = factor.values[factor.values.size() == 1 ? 0 : size_t(d)];
  if (!(value > 0) || std::isinf(value))
    throw Error(fmt::format("{}: scale_factor {} is not valid; it must be finite and above 0", op, value));
  return value;
}

}  // namespace

Tensor interpolate(const Tensor& x, const InterpolateOptions& o) {
  check_defined(op, x);
  const int rank = x.dim() - 2;
  if (rank < 1 || rank > 3)
    throw Error(fmt::format("{}: x of shape {} has {} dims; it must have 3, 4 or 5, (N, C, space)", op, x.shape().str(), x.dim()));
  if (!is_floating(x.dtype())) throw Error(fmt::format("{}: x has dtype {}; it must be floating, use cast()", op, name_of(x.dtype())));
  const Mode mode = described(o.mode);
  if (mode.rank && mode.rank != rank)
    throw Error(
        fmt::format("{}: mode {} does not fit x {} with {} dims of space; it is for {}", op, mode.name, x.shape().str(), rank, mode.rank));
  if (o.align_corners && !mode.weighted)
    throw Error(fmt::format("{}: align_corners is given with mode {}; it is for linear, bilinear, bicubic and trilinear", op, mode.name));
  const bool by_size = o.size.values.rank() > 0, by_factor = !o.scale_factor.values.empty();
  if (by_size == by_factor)
    throw Error(fmt::format("{}: {} of size and scale_factor given; it must be one of them", op, by_size ? "both are" : "none is"));
  if (by_size && o.recompute_scale_factor)
    throw Error(fmt::format("{}: recompute_scale_factor is given with size; it is for scale_factor", op));

  InterpolateArgs args{mode.kind, o.align_corners.value_or(false), {1, 1, 1}, {1, 1, 1}, {1, 1, 1}};
  for (int d = 0; d < rank; ++d) {
    const int at = 3 - rank + d;
    const int64_t in = x.shape()[2 + d];
    const double factor = by_factor ? factor_at(o.scale_factor, d, rank) : 0, wanted = double(in) * factor;
    if (in < 1) throw Error(fmt::format("{}: x {} has no elements in dim {}; there must be at least one", op, x.shape().str(), 2 + d));
    if (wanted > double(int64_t{1} << 53))
      throw Error(fmt::format("{}: scale_factor {} is too large for dim {} of x {}", op, factor, 2 + d, x.shape().str()));
    const int64_t out = by_size ? o.size.at(d, rank, op, "size") : int64_t(wanted);
    if (out < 1)
      throw Error(fmt::format("{}: x {} would become of size {} in dim {}; sizes must be at least 1", op, x.shape().str(), out, 2 + d));
    args.in[at] = in, args.out[at] = out;
    if (args.align_corners) args.scale[at] = out > 1 ? double(in - 1) / double(out - 1) : 0;
    // PyTorch's, for two dims of space alone: a size that stays or doubles is taken as that, whatever the factor was.
    else if (rank == 2 && args.kind == InterpolationKind::nearest && (out == in || out == 2 * in)) args.scale[at] = out == in ? 1 : 0.5;
    else args.scale[at] = by_factor && !o.recompute_scale_factor ? 1 / factor : double(in) / double(out);
  }
  if (o.mode == InterpolateMode::area) {
    Shape size;
    for (int d = 3 - rank; d < 3; ++d) size.push_back(args.out[d]);
    return (rank == 1 ? adaptive_avg_pool1d : rank == 2 ? adaptive_avg_pool2d : adaptive_avg_pool3d)(x, PerDim(size));
  }
  return record(Interpolate{rank, args}, x);
}

}  // namespace retape
