// State spaces that all channels share, with complex diagonal A: S5 and LRU.
#pragma once
#include <retape/nn/sequence_mixer.h>
#include <retape/nn/state_space.h>

namespace retape::nn {

enum class S5CInit : uint8_t { trunc_standard_normal, lecun_normal, complex_normal };
struct S5Options {
  int64_t ssm_size = 256;  ///< numbers of state, in pairs of conjugates
  int64_t blocks = 8;      ///< A starts as so many blocks of HiPPO's normal part
  S5CInit C_init = S5CInit::trunc_standard_normal;
  Discretization discretization = Discretization::zoh;
  double dt_min = 0.001, dt_max = 0.1;
  bool conj_sym = true;    ///< keep one of each pair of conjugates; false: both, on their own
  bool clip_eigs = false;  ///< keep real parts of A at -1e-4 or below: then states always fade
  double step_rescale = 1;
};
/// x' = A x + B u, y = Re(C x) + D u, or 2 Re(C x) with conj_sym: one state for all channels, A diagonal, a step size for each number.
/// linear_recurrence() over the whole or over pieces. x (B, T, d_model) gives the same. Parameters under the names of the authors' S5SSM:
/// Lambda_re, Lambda_im, B, C, D, log_step; started as there. States are f32 for half types, also under autocast. Throws Error if blocks
/// does not divide ssm_size into even parts and, in forward, for x of another shape. Smith et al. 2022 (arXiv 2208.04933).
struct S5 : Module {
  struct State {
    Tensor h;  ///< (B, P, 2), P = ssm_size / 2 or, without conj_sym, ssm_size
  };
  S5Options options;
  int64_t d_model;
  Parameter Lambda_re, Lambda_im;  // (P)
  Parameter B, C;                  // (P, d_model, 2), (d_model, P, 2)
  Parameter D, log_step;           // (d_model), (P, 1)

  S5(int64_t d_model, const S5Options& options = {});
  Tensor forward(const Tensor& x) const;
  /// Throws Error, and leaves the state as it is, if it is of sequences of another number.
  Tensor step(const Tensor& x, State& state) const;
  /// Throws Error unless all states fade: real parts of A may have been trained, or loaded, to 0 or above.
  void check_stable() const;
  RETAPE_FIELDS(Lambda_re, Lambda_im, B, C, D, log_step)

 private:
  detail::DiscreteStep discrete() const;
  Tensor run(const Tensor& x, State* state) const;
};

struct LRUOptions {
  int64_t d_state = 256;
  double r_min = 0, r_max = 1;  ///< absolute values of the factors start between them, evenly over the ring,
  double max_phase = 6.28;      ///< their angles between 0 and this
};
/// x_t = a x_(t-1) + gamma B u_t, y_t = Re(C x_t) + D u_t with a = exp(-exp(nu_log) + i exp(theta_log)), gamma = exp(gamma_log), which
/// starts as sqrt(1 - |a|^2): one state for all channels. linear_recurrence() over the whole or over pieces. x (B, T, d_model) gives the
/// same. Parameters nu_log, theta_log, gamma_log, B_re, B_im, C_re, C_im, D, as in the paper's listing. States are f32 for half types, also
/// under autocast. Throws Error for sizes below 1, for 0 <= r_min < r_max <= 1 not so, and, in forward, for x of another shape. Orvieto et
/// al. 2023 (arXiv 2303.06349).
struct LRU : Module {
  struct State {
    Tensor h;  ///< (B, d_state, 2)
  };
  int64_t d_model, d_state;
  Parameter nu_log, theta_log, gamma_log;  // (d_state)
  Parameter B_re, B_im, C_re, C_im, D;     // (d_state, d_model), (d_model, d_state), (d_model)

  LRU(int64_t d_model, const LRUOptions& options = {});
  Tensor forward(const Tensor& x) const;
  /// Throws Error, and leaves the state as it is, if it is of sequences of another number.
  Tensor step(const Tensor& x, State& state) const;
  /// Throws Error unless all states fade; they do unless nu_log is so low that |a| rounds to 1.
  void check_stable() const;
  RETAPE_FIELDS(nu_log, theta_log, gamma_log, B_re, B_im, C_re, C_im, D)

 private:
  Tensor factor() const;  // (d_state, 2)
  Tensor run(const Tensor& x, State* state) const;
};

}  // namespace retape::nn
