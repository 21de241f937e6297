// Optimizers against numbers of PyTorch, their state, clipping and schedules.
#include <omp.h>

#include <memory>

#include "../catch.h"

using namespace retape;
using namespace retape::testing;

namespace {

// What all reference numbers start from: three steps with given gradients. In PyTorch:
//   p = torch.tensor(start, dtype=torch.float64, requires_grad=True); o = torch.optim.AdamW([p], lr=0.1, ...)
//   for g in gradients: p.grad = torch.tensor(g, dtype=torch.float64); o.step()
const std::vector<double> start = {0.5, -1.25, 2.0, -0.75};
const std::vector<std::vector<double>> gradients = {{0.1, -0.2, 0.3, 0.0}, {-0.4, 0.5, 0.05, 0.0}, {0.25, 0.125, -1.0, 2.0}};

Tensor parameter(const std::vector<double>& values, DType dtype = DType::f64) { return cast(tensor(values), dtype).set_requires_grad(); }

template <class O, class Options> std::vector<double> three_steps(const Options& options, DType dtype = DType::f64) {
  const Tensor p = parameter(start, dtype);
  O optimizer({p}, options);
  for (auto& g : gradients) {
    p.set_grad(cast(tensor(g), dtype));
    optimizer.step();
  }
  return p.to_vector<double>();
}
void check_near(const std::vector<double>& found, const std::vector<double>& expected, double tolerance = 1e-13) {
  REQUIRE(found.size() == expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    INFO("element " << i << ": " << found[i] << " instead of " << expected[i]);
    CHECK(std::abs(found[i] - expected[i]) <= tolerance);
  }
}

struct TwoLayers : nn::Module {
  nn::Linear a{2, 2}, b{2, 2};
  Tensor forward(const Tensor& x) { return b(a(x)); }
  RETAPE_FIELDS(a, b)
};

// A small problem: the loss of a two-layer network on fixed data.
struct Problem {
  Tensor w1, w2, x, y;
  explicit Problem(uint64_t seed = 3) {
    w1 = leaf({8, 5}, -1, 1, seed), w2 = leaf({3, 8}, -1, 1, seed + 1);
    x = values({16, 5}, -1, 1, 9), y = values({16, 3}, -1, 1, 10);
  }
  std::vector<Tensor> params() const { return {w1, w2}; }
  Tensor loss() const { return mean(square(linear(tanh(linear(x, w1)), w2) - y)); }
  void backward() const { retape::backward(loss()); }
};
template <class O> void train(const Problem& problem, O& optimizer, int steps) {
  for (int i = 0; i < steps; ++i) {
    optimizer.zero_grad();
    problem.backward();
    optimizer.step();
  }
}
NamedTensors copy_of(const NamedTensors& state) {
  NamedTensors copy;
  for (auto& [name, t] : state) copy.emplace_back(name, clone(t));
  return copy;
}
Tensor find(const NamedTensors& state, const std::string& wanted) {
  for (auto& [name, t] : state)
    if (name == wanted) return t;
  return {};
}

}  // namespace

TEST_CASE("AdamW makes the steps that PyTorch makes", "[optim]") {
  using O = AdamWOptions;
  check_near(three_steps<AdamW>(O{.lr = 0.1}), {0.45843932379632379, -1.2383799614090141, 1.8594705798792042, -0.81163360863689926});
  check_near(three_steps<AdamW>(O{.lr = 0.1, .betas = {0.8, 0.95}, .eps = 1e-2, .weight_decay = 0.5}),
             {0.40289498187078621, -1.0808163136698057, 1.6088546297296851, -0.71167024626946451});
  check_near(three_steps<AdamW>(O{.lr = 0.1, .weight_decay = 0, .maximize = true}),
             {0.54020612533620116, -1.2580294658057736, 2.1348136508453157, -0.68611864061310068});
}

TEST_CASE("Adam makes the steps that PyTorch makes", "[optim]") {
  using O = AdamOptions;
  check_near(three_steps<Adam>(O{.lr = 0.1}), {0.4597938746637989, -1.2419705341942264, 1.8651863491546847, -0.81388135938689932});
  check_near(three_steps<Adam>(O{.lr = 0.1, .betas = {0.8, 0.95}, .eps = 1e-3, .weight_decay = 0.5}),
             {0.32503210578039543, -1.0017636395792342, 1.734871193139411, -0.59873053744595317});
  check_near(three_steps<Adam>(O{.lr = 0.1, .weight_decay = 0.1, .maximize = true}),
             {0.51078183566300794, -1.2129510427748094, 2.005978837601571, -0.48311593574749623});
}

TEST_CASE("SGD makes the steps that PyTorch makes", "[optim]") {
  using O = SGDOptions;
  check_near(three_steps<SGD>(O{.lr = 0.1}), {0.505, -1.2925, 2.065, -0.95});
  check_near(three_steps<SGD>(O{.lr = 0.1, .weight_decay = 0.25}), {0.4679234375, -1.20081171875, 1.920325, -0.89514453125});
  check_near(three_steps<SGD>(O{.lr = 0.1, .momentum = 0.9}), {0.5239, -1.3033, 2.0092, -0.95});
  check_near(three_steps<SGD>(O{.lr = 0.1, .momentum = 0.9, .dampening = 0.5, .weight_decay = 0.1}),
             {0.477797125, -1.1980729375, 1.88176125, -0.8189610625});
  check_near(three_steps<SGD>(O{.lr = 0.1, .momentum = 0.9, .weight_decay = 0.1, .nesterov = true}),
             {0.4865359115, -1.24182830825, 1.918317205, -1.07067045575});
  check_near(three_steps<SGD>(O{.lr = 0.1, .momentum = 0.9, .maximize = true}), {0.4761, -1.1967, 1.9908, -0.55});
}

TEST_CASE("f32 parameters follow f64 ones, half parameters to their own precision", "[optim]") {
  const auto exact = three_steps<AdamW>(AdamWOptions{.lr = 0.1});
  check_near(three_steps<AdamW>(AdamWOptions{.lr = 0.1}, DType::f32), exact, 1e-6);
  check_near(three_steps<AdamW>(AdamWOptions{.lr = 0.1}, DType::f16), exact, 4e-3);
  check_near(three_steps<AdamW>(AdamWOptions{.lr = 0.1}, DType::bf16), exact, 3e-2);
  const auto momentum = three_steps<SGD>(SGDOptions{.lr = 0.1, .momentum = 0.9});
  check_near(three_steps<SGD>(SGDOptions{.lr = 0.1, .momentum = 0.9}, DType::f16), momentum, 4e-3);

  const Tensor p = parameter(start, DType::bf16);
  AdamW optimizer({p});
  p.set_grad(cast(tensor(gradients[0]), DType::bf16));
  optimizer.step();
  CHECK(find(optimizer.state_dict(), "0.exp_avg").dtype() == DType::f32);
}

TEST_CASE("a step over many tensors equals one step for each, whatever the number of threads", "[optim]") {
  // Sizes around those of a chunk: none, one, a few, just one more than a chunk, several chunks.
  const std::vector<int64_t> sizes = {0, 1, 7, 16384, 16385, 50000, 3};
  const auto run = [&](bool together, int threads) {
    omp_set_num_threads(threads);
    std::vector<Tensor> params;
    for (size_t i = 0; i < sizes.size(); ++i) {
      params.push_back(cast(values({sizes[i]}, -1, 1, i + 1), DType::f32).set_requires_grad());
      params.back().set_grad(values({sizes[i]}, -1, 1, i + 100, DType::f32));
    }
    if (together) {
      AdamW all(params);
      all.step(), all.step();
    } else {
      for (auto& p : params) {
        AdamW one({p});
        one.step(), one.step();
      }
    }
    return params;
  };
  const int before = omp_get_max_threads();
  const auto a = run(true, 3), b = run(false, 1);
  omp_set_num_threads(before);
  for (size_t i = 0; i < sizes.size(); ++i) CHECK(same_bits(a[i].detach(), b[i].detach()));
}

TEST_CASE("each parameter group has its own options and learning rate", "[optim]") {
  const Tensor a = parameter({1, 1}), b = parameter({1, 1});
  AdamW optimizer({{{a}, {.lr = 0.1, .weight_decay = 0}}, {{b}, {.lr = 0.2, .weight_decay = 0.5}}});
  REQUIRE(optimizer.group_count() == 2);
  a.set_grad(tensor({1.0, 1.0})), b.set_grad(tensor({1.0, 1.0}));
  optimizer.step();
  CHECK(a.to_vector<double>()[0] == Approx(0.9).epsilon(1e-7));        // a first Adam step is lr
  CHECK(b.to_vector<double>()[0] == Approx(0.9 - 0.2).epsilon(1e-7));  // after a decay of lr * weight_decay
  optimizer.set_lr(0.5);
  CHECK(optimizer.lr(0) == 0.5);
  CHECK(optimizer.lr(1) == 0.5);
  optimizer.set_lr(1, 0.25);
  CHECK(optimizer.lr(0) == 0.5);
  CHECK(optimizer.lr(1) == 0.25);
  optimizer.options(1).weight_decay = 0.1;
  CHECK(optimizer.options(1).weight_decay == 0.1);
  CHECK_THAT(error_of([&] { optimizer.set_lr(2, 0.1); }), ContainsSubstring("no parameter group 2; there are 2"));
  CHECK_THAT(error_of([&] { optimizer.lr(-1); }), ContainsSubstring("no parameter group -1"));
}

TEST_CASE("a parameter without gradient stays as it is, and so does its step count", "[optim]") {
  const Tensor trained = parameter({1, 2}), frozen = parameter({3, 4}), late = parameter({5, 6});
  AdamW optimizer({trained, frozen, late}, {.lr = 0.1});
  const uint32_t version = frozen.version();
  trained.set_grad(tensor({1.0, 1.0}));
  optimizer.step();
  late.set_grad(tensor({1.0, 1.0}));
  optimizer.step();
  CHECK(frozen.to_vector<double>() == std::vector<double>{3, 4});
  CHECK(frozen.version() == version);
  // AdamW's first step is 1 * lr whenever it comes: the bias correction counts this parameter's own steps.
  CHECK(late.to_vector<double>()[0] == Approx(5 * (1 - 0.1 * 1e-2) - 0.1).epsilon(1e-7));
  const auto state = optimizer.state_dict();
  CHECK(find(state, "0.step").item<int64_t>() == 2);
  CHECK_FALSE(find(state, "1.step"));
  CHECK_FALSE(find(state, "1.exp_avg"));
  CHECK(find(state, "2.step").item<int64_t>() == 1);
}

TEST_CASE("a step is an in-place write that the tape does not record", "[optim]") {
  const Tensor p = parameter({1, 2});
  SGD optimizer({p}, {.lr = 0.5});
  const Tensor loss = sum(square(p));
  backward(loss, {.retain_graph = true});
  const uint32_t version = p.version();
  optimizer.step();
  CHECK(p.version() != version);
  CHECK(p.is_leaf());
  CHECK(p.to_vector<double>() == std::vector<double>{0, 0});
  CHECK_FALSE(p.grad().requires_grad());
  CHECK_THAT(error_of([&] { backward(loss); }), ContainsSubstring("changed in place"));
}

TEST_CASE("gradients of several backwards add up until zero_grad", "[optim]") {
  const Tensor once = parameter({1, 2}), twice = parameter({1, 2});
  SGD a({once}, {.lr = 0.1}), b({twice}, {.lr = 0.1});
  backward(sum(square(once)) * 2);
  a.step();
  backward(sum(square(twice)));
  backward(sum(square(twice)));
  b.step();
  CHECK(same_bits(once.detach(), twice.detach()));
  b.zero_grad();
  CHECK_FALSE(twice.grad());
  b.step();
  CHECK(same_bits(once.detach(), twice.detach()));
}

TEST_CASE("tensors that are not contiguous are trained like others", "[optim]") {
  const Tensor base = values({3, 2}), gradient = values({3, 2}, -1, 1, 7);
  Tensor straight = clone(transpose(base)), view = transpose(clone(base)).detach();
  straight.set_requires_grad(), view.set_requires_grad();
  REQUIRE_FALSE(view.is_contiguous());
  AdamW optimizer({straight, view});
  straight.set_grad(clone(transpose(gradient)));
  view.set_grad(transpose(gradient));
  REQUIRE_FALSE(view.grad().is_contiguous());
  for (int i = 0; i < 3; ++i) optimizer.step();
  CHECK(same_bits(straight.detach(), view.detach()));
  CHECK(straight.to_vector<double>() != transpose(base).to_vector<double>());
}

TEST_CASE("what cannot be optimized is refused with a sentence", "[optim]") {
  const Tensor p = parameter({1, 2});
  const auto making = [](std::vector<Tensor> params, AdamWOptions options = {}) { return error_of([&] { AdamW(params, options); }); };
  CHECK_THAT(making({}), ContainsSubstring("adamw: the list of parameters is empty"));
  CHECK_THAT(error_of([] { AdamW(std::vector<ParamGroup<AdamWOptions>>{}); }), ContainsSubstring("empty"));
  CHECK_THAT(making({p, p}), ContainsSubstring("adamw: parameters 0 and 1 are the same tensor f64 [2]"));
  CHECK_THAT(making({p * 2}), ContainsSubstring("can't optimize a non-leaf: parameter 0 f64 [2]"));
  CHECK_THAT(making({tensor({int64_t{1}})}), ContainsSubstring("i64 [1]; only floating tensors"));
  CHECK_THAT(making({Tensor()}), ContainsSubstring("parameter 0 is undefined"));
  CHECK_THAT(making({p}, {.lr = -1}), ContainsSubstring("adamw: lr -1 is not valid"));
  CHECK_THAT(making({p}, {.lr = NAN}), ContainsSubstring("lr nan"));
  CHECK_THAT(making({p}, {.betas = {0.9, 1.0}}), ContainsSubstring("beta 1 is not valid"));
  CHECK_THAT(making({p}, {.eps = -1e-8}), ContainsSubstring("eps"));
  CHECK_THAT(error_of([&] { SGD({p}, {.nesterov = true}); }), ContainsSubstring("nesterov with momentum 0"));
  CHECK_THAT(error_of([&] { SGD({p}, {.momentum = -0.5}); }), ContainsSubstring("momentum -0.5"));

  AdamW optimizer({p});
  CHECK_THAT(error_of([&] { optimizer.set_lr(-0.1); }), ContainsSubstring("lr -0.1"));
  p.set_grad(tensor({1.0, 1.0}));
  optimizer.options().lr = -1;
  CHECK_THAT(error_of([&] { optimizer.step(); }), ContainsSubstring("lr -1"));
  CHECK(p.to_vector<double>() == std::vector<double>{1, 2});
}

TEST_CASE("a model converted after its optimizer's first step is an error, and nothing has changed", "[optim]") {
  TwoLayers model;
  AdamW optimizer(model.parameters());
  backward(sum(model(ones({1, 2}))));
  optimizer.step();
  model.to(DType::f64);
  const Tensor before = clone(model.a.weight.tensor().detach());
  CHECK_THAT(error_of([&] { optimizer.step(); }), ContainsSubstring("parameter 0 is f64 [2, 2], but its exp_avg was made as f32 [2, 2]"));
  CHECK(same_bits(model.a.weight.tensor().detach(), before));
}

TEST_CASE("training goes on from a state_dict bit for bit", "[optim]") {
  const auto check = [](auto make) {
    const Problem whole, first, second;
    auto optimizer = make(whole.params());
    train(whole, *optimizer, 12);

    auto before = make(first.params());
    train(first, *before, 5);
    before->set_lr(before->lr());
    const NamedTensors state = copy_of(before->state_dict());
    copy_into(first.w1.detach(), second.w1.detach());
    copy_into(first.w2.detach(), second.w2.detach());
    train(first, *before, 3);  // the state is a copy, and this must not move it
    auto after = make(second.params());
    after->load_state_dict(state);
    train(second, *after, 7);
    CHECK(same_bits(whole.w1.detach(), second.w1.detach()));
    CHECK(same_bits(whole.w2.detach(), second.w2.detach()));
    CHECK_FALSE(same_bits(first.w1.detach(), second.w1.detach()));
  };
  check([](const std::vector<Tensor>& p) { return std::make_unique<AdamW>(p, AdamWOptions{.lr = 1e-2}); });
  check([](const std::vector<Tensor>& p) { return std::make_unique<Adam>(p, AdamOptions{.lr = 1e-2, .weight_decay = 0.1}); });
  check([](const std::vector<Tensor>& p) { return std::make_unique<SGD>(p, SGDOptions{.lr = 1e-2}); });
  check([](const std::vector<Tensor>& p) { return std::make_unique<SGD>(p, SGDOptions{.lr = 1e-2, .momentum = 0.9, .dampening = 0.5}); });
}

TEST_CASE("a state_dict has PyTorch's names and the learning rates", "[optim]") {
  const Problem problem;
  AdamW optimizer({{{problem.w1}, {.lr = 0.1}}, {{problem.w2}, {.lr = 0.2}}});
  train(problem, optimizer, 2);
  std::vector<std::string> names;
  for (auto& [name, t] : optimizer.state_dict()) names.push_back(name);
  CHECK(names == std::vector<std::string>{"param_groups.0.lr", "param_groups.0.params", "param_groups.1.lr", "param_groups.1.params",
                                          "0.step", "0.exp_avg", "0.exp_avg_sq", "1.step", "1.exp_avg", "1.exp_avg_sq"});
  optimizer.set_lr(1, 0.05);
  AdamW other({{{Problem().w1}, {}}, {{Problem().w2}, {}}});
  other.load_state_dict(optimizer.state_dict());
  CHECK(other.lr(0) == 0.1);
  CHECK(other.lr(1) == 0.05);
}

TEST_CASE("a state_dict that does not fit is refused as a whole", "[optim]") {
  const Problem problem;
  AdamW optimizer(problem.params(), {.lr = 0.1});
  train(problem, optimizer, 2);
  const NamedTensors good = copy_of(optimizer.state_dict());
  const auto changed = [&](const std::string& name, Tensor value) {
    NamedTensors state = good;
    for (size_t i = 0; i < state.size(); ++i)
      if (state[i].first == name) {
        if (value) state[i].second = value;
        else state.erase(state.begin() + long(i));
        return state;
      }
    state.emplace_back(name, value);
    return state;
  };
  const auto loading = [&](const NamedTensors& state) {
    const std::string message = error_of([&] { optimizer.load_state_dict(state); });
    const auto now = optimizer.state_dict();
    REQUIRE(now.size() == good.size());
    for (size_t i = 0; i < now.size(); ++i) CHECK(same_bits(now[i].second, good[i].second));
    return message;
  };
  CHECK_THAT(loading(changed("1.exp_avg", zeros({3, 7}, {DType::f64}))),
             ContainsSubstring("1.exp_avg is f64 [3, 7]; parameter 1 needs f64 [3, 8]"));
  CHECK_THAT(loading(changed("1.exp_avg", zeros({3, 8}))), ContainsSubstring("1.exp_avg is f32 [3, 8]; parameter 1 needs f64 [3, 8]"));
  CHECK_THAT(loading(changed("1.exp_avg_sq", {})), ContainsSubstring("entry 1.exp_avg_sq is missing"));
  CHECK_THAT(loading(changed("0.step", tensor({-1.0}))), ContainsSubstring("0.step is -1"));
  CHECK_THAT(loading(changed("0.step", tensor({1.5}))), ContainsSubstring("0.step is 1.5; it must be a whole number"));
  CHECK_THAT(loading(changed("0.step", tensor({1.0, 2.0}))), ContainsSubstring("it must be one number"));
  CHECK_THAT(loading(changed("0.step", {})), ContainsSubstring("unknown entry 0.exp_avg"));
  CHECK_THAT(loading(changed("2.step", tensor({1.0}))), ContainsSubstring("unknown entry 2.step"));
  CHECK_THAT(loading(changed("param_groups.0.lr", {})), ContainsSubstring("param_groups.0.lr is missing"));
  CHECK_THAT(loading(changed("param_groups.0.lr", tensor({-0.5}))), ContainsSubstring("param_groups.0.lr is -0.5"));
  CHECK_THAT(loading(changed("param_groups.1.lr", tensor({0.1}))),
             ContainsSubstring("more parameter groups than this optimizer, which has 1"));
  CHECK_THAT(loading(changed("param_groups.0.params", tensor({int64_t{0}}))),
             ContainsSubstring("has 1 parameters in the state and 2 here"));
  CHECK_THAT(loading(changed("param_groups.0.params", tensor({int64_t{1}, int64_t{0}}))),
             ContainsSubstring("does not list the parameters 0 to 1"));
  NamedTensors twice = good;
  twice.push_back(twice.back());
  CHECK_THAT(loading(twice), ContainsSubstring("is there twice"));
  SGD sgd(Problem().params(), {.momentum = 0.9});
  CHECK_THAT(error_of([&] { sgd.load_state_dict(good); }), ContainsSubstring("entry 0.momentum_buffer is missing"));
}

TEST_CASE("clip_grad_norm scales all gradients by one factor, as PyTorch does", "[optim]") {
  // torch.nn.utils.clip_grad_norm_([a, b], 1.0, norm_type) in float64
  const auto clipped = [](double max_norm, ClipOptions options, double& norm) {
    const Tensor a = parameter({0, 0}), b = parameter({0, 0, 0}), none = parameter({0});
    a.set_grad(tensor({3.0, -4.0})), b.set_grad(tensor({1.0, 2.0, -12.0}));
    norm = clip_grad_norm({a, none, b}, max_norm, options).item();
    CHECK_FALSE(none.grad());
    auto all = a.grad().to_vector<double>();
    for (double g : b.grad().to_vector<double>()) all.push_back(g);
    return all;
  };
  double norm = 0;
  check_near(clipped(1, {}, norm),
             {0.22742939583229305, -0.30323919444305741, 0.075809798610764353, 0.15161959722152871, -0.90971758332917219});
  CHECK(norm == Approx(13.190905958272918).epsilon(1e-14));
  check_near(clipped(1, {.norm_type = INFINITY}, norm),
             {0.24999997916666844, -0.3333333055555579, 0.083333326388889475, 0.16666665277777895, -0.99999991666667376});
  CHECK(norm == 12);
  check_near(clipped(100, {}, norm), {3, -4, 1, 2, -12}, 0);
  CHECK(clip_grad_norm({}, 1).item() == 0);
  CHECK_THAT(error_of([] { clip_grad_norm({}, -1); }), ContainsSubstring("max_norm -1"));
  CHECK_THAT(error_of([] { clip_grad_norm({}, 1, {.norm_type = 3}); }), ContainsSubstring("norm_type 3 is not supported"));
}

TEST_CASE("a norm that is not finite is an error only if asked for", "[optim]") {
  const Tensor p = parameter({0, 0});
  for (const double bad : {double(INFINITY), double(NAN)})
    for (const double norm_type : {2.0, double(INFINITY)}) {
      p.set_grad(tensor({1.0, bad}));
      CHECK_THAT(error_of([&] { clip_grad_norm({p}, 1, {.norm_type = norm_type, .error_if_nonfinite = true}); }),
                 ContainsSubstring("the norm of the gradients is"));
      CHECK(p.grad().to_vector<double>()[0] == 1);
      CHECK_FALSE(std::isfinite(clip_grad_norm({p}, 1, {.norm_type = norm_type}).item()));
      // inf scales by 0, nan by nan
      CHECK((std::isnan(bad) ? std::isnan(p.grad().to_vector<double>()[0]) : p.grad().to_vector<double>()[0] == 0));
    }
}

TEST_CASE("clipping takes gradients of any dtype and layout", "[optim]") {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    const Tensor p = parameter({0, 0}, dtype);
    p.set_grad(cast(tensor({3.0, -4.0}), dtype));
    CHECK(clip_grad_norm({p}, 1).item() == 5);
    check_near(p.grad().to_vector<double>(), {0.6, -0.8}, tolerance(dtype));
  }
  Tensor p = zeros({2, 3}, {DType::f64}).set_requires_grad();
  const Tensor gradient = values({3, 2});
  p.set_grad(transpose(gradient));
  const double norm = clip_grad_norm({p}, 0.5).item();
  CHECK(difference(p.grad(), transpose(gradient) * (0.5 / (norm + 1e-6)), DType::f64) <= 1);
  CHECK(same_bits(gradient, values({3, 2})));

  p.set_grad(transpose(gradient));
  clip_grad_value({p}, 0.25);
  CHECK(same_bits(p.grad(), clamp(transpose(gradient), -0.25, 0.25)));
}

TEST_CASE("the norm of large gradients is exact and always the same", "[optim]") {
  // 2^20 times 1e-3 in f32, where adding one after the other in f32 would lose digits
  const Tensor p = zeros({1 << 20}).set_requires_grad();
  p.set_grad(full({1 << 20}, 1e-3));
  const double expected = 1024 * double(1e-3f);
  CHECK(clip_grad_norm({p}, INFINITY).item() == Approx(expected).epsilon(1e-12));
  const Tensor random = zeros({300'001}).set_requires_grad();
  random.set_grad(values({300'001}, -1, 1, 5, DType::f32));
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  const double first = clip_grad_norm({random}, INFINITY).item();
  omp_set_num_threads(3);
  for (int i = 0; i < 5; ++i) CHECK(clip_grad_norm({random}, INFINITY).item() == first);
  omp_set_num_threads(before);
}

TEST_CASE("a whole step runs on meta tensors and allocates nothing", "[optim]") {
  const Tensor p = empty({1 << 20, 1 << 20}, {.device = Device::meta()}).set_requires_grad();
  p.set_grad(empty({1 << 20, 1 << 20}, {.device = Device::meta()}));
  AdamW optimizer({p});
  CHECK(clip_grad_norm({p}, 1).item() == 0);
  optimizer.step();
  CHECK(find(optimizer.state_dict(), "0.exp_avg").shape() == p.shape());
}

TEST_CASE("schedules warm up, fall and stay", "[optim]") {
  const WarmupCosine cosine{.lr = 1e-3, .min_lr = 1e-4, .warmup = 100, .steps = 2000};
  CHECK(cosine(0) == Approx(1e-3 / 101));
  CHECK(cosine(99) == Approx(1e-3 * 100 / 101));
  CHECK(cosine(100) == Approx(1e-3));
  CHECK(cosine(575) == Approx(1e-4 + 9e-4 * (1 + std::sqrt(0.5)) / 2));  // a quarter of the way
  CHECK(cosine(1050) == Approx(5.5e-4));
  CHECK(cosine(2000) == 1e-4);
  CHECK(cosine(1'000'000) == 1e-4);
  const WarmupLinear linear{.lr = 1, .min_lr = 0.2, .warmup = 1, .steps = 5};
  std::vector<double> rates;
  for (int64_t step = 0; step < 7; ++step) rates.push_back(linear(step));
  check_near(rates, {0.5, 1, 0.8, 0.6, 0.4, 0.2, 0.2});
  const WarmupConstant constant{.lr = 3, .warmup = 2};
  check_near({constant(0), constant(1), constant(2), constant(1000)}, {1, 2, 3, 3});
  CHECK(WarmupCosine{.lr = 1, .warmup = 10, .steps = 10}(10) == 0);  // nothing between warm-up and end
  CHECK(WarmupCosine{.lr = 1, .steps = 4}(0) == 1);
  const Noam noam{.factor = 2, .dim = 16, .warmup = 4};  // the rate of step s + 1 is 0.5 min(1 / sqrt(s + 1), (s + 1) / 8)
  check_near({noam(0), noam(1), noam(3), noam(15), noam(99)}, {0.0625, 0.125, 0.25, 0.125, 0.05});
}

TEST_CASE("every optimizer lowers the loss", "[optim]") {
  const auto check = [](auto make) {
    const Problem problem;
    auto optimizer = make(problem.params());
    const double before = problem.loss().item();
    train(problem, *optimizer, 100);
    CHECK(problem.loss().item() < before / 2);
  };
  check([](const std::vector<Tensor>& p) { return std::make_unique<AdamW>(p, AdamWOptions{.lr = 1e-2}); });
  check([](const std::vector<Tensor>& p) { return std::make_unique<Adam>(p, AdamOptions{.lr = 1e-2}); });
  check([](const std::vector<Tensor>& p) { return std::make_unique<SGD>(p, SGDOptions{.lr = 0.1, .momentum = 0.9, .nesterov = true}); });
}
