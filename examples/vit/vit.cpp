// vit: trains a vision transformer to tell classes of images apart.
//
//     vit train --data fashion-mnist --out runs/vit
//     vit evaluate --from runs/vit --confusion confusion.svg
//     vit predict --from runs/vit shirt.png
#include <CLI/CLI.hpp>

#include <examples/common/cli.h>
#include <examples/vision/classify.h>

using namespace retape;
using vision::ClassifyOptions;

namespace {

void declare(examples::Settings& settings, ClassifyOptions& o) { vision::declare(settings, o, "vit", vision::Task::train); }
void train(ClassifyOptions& o, examples::Settings& settings) {
  vision::train_classifier(o, settings, "vit", vision::Task::train, [](const std::string& from) { return nn::load_vit(from); });
}

}  // namespace

int main(int argc, char** argv) {
  return examples::run_program(
      argc, argv, "vit", "trains a vision transformer to tell classes of images apart",
      {{"train", "trains on a folder of images", examples::verb<ClassifyOptions, declare, train>},
       {"evaluate", "tells how many images of the validation part are told right",
        [](CLI::App& app) { return vision::evaluate_verb(app); }},
       {"predict", "tells which class an image file is likely of", vision::predict_verb},
       {"export", "writes a model as Hugging Face's transformers reads it", [](CLI::App& app) { return vision::export_verb(app); }}});
}
