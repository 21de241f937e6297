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

struct AttentionOptions {
  double scale = 1;
  bool causal = false;
  double dropout = 0;
  RandomState random = {};
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

}  // namespace retape
