#include "train.h"

#include <filesystem>

#include <fmt/format.h>

#include <retape/io/file.h>

#include "mixers.h"
#include "run_files.h"

namespace retape::lm {
namespace fs = std::filesystem;
namespace {

std::vector<ParamGroup<AdamWOptions>> groups(const nn::LanguageModel& model, const TrainOptions& o) {
  ParamGroup<AdamWOptions> matrices{{}, {.lr = o.lr, .betas = {o.beta1, o.beta2}, .weight_decay = o.weight_decay}}, vectors = matrices;
  vectors.options.weight_decay = 0;
  for (auto& p : model.parameters()) (p.dim() >= 2 ? matrices : vectors).params.push_back(p);
  return {matrices, vectors};
}

// Flags that only some mixers have.
void check_flags(const examples::Settings& settings, const Config& c) {
  const Mixer& mixer = mixer_named(c.mixer);
  for (const Mixer& other : mixers())
    for (auto& flag : other.flags)
      if (settings.given(flag) && !mixer.has(flag)) throw Error(fmt::format("{} is not for --mixer {}, which has no such thing", flag, c.mixer));
}

// The flags of a model, and what config.json holds of it.
void declare_model(examples::Settings& settings, Config& c) {
  std::vector<std::string> names;
  std::string help = "what mixes the sequence.";
  for (const Mixer& m : mixers()) {
    names.push_back(m.name);
    help += fmt::format("{} {}: {}", names.size() > 1 ? ";" : "", m.name, m.what);
  }
  settings.store("vocab", c.vocab);
  settings.add("--mixer", c.mixer, help).one_of(names).may_be_missing();
  settings
      .add("--positions", c.positions,
           "what tells the tokens' places: learned: a vector for each of --block; sinusoidal; none: the mixer itself; auto: what goes with the mixer")
      .one_of({"auto", "learned", "sinusoidal", "none"})
      .may_be_missing();
  settings.add("--mlp", c.mlp, "what follows a mixer: gelu: two layers; swiglu: three, with a gate; own: the mixer's (rwkv); none; auto: what goes with the mixer")
      .one_of({"auto", "gelu", "swiglu", "own", "none"})
      .may_be_missing();
  settings.add("--layers", c.layers, "blocks").at_least(1);
  settings.add("--heads", c.heads, "heads of a mixer that has some; divides the width").at_least(1);
  settings.add("--state", c.state, "numbers that a state has for each channel or feature; 0: as many as go with the mixer").at_least(0).may_be_missing();
  settings.add("--chunk", c.chunk, "positions of a chunk of flash and transnormer").at_least(1).may_be_missing();
  settings.add("--width", c.width, "size of a token's vector").at_least(1);
  settings.add("--block", c.block, "tokens of a sequence in training").at_least(1);
  settings.add("--dropout", c.dropout, "probability of dropping a value").at_least(0).below(1);
}

// In the precision that --amp says.
Tensor loss_of(nn::LanguageModel& model, const TokenBatch& batch, const TrainOptions& o) {
  const Device device = model.device();
  const Autocast amp = examples::autocast(o);
  return model.loss(to(batch.x, device), to(batch.y, device));
}

// The mean loss over the whole validation part, in blocks that follow each other.
double validate(nn::LanguageModel& model, const TokenDataset& data, const TrainOptions& o) {
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

std::shared_ptr<const Tokenizer> tokenizer_for(TrainOptions& o, const examples::Settings& settings, const std::string& format,
                                               std::string_view text) {
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
  if (settings.given("--tokenizer") && o.tokenizer != tokenizer->type())
    throw Error(fmt::format("--tokenizer {} does not fit {}, which is a vocabulary of {}", o.tokenizer, from, tokenizer->type()));
  o.tokenizer = tokenizer->type();
  return tokenizer;
}

}  // namespace

void declare_tokenizer(examples::Settings& settings, TrainOptions& o) {
  settings.add("--tokenizer", o.tokenizer, "char: the text's characters; gpt2: byte pair encoding, with --vocab").one_of({"char", "gpt2"});
  settings
      .add("--vocab", o.vocab, "vocabulary: a folder with encoder.json and vocab.bpe, or vocab.json and merges.txt, or a tokenizer.json",
           examples::OnResume::refuse)
      .not_stored();
}

void declare(examples::Settings& settings, TrainOptions& o) {
  settings
      .add("--data", o.data, "text file (UTF-8), or tokens.bin that tokenize has made, to train on; the last 10% of it validates",
           examples::OnResume::replace)
      .path()
      .required();
  settings
      .add("--data-format", o.data_format,
           "text; tokens: with our header; u16: ids of two bytes, as nanoGPT writes them; auto: text or tokens",
           examples::OnResume::replace)
      .one_of({"auto", "text", "tokens", "u16"});
  declare_tokenizer(settings, o);
  declare_model(settings, o.model);
  settings.add("--batch", o.batch, "sequences in a step").at_least(1);
  settings.add("--accumulate", o.accumulate, "batches whose gradients are added up for a step").at_least(1);
  settings.add("--steps", o.steps, "optimizer steps, also the length of the learning rate's cosine", examples::OnResume::replace)
      .at_least(1);
  settings.add("--lr", o.lr, "highest learning rate").at_least(0);
  settings.add("--min-lr", o.min_lr, "learning rate at the end").at_least(0);
  settings.add("--warmup", o.warmup, "steps in which the learning rate rises").at_least(0);
  settings.add("--beta1", o.beta1, "AdamW: decay of the first moment");
  settings.add("--beta2", o.beta2, "AdamW: decay of the second moment");
  settings.add("--weight-decay", o.weight_decay, "AdamW: decay of matrices (vectors have none)").at_least(0);
  settings.add("--clip", o.clip, "largest norm of the gradient; 0 does not clip").at_least(0);
  settings.add("--eval-every", o.eval_every, "steps between validations, each with a checkpoint", examples::OnResume::replace).at_least(1);
  settings.add("--sample-tokens", o.sample_tokens, "length of the sample at the end; 0: none", examples::OnResume::replace).at_least(0);
  settings.add("--weights", o.weights, "start from the weights of this .safetensors file", examples::OnResume::refuse).path();
  examples::declare_common(settings, o, program);
}

void declare_tokenize(examples::Settings& settings, TrainOptions& o) {
  settings.add("--data", o.data, "text file (UTF-8); may be larger than memory").required();
  settings.add("--out", o.out, "folder to create for tokens.bin and tokenizer.json").required();
  declare_tokenizer(settings, o);
  settings.add("--quiet", o.quiet, "print nothing but errors");
}

void tokenize(TrainOptions& o, examples::Settings& settings) {
  settings.check();
  const Ref<MappedFile> text = MappedFile::open(o.data);
  const auto tokenizer = tokenizer_for(o, settings, "text", {reinterpret_cast<const char*>(text->data()), text->size()});
  const fs::path folder = examples::create_run_folder(program + "-tokens", o.out);
  tokenizer->save(folder / "tokenizer.json");
  const int64_t count = tokenize_file(*tokenizer, o.data, folder / "tokens.bin");
  if (!o.quiet)
    fmt::print("{} tokens (vocabulary of {}); train with: --data {}\n", count, tokenizer->size(), (folder / "tokens.bin").string());
}

void train(TrainOptions& o, examples::Settings& settings) {
  examples::Run run(program, settings, o, {"tokenizer.json"});
  if (o.min_lr > o.lr) throw Error(fmt::format("--min-lr {} is above --lr {}", o.min_lr, o.lr));

  // The data and its vocabulary; a resumed run keeps the one it was started with.
  const std::string format = format_of_data(o), text = format == "text" ? read_file(o.data) : "";
  if (format == "text" && text.empty()) throw Error(fmt::format("{} is empty; there is nothing to train on", o.data));
  const auto tokenizer = run.has_settings() ? read_tokenizer(run.folder(), o.model) : tokenizer_for(o, settings, format, text);
  o.model.vocab = tokenizer->size(), o.model.recompute = o.recompute;
  check_flags(settings, o.model);
  check(o.model);
  TokenDataset data = open_data(o, format, *tokenizer, text);

  manual_seed(o.seed);
  nn::LanguageModel model = make_model(o.model);
  if (!o.weights.empty() && !run.checkpoint()) model.load_state_dict(SafeTensors::open(o.weights).tensors());
  model.to(run.device());
  AdamW optimizer(groups(model, o));
  GradScaler scaler({.enabled = o.amp == "f16"});
  run.restore(model, optimizer, scaler);
  if (run.checkpoint()) {
    const auto loader = run.state<std::array<uint64_t, 2>>("loader");
    data.set_state({loader[0], loader[1]});
  }
  run.begin({.steps = o.steps,
             .eval_every = o.eval_every,
             .columns = {"train_loss", "val_loss", "lr"},
             .charts = {{"loss.svg", "loss (nats a token)", {{"train_loss", "training"}, {"val_loss", "validation"}}}}},
            [&](const fs::path& folder) { tokenizer->save(folder / "tokenizer.json"); });
  run.note(fmt::format("{} tokens (vocabulary of {}), {} parameters, {}; writing to {}", data.size(Split::train) + data.size(Split::val),
                       tokenizer->size(), model.num_parameters(), run.place(), run.folder().string()));

  const WarmupCosine schedule{.lr = o.lr, .min_lr = o.min_lr, .warmup = o.warmup, .steps = o.steps};
  const int64_t tokens_per_step = o.batch * o.model.block * o.accumulate;
  const auto params = model.parameters();
  while (run.goes_on()) {
    const double lr = schedule(run.step());
    optimizer.set_lr(lr);
    optimizer.zero_grad();
    for (int64_t i = 0; i < o.accumulate; ++i) {
      const Tensor loss = loss_of(model, data.sample(o.batch), o);
      backward(scaler.scale(o.accumulate > 1 ? loss / double(o.accumulate) : loss));
      run.add_loss(loss);
    }
    if (o.clip > 0) {
      scaler.unscale_(optimizer);
      clip_grad_norm(params, o.clip);
    }
    scaler.step(optimizer);
    scaler.update();
    run.advance(tokens_per_step);
    if (!run.reports()) continue;
    std::map<std::string, double> row{{"train_loss", run.mean_loss()}, {"lr", lr}};
    if (run.evaluates()) {
      row["val_loss"] = validate(model, data, o);
      run.note(fmt::format("step {}: training loss {:.4f}, validation loss {:.4f}", run.step(), row["train_loss"], row["val_loss"]));
    }
    run.report(row);
    if (!run.saves()) continue;
    run.save([&](const fs::path& folder, nlohmann::json& state) {
      examples::save_training(folder, state, model, optimizer, scaler);
      state["loader"] = {data.state().seed, data.state().offset};
    });
  }
  if (!run.finish()) return;
  if (o.sample_tokens == 0) return run.print_folder();
  model.eval();
  Generator generator(o.seed);
  const std::string sample = tokenizer->decode(model.generate(start_of_text(*tokenizer), o.sample_tokens, {.temperature = 0.8, .top_k = 200}, generator));
  write_file_atomically(run.folder() / "samples.txt", fmt::format("step {}, temperature 0.8, top-k 200:\n{}\n", run.step(), sample));
  if (!o.quiet) fmt::print("\n{}\n\n", sample);
  run.print_folder();
}

}  // namespace retape::lm
