// Plans of cuFFT are made once a shape and kept. Their work areas are taken anew for every call, in the order of the stream, so that
// plans cost little and streams do not disturb each other.
#include <retape/cuda/libraries/fft.h>

#include <cufft.h>
#include <fmt/format.h>

#include <list>
#include <map>
#include <mutex>
#include <tuple>

#include <retape/core/error.h>
#include <retape/cuda/device.h>

namespace retape::cuda::library {
namespace {

void check(cufftResult result, const char* what) {
  if (result != CUFFT_SUCCESS)
    throw Error(fmt::format("fft: {} failed on cuda:{} with cuFFT's error {}{}", what, current_device(), int(result),
                            result == CUFFT_ALLOC_FAILED ? ", out of memory" : ""));
}

using Key = std::tuple<int, cufftType, int64_t, int64_t>;  // device, type, n, batch
struct Plan {
  Key key;
  cufftHandle handle = 0;
  size_t work_bytes = 0;
  bool captured = false;  // a graph may run it again at any time, with the constants that the plan owns
};
constexpr size_t plans_kept = 256;

// The one used last comes first. Never destroyed, since the driver may be gone by then.
struct Plans {
  std::mutex mutex;
  std::list<Plan> all;
  std::map<Key, std::list<Plan>::iterator> by_key;
};
Plans& plans() {
  static auto* const p = new Plans;
  return *p;
}

// Making a plan takes memory, which a capture of this thread would forbid.
class Relaxed {
 public:
  Relaxed() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~Relaxed() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  Relaxed(const Relaxed&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

void make(Plan& plan) {
  const auto [device, type, n, batch] = plan.key;
  const Relaxed relaxed;
  check(cufftCreate(&plan.handle), "cufftCreate");
  try {
    check(cufftSetAutoAllocation(plan.handle, 0), "cufftSetAutoAllocation");
    long long size = n;
    check(cufftMakePlanMany64(plan.handle, 1, &size, nullptr, 1, 0, nullptr, 1, 0, type, batch, &plan.work_bytes), "cufftMakePlanMany64");
  } catch (...) {
    cufftDestroy(plan.handle);
    throw;
  }
}

Plan& find(Plans& p, const Key& key) {
  if (const auto found = p.by_key.find(key); found != p.by_key.end()) {
    p.all.splice(p.all.begin(), p.all, found->second);
    return p.all.front();
  }
  Plan fresh{key};
  make(fresh);
  p.all.push_front(fresh);
  p.by_key[key] = p.all.begin();
  if (p.all.size() > plans_kept)
    for (auto old = std::prev(p.all.end()); old != p.all.begin(); --old)
      if (!old->captured && std::get<0>(old->key) == std::get<0>(key)) {
        const Relaxed relaxed;
        cufftDestroy(old->handle);  // which waits for what runs
        p.by_key.erase(old->key);
        p.all.erase(old);
        break;
      }
  return p.all.front();
}

class Work {
 public:
  explicit Work(size_t bytes) : bytes_(bytes), p_(bytes ? allocate(bytes) : nullptr) {}
  ~Work() {
    if (p_) deallocate(p_, bytes_);
  }
  Work(const Work&) = delete;
  std::byte* get() const { return p_; }

 private:
  size_t bytes_;
  std::byte* p_;
};

cufftType type_of(Fourier kind, float) { return kind == Fourier::from_real ? CUFFT_R2C : kind == Fourier::to_real ? CUFFT_C2R : CUFFT_C2C; }
cufftType type_of(Fourier kind, double) {
  return kind == Fourier::from_real ? CUFFT_D2Z : kind == Fourier::to_real ? CUFFT_Z2D : CUFFT_Z2Z;
}

cufftResult run(cufftHandle plan, Fourier kind, float* x, float* y) {
  auto *const in = reinterpret_cast<cufftComplex*>(x), *const out = reinterpret_cast<cufftComplex*>(y);
  if (kind == Fourier::from_real) return cufftExecR2C(plan, x, out);
  if (kind == Fourier::to_real) return cufftExecC2R(plan, in, y);
  return cufftExecC2C(plan, in, out, kind == Fourier::inverse ? CUFFT_INVERSE : CUFFT_FORWARD);
}
cufftResult run(cufftHandle plan, Fourier kind, double* x, double* y) {
  auto *const in = reinterpret_cast<cufftDoubleComplex*>(x), *const out = reinterpret_cast<cufftDoubleComplex*>(y);
  if (kind == Fourier::from_real) return cufftExecD2Z(plan, x, out);
  if (kind == Fourier::to_real) return cufftExecZ2D(plan, in, y);
  return cufftExecZ2Z(plan, in, out, kind == Fourier::inverse ? CUFFT_INVERSE : CUFFT_FORWARD);
}

}  // namespace

template <class T> void fourier(Fourier kind, int64_t n, int64_t batch, T* x, T* y) {
  Plans& p = plans();
  const std::lock_guard lock(p.mutex);  // a plan has one stream and one work area at a time
  Plan& plan = find(p, {current_device(), type_of(kind, T{}), n, batch});
  const cudaStream_t stream = current_stream();
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  cuda::check(cudaStreamIsCapturing(stream, &capture), "cudaStreamIsCapturing");
  if (capture != cudaStreamCaptureStatusNone) plan.captured = true;
  const Work work(plan.work_bytes);
  check(cufftSetStream(plan.handle, stream), "cufftSetStream");
  if (work.get()) check(cufftSetWorkArea(plan.handle, work.get()), "cufftSetWorkArea");
  check(run(plan.handle, kind, x, y), "a transform");
}
template void fourier(Fourier, int64_t, int64_t, float*, float*);
template void fourier(Fourier, int64_t, int64_t, double*, double*);

}  // namespace retape::cuda::library
