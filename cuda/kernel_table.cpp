// The table of CUDA kernels: one that is missing is a link error.
#include <retape/core/kernel_table.h>

namespace retape::cuda {

#define RETAPE_KERNEL(name, ...) void name(__VA_ARGS__);
#include <retape/core/kernel_list.inc>

extern const Kernels kernels;
const Kernels kernels = {
#define RETAPE_KERNEL(name, ...) name,
#include <retape/core/kernel_list.inc>
};

}  // namespace retape::cuda
