// cuBLASLt stores matrices by columns: a row-major c (m, n) is its c^T (n, m), and c^T = b^T a^T. So b is the library's first operand
// and a its second, and a bias for each column of c is its bias for each row.
#include <retape/cuda/libraries/blas.h>

#include <cublasLt.h>

#include <bit>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include <retape/core/device.h>
#include <retape/core/error.h>
#include <retape/cuda/device.h>

namespace retape::cuda::blas {
namespace {

void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw Error(std::string("matmul: ") + what + " failed: " + cublasLtGetStatusString(status) + " (status " + std::to_string(int(status)) +
                ")");
}

// One handle a device, for all threads and streams; never destroyed, since the driver may be gone by then.
cublasLtHandle_t handle() {
  static std::mutex mutex;
  static auto* const handles = new std::vector<cublasLtHandle_t>;
  const auto device = size_t(current_device());
  const std::lock_guard lock(mutex);
  if (device >= handles->size()) handles->resize(device + 1);
  cublasLtHandle_t& h = (*handles)[device];
  if (!h) check(cublasLtCreate(&h), "cublasLtCreate");
  return h;
}

// A matrix of the library: (rows, cols) by columns that are `ld` apart, or that transposed.
struct Operand {
  bool transposed;
  int64_t rows, cols, ld, batch;
};
// x (rows, cols) with the strides of Gemm is, to the library, x^T.
Operand operand(int64_t rows, int64_t cols, int64_t row_stride, int64_t col_stride, int64_t batch) {
  if ((col_stride == 1 || cols == 1) && (row_stride >= cols || rows == 1)) return {false, cols, rows, rows == 1 ? cols : row_stride, batch};
  return {true, rows, cols, cols == 1 ? rows : col_stride, batch};
}

// Everything that the choice of an algorithm may depend on. Only numbers of one size: compared and kept as bytes.
struct Key {
  int64_t device, dtype, compute, m, n, k, batch, accumulate, has_bias, epilogue;
  int64_t a_transposed, a_ld, a_batch, b_transposed, b_ld, b_batch, c_ld, c_batch;
  int64_t a_alignment, b_alignment, c_alignment, extra_alignment;
  bool operator<(const Key& o) const { return std::memcmp(this, &o, sizeof *this) < 0; }
};
static_assert(std::has_unique_object_representations_v<Key>);
struct Plan {
  bool found;
  cublasLtMatmulAlgo_t algorithm;
  size_t workspace;
};

int64_t alignment(const void* p) { return p ? int64_t{1} << std::min(8, std::countr_zero(uintptr_t(p) | 256)) : 256; }

struct Types {
  cudaDataType_t data, scale;
  cublasComputeType_t compute;
};
Types types(DType d) {
  switch (d) {
    case DType::f64: return {CUDA_R_64F, CUDA_R_64F, CUBLAS_COMPUTE_64F};
    case DType::f16: return {CUDA_R_16F, CUDA_R_32F, CUBLAS_COMPUTE_32F};
    case DType::bf16: return {CUDA_R_16BF, CUDA_R_32F, CUBLAS_COMPUTE_32F};
    default: return {CUDA_R_32F, CUDA_R_32F, allow_tf32() ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F};
  }
}

// Sums of a's rows are those of the library's second operand.
cublasLtEpilogue_t epilogue(const Gemm& g) {
  switch (g.epilogue) {
    case Epilogue::gelu: return g.bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
    case Epilogue::gelu_backward: return CUBLASLT_EPILOGUE_DGELU;
    case Epilogue::row_sums: return CUBLASLT_EPILOGUE_BGRADB;
    case Epilogue::none: break;
  }
  return g.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

cublasLtMatrixLayoutOpaque_t layout(cudaDataType_t type, const Operand& x, int64_t count) {
  cublasLtMatrixLayoutOpaque_t out;
  check(cublasLtMatrixLayoutInit(&out, type, uint64_t(x.rows), uint64_t(x.cols), x.ld), "cublasLtMatrixLayoutInit");
  const auto batches = int32_t(count);
  check(cublasLtMatrixLayoutSetAttribute(&out, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batches, sizeof batches), "a batch count");
  check(cublasLtMatrixLayoutSetAttribute(&out, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &x.batch, sizeof x.batch), "a batch stride");
  return out;
}
template <class V> void set(cublasLtMatmulDescOpaque_t& description, cublasLtMatmulDescAttributes_t attribute, V value) {
  check(cublasLtMatmulDescSetAttribute(&description, attribute, &value, sizeof value), "cublasLtMatmulDescSetAttribute");
}
template <class V> void set(cublasLtMatmulPreferenceOpaque_t& preference, cublasLtMatmulPreferenceAttributes_t attribute, V value) {
  check(cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof value), "cublasLtMatmulPreferenceSetAttribute");
}

constexpr uint64_t workspace_limit = 32 << 20;  // what cuBLAS recommends for its largest devices

// The library's own first choice: asking takes longer than many a product.
Plan choose(const Key& key, cublasLtMatmulDescOpaque_t& description, cublasLtMatrixLayoutOpaque_t& first,
            cublasLtMatrixLayoutOpaque_t& second, cublasLtMatrixLayoutOpaque_t& result) {
  cublasLtMatmulPreferenceOpaque_t preference;
  check(cublasLtMatmulPreferenceInit(&preference), "cublasLtMatmulPreferenceInit");
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_limit);
  // Parts of a long sum may be added by a second kernel, in order and unrounded; not by whichever block comes first.
  set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, uint32_t(key.b_alignment));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, uint32_t(key.a_alignment));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, uint32_t(key.c_alignment));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, uint32_t(key.c_alignment));
  cublasLtMatmulHeuristicResult_t found{};
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle(), &description, &first, &second, &result, &result, &preference, 1, &found, &count);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || (status == CUBLAS_STATUS_SUCCESS && (count == 0 || found.state != CUBLAS_STATUS_SUCCESS)))
    return {};
  check(status, "cublasLtMatmulAlgoGetHeuristic");
  return {true, found.algo, found.workspaceSize};
}

// Memory in the order of the stream: products of several streams must not share one workspace.
class Workspace {
 public:
  explicit Workspace(size_t bytes) : bytes_(bytes), p_(bytes ? allocate(bytes) : nullptr) {}
  Workspace(const Workspace&) = delete;
  ~Workspace() {
    if (p_) deallocate(p_, bytes_);
  }
  void* get() const { return p_; }

 private:
  size_t bytes_;
  std::byte* p_;
};

}  // namespace

bool gemm(const Gemm& g) {
  // The library asks for rows of `extra` that are whole packs of 8.
  if (g.epilogue != Epilogue::none && (g.dtype == DType::f64 || g.n % 8 || alignment(g.extra) < 16)) return false;
  const Types type = types(g.dtype);
  const Operand a = operand(g.m, g.k, g.a_row, g.a_col, g.a_batch), b = operand(g.k, g.n, g.b_row, g.b_col, g.b_batch),
                c{false, g.n, g.m, g.m == 1 ? g.n : g.c_row, g.c_batch};
  const Key key{current_device(),
                int64_t(g.dtype),
                type.compute,
                g.m,
                g.n,
                g.k,
                g.batch,
                g.accumulate,
                g.bias != nullptr,
                int64_t(g.epilogue),
                a.transposed,
                a.ld,
                a.batch,
                b.transposed,
                b.ld,
                b.batch,
                c.ld,
                c.batch,
                alignment(g.a),
                alignment(g.b),
                std::min(alignment(g.c), alignment(g.bias)),
                alignment(g.extra)};

  cublasLtMatmulDescOpaque_t description;
  check(cublasLtMatmulDescInit(&description, type.compute, type.scale), "cublasLtMatmulDescInit");
  set(description, CUBLASLT_MATMUL_DESC_TRANSA, int32_t(b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N));
  set(description, CUBLASLT_MATMUL_DESC_TRANSB, int32_t(a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N));
  if (const cublasLtEpilogue_t e = epilogue(g); e != CUBLASLT_EPILOGUE_DEFAULT)
    set(description, CUBLASLT_MATMUL_DESC_EPILOGUE, uint32_t(e));
  if (g.bias) set(description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, g.bias);
  if (g.epilogue == Epilogue::row_sums) set(description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<const void*>(g.extra));
  if (g.epilogue == Epilogue::gelu || g.epilogue == Epilogue::gelu_backward) {
    set(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, g.extra);
    set(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, g.n);
  }
  cublasLtMatrixLayoutOpaque_t first = layout(type.data, b, g.batch), second = layout(type.data, a, g.batch),
                               result = layout(type.data, c, g.batch);

  static std::mutex mutex;
  static auto* const plans = new std::map<Key, Plan>;
  Plan plan;
  {
    const std::lock_guard lock(mutex);
    auto at = plans->find(key);
    if (at == plans->end()) {
      if (plans->size() >= 4096) plans->clear();  // shapes that never come again
      at = plans->emplace(key, choose(key, description, first, second, result)).first;
    }
    plan = at->second;
  }
  if (!plan.found) return false;

  const double one[] = {1, g.accumulate ? 1. : 0.};
  const float one_float[] = {1, g.accumulate ? 1.f : 0.f};
  const bool wide = g.dtype == DType::f64;
  const void *const alpha = wide ? static_cast<const void*>(one) : one_float, *const beta =
                                                                                  wide ? static_cast<const void*>(one + 1) : one_float + 1;
  const Workspace workspace(plan.workspace);
  check(cublasLtMatmul(handle(), &description, alpha, g.b, &first, g.a, &second, beta, g.c, &result, g.c, &result, &plan.algorithm,
                       workspace.get(), plan.workspace, current_stream()),
        "cublasLtMatmul");
  return true;
}

}  // namespace retape::cuda::blas
