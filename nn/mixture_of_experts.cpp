#include <retape/nn/mixture_of_experts.h>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include <retape/autograd/index.h>
#include <retape/autograd/matmul.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/scan.h>
#include <retape/autograd/softmax.h>
#include <retape/autograd/sort.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>
#include <retape/nn/init.h>

namespace retape::nn {

MixtureOfExperts::MixtureOfExperts(int64_t dim, int64_t hidden_dim, int64_t num_experts, MixtureOfExpertsOptions o)
    : gate(dim, num_experts, {.bias = false}),
      up(empty_parameter({num_experts, dim, hidden_dim})),
      up_bias(empty_parameter({num_experts, hidden_dim})),
      down(empty_parameter({num_experts, hidden_dim, dim})),
      down_bias(empty_parameter({num_experts, dim})),
      options(o) {
  if (num_experts < 1 || o.top_k < 1 || o.top_k > num_experts)
    throw Error(
        fmt::format("MixtureOfExperts: top_k {} of {} experts is not valid; it must be from 1 to their number", o.top_k, num_experts));
  if (o.capacity_factor && !(*o.capacity_factor > 0))
    throw Error(fmt::format("MixtureOfExperts: capacity_factor {} is not valid; it must be above 0", *o.capacity_factor));
  const auto within = [](const Tensor& weight, const Tensor& bias, int64_t fan) {
    const double bound = fan > 0 ? 1 / std::sqrt(double(fan)) : 0;
    init::uniform(weight, -bound, bound), init::uniform(bias, -bound, bound);
  };
  within(up, up_bias, dim), within(down, down_bias, hidden_dim);
}

MixtureOfExperts::Result MixtureOfExperts::forward(const Tensor& x) const {
  const int64_t dim = up->shape()[1], experts = up->shape()[0], k = options.top_k;
  if (!x || x.dim() == 0 || x.shape()[-1] != dim)
    throw Error(fmt::format("MixtureOfExperts: x has shape {}; its last size must be {}", x ? x.shape().str() : "(undefined)", dim));
  const Tensor tokens = reshape(x, {-1, dim});
  const int64_t count = tokens.shape()[0];
  const Tensor probabilities = softmax(gate(tokens), -1);  // (count, experts)
  const auto [best, chosen] = topk(probabilities, k, 1);   // (count, k)
  const Tensor weights = options.normalize ? best / sum(best, {1}, true) : best;

  // A choice's place in the queue of its expert: all first choices stand before all second ones.
  const Tensor queue = reshape(transpose(chosen), {-1});  // (k count)
  const Tensor of_expert = cast(eq(unsqueeze(queue, 1), arange(double(experts), queue.options())), DType::i64);
  const Tensor place = sum((cumsum(of_expert, 0) - 1) * of_expert, {1});
  int64_t capacity = count;
  if (options.capacity_factor)
    capacity = std::min(count, int64_t(std::ceil(*options.capacity_factor * double(k * count) / double(experts))));
  else if (!x.device().is_meta() && count > 0) {
    const NoGrad off;
    capacity = amax(sum(of_expert, {0})).item<int64_t>();
  }
  // Rows of the experts' inputs; choices that found no room share one more row behind them all.
  const Tensor row = where(lt(place, capacity), queue * capacity + place, experts * capacity);
  const Tensor which = remainder(arange(double(k * count), {DType::i64, x.device()}), std::max<int64_t>(count, 1));
  const Tensor input = narrow(index_add(zeros({experts * capacity + 1, dim}, tokens.options()), 0, row, index_select(tokens, 0, which)), 0,
                              0, experts * capacity);
  const Tensor h = matmul(reshape(input, {experts, capacity, dim}), up) + unsqueeze(up_bias, 1);
  const Tensor active = options.activation == ExpertActivation::gelu   ? gelu(h)
                        : options.activation == ExpertActivation::relu ? relu(h)
                                                                       : silu(h);
  const Tensor output = reshape(matmul(active, down) + unsqueeze(down_bias, 1), {experts * capacity, dim});
  const Tensor with_none = index_copy(zeros({experts * capacity + 1, dim}, output.options()), 0,
                                      arange(double(experts * capacity), {DType::i64, x.device()}), output);
  const Tensor shares = cast(reshape(transpose(weights), {-1, 1}), output.dtype());
  const Tensor joined = sum(reshape(index_select(with_none, 0, row) * shares, {k, count, dim}), {0});

  const Tensor f = mean(cast(of_expert, probabilities.dtype()), {0}), p = mean(probabilities, {0});
  return {reshape(joined, x.shape()), sum(f * p) * double(experts)};
}

}  // namespace retape::nn
