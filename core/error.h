// The one exception type. Message form: `op: what is wrong, with both values; what would be right`.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>

namespace retape {

struct Device;

/// Thrown for every misuse and failure. Where a module is running, its path is appended: `... (in blocks.2.attn.out)`.
struct Error : std::runtime_error {
  explicit Error(const std::string& what);
};

/// Set by nn: gives the path of the module that runs on this thread, or "".
inline std::string (*module_path_hook)() = nullptr;

/// Set by autograd: what to say when `bytes` cannot be allocated.
inline std::string (*out_of_memory_hook)(Device device, int64_t bytes) = nullptr;

}  // namespace retape
