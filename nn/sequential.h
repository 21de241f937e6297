// Modules one after the other.
#pragma once
#include <memory>
#include <vector>

#include <retape/nn/module.h>

namespace retape::nn {

template <class M> concept TensorModule = std::is_base_of_v<Module, M> && requires(M& m, const Tensor& x) { Tensor(m.forward(x)); };

/// Any module that maps a tensor to a tensor, as a value. May be a field itself: `std::vector<nn::AnyModule> stages`.
class AnyModule {
 public:
  template <TensorModule M> AnyModule(M&& m) : held_(std::make_unique<Of<M>>(std::move(m))) {}
  AnyModule(const AnyModule& o) : held_(o.held_->copy()) {}  // in clone() only, as for every module
  AnyModule(AnyModule&&) noexcept = default;
  AnyModule& operator=(AnyModule&&) noexcept = default;

  Tensor operator()(const Tensor& x) const { return held_->run(x); }
  Module& module() const { return held_->module(); }

 private:
  struct Held {
    virtual ~Held() = default;
    virtual Tensor run(const Tensor& x) = 0;
    virtual Module& module() = 0;
    virtual std::unique_ptr<Held> copy() const = 0;
  };
  [[noreturn]] static void cannot_clone(const Module& m);
  template <class M> struct Of final : Held {
    M held;
    explicit Of(M m) : held(std::move(m)) {}
    Tensor run(const Tensor& x) override { return held(x); }
    Module& module() override { return held; }
    std::unique_ptr<Held> copy() const override {
      if constexpr (std::is_copy_constructible_v<M>) return std::make_unique<Of>(M(held));
      else cannot_clone(held);
    }
  };
  std::unique_ptr<Held> held_;
};

/// Runs modules in order. Their names are "0", "1", ...: torch: nn.Sequential.
///
///     nn::Sequential net(nn::Linear(2, 8), nn::ReLU(), nn::Linear(8, 1));
struct Sequential : Module {
  std::vector<AnyModule> layers;
  Sequential() = default;
  template <TensorModule First, TensorModule... M> explicit Sequential(First&& first, M&&... m) {
    layers.reserve(1 + sizeof...(m));
    layers.emplace_back(std::move(first));
    (layers.emplace_back(std::move(m)), ...);
  }
  Sequential(const Sequential&) = default;
  Sequential(Sequential&&) noexcept = default;
  Sequential& operator=(Sequential&&) noexcept = default;

  /// Appends a module. Returns *this.
  template <class M> Sequential& add(M&& m) {
    layers.emplace_back(std::forward<M>(m));
    return *this;
  }
  size_t size() const { return layers.size(); }
  /// The module at `index`. Throws Error if there is none.
  Module& operator[](size_t index) const;
  /// The same as its own type; throws Error if it has another.
  template <class M> M& at(size_t index) const {
    if (auto* m = dynamic_cast<M*>(&(*this)[index])) return *m;
    wrong_type(index);
  }
  Tensor forward(Tensor x) const;
  void fields(Visitor& v) override;
  RETAPE_MODULE_BODY

 private:
  [[noreturn]] void wrong_type(size_t index) const;
};

}  // namespace retape::nn
