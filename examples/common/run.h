// One training run: what all trainers do around their loop. Its folder holds config.json, metrics.csv, charts, TensorBoard's events and
// checkpoints, and any of them may be cut off at any moment and gone on with.
//
//     struct TrainOptions : examples::RunOptions { int64_t steps = 2000; ... };
//
//     TrainOptions o;
//     Settings settings;
//     settings.add("--steps", o.steps, "optimizer steps", OnResume::replace).at_least(1);
//     declare_common(settings, o);
//     ...                                        // the command line is parsed
//     Run run("gpt", settings, o);               // a resumed run has its own settings in `o` from here on
//     ...                                        // data, model, optimizer, scaler
//     run.restore(model, optimizer, scaler);     // where it stood
//     run.begin({.steps = o.steps, .eval_every = 250, .columns = {"train_loss", "val_loss"}, .charts = {...}});
//     while (run.goes_on()) {
//       ...
//       run.add_loss(loss);
//       run.advance(tokens);
//       if (!run.reports()) continue;
//       std::map<std::string, double> row{{"train_loss", run.mean_loss()}};
//       if (run.evaluates()) row["val_loss"] = ...;
//       run.report(row);
//       if (run.saves()) run.save([&](const fs::path& folder, json& state) { save_training(folder, state, model, optimizer, scaler); });
//     }
//     if (run.finish()) ...                      // it has done all its steps
#pragma once
#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <examples/common/interrupt.h>
#include <examples/common/metrics.h>
#include <examples/common/plot.h>
#include <examples/common/progress.h>
#include <examples/common/run_folder.h>
#include <examples/common/settings.h>
#include <retape/core/device.h>
#include <retape/io/tensorboard.h>
#include <retape/retape.h>

namespace retape::examples {

/// The settings that every trainer has.
struct RunOptions {
  std::string device = "auto";     // as device_of() takes it
  std::string amp = "none";        // mixed precision: none, bf16 or f16
  std::string recompute = "none";  // see parse_recomputation()
  int64_t memory_budget = 0;       // bytes; 0: no limit
  uint64_t seed = 1337;
  int64_t threads = 0, keep = 2;
  std::string out, resume;
  bool quiet = false;
};
/// `name` is the trainer's, for the help text.
void declare_common(Settings& settings, RunOptions& options, const std::string& name);

/// Autocast as --amp says.
Autocast autocast(const RunOptions& options);

/// A file of JSON. Throws Error, naming it, if it cannot be read or is no JSON.
nlohmann::json read_json(const std::filesystem::path& file);
/// An entry of it. Throws Error, naming file and entry, if it is missing or of the wrong type.
template <class T> T get(const nlohmann::json& j, const char* key, const std::filesystem::path& file) {
  try {
    return j.at(key).get<T>();
  } catch (const nlohmann::json::exception&) {
    throw Error(fmt::format("{}: \"{}\" is missing or of the wrong type", file.string(), key));
  }
}
/// Sets a verb's options to what the run's config.json says. Throws Error.
void read_config(const std::filesystem::path& run, Settings& settings);

/// Writes model.safetensors and optimizer.safetensors and puts the scaler into `state`.
void save_training(const std::filesystem::path& folder, nlohmann::json& state, const nn::Module& model, const Optimizer& optimizer,
                   const GradScaler& scaler);

/// A chart over the steps, drawn with every checkpoint.
struct RunChart {
  std::string file, y_label;
  std::vector<std::pair<std::string, std::string>> curves;  // column, name
  bool log_y = false;
};

struct RunPlan {
  int64_t steps = 0;
  int64_t report_every = 10, eval_every = 250;  // steps
  std::string unit = "tokens";                  // what a step reads, for the progress line and the column <unit>_per_s
  std::string verb = "train";                   // what `./run` goes on with, for the last line of a run that was stopped
  std::vector<std::string> columns = {};        // of metrics.csv, between step and <unit>_per_s, seconds
  std::vector<RunChart> charts = {};
};

class Run {
 public:
  /// Finds where `options.resume` goes on, takes the settings of that run, checks all settings, and sets the number of threads. `early` names
  /// files that a run writes before config.json. Throws Error.
  Run(std::string name, Settings& settings, RunOptions& options, const std::vector<std::string>& early = {});
  ~Run();
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  /// Whether this goes on with a run that has written its config.json, and its vocabulary before that.
  bool has_settings() const { return has_settings_; }
  const std::optional<Checkpoint>& checkpoint() const { return point_.checkpoint; }
  const std::filesystem::path& folder() const { return point_.run; }  // empty before begin() of a new run
  Device device() const { return device_; }
  std::string place() const;  ///< the device, or how many threads there are

  /// What save() has put into the checkpoint's state.json; empty without a checkpoint.
  const nlohmann::json& state() const { return state_; }
  template <class T> T state(const char* key) const { return get<T>(state_, key, point_.checkpoint->path / "state.json"); }
  /// The reverse of save_training(); nothing without a checkpoint.
  void restore(nn::Module& model, Optimizer& optimizer, GradScaler& scaler);

  /// Creates the folder of a new run, if that has not been done, and returns it. A new folder goes again if nothing comes into it.
  const std::filesystem::path& create();
  /// Creates the folder of a new run; `write` puts files there that are complete before config.json is. Opens metrics and events, and
  /// sets the default generator to where the checkpoint left it.
  void begin(RunPlan plan, const std::function<void(const std::filesystem::path&)>& write = {});
  /// A line on stderr unless --quiet.
  void note(const std::string& line);

  int64_t step() const { return step_; }
  /// Whether there are steps to do and nobody has asked to stop.
  bool goes_on() const { return step_ < plan_.steps && !stopping_; }
  /// The loss of a step, or of a part of it; nothing waits for the device. A sum over several losses counts as `losses` of them.
  void add_loss(const Tensor& loss);
  void add_loss(double sum, int64_t losses = 1);
  /// A step is done, which read `items` tokens, images, ... Throws Error if its loss is known and not finite.
  void advance(int64_t items);
  /// Whether the step that is done is to be reported; evaluated; saved. A save is reported, too, as is an evaluation.
  bool reports() const { return saves() || step_ % plan_.report_every == 0; }
  bool evaluates() const { return step_ == plan_.steps || step_ % plan_.eval_every == 0; }
  bool saves() const { return evaluates() || stopping_; }
  /// The mean of the losses since the last call; has_loss(): whether there was one.
  double mean_loss();
  bool has_loss() const { return loss_count_ + unread_count_ > 0; }
  /// Seconds of training, over all resumptions.
  double seconds() const;
  /// A row of metrics.csv, and TensorBoard's points.
  void report(std::map<std::string, double> values);
  /// Writes a checkpoint and the charts, and deletes older ones. `fill` puts files into the folder and what else it needs into state.json.
  void save(const std::function<void(const std::filesystem::path&, nlohmann::json&)>& fill);
  /// Ends the progress line and draws the charts. True if all steps are done; else says how to go on, and is false.
  bool finish();
  /// The last line of a run that is done.
  void print_folder() const;

 private:
  void take_settings(const std::vector<std::string>& early);
  void read_losses();
  void draw_charts() const;

  std::string name_;
  Settings& settings_;
  RunOptions& options_;
  ResumePoint point_;
  bool has_settings_ = false, created_ = false;
  Device device_;
  nlohmann::json state_;
  RunPlan plan_;
  int64_t step_ = 0;
  bool stopping_ = false;
  double seconds_before_ = 0;
  Tensor unread_;                              // the sum of the losses that are still on the device only
  int64_t unread_count_ = 0, loss_count_ = 0;  // of it; of loss_sum_
  double loss_sum_ = 0;
  std::optional<double> last_loss_;
  std::chrono::steady_clock::time_point start_;
  std::optional<MetricsFile> metrics_;
  std::optional<EventWriter> events_;
  std::optional<InterruptGuard> interrupt_;
  std::optional<MemoryBudget> budget_;
  std::optional<Progress> progress_;
};

}  // namespace retape::examples
