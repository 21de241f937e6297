// The selective scan of Mamba (Gu & Dao 2023). Sequences are cut into chunks, each a thread's for one channel: what a chunk makes of no state,
// the states between chunks, then the steps from these. Backward goes the same way from the end, and makes the states of a chunk again.
#include <retape/cuda/parts.h>

#include <retape/core/simd_math.h>

namespace retape::cuda {
namespace {

constexpr int chunk = int(recurrence_chunk), tile = 16;  // steps; numbers of state that a thread has in registers

template <class T> struct Problem {
  using C = compute_t<T>;
  int64_t batch, steps, channels, groups, size, chunks, of_group, warps;  // size: N; warps: of a group's channels
  const T *u, *delta, *b, *c, *z;
  const C *a, *skip, *bias, *initial;
  bool softplus;

  explicit Problem(const SelectiveScanArgs& in)
      : batch(in.u.shape()[0]),
        steps(in.u.shape()[1]),
        channels(in.u.shape()[2]),
        groups(in.b.shape()[2]),
        size(in.a.shape()[1]),
        chunks((steps + chunk - 1) / chunk),
        of_group(channels / groups),
        warps((of_group + 31) / 32),
        u(data<T>(in.u)),
        delta(data<T>(in.delta)),
        b(data<T>(in.b)),
        c(data<T>(in.c)),
        z(data<T>(in.z)),
        a(data<C>(in.a)),
        skip(data<C>(in.skip)),
        bias(data<C>(in.delta_bias)),
        initial(data<C>(in.initial)),
        softplus(in.delta_softplus) {}
  int64_t tasks() const { return batch * chunks * channels; }
};

RETAPE_HD float sigmoid(float x) { return 1.0f / (1.0f + m::exp(-x)); }
RETAPE_HD double sigmoid(double x) { return 1.0 / (1.0 + m::exp(-x)); }

// A chunk of a channel of a sequence.
template <class T> struct Place {
  using C = compute_t<T>;
  const Problem<T>& p;
  int64_t sequence, index, channel, begin;
  int many;
  bool active;
  __device__ __forceinline__ Place(const Problem<T>& p, int64_t sequence, int64_t index, int64_t channel, bool active = true)
      : p(p), sequence(sequence), index(index), channel(channel), begin(index * chunk), active(active) {
    many = int(min_of(int64_t{chunk}, p.steps - begin));
  }
  __device__ __forceinline__ int64_t at(int t) const { return (sequence * p.steps + begin + t) * p.channels + channel; }
  __device__ __forceinline__ int64_t row_of_group(int t) const {
    return ((sequence * p.steps + begin + t) * p.groups + channel / p.of_group) * p.size;
  }
  __device__ __forceinline__ C raw(int t) const {
    if (!active) return C(0);
    const C x = C(p.delta[at(t)]);
    return p.bias ? x + p.bias[channel] : x;
  }
  __device__ __forceinline__ C step_size(int t) const {
    const C x = raw(t);
    return !p.softplus || !active || x > C(20) ? x : m::log1p(m::exp(x));
  }
  __device__ __forceinline__ C input(int t) const { return active ? C(p.u[at(t)]) : C(0); }
  __device__ __forceinline__ C rate(int64_t j) const { return active && j < p.size ? p.a[channel * p.size + j] : C(0); }
  // Place of number j of the state before the chunk, among those of all chunks (B, chunks, N, D).
  __device__ __forceinline__ int64_t state(int64_t j) const { return ((sequence * p.chunks + index) * p.size + j) * p.channels + channel; }
  // Among those that are kept: the first chunk's is `initial`.
  __device__ __forceinline__ C before(const C* states, int64_t j) const {
    if (!active) return C(0);
    if (index > 0) return states[((sequence * (p.chunks - 1) + index - 1) * p.size + j) * p.channels + channel];
    return p.initial ? p.initial[(sequence * p.channels + channel) * p.size + j] : C(0);
  }
  __device__ __forceinline__ C gradient(const T* dy, int t) const {
    if (!active) return C(0);
    const C g = C(dy[at(t)]);
    if (!p.z) return g;
    const C gate = C(p.z[at(t)]);
    return g * gate * sigmoid(gate);
  }
};
template <class T> __device__ __forceinline__ Place<T> place_of(const Problem<T>& p, int64_t task) {
  return Place<T>(p, task / p.channels / p.chunks, task / p.channels % p.chunks, task % p.channels);
}

// What each chunk makes of no state: ends (B, chunks, N, D), and total (B, chunks, D), the sum of its step sizes. With dy, the same from
// the end: the gradient that the chunk's outputs give to the state before it.
template <class T> __global__ void scan_chunks(Problem<T> p, const T* dy, compute_t<T>* ends, compute_t<T>* total) {
  using C = compute_t<T>;
  for (int64_t task = thread_index(); task < p.batch * p.chunks * p.channels; task += thread_count()) {
    const Place<T> place = place_of(p, task);
    C sum = 0;
    for (int64_t first = 0; first < p.size; first += tile) {
      C h[tile] = {}, rate[tile];
      for (int j = 0; j < tile; ++j) rate[j] = place.rate(first + j);
      const int count = int(min_of(int64_t{tile}, p.size - first));
      for (int i = 0; i < place.many; ++i) {
        const int t = dy ? place.many - 1 - i : i;
        const C dt = place.step_size(t), in = dy ? place.gradient(dy, t) : dt * place.input(t);
        const T* const row = (dy ? p.c : p.b) + place.row_of_group(t) + first;
        if (first == 0) sum += dt;
#pragma unroll
        for (int j = 0; j < tile; ++j)
          if (j < count) {
            const C x = in * C(row[j]), power = m::exp(dt * rate[j]);
            h[j] = dy ? (h[j] + x) * power : h[j] * power + x;
          }
      }
      for (int j = 0; j < count; ++j) ends[place.state(first + j)] = h[j];
    }
    total[task] = sum;
  }
}
// The states before all chunks but the first, and the last one.
template <class T>
__global__ void join_chunks(Problem<T> p, const compute_t<T>* ends, const compute_t<T>* total, compute_t<T>* states, compute_t<T>* last) {
  using C = compute_t<T>;
  for (int64_t task = thread_index(); task < p.batch * p.size * p.channels; task += thread_count()) {
    const int64_t d = task % p.channels, j = task / p.channels % p.size, b = task / p.channels / p.size,
                  at = (b * p.channels + d) * p.size + j;
    C h = p.initial ? p.initial[at] : C(0);
    for (int64_t i = 0; i < p.chunks; ++i) {
      if (i > 0) states[((b * (p.chunks - 1) + i - 1) * p.size + j) * p.channels + d] = h;
      h = m::exp(p.a[d * p.size + j] * total[(b * p.chunks + i) * p.channels + d]) * h +
          ends[((b * p.chunks + i) * p.size + j) * p.channels + d];
    }
    last[at] = h;
  }
}
// The gradients of the states after each chunk, in the place of what scan_chunks has found, and of the first state.
template <class T>
__global__ void join_chunks_backward(Problem<T> p, const compute_t<T>* dlast, const compute_t<T>* total, compute_t<T>* ends,
                                     compute_t<T>* dinitial) {
  using C = compute_t<T>;
  for (int64_t task = thread_index(); task < p.batch * p.size * p.channels; task += thread_count()) {
    const int64_t d = task % p.channels, j = task / p.channels % p.size, b = task / p.channels / p.size,
                  at = (b * p.channels + d) * p.size + j;
    C g = dlast ? dlast[at] : C(0);
    for (int64_t i = p.chunks; i-- > 0;) {
      C& end = ends[((b * p.chunks + i) * p.size + j) * p.channels + d];
      const C own = end;
      end = g;
      g = m::exp(p.a[d * p.size + j] * total[(b * p.chunks + i) * p.channels + d]) * g + own;
    }
    if (dinitial) dinitial[at] = g;
  }
}
template <class T> __global__ void scan_outputs(Problem<T> p, const compute_t<T>* states, T* y) {
  using C = compute_t<T>;
  for (int64_t task = thread_index(); task < p.batch * p.chunks * p.channels; task += thread_count()) {
    const Place<T> place = place_of(p, task);
    C sum[chunk];
    for (int64_t first = 0; first < p.size; first += tile) {
      C h[tile], rate[tile];
      const int count = int(min_of(int64_t{tile}, p.size - first));
      for (int j = 0; j < tile; ++j) rate[j] = place.rate(first + j), h[j] = j < count ? place.before(states, first + j) : C(0);
      for (int t = 0; t < place.many; ++t) {
        const C dt = place.step_size(t), in = dt * place.input(t);
        const T *const b = p.b + place.row_of_group(t) + first, *const c = p.c + place.row_of_group(t) + first;
        C out = first ? sum[t] : C(0);
#pragma unroll
        for (int j = 0; j < tile; ++j)
          if (j < count) {
            h[j] = m::exp(dt * rate[j]) * h[j] + in * C(b[j]);
            out += h[j] * C(c[j]);
          }
        sum[t] = out;
      }
    }
    for (int t = 0; t < place.many; ++t) {
      C out = sum[t];
      if (p.skip) out += p.skip[place.channel] * place.input(t);
      if (p.z) {
        const C gate = C(p.z[place.at(t)]);
        out *= gate * sigmoid(gate);
      }
      y[place.at(t)] = T(out);
    }
  }
}

template <class T> struct Gradients {
  using C = compute_t<T>;
  T *u, *delta, *z;
  C *a, *skip, *bias;  // (B, chunks, D, N), (B, chunks, D): sums over a chunk
  C *b, *c;            // (groups, warps, B, T, N): sums over the channels of a warp
};
// A warp has 32 channels of a group in one chunk, so that it can sum over them.
template <class T>
__global__ void scan_backward(Problem<T> p, const compute_t<T>* states, const compute_t<T>* dends, const T* dy, Gradients<T> d) {
  using C = compute_t<T>;
  const int lane = int(threadIdx.x) % 32;
  const int64_t tasks = p.batch * p.chunks * p.groups * p.warps;
  for (int64_t task = thread_index() / 32; task < tasks; task += thread_count() / 32) {
    const int64_t warp = task % p.warps, group = task / p.warps % p.groups, index = task / p.warps / p.groups % p.chunks,
                  sequence = task / p.warps / p.groups / p.chunks, inside = warp * 32 + lane;
    const bool active = inside < p.of_group;
    const Place<T> place(p, sequence, index, group * p.of_group + (active ? inside : 0), active);
    C h[chunk], ddt[chunk], ddtu[chunk], y[chunk];
    for (int t = 0; t < place.many; ++t) ddt[t] = ddtu[t] = y[t] = 0;
    const int64_t part = (sequence * p.chunks + index) * p.channels + place.channel;
    for (int64_t j = 0; j < p.size; ++j) {
      const C rate = place.rate(j), first = place.before(states, j);
      C state = first;
      for (int t = 0; t < place.many; ++t) {
        const C dt = place.step_size(t);
        const int64_t row = place.row_of_group(t) + j;
        h[t] = state = m::exp(dt * rate) * state + dt * place.input(t) * C(p.b[row]);
        y[t] += state * C(p.c[row]);
      }
      C carry = active ? dends[place.state(j)] : C(0), da = 0;
      for (int t = place.many; t-- > 0;) {
        const C dt = place.step_size(t), g = place.gradient(dy, t);
        const int64_t row = place.row_of_group(t) + j;
        carry += g * C(p.c[row]);
        const C of_c = warp_reduce(g * h[t], Plus{}), of_b = warp_reduce(carry * dt * place.input(t), Plus{});
        if (lane == 0) {
          const int64_t to = (((group * p.warps + warp) * p.batch + sequence) * p.steps + place.begin + t) * p.size + j;
          d.b[to] = of_b, d.c[to] = of_c;
        }
        ddtu[t] += carry * C(p.b[row]);
        carry *= m::exp(dt * rate);
        const C of_power = carry * (t > 0 ? h[t - 1] : first);
        ddt[t] += of_power * rate;
        da += of_power * dt;
      }
      if (active) d.a[part * p.size + j] = da;
    }
    if (!active) continue;
    C of_skip = 0, of_bias = 0;
    const C skip = p.skip ? p.skip[place.channel] : C(0);
    for (int t = 0; t < place.many; ++t) {
      const C dt = place.step_size(t), u = place.input(t), g = place.gradient(dy, t);
      if (p.z) {
        const C z = C(p.z[place.at(t)]), s = sigmoid(z);
        d.z[place.at(t)] = T(C(dy[place.at(t)]) * (y[t] + skip * u) * s * (C(1) + z * (C(1) - s)));
      }
      C of_delta = ddt[t] + ddtu[t] * u;
      if (p.softplus) {
        const C raw = place.raw(t);
        of_delta *= raw > C(20) ? C(1) : sigmoid(raw);
      }
      of_skip += g * u, of_bias += of_delta;
      d.u[place.at(t)] = T(ddtu[t] * dt + skip * g);
      d.delta[place.at(t)] = T(of_delta);
    }
    if (d.skip) d.skip[part] = of_skip;
    if (d.bias) d.bias[part] = of_bias;
  }
}
// The gradient of B or C (B, T, groups, N) from those of the warps.
template <class T> __global__ void add_warps(Problem<T> p, const compute_t<T>* parts, T* y) {
  using C = compute_t<T>;
  const int64_t rows = p.batch * p.steps;
  for (int64_t i = thread_index(); i < rows * p.groups * p.size; i += thread_count()) {
    const int64_t j = i % p.size, g = i / p.size % p.groups, row = i / p.size / p.groups;
    C sum = 0;
    for (int64_t w = 0; w < p.warps; ++w) sum += parts[((g * p.warps + w) * rows + row) * p.size + j];
    y[i] = T(sum);
  }
}

}  // namespace

void selective_scan(const SelectiveScanArgs& in, Tensor& y, Tensor& last, Tensor& states) {
  with_floating("selective_scan", in.u.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const Problem<T> p(in);
    const Scratch<C> ends(p.tasks() * p.size), total(p.tasks());
    launch(scan_chunks<T>, blocks_for(p.tasks(), 128), 128, 0, p, static_cast<const T*>(nullptr), static_cast<C*>(ends),
           static_cast<C*>(total));
    launch(join_chunks<T>, blocks_for(p.batch * p.size * p.channels, 128), 128, 0, p, static_cast<C*>(ends), static_cast<C*>(total),
           data<C>(states), data<C>(last));
    launch(scan_outputs<T>, blocks_for(p.tasks(), 128), 128, 0, p, data<C>(states), data<T>(y));
  });
}

void selective_scan_backward(const SelectiveScanArgs& in, const Tensor& states, const Tensor& dy, const Tensor& dlast,
                             SelectiveScanArgs& d) {
  with_floating("selective_scan_backward", in.u.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const Problem<T> p(in);
    const int64_t parts = p.batch * p.chunks, of_groups = p.groups * p.warps * p.batch * p.steps * p.size;
    const Scratch<C> ends(p.tasks() * p.size), total(p.tasks()), a(p.tasks() * p.size), skip(p.skip ? p.tasks() : 0),
        bias(p.bias ? p.tasks() : 0), b(of_groups), c(of_groups);
    launch(scan_chunks<T>, blocks_for(p.tasks(), 128), 128, 0, p, data<T>(dy), static_cast<C*>(ends), static_cast<C*>(total));
    launch(join_chunks_backward<T>, blocks_for(p.batch * p.size * p.channels, 128), 128, 0, p, data<C>(dlast), static_cast<C*>(total),
           static_cast<C*>(ends), data<C>(d.initial));
    const Gradients<T> to{data<T>(d.u),
                          data<T>(d.delta),
                          data<T>(d.z),
                          a,
                          p.skip ? static_cast<C*>(skip) : nullptr,
                          p.bias ? static_cast<C*>(bias) : nullptr,
                          b,
                          c};
    launch(scan_backward<T>, blocks_for(p.batch * p.chunks * p.groups * p.warps * 32, 128), 128, 0, p, data<C>(states),
           static_cast<C*>(ends), data<T>(dy), to);
    const int64_t matrix = p.channels * p.size;
    launch(add_parts<C, C>, blocks_for(matrix), 256, 0, static_cast<C*>(a), parts, matrix, data<C>(d.a));
    if (p.skip) launch(add_parts<C, C>, blocks_for(p.channels), 256, 0, static_cast<C*>(skip), parts, p.channels, data<C>(d.skip));
    if (p.bias) launch(add_parts<C, C>, blocks_for(p.channels), 256, 0, static_cast<C*>(bias), parts, p.channels, data<C>(d.delta_bias));
    const int64_t numbers = p.batch * p.steps * p.groups * p.size;
    launch(add_warps<T>, blocks_for(numbers), 256, 0, p, static_cast<C*>(b), data<T>(d.b));
    launch(add_warps<T>, blocks_for(numbers), 256, 0, p, static_cast<C*>(c), data<T>(d.c));
  });
}

}  // namespace retape::cuda
