#include "compare.h"

#include <fmt/format.h>
#include <omp.h>
#include <CLI/CLI.hpp>

#include <cmath>
#include <optional>

#include <retape/io/file.h>
#include "peer.h"
#include "roofs.h"
#include "table.h"
#include "timing.h"
#include "works.h"

namespace retape::bench {
namespace {

double roof_of(const Work& w) {
  switch (w.roof) {
    case Roof::fma: return fma_peak();
    case Roof::copy: return copy_bandwidth(w.roof_bytes);
    case Roof::in_place: return in_place_bandwidth(w.roof_bytes);
    case Roof::exp: return exp_rate();
    case Roof::none: break;
  }
  return 0;
}
const char* name_of(Roof roof) {
  return roof == Roof::fma ? "FMA peak" : roof == Roof::copy ? "copy roof" : roof == Roof::exp ? "rate of exp alone" : "in-place roof";
}

// Retape, the peer and the roofs take turns, so that all of them meet the same moods of the machine.
std::vector<Row> measure(const Work& w, Peer& peer, int rounds) {
  constexpr double slice = 0.15;  // seconds of each in a round, or one repetition
  const Step step = w.make(), products = w.make_products ? w.make_products() : Step{};
  const auto warm_up = [](const Step& s) { s(), s(); };
  warm_up(step);
  if (products) warm_up(products);
  std::vector<double> ours, theirs, roof, parts, peak;
  for (int i = 0; i < rounds; ++i) {
    ours.push_back(median_seconds(step, slice));
    if (w.roof != Roof::none) roof.push_back(roof_of(w));
    if (products) parts.push_back(median_seconds(products, slice)), peak.push_back(fma_peak());
    theirs.push_back(peer.median_seconds(w.peer, slice));
  }
  const double seconds = median(ours);
  const bool small = seconds < 1e-3;
  const double scale = small ? 1e6 : 1e3;
  std::vector<Row> rows = {{w.name, small ? "us" : "ms", seconds * scale, median(theirs) * scale, w.at_least}};
  if (w.roof != Roof::none)
    rows.push_back({fmt::format("{}: of the {}", w.name, name_of(w.roof)), "fraction", w.amount / seconds / median(roof), {}, w.of_roof});
  for (const Rate& r : w.rates) rows.push_back({r.name, r.unit, r.amount / seconds, {}, r.at_least});
  if (products) {
    const double part = median(parts);
    rows.push_back(
        {w.name + ": its linear GEMMs, of the FMA peak", "fraction", w.product_flops / part / median(peak), {}, w.products_of_peak});
    rows.push_back({w.name + ": its linear GEMMs, of the step", "fraction", part / seconds, {}, w.products_of_whole});
  }
  return rows;
}

std::string memory_name(const FreshWork& w) { return "peak memory: training step, " + w.name; }
std::string time_name(const FreshWork& w) { return "program start to the end of its first training step, " + w.name; }
// In fresh processes: the time from a program's start to the end of its first step, and the memory of a few.
std::vector<Row> measure(const FreshWork& w, const Peer& peer, int rounds, bool time, bool memory) {
  const auto own = [&](int steps) {
    return FreshRun({"/proc/self/exe", "--peer", "none", "--fresh", w.name, "--steps", std::to_string(steps)});
  };
  std::vector<Row> rows;
  if (time) {
    std::vector<double> ours, theirs;
    for (int i = 0; i < rounds; ++i) ours.push_back(own(1).seconds), theirs.push_back(peer.fresh_run(1, w.peer).seconds);
    const double seconds = median(ours);
    rows.push_back({time_name(w), "ms", seconds * 1e3, median(theirs) * 1e3, 1});
    rows.push_back({"such starts a second", "1/s", 1 / seconds, {}, 1 / 0.2});
  }
  if (memory) rows.push_back({memory_name(w), "MiB", own(3).bytes / (1 << 20), peer.fresh_run(3, w.peer).bytes / (1 << 20), 1});
  return rows;
}

}  // namespace

int compare(int argc, char** argv) try {
  CLI::App app("times Retape and PyTorch in turn", "bench");
  std::string python, filter, fresh;
  std::filesystem::path csv_file;
  int rounds = 7, steps = 0;
  app.add_option("--peer", python, "a Python that can import torch")->required();
  app.add_option("--filter", filter, "only works with this in their name")->type_name("WORD");
  app.add_option("--rounds", rounds, "how many times both sides take turns")->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--csv", csv_file, "write the rows to this file as well")->type_name("FILE");
  app.add_option("--fresh", fresh)->group("");  // what a process of FreshRun does
  app.add_option("--steps", steps)->group("");
  CLI11_PARSE(app, argc, argv);

  for (const FreshWork& w : fresh_works())
    if (w.name == fresh) return fmt::print("{}\n", memory_of_steps(w.settings, steps)), 0;

  const auto wanted = [&](const std::string& name) { return name.find(filter) != std::string::npos; };
  const auto start = [](const FreshWork& w) { return &w == &fresh_works().front(); };  // the smallest model's start says most
  bool any = false;
  for (const Work& w : works()) any |= wanted(w.name);
  for (const FreshWork& w : fresh_works()) any |= wanted(memory_name(w)) || (start(w) && wanted(time_name(w)));
  if (!any) throw Error(fmt::format("bench: no work has \"{}\" in its name", filter));

  Peer peer(python);
  fmt::print("Retape (level {}) and {}, {} threads each: medians of {} rounds taken in turn\n", cpu_level(), peer.version(),
             omp_get_max_threads(), rounds);
  const auto best = [](auto roof) {  // in units of 10^9
    double most = 0;
    for (int i = 0; i < 5; ++i) most = std::max(most, roof());
    return most * 1e-9;
  };
  const auto copy = [&](int64_t bytes) { return best([=] { return copy_bandwidth(bytes); }); };
  fmt::print(
      "roofs, best of 5: FMA {:.0f} GFLOP/s; copy {:.0f} GB/s of 0.8 MB, {:.0f} of 12.6 MB, {:.0f} of 134 MB; in place {:.0f} of 134 MB; "
      "exp {:.1f} G/s\n\n",
      best(fma_peak), copy(786432), copy(12582912), copy(128 << 20), best([] { return in_place_bandwidth(128 << 20); }), best(exp_rate));
  fmt::print("{}", table_head());
  std::vector<Row> rows;
  const auto add = [&](Row row) {
    fmt::print("{}", markdown(row));
    std::fflush(stdout);
    rows.push_back(std::move(row));
  };
  for (const Work& w : works())
    if (wanted(w.name)) try {
        for (Row& row : measure(w, peer, rounds)) add(std::move(row));
      } catch (const Missing& lack) {
        fmt::print(stderr, "skipped: {}: {}\n", w.name, lack.what());
      }
  for (const FreshWork& w : fresh_works())
    for (Row& row : measure(w, peer, rounds, start(w) && wanted(time_name(w)), wanted(memory_name(w)))) add(std::move(row));
  if (!csv_file.empty()) write_file_atomically(csv_file, csv(rows));
  return std::all_of(rows.begin(), rows.end(), [](const Row& r) { return r.pass(); }) ? 0 : 1;
} catch (const Error& e) {
  fmt::print(stderr, "error: {}\n", e.what());
  return 2;
}

}  // namespace retape::bench
