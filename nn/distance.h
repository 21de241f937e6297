// Distances and angles of vectors.
#pragma once
#include <retape/nn/module.h>

namespace retape {

/// The p-norm of x1 - x2 + eps over the last dim; the two broadcast. torch: functional.pairwise_distance.
Tensor pairwise_distance(const Tensor& x1, const Tensor& x2, double p = 2, double eps = 1e-6, bool keepdim = false);
/// The cosine of the angle between x1 and x2 along a dim; the two broadcast. Norms below eps count as eps. torch: functional.cosine_similarity.
Tensor cosine_similarity(const Tensor& x1, const Tensor& x2, int64_t dim = 1, double eps = 1e-8);

namespace nn {

/// x divided by its p-norm along a dim, or by eps where that is less. torch: functional.normalize.
Tensor normalize(const Tensor& x, double p = 2, int64_t dim = 1, double eps = 1e-12);

struct PairwiseDistanceOptions {
  double p = 2, eps = 1e-6;
  bool keepdim = false;
};
/// torch: nn.PairwiseDistance.
struct PairwiseDistance : Module {
  PairwiseDistanceOptions options;
  explicit PairwiseDistance(PairwiseDistanceOptions options = {}) : options(options) {}
  Tensor forward(const Tensor& x1, const Tensor& x2) const { return pairwise_distance(x1, x2, options.p, options.eps, options.keepdim); }
  RETAPE_FIELDS()
};
struct CosineSimilarityOptions {
  int64_t dim = 1;
  double eps = 1e-8;
};
/// torch: nn.CosineSimilarity.
struct CosineSimilarity : Module {
  CosineSimilarityOptions options;
  explicit CosineSimilarity(CosineSimilarityOptions options = {}) : options(options) {}
  Tensor forward(const Tensor& x1, const Tensor& x2) const { return cosine_similarity(x1, x2, options.dim, options.eps); }
  RETAPE_FIELDS()
};

}  // namespace nn
}  // namespace retape
