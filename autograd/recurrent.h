// One direction of a recurrent layer over a whole sequence, as one op. The modules are in nn/rnn.h.
#pragma once
#include <retape/core/kernel_args.h>

namespace retape {

/// The weights of one direction of one layer of H units with I inputs; the gates of an LSTM in the order i, f, g, o, those of a GRU r, z, n.
struct RecurrentWeights {
  Tensor w_ih;        ///< (gates * H, I)
  Tensor w_hh;        ///< (gates * H, R)
  Tensor b_ih, b_hh;  ///< (gates * H), or undefined
  Tensor w_hr;        ///< (R, H), or undefined: R = H. Of an LSTM only
};
struct RecurrentResult {
  Tensor y;         ///< (T, B, R)
  Tensor h_n, c_n;  ///< (B, R), (B, H); c_n of an LSTM only
};
/// x (T, B, I) from the first step to the last, or, if `reverse`, from the last to the first; h_0 (B, R) and c_0 (B, H, of an LSTM) are
/// zero where undefined. With a = w_ih x_t + b_ih and b = w_hh h + b_hh, a step makes
///
///     tanh, relu   h = tanh(a + b), h = max(a + b, 0)
///     lstm         c = sigmoid(f) c + sigmoid(i) tanh(g), h = sigmoid(o) tanh(c) for i, f, g, o of a + b; w_hr h with a projection
///     gru          h = (1 - z) n + z h with r, z = sigmoid(a + b), n = tanh(a_n + r b_n)
///
/// lengths (B), i64, each from 1 to T: how many steps of a sequence count. y is 0 behind them, h_n and c_n are the state after the last
/// of them, and the reverse direction begins there. On the CPU the values are checked; on another device, longer than T counts as T, and
/// below 1 nothing counts. All else floating, dtypes promote, f16 and bf16 are computed in f32 on the CPU. Throws Error for no steps, and
/// where shapes do not fit. Hochreiter & Schmidhuber 1997, Cho et al. 2014, Sak et al. 2014; torch: nn.RNN, nn.LSTM, nn.GRU.
RecurrentResult recurrent_layer(RecurrentKind kind, const Tensor& x, const RecurrentWeights& weights, const Tensor& h_0 = {},
                                const Tensor& c_0 = {}, const Tensor& lengths = {}, bool reverse = false);

}  // namespace retape
