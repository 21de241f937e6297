#include "cuda_compare.h"

#include <fmt/format.h>
#include <omp.h>
#include <CLI/CLI.hpp>

#include <cmath>
#include <filesystem>
#include <optional>

#include <retape/io/file.h>
#include "bare_launch.h"
#include "cuda_works.h"
#include "peer.h"
#include "table.h"
#include "timing.h"

namespace retape::bench {
namespace {

// Seconds of a repetition: five batches of so many repetitions that each lasts for a fifth of the slice, and one wait a batch. Their median.
double seconds_on(Device device, const Step& step, double slice) {
  const auto batch = [&](int64_t count) {
    return seconds_of([&] {
             for (int64_t i = 0; i < count; ++i) step();
             synchronize(device);
           }) /
           double(count);
  };
  batch(1);  // memory that the other side had in between comes back
  const int64_t count = std::max(int64_t{1}, int64_t(std::ceil(slice / 5 / std::max(batch(1), 1e-9))));
  std::vector<double> all;
  for (int i = 0; i < 5; ++i) all.push_back(batch(count));
  return median(all);
}

// The card's name, as its driver says it, and what its tensor cores do at most in bf16 without sparsity, by the vendor's data sheet.
std::string card_name(Device device) {
  if (!device.is_cuda()) return "";
  return Process({"nvidia-smi", "-i", std::to_string(device.index), "--query-gpu=name", "--format=csv,noheader"}).read_line();
}
double peak_tflops(const std::string& card) {
  const std::pair<const char*, double> known[] = {{"H100 PCIe", 756}, {"H100 NVL", 835}, {"H100", 989}, {"H200 NVL", 835}, {"H200", 989},
                                                  {"GH200", 989},     {"A100", 312},     {"L40S", 362}, {"RTX 4090", 165}};
  for (const auto& [name, peak] : known)
    if (card.find(name) != std::string::npos) return peak;
  return 0;
}

class Comparison {
 public:
  Device device;
  bool tiny = false;
  int rounds = 5;
  double slice = 0.3, peak = 0;  // seconds of a side in a round; TFLOP/s
  std::string filter;
  std::filesystem::path csv_file;
  std::optional<Peer> peer;
  std::vector<Row> rows;

  bool wanted(const std::string& name) const { return name.find(filter) != std::string::npos; }

  // A work that fails does not take the others along.
  template <class F> void attempt(const std::string& name, F&& measure) {
    if (!wanted(name)) return;
    try {
      measure();
    } catch (const std::exception& e) {
      std::string what = e.what();
      for (char& c : what)
        if (c == '\n' || c == '|') c = ' ';
      add({.work = name, .failure = what});
    }
  }
  void add(Row row) {
    if (tiny) row.at_least = row.at_most = 0;
    fmt::print("{}", markdown(row));
    std::fflush(stdout);
    rows.push_back(std::move(row));
    if (!csv_file.empty()) write_file_atomically(csv_file, csv(rows));
  }

  struct Times {
    double ours = 0;
    std::optional<double> theirs;
  };
  // Both sides take turns. Each gives the memory that it keeps for later back to the card before the other's turn.
  Times alternate(const Step& step, const std::string& work) {
    std::vector<double> ours, theirs;
    for (int i = 0; i < rounds; ++i) {
      ours.push_back(seconds_on(device, step, slice));
      empty_cache();
      if (peer) theirs.push_back(peer->median_seconds(work, slice));
    }
    return {median(ours), theirs.empty() ? std::nullopt : std::optional(median(theirs))};
  }

  // Bytes a second of the faster side's copy.
  double copy_rate() {
    if (!copy_rate_) {
      const Times t = alternate(device_copy(device, tiny), fmt::format("copy {}", copied_bytes(tiny) / 8));
      copy_rate_ = double(copied_bytes(tiny)) / std::min(t.ours, t.theirs.value_or(t.ours));
      add({.work = fmt::format("copy of {} MB: bytes read and written", copied_bytes(tiny) / 2'000'000),
           .unit = "GB/s",
           .retape = double(copied_bytes(tiny)) / t.ours * 1e-9,
           .peer = t.theirs ? std::optional(double(copied_bytes(tiny)) / *t.theirs * 1e-9) : std::nullopt,
           .more_is_better = true});
    }
    return *copy_rate_;
  }

  void measure(const DeviceWork& w) {
    if (w.bytes) copy_rate();
    const Times t = alternate(w.make(), w.peer);
    const bool small = t.ours < 1e-3;
    const double scale = small ? 1e6 : 1e3;
    add({.work = w.name,
         .unit = small ? "us" : "ms",
         .retape = t.ours * scale,
         .peer = t.theirs ? std::optional(*t.theirs * scale) : std::nullopt,
         .at_least = t.theirs ? w.at_least : 0});
    if (w.flops)
      add({.work = w.name + ": rate",
           .unit = "TFLOP/s",
           .retape = w.flops / t.ours * 1e-12,
           .peer = t.theirs ? std::optional(w.flops / *t.theirs * 1e-12) : std::nullopt,
           .more_is_better = true});
    if (w.bytes)
      add({.work = w.name + ": of the faster copy", .unit = "fraction", .retape = w.bytes / t.ours / copy_rate(), .at_least = w.of_copy});
  }

  // The largest batches, as powers of two, that fit the card on each side while the other has its weights there, too.
  struct Batches {
    int64_t ours = 0, theirs = 0;
  };
  Batches find_batches() {
    const int64_t most = tiny ? 2 : 256;
    const auto fits = [&](int64_t batch) { return peer->fits("gpt_amp eager " + numbers(gpt2_settings(batch, tiny))); };
    if (peer && !fits(1)) throw Error("the device's memory does not hold the peer's batch of 1");
    Batches b{.ours = largest_batch(device, most, tiny)};
    if (!b.ours) throw Error("the device's memory does not hold a batch of 1");
    b.theirs = b.ours;
    if (!peer) return b;
    GptStep step(gpt2_settings(1, tiny), device, DType::bf16);
    step.run();
    synchronize(device);
    empty_cache();
    while (b.theirs > 1 && !fits(b.theirs)) b.theirs /= 2;
    while (b.theirs >= b.ours && b.theirs < most && fits(b.theirs * 2)) b.theirs *= 2;
    return b;
  }

  // Tokens a second of GPT-2, and the fraction of the card's peak that they need.
  void measure_gpt2(const char* how, const char* peer_name, double at_least) {
    if (!batches_) batches_ = find_batches();
    try {
      measure_gpt2_with(*batches_, how, peer_name, at_least);
    } catch (const Error& e) {  // what just fitted need not always fit
      const std::string_view what = e.what();
      int64_t& batch = what.find("a process failed") == what.npos ? batches_->ours : batches_->theirs;
      if (what.find("out of memory") == what.npos || batch == 1) throw;
      batch /= 2;
      empty_cache();
      measure_gpt2(how, peer_name, at_least);
    }
  }
  void measure_gpt2_with(const Batches& batches, const char* how, const char* peer_name, double at_least) {
    const auto [batch, peer_batch] = batches;
    const Step step = [s = std::make_shared<GptStep>(gpt2_settings(batch, tiny), device, DType::bf16)] { s->run(); };
    const Times t = alternate(step, fmt::format("gpt_amp {} {}", how, numbers(gpt2_settings(peer_batch, tiny))));
    const StepSettings s = gpt2_settings(batch, tiny);
    const auto rate = [&](double seconds, int64_t b) { return double(b * s.block) / seconds; };
    const double flops = flops_per_token(s) * 1e-12;
    const std::string other = peer_batch != batch ? fmt::format(" (peer {})", peer_batch) : "";
    const std::string name = fmt::format("{}, batch {}{}", gpt2_name(peer_name), batch, other);
    const std::optional<double> theirs = t.theirs ? std::optional(rate(*t.theirs, peer_batch)) : std::nullopt;
    add({.work = name,
         .unit = "tokens/s",
         .retape = rate(t.ours, batch),
         .peer = theirs,
         .at_least = theirs ? at_least : 0,
         .more_is_better = true});
    const auto of_peak = [&](double tokens) { return peak ? tokens * flops / peak : tokens * flops; };
    add({.work = name + (peak ? fmt::format(": model FLOPs, of {:.0f} TFLOP/s", peak) : ": model FLOPs"),
         .unit = peak ? "fraction" : "TFLOP/s",
         .retape = of_peak(rate(t.ours, batch)),
         .peer = theirs ? std::optional(of_peak(*theirs)) : std::nullopt,
         .more_is_better = true});
  }
  std::string gpt2_name(const char* peer_name) const {
    return fmt::format("training step, {}, T {}, bf16{}{}", tiny ? "tiny GPT" : "GPT-2 124M", gpt2_settings(1, tiny).block,
                       peer ? ", against " : "", peer ? peer_name : "");
  }

  void measure_launches() {
    constexpr int64_t count = 400;  // few enough for the queue of launches to take them without waiting
    std::vector<double> recorded, unrecorded, bare, theirs;
    for (int i = 0; i < rounds; ++i) {
      recorded.push_back(issue_seconds(device, count, true));
      unrecorded.push_back(issue_seconds(device, count, false));
#ifdef RETAPE_BENCH_WITH_CUDA
      if (device.is_cuda()) bare.push_back(bare_launch_seconds(device.index, int(count)));
#endif
      if (peer) theirs.push_back(peer->median_seconds(fmt::format("issue {}", count), slice));
    }
    add({.work = launches,
         .unit = "us",
         .retape = median(recorded) * 1e6,
         .peer = theirs.empty() ? std::nullopt : std::optional(median(theirs) * 1e6)});
    add({.work = std::string(launches) + ", without recording", .unit = "us", .retape = median(unrecorded) * 1e6});
    if (bare.empty()) return;
    add({.work = "launch of a bare kernel", .unit = "us", .retape = median(bare) * 1e6});
    add({.work = std::string(launches) + ", beyond a bare launch",
         .unit = "us",
         .retape = (median(recorded) - median(bare)) * 1e6,
         .at_most = 3});
  }
  static constexpr const char* launches = "host time of a recorded op (x * w of 4 floats)";

 private:
  std::optional<double> copy_rate_;
  std::optional<Batches> batches_;
};

}  // namespace

int compare_on_device(int argc, char** argv) try {
  CLI::App app("times Retape on a GPU, and PyTorch in turn", "bench");
  std::string python, device = "cuda";
  Comparison c;
  bool cuda = false;
  app.add_flag("--cuda", cuda)->group("");
  app.add_option("--peer", python, "a Python that can import torch");
  app.add_option("--device", device, "where to run; cpu only with --smoke")->type_name("NAME")->capture_default_str();
  app.add_option("--filter", c.filter, "only works with this in their name")->type_name("WORD");
  app.add_option("--rounds", c.rounds, "how many times both sides take turns")->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--peak-tflops", c.peak, "what the card does at most in bf16; known for some")->check(CLI::PositiveNumber);
  app.add_flag("--smoke", c.tiny, "every work once in tiny sizes: that it runs, not how fast");
  app.add_option("--csv", c.csv_file, "write the rows to this file as well")->type_name("FILE");
  CLI11_PARSE(app, argc, argv);

  const bool on_cpu = device == "cpu";
  if (on_cpu && !c.tiny) throw Error("bench: --device cpu is for --smoke; without --cuda the benchmarks are for the CPU");
  if (!on_cpu && !cuda::is_available()) throw Error("bench: no GPU: " + cuda::why_unavailable());
  c.device = Device::parse(device);
  if (c.tiny) c.rounds = 1, c.slice = 0.01;
  if (!python.empty()) c.peer.emplace(python, c.device.is_cuda() ? c.device.str() : device);
  const std::string card = card_name(c.device);
  if (!c.peak) c.peak = peak_tflops(card);

  fmt::print("Retape on {}{}{}, {} threads: medians of {} rounds{}\n\n", c.device.str(), card.empty() ? "" : " (" + card + ")",
             c.peer ? " and " + c.peer->version() : "", omp_get_max_threads(), c.rounds, c.peer ? " taken in turn" : "");
  fmt::print("{}", table_head());
  for (const DeviceWork& w : device_works(c.device, c.tiny)) c.attempt(w.name, [&] { c.measure(w); });
  c.attempt(c.launches, [&] { c.measure_launches(); });
  c.attempt(c.gpt2_name("PyTorch"), [&] { c.measure_gpt2("eager", "PyTorch", 1.1); });
  if (c.peer) c.attempt(c.gpt2_name("torch.compile"), [&] { c.measure_gpt2("compiled", "torch.compile", 1.0); });
  if (c.rows.empty()) throw Error(fmt::format("bench: no work has \"{}\" in its name", c.filter));
  return std::all_of(c.rows.begin(), c.rows.end(), [](const Row& r) { return r.pass(); }) ? 0 : 1;
} catch (const Error& e) {
  fmt::print(stderr, "error: {}\n", e.what());
  return 2;
}

}  // namespace retape::bench
