#include "pretrain.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include <examples/common/cli.h>
#include <retape/io/file.h>

namespace retape::mae {
namespace fs = std::filesystem;
using examples::OnResume;

void declare(examples::Settings& settings, ModelOptions& o) {
  vision::declare(settings, o.encoder, true, false);
  settings.add("--decoder-dim", o.decoder_dim, "size of a patch's vector in the decoder; a multiple of 4").at_least(4);
  settings.add("--decoder-depth", o.decoder_depth, "transformer blocks of the decoder").at_least(1);
  settings.add("--decoder-heads", o.decoder_heads, "its attention heads; divides --decoder-dim").at_least(1);
  settings.add("--decoder-mlp-dim", o.decoder_mlp_dim, "hidden size of its blocks' MLP; 0: four times --decoder-dim").at_least(0);
  settings.add("--mask-ratio", o.mask_ratio, "share of the patches that is hidden; with 0 the loss is over all patches")
      .at_least(0)
      .below(1);
  settings.add("--target", o.target, "what is predicted of a patch: pixels less its mean over their deviation, or as they are")
      .one_of({"normalized", "pixels"});
}

nn::MAEConfig config_of(const ModelOptions& o) {
  vision::ModelOptions encoder = o.encoder;
  encoder.positions = "sincos", encoder.classes = 0;
  if (o.decoder_dim % 4) throw Error(fmt::format("--decoder-dim {} is no multiple of 4, as fixed positions need", o.decoder_dim));
  if (o.decoder_dim % o.decoder_heads)
    throw Error(fmt::format("--decoder-dim {} is no multiple of --decoder-heads {}", o.decoder_dim, o.decoder_heads));
  nn::MAEConfig c{.encoder = config_of(encoder),
                  .decoder_hidden_size = o.decoder_dim,
                  .decoder_num_hidden_layers = o.decoder_depth,
                  .decoder_num_attention_heads = o.decoder_heads,
                  .decoder_intermediate_size = o.decoder_mlp_dim ? o.decoder_mlp_dim : 4 * o.decoder_dim,
                  .mask_ratio = o.mask_ratio,
                  .norm_pix_loss = o.target == "normalized"};
  if (const double patches = double(c.encoder.patches()); patches * (1 - o.mask_ratio) < 1)
    throw Error(fmt::format("--mask-ratio {} hides all of {} patches; at least one must be seen", o.mask_ratio, patches));
  return c;
}

void declare(examples::Settings& settings, TrainOptions& o) {
  o.data.augment = "resized-crop:0.5,flip";
  vision::declare(settings, o.data, false).required();
  declare(settings, o.model);
  settings
      .add("--init", o.init, "start from this folder of Hugging Face's, config.json and model.safetensors; its sizes hold",
           OnResume::refuse)
      .path();
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
  settings.add("--eval-every", o.eval_every, "steps between validations, each with a checkpoint", OnResume::replace).at_least(1);
  settings.add("--pictures", o.pictures, "rows of reconstructions.png, drawn with every validation; 0: none", OnResume::replace)
      .at_least(0)
      .at_most(256);
  examples::declare_common(settings, o, "mae");
}

namespace {

void set_recompute(nn::MaskedAutoencoder& model, const std::string& how) {
  model.encoder.run_blocks = vision::run_blocks(how, int64_t(model.encoder.blocks.size()));
  model.decoder.run_blocks = vision::run_blocks(how, int64_t(model.decoder.blocks.size()));
}
Device device_of(const nn::MaskedAutoencoder& model) { return model.encoder.cls_token->device(); }

std::vector<ParamGroup<AdamWOptions>> groups_of(const nn::MaskedAutoencoder& model, const TrainOptions& o) {
  ParamGroup<AdamWOptions> matrices{{}, {.lr = o.lr, .betas = {o.beta1, o.beta2}, .weight_decay = o.weight_decay}}, others = matrices;
  others.options.weight_decay = 0;
  for (auto& [name, p] : model.named_parameters())
    if (p.requires_grad()) (p.dim() >= 2 && !name.ends_with("_token") ? matrices : others).params.push_back(p);
  return {matrices, others};
}

// What is hidden depends on the seed only, so that values of different moments are of the same patches.
double validate(nn::MaskedAutoencoder& model, const vision::Images& images, int64_t batch, uint64_t seed, const examples::RunOptions& o) {
  const NoGrad off;
  model.eval();
  Generator generator(seed);
  const auto batches = images.validation(batch);
  double total = 0, count = 0;
  while (const auto some = batches->next()) {
    const Tensor x = to(some->images, device_of(model));
    const PatchMask mask = random_masking(x.size(0), model.config.encoder.patches(), model.config.mask_ratio, x.device(), generator);
    const Autocast amp = examples::autocast(o);
    total += model(x, mask).loss.item() * double(x.size(0)), count += double(x.size(0));
  }
  model.train();
  return total / count;
}

// A row for each image, three pictures in it, white between them; small images are enlarged.
Tensor picture(nn::MaskedAutoencoder& model, const Tensor& batch, const std::vector<double>& mean, const std::vector<double>& std,
               uint64_t seed) {
  const NoGrad off;
  const bool training = model.is_training();
  model.eval();
  const auto& c = model.config.encoder;
  const int64_t count = batch.size(0), p = c.patch_size;
  Generator generator(seed);
  const Tensor x = to(batch, device_of(model));
  const PatchMask mask = random_masking(count, c.patches(), model.config.mask_ratio, x.device(), generator);
  const Tensor patches = patchify(x, p), hidden = unsqueeze(mask.hidden, -1);
  Tensor pred = cast(model(x, mask).pred, DType::f32);
  if (model.config.norm_pix_loss) pred = pred * sqrt(var(patches, {-1}, 1, true) + 1e-6) + retape::mean(patches, {-1}, true);
  model.train(training);
  const Shape each{c.num_channels, 1, 1};
  const auto pixels = [&](const Tensor& of) {  // between 0 and 1
    const Tensor image = to(unpatchify(of, p, c.num_channels, c.image_size), Device::cpu());
    return clamp(image * cast(tensor(std, each), DType::f32) + cast(tensor(mean, each), DType::f32), 0, 1);
  };
  const Tensor grey = to(unpatchify(expand(cast(hidden, DType::f32), patches.shape()), p, c.num_channels, c.image_size), Device::cpu());
  const Tensor original = pixels(patches);
  const int64_t scale = std::max<int64_t>(1, 112 / c.image_size), gap = 4, side = c.image_size * scale;
  const auto framed = [&](const Tensor& image) {
    const Tensor large = repeat_interleave(repeat_interleave(image, scale, 2), scale, 3);
    return pad(large, {gap, 0, gap, 0}, PadMode::constant, 1);
  };
  const Tensor rows = cat({framed(original), framed(original * (1 - grey) + 0.5 * grey), framed(pixels(where(hidden, pred, patches)))}, 3);
  Tensor all = reshape(permute(rows, {1, 0, 2, 3}), {c.num_channels, count * (side + gap), 3 * (side + gap)});
  all = pad(all, {0, gap, 0, gap}, PadMode::constant, 1);
  return contiguous(cast(floor(all * 255 + 0.5), DType::u8));
}

Tensor first_images(const vision::Images& images, int64_t first, int64_t count) {
  std::vector<Tensor> some;
  SampleRandom unused(0, 0);
  for (int64_t i = first; i < std::min(first + count, images.val().size()); ++i)
    some.push_back(images.plain()(images.val().image(i), unused));
  if (some.empty()) throw Error(fmt::format("--first {} is not possible; there are {} images", first, images.val().size()));
  return stack(some);
}

nn::MaskedAutoencoder make_model(TrainOptions& o, bool fresh) {
  auto& e = o.model.encoder;
  if (!fresh || o.init.empty()) return nn::MaskedAutoencoder(config_of(o.model));
  nn::MaskedAutoencoder model = nn::load_vit_mae(o.init);
  const auto& c = model.config;
  if (c.encoder.num_channels != e.channels || c.encoder.image_size != e.model_size)
    throw Error(fmt::format("{} takes images of {} x {} with {} channels, but those of {} are {} x {} with {}{}", o.init,
                            c.encoder.image_size, c.encoder.image_size, c.encoder.num_channels, o.data.data, e.model_size, e.model_size,
                            e.channels, c.encoder.num_channels == e.channels ? "; give --image-size" : ""));
  vision::take_config(e, c.encoder);
  o.model.decoder_dim = c.decoder_hidden_size, o.model.decoder_depth = c.decoder_num_hidden_layers;
  o.model.decoder_heads = c.decoder_num_attention_heads, o.model.decoder_mlp_dim = c.decoder_intermediate_size;
  model.config.mask_ratio = o.model.mask_ratio, model.config.norm_pix_loss = o.model.target == "normalized";
  config_of(o.model);  // checks the mask
  return model;
}

}  // namespace

void train(TrainOptions& o, examples::Settings& settings) {
  examples::Run run("mae", settings, o);
  if (o.min_lr > o.lr) throw Error(fmt::format("--min-lr {} is above --lr {}", o.min_lr, o.lr));
  const vision::Images images(o.data, o.seed);
  auto& e = o.model.encoder;
  if (run.has_settings() && (e.channels != images.channels() || e.model_size != images.size()))
    throw Error(fmt::format("{} has images of {} x {} x {}, but the run began with {} x {} x {}; name those of the run with --data",
                            o.data.data, images.size(), images.size(), images.channels(), e.model_size, e.model_size, e.channels));
  e.channels = images.channels(), e.model_size = images.size();

  manual_seed(o.seed);
  nn::MaskedAutoencoder model = make_model(o, !run.checkpoint());
  set_recompute(model, o.recompute);
  model.to(run.device());
  AdamW optimizer(groups_of(model, o));
  GradScaler scaler({.enabled = o.amp == "f16"});
  run.restore(model, optimizer, scaler);
  const auto loader = images.loader(o.batch);
  if (run.checkpoint()) {
    const auto at = run.state<std::array<uint64_t, 2>>("loader");
    loader->set_state({at[0], at[1]});
  }

  const int64_t steps = images.batches_per_epoch(o.batch) * o.epochs;
  run.begin({.steps = steps,
             .eval_every = o.eval_every,
             .unit = "images",
             .columns = {"train_loss", "val_loss", "lr", "waiting"},
             .charts = {{"loss.svg", "mean squared error", {{"train_loss", "training"}, {"val_loss", "validation"}}}}});
  run.note(fmt::format("{}, {} parameters, {} of {} patches are seen, {}; writing to {}", described(images), model.num_parameters(),
                       int64_t(double(model.config.encoder.patches()) * (1 - o.model.mask_ratio)), model.config.encoder.patches(),
                       run.place(), run.folder().string()));

  const auto mean = vision::parse_channels("--mean", o.data.mean, e.channels),
             std = vision::parse_channels("--std", o.data.std, e.channels);
  const Tensor shown = o.pictures ? first_images(images, 0, o.pictures) : Tensor();
  const WarmupCosine schedule{.lr = o.lr, .min_lr = o.min_lr, .warmup = std::min(o.warmup, steps / 2), .steps = steps};
  const auto params = optimizer.parameters();
  vision::Waiting waiting;
  waiting.begin(loader->waited());
  while (run.goes_on()) {
    const double lr = schedule(run.step());
    optimizer.set_lr(lr);
    optimizer.zero_grad();
    const vision::Batch batch = *loader->next();
    Tensor loss;
    {
      const Autocast amp = examples::autocast(o);
      loss = model.loss(to(batch.images, run.device()));
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
      row["val_loss"] = validate(model, images, o.batch, o.seed, o);
      run.note(fmt::format("step {}: training loss {:.4f}, validation loss {:.4f}", run.step(), row["train_loss"], row["val_loss"]));
    }
    run.report(row);
    if (run.saves())
      run.save([&](const fs::path& folder, nlohmann::json& state) {
        examples::save_training(folder, state, model, optimizer, scaler);
        state["loader"] = {loader->state().seed, loader->state().offset};
      });
    if (run.evaluates() && shown)
      examples::write_to_run(run.folder(),
                             [&] { write_png(run.folder() / "reconstructions.png", picture(model, shown, mean, std, o.seed)); });
    waiting.begin(loader->waited());
  }
  if (run.finish()) run.print_folder();
}

// ---- what has been trained ------------------------------------------------------------------------------------------

Pretrained load_pretrained(const std::string& from) {
  const fs::path checkpoint = examples::find_checkpoint(from).path;
  if (vision::is_classifier(from)) throw Error(fmt::format("{} has a classifier, not a masked autoencoder", from));
  TrainOptions o;
  examples::Settings settings;
  vision::declare(settings, o.data, false);
  declare(settings, o.model);
  settings.add("--amp", o.amp, ""), settings.add("--seed", o.seed, "");
  examples::read_config(vision::run_of(checkpoint), settings);
  nn::MaskedAutoencoder model(config_of(o.model));
  model.load_state_dict(SafeTensors::open(checkpoint / "model.safetensors").tensors());
  model.eval();
  return {std::move(o), std::move(model)};
}

namespace {
// A checkpoint has no config.json, and a run no weights beside its own.
bool is_hugging_face(const fs::path& folder) { return fs::exists(folder / "model.safetensors") && fs::exists(folder / "config.json"); }
}  // namespace
nn::ViT load_encoder(const std::string& from) {
  return is_hugging_face(from) ? nn::load_vit(from) : std::move(load_pretrained(from).model.encoder);
}
void take_data(vision::DataOptions& data, const examples::Settings& settings, const std::string& from) {
  if (is_hugging_face(from)) return;
  const vision::DataOptions of_run = load_pretrained(from).options.data;
  if (!settings.given("--data")) data.data = of_run.data;
  if (!settings.given("--image-size")) data.image_size = of_run.image_size;
  if (!settings.given("--mean")) data.mean = of_run.mean;
  if (!settings.given("--std")) data.std = of_run.std;
}

void evaluate(const vision::EvaluateOptions& o) {
  if (vision::is_classifier(o.from)) return vision::evaluate(o);
  if (!o.confusion.empty()) throw Error(fmt::format("--confusion: {} has a masked autoencoder, which knows no classes", o.from));
  vision::set_threads(o.threads);
  const Device device = examples::device_of(o.device);
  Pretrained trained = load_pretrained(o.from);
  auto& options = trained.options;
  if (!o.data.empty()) options.data.data = o.data;
  options.data.workers = o.workers;
  const vision::Images images(options.data, 0);
  trained.model.to(device);
  fmt::print("loss {:.4f}, {} images\n", validate(trained.model, images, o.batch, options.seed, options), images.val().size());
}

void reconstruct(const ReconstructOptions& o) {
  vision::set_threads(o.threads);
  if (o.count < 1 || o.first < 0) throw Error(fmt::format("--count {} --first {}: not possible", o.count, o.first));
  const Device device = examples::device_of(o.device);
  Pretrained trained = load_pretrained(o.from);
  auto& options = trained.options;
  if (!o.data.empty()) options.data.data = o.data;
  if (o.mask_ratio >= 0) trained.model.config.mask_ratio = options.model.mask_ratio = o.mask_ratio;
  config_of(options.model);  // checks it
  trained.model.to(device);
  const auto& e = options.model.encoder;
  const auto mean = vision::parse_channels("mean", options.data.mean, e.channels),
             std = vision::parse_channels("std", options.data.std, e.channels);
  Tensor shown;
  if (o.files.empty()) {
    shown = first_images(vision::Images(options.data, 0), o.first, o.count);
  } else {
    const auto transform = vision::plain_transform(e.model_size, true, mean, std);
    const ImageReadOptions read{.mode = e.channels == 1 ? ImageReadMode::gray : ImageReadMode::rgb};
    SampleRandom unused(0, 0);
    std::vector<Tensor> images;
    for (auto& file : o.files) images.push_back(transform(read_image(file, read), unused));
    shown = stack(images);
  }
  write_png(o.out, picture(trained.model, shown, mean, std, o.seed));
}

void export_run(const vision::ExportOptions& o) {
  if (vision::is_classifier(o.from)) return vision::export_classifier(o);
  nn::save_vit_mae(load_pretrained(o.from).model, o.out);
}

// ---- time -----------------------------------------------------------------------------------------------------------

void time_steps(const TimeOptions& given) {
  TimeOptions o = given;
  vision::set_threads(o.threads);
  const Device device = examples::device_of(o.device);
  fmt::print("{:>10} {:>8} {:>12} {:>10} {:>10}\n", "mask ratio", "ms", "images/s", "MiB", "speed");
  double first = 0;
  for (const double ratio : o.mask_ratios) {
    o.model.mask_ratio = ratio;
    manual_seed(1);
    nn::MaskedAutoencoder model(config_of(o.model));
    examples::RunOptions options;
    options.amp = o.amp;
    set_recompute(model, o.recompute);
    model.to(device);
    TrainOptions defaults;
    AdamW optimizer(groups_of(model, defaults));
    const auto& e = o.model.encoder;
    const Tensor images = randn({o.batch, e.channels, e.model_size, e.model_size}, {.device = device});
    const auto params = optimizer.parameters();
    const auto step = [&] {
      optimizer.zero_grad();
      Tensor loss;
      {
        const Autocast amp = examples::autocast(options);
        loss = model.loss(images);
      }
      backward(loss);
      clip_grad_norm(params, 1);
      optimizer.step();
      synchronize(device);
    };
    for (int i = 0; i < 3; ++i) step();
    reset_peak_memory(device);
    std::vector<double> seconds;
    for (int64_t i = 0; i < o.steps; ++i) {
      const auto begin = std::chrono::steady_clock::now();
      step();
      seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
    std::nth_element(seconds.begin(), seconds.begin() + o.steps / 2, seconds.end());
    const double median = seconds[size_t(o.steps / 2)];
    if (first == 0) first = median;
    fmt::print("{:>10} {:>8.1f} {:>12.0f} {:>10.1f} {:>9.2f}x\n", ratio, 1e3 * median, double(o.batch) / median,
               double(memory_stats(device).peak) / (1 << 20), first / median);
  }
}

}  // namespace retape::mae
