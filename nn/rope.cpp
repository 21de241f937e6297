#include <retape/nn/rope.h>

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <mutex>
#include <numbers>
#include <tuple>

#include <retape/autograd/rearrange.h>
#include <retape/autograd/rope.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>

namespace retape::nn {
namespace {

void check(const RopeScaling& s, int64_t rotary_dim) {
  if (s.type == RopeScalingType::none) return;
  const auto wrong = [](const char* name, const auto& value, const char* right) {
    throw Error(fmt::format("RotaryEmbedding: scaling with {} = {} is not valid; it must be {}", name, value, right));
  };
  if (!(s.factor > 0 && std::isfinite(s.factor))) wrong("factor", s.factor, "positive");
  const bool of_length = s.type == RopeScalingType::dynamic || s.type == RopeScalingType::yarn || s.type == RopeScalingType::llama3;
  if (of_length && s.original_max_position_embeddings <= 0)
    wrong("original_max_position_embeddings", s.original_max_position_embeddings, "positive");
  if ((s.type == RopeScalingType::dynamic || s.type == RopeScalingType::ntk) && rotary_dim <= 2)
    wrong("rotary_dim", rotary_dim, "more than 2, since one frequency has no base to change");
  if (s.type == RopeScalingType::dynamic && s.factor < 1) wrong("factor", s.factor, "1 or more");
  if (s.type == RopeScalingType::yarn && !(s.beta_slow > 0 && s.beta_fast >= s.beta_slow))
    wrong("beta_fast", s.beta_fast, "beta_slow or more");
  if (s.type == RopeScalingType::llama3 && !(s.low_freq_factor > 0 && s.high_freq_factor > s.low_freq_factor))
    wrong("high_freq_factor", s.high_freq_factor, "more than low_freq_factor");
}

}  // namespace

struct RotaryEmbedding::Tables {
  std::mutex mutex;
  Tensor cos, sin;     // (positions, rotary_dim / 2)
  int64_t length = 0;  // that the frequencies are for, with dynamic scaling
};

RotaryEmbedding::RotaryEmbedding(int64_t dim, RotaryEmbeddingOptions o) : head_dim(dim), options(o), tables_(std::make_shared<Tables>()) {
  if (dim <= 0 || dim % 2) throw Error(fmt::format("RotaryEmbedding: head_dim {} is not valid; it must be even and positive", dim));
  if (options.rotary_dim == 0) options.rotary_dim = dim;
  if (options.rotary_dim < 0 || options.rotary_dim % 2 || options.rotary_dim > dim)
    throw Error(fmt::format("RotaryEmbedding: rotary_dim {} is not valid for a head_dim of {}; it must be even, and from 2 to that",
                            options.rotary_dim, dim));
  if (!(options.base > 0)) throw Error(fmt::format("RotaryEmbedding: base {} is not valid; it must be positive", options.base));
  check(options.scaling, options.rotary_dim);
}

std::vector<double> RotaryEmbedding::inv_freq(int64_t length) const {
  const RopeScaling& s = options.scaling;
  const double dim = double(options.rotary_dim), original = double(s.original_max_position_embeddings), pi = std::numbers::pi;
  double base = options.base;
  if (s.type == RopeScalingType::ntk) base *= std::pow(s.factor, dim / (dim - 2));
  if (s.type == RopeScalingType::dynamic)
    base *= std::pow(s.factor * std::max(double(length), original) / original - (s.factor - 1), dim / (dim - 2));
  std::vector<double> all;
  for (int64_t i = 0; i < options.rotary_dim / 2; ++i) all.push_back(std::pow(base, -2.0 * double(i) / dim));

  if (s.type == RopeScalingType::linear)
    for (double& f : all) f /= s.factor;
  if (s.type == RopeScalingType::yarn) {
    // the feature that rotates so often over the original length
    const auto feature = [&](double rotations) { return dim * std::log(original / (rotations * 2 * pi)) / (2 * std::log(base)); };
    double low = feature(s.beta_fast), high = feature(s.beta_slow);
    if (s.truncate) low = std::floor(low), high = std::ceil(high);
    low = std::max(low, 0.0), high = std::min(high, dim - 1);
    if (low == high) high += 0.001;
    for (size_t i = 0; i < all.size(); ++i) {
      const double ramp = std::clamp((double(i) - low) / (high - low), 0.0, 1.0);
      all[i] = all[i] / s.factor * ramp + all[i] * (1 - ramp);
    }
  }
  if (s.type == RopeScalingType::llama3)
    for (double& f : all) {
      const double wavelength = 2 * pi / f;
      const double smooth = (original / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
      f = f / s.factor + (f - f / s.factor) * std::clamp(smooth, 0.0, 1.0);
    }
  return all;
}

double RotaryEmbedding::attention_scaling() const {
  const RopeScaling& s = options.scaling;
  if (s.type != RopeScalingType::yarn) return 1;
  if (s.attention_factor) return *s.attention_factor;
  const auto mscale = [&](double m) { return s.factor <= 1 ? 1.0 : 0.1 * m * std::log(s.factor) + 1; };
  return s.mscale != 0 && s.mscale_all_dim != 0 ? mscale(s.mscale) / mscale(s.mscale_all_dim) : mscale(1);
}

Tensor RotaryEmbedding::forward(const Tensor& x, int64_t start) const {
  if (x.dim() < 2 || x.shape()[-1] != head_dim || start < 0)
    throw Error(fmt::format("RotaryEmbedding: x of shape {} from position {} does not fit; expected (..., T, {}) from 0 or later",
                            x.shape().str(), start, head_dim));
  const int64_t length = x.shape()[-2], end = start + length, rotary = options.rotary_dim;
  Tensor cos, sin;
  {
    const NoGrad off;
    const Scoped outside(ctx.region, nullptr);  // the tables outlive any checkpoint
    const std::lock_guard lock(tables_->mutex);
    const Options of{.dtype = x.dtype() == DType::f64 ? DType::f64 : DType::f32, .device = x.device()};
    const RopeScaling& s = options.scaling;
    const int64_t scaled_for = s.type == RopeScalingType::dynamic ? std::max(end, s.original_max_position_embeddings) : 0;
    const Tensor& made = tables_->cos;
    if (!made || made.shape()[0] < end || made.dtype() != of.dtype || made.device() != of.device || tables_->length != scaled_for) {
      const int64_t positions = int64_t(std::bit_ceil(uint64_t(std::max(end, int64_t{64}))));
      std::tie(tables_->cos, tables_->sin) = rope_tables(positions, inv_freq(scaled_for), attention_scaling(), of);
      tables_->length = scaled_for;
    }
    cos = narrow(tables_->cos, 0, start, length);
    sin = narrow(tables_->sin, 0, start, length);
  }
  if (rotary == head_dim) return rope(x, cos, sin, options.interleaved);
  return cat({rope(narrow(x, -1, 0, rotary), cos, sin, options.interleaved), narrow(x, -1, rotary, head_dim - rotary)}, -1);
}

}  // namespace retape::nn
