// A progress line on stderr: one line that is rewritten on a terminal, a plain line now and then elsewhere.
#pragma once
#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>
#include <string_view>

namespace retape::examples {

/// 59 s as `0:59`, one hour as `1:00:00`; `-:--` for a time that is not known.
std::string format_duration(double seconds);

/// 1234.5 as `1.23k`, 61200 as `61.2k`: three digits and a unit.
std::string format_count(double count);

/// What happens how often, averaged over about the last `seconds`, so that it follows a machine that becomes busy.
class Rate {
 public:
  explicit Rate(double seconds = 10) : seconds_(seconds) {}
  /// `amount` was done in the last `elapsed` seconds.
  void add(double amount, double elapsed);
  /// Per second; 0 before the first add.
  double per_second() const { return time_ > 0 ? amount_ / time_ : 0; }

 private:
  double seconds_, amount_ = 0, time_ = 0;
};

struct ProgressOptions {
  int64_t first_step = 0;            // where a resumed run goes on
  bool quiet = false;                // print nothing
  std::string unit = "tokens";       // what a step reads
  std::FILE* out = stderr;           // whether it is a terminal decides the form
  std::function<double()> now = {};  // seconds, for tests; the steady clock otherwise
};

/// Step, loss, tokens (or what `unit` says) per second and the remaining time of a training run:
///
///     Progress progress(steps, {.quiet = options.quiet});
///     for (int64_t step = 1; step <= steps; ++step) { ...; progress.update(step, loss, items_in_this_step); }
///     progress.finish();
class Progress {
 public:
  explicit Progress(int64_t total_steps, ProgressOptions options = {});
  ~Progress() { finish(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// After step `step` (counted from 1), which read `items` tokens, or what `unit` says.
  void update(int64_t step, double loss, int64_t items);
  /// Prints a line of its own, such as a validation loss, above the bar.
  void note(std::string_view line);
  /// Leaves the last state on the screen and ends its line. Later calls do nothing.
  void finish();
  /// Over about the last ten seconds.
  double items_per_second() const { return items_.per_second(); }

 private:
  std::string state() const;
  std::string bar(size_t columns) const;
  void draw();

  int64_t total_, step_ = 0, printed_step_;
  ProgressOptions options_;
  bool terminal_, finished_ = false;
  double loss_ = 0, last_update_, last_print_;
  Rate items_, steps_;
};

}  // namespace retape::examples
