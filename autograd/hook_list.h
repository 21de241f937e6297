// The hooks of one tensor. Private to autograd's sources.
#pragma once
#include <vector>

#include <retape/autograd/hooks.h>

namespace retape::detail {

struct HookList final : Object {
  struct Entry {
    uint64_t id;
    GradientHook hook;
  };
  std::vector<Entry> entries;
  uint64_t next_id = 0;
  void destroy() noexcept override { delete this; }
};

/// What the hooks make of dy. Throws Error naming `owner`.
Tensor call_hooks(const Ref<Object>& hooks, const Tensor& dy, const char* owner);

}  // namespace retape::detail
