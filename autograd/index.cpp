#include <retape/autograd/index.h>

#include <fmt/format.h>

#include <retape/autograd/binary.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>

namespace retape {
namespace {

// The gradient of reading is adding, and the other way round: each op's backward is the other, so all derivatives exist.

struct IndexAdd {  // x may be undefined: then source is added to zeros of `shape`
  static constexpr auto name = "index_add";
  int dim;
  Shape shape;
  bool into_zeros = false;
  Saved index = {};
  Tensor forward(const Tensor& x, const Tensor& at, const Tensor& source) {
    index = save(at);
    into_zeros = !x;
    Tensor y = x ? clone(x) : zeros(shape, source.options());
    const Tensor i = contiguous(at), s = contiguous(source);
    RETAPE_DISPATCH(y.device(), index_add(i, s, dim, y));
    return y;
  }
  void backward(const Tensor& dy, Grads& dx) {
    if (!into_zeros) dx.set(0, dy);
    if (dx.wants(2)) dx.set(2, index_select(dy, dim, *index));
  }
};
struct IndexSelect {
  static constexpr auto name = "index_select";
  int dim;
  Shape from = {};
  Saved index = {};
  Tensor forward(const Tensor& x, const Tensor& at) {
    from = x.shape(), index = save(at);
    Shape shape = from;
    shape[dim] = at.numel();
    const Tensor in = contiguous(x), i = contiguous(at);
    Tensor y = empty(shape, x.options());
    RETAPE_DISPATCH(x.device(), index_select(in, dim, i, y));
    return y;
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, record(IndexAdd{dim, from}, Tensor{}, *index, dy)); }
};

struct ScatterAdd {  // x may be undefined, as above
  static constexpr auto name = "scatter_add";
  int dim;
  Shape shape;
  bool into_zeros = false;
  Saved index = {};
  Tensor forward(const Tensor& x, const Tensor& at, const Tensor& source) {
    index = save(at);
    into_zeros = !x;
    Tensor y = x ? clone(x) : zeros(shape, source.options());
    const Tensor i = contiguous(at), s = contiguous(source);
    RETAPE_DISPATCH(y.device(), scatter_add(i, s, dim, y));
    return y;
  }
  void backward(const Tensor& dy, Grads& dx) {
    if (!into_zeros) dx.set(0, dy);
    if (dx.wants(2)) dx.set(2, gather(dy, dim, *index));
  }
};
struct Gather {
  static constexpr auto name = "gather";
  int dim;
  Shape from = {};
  Saved index = {};
  Tensor forward(const Tensor& x, const Tensor& at) {
    from = x.shape(), index = save(at);
    const Tensor in = contiguous(x), i = contiguous(at);
    Tensor y = empty(at.shape(), x.options());
    RETAPE_DISPATCH(x.device(), gather(in, dim, i, y));
    return y;
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, record(ScatterAdd{dim, from}, Tensor{}, *index, dy)); }
};

struct EmbeddingBackward {
  static constexpr auto name = "embedding_backward";
  int64_t rows, padding_idx;
  Saved ids = {};
  Tensor forward(const Tensor& dy, const Tensor& at) {
    ids = save(at);
    const int64_t dim = dy.shape()[-1];
    const Tensor d = contiguous(reshape(dy, {at.numel(), dim})), i = contiguous(at);
    Tensor dw = zeros({rows, dim}, dy.options());
    RETAPE_DISPATCH(dy.device(), index_add(i, d, 0, dw));
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
  int64_t padding_idx, rows = 0;
  Saved ids = {};
  Tensor forward(const Tensor& weight, const Tensor& at) {
    ids = save(at), rows = weight.shape()[0];
    Shape shape = at.shape();
    shape.push_back(weight.shape()[1]);
    const Tensor w = contiguous(weight), i = contiguous(at);
    Tensor y = empty({at.numel(), weight.shape()[1]}, weight.options());
    RETAPE_DISPATCH(weight.device(), index_select(w, 0, i, y));
    return reshape(y, shape);
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, record(EmbeddingBackward{rows, padding_idx}, dy, *ids)); }
};

void check_index(const char* name, const Tensor& x, const Tensor& index) {
  if (!x || !index) throw Error(fmt::format("{}: the tensor or the index is undefined", name));
  if (index.dtype() != DType::i64 && index.dtype() != DType::i32)
    throw Error(fmt::format("{}: the index has dtype {}; it must be i64 or i32", name, name_of(index.dtype())));
  if (!(x.device() == index.device()))
    throw Error(fmt::format("{}: the tensor and the index are on different devices; move one with to()", name));
}
int index_dim(const char* name, const Tensor& x, int64_t dim) {
  if (x.dim() == 0) throw Error(fmt::format("{}: a tensor with no dims has no elements to choose from", name));
  return normalize_dim(name, dim, x.dim());
}
int check_list(const char* name, const Tensor& x, int64_t dim, const Tensor& index) {
  check_index(name, x, index);
  if (index.dim() > 1) throw Error(fmt::format("{}: the index has shape {}; it must have one dim", name, index.shape().str()));
  return index_dim(name, x, dim);
}
// index lies inside x except along dim.
int check_box(const char* name, const Tensor& x, int64_t dim, const Tensor& index) {
  check_index(name, x, index);
  const int d = index_dim(name, x, dim);
  bool fits = index.dim() == x.dim();
  for (int i = 0; fits && i < x.dim(); ++i) fits = i == d || index.shape()[i] <= x.shape()[i];
  if (!fits)
    throw Error(
        fmt::format("{}: an index of shape {} does not fit a tensor of shape {} along dim {}; all other sizes must be at most the tensor's",
                    name, index.shape().str(), x.shape().str(), d));
  return d;
}
Tensor check_source(const char* name, const Tensor& x, const Tensor& source) {
  if (!source) throw Error(fmt::format("{}: source is an undefined tensor", name));
  if (!(x.device() == source.device()))
    throw Error(fmt::format("{}: the tensor and source are on different devices; move one with to()", name));
  return cast(source, x.dtype());
}

}  // namespace

Tensor index_select(const Tensor& x, int64_t dim, const Tensor& index) {
  const int d = check_list("index_select", x, dim, index);
  return record(IndexSelect{d}, x, index);
}
Tensor index_add(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& source) {
  const int d = check_list("index_add", x, dim, index);
  const Tensor added = check_source("index_add", x, source);
  Shape wanted = x.shape();
  wanted[d] = index.numel();
  if (!(source.shape() == wanted))
    throw Error(fmt::format("index_add: source of shape {} does not fit; for x {} and {} indices along dim {} it must be {}",
                            source.shape().str(), x.shape().str(), index.numel(), d, wanted.str()));
  return record(IndexAdd{d, x.shape()}, x, index, added);
}
Tensor gather(const Tensor& x, int64_t dim, const Tensor& index) {
  const int d = check_box("gather", x, dim, index);
  return record(Gather{d}, x, index);
}
Tensor scatter_add(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& source) {
  const int d = check_box("scatter_add", x, dim, index);
  Tensor added = check_source("scatter_add", x, source);
  bool fits = source.dim() == index.dim();
  for (int i = 0; fits && i < source.dim(); ++i) fits = index.shape()[i] <= source.shape()[i];
  if (!fits)
    throw Error(fmt::format("scatter_add: an index of shape {} does not fit source of shape {}; none of its sizes may be above source's",
                            index.shape().str(), source.shape().str()));
  for (int i = 0; i < source.dim(); ++i)
    if (index.shape()[i] != source.shape()[i]) added = narrow(added, i, 0, index.shape()[i]);
  return record(ScatterAdd{d, x.shape()}, x, index, added);
}
Tensor embedding(const Tensor& weight, const Tensor& ids, int64_t padding_idx) {
  check_index("embedding", weight, ids);
  if (weight.dim() != 2)
    throw Error(fmt::format("embedding: weight has shape {}; it must have two dims, (rows, dim)", weight.shape().str()));
  if (padding_idx < -1 || padding_idx >= weight.shape()[0])
    throw Error(fmt::format("embedding: padding_idx {} is out of range for {} rows; -1 means none", padding_idx, weight.shape()[0]));
  return record(Embedding{padding_idx}, weight, ids);
}

}  // namespace retape
