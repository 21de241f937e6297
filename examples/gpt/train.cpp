#include "train.h"

#include <fmt/format.h>
#include <omp.h>

#include <chrono>
#include <cmath>
#include <filesystem>

#include <examples/common/cli.h>
#include <examples/common/interrupt.h>
#include <examples/common/metrics.h>
#include <examples/common/plot.h>
#include <examples/common/progress.h>
#include <examples/common/run_folder.h>
#include <retape/io/file.h>

#include "run_files.h"

namespace retape::gpt {
namespace fs = std::filesystem;
namespace {

constexpr int64_t report_every = 10;  // steps between rows of metrics.csv

void check(const TrainOptions& o) {
  auto at_least = [](const char* flag, double value, double low) {
    if (!(value >= low)) throw Error(fmt::format("{} {} is not valid; it must be at least {}", flag, value, low));
  };
  at_least("--batch", double(o.batch), 1), at_least("--accumulate", double(o.accumulate), 1), at_least("--steps", double(o.steps), 1);
  at_least("--warmup", double(o.warmup), 0), at_least("--eval-every", double(o.eval_every), 1), at_least("--keep", double(o.keep), 1),
      at_least("--lr", o.lr, 0), at_least("--min-lr", o.min_lr, 0);
  at_least("--sample-tokens", double(o.sample_tokens), 0);
  at_least("--memory-budget", double(o.memory_budget), 0);
  at_least("--weight-decay", o.weight_decay, 0), at_least("--clip", o.clip, 0), at_least("--threads", o.threads, 0);
  if (o.min_lr > o.lr) throw Error(fmt::format("--min-lr {} is above --lr {}", o.min_lr, o.lr));
}

// A resumed run keeps its settings; a flag that says otherwise is an error, unless it may change.
void take_settings_of(const fs::path& run, TrainOptions& o) {
  TrainOptions before = read_config(run);
  auto must_equal = [&](const char* flag, auto given, auto stored) {
    if (o.given.contains(flag) && given != stored)
      throw Error(
          fmt::format("{} {} does not fit the run to resume, which has {}; leave the flag out, or start a new run", flag, given, stored));
  };
  must_equal("--layers", o.model.layers, before.model.layers), must_equal("--heads", o.model.heads, before.model.heads);
  must_equal("--width", o.model.width, before.model.width), must_equal("--block", o.model.block, before.model.block);
  must_equal("--dropout", o.model.dropout, before.model.dropout), must_equal("--batch", o.batch, before.batch);
  must_equal("--accumulate", o.accumulate, before.accumulate), must_equal("--lr", o.lr, before.lr),
      must_equal("--min-lr", o.min_lr, before.min_lr);
  must_equal("--warmup", o.warmup, before.warmup), must_equal("--beta1", o.beta1, before.beta1),
      must_equal("--beta2", o.beta2, before.beta2);
  must_equal("--weight-decay", o.weight_decay, before.weight_decay), must_equal("--clip", o.clip, before.clip),
      must_equal("--seed", o.seed, before.seed), must_equal("--tokenizer", o.tokenizer, before.tokenizer);
  must_equal("--amp", o.amp, before.amp);
  if (o.given.contains("--device")) before.device = o.device;
  for (const char* flag : {"--out", "--weights", "--vocab"})
    if (o.given.contains(flag))
      throw Error(fmt::format(
          "{} and --resume exclude each other: a resumed run goes on in its own folder with its own weights and vocabulary", flag));
  if (o.given.contains("--data")) before.data = o.data;
  if (o.given.contains("--data-format")) before.data_format = o.data_format;
  if (o.given.contains("--steps")) before.steps = o.steps;
  if (o.given.contains("--eval-every")) before.eval_every = o.eval_every;
  if (o.given.contains("--recompute")) before.model.recompute = o.model.recompute;
  if (o.given.contains("--memory-budget")) before.memory_budget = o.memory_budget;
  if (o.given.contains("--keep")) before.keep = o.keep;
  if (o.given.contains("--sample-tokens")) before.sample_tokens = o.sample_tokens;
  before.threads = o.threads, before.quiet = o.quiet, before.resume = o.resume, before.given = o.given;
  o = before;
}

// Where a run goes on; its settings are in `o` then. A run that was stopped before its first checkpoint begins again, with its own
// settings or, if it had not even written those, with the ones that are given.
examples::ResumePoint resume(TrainOptions& o) {
  auto point = examples::find_resume_point(o.resume);
  const std::string run = point.run.string();
  const bool has_settings = point.checkpoint || fs::exists(point.run / "config.json");
  if (has_settings) {
    take_settings_of(point.run, o);
  } else {
    if (!examples::holds_only(point.run, {"tokenizer.json"}))
      throw Error(fmt::format("--resume {}: it has neither a checkpoint nor config.json but other files, so it is no run", run));
    if (o.data.empty())
      throw Error(fmt::format("--resume {}: the run was stopped before it wrote config.json; give --data and its settings again", run));
    if (o.given.contains("--out")) throw Error("--out and --resume exclude each other: a resumed run goes on in its own folder");
  }
  if (!point.checkpoint && !o.quiet)
    fmt::print(stderr, "{} has no checkpoint; starting from the beginning with {}\n", run,
               has_settings ? "the run's own settings" : "the settings given, since it has no config.json either");
  return point;
}

std::vector<ParamGroup<AdamWOptions>> groups(const Gpt& model, const TrainOptions& o) {
  ParamGroup<AdamWOptions> matrices{{}, {.lr = o.lr, .betas = {o.beta1, o.beta2}, .weight_decay = o.weight_decay}}, vectors = matrices;
  vectors.options.weight_decay = 0;
  for (auto& p : model.parameters()) (p.dim() >= 2 ? matrices : vectors).params.push_back(p);
  return {matrices, vectors};
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// In the precision that --amp says.
Tensor loss_of(Gpt& model, const TokenBatch& batch, const TrainOptions& o) {
  const Device device = model.device();
  const Autocast amp(o.amp == "f16" ? DType::f16 : DType::bf16, o.amp != "none");
  return model.loss(to(batch.x, device), to(batch.y, device));
}

// The mean loss over the whole validation part, in blocks that follow each other.
double validate(Gpt& model, const TokenDataset& data, const TrainOptions& o) {
  const NoGrad off;
  model.eval();
  double total = 0, tokens = 0;
  // Larger than in training, since nothing is kept for backward, but at most 2^27 logits.
  // Under a memory budget what fits is known for batches as in training only.
  const int64_t rows =
      o.memory_budget ? o.batch : std::max<int64_t>(1, std::min(int64_t{16384}, (int64_t{1} << 27) / o.model.vocab) / o.model.block);
  for (int64_t i = 0; i < data.batches(rows); ++i) {
    const TokenBatch batch = data.batch(i, rows);
    const double n = double(batch.y.numel());
    total += loss_of(model, batch, o).item() * n;
    tokens += n;
  }
  model.train();
  return total / tokens;
}

void plot(const fs::path& run, const std::vector<examples::MetricsRow>& rows) {
  examples::Curve train{"training", {}, {}}, validation{"validation", {}, {}};
  for (auto& row : rows) {
    train.x.push_back(double(row.step)), train.y.push_back(row.train_loss);
    if (row.val_loss) validation.x.push_back(double(row.step)), validation.y.push_back(*row.val_loss);
  }
  write_file_atomically(
      run / "loss.svg",
      examples::to_svg(
          {.title = run.filename().string(), .x_label = "step", .y_label = "loss (nats a token)", .curves = {train, validation}}));
}

// What --data is, as the flag or the file itself says.
std::string format_of_data(const TrainOptions& o) {
  if (o.data_format != "auto") return o.data_format;
  return fs::is_regular_file(o.data) && TokenFile::has_header(o.data) ? "tokens" : "text";
}

TokenDataset open_data(const TrainOptions& o, const std::string& format, const Tokenizer& tokenizer, const std::string& text) {
  const TokenDatasetOptions options{.block = o.model.block, .seed = o.seed};
  if (format == "text") return TokenDataset(tokenizer.encode(text), options);
  const TokenFile file = TokenFile::open(o.data, format == "u16" ? TokenLayout::u16 : TokenLayout::with_header);
  if (format == "tokens" && file.vocabulary() != tokenizer.size())
    throw Error(fmt::format("{} was made with a vocabulary of {}, but the tokenizer has {}", o.data, file.vocabulary(), tokenizer.size()));
  return TokenDataset(file, options);
}

std::shared_ptr<const Tokenizer> tokenizer_for(TrainOptions& o, const std::string& format, std::string_view text) {
  std::string from = o.vocab;
  if (from.empty() && format != "text") {
    from = (fs::path(o.data).parent_path() / "tokenizer.json").string();
    if (!fs::exists(from))
      throw Error(fmt::format("{} has token ids, and there is no tokenizer.json beside it; name their vocabulary with --vocab", o.data));
  }
  if (from.empty()) {
    if (o.tokenizer != "char")
      throw Error(
          fmt::format("--tokenizer {} needs --vocab: a folder with encoder.json and vocab.bpe, or vocab.json and merges.txt", o.tokenizer));
    return std::make_shared<const CharTokenizer>(CharTokenizer::from_text(text));
  }
  auto tokenizer = load_tokenizer(from);
  if (o.given.contains("--tokenizer") && o.tokenizer != tokenizer->type())
    throw Error(fmt::format("--tokenizer {} does not fit {}, which is a vocabulary of {}", o.tokenizer, from, tokenizer->type()));
  o.tokenizer = tokenizer->type();
  return tokenizer;
}

}  // namespace

void tokenize(const TrainOptions& options) {
  TrainOptions o = options;
  const Ref<MappedFile> text = MappedFile::open(o.data);
  const auto tokenizer = tokenizer_for(o, "text", {reinterpret_cast<const char*>(text->data()), text->size()});
  const fs::path folder = examples::create_run_folder("gpt-tokens", o.out);
  tokenizer->save(folder / "tokenizer.json");
  const int64_t count = tokenize_file(*tokenizer, o.data, folder / "tokens.bin");
  if (!o.quiet)
    fmt::print("{} tokens (vocabulary of {}); train with: --data {}\n", count, tokenizer->size(), (folder / "tokens.bin").string());
}

void train(const TrainOptions& options) {
  TrainOptions o = options;
  examples::ResumePoint point;
  if (!o.resume.empty()) point = resume(o);
  const auto& from = point.checkpoint;
  check(o);
  const Device device = examples::device_of(o.device);
  o.device = device.str();
  if (o.threads > 0) omp_set_num_threads(o.threads);
  if (o.data.empty()) throw Error("--data is missing: name a text file to train on");

  // The data and its vocabulary; a resumed run keeps the one it was started with.
  const std::string format = format_of_data(o), text = format == "text" ? read_file(o.data) : "";
  if (format == "text" && text.empty()) throw Error(fmt::format("{} is empty; there is nothing to train on", o.data));
  const bool has_settings = !point.run.empty() && fs::exists(point.run / "config.json");  // it is written after tokenizer.json
  const auto tokenizer = has_settings ? read_tokenizer(point.run, o.model) : tokenizer_for(o, format, text);
  o.model.vocab = tokenizer->size();
  check(o.model);
  TokenDataset data = open_data(o, format, *tokenizer, text);

  manual_seed(o.seed);
  Gpt model(o.model);
  if (!o.weights.empty()) model.load_state_dict(SafeTensors::open(o.weights).tensors());
  model.to(device);
  AdamW optimizer(groups(model, o));
  GradScaler scaler({.enabled = o.amp == "f16"});
  Progression at;
  if (from) at = read_checkpoint(from->path, model, optimizer, scaler, data);
  if (at.step > o.steps) throw Error(fmt::format("the checkpoint is at step {}, after --steps {}; give more steps", at.step, o.steps));

  const fs::path run = point.run.empty() ? examples::create_run_folder("gpt", o.out) : point.run;
  tokenizer->save(run / "tokenizer.json");
  write_config(run, o);
  auto metrics = from ? examples::MetricsFile(run / "metrics.csv", at.step) : examples::MetricsFile(run / "metrics.csv");
  if (!o.quiet)
    fmt::print(stderr, "{} tokens (vocabulary of {}), {} parameters, {}; writing to {}\n", data.size(Split::train) + data.size(Split::val),
               tokenizer->size(), model.num_parameters(), device.is_cpu() ? fmt::format("{} threads", omp_get_max_threads()) : device.str(),
               run.string());

  const WarmupCosine schedule{.lr = o.lr, .min_lr = o.min_lr, .warmup = o.warmup, .steps = o.steps};
  const int64_t tokens_per_step = o.batch * o.model.block * o.accumulate;
  const examples::InterruptGuard interrupt;
  std::optional<MemoryBudget> budget;
  if (o.memory_budget) budget.emplace(o.memory_budget, MemoryBudgetOptions{.device = device});
  examples::Progress progress(o.steps, {.first_step = at.step, .quiet = o.quiet});
  const auto params = model.parameters();
  double seconds_before = at.seconds, loss_sum = 0, loss_value = NAN;
  int64_t loss_count = 0, unread_count = 0;
  Tensor unread;  // the sum of the losses that are still on the device only
  auto start = std::chrono::steady_clock::now();

  while (at.step < o.steps && !interrupt.requested()) {
    const double lr = schedule(at.step);
    optimizer.set_lr(lr);
    optimizer.zero_grad();
    for (int64_t i = 0; i < o.accumulate; ++i) {
      const TokenBatch batch = data.sample(o.batch);
      Tensor loss = loss_of(model, batch, o);
      if (o.accumulate > 1) loss = loss / double(o.accumulate);
      backward(scaler.scale(loss));
      const Tensor value = cast(loss.detach(), DType::f64);
      unread = unread ? unread + value : value;
    }
    if (o.clip > 0) {
      scaler.unscale_(optimizer);
      clip_grad_norm(params, o.clip);
    }
    scaler.step(optimizer);
    scaler.update();
    ++at.step, ++unread_count;
    const bool last = at.step == o.steps, stop = interrupt.requested(), evaluate = last || at.step % o.eval_every == 0;
    const bool report = at.step % report_every == 0 || evaluate || stop;
    if (!device.is_cpu() && !report && !std::isnan(loss_value)) {  // to read the loss would wait for the device
      progress.update(at.step, loss_value, tokens_per_step);
      continue;
    }
    const double losses = unread.item();
    loss_sum += losses, loss_count += unread_count, loss_value = losses / double(unread_count);
    unread = {}, unread_count = 0;
    if (!std::isfinite(loss_value))
      throw Error(fmt::format("the loss is {} at step {}; a smaller --lr or a --clip may help. Earlier checkpoints in {} are intact",
                              loss_value, at.step, run.string()));
    progress.update(at.step, loss_value, tokens_per_step);

    if (!report) continue;
    at.seconds = seconds_before + seconds_since(start);
    examples::MetricsRow row{.step = at.step,
                             .train_loss = loss_sum / double(loss_count),
                             .val_loss = {},
                             .lr = lr,
                             .tokens_per_s = progress.tokens_per_second(),
                             .seconds = at.seconds};
    loss_sum = 0, loss_count = 0;
    if (evaluate) {
      row.val_loss = validate(model, data, o);
      progress.note(fmt::format("step {}: training loss {:.4f}, validation loss {:.4f}", at.step, row.train_loss, *row.val_loss));
    }
    examples::write_to_run(run, [&] {
      metrics.append(row);
      if (!evaluate && !stop) return;
      examples::save_checkpoint(run, at.step,
                                [&](const fs::path& folder) { write_checkpoint(folder, at, model, optimizer, scaler, data); });
      examples::prune_checkpoints(run, int(o.keep), at.step);
      plot(run, metrics.rows());
    });
  }
  progress.finish();
  budget.reset();
  if (!metrics.rows().empty()) plot(run, metrics.rows());  // also after a run that was stopped while it drew this

  if (at.step < o.steps) {
    if (!o.quiet) fmt::print("stopped at step {}; go on with: ./run train gpt --resume {}\n", at.step, run.string());
    return;
  }
  if (o.sample_tokens == 0) {
    if (!o.quiet) fmt::print("run folder: {}\n", run.string());
    return;
  }
  model.eval();
  Generator generator(o.seed);
  const std::string sample = tokenizer->decode(model.generate(start_of_text(*tokenizer), o.sample_tokens, 0.8, 200, generator));
  write_file_atomically(run / "samples.txt", fmt::format("step {}, temperature 0.8, top-k 200:\n{}\n", at.step, sample));
  if (!o.quiet) fmt::print("\n{}\n\nrun folder: {}\n", sample, run.string());
}

}  // namespace retape::gpt
