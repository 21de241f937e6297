// mae: a masked autoencoder learns from images without labels; what it has learned makes a classifier of few labels.
//
//     mae train --data fashion-mnist --mask-ratio 0.75 --out runs/mae
//     mae finetune --from runs/mae --labels 600 --out runs/few
//     mae probe --from runs/mae --out runs/probe
//     mae reconstruct --from runs/mae --out pictures.png
//     mae evaluate --from runs/few
#include <CLI/CLI.hpp>

#include <examples/common/cli.h>

#include "pretrain.h"

using namespace retape;
using vision::ClassifyOptions;
using vision::Task;

namespace {

void classify(ClassifyOptions& o, examples::Settings& settings, Task task) {
  if (!o.from.empty()) mae::take_data(o.data, settings, o.from);
  vision::train_classifier(o, settings, "mae", task, mae::load_encoder);
}
template <Task task> void declare(examples::Settings& settings, ClassifyOptions& o) { vision::declare(settings, o, "mae", task); }
template <Task task> void run(ClassifyOptions& o, examples::Settings& settings) { classify(o, settings, task); }
template <Task task> std::function<void()> classify_verb(CLI::App& app) {
  return examples::verb<ClassifyOptions, declare<task>, run<task>>(app);
}

std::function<void()> reconstruct_verb(CLI::App& app) {
  auto o = std::make_shared<mae::ReconstructOptions>();
  app.add_option("files", o->files, "PNG or JPEG files; if none are given, images of the validation part of --data");
  app.add_option("--from", o->from, "run folder or checkpoint")->required();
  app.add_option("--data", o->data, "folder of images; if not given, that of the run");
  app.add_option("--out", o->out, "PNG file to write");
  app.add_option("--first", o->first, "number of the first image");
  app.add_option("--count", o->count, "how many images");
  app.add_option("--mask-ratio", o->mask_ratio, "share of the patches that is hidden; if not given, that of the run")
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--seed", o->seed, "of what is hidden");
  app.add_option("--device", o->device, examples::device_help);
  app.add_option("--threads", o->threads, "threads; 0 takes all cores");
  return [o] { mae::reconstruct(*o); };
}

std::function<void()> time_verb(CLI::App& app) {
  auto o = std::make_shared<mae::TimeOptions>();
  auto& e = o->model.encoder;
  e.channels = 3, e.model_size = 32, e.patch = 4, e.dim = 192, e.depth = 12, e.heads = 3;
  o->model.decoder_dim = 96, o->model.decoder_depth = 4, o->model.decoder_heads = 3;
  app.add_option("--mask-ratios", o->mask_ratios, "each is timed")->delimiter(',');
  app.add_option("--image-size", e.model_size, "height and width of the images")->check(CLI::PositiveNumber);
  app.add_option("--channels", e.channels, "of the images")->check(CLI::PositiveNumber);
  app.add_option("--patch", e.patch, "height and width of a patch")->check(CLI::PositiveNumber);
  app.add_option("--dim", e.dim, "width of the encoder")->check(CLI::PositiveNumber);
  app.add_option("--depth", e.depth, "its blocks")->check(CLI::PositiveNumber);
  app.add_option("--heads", e.heads, "its attention heads")->check(CLI::PositiveNumber);
  app.add_option("--decoder-dim", o->model.decoder_dim, "width of the decoder")->check(CLI::PositiveNumber);
  app.add_option("--decoder-depth", o->model.decoder_depth, "its blocks")->check(CLI::PositiveNumber);
  app.add_option("--decoder-heads", o->model.decoder_heads, "its attention heads")->check(CLI::PositiveNumber);
  app.add_option("--batch", o->batch, "images in a step")->check(CLI::PositiveNumber);
  app.add_option("--steps", o->steps, "how many are timed; the median counts")->check(CLI::PositiveNumber);
  app.add_option("--amp", o->amp, "mixed precision")->check(CLI::IsMember({"none", "bf16", "f16"}));
  app.add_option("--recompute", o->recompute, "none, pointwise, sqrt or every:N");
  app.add_option("--device", o->device, examples::device_help);
  app.add_option("--threads", o->threads, "threads; 0 takes all cores");
  return [o] { mae::time_steps(*o); };
}

}  // namespace

int main(int argc, char** argv) {
  return examples::run_program(argc, argv, "mae", "learns from images without labels by painting what is hidden of them",
                               {{"train", "pre-trains on a folder of images", examples::verb<mae::TrainOptions, mae::declare, mae::train>},
                                {"finetune", "makes a classifier of a pre-trained encoder", classify_verb<Task::finetune>},
                                {"probe", "trains a linear classifier on what a pre-trained encoder gives", classify_verb<Task::probe>},
                                {"reconstruct", "draws images, what is seen of them, and what is painted", reconstruct_verb},
                                {"evaluate", "gives the loss of a pre-trained model, or the accuracy of a classifier",
                                 [](CLI::App& app) { return vision::evaluate_verb(app, mae::evaluate); }},
                                {"predict", "tells which class an image file is likely of", vision::predict_verb},
                                {"export", "writes a model as Hugging Face's transformers reads it",
                                 [](CLI::App& app) { return vision::export_verb(app, mae::export_run); }},
                                {"time", "times steps of pre-training for several mask ratios", time_verb}});
}
