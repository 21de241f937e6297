// Tensor: a handle on {storage, shape, strides, offset, dtype, device, autograd slot}. Copying a Tensor copies the handle.
// Operations are free functions (autograd/ops.h); what stands here is what needs no computation.
#pragma once
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <retape/core/dtype.h>
#include <retape/core/error.h>
#include <retape/core/shape.h>
#include <retape/core/storage.h>

namespace retape {

struct TensorImpl;
class Index;

/// How a tensor lies in its storage; strides and offset in elements.
struct Layout {
  Shape shape, strides;
  int64_t offset = 0;
  DType dtype = DType::f32;
};

/// dtype and device of a tensor to be made: `zeros({2, 3}, {.dtype = DType::f64})`.
struct Options {
  DType dtype = DType::f32;
  Device device = {};
};

/// The order of elements in memory: row-major; or, of a tensor (N, C, sizes of space...), that of a row-major (N, sizes of space..., C),
/// so that the channels of a place lie side by side. Ops on images take both and give channels_last, which elementwise ops
/// keep. torch: memory_format, there for images and volumes only.
enum class MemoryFormat : uint8_t { contiguous, channels_last };

class Tensor {
 public:
  Tensor() = default;  ///< undefined: converts to false, and ops take it where an input is optional
  explicit Tensor(Ref<TensorImpl> p) : impl_(std::move(p)) {}
  RETAPE_INLINE explicit operator bool() const { return bool(impl_); }

  RETAPE_INLINE const Shape& shape() const;
  RETAPE_INLINE const Shape& strides() const;
  RETAPE_INLINE int64_t offset() const;
  RETAPE_INLINE int dim() const;    ///< number of dimensions
  int64_t size(int64_t dim) const;  ///< negative counts from the end; throws Error when out of range
  RETAPE_INLINE int64_t numel() const;
  RETAPE_INLINE DType dtype() const;
  RETAPE_INLINE Device device() const;
  Options options() const;
  RETAPE_INLINE bool is_contiguous() const;
  /// Whether the elements lie in that order without gaps. With one channel, or one place, both are true.
  bool is_contiguous(MemoryFormat format) const;
  /// channels_last if the elements lie so and not in row-major order, else contiguous.
  MemoryFormat memory_format() const;

  /// Typed read access from the tensor's first element on. Throws Error for another dtype, a device that is not the CPU, and
  /// for an undefined tensor. Elements lie at strides(), in elements.
  template <class T> RETAPE_INLINE const T* data() const;
  /// Write access; counts as an in-place write, which the tape sees when it later reads a saved value.
  template <class T> RETAPE_INLINE T* mutable_data() const;
  /// The only element, converted. Throws Error unless numel() is 1.
  template <class T = double> T item() const;
  /// All elements in row-major order, converted.
  template <class T> std::vector<T> to_vector() const;

  /// NumPy's indexing: `x.at({1, Slice(0, 4), Ellipsis, None, index, mask})`, see Index. Without tensors among the indices the result
  /// is a view (a copy where a step is negative), else a copy. Several index tensors broadcast; their dims stand where the first of them
  /// was, or in front if a slice, Ellipsis or None is between two of them or an integer. Recorded, with all derivatives. Throws
  /// Error for an index out of range, with its dim and size, and for a mask whose shape is not that of the dims it covers.
  Tensor at(const std::vector<Index>& indices) const;
  /// x.put(indices, value) means x = x with x.at(indices) replaced by value, or, if `accumulate`, with value added: the handle is
  /// rebound to a new tensor, and other handles keep the old one. value is broadcast and cast to x's dtype. Where index tensors name an
  /// element twice, the last value stays, or, if `accumulate`, all are added in order. Recorded, with all derivatives.
  /// Throws Error as at() does, and for a value that does not broadcast. torch: index_put.
  Tensor& put(const std::vector<Index>& indices, const Tensor& value, bool accumulate = false) &;
  Tensor& put(const std::vector<Index>& indices, double value, bool accumulate = false) &;

  /// True if an op on this value would be recorded: it is a leaf that wants its gradient, or was made from one.
  bool requires_grad() const;
  /// Makes a leaf want its gradient, or not. Throws Error for integer tensors and for values that ops have made.
  Tensor& set_requires_grad(bool on = true);
  bool is_leaf() const;
  /// The gradient that backward() has added up for a leaf; undefined if there is none, or if there is one of some rows only, which
  /// sparse_grad() in autograd/sparse.h gives. Has no history.
  Tensor grad() const;
  /// Replaces it, and one of some rows; an undefined g drops both.
  void set_grad(Tensor g) const;
  /// The same data without history.
  Tensor detach() const;
  uint32_t version() const;
  bool shares_storage(const Tensor& o) const;

  RETAPE_INLINE TensorImpl* impl() const { return impl_.get(); }
  const Ref<TensorImpl>& ref() const { return impl_; }
  RETAPE_INLINE TensorImpl* operator->() const { return impl_.get(); }

 private:
  [[noreturn]] static void bad_access(const Tensor& t, DType wanted);
  double item_as_double() const;
  int64_t item_as_int() const;
  std::vector<double> to_doubles() const;
  std::vector<int64_t> to_ints() const;
  Ref<TensorImpl> impl_;
};

struct TensorImpl {
  Count refs;
  Ref<Storage> storage;
  Layout layout;
  // The autograd slot: core stores it and does not look inside.
  bool leaf_wants_grad = false;
  bool is_parameter = false, listed = false;  // see nn/module.h
  bool opaque = false;                        // an op's private value, read while differentiating its backward
  uint16_t index = 0;                         // which output of `producer`
  std::atomic_flag lock = ATOMIC_FLAG_INIT;   // held while a backward adds to `gradient`
  Ref<Object> producer;                       // the node whose backward receives this tensor's gradient
  Ref<Object> source;                         // the node whose forward can make the storage again; views share their base's
  Tensor gradient;                            // of a leaf; never has a history
  Ref<Object> row_gradient;                   // of a leaf: what sparse ops have added up for some of its rows; see autograd/sparse.h
  Ref<Object> hooks;                          // of a leaf: called with its gradient; see autograd/hooks.h
  // Of a leaf, which threads may share: the op that last recorded it, and the one that gave it no gradient.
  std::atomic<const char*> read_by = nullptr, ended_by = nullptr;
  void retain() { refs.up(); }
  void release() {
    if (!refs.down()) return;
    this->~TensorImpl();
    Pool::give(this, sizeof(TensorImpl));
  }
};

RETAPE_INLINE const Shape& Tensor::shape() const { return impl_->layout.shape; }
RETAPE_INLINE const Shape& Tensor::strides() const { return impl_->layout.strides; }
RETAPE_INLINE int64_t Tensor::offset() const { return impl_->layout.offset; }
RETAPE_INLINE int Tensor::dim() const { return impl_->layout.shape.rank(); }
RETAPE_INLINE int64_t Tensor::numel() const { return impl_->layout.shape.numel(); }
RETAPE_INLINE DType Tensor::dtype() const { return impl_->layout.dtype; }
RETAPE_INLINE Device Tensor::device() const { return impl_->storage->device; }
RETAPE_INLINE bool Tensor::is_contiguous() const {
  const Shape &shape = impl_->layout.shape, &strides = impl_->layout.strides;
  int64_t n = 1;
  for (int i = shape.rank(); i-- > 0; n *= shape[i])
    if (shape[i] != 1 && strides[i] != n) return n == 0;
  return true;
}
template <class T> RETAPE_INLINE const T* Tensor::data() const {
  if (!impl_ || impl_->layout.dtype != dtype_of<T> || !device().is_cpu()) bad_access(*this, dtype_of<T>);
  return reinterpret_cast<const T*>(impl_->storage->data) + impl_->layout.offset;
}
template <class T> RETAPE_INLINE T* Tensor::mutable_data() const {
  T* p = const_cast<T*>(data<T>());
  ++impl_->storage->version;
  return p;
}
template <class T> T Tensor::item() const {
  if constexpr (std::is_integral_v<T>) return T(item_as_int());
  else return T(item_as_double());
}
template <class T> std::vector<T> Tensor::to_vector() const {
  if constexpr (std::is_integral_v<T>) {
    auto v = to_ints();
    return {v.begin(), v.end()};
  } else {
    auto v = to_doubles();
    return {v.begin(), v.end()};
  }
}

/// `Ellipsis`: as many whole dims as are left over. `None`: a new dim of size 1; as an end of a Slice, the end of the dim.
struct EllipsisType {};
struct NoneType {};
inline constexpr EllipsisType Ellipsis{};
inline constexpr NoneType None{};
/// Elements start, start + step, ... before stop, as Python's slice(start, stop, step): negative ends count from the end, ends are
/// clamped, step may be negative but not 0.
struct Slice {
  struct End {
    int64_t value = 0;
    bool given = false;
    End(NoneType) {}
    template <class T>
    requires std::is_integral_v<T> End(T v) : value(int64_t(v)), given(true) {}
  };
  End start, stop;
  int64_t step;
  explicit Slice(End start = None, End stop = None, int64_t step = 1) : start(start), stop(stop), step(step) {}
};
/// One index of Tensor::at(): an integer (negative counts from the end), Slice, Ellipsis, None, a tensor of i64 or i32 (negative
/// counts from the end), or a mask: a bool, or a tensor of bool or u8 with the sizes of the dims that it covers.
class Index {
 public:
  enum class Kind : uint8_t { integer, slice, ellipsis, none, tensor };
  template <class T>
  requires std::is_integral_v<T> Index(T v) : kind(Kind::integer), integer(int64_t(v)) {}
  Index(bool mask);
  Index(const Slice& s) : kind(Kind::slice), slice(s) {}
  Index(EllipsisType) : kind(Kind::ellipsis) {}
  Index(NoneType) : kind(Kind::none) {}
  Index(const Tensor& t) : kind(Kind::tensor), tensor(t) {}

  Kind kind;
  int64_t integer = 0;
  Slice slice;
  Tensor tensor;
};

/// Tensors with dotted names, such as `blocks.2.attn.weight`: what state dicts and weight files hold.
using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

/// A tensor over given storage: how views are made.
Tensor make_tensor(Ref<Storage> storage, const Layout& layout);

// ---- creation: values are written once; none of these is recorded --------------------------------------------------

/// Uninitialised. All of these throw Error for a negative size and for sizes whose product overflows.
Tensor empty(const Shape& shape, Options options = {});
/// In that order; channels_last needs a channel and something else, else it is row-major.
Tensor empty(const Shape& shape, Options options, MemoryFormat format);
Tensor empty_like(const Tensor& x);  ///< same shape, dtype and device; contiguous
inline Tensor empty_like(const Tensor& x, MemoryFormat format) { return empty(x.shape(), x.options(), format); }
Tensor full(const Shape& shape, double value, Options options = {});
Tensor zeros(const Shape& shape, Options options = {});
Tensor ones(const Shape& shape, Options options = {});
Tensor zeros_like(const Tensor& x);
Tensor ones_like(const Tensor& x);
Tensor full_like(const Tensor& x, double value);
/// start, start + step, ... below end. torch: arange.
Tensor arange(double start, double end, double step = 1, Options options = {DType::i64});
inline Tensor arange(double end, Options options = {DType::i64}) { return arange(0, end, 1, options); }
/// `steps` numbers from start to end, both included, evenly spaced; the same as exponents of base. torch: linspace, logspace.
Tensor linspace(double start, double end, int64_t steps, Options options = {});
Tensor logspace(double start, double end, int64_t steps, double base = 10, Options options = {});
/// Ones on the diagonal of (rows, columns), zeros elsewhere. torch: eye.
Tensor eye(int64_t rows, int64_t columns, Options options = {});
inline Tensor eye(int64_t n, Options options = {}) { return eye(n, n, options); }
/// A copy of `values` (row-major). Throws Error if their number does not fit the shape.
template <class T> Tensor tensor(const std::vector<T>& values, const Shape& shape);
template <class T> Tensor tensor(const std::vector<T>& values) { return tensor(values, Shape{int64_t(values.size())}); }
template <class T, size_t n> Tensor tensor(std::span<T, n> values, const Shape& shape);
template <class T, size_t n> Tensor tensor(std::span<T, n> values) { return tensor(values, Shape{int64_t(values.size())}); }
template <class T> Tensor tensor(std::initializer_list<T> values) { return tensor(std::vector<T>(values)); }

namespace detail {
/// A contiguous tensor's bytes on another device; one of the two is not the CPU.
Tensor copy_to(const Tensor& t, Device device, bool no_wait = false);
/// Uninitialised, in page-locked memory of the CPU.
Tensor empty_pinned(const Shape& shape, DType dtype);
Tensor tensor_from(const void* values, size_t count, DType dtype, const Shape& shape);
}  // namespace detail
template <class T> Tensor tensor(const std::vector<T>& values, const Shape& shape) {
  if constexpr (std::is_same_v<T, bool>) {
    const std::vector<uint8_t> bytes(values.begin(), values.end());
    return detail::tensor_from(bytes.data(), bytes.size(), DType::boolean, shape);
  } else return detail::tensor_from(values.data(), values.size(), dtype_of<T>, shape);
}

template <class T, size_t n> Tensor tensor(std::span<T, n> values, const Shape& shape) {
  return detail::tensor_from(values.data(), values.size(), dtype_of<T>, shape);
}

/// Tensors print like NumPy's, shortened in the middle when they are large.
std::string to_string(const Tensor& x);

}  // namespace retape
