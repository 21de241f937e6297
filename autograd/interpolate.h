// Images of other sizes. An image is (N, C, sizes of space...) with one to three dims of space; results lie channels-last in memory
// (core/tensor.h).
#pragma once
#include <initializer_list>
#include <optional>
#include <vector>

#include <retape/autograd/convolution.h>

namespace retape {

/// How many times larger each dim of space gets: `2`, or `{2, 1.5}`.
struct ScaleFactor {
  std::vector<double> values;
  ScaleFactor(double all) : values{all} {}
  ScaleFactor(std::initializer_list<double> each) : values(each) {}
};
/// linear is for one dim of space, bilinear and bicubic for two, trilinear for three, the others for any number.
enum class InterpolateMode : uint8_t { nearest, linear, bilinear, bicubic, trilinear, area, nearest_exact };
struct InterpolateOptions {
  PerDim size = {};               ///< of space; this or scale_factor must be given
  ScaleFactor scale_factor = {};  ///< the size is floor(size of x * scale_factor)
  InterpolateMode mode = InterpolateMode::nearest;
  std::optional<bool> align_corners = {};  ///< of the modes with weights: whether the outermost places, or the outermost edges, coincide
  bool recompute_scale_factor = false;     ///< distances are those of the rounded sizes, not those of scale_factor
};
/// x (N, C, space), floating, at other sizes; second derivatives, too. nearest takes the place below, nearest_exact the nearest one, which
/// is also what Pillow does; bicubic is Keys' with a = -0.75 and leaves x's range; area is adaptive_avg_pool. Nothing is smoothed before it
/// is made smaller. Throws Error unless the mode fits x's dims, all sizes are above 0, and exactly one of size and scale_factor is given.
/// torch: functional.interpolate.
Tensor interpolate(const Tensor& x, const InterpolateOptions& options);

}  // namespace retape
