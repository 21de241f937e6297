// Convolutions of f32 through oneDNN's direct kernels. Images keep their channels last, which those kernels take; only the weight is put
// into the order that a kernel asks for, in every call, since training changes it in every step.
#include <retape/core/runtime/onednn.h>
#include <retape/core/runtime/onednn_engine.h>

#include <cstring>

#include <retape/core/memory.h>

namespace retape::onednn {
namespace {

using dnnl::memory;
using dnnl::primitive_desc_base;
using tag = memory::format_tag;
constexpr auto f32 = memory::data_type::f32;

using Pass = ConvolutionPass;

memory::dims tail(int rank, const int64_t (&v)[3], int64_t minus = 0) {
  memory::dims d;
  for (int i = 3 - rank; i < 3; ++i) d.push_back(v[i] - minus);
  return d;
}
memory::dims joined(memory::dims head, const memory::dims& rest) {
  head.insert(head.end(), rest.begin(), rest.end());
  return head;
}

struct Descriptions {
  memory::desc x, weight, plain_weight, bias, y;
  memory::dims stride, dilation, before, after;

  Descriptions(const Convolution& c, bool with_bias) {
    const int rank = c.rank;
    const WindowArgs& w = c.window;
    const tag images[] = {tag::nwc, tag::nhwc, tag::ndhwc}, plain[] = {tag::oiw, tag::oihw, tag::oidhw},
              grouped[] = {tag::goiw, tag::goihw, tag::goidhw};
    x = memory::desc(joined({c.batch, c.in_channels}, tail(rank, w.in)), f32, images[rank - 1]);
    y = memory::desc(joined({c.batch, c.out_channels}, tail(rank, w.out)), f32, images[rank - 1]);
    const bool groups = c.groups > 1;
    memory::dims dims = joined({c.out_channels / c.groups, c.in_channels / c.groups}, tail(rank, w.kernel));
    if (groups) dims.insert(dims.begin(), c.groups);
    plain_weight = memory::desc(dims, f32, groups ? grouped[rank - 1] : plain[rank - 1]);
    weight = memory::desc(dims, f32, tag::any);
    if (with_bias) bias = memory::desc({c.out_channels}, f32, tag::x);
    stride = tail(rank, w.stride), dilation = tail(rank, w.dilation, 1), before = tail(rank, w.padding);
    for (int i = 3 - rank; i < 3; ++i)
      after.push_back((w.out[i] - 1) * w.stride[i] + (w.kernel[i] - 1) * w.dilation[i] + 1 - w.in[i] - w.padding[i]);
  }
};

#if DNNL_VERSION_MAJOR >= 3
dnnl::convolution_forward::primitive_desc describe_forward(const Descriptions& d) {
  constexpr auto kind = dnnl::prop_kind::forward_training;
  constexpr auto direct = dnnl::algorithm::convolution_direct;
  if (d.bias.is_zero()) return {engine(), kind, direct, d.x, d.weight, d.y, d.stride, d.dilation, d.before, d.after};
  return {engine(), kind, direct, d.x, d.weight, d.bias, d.y, d.stride, d.dilation, d.before, d.after};
}
dnnl::convolution_backward_data::primitive_desc describe_input(const Descriptions& d) {
  return {engine(), dnnl::algorithm::convolution_direct, d.x, d.weight, d.y, d.stride, d.dilation, d.before, d.after, describe_forward(d)};
}
dnnl::convolution_backward_weights::primitive_desc describe_weight(const Descriptions& d) {
  return {engine(), dnnl::algorithm::convolution_direct, d.x, d.weight, d.y, d.stride, d.dilation, d.before, d.after, describe_forward(d)};
}
#else
dnnl::convolution_forward::primitive_desc describe_forward(const Descriptions& d) {
  constexpr auto kind = dnnl::prop_kind::forward_training;
  constexpr auto direct = dnnl::algorithm::convolution_direct;
  const auto op = d.bias.is_zero()
                      ? dnnl::convolution_forward::desc(kind, direct, d.x, d.weight, d.y, d.stride, d.dilation, d.before, d.after)
                      : dnnl::convolution_forward::desc(kind, direct, d.x, d.weight, d.bias, d.y, d.stride, d.dilation, d.before, d.after);
  return {op, engine()};
}
dnnl::convolution_backward_data::primitive_desc describe_input(const Descriptions& d) {
  const dnnl::convolution_backward_data::desc op(dnnl::algorithm::convolution_direct, d.x, d.weight, d.y, d.stride, d.dilation, d.before,
                                                 d.after);
  return {op, engine(), describe_forward(d)};
}
dnnl::convolution_backward_weights::primitive_desc describe_weight(const Descriptions& d) {
  const dnnl::convolution_backward_weights::desc op(dnnl::algorithm::convolution_direct, d.x, d.weight, d.y, d.stride, d.dilation, d.before,
                                                    d.after);
  return {op, engine(), describe_forward(d)};
}
#endif

// A kernel of the processor's own instructions; the others, which multiply by columns or are there for reference, are slower than ours.
template <class Description> bool is_direct(const Description& d) {
  const std::string name = d.impl_info_str();
  return name.starts_with("jit") || name.starts_with("br");
}

struct Primitive {
  dnnl::primitive run, reorder;  // the weight from row-major to the kernel's order, or back
  memory x, weight, plain_weight, bias, y;
  size_t weight_bytes;
};

Primitive make_primitive(const Convolution& c, Pass pass, bool with_bias) {
  const Descriptions d(c, with_bias);
  const auto with = [&](const dnnl::primitive& run, const memory::desc& weight) {
    const auto at = [](const memory::desc& desc) { return memory(desc, engine(), nullptr); };
    Primitive p{run, {}, at(d.x), at(weight), at(d.plain_weight), with_bias ? at(d.bias) : memory(), at(d.y), weight.get_size()};
    const bool back = pass == Pass::weight;
    p.reorder =
        dnnl::reorder(dnnl::reorder::primitive_desc(engine(), back ? weight : d.plain_weight, engine(), back ? d.plain_weight : weight));
    return p;
  };
  if (pass == Pass::forward) {
    const auto desc = describe_forward(d);
    return with(dnnl::convolution_forward(desc), desc.weights_desc());
  }
  if (pass == Pass::input) {
    const auto desc = describe_input(d);
    return with(dnnl::convolution_backward_data(desc), desc.weights_desc());
  }
  const auto desc = describe_weight(d);
  return with(dnnl::convolution_backward_weights(desc), desc.diff_weights_desc());
}

constexpr size_t words = 6 + 18;
std::array<int64_t, words> key_of(const Convolution& c, int64_t what) {
  std::array<int64_t, words> key{c.rank, c.batch, c.groups, c.in_channels, c.out_channels, what};
  static_assert(sizeof(WindowArgs) == 18 * sizeof(int64_t));
  std::memcpy(key.data() + 6, &c.window, sizeof c.window);
  return key;
}

PrimitiveCache<words, Primitive>& primitives() {
  thread_local PrimitiveCache<words, Primitive> cache;
  return cache;
}
Primitive& primitive(const Convolution& c, Pass pass, bool with_bias) {
  const int64_t what = int64_t(pass) | int64_t(with_bias) << 2 | int64_t(omp_get_max_threads()) << 3;
  return primitives().get(key_of(c, what), [&] { return make_primitive(c, pass, with_bias); });
}

class Bytes {
 public:
  explicit Bytes(size_t n) : n_(n), p_(detail::allocate(n)) {}
  Bytes(const Bytes&) = delete;
  ~Bytes() { detail::deallocate(p_, n_); }
  void* get() const { return p_; }

 private:
  size_t n_;
  std::byte* p_;
};

void set(memory& m, const void* p) {
  if (m) m.set_data_handle(const_cast<void*>(p));
}
// For the kernels that read the weight.
void run_with_weight(const char* op, const Convolution& c, Pass pass, const float* x, const float* weight, const float* bias,
                     const float* y) try {
  const ThreadsHere threads;
  Primitive& p = primitive(c, pass, bias);
  const Bytes ordered(p.weight_bytes);
  set(p.plain_weight, weight), set(p.weight, ordered.get()), set(p.x, x), set(p.y, y), set(p.bias, bias);
  dnnl::stream& stream = primitives().stream();
  p.reorder.execute(stream, {{DNNL_ARG_FROM, p.plain_weight}, {DNNL_ARG_TO, p.weight}});
  if (pass == Pass::forward) {
    std::unordered_map<int, memory> arguments = {{DNNL_ARG_SRC, p.x}, {DNNL_ARG_WEIGHTS, p.weight}, {DNNL_ARG_DST, p.y}};
    if (bias) arguments.emplace(DNNL_ARG_BIAS, p.bias);
    p.run.execute(stream, arguments);
  } else {
    p.run.execute(stream, {{DNNL_ARG_DIFF_SRC, p.x}, {DNNL_ARG_WEIGHTS, p.weight}, {DNNL_ARG_DIFF_DST, p.y}});
  }
  stream.wait();
} catch (const dnnl::error& e) {
  fail(op, e);
}

}  // namespace

bool convolves(const Convolution& c, Pass pass) try {
  thread_local PrimitiveCache<words, char> known;
  return known.get(key_of(c, int64_t(pass)), [&] {
    const Descriptions d(c, false);
    try {
      return char(pass == Pass::forward ? is_direct(describe_forward(d))
                  : pass == Pass::input ? is_direct(describe_input(d))
                                        : is_direct(describe_weight(d)));
    } catch (const dnnl::error& e) {
      if (e.status == dnnl_unimplemented) return char(false);
      throw;
    }
  });
} catch (const dnnl::error& e) {
  fail("convolution", e);
}

void convolution(const Convolution& c, const float* x, const float* weight, const float* bias, float* y) {
  run_with_weight("convolution", c, Pass::forward, x, weight, bias, y);
}

void convolution_backward_input(const Convolution& c, const float* dy, const float* weight, float* dx) {
  run_with_weight("convolution_backward_input", c, Pass::input, dx, weight, nullptr, dy);
}

// oneDNN would sum over images in a way that follows the number of threads. So images are cut into parts by shape alone, each part is one
// thread's, and the parts' sums are added in order.
void convolution_backward_weight(const Convolution& c, const float* dy, const float* x, float* dweight) {
  constexpr int64_t most_parts = 16, most_bytes = 32 << 20;
  const int64_t size = c.out_channels * (c.in_channels / c.groups) * c.window.elements();
  const int64_t parts = std::clamp<int64_t>(most_bytes / (4 * size), 1, std::min(most_parts, c.batch));
  const int64_t x_size = c.window.places_in() * c.in_channels, y_size = c.window.places_out() * c.out_channels;
  const Bytes sums(size_t(4 * size * (parts - 1)));
  const auto sum_of = [&](int64_t part) { return part == 0 ? dweight : static_cast<float*>(sums.get()) + (part - 1) * size; };
  const auto run_part = [&](int64_t part) {
    const ThreadsHere threads;
    const int64_t first = c.batch * part / parts;
    Convolution mine = c;
    mine.batch = c.batch * (part + 1) / parts - first;
    Primitive& p = primitive(mine, Pass::weight, false);
    const Bytes ordered(p.weight_bytes);
    set(p.x, x + first * x_size), set(p.y, dy + first * y_size), set(p.weight, ordered.get()), set(p.plain_weight, sum_of(part));
    dnnl::stream& stream = primitives().stream();
    p.run.execute(stream, {{DNNL_ARG_SRC, p.x}, {DNNL_ARG_DIFF_DST, p.y}, {DNNL_ARG_DIFF_WEIGHTS, p.weight}});
    p.reorder.execute(stream, {{DNNL_ARG_FROM, p.weight}, {DNNL_ARG_TO, p.plain_weight}});
    stream.wait();
  };
  std::string failure;
#pragma omp parallel for schedule(static)
  for (int64_t part = 0; part < parts; ++part) try {
      run_part(part);
    } catch (const std::exception& e) {
#pragma omp critical
      failure = e.what();
    }
  if (!failure.empty()) throw Error("convolution_backward_weight: oneDNN failed: " + failure);
  constexpr int64_t block = 1024;
#pragma omp parallel for schedule(static)
  for (int64_t from = 0; from < size; from += block)
    for (int64_t part = 1; part < parts; ++part) {
      const float* const more = sum_of(part);
      for (int64_t i = from; i < std::min(size, from + block); ++i) dweight[i] += more[i];
    }
}

}  // namespace retape::onednn
