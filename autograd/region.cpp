// Kernels take images with the channels last, and for position-sensitive pooling those of a bin next to each other.
#include <retape/autograd/region.h>

#include <limits>

#include <retape/autograd/image.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/tape.h>

namespace retape {
namespace {

struct RegionMeanBackward;
// x (N, H, W, parts, C), boxes: (K, out, C)
struct RegionMean {
  const char* name;
  RegionArgs args;
  static constexpr auto precision = Precision::full;
  Saved boxes = {};
  int64_t batch = 0, parts = 0;
  Tensor forward(const Tensor& x, const Tensor& rows) {
    boxes = save(rows), batch = x.shape()[0], parts = x.shape()[3];
    const Tensor image = contiguous(x);
    Tensor y = empty({rows.shape()[0], args.out[0], args.out[1], x.shape()[-1]}, x.options());
    RETAPE_DISPATCH(x.device(), region_mean(name, args, image, rows, y));
    return y;
  }
  void backward(const Tensor& dy, Grads& dx);
};
struct RegionMeanBackward {
  const char* name;
  RegionArgs args;
  int64_t batch, parts;
  Saved boxes = {};
  Tensor forward(const Tensor& dy, const Tensor& rows) {
    boxes = save(rows);
    const Tensor grad = contiguous(dy);
    Tensor dx = empty({batch, args.in[0], args.in[1], parts, dy.shape()[-1]}, dy.options());
    RETAPE_DISPATCH(dy.device(), region_mean_backward(name, args, grad, rows, dx));
    return dx;
  }
  void backward(const Tensor& ddx, Grads& grads) {
    grads.set(0, record(RegionMean{name, args}, ddx, *boxes));
    grads.none(1);
  }
};
void RegionMean::backward(const Tensor& dy, Grads& dx) {
  dx.set(0, record(RegionMeanBackward{name, args, batch, parts}, dy, *boxes));
  dx.none(1);
}

struct RegionMaxBackward {
  static constexpr auto name = "roi_pool_backward";
  RegionArgs args;
  int64_t batch;
  Tensor forward(const Tensor& dy, const Tensor& rows, const Tensor& place) {
    const Tensor grad = contiguous(dy);
    Tensor dx = empty({batch, args.in[0], args.in[1], 1, dy.shape()[-1]}, dy.options());
    RETAPE_DISPATCH(dy.device(), region_max_backward(name, args, grad, rows, place, dx));
    return dx;
  }
  void backward(const Tensor&, Grads&) { throw Error("roi_pool: second derivatives are not provided"); }
};
struct RegionMax {
  static constexpr auto name = "roi_pool";
  static constexpr int differentiable = 1;
  static constexpr auto precision = Precision::full;
  RegionArgs args;
  Saved boxes = {}, place = {};
  int64_t batch = 0;
  std::array<Tensor, 2> forward(const Tensor& x, const Tensor& rows) {
    const Tensor image = contiguous(x);
    const Shape shape{rows.shape()[0], args.out[0], args.out[1], x.shape()[-1]};
    Tensor y = empty(shape, x.options()), chosen = empty(shape, {DType::i32, x.device()});
    RETAPE_DISPATCH(x.device(), region_max(name, args, image, rows, y, chosen));
    boxes = save(rows), place = save(chosen), batch = x.shape()[0];
    return {y, chosen};
  }
  void backward(const std::vector<Tensor>& dy, Grads& dx) {
    dx.set(0, record(RegionMaxBackward{args, batch}, dy[0], *boxes, *place));
    dx.none(1);
  }
};

Tensor rows_of(const char* op, const Tensor& x, const Boxes& boxes) {
  const auto check = [&](const Tensor& t, int64_t numbers) {
    check_defined(op, t);
    check_one_device(op, x, t);
    if (t.dim() != 2 || t.shape()[1] != numbers || !is_floating(t.dtype()))
      throw Error(fmt::format(
          "{}: boxes {} of {} are not valid; they must be floating, (K, 5) with the number of an image first, or for each image "
          "(L, 4)",
          op, t.shape().str(), name_of(t.dtype())));
  };
  if (boxes.of_images.empty() && (boxes.rows || x.shape()[0] > 0)) return check(boxes.rows, 5), boxes.rows;
  if (int64_t(boxes.of_images.size()) != x.shape()[0])
    throw Error(
        fmt::format("{}: there are boxes for {} images, and x {} has {}", op, boxes.of_images.size(), x.shape().str(), x.shape()[0]));
  std::vector<Tensor> all;
  for (const Tensor& t : boxes.of_images) {
    check(t, 4);
    all.push_back(cat({full({t.shape()[0], 1}, double(all.size()), t.options()), t}, 1));
  }
  return all.empty() ? zeros({0, 5}, x.options()) : cat(all);
}

enum class Kind : uint8_t { mean, max };
Tensor pooled(const char* op, Kind kind, RegionArgs args, bool position_sensitive, const Tensor& x, const Boxes& boxes,
              const PerDim& output_size) {
  if (autocasting())
    return under_autocast(
        RegionMean::precision, [&](const Tensor& in) { return pooled(op, kind, args, position_sensitive, in, boxes, output_size); }, x);
  check_defined(op, x);
  if (x.dim() != 4 || !is_floating(x.dtype()))
    throw Error(fmt::format("{}: x {} of {} is not valid; it must be floating, (N, C, H, W)", op, x.shape().str(), name_of(x.dtype())));
  if (!(std::isfinite(args.scale) && args.scale > 0))
    throw Error(fmt::format("{}: spatial_scale {} is not valid; it must be a number above 0", op, args.scale));
  for (int d = 0; d < 2; ++d) {
    args.in[d] = x.shape()[2 + d];
    args.out[d] = checked(op, "output_size", output_size.at(d, 2, op, "output_size"), 1);
  }
  const int64_t bins = args.out[0] * args.out[1], parts = position_sensitive ? bins : 1, channels = x.shape()[1];
  if (channels % parts)
    throw Error(fmt::format("{}: the {} bins of output_size do not divide the {} channels of x {}", op, bins, channels, x.shape().str()));
  if (args.in[0] * args.in[1] > std::numeric_limits<int32_t>::max())
    throw Error(fmt::format("{}: an image of x {} has more pixels than are numbered in 32 bits", op, x.shape().str()));
  const Tensor rows = contiguous(cast(rows_of(op, x, boxes).detach(), x.dtype() == DType::f64 ? DType::f64 : DType::f32));
  const Tensor image = permute(reshape(x, {x.shape()[0], channels / parts, parts, args.in[0], args.in[1]}), {0, 3, 4, 2, 1});
  const Tensor y = kind == Kind::max ? record(RegionMax{args}, image, rows)[0] : record(RegionMean{op, args}, image, rows);
  return permute(y, {0, 3, 1, 2});
}

}  // namespace

Tensor roi_align(const Tensor& x, const Boxes& boxes, const PerDim& output_size, const RoIAlignOptions& o) {
  return pooled("roi_align", Kind::mean, {.in = {}, .out = {}, .scale = o.spatial_scale, .aligned = o.aligned, .ratio = o.sampling_ratio},
                false, x, boxes, output_size);
}
Tensor roi_pool(const Tensor& x, const Boxes& boxes, const PerDim& output_size, double spatial_scale) {
  return pooled("roi_pool", Kind::max, {.in = {}, .out = {}, .scale = spatial_scale}, false, x, boxes, output_size);
}
Tensor ps_roi_align(const Tensor& x, const Boxes& boxes, const PerDim& output_size, const PSRoIAlignOptions& o) {
  return pooled("ps_roi_align", Kind::mean, {.in = {}, .out = {}, .scale = o.spatial_scale, .aligned = true, .ratio = o.sampling_ratio},
                true, x, boxes, output_size);
}
Tensor ps_roi_pool(const Tensor& x, const Boxes& boxes, const PerDim& output_size, double spatial_scale) {
  return pooled("ps_roi_pool", Kind::mean, {.in = {}, .out = {}, .scale = spatial_scale, .whole_pixels = true}, true, x, boxes,
                output_size);
}

}  // namespace retape
