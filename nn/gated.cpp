#include <retape/nn/gated.h>

#include <retape/autograd/binary.h>
#include <retape/autograd/unary.h>

namespace retape::nn {

Tensor gate_of(Gate gate, const Tensor& x) {
  switch (gate) {
    case Gate::silu: return silu(x);
    case Gate::gelu: return gelu(x);
    case Gate::relu: return relu(x);
    case Gate::sigmoid: return sigmoid(x);
  }
  return x;
}

GatedFeedForward::GatedFeedForward(Gate g, int64_t dim, int64_t hidden_dim, GatedOptions options)
    : gate_proj(dim, hidden_dim, {options.bias}),
      up_proj(dim, hidden_dim, {options.bias}),
      down_proj(hidden_dim, dim, {options.bias}),
      gate(g) {}
Tensor GatedFeedForward::forward(const Tensor& x) const { return down_proj(gate_of(gate, gate_proj(x)) * up_proj(x)); }

}  // namespace retape::nn
