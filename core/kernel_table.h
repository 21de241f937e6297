// The kernels of one backend as a table of functions. Every backend fills one from core/kernel_list.inc.
#pragma once
#include <retape/core/kernel_args.h>

namespace retape {

struct Kernels {
#define RETAPE_KERNEL(name, ...) void (*name)(__VA_ARGS__);
#include <retape/core/kernel_list.inc>
};

}  // namespace retape
