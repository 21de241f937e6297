#include <retape/autograd/spill_file.h>

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include <retape/core/error.h>

namespace retape {
namespace fs = std::filesystem;

namespace {
[[noreturn]] void fail(const char* what, size_t bytes, const fs::path& folder, int error) {
  throw Error(
      fmt::format("spill: cannot {} {} bytes in a temporary file in \"{}\": {}", what, bytes, folder.string(), std::strerror(error)));
}
}  // namespace

std::shared_ptr<SpillFile> SpillFile::create(const fs::path& folder) {
  const fs::path in = folder.empty() ? fs::temp_directory_path() : folder;
  int file = ::open(in.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (file < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {  // a file system without unnamed files
    std::string name = (in / "retape-XXXXXX").string();
    file = ::mkostemp(name.data(), O_CLOEXEC);
    if (file >= 0) ::unlink(name.c_str());
  }
  if (file < 0) throw Error(fmt::format("spill: cannot create a temporary file in \"{}\": {}", in.string(), std::strerror(errno)));
  return std::shared_ptr<SpillFile>(new SpillFile(file, in));
}
SpillFile::~SpillFile() { ::close(file_); }

int64_t SpillFile::take(size_t bytes) {
  const std::lock_guard lock(mutex_);
  if (const auto found = free_.find(bytes); found != free_.end()) {
    const int64_t at = found->second;
    free_.erase(found);
    return at;
  }
  const int64_t at = end_;
  end_ += int64_t(bytes);
  return at;
}
void SpillFile::give(int64_t at, size_t bytes) noexcept {
  const std::lock_guard lock(mutex_);
  try {
    free_.emplace(bytes, at);
  } catch (const std::bad_alloc&) {  // the place stays unused
  }
}

SpillFile::Extent SpillFile::write(const std::shared_ptr<SpillFile>& file, const std::byte* from, size_t bytes) {
  Extent extent(file, file->take(bytes), bytes);
  for (size_t done = 0; done < bytes;) {
    const ssize_t n = ::pwrite(file->file_, from + done, bytes - done, extent.at_ + int64_t(done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail("write", bytes, file->folder_, n ? errno : ENOSPC);
    done += size_t(n);
  }
  return extent;
}
void SpillFile::Extent::read(std::byte* to) const {
  for (size_t done = 0; done < bytes_;) {
    const ssize_t n = ::pread(file_->file_, to + done, bytes_ - done, at_ + int64_t(done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail("read", bytes_, file_->folder_, n ? errno : EIO);
    done += size_t(n);
  }
}
SpillFile::Extent::~Extent() {
  if (file_) file_->give(at_, bytes_);
}

}  // namespace retape
