// What a thread is doing, in one trivially initialised object, so that asking is one instruction. The pointers belong to
// autograd and nn; core only carries them.
#pragma once
#include <cstdint>
#include <memory>
#include <type_traits>

namespace retape {

struct Node;
struct Pass;
struct Region;
struct Replayed;
struct ModuleScope;
struct ModulePath;
struct SavedHookPair;
struct Budget;
struct Autocast;
namespace cuda {
struct Capture;
}

struct Context {
  bool recording = true;         // ops on values that want gradients are put on the tape
  bool inside_forward = false;   // an op's forward runs: ops called now are plain calls
  bool differentiating = false;  // a backward that is itself recorded
  bool burying = false;
  bool ranges = false;                // ops and modules tell profilers where they begin and end
  const char* op = nullptr;           // whose forward or backward runs, for messages
  Node* current = nullptr;            // whose forward or backward runs: what save() and *saved refer to
  Replayed* replay = nullptr;         // set while a node's forward is run again
  Region* region = nullptr;           // innermost checkpoint
  Budget* budget = nullptr;           // innermost memory budget
  Autocast* autocast = nullptr;       // innermost autocast region; null: none, or switched off
  cuda::Capture* capture = nullptr;   // the CUDA graph that this thread captures
  Pass* pass = nullptr;               // innermost running backward
  ModuleScope* module = nullptr;      // innermost running module
  const ModulePath* where = nullptr;  // that module's path; in backward, that of the module which recorded the node
  const std::shared_ptr<SavedHookPair>* saved_hooks = nullptr;  // innermost pack and unpack hooks
  uint64_t clock = 0;                                           // a Lamport clock: at least the sequence of every node this thread has seen
  Node* dead = nullptr;                                         // nodes waiting to be freed without recursion
};
inline thread_local constinit Context ctx{};

/// Sets a variable for a scope.
template <class T> struct Scoped {
  T& variable;
  T before;
  Scoped(T& v, std::type_identity_t<T> value) : variable(v), before(v) { v = value; }
  ~Scoped() { variable = before; }
  Scoped(const Scoped&) = delete;
};

}  // namespace retape
