// The one exception type. Message form: `op: what is wrong, with both values; what would be right`.
#pragma once
#include <stdexcept>
#include <string>

namespace retape {

/// Thrown for every misuse and failure. Where a module is running, its path is appended: `... (in blocks.2.attn.out)`.
struct Error : std::runtime_error {
  explicit Error(const std::string& what);
};

/// Set by nn: gives the path of the module that runs on this thread, or "".
inline std::string (*module_path_hook)() = nullptr;

}  // namespace retape
