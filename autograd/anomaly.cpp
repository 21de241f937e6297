#include <retape/autograd/anomaly.h>

#include <fmt/format.h>

#include <retape/autograd/binary.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/unary.h>

namespace retape::detail {
namespace {

struct Off {  // what looks is not looked at
  NoGrad no_grad;
  Scoped<bool> detecting{detecting_anomalies, false};
  Scoped<Region*> region{ctx.region, nullptr};
  Scoped<bool> inside{ctx.inside_forward, false}, differentiating{ctx.differentiating, false};
};

bool has_values(const Tensor& t) { return t && !t.device().is_meta() && is_floating(t.dtype()) && t.numel() > 0; }
int64_t count(const Tensor& mask) { return count_nonzero(mask).item<int64_t>(); }
bool is_finite(const Tensor& t) { return !has_values(t) || all(isfinite(t.detach())).item<bool>(); }
std::string text(const Tensor& t) { return fmt::format("{} {} on {}", name_of(t.dtype()), t.shape().str(), t.device().str()); }

}  // namespace

void check_results(const char* op, const Tensor* const* in, int n, const std::vector<Tensor>& out) {
  const Off off;
  for (const Tensor& y : out) {
    if (!has_values(y)) continue;
    const bool overflows = y.dtype() == DType::f16;
    const int64_t bad = count(overflows ? logical_not(isfinite(y.detach())) : isnan(y.detach()));
    if (!bad) continue;
    std::string inputs;
    for (int i = 0; i < n; ++i) {
      if (!*in[i]) continue;
      if (!is_finite(*in[i])) return;  // it has not begun here
      inputs += fmt::format("{}{}", inputs.empty() ? "" : ", ", text(*in[i]));
    }
    const std::string where = ctx.current ? fmt::format("{}, in the backward of {}", op, ctx.current->name()) : op;
    throw Error(fmt::format("{}: {} of the {} values of its result ({}) are {}, though its inputs ({}) are finite{}", where, bad, y.numel(),
                            text(y), overflows ? "inf or nan" : "nan", inputs,
                            overflows ? "; f16 ends at 65504: compute this in f32 or bf16" : ""));
  }
}

void check_gradient(const char* op, const std::vector<Tensor>& dy, const Tensor& dx) {
  const Off off;
  if (!has_values(dx)) return;
  const int64_t bad = count(isnan(dx.detach()));
  if (!bad) return;
  for (const Tensor& d : dy)
    if (!is_finite(d)) return;
  throw Error(fmt::format("backward of {}: {} of the {} values of a gradient ({}) are nan, though it was given finite ones", op, bad,
                          dx.numel(), text(dx)));
}

}  // namespace retape::detail
