// Word vectors: steps of gradient descent on windows; see core/word2vec.cpp. A block has a window. What all windows of a batch add is
// computed before any of it is added, by atomic additions, whose order is not defined.
#include <retape/cuda/launch.h>

namespace retape::cuda {
namespace {

constexpr int threads = 128, tile = 16;  // tile: contexts and targets whose products are in shared memory at once

struct Problem {
  const int32_t *contexts, *context_begin, *targets, *target_begin;
  const float* labels;
  float *in, *out;
  float *dx, *d_o;  // a row for every context and target
  int64_t dim, in_rows, out_rows;
  float lr;
  bool mean;
  double* loss;
  Fault* fault;
};

// With `mean` the shared row is the contexts' mean, and then its gradient.
__global__ void word2vec_deltas(Problem p, int64_t first) {
  RETAPE_DYNAMIC_SHARED(float, row);
  __shared__ float e[tile][tile];
  const int64_t w = first + blockIdx.x;
  const int c0 = p.context_begin[w], contexts = p.context_begin[w + 1] - c0, t0 = p.target_begin[w], targets = p.target_begin[w + 1] - t0;
  const int rows = p.mean && contexts ? 1 : contexts, thread = int(threadIdx.x), lane = thread % 32, warp = thread / 32;
  __shared__ int invalid;  // how many ids are out of range
  if (thread == 0) invalid = 0;
  __syncthreads();
  for (int i = thread; i < contexts + targets; i += threads) {
    const int id = i < contexts ? p.contexts[c0 + i] : p.targets[t0 + i - contexts];
    const int64_t limit = i < contexts ? p.in_rows : p.out_rows;
    if (id >= 0 && id < limit) continue;
    report(p.fault, "word2vec", id, -1, limit);
    atomicAdd(&invalid, 1);
  }
  __syncthreads();
  const bool valid = invalid == 0;
  for (int64_t k = thread; k < p.dim; k += threads) {
    for (int c = 0; c < contexts; ++c) p.dx[int64_t(c0 + c) * p.dim + k] = 0;
    for (int t = 0; t < targets; ++t) p.d_o[int64_t(t0 + t) * p.dim + k] = 0;
    if (!p.mean || !valid || contexts == 0) continue;
    float sum = 0;
    for (int c = 0; c < contexts; ++c) sum += p.in[int64_t(p.contexts[c0 + c]) * p.dim + k];
    row[k] = sum / float(contexts);
  }
  __syncthreads();
  if (!valid) return;
  const auto context = [&](int c) { return p.mean ? static_cast<const float*>(row) : p.in + int64_t(p.contexts[c0 + c]) * p.dim; };
  const auto target = [&](int t) { return p.out + int64_t(p.targets[t0 + t]) * p.dim; };
  double loss = 0;
  for (int ct = 0; ct < rows; ct += tile) {
    for (int tt = 0; tt < targets; tt += tile) {
      const int nc = min_of(tile, rows - ct), nt = min_of(tile, targets - tt);
      for (int pair = warp; pair < nc * nt; pair += threads / 32) {
        const int c = pair / nt, t = pair % nt;
        const float *const x = context(ct + c), *const y = target(tt + t);
        float sum = 0;
        for (int64_t k = lane; k < p.dim; k += 32) sum += x[k] * y[k];
        sum = warp_reduce(sum, [](float a, float b) { return a + b; });
        if (lane) continue;
        const float label = p.labels[t0 + tt + t];
        e[c][t] = p.lr * (label - 1 / (1 + m::exp(-sum)));
        const double z = label > 0.5f ? double(-sum) : double(sum);
        loss += (z > 0 ? z : 0) + m::log1p(m::exp(z > 0 ? -z : z));
      }
      __syncthreads();
      for (int64_t k = thread; k < p.dim; k += threads) {
        for (int c = 0; c < nc; ++c) {
          float sum = 0;
          for (int t = 0; t < nt; ++t) sum += e[c][t] * target(tt + t)[k];
          p.dx[int64_t(c0 + ct + c) * p.dim + k] += sum;
        }
        for (int t = 0; t < nt; ++t) {
          float sum = 0;
          for (int c = 0; c < nc; ++c) sum += e[c][t] * context(ct + c)[k];
          p.d_o[int64_t(t0 + tt + t) * p.dim + k] += sum;
        }
      }
      __syncthreads();
    }
  }
  if (p.loss && lane == 0) atomicAdd(p.loss, loss);
}

__global__ void word2vec_add(Problem p, int64_t first) {
  const int64_t w = first + blockIdx.x;
  const int c0 = p.context_begin[w], contexts = p.context_begin[w + 1] - c0, t0 = p.target_begin[w], targets = p.target_begin[w + 1] - t0;
  for (int c = 0; c < contexts; ++c) {
    const int64_t id = p.contexts[c0 + c];
    if (id < 0 || id >= p.in_rows) continue;
    for (int64_t k = threadIdx.x; k < p.dim; k += threads)
      atomicAdd(p.in + id * p.dim + k, p.mean ? p.dx[int64_t(c0) * p.dim + k] / float(contexts) : p.dx[int64_t(c0 + c) * p.dim + k]);
  }
  for (int t = 0; t < targets; ++t) {
    const int64_t id = p.targets[t0 + t];
    if (id < 0 || id >= p.out_rows) continue;
    for (int64_t k = threadIdx.x; k < p.dim; k += threads) atomicAdd(p.out + id * p.dim + k, p.d_o[int64_t(t0 + t) * p.dim + k]);
  }
}

}  // namespace

void word2vec(const Word2VecWindows& windows, bool mean, int64_t batch, double lr, Tensor& in, Tensor& out, Tensor& loss) {
  if (in.dtype() != DType::f32) retape::detail::unsupported_dtype("word2vec", in.dtype());
  const int64_t count = windows.context_begin.numel() - 1, dim = in.shape()[1];
  Scratch<float> dx(windows.contexts.numel() * dim), d_o(windows.targets.numel() * dim);
  if (loss) fill(0, loss);
  const Problem p{data<int32_t>(windows.contexts),
                  data<int32_t>(windows.context_begin),
                  data<int32_t>(windows.targets),
                  data<int32_t>(windows.target_begin),
                  data<float>(windows.labels),
                  data<float>(in),
                  data<float>(out),
                  dx,
                  d_o,
                  dim,
                  in.shape()[0],
                  out.shape()[0],
                  float(lr),
                  mean,
                  data<double>(loss),
                  faults()};
  for (int64_t first = 0; first < count; first += batch) {
    const unsigned blocks = unsigned(min_of(batch, count - first));
    launch(word2vec_deltas, blocks, threads, mean ? size_t(dim) * sizeof(float) : 0, p, first);
    launch(word2vec_add, blocks, threads, 0, p, first);
  }
  ++in->storage->version, ++out->storage->version;
}

}  // namespace retape::cuda
