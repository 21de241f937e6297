#include <examples/common/run.h>

#include <omp.h>

#include <cmath>

#include <examples/common/cli.h>
#include <examples/common/recompute.h>
#include <retape/io/file.h>

namespace retape::examples {
namespace fs = std::filesystem;
using nlohmann::json;

void declare_common(Settings& settings, RunOptions& o, const std::string& name) {
  settings.add("--device", o.device, device_help, OnResume::replace);
  settings.add("--amp", o.amp, "mixed precision: none; bf16; f16, with loss scaling").one_of({"none", "bf16", "f16"});
  settings.add("--recompute", o.recompute,
               "what backward computes again to save memory: none; pointwise: all but matrix products and attention; sqrt: all but about "
               "sqrt(layers) values between blocks; every:N: all but those after each N blocks",
               OnResume::replace);
  settings
      .add("--memory-budget", o.memory_budget,
           "bytes that tensors may take on the device, such as 600MiB; values are dropped and computed again as needed; 0: no limit",
           OnResume::replace)
      .bytes()
      .at_least(0);
  settings.add("--seed", o.seed, "start of all random numbers");
  settings.add("--threads", o.threads, "threads; 0 takes all cores", OnResume::forget).at_least(0).at_most(1024);
  settings.add("--keep", o.keep, "checkpoints that stay: the latest ones", OnResume::replace).at_least(1);
  settings.add("--out", o.out, fmt::format("run folder to create (runs/{}-<time> if not given)", name), OnResume::refuse).not_stored();
  settings.add(
      "--resume", o.resume,
      fmt::format("continue this run (or checkpoint) with its own settings, from the beginning if it has no checkpoint yet; {} may be "
                  "given anew",
                  settings.replaceable()),
      OnResume::forget);
  settings.add("--quiet", o.quiet, "print nothing but errors", OnResume::forget);
}

Autocast autocast(const RunOptions& o) { return Autocast(o.amp == "f16" ? DType::f16 : DType::bf16, o.amp != "none"); }

json read_json(const fs::path& file) {
  try {
    return json::parse(read_file(file));
  } catch (const json::exception&) {
    throw Error(fmt::format("{} is no JSON; the run folder is damaged", file.string()));
  }
}
void read_config(const fs::path& run, Settings& settings) {
  const fs::path file = run / "config.json";
  settings.read(read_json(file), file);
}

void save_training(const fs::path& folder, json& state, const nn::Module& model, const Optimizer& optimizer, const GradScaler& scaler) {
  save_safetensors(folder / "model.safetensors", model.state_dict());
  save_safetensors(folder / "optimizer.safetensors", optimizer.state_dict());
  for (auto& [name, value] : scaler.state_dict()) state["scaler"][name] = value.item();
}

Run::Run(std::string name, Settings& settings, RunOptions& options, const std::vector<std::string>& early)
    : name_(std::move(name)), settings_(settings), options_(options) {
  if (!options_.resume.empty()) take_settings(early);
  settings_.check();
  device_ = device_of(options_.device);
  options_.device = device_.str();
  if (options_.threads > 0) omp_set_num_threads(int(options_.threads));
  if (point_.checkpoint) {
    const fs::path file = point_.checkpoint->path / "state.json";
    state_ = read_json(file);
    step_ = get<int64_t>(state_, "step", file), seconds_before_ = get<double>(state_, "seconds", file);
  }
}
Run::~Run() {
  std::error_code error;
  if (created_) fs::remove(point_.run, error);  // unless there is something in it
}

const fs::path& Run::create() {
  if (!point_.run.empty()) return point_.run;
  created_ = options_.out.empty() || !fs::exists(options_.out);
  return point_.run = create_run_folder(name_, options_.out);
}

// A run that was stopped before its first checkpoint begins again, with its own settings or, if it had not even written those, with the
// ones that are given.
void Run::take_settings(const std::vector<std::string>& early) {
  point_ = find_resume_point(options_.resume);
  const fs::path file = point_.run / "config.json";
  has_settings_ = point_.checkpoint || fs::exists(file);
  const std::string run = point_.run.string();
  if (has_settings_) {
    settings_.resume(read_json(file), file);
  } else {
    if (!holds_only(point_.run, early))
      throw Error(fmt::format("--resume {}: it has neither a checkpoint nor config.json but other files, so it is no run", run));
    if (const std::string flag = settings_.missing(); !flag.empty())
      throw Error(fmt::format("--resume {}: the run was stopped before it wrote config.json; give {} and its settings again", run, flag));
    if (settings_.given("--out")) throw Error("--out and --resume exclude each other: a resumed run goes on in its own folder");
  }
  if (!point_.checkpoint)
    note(fmt::format("{} has no checkpoint; starting from the beginning with {}", run,
                     has_settings_ ? "the run's own settings" : "the settings given, since it has no config.json either"));
}

void Run::restore(nn::Module& model, Optimizer& optimizer, GradScaler& scaler) {
  if (!point_.checkpoint) return;
  const fs::path& from = point_.checkpoint->path;
  NamedTensors scaling;
  if (scaler.is_enabled())
    for (auto& [name, value] : state<std::map<std::string, double>>("scaler")) scaling.emplace_back(name, full({}, value, {DType::f64}));
  model.load_state_dict(SafeTensors::open(from / "model.safetensors").tensors());
  scaler.load_state_dict(scaling);
  optimizer.load_state_dict(SafeTensors::open(from / "optimizer.safetensors").tensors());
}

void Run::begin(RunPlan plan, const std::function<void(const fs::path&)>& write) {
  plan_ = std::move(plan);
  if (step_ > plan_.steps) throw Error(fmt::format("the checkpoint is at step {}, after --steps {}; give more steps", step_, plan_.steps));
  if (point_.checkpoint) {
    const auto generator = state<std::array<uint64_t, 2>>("generator");
    default_generator().set_state({generator[0], generator[1]});
  }
  create();
  plan_.columns.push_back(plan_.unit + "_per_s");
  plan_.columns.push_back("seconds");
  write_to_run(point_.run, [&] {
    if (write) write(point_.run);
    write_file_atomically(point_.run / "config.json", settings_.to_json().dump(2) + "\n");
    const fs::path file = point_.run / "metrics.csv";
    if (point_.checkpoint) metrics_.emplace(file, plan_.columns, step_), events_.emplace(point_.run, step_ + 1);
    else metrics_.emplace(file, plan_.columns), events_.emplace(point_.run, has_settings_ ? std::optional<int64_t>(0) : std::nullopt);
  });
  interrupt_.emplace();
  if (options_.memory_budget) budget_.emplace(options_.memory_budget, MemoryBudgetOptions{.device = device_});
  progress_.emplace(plan_.steps, ProgressOptions{.first_step = step_, .quiet = options_.quiet, .unit = plan_.unit});
  start_ = std::chrono::steady_clock::now();
}

void Run::note(const std::string& line) {
  if (progress_) progress_->note(line);
  else if (!options_.quiet) fmt::print(stderr, "{}\n", line);
}

std::string Run::place() const { return device_.is_cpu() ? fmt::format("{} threads", omp_get_max_threads()) : device_.str(); }

void Run::add_loss(const Tensor& loss) {
  const Tensor value = cast(loss.detach(), DType::f64);
  unread_ = unread_ ? unread_ + value : value;
  ++unread_count_;
}
void Run::add_loss(double sum, int64_t losses) {
  loss_sum_ += sum, loss_count_ += losses;
  last_loss_ = sum / double(losses);
}
void Run::read_losses() {
  if (!unread_) return;
  const Tensor sum = std::exchange(unread_, {});
  add_loss(sum.item(), std::exchange(unread_count_, 0));
}

void Run::advance(int64_t items) {
  ++step_;
  stopping_ = interrupt_->requested();
  if (device_.is_cpu() || reports() || !last_loss_) read_losses();  // elsewhere this waits for the device
  if (last_loss_ && !std::isfinite(*last_loss_))
    throw Error(fmt::format("the loss is {} at step {}; a smaller --lr or a --clip may help. Earlier checkpoints in {} are intact",
                            *last_loss_, step_, point_.run.string()));
  progress_->update(step_, last_loss_.value_or(NAN), items);
}

double Run::mean_loss() {
  read_losses();
  return std::exchange(loss_sum_, 0) / double(std::exchange(loss_count_, 0));
}

double Run::seconds() const { return seconds_before_ + std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

void Run::report(std::map<std::string, double> values) {
  values[plan_.unit + "_per_s"] = progress_->items_per_second();
  values["seconds"] = seconds();
  write_to_run(point_.run, [&] {
    metrics_->append({.step = step_, .values = values});
    for (auto& [name, value] : values)
      if (name != "seconds") events_->add_scalar(name, value, step_);
  });
}

void Run::save(const std::function<void(const fs::path&, json&)>& fill) {
  write_to_run(point_.run, [&] {
    save_checkpoint(point_.run, step_, [&](const fs::path& folder) {
      const RandomState generator = default_generator().state();
      json state = {{"step", step_}, {"seconds", seconds()}, {"generator", {generator.seed, generator.offset}}};
      fill(folder, state);
      write_file_atomically(folder / "state.json", state.dump(2) + "\n");
    });
    prune_checkpoints(point_.run, int(options_.keep), step_);
    draw_charts();
  });
}

void Run::draw_charts() const {
  for (const RunChart& c : plan_.charts) {
    Chart chart{.title = point_.run.filename().string(), .x_label = "step", .y_label = c.y_label, .log_y = c.log_y};
    for (auto& [column, name] : c.curves) {
      Curve curve{.name = name};
      for (auto& row : metrics_->rows())
        if (const auto y = row[column]) curve.x.push_back(double(row.step)), curve.y.push_back(*y);
      chart.curves.push_back(std::move(curve));
    }
    write_file_atomically(point_.run / c.file, to_svg(chart));
  }
}

bool Run::finish() {
  progress_->finish();
  budget_.reset();
  if (!metrics_->rows().empty()) write_to_run(point_.run, [&] { draw_charts(); });  // also after a run that was stopped while it drew them
  if (step_ >= plan_.steps) return true;
  if (!options_.quiet)
    fmt::print("stopped at step {}; go on with: ./run {} {} --resume {}\n", step_, plan_.verb, name_, point_.run.string());
  return false;
}

void Run::print_folder() const {
  if (!options_.quiet) fmt::print("run folder: {}\n", point_.run.string());
}

}  // namespace retape::examples
