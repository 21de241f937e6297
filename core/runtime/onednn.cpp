// Three ways to multiply, chosen by shape and layout: dnnl_sgemm on the whole, a cached matmul primitive, or one
// single-threaded dnnl_sgemm a tile. oneDNN plans the first two for the number of threads it finds, and some plans cut or
// block K differently, which changes the last bits: `plan` keeps them to shapes where that does not happen.
#include <retape/core/runtime/onednn.h>

#include <memory>

#include <retape/core/runtime/onednn_engine.h>

namespace retape::onednn {

dnnl::engine& engine() {
  static auto& e = *new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return e;
}

namespace {

using dnnl::memory;

// ---- one operand as BLAS sees it ----

struct Side {
  bool transposed;
  int64_t stride;  // between rows, or between columns if transposed
  int64_t offset(int64_t row, int64_t col) const { return transposed ? row + col * stride : row * stride + col; }
};
Side side(int64_t rows, int64_t cols, int64_t row_stride, int64_t col_stride) {
  const bool plain = (col_stride == 1 || cols == 1) && (row_stride >= cols || rows == 1);
  if (plain) return {false, std::max(rows == 1 ? 0 : row_stride, cols)};
  return {true, std::max(cols == 1 ? 0 : col_stride, rows)};
}

// ---- plan ----

enum class Way { sgemm, primitive, tiles };

// Which way was fastest: sgemm for a plain b; the primitive for a transposed one unless the output is large and k short, and for
// batches. The rest keeps away from plans that follow the thread count, as seen with 1 to 64 threads in oneDNN 2.6 and 3.2:
// without AVX-512, nearly all; with it, sgemm for vectors, for few rows, and where it finds copying to panels worthwhile for some
// thread counts only; the primitive for a transposed a with long k.
Way plan(const Gemm& g, Side a, Side b) {
  static const bool avx512 = isa_includes(dnnl_cpu_isa_avx512_core);
  if (!avx512) return Way::tiles;
  if (g.batch > 1) {
    const bool both_broadcast = g.a_batch == 0 && g.b_batch == 0;
    return both_broadcast || (a.transposed && g.k > 512) ? Way::tiles : Way::primitive;
  }
  if (b.transposed) {
    if (a.transposed) return g.k <= 512 ? Way::primitive : Way::tiles;
    const bool large_and_short = g.m >= 1024 && g.n >= 1024 && g.k <= 384 && !g.bias;  // the primitive adds a bias for free
    return large_and_short ? Way::sgemm : Way::primitive;
  }
  if (g.m == 1 || g.n == 1) return Way::tiles;
  if (g.m <= 128) return g.k < 384 ? Way::sgemm : Way::tiles;
  if (g.k <= 384) return Way::sgemm;
  const bool large = g.m > 510 && g.n > 510;
  const bool round_stride = a.stride % 256 == 0 || b.stride % 256 == 0 || g.c_row % 256 == 0;
  const bool wavers = (!a.transposed && b.stride % 1024 == 0) || (large && !round_stride);
  return wavers ? Way::tiles : Way::sgemm;
}

// ---- dnnl_sgemm ----

void check(dnnl_status_t status) {
  if (status != dnnl_success) throw Error("matmul: oneDNN's sgemm failed with status " + std::to_string(int(status)));
}

dnnl_status_t sgemm(Side a, Side b, const float* pa, const float* pb, float* pc, int64_t c_row, int64_t m, int64_t n, int64_t k,
                    bool accumulate) {
  return dnnl_sgemm(a.transposed ? 'T' : 'N', b.transposed ? 'T' : 'N', m, n, k, 1, pa, a.stride, pb, b.stride, accumulate ? 1 : 0, pc,
                    c_row);
}

void add_bias(float* c, int64_t c_row, const float* bias, int64_t m, int64_t n) {
  for (int64_t i = 0; i < m; ++i) {
    float* row = c + i * c_row;
    for (int64_t j = 0; j < n; ++j) row[j] += bias[j];
  }
}

// ---- tiles ----

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// [0, size) in parts of nearly equal length, a multiple of `unit`, near `wanted`.
struct Cut {
  int64_t size, part, count;
  Cut(int64_t size, int64_t wanted, int64_t unit) : size(size) {
    part = ceil_div(ceil_div(size, ceil_div(size, wanted)), unit) * unit;
    count = ceil_div(size, part);
  }
  int64_t begin(int64_t i) const { return i * part; }
  int64_t length(int64_t i) const { return std::min(part, size - i * part); }
};

// oneDNN uses one thread inside a parallel region. Everything here follows from the shape. Outputs too small for many tiles
// are also cut along K; their partial sums are added in order.
void gemm_tiles(const Gemm& g, Side a, Side b) {
  constexpr int64_t enough = 8, k_part = 1024;
  struct Size {
    int64_t m, n;
  };
  Cut rows(g.m, 256, 16), cols(g.n, 384, 16);
  const auto tiles = [&] { return g.batch * rows.count * cols.count; };
  if (g.k < 4 * k_part)
    for (const Size s : {Size{96, 192}, Size{64, 128}})
      if (tiles() < enough) rows = Cut(g.m, s.m, 16), cols = Cut(g.n, s.n, 16);
  const int64_t k_parts = tiles() < enough && g.k >= 4 * k_part ? std::min(ceil_div(g.k, k_part), 2 * enough / tiles()) : 1;
  const Cut depth(g.k, ceil_div(g.k, k_parts), 16);

  const auto* pa = static_cast<const float*>(g.a);
  const auto* pb = static_cast<const float*>(g.b);
  auto* pc = static_cast<float*>(g.c);
  const auto* bias = static_cast<const float*>(g.bias);
  const int64_t plane = g.m * g.n;  // a partial result of one matrix
  const auto partial = std::make_unique_for_overwrite<float[]>(size_t(depth.count > 1 ? g.batch * depth.count * plane : 0));
  const int64_t per_matrix = rows.count * cols.count * depth.count;
  int failed = dnnl_success;
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t t = 0; t < g.batch * per_matrix; ++t) {
    const int64_t q = t / per_matrix, l = t % depth.count, j = t / depth.count % cols.count, i = t % per_matrix / depth.count / cols.count;
    const int64_t m0 = rows.begin(i), n0 = cols.begin(j), k0 = depth.begin(l), m = rows.length(i), n = cols.length(j);
    const bool whole = depth.count == 1;
    float* tile = whole ? pc + q * g.c_batch + m0 * g.c_row + n0 : partial.get() + (q * depth.count + l) * plane + m0 * g.n + n0;
    const dnnl_status_t status = sgemm(a, b, pa + q * g.a_batch + a.offset(m0, k0), pb + q * g.b_batch + b.offset(k0, n0), tile,
                                       whole ? g.c_row : g.n, m, n, depth.length(l), whole && g.accumulate);
    if (status != dnnl_success) {
#pragma omp atomic write
      failed = status;
    }
    if (whole && bias) add_bias(tile, g.c_row, bias + n0, m, n);
  }
  check(dnnl_status_t(failed));
  if (depth.count == 1) return;
#pragma omp parallel for collapse(2) schedule(static)
  for (int64_t q = 0; q < g.batch; ++q)
    for (int64_t i = 0; i < g.m; ++i) {
      float* c = pc + q * g.c_batch + i * g.c_row;
      const float* first = partial.get() + q * depth.count * plane + i * g.n;
      if (!g.accumulate) std::fill(c, c + g.n, 0.f);
      for (int64_t l = 0; l < depth.count; ++l)
        for (int64_t j = 0; j < g.n; ++j) c[j] += first[l * plane + j];
      if (bias) add_bias(c, g.n, bias, 1, g.n);
    }
}

// ---- matmul primitive ----

// A primitive with its memory objects, whose handles are set for every call.
struct Primitive {
  dnnl::matmul run;
  std::unordered_map<int, memory> arguments;
};

Primitive make_primitive(const Gemm& g, Side a, Side b, memory::data_type in, memory::data_type out) {
  const auto matrix = [&](int64_t batch_stride, int64_t rows, int64_t cols, Side s, memory::data_type type) {
    memory::dims dims{rows, cols}, strides{s.transposed ? 1 : s.stride, s.transposed ? s.stride : 1};
    if (g.batch > 1) {
      dims.insert(dims.begin(), batch_stride == 0 ? 1 : g.batch);
      strides.insert(strides.begin(), batch_stride == 0 ? rows * cols : batch_stride);
    }
    return memory::desc(dims, type, strides);
  };
  const memory::desc a_desc = matrix(g.a_batch, g.m, g.k, a, in), b_desc = matrix(g.b_batch, g.k, g.n, b, in);
  const memory::desc c_desc = matrix(g.c_batch, g.m, g.n, {false, g.c_row}, out);
  memory::dims bias_dims(g.batch > 1 ? 3 : 2, 1), bias_strides(bias_dims.size(), g.n);
  bias_dims.back() = g.n, bias_strides.back() = 1;
  const memory::desc bias_desc = g.bias ? memory::desc(bias_dims, in, bias_strides) : memory::desc();
  dnnl::primitive_attr attr;
  if (g.accumulate) {
    dnnl::post_ops ops;
    ops.append_sum(1.f);
    attr.set_post_ops(ops);
  }
#if DNNL_VERSION_MAJOR >= 3
  const auto desc = g.bias ? dnnl::matmul::primitive_desc(engine(), a_desc, b_desc, bias_desc, c_desc, attr)
                           : dnnl::matmul::primitive_desc(engine(), a_desc, b_desc, c_desc, attr);
#else
  const auto op = g.bias ? dnnl::matmul::desc(a_desc, b_desc, bias_desc, c_desc) : dnnl::matmul::desc(a_desc, b_desc, c_desc);
  const dnnl::matmul::primitive_desc desc(op, attr, engine());
#endif
  Primitive p{dnnl::matmul(desc), {}};
  p.arguments.emplace(DNNL_ARG_SRC, memory(a_desc, engine(), nullptr));
  p.arguments.emplace(DNNL_ARG_WEIGHTS, memory(b_desc, engine(), nullptr));
  p.arguments.emplace(DNNL_ARG_DST, memory(c_desc, engine(), nullptr));
  if (g.bias) p.arguments.emplace(DNNL_ARG_BIAS, memory(bias_desc, engine(), nullptr));
  return p;
}

void gemm_primitive(const Gemm& g, Side a, Side b, memory::data_type in, memory::data_type out) try {
  thread_local PrimitiveCache<12, Primitive> cache;
  const ThreadsHere threads;
  const bool batched = g.batch > 1;
  const bool in_bf16 = in == memory::data_type::bf16, out_bf16 = out == memory::data_type::bf16;
  const int64_t flags = a.transposed | b.transposed << 1 | g.accumulate << 2 | (g.bias != nullptr) << 3 | in_bf16 << 4 | out_bf16 << 5;
  Primitive& p = cache.get({g.batch, g.m, g.n, g.k, a.stride, b.stride, g.c_row, batched ? g.a_batch : 0, batched ? g.b_batch : 0,
                            batched ? g.c_batch : 0, flags, omp_get_max_threads()},
                           [&] { return make_primitive(g, a, b, in, out); });
  for (auto& [which, memory] : p.arguments) {
    const void* data = which == DNNL_ARG_SRC ? g.a : which == DNNL_ARG_WEIGHTS ? g.b : which == DNNL_ARG_DST ? g.c : g.bias;
    memory.set_data_handle(const_cast<void*>(data));
  }
  p.run.execute(cache.stream(), p.arguments);
  cache.stream().wait();
} catch (const dnnl::error& e) {
  fail("matmul", e);
}

}  // namespace

void gemm_f32(const Gemm& g) {
  if (g.batch == 0 || g.m == 0 || g.n == 0) return;
  const Side a = side(g.m, g.k, g.a_row, g.a_col), b = side(g.k, g.n, g.b_row, g.b_col);
  auto* c = static_cast<float*>(g.c);
  const auto* bias = static_cast<const float*>(g.bias);
  if (g.k == 0) {
    for (int64_t q = 0; q < g.batch; ++q)
      for (int64_t i = 0; i < g.m; ++i) {
        float* row = c + q * g.c_batch + i * g.c_row;
        if (!g.accumulate) std::fill(row, row + g.n, 0.f);
        if (bias) add_bias(row, g.n, bias, 1, g.n);
      }
    return;
  }
  switch (plan(g, a, b)) {
    case Way::primitive: return gemm_primitive(g, a, b, memory::data_type::f32, memory::data_type::f32);
    case Way::tiles: return gemm_tiles(g, a, b);
    case Way::sgemm:
      check(sgemm(a, b, static_cast<const float*>(g.a), static_cast<const float*>(g.b), c, g.c_row, g.m, g.n, g.k, g.accumulate));
      if (bias) {
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < g.m; ++i) add_bias(c + i * g.c_row, g.c_row, bias, 1, g.n);
      }
  }
}

bool has_bf16() {
  static const bool has = isa_includes(dnnl_cpu_isa_avx512_core_bf16);
  return has;
}

void gemm_bf16(const Gemm& g, bool output_f32) {
  if (g.batch == 0 || g.m == 0 || g.n == 0) return;
  if (g.k == 0) throw Error("matmul: gemm_bf16 got k = 0; the caller has to fill the result");
  const Side a = side(g.m, g.k, g.a_row, g.a_col), b = side(g.k, g.n, g.b_row, g.b_col);
  const auto out = output_f32 ? memory::data_type::f32 : memory::data_type::bf16;
  if (g.batch > 1 && g.a_batch == 0 && g.b_batch == 0) {  // the primitive wants one side to have the batch
    Gemm one = g;
    one.batch = 1;
    for (int64_t q = 0; q < g.batch; ++q, one.c = static_cast<char*>(one.c) + g.c_batch * (output_f32 ? 4 : 2))
      gemm_primitive(one, a, b, memory::data_type::bf16, out);
    return;
  }
  gemm_primitive(g, a, b, memory::data_type::bf16, out);
}

}  // namespace retape::onednn
