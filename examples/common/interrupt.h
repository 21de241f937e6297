// Ctrl-C asks a trainer to stop at the end of its step.
#pragma once
#include <csignal>

namespace retape::examples {

/// While it lives, the first SIGINT or SIGTERM only sets a flag; a second one ends the program at once. A signal that is
/// ignored, as under nohup, stays ignored. At most one lives at a time; the destructor restores what was before.
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
  struct sigaction old_interrupt_, old_terminate_;
};

}  // namespace retape::examples
