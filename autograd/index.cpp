#include <retape/autograd/index.h>

#include <fmt/format.h>

#include <limits>

#include <retape/autograd/binary.h>
#include <retape/autograd/check.h>
#include <retape/autograd/indexing.h>
#include <retape/autograd/pass.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>

namespace retape {
namespace {

// Where an op reads or writes: along `dim`, whole rows of it (index (k), as index_select) or single elements (index like the source, as
// gather).
struct Along {
  const char* name;
  int dim;
  bool rows;
};
Tensor read(const Along& along, const Tensor& x, const Tensor& index);
Tensor write(const Along& along, PutKind kind, const Tensor& x, const Tensor& index, const Tensor& source);
Tensor add_to_zeros(const Along& along, const Shape& shape, const Tensor& index, const Tensor& source);
Shape source_shape(const Along& along, const Shape& x, const Tensor& index) {
  Shape shape = along.rows ? x : index.shape();
  if (along.rows) shape[along.dim] = index.numel();
  return shape;
}
// y, which nobody else holds, joined with source
Tensor joined(const Along& along, PutKind kind, Tensor y, const Tensor& index, const Tensor& source) {
  const Tensor i = contiguous(index), s = contiguous(source);
  if (along.rows) RETAPE_DISPATCH(y.device(), index_put(along.name, kind, i, s, along.dim, y));
  else RETAPE_DISPATCH(y.device(), scatter(along.name, kind, i, s, along.dim, y));
  return y;
}

// The gradient of reading is adding, and the other way round, so all derivatives exist.
struct Read {
  Along along;
  Shape from = {};
  Saved index = {};
  const char* name = along.name;
  Tensor forward(const Tensor& x, const Tensor& at) {
    from = x.shape(), index = save(at);
    const Tensor in = contiguous(x), i = contiguous(at);
    Tensor y = empty(source_shape(along, from, at), x.options());
    if (along.rows) RETAPE_DISPATCH(x.device(), index_select(along.name, in, along.dim, i, y));
    else RETAPE_DISPATCH(x.device(), gather(along.name, in, along.dim, i, y));
    return y;
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, add_to_zeros(along, from, *index, dy)); }
};
struct Add {  // x may be undefined: then source is added to zeros of `shape`
  Along along;
  Shape shape;
  bool into_zeros = false;
  Saved index = {};
  static constexpr auto precision = Precision::widest;
  const char* name = along.name;
  Tensor forward(const Tensor& x, const Tensor& at, const Tensor& source) {
    index = save(at);
    into_zeros = !x;
    return joined(along, PutKind::add, x ? clone(x) : zeros(shape, source.options()), at, source);
  }
  void backward(const Tensor& dy, Grads& dx) {
    if (!into_zeros) dx.set(0, dy);
    if (dx.wants(2)) dx.set(2, read(along, dy, *index));
  }
};
struct Replace {
  Along along;
  Saved index = {};
  static constexpr auto precision = Precision::widest;
  const char* name = along.name;
  Tensor forward(const Tensor& x, const Tensor& at, const Tensor& source) {
    index = save(at);
    return joined(along, PutKind::replace, clone(x), at, source);
  }
  void backward(const Tensor& dy, Grads& dx) {
    const Tensor at = *index;
    const Shape shape = source_shape(along, dy.shape(), at);
    if (dx.wants(0)) dx.set(0, write(along, PutKind::replace, dy, at, expand(zeros({}, dy.options()), shape)));
    if (!dx.wants(2)) return;
    // Of several values for one element the last stayed: the one whose number is found there.
    const Along flat{along.name, along.rows ? 0 : along.dim, along.rows};
    Tensor number = arange(0, double(at.numel()), 1, {DType::i64, dy.device()});
    if (!along.rows) number = reshape(number, at.shape());
    const Tensor places = zeros(along.rows ? Shape{dy.shape()[along.dim]} : dy.shape(), number.options());
    Tensor stayed = eq(read(flat, write(flat, PutKind::replace, places, at, number), at), number);
    if (along.rows) {
      Shape column = Shape::filled(shape.rank(), 1);
      column[along.dim] = shape[along.dim];
      stayed = reshape(stayed, column);
    }
    dx.set(2, where(stayed, read(along, dy, at), 0));
  }
};

void check_zero_factors(const char* name, const Tensor& zeros_in_product) {
  if (!ctx.differentiating || zeros_in_product.device().is_meta() || zeros_in_product.numel() == 0) return;
  if (amax(zeros_in_product.detach()).item() > 1)
    throw Error(fmt::format("{}: the product has no second derivative where several of its factors from source are 0", name));
}
struct Join {  // the product, or the larger or smaller one
  Along along;
  PutKind kind;
  bool include_self;  // if not, x holds at the index what leaves any source as it is
  Saved x = {}, index = {}, source = {}, y = {};
  const char* name = along.name;
  Tensor forward(const Tensor& in, const Tensor& at, const Tensor& from) {
    const Tensor out = joined(along, kind, clone(in), at, from);
    x = save(in), index = save(at), source = save(from), y = save(out);
    return out;
  }
  void backward(const Tensor& dy, Grads& dx) {
    const Tensor in = *x, at = *index, from = *source, out = *y;
    kind == PutKind::multiply ? of_product(dy, dx, in, at, from, out) : of_extreme(dy, dx, in, at, from, out);
  }
  void of_extreme(const Tensor& dy, Grads& dx, const Tensor& in, const Tensor& at, const Tensor& from, const Tensor& out) const {
    Tensor here = cast(eq(in, out), dy.dtype());
    const Tensor there = cast(eq(from, read(along, out, at)), dy.dtype());
    if (!include_self) here = write(along, PutKind::replace, here, at, zeros(at_shape(here, at), here.options()));
    const Tensor share = dy / maximum(write(along, PutKind::add, here, at, there), 1);
    dx.set(0, here * share);
    if (dx.wants(2)) dx.set(2, there * read(along, share, at));
  }
  void of_product(const Tensor& dy, Grads& dx, const Tensor& in, const Tensor& at, const Tensor& from, const Tensor& out) const {
    if (dx.wants(0)) {  // the product of all others: that with a factor 1 instead of 0, divided by it
      const Tensor factor = masked_fill(in, eq(in, 0), 1);
      dx.set(0, dy * record(Join{along, kind, true}, factor, at, from) / factor);
    }
    if (!dx.wants(2)) return;
    const Tensor zero = eq(from, 0), count = read(along, add_to_zeros(along, in.shape(), at, cast(zero, dy.dtype())), at);
    check_zero_factors(name, count);
    const Tensor alone = logical_and(zero, eq(count, 1));
    const Tensor others = record(Join{along, kind, true}, in, at, masked_fill(from, alone, 1));
    dx.set(2, where(alone, read(along, dy * others, at), read(along, dy * out, at) / masked_fill(from, zero, 1)));
  }
  Shape at_shape(const Tensor& whole, const Tensor& at) const { return source_shape(along, whole.shape(), at); }
};

Tensor read(const Along& along, const Tensor& x, const Tensor& index) { return record(Read{along}, x, index); }
Tensor add_to_zeros(const Along& along, const Shape& shape, const Tensor& index, const Tensor& source) {
  return record(Add{along, shape}, Tensor{}, index, source);
}
Tensor write(const Along& along, PutKind kind, const Tensor& x, const Tensor& index, const Tensor& source) {
  if (kind == PutKind::replace) return record(Replace{along}, x, index, source);
  if (kind == PutKind::add) return record(Add{along, x.shape()}, x, index, source);
  return record(Join{along, kind, true}, x, index, source);
}

struct EmbeddingBackward {
  static constexpr auto name = "embedding_backward";
  int64_t rows, padding_idx;
  Saved ids = {};
  Tensor forward(const Tensor& dy, const Tensor& at) {
    ids = save(at);
    const int64_t dim = dy.shape()[-1];
    const Tensor d = contiguous(reshape(dy, {at.numel(), dim})), i = contiguous(at);
    Tensor dw = zeros({rows, dim}, dy.options());
    RETAPE_DISPATCH(dy.device(), index_put(name, PutKind::add, i, d, 0, dw));
    if (padding_idx >= 0) {
      Tensor padding = narrow(dw, 0, padding_idx, 1);
      RETAPE_DISPATCH(dy.device(), fill(0, padding));
    }
    return dw;
  }
  void backward(const Tensor& ddw, Grads& g) {
    if (padding_idx < 0) return g.set(0, embedding(ddw, *ids));
    const Tensor padding = unsqueeze(eq(arange(0, double(rows), 1, {DType::i64, ddw.device()}), padding_idx), 1);
    g.set(0, embedding(masked_fill(ddw, padding, 0), *ids));
  }
};
struct Embedding {
  static constexpr auto name = "embedding";
  int64_t padding_idx;
  bool sparse;
  int64_t rows = 0;
  Saved ids = {};
  Tensor forward(const Tensor& weight, const Tensor& at) {
    ids = save(at), rows = weight.shape()[0];
    Shape shape = at.shape();
    shape.push_back(weight.shape()[1]);
    const Tensor w = contiguous(weight), i = contiguous(at);
    Tensor y = empty({at.numel(), weight.shape()[1]}, weight.options());
    RETAPE_DISPATCH(weight.device(), index_select(name, w, 0, i, y));
    return reshape(y, shape);
  }
  void backward(const Tensor& dy, Grads& dx) {
    if (!sparse || !detail::takes_rows(0)) return dx.set(0, record(EmbeddingBackward{rows, padding_idx}, dy, *ids));
    const Tensor at = *ids;
    Tensor flat = cast(reshape(at, {at.numel()}), DType::i64), values = reshape(dy, {at.numel(), dy.size(-1)});
    if (padding_idx >= 0) {
      const Tensor kept = select(nonzero(ne(flat, padding_idx)), 1, 0);
      flat = index_select(flat, 0, kept), values = index_select(values, 0, kept);
    }
    detail::set_rows(0, flat, contiguous(values));
  }
};

void check_index(const char* name, const Tensor& x, const Tensor& index) {
  if (!x || !index) throw Error(fmt::format("{}: the tensor or the index is undefined", name));
  if (index.dtype() != DType::i64 && index.dtype() != DType::i32)
    throw Error(fmt::format("{}: the index has dtype {}; it must be i64 or i32", name, name_of(index.dtype())));
  check_one_device(name, x, index);
}
// The index is a list of rows, or lies inside x except along dim.
Along check_along(const char* name, const Tensor& x, int64_t dim, const Tensor& index, bool rows) {
  check_index(name, x, index);
  if (rows && index.dim() > 1) throw Error(fmt::format("{}: the index has shape {}; it must have one dim", name, index.shape().str()));
  if (x.dim() == 0) throw Error(fmt::format("{}: a tensor with no dims has no elements to choose from", name));
  const int d = normalize_dim(name, dim, x.dim());
  bool fits = rows || index.dim() == x.dim();
  for (int i = 0; !rows && fits && i < x.dim(); ++i) fits = i == d || index.shape()[i] <= x.shape()[i];
  if (!fits)
    throw Error(
        fmt::format("{}: an index of shape {} does not fit a tensor of shape {} along dim {}; all other sizes must be at most the tensor's",
                    name, index.shape().str(), x.shape().str(), d));
  return {name, d, rows};
}
// The source in x's dtype, cut to the index's shape; a number is broadcast.
Tensor check_source(const Along& along, const Tensor& x, const Tensor& index, const Operand& source) {
  const Shape wanted = source_shape(along, x.shape(), index);
  if (!source.tensor()) return expand(full({}, source.value(), x.options()), wanted);
  const Tensor& s = *source.tensor();
  if (!s) throw Error(fmt::format("{}: source is an undefined tensor", along.name));
  check_one_device(along.name, x, s);
  if (along.rows) {
    if (!(s.shape() == wanted))
      throw Error(fmt::format("{}: source of shape {} does not fit; for x {} and {} indices along dim {} it must be {}", along.name,
                              s.shape().str(), x.shape().str(), index.numel(), along.dim, wanted.str()));
    return cast(s, x.dtype());
  }
  bool fits = s.dim() == index.dim();
  for (int i = 0; fits && i < s.dim(); ++i) fits = index.shape()[i] <= s.shape()[i];
  if (!fits)
    throw Error(fmt::format("{}: an index of shape {} does not fit source of shape {}; none of its sizes may be above source's", along.name,
                            index.shape().str(), s.shape().str()));
  Tensor y = cast(s, x.dtype());
  for (int i = 0; i < s.dim(); ++i)
    if (wanted[i] != s.shape()[i]) y = narrow(y, i, 0, wanted[i]);
  return y;
}
Tensor checked_write(const char* name, bool rows, PutKind kind, const Tensor& x, int64_t dim, const Tensor& index, const Operand& source) {
  if (autocasting() && source.tensor())
    return under_autocast(
        Add::precision, [&](auto& p, auto& q) { return checked_write(name, rows, kind, p, dim, index, q); }, x, *source.tensor());
  const Along along = check_along(name, x, dim, index, rows);
  return write(along, kind, x, index, check_source(along, x, index, source));
}

double least(DType d) {
  switch (d) {
    case DType::i64: return -0x1p63;
    case DType::i32: return -0x1p31;
    case DType::u8:
    case DType::boolean: return 0;
    default: return -std::numeric_limits<double>::infinity();
  }
}
Tensor reduced(const char* name, bool rows, const Tensor& x, int64_t dim, const Tensor& index, const Tensor& given, ReduceMode reduce,
               bool include_self) {
  const Along along = check_along(name, x, dim, index, rows);
  const Tensor source = check_source(along, x, index, given);
  const auto everywhere = [&](double value, DType dtype) { return expand(full({}, value, {dtype, x.device()}), source.shape()); };
  // Without x's own elements, they become the ones that change no result.
  const auto start = [&](const Tensor& neutral) { return include_self ? x : write(along, PutKind::replace, x, index, neutral); };
  switch (reduce) {
    case ReduceMode::prod: return record(Join{along, PutKind::multiply, true}, start(everywhere(1, x.dtype())), index, source);
    case ReduceMode::amax:
      return record(Join{along, PutKind::max, include_self}, start(everywhere(least(x.dtype()), x.dtype())), index, source);
    case ReduceMode::amin: {
      // The greatest integer is the complement of the least; as a double it would round up.
      Tensor greatest = everywhere(std::numeric_limits<double>::infinity(), x.dtype());
      if (x.dtype() == DType::i64) greatest = everywhere(-1, DType::i64) - everywhere(least(DType::i64), DType::i64);
      else if (!is_floating(x.dtype()))
        greatest = everywhere(x.dtype() == DType::i32 ? 0x1p31 - 1 : x.dtype() == DType::u8 ? 255 : 1, x.dtype());
      return record(Join{along, PutKind::min, include_self}, start(greatest), index, source);
    }
    default: break;
  }
  const Tensor total = write(along, PutKind::add, start(everywhere(0, x.dtype())), index, source);
  if (reduce == ReduceMode::sum) return total;
  const Tensor own = full(x.shape(), include_self, {DType::i64, x.device()});
  const Tensor count = maximum(write(along, PutKind::add, own, index, everywhere(1, DType::i64)), 1);
  if (is_floating(x.dtype())) return total / cast(count, x.dtype());
  return cast(floor(cast(total, DType::f64) / cast(count, DType::f64)), x.dtype());
}

}  // namespace

Tensor index_select(const Tensor& x, int64_t dim, const Tensor& index) {
  return read(check_along("index_select", x, dim, index, true), x, index);
}
Tensor index_add(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& source) {
  return checked_write("index_add", true, PutKind::add, x, dim, index, source);
}
Tensor index_copy(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& source) {
  return checked_write("index_copy", true, PutKind::replace, x, dim, index, source);
}
Tensor index_fill(const Tensor& x, int64_t dim, const Tensor& index, const Operand& value) {
  if (!value.tensor()) return checked_write("index_fill", true, PutKind::replace, x, dim, index, value);
  const Along along = check_along("index_fill", x, dim, index, true);
  const Tensor& v = *value.tensor();
  if (!v || v.dim() != 0)
    throw Error(fmt::format("index_fill: value has shape {}; it must be a number or have no dims", v ? v.shape().str() : "(undefined)"));
  return checked_write("index_fill", true, PutKind::replace, x, dim, index, expand(v, source_shape(along, x.shape(), index)));
}

Tensor gather(const Tensor& x, int64_t dim, const Tensor& index) { return read(check_along("gather", x, dim, index, false), x, index); }
Tensor take_along_dim(const Tensor& x, const Tensor& index, int64_t dim) {
  check_index("take_along_dim", x, index);
  if (x.dim() != index.dim() || x.dim() == 0)
    throw Error(fmt::format("take_along_dim: an index of shape {} does not fit a tensor of shape {}; they must have equally many dims",
                            index.shape().str(), x.shape().str()));
  const int d = normalize_dim("take_along_dim", dim, x.dim());
  Shape a = x.shape(), b = index.shape();
  a[d] = b[d] = 1;
  Shape all = broadcast_shapes("take_along_dim", a, b);
  all[d] = x.shape()[d];
  const Tensor from = expand(x, all);
  all[d] = index.shape()[d];
  return read({"take_along_dim", d, false}, from, expand(index, all));
}
Tensor take_along_dim(const Tensor& x, const Tensor& index) {
  check_index("take_along_dim", x, index);
  return take_along_dim(flatten(x), flatten(index), 0);
}
Tensor scatter_add(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& source) {
  return checked_write("scatter_add", false, PutKind::add, x, dim, index, source);
}
Tensor scatter(const Tensor& x, int64_t dim, const Tensor& index, const Operand& source, ScatterMode reduce) {
  const PutKind kind = reduce == ScatterMode::none ? PutKind::replace : reduce == ScatterMode::add ? PutKind::add : PutKind::multiply;
  return checked_write("scatter", false, kind, x, dim, index, source);
}
Tensor scatter_reduce(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& source, ReduceMode reduce, bool include_self) {
  return reduced("scatter_reduce", false, x, dim, index, source, reduce, include_self);
}
Tensor index_reduce(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& source, ReduceMode reduce, bool include_self) {
  return reduced("index_reduce", true, x, dim, index, source, reduce, include_self);
}
Tensor embedding(const Tensor& weight, const Tensor& ids, int64_t padding_idx, bool sparse) {
  check_index("embedding", weight, ids);
  if (weight.dim() != 2)
    throw Error(fmt::format("embedding: weight has shape {}; it must have two dims, (rows, dim)", weight.shape().str()));
  if (padding_idx < -1 || padding_idx >= weight.shape()[0])
    throw Error(fmt::format("embedding: padding_idx {} is out of range for {} rows; -1 means none", padding_idx, weight.shape()[0]));
  return record(Embedding{padding_idx, sparse}, weight, ids);
}

}  // namespace retape
