// Losses of distances, angles and ranks between examples.
#pragma once
#include <functional>

#include <retape/nn/distance.h>
#include <retape/nn/loss.h>

namespace retape {

struct MarginOptions {
  double margin = 0;
  Reduction reduction = Reduction::mean;
};
/// 1 - cos(input1, input2) for target 1, max(0, cos - margin) for -1. Inputs (N, D) with target (N), or (D) with one without dims. torch:
/// functional.cosine_embedding_loss.
Tensor cosine_embedding_loss(const Tensor& input1, const Tensor& input2, const Tensor& target, MarginOptions options = {});
/// max(0, -target (input1 - input2) + margin); all of one shape. torch: functional.margin_ranking_loss.
Tensor margin_ranking_loss(const Tensor& input1, const Tensor& input2, const Tensor& target, MarginOptions options = {});
/// input for target 1, max(0, margin - input) for -1. torch: functional.hinge_embedding_loss.
Tensor hinge_embedding_loss(const Tensor& input, const Tensor& target, MarginOptions options = {.margin = 1});

struct TripletMarginOptions {
  double margin = 1, p = 2, eps = 1e-6;
  bool swap = false;  ///< the negative's distance is the smaller one of that to the anchor and that to the positive
  Reduction reduction = Reduction::mean;
};
/// max(0, |anchor - positive| - |anchor - negative| + margin) with pairwise_distance(). All of one shape, (N, D) or (D). Balntas et al. 2016;
/// torch: functional.triplet_margin_loss.
Tensor triplet_margin_loss(const Tensor& anchor, const Tensor& positive, const Tensor& negative, TripletMarginOptions options = {});
using DistanceFunction = std::function<Tensor(const Tensor&, const Tensor&)>;
struct TripletMarginWithDistanceOptions {
  DistanceFunction distance_function = {};  ///< none: pairwise_distance()
  double margin = 1;
  bool swap = false;
  Reduction reduction = Reduction::mean;
};
/// torch: functional.triplet_margin_with_distance_loss.
Tensor triplet_margin_with_distance_loss(const Tensor& anchor, const Tensor& positive, const Tensor& negative,
                                         const TripletMarginWithDistanceOptions& options = {});

namespace nn {

/// torch: nn.CosineEmbeddingLoss.
struct CosineEmbeddingLoss : Module {
  MarginOptions options;
  explicit CosineEmbeddingLoss(MarginOptions options = {}) : options(options) {}
  Tensor forward(const Tensor& input1, const Tensor& input2, const Tensor& target) const {
    return cosine_embedding_loss(input1, input2, target, options);
  }
  RETAPE_FIELDS()
};
/// torch: nn.MarginRankingLoss.
struct MarginRankingLoss : Module {
  MarginOptions options;
  explicit MarginRankingLoss(MarginOptions options = {}) : options(options) {}
  Tensor forward(const Tensor& input1, const Tensor& input2, const Tensor& target) const {
    return margin_ranking_loss(input1, input2, target, options);
  }
  RETAPE_FIELDS()
};
/// torch: nn.HingeEmbeddingLoss.
struct HingeEmbeddingLoss : Module {
  MarginOptions options;
  explicit HingeEmbeddingLoss(MarginOptions options = {.margin = 1}) : options(options) {}
  Tensor forward(const Tensor& input, const Tensor& target) const { return hinge_embedding_loss(input, target, options); }
  RETAPE_FIELDS()
};
/// torch: nn.TripletMarginLoss.
struct TripletMarginLoss : Module {
  TripletMarginOptions options;
  explicit TripletMarginLoss(TripletMarginOptions options = {}) : options(options) {}
  Tensor forward(const Tensor& anchor, const Tensor& positive, const Tensor& negative) const {
    return triplet_margin_loss(anchor, positive, negative, options);
  }
  RETAPE_FIELDS()
};
/// torch: nn.TripletMarginWithDistanceLoss.
struct TripletMarginWithDistanceLoss : Module {
  TripletMarginWithDistanceOptions options;
  explicit TripletMarginWithDistanceLoss(TripletMarginWithDistanceOptions options = {}) : options(std::move(options)) {}
  Tensor forward(const Tensor& anchor, const Tensor& positive, const Tensor& negative) const {
    return triplet_margin_with_distance_loss(anchor, positive, negative, options);
  }
  RETAPE_FIELDS()
};

}  // namespace nn
}  // namespace retape
