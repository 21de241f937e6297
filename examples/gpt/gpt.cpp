// gpt: trains a GPT on any text, by characters or by GPT-2's tokens, and samples from it.
//
//     gpt train --data text.txt --out runs/mine
//     gpt train --data text.txt --tokenizer gpt2 --vocab gpt2-bpe
//     gpt sample --from runs/mine --prompt "In the beginning"
#include <CLI/CLI.hpp>

#include <examples/common/cli.h>

#include "sample.h"
#include "train.h"

using namespace retape;

namespace {

constexpr auto device_help = "where the model is: auto (a GPU, if there is one that this build can use), cpu, cuda, cuda:1, ...";

void add_tokenizer_options(CLI::App& app, gpt::TrainOptions& o) {
  app.add_option("--tokenizer", o.tokenizer, "char: the text's characters; gpt2: byte pair encoding, with --vocab")
      ->check(CLI::IsMember({"char", "gpt2"}));
  app.add_option("--vocab", o.vocab,
                 "vocabulary: a folder with encoder.json and vocab.bpe, or vocab.json and merges.txt, or a tokenizer.json");
}
std::function<void()> with_given_flags(CLI::App& app, std::shared_ptr<gpt::TrainOptions> o, void (*verb)(const gpt::TrainOptions&)) {
  return [o, verb, &app] {
    for (const CLI::Option* option : app.get_options())
      if (option->count()) o->given.insert(option->get_name());
    verb(*o);
  };
}

std::function<void()> train_verb(CLI::App& app) {
  auto o = std::make_shared<gpt::TrainOptions>();
  app.add_option("--data", o->data, "text file (UTF-8), or tokens.bin that tokenize has made, to train on; the last 10% of it validates");
  app.add_option("--data-format", o->data_format,
                 "text; tokens: with our header; u16: ids of two bytes, as nanoGPT writes them; auto: text or tokens")
      ->check(CLI::IsMember({"auto", "text", "tokens", "u16"}));
  add_tokenizer_options(app, *o);
  app.add_option("--layers", o->model.layers, "transformer blocks");
  app.add_option("--heads", o->model.heads, "attention heads; divides the width");
  app.add_option("--width", o->model.width, "size of a token's vector");
  app.add_option("--block", o->model.block, "tokens that the model sees at once");
  app.add_option("--batch", o->batch, "sequences in a step");
  app.add_option("--accumulate", o->accumulate, "batches whose gradients are added up for a step");
  app.add_option("--steps", o->steps, "optimizer steps, also the length of the learning rate's cosine");
  app.add_option("--lr", o->lr, "highest learning rate");
  app.add_option("--min-lr", o->min_lr, "learning rate at the end");
  app.add_option("--warmup", o->warmup, "steps in which the learning rate rises");
  app.add_option("--beta1", o->beta1, "AdamW: decay of the first moment");
  app.add_option("--beta2", o->beta2, "AdamW: decay of the second moment");
  app.add_option("--weight-decay", o->weight_decay, "AdamW: decay of matrices (vectors have none)");
  app.add_option("--clip", o->clip, "largest norm of the gradient; 0 does not clip");
  app.add_option("--dropout", o->model.dropout, "probability of dropping a value");
  app.add_option("--seed", o->seed, "start of all random numbers");
  app.add_option("--amp", o->amp, "mixed precision: none; bf16; f16, with loss scaling")->check(CLI::IsMember({"none", "bf16", "f16"}));
  app.add_option("--device", o->device, device_help);
  app.add_option("--threads", o->threads, "threads; 0 takes all cores");
  app.add_option("--recompute", o->model.recompute,
                 "what backward computes again to save memory: none; pointwise: all but matrix products and attention; sqrt: all but about "
                 "sqrt(layers) values between blocks; every:N: all but those after each N blocks");
  app.add_option("--memory-budget", o->memory_budget,
                 "bytes that tensors may take on the device, such as 600MiB; values are dropped and computed again as needed; 0: no limit")
      ->transform(CLI::AsSizeValue(false));
  app.add_option("--eval-every", o->eval_every, "steps between validations, each with a checkpoint");
  app.add_option("--keep", o->keep, "checkpoints that stay: the latest ones");
  app.add_option("--sample-tokens", o->sample_tokens, "length of the sample at the end; 0: none");
  app.add_option("--out", o->out, "run folder to create (runs/gpt-<time> if not given)");
  app.add_option(
      "--resume", o->resume,
      "continue this run (or checkpoint) with its own settings, from the beginning if it has no checkpoint yet; --data, --data-format, --steps, "
      "--eval-every, --keep, --sample-tokens, --device, --threads, --recompute, --memory-budget may be given anew");
  app.add_option("--weights", o->weights, "start from the weights of this .safetensors file");
  app.add_flag("--quiet", o->quiet, "print nothing but errors");
  return with_given_flags(app, o, gpt::train);
}

std::function<void()> tokenize_verb(CLI::App& app) {
  auto o = std::make_shared<gpt::TrainOptions>();
  app.add_option("--data", o->data, "text file (UTF-8); may be larger than memory")->required();
  app.add_option("--out", o->out, "folder to create for tokens.bin and tokenizer.json")->required();
  add_tokenizer_options(app, *o);
  app.add_flag("--quiet", o->quiet, "print nothing but errors");
  return with_given_flags(app, o, gpt::tokenize);
}

std::function<void()> sample_verb(CLI::App& app) {
  auto o = std::make_shared<gpt::SampleOptions>();
  app.add_option("--from", o->from, "run folder or checkpoint")->required();
  app.add_option("--prompt", o->prompt, "text to continue; a line break if not given");
  app.add_option("--tokens", o->tokens, "tokens to add");
  app.add_option("--temperature", o->temperature, "above 1 is bolder, below 1 safer; 0 always takes the likeliest");
  app.add_option("--top-k", o->top_k, "choose among the k likeliest tokens; 0: among all");
  app.add_option("--seed", o->seed, "start of all random numbers");
  app.add_option("--device", o->device, device_help);
  app.add_option("--threads", o->threads, "threads; 0 takes all cores");
  return [o] { gpt::sample(*o); };
}

std::function<void()> logits_verb(CLI::App& app) {
  auto o = std::make_shared<gpt::LogitsOptions>();
  app.add_option("--from", o->from, "run folder or checkpoint")->required();
  app.add_option("--weights", o->weights, "use the weights of this .safetensors file instead of the checkpoint's");
  app.add_option("--prompt", o->prompt, "text to read")->required();
  app.add_option("--out", o->out, "file to write: ids and logits as safetensors")->required();
  app.add_option("--device", o->device, device_help);
  app.add_option("--threads", o->threads, "threads; 0 takes all cores");
  return [o] { gpt::logits(*o); };
}

}  // namespace

int main(int argc, char** argv) {
  return examples::run_program(argc, argv, "gpt", "trains a GPT on any text, and samples from it",
                               {{"train", "trains on a text file", train_verb},
                                {"tokenize", "turns a text into a file of token ids to train on", tokenize_verb},
                                {"sample", "writes text with a trained model", sample_verb},
                                {"logits", "writes what a model expects after each token of a text", logits_verb}});
}
