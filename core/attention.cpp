// Scaled dot-product attention in tiles (FlashAttention-2, Dao 2023): the T x S scores never exist in memory.
// A tile of scores is kept transposed, a row for each key and a lane for each query: the softmax then runs down the rows
// without horizontal sums, and K and V are read in the order in which they lie.
#include <retape/core/tiles.h>

namespace retape::RETAPE_LEVEL {
namespace {

template <class A> constexpr A infinity = A(__builtin_inff());

// Loops of little work, out of line: each would be unrolled for every dtype.
template <class A> __attribute__((noinline)) void clear(int64_t n, A* x) {
  for (int64_t i = 0; i < n; ++i) x[i] = 0;
}
template <class A> __attribute__((noinline)) void add(int64_t n, const A* x, A* y) {
  for (int64_t i = 0; i < n; ++i) y[i] += x[i];
}
// y[i] += x[n - 1 - i]
template <class A> __attribute__((noinline)) void add_reversed(int64_t n, const A* x, A* y) {
  for (int64_t i = 0; i < n; ++i) y[i] += x[n - 1 - i];
}
template <class A> __attribute__((noinline)) void scale_rows(int64_t rows, int64_t width, const A* by, A* x) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < width; i += lanes<A>) vec(x + r * tile + i) *= vec(by + r * tile + i);
}

// ---- moving rows -----------------------------------------------------------------------------------------------------

template <class T> struct Rows {  // (batch, heads, positions, features), features contiguous
  T* data;
  int64_t stride[3];
  RETAPE_INLINE T* at(int64_t b, int64_t h, int64_t t) const { return data + b * stride[0] + h * stride[1] + t * stride[2]; }
  RETAPE_INLINE Rows from(int64_t t) const { return {data ? data + t * stride[2] : data, {stride[0], stride[1], stride[2]}}; }
};

// Packed rows: `tile` rows of `cols` features (whole vectors) lie as panels of `tile` features, one panel behind the other, so
// that whatever a product works on is dense, and small enough for the first cache.
RETAPE_INLINE int64_t panel_width(int64_t cols, int64_t first) { return min_of(tile, cols - first); }

// y (rows rounded up to 4, cols) packed = factor * x (rows, features), with zeros around it.
template <class T, class A>
void load_rows(const T* x, int64_t x_row, int64_t rows, int64_t features, A factor, int64_t cols, A* __restrict y) {
  for (int64_t f = 0; f < cols; f += tile) {
    const int64_t width = panel_width(cols, f), used = min_of(width, features - f);
    for (int64_t r = 0; r < rows; ++r, y += width) {
      const T* const row = x + r * x_row + f;
      // Rows of one head lie far apart, and the hardware does not see the next one coming.
      for (int64_t c = 0; c < used; c += 64 / int64_t(sizeof(T))) __builtin_prefetch(row + 8 * x_row + c);
      for (int64_t c = 0; c < used; ++c) y[c] = A(row[c]) * factor;
      for (int64_t c = used; c < width; ++c) y[c] = 0;
    }
    for (int64_t n = 0; n < (round_up(rows, 4) - rows) * width; ++n) y[n] = 0;
    y += (tile - rows) * width;
  }
}

// y (rows, features) = x (rows, cols) packed * factor (rows)
template <class T, class A>
void store_rows(const A* x, int64_t cols, int64_t rows, int64_t features, const A* factor, T* __restrict y, int64_t y_row) {
  for (int64_t f = 0; f < features; f += tile) {
    const int64_t width = panel_width(cols, f), used = min_of(width, features - f);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < used; ++c) y[r * y_row + f + c] = T(x[f * tile + r * width + c] * factor[r]);
  }
}

// y (features, tile) = x (rows, cols) packed, transposed.
template <class A> void transpose_packed(const A* x, int64_t cols, int64_t rows, int64_t features, int64_t width, A* y) {
  for (int64_t f = 0; f < features; f += tile)
    transpose(x + f * tile, panel_width(cols, f), rows, min_of(tile, features - f), width, y + f * tile);
}

// ---- one tile of scores ----------------------------------------------------------------------------------------------

// e^x for x <= 80 and nan. Below -60 the result is 0, not merely small: next to the largest probability of its row, at least
// 1 / S, it would not count, and products with it would be denormal numbers, which are slow.
RETAPE_INLINE Simd<float>::V exponential(Simd<float>::V x) {
  using V = Simd<float>::V;
  using I = Simd<float>::I;
  const V shifted = x * 0x1.715476p0f + (0x1.8p23f + 127.0f);  // the last bits of the sum are round(x / log 2) + 127
  const V n = shifted - (0x1.8p23f + 127.0f);
  const V r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // log 2 in two parts; the product with the first is exact
  V y = r * 0.00138146162659f + 0.00836871209586f;          // minimax for the relative error on |r| <= log(2) / 2
  y = y * r + 0.0416683874789f;
  y = y * r + 0.16666520671f;
  y = y * r + 0.499999934507f;
  y = y * r + 1.0f;
  y = y * r + 1.0f;
  y *= (V)((I)shifted << 23);
  return x < -60.0f ? V{} : y;
}
RETAPE_INLINE Simd<double>::V exponential(Simd<double>::V x) {
  Simd<double>::V y;
  for (int i = 0; i < lanes<double>; ++i) y[i] = m::exp(double(x[i]));
  return y;
}

struct Mask {
  const void* data = nullptr;
  DType dtype = DType::boolean;
  int64_t stride[4] = {};
};

struct Blocks {  // (heads or 1, rows, columns)
  const bool* data = nullptr;
  int64_t columns = 0, of_head = 0;
};

// What attention is asked for, without the tensors that only one direction has. Positions: T queries, S keys.
template <class T> struct Problem {
  int64_t batch, heads, kv_heads, queries, keys, head_dim, value_dim;
  Rows<const T> q, k, v;
  AttentionOptions options;
  bool meta = false;
  Mask mask = {};
  // Where this sequence begins among packed ones, and how many positions all of them have.
  int64_t before_queries = 0, before_keys = 0, all_queries = 0, all_keys = 0;
  // (heads, table_size): what is added to the score of query i and key j is [i - j + all_keys - 1], so that queries lie next to each other.
  const compute_t<T>* relative = nullptr;
  int64_t table_size = 0;
  Blocks blocks = {};

  /// The keys that queries before `end` may see.
  RETAPE_INLINE int64_t keys_before(int64_t end) const { return min_of(keys, end + options.offset + options.right); }
  /// The first key, at the beginning of a tile, that queries from `first` on may see.
  RETAPE_INLINE int64_t first_key(int64_t first) const {
    return options.sinks > 0 ? 0 : max_of(int64_t{0}, first + options.offset - options.left) / tile * tile;
  }
};

// Where a tile of scores stands, and how much of it there is.
struct Place {
  int64_t b, h, first_query, first_key, queries, keys;
  int64_t width;  // lanes in use: queries, rounded up by `padding`
  bool diagonal;  // no query sees later keys than its own, which for the first one is the first: a triangle of the tile is seen
};
template <class T> RETAPE_INLINE Place place(const Problem<T>& p, int64_t b, int64_t h, int64_t first_query, int64_t first_key) {
  const int64_t queries = min_of(tile, p.queries - first_query), end = p.keys_before(first_query + queries);
  return {b,
          h,
          first_query,
          first_key,
          queries,
          min_of(tile, end - first_key),
          round_up(queries, padding<compute_t<T>>),
          first_key == first_query + p.options.offset + p.options.right};
}

template <class M, class A> RETAPE_INLINE A bias_of(M x) {
  if constexpr (std::is_same_v<M, uint8_t>) return x ? A(0) : -infinity<A>;
  else return A(compute_t<M>(x));
}

enum class Sight { nothing, some, everything };

// What windows and blocks let a tile see, besides its diagonal. What depends on no element type is compiled once.
__attribute__((noinline)) Sight sight_of(const AttentionOptions& o, const Blocks& all_blocks, const Place& at) {
  const int64_t first = at.first_query + o.offset, last = first + at.queries - 1, last_key = at.first_key + at.keys - 1;
  bool some = !at.diagonal && last_key > first + o.right;
  const int64_t behind_sinks = max_of(at.first_key, o.sinks);
  if (behind_sinks <= last_key && behind_sinks < last - o.left) {
    if (behind_sinks == at.first_key && last_key < first - o.left) return Sight::nothing;
    some = true;
  }
  if (all_blocks.data) {
    const bool* const blocks = all_blocks.data + at.h * all_blocks.of_head;
    int64_t seen = 0, all = 0;
    for (int64_t i = first / o.block_size; i <= last / o.block_size; ++i)
      for (int64_t j = at.first_key / o.block_size; j <= last_key / o.block_size; ++j, ++all) seen += blocks[i * all_blocks.columns + j];
    if (seen == 0) return Sight::nothing;
    some |= seen < all;
  }
  return some ? Sight::some : Sight::everything;
}
// Such elements of the tile become -infinity.
template <class A> __attribute__((noinline)) void hide(const AttentionOptions& o, const Blocks& blocks, const Place& at, A* scores) {
  const int64_t first = at.first_query + o.offset;
  for (int64_t j = 0; j < at.keys; ++j) {
    A* const row = scores + j * tile;
    const int64_t key = at.first_key + j;
    const int64_t end = key < o.sinks ? at.width : max_of(int64_t{0}, key + o.left - first + 1);  // behind the last query that sees the key
    for (int64_t i = 0; i < min_of(at.width, key - o.right - first); ++i) row[i] = -infinity<A>;
    for (int64_t i = end; i < at.width; ++i) row[i] = -infinity<A>;
    if (blocks.data) {
      const bool* const column = blocks.data + at.h * blocks.of_head + key / o.block_size;
      for (int64_t i = 0; i < at.queries; ++i)
        if (!column[(first + i) / o.block_size * blocks.columns]) row[i] = -infinity<A>;
    }
  }
}

// bias (keys, tile): what the mask adds to each score; written only where it hides or adds something, but not everything.
// `space` holds another tile.
template <class M, class A> Sight load_bias_from(const Mask& mask, const Place& at, A* bias, A* space) {
  const M* x = static_cast<const M*>(mask.data) + at.b * mask.stride[0] + at.h * mask.stride[1] + at.first_query * mask.stride[2] +
               at.first_key * mask.stride[3];
  const bool one_row = mask.stride[2] == 0;
  int hidden = 1, plain = 1;
  for (int64_t i = 0; i < (one_row ? 1 : at.queries); ++i) {
    A* const row = space + i * tile;
    const M* const from = x + i * mask.stride[2];
    if (mask.stride[3] == 1)
      for (int64_t j = 0; j < at.keys; ++j) row[j] = bias_of<M, A>(from[j]);
    else
      for (int64_t j = 0; j < at.keys; ++j) row[j] = bias_of<M, A>(from[j * mask.stride[3]]);
    for (int64_t j = 0; j < at.keys; ++j) hidden &= row[j] == -infinity<A>, plain &= row[j] == 0;
    for (int64_t j = at.keys; j < round_up(at.keys, 4); ++j) row[j] = 0;
  }
  if (hidden) return Sight::nothing;
  if (plain) return Sight::everything;
  if (one_row) {
    for (int64_t j = 0; j < at.keys; ++j)
      for (int64_t i = 0; i < at.width; ++i) bias[j * tile + i] = space[j];
  } else {
    for (int64_t n = at.queries * tile; n < round_up(at.queries, 4) * tile; ++n) space[n] = 0;
    transpose(space, tile, at.queries, at.keys, at.width, bias);
  }
  return Sight::some;
}
template <class A> Sight load_bias(const Mask& mask, const Place& at, A* bias, A* space) {
  switch (mask.dtype) {
    case DType::f64: return load_bias_from<double>(mask, at, bias, space);
    case DType::f32: return load_bias_from<float>(mask, at, bias, space);
    case DType::f16: return load_bias_from<f16>(mask, at, bias, space);
    case DType::bf16: return load_bias_from<bf16>(mask, at, bias, space);
    default: return load_bias_from<uint8_t>(mask, at, bias, space);
  }
}

typedef uint64_t Wide __attribute__((vector_size(vector_bytes), may_alias));
typedef uint32_t Words __attribute__((vector_size(vector_bytes / 2), may_alias));

// The 64-bit products of the lower halves of the lanes.
RETAPE_INLINE Wide product(Wide a, uint32_t b) {
#if defined(__AVX512F__)
  return (Wide)_mm512_maskz_mul_epu32(0xff, (__m512i)a, _mm512_set1_epi64(b));  // the plain one sets off a false warning in GCC 12
#elif defined(__AVX2__)
  return (Wide)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(b));
#elif defined(__SSE2__)
  return (Wide)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(b));
#else
  return (a & 0xffffffffu) * b;
#endif
}
// The four words of philox.h's Philox for a counter in each lane; only the lower halves of the lanes mean anything. The compiler does
// not find the one instruction behind each product in the scalar code, and dropout would cost twice as much.
RETAPE_INLINE void philox(uint64_t seed, Wide counter, Wide* words) {
  Wide a = counter, b = counter >> 32, c{}, d{};
  uint32_t key0 = uint32_t(seed), key1 = uint32_t(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const Wide p0 = product(a, 0xD2511F53u), p1 = product(c, 0xCD9E8D57u);
    a = (p1 >> 32) ^ b ^ uint64_t(key0), b = p1, c = (p0 >> 32) ^ d ^ uint64_t(key1), d = p0;
    key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
  }
  words[0] = a, words[1] = b, words[2] = c, words[3] = d;
}

// philox_uniform() >= p, where `threshold` is p * 2^24 rounded up.
RETAPE_INLINE bool attention_keep(uint32_t bits, uint32_t threshold) { return bits >> 8 >= threshold; }

// keep (keys, tile): 1 where dropout keeps the probability, else 0. Element (b, h, i, j) has the index ((b H + h) T + i) S + j in
// the stretch. `space` holds 4 rows more than a tile: a tile need not begin with the first word of a counter.
template <class T, class A> void load_keep(const Problem<T>& p, const Place& at, A* keep, A* space) {
  typedef uint32_t Word __attribute__((may_alias));
  Word* const words = reinterpret_cast<Word*>(space);
  constexpr int64_t n = vector_bytes / 8;
  const int64_t line = (at.b * p.heads + at.h) * p.all_queries + p.before_queries + at.first_query;
  const uint64_t row = uint64_t(line * p.all_keys + p.before_keys + at.first_key);
  int64_t skipped[tile];
  for (int64_t i = 0; i < at.width; ++i) skipped[i] = int64_t((row + uint64_t(i * p.all_keys)) % 4);
  const bool aligned = row % 4 == 0 && p.all_keys % 4 == 0;
  for (int64_t i = 0; i < at.width; i += n) {
    Wide counter{};
    for (int64_t l = 0; l < n; ++l) counter[l] = p.options.random.offset + (row + uint64_t((i + l) * p.all_keys)) / 4;
    for (int64_t j = 0; j < at.keys + (aligned ? 0 : 3); j += 4, counter += 1) {
      Wide x[4];
      philox(p.options.random.seed, counter, x);
      for (int64_t l = 0; l < 4; ++l) *reinterpret_cast<Words*>(words + (j + l) * tile + i) = __builtin_convertvector(x[l], Words);
    }
  }
  const double scaled = p.options.dropout * 0x1p24;
  const uint32_t whole = uint32_t(scaled), threshold = whole + (double(whole) < scaled);
  for (int64_t j = 0; j < at.keys; ++j)
    if (aligned)
      for (int64_t i = 0; i < at.width; ++i) keep[j * tile + i] = attention_keep(words[j * tile + i], threshold) ? A(1) : A(0);
    else
      for (int64_t i = 0; i < at.width; ++i)
        keep[j * tile + i] = attention_keep(words[(j + skipped[i]) * tile + i], threshold) ? A(1) : A(0);
}

constexpr int64_t stair = 8;  // on the diagonal, sums start or end in steps of so many rows
// The keys whose scores matter to the vector of queries that starts at i.
template <class A> RETAPE_INLINE int64_t keys_of(const Place& at, int64_t i) {
  return at.diagonal ? min_of(at.keys, round_up(i + lanes<A>, stair)) : at.keys;
}

// Elements of the diagonal tile that nobody may see become `unseen`.
template <class A> RETAPE_INLINE void fill_unseen(const Place& at, A unseen, A* out) {
  if (at.diagonal)
    for (int64_t j = 0; j < at.keys; ++j)
      for (int64_t i = 0; i < min_of(j, at.width); ++i) out[j * tile + i] = unseen;
}
// out (keys, tile) = x (keys, cols) packed times queries (features, tile): the scores, if x is k; the gradients of probabilities,
// if x is v and dy stands for the queries.
template <class A> void dots(const Place& at, int64_t features, const A* x, int64_t cols, const A* queries, A unseen, A* out) {
  const int64_t rows = round_up(at.keys, 4), step = at.diagonal ? 16 : rows;
  int64_t f = 0;
  do {
    const int64_t width = panel_width(cols, f), depth = min_of(width, features - f);
    const A *const x_panel = x + f * tile, *const q_panel = queries + f * tile;
    for (int64_t r = 0; r < rows; r += step) {
      const int64_t n = min_of(step, rows - r), first = at.diagonal ? r : 0;
      A* const to = out + r * tile + first;
      if (f == 0) multiply<Into::overwrite>(n, at.width - first, depth, x_panel + r * width, width, 1, q_panel + first, tile, to, tile);
      else multiply<Into::add>(n, at.width - first, depth, x_panel + r * width, width, 1, q_panel + first, tile, to, tile);
    }
  } while ((f += tile) < features);
  fill_unseen(at, unseen, out);
}

// scores = softcap * tanh(scores / softcap), and the slopes of that where they are wanted.
template <class A> void cap(const Place& at, A softcap, A* scores, A* slopes) {
  const A factor = 1 / softcap;
  for (int64_t j = 0; j < at.keys; ++j) {
    A* const row = scores + j * tile;
#pragma omp simd
    for (int64_t i = 0; i < at.width; ++i) row[i] = m::tanh(row[i] * factor);
    if (slopes)
      for (int64_t i = 0; i < at.width; ++i) slopes[j * tile + i] = 1 - row[i] * row[i];
    for (int64_t i = 0; i < at.width; ++i) row[i] *= softcap;
  }
}

// table: of relative biases, at the tile's first query and key; or null.
template <class A>
__attribute__((noinline)) void score(const Place& at, int64_t features, double softcap, const A* table, const A* k, int64_t cols,
                                     const A* queries, const A* bias, A* scores, A* slopes) {
  dots(at, features, k, cols, queries, -infinity<A>, scores);
  if (softcap > 0) {
    cap(at, A(softcap), scores, slopes);
    fill_unseen(at, -infinity<A>, scores);
  }
  if (table)
    for (int64_t j = 0; j < at.keys; ++j) {
#pragma omp simd
      for (int64_t i = 0; i < at.width; ++i) scores[j * tile + i] += table[i - j];
    }
  if (bias)
    for (int64_t j = 0; j < at.keys; ++j)
      for (int64_t i = 0; i < at.width; i += lanes<A>) vec(scores + j * tile + i) += vec(bias + j * tile + i);
}
// The scores of a tile that is seen as `sight` says, with the mask's bias if there is one.
template <class T, class A>
RETAPE_INLINE void score(const Problem<T>& p, const Place& at, Sight sight, const A* k, int64_t cols, const A* queries, const A* bias,
                         A* scores, A* slopes = nullptr) {
  const A* const table =
      p.relative ? p.relative + at.h * p.table_size + at.first_query + p.all_keys - 1 - at.first_key : static_cast<const A*>(nullptr);
  score(at, p.head_dim, p.options.softcap, table, k, cols, queries, bias, scores, slopes);
  if (sight == Sight::some) hide(p.options, p.blocks, at, scores);
}

// table [query - key + keys - 1] += gradient of their score
template <class A> __attribute__((noinline)) void sum_diagonals(int64_t keys, const Place& at, const A* dscores, A* table) {
  A* const first = table + at.first_query + keys - 1 - at.first_key;
  for (int64_t j = 0; j < at.keys; ++j) {
#pragma omp simd
    for (int64_t i = 0; i < at.queries; ++i) first[i - j] += dscores[j * tile + i];
  }
}

// out (queries, cols) packed = factor (queries) * out + weights^T x, where weights (keys, tile), x (keys, cols) packed.
template <class A, class... Factor>
void sum_over_keys(const Place& at, const A* weights, const A* x, int64_t cols, A* out, const Factor*... factor) {
  constexpr Into into = sizeof...(Factor) ? Into::scale_and_add : Into::add;
  const int64_t rows = round_up(at.queries, 4), step = at.diagonal ? stair : rows;
  for (int64_t f = 0; f < cols; f += tile)
    for (int64_t r = 0; r < rows; r += step) {
      const int64_t width = panel_width(cols, f), depth = at.diagonal ? min_of(r + step, at.keys) : at.keys;
      multiply<into>(min_of(step, rows - r), width, depth, weights + r, 1, tile, x + f * tile, width, out + f * tile + r * width, width,
                     factor + r...);
    }
}

// out (keys, cols) packed += weights x, where weights (keys, tile), x (queries, cols) packed.
template <class A> void sum_over_queries(const Place& at, const A* weights, const A* x, int64_t cols, A* out) {
  const int64_t rows = round_up(at.keys, 4), step = at.diagonal ? stair : rows;
  for (int64_t f = 0; f < cols; f += tile)
    for (int64_t r = 0; r < rows; r += step) {
      const int64_t width = panel_width(cols, f), first = at.diagonal ? r : 0;
      multiply<Into::add>(min_of(step, rows - r), width, at.queries - first, weights + r * tile + first, tile, 1,
                          x + f * tile + first * width, width, out + f * tile + r * width, width);
    }
}

// Turns scores into e^(score - top), where top is the largest score of a query so far; sum grows by them, and factor is what
// earlier results have to be multiplied by, since top has grown.
template <class A> RETAPE_FULL_WIDTH void softmax_step(const Place& at, A* scores, const A* keep, A* top, A* sum, A* factor) {
  using V = typename Simd<A>::V;
  for (int64_t i = 0; i < at.width; i += lanes<A>) {
    const int64_t keys = keys_of<A>(at, i);
    const V old = vec(top + i);
    V now = old;
    for (int64_t j = 0; j < keys; ++j) {
      const V s = vec(scores + j * tile + i);
      now = s > now ? s : now;
    }
    const V base = now == -infinity<A> ? V{} : now;  // nothing seen so far: every score is -inf, and every result 0
    V f = exponential(old - base), total = vec(sum + i) * f;
    for (int64_t j = 0; j < keys; ++j) {
      V p = exponential(vec(scores + j * tile + i) - base);
      total += p;
      if (keep) p *= vec(keep + j * tile + i);
      vec(scores + j * tile + i) = p;
    }
    vec(top + i) = now, vec(sum + i) = total, vec(factor + i) = f;
  }
}

// Turns scores into the probabilities that met v, and dp, the gradients of those, into the gradients of the scores.
template <class A>
RETAPE_FULL_WIDTH void softmax_gradient(const Place& at, A* scores, A* dp, const A* keep, const A* top, const A* share, const A* delta) {
  using V = typename Simd<A>::V;
  for (int64_t i = 0; i < at.width; i += lanes<A>) {
    const int64_t keys = keys_of<A>(at, i);
    const V t = vec(top + i), u = vec(share + i), d = vec(delta + i);
    for (int64_t j = 0; j < keys; ++j) {
      V &s = vec(scores + j * tile + i), &g = vec(dp + j * tile + i);
      const V p = exponential(s - t) * u;
      if (keep) {
        const V kept = vec(keep + j * tile + i);
        g = p * (g * kept - d), s = p * kept;
      } else g = p * (g - d), s = p;
    }
  }
  for (int64_t n = at.keys * tile; n < round_up(at.keys, 4) * tile; ++n) scores[n] = dp[n] = 0;
}

// ---- tasks -----------------------------------------------------------------------------------------------------------

// delta (queries) = the sums over the rows of a * b, both (queries, cols) packed. Two tiles of space.
template <class A> void row_dots(const A* a, const A* b, int64_t cols, const Place& at, A* delta, A* parts, A* parts_lanes) {
  constexpr int64_t n = padding<A>;
  for (int64_t r = 0; r < round_up(at.queries, 4); ++r)
    for (int64_t l = 0; l < n; l += lanes<A>) {
      typename Simd<A>::V sum{};
      for (int64_t f = 0; f < cols; f += tile) {
        const int64_t width = panel_width(cols, f), row = f * tile + r * width;
        for (int64_t c = l; c < width; c += n) sum += vec(a + row + c) * vec(b + row + c);
      }
      vec(parts + r * n + l) = sum;
    }
  transpose(parts, n, at.queries, n, at.width, parts_lanes);
  for (int64_t i = 0; i < at.width; i += lanes<A>) {
    typename Simd<A>::V sum{};
    for (int64_t l = 0; l < n; ++l) sum += vec(parts_lanes + l * tile + i);
    vec(delta + i) = sum;
  }
}

template <class T> bool worth_threads(const Problem<T>& p) {
  return p.batch * p.heads * p.queries * p.keys * (p.head_dim + p.value_dim) > 500000;
}

// A few query tiles take turns with each tile of K and V: what lies in a farther cache then comes once, not once for each.
constexpr int64_t turns = 4;

// What a task works with: one head of K and V, and some of the `items` query tiles that read it, those of all heads of its group.
template <class T> struct Sizes {
  using A = compute_t<T>;
  int64_t k_cols, v_cols, keys, heads, tiles, items;
  explicit Sizes(const Problem<T>& p)
      : k_cols(round_up(p.head_dim, padding<A>)),
        v_cols(round_up(p.value_dim, padding<A>)),
        keys(round_up(p.keys, tile)),
        heads(p.batch * p.kv_heads),
        tiles(divide_up(p.queries, tile)),
        items(heads ? p.heads / p.kv_heads * tiles : 0) {}
};
template <class T> RETAPE_INLINE Place item(const Problem<T>& p, const Sizes<T>& sizes, int64_t head, int64_t n) {
  const int64_t group = p.heads / p.kv_heads;
  return place(p, head / p.kv_heads, head % p.kv_heads * group + n / sizes.tiles, n % sizes.tiles * tile, 0);
}

// The tile of K and V that begins at key j, packed.
template <class T, class A> void load_keys(const Problem<T>& p, const Sizes<T>& sizes, int64_t head, int64_t j, A* k, A* v) {
  const int64_t b = head / p.kv_heads, h = head % p.kv_heads, rows = min_of(tile, p.keys - j);
  load_rows(p.k.at(b, h, j), p.k.stride[2], rows, p.head_dim, A(1), sizes.k_cols, k + j * sizes.k_cols);
  load_rows(p.v.at(b, h, j), p.v.stride[2], rows, p.value_dim, A(1), sizes.v_cols, v + j * sizes.v_cols);
}

// Space for what any tile of scores needs: the scores and, where they are wanted, the mask, dropout, and the slopes of capped scores.
template <class A> struct Tile {
  A *scores, *bias, *keep, *slopes;
  template <class T>
  Tile(const Problem<T>& p, Arena<A>& arena)
      : scores(arena.take((tile + 4) * tile)),
        bias(p.mask.data ? arena.take(tile * tile) : nullptr),
        keep(p.options.dropout > 0 ? arena.take(tile * tile) : nullptr),
        slopes(p.options.softcap > 0 ? arena.take(tile * tile) : nullptr) {}
  static constexpr int64_t size = (4 * tile + 4) * tile;
};

// Which tiles of K and V a task has packed.
template <class A> struct Packed {
  A* there;
  int64_t tiles;
  Packed(int64_t keys, Arena<A>& arena) : there(arena.take(keys / tile)), tiles(keys / tile) {
    for (int64_t n = 0; n < tiles; ++n) there[n] = 0;
  }
  template <class T> RETAPE_INLINE void need(const Problem<T>& p, const Sizes<T>& sizes, int64_t head, int64_t j, A* k, A* v) {
    if (there[j / tile] != 0) return;
    there[j / tile] = 1;
    load_keys(p, sizes, head, j, k, v);
  }
};

template <class A> struct ForwardTile {
  Place at;
  A *q, *out, *top, *sum;  // q (features, tile); out (queries, features) packed
};

// What backward needs of a row's softmax: the largest score and the sum of e^(score - largest). Their sum as one number, the
// log-sum-exp, would lose the second where a mask of -1e9 hides a whole row.
template <class A> struct RowStatistics {
  A *top, *sum;
  template <class T>
  RETAPE_INLINE RowStatistics(const Problem<T>& p, A* all, const Place& at)
      : top(all + 2 * (at.b * p.heads + at.h) * p.all_queries + p.before_queries + at.first_query), sum(top + p.all_queries) {}
};

template <class T> void forward(const Problem<T>& p, const Rows<T>& y, compute_t<T>* statistics) {
  using A = compute_t<T>;
  const Sizes<T> sizes(p);
  const int64_t k_cols = sizes.k_cols, v_cols = sizes.v_cols, keys = sizes.keys, heads = sizes.heads, items = sizes.items;
  if (items == 0) return;
  const int64_t chunks = min_of(divide_up(32, heads), items);
  const int64_t scratch =
      keys * (k_cols + v_cols) + tile * k_cols + turns * tile * (k_cols + v_cols + 2) + tile + round_up(keys / tile, 16) + Tile<A>::size;
  if (p.meta) return count_meta_scratch(bytes_of<A>(scratch_of_tasks(heads * chunks, scratch, worth_threads(p))));
  each_task<A>(heads * chunks, scratch, worth_threads(p), [&](int64_t task, Arena<A> arena) {
    const int64_t chunk = chunks - 1 - task / heads, head = task % heads;  // causal: the last chunks are the longest, and start first
    const int64_t first = chunk * items / chunks, end = (chunk + 1) * items / chunks;
    A *const k = arena.take(keys * k_cols), *const v = arena.take(keys * v_cols);
    A *const q_rows = arena.take(tile * k_cols), *const factor = arena.take(tile);
    Packed<A> packed(keys, arena);
    const Tile<A> space(p, arena);
    ForwardTile<A> query[turns];
    for (auto& [at, q, out, top, sum] : query)
      q = arena.take(tile * k_cols), out = arena.take(tile * v_cols), top = arena.take(tile), sum = arena.take(tile);

    for (int64_t n = first; n < end; n += turns) {
      const int64_t count = min_of(turns, end - n);
      int64_t from = keys, seen = 0;
      for (int64_t t = 0; t < count; ++t) {
        auto& [at, q, out, top, sum] = query[t];
        at = item(p, sizes, head, n + t);
        from = min_of(from, p.first_key(at.first_query)), seen = max_of(seen, p.keys_before(at.first_query + at.queries));
        load_rows(p.q.at(at.b, at.h, at.first_query), p.q.stride[2], at.queries, p.head_dim, A(p.options.scale), k_cols, q_rows);
        transpose_packed(q_rows, k_cols, at.queries, p.head_dim, at.width, q);
        clear(tile * v_cols, out);
        for (int64_t i = 0; i < tile; ++i) top[i] = -infinity<A>, sum[i] = 0;
      }

      for (int64_t j = from; j < seen; j += tile)
        for (int64_t t = 0; t < count; ++t) {
          const auto& [here, q, out, top, sum] = query[t];
          if (j >= p.keys_before(here.first_query + here.queries)) continue;
          const Place at = place(p, here.b, here.h, here.first_query, j);
          const Sight sight = sight_of(p.options, p.blocks, at);
          if (sight == Sight::nothing) continue;
          const Sight masked = p.mask.data ? load_bias(p.mask, at, space.bias, space.scores) : Sight::everything;
          if (masked == Sight::nothing) continue;
          const A* const bias = masked == Sight::some ? space.bias : nullptr;
          packed.need(p, sizes, head, j, k, v);
          if (space.keep) load_keep(p, at, space.keep, space.scores);
          score(p, at, sight, k + j * k_cols, k_cols, q, bias, space.scores);
          softmax_step(at, space.scores, space.keep, top, sum, factor);
          sum_over_keys(at, space.scores, v + j * v_cols, v_cols, out, factor);
        }

      for (int64_t t = 0; t < count; ++t) {
        const auto& [at, q, out, top, sum] = query[t];
        const RowStatistics<A> row(p, statistics, at);
        for (int64_t i = 0; i < at.queries; ++i) {
          const bool empty = sum[i] == 0;  // such a row gives 0, or is refused
          row.top[i] = top[i], row.sum[i] = sum[i];
          factor[i] = empty ? A(0) : A(1) / (sum[i] * A(1 - p.options.dropout));
        }
        store_rows(out, v_cols, at.queries, p.value_dim, factor, y.at(at.b, at.h, at.first_query), y.stride[2]);
      }
    }
  });
}

// ---- one query a head ------------------------------------------------------------------------------------------------

// What generating token after token asks for: K and V are read once, where they lie, and nothing is packed.
template <class T> void forward_one(const Problem<T>& p, const Rows<T>& y, compute_t<T>* statistics) {
  using A = compute_t<T>;
  using V = typename Simd<A>::V;
  constexpr int64_t n = padding<A>;
  const int64_t before = max_of(int64_t{0}, p.options.offset - p.options.left), keys = max_of(int64_t{0}, p.keys_before(1) - before);
  const int64_t k_cols = round_up(p.head_dim, n), v_cols = round_up(p.value_dim, n);
  const int64_t scratch = k_cols + v_cols + round_up(keys, tile) + 2 * n * tile;
  if (p.meta) return count_meta_scratch(bytes_of<A>(scratch_of_tasks(p.batch * p.heads, scratch, worth_threads(p))));
  each_task<A>(p.batch * p.heads, scratch, worth_threads(p), [&](int64_t task, Arena<A> arena) {
    const int64_t b = task / p.heads, h = task % p.heads, kv = h / (p.heads / p.kv_heads);
    A *const q = arena.take(k_cols), *const out = arena.take(v_cols), *const scores = arena.take(round_up(keys, tile));
    A *const parts = arena.take(n * tile), *const parts_lanes = arena.take(n * tile);
    const T* const query = p.q.at(b, h, 0);
    for (int64_t c = 0; c < k_cols; ++c) q[c] = c < p.head_dim ? A(query[c]) * A(p.options.scale) : A(0);

    V top = V{} - infinity<A>;
    for (int64_t j = 0; j < keys; j += tile) {
      const int64_t rows = min_of(tile, keys - j), width = round_up(rows, n);
      for (int64_t r = 0; r < round_up(rows, 4); ++r) {
        A sum[n] = {};
        if (r < rows) {
          const T* const key = p.k.at(b, kv, before + j + r);
          int64_t c = 0;
          for (; c + n <= p.head_dim; c += n) {
#pragma omp simd
            for (int64_t l = 0; l < n; ++l) sum[l] += A(key[c + l]) * q[c + l];
          }
          for (int64_t l = 0; c + l < p.head_dim; ++l) sum[l] += A(key[c + l]) * q[c + l];
        }
        for (int64_t l = 0; l < n; ++l) parts[r * n + l] = sum[l];
      }
      transpose(parts, n, rows, n, width, parts_lanes);
      for (int64_t i = 0; i < width; i += lanes<A>) {
        V sum{};
        for (int64_t l = 0; l < n; ++l) sum += vec(parts_lanes + l * tile + i);
        vec(scores + j + i) = sum;
      }
      if (p.options.softcap > 0) {
        const A softcap = A(p.options.softcap), factor = 1 / softcap;
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) scores[j + i] = softcap * m::tanh(scores[j + i] * factor);
      }
      if (p.relative) {
        const A* const table = p.relative + h * p.table_size + p.all_keys - 1 - before - j;
        for (int64_t i = 0; i < rows; ++i) scores[j + i] += table[-i];
      }
      for (int64_t i = rows; i < width; ++i) scores[j + i] = -infinity<A>;
      for (int64_t i = 0; i < width; i += lanes<A>) {
        const V s = vec(scores + j + i);
        top = s > top ? s : top;
      }
    }
    A largest = top[0];
    for (int64_t l = 1; l < lanes<A>; ++l) largest = max_of(largest, A(top[l]));
    const A base = largest == -infinity<A> ? A(0) : largest;
    V total{};
    for (int64_t i = 0; i < round_up(keys, n); i += lanes<A>) total += vec(scores + i) = exponential(vec(scores + i) - base);
    A sum = 0;
    for (int64_t l = 0; l < lanes<A>; ++l) sum += total[l];

    for (int64_t c = 0; c < v_cols; ++c) out[c] = 0;
    constexpr int64_t step = 4;  // values that meet the result at once
    int64_t j = 0;
    for (; j + step <= keys; j += step) {
      const T* value[step];
      for (int64_t r = 0; r < step; ++r) value[r] = p.v.at(b, kv, before + j + r);
#pragma omp simd
      for (int64_t c = 0; c < p.value_dim; ++c)
        out[c] += (scores[j] * A(value[0][c]) + scores[j + 1] * A(value[1][c])) +
                  (scores[j + 2] * A(value[2][c]) + scores[j + 3] * A(value[3][c]));
    }
    for (; j < keys; ++j) {
      const T* const value = p.v.at(b, kv, before + j);
#pragma omp simd
      for (int64_t c = 0; c < p.value_dim; ++c) out[c] += scores[j] * A(value[c]);
    }
    const A share = sum == 0 ? A(0) : 1 / sum;
    T* const result = y.at(b, h, 0);
    for (int64_t c = 0; c < p.value_dim; ++c) result[c] = T(out[c] * share);
    const RowStatistics<A> row(p, statistics, place(p, b, h, 0, 0));
    row.top[0] = largest, row.sum[0] = sum;
  });
}

template <class A> struct BackwardTile {
  Place at;
  A *q, *q_lanes, *dq, *dy, *dy_lanes, *top, *share, *delta;  // `lanes`: (features, tile); the other matrices are packed
};

// A task has every `chunks`-th of the items; it sums their shares of dK and dV. Only where heads are few is there more than one
// chunk, and then the shares are added in order: the bits depend on shapes alone.
template <class T>
void backward(const Problem<T>& p, const Rows<const T>& y, const Rows<const T>& dy, const compute_t<T>* statistics, const Rows<T>& dq,
              const Rows<T>& dk, const Rows<T>& dv, compute_t<T>* drelative) {
  using A = compute_t<T>;
  const Sizes<T> sizes(p);
  const int64_t k_cols = sizes.k_cols, v_cols = sizes.v_cols, keys = sizes.keys, heads = sizes.heads, items = sizes.items;
  if (heads == 0) return;
  const int64_t chunks = max_of(int64_t{1}, min_of(divide_up(16, heads), items / 4));
  const int64_t share = keys * (k_cols + v_cols);
  const int64_t scratch =
      2 * share + turns * tile * (3 * k_cols + 2 * v_cols + 3) + tile * tile + round_up(keys / tile, 16) + Tile<A>::size;
  const int64_t shares_size = chunks > 1 ? heads * chunks * share : 0;
  const int64_t group = p.heads / p.kv_heads, diagonals = p.queries + p.keys,
                tables_size = drelative ? heads * chunks * group * diagonals : 0;
  if (p.meta)
    return count_meta_scratch(bytes_of<A>(shares_size), bytes_of<A>(tables_size),
                              bytes_of<A>(scratch_of_tasks(heads * chunks, scratch, worth_threads(p))));
  const Scratch<A> shares(shares_size), tables(tables_size);
  const A kept = A(1 / (1 - p.options.dropout));

  A ones[tile], scales[tile];
  for (int64_t i = 0; i < tile; ++i) ones[i] = 1, scales[i] = A(p.options.scale);
  const auto store_keys = [&](int64_t head, int64_t j, const A* sum_k, const A* sum_v) {
    const int64_t b = head / p.kv_heads, h = head % p.kv_heads, rows = min_of(tile, p.keys - j);
    store_rows(sum_k, k_cols, rows, p.head_dim, ones, dk.at(b, h, j), dk.stride[2]);
    store_rows(sum_v, v_cols, rows, p.value_dim, ones, dv.at(b, h, j), dv.stride[2]);
  };

  each_task<A>(heads * chunks, scratch, worth_threads(p), [&](int64_t task, Arena<A> arena) {
    const int64_t chunk = task / heads, head = task % heads;
    A *const k = arena.take(keys * k_cols), *const v = arena.take(keys * v_cols);
    A *const sum_k = chunks > 1 ? shares + (head * chunks + chunk) * share : arena.take(share), *const sum_v = sum_k + keys * k_cols;
    A* const dp = arena.take(tile * tile);
    Packed<A> packed(keys, arena);
    const Tile<A> space(p, arena);
    BackwardTile<A> query[turns];
    for (auto& [at, q, q_lanes, dq, dy, dy_lanes, top, share, delta] : query) {
      q = arena.take(tile * k_cols), q_lanes = arena.take(tile * k_cols), dq = arena.take(tile * k_cols);
      dy = arena.take(tile * v_cols), dy_lanes = arena.take(tile * v_cols);
      top = arena.take(tile), share = arena.take(tile), delta = arena.take(tile);
    }
    clear(share, sum_k);
    A* const table = drelative ? tables + (head * chunks + chunk) * group * diagonals : nullptr;
    if (table) clear(group * diagonals, table);

    for (int64_t n = chunk; n < items; n += turns * chunks) {
      const int64_t count = min_of(turns, divide_up(items - n, chunks));
      int64_t from = keys, seen = 0;
      for (int64_t t = 0; t < count; ++t) {
        BackwardTile<A>& x = query[t];
        const Place& at = x.at = item(p, sizes, head, n + t * chunks);
        from = min_of(from, p.first_key(at.first_query)), seen = max_of(seen, p.keys_before(at.first_query + at.queries));
        load_rows(p.q.at(at.b, at.h, at.first_query), p.q.stride[2], at.queries, p.head_dim, A(p.options.scale), k_cols, x.q);
        transpose_packed(x.q, k_cols, at.queries, p.head_dim, at.width, x.q_lanes);
        clear(tile * k_cols, x.dq);
        load_rows(dy.at(at.b, at.h, at.first_query), dy.stride[2], at.queries, p.value_dim, kept, v_cols, x.dy);
        load_rows(y.at(at.b, at.h, at.first_query), y.stride[2], at.queries, p.value_dim, 1 / kept, v_cols, x.dy_lanes);
        row_dots(x.dy_lanes, x.dy, v_cols, at, x.delta, space.scores, dp);
        transpose_packed(x.dy, v_cols, at.queries, p.value_dim, at.width, x.dy_lanes);
        // Lanes without a query, and rows that see nothing, get probabilities e^(score - inf) = 0.
        const RowStatistics<const A> row(p, statistics, at);
        for (int64_t i = 0; i < tile; ++i) {
          const bool empty = i >= at.queries || row.sum[i] == 0;
          x.top[i] = empty ? infinity<A> : row.top[i], x.share[i] = empty ? A(0) : 1 / row.sum[i];
        }
      }

      for (int64_t j = from; j < seen; j += tile)
        for (int64_t t = 0; t < count; ++t) {
          const BackwardTile<A>& x = query[t];
          if (j >= p.keys_before(x.at.first_query + x.at.queries)) continue;
          const Place at = place(p, x.at.b, x.at.h, x.at.first_query, j);
          const Sight sight = sight_of(p.options, p.blocks, at);
          if (sight == Sight::nothing) continue;
          const Sight masked = p.mask.data ? load_bias(p.mask, at, space.bias, space.scores) : Sight::everything;
          if (masked == Sight::nothing) continue;
          const A* const bias = masked == Sight::some ? space.bias : nullptr;
          packed.need(p, sizes, head, j, k, v);
          if (space.keep) load_keep(p, at, space.keep, space.scores);
          score(p, at, sight, k + j * k_cols, k_cols, x.q_lanes, bias, space.scores, space.slopes);
          dots(at, p.value_dim, v + j * v_cols, v_cols, x.dy_lanes, A(0), dp);
          softmax_gradient(at, space.scores, dp, space.keep, x.top, x.share, x.delta);
          if (table) sum_diagonals(p.keys, at, dp, table + at.h % group * diagonals);
          if (space.slopes) scale_rows(at.keys, at.width, space.slopes, dp);
          sum_over_queries(at, space.scores, x.dy, v_cols, sum_v + j * v_cols);
          sum_over_queries(at, dp, x.q, k_cols, sum_k + j * k_cols);
          sum_over_keys(at, dp, k + j * k_cols, k_cols, x.dq);
        }

      for (int64_t t = 0; t < count; ++t) {
        const Place& at = query[t].at;
        store_rows(query[t].dq, k_cols, at.queries, p.head_dim, scales, dq.at(at.b, at.h, at.first_query), dq.stride[2]);
      }
    }
    if (chunks == 1)
      for (int64_t j = 0; j < p.keys; j += tile) store_keys(head, j, sum_k + j * k_cols, sum_v + j * v_cols);
  });
  if (drelative)
    for (int64_t h = 0; h < p.heads; ++h) {
      A* const sum = drelative + h * diagonals;
      clear(diagonals, sum);
      for (int64_t b = 0; b < p.batch; ++b)
        for (int64_t c = 0; c < chunks; ++c) {
          const A* const table = tables + (((b * p.kv_heads + h / group) * chunks + c) * group + h % group) * diagonals;
          add(diagonals, table, sum);
        }
    }
  if (chunks == 1) return;

  const int64_t key_tiles = keys / tile;
  each_task<A>(heads * key_tiles, 0, worth_threads(p), [&](int64_t task, Arena<A>) {
    const int64_t head = task / key_tiles, j = task % key_tiles * tile;
    A* const sum_k = shares + head * chunks * share + j * k_cols;
    A* const sum_v = shares + head * chunks * share + keys * k_cols + j * v_cols;
    for (int64_t c = 1; c < chunks; ++c) {
      add(tile * k_cols, sum_k + c * share, sum_k);
      add(tile * v_cols, sum_v + c * share, sum_v);
    }
    store_keys(head, j, sum_k, sum_v);
  });
}

template <class T> Rows<const T> rows_of(const Tensor& x) {
  return {x.device().is_meta() ? nullptr : x.data<T>(), {x.strides()[0], x.strides()[1], x.strides()[2]}};
}
template <class T> Rows<T> output_rows(Tensor& x) {
  return {x.device().is_meta() ? nullptr : x.mutable_data<T>(), {x.strides()[0], x.strides()[1], x.strides()[2]}};
}
template <class T>
Problem<T> problem(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionTensors& tensors, const AttentionOptions& options) {
  Problem<T> p{q.shape()[0], q.shape()[1],  k.shape()[1],  q.shape()[2],  k.shape()[2], q.shape()[3],
               v.shape()[3], rows_of<T>(q), rows_of<T>(k), rows_of<T>(v), options,      q.device().is_meta()};
  p.all_queries = p.queries, p.all_keys = p.keys;
  const Tensor& mask = tensors.mask;
  if (mask && !p.meta) {
    p.mask.dtype = mask.dtype();
    switch (mask.dtype()) {
      case DType::f64: p.mask.data = mask.data<double>(); break;
      case DType::f32: p.mask.data = mask.data<float>(); break;
      case DType::f16: p.mask.data = mask.data<f16>(); break;
      case DType::bf16: p.mask.data = mask.data<bf16>(); break;
      case DType::u8: p.mask.data = mask.data<uint8_t>(); break;
      case DType::boolean: p.mask.data = mask.data<bool>(); break;
      default: detail::unsupported_dtype("attention", mask.dtype());
    }
    for (int i = 0; i < 4; ++i) p.mask.stride[i] = mask.strides()[i];
  }
  if (tensors.blocks && !p.meta) {
    const Shape& s = tensors.blocks.shape();
    p.blocks = {tensors.blocks.data<bool>(), s[2], s[0] == 1 ? 0 : s[1] * s[2]};
  }
  return p;
}

// The table of p.relative; a tile reads some elements behind it.
template <class T> struct RelativeTable {
  using A = compute_t<T>;
  int64_t size, row;
  Scratch<A> space;
  RelativeTable(Problem<T>& p, const Tensor& relative)
      : size(max_of(int64_t{0}, p.queries + p.keys - 1)), row(size + tile), space(relative && !p.meta ? p.heads * row : 0) {
    if (!relative) return;
    if (p.meta) {
      count_meta_scratch(bytes_of<A>(p.heads * row));
      return;
    }
    const A* const from = relative.data<A>();
    for (int64_t h = 0; h < p.heads; ++h) {
      clear<A>(row, space + h * row);
      add_reversed<A>(size, from + h * size, space + h * row);
    }
    p.relative = space, p.table_size = row;
  }
};

template <class T> void refuse_masked_rows(const Problem<T>& p, const compute_t<T>* statistics, int64_t sequence) {
  for (int64_t b = 0; b < p.batch; ++b)
    for (int64_t h = 0; h < p.heads; ++h) {
      const RowStatistics<const compute_t<T>> row(p, statistics, place(p, b, h, 0, 0));
      for (int64_t i = 0; i < p.queries; ++i)
        if (row.sum[i] == 0) detail::masked_row(b + sequence, h, i, p.keys);
    }
}

// f(problem, its number) for each packed sequence, or once if there are none.
template <class T, class F> void each_sequence(const Problem<T>& p, const AttentionTensors& tensors, const F& f) {
  if (!tensors.cu_q || p.meta) return f(p, 0);
  const int64_t *const queries = tensors.cu_q.data<int64_t>(), *const keys = tensors.cu_k.data<int64_t>();
  for (int64_t n = 0; n + 1 < tensors.cu_q.numel(); ++n) {
    Problem<T> one = p;
    one.before_queries = queries[n], one.before_keys = keys[n];
    one.queries = queries[n + 1] - queries[n], one.keys = keys[n + 1] - keys[n];
    one.q = p.q.from(queries[n]), one.k = p.k.from(keys[n]), one.v = p.v.from(keys[n]);
    f(one, n);
  }
}

}  // namespace

// On meta both kernels only count the scratch memory that they would take.

// q (B, Hq, T, D), k (B, Hkv, S, D), v (B, Hkv, S, Dv), y (B, Hq, T, Dv): last dimension contiguous. statistics (B, Hq, 2, T)
// contiguous, f32, or f64 if q is: see RowStatistics.
void attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionTensors& tensors, const AttentionOptions& options,
               Tensor& y, Tensor& statistics) {
  with_floating("attention", q.dtype(), [&](auto type) {
    using T = decltype(type);
    Problem<T> all = problem<T>(q, k, v, tensors, options);
    const RelativeTable<T> table(all, tensors.relative);
    const Rows<T> out = output_rows<T>(y);
    compute_t<T>* const rows = all.meta ? nullptr : statistics.mutable_data<compute_t<T>>();
    each_sequence(all, tensors, [&](const Problem<T>& p, int64_t sequence) {
      const bool one = p.queries == 1 && p.keys > 0 && !tensors.mask && !tensors.blocks && options.sinks == 0 && options.dropout == 0;
      (one ? forward_one<T> : forward<T>)(p, out.from(p.before_queries), rows);
      if (options.refuse_masked_rows && !p.meta && p.keys > 0) refuse_masked_rows(p, rows, sequence);
    });
  });
}

// dq, dk, dv: shapes of q, k, v, last dimension contiguous. drelative: that of tensors.relative, or undefined.
void attention_backward(const Tensor& dy, const Tensor& q, const Tensor& k, const Tensor& v, const AttentionTensors& tensors,
                        const Tensor& y, const Tensor& statistics, const AttentionOptions& options, Tensor& dq, Tensor& dk, Tensor& dv,
                        Tensor& drelative) {
  with_floating("attention_backward", q.dtype(), [&](auto type) {
    using T = decltype(type);
    using A = compute_t<T>;
    Problem<T> all = problem<T>(q, k, v, tensors, options);
    const RelativeTable<T> table(all, tensors.relative);
    const Rows<const T> out = rows_of<T>(y), d = rows_of<T>(dy);
    const Rows<T> to_q = output_rows<T>(dq), to_k = output_rows<T>(dk), to_v = output_rows<T>(dv);
    const A* const rows = all.meta ? nullptr : statistics.data<A>();
    const Scratch<A> sums(drelative && !all.meta ? all.heads * (all.queries + all.keys) : 0);
    A* const relative = drelative && !all.meta ? drelative.mutable_data<A>() : nullptr;
    if (relative) clear(drelative.numel(), relative);
    each_sequence(all, tensors, [&](const Problem<T>& p, int64_t) {
      const int64_t diagonals = p.queries + p.keys;
      if (relative) clear<A>(p.heads * diagonals, sums);  // where there is no head of k there is nothing to sum
      backward(p, out.from(p.before_queries), d.from(p.before_queries), rows, to_q.from(p.before_queries), to_k.from(p.before_keys),
               to_v.from(p.before_keys), drelative ? static_cast<A*>(sums) : nullptr);
      if (relative)
        for (int64_t h = 0; h < p.heads && diagonals > 0; ++h)
          add_reversed<A>(diagonals - 1, sums + h * diagonals, relative + h * table.size + p.all_queries - p.queries);
    });
  });
}

}  // namespace retape::RETAPE_LEVEL
