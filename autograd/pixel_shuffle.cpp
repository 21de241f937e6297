#include <retape/autograd/pixel_shuffle.h>

#include <retape/autograd/image.h>

namespace retape {
namespace {

// Calls f with x (..., C, H, W) as (N, C, H, W), and gives its result the dims in front again.
template <class F> Tensor with_one_batch(const char* op, const Tensor& x, F&& f) {
  check_defined(op, x);
  const int rank = x.dim();
  if (rank < 3)
    throw Error(fmt::format("{}: x of shape {} has {} dims; it must have at least 3, (..., C, H, W)", op, x.shape().str(), rank));
  int64_t batch = 1;
  for (int d = 0; d < rank - 3; ++d) batch *= x.shape()[d];
  const Tensor y = f(rank == 4 ? x : reshape(x, {batch, x.shape()[-3], x.shape()[-2], x.shape()[-1]}));
  if (rank == 4) return y;
  Shape shape;
  for (int d = 0; d < rank - 3; ++d) shape.push_back(x.shape()[d]);
  for (int d = 1; d < 4; ++d) shape.push_back(y.shape()[d]);
  return reshape(y, shape);
}
int64_t checked_factor(const char* op, const char* what, int64_t factor) {
  constexpr int64_t most = int64_t{1} << 20;  // squares of sizes up to here cannot overflow
  if (checked(op, what, factor, 1) > most)
    throw Error(fmt::format("{}: {} {} is not valid; it must be at most {}", op, what, factor, most));
  return factor;
}
int64_t divided(const char* op, const Tensor& x, int d, int64_t by) {
  const int64_t size = x.shape()[d];
  if (size % by)
    throw Error(fmt::format("{}: dim {} of x {} is of size {}; it must be a multiple of {}", op, d, x.shape().str(), size, by));
  return size / by;
}

}  // namespace

Tensor pixel_shuffle(const Tensor& x, int64_t upscale_factor) {
  constexpr auto op = "pixel_shuffle";
  const int64_t r = checked_factor(op, "upscale_factor", upscale_factor);
  return with_one_batch(op, x, [&](const Tensor& image) {
    const int64_t n = image.shape()[0], c = divided(op, image, 1, r * r), h = image.shape()[2], w = image.shape()[3];
    const Tensor last = permute(reshape(image, {n, c, r, r, h, w}), {0, 4, 2, 5, 3, 1});
    return permute(reshape(last, {n, h * r, w * r, c}), {0, 3, 1, 2});
  });
}
Tensor pixel_unshuffle(const Tensor& x, int64_t downscale_factor) {
  constexpr auto op = "pixel_unshuffle";
  const int64_t r = checked_factor(op, "downscale_factor", downscale_factor);
  return with_one_batch(op, x, [&](const Tensor& image) {
    const int64_t n = image.shape()[0], c = image.shape()[1], h = divided(op, image, 2, r), w = divided(op, image, 3, r);
    const Tensor last = permute(reshape(image, {n, c, h, r, w, r}), {0, 2, 4, 1, 3, 5});
    return permute(reshape(last, {n, h, w, c * r * r}), {0, 3, 1, 2});
  });
}
Tensor channel_shuffle(const Tensor& x, int64_t groups) {
  constexpr auto op = "channel_shuffle";
  check_defined(op, x);
  if (x.dim() < 3)
    throw Error(fmt::format("{}: x of shape {} has {} dims; it must have at least 3, (N, C, ...)", op, x.shape().str(), x.dim()));
  const int64_t each = divided(op, x, 1, checked(op, "groups", groups, 1));
  Shape grouped{x.shape()[0], groups, each};
  for (int d = 2; d < x.dim(); ++d) grouped.push_back(x.shape()[d]);
  return reshape(transpose(reshape(x, grouped), 1, 2), x.shape());
}

}  // namespace retape
