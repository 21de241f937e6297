// What a fuzz target finds wrong ends the program.
#pragma once
#include <cstdlib>

inline void require(bool condition) {
  if (!condition) std::abort();
}
