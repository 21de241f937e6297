// Who holds the memory: what an out-of-memory Error says, for the allocator and for memory budgets.
#pragma once
#include <atomic>
#include <cstdint>
#include <string>

#include <retape/core/context.h>
#include <retape/core/device.h>

namespace retape {

// The name of a module below the one that ran it. There is one object for every path that ever ran, and it stays, so that a node
// keeps a path in one pointer.
struct ModulePath {
  const ModulePath* outer = nullptr;  // null: a module that nobody's forward has called
  std::string name;
};
/// Names from the outermost module to this one, such as `transformer.h.3.attn`; "" for null and for an outermost module.
std::string to_string(const ModulePath* path);

namespace detail {

/// What all optimizers' states on a device take.
std::atomic<int64_t>& optimizer_bytes(Device device);

/// The op that runs on this thread and its module, as `softmax (in transformer.h.3.attn)`; "" outside of ops.
std::string running_op();
/// A number of bytes for messages: `512.0 MiB`.
std::string size_text(int64_t bytes);
/// What the tensors in use on a device are: activations by module, parameters, gradients, optimizer state. Looks at the graph of the op, checkpoint and backward passes that run on this thread; what cannot be reached from there is
/// counted as other tensors.
std::string memory_holders(Device device);
/// The same, and what would free `bytes` at the least cost.
std::string memory_report(Device device, int64_t bytes);
/// The message of the Error when `bytes` cannot be allocated.
std::string out_of_memory(Device device, int64_t bytes);

}  // namespace detail
}  // namespace retape
