#include <retape/nn/gated.h>

#include <retape/autograd/binary.h>
#include <retape/autograd/unary.h>

namespace retape::nn {

GatedFeedForward::GatedFeedForward(Gate g, int64_t dim, int64_t hidden_dim, GatedOptions options)
    : gate_proj(dim, hidden_dim, {options.bias}),
      up_proj(dim, hidden_dim, {options.bias}),
      down_proj(hidden_dim, dim, {options.bias}),
      gate(g) {}
Tensor GatedFeedForward::forward(const Tensor& x) const {
  const Tensor h = gate_proj(x);
  const Tensor open = gate == Gate::silu ? silu(h) : gate == Gate::gelu ? gelu(h) : gate == Gate::relu ? relu(h) : sigmoid(h);
  return down_proj(open * up_proj(x));
}

}  // namespace retape::nn
