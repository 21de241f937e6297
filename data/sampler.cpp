#include <retape/data/sampler.h>

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include <retape/core/error.h>
#include <retape/core/philox.h>
#include <retape/data/shuffle.h>

namespace retape {

BatchSampler::BatchSampler(int64_t size, const Options& options) : size_(size), options_(options) {
  if (size < 1) throw Error(fmt::format("batch_sampler: a dataset of {} samples cannot be sampled; it must have at least 1", size));
  if (options.batch_size < 1)
    throw Error(fmt::format("batch_sampler: batch_size {} is not valid; it must be at least 1", options.batch_size));
  batches_ = size / options.batch_size + (!options.drop_last && size % options.batch_size != 0);
  if (batches_ == 0)
    throw Error(fmt::format("batch_sampler: drop_last leaves none of {} samples in batches of {}; use a batch_size of at most {}", size,
                            options.batch_size, size));
}

SampledBatch BatchSampler::batch(int64_t i) const {
  if (i < 0) throw Error(fmt::format("batch_sampler: there is no batch {}; batches are counted from 0", i));
  SampledBatch out;
  out.number = i;
  out.epoch = i / batches_;
  const int64_t begin = i % batches_ * options_.batch_size, end = begin + std::min(options_.batch_size, size_ - begin);
  out.first = out.epoch * size_ + begin;
  out.indices.resize(size_t(end - begin));
  std::iota(out.indices.begin(), out.indices.end(), begin);
  if (options_.shuffle) {
    const Philox random(options_.seed, uint64_t(out.epoch));
    const uint64_t key = uint64_t(random.x[0]) << 32 | random.x[1];
    for (int64_t& index : out.indices) index = int64_t(shuffled(uint64_t(index), uint64_t(size_), key));
  }
  return out;
}

}  // namespace retape
