// Reading a state_dict, each entry once. Private to optim's sources.
#pragma once
#include <fmt/format.h>

#include <cmath>
#include <map>
#include <string>

#include <retape/core/tensor.h>

namespace retape::detail {

inline std::string describe(const Tensor& t) { return fmt::format("{} {}", name_of(t.dtype()), t.shape().str()); }
inline Tensor number_entry(double v) { return full({}, v, {DType::f64}); }
inline Tensor count_entry(int64_t v) { return full({}, double(v), {DType::i64}); }

class Entries {
 public:
  Entries(const char* owner, const NamedTensors& state) : owner_(owner) {
    for (auto& [name, value] : state) {
      if (!value) fail(fmt::format("entry {} is undefined", name));
      if (!entries_.emplace(name, value).second) fail(fmt::format("entry {} is there twice", name));
    }
  }
  [[noreturn]] void fail(const std::string& what) const { throw Error(fmt::format("{}: load_state_dict: {}", owner_, what)); }
  Tensor take(const std::string& name) {
    const auto found = entries_.find(name);
    if (found == entries_.end()) return {};
    Tensor value = found->second;
    entries_.erase(found);
    return value;
  }
  Tensor require(const std::string& name) {
    Tensor value = take(name);
    if (!value) fail(fmt::format("entry {} is missing", name));
    return value;
  }
  double number(const std::string& name, const Tensor& value, double least = -INFINITY) const {
    if (value.numel() != 1) fail(fmt::format("{} is {}; it must be one number", name, describe(value)));
    const double x = value.item();
    if (!(x >= least)) fail(fmt::format("{} is {}; it must be at least {}", name, x, least));
    return x;
  }
  double number(const std::string& name) { return number(name, require(name)); }
  int64_t count(const std::string& name, const Tensor& value) const {
    const double x = number(name, value, 0);
    if (x != std::floor(x) || x > 0x1p53) fail(fmt::format("{} is {}; it must be a whole number", name, x));
    return int64_t(x);
  }
  int64_t count(const std::string& name) { return count(name, require(name)); }
  /// Numbers, as many as `n`.
  std::vector<double> numbers(const std::string& name, int64_t n) {
    const Tensor value = require(name);
    if (value.dim() != 1 || value.numel() != n) fail(fmt::format("{} is {}; it must be {} numbers", name, describe(value), n));
    return value.to_vector<double>();
  }
  void check_empty() const {
    if (!entries_.empty()) fail(fmt::format("unknown entry {}; is this the state of another optimizer or model?", entries_.begin()->first));
  }

 private:
  const char* owner_;
  std::map<std::string, Tensor> entries_;
};

}  // namespace retape::detail
