// Kernels with known mistakes.
#pragma once
#include <string>

/// Runs the kernel with the mistake of that name, or for "none" all kernels without theirs. False if there is none of that name.
bool run_mistake(const std::string& name);
