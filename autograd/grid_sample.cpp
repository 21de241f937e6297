#include <retape/autograd/grid_sample.h>

#include <retape/autograd/binary.h>
#include <retape/autograd/image.h>
#include <retape/autograd/index.h>
#include <retape/autograd/matmul.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>

namespace retape {
namespace {

Tensor points_of(const Tensor& grid, const GridSampleArgs& args) {
  return reshape(contiguous(grid), {grid.shape()[0], args.places_out(), grid.shape()[-1]});
}

// ---- core/grid_sample.h in ops, for second derivatives -------------------------------------------------------------------------------

// Of one dim, for positions (N, points): a place, 0 for one outside, and what it counts for, with the derivative of that by the position.
struct Tap {
  Tensor place, weight, slope;
};
struct Moved {
  Tensor to, slope;
};
Moved moved_inside(const GridSampleArgs& args, double size, Tensor at) {
  Tensor slope = ones_like(at);
  if (args.padding == GridSamplePadding::zeros) return {at, slope};
  if (args.padding == GridSamplePadding::reflection) {
    const double low = args.align_corners ? 0 : -0.5, span = args.align_corners ? size - 1 : size;
    if (span == 0) return {zeros_like(at), zeros_like(at)};
    const Tensor distance = abs(at - low), beyond = fmod(distance, span), even = eq(fmod(floor(distance / span), 2), 0);
    slope = where(lt(at, low), -1, slope);
    slope = where(even, slope, -slope);
    at = where(even, beyond + low, span - beyond + low);
  }
  slope = where(logical_and(gt(at, 0), lt(at, size - 1)), slope, 0);
  return {clamp(nan_to_num(at), 0, size - 1), slope};
}
std::vector<Tap> taps_of(const GridSampleArgs& args, int d, const Tensor& position) {
  const double size = double(args.in[d]), scale = (args.align_corners ? size - 1 : size) / 2;
  const Tensor whole = (position + 1) * scale - (args.align_corners ? 0 : 0.5), value = whole.detach(), one = ones_like(value);
  std::vector<Tap> taps;
  const auto add = [&](const Tensor& place, const Tensor& weight, const Tensor& slope) {
    const Tensor inside = logical_and(ge(place, 0), le(place, size - 1));
    taps.push_back({cast(where(inside, place, 0), DType::i64), where(inside, weight, 0), where(inside, slope, 0)});
  };
  if (args.mode == GridSampleMode::bicubic) {
    const Tensor low = floor(value), t = whole - low;
    constexpr double a = -0.75;
    const auto near = [](const Tensor& u) { return ((a + 2) * u - (a + 3)) * u * u + 1; };
    const auto far = [](const Tensor& u) { return ((a * u - 5 * a) * u + 8 * a) * u - 4 * a; };
    const auto near_slope = [](const Tensor& u) { return (3 * (a + 2) * u - 2 * (a + 3)) * u; };
    const auto far_slope = [](const Tensor& u) { return (3 * a * u - 10 * a) * u + 8 * a; };
    const auto place = [&](int k) { return moved_inside(args, size, low + double(k - 1)).to; };
    add(place(0), far(t + 1), far_slope(t + 1) * scale), add(place(1), near(t), near_slope(t) * scale);
    add(place(2), near(1 - t), near_slope(1 - t) * -scale), add(place(3), far(2 - t), far_slope(2 - t) * -scale);
    return taps;
  }
  const Moved moved = moved_inside(args, size, value);
  if (args.mode == GridSampleMode::nearest) {
    add(round(moved.to), one, zeros_like(value));
    return taps;
  }
  const Tensor low = floor(moved.to), t = moved.to - low + moved.slope * (whole - value), slope = moved.slope * scale;
  add(low, 1 - t, -slope), add(low + 1, t, slope);
  return taps;
}

struct GridSampleBackward {
  static constexpr auto name = "grid_sample_backward";
  GridSampleArgs args;
  bool want_x, want_grid;
  std::array<Tensor, 2> forward(const Tensor& dy, const Tensor& x, const Tensor& grid) {
    const Tensor grad = dense_channels_behind(dy), image = dense_channels_behind(x), points = points_of(grid, args);
    Tensor dx, dgrid, dimage;
    if (want_x) dx = empty(x.shape(), x.options(), MemoryFormat::channels_last), dimage = channels_behind(dx);
    if (want_grid) dgrid = empty(points.shape(), grid.options());
    RETAPE_DISPATCH(dy.device(), grid_sample_backward(args, grad, image, points, dimage, dgrid));
    return {dx, want_grid ? reshape(dgrid, grid.shape()) : Tensor{}};
  }
  std::array<Tensor, 2> composite(const Tensor& dy, const Tensor& x, const Tensor& grid) {
    const DType dtype = x.dtype() == DType::f64 ? DType::f64 : DType::f32;
    const int64_t batch = x.shape()[0], channels = x.shape()[1], points = args.places_out(), places = args.places_in();
    const int rank = x.dim() - 2;
    const Tensor grad = cast(reshape(dy, {batch, channels, points}), dtype), image = cast(reshape(x, {batch, channels, places}), dtype),
                 at = cast(reshape(grid, {batch, points, rank}), dtype);
    std::vector<Tap> taps[3];
    for (int d = 0; d < 3; ++d) {
      if (d >= 3 - rank) taps[d] = taps_of(args, d, select(at, 2, 2 - d));
      else {
        const Tensor none = zeros({batch, points}, {dtype, x.device()});
        taps[d] = {{cast(none, DType::i64), none + 1, none}};
      }
    }
    Tensor dimage = zeros({batch, channels, places}, {dtype, x.device()});
    std::vector<Tensor> slopes(3);
    for (auto& a : taps[0])
      for (auto& b : taps[1])
        for (auto& c : taps[2]) {
          const Tensor index = expand(unsqueeze((a.place * args.in[1] + b.place) * args.in[2] + c.place, 1), {batch, channels, points});
          if (want_x) dimage = scatter_add(dimage, 2, index, unsqueeze(a.weight * b.weight * c.weight, 1) * grad);
          if (!want_grid) continue;
          const Tensor dot = sum(grad * gather(image, 2, index), {1});
          const Tensor parts[3] = {dot * a.weight * b.weight * c.slope, dot * a.weight * b.slope * c.weight,
                                   dot * a.slope * b.weight * c.weight};
          for (int k = 0; k < rank; ++k) slopes[size_t(k)] = slopes[size_t(k)] ? slopes[size_t(k)] + parts[k] : parts[k];
        }
    slopes.resize(size_t(rank));
    return {want_x ? reshape(cast(dimage, x.dtype()), x.shape()) : Tensor{},
            want_grid ? reshape(cast(stack(slopes, 2), grid.dtype()), grid.shape()) : Tensor{}};
  }
};
struct GridSample {
  static constexpr auto name = "grid_sample";
  static constexpr auto precision = Precision::widest;
  GridSampleArgs args;
  Saved x = {}, grid = {};
  Tensor forward(const Tensor& image, const Tensor& at) {
    x = save(image), grid = save(at);
    const Tensor in = dense_channels_behind(image), points = points_of(at, args);
    Tensor y = empty(image_shape(image.shape()[0], image.shape()[1], image.dim() - 2, args.out), image.options(),
                     MemoryFormat::channels_last),
           values = channels_behind(y);
    RETAPE_DISPATCH(image.device(), grid_sample(args, in, points, values));
    return y;
  }
  void backward(const Tensor& dy, Grads& dx) {
    const auto d = record(GridSampleBackward{args, dx.wants(0), dx.wants(1)}, dy, *x, *grid);
    if (dx.wants(0)) dx.set(0, d[0]);
    if (dx.wants(1)) dx.set(1, d[1]);
  }
};

// The positions of n places along a dim of space.
Tensor positions(int64_t n, bool align_corners, const Options& options) {
  const Tensor i = arange(n, options);
  if (!align_corners) return (2 * i + (1 - double(n))) / double(n);
  return n > 1 ? (2 * i - double(n - 1)) / double(n - 1) : i;
}

}  // namespace

Tensor grid_sample(const Tensor& x, const Tensor& grid, const GridSampleOptions& o) {
  constexpr auto op = GridSample::name;
  check_defined(op, x), check_defined(op, grid);
  if (autocasting())
    return under_autocast(
        GridSample::precision, [&](const Tensor& in, const Tensor& at) { return grid_sample(in, at, o); }, x, grid);
  check_one_device(op, x, grid);
  const int rank = x.dim() - 2;
  if (rank != 2 && rank != 3)
    throw Error(
        fmt::format("{}: x of shape {} has {} dims; it must have 4, (N, C, H, W), or 5, (N, C, D, H, W)", op, x.shape().str(), x.dim()));
  if (!is_floating(x.dtype()) || grid.dtype() != x.dtype())
    throw Error(fmt::format("{}: x is {} and grid {}; they must be floating and of one dtype, use cast()", op, name_of(x.dtype()),
                            name_of(grid.dtype())));
  if (grid.dim() != rank + 2 || grid.shape()[0] != x.shape()[0] || grid.shape()[-1] != rank)
    throw Error(fmt::format("{}: grid {} does not fit x {}; its shape must be [{}, {}, {}]", op, grid.shape().str(), x.shape().str(),
                            x.shape()[0], rank == 2 ? "OH, OW" : "OD, OH, OW", rank));
  if (o.mode == GridSampleMode::bicubic && rank == 3)
    throw Error(fmt::format("{}: mode bicubic does not fit x {} with 3 dims of space; it is for 2", op, x.shape().str()));
  GridSampleArgs args{o.mode, o.padding_mode, o.align_corners, {1, 1, 1}, {1, 1, 1}};
  for (int d = 0; d < rank; ++d) {
    args.in[3 - rank + d] = x.shape()[2 + d], args.out[3 - rank + d] = grid.shape()[1 + d];
    if (x.shape()[2 + d] == 0)
      throw Error(fmt::format("{}: x {} has no elements in dim {}; there must be at least one", op, x.shape().str(), 2 + d));
  }
  return record(GridSample{args}, x, grid);
}

Tensor affine_grid(const Tensor& theta, const Shape& size, bool align_corners) {
  constexpr auto op = "affine_grid";
  check_defined(op, theta);
  const int rank = size.rank() - 2;
  if (rank != 2 && rank != 3)
    throw Error(
        fmt::format("{}: size {} has {} numbers; it must have 4, (N, C, H, W), or 5, (N, C, D, H, W)", op, size.str(), size.rank()));
  for (int d = 2; d < rank + 2; ++d)
    if (size[d] < 1)
      throw Error(fmt::format("{}: size {} has {} in dim {}; sizes of space must be at least 1", op, size.str(), size[d], d));
  if (!is_floating(theta.dtype()))
    throw Error(fmt::format("{}: theta has dtype {}; it must be floating, use cast()", op, name_of(theta.dtype())));
  if (!(theta.shape() == Shape{size[0], rank, rank + 1}))
    throw Error(fmt::format("{}: theta {} does not fit size {}; its shape must be [{}, {}, {}]", op, theta.shape().str(), size.str(),
                            size[0], rank, rank + 1));
  const Options options{theta.dtype() == DType::f64 ? DType::f64 : DType::f32, theta.device()};
  Shape space, shape{size[0]};
  for (int d = 2; d < rank + 2; ++d) space.push_back(size[d]), shape.push_back(size[d]);
  shape.push_back(rank);
  std::vector<Tensor> columns;
  for (int d = rank - 1; d >= 0; --d) {
    Shape along;
    for (int e = 0; e < rank; ++e) along.push_back(e == d ? space[e] : 1);
    columns.push_back(reshape(expand(reshape(positions(space[d], align_corners, options), along), space), {space.numel()}));
  }
  columns.push_back(ones({space.numel()}, options));
  const Tensor base = cast(stack(columns, 1), theta.dtype());
  return reshape(matmul(base, transpose(theta)), shape);
}

}  // namespace retape
