// Zip archives: what .npz and .pt files are. Entries are stored or deflated, zip64 where sizes ask for it, and CRCs are checked.
#pragma once
#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <retape/core/memory.h>
#include <retape/io/file.h>

namespace retape {

/// An entry as the central directory describes it.
struct ZipEntry {
  std::string name;
  uint64_t size = 0, compressed = 0, header = 0;  ///< bytes of the content, of the same in the file, and where its local header is
  uint32_t crc = 0;
  uint16_t method = 0, flags = 0;
};

/// The content of an entry, which `owner` keeps alive.
struct ZipContent {
  const std::byte* data = nullptr;
  size_t size = 0;
  Ref<Object> owner;
  std::string_view text() const { return {reinterpret_cast<const char*>(data), size}; }
};

class ZipReader {
 public:
  /// Maps the file and reads its directory. Throws Error if it cannot be read or is no well-formed zip archive: afterwards names are
  /// unique, and the entries' bytes lie inside the file and together are no more than the file has.
  static ZipReader open(const std::filesystem::path& path);
  /// The same for a file's content. `file` is its name in messages.
  static ZipReader from_bytes(std::vector<std::byte> bytes, std::string_view file = "memory");

  const std::vector<ZipEntry>& entries() const { return entries_; }
  /// Null if there is none of this name.
  const ZipEntry* find(const std::string& name) const;
  /// The content: the file's own bytes where it is stored, else a copy. Throws Error for encrypted entries, other methods than stored
  /// and deflated, and where CRC or sizes are wrong.
  ZipContent read(const ZipEntry& entry) const;
  const std::string& file() const { return file_; }

 private:
  ZipReader(std::string file, const std::byte* data, size_t size, Ref<Object> owner);
  [[noreturn]] void fail(const std::string& what) const;
  std::string file_;
  const std::byte* data_;
  size_t size_;
  Ref<Object> owner_;
  std::vector<ZipEntry> entries_;
  std::unordered_map<std::string, size_t> index_;
};

/// Writes an archive, entry by entry. The same content gives the same bytes: times are 1980-01-01.
class ZipWriter {
 public:
  /// Sizes, offsets and counts from `limit` on take zip64's fields; at most 0xffffffff.
  explicit ZipWriter(FileWriter& writer, uint64_t limit = 0xffffffff) : writer_(writer), limit_(limit) {}
  /// Adds the parts, one after the other, as one entry.
  void add(const std::string& name, const std::vector<std::string_view>& parts, bool compress);
  /// Writes the directory; nothing can be added afterwards.
  void finish();

 private:
  FileWriter& writer_;
  uint64_t limit_;
  std::vector<ZipEntry> entries_;
};

}  // namespace retape
