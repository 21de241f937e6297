// Optimizers, averages and schedules against the numbers of PyTorch and of papers that tests/golden/make_optim.py writes.
#include "cases.h"

using namespace retape;
using namespace retape::testing;

namespace {

const NamedTensors& golden() {
  static const NamedTensors all = SafeTensors::open(RETAPE_GOLDEN "/optim.safetensors").tensors();
  return all;
}
/// The entries that begin so, without that beginning.
NamedTensors golden(const std::string& begin) {
  NamedTensors some;
  for (auto& [name, value] : golden())
    if (name.starts_with(begin)) some.emplace_back(name.substr(begin.size()), value);
  return some;
}
std::vector<Tensor> values_of(const NamedTensors& some) {
  std::vector<Tensor> values;
  for (auto& [name, value] : some) values.push_back(value);
  return values;
}
Tensor find(const NamedTensors& state, const std::string& wanted) {
  for (auto& [name, value] : state)
    if (name == wanted) return value;
  return {};
}
/// The f32 numbers are PyTorch's in f32, or else the transcription's.
std::vector<Tensor> expected_params(const std::string& name, DType dtype) {
  auto some = values_of(golden(name + (dtype == DType::f32 ? ".f32.p." : ".f64.p.")));
  return some.empty() ? values_of(golden(name + ".f64.p.")) : some;
}
void check_state(const std::string& name, const NamedTensors& state, double tolerance) {
  for (auto& [entry, value] : golden(name + ".f64.state.")) {
    INFO(name << " " << entry);
    const Tensor found = find(state, entry);
    REQUIRE(found);
    CHECK(relative_difference({found}, {value}) <= tolerance);
  }
}

}  // namespace

TEST_CASE("ten steps of every optimizer are PyTorch's, and its paper's", "[optim][golden]") {
  for (const OptimizerCase& c : optimizer_cases())
    for (const DType dtype : {DType::f64, DType::f32}) {
      INFO(c.name << " in " << name_of(dtype));
      const auto expected = expected_params(c.name, dtype);
      REQUIRE(!expected.empty());
      const OptimizerRun run(c.only_matrices, dtype);
      const auto optimizer = c.make(run.params);
      run.steps(*optimizer, 0, 10);
      const double difference = relative_difference(run.values(), expected);
      CAPTURE(difference);
      CHECK(difference <= (dtype == DType::f64 ? c.f64 : c.f32));
      if (dtype == DType::f64) check_state(c.name, optimizer->state_dict(), c.f64);
    }
}

TEST_CASE("ten steps of SparseAdam are PyTorch's", "[optim][golden]") {
  for (const DType dtype : {DType::f64, DType::f32}) {
    const Tensor p = cast(wave({6, 3}, 0.1), dtype).set_requires_grad();
    SparseAdam optimizer({p}, {.lr = 0.05});
    for (int64_t t = 0; t < 10; ++t) {
      set_sparse_grad(
          p, SparseRows{tensor(std::vector<int64_t>{t % 6, (t + 2) % 6}), cast(wave({2, 3}, 1.3 * double(t) + 0.1), dtype), p.shape()});
      optimizer.step();
    }
    CHECK(relative_difference({p.detach()}, expected_params("sparse_adam", dtype)) <= (dtype == DType::f64 ? 1e-12 : 1e-5));
    if (dtype == DType::f64) check_state("sparse_adam", optimizer.state_dict(), 1e-12);
  }
}

TEST_CASE("L-BFGS goes where PyTorch's goes", "[optim][golden]") {
  const auto check = [](const std::string& name, const LBFGSOptions& options) {
    for (const DType dtype : {DType::f64, DType::f32}) {
      INFO(name << " in " << name_of(dtype));
      const OptimizerRun run(false, dtype);
      LBFGS optimizer(run.params, options);
      const Closure closure = [&] {
        optimizer.zero_grad();
        Tensor total = zeros({}, {dtype}), loss = zeros({}, {dtype});
        for (auto& p : run.params) total = total + sum(p);
        loss = square(total) * 0.05;
        for (size_t i = 0; i < run.params.size(); ++i) {
          const Tensor& p = run.params[i];
          const Tensor center = cast(wave(p.shape(), 0.1 * double(i + 1) + 1), dtype);
          const Tensor scale = reshape(cast(remainder(arange(p.numel()), 3), dtype) + 1, p.shape());
          loss = loss + sum(square(square(p - center))) * 0.25 + sum(scale * square(p - center)) * 0.5;
        }
        backward(loss);
        return loss;
      };
      const double before = optimizer.step(closure).item();
      CHECK(optimizer.step(closure).item() < before / 2);
      CHECK(relative_difference(run.values(), expected_params(name, dtype)) <= (dtype == DType::f64 ? 1e-12 : 1e-5));
      if (dtype == DType::f64) check_state(name, optimizer.state_dict(), 1e-9);  // gradients close to 0
    }
  };
  check("lbfgs", {.lr = 0.2, .max_iter = 5});
  check("lbfgs.strong_wolfe", {.max_iter = 5, .history_size = 3, .line_search_fn = LineSearch::strong_wolfe});
}

TEST_CASE("eval() of the schedule-free optimizer gives the paper's average, train() takes it back", "[optim][golden]") {
  const OptimizerRun run(false, DType::f64);
  AdamWScheduleFree optimizer(run.params, {.lr = 0.05});
  run.steps(optimizer, 0, 10);
  const auto before = run.values();
  optimizer.eval();
  optimizer.eval();  // is there already
  CHECK(relative_difference(run.values(), expected_params("schedule_free.eval", DType::f64)) <= 1e-12);
  CHECK_THAT(error_of([&] { optimizer.step(); }), ContainsSubstring("step() after eval()"));
  const NamedTensors state = optimizer.state_dict();
  CHECK(find(state, "train_mode").item() == 0);
  OptimizerRun other(false, DType::f64);
  AdamWScheduleFree resumed(other.params, {.lr = 0.05});
  resumed.load_state_dict(state);
  CHECK_FALSE(resumed.is_training());
  optimizer.train();
  CHECK(relative_difference(run.values(), before) <= 1e-14);
  run.steps(optimizer, 10, 11);
}

TEST_CASE("SAM steps as its paper says", "[optim][golden]") {
  const auto check = [](const std::string& name, const SAMOptions& options) {
    for (const DType dtype : {DType::f64, DType::f32}) {
      const OptimizerRun run(false, dtype);
      SGD base(run.params, {.lr = 0.1, .momentum = 0.9});
      SAM optimizer(base, options);
      for (int t = 0; t < 10; ++t)
        optimizer.step([&] {
          run.set_grads(run.tables(t));
          return zeros({});
        });
      CHECK(relative_difference(run.values(), expected_params(name, dtype)) <= (dtype == DType::f64 ? 1e-12 : 1e-5));
      if (dtype == DType::f64) check_state(name, base.state_dict(), 1e-12);
    }
  };
  check("sam", {.rho = 0.3});
  check("sam.adaptive", {.rho = 0.5, .adaptive = true});
}

namespace {
struct Three : nn::Module {
  Parameter a, b, c;
  explicit Three(const OptimizerRun& run) : a(run.params[0]), b(run.params[1]), c(run.params[2]) {}
  Tensor forward(const Tensor& x) const { return x * sum(a.tensor()); }
  RETAPE_FIELDS(a, b, c)
};
}  // namespace

TEST_CASE("averages of weights are PyTorch's, under its names", "[optim][golden]") {
  const auto check = [](const std::string& name, const AveragedModelOptions& options) {
    OptimizerRun run(false, DType::f64);
    Three model(run);
    run.params = model.parameters();
    AveragedModel average(model, options);
    SGD optimizer(run.params, {.lr = 0.1});
    for (int t = 0; t < 10; ++t) {
      run.steps(optimizer, t, t + 1);
      average.update_parameters(model);
    }
    CHECK(average.n_averaged() == 10);
    const NamedTensors state = average.state_dict(), expected = golden(name + ".f64.");
    CHECK(state.size() == expected.size());
    for (auto& [entry, value] : expected) {
      INFO(name << " " << entry);
      REQUIRE(find(state, entry));
      CHECK(relative_difference({find(state, entry)}, {value}) <= 1e-12);
    }
    CHECK(average(ones({1}, {DType::f64})).item() == Approx(sum(average.module.a.tensor()).item()));
  };
  check("swa", {});
  check("ema", {.decay = 0.8});
}

TEST_CASE("schedules are PyTorch's", "[optim][golden]") {
  const auto check = [](const std::string& name, const Schedule& schedule) {
    INFO(name);
    const Tensor p = zeros({1}).set_requires_grad();
    SGD optimizer({p}, {.lr = 0.1, .momentum = 0.7});
    LRScheduler scheduler(optimizer, schedule);
    const NamedTensors expected = golden("schedule." + name);
    REQUIRE(find(expected, ""));
    std::vector<double> rates, momenta;
    for (int64_t i = 0; i < find(expected, "").numel(); ++i, scheduler.step()) {
      rates.push_back(optimizer.lr()), momenta.push_back(optimizer.momentum());
      CHECK(scheduler.get_last_lr()[0] == optimizer.lr());
    }
    CHECK(relative_difference({tensor(rates)}, {find(expected, "")}) <= 1e-12);
    if (const Tensor m = find(expected, ".momentum")) CHECK(relative_difference({tensor(momenta)}, {m}) <= 1e-12);
    else CHECK(momenta.back() == 0.7);
  };
  check("lambda", LambdaLR{[](int64_t step) { return 1 / double(1 + step); }});
  check("multiplicative", MultiplicativeLR{[](int64_t step) { return 1 - 0.1 / double(step); }});
  check("step", StepLR{.step_size = 4});
  check("step.gamma", StepLR{.step_size = 7, .gamma = 0.5});
  check("multi_step", MultiStepLR{.milestones = {12, 3, 3, 20}, .gamma = 0.5});
  check("constant", ConstantLR{});
  check("constant.factor", ConstantLR{.factor = 0.7, .total_iters = 9});
  check("linear", LinearLR{});
  check("linear.factors", LinearLR{.start_factor = 0.9, .end_factor = 0.1, .total_iters = 20});
  check("exponential", ExponentialLR{.gamma = 0.9});
  check("polynomial", PolynomialLR{});
  check("polynomial.power", PolynomialLR{.total_iters = 25, .power = 2});
  check("cosine", CosineAnnealingLR{.T_max = 10});
  check("cosine.min", CosineAnnealingLR{.T_max = 12, .eta_min = 0.02});
  check("restarts", CosineAnnealingWarmRestarts{.T_0 = 10});
  check("restarts.mult", CosineAnnealingWarmRestarts{.T_0 = 3, .T_mult = 2, .eta_min = 0.01});
  check("one_cycle", OneCycleLR{.max_lr = 0.4, .total_steps = 40});
  check("one_cycle.three", OneCycleLR{.max_lr = 0.4,
                                      .total_steps = 40,
                                      .pct_start = 0.25,
                                      .anneal_strategy = Anneal::linear,
                                      .base_momentum = 0.6,
                                      .max_momentum = 0.9,
                                      .div_factor = 10,
                                      .final_div_factor = 100,
                                      .three_phase = true});
  check("cyclic", CyclicLR{.base_lr = 0.01, .max_lr = 0.1, .step_size_up = 5});
  check("cyclic.triangular2", CyclicLR{.base_lr = 0.01, .max_lr = 0.1, .step_size_up = 4, .step_size_down = 6, .mode = Cycle::triangular2});
  check("cyclic.exp_range", CyclicLR{.base_lr = 0.01, .max_lr = 0.1, .step_size_up = 4, .mode = Cycle::exp_range, .gamma = 0.95});
  check("swa", SWALR{.swa_lr = 0.01});
  check("swa.linear", SWALR{.swa_lr = 0.01, .anneal_epochs = 6, .anneal_strategy = Anneal::linear});
  check("sequential", SequentialLR{.schedules = {LinearLR{.start_factor = 0.2, .total_iters = 5}, CosineAnnealingLR{.T_max = 15},
                                                 ConstantLR{.factor = 0.3}},
                                   .milestones = {5, 20}});
  check("chained", ChainedScheduler{{ConstantLR{.factor = 0.5, .total_iters = 4}, ExponentialLR{.gamma = 0.9}}});
  check("noam", Noam{.factor = 2, .dim = 64, .warmup = 8});
  check("inverse_sqrt", InverseSqrtLR{.warmup = 6});
  check("wsd", WSD{.warmup = 5, .stable = 10, .decay = 10});
  check("wsd.cosine", WSD{.warmup = 5, .stable = 10, .decay = 10, .min_lr_ratio = 0.1, .decay_type = WsdDecay::cosine});
  check("wsd.sqrt", WSD{.warmup = 5, .stable = 10, .decay = 10, .decay_type = WsdDecay::sqrt});
  check("warmup", Warmup{.schedule = ExponentialLR{.gamma = 0.9}, .warmup = 4});
}

TEST_CASE("rates fall on a plateau as PyTorch's do, also from a state_dict", "[optim][golden]") {
  const auto check = [](const std::string& name, double sign, const ReduceLROnPlateauOptions& options) {
    INFO(name);
    SGD optimizer({zeros({1}).set_requires_grad()}, {.lr = 0.1});
    auto scheduler = std::make_unique<ReduceLROnPlateau>(optimizer, options);
    const Tensor expected = golden("schedule." + name)[0].second;
    std::vector<double> rates;
    for (int t = 0; t < expected.numel(); ++t) {
      scheduler->step(sign * (1 / (1 + 0.3 * t) + 0.1 * std::sin(0.7 * t)));
      rates.push_back(scheduler->get_last_lr()[0]);
      const NamedTensors state = scheduler->state_dict();
      scheduler = std::make_unique<ReduceLROnPlateau>(optimizer, options);
      scheduler->load_state_dict(state);
    }
    CHECK(relative_difference({tensor(rates)}, {expected}) <= 1e-12);
    CHECK(rates.back() < rates.front());
  };
  check("plateau", 1, {.patience = 1});
  check("plateau.abs", -1,
        {.mode = PlateauMode::max,
         .factor = 0.5,
         .patience = 0,
         .threshold = 0.01,
         .threshold_mode = ThresholdMode::abs,
         .cooldown = 2,
         .min_lr = {0.004}});
}
