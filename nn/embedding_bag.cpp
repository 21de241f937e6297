#include <retape/nn/embedding_bag.h>

#include <fmt/format.h>

#include <retape/autograd/index.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/sort.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>
#include <retape/nn/init.h>

namespace retape {
namespace {

constexpr auto name = "embedding_bag";

bool is_index(DType d) { return d == DType::i64 || d == DType::i32; }
void check_offsets(const Tensor& offsets, int64_t count, bool include_last) {
  if (!is_index(offsets.dtype()) || offsets.dim() != 1)
    throw Error(fmt::format("{}: offsets have shape {} and dtype {}; they must be i64 or i32 with one dim", name, offsets.shape().str(),
                            name_of(offsets.dtype())));
  if (include_last && offsets.numel() == 0) throw Error(fmt::format("{}: offsets are empty; include_last_offset needs one at least", name));
  if (!offsets.device().is_cpu() || offsets.numel() == 0) return;
  const auto all = offsets.to_vector<int64_t>();
  if (all.front() != 0) throw Error(fmt::format("{}: the first offset is {}; it must be 0", name, all.front()));
  for (size_t i = 1; i < all.size(); ++i)
    if (all[i] < all[i - 1]) throw Error(fmt::format("{}: offset {} follows {}; they must not fall", name, all[i], all[i - 1]));
  if (all.back() > count) throw Error(fmt::format("{}: the last offset is {}; there are {} ids", name, all.back(), count));
}

}  // namespace

Tensor embedding_bag(const Tensor& ids, const Tensor& weight, const EmbeddingBagFunctionOptions& o) {
  if (!ids || !weight) throw Error(fmt::format("{}: ids or weight is an undefined tensor", name));
  if (!is_floating(weight.dtype())) throw Error(fmt::format("{}: weight has dtype {}; it must be floating", name, name_of(weight.dtype())));
  if (o.offsets ? ids.dim() != 1 : ids.dim() != 2)
    throw Error(fmt::format("{}: ids have shape {}; they must be {}", name, ids.shape().str(),
                            o.offsets ? "(n) with offsets" : "(B, n) without offsets"));
  if (o.per_sample_weights && o.mode != BagMode::sum) throw Error(fmt::format("{}: per_sample_weights need mode sum", name));
  if (o.per_sample_weights && !(o.per_sample_weights.shape() == ids.shape()))
    throw Error(fmt::format("{}: per_sample_weights of shape {} and ids of shape {} differ; they must be equal", name,
                            o.per_sample_weights.shape().str(), ids.shape().str()));
  if (o.sparse && o.mode == BagMode::max)
    throw Error(fmt::format("{}: mode max has no sparse gradient; use sum or mean, or sparse = false", name));
  const int64_t count = ids.numel();
  if (o.offsets) check_offsets(o.offsets, count, o.include_last_offset);
  const int64_t bags = o.offsets ? o.offsets.numel() - o.include_last_offset : ids.shape()[0];
  const Tensor flat = reshape(ids, {-1});
  // Which bag each id is in; what counts nowhere goes to one more.
  const Tensor position = arange(double(count), {DType::i64, ids.device()});
  Tensor bag =
      o.offsets ? (bags + o.include_last_offset > 0 ? searchsorted(cast(o.offsets, DType::i64), position, true) - 1 : zeros_like(position))
                : floor_divide(position, ids.shape()[1] > 0 ? ids.shape()[1] : 1);
  if (o.padding_idx >= 0) bag = where(eq(flat, o.padding_idx), bags, bag);
  Tensor rows = embedding(weight, flat, o.padding_idx, o.sparse);
  if (o.per_sample_weights) rows = rows * unsqueeze(cast(reshape(o.per_sample_weights, {-1}), rows.dtype()), 1);
  const Tensor nothing = zeros({bags + 1, weight.shape()[1]}, rows.options());
  if (o.mode == BagMode::max) return narrow(index_reduce(nothing, 0, bag, rows, ReduceMode::amax, false), 0, 0, bags);
  const Tensor sums = narrow(index_add(nothing, 0, bag, rows), 0, 0, bags);
  if (o.mode == BagMode::sum) return sums;
  const Tensor sizes = index_add(zeros({bags + 1}, {DType::i64, ids.device()}), 0, bag, ones_like(bag));
  return sums / unsqueeze(cast(maximum(narrow(sizes, 0, 0, bags), 1), sums.dtype()), 1);
}

namespace nn {

EmbeddingBag::EmbeddingBag(int64_t num, int64_t dim, EmbeddingBagOptions o) : weight(empty_parameter({num, dim})), options(o) {
  init::normal(weight);
  auto& padding = options.padding_idx;
  if (!padding) return;
  if (*padding < -num || *padding >= num)
    throw Error(fmt::format("EmbeddingBag: padding_idx {} is out of range for {} embeddings", *padding, num));
  if (*padding < 0) *padding += num;
  const NoGrad off;
  init::zeros(select(weight, 0, *padding));
}
Tensor EmbeddingBag::forward(const Tensor& ids, const Tensor& offsets, const Tensor& per_sample_weights) const {
  return embedding_bag(ids, weight,
                       {.offsets = offsets,
                        .mode = options.mode,
                        .sparse = options.sparse,
                        .per_sample_weights = per_sample_weights,
                        .include_last_offset = options.include_last_offset,
                        .padding_idx = options.padding_idx.value_or(-1)});
}

}  // namespace nn
}  // namespace retape
