// Images of other sizes: a thread for every element that is written, neighbours in channels. What the places of each dim are made of is
// computed once; the gradient of a place is a sum over the places it is a part of, which lie side by side.
#include <retape/cuda/launch.h>

#include <retape/core/interpolate.h>
#include <retape/cuda/places.h>

namespace retape::cuda {
namespace {

struct Range {
  int64_t begin, end;
};

// The taps of each dim's places, dim after dim.
template <class C> struct Tables {
  const Taps<C>* taps[3];
  int count[3];
};
template <class C> __global__ void find_taps(InterpolateArgs args, Taps<C>* taps) {
  const int64_t n = args.out[0] + args.out[1] + args.out[2];
  for (int64_t t = thread_index(); t < n; t += thread_count()) {
    const int d = t < args.out[0] ? 0 : t < args.out[0] + args.out[1] ? 1 : 2;
    taps[t] = taps_at<C>(args, d, t - (d > 0 ? args.out[0] : 0) - (d > 1 ? args.out[1] : 0));
  }
}
// The places of the result that each place of the image may be a part of.
template <class C> __global__ void find_results(InterpolateArgs args, Tables<C> tables, Range* results) {
  const int64_t n = args.in[0] + args.in[1] + args.in[2];
  for (int64_t t = thread_index(); t < n; t += thread_count()) {
    const int d = t < args.in[0] ? 0 : t < args.in[0] + args.in[1] ? 1 : 2;
    const int64_t i = t - (d > 0 ? args.in[0] : 0) - (d > 1 ? args.in[1] : 0);
    const auto first = [&](int tap, int64_t least) {  // the first place whose tap is at least there
      int64_t low = 0, high = args.out[d];
      while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (tables.taps[d][middle].place[tap] >= least) high = middle;
        else low = middle + 1;
      }
      return low;
    };
    results[t] = {first(tables.count[d] - 1, i), first(0, i + 1)};
  }
}
template <class C> __device__ __forceinline__ C weight_of(const Taps<C>& taps, int count, int64_t place) {
  C weight = 0;
  for (int k = 0; k < count; ++k)
    if (taps.place[k] == place) weight += taps.weight[k];
  return weight;
}

template <class T>
__global__ void resample(InterpolateArgs args, Tables<compute_t<T>> tables, int64_t channels, int64_t n, const T* x, T* y) {
  using C = compute_t<T>;
  for (int64_t t = thread_index(); t < n; t += thread_count()) {
    const Place o = place_of(t, args.out, channels);
    const Taps<C>&a = tables.taps[0][o.at[0]], &b = tables.taps[1][o.at[1]], &c = tables.taps[2][o.at[2]];
    C sum = 0;
    for (int i = 0; i < tables.count[0]; ++i)
      for (int j = 0; j < tables.count[1]; ++j)
        for (int k = 0; k < tables.count[2]; ++k) {
          const int64_t p = ((o.n * args.in[0] + a.place[i]) * args.in[1] + b.place[j]) * args.in[2] + c.place[k];
          sum += a.weight[i] * b.weight[j] * c.weight[k] * C(x[p * channels + o.channel]);
        }
    y[t] = T(sum);
  }
}
template <class T>
__global__ void resample_backward(InterpolateArgs args, Tables<compute_t<T>> tables, const Range* results, int64_t channels, int64_t n,
                                  const T* dy, T* dx) {
  using C = compute_t<T>;
  for (int64_t t = thread_index(); t < n; t += thread_count()) {
    const Place p = place_of(t, args.in, channels);
    const Range a = results[p.at[0]], b = results[args.in[0] + p.at[1]], c = results[args.in[0] + args.in[1] + p.at[2]];
    C sum = 0;
    for (int64_t i = a.begin; i < a.end; ++i) {
      const C u = weight_of(tables.taps[0][i], tables.count[0], p.at[0]);
      for (int64_t j = b.begin; j < b.end; ++j) {
        const C v = u * weight_of(tables.taps[1][j], tables.count[1], p.at[1]);
        for (int64_t k = c.begin; k < c.end; ++k) {
          const int64_t o = ((p.n * args.out[0] + i) * args.out[1] + j) * args.out[2] + k;
          sum += v * weight_of(tables.taps[2][k], tables.count[2], p.at[2]) * C(dy[o * channels + p.channel]);
        }
      }
    }
    dx[t] = T(sum);
  }
}

// Calls f with the tables of these dims.
template <class C, class F> void with_tables(const InterpolateArgs& args, const F& f) {
  const int64_t n = args.out[0] + args.out[1] + args.out[2];
  const Scratch<Taps<C>> taps(n);
  Taps<C>* const first = taps;
  launch(find_taps<C>, blocks_for(n), 256, 0, args, first);
  f(Tables<C>{{first, first + args.out[0], first + args.out[0] + args.out[1]}, {taps_of(args, 0), taps_of(args, 1), taps_of(args, 2)}});
}

}  // namespace

void interpolate(const InterpolateArgs& args, const Tensor& x, Tensor& y) {
  with_floating("interpolate", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    with_tables<compute_t<T>>(args, [&](const auto& tables) {
      launch(resample<T>, blocks_for(y.numel()), 256, 0, args, tables, x.shape()[-1], y.numel(), data<T>(x), data<T>(y));
    });
  });
}
void interpolate_backward(const InterpolateArgs& args, const Tensor& dy, Tensor& dx) {
  with_floating("interpolate_backward", dx.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    with_tables<C>(args, [&](const auto& tables) {
      const int64_t n = args.in[0] + args.in[1] + args.in[2];
      const Scratch<Range> results(n);
      launch(find_results<C>, blocks_for(n), 256, 0, args, tables, static_cast<Range*>(results));
      launch(resample_backward<T>, blocks_for(dx.numel()), 256, 0, args, tables, static_cast<Range*>(results), dx.shape()[-1], dx.numel(),
             data<T>(dy), data<T>(dx));
    });
  });
}

}  // namespace retape::cuda
