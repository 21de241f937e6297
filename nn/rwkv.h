// RWKV, version 4: mixing along time, and along channels.
#pragma once
#include <optional>

#include <retape/autograd/wkv.h>
#include <retape/nn/linear.h>
#include <retape/nn/sequence_mixer.h>

namespace retape::nn {

struct RWKVOptions {
  int64_t layer_id = 0, num_layers = 1;               ///< time constants start by the layer's depth
  std::optional<int64_t> attention_hidden_size = {};  ///< absent: hidden_size
};
/// Each position mixed with the one before it, and wkv() of its keys and values, gated: (B, T, hidden_size) to the same. Parameters under
/// the names, and started as, in Hugging Face's RwkvSelfAttention: time_decay, time_first, time_mix_key, time_mix_value,
/// time_mix_receptance, key, value, receptance, output, where time_first starts as in the authors' code. The average's state is f32 for
/// half types, also under autocast. Throws Error for sizes below 1, for a layer_id that num_layers has not, and, in forward, for x other
/// than (B, T, hidden_size). Peng et al. 2023 (arXiv 2305.13048).
struct RWKV : Module {
  struct State {
    Tensor last;       ///< (B, hidden_size): the input at the last position
    WkvState average;  ///< (B, attention_hidden_size) each
  };
  int64_t hidden_size, attention_hidden_size;
  Parameter time_decay, time_first;                             // (attention_hidden_size)
  Parameter time_mix_key, time_mix_value, time_mix_receptance;  // (1, 1, hidden_size)
  Linear key, value, receptance, output;

  RWKV(int64_t hidden_size, RWKVOptions options = {});
  Tensor forward(const Tensor& x) const;
  /// Throws Error, and leaves the state as it is, if it is of sequences of another number.
  Tensor step(const Tensor& x, State& state) const;
  RETAPE_FIELDS(time_decay, time_first, time_mix_key, time_mix_value, time_mix_receptance, key, value, receptance, output)

 private:
  Tensor run(const Tensor& x, State* state) const;
};

struct RWKVFeedForwardOptions {
  int64_t layer_id = 0, num_layers = 1;
  std::optional<int64_t> intermediate_size = {};  ///< absent: 4 hidden_size
};
/// sigmoid(receptance(..)) value(relu(key(..))^2) of each position mixed with the one before it: (B, T, hidden_size) to the same.
/// Parameters under the names, and started as, in Hugging Face's RwkvFeedForward: time_mix_key, time_mix_receptance, key, receptance,
/// value. Throws Error as RWKV does.
struct RWKVFeedForward : Module {
  struct State {
    Tensor last;  ///< (B, hidden_size): the input at the last position
  };
  int64_t hidden_size;
  Parameter time_mix_key, time_mix_receptance;  // (1, 1, hidden_size)
  Linear key, receptance, value;

  RWKVFeedForward(int64_t hidden_size, RWKVFeedForwardOptions options = {});
  Tensor forward(const Tensor& x) const;
  Tensor step(const Tensor& x, State& state) const;
  RETAPE_FIELDS(time_mix_key, time_mix_receptance, key, receptance, value)

 private:
  Tensor run(const Tensor& x, State* state) const;
};

}  // namespace retape::nn
