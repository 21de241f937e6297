// Layers and losses against numbers of PyTorch and of papers: the entries that tests/golden/layer_cases.py writes.
#pragma once
#include <functional>
#include <map>
#include <set>

#include "../catch.h"
#include "golden.h"

namespace retape::testing {

/// The inputs of a case by their names; a name that is not there is undefined.
struct CaseInputs {
  std::map<std::string, Tensor> all;
  Tensor operator[](const std::string& name) const {
    const auto at = all.find(name);
    return at == all.end() ? Tensor{} : at->second;
  }
};
struct LayerCase {
  std::string name;
  std::function<Tensor(const CaseInputs&)> f;
};

/// Values and gradients of every case in f64 and f32, and that the file has no other cases.
inline void check_layer_cases(const NamedTensors& golden, const std::vector<LayerCase>& cases) {
  std::set<std::string> left;
  for (auto& [name, value] : golden) left.insert(name.substr(0, name.find('.')));
  for (auto& c : cases) {
    REQUIRE(left.erase(c.name) == 1);
    for (const DType dtype : {DType::f64, DType::f32}) {
      INFO(c.name << " in " << name_of(dtype));
      CaseInputs in;
      std::map<std::string, Tensor> gradients;
      Tensor expected;
      for (auto& [name, value] : golden) {
        if (!name.starts_with(c.name + ".")) continue;
        const std::string rest = name.substr(c.name.size() + 1);
        const Tensor v = is_floating(value.dtype()) ? cast(value, dtype) : value;
        if (rest == "y") expected = value;
        else if (rest[0] == 'x') in.all[rest.substr(2)] = Tensor(clone(v).detach()).set_requires_grad();
        else if (rest[0] == 'k') in.all[rest.substr(2)] = v;
        else gradients[rest.substr(2)] = value;
      }
      const Tensor y = c.f(in);
      const double tolerance = dtype == DType::f64 ? 1e-12 : 1e-5;
      CHECK(y.dtype() == dtype);
      CHECK(relative_difference(y.detach(), expected) <= tolerance);
      if (!y.requires_grad()) {
        FAIL_CHECK("the result has no history");
        continue;
      }
      backward(sum(y * cast(wave(y.shape(), 0.5), dtype)));
      for (auto& [name, gradient] : gradients) {
        INFO("gradient of " << name);
        const Tensor found = in[name].grad();
        if (!found) {
          FAIL_CHECK("there is none");
          continue;
        }
        const double difference = relative_difference(found, gradient);
        CAPTURE(difference);
        CHECK(difference <= tolerance);
      }
    }
  }
  for (auto& name : left) FAIL_CHECK("no function for " << name);
}

}  // namespace retape::testing
