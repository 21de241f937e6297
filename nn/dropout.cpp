#include <retape/nn/dropout.h>

#include <fmt/format.h>

#include <retape/autograd/dropout.h>

namespace retape::nn {
namespace {

double checked(const char* name, double p) {
  if (!(p >= 0 && p <= 1)) throw Error(fmt::format("{}: probability {} is not valid; it must lie in [0, 1]", name, p));
  return p;
}
// Without a batch (`dims` dims in all) dim 0 is for channels, else dim 1.
Tensor of_channels(const char* name, const Tensor& x, int dims, double p, bool training) {
  if (!x || (x.dim() != dims && x.dim() != dims + 1))
    throw Error(fmt::format("{}: x has shape {}; it must have {} or {} dims", name, x ? x.shape().str() : "(undefined)", dims, dims + 1));
  return feature_dropout(x, x.dim() == dims ? 1 : 2, p, training);
}

}  // namespace

Dropout::Dropout(double p) : p(checked("Dropout", p)) {}
Tensor Dropout::forward(const Tensor& x) const { return dropout(x, p, is_training(), default_generator()); }
Dropout1d::Dropout1d(double p) : p(checked("Dropout1d", p)) {}
Tensor Dropout1d::forward(const Tensor& x) const { return of_channels("Dropout1d", x, 2, p, is_training()); }
Dropout2d::Dropout2d(double p) : p(checked("Dropout2d", p)) {}
Tensor Dropout2d::forward(const Tensor& x) const { return of_channels("Dropout2d", x, 3, p, is_training()); }
Dropout3d::Dropout3d(double p) : p(checked("Dropout3d", p)) {}
Tensor Dropout3d::forward(const Tensor& x) const { return of_channels("Dropout3d", x, 4, p, is_training()); }
AlphaDropout::AlphaDropout(double p) : p(checked("AlphaDropout", p)) {}
Tensor AlphaDropout::forward(const Tensor& x) const { return alpha_dropout(x, p, is_training()); }
FeatureAlphaDropout::FeatureAlphaDropout(double p) : p(checked("FeatureAlphaDropout", p)) {}
Tensor FeatureAlphaDropout::forward(const Tensor& x) const { return feature_alpha_dropout(x, p, is_training()); }
DropPath::DropPath(double p) : drop_prob(checked("DropPath", p)) {}
Tensor DropPath::forward(const Tensor& x) const { return feature_dropout(x, 1, drop_prob, is_training()); }

}  // namespace retape::nn
