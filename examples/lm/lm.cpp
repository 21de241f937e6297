// lm: trains a language model on any text, by characters or by GPT-2's tokens, and samples from it. The program is also there as gpt.
//
//     lm train --data text.txt --out runs/mine
//     lm train --data text.txt --mixer mamba
//     lm train --data text.txt --tokenizer gpt2 --vocab gpt2-bpe
//     lm sample --from runs/mine --prompt "In the beginning"
#include <filesystem>

#include <CLI/CLI.hpp>

#include <examples/common/cli.h>

#include "compare.h"
#include "ngram.h"
#include "sample.h"
#include "train.h"

using namespace retape;

namespace {

using examples::device_help;

std::function<void()> sample_verb(CLI::App& app) {
  auto o = std::make_shared<lm::SampleOptions>();
  app.add_option("--from", o->from, "run folder or checkpoint, or a folder of GPT-2, Llama or Mamba as transformers saves it")->required();
  app.add_option("--prompt", o->prompt, "text to continue; a line break if not given");
  app.add_option("--tokens", o->tokens, "tokens to add");
  app.add_option("--temperature", o->temperature, "above 1 is bolder, below 1 safer; 0 always takes the likeliest");
  app.add_option("--top-k", o->top_k, "choose among the k likeliest tokens; 0: among all");
  app.add_option("--seed", o->seed, "start of all random numbers");
  app.add_option("--device", o->device, device_help);
  app.add_option("--threads", o->threads, "threads; 0 takes all cores");
  return [o] { lm::sample(*o); };
}

std::function<void()> logits_verb(CLI::App& app) {
  auto o = std::make_shared<lm::LogitsOptions>();
  app.add_option("--from", o->from, "run folder or checkpoint")->required();
  app.add_option("--weights", o->weights, "use the weights of this .safetensors file instead of the checkpoint's");
  app.add_option("--prompt", o->prompt, "text to read")->required();
  app.add_option("--out", o->out, "file to write: ids and logits as safetensors")->required();
  app.add_option("--device", o->device, device_help);
  app.add_option("--threads", o->threads, "threads; 0 takes all cores");
  return [o] { lm::logits(*o); };
}

}  // namespace

int main(int argc, char** argv) {
  if (std::filesystem::path(argv[0]).stem() == "gpt") lm::program = "gpt";
  return examples::run_program(argc, argv, lm::program, "trains a language model on any text, and samples from it",
                               {{"train", "trains on a text file", examples::verb<lm::TrainOptions, lm::declare, lm::train>},
                                {"tokenize", "turns a text into a file of token ids to train on",
                                 examples::verb<lm::TokenizeOptions, lm::declare_tokenize, lm::tokenize>},
                                {"ngram", "counts n-grams: the baseline", examples::verb<lm::NgramOptions, lm::declare_ngram, lm::ngram>},
                                {"compare", "trains all mixers at equal parameters and steps, and makes a table",
                                 examples::verb<lm::CompareOptions, lm::declare_compare, lm::compare>},
                                {"sample", "writes text with a trained model", sample_verb},
                                {"logits", "writes what a model expects after each token of a text", logits_verb}});
}
