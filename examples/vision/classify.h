// Training a model to tell classes apart: from nothing, from weights that are there, or its last layer only. And what it tells.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include <examples/common/run.h>

#include "data.h"
#include "model.h"

namespace retape::vision {

struct ClassifyOptions : examples::RunOptions {
  DataOptions data;
  ModelOptions model;
  int64_t batch = 128, epochs = 20;
  double lr = 1e-3, min_lr = 1e-5;
  int64_t warmup = 500;
  double beta1 = 0.9, beta2 = 0.999, weight_decay = 0.05, clip = 1, layer_decay = 1, label_smoothing = 0;
  int64_t eval_every = 500;
  std::string from;  // a folder of Hugging Face's; for `finetune` and `probe` also a run
};

enum class Task : uint8_t { train, finetune, probe };
/// The flags of a verb of the program `name`.
void declare(examples::Settings& settings, ClassifyOptions& options, const std::string& name, Task task);
/// Trains and writes config.json, classes.txt, metrics.csv, loss.svg, accuracy.svg, confusion.svg, events and checkpoints into the run folder.
/// `encoder` gives what options.from names. Throws Error.
void train_classifier(ClassifyOptions& options, examples::Settings& settings, const std::string& name, Task task,
                      const std::function<nn::ViT(const std::string& from)>& encoder);

struct Evaluation {
  double loss = 0;
  std::vector<int64_t> confusion;  // (classes, classes): the true class, then the predicted one
  int64_t classes = 0;
  int64_t of(int64_t label) const;  // images of a class
  int64_t right(int64_t label) const;
  double accuracy() const;
};
/// The counts as SVG, rows for true classes.
std::string confusion_svg(const Evaluation& evaluation, const std::vector<std::string>& names, const std::string& title);

/// A classifier with what it was trained on.
struct Trained {
  ClassifyOptions options;
  std::vector<std::string> classes;
  Classifier model;
};
/// From a run or a checkpoint. Throws Error, also for a run that is no classifier.
Trained load_classifier(const std::string& from);
/// Whether a run, or a checkpoint's, holds a classifier.
bool is_classifier(const std::string& from);

struct EvaluateOptions {
  std::string from, data, confusion, device = "auto";
  int64_t batch = 256, workers = 1, threads = 0;
};
/// Prints accuracy and loss on the validation part of the data, and each class's accuracy.
void evaluate(const EvaluateOptions& options);

struct PredictOptions {
  std::string from, device = "auto";
  std::vector<std::string> files;
  int64_t top = 3, threads = 0;
};
/// Prints for each file the likeliest classes with their probabilities.
void predict(const PredictOptions& options);

struct ExportOptions {
  std::string from, out;
};
/// Writes the classifier as Hugging Face's folder.
void export_classifier(const ExportOptions& options);

/// What a verb needs that all image trainers have.
std::function<void()> evaluate_verb(CLI::App& app, std::function<void(const EvaluateOptions&)> run = evaluate);
std::function<void()> predict_verb(CLI::App& app);
std::function<void()> export_verb(CLI::App& app, std::function<void(const ExportOptions&)> run = export_classifier);

/// The folder of a run, or of the run that a checkpoint belongs to.
std::filesystem::path run_of(const std::filesystem::path& checkpoint);
void set_threads(int64_t threads);
/// A line such as "60000 images (10 classes, 28 x 28 x 1)".
std::string described(const Images& images);

/// Seconds of training, and how many of them next() has waited for a batch.
class Waiting {
 public:
  /// Leaves out what has passed since the last call of share().
  void begin(double waited);
  /// The share of the time since begin(), or since the last call.
  double share(double waited);

 private:
  std::chrono::steady_clock::time_point start_;
  double waited_ = 0;
};

}  // namespace retape::vision
