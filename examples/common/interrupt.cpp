#include <examples/common/interrupt.h>

#include <atomic>

#include <signal.h>

namespace retape::examples {
namespace {

std::atomic<bool> stop_requested{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may use it");

void handle(int number) {
  if (!stop_requested.exchange(true)) return;
  ::signal(number, SIG_DFL);
  ::raise(number);  // blocked here; ends the program when this handler returns
}

void install(int number, struct sigaction& old) {
  struct sigaction action = {};
  action.sa_handler = handle;
  action.sa_flags = SA_RESTART | SA_ONSTACK;  // a write that is under way goes on
  sigemptyset(&action.sa_mask);
  ::sigaction(number, nullptr, &old);
  if (old.sa_handler != SIG_IGN) ::sigaction(number, &action, nullptr);
}

}  // namespace

InterruptGuard::InterruptGuard() : stack_(64 << 10) {
  stack_t stack = {};
  stack.ss_sp = stack_.data(), stack.ss_size = stack_.size();
  ::sigaltstack(&stack, &old_stack_);
  stop_requested = false;
  install(SIGINT, old_interrupt_);
  install(SIGTERM, old_terminate_);
}

InterruptGuard::~InterruptGuard() {
  ::sigaction(SIGINT, &old_interrupt_, nullptr);
  ::sigaction(SIGTERM, &old_terminate_, nullptr);
  ::sigaltstack(&old_stack_, nullptr);
}

bool InterruptGuard::requested() const { return stop_requested; }

}  // namespace retape::examples
