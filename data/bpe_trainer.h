// Learns a vocabulary for byte pair encoding from text.
#pragma once
#include <filesystem>
#include <optional>
#include <unordered_map>

#include <retape/data/bpe_tokenizer.h>

namespace retape {

/// Names and defaults are those of Hugging Face's BpeTrainer.
struct BpeTrainerOptions {
  /// What words and symbols are. The tokenizer has what its kind needs: byte_level no prefix space and all 256 bytes, metaspace a prefix
  /// space (PrependScheme::always) and the unknown token \<unk>, after the special tokens unless it is one of them.
  BpeKind kind = BpeKind::byte_level;
  /// Special tokens, symbols and merged tokens together. Training ends earlier where no pair is left.
  int64_t vocab_size = 30000;
  /// How often a pair must be there to be merged.
  int64_t min_frequency = 0;
  /// Such as {"<pad>", "<s>", "</s>", "<unk>"}: they get the first ids in this order. No merge makes one of them, whatever the text.
  std::vector<std::string> special_tokens = {};
  /// Of kind metaspace, how many different characters to keep, the most frequent ones; U+2581 is among them. The others are unknown.
  std::optional<int64_t> limit_alphabet = {};
};

/// Counts words, then merges the most frequent pair of neighbouring tokens again and again (Sennrich et al. 2016).
///
///     BpeTrainer trainer({.kind = BpeKind::metaspace, .vocab_size = 8000, .special_tokens = {"<pad>", "<s>", "</s>", "<unk>"}});
///     trainer.add_file("train.en"), trainer.add_file("train.de");  // a joint vocabulary
///     const BpeTokenizer tokenizer = trainer.train();
///
/// Ids: special tokens; symbols, by code point (of a byte's character in GPT-2's alphabet); merged tokens as they are learned. Of pairs
/// with equal counts the one whose left token has the lower id comes first, then the one whose right token has. So the same words give the
/// same tokenizer, in whatever order and pieces they were added; it is the one that Hugging Face's trainer makes of the same sequences
/// with the byte alphabet as initial alphabet, as long as no two merges make the same token, no merge makes a special token, and
/// limit_alphabet leaves nothing out (here merges do not reach across what is left out; there they do).
class BpeTrainer {
 public:
  /// Throws Error for options that cannot be.
  explicit BpeTrainer(BpeTrainerOptions options);
  /// Counts the words of a text: of kind byte_level as a whole, of kind metaspace line by line, without the line ends.
  /// Throws Error for text of kind metaspace that is not UTF-8.
  void add_text(std::string_view text);
  /// The same for a file, which need not fit into memory: it is read piece by piece, `piece` bytes or more where it cannot be cut, and
  /// what is kept are different words with their counts. Throws Error if it cannot be read.
  void add_file(const std::filesystem::path& path, size_t piece = size_t{4} << 20);
  /// The tokenizer for all that was added. Throws Error if vocab_size does not hold the special tokens and symbols.
  BpeTokenizer train() const;

 private:
  void count(std::string_view text);
  BpeTrainerOptions options_;
  BpeWords words_;
  BpeWords::Scratch scratch_;
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view word) const { return std::hash<std::string_view>{}(word); }
  };
  std::unordered_map<std::string, int64_t, Hash, std::equal_to<>> counts_;
};

}  // namespace retape
