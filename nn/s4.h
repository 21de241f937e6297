// Structured state spaces, one of d_state numbers for each channel: S4D, whose A is diagonal, and S4, where it is diagonal plus low rank.
#pragma once
#include <optional>

#include <retape/nn/convolution.h>
#include <retape/nn/dropout.h>
#include <retape/nn/sequence_mixer.h>
#include <retape/nn/state_space.h>

namespace retape::nn {

/// Where the diagonal of S4D starts, for n = 0 ... d_state / 2 - 1: -1/2 + i pi n; -1/2 + i d_state / pi (d_state / (2 n + 1) - 1); -(n +
/// 1).
enum class S4DInit : uint8_t { lin, inv, real };
struct S4Options {
  int64_t d_state = 64;  ///< of a channel, in pairs of conjugates
  double dt_min = 0.001, dt_max = 0.1;
  double dropout = 0;         ///< of whole channels, while training, before output_linear
  bool output_linear = true;  ///< gelu, and a projection to twice the channels with a gate; false: the states' output alone
};
struct S4DOptions {
  int64_t d_state = 64;
  double dt_min = 0.001, dt_max = 0.1;
  double dropout = 0;
  bool output_linear = true;
  S4DInit init = S4DInit::lin;
  Discretization discretization = Discretization::zoh;
};

/// What S4D and S4 share: their states' output y gets D u, and goes on as the options say. Names are those of state-spaces' s4d.py.
struct S4Base : Module {
  struct State {
    Tensor h;  ///< (B, d_model, d_state / 2, 2), f32 for half types: one of each pair of conjugates
  };
  int64_t d_model, d_state;
  Parameter D;  // (d_model)
  Dropout1d dropout;
  std::vector<Conv1d> output_linear;  // none, or one of (2 d_model, d_model, 1)

 protected:
  S4Base(const char* name, int64_t d_model, const S4Options& options);
  void check(const Tensor& x, const State* state) const;
  Tensor finish(const Tensor& y, const Tensor& u) const;
  const char* name_;
};

/// x' = A x + u, y = 2 Re(C x) for every channel, A diagonal, in steps of exp(log_dt). forward() is a convolution with the kernel of the
/// whole length, made from A's powers in f64 (products of matrices: of every sqrt(T)th power with the first sqrt(T)); step() goes through
/// the states. Parameters under the names of state-spaces' s4d.py: D, kernel.C, kernel.log_dt, kernel.log_A_real, kernel.A_imag,
/// output_linear.0; started as there. x (B, T, d_model) gives the same. Throws Error for an odd d_state, sizes below 1, and, in forward,
/// for x of another shape. Gu et al. 2022 (arXiv 2206.11893).
struct S4D : S4Base {
  struct State : S4Base::State {};
  struct Kernel : Module {
    Parameter C, log_dt, log_A_real, A_imag;  // (d_model, d_state / 2, 2), (d_model), (d_model, d_state / 2) each
    Discretization discretization = Discretization::zoh;
    /// (d_model, length), f64.
    Tensor forward(int64_t length) const;
    /// In f64: the step, and C times what it multiplies the input by.
    std::pair<detail::ComplexParts, detail::ComplexParts> step() const;
    RETAPE_FIELDS(C, log_dt, log_A_real, A_imag)
  };
  Kernel kernel;

  S4D(int64_t d_model, const S4DOptions& options = {});
  Tensor forward(const Tensor& x) const;
  /// Throws Error, and leaves the state as it is, if it is of sequences of another number.
  Tensor step(const Tensor& x, State& state) const;
  /// Throws Error unless all states fade; they do unless A's real part is as good as 0.
  void check_stable() const;
  RETAPE_FIELDS(D, kernel, dropout, output_linear)
};

/// x' = A x + B u, y = 2 Re(C x) for every channel, A = diag(A) - P P^*, by the bilinear rule. It starts as HiPPO-LegS. forward() is a
/// convolution with the kernel of the whole length, made in f64 from the states of one impulse (dplr_kernel()): a step is diagonal less
/// rank one by Woodbury's identity, O(d_state) a channel, where the paper's Cauchy products need A's power of the whole length as well.
/// step() goes through the states. States always fade, since A is dissipative. Parameters D, kernel.C, kernel.log_dt, kernel.B, kernel.P,
/// kernel.log_A_real, kernel.A_imag, output_linear.0. Throws Error as S4D does. Gu et al. 2021 (arXiv 2111.00396), section 3 and appendix
/// C.
struct S4 : S4Base {
  struct State : S4Base::State {};
  struct Kernel : Module {
    Parameter C, log_dt, B, P, log_A_real, A_imag;  // as S4D's; B and P as C
    /// (d_model, length), f64.
    Tensor forward(int64_t length) const;
    RETAPE_FIELDS(C, log_dt, B, P, log_A_real, A_imag)
  };
  Kernel kernel;

  S4(int64_t d_model, const S4Options& options = {});
  Tensor forward(const Tensor& x) const;
  /// Throws Error, and leaves the state as it is, if it is of sequences of another number.
  Tensor step(const Tensor& x, State& state) const;
  RETAPE_FIELDS(D, kernel, dropout, output_linear)
};

}  // namespace retape::nn
