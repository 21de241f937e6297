// Generators and random tensors. The same seed gives the same numbers on every device and with any number of threads.
#pragma once
#include <memory>
#include <mutex>

#include <retape/core/philox.h>
#include <retape/core/tensor.h>

namespace retape {

/// A seed and a counter. Ops draw a stretch of the counter before they run and compute the numbers from it.
class Generator {
 public:
  explicit Generator(uint64_t seed = 0) : shared_(std::make_shared<Shared>()) { shared_->state.seed = seed; }
  Generator(const Generator&) = delete;
  Generator& operator=(const Generator&) = delete;
  void manual_seed(uint64_t seed);
  /// Reserves `count` numbers. Throws Error inside an op's forward: a replay would draw other numbers.
  RandomState draw(int64_t count);
  RandomState state() const;  ///< for checkpoints
  void set_state(RandomState state);

 private:
  struct Shared {  // with the captured graphs that draw from it
    std::mutex mutex;
    RandomState state;
    RandomState draw(int64_t count);
  };
  std::shared_ptr<Shared> shared_;
};
/// The generator that functions use when they are given none.
Generator& default_generator();
void manual_seed(uint64_t seed);

/// Uniform in [low, high). torch: rand.
Tensor rand(const Shape& shape, Options options = {}, Generator& generator = default_generator());
Tensor uniform(const Shape& shape, double low, double high, Options options = {}, Generator& generator = default_generator());
/// Normal with mean 0 and standard deviation 1 (Box-Muller). torch: randn.
Tensor randn(const Shape& shape, Options options = {}, Generator& generator = default_generator());
Tensor normal(const Shape& shape, double mean, double std, Options options = {}, Generator& generator = default_generator());
/// Integers in [low, high). torch: randint.
Tensor randint(int64_t low, int64_t high, const Shape& shape, Options options = {DType::i64}, Generator& generator = default_generator());
/// A random permutation of 0 .. n-1 as i64 (n). torch: randperm.
Tensor randperm(int64_t n, Generator& generator = default_generator());

namespace detail {  // write into an existing tensor; count as in-place writes
void fill_uniform(Tensor& x, double low, double high, Generator& generator);
void fill_normal(Tensor& x, double mean, double std, Generator& generator);
}  // namespace detail

}  // namespace retape
