#include "train.h"

#include <omp.h>

#include <memory>

#include <fmt/format.h>

#include <examples/common/recompute.h>
#include <retape/io/file.h>

#include "map.h"
#include "vectors.h"
#include "windows.h"

namespace retape::word2vec {
namespace fs = std::filesystem;
using examples::OnResume;

void declare(examples::Settings& settings, TrainOptions& o) {
  settings.add("--data", o.data, "text to train on (UTF-8, may be compressed with gzip); may be larger than memory", OnResume::replace)
      .path()
      .required();
  settings.add("--letters", o.corpus.letters, "read letters only: A to Z become lower-case, all but a to z becomes space");
  settings.add("--model", o.model, "skipgram: each word of a window predicts its centre; cbow: their mean does")
      .one_of({"skipgram", "cbow"});
  settings.add("--loss", o.loss, "ns: negative sampling; hs: hierarchical softmax").one_of({"ns", "hs"});
  settings
      .add("--path", o.path,
           "fast: a kernel for whole windows; with several threads it is not reproducible, since they race for words. tape: the same by "
           "recorded ops and an optimizer, slower")
      .one_of({"fast", "tape"});
  settings.add("--dim", o.dim, "numbers of a vector").at_least(1);
  settings.add("--window", o.window, "words to each side; each window draws its own size from 1 to this").at_least(1).at_most(1000);
  settings.add("--negative", o.negative, "with --loss ns: other words drawn for each window").at_least(1).at_most(1000);
  settings.add("--sample", o.sample, "words that are more frequent than this are dropped now and then; 0: none").at_least(0);
  settings.add("--min-count", o.corpus.min_count, "rarer words are left out").at_least(1);
  settings.add("--max-vocab", o.corpus.max_vocab, "when there are more different words, the rarest are forgotten while counting")
      .at_least(10);
  settings.add("--phrases", o.corpus.phrases, "passes that join words which stand together often into one, such as new_york")
      .at_least(0)
      .at_most(10);
  settings.add("--phrase-threshold", o.corpus.phrase_threshold, "how much more often than by chance").above(0);
  settings.add("--epochs", o.epochs, "times that the text is read", OnResume::replace).at_least(1);
  settings.add("--lr", o.lr, "learning rate at the beginning, which falls to nearly 0; 0: 0.025 for skipgram, 0.05 for cbow").at_least(0);
  settings.add("--batch", o.batch, "windows whose gradients are computed before they are added; 0: 1 on the fast path's CPU, else 256")
      .at_least(0);
  settings.add("--optimizer", o.optimizer, "of the tape path: sgd, adagrad or sparse_adam").one_of({"sgd", "adagrad", "sparse_adam"});
  settings.add("--step-words", o.step_words, "words of the text in a step").at_least(1);
  settings.add("--save-every", o.save_every, "steps between checkpoints", OnResume::replace).at_least(1);
  settings.add("--map-words", o.map_words, "words on the map at the end; 0: no map", OnResume::replace).at_least(0).at_most(5000);
  examples::declare_common(settings, o, "word2vec");
}

namespace {

void check(const TrainOptions& o) {
  if (o.amp != "none")
    throw Error(
        fmt::format("--amp {}: word vectors are f32 rows that each step reads and changes in place; there is nothing to compute in "
                    "another precision, so leave the flag out",
                    o.amp));
  examples::parse_recomputation(o.recompute, 1);
  if (o.path == "tape") return;
  if (o.recompute != "none")
    throw Error(fmt::format("--recompute {}: the fast path records nothing to compute again; use --path tape", o.recompute));
  if (o.optimizer != "sgd") throw Error(fmt::format("--optimizer {}: the fast path is gradient descent; use --path tape", o.optimizer));
}

std::unique_ptr<Optimizer> make_optimizer(const TrainOptions& o, const std::vector<Tensor>& params) {
  if (o.optimizer == "adagrad") return std::make_unique<Adagrad>(params, AdagradOptions{.lr = o.lr});
  if (o.optimizer == "sparse_adam") return std::make_unique<SparseAdam>(params, SparseAdamOptions{.lr = o.lr});
  return std::make_unique<SGD>(params, SGDOptions{.lr = o.lr});
}

int64_t pairs_of(const Word2VecWindows& windows, bool mean) {
  const auto contexts = windows.context_begin.to_vector<int64_t>(), targets = windows.target_begin.to_vector<int64_t>();
  int64_t pairs = 0;
  for (size_t w = 0; w + 1 < contexts.size(); ++w) {
    const int64_t c = contexts[w + 1] - contexts[w];
    pairs += (mean ? int64_t(c > 0) : c) * (targets[w + 1] - targets[w]);
  }
  return pairs;
}

Word2VecWindows to(const Word2VecWindows& w, Device device) {
  if (device.is_cpu()) return w;
  const auto there = [&](const Tensor& t) { return retape::to(t, device); };
  return {there(w.contexts), there(w.context_begin), there(w.targets), there(w.target_begin), there(w.labels)};
}

// One optimizer step for every `batch` windows; returns the sum of their losses.
double tape_step(nn::Word2Vec& model, Optimizer& optimizer, const Word2VecWindows& windows, int64_t batch, const std::string& recompute,
                 Device device) {
  const bool cheap = examples::parse_recomputation(recompute, 1).kind == examples::Recomputation::Kind::pointwise;
  const int64_t count = windows.context_begin.numel() - 1;
  Tensor sum;
  for (int64_t first = 0; first < count; first += batch) {
    const Word2VecWindows some = to(part(windows, first, std::min(batch, count - first)), device);
    optimizer.zero_grad();
    const auto loss_of = [&] { return model.loss(some); };
    const Tensor loss = cheap ? checkpoint({.recompute = Recompute::cheap}, loss_of) : loss_of();
    backward(loss);
    optimizer.step();
    const Tensor value = cast(loss.detach(), DType::f64);
    sum = sum ? sum + value : value;
  }
  return sum ? sum.item() : 0;
}

}  // namespace

void train(TrainOptions& o, examples::Settings& settings) {
  examples::Run run("word2vec", settings, o, {"vocab.txt", "corpus.bin"});
  check(o);
  const bool cbow = o.model == "cbow", fast = o.path == "fast";
  if (o.lr == 0) o.lr = cbow ? 0.05 : 0.025;
  if (o.batch == 0) o.batch = fast && run.device().is_cpu() ? 1 : 256;

  const fs::path folder = run.create();
  const fs::path ids = folder / "corpus.bin", words = folder / "vocab.txt";
  CorpusReport report;
  if (!run.has_settings() || !fs::exists(ids)) {
    run.note(fmt::format("reading {}", o.data));
    Vocabulary read;
    examples::write_to_run(folder, [&] { read = read_corpus(o.data, o.corpus, ids, &report); });
    if (run.has_settings() && !(Vocabulary::load(words) == read))
      throw Error(fmt::format("{} has other words than {}, with which the run began; name the text of the run with --data", o.data,
                              words.string()));
    if (report.invalid) run.note(fmt::format("{} words are not UTF-8, or longer than 1000 bytes, and left out", report.invalid));
    if (!run.has_settings()) examples::write_to_run(folder, [&] { read.save(words); });
  }
  const Vocabulary vocabulary = Vocabulary::load(words);
  const TokenFile corpus = TokenFile::open(ids);
  if (corpus.vocabulary() != vocabulary.size() + 1)
    throw Error(fmt::format("{} was made with {} words, but vocab.txt has {}; the run folder is damaged", ids.string(),
                            corpus.vocabulary() - 1, vocabulary.size()));

  manual_seed(o.seed);
  nn::Word2Vec model(vocabulary.size(), o.loss == "hs" ? vocabulary.size() - 1 : vocabulary.size(), o.dim, {.cbow = cbow});
  model.to(run.device());
  const auto optimizer = make_optimizer(o, model.parameters());
  GradScaler scaler({.enabled = false});
  run.restore(model, *optimizer, scaler);
  const Windows windows(vocabulary, corpus,
                        {.window = o.window, .negative = o.loss == "hs" ? 0 : o.negative, .sample = o.sample, .seed = o.seed});

  const int64_t steps_per_epoch = (corpus.size() + o.step_words - 1) / o.step_words, steps = steps_per_epoch * o.epochs;
  run.begin({.steps = steps,
             .eval_every = o.save_every,
             .unit = "words",
             .columns = {"train_loss", "lr"},
             .charts = {{"loss.svg", "loss (nats a pair)", {{"train_loss", "training"}}}}});
  run.note(fmt::format("{} words, {} different ones; {} on {}{}; writing to {}", vocabulary.total(), vocabulary.size(), o.model,
                       run.place(), fast && run.device().is_cpu() && omp_get_max_threads() > 1 ? ", which race" : "", folder.string()));
  while (run.goes_on()) {
    const int64_t step = run.step(), begin = step % steps_per_epoch * o.step_words, end = std::min(begin + o.step_words, corpus.size());
    const double lr = o.lr * std::max(1 - double(step) / double(steps), 1e-4);
    const Word2VecWindows some = windows.make(step / steps_per_epoch, begin, end);
    const int64_t pairs = pairs_of(some, cbow);
    const bool with_loss = step == 0 || (step + 1) % 10 == 0 || step + 1 == steps;
    if (pairs && !fast) {
      optimizer->set_lr(lr);
      run.add_loss(tape_step(model, *optimizer, some, o.batch, o.recompute, run.device()), pairs);
    } else if (pairs) {
      const Tensor loss = model.step(to(some, run.device()), lr, o.batch, with_loss);
      if (loss) run.add_loss(loss.item(), pairs);
    }
    run.advance(end - begin);
    if (!run.reports()) continue;
    std::map<std::string, double> row{{"lr", lr}};
    if (run.has_loss()) row["train_loss"] = run.mean_loss();
    run.report(row);
    if (!run.saves()) continue;
    run.save([&](const fs::path& to, nlohmann::json& state) { examples::save_training(to, state, model, *optimizer, scaler); });
  }
  if (!run.finish()) return;

  std::vector<std::string> names;
  for (int64_t w = 0; w < vocabulary.size(); ++w) names.push_back(vocabulary.word(w));
  const Tensor vectors = retape::to(model.in_embeddings.weight.tensor().detach(), Device::cpu());
  examples::write_to_run(folder, [&] {
    save_text(folder / "vectors.txt", names, vectors);
    save_binary(folder / "vectors.bin", names, vectors);
    save_safetensors(folder / "vectors.safetensors", {{"vectors", vectors}});
    if (o.map_words >= 3 && vocabulary.size() >= 3)
      write_file_atomically(folder / "map.svg", map_svg(WordVectors(names, vectors), 100, o.map_words, folder.filename().string()));
    fs::remove(ids);
  });
  run.print_folder();
}

}  // namespace retape::word2vec
