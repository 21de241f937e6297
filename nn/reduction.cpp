#include <retape/nn/reduction.h>

#include <fmt/format.h>

#include <retape/autograd/binary.h>
#include <retape/autograd/check.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/tape.h>

namespace retape::detail {

Tensor reduced(const char* name, const Tensor& losses, Reduction reduction) {
  switch (reduction) {
    case Reduction::none: return losses;
    case Reduction::sum: return sum(losses);
    case Reduction::mean: return mean(losses);
    case Reduction::batchmean: break;
  }
  if (losses.dim() == 0) throw Error(fmt::format("{}: reduction batchmean needs a dim to divide by its size; there is none", name));
  return sum(losses) / double(losses.shape()[0]);
}
void check_floating(const char* name, const Tensor& x, const char* what) {
  if (!x) throw Error(fmt::format("{}: {} is an undefined tensor", name, what));
  if (!is_floating(x.dtype())) throw Error(fmt::format("{}: {} has dtype {}; it must be floating", name, what, name_of(x.dtype())));
}
void check_pair(const char* name, const Tensor& input, const Tensor& target, const char* input_name, const char* target_name) {
  check_floating(name, input, input_name);
  check_floating(name, target, target_name);
  if (!(input.shape() == target.shape()))
    throw Error(fmt::format("{}: {} of shape {} and {} of shape {} differ; they must be equal", name, input_name, input.shape().str(),
                            target_name, target.shape().str()));
  check_one_device(name, input, target);
}
void check_classes(const char* name, const Tensor& target, int64_t classes, int64_t ignored) {
  if (target.dtype() != DType::i64 && target.dtype() != DType::i32)
    throw Error(fmt::format("{}: target has dtype {}; class numbers must be i64 or i32", name, name_of(target.dtype())));
  if (!target.device().is_cpu() || target.numel() == 0) return;
  const NoGrad off;
  const Tensor counted = where(ne(target, ignored), target, 0);
  for (const int64_t value : {amin(counted).item<int64_t>(), amax(counted).item<int64_t>()})
    if (value < 0 || (value >= classes && any(ne(target, ignored)).item<bool>()))
      throw Error(fmt::format("{}: class {} is out of range; expected 0 <= class < {}", name, value, classes));
}

}  // namespace retape::detail
