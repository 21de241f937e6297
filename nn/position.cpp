#include <retape/nn/position.h>

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <mutex>

#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>
#include <retape/nn/causal.h>
#include <retape/nn/init.h>

namespace retape {

Tensor sincos_positions(int64_t height, int64_t width, int64_t dim, bool class_token) {
  if (height < 1 || width < 1 || dim < 4 || dim % 4)
    throw Error(
        fmt::format("sincos_positions: a grid of {} x {} with {} dims is not possible; 4 must divide the dims", height, width, dim));
  const int64_t quarter = dim / 4, first = class_token ? 1 : 0;
  std::vector<float> v(size_t((first + height * width) * dim));
  for (int64_t row = 0; row < height; ++row)
    for (int64_t column = 0; column < width; ++column) {
      float* out = v.data() + (first + row * width + column) * dim;
      for (int64_t k = 0; k < quarter; ++k) {
        const double omega = std::pow(10000.0, -double(k) / double(quarter));
        out[k] = float(std::sin(double(column) * omega)), out[quarter + k] = float(std::cos(double(column) * omega));
        out[2 * quarter + k] = float(std::sin(double(row) * omega)), out[3 * quarter + k] = float(std::cos(double(row) * omega));
      }
    }
  return tensor(v, {1, first + height * width, dim});
}

namespace nn {

Tensor sinusoidal_positions(int64_t length, int64_t dim, int64_t first, Options options) {
  if (length < 0 || dim < 1) throw Error(fmt::format("sinusoidal_positions: ({}, {}) is no shape of positions and features", length, dim));
  if (!is_floating(options.dtype))
    throw Error(fmt::format("sinusoidal_positions: dtype {} cannot hold sines; use a floating dtype", name_of(options.dtype)));
  if (options.device.is_meta()) return empty({length, dim}, options);
  std::vector<double> wavelengths(size_t((dim + 1) / 2));
  for (size_t i = 0; i < wavelengths.size(); ++i) wavelengths[i] = std::pow(10000.0, double(2 * i) / double(dim));
  const Tensor out = empty({length, dim}, {.dtype = DType::f64});
  auto* to = out.mutable_data<double>();
  for (int64_t p = 0; p < length; ++p)
    for (int64_t k = 0; k < dim; ++k) {
      const double angle = double(first + p) / wavelengths[size_t(k / 2)];
      *to++ = k % 2 ? std::cos(angle) : std::sin(angle);
    }
  return retape::to(cast(out, options.dtype), options.device);
}

namespace detail {

struct PositionTable::Kept {
  Make make;
  std::mutex mutex;
  Tensor table = {};
};
PositionTable::PositionTable(Make make) : kept_(std::make_shared<Kept>(std::move(make))) {}
Tensor PositionTable::rows(int64_t first, int64_t length, Options options) const {
  const NoGrad off;
  const Scoped outside(ctx.region, nullptr);  // the table outlives any checkpoint
  const std::lock_guard lock(kept_->mutex);
  options.dtype = options.dtype == DType::f64 ? DType::f64 : DType::f32;
  Tensor& table = kept_->table;
  if (!table || table.shape()[0] < first + length || table.dtype() != options.dtype || table.device() != options.device)
    table = kept_->make(int64_t(std::bit_ceil(uint64_t(std::max(first + length, int64_t{64})))), options);
  return narrow(table, 0, first, length);
}

}  // namespace detail

namespace {
void check_positions(const char* layer, const Tensor& x, int64_t embed_dim, int64_t start) {
  detail::check_sequence(layer, x, embed_dim);
  if (start < 0) throw Error(fmt::format("{}: start {} is not valid; the first position is 0", layer, start));
}
template <class M> Tensor from_state(const char* layer, const M& m, const Tensor& x, int64_t embed_dim, typename M::State& state) {
  const ModuleScope scope(m);
  detail::check_sequence(layer, x, embed_dim, true);
  const Tensor y = m.forward(x, state.position);
  state.position += x.shape()[1];
  return y;
}
}  // namespace

SinusoidalPositionalEncoding::SinusoidalPositionalEncoding(int64_t embed, SinusoidalPositionalEncodingOptions o)
    : embed_dim(embed),
      scale(o.scale),
      table_([=](int64_t length, Options options) { return sinusoidal_positions(length, embed, 0, options); }) {
  detail::check_positive("SinusoidalPositionalEncoding", "embed_dim", embed);
}
Tensor SinusoidalPositionalEncoding::forward(const Tensor& x, int64_t start) const {
  check_positions("SinusoidalPositionalEncoding", x, embed_dim, start);
  return (scale == 1 ? x : x * scale) + cast(table_.rows(start, x.shape()[1], x.options()), x.dtype());
}
Tensor SinusoidalPositionalEncoding::step(const Tensor& x, State& state) const {
  return from_state("SinusoidalPositionalEncoding", *this, x, embed_dim, state);
}

LearnedPositionalEmbedding::LearnedPositionalEmbedding(int64_t embed, LearnedPositionalEmbeddingOptions o) {
  detail::check_positive("LearnedPositionalEmbedding", "embed_dim", embed),
      detail::check_positive("LearnedPositionalEmbedding", "max_length", o.max_length);
  weight = empty_parameter({o.max_length, embed});
  init::normal(weight, 0, o.std);
}
Tensor LearnedPositionalEmbedding::forward(const Tensor& x, int64_t start) const {
  const int64_t max_length = weight->shape()[0];
  check_positions("LearnedPositionalEmbedding", x, weight->shape()[1], start);
  if (start + x.shape()[1] > max_length)
    throw Error(fmt::format("LearnedPositionalEmbedding: positions {} .. {} are beyond max_length {}", start, start + x.shape()[1] - 1,
                            max_length));
  return x + cast(narrow(weight, 0, start, x.shape()[1]), x.dtype());
}
Tensor LearnedPositionalEmbedding::step(const Tensor& x, State& state) const {
  return from_state("LearnedPositionalEmbedding", *this, x, weight->shape()[1], state);
}

}  // namespace nn
}  // namespace retape
