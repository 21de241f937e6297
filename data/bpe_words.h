// How byte pair encoding sees text before any pair is merged: as words, and a word as symbols. Trainer and tokenizer share it.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace retape {

/// What words and symbols are.
enum class BpeKind : uint8_t {
  /// GPT-2 (Radford et al. 2019): words are what its pattern matches, symbols are bytes. Any bytes have tokens. Hugging Face: ByteLevel.
  byte_level,
  /// SentencePiece's view of text (Kudo and Richardson 2018): a space is the character U+2581, with which a word begins; symbols are
  /// characters, and there is an unknown token for those that the vocabulary lacks. Hugging Face: Metaspace.
  metaspace,
};

/// Which parts of a text get a space in front if they have none (of metaspace: U+2581), so that a word has the same tokens at the
/// beginning as elsewhere. A part is what lies between special tokens.
enum class PrependScheme : uint8_t { always, first, never };

/// U+2581, which stands for a space in tokens of kind metaspace.
inline constexpr std::string_view metaspace_character = "\u2581";

/// Files write a byte-level token as text: every byte is a printable character, itself where it is one in Latin-1, else U+0100 and up.
namespace byte_alphabet {
/// The character of a byte.
const std::string& name_of(uint8_t byte);
/// The bytes that a token stands for. One with characters that are no byte's stands for itself.
std::string bytes_of(const std::string& name);
/// The 256 bytes in the order of their characters' code points, which is how GPT-2 and Hugging Face number them.
const std::array<uint8_t, 256>& in_order();
}  // namespace byte_alphabet

class BpeWords {
 public:
  BpeWords(BpeKind kind, PrependScheme prepend_scheme) : kind_(kind), prepend_scheme_(prepend_scheme) {}

  /// What one thread at a time works with.
  class Scratch {
   public:
    Scratch();
    Scratch(const Scratch&) = delete;
    ~Scratch();

   private:
    friend BpeWords;
    void* match_;
    std::string text_;
  };
  using Take = std::function<void(std::string_view word)>;
  /// Calls take(word) for each word of a part of a text; `first` says whether it is the text's first. Words of kind metaspace have
  /// U+2581 for spaces. Bytes that are no UTF-8 are words by themselves in kind byte_level, and an Error that gives their offset in
  /// kind metaspace. Many threads may call it, each with its own scratch.
  void split(std::string_view part, bool first, Scratch& scratch, const Take& take) const;
  /// The longest prefix of a text whose words are the same whatever follows, and whose rest, as a part by itself, has the words that it
  /// has as a part of the text. 0 if there is none.
  size_t safe_prefix(std::string_view text) const;

  BpeKind kind() const { return kind_; }
  PrependScheme prepend_scheme() const { return prepend_scheme_; }

 private:
  void split_bytes(std::string_view text, Scratch& scratch, const Take& take) const;
  void match(std::string_view text, Scratch& scratch, const Take& take) const;
  BpeKind kind_;
  PrependScheme prepend_scheme_;
};

}  // namespace retape
