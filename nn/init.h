// Initialisers: each fills a tensor or Parameter in place, unrecorded. fan_in is the number of inputs that an output sums over: for a
// weight (out, in, ...) it is in times the sizes that follow; fan_out is out times those sizes.
#pragma once
#include <retape/core/random.h>

namespace retape::nn::init {

enum class Fan : uint8_t { in, out };
enum class Nonlinearity : uint8_t { linear, sigmoid, tanh, relu, leaky_relu, selu };

/// The factor that keeps the variance of activations: 1, 1, 5/3, sqrt(2), sqrt(2 / (1 + slope^2)), 3/4. torch: calculate_gain.
double calculate_gain(Nonlinearity nonlinearity, double negative_slope = 0.01);
/// The same by PyTorch's names, of which conv1d, conv2d, conv3d and conv_transpose1d to 3d count as linear. Throws Error for any other.
double calculate_gain(const std::string& nonlinearity, double negative_slope = 0.01);

void zeros(const Tensor& x);
void ones(const Tensor& x);
void constant(const Tensor& x, double value);
/// Uniform in [low, high).
void uniform(const Tensor& x, double low = 0, double high = 1, Generator& generator = default_generator());
void normal(const Tensor& x, double mean = 0, double std = 1, Generator& generator = default_generator());
/// Normal, restricted to [low, high]: drawn by inverting the distribution function. torch: trunc_normal_.
void trunc_normal(const Tensor& x, double mean = 0, double std = 1, double low = -2, double high = 2,
                  Generator& generator = default_generator());

struct KaimingOptions {
  double negative_slope = 0;
  Fan fan = Fan::in;
  Nonlinearity nonlinearity = Nonlinearity::leaky_relu;
};
/// Uniform within gain * sqrt(3 / fan). He et al. 2015; torch: kaiming_uniform_. Throws Error for less than two dims, as do the next.
void kaiming_uniform(const Tensor& x, KaimingOptions options = {}, Generator& generator = default_generator());
/// Normal with standard deviation gain / sqrt(fan).
void kaiming_normal(const Tensor& x, KaimingOptions options = {}, Generator& generator = default_generator());
/// Uniform within gain * sqrt(6 / (fan_in + fan_out)). Glorot & Bengio 2010; torch: xavier_uniform_.
void xavier_uniform(const Tensor& x, double gain = 1, Generator& generator = default_generator());
/// Normal with standard deviation gain * sqrt(2 / (fan_in + fan_out)).
void xavier_normal(const Tensor& x, double gain = 1, Generator& generator = default_generator());
/// A random (semi-)orthogonal matrix of (size 0, product of the rest), times gain. Saxe et al. 2013; torch: orthogonal_.
void orthogonal(const Tensor& x, double gain = 1, Generator& generator = default_generator());

/// Ones on the diagonal of a matrix, else 0. Throws Error unless there are two dims. torch: eye_.
void eye(const Tensor& x);
/// A convolution's weight (out, in, k1, ...) that passes its input on, as many channels as it can in each of `groups` parts of the outputs: 1 in the middle of
/// their kernels, else 0. Throws Error unless there are 3, 4 or 5 dims and size 0 is a multiple of groups. torch: dirac_.
void dirac(const Tensor& x, int64_t groups = 1);
/// Normal with standard deviation std, except for ceil(sparsity * rows) elements of each column, which are 0. Throws Error unless there are two dims. Martens
/// 2010; torch: sparse_.
void sparse(const Tensor& x, double sparsity, double std = 0.01, Generator& generator = default_generator());

/// The fan_in and fan_out of a weight. Throws Error for less than two dims.
int64_t fan_in(const Tensor& x);
int64_t fan_out(const Tensor& x);

}  // namespace retape::nn::init
