#include <retape/nn/rope.h>

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <mutex>
#include <tuple>

#include <retape/autograd/rope.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>

namespace retape::nn {

struct RotaryEmbedding::Tables {
  std::mutex mutex;
  Tensor cos, sin;  // (positions, head_dim / 2)
};

RotaryEmbedding::RotaryEmbedding(int64_t dim, RotaryEmbeddingOptions options)
    : head_dim(dim), base(options.base), interleaved(options.interleaved), tables_(std::make_shared<Tables>()) {
  if (dim <= 0 || dim % 2) throw Error(fmt::format("RotaryEmbedding: head_dim {} is not valid; it must be even and positive", dim));
}

Tensor RotaryEmbedding::forward(const Tensor& x, int64_t start) const {
  if (x.dim() < 2 || x.shape()[-1] != head_dim || start < 0)
    throw Error(fmt::format("RotaryEmbedding: x of shape {} from position {} does not fit; expected (..., T, {}) from 0 or later",
                            x.shape().str(), start, head_dim));
  const int64_t length = x.shape()[-2];
  Tensor cos, sin;
  {
    const NoGrad off;
    const Scoped outside(ctx.region, nullptr);  // the tables outlive any checkpoint
    const std::lock_guard lock(tables_->mutex);
    const Options options{.dtype = x.dtype() == DType::f64 ? DType::f64 : DType::f32, .device = x.device()};
    const Tensor& made = tables_->cos;
    if (!made || made.shape()[0] < start + length || made.dtype() != options.dtype || made.device() != options.device) {
      const int64_t positions = int64_t(std::bit_ceil(uint64_t(std::max(start + length, int64_t{64}))));
      std::tie(tables_->cos, tables_->sin) = rope_tables(positions, head_dim, base, options);
    }
    cos = narrow(tables_->cos, 0, start, length);
    sin = narrow(tables_->sin, 0, start, length);
  }
  return rope(x, cos, sin, interleaved);
}

}  // namespace retape::nn
