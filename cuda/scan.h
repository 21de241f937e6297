// Running results along one dim, whatever runs: where lines are few and long they are cut into pieces, a first launch finds what each piece
// comes to, and a second begins each with what those before it come to.
#pragma once
#include <retape/cuda/dims.h>

namespace retape::cuda {
namespace {

constexpr int threads = 256, items = 4;  // of a line that lies along a block: neighbouring elements of one thread
constexpr int64_t enough_blocks = 1024;

// A contiguous tensor around one dim: lines of `size` elements, `inner` apart, in `pieces` of `piece` elements.
struct Lines {
  int64_t outer = 1, size = 1, inner = 1, piece = 1, pieces = 1;
  bool reverse;
  Lines(const Shape& shape, int dim, bool reverse) : reverse(reverse) {
    for (int d = 0; d < shape.rank(); ++d) (d < dim ? outer : d == dim ? size : inner) *= shape[d];
  }
  void cut(int64_t wanted, int64_t multiple) {
    wanted = max_of(wanted, int64_t{1});
    piece = ((size + wanted - 1) / wanted + multiple - 1) / multiple * multiple;
    pieces = (size + piece - 1) / piece;
  }
  // Where number i of a line comes, as it is scanned.
  __device__ __forceinline__ int64_t place(int64_t i) const { return (reverse ? size - 1 - i : i) * inner; }
};

// What runs along a line: a State, how an element's is loaded, how that of a stretch is joined with that of the next, what is stored of
// it. `load` and `store` get the line's first element and a place in it, `load` also its number.

template <bool up, class S> __device__ __forceinline__ S shuffle(S s, int by) {
  if constexpr (std::is_arithmetic_v<S>) {
    if constexpr (up) return S(__shfl_up_sync(all_lanes, s, unsigned(by)));
    else return S(__shfl_down_sync(all_lanes, s, unsigned(by)));
  } else {
    const auto [a, b] = s;
    return {shuffle<up>(a, by), shuffle<up>(b, by)};
  }
}

// Lines whose neighbours lie side by side: a thread has a piece of one. With `totals`, what the pieces come to is found and nothing else.
template <class Op> __global__ void scan_columns(Op op, Lines lines, bool totals, typename Op::State* found) {
  using State = typename Op::State;
  const int64_t columns = lines.outer * lines.inner, last = lines.pieces - totals;  // the last piece's total is not needed
  for (int64_t task = thread_index(); task < columns * last; task += thread_count()) {
    const int64_t p = task / columns, column = task - p * columns,
                  line = column / lines.inner * lines.size * lines.inner + column % lines.inner;
    const int64_t begin = p * lines.piece, end = min_of(lines.size, begin + lines.piece);
    bool some = false;
    State s{};
    if (!totals)
      for (int64_t q = 0; q < p; ++q) {
        const State next = found[q * columns + column];
        s = some ? op.join(s, next) : next;
        some = true;
      }
#pragma unroll 4
    for (int64_t i = begin; i < end; ++i) {
      const int64_t place = lines.place(i);
      const State next = op.load(line, place, i);
      s = some ? op.join(s, next) : next;
      some = true;
      if (!totals) op.store(line, place, s);
    }
    if (totals) found[p * columns + column] = s;
  }
}

// Lines that lie in one run each: a block has a piece of one.
template <class Op> __global__ void scan_rows(Op op, Lines lines, bool totals, typename Op::State* found) {
  using State = typename Op::State;
  __shared__ State warp_totals[threads / 32 + 1];
  const int tid = int(threadIdx.x), lane = tid % 32, warp = tid / 32, warps = int(blockDim.x) / 32;
  const int64_t last = lines.pieces - totals;
  for (int64_t task = blockIdx.x; task < lines.outer * last; task += gridDim.x) {
    const int64_t row = task / last, p = task - row * last, line = row * lines.size;
    const int64_t begin = p * lines.piece, end = min_of(lines.size, begin + lines.piece);
    State carry{};
    bool some = false;
    if (!totals && p > 0) {
      some = true;
      if (warp == 0) {  // each lane joins some that are neighbours, then the lanes' are joined in order
        const int64_t each = (p + 31) / 32, mine = lane * each;
        for (int64_t q = mine; q < min_of(p, mine + each); ++q) {
          const State next = found[row * lines.pieces + q];
          carry = q == mine ? next : op.join(carry, next);
        }
#pragma unroll 1
        for (int d = 1; d < 32; d *= 2) {
          const State next = shuffle<false>(carry, d);
          if (lane + d < 32 && mine + d * each < p) carry = op.join(carry, next);
        }
        if (lane == 0) warp_totals[threads / 32] = carry;
      }
      __syncthreads();
      carry = warp_totals[threads / 32];
    }
    for (int64_t from = begin; from < end; from += int64_t(blockDim.x) * items) {
      const int64_t first = from + int64_t(tid) * items;
      State own[items]{};
      for (int j = 0; j < items; ++j)
        if (first + j < end) own[j] = op.load(line, lines.place(first + j), first + j);
      // What comes after the line's end is joined too: it is behind all that counts.
      for (int j = 1; j < items; ++j) own[j] = op.join(own[j - 1], own[j]);
      State upto = own[items - 1];
#pragma unroll 1
      for (int d = 1; d < 32; d *= 2) {
        const State other = shuffle<true>(upto, d);
        if (lane >= d) upto = op.join(other, upto);
      }
      if (lane == 31) warp_totals[warp] = upto;
      State before = shuffle<true>(upto, 1);
      bool any = lane > 0;
      __syncthreads();
      // all that comes before the warp, and before the next elements
      State ahead = carry;
      bool any_ahead = some;
#pragma unroll 1
      for (int w = 0; w < warps; ++w) {
        if (w == warp && any_ahead) before = any ? op.join(ahead, before) : ahead, any = true;
        ahead = any_ahead ? op.join(ahead, warp_totals[w]) : warp_totals[w];
        any_ahead = true;
      }
      carry = ahead, some = true;
      __syncthreads();  // before the next totals
      if (!totals)
        for (int j = 0; j < items; ++j)
          if (first + j < end) op.store(line, lines.place(first + j), any ? op.join(before, own[j]) : own[j]);
    }
    if (totals && tid == 0) found[row * lines.pieces + p] = carry;
  }
}

template <class Op> void run(const Op& op, Lines lines) {
  using State = typename Op::State;
  const int64_t count = lines.outer * lines.inner;
  if (count == 0 || lines.size == 0) return;
  const bool rows = lines.inner == 1 && lines.size > 32;
  const int block = rows ? max_of(power_of_two_from((lines.size + items - 1) / items, threads), 32) : threads;
  const int64_t tile = int64_t(block) * items;
  if (rows) lines.cut(count < enough_blocks / 2 ? min_of(enough_blocks / count, lines.size / (4 * tile)) : 1, tile);
  else lines.cut(min_of(min_of(enough_blocks * threads / 4 / count, lines.size / 64), int64_t{64}), 1);
  const auto pass = [&](bool totals, State* found) {
    const int64_t tasks = count * (lines.pieces - totals);
    if (rows) launch(scan_rows<Op>, blocks_for(tasks, 1), block, 0, op, lines, totals, found);
    else launch(scan_columns<Op>, blocks_for(tasks, threads), threads, 0, op, lines, totals, found);
  };
  if (lines.pieces == 1) return pass(false, nullptr);
  const Scratch<State> found(count * lines.pieces);
  pass(true, found);
  pass(false, found);
}

}  // namespace
}  // namespace retape::cuda
