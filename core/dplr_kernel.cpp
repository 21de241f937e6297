// The kernel of a state space that is diagonal less rank one. The lanes of a vector are channels, so that the sums over a channel's states are sums of
// vectors; a task has as many channels as a vector has lanes, and no channel sees another.
#include <cmath>

#include <retape/core/flush_denormals.h>
#include <retape/core/tiles.h>

namespace retape::RETAPE_LEVEL {
namespace {

template <class A> struct Problem {
  using V = typename Simd<A>::V;
  int64_t channels, pairs, length, interval, kept;  // states are kept every `interval` positions, in `kept` places
  Problem(const Tensor& factor, int64_t length)
      : channels(factor.shape()[0]),
        pairs(factor.shape()[1]),
        length(length),
        interval(max_of(int64_t{1}, int64_t(std::sqrt(double(length))))),
        kept(divide_up(length, interval)) {}
  RETAPE_INLINE int64_t tasks() const { return divide_up(channels, lanes<A>); }
  RETAPE_INLINE int64_t vectors() const { return 2 * pairs; }  // of a state: real and imaginary parts in turn
  RETAPE_INLINE int64_t room() const { return round_up(vectors() * lanes<A>, 64); }
  RETAPE_INLINE bool worth_threads() const { return channels * pairs * length > 4096; }
  RETAPE_INLINE int64_t many(int64_t task) const { return min_of(lanes<A>, channels - task * lanes<A>); }
  RETAPE_INLINE V* take(Arena<A>& arena, int64_t states = 1) const { return reinterpret_cast<V*>(arena.take(states * room())); }
  // From (H, N, 2); channels that are not there are 0.
  RETAPE_INLINE V* load(const Tensor& t, int64_t task, Arena<A>& arena) const {
    V* const to = take(arena);
    const A* const from = t.data<A>() + task * lanes<A> * vectors();
    for (int64_t i = 0; i < vectors(); ++i)
      for (int64_t c = 0; c < lanes<A>; ++c) to[i][c] = c < many(task) ? from[c * vectors() + i] : A(0);
    return to;
  }
  RETAPE_INLINE void store(const V* from, int64_t task, Tensor& t) const {
    A* const to = t.mutable_data<A>() + task * lanes<A> * vectors();
    for (int64_t i = 0; i < vectors(); ++i)
      for (int64_t c = 0; c < many(task); ++c) to[c * vectors() + i] = from[i][c];
  }
};

// 2 Re(u x)
template <class V> RETAPE_INLINE V twice_real(int64_t vectors, const V* u, const V* x) {
  V re{}, im{};
  for (int64_t i = 0; i < vectors; i += 2) re += u[i] * x[i], im += u[i + 1] * x[i + 1];
  return 2 * (re - im);
}
// to = factor x - p s, which may be x's place; gives 2 Re(q to) and, `with_output`, 2 Re(c to) in y.
template <bool with_output, class V>
RETAPE_INLINE V next(int64_t vectors, const V* factor, const V* p, const V* q, const V* c, const V* x, V s, V* to, V* y) {
  V q_re{}, q_im{}, c_re{}, c_im{};
  for (int64_t i = 0; i < vectors; i += 2) {
    const V re = factor[i] * x[i] - factor[i + 1] * x[i + 1] - p[i] * s, im = factor[i] * x[i + 1] + factor[i + 1] * x[i] - p[i + 1] * s;
    to[i] = re, to[i + 1] = im;
    q_re += q[i] * re, q_im += q[i + 1] * im;
    if constexpr (with_output) c_re += c[i] * re, c_im += c[i + 1] * im;
  }
  if constexpr (with_output) *y = 2 * (c_re - c_im);
  return 2 * (q_re - q_im);
}

}  // namespace

void dplr_kernel(const Tensor& factor, const Tensor& p, const Tensor& q, const Tensor& b, const Tensor& c, Tensor& y) {
  const auto run = [&](auto zero) {
    using A = decltype(zero);
    using V = typename Simd<A>::V;
    const Problem<A> in(factor, y.shape()[1]);
    A* const out = y.mutable_data<A>();
    each_task<A>(in.tasks(), 5 * in.room(), in.worth_threads(), [&](int64_t task, Arena<A> arena) RETAPE_FULL_WIDTH {
      const FlushDenormals no_denormals;
      const V *const of_factor = in.load(factor, task, arena), *const of_p = in.load(p, task, arena), *const of_q = in.load(q, task, arena),
                     *const of_c = in.load(c, task, arena);
      V* const x = in.load(b, task, arena);
      V s = twice_real(in.vectors(), of_q, x), k = twice_real(in.vectors(), of_c, x);
      A* const to = out + task * lanes<A> * in.length;
      for (int64_t l = 0; l < in.length; ++l) {
        for (int64_t n = 0; n < in.many(task); ++n) to[n * in.length + l] = k[n];
        s = next<true>(in.vectors(), of_factor, of_p, of_q, of_c, x, s, x, &k);
      }
    });
  };
  if (factor.dtype() == DType::f64) run(double{});
  else run(float{});
}

// On meta it only counts the scratch memory that it would take.
void dplr_kernel_backward(const Tensor& dy, const Tensor& factor, const Tensor& p, const Tensor& q, const Tensor& b, const Tensor& c,
                          Tensor& dfactor, Tensor& dp, Tensor& dq, Tensor& db, Tensor& dc) {
  const auto run = [&](auto zero) {
    using A = decltype(zero);
    using V = typename Simd<A>::V;
    const Problem<A> in(factor, dy.shape()[1]);
    // inputs, their gradients, and two states; those kept; states and gradients of an interval, and three numbers for each of its positions
    const int64_t space = (10 + in.kept + 2 * in.interval) * in.room() + 3 * round_up(in.interval * lanes<A>, 64);
    if (factor.device().is_meta()) return count_meta_scratch(bytes_of<A>(scratch_of_tasks(in.tasks(), space, in.worth_threads())));
    const A* const gradient = dy.data<A>();
    each_task<A>(in.tasks(), space, in.worth_threads(), [&](int64_t task, Arena<A> arena) RETAPE_FULL_WIDTH {
      const FlushDenormals no_denormals;
      const int64_t n = in.vectors(), m = in.interval;
      const V *const of_factor = in.load(factor, task, arena), *const of_p = in.load(p, task, arena), *const of_q = in.load(q, task, arena),
                     *const of_c = in.load(c, task, arena);
      V *const state = in.load(b, task, arena), *const g = in.take(arena);
      V *const d_factor = in.take(arena), *const d_p = in.take(arena), *const d_q = in.take(arena), *const d_c = in.take(arena);
      V *const kept = in.take(arena, in.kept), *const states = in.take(arena, m), *const gradients = in.take(arena, m);
      V *const s = reinterpret_cast<V*>(arena.take(m * lanes<A>)), *const ds = reinterpret_cast<V*>(arena.take(m * lanes<A>)),
               *const dk = reinterpret_cast<V*>(arena.take(m * lanes<A>));
      for (int64_t i = 0; i < n; ++i) g[i] = d_factor[i] = d_p[i] = d_q[i] = d_c[i] = V{};
      V sum = twice_real(n, of_q, state);
      for (int64_t at = 0; at < in.kept; ++at) {
        for (int64_t i = 0; i < n; ++i) kept[at * n + i] = state[i];
        for (int64_t l = 0; l < m && at + 1 < in.kept; ++l)
          sum = next<false>(n, of_factor, of_p, of_q, of_c, state, sum, state, static_cast<V*>(nullptr));
      }
      // g is the gradient of the state behind a position, and of_sum twice that of the sum there.
      const A* const from = gradient + task * lanes<A> * in.length;
      V of_sum{};
      for (int64_t at = in.kept; at-- > 0;) {
        const int64_t begin = at * m, many = min_of(m, in.length - begin);
        for (int64_t i = 0; i < n; ++i) states[i] = kept[at * n + i];
        s[0] = twice_real(n, of_q, states);
        for (int64_t l = 0; l + 1 < many; ++l)
          s[l + 1] = next<false>(n, of_factor, of_p, of_q, of_c, states + l * n, s[l], states + (l + 1) * n, static_cast<V*>(nullptr));
        for (int64_t i = 0; i < n; ++i) gradients[(many - 1) * n + i] = g[i];
        for (int64_t l = many; l-- > 0;) {
          V of_output{}, re{}, im{};
          for (int64_t k = 0; k < in.many(task); ++k) of_output[k] = 2 * from[k * in.length + begin + l];
          const V* const behind = gradients + l * n;
          V* const to = l > 0 ? gradients + (l - 1) * n : g;
          for (int64_t i = 0; i < n; i += 2) {
            const V a = of_factor[i] * behind[i] + of_factor[i + 1] * behind[i + 1] + of_q[i] * of_sum + of_c[i] * of_output,
                    b = of_factor[i] * behind[i + 1] - of_factor[i + 1] * behind[i] - of_q[i + 1] * of_sum - of_c[i + 1] * of_output;
            to[i] = a, to[i + 1] = b;
            re += of_p[i] * a, im += of_p[i + 1] * b;
          }
          ds[l] = of_sum, dk[l] = of_output;
          of_sum = -2 * (re + im);
        }
        for (int64_t i = 0; i < n; i += 2) {
          V a[8] = {};
          for (int64_t l = 0; l < many; ++l) {
            const V xr = states[l * n + i], xi = states[l * n + i + 1], gr = gradients[l * n + i], gi = gradients[l * n + i + 1];
            a[0] += gr * xr + gi * xi, a[1] += gi * xr - gr * xi;
            a[2] += gr * s[l], a[3] += gi * s[l];
            a[4] += xr * ds[l], a[5] += xi * ds[l];
            a[6] += xr * dk[l], a[7] += xi * dk[l];
          }
          d_factor[i] += a[0], d_factor[i + 1] += a[1];
          d_p[i] -= a[2], d_p[i + 1] -= a[3];
          d_q[i] += a[4], d_q[i + 1] -= a[5];
          d_c[i] += a[6], d_c[i + 1] -= a[7];
        }
      }
      in.store(d_factor, task, dfactor), in.store(d_p, task, dp), in.store(d_q, task, dq), in.store(g, task, db), in.store(d_c, task, dc);
    });
  };
  if (factor.dtype() == DType::f64) run(double{});
  else run(float{});
}

}  // namespace retape::RETAPE_LEVEL
