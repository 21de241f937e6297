#include <retape/data/token_file.h>

#include <fmt/format.h>

#include <bit>
#include <cstring>

#include <retape/core/error.h>
#include <retape/data/pieces.h>
#include <retape/io/file.h>

namespace retape {
namespace {

static_assert(std::endian::native == std::endian::little, "ids are little-endian, and mapped as they are");

struct Header {
  char magic[8];
  uint32_t version, width;
  uint64_t size, vocabulary;
};
static_assert(sizeof(Header) == 32);
constexpr char magic[9] = "\xffretape\n";

}  // namespace

bool TokenFile::has_header(const std::filesystem::path& path) {
  const Ref<MappedFile> file = MappedFile::open(path);
  return file->size() >= sizeof(Header) && !std::memcmp(file->data(), magic, 8);
}

TokenFile TokenFile::open(const std::filesystem::path& path, TokenLayout layout) {
  const auto fail = [&](const std::string& what) { throw Error(fmt::format("token_file: {}: {}", path.string(), what)); };
  const Ref<MappedFile> file = MappedFile::open(path);
  TokenFile tokens;
  tokens.path_ = path;
  tokens.owner_ = Ref<Object>::share(file.get());
  size_t begin = 0;
  if (layout == TokenLayout::with_header) {
    Header header;
    if (file->size() < sizeof header || std::memcmp(file->data(), magic, 8) != 0)
      fail("not a file of token ids with a header; for bare ids of 2 bytes, as nanoGPT writes them, say so");
    std::memcpy(&header, file->data(), sizeof header);
    if (header.version != 1) fail(fmt::format("version {} of the format is not known; expected 1", header.version));
    if (header.width != 2 && header.width != 4) fail(fmt::format("ids of {} bytes are not possible; expected 2 or 4", header.width));
    if (header.vocabulary > (header.width == 2 ? uint64_t{65536} : uint64_t{INT32_MAX} + 1))
      fail(fmt::format("a vocabulary of {} does not fit ids of {} bytes", header.vocabulary, header.width));
    begin = sizeof header;
    if (header.size > file->size() / header.width || header.size * header.width != file->size() - begin)
      fail(fmt::format("{} ids of {} bytes do not fill the file's {} bytes after the header; is it cut off?", header.size, header.width,
                       file->size() - begin));
    tokens.width_ = int(header.width);
    tokens.vocabulary_ = int64_t(header.vocabulary);
  } else {
    if (file->size() % 2) fail(fmt::format("{} bytes are no whole number of ids of 2 bytes", file->size()));
    if (has_header(path)) fail("this file has a header; read it with its header");
    tokens.vocabulary_ = 65536;
  }
  tokens.data_ = file->data() + begin;
  tokens.size_ = int64_t(file->size() - begin) / tokens.width_;
  return tokens;
}

int64_t write_token_file(const std::filesystem::path& output, int64_t vocabulary, const std::function<void(const AppendTokens&)>& fill) {
  Header header{{}, 1, vocabulary <= 65536 ? 2u : 4u, 0, uint64_t(vocabulary)};
  std::memcpy(header.magic, magic, 8);
  write_file_atomically(output, [&](FileWriter& writer) {
    writer.write(&header, sizeof header);
    std::vector<uint16_t> narrow;
    std::vector<uint32_t> wide;
    fill([&](const std::vector<int64_t>& ids) {
      for (const int64_t id : ids)
        if (id < 0 || id >= vocabulary)
          throw Error(fmt::format("write_token_file: id {} is out of range for a vocabulary of {}", id, vocabulary));
      if (header.width == 2) {
        narrow.assign(ids.begin(), ids.end());
        writer.write(narrow.data(), narrow.size() * sizeof(uint16_t));
      } else {
        wide.assign(ids.begin(), ids.end());
        writer.write(wide.data(), wide.size() * sizeof(uint32_t));
      }
      header.size += ids.size();
    });
    writer.write_at(0, &header, sizeof header);
  });
  return int64_t(header.size);
}

int64_t tokenize_file(const Tokenizer& tokenizer, const std::filesystem::path& text_path, const std::filesystem::path& output,
                      size_t piece) {
  if (piece == 0) throw Error("tokenize_file: a piece of 0 bytes is not possible; it must be at least 1");
  const Ref<MappedFile> file = MappedFile::open(text_path);
  const std::string_view text(reinterpret_cast<const char*>(file->data()), file->size());
  return write_token_file(output, tokenizer.size(), [&](const AppendTokens& append) {
    for (size_t at = 0; at < text.size();) {
      const auto part = next_piece(text.substr(at), piece, [&](std::string_view prefix) { return tokenizer.safe_prefix(prefix); });
      std::vector<int64_t> ids;
      try {
        ids = tokenizer.encode(part);
      } catch (const Error& e) {
        throw Error(fmt::format("tokenize_file: {}, in the piece that begins at byte {}: {}", text_path.string(), at, e.what()));
      }
      append(ids);
      at += part.size();
    }
  });
}

}  // namespace retape
