#include "classify.h"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include <examples/common/cli.h>
#include <examples/common/heat_map.h>
#include <retape/io/file.h>

namespace retape::vision {
namespace fs = std::filesystem;
using examples::OnResume;

// ---- settings -------------------------------------------------------------------------------------------------------

void declare(examples::Settings& settings, ClassifyOptions& o, const std::string& name, Task task) {
  if (task == Task::train) {
    o.data.augment = "crop:1,flip", o.batch = 64, o.eval_every = 1000;
    o.model.positions = "sincos";
    settings
        .add("--init", o.from, "start from this folder of Hugging Face's, config.json and model.safetensors; its sizes hold",
             OnResume::refuse)
        .path();
    o.model.of_vit = {"--init"};
  } else {
    o.epochs = task == Task::finetune ? 100 : 50, o.warmup = 100, o.eval_every = 200, o.model.pool = "mean";
    o.data.augment = task == Task::finetune ? "crop,flip" : "flip";
    if (task == Task::finetune) o.layer_decay = 0.75;
    else o.weight_decay = 0, o.lr = 3e-3;
    settings.add("--from", o.from, "run of `mae train`, or a checkpoint of it, or a folder of Hugging Face's ViTMAE").path().required();
    settings.add("--pool", o.model.pool, "what is classified: the class token, or the mean of all patches").one_of({"cls", "mean"});
    settings.store("positions", o.model.positions), settings.store("model", o.model.kind);
  }
  auto& data = declare(settings, o.data, true);
  if (task == Task::train) data.required();  // else that of the pre-training may do
  declare(settings, o.model, task == Task::train, task == Task::train);
  settings.add("--batch", o.batch, "images in a step").at_least(1);
  settings.add("--epochs", o.epochs, "times that the images are seen, also the length of the learning rate's cosine", OnResume::replace)
      .at_least(1);
  settings.add("--lr", o.lr, "highest learning rate").at_least(0);
  settings.add("--min-lr", o.min_lr, "learning rate at the end").at_least(0);
  settings.add("--warmup", o.warmup, "steps in which the learning rate rises").at_least(0);
  settings.add("--beta1", o.beta1, "AdamW: decay of the first moment");
  settings.add("--beta2", o.beta2, "AdamW: decay of the second moment");
  settings.add("--weight-decay", o.weight_decay, "AdamW: decay of matrices (vectors have none)").at_least(0);
  settings.add("--clip", o.clip, "largest norm of the gradient; 0 does not clip").at_least(0);
  if (task == Task::finetune)
    settings.add("--layer-decay", o.layer_decay, "the learning rate of each block is so much of the one above it").above(0).at_most(1);
  settings.add("--label-smoothing", o.label_smoothing, "the share of the target that is spread over all classes").at_least(0).below(1);
  settings.add("--eval-every", o.eval_every, "steps between validations, each with a checkpoint", OnResume::replace).at_least(1);
  examples::declare_common(settings, o, name);
}

namespace {

// ---- the model ------------------------------------------------------------------------------------------------------

// Decayed matrices and other parameters, for every depth that has a learning rate of its own.
struct Groups {
  std::vector<ParamGroup<AdamWOptions>> groups;
  std::vector<double> scales;
};
Groups groups_of(Classifier& model, const ClassifyOptions& o, Task task) {
  const int64_t depth = model.vit() ? int64_t(model.vit()->blocks.size()) : 0;
  std::map<std::pair<int64_t, bool>, std::vector<Tensor>> sorted;
  for (auto& [name, p] : model.module().named_parameters()) {
    if (!p.requires_grad()) continue;
    int64_t level = 0;  // of the embeddings
    if (name.starts_with("blocks.")) level = 1 + std::stoll(name.substr(7));
    else if (name.starts_with("norm.") || name.starts_with("classifier.")) level = depth + 1;
    if (task == Task::probe && !name.starts_with("classifier.")) continue;
    const bool matrix = p.dim() >= 2 && name != "cls_token" && name != "pos_embed";
    sorted[{o.layer_decay < 1 ? level : 0, !matrix}].push_back(p);
  }
  Groups g;
  for (auto& [key, params] : sorted) {
    g.groups.push_back({params, {.lr = o.lr, .betas = {o.beta1, o.beta2}, .weight_decay = key.second ? 0 : o.weight_decay}});
    g.scales.push_back(o.layer_decay < 1 ? std::pow(o.layer_decay, double(depth + 1 - key.first)) : 1);
  }
  return g;
}

Tensor logits_of(Classifier& model, const Tensor& images, bool probe) {
  if (!probe) return model(images);
  Tensor features;
  {
    const NoGrad off;
    features = model.vit()->features(images);
  }
  return (*model.vit()->classifier)(features);
}

void set_training(Classifier& model, Task task) { model.module().train(task != Task::probe); }

Evaluation evaluate(Classifier& model, DataLoader<ImageBatch>& batches, int64_t classes, const examples::RunOptions& o) {
  const NoGrad off;
  const Device device = model.module().parameters().front().device();
  Evaluation e{.confusion = std::vector<int64_t>(size_t(classes * classes)), .classes = classes};
  double count = 0;
  while (const auto batch = batches.next()) {
    Tensor logits;
    {
      const Autocast amp = examples::autocast(o);
      logits = model(to(batch->images, device));
    }
    const Tensor labels = to(batch->labels, device);
    e.loss += cross_entropy(cast(logits, DType::f32), labels, {.reduction = Reduction::sum}).item();
    count += double(batch->labels.numel());
    const auto predicted = argmax(logits, -1).to_vector<int64_t>(), wanted = batch->labels.to_vector<int64_t>();
    for (size_t i = 0; i < wanted.size(); ++i) ++e.confusion[size_t(wanted[i] * classes + predicted[i])];
  }
  e.loss /= count;
  return e;
}

std::string join_lines(const std::vector<std::string>& lines) { return fmt::format("{}\n", fmt::join(lines, "\n")); }
std::vector<std::string> read_classes(const fs::path& run, int64_t expected) {
  std::vector<std::string> names;
  const std::string text = read_file(run / "classes.txt");
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    names.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  if (int64_t(names.size()) != expected)
    throw Error(fmt::format("{}: classes.txt has {} names, but config.json says {} classes; the run folder is damaged", run.string(),
                            names.size(), expected));
  return names;
}

// A new classifier for a run with these sizes; its encoder is what --init or --from names.
Classifier make_model(ClassifyOptions& o, bool fresh, const std::function<nn::ViT(const std::string&)>& encoder) {
  if (!fresh || o.from.empty()) return Classifier(o.model);
  nn::ViT from = encoder(o.from);
  const auto [channels, size] = std::pair(o.model.channels, o.model.model_size);
  if (from.config.num_channels != channels || from.config.image_size != size)
    throw Error(fmt::format("{} takes images of {} x {} with {} channels, but those of {} are {} x {} with {}{}", o.from,
                            from.config.image_size, from.config.image_size, from.config.num_channels, o.data.data, size, size, channels,
                            from.config.num_channels == channels ? "; give --image-size" : ""));
  take_config(o.model, from.config);
  nn::ViT model(config_of(o.model));
  NamedTensors state = from.state_dict();
  if (from.config.num_labels != o.model.classes) {  // another set of classes: the last layer begins anew
    std::erase_if(state, [](auto& named) { return named.first.starts_with("classifier."); });
    for (auto& [name, value] : model.state_dict())
      if (name.starts_with("classifier.")) state.emplace_back(name, value);
  }
  model.load_state_dict(state);
  return Classifier(std::move(model));
}

}  // namespace

// ---- training -------------------------------------------------------------------------------------------------------

void train_classifier(ClassifyOptions& o, examples::Settings& settings, const std::string& name, Task task,
                      const std::function<nn::ViT(const std::string&)>& encoder) {
  if (o.model.kind == "resnet18") {  // what it wants if the user does not say otherwise
    if (!settings.given("--augment")) o.data.augment = "crop:1,flip,erasing";
    if (!settings.given("--epochs")) o.epochs = 24;
  }
  examples::Run run(name, settings, o, {"classes.txt"});
  check_flags(settings, o.model);
  if (o.data.data.empty()) throw Error("--data is missing: the folder of images to train on");
  if (o.min_lr > o.lr) throw Error(fmt::format("--min-lr {} is above --lr {}", o.min_lr, o.lr));
  const Images images(o.data, o.seed);
  const auto& names = images.train().class_names();
  if (run.has_settings()) {
    if (o.model.channels != images.channels() || o.model.model_size != images.size() ||
        read_classes(run.folder(), o.model.classes) != names)
      throw Error(fmt::format(
          "{} has other images than the run began with ({} classes of {} x {} x {}, then {} of {} x {} x {}); name those of the run with --data",
          o.data.data, names.size(), images.size(), images.size(), images.channels(), o.model.classes, o.model.model_size,
          o.model.model_size, o.model.channels));
  }
  o.model.channels = images.channels(), o.model.model_size = images.size(), o.model.classes = images.train().classes();

  manual_seed(o.seed);
  Classifier model = make_model(o, !run.checkpoint(), encoder);
  model.recompute(o.recompute);
  model.module().to(run.device());
  const Groups groups = groups_of(model, o, task);
  AdamW optimizer(groups.groups);
  GradScaler scaler({.enabled = o.amp == "f16"});
  run.restore(model.module(), optimizer, scaler);
  const auto loader = images.loader(o.batch);
  if (run.checkpoint()) {
    const auto at = run.state<std::array<uint64_t, 2>>("loader");
    loader->set_state({at[0], at[1]});
  }

  const int64_t steps = images.batches_per_epoch(o.batch) * o.epochs;
  run.begin({.steps = steps,
             .eval_every = o.eval_every,
             .unit = "images",
             .verb = task == Task::train      ? "train"
                     : task == Task::finetune ? "finetune"
                                              : "probe",
             .columns = {"train_loss", "val_loss", "val_accuracy", "lr", "waiting"},
             .charts = {{"loss.svg", "loss (nats an image)", {{"train_loss", "training"}, {"val_loss", "validation"}}},
                        {"accuracy.svg", "accuracy", {{"val_accuracy", "validation"}}}}},
            [&](const fs::path& folder) { write_file_atomically(folder / "classes.txt", join_lines(names)); });
  run.note(fmt::format("{}, {} parameters, {}; writing to {}", described(images), model.module().num_parameters(), run.place(),
                       run.folder().string()));

  const WarmupCosine schedule{.lr = o.lr, .min_lr = o.min_lr, .warmup = std::min(o.warmup, steps / 2), .steps = steps};
  const auto params = optimizer.parameters();
  const Device device = run.device();
  set_training(model, task);
  Waiting waiting;
  waiting.begin(loader->waited());
  Evaluation last;
  while (run.goes_on()) {
    const double lr = schedule(run.step());
    for (size_t g = 0; g < groups.scales.size(); ++g) optimizer.set_lr(int(g), lr * groups.scales[g]);
    optimizer.zero_grad();
    const Batch batch = *loader->next();
    Tensor loss;
    {
      const Autocast amp = examples::autocast(o);
      loss = cross_entropy(logits_of(model, to(batch.images, device), task == Task::probe), to(batch.targets, device),
                           {.label_smoothing = o.label_smoothing});
    }
    backward(scaler.scale(loss));
    run.add_loss(loss);
    if (o.clip > 0) {
      scaler.unscale_(optimizer);
      clip_grad_norm(params, o.clip);
    }
    scaler.step(optimizer);
    scaler.update();
    run.advance(batch.images.size(0));
    if (!run.reports()) continue;
    std::map<std::string, double> row{{"train_loss", run.mean_loss()}, {"lr", lr}, {"waiting", waiting.share(loader->waited())}};
    if (run.evaluates()) {
      model.module().eval();
      last = evaluate(model, *images.validation(o.batch), o.model.classes, o);
      set_training(model, task);
      row["val_loss"] = last.loss, row["val_accuracy"] = last.accuracy();
      run.note(fmt::format("step {}: training loss {:.4f}, validation loss {:.4f}, accuracy {:.2f}%", run.step(), row["train_loss"],
                           last.loss, 100 * last.accuracy()));
    }
    run.report(row);
    if (run.saves())
      run.save([&](const fs::path& folder, nlohmann::json& state) {
        examples::save_training(folder, state, model.module(), optimizer, scaler);
        state["loader"] = {loader->state().seed, loader->state().offset};
      });
    if (run.evaluates())
      examples::write_to_run(run.folder(), [&] {
        write_file_atomically(run.folder() / "confusion.svg", confusion_svg(last, names, run.folder().filename().string()));
      });
    waiting.begin(loader->waited());
  }
  if (!run.finish()) return;
  run.print_folder();
}

// ---- what it tells --------------------------------------------------------------------------------------------------

int64_t Evaluation::of(int64_t label) const {
  return std::accumulate(confusion.begin() + label * classes, confusion.begin() + (label + 1) * classes, int64_t{0});
}
int64_t Evaluation::right(int64_t label) const { return confusion[size_t(label * classes + label)]; }
double Evaluation::accuracy() const {
  int64_t hits = 0, all = 0;
  for (int64_t c = 0; c < classes; ++c) hits += right(c), all += of(c);
  return all ? double(hits) / double(all) : 0;
}

std::string confusion_svg(const Evaluation& e, const std::vector<std::string>& names, const std::string& title) {
  examples::HeatMap map{.title = fmt::format("{}: accuracy {:.2f}%", title, 100 * e.accuracy()),
                        .x_label = "predicted class",
                        .y_label = "true class",
                        .rows = names,
                        .columns = names,
                        .decimals = e.classes <= 30 ? 0 : -1,
                        .cell = e.classes <= 30 ? 36 : 8};
  for (const int64_t n : e.confusion) map.values.push_back(double(n));
  return to_svg(map);
}

fs::path run_of(const fs::path& checkpoint) { return fs::absolute(checkpoint).parent_path(); }

bool is_classifier(const std::string& from) {
  const fs::path file = run_of(examples::find_checkpoint(from).path) / "config.json";
  return examples::read_json(file).contains("pool");
}

Trained load_classifier(const std::string& from) {
  const fs::path checkpoint = examples::find_checkpoint(from).path, run = run_of(checkpoint);
  if (!is_classifier(from))
    throw Error(fmt::format("{} has a masked autoencoder, which knows no classes; finetune or probe makes a classifier of it", from));
  ClassifyOptions o;
  examples::Settings settings;
  declare(settings, o.data, false);
  declare(settings, o.model, false, true);
  settings.add("--amp", o.amp, "");
  examples::read_config(run, settings);
  auto classes = read_classes(run, o.model.classes);
  Classifier model(o.model);
  model.module().load_state_dict(SafeTensors::open(checkpoint / "model.safetensors").tensors());
  model.module().eval();
  return {std::move(o), std::move(classes), std::move(model)};
}

void set_threads(int64_t threads) {
  if (threads < 0) throw Error(fmt::format("--threads {} is not valid; it must be at least 0", threads));
  if (threads > 0) omp_set_num_threads(int(threads));
}

void evaluate(const EvaluateOptions& o) {
  set_threads(o.threads);
  const Device device = examples::device_of(o.device);
  Trained trained = load_classifier(o.from);
  auto& data = trained.options.data;
  if (!o.data.empty()) data.data = o.data;
  data.workers = o.workers;
  const Images images(data, 0);
  if (images.val().class_names() != trained.classes)
    throw Error(fmt::format("{} has other classes than {} was trained on: {} and {}, the first of them \"{}\" and \"{}\"", data.data,
                            o.from, images.val().classes(), trained.classes.size(), images.val().class_names()[0], trained.classes[0]));
  if (const auto& m = trained.options.model; images.channels() != m.channels || images.size() != m.model_size)
    throw Error(fmt::format("{} has images of {} x {} x {}, but the model takes {} x {} x {}", data.data, images.size(), images.size(),
                            images.channels(), m.model_size, m.model_size, m.channels));
  trained.model.module().to(device);
  const Evaluation e = evaluate(trained.model, *images.validation(o.batch), trained.options.model.classes, trained.options);
  fmt::print("accuracy {:.2f}%, loss {:.4f}, {} images\n", 100 * e.accuracy(), e.loss, images.val().size());
  for (int64_t c = 0; c < e.classes; ++c)
    if (e.of(c))
      fmt::print("{:>8.2f}%  {} ({} of {})\n", 100 * double(e.right(c)) / double(e.of(c)), trained.classes[size_t(c)], e.right(c), e.of(c));
  if (!o.confusion.empty()) write_file_atomically(o.confusion, confusion_svg(e, trained.classes, o.from));
}

void predict(const PredictOptions& o) {
  set_threads(o.threads);
  if (o.top < 1) throw Error(fmt::format("--top {} is not valid; it must be at least 1", o.top));
  const NoGrad off;
  const Device device = examples::device_of(o.device);
  Trained trained = load_classifier(o.from);
  trained.model.module().to(device);
  const auto& m = trained.options.model;
  const auto transform = plain_transform(m.model_size, true, parse_channels("mean", trained.options.data.mean, m.channels),
                                         parse_channels("std", trained.options.data.std, m.channels));
  const ImageReadOptions read{.mode = m.channels == 1 ? ImageReadMode::gray : ImageReadMode::rgb};
  SampleRandom unused(0, 0);
  for (const std::string& file : o.files) {
    const Tensor image = transform(read_image(file, read), unused);
    const Tensor shares = softmax(cast(trained.model(to(unsqueeze(image, 0), device)), DType::f32), -1);
    const auto [values, indices] = topk(select(shares, 0, 0), std::min(o.top, m.classes));
    const auto p = values.to_vector<double>();
    const auto k = indices.to_vector<int64_t>();
    std::string line = file + ":";
    for (size_t i = 0; i < p.size(); ++i) line += fmt::format("{} {} {:.1f}%", i ? "," : "", trained.classes[size_t(k[i])], 100 * p[i]);
    fmt::print("{}\n", line);
  }
}

void export_classifier(const ExportOptions& o) {
  Trained trained = load_classifier(o.from);
  if (!trained.model.vit())
    throw Error(fmt::format("{} has a {}, which is not exported; model.safetensors of its checkpoints has torchvision's names already",
                            o.from, trained.options.model.kind));
  nn::save_vit(*trained.model.vit(), o.out, trained.classes);
}

// ---- verbs ----------------------------------------------------------------------------------------------------------

namespace {
constexpr auto from_help = "run folder or checkpoint";
}

std::function<void()> evaluate_verb(CLI::App& app, std::function<void(const EvaluateOptions&)> run) {
  auto o = std::make_shared<EvaluateOptions>();
  app.add_option("--from", o->from, from_help)->required();
  app.add_option("--data", o->data, "folder of images; if not given, that of the run");
  app.add_option("--confusion", o->confusion, "SVG file to write: which classes are taken for which");
  app.add_option("--batch", o->batch, "images at a time")->check(CLI::PositiveNumber);
  app.add_option("--workers", o->workers, "threads that load ahead")->check(CLI::Range(0, 256));
  app.add_option("--device", o->device, examples::device_help);
  app.add_option("--threads", o->threads, "threads; 0 takes all cores");
  return [o, run] { run(*o); };
}
std::function<void()> predict_verb(CLI::App& app) {
  auto o = std::make_shared<PredictOptions>();
  app.add_option("files", o->files, "PNG or JPEG files")->required();
  app.add_option("--from", o->from, from_help)->required();
  app.add_option("--top", o->top, "how many classes");
  app.add_option("--device", o->device, examples::device_help);
  app.add_option("--threads", o->threads, "threads; 0 takes all cores");
  return [o] { predict(*o); };
}
std::function<void()> export_verb(CLI::App& app, std::function<void(const ExportOptions&)> run) {
  auto o = std::make_shared<ExportOptions>();
  app.add_option("--from", o->from, from_help)->required();
  app.add_option("--out", o->out, "folder to write config.json and model.safetensors to")->required();
  return [o, run] { run(*o); };
}

std::string described(const Images& images) {
  std::string text = fmt::format("{} images ({} classes, {} x {} x {})", images.count(), images.train().classes(), images.size(),
                                 images.size(), images.channels());
  if (const int64_t skipped = images.train().skipped() + images.val().skipped())
    text += fmt::format(", {} that cannot be read left out", skipped);
  return text;
}

void Waiting::begin(double waited) { start_ = std::chrono::steady_clock::now(), waited_ = waited; }
double Waiting::share(double waited) {
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(),
               share = (waited - waited_) / seconds;
  begin(waited);
  return share;
}

}  // namespace retape::vision
