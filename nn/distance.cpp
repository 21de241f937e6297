#include <retape/nn/distance.h>

#include <retape/autograd/reduce.h>
#include <retape/autograd/unary.h>
#include <retape/nn/reduction.h>

namespace retape {

Tensor pairwise_distance(const Tensor& x1, const Tensor& x2, double p, double eps, bool keepdim) {
  detail::check_floating("pairwise_distance", x1, "x1"), detail::check_floating("pairwise_distance", x2, "x2");
  return norm(x1 - x2 + eps, p, {-1}, keepdim);
}
Tensor nn::normalize(const Tensor& x, double p, int64_t dim, double eps) {
  retape::detail::check_floating("normalize", x, "x");
  return x / maximum(norm(x, p, {dim}, true), eps);
}
Tensor cosine_similarity(const Tensor& x1, const Tensor& x2, int64_t dim, double eps) {
  detail::check_floating("cosine_similarity", x1, "x1"), detail::check_floating("cosine_similarity", x2, "x2");
  return sum(nn::normalize(x1, 2, dim, eps) * nn::normalize(x2, 2, dim, eps), {dim});
}

}  // namespace retape
