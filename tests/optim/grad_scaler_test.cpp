// Loss scaling: what PyTorch's GradScaler does with the same gradients, and what a skipped step leaves alone.
#include "../catch.h"

using namespace retape;
using namespace retape::testing;

namespace {
const double inf = INFINITY;

Tensor parameter(const std::vector<float>& v = {1, -2, 0.5}) { return tensor(v).set_requires_grad(); }
double number(const NamedTensors& state, const std::string& name) {
  for (auto& [key, value] : state)
    if (key == name) return value.item();
  return NAN;
}
// The gradient that scaler sees is its scale times g.
void step(GradScaler& scaler, Optimizer& optimizer, const Tensor& p, const std::vector<double>& g) {
  optimizer.zero_grad();
  backward(scaler.scale(sum(p * cast(tensor(g), p.dtype()))));
  scaler.step(optimizer);
}
constexpr GradScalerOptions small{.init_scale = 8, .growth_factor = 4, .backoff_factor = 0.25, .growth_interval = 2};

//   p = torch.tensor([1., -2., .5], requires_grad=True); o = ...([p], lr=.1)
//   s = torch.amp.GradScaler('cpu', init_scale=8., growth_factor=4., backoff_factor=.25, growth_interval=2)
//   for g in ...: o.zero_grad(); s.scale((p * torch.tensor(g)).sum()).backward(); s.step(o); s.update()
void check_run(Optimizer& optimizer, const Tensor& p, const std::vector<double>& expected) {
  GradScaler scaler(small);
  const std::vector<std::vector<double>> gradients = {{.1, .2, .3},        {.5, -.5, 1}, {inf, 0, 0},   {.3, .1, -.2},
                                                      {0, double(NAN), 1}, {1., 2., 3.}, {-1., .5, .25}};
  const std::vector<double> scales = {8, 32, 8, 8, 2, 2, 8}, trackers = {1, 0, 0, 1, 0, 1, 0};
  for (size_t i = 0; i < gradients.size(); ++i) {
    step(scaler, optimizer, p, gradients[i]);
    scaler.update();
    CHECK(scaler.get_scale() == scales[i]);
    CHECK(number(scaler.state_dict(), "_growth_tracker") == trackers[i]);
  }
  for (size_t i = 0; i < expected.size(); ++i) CHECK(p.detach().to_vector<double>()[i] == Approx(expected[i]).epsilon(1e-6));
}
}  // namespace

TEST_CASE("GradScaler makes the steps and scales that PyTorch makes", "[grad_scaler]") {
  const Tensor a = parameter(), b = parameter();
  AdamW adamw({a}, {.lr = 0.1});
  check_run(adamw, a, {0.6122201681137085, -2.129850149154663, 0.11736322194337845});
  SGD sgd({b}, {.lr = 0.1, .momentum = 0.9});
  check_run(sgd, b, {0.6157989501953125, -2.3670520782470703, -0.5075530409812927});
}

TEST_CASE("GradScaler starts with PyTorch's defaults", "[grad_scaler]") {
  const GradScaler scaler;
  CHECK(scaler.get_scale() == 65536);
  const NamedTensors state = scaler.state_dict();
  CHECK(state.size() == 5);
  CHECK(number(state, "scale") == 65536);
  CHECK(number(state, "growth_factor") == 2);
  CHECK(number(state, "backoff_factor") == 0.5);
  CHECK(number(state, "growth_interval") == 2000);
  CHECK(number(state, "_growth_tracker") == 0);
}

TEST_CASE("a skipped step changes neither weights nor means nor step counts", "[grad_scaler]") {
  const Tensor p = parameter();
  AdamW optimizer({p}, {.lr = 0.1});
  GradScaler scaler;
  step(scaler, optimizer, p, {inf, 1, 1});  // before any state exists
  scaler.update();
  CHECK(p.detach().to_vector<float>() == std::vector<float>{1, -2, 0.5});
  CHECK(number(optimizer.state_dict(), "0.step") == 0);
  step(scaler, optimizer, p, {1, 2, 3});
  scaler.update();
  NamedTensors before;
  for (auto& [name, value] : optimizer.state_dict()) before.emplace_back(name, clone(value));
  const Tensor weights = clone(p.detach());
  step(scaler, optimizer, p, {1, NAN, 3});
  CHECK(same_bits(p.detach(), weights));
  const NamedTensors after = optimizer.state_dict();
  REQUIRE(after.size() == before.size());
  for (size_t i = 0; i < after.size(); ++i) CHECK(same_bits(after[i].second, before[i].second));
  AdamW resumed({p}, {.lr = 0.1});  // a state with no updates can be loaded
  AdamW fresh({p}, {.lr = 0.1});
  GradScaler other;
  step(other, fresh, p, {inf, 1, 1});
  resumed.load_state_dict(fresh.state_dict());
  CHECK(number(resumed.state_dict(), "0.step") == 0);
}

TEST_CASE("the scale is halved, and grows after enough successful steps only", "[grad_scaler]") {
  const Tensor p = parameter();
  SGD optimizer({p}, {.lr = 0});
  GradScaler scaler({.init_scale = 4, .growth_interval = 3});
  const auto after = [&](const std::vector<bool>& good) {
    for (const bool ok : good) step(scaler, optimizer, p, {ok ? 1 : inf, 0, 0}), scaler.update();
    return scaler.get_scale();
  };
  CHECK(after({true, true, false}) == 2);
  CHECK(after({true, true}) == 2);
  CHECK(after({true}) == 4);
  GradScaler large({.init_scale = 0x1p127, .growth_interval = 1});
  step(large, optimizer, p, {1e-30, 0, 0});
  large.update();
  CHECK(large.get_scale() == 0x1p127);  // would not be finite
}

TEST_CASE("gradients are divided by the scale before they are clipped, and once only", "[grad_scaler]") {
  const Tensor p = parameter();
  SGD optimizer({p}, {.lr = 1});
  GradScaler scaler({.init_scale = 1024});
  backward(scaler.scale(sum(p * tensor<float>({3, 0, 4}))));
  CHECK(p.grad().to_vector<float>() == std::vector<float>{3072, 0, 4096});
  scaler.unscale_(optimizer);
  CHECK(p.grad().to_vector<float>() == std::vector<float>{3, 0, 4});
  CHECK(clip_grad_norm({p}, 1).item() == Approx(5));
  scaler.step(optimizer);
  CHECK(p.detach().to_vector<double>()[0] == Approx(0.4).epsilon(1e-5));
  CHECK(p.detach().to_vector<double>()[2] == Approx(-0.3).epsilon(1e-5));
}

TEST_CASE("non-finite values are found wherever they are, in every dtype, whatever the number of threads", "[grad_scaler]") {
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16})
    for (const double bad : {inf, -inf, double(NAN)})
      for (const int64_t at : {0, 16383, 16384, 40000}) {
        const Tensor p = zeros({40001}, {dtype}).set_requires_grad(), q = zeros({3}, {dtype}).set_requires_grad();
        SGD optimizer({p, q}, {.lr = 1});
        GradScaler scaler({.init_scale = 2});
        backward(scaler.scale(sum(q)));
        Tensor g = ones({40001}, {dtype});
        g.put({at}, bad);
        p.set_grad(g);
        scaler.step(optimizer);
        CHECK(sum(abs(q.detach())).item() == 0);
        scaler.update();
        CHECK(scaler.get_scale() == 1);
        p.set_grad(transpose(reshape(ones({40001}, {dtype}), {40001, 1})).at({0}));
        backward(scaler.scale(sum(q)));
        scaler.step(optimizer);
        CHECK(p.detach().at({at}).item() == -1);
      }
}

TEST_CASE("several losses and optimizers share a scale; only the one with an overflow is skipped", "[grad_scaler]") {
  const Tensor a = parameter(), b = parameter();
  SGD first({a}, {.lr = 0.5}), second({b}, {.lr = 0.5});
  GradScaler scaler({.init_scale = 16});
  const auto losses = scaler.scale({sum(a), sum(b * tensor<float>({1, INFINITY, 1}))});
  backward(losses[0]), backward(losses[1]);
  scaler.unscale_(second);
  scaler.step(first), scaler.step(second);
  scaler.update();
  CHECK(a.detach().to_vector<float>() == std::vector<float>{0.5, -2.5, 0});
  CHECK(b.detach().to_vector<float>() == std::vector<float>{1, -2, 0.5});
  CHECK(scaler.get_scale() == 8);
}

TEST_CASE("a resumed scaler goes on where the other was", "[grad_scaler]") {
  const Tensor p = parameter();
  SGD optimizer({p}, {.lr = 0});
  GradScaler scaler({.init_scale = 32, .growth_factor = 3, .growth_interval = 2}), resumed;
  step(scaler, optimizer, p, {1, 1, 1}), scaler.update();
  resumed.load_state_dict(scaler.state_dict());
  CHECK(resumed.get_scale() == 32);
  CHECK(number(resumed.state_dict(), "_growth_tracker") == 1);
  step(resumed, optimizer, p, {1, 1, 1}), resumed.update();
  CHECK(resumed.get_scale() == 96);
  resumed.update(5);
  CHECK(resumed.get_scale() == 5);
}

TEST_CASE("a scaler that is not enabled only steps", "[grad_scaler]") {
  const Tensor p = parameter();
  SGD optimizer({p}, {.lr = 1});
  GradScaler scaler({.enabled = false});
  scaler.unscale_(optimizer), scaler.update();
  step(scaler, optimizer, p, {1, 2, 3});
  CHECK(p.detach().to_vector<float>() == std::vector<float>{0, -4, -2.5});
  CHECK(scaler.get_scale() == 1);
  CHECK(scaler.state_dict().empty());
  scaler.load_state_dict({});
}

TEST_CASE("GradScaler refuses calls out of order, and stays as it was", "[grad_scaler]") {
  const Tensor p = parameter(), half = zeros({2}, {DType::f16}).set_requires_grad();
  SGD optimizer({p}, {.lr = 1}), other({half}, {.lr = 1}), broken({p}, {.lr = 1});
  GradScaler scaler({.init_scale = 2});
  const auto starts = [](const std::string& s) { return ContainsSubstring("grad_scaler: " + s); };
  CHECK_THAT(error_of([&] { scaler.unscale_(optimizer); }), starts("unscale_() before scale()"));
  CHECK_THAT(error_of([&] { scaler.step(optimizer); }), starts("step() before scale()"));
  CHECK_THAT(error_of([&] { scaler.update(); }), starts("update() before scale()"));
  const Tensor loss = scaler.scale(sum(p));
  CHECK_THAT(error_of([&] { scaler.update(); }), starts("update() without a step()"));
  CHECK_THAT(error_of([&] { scaler.step(optimizer); }), starts("no parameter of this optimizer has a gradient"));
  backward(loss);
  scaler.unscale_(optimizer);
  CHECK_THAT(error_of([&] { scaler.unscale_(optimizer); }), starts("unscale_() was already called"));
  CHECK(p.grad().to_vector<float>() == std::vector<float>(3, 1));
  optimizer.options().lr = -1;
  CHECK_THAT(error_of([&] { scaler.step(optimizer); }), ContainsSubstring("lr -1"));
  optimizer.options().lr = 1;
  scaler.step(optimizer);
  CHECK_THAT(error_of([&] { scaler.step(optimizer); }), starts("step() was already called"));
  CHECK_THAT(error_of([&] { scaler.unscale_(optimizer); }), starts("unscale_() after step()"));
  CHECK(p.detach().to_vector<float>() == std::vector<float>{0, -3, -0.5});
  half.set_grad(ones({2}, {DType::f16}));
  CHECK_THAT(error_of([&] { scaler.unscale_(other); }), starts("the gradient of parameter 0 is f16"));
  CHECK(half.grad().to_vector<double>() == std::vector<double>{1, 1});
  CHECK_THAT(error_of([&] { scaler.update(0); }), starts("a scale of 0 is not valid"));
  CHECK(scaler.get_scale() == 2);
  scaler.update();
  CHECK_THAT(error_of([&] { scaler.update(); }), starts("update() without a step()"));

  CHECK_THAT(error_of([&] { scaler.scale(Tensor{}); }), starts("scale: the loss is an undefined tensor"));
  CHECK_THAT(error_of([&] { scaler.scale(tensor<int64_t>({1})); }), starts("scale: a loss of i64"));
  CHECK_THAT(error_of([] { GradScaler({.init_scale = INFINITY}); }), starts("a scale of inf"));
  CHECK_THAT(error_of([] { GradScaler({.growth_factor = 1}); }), starts("growth_factor 1 "));
  CHECK_THAT(error_of([] { GradScaler({.backoff_factor = 1}); }), starts("backoff_factor 1 "));
  CHECK_THAT(error_of([] { GradScaler({.growth_interval = 0}); }), starts("growth_interval 0 "));

  NamedTensors state = scaler.state_dict();
  const auto loading = [&](const NamedTensors& s) { return error_of([&] { scaler.load_state_dict(s); }); };
  CHECK_THAT(loading({}), starts("load_state_dict: the state is empty"));
  state[0].second = full({}, -1, {DType::f64});
  CHECK_THAT(loading(state), starts("a scale of -1"));
  state[0].first = "size";
  CHECK_THAT(loading(state), starts("load_state_dict: unknown entry size"));
  state.erase(state.begin());
  CHECK_THAT(loading(state), starts("load_state_dict: entry scale is missing"));
  CHECK(scaler.get_scale() == 2);
}

TEST_CASE("an overflow in f16 training is skipped, halves the scale, and training recovers", "[grad_scaler][autocast]") {
  manual_seed(5);
  nn::Linear hidden(4, 32), out(32, 1);
  std::vector<Tensor> params = hidden.parameters();
  for (auto& p : out.parameters()) params.push_back(p);
  const Tensor weight = hidden.weight;
  AdamW optimizer(params, {.lr = 1e-2});
  GradScaler scaler({.init_scale = 1024, .growth_interval = 50});
  const Tensor x = uniform({64, 4}, -1, 1), target = sin(3 * sum(x, {1}, true));
  const auto loss_of = [&](double boost) {
    const Autocast amp(DType::f16);
    return mse_loss(out(gelu(hidden(x * boost))), target);
  };
  double first = 0, last = 0;
  for (int i = 0; i < 200; ++i) {
    optimizer.zero_grad();
    const Tensor loss = loss_of(i == 20 ? 3e4 : 1);  // activations of 1e4, gradients beyond 65504
    backward(scaler.scale(loss));
    const Tensor before = clone(weight.detach());
    const double scale = scaler.get_scale();
    for (auto& p : params) REQUIRE(p.grad().dtype() == DType::f32);
    scaler.step(optimizer), scaler.update();
    if (i == 20) {
      CHECK(same_bits(weight.detach(), before));
      CHECK(scaler.get_scale() == scale / 2);
    } else if (i == 19 || i == 21) {
      CHECK_FALSE(same_bits(weight.detach(), before));
      CHECK(scaler.get_scale() == scale);
    }
    (i == 0 ? first : last) = loss.item();
  }
  CHECK(last < first / 4);
  CHECK(scaler.get_scale() > 1024);  // it has grown again
}
