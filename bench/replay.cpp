#include "replay.h"

#include <fmt/format.h>
#include <omp.h>
#include <CLI/CLI.hpp>

#include <optional>

#include <examples/common/plot.h>
#include <retape/io/file.h>
#include "timing.h"
#include "works.h"

namespace retape::bench {
namespace {

constexpr double MiB = 1 << 20;

struct Way {
  std::string name, recompute = "none";
  double of_plain = 0;  // a budget as a fraction of the plain peak; 0: none
  MemoryBudgetOptions options = {};
  std::vector<double> seconds = {};
  int64_t budget = 0, peak = 0;
  std::string error = {};
  bool is_budget() const { return of_plain > 0; }
};

void take_turn(Way& way, GptStep& step) {
  step.recompute(way.recompute);
  reset_peak_memory();
  try {
    std::optional<MemoryBudget> guard;
    if (way.budget) guard.emplace(way.budget, way.options);
    way.seconds.push_back(seconds_of([&] { step.run(); }));
    way.peak = std::max(way.peak, memory_stats().peak);
  } catch (const Error& e) {
    way.error = e.what();
  }
}

std::vector<Way> all_ways() {
  std::vector<Way> ways{{"plain"}, {"sqrt", "sqrt"}, {"every:1", "every:1"}, {"pointwise", "pointwise"}};
  for (const int percent : {100, 90, 80, 70, 60, 50, 40, 30, 25, 20})
    ways.push_back({fmt::format("budget {}%", percent), "none", percent / 100.0});
  ways.push_back({"budget 60% spilled", "none", 0.6, {.evict = Evict::spill}});
  ways.push_back({"budget 75% in bf16", "none", 0.75, {.evict = Evict::bf16}});
  return ways;
}

std::string chart(const std::vector<Way>& ways, double plain) {
  examples::Chart chart{.title = "Training step of a GPT: memory against time",
                        .x_label = "peak of tensor memory, MiB",
                        .y_label = "time, of the plain step",
                        .curves = {{"memory budget", {}, {}}}};
  for (const Way& w : ways) {
    if (!w.error.empty()) continue;
    const bool budget = w.is_budget() && w.options.evict == Evict::recompute;
    if (!budget) chart.curves.push_back({w.name, {}, {}});
    auto& curve = budget ? chart.curves.front() : chart.curves.back();
    curve.x.push_back(double(w.peak) / MiB), curve.y.push_back(median(w.seconds) / plain);
  }
  return examples::to_svg(chart);
}

}  // namespace

int replay(int argc, char** argv) try {
  CLI::App app("memory against time of a GPT's training step", "bench");
  bool on = false;
  StepSettings settings{.vocab = 65, .layers = 12, .heads = 6, .width = 384, .block = 256, .batch = 16};
  std::filesystem::path csv_file, svg_file;
  int rounds = 5;
  app.add_flag("--replay", on, "this benchmark");
  app.add_option("--layers", settings.layers)->capture_default_str();
  app.add_option("--heads", settings.heads)->capture_default_str();
  app.add_option("--width", settings.width)->capture_default_str();
  app.add_option("--block", settings.block)->capture_default_str();
  app.add_option("--batch", settings.batch)->capture_default_str();
  app.add_option("--rounds", rounds, "how many times all ways take turns")->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--csv", csv_file, "write the rows to this file as well")->type_name("FILE");
  app.add_option("--svg", svg_file, "draw the rows into this file")->type_name("FILE");
  CLI11_PARSE(app, argc, argv);

  GptStep step(settings);
  step.run();                                 // makes the optimizer's state
  const int64_t fixed = memory_stats().live;  // weights, gradients, optimizer state
  std::vector<Way> ways = all_ways();
  for (int round = 0; round < rounds; ++round)
    for (Way& way : ways) {
      way.budget = int64_t(way.of_plain * double(ways.front().peak));
      if (way.error.empty()) take_turn(way, step);
    }

  const double plain = median(ways.front().seconds), plain_peak = double(ways.front().peak);
  fmt::print("{} layers, width {}, T {}, B {}; {} threads, {}; weights, gradients and optimizer state: {:.0f} MiB\n\n", settings.layers,
             settings.width, settings.block, settings.batch, omp_get_max_threads(), cpu_level(), double(fixed) / MiB);
  fmt::print("| way | budget MiB | peak MiB | activations, of plain | step s | time, of plain |\n|---|---|---|---|---|---|\n");
  std::string csv = "way,budget_bytes,peak_bytes,activations_of_plain,seconds,time_of_plain,error\n";
  bool kept = true;
  for (const Way& w : ways) {
    const std::string budget = w.budget ? fmt::format("{:.0f}", double(w.budget) / MiB) : "";
    if (!w.error.empty()) {
      fmt::print("| {} | {} | {} | | | |\n", w.name, budget, w.error);
      csv += fmt::format("{},{},,,,,\"{}\"\n", w.name, w.budget, w.error);
      continue;
    }
    const double activations = (double(w.peak) - double(fixed)) / (plain_peak - double(fixed)), seconds = median(w.seconds);
    fmt::print("| {} | {} | {:.0f} | {:.2f} | {:.3f} | {:.2f} |\n", w.name, budget, double(w.peak) / MiB, activations, seconds,
               seconds / plain);
    csv += fmt::format("{},{},{},{:.4f},{:.4f},{:.4f},\n", w.name, w.budget, w.peak, activations, seconds, seconds / plain);
    kept &= !w.budget || w.peak <= w.budget;
  }
  if (!csv_file.empty()) write_file_atomically(csv_file, csv);
  if (!svg_file.empty()) write_file_atomically(svg_file, chart(ways, plain));
  return kept ? 0 : 1;
} catch (const std::exception& e) {
  fmt::print(stderr, "{}\n", e.what());
  return 2;
}

}  // namespace retape::bench
