#include <retape/nn/dropout.h>

#include <retape/autograd/dropout.h>

namespace retape::nn {

Dropout::Dropout(double probability) : p(probability) {
  if (!(p >= 0 && p <= 1)) throw Error("Dropout: probability " + std::to_string(p) + " is not valid; it must lie in [0, 1]");
}
Tensor Dropout::forward(const Tensor& x) const { return dropout(x, p, is_training(), default_generator()); }

}  // namespace retape::nn
