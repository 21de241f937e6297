// The transforms that draw numbers, and the numbers.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include <retape/core/error.h>
#include <retape/data/augment.h>

namespace retape {

SampleRandom::SampleRandom(uint64_t seed, int64_t number, Of of) {
  const Philox random(seed, uint64_t(number));
  const int lane = of == Of::sample ? 0 : 2;
  key_ = uint64_t(random.x[lane]) << 32 | random.x[lane + 1];
}
uint32_t SampleRandom::bits() {
  const uint64_t i = counter_++;
  return Philox(key_, i / 4).x[i % 4];
}
double SampleRandom::uniform() {
  const uint32_t high = bits();
  return to_uniform(high, bits());
}
int64_t SampleRandom::integer(int64_t n) {
  if (n < 1) throw Error(fmt::format("sample_random: there is no integer in [0, {})", n));
  return std::min(int64_t(uniform() * double(n)), n - 1);
}
double SampleRandom::normal() {
  const double radius = std::sqrt(-2 * std::log1p(-uniform()));
  return radius * std::cos(2 * std::numbers::pi * uniform());
}
double SampleRandom::gamma(double shape) {
  if (!(shape > 0)) throw Error(fmt::format("sample_random: shape {} of a gamma distribution is not valid; it must be above 0", shape));
  if (shape < 1) {
    const double boost = std::pow(1 - uniform(), 1 / shape);
    return gamma(shape + 1) * boost;
  }
  const double d = shape - 1. / 3, c = 1 / std::sqrt(9 * d);
  while (true) {
    const double x = normal(), t = 1 + c * x, v = t * t * t;
    if (v > 0 && std::log1p(-uniform()) < 0.5 * x * x + d - d * v + d * std::log(v)) return d * v;
  }
}
double SampleRandom::beta(double a, double b) {
  const double x = gamma(a), y = gamma(b);
  return x + y > 0 ? x / (x + y) : 0.5;
}

namespace transforms {
namespace {

void check_range(const char* op, const char* name, const std::array<double, 2>& range) {
  if (!(range[0] > 0 && range[0] <= range[1]))
    throw Error(fmt::format("{}: {} from {} to {} is not valid; expected 0 < low <= high", op, name, range[0], range[1]));
}
void check_probability(const char* op, double p) {
  if (!(p >= 0 && p <= 1)) throw Error(fmt::format("{}: p {} is not valid; expected 0 to 1", op, p));
}

struct Box {
  int64_t top, left, height, width;
};
// Sides of a random area and aspect ratio (width / height).
std::array<int64_t, 2> random_sides(double area, const std::array<double, 2>& scale, const std::array<double, 2>& ratio,
                                    SampleRandom& random) {
  const double target = area * random.uniform(scale[0], scale[1]),
               aspect = std::exp(random.uniform(std::log(ratio[0]), std::log(ratio[1])));
  return {std::lrint(std::sqrt(target / aspect)), std::lrint(std::sqrt(target * aspect))};
}
void check_dims(const char* op, const Tensor& image) {
  if (!image || image.dim() != 3) throw Error(fmt::format("{}: expected an image (channels, height, width)", op));
}

}  // namespace

Transform compose(std::vector<Transform> transforms) {
  return [transforms = std::move(transforms)](const Tensor& image, SampleRandom& random) {
    Tensor x = image;
    for (auto& transform : transforms) x = transform(x, random);
    return x;
  };
}

Tensor RandomCrop::operator()(const Tensor& image, SampleRandom& random) const {
  check_dims("random_crop", image);
  Tensor x = padding ? pad(image, padding, padding, padding, padding, fill) : image;
  if (pad_if_needed) {
    const int64_t columns = std::max<int64_t>(width - x.size(2), 0), rows = std::max<int64_t>(height - x.size(1), 0);
    if (columns || rows) x = pad(x, columns, rows, columns, rows, fill);
  }
  if (height < 1 || width < 1 || x.size(1) < height || x.size(2) < width)
    throw Error(fmt::format("random_crop: {} x {} pixels do not fit into {} x {}; resize first, or use padding or pad_if_needed", height,
                            width, x.size(1), x.size(2)));
  const int64_t top = random.integer(x.size(1) - height + 1), left = random.integer(x.size(2) - width + 1);
  return crop(x, top, left, height, width);
}

Tensor RandomResizedCrop::operator()(const Tensor& image, SampleRandom& random) const {
  check_dims("random_resized_crop", image);
  check_range("random_resized_crop", "scale", scale);
  check_range("random_resized_crop", "ratio", ratio);
  const int64_t h = image.size(1), w = image.size(2);
  Box box{0, 0, h, w};
  bool found = false;
  for (int attempt = 0; attempt < 10 && !found; ++attempt) {
    const auto [rows, columns] = random_sides(double(h) * double(w), scale, ratio, random);
    if (rows < 1 || rows > h || columns < 1 || columns > w) continue;
    found = true;
    box.top = random.integer(h - rows + 1), box.left = random.integer(w - columns + 1);
    box.height = rows, box.width = columns;
  }
  if (!found) {
    const double aspect = double(w) / double(h);
    if (aspect < ratio[0]) box.height = std::clamp<int64_t>(std::lrint(double(w) / ratio[0]), 1, h);
    else if (aspect > ratio[1]) box.width = std::clamp<int64_t>(std::lrint(double(h) * ratio[1]), 1, w);
    box.top = (h - box.height) / 2, box.left = (w - box.width) / 2;
  }
  return resize(crop(image, box.top, box.left, box.height, box.width), height, width, interpolation);
}

Tensor RandomHorizontalFlip::operator()(const Tensor& image, SampleRandom& random) const {
  check_probability("random_horizontal_flip", p);
  return random.chance(p) ? horizontal_flip(image) : image;
}

Tensor ColorJitter::operator()(const Tensor& image, SampleRandom& random) const {
  const double strengths[] = {brightness, contrast, saturation, hue};
  for (const double x : strengths)
    if (!(x >= 0 && std::isfinite(x))) throw Error(fmt::format("color_jitter: {} is not valid; it must be at least 0", x));
  if (hue > 0.5) throw Error(fmt::format("color_jitter: hue {} is not valid; expected 0 to 0.5", hue));
  int order[] = {0, 1, 2, 3};
  for (int64_t i = 3; i > 0; --i) std::swap(order[i], order[random.integer(i + 1)]);
  double factors[4];
  for (int i = 0; i < 4; ++i) {
    const double x = strengths[i];
    factors[i] = i == 3 ? random.uniform(-x, x) : random.uniform(std::max(0., 1 - x), 1 + x);
  }
  Tensor x = image;
  for (const int i : order) {
    if (strengths[i] == 0) continue;
    x = i == 0   ? adjust_brightness(x, factors[0])
        : i == 1 ? adjust_contrast(x, factors[1])
        : i == 2 ? adjust_saturation(x, factors[2])
                 : adjust_hue(x, factors[3]);
  }
  return x;
}

Tensor RandAugment::apply(const Tensor& image, Op op, bool negative) const {
  check_dims("rand_augment", image);
  if (num_magnitude_bins < 2 || magnitude < 0 || magnitude >= num_magnitude_bins)
    throw Error(fmt::format("rand_augment: magnitude {} of {} bins is not possible; expected 0 <= magnitude < bins, and 2 bins or more",
                            magnitude, num_magnitude_bins));
  // As torch.linspace(low, high, num_magnitude_bins)[magnitude] gives it: a float, rounded once.
  const auto between = [&](double low, double high) {
    const auto first = float(low), last = float(high), step = (last - first) / float(num_magnitude_bins - 1);
    if (magnitude < num_magnitude_bins / 2) return double(float(first + double(step) * magnitude));
    return double(float(last - double(step) * (num_magnitude_bins - 1 - magnitude)));
  };
  const double sign = negative ? -1 : 1;
  const auto degrees_of_shear = [&] { return std::atan(sign * between(0, 0.3)) * 180 / std::numbers::pi; };
  const auto pixels = [&](int64_t side) { return std::trunc(sign * between(0, 150. / 331 * double(side))); };
  const auto factor = [&] { return 1 + sign * between(0, 0.9); };
  AffineOptions moved{.interpolation = interpolation, .fill = fill};
  switch (op) {
    case Op::identity: return image;
    case Op::shear_x: moved.shear_x = degrees_of_shear(), moved.about_corner = true; return affine(image, moved);
    case Op::shear_y: moved.shear_y = degrees_of_shear(), moved.about_corner = true; return affine(image, moved);
    case Op::translate_x: moved.translate_x = pixels(image.size(2)); return affine(image, moved);
    case Op::translate_y: moved.translate_y = pixels(image.size(1)); return affine(image, moved);
    case Op::rotate: moved.angle = -sign * between(0, 30); return affine(image, moved);
    case Op::brightness: return adjust_brightness(image, factor());
    case Op::color: return adjust_saturation(image, factor());
    case Op::contrast: return adjust_contrast(image, factor());
    case Op::sharpness: return adjust_sharpness(image, factor());
    case Op::posterize: return posterize(image, 8 - int(std::lrint(magnitude / (double(num_magnitude_bins - 1) / 4))));
    case Op::solarize: return solarize(image, between(255, 0));
    case Op::auto_contrast: return autocontrast(image);
    case Op::equalize: return equalize(image);
  }
  throw Error(fmt::format("rand_augment: there is no operation {}", int(op)));
}
Tensor RandAugment::operator()(const Tensor& image, SampleRandom& random) const {
  if (num_ops < 0) throw Error(fmt::format("rand_augment: num_ops {} is not valid; it must be at least 0", num_ops));
  Tensor x = image;
  for (int i = 0; i < num_ops; ++i) {
    const auto op = Op(random.integer(ops));
    const bool negative = random.chance(0.5);
    x = apply(x, op, negative);
  }
  return x;
}

Tensor RandomErasing::operator()(const Tensor& image, SampleRandom& draw) const {
  check_dims("random_erasing", image);
  check_probability("random_erasing", p);
  check_range("random_erasing", "scale", scale);
  check_range("random_erasing", "ratio", ratio);
  const bool is_float = image.dtype() == DType::f32;
  if (random && !is_float)
    throw Error(fmt::format("random_erasing: random values ask for an image of f32, not {}; to_float() makes one", name_of(image.dtype())));
  if (!is_float && image.dtype() == DType::u8 && !(value >= 0 && value <= 255))
    throw Error(fmt::format("random_erasing: value {} does not fit u8; expected 0 to 255", value));
  if (!draw.chance(p)) return image;
  const int64_t h = image.size(1), w = image.size(2);
  for (int attempt = 0; attempt < 10; ++attempt) {
    // torchvision takes this ratio as height / width.
    const auto [columns, rows] = random_sides(double(h) * double(w), scale, ratio, draw);
    if (rows >= h || columns >= w) continue;
    const int64_t top = draw.integer(h - rows + 1), left = draw.integer(w - columns + 1);
    const Tensor out = crop(image, 0, 0, h, w);
    for (int64_t c = 0; c < image.size(0); ++c)
      for (int64_t y = top; y < top + rows; ++y) {
        const int64_t at = (c * h + y) * w + left;
        if (!is_float) std::fill_n(out.mutable_data<uint8_t>() + at, columns, uint8_t(value));
        else
          for (int64_t x = 0; x < columns; ++x) out.mutable_data<float>()[at + x] = random ? float(draw.normal()) : float(value);
      }
    return out;
  }
  return image;
}

// ---- batches --------------------------------------------------------------------------------------------------------

namespace {

void check_batch(const char* op, const Tensor& images, const Tensor& labels, int64_t classes, double alpha) {
  if (!images || images.dim() != 4 || images.dtype() != DType::f32 || images.numel() == 0 || !images.device().is_cpu() ||
      !images.is_contiguous())
    throw Error(fmt::format("{}: images are {}; expected contiguous f32 (batch, channels, height, width) on the CPU", op,
                            images ? fmt::format("{} {}", name_of(images.dtype()), images.shape().str()) : "undefined"));
  if (!labels || labels.dim() != 1 || labels.dtype() != DType::i64 || labels.size(0) != images.size(0) || !labels.is_contiguous())
    throw Error(fmt::format("{}: labels are {}; expected i64 ({})", op,
                            labels ? fmt::format("{} {}", name_of(labels.dtype()), labels.shape().str()) : "undefined", images.size(0)));
  for (int64_t b = 0; b < labels.size(0); ++b)
    if (const int64_t label = labels.data<int64_t>()[b]; label < 0 || label >= classes)
      throw Error(fmt::format("{}: label {} of image {} is out of range; expected 0 <= label < {}", op, label, b, classes));
  if (!(alpha > 0 && std::isfinite(alpha))) throw Error(fmt::format("{}: alpha {} is not valid; it must be above 0", op, alpha));
}

// lambda of each label, 1 - lambda of the one before.
Tensor mixed_targets(const Tensor& labels, int64_t classes, double lambda) {
  const int64_t n = labels.size(0);
  const Tensor targets = zeros({n, classes});
  float* to = targets.mutable_data<float>();
  const int64_t* label = labels.data<int64_t>();
  for (int64_t b = 0; b < n; ++b) {
    to[b * classes + label[b]] += float(lambda);
    to[b * classes + label[(b + n - 1) % n]] += float(1 - lambda);
  }
  return targets;
}

}  // namespace

MixedBatch mixup(const Tensor& images, const Tensor& labels, int64_t classes, SampleRandom& random, double alpha) {
  check_batch("mixup", images, labels, classes, alpha);
  const double lambda = random.beta(alpha, alpha);
  const int64_t n = images.size(0), size = images.numel() / n;
  MixedBatch out{empty_like(images), mixed_targets(labels, classes, lambda)};
  const float* from = images.data<float>();
  float* to = out.images.mutable_data<float>();
  const auto own = float(lambda), other = float(1 - lambda);
  for (int64_t b = 0; b < n; ++b) {
    const float *x = from + b * size, *before = from + (b + n - 1) % n * size;
    for (int64_t i = 0; i < size; ++i) to[b * size + i] = own * x[i] + other * before[i];
  }
  return out;
}

MixedBatch cutmix(const Tensor& images, const Tensor& labels, int64_t classes, SampleRandom& random, double alpha) {
  check_batch("cutmix", images, labels, classes, alpha);
  const double lambda = random.beta(alpha, alpha);
  const int64_t n = images.size(0), channels = images.size(1), h = images.size(2), w = images.size(3), size = channels * h * w;
  const int64_t x = random.integer(w), y = random.integer(h);
  const double share = 0.5 * std::sqrt(1 - lambda);
  const auto half_w = int64_t(share * double(w)), half_h = int64_t(share * double(h));
  const int64_t left = std::max<int64_t>(x - half_w, 0), right = std::min(x + half_w, w), top = std::max<int64_t>(y - half_h, 0),
                bottom = std::min(y + half_h, h);
  MixedBatch out{empty_like(images), mixed_targets(labels, classes, 1 - double((right - left) * (bottom - top)) / double(h * w))};
  const float* from = images.data<float>();
  float* to = out.images.mutable_data<float>();
  std::copy_n(from, images.numel(), to);
  for (int64_t b = 0; b < n; ++b)
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t row = top; row < bottom; ++row) {
        const int64_t at = (c * h + row) * w + left;
        std::copy_n(from + (b + n - 1) % n * size + at, right - left, to + b * size + at);
      }
  return out;
}

}  // namespace transforms
}  // namespace retape
