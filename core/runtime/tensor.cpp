// Storage and Tensor: what needs no kernel, and creation.
#include <retape/core/tensor.h>

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include <retape/core/device_runtime.h>
#include <retape/core/dispatch.h>

namespace retape {

// ---- storage --------------------------------------------------------------------------------------------------------

namespace detail {
void check_cpu_backend();
}

Ref<Storage> Storage::make(size_t bytes, Device device) {
  if (device.is_cuda()) {
    if (!detail::cuda_runtime) detail::no_backend(device, "empty");
    detail::cuda_runtime->use(device.index);
  }
  auto* s = new (Pool::take(sizeof(Storage))) Storage;
  auto ref = Ref<Storage>::adopt(s);
  s->bytes = bytes;
  s->device = device;
  if (s->is_small()) {
    s->data = s->small_;
  } else if (device.is_cuda()) {
    s->data = detail::cuda_runtime->allocate(bytes);
  } else if (device.is_meta()) {
    s->data = s->small_;
    detail::count_meta(int64_t(detail::allocated_bytes(bytes)));
  } else {
    s->data = detail::allocate(bytes);
  }
  return ref;
}
Ref<Storage> Storage::wrap(void* data, size_t bytes, Ref<Object> owner) {
  auto ref = Ref<Storage>::adopt(new (Pool::take(sizeof(Storage))) Storage);
  ref->bytes = bytes;
  ref->data = bytes ? static_cast<std::byte*>(data) : ref->small_;
  ref->owner_ = std::move(owner);
  return ref;
}
void Storage::drop_bytes() noexcept {
  if (!data) return;
  if (owner_) owner_.reset();
  else if (device.is_meta() && !is_small()) detail::count_meta(-int64_t(detail::allocated_bytes(bytes)));
  else if (device.is_cuda() && data != small_) detail::cuda_runtime->deallocate(device.index, data, bytes);
  else if (data != small_) detail::deallocate(data, bytes);
  data = nullptr;
}
Ref<Storage> Storage::revive(Storage& fresh) {
  if (fresh.bytes != bytes)
    throw Error(
        fmt::format("replay: forward made {} bytes, the first time {}; a forward must give the same each time", fresh.bytes, bytes));
  if (fresh.data == fresh.small_) {
    std::memcpy(small_, fresh.small_, small_bytes);
    data = small_;
    if (device.is_meta()) fresh.data = nullptr;  // so that its bytes are counted here from now on
  } else {
    data = std::exchange(fresh.data, nullptr);
    owner_ = std::move(fresh.owner_);
  }
  strong_.n.store(1, std::memory_order_release);
  weak_.up();
  return Ref<Storage>::adopt(this);
}

// ---- tensor ---------------------------------------------------------------------------------------------------------

Tensor make_tensor(Ref<Storage> storage, const Layout& layout) {
  auto* p = new (Pool::take(sizeof(TensorImpl))) TensorImpl;
  p->storage = std::move(storage);
  p->layout = layout;
  return Tensor(Ref<TensorImpl>::adopt(p));
}

void Tensor::bad_access(const Tensor& t, DType wanted) {
  if (!t) throw Error("data: the tensor is undefined");
  if (t.dtype() != wanted)
    throw Error(fmt::format("data: asked for {} in a tensor of {}; use data<T>() with the tensor's type, or cast()", name_of(wanted),
                            name_of(t.dtype())));
  throw Error(fmt::format("data: a tensor of shape {} is on the {} device and has no bytes on the CPU; use to() first", t.shape().str(),
                          t.device().str()));
}
int64_t Tensor::size(int64_t dim) const {
  if (this->dim() == 0) throw Error(fmt::format("size: a tensor without dims has no dim {}", dim));
  return shape()[normalize_dim("size", dim, this->dim())];
}
Options Tensor::options() const { return {dtype(), device()}; }
bool Tensor::requires_grad() const { return impl_ && (impl_->producer || impl_->leaf_wants_grad); }
bool Tensor::is_leaf() const { return !impl_->producer; }
Tensor& Tensor::set_requires_grad(bool on) {
  if (on && !is_floating(dtype()))
    throw Error(fmt::format("set_requires_grad: a tensor of {} has no gradient; only floating tensors do", name_of(dtype())));
  if (!is_leaf()) throw Error("set_requires_grad: this value was made by an op; only leaves can be set, use detach() for one");
  impl_->leaf_wants_grad = on;
  return *this;
}
Tensor Tensor::grad() const { return impl_->gradient; }
void Tensor::set_grad(Tensor g) const {
  if (g && !(g.shape() == shape() && g.dtype() == dtype()))
    throw Error(fmt::format("set_grad: a gradient of shape {} and {} does not fit a tensor of shape {} and {}", g.shape().str(),
                            name_of(g.dtype()), shape().str(), name_of(dtype())));
  impl_->gradient = g ? g.detach() : g;
  impl_->row_gradient = {};
}
Tensor Tensor::detach() const {
  Tensor t = make_tensor(impl_->storage, impl_->layout);
  if (ctx.region || ctx.budget) t->source = impl_->source;  // it still knows how to be replayed
  return t;
}
uint32_t Tensor::version() const { return impl_->storage->version; }
bool Tensor::shares_storage(const Tensor& o) const { return impl_ && o.impl_ && impl_->storage == o.impl_->storage; }

Tensor detail::copy_to(const Tensor& t, Device device, bool no_wait) {
  Tensor y = no_wait && device.is_cpu() ? empty_pinned(t.shape(), t.dtype()) : empty(t.shape(), {t.dtype(), device});
  const std::byte* from = t->storage->data + t.offset() * int64_t(size_of(t.dtype()));
  const size_t bytes = size_t(t.numel()) * size_of(t.dtype());
  if (bytes == 0) return y;
  if (device.is_cpu()) {
    detail::cuda_runtime->use(t.device().index);
    detail::cuda_runtime->to_host(from, y->storage->data, bytes, no_wait);
  } else if (t.device().is_cpu()) detail::cuda_runtime->from_host(from, y->storage->data, bytes, no_wait);
  else detail::cuda_runtime->between(from, t.device().index, y->storage->data, device.index, bytes);
  return y;
}

namespace {
Tensor on_cpu_as(const Tensor& t, DType dtype) {
  if (!t) throw Error("item: the tensor is undefined");
  if (t.device().is_meta()) throw Error(fmt::format("item: a meta tensor of shape {} has no values", t.shape().str()));
  const Scoped inside(ctx.inside_forward, true);
  Tensor y = empty(t.shape(), {dtype, t.device()});
  RETAPE_DISPATCH(t.device(), copy(t, y));
  return t.device().is_cpu() ? y : detail::copy_to(y, Device::cpu());
}
void check_one(const Tensor& t) {
  if (t && t.numel() != 1)
    throw Error(fmt::format("item: a tensor of shape {} has {} elements; item() needs exactly one", t.shape().str(), t.numel()));
}
}  // namespace

double Tensor::item_as_double() const {
  check_one(*this);
  return *on_cpu_as(*this, DType::f64).data<double>();
}
int64_t Tensor::item_as_int() const {
  check_one(*this);
  return *on_cpu_as(*this, DType::i64).data<int64_t>();
}
std::vector<double> Tensor::to_doubles() const {
  const Tensor t = on_cpu_as(*this, DType::f64);
  return {t.data<double>(), t.data<double>() + t.numel()};
}
std::vector<int64_t> Tensor::to_ints() const {
  const Tensor t = on_cpu_as(*this, DType::i64);
  return {t.data<int64_t>(), t.data<int64_t>() + t.numel()};
}

// ---- creation -------------------------------------------------------------------------------------------------------

Tensor empty(const Shape& shape, Options options) {
  int64_t bytes = int64_t(size_of(options.dtype));
  bool zero = false;
  for (int64_t n : shape) {
    if (n < 0) throw Error(fmt::format("empty: size {} in shape {} is negative", n, shape.str()));
    zero |= n == 0;
  }
  for (int64_t n : shape)
    if (n != 0 && __builtin_mul_overflow(bytes, n, &bytes))  // beside a 0, too: strides are products
      throw Error(fmt::format("empty: a tensor of shape {} and {} has more than 2^63 bytes", shape.str(), name_of(options.dtype)));
  if (options.device.is_cpu() && !detail::cpu_kernels) detail::check_cpu_backend();
  return make_tensor(Storage::make(zero ? 0 : size_t(bytes), options.device), {shape, contiguous_strides(shape), 0, options.dtype});
}
Tensor empty(const Shape& shape, Options options, MemoryFormat format) {
  Tensor y = empty(shape, options);
  if (format == MemoryFormat::channels_last && shape.rank() > 2) y->layout.strides = channels_last_strides(shape);
  return y;
}
bool Tensor::is_contiguous(MemoryFormat format) const {
  if (format == MemoryFormat::contiguous) return is_contiguous();
  if (dim() < 3) return false;
  if (numel() == 0) return true;
  const Shape wanted = channels_last_strides(shape());
  for (int d = 0; d < dim(); ++d)
    if (shape()[d] != 1 && strides()[d] != wanted[d]) return false;
  return true;
}
MemoryFormat Tensor::memory_format() const {
  return !is_contiguous() && is_contiguous(MemoryFormat::channels_last) ? MemoryFormat::channels_last : MemoryFormat::contiguous;
}
Tensor empty_like(const Tensor& x) { return empty(x.shape(), x.options()); }

Tensor full(const Shape& shape, double value, Options options) {
  Tensor y = empty(shape, options);
  if (y.numel() == 1 && options.device.is_cpu()) {  // scalars are made often: `x * 2`
    switch (options.dtype) {
      case DType::f64: *reinterpret_cast<double*>(y->storage->data) = value; return y;
      case DType::f32: *reinterpret_cast<float*>(y->storage->data) = float(value); return y;
      case DType::i64: *reinterpret_cast<int64_t*>(y->storage->data) = int64_t(value); return y;
      default: break;
    }
  }
  const Scoped inside(ctx.inside_forward, true);  // a constant has no gradient to cut
  RETAPE_DISPATCH(y.device(), fill(value, y));
  return y;
}
Tensor zeros(const Shape& shape, Options options) { return full(shape, 0, options); }
Tensor ones(const Shape& shape, Options options) { return full(shape, 1, options); }
Tensor full_like(const Tensor& x, double value) { return full(x.shape(), value, x.options()); }
Tensor zeros_like(const Tensor& x) { return full_like(x, 0); }
Tensor ones_like(const Tensor& x) { return full_like(x, 1); }

Tensor arange(double start, double end, double step, Options options) {
  if (step == 0 || !std::isfinite(start) || !std::isfinite(end) || !std::isfinite(step) || (end - start) / step < 0)
    throw Error(
        fmt::format("arange: from {} to {} in steps of {} never ends; step must be non-zero and lead from start to end", start, end, step));
  Tensor y = empty({int64_t(std::ceil((end - start) / step))}, options);
  const Scoped inside(ctx.inside_forward, true);
  RETAPE_DISPATCH(y.device(), arange(start, step, y));
  return y;
}

namespace {
// f(i) for i in [0, steps), computed in f64.
template <class F> Tensor from_steps(const char* name, int64_t steps, Options options, const F& f) {
  if (steps < 0) throw Error(fmt::format("{}: {} steps are not possible; give 0 or more", name, steps));
  Tensor y = empty({steps}, {DType::f64});
  double* p = y.mutable_data<double>();
  for (int64_t i = 0; i < steps; ++i) p[i] = f(i);
  if (options.device.is_meta()) return empty({steps}, options);
  Tensor out = empty({steps}, {options.dtype});
  const Scoped inside(ctx.inside_forward, true);
  RETAPE_DISPATCH(out.device(), copy(y, out));
  return options.device.is_cpu() ? out : detail::copy_to(out, options.device);
}
// The half that is nearer to an end is counted from that end, so that both ends are exact.
double between(double start, double end, int64_t i, int64_t steps) {
  const double step = steps > 1 ? (end - start) / double(steps - 1) : 0;
  return i < (steps + 1) / 2 ? start + double(i) * step : end - double(steps - 1 - i) * step;
}
}  // namespace
Tensor linspace(double start, double end, int64_t steps, Options options) {
  return from_steps("linspace", steps, options, [&](int64_t i) { return between(start, end, i, steps); });
}
Tensor logspace(double start, double end, int64_t steps, double base, Options options) {
  return from_steps("logspace", steps, options, [&](int64_t i) { return std::pow(base, between(start, end, i, steps)); });
}
Tensor eye(int64_t rows, int64_t columns, Options options) {
  Tensor y = zeros({rows, columns}, options);
  const int64_t n = std::min(rows, columns);
  if (n == 0) return y;
  Layout diagonal = y->layout;
  diagonal.shape = {n}, diagonal.strides = {columns + 1};
  Tensor view = make_tensor(y->storage, diagonal);
  const Scoped inside(ctx.inside_forward, true);
  RETAPE_DISPATCH(y.device(), fill(1, view));
  return y;
}

Tensor detail::tensor_from(const void* values, size_t count, DType dtype, const Shape& shape) {
  Tensor y = empty(shape, {dtype});
  if (y.numel() != int64_t(count))
    throw Error(fmt::format("tensor: {} values do not fill shape {}, which has {} elements", count, shape.str(), y.numel()));
  if (count) std::memcpy(y->storage->data, values, count * size_of(dtype));
  return y;
}

// ---- printing -------------------------------------------------------------------------------------------------------

namespace {
void print(fmt::memory_buffer& out, const std::vector<double>& values, DType dtype, const Shape& shape, int dim, int64_t at, int width) {
  auto to = fmt::appender(out);
  if (dim == shape.rank()) {
    const double v = values[size_t(at)];
    if (dtype == DType::boolean) fmt::format_to(to, "{:>{}}", v != 0 ? "true" : "false", width);
    else if (!is_floating(dtype)) fmt::format_to(to, "{:>{}}", int64_t(v), width);
    else fmt::format_to(to, "{:>{}.4f}", v, width);
    return;
  }
  int64_t stride = 1;
  for (int d = dim + 1; d < shape.rank(); ++d) stride *= shape[d];
  const int64_t n = shape[dim], edge = 3;
  const bool shorten = shape.numel() > 1000 && n > 2 * edge;
  fmt::format_to(to, "[");
  for (int64_t i = 0; i < n; ++i) {
    if (i && dim + 1 == shape.rank()) fmt::format_to(to, ", ");
    else if (i) fmt::format_to(to, ",\n{:{}}", "", dim + 1);
    if (shorten && i == edge) {
      fmt::format_to(to, "...");
      i = n - edge - 1;
      continue;
    }
    print(out, values, dtype, shape, dim + 1, at + i * stride, width);
  }
  fmt::format_to(to, "]");
}
}  // namespace

std::string to_string(const Tensor& x) {
  if (!x) return "Tensor(undefined)";
  const std::string tail = fmt::format("Tensor {} {}", x.shape().str(), name_of(x.dtype()));
  if (x.device().is_meta()) return tail + " on meta";
  const auto values = x.to_vector<double>();
  int width = 0;
  for (double v : values)
    width = std::max(width, int(is_floating(x.dtype()) ? fmt::formatted_size("{:.4f}", v) : fmt::formatted_size("{}", int64_t(v))));
  fmt::memory_buffer out;
  print(out, values, x.dtype(), x.shape(), 0, 0, width);
  return fmt::to_string(out) + "\n" + tail;
}

}  // namespace retape
