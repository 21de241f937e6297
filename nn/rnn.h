// Recurrent layers, and their single steps. A layer's direction runs as one op, see autograd/recurrent.h.
#pragma once
#include <utility>

#include <retape/autograd/recurrent.h>
#include <retape/nn/module.h>

namespace retape::nn {

enum class RNNNonlinearity : uint8_t { tanh, relu };

struct GRUOptions {
  int64_t num_layers = 1;
  bool bias = true;
  bool batch_first = false;
  double dropout = 0;  ///< of the outputs of all layers but the last, while training
  bool bidirectional = false;
};
struct RNNOptions {
  int64_t num_layers = 1;
  RNNNonlinearity nonlinearity = RNNNonlinearity::tanh;
  bool bias = true;
  bool batch_first = false;
  double dropout = 0;
  bool bidirectional = false;
};
struct LSTMOptions {
  int64_t num_layers = 1;
  bool bias = true;
  bool batch_first = false;
  double dropout = 0;
  bool bidirectional = false;
  int64_t proj_size = 0;  ///< above 0: outputs and h are projected to this size
};
using LSTMState = std::pair<Tensor, Tensor>;  ///< h, c

/// What RNN, LSTM and GRU share. Parameters have PyTorch's names, layer k's weight_ih_l<k>, weight_hh_l<k>, bias_ih_l<k>, bias_hh_l<k>,
/// weight_hr_l<k>, those of the reverse direction with _reverse behind them, and start uniform within 1 / sqrt(hidden_size).
struct RNNBase : Module {
  struct Direction {
    Parameter weight_ih, weight_hh, bias_ih, bias_hh, weight_hr;
  };
  int64_t input_size, hidden_size, num_layers, proj_size;
  bool bias, batch_first, bidirectional;
  double dropout;
  std::vector<Direction> weights;  // of layer 0 forward, layer 0 reverse, layer 1 forward, ...

  void fields(Visitor& visitor) override;

 protected:
  RNNBase(const char* name, RecurrentKind kind, int64_t input_size, int64_t hidden_size, const LSTMOptions& options);
  std::pair<Tensor, LSTMState> run(const Tensor& x, const LSTMState& start, const Tensor& lengths) const;

 private:
  const char* name_;
  RecurrentKind kind_;
};

// All three take x (T, B, input_size), (B, T, input_size) with batch_first, or one sequence (T, input_size), and give output
// (T, B, D * R), D = 2 if bidirectional (outputs of the two directions joined), R = hidden_size or proj_size, or likewise, and the last
// states h_n (num_layers * D, B, R), without B for one sequence. States to begin with are as those, and 0 where undefined. `lengths`, i64 (B)
// on the CPU or on x's device, says how many steps of each sequence count: what lies behind is not read, output is 0 there, h_n is the state
// after the last that counts, and the reverse direction begins with that one: what PyTorch does with pack_padded_sequence(enforce_sorted =
// False) and pad_packed_sequence. Throw Error for sizes that do not fit and for lengths outside [1, T].

/// h = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu of it. Gives {output, h_n}. Elman 1990; torch: nn.RNN.
struct RNN : RNNBase {
  RNN(int64_t input_size, int64_t hidden_size, const RNNOptions& options = {});
  std::pair<Tensor, Tensor> forward(const Tensor& x, const Tensor& h_0 = {}, const Tensor& lengths = {}) const;
  RETAPE_MODULE_BODY
};
/// Long short-term memory, gates in the order i, f, g, o. Gives {output, {h_n, c_n}}; c_n (num_layers * D, B, hidden_size).
/// Hochreiter & Schmidhuber 1997, projections by Sak et al. 2014; torch: nn.LSTM.
struct LSTM : RNNBase {
  LSTM(int64_t input_size, int64_t hidden_size, const LSTMOptions& options = {});
  std::pair<Tensor, LSTMState> forward(const Tensor& x, const LSTMState& hx = {}, const Tensor& lengths = {}) const;
  /// Takes the state in braces, too: `lstm(x, {h_0, c_0})`.
  std::pair<Tensor, LSTMState> operator()(const Tensor& x, const LSTMState& hx, const Tensor& lengths = {}) const {
    return detail::call(*this, x, hx, lengths);
  }
  RETAPE_MODULE_BODY
};
/// Gated recurrent unit, gates in the order r, z, n. Gives {output, h_n}. Cho et al. 2014, in the form in which r scales W_hn h + b_hn;
/// torch: nn.GRU.
struct GRU : RNNBase {
  GRU(int64_t input_size, int64_t hidden_size, const GRUOptions& options = {});
  std::pair<Tensor, Tensor> forward(const Tensor& x, const Tensor& h_0 = {}, const Tensor& lengths = {}) const;
  RETAPE_MODULE_BODY
};

struct RNNCellOptions {
  bool bias = true;
  RNNNonlinearity nonlinearity = RNNNonlinearity::tanh;
};
struct CellOptions {
  bool bias = true;
};
/// What the cells share: one step of x (B, input_size) or (input_size), the state (B, hidden_size) or (hidden_size), 0 where undefined.
struct RNNCellBase : Module {
  int64_t input_size, hidden_size;
  Parameter weight_ih, weight_hh, bias_ih, bias_hh;

 protected:
  RNNCellBase(const char* name, RecurrentKind kind, int64_t input_size, int64_t hidden_size, bool bias);
  LSTMState run(const Tensor& x, const LSTMState& state) const;

 private:
  const char* name_;
  RecurrentKind kind_;
};
/// One step of an RNN: the next h. torch: nn.RNNCell.
struct RNNCell : RNNCellBase {
  RNNCell(int64_t input_size, int64_t hidden_size, const RNNCellOptions& options = {});
  Tensor forward(const Tensor& x, const Tensor& h = {}) const;
  RETAPE_FIELDS(weight_ih, weight_hh, bias_ih, bias_hh)
};
/// One step of an LSTM: the next {h, c}. torch: nn.LSTMCell.
struct LSTMCell : RNNCellBase {
  LSTMCell(int64_t input_size, int64_t hidden_size, const CellOptions& options = {});
  LSTMState forward(const Tensor& x, const LSTMState& hx = {}) const;
  LSTMState operator()(const Tensor& x, const LSTMState& hx) const { return detail::call(*this, x, hx); }
  RETAPE_FIELDS(weight_ih, weight_hh, bias_ih, bias_hh)
};
/// One step of a GRU: the next h. torch: nn.GRUCell.
struct GRUCell : RNNCellBase {
  GRUCell(int64_t input_size, int64_t hidden_size, const CellOptions& options = {});
  Tensor forward(const Tensor& x, const Tensor& h = {}) const;
  RETAPE_FIELDS(weight_ih, weight_hh, bias_ih, bias_hh)
};

}  // namespace retape::nn
