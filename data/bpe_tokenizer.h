// Byte pair encoding (Sennrich et al. 2016): text is split into words, a word into symbols, and neighbours are merged pair by pair, the
// pair that was learned first before the others. Vocabularies are trained by BpeTrainer or come from files.
#pragma once
#include <map>
#include <optional>
#include <set>

#include <retape/data/bpe_words.h>
#include <retape/data/tokenizer.h>

namespace retape {

/// What a BpeTokenizer is made of, as its files have it.
struct BpeVocabulary {
  BpeKind kind = BpeKind::byte_level;
  /// Kind byte_level knows always and never.
  PrependScheme prepend_scheme = PrependScheme::never;
  /// Tokens by id, as files write them: bytes in GPT-2's alphabet, or characters with U+2581 for spaces; special tokens as they are.
  std::vector<std::string> tokens = {};
  /// In the order in which they were learned. Both parts and the result are tokens.
  std::vector<std::pair<std::string, std::string>> merges = {};
  struct Special {
    int64_t id;
    /// What Hugging Face's decode() leaves out if asked to skip special tokens; false for words that somebody added.
    bool special = true;
  };
  std::map<std::string, Special> special_tokens = {};
  /// What symbols get that are no tokens. Without one, byte_level has all 256 bytes.
  std::optional<std::string> unk_token = {};
  /// One unknown token for a run of unknown symbols in a word.
  bool fuse_unk = false;
};

class BpeTokenizer final : public Tokenizer {
 public:
  /// Reads a vocabulary:
  /// - a file `tokenizer.json` of Hugging Face's tokenizers, which is what save() writes too: a BPE model with pre-tokenizer and decoder
  ///   ByteLevel (with GPT-2's pattern) or Metaspace. Merges may be strings or pairs. What changes ids or text and is not implemented
  ///   (normalizers, other pre-tokenizers, templates that add tokens, dropout, byte fallback, ...) is an Error that names it;
  /// - a folder with `encoder.json` and `vocab.bpe` (as GPT-2 was published) or with `vocab.json` and `merges.txt` (Hugging Face's names
  ///   for the same), where a token that no merge makes is special, such as <|endoftext|>, if it is text and no other token's name;
  /// - a file {"type": "gpt2", "tokens": [...], "merges": [...]}, which is what save() wrote before.
  /// Ids must be 0, 1, ... without gaps, both parts and the result of every merge must be tokens, and all 256 bytes must be tokens of a
  /// byte-level vocabulary that has no unk_token. Throws Error, with the file and what is wrong in it.
  static BpeTokenizer load(const std::filesystem::path& path);
  /// The same from the content of the two files of a folder.
  static BpeTokenizer from_files(std::string_view vocabulary_json, std::string_view merges);
  /// The same from the content of a file.
  static BpeTokenizer from_json(std::string_view content);
  /// Checks what load() checks.
  explicit BpeTokenizer(BpeVocabulary vocabulary);

  /// "gpt2" for kind byte_level, "metaspace" for kind metaspace.
  const char* type() const override;
  const BpeVocabulary& vocabulary() const;
  int64_t size() const override;
  /// The ids that Hugging Face's tokenizers give for the same file with add_special_tokens=False, but special tokens in the text are text.
  /// Kind byte_level encodes any bytes; those that are no UTF-8 are words by themselves (tiktoken and Hugging Face's tokenizers take only
  /// text; they see U+FFFD there). Kind metaspace throws Error for text that is not UTF-8, and for a character that is no token if there
  /// is no unk_token. Many threads may call it.
  std::vector<int64_t> encode(std::string_view text) const override;
  /// The same, but where one of `allowed_special` stands in the text, that token. Throws Error for one that is not a special token.
  std::vector<int64_t> encode(std::string_view text, const std::set<std::string>& allowed_special) const;
  /// The text of the tokens. Kind byte_level gives the bytes back that were encoded (and a prefix space if the vocabulary adds one); they
  /// need not be UTF-8 where a character takes several tokens. Kind metaspace gives back text of known characters that neither begins
  /// with a space nor has U+2581, which is decoded as a space. Throws Error for an id that is no token.
  std::string decode(const std::vector<int64_t>& ids) const override;
  /// The same without special tokens: decode({bos, ..., eos}, true) is the text between them.
  std::string decode(const std::vector<int64_t>& ids, bool skip_special_tokens) const;
  /// Writes a tokenizer.json that Hugging Face's tokenizers read, too. Throws Error if the file cannot be written.
  void save(const std::filesystem::path& path) const override;
  /// What save() writes.
  std::string to_json() const;
  size_t safe_prefix(std::string_view text) const override;

  /// Names of the special tokens, as encode() takes them.
  const std::set<std::string>& special_tokens() const;
  /// The id of a special token; throws Error if it is none.
  int64_t special_id(const std::string& name) const;
  /// The id that unknown characters get, if there is one.
  std::optional<int64_t> unk_id() const;

 private:
  struct Model;
  static std::shared_ptr<const Model> checked(BpeVocabulary vocabulary, const std::string& file);
  explicit BpeTokenizer(std::shared_ptr<const Model> model);
  std::shared_ptr<const Model> model_;
};

}  // namespace retape
