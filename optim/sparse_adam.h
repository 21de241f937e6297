// Adam for sparse gradients.
#pragma once
#include <retape/optim/optimizer.h>

namespace retape {

struct SparseAdamOptions {
  double lr = 1e-3;
  std::pair<double, double> betas = {0.9, 0.999};
  double eps = 1e-8;
  bool maximize = false;

  static constexpr auto optimizer = "sparse_adam";
  void check() const;
};
/// Adam whose moments change only in the rows that a sparse gradient (autograd/sparse.h) has. Throws Error in step() for a dense gradient.
/// eps is added before the bias correction of the second moment. torch: optim.SparseAdam.
class SparseAdam : public OptimizerWith<SparseAdamOptions> {
 public:
  using OptimizerWith::OptimizerWith;

 protected:
  std::vector<const char*> state_names() const override;
  const char* refuses_rows(int) const override { return nullptr; }
  bool takes_dense() const override { return false; }
  void update(int group, Device device, const Tensor& found_inf, const std::vector<OptimizerSlot>& slots) override;
};

}  // namespace retape
