// Text as a sequence of characters. A character is a Unicode code point; text is UTF-8.
#pragma once
#include <array>
#include <unordered_map>

#include <retape/data/tokenizer.h>

namespace retape {

class CharTokenizer final : public Tokenizer {
 public:
  /// Every character that the text has, numbered in the order of their code points. Throws Error, with the byte's offset, if the
  /// text is not UTF-8.
  static CharTokenizer from_text(std::string_view text);
  /// Reads what save() has written. Throws Error if the file cannot be read or is something else.
  static CharTokenizer load(const std::filesystem::path& path);

  const char* type() const override { return "char"; }
  int64_t size() const override { return int64_t(characters_.size()); }
  /// Throws Error, naming the character, for one that has no token, and for text that is not UTF-8.
  std::vector<int64_t> encode(std::string_view text) const override;
  std::string decode(const std::vector<int64_t>& ids) const override;
  void save(const std::filesystem::path& path) const override;
  size_t safe_prefix(std::string_view text) const override;

 private:
  explicit CharTokenizer(std::u32string characters);
  int64_t id_of(char32_t c) const;  // -1: none
  std::u32string characters_;       // by id
  std::array<int64_t, 128> ascii_;  // ids of the usual characters
  std::unordered_map<char32_t, int64_t> others_;
};

}  // namespace retape
