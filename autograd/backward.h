// Running the tape backwards.
#pragma once
#include <vector>

#include <retape/core/tensor.h>

namespace retape {

struct BackwardOptions {
  bool retain_graph = false;  ///< keep what was saved, so that backward can run again
};
/// Adds dy * d y / d leaf to the gradient of every leaf below y. dy defaults to ones. The gradients have no history; for higher
/// derivatives see grad(). Throws Error if y has no history, if the graph was freed by an earlier backward, or if a saved value
/// was changed in place. torch: Tensor.backward.
void backward(const Tensor& y, BackwardOptions options = {}, const Tensor& dy = {});

struct GradOptions {
  bool retain_graph = false;
  bool create_graph = false;  ///< record the backward itself, so that the result can be differentiated; keeps the graph
};
/// The gradients of the sum of dy_j * y_j with respect to each x; undefined where y does not depend on x. Leaves' gradients are not
/// touched. torch: autograd.grad with allow_unused.
std::vector<Tensor> grad(const std::vector<Tensor>& y, const std::vector<Tensor>& x, GradOptions options = {},
                         const std::vector<Tensor>& dy = {});

}  // namespace retape
