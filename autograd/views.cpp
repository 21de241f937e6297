#include <retape/autograd/views.h>

#include <fmt/format.h>

#include <algorithm>

#include <retape/autograd/binary.h>
#include <retape/autograd/check.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/window.h>

namespace retape {
namespace {

using detail::Window;

Tensor view(const Tensor& x, const Shape& shape, const Shape& strides, int64_t offset) {
  return make_tensor(x->storage, {shape, strides, offset, x.dtype()});
}
Tensor view(const Tensor& x, const Shape& shape, const Shape& strides) { return view(x, shape, strides, x.offset()); }

void run_copy(const Tensor& x, Tensor y) { RETAPE_DISPATCH(y.device(), copy(x, y)); }
Tensor copied(const Tensor& x, MemoryFormat format = MemoryFormat::contiguous) {
  Tensor y = empty_like(x, format);
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
  static constexpr bool elementwise = true;
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
  Intervals reach(const Reach& r) const { return reshaped_elements(r); }
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
  Intervals reach(const Reach& r) const {
    Intervals box(r.box.size());
    for (int d = 0; d < dims.rank(); ++d) box[size_t(dims[d])] = r.box[size_t(d)];
    return box;
  }
};
struct Expand {
  static constexpr auto name = "expand";
  static constexpr bool elementwise = true;
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
  Intervals reach(const Reach& r) const {
    Intervals box = r.box;
    box.insert(box.begin() + dim, {0, 1});
    return box;
  }
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
  Intervals reach(const Reach& r) const {
    Intervals box = r.box;
    box.erase(box.begin() + dim);
    return box;
  }
};

Tensor window_view(const Tensor& x, const Window& w) {
  Shape strides = x.strides();
  int64_t offset = x.offset();
  for (int d = 0; d < x.dim(); ++d) {
    offset += w.start[d] * strides[d];
    strides[d] *= w.step[d];
  }
  return view(x, w.length, strides, w.length.numel() ? offset : x.offset());
}
Tensor slice_view(const Tensor& x, int dim, int64_t start, int64_t length) {
  return window_view(x, Window::whole(x.shape()).with(dim, start, length));
}

// Which elements of what a window is read from a box of the window is, and the other way round.
Intervals read_box(const Window& w, Intervals box) {
  for (size_t d = 0; d < box.size(); ++d) {
    const int64_t a = w.start[int(d)] + w.step[int(d)] * box[d].begin, b = w.start[int(d)] + w.step[int(d)] * (box[d].end - 1);
    box[d] = box[d].empty() ? Interval{} : Interval{std::min(a, b), std::max(a, b) + 1};
  }
  return box;
}
Intervals framed_box(const Window& w, Intervals box) {
  for (size_t d = 0; d < box.size(); ++d) {
    const int64_t step = w.step[int(d)], start = w.start[int(d)], length = w.length[int(d)];
    if (step == 1) {  // a frame is padding: what a box has of it is beyond the window
      box[d] = {box[d].begin - start, box[d].end - start};
      continue;
    }
    Interval inside{length, 0};
    for (int64_t i = 0; i < length; ++i)
      if (const int64_t at = start + step * i; at >= box[d].begin && at < box[d].end) inside = {std::min(inside.begin, i), i + 1};
    box[d] = inside;
  }
  return box;
}

// Reading and framing are each other's gradient.
struct FrameWindow {
  const char* name;
  Window window;
  Shape to;
  double fill;
  Tensor forward(const Tensor& x) {
    const Tensor y = full(to, fill, x.options());
    run_copy(x, window_view(y, window));
    return y;
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, detail::read_window(name, dy, window)); }
  Intervals reach(const Reach& r) const { return framed_box(window, r.box); }
};
struct ReadWindow {
  const char* name;
  Window window;
  Shape from = {};
  Tensor forward(const Tensor& x) {
    from = x.shape();
    bool reversed = false;
    for (int64_t step : window.step) reversed |= step < 0;
    const Tensor y = window_view(x, window);
    return reversed ? copied(y) : y;
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, detail::frame_window(name, dy, window, from, 0)); }
  Intervals reach(const Reach& r) const { return read_box(window, r.box); }
};
struct WriteWindow {
  const char* name;
  Window window;
  bool accumulate;
  Tensor forward(const Tensor& x, const Tensor& value) {
    Tensor y = copied(x), part = window_view(y, window);
    if (accumulate) RETAPE_DISPATCH(y.device(), accumulate(value, part));
    else run_copy(value, part);
    return y;
  }
  void backward(const Tensor& dy, Grads& dx) {
    if (dx.wants(0))
      dx.set(0, accumulate ? dy : record(WriteWindow{name, window, false}, dy, expand(zeros({}, dy.options()), window.length)));
    if (dx.wants(1)) dx.set(1, detail::read_window(name, dy, window));
  }
  Intervals reach(const Reach& r) const { return r.input == 0 ? r.box : framed_box(window, r.box); }
};

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
      parts.push_back(slice_view(x, dim, at, n));
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
  Intervals reach(const Reach& r) const {
    Intervals box = r.box;
    for (int j = 0; j < r.output; ++j) box[size_t(dim)].begin += sizes[size_t(j)], box[size_t(dim)].end += sizes[size_t(j)];
    return box;
  }
};
struct UnfoldBackward {  // windows are added up in order, half types in float
  static constexpr auto name = "unfold_backward";
  int dim;
  int64_t size, step;
  Shape to;
  Tensor forward(const Tensor& dy) {
    const bool half = is_floating(dy.dtype()) && size_of(dy.dtype()) == 2;
    const Tensor dx = zeros(to, {half ? DType::f32 : dy.dtype(), dy.device()}), from = cast(dy, dx.dtype());
    const int64_t count = dy.shape()[dim];
    for (int64_t k = 0; k < size && count; ++k) {
      Tensor part = window_view(dx, Window::whole(to).with(dim, k, count, step));
      RETAPE_DISPATCH(dy.device(), accumulate(select(from, -1, k), part));
    }
    return cast(dx, dy.dtype());
  }
  void backward(const Tensor& ddx, Grads& g);
};
struct Unfold {
  static constexpr auto name = "unfold";
  int dim;
  int64_t size, step;
  Shape from = {};
  Tensor forward(const Tensor& x) {
    from = x.shape();
    Shape shape = x.shape(), strides = x.strides();
    shape[dim] = (shape[dim] - size) / step + 1;
    shape.push_back(size), strides.push_back(strides[dim]);
    strides[dim] *= step;
    return view(x, shape, strides);
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, record(UnfoldBackward{dim, size, step, from}, dy)); }
  Intervals reach(const Reach& r) const {
    Intervals box(r.box.begin(), r.box.end() - 1);
    Interval& along = box[size_t(dim)];
    along = {along.begin * step + r.box.back().begin, (along.end - 1) * step + r.box.back().end};
    return box;
  }
};
void UnfoldBackward::backward(const Tensor& ddx, Grads& g) { g.set(0, record(Unfold{dim, size, step}, ddx)); }

struct Copy {
  static constexpr bool elementwise = true;
  const char* name;
  MemoryFormat format = MemoryFormat::contiguous;
  Tensor forward(const Tensor& x) { return copied(x, format); }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, dy); }
};
struct Cast {
  static constexpr auto name = "cast";
  static constexpr bool elementwise = true;
  DType to;
  Tensor forward(const Tensor& x) {
    Tensor y = empty(x.shape(), {to, x.device()}, x.memory_format());
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
struct ToDevice {
  static constexpr auto name = "to";
  static constexpr bool elementwise = true;
  Device device;
  bool non_blocking = false;
  Device from = {};
  Tensor forward(const Tensor& x) {
    from = x.device();
    return detail::copy_to(contiguous(x), device, non_blocking);
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, to(dy, from)); }
};

}  // namespace

namespace detail {
Tensor read_window(const char* name, const Tensor& x, const Window& window) { return record(ReadWindow{name, window}, x); }
Tensor frame_window(const char* name, const Tensor& x, const Window& window, const Shape& to, double fill) {
  return record(FrameWindow{name, window, to, fill}, x);
}
Tensor write_window(const char* name, const Tensor& x, const Window& window, const Tensor& value, bool accumulate) {
  return record(WriteWindow{name, window, accumulate}, x, value);
}
}  // namespace detail

Tensor identity(const Tensor& x) { return record(Identity{}, x); }

Tensor reshape(const Tensor& x, const Shape& shape) {
  check_defined("reshape", x);
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
  check_defined("flatten", x);
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
  check_defined("transpose", x);
  const int a = normalize_dim("transpose", dim0, x.dim()), b = normalize_dim("transpose", dim1, x.dim());
  Shape dims = x.shape();
  for (int d = 0; d < dims.rank(); ++d) dims[d] = d == a ? b : d == b ? a : d;
  return record(Permute{"transpose", dims}, x);
}
Tensor permute(const Tensor& x, const Shape& dims) {
  check_defined("permute", x);
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
  check_defined("expand", x);
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
  check_defined("unsqueeze", x);
  return record(Unsqueeze{normalize_dim("unsqueeze", dim, x.dim() + 1)}, x);
}
Tensor squeeze(const Tensor& x, int64_t dim) {
  check_defined("squeeze", x);
  const int d = normalize_dim("squeeze", dim, x.dim());
  return x.dim() && x.shape()[d] == 1 ? record(Squeeze{d}, x) : x;
}

Tensor narrow(const Tensor& x, int64_t dim, int64_t start, int64_t length) {
  const int d = sized_dim("narrow", x, dim);
  const int64_t n = x.shape()[d];
  if (start < 0 || length < 0 || start > n - length)
    throw Error(
        fmt::format("narrow: elements {} to {} of dim {} are not all in {}; its size is {}", start, start + length, d, x.shape().str(), n));
  return record(ReadWindow{"narrow", Window::whole(x.shape()).with(d, start, length)}, x);
}
Tensor slice(const Tensor& x, int64_t dim, int64_t start, int64_t end, int64_t step) {
  const int d = sized_dim("slice", x, dim);
  if (step <= 0) throw Error(fmt::format("slice: step {} is not valid; it must be positive", step));
  const int64_t n = x.shape()[d];
  const int64_t from = std::clamp(start < 0 ? start + n : start, int64_t{0}, n), to = std::clamp(end < 0 ? end + n : end, from, n);
  return record(ReadWindow{"slice", Window::whole(x.shape()).with(d, from, (to - from + step - 1) / step, step)}, x);
}
Tensor select(const Tensor& x, int64_t dim, int64_t index) {
  const int d = sized_dim("select", x, dim);
  const int64_t n = x.shape()[d];
  if (index < -n || index >= n)
    throw Error(
        fmt::format("select: index {} is out of range for dim {} of {}; expected {} <= index < {}", index, d, x.shape().str(), -n, n));
  return squeeze(record(ReadWindow{"select", Window::whole(x.shape()).with(d, index < 0 ? index + n : index, 1)}, x), d);
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

std::vector<Tensor> tensor_split(const Tensor& x, const std::vector<int64_t>& indices, int64_t dim) {
  const int d = sized_dim("tensor_split", x, dim);
  std::vector<Tensor> parts;
  int64_t from = 0;
  for (int64_t to : indices) {
    parts.push_back(slice(x, d, from, to));
    from = to;
  }
  parts.push_back(slice(x, d, from, x.shape()[d]));
  return parts;
}
std::vector<Tensor> tensor_split(const Tensor& x, int64_t sections, int64_t dim) {
  const int d = sized_dim("tensor_split", x, dim);
  if (sections <= 0) throw Error(fmt::format("tensor_split: {} parts are not valid; there must be at least one", sections));
  const int64_t n = x.shape()[d];
  std::vector<int64_t> sizes;
  for (int64_t i = 0; i < sections; ++i) sizes.push_back(n / sections + (i < n % sections));
  return split(x, sizes, d);
}
std::vector<Tensor> unbind(const Tensor& x, int64_t dim) {
  const int d = sized_dim("unbind", x, dim);
  if (x.shape()[d] == 0) return {};
  std::vector<Tensor> parts = split(x, 1, d);
  for (Tensor& part : parts) part = squeeze(part, d);
  return parts;
}

Tensor movedim(const Tensor& x, const Shape& source, const Shape& destination) {
  check_defined("movedim", x);
  if (source.rank() != destination.rank())
    throw Error(fmt::format("movedim: {} dims cannot move to {} places; the lists {} and {} must be equally long", source.rank(),
                            destination.rank(), source.str(), destination.str()));
  Shape order = Shape::filled(x.dim(), -1);
  unsigned moved = 0;
  for (int k = 0; k < source.rank(); ++k) {
    const int from = normalize_dim("movedim", source[k], x.dim()), to = normalize_dim("movedim", destination[k], x.dim());
    if (x.dim() == 0) continue;
    if (moved >> from & 1 || order[to] >= 0)
      throw Error(fmt::format("movedim: a dim occurs twice in {} or {}; every dim may move once", source.str(), destination.str()));
    moved |= 1u << from;
    order[to] = from;
  }
  int next = 0;
  for (int d = 0; d < x.dim(); ++d) {
    if (order[d] >= 0) continue;
    while (moved >> next & 1) ++next;
    order[d] = next++;
  }
  return record(Permute{"movedim", order}, x);
}
Tensor unflatten(const Tensor& x, int64_t dim, const Shape& sizes) {
  const int d = sized_dim("unflatten", x, dim);
  int64_t known = 1, unknown = 0;
  for (int64_t n : sizes) n == -1 ? ++unknown : known *= n;
  const int64_t n = x.shape()[d];
  if (sizes.rank() == 0 || unknown > 1 || known < 0 || (unknown ? known == 0 || n % known : known != n))
    throw Error(fmt::format("unflatten: dim {} of {} has size {}, which {} does not make up", d, x.shape().str(), n, sizes.str()));
  Shape shape;
  for (int i = 0; i < d; ++i) shape.push_back(x.shape()[i]);
  for (int64_t m : sizes) shape.push_back(m == -1 ? n / known : m);
  for (int i = d + 1; i < x.dim(); ++i) shape.push_back(x.shape()[i]);
  return reshape(x, shape);
}
Tensor unfold(const Tensor& x, int64_t dim, int64_t size, int64_t step) {
  const int d = sized_dim("unfold", x, dim);
  if (size < 0 || size > x.shape()[d] || step <= 0)
    throw Error(fmt::format("unfold: windows of {} elements every {} do not fit dim {} of {}; expected 0 <= size <= {} and step > 0", size,
                            step, d, x.shape().str(), x.shape()[d]));
  return record(Unfold{d, size, step}, x);
}
std::vector<Tensor> broadcast_tensors(const std::vector<Tensor>& xs) {
  Shape shape;
  for (auto& x : xs) {
    check_defined("broadcast_tensors", x);
    shape = broadcast_shapes("broadcast_tensors", shape, x.shape());
  }
  std::vector<Tensor> all;
  for (auto& x : xs) all.push_back(expand(x, shape));
  return all;
}
std::vector<Tensor> meshgrid(const std::vector<Tensor>& xs, Indexing indexing) {
  Shape shape;
  for (auto& x : xs) {
    check_defined("meshgrid", x);
    if (x.dim() > 1) throw Error(fmt::format("meshgrid: a tensor has shape {}; all must have one dim", x.shape().str()));
    shape.push_back(x.numel());
  }
  std::vector<Tensor> grid;
  for (int d = 0; d < shape.rank(); ++d) {
    Shape along = Shape::filled(shape.rank(), 1);
    along[d] = shape[d];
    const Tensor coordinate = expand(reshape(xs[size_t(d)], along), shape);
    grid.push_back(indexing == Indexing::xy && shape.rank() > 1 ? transpose(coordinate, 0, 1) : coordinate);
  }
  return grid;
}
Tensor atleast_1d(const Tensor& x) {
  check_defined("atleast_1d", x);
  return x.dim() ? x : unsqueeze(x, 0);
}
Tensor atleast_2d(const Tensor& x) {
  const Tensor y = atleast_1d(x);
  return y.dim() > 1 ? y : unsqueeze(y, 0);
}
Tensor atleast_3d(const Tensor& x) {
  const Tensor y = atleast_2d(x);
  return y.dim() > 2 ? y : unsqueeze(y, 2);
}

Tensor contiguous(const Tensor& x) {
  check_defined("contiguous", x);
  return x.is_contiguous() ? x : record(Copy{"contiguous"}, x);
}
Tensor contiguous(const Tensor& x, MemoryFormat format) {
  if (format == MemoryFormat::contiguous) return contiguous(x);
  check_defined("contiguous", x);
  if (x.dim() < 3)
    throw Error(
        fmt::format("contiguous: a tensor of shape {} has no channels to put last; it needs 3 dims or more, (N, C, ...)", x.shape().str()));
  return x.is_contiguous(format) ? x : record(Copy{"contiguous", format}, x);
}
Tensor clone(const Tensor& x) {
  check_defined("clone", x);
  return record(Copy{"clone"}, x);
}
Tensor cast(const Tensor& x, DType dtype) {
  check_defined("cast", x);
  return x.dtype() == dtype ? x : record(Cast{dtype}, x);
}
Tensor to(const Tensor& x, Device device, bool non_blocking) {
  check_defined("to", x);
  if (x.device() == device) return x;
  if (device.is_meta()) return record(ToMeta{}, x);
  if (x.device().is_meta()) throw Error(fmt::format("to: a meta tensor of shape {} has no data to move", x.shape().str()));
  return record(ToDevice{device, non_blocking}, x);
}
void copy_into(const Tensor& x, const Tensor& y) {
  check_defined("copy_into", x), check_defined("copy_into", y);
  if (ctx.recording && y.requires_grad())
    throw Error("copy_into: writing in place into a value that wants a gradient is not recorded; use NoGrad, or make a new value");
  const Tensor from = expand(x.detach(), y.shape());
  const Scoped inside(ctx.inside_forward, true);
  ++y->storage->version;
  run_copy(from.device() == y.device() ? from : to(from, y.device()), y);
}

}  // namespace retape
