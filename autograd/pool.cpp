#include <retape/autograd/pool.h>

#include <retape/autograd/binary.h>
#include <retape/autograd/image.h>
#include <retape/autograd/index.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>

namespace retape {
namespace {

// (N, C, space) as (N, C, places)
Tensor places_of(const Tensor& x) { return reshape(x, {x.shape()[0], x.shape()[1], -1}); }

// Where the elements that max pooling chose lie: element (N, C, out), as its kernel names them, gives places among those of an image.
struct MaxPoolPlaces {
  static constexpr auto name = "max_pool_places";
  static constexpr int differentiable = 0;
  WindowArgs window;
  Tensor forward(const Tensor& element) {
    const Tensor numbers = dense_channels_behind(element);
    Tensor index = empty(element.shape(), {DType::i64, element.device()}, MemoryFormat::channels_last), places = channels_behind(index);
    RETAPE_DISPATCH(element.device(), max_pool_places(window, numbers, places));
    return index;
  }
};
struct MaxPoolBackward {
  static constexpr auto name = "max_pool_backward";
  int rank;
  WindowArgs window;
  Saved element = {};
  Tensor forward(const Tensor& dy, const Tensor& chosen) {
    element = save(chosen);
    const Tensor grad = dense_channels_behind(dy), numbers = dense_channels_behind(chosen);
    Tensor out = empty(image_shape(dy.shape()[0], dy.shape()[1], rank, window.in), dy.options(), MemoryFormat::channels_last),
           image = channels_behind(out);
    RETAPE_DISPATCH(dy.device(), max_pool_backward(window, grad, numbers, image));
    return out;
  }
  void backward(const Tensor& ddx, Grads& dx) {
    const Tensor index = record(MaxPoolPlaces{window}, *element);
    dx.set(0, reshape(gather(places_of(ddx), 2, places_of(index)), index.shape()));
    dx.none(1);
  }
};
struct MaxPool {
  static constexpr auto name = "max_pool";
  static constexpr int differentiable = 1;
  int rank;
  WindowArgs window;
  Saved element = {};
  std::array<Tensor, 2> forward(const Tensor& x) {
    const Tensor image = dense_channels_behind(x);
    const Shape shape = image_shape(x.shape()[0], x.shape()[1], rank, window.out);
    int64_t numbers = 1;  // of elements, of the largest window where they vary
    for (int d = 0; d < 3; ++d)
      numbers *= window.kernel[d] ? window.kernel[d] : (window.in[d] + window.out[d] - 1) / std::max<int64_t>(window.out[d], 1) + 1;
    Tensor y = empty(shape, x.options(), MemoryFormat::channels_last);
    Tensor chosen = empty(shape, {numbers <= 256 ? DType::u8 : DType::i32, x.device()}, MemoryFormat::channels_last);
    Tensor values = channels_behind(y), which = channels_behind(chosen);
    RETAPE_DISPATCH(x.device(), max_pool(window, image, values, which));
    element = save(chosen);
    return {y, chosen};
  }
  void backward(const std::vector<Tensor>& dy, Grads& dx) { dx.set(0, record(MaxPoolBackward{rank, window}, dy[0], *element)); }
  Intervals reach(const Reach& r) const { return seen_by_windows(r, rank, window, false); }
};

struct AvgPool;
struct AvgPoolBackward {
  static constexpr auto name = "avg_pool_backward";
  int rank;
  WindowArgs window;
  AvgPoolArgs args;
  Tensor forward(const Tensor& dy) {
    const Tensor grad = dense_channels_behind(dy);
    Tensor out = empty(image_shape(dy.shape()[0], dy.shape()[1], rank, window.in), dy.options(), MemoryFormat::channels_last),
           image = channels_behind(out);
    RETAPE_DISPATCH(dy.device(), avg_pool_backward(window, args, grad, image));
    return out;
  }
  void backward(const Tensor& ddx, Grads& dx);
};
struct AvgPool {
  static constexpr auto name = "avg_pool";
  int rank;
  WindowArgs window;
  AvgPoolArgs args;
  Tensor forward(const Tensor& x) {
    const Tensor image = dense_channels_behind(x);
    Tensor y = empty(image_shape(x.shape()[0], x.shape()[1], rank, window.out), x.options(), MemoryFormat::channels_last),
           values = channels_behind(y);
    RETAPE_DISPATCH(x.device(), avg_pool(window, args, image, values));
    return y;
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, record(AvgPoolBackward{rank, window, args}, dy)); }
  Intervals reach(const Reach& r) const { return seen_by_windows(r, rank, window, false); }
};
void AvgPoolBackward::backward(const Tensor& ddx, Grads& dx) { dx.set(0, record(AvgPool{rank, window, args}, ddx)); }

WindowArgs sliding(const char* op, int rank, const Tensor& x, const PerDim& kernel, const std::optional<PerDim>& stride,
                   const PerDim& padding, const PerDim& dilation, bool ceil_mode) {
  WindowArgs w = unit_window();
  for (int d = 0; d < rank; ++d) {
    const int at = 3 - rank + d;
    w.in[at] = x.shape()[2 + d], w.kernel[at] = checked(op, "kernel size", kernel.at(d, rank, op, "kernel_size"), 1);
    w.stride[at] = stride ? checked(op, "stride", stride->at(d, rank, op, "stride"), 1) : w.kernel[at];
    w.padding[at] = checked(op, "padding", padding.at(d, rank, op, "padding"), 0);
    w.dilation[at] = checked(op, "dilation", dilation.at(d, rank, op, "dilation"), 1);
    if (2 * w.padding[at] > w.kernel[at])
      throw Error(fmt::format("{}: padding {} is more than half of the kernel's {}", op, w.padding[at], w.kernel[at]));
    const int64_t reach = w.dilation[at] * (w.kernel[at] - 1) + 1, room = w.in[at] + 2 * w.padding[at] - reach;
    const int64_t steps = room < 0 ? -1 : (room + (ceil_mode ? w.stride[at] - 1 : 0)) / w.stride[at];
    w.out[at] = steps + 1;
    if (ceil_mode && steps * w.stride[at] >= w.in[at] + w.padding[at]) --w.out[at];
    if (w.out[at] < 1)
      throw Error(fmt::format("{}: a kernel of {} with dilation {} reaches over {} and does not fit the {} of x {} with padding {}", op,
                              w.kernel[at], w.dilation[at], reach, w.in[at], x.shape().str(), w.padding[at]));
  }
  return w;
}
WindowArgs parting(const char* op, int rank, const Tensor& x, const PerDim& size) {
  WindowArgs w = unit_window();
  for (int d = 0; d < rank; ++d) {
    const int at = 3 - rank + d;
    const int64_t wanted = size.at(d, rank, op, "output_size");
    w.in[at] = x.shape()[2 + d];
    w.out[at] = wanted == -1 ? w.in[at] : checked(op, "output_size", wanted, 0);
    if (w.in[at] == 0) throw Error(fmt::format("{}: x {} has no elements in dim {}", op, x.shape().str(), 2 + d));
    w.kernel[at] = 0;
  }
  return w;
}

// max pooling over windows that `make` describes for (N, C, space); indices only if they are wanted
template <class Make> Pooled max_pool(const char* op, int rank, const Tensor& x, bool want_indices, Make&& make) {
  Tensor indices;
  Tensor values = with_batch(op, x, rank, [&](const Tensor& image) {
    const WindowArgs w = make(image);
    if (w.places_in() == 0) throw Error(fmt::format("{}: x {} has no elements to take the largest of", op, x.shape().str()));
    auto both = record(MaxPool{rank, w}, image);
    if (want_indices) indices = record(MaxPoolPlaces{w}, both[1]);
    return both[0];
  });
  return {values, want_indices && x.dim() < rank + 2 ? squeeze(indices, 0) : indices};
}
Pooled max_pool(const char* op, int rank, const Tensor& x, bool want_indices, const PerDim& kernel, const MaxPoolOptions& o) {
  return max_pool(op, rank, x, want_indices,
                  [&](const Tensor& image) { return sliding(op, rank, image, kernel, o.stride, o.padding, o.dilation, o.ceil_mode); });
}
Pooled adaptive_max_pool(const char* op, int rank, const Tensor& x, bool want_indices, const PerDim& size) {
  return max_pool(op, rank, x, want_indices, [&](const Tensor& image) { return parting(op, rank, image, size); });
}
Tensor avg_pool(const char* op, int rank, const Tensor& x, const PerDim& kernel, const AvgPoolOptions& o) {
  return with_batch(op, x, rank, [&](const Tensor& image) {
    const AvgPoolArgs args{checked(op, "divisor_override", o.divisor_override, 0), o.count_include_pad};
    return record(AvgPool{rank, sliding(op, rank, image, kernel, o.stride, o.padding, 1, o.ceil_mode), args}, image);
  });
}
Tensor adaptive_avg_pool(const char* op, int rank, const Tensor& x, const PerDim& size) {
  return with_batch(op, x, rank, [&](const Tensor& image) { return record(AvgPool{rank, parting(op, rank, image, size), {}}, image); });
}
Tensor lp_pool(const char* op, int rank, const Tensor& x, double p, const PerDim& kernel, const LpPoolOptions& o) {
  if (!(p != 0)) throw Error(fmt::format("{}: norm_type {} is not valid; it must be a number other than 0", op, p));
  int64_t elements = 1;
  for (int d = 0; d < rank; ++d) elements *= kernel.at(d, rank, op, "kernel_size");
  const Tensor mean = avg_pool(op, rank, pow(x, p), kernel, {.stride = o.stride, .ceil_mode = o.ceil_mode});
  return pow(sign(mean) * relu(abs(mean)) * double(elements), 1 / p);
}
Tensor max_unpool(const char* op, int rank, const Tensor& x, const Tensor& indices, const PerDim& kernel, const MaxUnpoolOptions& o) {
  check_defined(op, indices);
  if (!(indices.shape() == x.shape()) || indices.dtype() != DType::i64)
    throw Error(fmt::format("{}: indices {} of {} do not fit x {}; they must be i64 of the same shape", op, indices.shape().str(),
                            name_of(indices.dtype()), x.shape().str()));
  return with_batch(op, x, rank, [&](const Tensor& image) {
    Shape shape{image.shape()[0], image.shape()[1]};
    int64_t places = 1;
    if (o.output_size.rank() > 0 && o.output_size.rank() != rank)
      throw Error(fmt::format("{}: output_size {} has {} numbers; it must have {}", op, o.output_size.str(), o.output_size.rank(), rank));
    for (int d = 0; d < rank; ++d) {
      const int64_t k = kernel.at(d, rank, op, "kernel_size"), stride = o.stride ? o.stride->at(d, rank, op, "stride") : k;
      const int64_t usual = (image.shape()[2 + d] - 1) * stride - 2 * o.padding.at(d, rank, op, "padding") + k;
      const int64_t size = o.output_size.rank() > 0 ? o.output_size[d] : usual;
      if (size <= usual - stride || size >= usual + stride)
        throw Error(fmt::format("{}: output_size {} is not possible for dim {} of x {}; it must be between {} and {}", op, size, 2 + d,
                                x.shape().str(), usual - stride, usual + stride));
      shape.push_back(checked(op, "output size", size, 1));
      places *= size;
    }
    const Tensor at = reshape(indices, {image.shape()[0], image.shape()[1], -1});
    return reshape(scatter(zeros({image.shape()[0], image.shape()[1], places}, image.options()), 2, at, places_of(image)), shape);
  });
}

}  // namespace

#define RETAPE_POOLS(rank)                                                                                    \
  Tensor max_pool##rank##d(const Tensor& x, const PerDim& k, const MaxPoolOptions& o) {                       \
    return max_pool("max_pool" #rank "d", rank, x, false, k, o).values;                                       \
  }                                                                                                           \
  Pooled max_pool##rank##d_with_indices(const Tensor& x, const PerDim& k, const MaxPoolOptions& o) {          \
    return max_pool("max_pool" #rank "d", rank, x, true, k, o);                                               \
  }                                                                                                           \
  Tensor max_unpool##rank##d(const Tensor& x, const Tensor& at, const PerDim& k, const MaxUnpoolOptions& o) { \
    return max_unpool("max_unpool" #rank "d", rank, x, at, k, o);                                             \
  }                                                                                                           \
  Tensor avg_pool##rank##d(const Tensor& x, const PerDim& k, const AvgPoolOptions& o) {                       \
    return avg_pool("avg_pool" #rank "d", rank, x, k, o);                                                     \
  }                                                                                                           \
  Tensor lp_pool##rank##d(const Tensor& x, double p, const PerDim& k, const LpPoolOptions& o) {               \
    return lp_pool("lp_pool" #rank "d", rank, x, p, k, o);                                                    \
  }                                                                                                           \
  Tensor adaptive_avg_pool##rank##d(const Tensor& x, const PerDim& size) {                                    \
    return adaptive_avg_pool("adaptive_avg_pool" #rank "d", rank, x, size);                                   \
  }                                                                                                           \
  Tensor adaptive_max_pool##rank##d(const Tensor& x, const PerDim& size) {                                    \
    return adaptive_max_pool("adaptive_max_pool" #rank "d", rank, x, false, size).values;                     \
  }                                                                                                           \
  Pooled adaptive_max_pool##rank##d_with_indices(const Tensor& x, const PerDim& size) {                       \
    return adaptive_max_pool("adaptive_max_pool" #rank "d", rank, x, true, size);                             \
  }
RETAPE_POOLS(1)
RETAPE_POOLS(2)
RETAPE_POOLS(3)
#undef RETAPE_POOLS

}  // namespace retape
