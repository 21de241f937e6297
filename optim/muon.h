// Muon: momentum whose matrices are made orthogonal.
#pragma once
#include <array>

#include <retape/optim/optimizer.h>

namespace retape {

/// How Muon's rate depends on a matrix of `rows` and `columns`: sqrt(max(1, rows / columns)); 0.2 sqrt(max(rows, columns)), so that rates and
/// decays that were found for AdamW serve; sqrt(rows / columns).
enum class AdjustLr : uint8_t { original, match_rms_adamw, spectral_unclamped };

struct MuonOptions {
  double lr = 1e-3;
  double weight_decay = 0.1;  ///< a step takes lr * weight_decay of the weight away
  double momentum = 0.95;
  bool nesterov = true;
  std::array<double, 3> ns_coefficients = {3.4445, -4.7750, 2.0315};
  double eps = 1e-7;  ///< the least norm that a matrix is divided by
  int64_t ns_steps = 5;
  AdjustLr adjust_lr_fn = AdjustLr::original;
  bool maximize = false;
  bool use_muon = true;  ///< false: AdamW for all of this group, such as embeddings and the last layer
  std::pair<double, double> adamw_betas = {0.9, 0.95};
  double adamw_eps = 1e-8;

  static constexpr auto optimizer = "muon";
  void check() const;
};
/// Jordan et al. 2024: the momentum of each matrix, made nearly orthogonal by Newton and Schulz's iteration in bf16, whatever the dtype of the
/// parameter. A parameter of three and more dims (a convolution's) is the matrix of its first dim and all others. One of fewer than two dims
/// gets AdamW's step with the group's lr and weight_decay, adamw_betas and adamw_eps, as do all of a group without use_muon. torch:
/// optim.Muon, which takes matrices only. In a captured graph ns_coefficients, eps and ns_steps stay as they were.
class Muon : public OptimizerWith<MuonOptions> {
 public:
  using OptimizerWith::OptimizerWith;

 protected:
  std::vector<const char*> state_names() const override { return {"momentum_buffer", "exp_avg", "exp_avg_sq"}; }
  bool uses_state(int group, const Tensor& param, int k) const override { return is_matrix(group, param) == (k == 0); }
  void update(int group, Device device, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots) override;

 private:
  bool is_matrix(int group, const Tensor& param) const { return options(group).use_muon && param.dim() > 1; }
};

namespace detail {
/// The nearest orthogonal matrix to x (m, n), roughly: singular values between about 0.7 and 1.2. Returns bf16.
Tensor orthogonalize(const Tensor& x, const std::array<double, 3>& coefficients, int64_t steps, double eps);
}  // namespace detail

}  // namespace retape
