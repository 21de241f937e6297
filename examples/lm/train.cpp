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

// Flags that only some mixers have, and those that a model of transformers has in its own config.json.
void check_flags(const examples::Settings& settings, const Config& c) {
  if (!c.hugging_face.empty()) {
    for (const char* flag :
         {"--mixer", "--positions", "--mlp", "--layers", "--heads", "--kv-heads", "--window", "--width", "--state", "--chunk", "--dropout"})
      if (settings.given(flag))
        throw Error(fmt::format("{} does not go with --weights FOLDER, whose config.json says what the model is", flag));
    return;
  }
  const Mixer& mixer = mixer_named(c.mixer);
  for (const Mixer& other : mixers())
    for (auto& flag : other.flags)
      if (settings.given(flag) && !mixer.has(flag))
        throw Error(fmt::format("{} is not for --mixer {}, which has no such thing", flag, c.mixer));
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
  settings.store("hugging_face", c.hugging_face).may_be_missing();
  settings.add("--mixer", c.mixer, help).one_of(names).may_be_missing();
  settings
      .add(
          "--positions", c.positions,
          "what tells the tokens' places: learned: a vector for each of --block; sinusoidal; rope, alibi, t5: in attention; none: the mixer itself; auto: what goes "
          "with the mixer")
      .one_of({"auto", "learned", "sinusoidal", "rope", "alibi", "t5", "none"})
      .may_be_missing();
  settings
      .add(
          "--mlp", c.mlp,
          "what follows a mixer: gelu: two layers; swiglu: three, with a gate; own: the mixer's (rwkv); none; auto: what goes with the mixer")
      .one_of({"auto", "gelu", "swiglu", "own", "none"})
      .may_be_missing();
  settings.add("--layers", c.layers, "blocks").at_least(1);
  settings.add("--heads", c.heads, "heads of a mixer that has some; divides the width").at_least(1);
  settings.add("--kv-heads", c.kv_heads, "heads of keys and values that the heads of attention share; 0: as many as --heads")
      .at_least(0)
      .may_be_missing();
  settings.add("--window", c.window, "positions that window and sparse see, the present one among them").at_least(1).may_be_missing();
  settings.add("--state", c.state, "numbers that a state has for each channel or feature; 0: as many as go with the mixer")
      .at_least(0)
      .may_be_missing();
  settings.add("--chunk", c.chunk, "positions of a chunk of flash and transnormer, and of a block of sparse").at_least(1).may_be_missing();
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

}  // namespace

void declare(examples::Settings& settings, TrainOptions& o) {
  declare_text(settings, o, examples::OnResume::replace);
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
  settings
      .add(
          "--weights", o.weights,
          "start from the weights of this .safetensors file; or from a folder with config.json and model.safetensors as transformers saves GPT-2, Llama and Mamba",
          examples::OnResume::refuse)
      .path();
  examples::declare_common(settings, o, program);
}

void train(TrainOptions& o, examples::Settings& settings) {
  examples::Run run(program, settings, o, {"tokenizer.json"});
  if (o.min_lr > o.lr) throw Error(fmt::format("--min-lr {} is above --lr {}", o.min_lr, o.lr));

  // The data and its vocabulary; a resumed run keeps the one it was started with.
  const bool transformers = fs::is_directory(o.weights);
  if (transformers && !run.has_settings()) {
    o.model.hugging_face = read_file(fs::path(o.weights) / "config.json");
    if (const fs::path own = fs::path(o.weights) / "tokenizer.json"; o.vocab.empty() && fs::exists(own)) o.vocab = own.string();
  }
  const Text text(o, settings, run.has_settings() ? read_tokenizer(run.folder(), o.model) : nullptr);
  const auto tokenizer = text.shared_tokenizer();
  o.model.vocab = tokenizer->size();
  check_flags(settings, o.model);
  check(o.model);
  TokenDataset data = text.dataset({.block = o.model.block, .seed = o.seed});

  manual_seed(o.seed);
  const bool from_transformers = transformers && !run.checkpoint();
  nn::LanguageModel model = from_transformers ? nn::load_language_model(o.weights) : make_model(o.model);
  recompute(model, o.recompute);
  if (model.config.vocab_size < o.model.vocab)
    throw Error(fmt::format("{} has a vocabulary of {}, but the tokenizer one of {}", o.weights, model.config.vocab_size, o.model.vocab));
  if (const int64_t most = model.config.max_positions; most > 0 && o.model.block > most)
    throw Error(fmt::format("--block {} does not fit the model of {}, which knows {} positions", o.model.block, o.weights, most));
  if (!o.weights.empty() && !transformers && !run.checkpoint()) model.load_state_dict(SafeTensors::open(o.weights).tensors());
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
             .columns = {"train_loss", "val_loss", "lr", "memory_mib"},
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
    std::map<std::string, double> row{
        {"train_loss", run.mean_loss()}, {"lr", lr}, {"memory_mib", double(memory_stats(run.device()).peak) / (1 << 20)}};
    if (run.evaluates()) {
      row["val_loss"] = validate(model, data, o);
      if (const std::string why = unstable(model); !why.empty()) run.note(why);
      run.note(fmt::format("step {}: training loss {:.4f}, validation loss {:.4f}; tensors took at most {:.0f} MiB", run.step(),
                           row["train_loss"], row["val_loss"], row["memory_mib"]));
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
  const std::string sample = tokenizer->decode(model.generate(start_of_text(*tokenizer), o.sample_tokens,
                                                              {.temperature = 0.8, .top_k = 200, .vocab_size = o.model.vocab}, generator));
  write_file_atomically(run.folder() / "samples.txt", fmt::format("step {}, temperature 0.8, top-k 200:\n{}\n", run.step(), sample));
  if (!o.quiet) fmt::print("\n{}\n\n", sample);
  run.print_folder();
}

}  // namespace retape::lm
