#include <retape/io/gzip.h>

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>

#include <retape/core/error.h>

namespace retape {
namespace {

constexpr std::string_view magic = "\x1f\x8b";
constexpr size_t largest_ratio = 1032;      // deflate makes a byte of at most as many
constexpr size_t largest_piece = 1u << 30;  // zlib counts in 32 bits

}  // namespace

struct GzipReader::Stream {
  z_stream z{};
  bool ended = false;
  ~Stream() { inflateEnd(&z); }
};

GzipReader::GzipReader(std::string_view bytes, std::string_view op, std::string_view file)
    : bytes_(bytes), name_(fmt::format("{}: {}", op, file)) {
  if (!bytes.starts_with(magic)) return;
  stream_ = std::make_unique<Stream>();
  if (inflateInit2(&stream_->z, 16 + MAX_WBITS) != Z_OK) throw Error(fmt::format("{}: zlib cannot begin to inflate", name_));
}
GzipReader::~GzipReader() = default;

size_t GzipReader::most() const {
  size_t most = bytes_.size();
  if (stream_ && __builtin_mul_overflow(most, largest_ratio, &most)) most = SIZE_MAX;
  return most;
}

size_t GzipReader::read(void* to, size_t n) {
  auto* out = static_cast<unsigned char*>(to);
  if (!stream_) {
    n = std::min(n, bytes_.size() - at_);
    if (n) std::memcpy(out, bytes_.data() + at_, n);
    at_ += n;
    return n;
  }
  z_stream& z = stream_->z;
  size_t done = 0;
  while (done < n) {
    if (stream_->ended) {
      if (bytes_.empty()) break;
      if (!bytes_.starts_with(magic))
        throw Error(
            fmt::format("{}: {} bytes follow the end of the gzip data; expected none, or another gzip member", name_, bytes_.size()));
      inflateReset(&z);
      stream_->ended = false;
    }
    const size_t in = std::min(bytes_.size(), largest_piece), room = std::min(n - done, largest_piece);
    z.next_in = reinterpret_cast<unsigned char*>(const_cast<char*>(bytes_.data()));
    z.avail_in = unsigned(in);
    z.next_out = out + done;
    z.avail_out = unsigned(room);
    const int status = inflate(&z, Z_NO_FLUSH);
    bytes_.remove_prefix(in - z.avail_in);
    done += room - z.avail_out, at_ += room - z.avail_out;
    stream_->ended = status == Z_STREAM_END;
    if (status == Z_OK || status == Z_STREAM_END) continue;
    if (status == Z_BUF_ERROR)
      throw Error(fmt::format("{}: the gzip data is cut off: its end is missing after {} bytes of content", name_, at_));
    throw Error(
        fmt::format("{}: the gzip data is damaged after {} bytes of content: {}", name_, at_, z.msg ? z.msg : "zlib gives no reason"));
  }
  return done;
}

}  // namespace retape
