// AdamW that needs no schedule of its rate.
#pragma once
#include <retape/optim/optimizer.h>

namespace retape {

struct AdamWScheduleFreeOptions {
  double lr = 2.5e-3;
  std::pair<double, double> betas = {0.9, 0.999};  ///< the first one: where between iterate (0) and average (1) gradients are taken
  double eps = 1e-8;
  double weight_decay = 0;
  int64_t warmup_steps = 0;    ///< step t of them has the rate lr * t / warmup_steps
  double r = 0;                ///< the average gives step t a weight of t^r,
  double weight_lr_power = 2;  ///< times the largest rate so far to this power
  bool maximize = false;

  static constexpr auto optimizer = "adamw_schedule_free";
  static constexpr auto rule = UpdateKind::schedule_free;
  static constexpr const char* states[] = {"z", "exp_avg_sq", "weight_sum", "lr_max"};
  static constexpr int scalars = 2;
  void check() const;
  UpdateArgs args() const;
};
/// Defazio et al. 2024, as in the authors' package `schedulefree`: the weights are where gradients are taken; eval() turns them into the
/// average, which is what to test and to deploy, and train() turns them back. Call eval() before testing and saving the model, train()
/// after; step() throws Error in between. A new optimizer is as after train().
class AdamWScheduleFree : public RuleOptimizer<AdamWScheduleFreeOptions> {
 public:
  using Optimizer::step;
  using RuleOptimizer::RuleOptimizer;
  void step(const Tensor& found_inf = {}) override;
  void train();
  void eval();
  bool is_training() const { return training_; }

  /// With an entry "train_mode", 1 or 0: the weights must be loaded as they were then.
  NamedTensors state_dict() const override;
  void load_state_dict(const NamedTensors& state) override;

 private:
  void move(bool training);
  bool training_ = true;
};

}  // namespace retape
