// A layer of experts, of which a router picks a few for each token.
#pragma once
#include <optional>

#include <retape/nn/linear.h>

namespace retape::nn {

enum class ExpertActivation : uint8_t { gelu, relu, silu };
struct MixtureOfExpertsOptions {
  int64_t top_k = 2;
  /// An expert takes ceil(capacity_factor * top_k * tokens / experts) tokens, the first ones; further ones pass it by. None: all, for which the host waits
  /// to know how many the fullest expert has.
  std::optional<double> capacity_factor = {};
  bool normalize = true;  ///< the weights of a token's experts add up to 1
  ExpertActivation activation = ExpertActivation::gelu;
};
/// output is the sum over a token's top_k experts of their weight times down(act(up(x))). balance is the auxiliary loss that is 1 where tokens and
/// probabilities are spread evenly: experts * sum_e f_e P_e, where f_e is the share of choices that fell on e and P_e its mean probability. Add a
/// little of it to the loss (0.01). Shazeer et al. 2017; Fedus et al. 2022.
struct MixtureOfExperts : Module {
  struct Result {
    Tensor output, balance;
  };
  Linear gate;                // without bias
  Parameter up, up_bias;      // (experts, dim, hidden_dim), (experts, hidden_dim)
  Parameter down, down_bias;  // (experts, hidden_dim, dim), (experts, dim)
  MixtureOfExpertsOptions options;
  MixtureOfExperts(int64_t dim, int64_t hidden_dim, int64_t num_experts, MixtureOfExpertsOptions options = {});
  /// x (..., dim).
  Result forward(const Tensor& x) const;
  RETAPE_FIELDS(gate, up, up_bias, down, down_bias)
};

}  // namespace retape::nn
