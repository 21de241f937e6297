// Layers that mix the positions of a sequence, and can go on from where they stopped.
#pragma once
#include <any>
#include <memory>

#include <retape/nn/sequential.h>

namespace retape::nn {

/// A causal layer from (B, T, C) to (B, T, C). forward(x) takes a whole sequence. step(x, state) takes its next positions, any number T >= 1 of
/// them, and moves `state` on; a State made by default stands before the first position. A sequence in pieces through step() gives what forward()
/// in eval mode gives for the whole, up to rounding: step() drops nothing out. What a state holds may be differentiated through; generate under
/// NoGrad. A copy of a State goes on by itself. Layers may say otherwise of the last three.
template <class M>
concept SequenceMixer = TensorModule<M> && std::default_initializable<typename M::State> &&
    requires(M& m, const Tensor& x, typename M::State& state) {
  Tensor(m.step(x, state));
};

/// Any SequenceMixer, as a value. May be a field itself.
class AnySequenceMixer {
 public:
  /// That of the layer that is held, made by the first step.
  using State = std::any;

  template <SequenceMixer M> AnySequenceMixer(M&& m) : held_(std::make_unique<Of<M>>(std::move(m))) {}
  AnySequenceMixer(const AnySequenceMixer& o) : held_(o.held_->copy()) {}  // in clone() only, as for every module
  AnySequenceMixer(AnySequenceMixer&&) noexcept = default;
  AnySequenceMixer& operator=(AnySequenceMixer&&) noexcept = default;

  Tensor operator()(const Tensor& x) const { return held_->run(x); }
  /// Throws Error if `state` has been used with a layer of another type.
  Tensor step(const Tensor& x, State& state) const { return held_->step(x, state); }
  Module& module() const { return held_->module(); }

 private:
  struct Held {
    virtual ~Held() = default;
    virtual Tensor run(const Tensor& x) = 0;
    virtual Tensor step(const Tensor& x, State& state) = 0;
    virtual Module& module() = 0;
    virtual std::unique_ptr<Held> copy() const = 0;
  };
  [[noreturn]] static void wrong_state(const Module& m);
  template <class M> struct Of final : Held {
    M held;
    explicit Of(M m) : held(std::move(m)) {}
    Tensor run(const Tensor& x) override { return held(x); }
    Tensor step(const Tensor& x, State& state) override {
      if (!state.has_value()) state.emplace<typename M::State>();
      auto* own = std::any_cast<typename M::State>(&state);
      if (!own) wrong_state(held);
      return held.step(x, *own);
    }
    Module& module() override { return held; }
    std::unique_ptr<Held> copy() const override { return std::make_unique<Of>(M(held)); }
  };
  std::unique_ptr<Held> held_;
};

}  // namespace retape::nn
