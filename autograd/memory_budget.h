// A limit in bytes for tensor memory: values that the tape alone owns go when room is needed, and come back when backward reads them.
#pragma once
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>

#include <retape/core/context.h>
#include <retape/core/device.h>

namespace retape {

/// Where a value goes that has to leave memory.
enum class Evict : uint8_t {
  recompute,  ///< nowhere: its op runs again. Of all candidates the one with the least cost / (bytes x staleness) goes, where the cost is the time
              ///< that the ops took which would have to run. Bit-exact.
  spill,  ///< into an unnamed file, or, from a CUDA device, into page-locked memory of the host; the one longest unused goes. Bit-exact.
  bf16  ///< f32 values are kept in half the memory, rounded to bf16, relative error 2^-9 at most; the one longest unused goes. The forward's
        ///< results stay what they are; gradients are those of a program whose saved values were rounded
};

struct MemoryBudgetOptions {
  Evict evict = Evict::recompute;
  Device device = Device::cpu();            ///< whose memory is limited; guards of several devices may be nested
  std::filesystem::path spill_folder = {};  ///< for the file of Evict::spill; default: the system's folder for temporary files
};

/// While it lives, the tensors of this process never hold more than `bytes` of a device (memory_stats(device).live), in forward and backward, gradients
/// and optimizer state counted: under pressure values leave memory that this thread recorded under a budget and that nobody but the
/// tape owns. Nothing has to be marked, the graph may differ each time, and no user code runs twice. It should enclose forward and backward;
/// a backward that runs later, without it, brings back what it reads and is not limited. Of nested guards of a device the smallest limit holds, and
/// the inner one says where values go. What kernels take for each of their threads (at most some hundred KB) is not limited.
/// Throws Error if more is in use already; ops throw Error, with their name, if what they need does not fit even when all has left that can.
/// After such an Error all values are still what they were. Kirisame et al. 2021 (dynamic tensor rematerialization).
class MemoryBudget {
 public:
  /// Instead of a number: no limit, but every value leaves as soon as the tape alone owns it.
  static constexpr int64_t least = std::numeric_limits<int64_t>::min();

  explicit MemoryBudget(int64_t bytes, MemoryBudgetOptions options = {});
  ~MemoryBudget();
  MemoryBudget(const MemoryBudget&) = delete;
  MemoryBudget& operator=(const MemoryBudget&) = delete;

 private:
  std::unique_ptr<Budget> budget_;
  Scoped<Budget*> scope_;
  Scoped<detail::MakeRoom> hook_;
};

}  // namespace retape
