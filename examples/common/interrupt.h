// Ctrl-C asks a trainer to stop at the end of its step.
#pragma once
#include <csignal>
#include <vector>

namespace retape::examples {

/// While it lives, the first SIGINT or SIGTERM only sets a flag; a second one ends the program at once. A signal that is
/// ignored, as under nohup, stays ignored. At most one lives at a time; the destructor restores what was before.
///
/// The thread that makes it, a program's first one, gets an alternate stack for handlers: oneDNN's GEMM kernels keep an address in the
/// middle of a matrix in the stack pointer, below which a handler on the usual stack would write (oneDNN's issue 4845).
///
///     InterruptGuard interrupt;
///     while (step < steps && !interrupt.requested()) { ... }
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  /// Whether the user wants the program to end. Stays true.
  bool requested() const;

 private:
  std::vector<char> stack_;
  stack_t old_stack_;
  struct sigaction old_interrupt_, old_terminate_;
};

}  // namespace retape::examples
