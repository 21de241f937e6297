#include <retape/nn/relative_position.h>

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include <retape/autograd/index.h>
#include <retape/autograd/views.h>

namespace retape::nn {

Tensor alibi_slopes(int64_t heads, Device device) {
  if (heads <= 0) throw Error(fmt::format("alibi_slopes: {} heads are not valid; it must be a positive number", heads));
  const int64_t power = int64_t(std::bit_floor(uint64_t(heads)));
  std::vector<float> slopes;
  for (int64_t i = 1; i <= power; ++i) slopes.push_back(float(std::exp2(-8.0 * double(i) / double(power))));
  for (int64_t i = 1; int64_t(slopes.size()) < heads; i += 2) slopes.push_back(float(std::exp2(-4.0 * double(i) / double(power))));
  return to(tensor(slopes, {heads}), device);
}

T5RelativePositionBias::T5RelativePositionBias(int64_t heads, T5RelativePositionBiasOptions o)
    : options(o), relative_attention_bias(o.num_buckets, heads) {
  const int64_t exact = o.num_buckets / (o.bidirectional ? 4 : 2);
  if (exact <= 0 || o.max_distance <= exact)
    throw Error(
        fmt::format("T5RelativePositionBias: {} buckets up to a distance of {} are not valid; there must be {} or more, and the distance "
                    "must be beyond the {} that have a bucket each",
                    o.num_buckets, o.max_distance, o.bidirectional ? 4 : 2, exact));
}

int64_t T5RelativePositionBias::bucket(int64_t distance) const {
  int64_t buckets = options.num_buckets, first = 0, n = -distance;
  if (options.bidirectional) {
    buckets /= 2;
    if (distance > 0) first = buckets, n = distance;
  } else {
    n = std::max(n, int64_t{0});
  }
  const int64_t exact = buckets / 2;
  if (n < exact) return first + n;
  // in f32, as the models were trained: some distances lie on a border between buckets
  const float share = std::log(float(n) / float(exact)) / float(std::log(double(options.max_distance) / double(exact)));
  return first + std::min(exact + int64_t(share * float(buckets - exact)), buckets - 1);
}

Tensor T5RelativePositionBias::forward(int64_t queries, int64_t keys, int64_t query_offset) const {
  if (queries < 0 || keys < 0 || query_offset < 0)
    throw Error(fmt::format("T5RelativePositionBias: {} queries from position {} and {} keys are not valid; none may be negative", queries,
                            query_offset, keys));
  std::vector<int64_t> buckets;
  for (int64_t n = 0; n < queries + keys - 1; ++n) buckets.push_back(bucket(n - (queries - 1) - query_offset));
  const Tensor& table = relative_attention_bias.weight;
  const Shape size{int64_t(buckets.size())};
  return transpose(index_select(table, 0, retape::to(tensor(buckets, size), table.device())));
}

}  // namespace retape::nn
