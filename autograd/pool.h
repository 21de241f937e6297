// Pooling over one to three dims of space of images (N, C, sizes of space...), or one image without N. Half types and nan as in PyTorch: nan is the
// largest. Results lie channels-last in memory (core/tensor.h).
#pragma once
#include <optional>

#include <retape/autograd/convolution.h>

namespace retape {

struct MaxPoolOptions {
  std::optional<PerDim> stride = {};  ///< the kernel's size if not given
  PerDim padding = 0, dilation = 1;   ///< padding counts as -infinity and is at most half of the kernel
  bool ceil_mode = false;             ///< a last window that stands out of the image counts, if it begins inside it or its left padding
};
struct Pooled {
  Tensor values, indices;  ///< indices i64: the place of each value among all those of its image and channel
};
/// The largest element of every window. Throws Error if sizes and options do not fit. torch: functional.max_pool1d, ...
Tensor max_pool1d(const Tensor& x, const PerDim& kernel_size, const MaxPoolOptions& options = {});
Tensor max_pool2d(const Tensor& x, const PerDim& kernel_size, const MaxPoolOptions& options = {});
Tensor max_pool3d(const Tensor& x, const PerDim& kernel_size, const MaxPoolOptions& options = {});
/// Also where it was. torch: return_indices=True.
Pooled max_pool1d_with_indices(const Tensor& x, const PerDim& kernel_size, const MaxPoolOptions& options = {});
Pooled max_pool2d_with_indices(const Tensor& x, const PerDim& kernel_size, const MaxPoolOptions& options = {});
Pooled max_pool3d_with_indices(const Tensor& x, const PerDim& kernel_size, const MaxPoolOptions& options = {});

struct MaxUnpoolOptions {
  std::optional<PerDim> stride = {};
  PerDim padding = 0;
  Shape output_size = {};  ///< of space; if not given, (size - 1) stride - 2 padding + kernel
};
/// Values back where max pooling found them, zeros elsewhere. Throws Error for an index outside the output. torch: functional.max_unpool1d, ...
Tensor max_unpool1d(const Tensor& x, const Tensor& indices, const PerDim& kernel_size, const MaxUnpoolOptions& options = {});
Tensor max_unpool2d(const Tensor& x, const Tensor& indices, const PerDim& kernel_size, const MaxUnpoolOptions& options = {});
Tensor max_unpool3d(const Tensor& x, const Tensor& indices, const PerDim& kernel_size, const MaxUnpoolOptions& options = {});

struct AvgPoolOptions {
  std::optional<PerDim> stride = {};  ///< the kernel's size if not given
  PerDim padding = 0;                 ///< zeros, at most half of the kernel
  bool ceil_mode = false, count_include_pad = true;
  int64_t divisor_override = 0;  ///< divides by this; 0: by the number of elements
};
/// The mean of every window. torch: functional.avg_pool1d, ...
Tensor avg_pool1d(const Tensor& x, const PerDim& kernel_size, const AvgPoolOptions& options = {});
Tensor avg_pool2d(const Tensor& x, const PerDim& kernel_size, const AvgPoolOptions& options = {});
Tensor avg_pool3d(const Tensor& x, const PerDim& kernel_size, const AvgPoolOptions& options = {});

struct LpPoolOptions {
  std::optional<PerDim> stride = {};
  bool ceil_mode = false;
};
/// (sum of x^p over every window)^(1/p). torch: functional.lp_pool1d, ...
Tensor lp_pool1d(const Tensor& x, double norm_type, const PerDim& kernel_size, const LpPoolOptions& options = {});
Tensor lp_pool2d(const Tensor& x, double norm_type, const PerDim& kernel_size, const LpPoolOptions& options = {});
Tensor lp_pool3d(const Tensor& x, double norm_type, const PerDim& kernel_size, const LpPoolOptions& options = {});

/// The mean, or the largest element, of windows that part the image into output_size: window o is [floor(o in / out), ceil((o + 1) in / out)). A size of
/// -1 keeps the image's. torch: functional.adaptive_avg_pool1d, adaptive_max_pool1d, ...
Tensor adaptive_avg_pool1d(const Tensor& x, const PerDim& output_size);
Tensor adaptive_avg_pool2d(const Tensor& x, const PerDim& output_size);
Tensor adaptive_avg_pool3d(const Tensor& x, const PerDim& output_size);
Tensor adaptive_max_pool1d(const Tensor& x, const PerDim& output_size);
Tensor adaptive_max_pool2d(const Tensor& x, const PerDim& output_size);
Tensor adaptive_max_pool3d(const Tensor& x, const PerDim& output_size);
Pooled adaptive_max_pool1d_with_indices(const Tensor& x, const PerDim& output_size);
Pooled adaptive_max_pool2d_with_indices(const Tensor& x, const PerDim& output_size);
Pooled adaptive_max_pool3d_with_indices(const Tensor& x, const PerDim& output_size);

}  // namespace retape
