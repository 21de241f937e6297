// NumPy's indexing in three steps: integers and slices cut a window out of x, Ellipsis and None shape it, and tensors, which become
// positions in the dims that they index, laid flat, select from it. Writing goes the same way back. Each step is recorded, so that
// all derivatives follow.
#include <retape/autograd/indexing.h>

#include <fmt/format.h>

#include <algorithm>

#include <retape/autograd/binary.h>
#include <retape/autograd/check.h>
#include <retape/autograd/index.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>
#include <retape/autograd/window.h>

namespace retape {
namespace {

using detail::Window;

struct FlatPositions {
  static constexpr auto name = "index";
  static constexpr int differentiable = 0;
  Shape to, sizes, dims;
  Tensor forward(const std::vector<Tensor>& indices) {
    std::vector<Tensor> all;
    for (auto& index : indices) all.push_back(expand(index, to));
    Tensor y = empty(to, {DType::i64, indices[0].device()});
    RETAPE_DISPATCH(y.device(), flat_positions(all, sizes, dims, y));
    return y;
  }
};
struct Nonzero {
  static constexpr auto name = "nonzero";
  static constexpr int differentiable = 0;
  bool flat;
  Tensor forward(const Tensor& mask) {
    const Tensor in = flat ? reshape(contiguous(mask), {mask.numel()}) : contiguous(mask);
    Tensor y = empty({sum(in).item<int64_t>(), in.dim()}, {DType::i64, in.device()});
    RETAPE_DISPATCH(y.device(), nonzero(in, y));
    return y;
  }
};
Tensor nonzero_of(const char* name, const Tensor& x, bool flat) {
  check_defined(name, x);
  if (x.device().is_meta())
    throw Error(fmt::format("{}: a meta tensor of shape {} has no values, so the result's shape is not known", name, x.shape().str()));
  return record(Nonzero{flat}, x.dtype() == DType::boolean ? x : ne(x, 0));
}
// Where mask is true, as positions in its dims laid flat (n).
Tensor flat_nonzero(const char* name, const Tensor& mask) {
  const Tensor positions = nonzero_of(name, mask, true);
  return reshape(positions, {positions.shape()[0]});
}

// ---- what a list of indices means for one tensor ----------------------------------------------------------------------

// A tensor among the indices: which dims of the shaped window it selects from. A mask has become positions in its dims laid flat.
struct Selector {
  Tensor index;
  int first, count;   // dims of the shaped window
  int64_t size, dim;  // how many elements these dims have; the first of them in x, for errors
};
struct Plan {
  Window window;
  Shape shape;                      // of the window without integer dims and with new ones
  std::vector<Selector> selectors;  // in order
  bool in_front = false;            // selected dims go to the front, where otherwise they stand where the first selector was
};

[[noreturn]] void too_many(const Tensor& x, int64_t used) {
  throw Error(fmt::format("index: {} dims are indexed, but a tensor of shape {} has {}; at most one index for each dim", used,
                          x.shape().str(), x.dim()));
}
bool is_mask(const Tensor& t) { return t.dtype() == DType::boolean || t.dtype() == DType::u8; }
int dims_of(const Index& i) {
  switch (i.kind) {
    case Index::Kind::integer:
    case Index::Kind::slice: return 1;
    case Index::Kind::tensor: break;
    default: return 0;
  }
  if (!i.tensor) throw Error("index: a tensor among the indices is undefined");
  return is_mask(i.tensor) ? i.tensor.dim() : 1;
}

void cut_slice(Window& w, int d, const Slice& s) {
  if (s.step == 0) throw Error(fmt::format("index: a slice of dim {} has step 0; it must not be 0", d));
  // As Python: ends are clamped to [0, n], or for negative steps to [-1, n - 1].
  const int64_t n = w.length[d], low = s.step < 0 ? -1 : 0, high = n + low;
  const auto end = [&](const Slice::End& e, int64_t otherwise) {
    return !e.given ? otherwise : std::clamp(e.value < 0 ? e.value + n : e.value, low, high);
  };
  const int64_t start = end(s.start, s.step < 0 ? high : low), stop = end(s.stop, s.step < 0 ? low : high);
  const int64_t span = s.step < 0 ? start - stop : stop - start;
  const uint64_t stride = s.step < 0 ? 0 - uint64_t(s.step) : uint64_t(s.step);
  const int64_t length = span <= 0 ? 0 : int64_t((uint64_t(span) - 1) / stride) + 1;
  w = w.with(d, length ? start : 0, length, length > 1 ? s.step : 1);
}
Selector selector(const Tensor& x, const Tensor& t, int dim, int at) {
  check_one_device("index", x, t);
  if (!is_mask(t)) {
    if (t.dtype() != DType::i64 && t.dtype() != DType::i32)
      throw Error(fmt::format("index: an index tensor has dtype {}; it must be i64 or i32, or bool or u8 for a mask", name_of(t.dtype())));
    return {t, at, 1, x.shape()[dim], dim};
  }
  for (int k = 0; k < t.dim(); ++k)
    if (t.shape()[k] != x.shape()[dim + k])
      throw Error(fmt::format("index: a mask of shape {} does not fit a tensor of shape {}: size {} at dim {} of the mask is {} at dim {}",
                              t.shape().str(), x.shape().str(), t.shape()[k], k, x.shape()[dim + k], dim + k));
  return {flat_nonzero("index", t), at, t.dim(), t.numel(), dim};
}

Plan plan(const Tensor& x, const std::vector<Index>& indices) {
  check_defined("index", x);
  int used = 0, ellipses = 0;
  bool selects = false;
  for (auto& i : indices) {
    used += dims_of(i);
    ellipses += i.kind == Index::Kind::ellipsis;
    selects |= i.kind == Index::Kind::tensor;
  }
  if (ellipses > 1) throw Error(fmt::format("index: {} Ellipsis are given; at most one can be filled in", ellipses));
  if (used > x.dim()) too_many(x, used);

  Plan p{Window::whole(x.shape()), {}, {}};
  int dim = 0;
  enum { before, inside, after } seen = before;  // of the run of integers and tensors; a second run sends the result to the front
  const auto keep = [&](int count) {
    for (; count > 0; --count) p.shape.push_back(p.window.length[dim++]);
  };
  for (auto& i : indices) {
    const bool advanced = i.kind == Index::Kind::tensor || i.kind == Index::Kind::integer;
    if (selects && advanced) {
      p.in_front |= seen == after;
      seen = inside;
    } else if (seen == inside) {
      seen = after;
    }
    switch (i.kind) {
      case Index::Kind::none: p.shape.push_back(1); break;
      case Index::Kind::ellipsis: keep(x.dim() - used); break;
      case Index::Kind::slice:
        cut_slice(p.window, dim, i.slice);
        keep(1);
        break;
      case Index::Kind::integer: {
        const int64_t n = x.shape()[dim];
        if (i.integer < -n || i.integer >= n)
          throw Error(
              fmt::format("index: {} is out of range for dim {} of {}; expected {} <= index < {}", i.integer, dim, x.shape().str(), -n, n));
        p.window = p.window.with(dim++, i.integer < 0 ? i.integer + n : i.integer, 1);
        break;
      }
      case Index::Kind::tensor:
        p.selectors.push_back(selector(x, i.tensor, dim, p.shape.rank()));
        keep(p.selectors.back().count);
        break;
    }
  }
  keep(x.dim() - dim);
  return p;
}

// ---- the steps --------------------------------------------------------------------------------------------------------

bool is_whole(const Window& w, const Tensor& x) {
  bool forward = true;
  for (int64_t step : w.step) forward = forward && step == 1;
  return forward && w.length == x.shape();
}
Tensor shaped_window(const Tensor& x, const Plan& p) {
  const Tensor y = is_whole(p.window, x) ? x : detail::read_window("index", x, p.window);
  return p.shape == y.shape() ? y : reshape(y, p.shape);
}

// Selecting as reading rows of (outer, positions, inner): how the shaped window becomes that, and the rows the result.
struct Selection {
  Shape order;         // of the window's dims: selected ones together
  bool moves = false;  // order is not 0, 1, 2, ...
  Shape ordered, rows, selected;
  Shape place;  // of the selected dims' result: from where they are to the front
  Tensor positions;
  Selection(const Plan& p) {
    const auto& all = p.selectors;
    bool together = true;
    Shape index, sizes, dims;
    std::vector<Tensor> indices;
    int64_t count = 1;
    unsigned taken = 0;
    for (size_t k = 0; k < all.size(); ++k) {
      const Selector& s = all[k];
      together = together && (k == 0 || s.first == all[k - 1].first + all[k - 1].count);
      index = broadcast_shapes("index", index, s.index.shape());
      sizes.push_back(s.size), dims.push_back(s.dim), indices.push_back(s.index);
      count *= s.size;
      for (int d = 0; d < s.count; ++d) taken |= 1u << (s.first + d);
    }
    const int first = together ? all[0].first : 0;
    int next = 0;
    const auto others = [&](int until) {
      for (; next < until; ++next)
        if (!(taken >> next & 1)) order.push_back(next);
    };
    others(first);
    if (!together) next = 0;
    for (int d = 0; d < p.shape.rank(); ++d)
      if (taken >> d & 1) order.push_back(d);
    others(p.shape.rank());
    rows = {1, count, 1};
    for (int d = 0; d < order.rank(); ++d) {
      const int64_t n = p.shape[int(order[d])];
      moves |= order[d] != d;
      ordered.push_back(n);
      if (!(taken >> order[d] & 1)) (d < first ? rows[0] : rows[2]) *= n;
    }
    for (int d = 0; d < first; ++d) selected.push_back(ordered[d]);
    for (int64_t n : index) selected.push_back(n);
    for (int d = first; d < order.rank(); ++d)
      if (!(taken >> order[d] & 1)) selected.push_back(ordered[d]);
    if (p.in_front && first) {
      for (int d = 0; d < index.rank(); ++d) place.push_back(first + d);
      for (int d = 0; d < selected.rank(); ++d)
        if (d < first || d >= first + index.rank()) place.push_back(d);
    }
    positions = reshape(record(FlatPositions{index, sizes, dims}, indices), {index.numel()});
  }
  Tensor as_rows(const Tensor& window) const { return reshape(moves ? permute(window, order) : window, rows); }
  Tensor from_rows(const Tensor& y) const {
    const Tensor window = reshape(y, ordered);
    return moves ? permute(window, inverse(order)) : window;
  }
  Shape result() const {
    Shape shape = selected;
    for (int d = 0; d < place.rank(); ++d) shape[d] = selected[int(place[d])];
    return shape;
  }
  Tensor to_result(const Tensor& read) const {
    const Tensor y = reshape(read, selected);
    return place.rank() ? permute(y, place) : y;
  }
  Tensor from_result(const Tensor& value) const {
    return reshape(place.rank() ? permute(value, inverse(place)) : value, {rows[0], positions.numel(), rows[2]});
  }

 private:
  static Shape inverse(const Shape& order) {
    Shape back = order;
    for (int d = 0; d < order.rank(); ++d) back[int(order[d])] = d;
    return back;
  }
};

Tensor broadcast_value(const Tensor& value, const Shape& shape) {
  Shape short_shape = value.shape();
  while (short_shape.rank() > shape.rank() && short_shape[0] == 1) short_shape.erase(0);
  bool fits = short_shape.rank() <= shape.rank();
  for (int d = 1; fits && d <= short_shape.rank(); ++d) fits = short_shape[-d] == shape[-d] || short_shape[-d] == 1;
  if (!fits)
    throw Error(
        fmt::format("put: a value of shape {} does not broadcast to the indexed elements of shape {}", value.shape().str(), shape.str()));
  return expand(short_shape == value.shape() ? value : reshape(value, short_shape), shape);
}
Tensor write_at(const Tensor& x, const std::vector<Index>& indices, const Tensor& given, bool accumulate) {
  const Plan p = plan(x, indices);
  if (!given) throw Error("put: the value is an undefined tensor");
  check_one_device("put", x, given);
  const Tensor value = cast(given, x.dtype());
  if (p.selectors.empty())
    return detail::write_window("put", x, p.window, reshape(broadcast_value(value, p.shape), p.window.length), accumulate);
  const Selection s(p);
  const Tensor from = s.from_result(broadcast_value(value, s.result())), into = s.as_rows(shaped_window(x, p));
  const Tensor rows = accumulate ? index_add(into, 1, s.positions, from) : index_copy(into, 1, s.positions, from);
  const Tensor window = s.from_rows(rows);
  if (is_whole(p.window, x)) return reshape(window, x.shape());
  return detail::write_window("put", x, p.window, reshape(window, p.window.length), false);
}

// Positions in x laid flat, checked.
Tensor flat_index(const char* name, const Tensor& x, const Tensor& index) {
  if (!x || !index) throw Error(fmt::format("{}: the tensor or the index is undefined", name));
  if (index.dtype() != DType::i64 && index.dtype() != DType::i32)
    throw Error(fmt::format("{}: the index has dtype {}; it must be i64 or i32", name, name_of(index.dtype())));
  check_one_device(name, x, index);
  return reshape(record(FlatPositions{index.shape(), {x.numel()}, {0}}, std::vector<Tensor>{index}), {index.numel()});
}
void check_mask(const char* name, const Tensor& x, const Tensor& mask) {
  if (!x || !mask) throw Error(fmt::format("{}: the tensor or the mask is undefined", name));
  if (mask.dtype() != DType::boolean) throw Error(fmt::format("{}: the mask has dtype {}; it must be bool", name, name_of(mask.dtype())));
  check_one_device(name, x, mask);
}

}  // namespace

Index::Index(bool mask) : kind(Kind::tensor), tensor(full({}, mask, {DType::boolean})) {}

Tensor Tensor::at(const std::vector<Index>& indices) const {
  const Plan p = plan(*this, indices);
  const Tensor window = shaped_window(*this, p);
  if (p.selectors.empty()) return window;
  const Selection s(p);
  return s.to_result(index_select(s.as_rows(window), 1, s.positions));
}
Tensor& Tensor::put(const std::vector<Index>& indices, const Tensor& value, bool accumulate) & {
  return *this = write_at(*this, indices, value, accumulate);
}
Tensor& Tensor::put(const std::vector<Index>& indices, double value, bool accumulate) & {
  check_defined("index", *this);
  return put(indices, full({}, value, options()), accumulate);
}
Tensor index_put(const Tensor& x, const std::vector<Index>& indices, const Tensor& values, bool accumulate) {
  if (autocasting())
    return under_autocast(
        Precision::widest, [&](auto& p, auto& q) { return index_put(p, indices, q, accumulate); }, x, values);
  return write_at(x, indices, values, accumulate);
}

Tensor take(const Tensor& x, const Tensor& index) {
  const Tensor positions = flat_index("take", x, index);
  return reshape(index_select(reshape(x, {x.numel()}), 0, positions), index.shape());
}
Tensor put(const Tensor& x, const Tensor& index, const Tensor& source, bool accumulate) {
  const Tensor positions = flat_index("put", x, index);
  if (!source || source.numel() != index.numel())
    throw Error(fmt::format("put: source of shape {} has not as many elements as the index of shape {}",
                            source ? source.shape().str() : "(undefined)", index.shape().str()));
  const Tensor flat = reshape(x, {x.numel()}), from = reshape(source, {source.numel()});
  return reshape(accumulate ? index_add(flat, 0, positions, from) : index_copy(flat, 0, positions, from), x.shape());
}

Tensor nonzero(const Tensor& x) { return nonzero_of("nonzero", x, false); }
Tensor argwhere(const Tensor& x) { return nonzero_of("argwhere", x, false); }
Tensor masked_select(const Tensor& x, const Tensor& mask) {
  check_mask("masked_select", x, mask);
  const Shape shape = broadcast_shapes("masked_select", x.shape(), mask.shape());
  return index_select(reshape(expand(x, shape), {shape.numel()}), 0, flat_nonzero("masked_select", expand(mask, shape)));
}
Tensor masked_scatter(const Tensor& x, const Tensor& mask, const Tensor& source) {
  check_mask("masked_scatter", x, mask);
  if (!(broadcast_shapes("masked_scatter", x.shape(), mask.shape()) == x.shape()))
    throw Error(fmt::format("masked_scatter: a mask of shape {} does not broadcast to x of shape {}", mask.shape().str(), x.shape().str()));
  const Tensor positions = flat_nonzero("masked_scatter", expand(mask, x.shape()));
  if (!source || source.numel() < positions.numel())
    throw Error(fmt::format("masked_scatter: source of shape {} has fewer elements than the {} that the mask names",
                            source ? source.shape().str() : "(undefined)", positions.numel()));
  const Tensor from = narrow(reshape(source, {source.numel()}), 0, 0, positions.numel());
  return reshape(index_copy(reshape(x, {x.numel()}), 0, positions, from), x.shape());
}

}  // namespace retape
