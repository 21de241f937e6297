// A tokenised text as a file, mapped into memory: corpora larger than memory.
#pragma once
#include <filesystem>
#include <functional>

#include <retape/core/memory.h>
#include <retape/data/tokenizer.h>

namespace retape {

/// How token ids stand in a file, little-endian.
enum class TokenLayout : uint8_t {
  /// 32 bytes and then the ids: 8 bytes "\xffretape\n"; u32 version, 1; u32 bytes of an id, 2 or 4; u64 number of ids; u64 size of
  /// the vocabulary, above every id.
  with_header,
  /// Nothing but ids of 2 bytes, as nanoGPT writes them.
  u16,
};

class TokenFile {
 public:
  /// Maps a file. Throws Error if it cannot be read, or does not have this layout.
  static TokenFile open(const std::filesystem::path& path, TokenLayout layout = TokenLayout::with_header);
  /// True if the file begins as one with a header does, which no text does. Throws Error if it cannot be read.
  static bool has_header(const std::filesystem::path& path);

  int64_t size() const { return size_; }
  /// As the header says; 65536 for a file without one.
  int64_t vocabulary() const { return vocabulary_; }
  int bytes_per_token() const { return width_; }
  /// The ids, as u16 or u32 by bytes_per_token(). They stay as long as owner().
  const std::byte* data() const { return data_; }
  const Ref<Object>& owner() const { return owner_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  Ref<Object> owner_;
  const std::byte* data_ = nullptr;
  int64_t size_ = 0, vocabulary_ = 0;
  int width_ = 2;
};

using AppendTokens = std::function<void(const std::vector<int64_t>& ids)>;
/// Writes a file with a header piece by piece: `fill` hands ids to the function that it gets. Returns how many there were. Ids take 2 bytes
/// up to a vocabulary of 65536, else 4. Throws Error for an id that is negative or not below `vocabulary`, and if writing fails; `output` is
/// replaced as a whole or not at all.
int64_t write_token_file(const std::filesystem::path& output, int64_t vocabulary, const std::function<void(const AppendTokens&)>& fill);

/// Tokenises a UTF-8 text file into a file with a header, and returns the number of ids, which are those that encode() gives for the
/// whole text. Text is read and ids are written piece by piece, `piece` bytes or more where the text cannot be cut: neither need fit
/// into memory. Ids take 2 bytes up to a vocabulary of 65536, else 4. Throws Error if a file cannot be read or written, or if the text
/// has something that the tokenizer does not know; `output` is replaced as a whole or not at all.
int64_t tokenize_file(const Tokenizer& tokenizer, const std::filesystem::path& text, const std::filesystem::path& output,
                      size_t piece = size_t{4} << 20);

}  // namespace retape
