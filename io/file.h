// Files as wholes: read, mapped, and replaced so that a crash or a full disk leaves the old content.
#pragma once
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include <retape/core/memory.h>

namespace retape {

/// The whole content. Throws Error, with the system's reason, if the file cannot be opened or read.
std::string read_file(const std::filesystem::path& path);

/// What write_file_atomically() hands to its caller. Every function throws Error when the disk is full.
class FileWriter {
 public:
  void write(const void* data, size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  /// Replaces bytes that have been written, such as a header that says how much followed. Throws Error for other bytes, and where the
  /// file is none that can go back.
  void write_at(size_t position, const void* data, size_t bytes);
  /// Bytes written so far.
  size_t size() const { return size_; }

 private:
  friend void write_file_atomically(const std::filesystem::path&, const std::function<void(FileWriter&)>&);
  FileWriter(int file, const std::filesystem::path& path) : file_(file), path_(path) {}
  void flush();
  void write_through(const char* data, size_t bytes);
  int file_;
  const std::filesystem::path& path_;
  std::string buffer_;
  size_t size_ = 0;
};
/// Replaces a file, or creates it: `fill` writes beside it, and the result takes its place once it is on the disk. If anything fails
/// (also if `fill` throws) the exception goes on, the old file is intact and nothing else is left behind. What is not a regular
/// file, such as /dev/stdout, is written directly.
void write_file_atomically(const std::filesystem::path& path, const std::function<void(FileWriter&)>& fill);
void write_file_atomically(const std::filesystem::path& path, std::string_view content);

/// A file's bytes in memory, read as they are touched. Writing there changes this process's copy only. Cutting the file short while
/// it is mapped makes the next read crash; files that write_file_atomically() replaces are safe.
class MappedFile final : public Object {
 public:
  /// Throws Error, with the system's reason, if the file cannot be mapped.
  static Ref<MappedFile> open(const std::filesystem::path& path);
  ~MappedFile() override;
  void destroy() noexcept override { delete this; }
  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  MappedFile(std::byte* data, size_t size) : data_(data), size_(size) {}
  std::byte* data_;
  size_t size_;
};

}  // namespace retape
