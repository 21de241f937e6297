// What every tokenizer does: text to token ids and back.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace retape {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  /// "char" (CharTokenizer), "gpt2" or "metaspace" (BpeTokenizer, by its kind).
  virtual const char* type() const = 0;
  /// The number of different tokens; ids are below it.
  virtual int64_t size() const = 0;
  /// The ids of a text. Throws Error for text that it has no tokens for.
  virtual std::vector<int64_t> encode(std::string_view text) const = 0;
  /// Throws Error for an id that is no token.
  virtual std::string decode(const std::vector<int64_t>& ids) const = 0;
  /// Writes a JSON file that load_tokenizer() reads; replaces it as a whole.
  virtual void save(const std::filesystem::path& path) const = 0;
  /// The longest prefix that can be encoded by itself whatever follows: its ids and those of the rest, one after the other, are those of
  /// the whole text. 0 if there is none.
  virtual size_t safe_prefix(std::string_view text) const = 0;
};

/// Reads what save() has written, whichever tokenizer that was, or a tokenizer.json that Hugging Face's tokenizers have written (see
/// BpeTokenizer::load); or, from a folder, the GPT-2 vocabulary in it or else its tokenizer.json. Throws Error if there is nothing of the kind, or if it is malformed.
std::shared_ptr<const Tokenizer> load_tokenizer(const std::filesystem::path& path);

}  // namespace retape
