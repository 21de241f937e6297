// Pooling as modules; autograd/pool.h says what each does and what it throws.
#pragma once
#include <retape/autograd/pool.h>
#include <retape/nn/module.h>

namespace retape::nn {

#define RETAPE_POOLS(rank)                                                                                                         \
  /** torch: nn.MaxPool1d, ... The second form of forward, with_indices(), also says where the largest elements were. */           \
  struct MaxPool##rank##d : Module {                                                                                               \
    PerDim kernel_size;                                                                                                            \
    MaxPoolOptions options;                                                                                                        \
    explicit MaxPool##rank##d(PerDim kernel, MaxPoolOptions o = {}) : kernel_size(std::move(kernel)), options(std::move(o)) {}     \
    Tensor forward(const Tensor& x) const { return max_pool##rank##d(x, kernel_size, options); }                                   \
    Pooled with_indices(const Tensor& x) const { return max_pool##rank##d_with_indices(x, kernel_size, options); }                 \
    RETAPE_FIELDS()                                                                                                                \
  };                                                                                                                               \
  /** torch: nn.MaxUnpool1d, ... */                                                                                                \
  struct MaxUnpool##rank##d : Module {                                                                                             \
    PerDim kernel_size;                                                                                                            \
    MaxUnpoolOptions options;                                                                                                      \
    explicit MaxUnpool##rank##d(PerDim kernel, MaxUnpoolOptions o = {}) : kernel_size(std::move(kernel)), options(std::move(o)) {} \
    Tensor forward(const Tensor& x, const Tensor& indices) const { return max_unpool##rank##d(x, indices, kernel_size, options); } \
    RETAPE_FIELDS()                                                                                                                \
  };                                                                                                                               \
  /** torch: nn.AvgPool1d, ... */                                                                                                  \
  struct AvgPool##rank##d : Module {                                                                                               \
    PerDim kernel_size;                                                                                                            \
    AvgPoolOptions options;                                                                                                        \
    explicit AvgPool##rank##d(PerDim kernel, AvgPoolOptions o = {}) : kernel_size(std::move(kernel)), options(std::move(o)) {}     \
    Tensor forward(const Tensor& x) const { return avg_pool##rank##d(x, kernel_size, options); }                                   \
    RETAPE_FIELDS()                                                                                                                \
  };                                                                                                                               \
  /** torch: nn.LPPool1d, ... */                                                                                                   \
  struct LPPool##rank##d : Module {                                                                                                \
    double norm_type;                                                                                                              \
    PerDim kernel_size;                                                                                                            \
    LpPoolOptions options;                                                                                                         \
    LPPool##rank##d(double p, PerDim kernel, LpPoolOptions o = {})                                                                 \
        : norm_type(p), kernel_size(std::move(kernel)), options(std::move(o)) {}                                                   \
    Tensor forward(const Tensor& x) const { return lp_pool##rank##d(x, norm_type, kernel_size, options); }                         \
    RETAPE_FIELDS()                                                                                                                \
  };                                                                                                                               \
  /** torch: nn.AdaptiveAvgPool1d, ... */                                                                                          \
  struct AdaptiveAvgPool##rank##d : Module {                                                                                       \
    PerDim output_size;                                                                                                            \
    explicit AdaptiveAvgPool##rank##d(PerDim size) : output_size(std::move(size)) {}                                               \
    Tensor forward(const Tensor& x) const { return adaptive_avg_pool##rank##d(x, output_size); }                                   \
    RETAPE_FIELDS()                                                                                                                \
  };                                                                                                                               \
  /** torch: nn.AdaptiveMaxPool1d, ... */                                                                                          \
  struct AdaptiveMaxPool##rank##d : Module {                                                                                       \
    PerDim output_size;                                                                                                            \
    explicit AdaptiveMaxPool##rank##d(PerDim size) : output_size(std::move(size)) {}                                               \
    Tensor forward(const Tensor& x) const { return adaptive_max_pool##rank##d(x, output_size); }                                   \
    Pooled with_indices(const Tensor& x) const { return adaptive_max_pool##rank##d_with_indices(x, output_size); }                 \
    RETAPE_FIELDS()                                                                                                                \
  };
RETAPE_POOLS(1)
RETAPE_POOLS(2)
RETAPE_POOLS(3)
#undef RETAPE_POOLS

}  // namespace retape::nn
