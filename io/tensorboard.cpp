#include <retape/io/tensorboard.h>

#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <system_error>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <retape/core/error.h>

namespace retape {
namespace fs = std::filesystem;
namespace {

// The checksum of Castagnoli et al. 1993, reflected polynomial 0x82f63b78, a byte at a time.
uint32_t crc32c(std::string_view bytes) {
  static const auto table = [] {
    std::array<uint32_t, 256> t{};
    for (uint32_t i = 0; i < 256; ++i) {
      t[i] = i;
      for (int bit = 0; bit < 8; ++bit) t[i] = t[i] >> 1 ^ (t[i] & 1 ? 0x82f63b78u : 0);
    }
    return t;
  }();
  uint32_t crc = ~0u;
  for (const char c : bytes) crc = crc >> 8 ^ table[(crc ^ uint8_t(c)) & 0xff];
  return ~crc;
}
// As records hold it, so that the checksum of bytes with checksums in them is as good as any.
uint32_t masked(uint32_t crc) { return std::rotr(crc, 15) + 0xa282ead8u; }

template <class T> void put_fixed(std::string& out, T value) {  // little-endian
  auto bits = std::bit_cast<std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>>(value);
  for (size_t i = 0; i < sizeof(T); ++i, bits >>= 8) out += char(bits & 0xff);
}
void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += char(value | 0x80);
  out += char(value);
}
enum Wire { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };
void put_key(std::string& out, int field, Wire wire) { put_varint(out, uint64_t(field) << 3 | uint64_t(wire)); }
void put_number(std::string& out, int field, int64_t value) { put_key(out, field, varint), put_varint(out, uint64_t(value)); }
void put_bytes(std::string& out, int field, std::string_view value) {
  put_key(out, field, bytes), put_varint(out, value.size());
  out += value;
}

std::string event_at(int64_t step) {
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  std::string event;
  put_key(event, 1, fixed64), put_fixed(event, now.count());
  if (step) put_number(event, 2, step);
  return event;
}

std::string new_name() {
  static std::atomic<int> count{0};
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0 || !host[0] || std::strchr(host.data(), '/')) std::strcpy(host.data(), "localhost");
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return fmt::format("events.out.tfevents.{:010}.{}.{}.{}", std::chrono::duration_cast<std::chrono::seconds>(now).count(), host.data(),
                     ::getpid(), count++);
}

}  // namespace

EventWriter::EventWriter(const fs::path& folder, std::optional<int64_t> purge_step) : path_(folder / new_name()) {
  std::error_code error;
  fs::create_directories(folder, error);
  file_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
  if (file_ < 0) throw Error(fmt::format("event writer: cannot create \"{}\": {}", path_.string(), std::strerror(errno)));
  try {
    std::string first = event_at(0);
    put_bytes(first, 3, "brain.Event:2");
    write(first);
    if (purge_step) {
      std::string start = event_at(*purge_step), session;
      put_number(session, 1, 1);  // SessionLog.START
      put_bytes(start, 7, session);
      write(start);
    }
  } catch (...) {
    ::close(file_);
    fs::remove(path_, error);
    throw;
  }
}
EventWriter::~EventWriter() { ::close(file_); }

void EventWriter::add_scalar(std::string_view tag, double value, int64_t step) {
  std::string summary_value, summary, event = event_at(step);
  put_bytes(summary_value, 1, tag);
  put_key(summary_value, 2, fixed32), put_fixed(summary_value, float(value));
  put_bytes(summary, 1, summary_value);
  put_bytes(event, 5, summary);
  write(event);
}

void EventWriter::add_png(std::string_view tag, std::string_view png, int64_t height, int64_t width, int64_t channels, int64_t step) {
  std::string image, summary_value, summary, event = event_at(step);
  put_number(image, 1, height), put_number(image, 2, width), put_number(image, 3, channels), put_bytes(image, 4, png);
  put_bytes(summary_value, 1, tag), put_bytes(summary_value, 4, image);
  put_bytes(summary, 1, summary_value);
  put_bytes(event, 5, summary);
  write(event);
}

void EventWriter::write(std::string_view event) {
  std::string record;
  put_fixed(record, uint64_t{event.size()});
  put_fixed(record, masked(crc32c(record)));
  record += event;
  put_fixed(record, masked(crc32c(event)));
  struct stat before = {};
  bool written = ::fstat(file_, &before) == 0;
  if (written) {
    errno = ENOSPC;  // what a write means that takes only a part
    written = ::write(file_, record.data(), record.size()) == ssize_t(record.size());
  }
  if (written) return;
  const int error = errno;
  if (::ftruncate(file_, before.st_size) != 0) {
    // Half a record stays; TensorBoard ignores it at the end of a file.
  }
  throw Error(fmt::format("event writer: cannot write \"{}\": {}", path_.string(), std::strerror(error)));
}

}  // namespace retape
