#include "sample.h"

#include <fmt/format.h>
#include <omp.h>

#include <examples/common/cli.h>
#include <examples/common/run_folder.h>

#include "run_files.h"

namespace retape::lm {

void sample(const SampleOptions& o) {
  if (o.tokens < 0) throw Error(fmt::format("--tokens {} is not valid; it must be at least 0", o.tokens));
  if (!(o.temperature >= 0)) throw Error(fmt::format("--temperature {} is not valid; it must be at least 0", o.temperature));
  if (o.top_k < 0) throw Error(fmt::format("--top-k {} is not valid; it must be at least 0 (0: all)", o.top_k));
  if (o.threads < 0) throw Error(fmt::format("--threads {} is not valid; it must be at least 0", o.threads));
  if (o.threads > 0) omp_set_num_threads(o.threads);
  const Device device = examples::device_of(o.device);
  Trained trained = load_model(o.from);
  trained.model.eval();
  trained.model.to(device);
  auto prompt = trained.tokenizer->encode(o.prompt);
  if (prompt.empty()) prompt = start_of_text(*trained.tokenizer);
  Generator generator(o.seed);
  fmt::print("{}{}\n", o.prompt,
             trained.tokenizer->decode(trained.model.generate(
                 prompt, o.tokens, {.temperature = o.temperature, .top_k = o.top_k, .vocab_size = trained.tokenizer->size()}, generator)));
}

void logits(const LogitsOptions& o) {
  if (o.threads < 0) throw Error(fmt::format("--threads {} is not valid; it must be at least 0", o.threads));
  if (o.threads > 0) omp_set_num_threads(o.threads);
  const NoGrad off;
  const Device device = examples::device_of(o.device);
  Trained trained = load_model(o.from);
  if (!o.weights.empty()) trained.model.load_state_dict(SafeTensors::open(o.weights).tensors());
  trained.model.eval();
  trained.model.to(device);
  const auto prompt = trained.tokenizer->encode(o.prompt);
  if (prompt.empty()) throw Error("--prompt is empty; give at least one token");
  const Tensor ids = tensor(prompt, {1, int64_t(prompt.size())});
  save_safetensors(o.out, {{"ids", ids}, {"logits", trained.model(to(ids, device))}});
}

}  // namespace retape::lm
