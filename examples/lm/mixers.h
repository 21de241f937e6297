// The mixers that --mixer names.
#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include "model.h"

namespace retape::lm {

struct Mixer {
  std::string name, what;
  std::string positions = "none";       // what --positions auto is
  std::string mlp = "gelu";             // what --mlp auto is
  std::vector<std::string> flags = {};  // those that not every mixer has
  nn::AnySequenceMixer (*make)(const Config& config, int64_t layer);
  nn::AnySequenceMixer (*make_mlp)(const Config& config, int64_t layer) = nullptr;  // of --mlp own
  bool up_to_block = false;                                                         // it knows no position beyond --block
  bool is_attention = false;                                                        // --positions rope, alibi and t5 are for it
  bool as_gpt2 = false;  // its matrices start as the rest of the model does: normal, smaller where branches add up

  bool has(const std::string& flag) const { return std::find(flags.begin(), flags.end(), flag) != flags.end(); }
};
const std::vector<Mixer>& mixers();
/// Throws Error for a name that none has.
const Mixer& mixer_named(const std::string& name);

}  // namespace retape::lm
