#include <retape/autograd/check.h>

#include <fmt/format.h>

namespace retape {

void throw_undefined(const char* name) { throw Error(fmt::format("{}: the tensor is undefined", name)); }

void throw_different_devices(const char* name, const Tensor* const* in, int n) {
  std::string all;
  for (int i = 0; i < n; ++i)
    if (*in[i]) all += fmt::format("{}{} on {}", all.empty() ? "" : ", ", in[i]->shape().str(), in[i]->device().str());
  throw Error(fmt::format("{}: its inputs are on different devices ({}); move them to one with to()", name, all));
}

int check_dim(const char* name, const Tensor& x, int64_t dim) {
  check_defined(name, x);
  return normalize_dim(name, dim, x.dim());
}
int sized_dim(const char* name, const Tensor& x, int64_t dim) {
  check_defined(name, x);
  if (x.dim() == 0) throw Error(fmt::format("{}: a tensor with no dims has none to work along", name));
  return normalize_dim(name, dim, x.dim());
}

}  // namespace retape
