// The ways to save memory that must not change a bit. What they have in common is tested for every op and every layer.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include <retape/retape.h>

namespace retape::testing {

using Loss = std::function<Tensor()>;
struct Policy {
  std::string name;
  std::function<void(const Loss&)> differentiate;  // runs the function and its backward
};

inline const Policy keep_everything{"keep everything", [](const Loss& f) { backward(f()); }};

inline std::vector<Policy> lossless_policies() {
  constexpr CheckpointOptions cheap{.recompute = Recompute::cheap};
  constexpr int64_t least = MemoryBudget::least;
  return {
      {"checkpoint", [](const Loss& f) { backward(checkpoint(f)); }},
      {"checkpoint of cheap ops", [=](const Loss& f) { backward(checkpoint(cheap, f)); }},
      {"nested checkpoints",
       [=](const Loss& f) { backward(checkpoint([&] { return checkpoint(cheap, [&] { return checkpoint(f); }); })); }},
      {"budget",
       [](const Loss& f) {
         const MemoryBudget guard(least);
         backward(f());
       }},
      {"budget, spilled",
       [](const Loss& f) {
         const MemoryBudget guard(least, {.evict = Evict::spill});
         backward(f());
       }},
      {"checkpoint under a budget",
       [](const Loss& f) {
         const MemoryBudget guard(least);
         backward(checkpoint(f));
       }},
      {"checkpoint of cheap ops under a budget, spilled",
       [=](const Loss& f) {
         const MemoryBudget guard(least, {.evict = Evict::spill});
         backward(checkpoint(cheap, f));
       }},
      {"backward after the budget",
       [](const Loss& f) {
         Tensor y;
         {
           const MemoryBudget guard(least);
           y = f();
         }
         backward(y);
       }},
  };
}

}  // namespace retape::testing
