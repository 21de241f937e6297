// Language models as the flags describe them: nn::LanguageModel with any of the library's mixers. With attention it is nanoGPT's GPT.
#pragma once
#include <string>

#include <retape/retape.h>

namespace retape::lm {

struct Config {
  std::string hugging_face = {};  // the text of a config.json of transformers, which then says all but `block`
  int64_t vocab = 0;              // tokens in the vocabulary
  std::string mixer = "attention", positions = "auto", mlp = "auto";
  int64_t block = 64;
  int64_t layers = 4;
  int64_t heads = 4;
  int64_t kv_heads = 0;  // 0: as many as heads
  int64_t window = 128;
  int64_t width = 128;
  int64_t state = 0;  // numbers of a state a channel or feature; 0: the mixer's own
  int64_t chunk = 64;
  double dropout = 0;
};
/// Throws Error, naming the flag, for a mixer that there is not and sizes that do not fit each other.
void check(const Config& config);
/// Throws Error as check() does.
nn::LanguageModel make_model(const Config& config);
/// Why states of a layer would not fade, if that is so: see check_stable() of nn::S4D, S5 and LRU.
std::string unstable(nn::LanguageModel& model);
/// What backward computes again: see examples::parse_recomputation(). Throws Error for anything else.
void recompute(nn::LanguageModel& model, const std::string& how);

}  // namespace retape::lm
