#include <retape/nn/margin_loss.h>

#include <fmt/format.h>

#include <retape/autograd/reduce.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>
#include <retape/nn/reduction.h>

namespace retape {

using detail::check_pair;
using detail::in_full_precision;
using detail::reduced;

Tensor cosine_embedding_loss(const Tensor& input1, const Tensor& input2, const Tensor& target, MarginOptions options) {
  constexpr auto name = "cosine_embedding_loss";
  check_pair(name, input1, input2, "input1", "input2");
  if (input1.dim() != 1 && input1.dim() != 2)
    throw Error(fmt::format("{}: inputs have shape {}; they must be (N, D) or (D)", name, input1.shape().str()));
  const Shape wanted = input1.dim() == 2 ? Shape{input1.shape()[0]} : Shape{};
  if (!target || !(target.shape() == wanted))
    throw Error(fmt::format("{}: target of shape {} does not fit inputs of shape {}; it must have shape {}", name,
                            target ? target.shape().str() : "(undefined)", input1.shape().str(), wanted.str()));
  return in_full_precision(
      [&](const Tensor& a, const Tensor& b) {
        // eps as torch adds it here, which is not how cosine_similarity() keeps clear of 0
        constexpr double eps = 1e-12;
        const Tensor cos = sum(a * b, {-1}) / sqrt((sum(square(a), {-1}) + eps) * (sum(square(b), {-1}) + eps));
        return reduced(name, where(eq(target, 1), 1 - cos, where(eq(target, -1), relu(cos - options.margin), 0)), options.reduction);
      },
      input1, input2);
}
Tensor margin_ranking_loss(const Tensor& input1, const Tensor& input2, const Tensor& target, MarginOptions options) {
  constexpr auto name = "margin_ranking_loss";
  check_pair(name, input1, input2, "input1", "input2");
  if (!target || !(target.shape() == input1.shape()))
    throw Error(fmt::format("{}: target of shape {} and inputs of shape {} differ; they must be equal", name,
                            target ? target.shape().str() : "(undefined)", input1.shape().str()));
  return in_full_precision(
      [&](const Tensor& a, const Tensor& b) {
        return reduced(name, relu((b - a) * cast(target, a.dtype()) + options.margin), options.reduction);
      },
      input1, input2);
}
Tensor hinge_embedding_loss(const Tensor& input, const Tensor& target, MarginOptions options) {
  constexpr auto name = "hinge_embedding_loss";
  detail::check_floating(name, input, "input");
  if (!target || !(target.shape() == input.shape()))
    throw Error(fmt::format("{}: target of shape {} and input of shape {} differ; they must be equal", name,
                            target ? target.shape().str() : "(undefined)", input.shape().str()));
  return in_full_precision(
      [&](const Tensor& x) {
        // For any other target than 1 and -1 torch has both parts.
        const Tensor near = where(ne(target, -1), x, 0), far = where(ne(target, 1), relu(options.margin - x), 0);
        return reduced(name, near + far, options.reduction);
      },
      input);
}
Tensor triplet_margin_loss(const Tensor& anchor, const Tensor& positive, const Tensor& negative, TripletMarginOptions options) {
  const auto distance = [&](const Tensor& a, const Tensor& b) { return pairwise_distance(a, b, options.p, options.eps); };
  return triplet_margin_with_distance_loss(anchor, positive, negative, {distance, options.margin, options.swap, options.reduction});
}
Tensor triplet_margin_with_distance_loss(const Tensor& anchor, const Tensor& positive, const Tensor& negative,
                                         const TripletMarginWithDistanceOptions& options) {
  constexpr auto name = "triplet_margin_loss";
  check_pair(name, anchor, positive, "anchor", "positive");
  check_pair(name, anchor, negative, "anchor", "negative");
  if (!(options.margin > 0)) throw Error(fmt::format("{}: margin {} is not valid; it must be above 0", name, options.margin));
  return in_full_precision(
      [&](const Tensor& a, const Tensor& p, const Tensor& n) {
        const auto distance = [&](const Tensor& x, const Tensor& y) {
          return options.distance_function ? options.distance_function(x, y) : pairwise_distance(x, y);
        };
        Tensor far = distance(a, n);
        if (options.swap) far = minimum(far, distance(p, n));
        return reduced(name, relu(distance(a, p) - far + options.margin), options.reduction);
      },
      anchor, positive, negative);
}

}  // namespace retape
