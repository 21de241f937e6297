#include "compare.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <sstream>

#include <fmt/format.h>
#include <omp.h>

#include <examples/common/cli.h>
#include <examples/common/metrics.h>
#include <examples/common/plot.h>
#include <retape/io/file.h>

#include "mixers.h"
#include "ngram.h"

namespace retape::lm {
namespace fs = std::filesystem;
namespace {

std::vector<std::string> parts_of(const std::string& list) {
  std::vector<std::string> parts;
  std::istringstream in(list);
  for (std::string part; std::getline(in, part, ',');) parts.push_back(part);
  return parts;
}
std::vector<int64_t> contexts_of(const CompareOptions& o) {
  std::vector<int64_t> all;
  for (auto& part : parts_of(o.contexts)) {
    int64_t n = 0;
    const auto [stop, error] = std::from_chars(part.data(), part.data() + part.size(), n);
    if (error != std::errc() || stop != part.data() + part.size() || n < 1)
      throw Error(fmt::format("--contexts {} is not valid; expected numbers of tokens with commas between them", o.contexts));
    all.push_back(n);
  }
  return all;
}

// The width whose model has nearest to as many parameters: a multiple of 16, and of what heads want.
int64_t width_for(Config c, int64_t parameters) {
  const nn::DefaultOptions shapes_only({.device = Device::meta()});
  const int64_t unit = std::lcm(int64_t{16}, 2 * c.heads);
  int64_t best = unit, distance = INT64_MAX;
  for (c.width = unit;; c.width += unit) {
    const int64_t off = make_model(c).num_parameters() - parameters;
    if (std::abs(off) < distance) best = c.width, distance = std::abs(off);
    if (off >= 0) return best;
  }
}

TrainOptions train_options(const CompareOptions& o, const Config& model, const fs::path& folder) {
  TrainOptions t;
  static_cast<examples::RunOptions&>(t) = o;
  static_cast<TextOptions&>(t) = o;
  t.model = model, t.batch = o.batch, t.steps = o.steps, t.lr = o.lr, t.min_lr = o.lr / 10, t.warmup = std::min<int64_t>(100, o.steps / 5);
  t.eval_every = std::max<int64_t>(1, o.steps / 5), t.sample_tokens = 0, t.keep = 1;
  t.out = folder.string();
  return t;
}

std::vector<examples::MetricsRow> metrics_of(const fs::path& run) {
  const fs::path file = run / "metrics.csv";
  if (!fs::exists(file)) return {};
  return examples::read_metrics(file, {"train_loss", "val_loss", "lr", "memory_mib", "tokens_per_s", "seconds"});
}

// What is in a run's folder already was trained with these settings.
void check_same(const examples::Settings& settings, const fs::path& run) {
  const nlohmann::json asked = settings.to_json(), stored = examples::read_json(run / "config.json");
  for (auto& [key, value] : asked.items()) {
    const bool of_one_call = key == "device" || key == "threads" || key == "keep";
    if (!of_one_call && stored.contains(key) && stored[key] != value)
      throw Error(fmt::format("{} was trained with \"{}\" {}, not {}; name another folder with --out", run.string(), key,
                              stored[key].dump(), value.dump()));
  }
}

// Seconds for a token behind a context, the median of several.
double seconds_per_token(Config c, int64_t context, Device device) {
  constexpr int64_t piece = 512, timed = 32;
  const NoGrad off;
  c.block = context + timed;
  nn::LanguageModel model = make_model(c);
  model.to(device);
  model.eval();
  nn::LanguageModel::State state;
  const auto read = [&](int64_t tokens) { model.step(to(randint(0, c.vocab, {1, tokens}), device), state).to_vector<double>(); };
  for (int64_t at = 0; at < context; at += piece) read(std::min(piece, context - at));
  std::vector<double> seconds;
  for (int64_t i = 0; i < timed; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    read(1);
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  std::nth_element(seconds.begin(), seconds.begin() + timed / 2, seconds.end());
  return seconds[timed / 2];
}

struct Row {
  std::string name = {};
  int64_t width = 0, parameters = 0;
  double loss = 0, tokens_per_s = 0, memory_mib = 0;
  std::vector<double> ms_per_token = {};
};
void write_table(const fs::path& out, const std::vector<Row>& rows, const std::vector<int64_t>& contexts,
                 const std::vector<examples::Curve>& curves) {
  std::string csv = "mixer,width,parameters,validation_loss,tokens_per_s,memory_mib";
  std::string text = "| mixer | width | parameters | validation loss | tokens/s | memory, MiB |", line = "|---|---|---|---|---|---|";
  for (const int64_t n : contexts) csv += fmt::format(",ms_at_{}", n), text += fmt::format(" ms a token at {} |", n), line += "---|";
  csv += "\n", text += "\n" + line + "\n";
  const auto number = [](double x, const char* format) { return x ? fmt::format(fmt::runtime(format), x) : std::string(); };
  for (const Row& r : rows) {
    const std::string cells[] = {r.name,
                                 r.width ? std::to_string(r.width) : "",
                                 std::to_string(r.parameters),
                                 fmt::format("{:.4f}", r.loss),
                                 number(r.tokens_per_s, "{:.0f}"),
                                 number(r.memory_mib, "{:.0f}")};
    csv += fmt::format("{}", fmt::join(cells, ",")), text += fmt::format("| {} |", fmt::join(cells, " | "));
    for (size_t i = 0; i < contexts.size(); ++i) {
      const std::string ms = i < r.ms_per_token.size() ? fmt::format("{:.3f}", r.ms_per_token[i]) : "";
      csv += "," + ms, text += fmt::format(" {} |", ms);
    }
    csv += "\n", text += "\n";
  }
  write_file_atomically(out / "table.csv", csv);
  write_file_atomically(out / "table.md", text);
  write_file_atomically(out / "loss.svg", examples::to_svg({.title = "mixers",
                                                            .x_label = "step",
                                                            .y_label = "validation loss (nats a token)",
                                                            .curves = curves,
                                                            .width = 900,
                                                            .height = 640}));
}

}  // namespace

void declare_compare(examples::Settings& settings, CompareOptions& o) {
  std::vector<std::string> names;
  for (const Mixer& m : mixers()) names.push_back(m.name);
  o.mixers = fmt::format("{}", fmt::join(names, ","));
  declare_text(settings, o, examples::OnResume::replace);
  settings.add("--mixers", o.mixers, "which, with commas between them");
  settings.add("--parameters", o.parameters, "of each model, as nearly as its width allows").at_least(1);
  settings.add("--layers", o.model.layers, "blocks").at_least(1);
  settings.add("--heads", o.model.heads, "heads of mixers that have some").at_least(1);
  settings.add("--block", o.model.block, "tokens of a sequence").at_least(1);
  settings.add("--batch", o.batch, "sequences in a step").at_least(1);
  settings.add("--steps", o.steps, "optimizer steps").at_least(1);
  settings.add("--lr", o.lr, "highest learning rate").above(0);
  settings.add("--order", o.order, "tokens of the longest n-gram of the baseline").at_least(1);
  settings.add("--contexts", o.contexts, "tokens before those that generation is timed on");
  settings.add("--out", o.out, "folder for the runs, table.md, table.csv and loss.svg; what is there is taken as it is").required();
  settings.add("--device", o.device, examples::device_help);
  settings.add("--threads", o.threads, "threads; 0 takes all cores").at_least(0);
  settings.add("--seed", o.seed, "start of all random numbers");
  settings.add("--quiet", o.quiet, "print no progress");
}

void compare(CompareOptions& o, examples::Settings& settings) {
  settings.check();
  if (o.threads > 0) omp_set_num_threads(int(o.threads));
  const std::vector<int64_t> contexts = contexts_of(o);
  std::vector<std::string> names = parts_of(o.mixers);
  for (auto& name : names) mixer_named(name);
  const Device device = examples::device_of(o.device);
  const Text text(o, settings);
  std::error_code error;
  fs::create_directories(o.out, error);
  if (error) throw Error(fmt::format("cannot create {}: {}", o.out, error.message()));

  std::vector<Row> rows;
  std::vector<examples::Curve> curves;
  {
    const TokenDataset data = text.dataset({.block = o.model.block});
    const std::vector<int64_t> tokens = in_order(data, Split::train), validation = in_order(data, Split::val);
    std::vector<int64_t> all = tokens;
    all.insert(all.end(), validation.begin(), validation.end());
    Row best{.loss = INFINITY};
    for (int64_t order = 1; order <= o.order; ++order) {
      const NgramModel model(tokens, order, text.tokenizer().size());
      const double loss = model.loss(all, int64_t(tokens.size()));
      if (loss < best.loss) best = {.name = fmt::format("{}-gram", order), .parameters = model.size(), .loss = loss};
    }
    rows.push_back(best);
    curves.push_back({best.name, {0, double(o.steps)}, {best.loss, best.loss}});
  }
  for (auto& name : names) {
    Config model = o.model;
    model.mixer = name, model.vocab = text.tokenizer().size();
    model.width = width_for(model, o.parameters);
    const fs::path folder = fs::path(o.out) / name;
    const auto done = [&] {
      const auto metrics = metrics_of(folder);
      return !metrics.empty() && metrics.back().step == o.steps;
    };
    TrainOptions t = train_options(o, model, folder);
    examples::Settings of_run;
    declare(of_run, t);
    if (fs::exists(folder / "config.json")) check_same(of_run, folder);
    if (!done()) {
      if (fs::exists(folder)) t.resume = folder.string(), t.out.clear();
      reset_peak_memory(device);
      train(t, of_run);
      if (!done()) return;  // it was stopped, and has said how to go on
    }
    Row row{.name = name, .width = model.width};
    {
      const nn::DefaultOptions shapes_only({.device = Device::meta()});
      row.parameters = make_model(model).num_parameters();
    }
    examples::Curve curve{.name = name};
    std::vector<double> rates;
    for (auto& m : metrics_of(folder)) {
      if (const auto loss = m["val_loss"]) curve.x.push_back(double(m.step)), curve.y.push_back(row.loss = *loss);
      if (const auto rate = m["tokens_per_s"]) rates.push_back(*rate);
      if (const auto memory = m["memory_mib"]) row.memory_mib = std::max(row.memory_mib, *memory);
    }
    std::nth_element(rates.begin(), rates.begin() + rates.size() / 2, rates.end());
    row.tokens_per_s = rates[rates.size() / 2];
    for (const int64_t context : contexts) row.ms_per_token.push_back(1e3 * seconds_per_token(model, context, device));
    rows.push_back(row), curves.push_back(curve);
    write_table(o.out, rows, contexts, curves);
    if (o.quiet) continue;
    fmt::print("{}: width {}, {} parameters, validation loss {:.4f}, {:.0f} tokens/s, {:.0f} MiB; {:.3f} ms a token\n", name, row.width,
               row.parameters, row.loss, row.tokens_per_s, row.memory_mib, fmt::join(row.ms_per_token, ", "));
    std::fflush(stdout);  // the next one takes a while
  }
  fmt::print("{}", read_file(fs::path(o.out) / "table.md"));
}

}  // namespace retape::lm
