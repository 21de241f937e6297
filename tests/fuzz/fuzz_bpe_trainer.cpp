// Three bytes of options and a text: what is learned from it encodes it, and depends neither on the order of its lines nor on saving. A
// text against itself has a BLEU of 0 to 100.
#include <cstdint>

#include <retape/core/error.h>
#include <retape/data/bleu.h>
#include <retape/data/bpe_trainer.h>

#include "require.h"

using namespace retape;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 3) return 0;
  BpeTrainerOptions options{
      .kind = data[0] & 1 ? BpeKind::metaspace : BpeKind::byte_level, .vocab_size = 2 + data[1], .min_frequency = data[2] & 3};
  if (options.kind == BpeKind::byte_level) options.vocab_size += 256;
  else if (data[0] & 2) options.limit_alphabet = 1 + (data[2] >> 2);
  if (data[0] & 4) options.special_tokens = {"<s>", "ab"};
  const std::string_view text(reinterpret_cast<const char*>(data) + 3, size - 3);
  std::vector<std::string> lines(1);
  for (const char c : text) c == '\n' ? void(lines.emplace_back()) : void(lines.back() += c);
  const Bleu bleu = corpus_bleu(lines, {lines});
  require(bleu.score >= 0 && bleu.score < 100.001 && bleu.hyp_len == bleu.ref_len);
  try {
    BpeTrainer forward(options), backward(options);
    for (size_t i = 0; i < lines.size(); ++i) forward.add_text(lines[i]), backward.add_text(lines[lines.size() - 1 - i]);
    const auto tokenizer = forward.train();
    const std::string saved = tokenizer.to_json();
    require(backward.train().vocabulary().merges == tokenizer.vocabulary().merges);
    require(tokenizer.size() <= options.vocab_size);
    const auto again = BpeTokenizer::from_json(saved);
    for (auto& line : lines) {
      const auto ids = tokenizer.encode(line);
      require(again.encode(line) == ids);
      if (options.kind == BpeKind::byte_level) require(tokenizer.decode(ids) == line);
      const bool plain = !line.starts_with(' ') && line.find(metaspace_character) == std::string::npos;
      if (!options.limit_alphabet && plain) require(tokenizer.decode(ids) == line);
    }
  } catch (const Error&) {}
  return 0;
}
