#include <retape/autograd/sparse.h>

#include <fmt/format.h>

#include <retape/autograd/binary.h>
#include <retape/autograd/index.h>
#include <retape/autograd/indexing.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/scan.h>
#include <retape/autograd/sort.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>

namespace retape {
namespace {

struct RowGradient final : Object {
  std::vector<SparseRows> parts;  // whose sum it is
  bool coalesced = false;         // one part, in which each row is once
  void destroy() noexcept override { delete this; }
};
RowGradient* rows_of(const TensorImpl& leaf) { return static_cast<RowGradient*>(leaf.row_gradient.get()); }

// One part with all rows, which may repeat.
SparseRows joined(const std::vector<SparseRows>& parts) {
  if (parts.size() == 1) return parts.front();
  std::vector<Tensor> ids, values;
  for (auto& part : parts) ids.push_back(part.ids), values.push_back(part.values);
  return {cat(ids, 0), cat(values, 0), parts.front().shape};
}

void put(TensorImpl& leaf, SparseRows rows, bool coalesced) {
  const auto gradient = Ref<RowGradient>::adopt(new RowGradient);
  gradient->parts.push_back(std::move(rows));
  gradient->coalesced = coalesced;
  leaf.row_gradient = Ref<Object>::share(gradient.get());
}

}  // namespace

SparseRows coalesce(const SparseRows& rows) {
  const NoGrad off;
  const int64_t n = rows.ids.numel();
  if (n == 0) return rows;
  const auto [sorted, order] = sort(rows.ids);
  const Tensor first = cat({ones({1}, {DType::boolean, sorted.device()}), ne(narrow(sorted, 0, 1, n - 1), narrow(sorted, 0, 0, n - 1))}, 0);
  const Tensor ids = masked_select(sorted, first);
  const Tensor place = cumsum(cast(first, DType::i64), 0) - 1;
  Shape shape = rows.values.shape();
  shape[0] = ids.numel();
  const Tensor zero = zeros(shape, rows.values.options());
  return {ids, index_add(zero, 0, place, index_select(rows.values, 0, order)), rows.shape};
}

Tensor to_dense(const SparseRows& rows) {
  const NoGrad off;
  return index_add(zeros(rows.shape, rows.values.options()), 0, rows.ids, rows.values);
}

std::optional<SparseRows> sparse_grad(const Tensor& leaf) {
  RowGradient* const gradient = rows_of(*leaf.impl());
  if (!gradient) return {};
  if (!gradient->coalesced) {
    gradient->parts = {coalesce(joined(gradient->parts))};
    gradient->coalesced = true;
  }
  return gradient->parts.front();
}

void set_sparse_grad(const Tensor& leaf, std::optional<SparseRows> grad) {
  leaf->row_gradient = {};
  if (!grad) return;
  const auto& [ids, values, shape] = *grad;
  bool fits = ids && values && ids.dtype() == DType::i64 && ids.dim() == 1 && values.dim() == leaf.dim() && leaf.dim() > 0 &&
              values.shape()[0] == ids.numel() && shape == leaf.shape() && values.dtype() == leaf.dtype() &&
              values.device() == leaf.device() && ids.device() == leaf.device();
  for (int d = 1; fits && d < leaf.dim(); ++d) fits = values.shape()[d] == leaf.shape()[d];
  if (!fits)
    throw Error(
        fmt::format("set_sparse_grad: rows of shape {} of a gradient of shape {} do not fit a tensor of shape {} and {}; ids must be i64 "
                    "(n), values (n, ...) of the tensor's dtype and device",
                    values ? values.shape().str() : "()", shape.str(), leaf.shape().str(), name_of(leaf.dtype())));
  put(*leaf.impl(), {ids, values.detach(), shape}, false);
}

void detail::add_rows(TensorImpl& leaf, SparseRows rows) {
  if (leaf.gradient) {
    leaf.gradient = index_add(leaf.gradient, 0, rows.ids, rows.values);
  } else if (RowGradient* const gradient = rows_of(leaf)) {
    gradient->parts.push_back(std::move(rows));
    gradient->coalesced = false;
  } else {
    put(leaf, std::move(rows), false);
  }
}
void detail::merge_rows(TensorImpl& leaf) {
  RowGradient* const gradient = rows_of(leaf);
  if (!gradient || !leaf.gradient) return;
  const SparseRows rows = joined(gradient->parts);
  leaf.gradient = index_add(leaf.gradient, 0, rows.ids, rows.values);
  leaf.row_gradient = {};
}
Tensor detail::gradient_values(const Tensor& leaf) {
  if (const auto rows = sparse_grad(leaf)) return rows->values;
  return leaf.grad();
}

}  // namespace retape
