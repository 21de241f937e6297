#include "train.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include <examples/common/heat_map.h>
#include <retape/data/utf8.h>
#include <retape/io/file.h>

#include "data.h"
#include "search.h"

namespace retape::translate {
namespace fs = std::filesystem;
using examples::OnResume;

void declare(examples::Settings& settings, TrainOptions& o) {
  settings.add("--source", o.source, "text file (UTF-8) with a sentence a line", OnResume::replace).path().required();
  settings.add("--target", o.target, "the same sentences in the other language", OnResume::replace).path().required();
  settings
      .add("--source-valid", o.source_valid, "sentences to validate with; if not given, every 20th pair is left out of training",
           OnResume::replace)
      .path();
  settings.add("--target-valid", o.target_valid, "their translations", OnResume::replace).path();
  settings.add("--vocab-size", o.vocab_size, "tokens of the joint vocabulary, byte pair encoding learned from both texts").at_least(10);
  settings.add("--bpe", o.bpe, "what words are made of: byte_level (GPT-2's way, no character is unknown) or metaspace (characters)")
      .one_of({"byte_level", "metaspace"});
  settings.store("vocab", o.model.vocab);
  settings.add("--max-length", o.max_length, "pairs in which a sentence has more tokens are left out").at_least(1);
  settings.add("--layers", o.model.layers, "layers of the encoder, and of the decoder").at_least(1);
  settings.add("--width", o.model.width, "size of a token's vector").at_least(1);
  settings.add("--heads", o.model.heads, "attention heads; divides the width").at_least(1);
  settings.add("--feed-forward", o.model.feed_forward, "size between the two feed-forward layers").at_least(1);
  settings.add("--dropout", o.model.dropout, "probability of dropping a value").at_least(0).below(1);
  settings.add("--norm", o.model.norm, "pre: norms before each part; post: behind each sum, as in the paper").one_of({"pre", "post"});
  settings.add("--tokens", o.tokens, "places in a batch, of the source and of the target").at_least(1);
  settings.add("--steps", o.steps, "optimizer steps", OnResume::replace).at_least(1);
  settings.add("--lr-factor", o.lr_factor, "learning rate: times width^-0.5 min(step^-0.5, step warmup^-1.5)").above(0);
  settings.add("--warmup", o.warmup, "steps in which the learning rate rises").at_least(1);
  settings.add("--label-smoothing", o.label_smoothing, "share of a token's probability that goes to all tokens").at_least(0).below(1);
  settings.add("--beta1", o.beta1, "Adam: decay of the first moment").at_least(0).below(1);
  settings.add("--beta2", o.beta2, "Adam: decay of the second moment").at_least(0).below(1);
  settings.add("--clip", o.clip, "largest norm of the gradient; 0 does not clip").at_least(0);
  settings.add("--eval-every", o.eval_every, "steps between validations, each with a checkpoint", OnResume::replace).at_least(1);
  settings
      .add("--average", o.average, "latest checkpoints whose weights are averaged at the end; --keep must be as many", OnResume::replace)
      .at_least(1);
  settings.add("--workers", o.workers, "threads that make batches ahead", OnResume::forget).at_least(0);
  o.keep = 5;
  examples::declare_common(settings, o, "translate");
}

namespace {

void check(const TrainOptions& o) {
  if (o.model.width % o.model.heads) throw Error(fmt::format("--width {} is no multiple of --heads {}", o.model.width, o.model.heads));
  examples::parse_recomputation(o.recompute, o.model.layers);
  if (o.source_valid.empty() != o.target_valid.empty()) throw Error("--source-valid and --target-valid belong together; give both or none");
  if (o.average > o.keep) throw Error(fmt::format("--average {} needs as many checkpoints, but --keep {} deletes them", o.average, o.keep));
}

BpeTokenizer learn(const Sentences& sentences, const TrainOptions& o) {
  const bool bytes = o.bpe == "byte_level";
  BpeTrainer trainer({.kind = bytes ? BpeKind::byte_level : BpeKind::metaspace,
                      .vocab_size = o.vocab_size,
                      .special_tokens = bytes ? std::vector<std::string>{"<pad>", "<s>", "</s>"}
                                              : std::vector<std::string>{"<pad>", "<s>", "</s>", "<unk>"}});
  for (auto* lines : {&sentences.source, &sentences.target})
    for (auto& line : *lines) trainer.add_text(line);
  return trainer.train();
}

BpeTokenizer tokenizer_of(const fs::path& run, const TrainOptions& o) {
  BpeTokenizer tokenizer = BpeTokenizer::load(run / "tokenizer.json");
  if (tokenizer.size() != o.model.vocab)
    throw Error(fmt::format("{}: tokenizer.json has {} tokens, but config.json says {}; the run folder is damaged", run.string(),
                            tokenizer.size(), o.model.vocab));
  return tokenizer;
}

Tensor loss_of(Translator& model, const PairBatch& batch, double label_smoothing, const TrainOptions& o) {
  const Autocast amp = examples::autocast(o);
  return model.loss(to(batch.source, model.device()), to(batch.target, model.device()), label_smoothing);
}

// Mean over all tokens, without smoothing.
double validate(Translator& model, const Pairs& pairs, const TrainOptions& o) {
  const NoGrad off;
  model.eval();
  double total = 0, tokens = 0;
  for (int64_t first = 0; first < pairs.size(); first += 64) {
    std::vector<int64_t> rows(size_t(std::min<int64_t>(64, pairs.size() - first)));
    std::iota(rows.begin(), rows.end(), first);
    const PairBatch batch = make_batch(pairs, rows, o.model.pad);
    double n = 0;
    for (const int64_t r : rows) n += double(pairs.target[size_t(r)].size() - 1);
    total += loss_of(model, batch, 0, o).item() * n;
    tokens += n;
  }
  model.train();
  return total / tokens;
}

double bleu_of(Translator& model, const BpeTokenizer& tokenizer, const Sentences& sentences, const TrainOptions& o) {
  const Autocast amp = examples::autocast(o);
  const auto found = translate(model, tokenizer, sentences.source, 1, 0);
  model.train();
  return corpus_bleu(found, {sentences.target}).score;
}

void average(const fs::path& run, int64_t count) {
  auto all = examples::checkpoints(run);
  if (int64_t(all.size()) > count) all.erase(all.begin(), all.end() - count);
  NamedTensors sum;
  for (auto& checkpoint : all) {
    const SafeTensors file = SafeTensors::open(checkpoint.path / "model.safetensors");
    for (size_t i = 0; auto& [name, value] : file.tensors()) {
      const Tensor wide = cast(value, DType::f64);
      if (&checkpoint == &all.front()) sum.emplace_back(name, wide);
      else sum[i].second = sum[i].second + wide;
      ++i;
    }
  }
  for (auto& [name, value] : sum) value = cast(value / double(all.size()), DType::f32);
  save_safetensors(run / "averaged.safetensors", sum, {{"checkpoints", fmt::format("{}", all.size())}});
}

// Bytes of a model that has learned little need not be UTF-8, nor one line.
std::string valid_line(const std::string& text) {
  std::string line;
  for (size_t at = 0; at < text.size();) {
    const char32_t c = utf8::next(text, at);
    utf8::append(line, c == utf8::invalid ? U'\uFFFD' : c == U'\n' || c == U'\r' ? U' ' : c);
  }
  return line;
}

}  // namespace

std::vector<std::string> translate(Translator& model, const BpeTokenizer& tokenizer, const std::vector<std::string>& lines, int64_t beam,
                                   double length_penalty, int64_t tokens) {
  model.eval();
  const int64_t end = tokenizer.special_id("</s>");
  std::vector<std::vector<int64_t>> ids;
  std::vector<int64_t> order;
  for (size_t i = 0; i < lines.size(); ++i) {
    ids.push_back(tokenizer.encode(lines[i]));
    if (ids.back().empty()) continue;  // an empty line stays one
    ids.back().push_back(end);
    order.push_back(int64_t(i));
  }
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return ids[size_t(a)].size() > ids[size_t(b)].size(); });
  std::vector<std::string> results(lines.size());
  for (size_t first = 0; first < order.size();) {
    const size_t longest = ids[size_t(order[first])].size();
    const size_t count = std::clamp<size_t>(size_t(tokens) / longest, 1, order.size() - first);
    Tensor source = empty({int64_t(count), int64_t(longest)}, {DType::i64});
    int64_t* to = source.mutable_data<int64_t>();
    for (size_t k = 0; k < count; ++k, to += longest) {
      auto& sentence = ids[size_t(order[first + k])];
      std::fill(std::copy(sentence.begin(), sentence.end(), to), to + longest, model.config.pad);
    }
    const auto found = beam_search(model, retape::to(source, model.device()),
                                   {.beam = beam, .length_penalty = length_penalty, .begin = tokenizer.special_id("<s>"), .end = end});
    for (size_t k = 0; k < count; ++k) results[size_t(order[first + k])] = valid_line(tokenizer.decode(found[k].front().ids));
    first += count;
  }
  return results;
}

AttentionMap attention_map(Trained& trained, const std::string& sentence, std::string translation, int64_t layer) {
  auto& [options, tokenizer, model] = trained;
  if (layer > options.model.layers) throw Error(fmt::format("--layer {}: the model has {}", layer, options.model.layers));
  if (translation.empty()) translation = translate(model, tokenizer, {sentence}, 4, 0.6).front();
  const NoGrad off;
  model.eval();
  const int64_t begin = tokenizer.special_id("<s>"), end = tokenizer.special_id("</s>");
  auto source = tokenizer.encode(sentence), target = tokenizer.encode(translation);
  source.push_back(end), target.insert(target.begin(), begin);
  const auto ids = [&](const std::vector<int64_t>& x) { return retape::to(tensor(x, {1, int64_t(x.size())}), model.device()); };
  const auto layers = model.attention(ids(source), ids(target));
  Tensor weights;
  for (size_t i = 0; i < layers.size(); ++i)
    if (layer == 0 || layer == int64_t(i) + 1) weights = weights ? weights + layers[i] : layers[i];
  if (layer == 0) weights = weights / double(layers.size());
  // Row i is the place that sees the first i tokens and makes the next one, which is its name.
  target.erase(target.begin());
  target.push_back(end);
  const auto names = [&](const std::vector<int64_t>& x) {
    std::vector<std::string> all;
    for (const int64_t id : x) all.push_back(tokenizer.decode({id}));
    return all;
  };
  return {translation, to_svg(examples::HeatMap{.title = "attention",
                                                .x_label = "source",
                                                .y_label = "translation",
                                                .rows = names(target),
                                                .columns = names(source),
                                                .values = retape::to(cast(weights, DType::f64), Device::cpu()).to_vector<double>()})};
}

Trained load(const fs::path& from) {
  const fs::path checkpoint = fs::absolute(examples::find_checkpoint(from).path), run = checkpoint.parent_path();
  TrainOptions options;
  examples::Settings settings;
  declare(settings, options);
  examples::read_config(run, settings);
  BpeTokenizer tokenizer = tokenizer_of(run, options);
  Translator model(options.model);
  const bool averaged = fs::exists(run / "averaged.safetensors") && fs::equivalent(from, run);
  model.load_state_dict(SafeTensors::open(averaged ? run / "averaged.safetensors" : checkpoint / "model.safetensors").tensors());
  model.eval();
  return {std::move(options), std::move(tokenizer), std::move(model)};
}

void train(TrainOptions& o, examples::Settings& settings) {
  examples::Run run("translate", settings, o, {"tokenizer.json"});
  check(o);
  Sentences sentences = read_sentences(o.source, o.target);
  const Sentences held_out = o.source_valid.empty() ? take_validation(sentences) : read_sentences(o.source_valid, o.target_valid);
  const BpeTokenizer tokenizer = run.has_settings() ? tokenizer_of(run.folder(), o) : learn(sentences, o);
  o.model.vocab = tokenizer.size(), o.model.recompute = o.recompute, o.model.pad = tokenizer.special_id("<pad>");
  const Pairs pairs = encode(sentences, tokenizer, o.max_length, "training"),
              valid = encode(held_out, tokenizer, o.max_length, "validation");
  const TokenBatches batches(pairs, o.tokens, o.seed);

  manual_seed(o.seed);
  Translator model(o.model);
  model.to(run.device());
  Adam optimizer(model.parameters(), {.lr = 0, .betas = {o.beta1, o.beta2}, .eps = 1e-9});
  GradScaler scaler({.enabled = o.amp == "f16"});
  run.restore(model, optimizer, scaler);
  DataLoader<PairBatch> loader([&](int64_t i) { return make_batch(pairs, batches.batch(i), o.model.pad); },
                               {.num_workers = int(o.workers), .seed = o.seed});
  loader.set_position(run.step());
  run.begin({.steps = o.steps,
             .eval_every = o.eval_every,
             .columns = {"train_loss", "val_loss", "val_bleu", "lr", "waited"},
             .charts = {{"loss.svg", "loss (nats a token)", {{"train_loss", "training, smoothed labels"}, {"val_loss", "validation"}}},
                        {"bleu.svg", "BLEU of the validation part, greedy", {{"val_bleu", "BLEU"}}}}},
            [&](const fs::path& folder) { tokenizer.save(folder / "tokenizer.json"); });
  run.note(fmt::format("{} pairs of sentences ({} left out), vocabulary of {}, {} parameters, {}; writing to {}", pairs.size(),
                       pairs.left_out, tokenizer.size(), model.num_parameters(), run.place(), run.folder().string()));
  const Noam schedule{.factor = o.lr_factor, .dim = o.model.width, .warmup = o.warmup};
  const auto params = model.parameters();
  while (run.goes_on()) {
    const double lr = schedule(run.step());
    optimizer.set_lr(lr);
    optimizer.zero_grad();
    const PairBatch batch = *loader.next();
    const Tensor loss = loss_of(model, batch, o.label_smoothing, o);
    backward(scaler.scale(loss));
    run.add_loss(loss);
    if (o.clip > 0) {
      scaler.unscale_(optimizer);
      clip_grad_norm(params, o.clip);
    }
    scaler.step(optimizer);
    scaler.update();
    run.advance(batch.tokens);
    if (!run.reports()) continue;
    std::map<std::string, double> row{{"train_loss", run.mean_loss()}, {"lr", lr}, {"waited", loader.waited()}};
    if (run.evaluates()) {
      row["val_loss"] = validate(model, valid, o);
      row["val_bleu"] = bleu_of(model, tokenizer, held_out, o);
      run.note(fmt::format("step {}: training loss {:.4f}, validation loss {:.4f}, BLEU {:.2f}", run.step(), row["train_loss"],
                           row["val_loss"], row["val_bleu"]));
    }
    run.report(row);
    if (run.saves())
      run.save([&](const fs::path& folder, nlohmann::json& state) { examples::save_training(folder, state, model, optimizer, scaler); });
  }
  if (!run.finish()) return;
  examples::write_to_run(run.folder(), [&] { average(run.folder(), o.average); });
  run.print_folder();
}

}  // namespace retape::translate
