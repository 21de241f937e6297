#include <retape/nn/linear_attention.h>

#include <fmt/format.h>

#include <cmath>

#include <retape/autograd/autocast.h>
#include <retape/autograd/gated_linear_attention.h>
#include <retape/autograd/linear_recurrence.h>
#include <retape/autograd/matmul.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/scan.h>
#include <retape/autograd/softmax.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>
#include <retape/nn/causal.h>
#include <retape/nn/init.h>

namespace retape::nn {
namespace {

using detail::attend_to_all, detail::attend_to_past, detail::Wide;

// The mean of v over positions, all or those so far, by the weights phi(q) phi(k), whose sum gets eps; `sums` as in LinearAttention's state.
Tensor mean_of_all(const Tensor& q, const Tensor& k, const Tensor& v, double eps) {
  Shape one = v.shape();
  one[-1] = 1;
  const Tensor y = attend_to_all(q, k, cat({v, ones(one, v.options())}, -1));
  return narrow(y, -1, 0, v.shape()[-1]) / (narrow(y, -1, v.shape()[-1], 1) + eps);
}
Tensor mean_so_far(const Tensor& q, const Tensor& k, const Tensor& v, double eps, Tensor& sums, const Tensor& log_decay = {}) {
  const auto r = gated_linear_attention(q, k, v, {.g = log_decay, .scale = 1, .initial = sums, .normalize = true, .eps = eps});
  sums = r.last_state;
  return r.y;
}
Tensor last_position(const Tensor& x) { return narrow(x, 1, x.shape()[1] - 1, 1); }
// x (B, T, ...) one position later, with `first` (B, 1, ...) before it, or undefined: x's own first.
Tensor delayed(const Tensor& x, const Tensor& first) {
  return cat({first ? first : narrow(x, 1, 0, 1), narrow(x, 1, 0, x.shape()[1] - 1)}, 1);
}
// The maximum of x (B, T, ...) over the positions so far, and of `before` (B, 1, ...), if there is one.
Tensor largest_so_far(const Tensor& x, const Tensor& before) { return cummax(before ? maximum(x, before) : x, 1).values; }
void check_eps(const char* name, double eps) {
  if (!(eps >= 0)) throw Error(fmt::format("{}: eps {} is not valid; it must be 0 or more", name, eps));
}

}  // namespace

Tensor feature_map(FeatureMap map, const Tensor& x) {
  if (!x || x.dim() == 0) throw Error(fmt::format("feature_map: x is {}; it must be (..., D)", x ? x.shape().str() : "undefined"));
  switch (map) {
    case FeatureMap::elu_plus_one: return retape::elu_plus_one(x);
    case FeatureMap::relu: return relu(x);
    case FeatureMap::dpfp: {
      const Tensor r = relu(cat({x, -x}, -1));
      return r * roll(r, 1, -1);
    }
    case FeatureMap::taylor: {
      const double size = double(x.shape()[-1]);
      Shape one = x.shape(), squares = x.shape();
      one[-1] = 1, squares[-1] *= squares[-1];
      const Tensor products = unsqueeze(x, -1) * unsqueeze(x, -2);
      return cat({ones(one, x.options()), x * std::pow(size, -0.25), reshape(products, squares) * (1 / std::sqrt(2 * size))}, -1);
    }
  }
  throw Error(fmt::format("feature_map: {} is no feature map", int(map)));
}

// ---- linear attention ------------------------------------------------------------------------------------------------

LinearAttention::LinearAttention(int64_t embed, LinearAttentionOptions o)
    : HeadProjections("LinearAttention", embed, o.num_heads, o.bias, o.causal), map(o.feature_map), eps(o.eps) {
  check_eps("LinearAttention", eps);
}
Tensor LinearAttention::forward(const Tensor& x) const {
  State start;
  return attend(x, start);
}
Tensor LinearAttention::step(const Tensor& x, State& state) const {
  const ModuleScope scope(*this);
  detail::check_step(name_, causal, x, embed_dim, state.sums);
  return attend(x, state);
}
Tensor LinearAttention::attend(const Tensor& x, State& state) const {
  const Heads h = project_wide(x);
  if (x.numel() == 0) return merge(h.v, x);
  Tensor y;
  {
    const Wide no_autocast;
    const Tensor q = nn::feature_map(map, h.q), k = nn::feature_map(map, h.k);
    y = causal ? mean_so_far(q, k, h.v, eps, state.sums) : mean_of_all(q, k, h.v, eps);
  }
  return merge(y, x);
}

// ---- FAVOR+ ----------------------------------------------------------------------------------------------------------

FavorAttention::FavorAttention(int64_t embed, FavorAttentionOptions o)
    : HeadProjections("FavorAttention", embed, o.num_heads, o.bias, o.causal),
      kernel(o.kernel),
      feature_redraw_interval(o.feature_redraw_interval),
      eps(o.eps.value_or(o.kernel == FavorKernel::softmax ? 1e-6 : 1e-3)) {
  check_eps("FavorAttention", eps);
  const int64_t size = embed / o.num_heads;
  const int64_t features = o.nb_features.value_or(std::max(int64_t{1}, int64_t(double(size) * std::log(double(size)))));
  detail::check_positive("FavorAttention", "nb_features", features);
  if (feature_redraw_interval < 0)
    throw Error(fmt::format("FavorAttention: feature_redraw_interval {} is not valid; it must be above 0, or 0 for never",
                            feature_redraw_interval));
  projection = Buffer(empty({features, size}, DefaultOptions::current));
  redraw();
}
void FavorAttention::redraw(Generator& generator) {
  count(0);
  const Tensor& w = projection;
  if (w.device().is_meta()) return;
  const NoGrad off;
  const Scoped outside(ctx.region, nullptr);  // the projection outlives any checkpoint
  const int64_t features = w.shape()[0], size = w.shape()[1];
  std::vector<Tensor> blocks;
  for (int64_t first = 0; first < features; first += size) {
    const Tensor block = empty({size, size}, {.dtype = DType::f64});
    init::orthogonal(block, 1, generator);
    blocks.push_back(narrow(block, 0, 0, std::min(size, features - first)));
  }
  // As long as normal vectors are, so that each row is one.
  const Tensor lengths = norm(randn({features, size}, {.dtype = DType::f64}, generator), 2, {1}, true);
  copy_into(retape::to(cat(blocks, 0) * lengths, w.device()), w);
}
void FavorAttention::count(int64_t calls) {
  const Scoped outside(ctx.region, nullptr);
  calls_ = calls;
  const Device device = projection->device();
  calls_since_last_redraw = device.is_meta() ? empty({}, {.dtype = DType::i64, .device = device})
                                             : full({}, double(calls), {.dtype = DType::i64, .device = device});
  counted_ = calls_since_last_redraw.tensor(), version_ = counted_.version();
}
Tensor FavorAttention::forward(const Tensor& x) {
  if (is_training() && feature_redraw_interval > 0) {
    const Tensor& calls = calls_since_last_redraw;
    if (calls.impl() != counted_.impl() || calls.version() != version_) calls_ = calls.device().is_meta() ? 0 : int64_t(calls.item());
    if (calls_ >= feature_redraw_interval) redraw();
    count(calls_ + 1);
  }
  State start;
  return attend(x, start);
}
Tensor FavorAttention::step(const Tensor& x, State& state) const {
  const ModuleScope scope(*this);
  detail::check_step(name_, causal, x, embed_dim, state.sums);
  return attend(x, state);
}
Tensor FavorAttention::attend(const Tensor& x, State& state) const {
  const Heads h = project_wide(x);
  if (x.numel() == 0) return merge(h.v, x);
  Tensor y;
  {
    const Wide no_autocast;
    const double scale = std::pow(double(embed_dim / num_heads), -0.25);
    // A copy: backward still needs the present values when the next draw has replaced them.
    const Tensor directions = cast(retape::clone(projection.tensor().detach()), h.q.dtype());
    const Tensor wq = linear(h.q * scale, directions), wk = linear(h.k * scale, directions);
    const auto weigh = [&](const Tensor& q, const Tensor& k, const Tensor& log_decay = {}) {
      return causal ? mean_so_far(q, k, h.v, 0, state.sums, log_decay) : mean_of_all(q, k, h.v, 0);
    };
    if (kernel == FavorKernel::relu) {
      y = weigh(relu(wq) + eps, relu(wk) + eps);
    } else {
      // |q|^2 / 2 is the same for all features, and cancels in the normaliser as the largest exponent does.
      const Tensor q = exp(wq - amax(wq.detach(), {-1}, true)) + eps;
      const Tensor exponents = wk - sum(square(h.k), {-1}, true) * (scale * scale / 2);
      Tensor largest = amax(exponents.detach(), {-1});  // (B, T, H)
      if (causal) {
        largest = largest_so_far(largest, state.exponent);
        const Tensor log_decay = delayed(largest, state.exponent) - largest;
        y = weigh(q, exp(exponents - unsqueeze(largest, -1)) + eps, log_decay);
        state.exponent = last_position(largest);
      } else {
        largest = amax(largest, {1}, true);
        y = weigh(q, exp(exponents - unsqueeze(largest, -1)) + eps);
      }
    }
  }
  return merge(y, x);
}

// ---- efficient attention ---------------------------------------------------------------------------------------------

EfficientAttention::EfficientAttention(int64_t embed, EfficientAttentionOptions o)
    : HeadProjections("EfficientAttention", embed, o.num_heads, o.bias, o.causal) {}
Tensor EfficientAttention::forward(const Tensor& x) const {
  State start;
  return attend(x, start);
}
Tensor EfficientAttention::step(const Tensor& x, State& state) const {
  const ModuleScope scope(*this);
  detail::check_step(name_, causal, x, embed_dim, state.sums);
  return attend(x, state);
}
Tensor EfficientAttention::attend(const Tensor& x, State& state) const {
  const Heads h = project_wide(x);
  if (x.numel() == 0) return merge(h.v, x);
  Tensor y;
  {
    const Wide no_autocast;
    const Tensor q = softmax(h.q, -1);
    if (causal) {
      const Tensor largest = largest_so_far(h.k.detach(), state.exponent), log_decay = delayed(largest, state.exponent) - largest;
      const Tensor k = exp(h.k - largest);
      const Shape flat{x.shape()[0], x.shape()[1], embed_dim};
      const Tensor sums = linear_recurrence(reshape(exp(log_decay), flat), reshape(k, flat), {.initial = state.normaliser});
      y = attend_to_past(q / reshape(sums, k.shape()), k, h.v, state.sums, log_decay);
      state.normaliser = squeeze(last_position(sums), 1), state.exponent = last_position(largest);
    } else {
      y = attend_to_all(q, softmax(h.k, 1), h.v);
    }
  }
  return merge(y, x);
}

// ---- cosFormer -------------------------------------------------------------------------------------------------------

CosformerAttention::CosformerAttention(int64_t embed, CosformerAttentionOptions o)
    : HeadProjections("CosformerAttention", embed, o.num_heads, o.bias, o.causal), max_length(o.max_length), eps(o.eps) {
  check_eps("CosformerAttention", eps);
  detail::check_positive("CosformerAttention", "max_length", max_length);
}
Tensor CosformerAttention::forward(const Tensor& x) const {
  State start;
  return attend(x, start);
}
Tensor CosformerAttention::step(const Tensor& x, State& state) const {
  const ModuleScope scope(*this);
  detail::check_step(name_, causal, x, embed_dim, state.sums);
  return attend(x, state);
}
Tensor CosformerAttention::attend(const Tensor& x, State& state) const {
  const Heads h = project_wide(x);
  if (x.numel() == 0) return merge(h.v, x);
  const int64_t length = x.shape()[1];
  if (state.position + length > max_length)
    throw Error(fmt::format("CosformerAttention: positions {} .. {} are beyond max_length {}", state.position, state.position + length - 1,
                            max_length));
  Tensor y;
  {
    const Wide no_autocast;
    // cos(a - b) = cos a cos b + sin a sin b
    const Tensor positions = arange(length, {DType::f64, h.q.device()}) + double(state.position);
    const Tensor angle = cast(reshape(positions * (std::acos(-1.0) / 2 / double(max_length)), {length, 1, 1}), h.q.dtype());
    const Tensor c = cos(angle), s = sin(angle);
    const auto features = [&](const Tensor& t) {
      const Tensor r = relu(t);
      return cat({r * c, r * s}, -1);
    };
    const Tensor q = features(h.q), k = features(h.k);
    y = causal ? mean_so_far(q, k, h.v, eps, state.sums) : mean_of_all(q, k, h.v, eps);
  }
  state.position += length;
  return merge(y, x);
}

}  // namespace retape::nn
