// Batches that worker threads make ahead of the consumer. Neither their order nor their content depends on the number of workers.
//
//     const BatchSampler sampler(data.size(), {.batch_size = 64, .shuffle = true, .seed = 1});
//     DataLoader<ImageBatch> loader([&](int64_t i) { return make_image_batch(data, sampler.batch(i), transform); }, {.num_workers = 2});
//     for (int64_t step = 0; step < steps; ++step) {
//       const ImageBatch batch = *loader.next();
//       ...
//     }
//     checkpoint: loader.state(); a run that goes on: loader.set_state(state).
#pragma once
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>

#include <retape/core/philox.h>

namespace retape {

struct DataLoaderOptions {
  int num_workers = 0;      ///< threads; 0: batches are made in the thread that calls next(), when it does
  int prefetch_factor = 2;  ///< batches that each worker may be ahead
  uint64_t seed = 0;        ///< what batches are drawn from: state() carries it, and set_state() takes no other
  int64_t batches = std::numeric_limits<int64_t>::max();  ///< next() ends before this number; as it is, never
};

namespace detail {

// DataLoader without the type of a batch.
class Prefetcher {
 public:
  using Make = std::function<std::shared_ptr<void>(int64_t)>;
  Prefetcher(Make make, const DataLoaderOptions& options);
  ~Prefetcher();
  std::shared_ptr<void> next();  // null at the end
  void stop();
  int64_t position() const;
  void set_position(int64_t i);
  double waited() const;

 private:
  struct Shared;
  std::unique_ptr<Shared> shared_;
};

}  // namespace detail

/// next() gives make(0), make(1), ... in this order. `make` runs on several workers at the same time: it reads what is shared and writes
/// to nothing that is. If its result depends on its argument alone, as with BatchSampler and the augmentations, a run that sets the
/// position of an earlier one goes on with the same batches, whatever the number of workers.
///
/// A worker runs kernels on its own thread: its OpenMP teams have one thread, so that they do not fight with the trainer's for the
/// cores. What else belongs to a thread (docs/threads.md), such as NoGrad, `make` sets itself. torch: utils.data.DataLoader.
template <class Batch> class DataLoader {
 public:
  using Options = DataLoaderOptions;
  /// Workers start with the first next(). Throws Error for a negative num_workers or batches, and for a prefetch_factor below 1.
  explicit DataLoader(std::function<Batch(int64_t)> make, const Options& options = {})
      : seed_(options.seed),
        prefetcher_([make = std::move(make)](int64_t i) -> std::shared_ptr<void> { return std::make_shared<Batch>(make(i)); }, options) {}
  /// Waits for the batches that are being made, and ends the workers.
  ~DataLoader() = default;

  /// The next batch, or nothing at the end. What `make` has thrown is thrown here, where the batch would have come; the
  /// next call goes on with the batch after it. One thread at a time may call this.
  std::optional<Batch> next() {
    const std::shared_ptr<void> batch = prefetcher_.next();
    if (!batch) return std::nullopt;
    return std::move(*static_cast<Batch*>(batch.get()));
  }
  /// The number of the batch that next() gives.
  int64_t position() const { return prefetcher_.position(); }
  /// Goes on with batch i, forward or back; what has been made ahead is dropped. Throws Error for a negative number.
  void set_position(int64_t i) { prefetcher_.set_position(i); }
  /// The seed and the position, for a checkpoint.
  RandomState state() const { return {seed_, uint64_t(position())}; }
  /// Goes on where a loader was. Throws Error if that one had another seed, since its batches would not go on here.
  void set_state(RandomState state);
  /// Ends the workers, at any time and from any thread; a next() that waits throws Error, as do all later ones.
  void stop() { prefetcher_.stop(); }
  /// Seconds that next() has waited for batches, all calls together; without workers, the time that `make` took.
  double waited() const { return prefetcher_.waited(); }

 private:
  uint64_t seed_;
  detail::Prefetcher prefetcher_;
};

namespace detail {
int64_t loader_position(RandomState state, uint64_t seed);
}
template <class Batch> void DataLoader<Batch>::set_state(RandomState state) { set_position(detail::loader_position(state, seed_)); }

}  // namespace retape
