// Normalisation by the moments of channels: batch, group and instance norm, and local response norm. x is (N, C, ...), its channels best
// next to each other in memory, as are those of the results.
#pragma once
#include <retape/autograd/binary.h>

namespace retape {

struct NormWithMoments {
  Tensor y;
  Tensor mean, var;  ///< what y was normalised by; var with divisor n. f32 (f64 for f64), without gradients
};

/// (x - mean) / sqrt(var + eps) * weight + bias for each group of C / num_groups neighbouring channels of each sample, mean and var
/// (divisor n) over its channels and positions; weight and bias (C), or undefined. Moments, weight and bias are used in f32 (f64 for f64). Throws Error
/// unless num_groups divides C, and where a group is a single value. Wu & He 2018; torch: group_norm.
Tensor group_norm(const Tensor& x, int64_t num_groups, const Tensor& weight = {}, const Tensor& bias = {}, double eps = 1e-5);

/// The same with the moments of each channel over all samples and positions, (C) each. Throws Error for fewer than two values a channel.
/// Ioffe & Szegedy 2015.
NormWithMoments batch_norm_with_moments(const Tensor& x, const Tensor& weight = {}, const Tensor& bias = {}, double eps = 1e-5);
/// The same with the moments of each channel of each sample, (N, C) each. Throws Error for fewer than two positions. Ulyanov et al. 2016.
NormWithMoments instance_norm_with_moments(const Tensor& x, const Tensor& weight = {}, const Tensor& bias = {}, double eps = 1e-5);
/// The same with moments that are given, (C) each, and get no gradient.
Tensor norm_by_moments(const Tensor& x, const Tensor& mean, const Tensor& var, const Tensor& weight = {}, const Tensor& bias = {},
                       double eps = 1e-5);
/// running = (1 - momentum) running + momentum * moment, in place and not recorded, with the variance that has the divisor count - 1.
void update_running_moments(const NormWithMoments& of, int64_t count, const Operand& momentum, const Tensor& running_mean,
                            const Tensor& running_var);

/// Training: batch_norm_with_moments, and running_mean and running_var, unless undefined, are updated in place. Else, norm_by_moments of the
/// running ones. torch: functional.batch_norm.
Tensor batch_norm(const Tensor& x, const Tensor& running_mean, const Tensor& running_var, const Tensor& weight = {},
                  const Tensor& bias = {}, bool training = false, double momentum = 0.1, double eps = 1e-5);
/// The same of instance_norm_with_moments, whose moments go into the running ones as their mean over samples. torch: functional.instance_norm.
Tensor instance_norm(const Tensor& x, const Tensor& running_mean = {}, const Tensor& running_var = {}, const Tensor& weight = {},
                     const Tensor& bias = {}, bool use_input_stats = true, double momentum = 0.1, double eps = 1e-5);

/// x / (k + alpha * mean of x^2 over `size` neighbouring channels, 0 beyond the ends)^beta. Throws Error for fewer than three dims.
/// Krizhevsky et al. 2012; torch: functional.local_response_norm.
Tensor local_response_norm(const Tensor& x, int64_t size, double alpha = 1e-4, double beta = 0.75, double k = 1);

}  // namespace retape
