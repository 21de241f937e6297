// The parts of a dataset.
#pragma once
#include <cstdint>

namespace retape {

/// What is trained on, and what is held back to validate. A dataset's test part stands for `val` where it has no other.
enum class Split : uint8_t { train, val };

}  // namespace retape
