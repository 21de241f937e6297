#include <retape/nn/loss.h>

#include <fmt/format.h>

#include <retape/autograd/autocast.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/unary.h>

namespace retape {

Tensor mse_loss(const Tensor& input, const Tensor& target, Reduction reduction) {
  if (!(input.shape() == target.shape()))
    throw Error(fmt::format("mse_loss: input of shape {} and target of shape {} differ; they must be equal", input.shape().str(),
                            target.shape().str()));
  if (autocasting())
    return under_autocast(
        Precision::full, [&](auto& p, auto& q) { return mse_loss(p, q, reduction); }, input, target);
  const Tensor losses = square(input - target);
  switch (reduction) {
    case Reduction::none: return losses;
    case Reduction::sum: return sum(losses);
    case Reduction::mean: return mean(losses);
  }
  return losses;
}

}  // namespace retape
