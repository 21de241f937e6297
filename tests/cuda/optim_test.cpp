// Every optimizer on a device: as on the CPU, in a graph as without.
#include "../optim/cases.h"

using namespace retape;
using namespace retape::testing;

namespace {

const Device gpu = Device::cuda();

bool equal(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  bool same = a.size() == b.size();
  for (size_t i = 0; same && i < a.size(); ++i) same = same_bits(a[i], b[i]);
  return same;
}

}  // namespace

TEST_CASE("every optimizer steps on a device as on the CPU", "[cuda][optim]") {
  for (const OptimizerCase& c : optimizer_cases()) {
    const std::string name = c.name;
    std::vector<DType> dtypes = {DType::f32};
    if (name.find('.') == std::string::npos) dtypes.push_back(DType::f64);  // once a rule, since an emulated device is slow
    if (name == "adam.amsgrad" || name == "lamb" || name == "adafactor" || name == "muon") dtypes.push_back(DType::bf16);
    for (const DType dtype : dtypes) {
      INFO(c.name << " in " << name_of(dtype));
      const OptimizerRun here(c.only_matrices, dtype), there(c.only_matrices, dtype, gpu);
      here.steps(*c.make(here.params), 0, 3);
      const auto optimizer = c.make(there.params);
      there.steps(*optimizer, 0, 3);
      // Muon's products are rounded once more on a device.
      const double near = c.only_matrices ? 1e-2 : dtype == DType::f64 ? c.f64 : dtype == DType::f32 ? c.f32 : 3e-2;
      CHECK(relative_difference(there.values(), here.values()) <= near);

      const auto before = there.values();
      for (auto& p : there.params) p.set_grad(to(cast(full(p.shape(), INFINITY), dtype), gpu));
      optimizer->step(to(full({}, 1), gpu));
      CHECK(equal(there.values(), before));
      there.steps(*optimizer, 3, 4);
      CHECK_FALSE(equal(there.values(), before));
    }
  }
}

TEST_CASE("every optimizer steps in a graph as without, also when its rate changes", "[cuda][optim][graph]") {
  for (const OptimizerCase& c : optimizer_cases()) {
    INFO(c.name);
    const auto run = [&](bool captured) {
      const OptimizerRun of(c.only_matrices, DType::f32, gpu);
      const auto optimizer = c.make(of.params);
      const cuda::Graph::Function step = [&](const std::vector<Tensor>& tables) -> std::vector<Tensor> {
        of.set_grads(tables);
        optimizer->step();
        return {tables[0] + 1};
      };
      cuda::Graph graph(step);
      for (int t = 0; t < 3; ++t) {  // runs it, captures it, and launches it with another rate
        optimizer->set_lr(0.01 / (t + 1));
        if (captured) graph(of.tables(t));
        else step(of.tables(t));
      }
      CHECK(graph.is_captured() == captured);
      return of.values();
    };
    CHECK(equal(run(true), run(false)));
  }
}

TEST_CASE("averages, SAM, schedule-free modes and L-BFGS work on a device", "[cuda][optim]") {
  const auto run = [](Device device) {
    const OptimizerRun of(false, DType::f32, device);
    AdamWScheduleFree free(of.params, {.lr = 0.05});
    of.steps(free, 0, 3);
    free.eval();
    SGD sgd(of.params, {.lr = 0.1});
    SAM sam(sgd, {.rho = 0.2});
    for (int t = 0; t < 2; ++t)
      sam.step([&] {
        of.set_grads(of.tables(t));
        return zeros({});
      });
    LBFGS lbfgs(of.params, {.max_iter = 3, .line_search_fn = LineSearch::strong_wolfe});
    lbfgs.step([&] {
      lbfgs.zero_grad();
      Tensor loss = zeros({}, {.device = device});
      for (auto& p : of.params) loss = loss + sum(square(square(p - 1)));
      backward(loss);
      return loss;
    });
    return of.values();
  };
  CHECK(relative_difference(run(gpu), run({})) <= 1e-5);

  nn::Linear model(3, 2);
  model.to(gpu);
  AveragedModel average(model, {.decay = 0.5});
  const Tensor before = to(model.weight.tensor().detach(), Device::cpu());
  for (int i = 0; i < 2; ++i) {
    average.update_parameters(model);
    copy_into(model.weight.tensor().detach() + 1, model.weight.tensor().detach());
  }
  CHECK(difference(to(average.module.weight.tensor().detach(), Device::cpu()), before + 0.5, DType::f32) <= 1);
  CHECK(average.n_averaged() == 2);
}
