// What all optimizers have in common, whatever their rule; options, wrappers and schedules that are refused.
#include <omp.h>

#include "cases.h"

using namespace retape;
using namespace retape::testing;

namespace {

NamedTensors copy_of(const NamedTensors& state) {
  NamedTensors copy;
  for (auto& [name, t] : state) copy.emplace_back(name, clone(t));
  return copy;
}
bool equal(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  bool same = a.size() == b.size();
  for (size_t i = 0; same && i < a.size(); ++i) same = same_bits(a[i], b[i]);
  return same;
}
bool equal(const NamedTensors& a, const NamedTensors& b) {
  bool same = a.size() == b.size();
  for (size_t i = 0; same && i < a.size(); ++i) same = a[i].first == b[i].first && same_bits(a[i].second, b[i].second);
  return same;
}

}  // namespace

TEST_CASE("every optimizer goes on from its state_dict bit for bit", "[optim]") {
  for (const OptimizerCase& c : optimizer_cases()) {
    INFO(c.name);
    const OptimizerRun whole(c.only_matrices, DType::f32), first(c.only_matrices, DType::f32), second(c.only_matrices, DType::f32);
    const auto all = c.make(whole.params), before = c.make(first.params);
    whole.steps(*all, 0, 9);
    first.steps(*before, 0, 4);
    const NamedTensors state = copy_of(before->state_dict());
    for (size_t i = 0; i < first.params.size(); ++i) copy_into(first.params[i].detach(), second.params[i].detach());
    const auto after = c.make(second.params);
    after->load_state_dict(state);
    first.steps(*before, 4, 6);  // must not move the loaded state
    second.steps(*after, 4, 9);
    CHECK(equal(second.values(), whole.values()));
    CHECK(equal(after->state_dict(), all->state_dict()));
    NamedTensors extra = state;
    extra.emplace_back("7.exp_avg", ones({1}));
    CHECK_THAT(error_of([&] { after->load_state_dict(extra); }), ContainsSubstring("7.exp_avg"));
    CHECK(equal(after->state_dict(), all->state_dict()));
  }
}

TEST_CASE("a skipped step changes nothing, in any optimizer", "[optim]") {
  for (const OptimizerCase& c : optimizer_cases()) {
    INFO(c.name);
    const OptimizerRun run(c.only_matrices, DType::f32);
    const auto optimizer = c.make(run.params);
    run.steps(*optimizer, 0, 2);
    const auto params = run.values();
    const NamedTensors state = copy_of(optimizer->state_dict());
    for (auto& p : run.params) p.set_grad(full(p.shape(), INFINITY));
    optimizer->step(full({}, 1));
    CHECK(equal(run.values(), params));
    CHECK(equal(optimizer->state_dict(), state));
    run.set_grads(run.tables(2));
    optimizer->step(full({}, 0));
    CHECK_FALSE(equal(run.values(), params));
  }
}

TEST_CASE("half parameters follow f64 ones in any optimizer, and keep f32 state", "[optim]") {
  for (const OptimizerCase& c : optimizer_cases()) {
    const OptimizerRun exact(c.only_matrices, DType::f64);
    exact.steps(*c.make(exact.params), 0, 3);
    for (const DType dtype : {DType::bf16, DType::f16}) {
      INFO(c.name << " in " << name_of(dtype));
      const OptimizerRun run(c.only_matrices, dtype);
      const auto optimizer = c.make(run.params);
      run.steps(*optimizer, 0, 3);
      CHECK(relative_difference(run.values(), exact.values()) <= (dtype == DType::bf16 ? 3e-2 : 6e-3));
      for (auto& [name, t] : optimizer->state_dict())
        if (t.numel() > 1 && t.dtype() != DType::i64) CHECK(t.dtype() == DType::f32);
    }
  }
}

TEST_CASE("what an optimizer does depends neither on threads nor on how parameters are cut or lie", "[optim]") {
  const std::vector<int64_t> sizes = {0, 1, 1023, 1025, 16385, 40000};
  for (const OptimizerCase& c : optimizer_cases()) {
    if (c.only_matrices) continue;  // a product of this size may be summed in another order
    for (const DType dtype : {DType::f32, DType::bf16}) {
      INFO(c.name << " in " << name_of(dtype));
      const auto run = [&](bool together, int threads) {
        omp_set_num_threads(threads);
        std::vector<Tensor> params;
        for (size_t i = 0; i < sizes.size(); ++i) {
          // Every second column of a matrix, or a tensor like that.
          Tensor p = values({sizes[i], 2}, -1, 1, i + 1, dtype);
          p = together ? p.at({Slice(), 0}).detach() : clone(p.at({Slice(), 0})).detach();
          params.push_back(p.set_requires_grad());
          params.back().set_grad(values({sizes[i]}, -1, 1, i + 100, dtype));
        }
        if (together) {
          const auto all = c.make(params);
          all->step(), all->step();
        } else {
          for (auto& p : params) {
            const auto one = c.make({p});
            one->step(), one->step();
          }
        }
        std::vector<Tensor> out;
        for (auto& p : params) out.push_back(clone(p.detach()));
        return out;
      };
      const int before = omp_get_max_threads();
      const auto a = run(true, 3), b = run(false, 1);
      omp_set_num_threads(before);
      CHECK(equal(a, b));
    }
  }
}

TEST_CASE("parameters without gradient stay, and meta tensors are stepped without memory, in any optimizer", "[optim]") {
  for (const OptimizerCase& c : optimizer_cases()) {
    INFO(c.name);
    const OptimizerRun run(c.only_matrices, DType::f32);
    const auto optimizer = c.make(run.params);
    run.set_grads(run.tables(0));
    run.params[1].set_grad({});
    const auto before = run.values();
    optimizer->step();
    CHECK(same_bits(run.values()[1], before[1]));
    CHECK_FALSE(same_bits(run.values()[0], before[0]));

    const Tensor huge = empty({1 << 20, 1 << 20}, {.device = Device::meta()}).set_requires_grad();
    huge.set_grad(empty({1 << 20, 1 << 20}, {.device = Device::meta()}));
    const auto there = c.make({huge});
    there->step();
    CHECK_FALSE(there->state_dict().empty());
  }
}

TEST_CASE("optimizers that cannot take sparse gradients say so", "[optim]") {
  for (const OptimizerCase& c : optimizer_cases()) {
    if (std::string(c.name).find('.') != std::string::npos || c.name == std::string("sgd") || c.name == std::string("adagrad") ||
        c.name == std::string("lookahead"))
      continue;
    INFO(c.name);
    const Tensor w = zeros({4, 2}).set_requires_grad();
    set_sparse_grad(w, SparseRows{tensor(std::vector<int64_t>{1}), ones({1, 2}), w.shape()});
    const auto optimizer = c.make({w});
    CHECK_THAT(error_of([&] { optimizer->step(); }), ContainsSubstring("is sparse, of 1 of its rows"));
  }
}

TEST_CASE("amsgrad that is switched on later begins with its maximum; means and count go on", "[optim]") {
  const Tensor p = ones({1}, {DType::f64}).set_requires_grad(), q = ones({1}, {DType::f64}).set_requires_grad();
  AdamW late({p}, {.lr = 0.1}), never({q}, {.lr = 0.1});
  for (int i = 0; i < 3; ++i) {
    for (const Tensor& t : {p, q}) t.set_grad(full({1}, 1 + i, {DType::f64}));  // the mean of squares rises: the maximum is the last one
    late.options().amsgrad = i > 0;
    late.step(), never.step();
  }
  CHECK(p.item() == Approx(q.item()).epsilon(1e-14));
  CHECK(late.state_dict().size() == never.state_dict().size() + 1);
}

TEST_CASE("a closure is called by step(), whose result it gives", "[optim]") {
  const Tensor p = tensor({1.0, -2.0}).set_requires_grad();
  SGD optimizer({p}, {.lr = 0.5});
  int calls = 0;
  const Closure closure = [&] {
    ++calls;
    optimizer.zero_grad();
    const Tensor loss = sum(square(p));
    backward(loss);
    return loss;
  };
  CHECK(optimizer.step(closure).item() == 5);
  CHECK(p.to_vector<double>() == std::vector<double>{0, 0});
  CHECK(calls == 1);
  CHECK_THAT(error_of([&] { optimizer.step(Closure()); }), ContainsSubstring("closure is empty"));
}

TEST_CASE("options out of range are named", "[optim]") {
  const std::vector<Tensor> p = {ones({2}).set_requires_grad()};
  const auto refuses = [](auto make, const char* what) { CHECK_THAT(error_of(make), ContainsSubstring(what)); };
  refuses([&] { NAdam(p, {.lr = -1}); }, "nadam: lr -1");
  refuses([&] { NAdam(p, {.momentum_decay = -1}); }, "momentum_decay -1");
  refuses([&] { RAdam(p, {.betas = {0.9, 1}}); }, "radam: beta 1");
  refuses([&] { Adamax(p, {.eps = -1}); }, "adamax: eps -1");
  refuses([&] { Adadelta(p, {.rho = 1.5}); }, "adadelta: rho 1.5");
  refuses([&] { RMSprop(p, {.alpha = NAN}); }, "rmsprop: alpha nan");
  refuses([&] { RMSprop(p, {.momentum = -0.1}); }, "momentum -0.1");
  refuses([&] { Rprop(p, {.etas = {1.1, 1.2}}); }, "rprop: etas 1.1 and 1.2");
  refuses([&] { Rprop(p, {.step_sizes = {2, 1}}); }, "step_sizes 2 and 1");
  refuses([&] { ASGD(p, {.lambd = -1}); }, "asgd: lambd -1");
  refuses([&] { Lion(p, {.weight_decay = -1}); }, "lion: weight_decay -1");
  refuses([&] { LAMB(p, {.eps = -1}); }, "lamb: eps -1");
  refuses([&] { LARS(p, {.trust_coefficient = -1}); }, "lars: trust_coefficient -1");
  refuses([&] { Adafactor(p, {.beta2_decay = 0.1}); }, "adafactor: beta2_decay 0.1");
  refuses([&] { Adafactor(p, {.d = 0.5}); }, "d 0.5");
  refuses([&] { Adafactor(p, {.eps = {-1.0, 1e-3}}); }, "eps -1");
  refuses([&] { Muon(p, {.ns_steps = 100}); }, "muon: ns_steps 100");
  refuses([&] { Muon(p, {.momentum = 1}); }, "momentum 1");
  refuses([&] { AdamWScheduleFree(p, {.betas = {0, 0.9}}); }, "adamw_schedule_free: beta 0");
  refuses([&] { LBFGS(p, {.max_iter = 0}); }, "lbfgs: max_iter 0");
  refuses([&] { LBFGS(p, {.history_size = 0}); }, "history_size 0");
  refuses([&] { LBFGS({p[0], ones({2}, {DType::f64}).set_requires_grad()}); }, "parameter 1 is f64 [2] on cpu and parameter 0 f32 [2]");
  refuses([&] { LBFGS(p).step(); }, "needs a closure");
  refuses([&] { LBFGS(p).step([&] { return ones({2}); }); }, "the closure returned f32 [2]");
  SGD base(p, {.lr = 0.1});
  refuses([&] { Lookahead(base, {.k = 0}); }, "lookahead: k 0");
  refuses([&] { Lookahead(base, {.alpha = 2}); }, "alpha 2");
  refuses([&] { SAM(base, {.rho = -1}); }, "sam: rho -1");
  refuses([&] { SAM(base).first_step(); }, "no parameter has a gradient");
  refuses([&] { SAM(base).second_step(); }, "second_step() before first_step()");
  refuses([&] { AveragedModel(nn::Linear(2, 2), {.decay = 1.5}); }, "decay 1.5");
}

TEST_CASE("schedules out of range are named, and nothing has changed then", "[optim]") {
  const auto refuses = [](auto make, const char* what) { CHECK_THAT(error_of(make), ContainsSubstring(what)); };
  SGD sgd({ones({2}).set_requires_grad()}, {.lr = 0.1});
  refuses([&] { LRScheduler(sgd, StepLR{}); }, "step_lr: step_size 0");
  refuses([&] { LRScheduler(sgd, ConstantLR{.factor = 2}); }, "constant_lr: factor 2");
  refuses([&] { LRScheduler(sgd, LinearLR{.start_factor = 0}); }, "linear_lr: start_factor 0");
  refuses([&] { LRScheduler(sgd, PolynomialLR{.total_iters = 0}); }, "polynomial_lr: total_iters 0");
  refuses([&] { LRScheduler(sgd, CosineAnnealingLR{}); }, "T_max 0");
  refuses([&] { LRScheduler(sgd, CosineAnnealingWarmRestarts{.T_0 = 1, .T_mult = 0}); }, "T_mult 0");
  refuses([&] { LRScheduler(sgd, OneCycleLR{.max_lr = 1, .total_steps = 10, .pct_start = 2}); }, "pct_start 2");
  refuses([&] { LRScheduler(sgd, CyclicLR{.max_lr = 1, .step_size_up = 0}); }, "step_size_up 0");
  refuses([&] { LRScheduler(sgd, SequentialLR{.schedules = {StepLR{.step_size = 1}}, .milestones = {3}}); },
          "1 schedules and 1 milestones");
  refuses([&] { LRScheduler(sgd, ChainedScheduler{}); }, "there are no schedules");
  refuses([&] { LRScheduler(sgd, Warmup{.warmup = 3}); }, "warmup: the schedule is empty");
  refuses([&] { LRScheduler(sgd, WSD{.min_lr_ratio = 2}); }, "wsd: min_lr_ratio 2");
  refuses([&] { LRScheduler(sgd, InverseSqrtLR{.timescale = 0}); }, "timescale 0");
  refuses([&] { LRScheduler(sgd, LambdaLR{}); }, "lr_lambda is empty");
  refuses([&] { LRScheduler(sgd, Schedule()); }, "schedule: it is empty");
  refuses([&] { LRScheduler(sgd, {StepLR{.step_size = 1}, StepLR{.step_size = 1}}); }, "2 schedules for 1 parameter groups");
  refuses([&] { LRScheduler(sgd, [](int64_t) { return -1.0; }); }, "lr -1");
  refuses([&] { ReduceLROnPlateau(sgd, {.factor = 1}); }, "factor 1");
  refuses([&] { ReduceLROnPlateau(sgd, {.min_lr = {0, 0}}); }, "2 numbers in min_lr for 1 parameter groups");
  CHECK(sgd.lr() == 0.1);
  Rprop none({ones({2}).set_requires_grad()});
  refuses([&] { LRScheduler(none, OneCycleLR{.max_lr = 1, .total_steps = 10}); }, "neither a momentum nor a beta");
  CHECK(none.lr() == 0.01);

  LRScheduler last(sgd, OneCycleLR{.max_lr = 1, .total_steps = 2, .cycle_momentum = false});
  last.step(), last.step();
  refuses([&] { last.step(); }, "step 3 is after the last; total_steps is 2");
  CHECK(last.last_epoch() == 2);
}

TEST_CASE("a scheduler goes on from its state_dict, group by group", "[optim]") {
  const Tensor a = ones({2}).set_requires_grad(), b = ones({2}).set_requires_grad();
  const std::vector<ParamGroup<AdamWOptions>> groups = {{{a}, {.lr = 0.1}}, {{b}, {.lr = 0.2}}};
  const std::vector<Schedule> schedules = {ExponentialLR{.gamma = 0.5}, OneCycleLR{.max_lr = 1, .total_steps = 20}};
  AdamW first(groups), second(groups);
  LRScheduler before(first, schedules);
  for (int i = 0; i < 5; ++i) before.step();
  CHECK(first.lr(0) == Approx(0.1 / 32));
  CHECK(first.momentum(0) == 0.9);
  CHECK(first.momentum(1) == Approx(0.85));  // at the top
  LRScheduler after(second, schedules);
  after.load_state_dict(before.state_dict());
  for (int i = 0; i < 2; ++i) {
    CHECK(second.lr(0) == first.lr(0));
    CHECK(second.lr(1) == first.lr(1));
    CHECK(second.options(1).betas == first.options(1).betas);
    before.step(), after.step();
  }
  NamedTensors state = before.state_dict();
  state[0].second = ones({3}, {DType::f64});
  CHECK_THAT(error_of([&] { after.load_state_dict(state); }), ContainsSubstring("base_lrs is f64 [3]; it must be 2 numbers"));
  CHECK(after.last_epoch() == 7);
}

TEST_CASE("a scheduler takes functions of the step, and structs that say what the rate is", "[optim]") {
  SGD optimizer({ones({2}).set_requires_grad()}, {.lr = 0.5});
  LRScheduler(optimizer, [](int64_t step) { return 3.0 - double(step); }).step();
  CHECK(optimizer.lr() == 2);
  LRScheduler(optimizer, [](double base_lr, int64_t step) { return base_lr * double(step + 1); }).step();
  CHECK(optimizer.lr() == 4);
  LRScheduler(optimizer, WarmupLinear{.lr = 1, .warmup = 1, .steps = 5});
  CHECK(optimizer.lr() == 0.5);
}

TEST_CASE("Muon takes a convolution's weight as a matrix, and AdamW's step for vectors and for groups without it", "[optim]") {
  const Tensor matrix = wave({3, 8}, 0.5).set_requires_grad(), conv = wave({3, 2, 2, 2}, 0.5).set_requires_grad();
  const Tensor vector = wave({5}).set_requires_grad(), other = wave({4, 4}).set_requires_grad(), beside = wave({5}).set_requires_grad(),
               embedding = wave({4, 4}).set_requires_grad();
  const MuonOptions options{.lr = 0.05, .weight_decay = 0.2};
  MuonOptions without = options;
  without.use_muon = false;
  Muon muon({{{matrix, conv, vector}, options}, {{embedding}, without}});
  AdamW adamw({beside, other}, {.lr = 0.05, .betas = {0.9, 0.95}, .weight_decay = 0.2});
  for (int t = 0; t < 3; ++t) {
    for (const Tensor& p : {matrix, conv, vector, other, beside, embedding}) p.set_grad(wave(p.shape(), t));
    muon.step(), adamw.step();
  }
  CHECK(same_bits(reshape(conv.detach(), {3, 8}), matrix.detach()));
  CHECK(same_bits(vector.detach(), beside.detach()));
  CHECK(same_bits(embedding.detach(), other.detach()));
}

TEST_CASE("what Muon steps along is nearly orthogonal", "[optim]") {
  for (const Shape& shape : {Shape{20, 50}, Shape{50, 20}}) {
    const Tensor x = values(shape, -1, 1, 3, DType::f32);
    const auto singular = svdvals(cast(detail::orthogonalize(x, MuonOptions{}.ns_coefficients, 5, 1e-7), DType::f64)).to_vector<double>();
    for (const double s : singular) CHECK((s > 0.6 && s < 1.3));
  }
}

TEST_CASE("LAMB and LARS leave out the ratio of norms where one is 0", "[optim]") {
  const Tensor w = zeros({3}, {DType::f64}).set_requires_grad(), v = zeros({3}, {DType::f64}).set_requires_grad();
  LAMB lamb({w}, {.lr = 0.1, .weight_decay = 0});
  LARS lars({v}, {.lr = 0.1});
  w.set_grad(full({3}, 2, {DType::f64})), v.set_grad(full({3}, 2, {DType::f64}));
  lamb.step(), lars.step();
  CHECK(w.to_vector<double>()[0] == Approx(-0.1).epsilon(1e-6));
  CHECK(v.to_vector<double>()[0] == Approx(-0.2));
  const Tensor z = ones({3}, {DType::f64}).set_requires_grad();
  LARS still({z}, {.lr = 0.1});
  z.set_grad(zeros({3}, {DType::f64}));
  still.step();
  CHECK(z.to_vector<double>()[0] == 1);
}

TEST_CASE("Lookahead is used like the optimizer it works around, and does not count skipped steps", "[optim]") {
  const Tensor p = tensor({1.0}).set_requires_grad();
  SGD fast({p}, {.lr = 0.5, .momentum = 0.0});
  Lookahead optimizer(fast, {.k = 2, .alpha = 0.5});
  optimizer.set_lr(1);
  CHECK(fast.lr() == 1);
  CHECK(optimizer.momentum() == 0);
  const auto step = [&](bool skip) {
    p.set_grad(tensor({1.0}));
    optimizer.step(full({}, skip));
    return p.item();
  };
  CHECK(step(false) == 0);
  CHECK(step(true) == 0);
  CHECK(step(false) == 0);  // from 1 half of the way to -1
  CHECK(step(false) == -1);
  CHECK_THAT(error_of([&] { optimizer.load_state_dict(fast.state_dict()); }), ContainsSubstring("entry 0.slow_buffer is missing"));
}

TEST_CASE("SAM goes back if its closure fails up there", "[optim]") {
  const Tensor p = tensor({1.0, 2.0}).set_requires_grad();
  SGD base({p}, {.lr = 0.1});
  SAM optimizer(base, {.rho = 0.5});
  int calls = 0;
  CHECK_THROWS(optimizer.step([&]() -> Tensor {
    if (++calls == 2) throw Error("no data");
    p.set_grad(tensor({3.0, 4.0}));
    return zeros({});
  }));
  CHECK(p.to_vector<double>() == std::vector<double>{1, 2});
  p.set_grad(tensor({3.0, 4.0}));
  optimizer.first_step();
  CHECK(p.to_vector<double>()[0] == Approx(1.3));
  CHECK_THAT(error_of([&] { optimizer.first_step(); }), ContainsSubstring("already called"));
  p.set_grad(tensor({1.0, 1.0}));
  optimizer.second_step();
  CHECK(p.to_vector<double>()[0] == Approx(0.9));
}

TEST_CASE("LBFGS goes on from its state_dict bit for bit", "[optim]") {
  const auto closure_of = [](const Tensor& p, LBFGS& optimizer) -> Closure {
    return [&p, &optimizer] {
      optimizer.zero_grad();
      // Rosenbrock's valley
      const Tensor x = p.at({Slice(0, 3)}), y = p.at({Slice(1, 4)}), loss = sum(square(y - square(x)) * 100 + square(1 - x));
      backward(loss);
      return loss;
    };
  };
  const LBFGSOptions options{.max_iter = 4, .history_size = 3, .line_search_fn = LineSearch::strong_wolfe};
  const Tensor whole = wave({4}).set_requires_grad(), first = wave({4}).set_requires_grad();
  LBFGS all({whole}, options), before({first}, options);
  const NamedTensors fresh = before.state_dict();
  double loss = 0;
  for (int i = 0; i < 12; ++i) loss = all.step(closure_of(whole, all)).item();
  CHECK(loss < 1e-3);
  for (int i = 0; i < 5; ++i) before.step(closure_of(first, before));
  const NamedTensors state = copy_of(before.state_dict());
  const Tensor second = clone(first.detach()).set_requires_grad();
  LBFGS after({second}, options);
  after.load_state_dict(fresh);
  after.load_state_dict(state);
  for (int i = 0; i < 7; ++i) after.step(closure_of(second, after));
  CHECK(same_bits(second.detach(), whole.detach()));
  CHECK(equal(after.state_dict(), all.state_dict()));
  NamedTensors bad = state;
  for (auto& [name, value] : bad)
    if (name == "0.old_dirs") value = ones({1, 4}, {DType::f64});
  CHECK_THAT(error_of([&] { after.load_state_dict(bad); }), ContainsSubstring("0.old_dirs is f64 [1, 4]; it must be f64 [3, 4]"));
  CHECK(equal(after.state_dict(), all.state_dict()));
}

TEST_CASE("LBFGS computes half types in f32, and goes up if asked to", "[optim]") {
  for (const bool maximize : {false, true}) {
    const Tensor p = cast(wave({6}), DType::bf16).set_requires_grad(), still = cast(wave({2}), DType::bf16).set_requires_grad();
    LBFGS optimizer({p, still}, {.max_iter = 10, .line_search_fn = LineSearch::strong_wolfe, .maximize = maximize});
    optimizer.step([&] {
      optimizer.zero_grad();
      const Tensor loss = sum(square(cast(p, DType::f32) - 0.5)) * (maximize ? -1 : 1);
      backward(loss);
      return loss;
    });
    for (const double x : p.to_vector<double>()) CHECK(std::abs(x - 0.5) < 0.01);
    CHECK(same_bits(still.detach(), cast(wave({2}), DType::bf16)));
    for (auto& [name, value] : optimizer.state_dict())
      if (name == "0.d") CHECK(value.dtype() == DType::f32);
  }
}

namespace {
struct Counter : nn::Module {
  Parameter weight{ones({2})};
  Buffer mean{zeros({2})}, count{zeros({}, {DType::i64})};
  RETAPE_FIELDS(weight, mean, count)
};
}  // namespace

TEST_CASE("an average copies buffers, or averages those that are floating", "[optim]") {
  for (const bool use_buffers : {false, true}) {
    Counter model;
    AveragedModel average(model, {.use_buffers = use_buffers});
    for (int i = 1; i <= 3; ++i) {
      copy_into(full({2}, i), model.mean.tensor());
      copy_into(full({}, i, {DType::i64}), model.count.tensor());
      average.update_parameters(model);
    }
    CHECK(average.module.mean.tensor().to_vector<double>()[1] == (use_buffers ? 2 : 3));
    CHECK(average.module.count.tensor().item<int64_t>() == 3);
  }
}

TEST_CASE("an average goes on from its state_dict, and needs the same model", "[optim]") {
  nn::Linear model(3, 2);
  AveragedModel average(model, {.decay = 0.5});
  average.update_parameters(model);
  const Tensor before = clone(model.weight.tensor().detach());
  copy_into(before + 1, model.weight.tensor().detach());
  AveragedModel other(model, {.decay = 0.5});
  other.load_state_dict(average.state_dict());
  average.update_parameters(model), other.update_parameters(model);
  CHECK(difference(average.module.weight.tensor().detach(), before + 0.5, DType::f32) <= 1);
  CHECK(same_bits(average.module.weight.tensor().detach(), other.module.weight.tensor().detach()));
  CHECK(other.n_averaged() == 2);
  CHECK_THAT(error_of([&] { average.update_parameters(nn::Linear(4, 2)); }), ContainsSubstring("give a model of the same structure"));
  CHECK_THAT(error_of([&] { other.load_state_dict({{"weight", before}}); }), ContainsSubstring("unknown entry weight"));
}
