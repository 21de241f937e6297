#include <retape/io/file.h>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <system_error>
#include <utility>

#include <retape/core/error.h>

namespace retape {
namespace {

[[noreturn]] void fail(const char* op, const std::filesystem::path& path, int reason = errno) {
  throw Error(fmt::format("{}: {}: {}", op, path.string(), std::generic_category().message(reason)));
}

class File {
 public:
  explicit File(int file) : file_(file) {}
  File(const File&) = delete;
  ~File() {
    if (file_ >= 0) ::close(file_);
  }
  int get() const { return file_; }
  bool close() { return ::close(std::exchange(file_, -1)) == 0; }

 private:
  int file_;
};

// Deletes a file unless it was kept.
struct Temporary {
  std::filesystem::path path;
  ~Temporary() {
    if (!path.empty()) ::unlink(path.c_str());
  }
};

constexpr size_t block = size_t{1} << 20;

// Some file systems cannot sync; what they hold is as safe as it gets.
bool sync(int file) { return ::fsync(file) == 0 || errno == EINVAL || errno == ENOTSUP || errno == EROFS; }

}  // namespace

std::string read_file(const std::filesystem::path& path) {
  const File file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) fail("read_file", path);
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) fail("read_file", path);
  std::string content;
  size_t size = 0;
  // The size is a hint only: pipes and files of /proc say 0.
  content.resize(S_ISREG(status.st_mode) ? size_t(status.st_size) + 1 : block);
  while (true) {
    if (size == content.size()) content.resize(2 * content.size());
    const ssize_t n = ::read(file.get(), content.data() + size, content.size() - size);
    if (n == 0) break;
    if (n > 0) size += size_t(n);
    else if (errno != EINTR) fail("read_file", path);
  }
  content.resize(size);
  return content;
}

// ---- writing --------------------------------------------------------------------------------------------------------

void FileWriter::write_through(const char* data, size_t bytes) {
  while (bytes) {
    const ssize_t n = ::write(file_, data, bytes);
    if (n < 0) {
      if (errno == EINTR) continue;
      fail("write_file", path_);
    }
    data += n;
    bytes -= size_t(n);
  }
}
void FileWriter::write(const void* data, size_t bytes) {
  const char* from = static_cast<const char*>(data);
  size_ += bytes;
  if (buffer_.size() + bytes < block) {
    buffer_.append(from, bytes);
    return;
  }
  flush();
  write_through(from, bytes);
}
void FileWriter::write_at(size_t position, const void* data, size_t bytes) {
  if (position > size_ || bytes > size_ - position)
    throw Error(fmt::format("write_file: {}: bytes {} to {} cannot be replaced; {} have been written", path_.string(), position,
                            position + bytes, size_));
  flush();
  const char* from = static_cast<const char*>(data);
  while (bytes) {
    const ssize_t n = ::pwrite(file_, from, bytes, off_t(position));
    if (n < 0) {
      if (errno == EINTR) continue;
      fail("write_file", path_);
    }
    from += n, position += size_t(n), bytes -= size_t(n);
  }
}
void FileWriter::flush() {
  write_through(buffer_.data(), buffer_.size());
  buffer_.clear();
}

void write_file_atomically(const std::filesystem::path& path, const std::function<void(FileWriter&)>& fill) {
  std::error_code error;
  // A link keeps pointing at the file that is replaced.
  std::filesystem::path target = std::filesystem::weakly_canonical(path, error);
  if (error || target.empty()) target = path;
  struct stat old {};
  const bool exists = ::stat(target.c_str(), &old) == 0;
  if (exists && S_ISDIR(old.st_mode)) fail("write_file", path, EISDIR);
  if (exists && !S_ISREG(old.st_mode)) {
    File file(::open(target.c_str(), O_WRONLY | O_CLOEXEC));
    if (file.get() < 0) fail("write_file", path);
    FileWriter writer(file.get(), path);
    fill(writer);
    writer.flush();
    if (!file.close()) fail("write_file", path);
    return;
  }

  static std::atomic<unsigned> counter{0};
  const std::filesystem::path folder = target.has_parent_path() ? target.parent_path() : ".";
  Temporary temporary;
  int descriptor = -1;
  do {
    const std::filesystem::path name = folder / fmt::format(".retape-{}-{}.tmp", ::getpid(), counter++);
    descriptor = ::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor >= 0) temporary.path = name;
  } while (descriptor < 0 && errno == EEXIST);
  File file(descriptor);
  if (descriptor < 0) fail("write_file", path);
  if (exists && ::fchmod(file.get(), old.st_mode & 07777) != 0) fail("write_file", path);
  FileWriter writer(file.get(), path);
  fill(writer);
  writer.flush();
  if (!sync(file.get()) || !file.close()) fail("write_file", path);
  if (::rename(temporary.path.c_str(), target.c_str()) != 0) fail("write_file", path);
  temporary.path.clear();
  const File directory(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory.get() >= 0) sync(directory.get());  // the content is there already; only the new name could be lost
}
void write_file_atomically(const std::filesystem::path& path, std::string_view content) {
  write_file_atomically(path, [&](FileWriter& writer) { writer.write(content); });
}

// ---- mapping --------------------------------------------------------------------------------------------------------

Ref<MappedFile> MappedFile::open(const std::filesystem::path& path) {
  const File file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));  // a pipe must not make this wait
  if (file.get() < 0) fail("open", path);
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) fail("open", path);
  if (S_ISDIR(status.st_mode)) fail("open", path, EISDIR);
  if (!S_ISREG(status.st_mode)) throw Error(fmt::format("open: {}: not a regular file, which it must be to be mapped", path.string()));
  const size_t size = size_t(status.st_size);
  if (size == 0) return Ref<MappedFile>::adopt(new MappedFile(nullptr, 0));  // mmap refuses it
  void* data = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file.get(), 0);
  if (data == MAP_FAILED) fail("open", path);
  return Ref<MappedFile>::adopt(new MappedFile(static_cast<std::byte*>(data), size));
}
MappedFile::~MappedFile() {
  if (data_) ::munmap(data_, size_);
}

}  // namespace retape
