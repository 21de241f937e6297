// Byte-level byte pair encoding as in GPT-2 (Radford et al. 2019; Sennrich et al. 2016): text is split into words by a pattern, and a
// word's bytes are merged pair by pair, the pair that was learned first before the others.
#pragma once
#include <set>

#include <retape/data/tokenizer.h>

namespace retape {

class BpeTokenizer final : public Tokenizer {
 public:
  /// Reads a vocabulary: a folder with `encoder.json` and `vocab.bpe` (as GPT-2 was published) or with `vocab.json` and `merges.txt`
  /// (Hugging Face's names for the same), or a file that save() has written. All 256 bytes must be tokens, ids must be 0, 1, ... without
  /// gaps, and both parts and the result of every merge must be tokens; a token that no merge makes is special, such as <|endoftext|>.
  /// Throws Error, with the file and what is wrong in it.
  static BpeTokenizer load(const std::filesystem::path& path);
  /// The same from the content of the two files.
  static BpeTokenizer from_files(std::string_view vocabulary_json, std::string_view merges);

  const char* type() const override { return "gpt2"; }
  int64_t size() const override;
  /// Any bytes can be encoded, and decode() gives them back. Bytes that are no UTF-8 are words by themselves (tiktoken and Hugging Face's
  /// tokenizers take only text; they see U+FFFD there). Special tokens in the text are text. Many threads may call it.
  std::vector<int64_t> encode(std::string_view text) const override;
  /// The same, but where one of `allowed_special` stands in the text, that token. Throws Error for one that is not a special token.
  std::vector<int64_t> encode(std::string_view text, const std::set<std::string>& allowed_special) const;
  /// The bytes of the tokens, which need not be UTF-8 where a character takes several tokens. Throws Error for an id that is no token.
  std::string decode(const std::vector<int64_t>& ids) const override;
  void save(const std::filesystem::path& path) const override;
  size_t safe_prefix(std::string_view text) const override;

  /// Names of the special tokens, as encode() takes them.
  const std::set<std::string>& special_tokens() const;
  /// The id of a special token; throws Error if it is none.
  int64_t special_id(const std::string& name) const;

 private:
  struct Model;
  explicit BpeTokenizer(std::shared_ptr<const Model> model);
  std::shared_ptr<const Model> model_;
};

}  // namespace retape
