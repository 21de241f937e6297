// Augmentations of images: torchvision's names, meanings and defaults. Each is a function of the image and of numbers drawn from the seed
// and the sample's number, so that no thread, worker or batch size changes what comes out.
//
//     using namespace retape::transforms;
//     const Transform transform = compose(
//         {RandomResizedCrop{.height = 224, .width = 224}, RandomHorizontalFlip{}, RandAugment{}, ToFloat{}, Normalize{mean, std}});
//
// Images are (channels, height, width). Colours ask for u8 and 1 or 3 channels, gray or RGB; what only moves pixels takes any number of
// channels, and f32 too. All throw Error for other tensors. None writes to its image, but one that changes nothing may return it.
#pragma once
#include <array>
#include <functional>
#include <vector>

#include <retape/core/philox.h>
#include <retape/core/tensor.h>

namespace retape {

/// Random numbers for one sample, or for one batch: a stream of its own for each (seed, number).
class SampleRandom {
 public:
  enum class Of : uint8_t { sample, batch };
  SampleRandom(uint64_t seed, int64_t number, Of of = Of::sample);
  uint32_t bits();
  double uniform();  ///< in [0, 1)
  double uniform(double low, double high) { return low + (high - low) * uniform(); }
  /// In [0, n). Throws Error for n < 1.
  int64_t integer(int64_t n);
  bool chance(double p) { return uniform() < p; }
  double normal();                  ///< of mean 0 and standard deviation 1
  double gamma(double shape);       ///< of scale 1 (Marsaglia & Tsang 2000); shape > 0
  double beta(double a, double b);  ///< a, b > 0

 private:
  uint64_t key_, counter_ = 0;
};

namespace transforms {

/// `bilinear` and `bicubic` (a = -0.5) average over what a pixel of a smaller image covers (antialias, which torchvision calls True).
enum class InterpolationMode : uint8_t { nearest, bilinear, bicubic };

// ---- functions without chance: torchvision.transforms.v2.functional ----------------------------------------------------

/// To this size, along rows and then along columns. u8 is rounded after each, as by torchvision.
Tensor resize(const Tensor& image, int64_t height, int64_t width, InterpolationMode interpolation = InterpolationMode::bilinear);
/// The shorter side to `size`, the other in proportion, rounded down.
Tensor resize(const Tensor& image, int64_t size, InterpolationMode interpolation = InterpolationMode::bilinear);
/// Adds rows and columns of `fill`. Throws Error for negative numbers.
Tensor pad(const Tensor& image, int64_t left, int64_t top, int64_t right, int64_t bottom, double fill = 0);
/// Throws Error unless the part lies in the image.
Tensor crop(const Tensor& image, int64_t top, int64_t left, int64_t height, int64_t width);
/// The middle; a side that is too short is padded with zeros first.
Tensor center_crop(const Tensor& image, int64_t height, int64_t width);
Tensor horizontal_flip(const Tensor& image);

/// blend(image, other, factor) = factor image + (1 - factor) other, cut to 0 ... 255; other is black, the mean of the gray image, the gray
/// image, a smoothed one. Factor 1 changes nothing. Throws Error for a negative factor.
Tensor adjust_brightness(const Tensor& image, double factor);
Tensor adjust_contrast(const Tensor& image, double factor);
Tensor adjust_saturation(const Tensor& image, double factor);
Tensor adjust_sharpness(const Tensor& image, double factor);
/// Turns the colour circle by `factor` of it, -0.5 to 0.5; gray images stay. Throws Error for other factors.
Tensor adjust_hue(const Tensor& image, double factor);
/// Keeps the upper `bits` of each sample, 0 to 8.
Tensor posterize(const Tensor& image, int bits);
/// Inverts samples that are at least `threshold`.
Tensor solarize(const Tensor& image, double threshold);
/// Spreads each channel over 0 to 255.
Tensor autocontrast(const Tensor& image);
/// Flattens each channel's histogram.
Tensor equalize(const Tensor& image);

struct AffineOptions {
  double angle = 0;                                              ///< degrees, clockwise
  double translate_x = 0, translate_y = 0;                       ///< pixels, to the right and down
  double scale = 1;                                              ///< above 0
  double shear_x = 0, shear_y = 0;                               ///< degrees
  bool about_corner = false;                                     ///< what stays in place: the upper left corner, not the middle
  InterpolationMode interpolation = InterpolationMode::nearest;  ///< or bilinear
  double fill = 0;                                               ///< where nothing comes from
};
/// Rotates, shears, scales and moves, in a frame that stays. Takes u8 only. torchvision: affine; its rotate(a) is affine with angle -a.
Tensor affine(const Tensor& image, const AffineOptions& options);

/// u8 to f32 between 0 and 1; f32 stays. torchvision: to_dtype(float32, scale=True), ToTensor.
Tensor to_float(const Tensor& image);
/// (x - mean) / std for each channel of an f32 image. Throws Error unless there is one mean and one std, not 0, for each channel.
Tensor normalize(const Tensor& image, const std::vector<double>& mean, const std::vector<double>& std);

// ---- transforms: torchvision.transforms.v2 ------------------------------------------------------------------------------

/// What makes an image of an image, with numbers of its own. It is called by several threads at a time.
using Transform = std::function<Tensor(const Tensor& image, SampleRandom& random)>;
/// One after the other.
Transform compose(std::vector<Transform> transforms);

struct Resize {
  int64_t size;  ///< of the shorter side
  InterpolationMode interpolation = InterpolationMode::bilinear;
  Tensor operator()(const Tensor& image, SampleRandom&) const { return resize(image, size, interpolation); }
};
struct CenterCrop {
  int64_t height, width;
  Tensor operator()(const Tensor& image, SampleRandom&) const { return center_crop(image, height, width); }
};
/// A part from anywhere in the image, after `padding` on all sides. Throws Error if the padded image is smaller.
struct RandomCrop {
  int64_t height, width;
  int64_t padding = 0;
  bool pad_if_needed = false;  ///< pads a side that is too short by what is missing, on both ends
  double fill = 0;
  Tensor operator()(const Tensor& image, SampleRandom& random) const;
};
/// A part of random area (a share in `scale`) and aspect ratio, resized. After ten tries that do not fit, the middle (Szegedy et al. 2015).
struct RandomResizedCrop {
  int64_t height, width;
  std::array<double, 2> scale = {0.08, 1}, ratio = {3. / 4, 4. / 3};
  InterpolationMode interpolation = InterpolationMode::bilinear;
  Tensor operator()(const Tensor& image, SampleRandom& random) const;
};
struct RandomHorizontalFlip {
  double p = 0.5;
  Tensor operator()(const Tensor& image, SampleRandom& random) const;
};
/// Brightness, contrast, saturation and hue in random order, by factors in [max(0, 1 - x), 1 + x] and, for hue, [-x, x].
/// Throws Error for negative numbers and a hue above 0.5.
struct ColorJitter {
  double brightness = 0, contrast = 0, saturation = 0, hue = 0;
  Tensor operator()(const Tensor& image, SampleRandom& random) const;
};
/// `num_ops` random operations of one strength (Cubuk et al. 2020). Throws Error unless 0 <= magnitude < num_magnitude_bins, and for fewer
/// than 2 bins.
struct RandAugment {
  enum class Op : uint8_t {
    identity,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
    rotate,
    brightness,
    color,
    contrast,
    sharpness,
    posterize,
    solarize,
    auto_contrast,
    equalize
  };
  static constexpr int ops = 14;
  int num_ops = 2, magnitude = 9, num_magnitude_bins = 31;
  InterpolationMode interpolation = InterpolationMode::nearest;
  double fill = 0;
  Tensor operator()(const Tensor& image, SampleRandom& random) const;
  /// One operation by itself, in the other direction if `negative` and it has one.
  Tensor apply(const Tensor& image, Op op, bool negative = false) const;
};
/// Overwrites a rectangle, in an image of u8 or, as usual, a normalised one of f32 (Zhong et al. 2017).
struct RandomErasing {
  double p = 0.5;
  std::array<double, 2> scale = {0.02, 0.33}, ratio = {0.3, 3.3};
  double value = 0;
  bool random = false;  ///< each sample normal with mean 0 and standard deviation 1 instead of `value`; f32 only
  Tensor operator()(const Tensor& image, SampleRandom& random) const;
};
struct ToFloat {
  Tensor operator()(const Tensor& image, SampleRandom&) const { return to_float(image); }
};
struct Normalize {
  std::vector<double> mean, std;
  Tensor operator()(const Tensor& image, SampleRandom&) const { return normalize(image, mean, std); }
};

// ---- batches ------------------------------------------------------------------------------------------------------------

/// images f32 (batch, channels, height, width); targets f32 (batch, classes), the share of each class.
struct MixedBatch {
  Tensor images, targets;
};
/// lambda image + (1 - lambda) the one before it (the first: the last), and targets likewise, lambda from Beta(alpha, alpha). images f32
/// (batch, channels, height, width), labels i64 (batch). Throws Error for other shapes and dtypes, labels outside [0, classes) and
/// alpha <= 0. Zhang et al. 2018; torchvision: MixUp.
MixedBatch mixup(const Tensor& images, const Tensor& labels, int64_t classes, SampleRandom& random, double alpha = 1);
/// A rectangle of the image before it, of about the share 1 - lambda; targets by the area. Otherwise as mixup(). Yun et al. 2019;
/// torchvision: CutMix.
MixedBatch cutmix(const Tensor& images, const Tensor& labels, int64_t classes, SampleRandom& random, double alpha = 1);

}  // namespace transforms
}  // namespace retape
