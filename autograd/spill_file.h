// A temporary file for the bytes of values that have left memory. It has no name, so nothing is left behind however the process ends.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>

namespace retape {

class SpillFile {
 public:
  // A place in the file, free again when this goes.
  class Extent {
   public:
    Extent(std::shared_ptr<SpillFile> file, int64_t at, size_t bytes) : file_(std::move(file)), at_(at), bytes_(bytes) {}
    Extent(Extent&&) noexcept = default;
    ~Extent();
    /// Fills `to` with what was written. Throws Error, with the system's reason.
    void read(std::byte* to) const;

   private:
    friend class SpillFile;
    std::shared_ptr<SpillFile> file_;
    int64_t at_;
    size_t bytes_;
  };

  /// In `folder`, or that for temporary files. Throws Error, with the system's reason.
  static std::shared_ptr<SpillFile> create(const std::filesystem::path& folder);
  /// Throws Error, with the system's reason, for instance when the disk is full.
  static Extent write(const std::shared_ptr<SpillFile>& file, const std::byte* from, size_t bytes);
  ~SpillFile();
  SpillFile(const SpillFile&) = delete;

 private:
  SpillFile(int file, std::filesystem::path folder) : file_(file), folder_(std::move(folder)) {}
  int64_t take(size_t bytes);
  void give(int64_t at, size_t bytes) noexcept;

  int file_;
  std::filesystem::path folder_;
  std::mutex mutex_;
  int64_t end_ = 0;
  std::multimap<size_t, int64_t> free_;  // by size: tensors of a model come in few sizes
};

}  // namespace retape
