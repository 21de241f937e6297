// What kernels take besides tensors.
#pragma once
#include <vector>

#include <retape/core/binary_ops.h>
#include <retape/core/philox.h>
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
// What one optimizer step needs of one parameter. All contiguous; `state` has the update rule's own tensors.
struct OptimizerSlot {
  Tensor value, grad;
  Tensor state[2];
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
