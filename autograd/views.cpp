#include <retape/autograd/views.h>

#include <fmt/format.h>

#include <algorithm>

#include <retape/autograd/binary.h>
#include <retape/autograd/tape.h>

namespace retape {
namespace {

void check(const char* name, const Tensor& x) {
  if (!x) throw Error(fmt::format("{}: the tensor is undefined", name));
}
Tensor view(const Tensor& x, const Shape& shape, const Shape& strides, int64_t offset) {
  return make_tensor(x->storage, {shape, strides, offset, x.dtype()});
}
Tensor view(const Tensor& x, const Shape& shape, const Shape& strides) { return view(x, shape, strides, x.offset()); }

void run_copy(const Tensor& x, Tensor y) { RETAPE_DISPATCH(y.device(), copy(x, y)); }
Tensor copied(const Tensor& x) {
  Tensor y = empty_like(x);
  run_copy(x, y);
  return y;
}

// Strides under which x's memory reads as `to`, if there are any: sizes are matched in groups of equal product whose dims of x
// follow each other in memory.
bool view_strides(const Tensor& x, const Shape& to, Shape& strides) {
  strides = contiguous_strides(to);
  if (x.numel() == 0 || x.is_contiguous()) return true;
  int i = x.dim() - 1, j = to.rank() - 1;
  while (i >= 0 || j >= 0) {
    while (i >= 0 && x.shape()[i] == 1) --i;
    if (i < 0) {
      for (; j >= 0; --j) strides[j] = 1;  // only sizes of 1 are left
      return true;
    }
    const int64_t stride = x.strides()[i];
    int64_t have = x.shape()[i], made = 1;
    while (i > 0 && (x.shape()[i - 1] == 1 || x.strides()[i - 1] == stride * have)) have *= x.shape()[--i];
    --i;
    while (j >= 0 && made < have) {
      strides[j] = stride * made;
      made *= to[j--];
    }
    if (made != have) return false;
    while (j >= 0 && to[j] == 1) strides[j--] = stride * made;
  }
  return true;
}

struct Identity {
  static constexpr auto name = "identity";
  Tensor forward(const Tensor& x) { return x; }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, dy); }
};
struct Reshape {
  static constexpr auto name = "reshape";
  Shape to, from = {};
  Tensor forward(const Tensor& x) {
    from = x.shape();
    Shape strides;
    if (view_strides(x, to, strides)) return view(x, to, strides);
    const Tensor y = copied(x);
    return view(y, to, contiguous_strides(to));
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, reshape(dy, from)); }
};
struct Permute {
  const char* name;
  Shape dims;
  Tensor forward(const Tensor& x) {
    Shape shape = x.shape(), strides = x.strides();
    for (int d = 0; d < dims.rank(); ++d) {
      shape[d] = x.shape()[int(dims[d])];
      strides[d] = x.strides()[int(dims[d])];
    }
    return view(x, shape, strides);
  }
  void backward(const Tensor& dy, Grads& dx) {
    Shape inverse = dims;
    for (int d = 0; d < dims.rank(); ++d) inverse[int(dims[d])] = d;
    dx.set(0, record(Permute{name, inverse}, dy));
  }
};
struct Expand {
  static constexpr auto name = "expand";
  Shape to;
  Tensor forward(const Tensor& x) {
    Shape strides = Shape::filled(to.rank(), 0);
    const int skip = to.rank() - x.dim();
    for (int d = skip; d < to.rank(); ++d)
      if (x.shape()[d - skip] == to[d]) strides[d] = x.strides()[d - skip];
    return view(x, to, strides);
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, dy); }  // Grads sums what was broadcast
};
struct Squeeze {
  static constexpr auto name = "squeeze";
  int dim;
  Tensor forward(const Tensor& x) {
    Shape shape = x.shape(), strides = x.strides();
    shape.erase(dim), strides.erase(dim);
    return view(x, shape, strides);
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, unsqueeze(dy, dim)); }
};
struct Unsqueeze {
  static constexpr auto name = "unsqueeze";
  int dim;
  Tensor forward(const Tensor& x) {
    Shape shape = x.shape(), strides = x.strides();
    strides.insert(dim, dim < shape.rank() ? shape[dim] * strides[dim] : 1);
    shape.insert(dim, 1);
    return view(x, shape, strides);
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, squeeze(dy, dim)); }
};

Tensor slice_view(const Tensor& x, int dim, int64_t start, int64_t length, int64_t step) {
  Shape shape = x.shape(), strides = x.strides();
  const int64_t offset = x.offset() + start * strides[dim];
  shape[dim] = length;
  strides[dim] *= step;
  return view(x, shape, strides, offset);
}
struct SliceBackward {  // zeros with dy in the slice
  static constexpr auto name = "slice_backward";
  int dim;
  int64_t start, length, step;
  Shape from;
  Tensor forward(const Tensor& dy) {
    const Tensor dx = zeros(from, dy.options());
    run_copy(dy, slice_view(dx, dim, start, length, step));
    return dx;
  }
  void backward(const Tensor& ddx, Grads& g);
};
struct Slice {
  static constexpr auto name = "slice";
  int dim;
  int64_t start, length, step;
  Shape from = {};
  Tensor forward(const Tensor& x) {
    from = x.shape();
    return slice_view(x, dim, start, length, step);
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, record(SliceBackward{dim, start, length, step, from}, dy)); }
};
void SliceBackward::backward(const Tensor& ddx, Grads& g) { g.set(0, record(Slice{dim, start, length, step}, ddx)); }

struct Split {
  static constexpr auto name = "split";
  int dim;
  std::vector<int64_t> sizes;
  Shape from = {};
  std::vector<Tensor> forward(const Tensor& x) {
    from = x.shape();
    std::vector<Tensor> parts;
    int64_t at = 0;
    for (int64_t n : sizes) {
      parts.push_back(slice_view(x, dim, at, n, 1));
      at += n;
    }
    return parts;
  }
  void backward(const std::vector<Tensor>& dy, Grads& dx) {
    Options options;
    for (auto& d : dy)
      if (d) options = d.options();
    std::vector<Tensor> all;
    for (size_t i = 0; i < sizes.size(); ++i) {  // a part that nobody used has no dy
      Shape shape = from;
      shape[dim] = sizes[i];
      all.push_back(dy[i] ? dy[i] : zeros(shape, options));
    }
    dx.set(0, cat(all, dim));
  }
};
struct Cat {
  static constexpr auto name = "cat";
  int dim;
  std::vector<int64_t> sizes = {};
  Tensor forward(const std::vector<Tensor>& xs) {
    Shape shape = xs[0].shape();
    shape[dim] = 0;
    sizes.clear();
    for (auto& x : xs) {
      sizes.push_back(x.shape()[dim]);
      shape[dim] += sizes.back();
    }
    const Tensor y = empty(shape, xs[0].options());
    int64_t at = 0;
    for (size_t i = 0; i < xs.size(); at += sizes[i++]) run_copy(xs[i], slice_view(y, dim, at, sizes[i], 1));
    return y;
  }
  void backward(const Tensor& dy, Grads& dx) {
    int64_t at = 0;
    for (size_t i = 0; i < sizes.size(); at += sizes[i++])
      if (dx.wants(int(i))) dx.set(int(i), narrow(dy, dim, at, sizes[i]));
  }
};
struct Copy {
  const char* name;
  Tensor forward(const Tensor& x) { return copied(x); }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, dy); }
};
struct Cast {
  static constexpr auto name = "cast";
  DType to;
  Tensor forward(const Tensor& x) {
    Tensor y = empty(x.shape(), {to, x.device()});
    RETAPE_DISPATCH(y.device(), copy(x, y));
    return y;
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, dy); }  // Grads casts to the input's dtype
};
struct ToMeta {
  static constexpr auto name = "to";
  static constexpr int differentiable = 0;
  Tensor forward(const Tensor& x) { return empty(x.shape(), {x.dtype(), Device::meta()}); }
};

}  // namespace

Tensor identity(const Tensor& x) { return record(Identity{}, x); }

Tensor reshape(const Tensor& x, const Shape& shape) {
  check("reshape", x);
  Shape to = shape;
  int unknown = -1;
  int64_t known = 1;
  for (int d = 0; d < to.rank(); ++d) {
    if (to[d] == -1 && unknown < 0) unknown = d;
    else if (to[d] < 0)
      throw Error(fmt::format("reshape: size {} in {} is not valid; sizes are >= 0 and one may be -1", to[d], shape.str()));
    else if (__builtin_mul_overflow(known, to[d], &known)) throw Error(fmt::format("reshape: the sizes of {} overflow", shape.str()));
  }
  const int64_t n = x.numel();
  if (unknown >= 0) {
    if (known == 0 || n % known)
      throw Error(
          fmt::format("reshape: {} with {} elements cannot become {}: {} is no multiple of {}", x.shape().str(), n, shape.str(), n, known));
    to[unknown] = n / known;
  } else if (known != n) {
    throw Error(fmt::format("reshape: {} has {} elements, but {} has {}; they must be equal", x.shape().str(), n, shape.str(), known));
  }
  return record(Reshape{to}, x);
}
Tensor flatten(const Tensor& x, int64_t start, int64_t end) {
  check("flatten", x);
  const int a = normalize_dim("flatten", start, x.dim()), b = normalize_dim("flatten", end, x.dim());
  if (a > b) throw Error(fmt::format("flatten: start {} is after end {}", a, b));
  Shape shape;
  for (int d = 0; d < a; ++d) shape.push_back(x.shape()[d]);
  int64_t n = 1;
  for (int d = a; d <= b && d < x.dim(); ++d) n *= x.shape()[d];
  shape.push_back(n);
  for (int d = b + 1; d < x.dim(); ++d) shape.push_back(x.shape()[d]);
  return reshape(x, shape);
}
Tensor transpose(const Tensor& x, int64_t dim0, int64_t dim1) {
  check("transpose", x);
  const int a = normalize_dim("transpose", dim0, x.dim()), b = normalize_dim("transpose", dim1, x.dim());
  Shape dims = x.shape();
  for (int d = 0; d < dims.rank(); ++d) dims[d] = d == a ? b : d == b ? a : d;
  return record(Permute{"transpose", dims}, x);
}
Tensor permute(const Tensor& x, const Shape& dims) {
  check("permute", x);
  Shape normal = dims;
  unsigned seen = 0;
  for (int64_t& d : std::vector<int64_t>(dims.begin(), dims.end())) seen |= 1u << normalize_dim("permute", d, x.dim());
  if (dims.rank() != x.dim() || seen != (1u << x.dim()) - 1)
    throw Error(
        fmt::format("permute: {} is no order of the {} dims of {}; every dim must occur once", dims.str(), x.dim(), x.shape().str()));
  for (int d = 0; d < dims.rank(); ++d) normal[d] = normalize_dim("permute", dims[d], x.dim());
  return record(Permute{"permute", normal}, x);
}
Tensor expand(const Tensor& x, const Shape& shape) {
  check("expand", x);
  Shape to = shape;
  const int skip = to.rank() - x.dim();
  bool fits = skip >= 0;
  for (int d = 0; fits && d < to.rank(); ++d) {
    if (to[d] == -1 && d >= skip) to[d] = x.shape()[d - skip];
    fits = to[d] >= 0 && (d < skip || x.shape()[d - skip] == to[d] || x.shape()[d - skip] == 1);
  }
  if (!fits) throw Error(fmt::format("expand: {} does not broadcast to {}; sizes must be equal or 1", x.shape().str(), shape.str()));
  if (to == x.shape()) return x;
  return record(Expand{to}, x);
}
Tensor unsqueeze(const Tensor& x, int64_t dim) {
  check("unsqueeze", x);
  return record(Unsqueeze{normalize_dim("unsqueeze", dim, x.dim() + 1)}, x);
}
Tensor squeeze(const Tensor& x, int64_t dim) {
  check("squeeze", x);
  const int d = normalize_dim("squeeze", dim, x.dim());
  return x.dim() && x.shape()[d] == 1 ? record(Squeeze{d}, x) : x;
}

namespace {
int sized_dim(const char* name, const Tensor& x, int64_t dim) {
  check(name, x);
  if (x.dim() == 0) throw Error(fmt::format("{}: a tensor with no dims cannot be cut", name));
  return normalize_dim(name, dim, x.dim());
}
}  // namespace

Tensor narrow(const Tensor& x, int64_t dim, int64_t start, int64_t length) {
  const int d = sized_dim("narrow", x, dim);
  const int64_t n = x.shape()[d];
  if (start < 0 || length < 0 || start > n - length)
    throw Error(
        fmt::format("narrow: elements {} to {} of dim {} are not all in {}; its size is {}", start, start + length, d, x.shape().str(), n));
  return record(Slice{d, start, length, 1}, x);
}
Tensor slice(const Tensor& x, int64_t dim, int64_t start, int64_t end, int64_t step) {
  const int d = sized_dim("slice", x, dim);
  if (step <= 0) throw Error(fmt::format("slice: step {} is not valid; it must be positive", step));
  const int64_t n = x.shape()[d];
  const int64_t from = std::clamp(start < 0 ? start + n : start, int64_t{0}, n), to = std::clamp(end < 0 ? end + n : end, from, n);
  return record(Slice{d, from, (to - from + step - 1) / step, step}, x);
}
Tensor select(const Tensor& x, int64_t dim, int64_t index) {
  const int d = sized_dim("select", x, dim);
  const int64_t n = x.shape()[d];
  if (index < -n || index >= n)
    throw Error(
        fmt::format("select: index {} is out of range for dim {} of {}; expected {} <= index < {}", index, d, x.shape().str(), -n, n));
  return squeeze(record(Slice{d, index < 0 ? index + n : index, 1, 1}, x), d);
}
std::vector<Tensor> split(const Tensor& x, const std::vector<int64_t>& sizes, int64_t dim) {
  const int d = sized_dim("split", x, dim);
  int64_t total = 0;
  bool valid = true;
  for (int64_t n : sizes) {
    valid = valid && n >= 0;
    total += n;
  }
  if (!valid || total != x.shape()[d])
    throw Error(fmt::format("split: parts of sizes [{}] do not make up dim {} of {}, whose size is {}", fmt::join(sizes, ", "), d,
                            x.shape().str(), x.shape()[d]));
  return record(Split{d, sizes}, x);
}
std::vector<Tensor> split(const Tensor& x, int64_t size, int64_t dim) {
  const int d = sized_dim("split", x, dim);
  if (size <= 0) throw Error(fmt::format("split: size {} is not valid; it must be positive", size));
  std::vector<int64_t> sizes;
  for (int64_t left = x.shape()[d]; left > 0; left -= size) sizes.push_back(std::min(left, size));
  if (sizes.empty()) sizes.push_back(0);
  return split(x, sizes, d);
}
std::vector<Tensor> chunk(const Tensor& x, int64_t count, int64_t dim) {
  const int d = sized_dim("chunk", x, dim);
  if (count <= 0) throw Error(fmt::format("chunk: {} parts are not valid; there must be at least one", count));
  return split(x, std::max<int64_t>(1, (x.shape()[d] + count - 1) / count), d);
}

Tensor cat(const std::vector<Tensor>& xs, int64_t dim) {
  if (xs.empty()) throw Error("cat: no tensors are given; at least one is needed");
  const int d = sized_dim("cat", xs[0], dim);
  DType dtype = xs[0].dtype();
  for (auto& x : xs) {
    check("cat", x);
    Shape a = xs[0].shape(), b = x.shape();
    if (a.rank() == b.rank()) a[d] = b[d] = 0;
    if (!(a == b))
      throw Error(fmt::format("cat: {} and {} cannot be joined along dim {}: all other sizes must be equal", xs[0].shape().str(),
                              x.shape().str(), d));
    if (!(x.device() == xs[0].device())) throw Error("cat: tensors are on different devices; move them with to()");
    dtype = promote(dtype, x.dtype());
  }
  std::vector<Tensor> same;
  for (auto& x : xs) same.push_back(cast(x, dtype));
  return record(Cat{d}, same);
}
Tensor stack(const std::vector<Tensor>& xs, int64_t dim) {
  if (xs.empty()) throw Error("stack: no tensors are given; at least one is needed");
  std::vector<Tensor> rows;
  for (auto& x : xs) {
    check("stack", x);
    if (!(x.shape() == xs[0].shape()))
      throw Error(fmt::format("stack: shapes {} and {} differ; they must be equal", xs[0].shape().str(), x.shape().str()));
    rows.push_back(unsqueeze(x, normalize_dim("stack", dim, x.dim() + 1)));
  }
  return cat(rows, normalize_dim("stack", dim, xs[0].dim() + 1));
}

Tensor contiguous(const Tensor& x) {
  check("contiguous", x);
  return x.is_contiguous() ? x : record(Copy{"contiguous"}, x);
}
Tensor clone(const Tensor& x) {
  check("clone", x);
  return record(Copy{"clone"}, x);
}
Tensor cast(const Tensor& x, DType dtype) {
  check("cast", x);
  return x.dtype() == dtype ? x : record(Cast{dtype}, x);
}
Tensor to(const Tensor& x, Device device) {
  check("to", x);
  if (x.device() == device) return x;
  if (device.is_meta()) return record(ToMeta{}, x);
  if (x.device().is_meta()) throw Error(fmt::format("to: a meta tensor of shape {} has no data to move", x.shape().str()));
  return empty(x.shape(), {x.dtype(), device});  // throws: there is no such device in this build
}
void copy_into(const Tensor& x, const Tensor& y) {
  check("copy_into", x), check("copy_into", y);
  if (ctx.recording && y.requires_grad())
    throw Error("copy_into: writing in place into a value that wants a gradient is not recorded; use NoGrad, or make a new value");
  const Tensor from = expand(x.detach(), y.shape());
  const Scoped inside(ctx.inside_forward, true);
  ++y->storage->version;
  run_copy(from, y);
}

}  // namespace retape
