#include <examples/common/progress.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace retape::examples {
namespace {

constexpr double redraw_seconds = 0.1;  // on a terminal
constexpr double line_seconds = 10;     // elsewhere, and
constexpr double line_fraction = 0.05;  // of the whole

double steady_seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

size_t terminal_columns(std::FILE* out) {
  winsize size{};
  return ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

std::string format_duration(double seconds) {
  if (!(seconds >= 0 && seconds < 1e9)) return "-:--";
  const auto s = static_cast<int64_t>(std::lround(seconds));
  if (s < 3600) return fmt::format("{}:{:02}", s / 60, s % 60);
  return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

std::string format_count(double count) {
  for (const char* unit : {"", "k", "M", "G"}) {
    // 999.5 would round to 1000, which belongs to the next unit.
    if (std::abs(count) < 999.5) {
      const double size = std::abs(count);
      return fmt::format("{:.{}f}{}", count, *unit == 0 || size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2, unit);
    }
    count /= 1000;
  }
  return fmt::format("{:.3g}T", count);
}

void Rate::add(double amount, double elapsed) {
  // Both sums fade alike: their quotient is a mean over time, not over calls.
  const double keep = std::exp(-std::max(elapsed, 0.0) / seconds_);
  amount_ = amount_ * keep + amount;
  time_ = time_ * keep + std::max(elapsed, 0.0);
}

Progress::Progress(int64_t total_steps, ProgressOptions options)
    : total_(total_steps), step_(options.first_step), printed_step_(options.first_step), options_(std::move(options)) {
  if (!options_.now) options_.now = steady_seconds;
  terminal_ = isatty(fileno(options_.out));
  last_update_ = options_.now();
  last_print_ = last_update_ - line_seconds;  // the first step shows at once
}

void Progress::update(int64_t step, double loss, int64_t items) {
  const double now = options_.now();
  items_.add(static_cast<double>(items), now - last_update_);
  steps_.add(static_cast<double>(step - step_), now - last_update_);
  step_ = step;
  loss_ = loss;
  last_update_ = now;
  const double waited = now - last_print_;
  const auto since = static_cast<double>(step - printed_step_);
  const bool due = terminal_ ? waited >= redraw_seconds : waited >= line_seconds || since >= line_fraction * static_cast<double>(total_);
  if (due || step >= total_) draw();
}

std::string Progress::state() const {
  const double rate = steps_.per_second();
  return fmt::format("loss {:.4f}  {} {}/s  ETA {}", loss_, format_count(items_per_second()), options_.unit,
                     format_duration(rate > 0 ? static_cast<double>(total_ - step_) / rate : -1));
}

std::string Progress::bar(size_t columns) const {
  const std::string right = state();
  std::string line = fmt::format("step {}/{} ", step_, total_);
  const size_t used = line.size() + 2 + 1 + right.size() + 1;  // a full last column would wrap on some terminals
  if (columns >= used + 10) {
    const size_t width = std::min<size_t>(columns - used, 40);
    const double done = total_ > 0 ? static_cast<double>(step_) / static_cast<double>(total_) : 1;
    const auto filled = static_cast<size_t>(std::clamp(done, 0.0, 1.0) * static_cast<double>(width));
    line += '[' + std::string(filled, '=') + std::string(width - filled, ' ') + "] ";
  }
  line += right;
  if (line.size() >= columns) line.resize(columns - 1);
  return line;
}

void Progress::draw() {
  last_print_ = last_update_;
  printed_step_ = step_;
  if (options_.quiet) return;
  if (terminal_) {
    fmt::print(options_.out, "\r{}\033[K", bar(terminal_columns(options_.out)));
  } else {
    fmt::print(options_.out, "step {}/{}  {}\n", step_, total_, state());
  }
  std::fflush(options_.out);
}

void Progress::note(std::string_view line) {
  if (options_.quiet) return;
  if (terminal_) {
    fmt::print(options_.out, "\r\033[K{}\n", line);
    if (!finished_ && step_ > options_.first_step) draw();
  } else {
    fmt::print(options_.out, "{}\n", line);
  }
  std::fflush(options_.out);
}

void Progress::finish() {
  if (std::exchange(finished_, true) || options_.quiet || step_ == options_.first_step) return;
  if (printed_step_ != step_) draw();
  if (terminal_) {
    std::fputc('\n', options_.out);
    std::fflush(options_.out);
  }
}

}  // namespace retape::examples
