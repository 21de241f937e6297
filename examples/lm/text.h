// What a language model reads: a text or a file of tokens, and its vocabulary.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include <examples/common/settings.h>
#include <retape/retape.h>

namespace retape::lm {

/// What the program was called as: lm, or gpt, its older name.
inline std::string program = "lm";

struct TextOptions {
  std::string data, data_format = "auto";  // text, tokens (with our header), u16 (ids without one), or auto
  std::string tokenizer = "char", vocab;   // its type(); what it is loaded from, empty to make it from the text
};
/// The flags; `on_resume` of the data.
void declare_text(examples::Settings& settings, TextOptions& options, examples::OnResume on_resume);

/// The data that the options name.
class Text {
 public:
  /// With the tokenizer that is given, or the one that the options name, whose type they have afterwards. Throws Error.
  Text(TextOptions& options, const examples::Settings& settings, std::shared_ptr<const Tokenizer> tokenizer = nullptr);
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  std::shared_ptr<const Tokenizer> shared_tokenizer() const { return tokenizer_; }
  /// Throws Error if the data has another vocabulary.
  TokenDataset dataset(const TokenDatasetOptions& options) const;

 private:
  std::string data_, format_, text_;
  std::shared_ptr<const Tokenizer> tokenizer_;
};
/// All tokens of a part.
std::vector<int64_t> in_order(const TokenDataset& data, Split part);

struct TokenizeOptions : TextOptions {
  std::string out;
  bool quiet = false;
};
void declare_tokenize(examples::Settings& settings, TokenizeOptions& options);
/// Writes the text `data` as a file of token ids, which may be larger than memory, and its tokenizer.json into the folder `out`.
/// Throws Error.
void tokenize(TokenizeOptions& options, examples::Settings& settings);

}  // namespace retape::lm
