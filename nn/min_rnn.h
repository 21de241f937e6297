// Recurrent layers whose gates do not depend on their state: minGRU and minLSTM (Feng et al. 2024, "Were RNNs all we needed?", arXiv
// 2410.01201).
#pragma once
#include <optional>

#include <retape/nn/linear.h>
#include <retape/nn/sequence_mixer.h>

namespace retape::nn {

struct MinRNNOptions {
  double expansion_factor = 1;        ///< the state has so many times dim channels
  std::optional<bool> proj_out = {};  ///< a projection of the states; absent: only where expansion_factor is not 1
};
// Both compute h_t = f_t h_(t-1) + i_t g(hidden_t) for every channel, with g(x) = x + 1/2 from 0 on, else sigmoid(x), as
// linear_recurrence(). The gates lie in (0, 1), so plain states neither overflow nor cancel: the paper's logarithms serve its parallel
// form, whose running products would, and are not needed here; gates are made without them, and states may be negative where they begin so.
// States are f32 for half types, also under autocast. x (B, T, dim) gives the same. Throw Error for sizes below 1, for an expansion without
// proj_out, and, in forward, for x of another shape.

/// f = 1 - i, i = sigmoid(gate). Parameters to_hidden_and_gate and, if projected, to_out, without biases, as in lucidrains' minGRU.
struct MinGRU : Module {
  struct State {
    Tensor h;  ///< (B, dim * expansion_factor)
  };
  int64_t dim, dim_inner;
  Linear to_hidden_and_gate;
  std::optional<Linear> to_out;
  MinGRU(int64_t dim, MinRNNOptions options = {});
  Tensor forward(const Tensor& x) const;
  /// Throws Error, and leaves the state as it is, if it is of sequences of another number.
  Tensor step(const Tensor& x, State& state) const;
  RETAPE_FIELDS(to_hidden_and_gate, to_out)

 private:
  Tensor run(const Tensor& x, State* state) const;
};
/// f = sigmoid(f_gate) and i = sigmoid(i_gate), both divided by their sum. Parameters to_hidden_and_f_i_gate and, if projected, to_out.
struct MinLSTM : Module {
  struct State : MinGRU::State {};
  int64_t dim, dim_inner;
  Linear to_hidden_and_f_i_gate;
  std::optional<Linear> to_out;
  MinLSTM(int64_t dim, MinRNNOptions options = {});
  Tensor forward(const Tensor& x) const;
  /// Throws Error, and leaves the state as it is, if it is of sequences of another number.
  Tensor step(const Tensor& x, State& state) const;
  RETAPE_FIELDS(to_hidden_and_f_i_gate, to_out)

 private:
  Tensor run(const Tensor& x, State* state) const;
};

}  // namespace retape::nn
