// Files that may be compressed with gzip, read as a stream.
#pragma once
#include <memory>
#include <string>
#include <string_view>

namespace retape {

/// Gives bytes as they are or, if they begin as a gzip file does, what they inflate to (all members, one after the other).
class GzipReader {
 public:
  /// `bytes` must outlive the reader. `op` and `file` are named in messages.
  GzipReader(std::string_view bytes, std::string_view op, std::string_view file);
  ~GzipReader();
  GzipReader(const GzipReader&) = delete;
  GzipReader& operator=(const GzipReader&) = delete;

  /// Reads `n` bytes, or fewer where the content ends, and says how many. Throws Error if the file is damaged or cut off, or if something
  /// that is no gzip member follows one.
  size_t read(void* to, size_t n);
  bool is_gzip() const { return bool(stream_); }
  /// No content can have more bytes.
  size_t most() const;

 private:
  struct Stream;
  std::string_view bytes_;
  std::string name_;
  size_t at_ = 0;  // in bytes_ where they are plain, else in the content
  std::unique_ptr<Stream> stream_;
};

}  // namespace retape
