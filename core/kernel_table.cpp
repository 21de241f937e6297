// This level's table of kernels.
#include <retape/core/kernel.h>
#include <retape/core/kernel_table.h>

namespace retape::RETAPE_LEVEL {

extern constinit const Kernels kernels;
constinit const Kernels kernels = {
#define RETAPE_KERNEL(name, ...) name,
#include <retape/core/kernel_list.inc>
};

}  // namespace retape::RETAPE_LEVEL
