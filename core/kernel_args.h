// What kernels take besides tensors.
#pragma once
#include <vector>

#include <retape/core/binary_ops.h>
#include <retape/core/philox.h>
#include <retape/core/pointwise_ops.h>
#include <retape/core/tensor.h>
#include <retape/core/unary_ops.h>

namespace retape {

enum class ReduceKind : uint8_t { sum, prod, max, min };
enum class ArgKind : uint8_t { max, min };
enum class ScanKind : uint8_t { sum, prod, logsumexp };
enum class PutKind : uint8_t { replace, add, multiply, max, min };  // y = x, y += x, ...; the last one replaces, nan wins

// Query i stands at position i + offset, and sees the keys from its position - left to its position + right, and from the first `sinks` on.
struct AttentionOptions {
  static constexpr int64_t unlimited = int64_t{1} << 40;
  double scale = 1;
  int64_t left = unlimited, right = unlimited, offset = 0, sinks = 0;
  int64_t block_size = 0;
  double softcap = 0;  // 0: none
  double dropout = 0;
  RandomState random = {};
  int64_t longest_queries = 0, longest_keys = 0;  // of packed sequences; no sequence has more
  bool refuse_masked_rows = false;                // a query that has keys and sees none is an error; else it gets 0
};
// What attention may take besides q, k and v; each may be undefined.
struct AttentionTensors {
  Tensor mask;        // (B, Hq, T, S), any strides: bool, or added to the scores
  Tensor relative;    // (Hq, T + S - 1) contiguous, of the kernel's own dtype: added to the score of query i and key j is [j - i + T - 1]
  Tensor blocks;      // bool (1 or Hq, blocks of positions of queries, blocks of keys) contiguous: false hides
  Tensor cu_q, cu_k;  // i64 (N + 1) contiguous: where sequence n begins in T and in S; B is 1, and positions count from there
};

struct AdamWArgs {
  double lr, beta1, beta2, eps, weight_decay;
  bool decoupled;  // AdamW: decay the weight itself; Adam: add the decay to the gradient
  bool maximize;
  bool eps_inside = false;           // eps is added before the bias correction of the second moment, as SparseAdam does
  const AdamWArgs* later = nullptr;  // null, or, in a captured CUDA graph, where on the device the arguments are read from at each launch
};
struct SGDArgs {
  double lr, momentum, dampening, weight_decay;
  bool nesterov, maximize;
  const SGDArgs* later = nullptr;
};
struct AdagradArgs {
  double lr, lr_decay, weight_decay, eps;
  bool maximize;
  const AdagradArgs* later = nullptr;
};
// What a step does to each element; the structs of core/update_rules.h, by kind.
#define RETAPE_UPDATE_RULES(X)   \
  X(amsgrad, AMSGrad)            \
  X(nadam, NAdam)                \
  X(radam, RAdam)                \
  X(adamax, Adamax)              \
  X(adadelta, Adadelta)          \
  X(rmsprop, RMSprop)            \
  X(rprop, Rprop)                \
  X(asgd, ASGD)                  \
  X(lion, Lion)                  \
  X(schedule_free, ScheduleFree) \
  X(lamb, LambDirection)         \
  X(lars, Lars)                  \
  X(adafactor, AdafactorStep)    \
  X(muon, MuonMomentum)          \
  X(scaled_step, ScaledStep)     \
  X(lookahead, Lookahead)        \
  X(average, RunningAverage)     \
  X(sam_ascent, SamAscent)       \
  X(move_toward, MoveToward)
#define RETAPE_X(kind, ...) kind,
enum class UpdateKind : uint8_t { RETAPE_UPDATE_RULES(RETAPE_X) };
#undef RETAPE_X
// The numbers of all rules: each reads those that it names.
struct UpdateArgs {
  double lr = 0, beta1 = 0, beta2 = 0, eps = 0, weight_decay = 0;
  double other[3] = {};  // what one rule alone has, in the order of its comment
  bool decoupled = false, maximize = false, option = false;
  const UpdateArgs* later = nullptr;
};
// What one optimizer step needs of one parameter. All contiguous; `state` has the update rule's own tensors.
struct OptimizerSlot {
  Tensor value, grad;
  Tensor state[4];
  Tensor step;  // i64, no dims: updates so far; the kernel counts this one. On the device, which alone knows whether a step is skipped
};
// A window that moves over an image of up to 3 dims of space, (depth, height, width); those that are missing are of size 1. Window o begins at
// o * stride - padding, and its elements are `dilation` apart. A kernel of 0 stands for windows of varying size that part the image evenly:
// [floor(o in / out), ceil((o + 1) in / out)).
struct WindowArgs {
  int64_t in[3], out[3], kernel[3], stride[3], padding[3], dilation[3];
  RETAPE_HD int64_t places_in() const { return in[0] * in[1] * in[2]; }
  RETAPE_HD int64_t places_out() const { return out[0] * out[1] * out[2]; }
  RETAPE_HD int64_t elements() const { return kernel[0] * kernel[1] * kernel[2]; }
};
// How regions of images become bins of a fixed number, in rows and columns. A box is (image, x1, y1, x2, y2) in units of 1 / scale pixels.
struct RegionArgs {
  int64_t in[2], out[2];
  double scale;
  // Of means: a bin is that of samples between pixels, `ratio` in each dim, or if that is not positive, one a pixel; or that of whole pixels. Samples
  // of an aligned box are half a pixel up and left, and other boxes have at least a pixel.
  bool whole_pixels = false, aligned = false;
  int64_t ratio = 0;
};
// What a mean over a window divides by: divisor if it is not 0, else the window's elements inside the image or, if count_padding, also
// those in its padding.
struct AvgPoolArgs {
  int64_t divisor = 0;
  bool count_padding = true;
};
// Which places of an image, of up to 3 dims of space as above, an element of the result is made of in each dim: one, two, or four.
enum class InterpolationKind : uint8_t { nearest, nearest_exact, linear, cubic };
struct InterpolateArgs {
  InterpolationKind kind;
  bool align_corners;
  int64_t in[3], out[3];
  double scale[3];  // how many places of the image a place of the result is from the next
};
// How values between the places of an image come about, and what is outside of it.
enum class GridSampleMode : uint8_t { bilinear, nearest, bicubic };
enum class GridSamplePadding : uint8_t { zeros, border, reflection };
struct GridSampleArgs {
  GridSampleMode mode;
  GridSamplePadding padding;
  bool align_corners;
  int64_t in[3], out[3];
  RETAPE_HD int64_t places_in() const { return in[0] * in[1] * in[2]; }
  RETAPE_HD int64_t places_out() const { return out[0] * out[1] * out[2]; }
};
// How a loss scale follows what the gradients were.
struct LossScaleArgs {
  double growth_factor, backoff_factor;
  int64_t growth_interval;  // successful steps until the scale grows
};
// Windows of words; window w has the ids contexts[context_begin[w]] ... below context_begin[w + 1], and so its targets with a label each, 1 or
// 0. All contiguous; labels f32, the others i32.
struct Word2VecWindows {
  Tensor contexts, context_begin, targets, target_begin, labels;
};

enum class RecurrentKind : uint8_t { tanh, relu, lstm, gru };
// One direction of a recurrent layer over T steps of B sequences: H units, and R outputs, H or those of a projection. All contiguous but
// dgates, whose rows may have gaps. The CPU's kernels take f32 and f64. What is kept for backward:
//
//   gates (T, B, gates * H): come in as projections of x and become what the gates are: i, f, g, o of an LSTM, r, z, n of a GRU
//   cells (T, B, H): an LSTM's, f32 for half types; they stay as they were where a sequence has ended, or not begun
//   extra (T, B, H): what a projection takes, or a GRU's w_hn h + b_hn; undefined where there is neither
//   y (T, B, R), 0 behind the end of a sequence; h_n (B, R), c_n (B, H)
//   dgates (T, B, gates * H) before the gates' functions; of a GRU (T, B, 4 H): n, r, z, and w_hn h + b_hn
//   dprojected (T, B, R): with a projection, the gradient of what it makes, whichever way that goes on
struct RecurrentLayer {
  RecurrentKind kind;
  bool reverse;    // from the last step to the first, each sequence from its own last step
  Tensor w_hh;     // (gates * H, R)
  Tensor b_hn;     // (H): a GRU's, or undefined
  Tensor w_hr;     // (R, H): an LSTM's projection, or undefined
  Tensor h0, c0;   // (B, R), (B, H), or undefined: 0
  Tensor lengths;  // i64 (B), or undefined: T
};

/// How many steps of a sequence go between two states that are kept for backward.
constexpr int64_t recurrence_chunk = 64;
// What a selective scan reads, or the gradients of that: B sequences of T steps of D channels, N numbers of state each. All contiguous. The first
// five have one floating dtype; the others are f32 if that is a half type, else of it, too.
struct SelectiveScanArgs {
  Tensor u, delta;          // (B, T, D)
  Tensor b, c;              // (B, T, G, N), one each for D / G neighbouring channels
  Tensor z;                 // (B, T, D), or undefined: no gate
  Tensor a;                 // (D, N)
  Tensor skip, delta_bias;  // (D), or undefined: 0
  Tensor initial;           // (B, D, N), or undefined: 0
  bool delta_softplus = false;
};

// What RWKV's average reads, or the gradients of that: all contiguous; k and v have one floating dtype, the others are f32 if that is a
// half type, else of it, too.
struct WkvArgs {
  Tensor k, v;                              // (B, T, C)
  Tensor decay, first;                      // (C)
  Tensor numerator, denominator, exponent;  // (B, C): the state before the first step, or all undefined
};

}  // namespace retape
