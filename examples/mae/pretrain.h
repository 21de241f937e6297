// Pre-training: hidden patches of images are to be painted, no labels are read.
#pragma once
#include <string>
#include <vector>

#include <examples/vision/classify.h>

namespace retape::mae {

struct ModelOptions {
  vision::ModelOptions encoder;
  int64_t decoder_dim = 64, decoder_depth = 2, decoder_heads = 4, decoder_mlp_dim = 0;
  double mask_ratio = 0.75;
  std::string target = "normalized";
};
void declare(examples::Settings& settings, ModelOptions& options);
/// Throws Error, naming the flag.
nn::MAEConfig config_of(const ModelOptions& options);

struct TrainOptions : examples::RunOptions {
  vision::DataOptions data;
  ModelOptions model;
  int64_t batch = 128, epochs = 20;
  double lr = 2e-3, min_lr = 0;
  int64_t warmup = 500;
  double beta1 = 0.9, beta2 = 0.95, weight_decay = 0.05, clip = 1;
  int64_t eval_every = 500, pictures = 8;
  std::string init;
};
void declare(examples::Settings& settings, TrainOptions& options);
/// Trains and writes config.json, metrics.csv, loss.svg, reconstructions.png, events and checkpoints into the run folder. Throws Error.
void train(TrainOptions& options, examples::Settings& settings);

struct Pretrained {
  TrainOptions options;
  nn::MaskedAutoencoder model;
};
/// From a run or a checkpoint. Throws Error, also for a run that is a classifier.
Pretrained load_pretrained(const std::string& from);
/// The encoder of a run, a checkpoint, or a folder of Hugging Face's.
nn::ViT load_encoder(const std::string& from);
/// What was not given about the data, as the run was pre-trained on it; nothing of a folder of Hugging Face's.
void take_data(vision::DataOptions& data, const examples::Settings& settings, const std::string& from);

/// Prints the loss on the validation part of the data; of a classifier what vision::evaluate() prints.
void evaluate(const vision::EvaluateOptions& options);

struct ReconstructOptions {
  std::string from, data, out = "reconstructions.png", device = "auto";
  std::vector<std::string> files;
  int64_t first = 0, count = 8, threads = 0;
  double mask_ratio = -1;  // that of the run
  uint64_t seed = 1337;
};
/// Writes a picture with a row for each image: the original, what the encoder sees of it, and what the model makes of that.
void reconstruct(const ReconstructOptions& options);

struct TimeOptions {
  ModelOptions model;
  std::vector<double> mask_ratios = {0, 0.5, 0.75, 0.9};
  std::string device = "auto", amp = "none", recompute = "none";
  int64_t batch = 64, steps = 20, threads = 0;
};
/// Prints how long a step of training takes, and the memory that its tensors take at most, for each mask ratio.
void time_steps(const TimeOptions& options);

void export_run(const vision::ExportOptions& options);

}  // namespace retape::mae
