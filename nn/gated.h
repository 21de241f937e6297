// Feed-forward layers with a gate.
#pragma once
#include <retape/nn/linear.h>

namespace retape::nn {

enum class Gate : uint8_t { silu, gelu, relu, sigmoid };
/// The function of that name of x.
Tensor gate_of(Gate gate, const Tensor& x);
struct GatedOptions {
  bool bias = true;
};
/// down_proj(act(gate_proj(x)) * up_proj(x)) for x (..., dim), through hidden_dim. The names are those of Llama's files. Shazeer 2020.
struct GatedFeedForward : Module {
  Linear gate_proj, up_proj, down_proj;
  Gate gate;
  GatedFeedForward(Gate gate, int64_t dim, int64_t hidden_dim, GatedOptions options = {});
  Tensor forward(const Tensor& x) const;
  RETAPE_FIELDS(gate_proj, up_proj, down_proj)
};
/// With the gates x sigmoid(x), gelu and relu.
struct SwiGLU : GatedFeedForward {
  SwiGLU(int64_t dim, int64_t hidden_dim, GatedOptions options = {}) : GatedFeedForward(Gate::silu, dim, hidden_dim, options) {}
  RETAPE_MODULE_BODY
};
struct GEGLU : GatedFeedForward {
  GEGLU(int64_t dim, int64_t hidden_dim, GatedOptions options = {}) : GatedFeedForward(Gate::gelu, dim, hidden_dim, options) {}
  RETAPE_MODULE_BODY
};
struct ReGLU : GatedFeedForward {
  ReGLU(int64_t dim, int64_t hidden_dim, GatedOptions options = {}) : GatedFeedForward(Gate::relu, dim, hidden_dim, options) {}
  RETAPE_MODULE_BODY
};

}  // namespace retape::nn
