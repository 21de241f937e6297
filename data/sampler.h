// Which samples make a batch. Batch number i is a function of the seed and i alone, so that a run can go on anywhere.
#pragma once
#include <cstdint>
#include <vector>

namespace retape {

struct BatchSamplerOptions {
  int64_t batch_size = 1;
  bool shuffle = false;    ///< another random order each epoch; else the order of the dataset
  bool drop_last = false;  ///< leave out an epoch's last batch if it is not full
  uint64_t seed = 0;       ///< of the orders
};

/// The samples of one batch.
struct SampledBatch {
  int64_t number = 0;  ///< of the batch, counted through all epochs
  int64_t epoch = 0;
  /// Where each sample stands in the dataset.
  std::vector<int64_t> indices;
  /// indices[k] is sample number first + k of all epochs together. No two samples have the same number: it is what augmentations draw from.
  int64_t first = 0;
};

/// Cuts epochs over a dataset into batches. It has no position of its own: the number of the next batch is all that a run has to keep,
/// and DataLoader keeps it. torch: BatchSampler over a SequentialSampler or RandomSampler.
class BatchSampler {
 public:
  using Options = BatchSamplerOptions;
  /// For a dataset of `size` samples. Throws Error for a size or batch_size below 1, and if drop_last leaves nothing.
  explicit BatchSampler(int64_t size, const Options& options = {});

  /// Batch number i >= 0, counted through all epochs: epoch e begins with batch e * batches_per_epoch(). Each epoch has every sample once,
  /// but for those that drop_last leaves out. Throws Error for a negative i.
  SampledBatch batch(int64_t i) const;
  int64_t batches_per_epoch() const { return batches_; }
  int64_t size() const { return size_; }
  const Options& options() const { return options_; }

 private:
  int64_t size_, batches_;
  Options options_;
};

}  // namespace retape
