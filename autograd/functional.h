// Derivatives of functions: products with the Jacobian and the Hessian, and these matrices themselves. torch: autograd.functional.
#pragma once
#include <retape/autograd/gradcheck.h>

namespace retape {

struct FunctionalOptions {
  bool create_graph = false;  ///< record the result, so that it can be differentiated
};
/// f(x), and for each input what is said below; zeros where f does not depend on an input.
struct FunctionValue {
  Tensor output;
  std::vector<Tensor> products;
};
/// v^T J, with v in the shape of f(x). All inputs must be floating. Throws Error if v does not fit, as do the next.
FunctionValue vjp(const TensorFunction& f, const std::vector<Tensor>& x, const Tensor& v, FunctionalOptions options = {});
/// J v, with v like the inputs; one product, in the shape of f(x). By differentiating v^T J by v: twice the cost of a backward.
FunctionValue jvp(const TensorFunction& f, const std::vector<Tensor>& x, const std::vector<Tensor>& v, FunctionalOptions options = {});
/// H v of a function that gives one number, with v like the inputs. By one backward through a backward.
FunctionValue hvp(const TensorFunction& f, const std::vector<Tensor>& x, const std::vector<Tensor>& v, FunctionalOptions options = {});

/// d f / d x_i for each input: the shape of f(x), then that of x_i.
std::vector<Tensor> jacobian(const TensorFunction& f, const std::vector<Tensor>& x, FunctionalOptions options = {});
Tensor jacobian(const std::function<Tensor(const Tensor&)>& f, const Tensor& x, FunctionalOptions options = {});
/// d^2 f / d x_i d x_j of a function that gives one number: the shape of x_i, then that of x_j.
std::vector<std::vector<Tensor>> hessian(const TensorFunction& f, const std::vector<Tensor>& x, FunctionalOptions options = {});
Tensor hessian(const std::function<Tensor(const Tensor&)>& f, const Tensor& x, FunctionalOptions options = {});

}  // namespace retape
