// Activations with parameters; those without are in unary.h. Names, defaults and values at kinks are torch.nn.functional's. x has any shape;
// integers become f32.
#pragma once
#include <retape/core/random.h>

namespace retape {

/// x, and negative_slope x below 0. torch: leaky_relu.
Tensor leaky_relu(const Tensor& x, double negative_slope = 0.01);
/// x, and weight x below 0; weight has one element, or as many as dim 1 of x. Throws Error unless it fits. He et al. 2015; torch: prelu.
Tensor prelu(const Tensor& x, const Tensor& weight);
/// leaky_relu() whose slope is, while `training`, drawn for each element from [lower, upper), else their mean. Throws Error for lower above upper.
/// Xu et al. 2015; torch: rrelu.
Tensor rrelu(const Tensor& x, double lower = 1.0 / 8, double upper = 1.0 / 3, bool training = false,
             Generator& generator = default_generator());
/// x, and alpha (e^x - 1) below 0. Clevert et al. 2016; torch: elu.
Tensor elu(const Tensor& x, double alpha = 1);
/// x, and alpha (e^(x / alpha) - 1) below 0. Throws Error if alpha is 0. Barron 2017; torch: celu.
Tensor celu(const Tensor& x, double alpha = 1);
/// x between min_val and max_val; the slope at them is 0, other than clamp()'s. Throws Error unless min_val is below max_val. torch: hardtanh.
Tensor hardtanh(const Tensor& x, double min_val = -1, double max_val = 1);
/// 0 where |x| <= lambd, else x. torch: hardshrink.
Tensor hardshrink(const Tensor& x, double lambd = 0.5);
/// x, by lambd nearer to 0, and 0 where that is not possible. Throws Error if lambd is negative. torch: softshrink.
Tensor softshrink(const Tensor& x, double lambd = 0.5);
/// x above `threshold`, else value. torch: threshold.
Tensor threshold(const Tensor& x, double threshold, double value);
/// log(1 + e^(beta x)) / beta, without overflow; x itself where beta x is above `threshold`. Throws Error if beta is 0. torch: softplus.
Tensor softplus(const Tensor& x, double beta, double threshold = 20);
/// The first half of a dim times the sigmoid of the second. Throws Error if its size is odd. Dauphin et al. 2017; torch: glu.
Tensor glu(const Tensor& x, int64_t dim = -1);
/// softmax() of -x. torch: softmin.
Tensor softmin(const Tensor& x, int64_t dim);
/// Samples from the distributions whose logits lie along a dim, as softmax((logits + Gumbel noise) / tau); with `hard`, one-hot, with the gradient of
/// the soft sample. Throws Error unless tau is above 0. Jang et al. 2017; torch: gumbel_softmax.
Tensor gumbel_softmax(const Tensor& logits, double tau = 1, bool hard = false, int64_t dim = -1,
                      Generator& generator = default_generator());

}  // namespace retape
