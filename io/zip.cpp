#include <retape/io/zip.h>

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <span>

#include <retape/core/error.h>
#include <retape/io/quote.h>

namespace retape {
namespace {

constexpr uint32_t local_signature = 0x04034b50, central_signature = 0x02014b50, end_signature = 0x06054b50, end64_signature = 0x06064b50,
                   locator64_signature = 0x07064b50;
constexpr size_t local_size = 30, central_size = 46, end_size = 22, end64_size = 56, locator64_size = 20, longest_comment = 0xffff;
constexpr uint16_t stored = 0, deflated = 8, zip64_field = 1, encrypted = 1, utf8_names = 0x800;
// Deflate makes a byte of at most 1032 bytes.
constexpr uint64_t largest_ratio = 1032;

struct Bytes final : Object {
  std::vector<std::byte> bytes;
  void destroy() noexcept override { delete this; }
};

template <class T> T number_at(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}
template <class T> void put(std::string& to, T value) { to.append(reinterpret_cast<const char*>(&value), sizeof value); }

// The values of a zip64 field stand for those that are all ones, in this order. False if one is missing.
bool take_zip64(std::span<const std::byte> extra, std::initializer_list<uint64_t*> values) {
  if (std::none_of(values.begin(), values.end(), [](const uint64_t* v) { return *v == 0xffffffff; })) return true;
  while (extra.size() >= 4) {
    const auto id = number_at<uint16_t>(extra.data());
    const size_t size = number_at<uint16_t>(extra.data() + 2);
    if (size > extra.size() - 4) return false;
    auto field = extra.subspan(4, size);
    extra = extra.subspan(4 + size);
    if (id != zip64_field) continue;
    for (uint64_t* value : values) {
      if (*value != 0xffffffff) continue;
      if (field.size() < 8) return false;
      *value = number_at<uint64_t>(field.data());
      field = field.subspan(8);
    }
    return true;
  }
  return false;
}

}  // namespace

// ---- reading --------------------------------------------------------------------------------------------------------

void ZipReader::fail(const std::string& what) const { throw Error(fmt::format("zip: {}: {}", file_, what)); }

ZipReader ZipReader::open(const std::filesystem::path& path) {
  const Ref<MappedFile> mapped = MappedFile::open(path);
  return {path.string(), mapped->data(), mapped->size(), Ref<Object>::share(mapped.get())};
}
ZipReader ZipReader::from_bytes(std::vector<std::byte> bytes, std::string_view file) {
  const auto owner = Ref<Bytes>::adopt(new Bytes);
  owner->bytes = std::move(bytes);
  return {std::string(file), owner->bytes.data(), owner->bytes.size(), Ref<Object>::share(owner.get())};
}

ZipReader::ZipReader(std::string file, const std::byte* data, size_t size, Ref<Object> owner)
    : file_(std::move(file)), data_(data), size_(size), owner_(std::move(owner)) {
  if (size < end_size) fail(fmt::format("{} bytes are too few for a zip archive", size));
  size_t end = size - end_size;
  const size_t lowest = end > longest_comment ? end - longest_comment : 0;
  while (number_at<uint32_t>(data + end) != end_signature || number_at<uint16_t>(data + end + 20) != size - end - end_size) {
    if (end == lowest) fail("not a zip archive, or cut off: there is no end of a directory");
    --end;
  }
  const std::byte* at = data + end;
  if (number_at<uint16_t>(at + 4) != 0 && number_at<uint16_t>(at + 4) != 0xffff) fail("the archive is split over several files");
  uint64_t count = number_at<uint16_t>(at + 10), directory_size = number_at<uint32_t>(at + 12), directory = number_at<uint32_t>(at + 16);
  uint64_t directory_end = end;
  if (count == 0xffff || directory_size == 0xffffffff || directory == 0xffffffff) {
    if (end < locator64_size + end64_size || number_at<uint32_t>(at - locator64_size) != locator64_signature)
      fail("the directory's place is said to be in zip64's fields, but there are none");
    const auto end64 = number_at<uint64_t>(at - locator64_size + 8);
    if (end64 > end - locator64_size - end64_size || number_at<uint32_t>(data + end64) != end64_signature)
      fail(fmt::format("there is no zip64 end of the directory at {}", end64));
    count = number_at<uint64_t>(data + end64 + 32);
    directory_size = number_at<uint64_t>(data + end64 + 40);
    directory = number_at<uint64_t>(data + end64 + 48);
    directory_end = end64;
  }
  if (directory > directory_end || directory_size > directory_end - directory)
    fail(fmt::format("a directory of {} bytes at {} does not lie before its end at {}", directory_size, directory, directory_end));
  if (count > directory_size / central_size) fail(fmt::format("a directory of {} bytes cannot have {} entries", directory_size, count));

  uint64_t used = 0;
  const std::byte *next = data + directory, *const stop = next + directory_size;
  for (uint64_t i = 0; i < count; ++i) {
    if (size_t(stop - next) < central_size || number_at<uint32_t>(next) != central_signature)
      fail(fmt::format("entry {} of the directory is damaged", i));
    const size_t name = number_at<uint16_t>(next + 28), extra = number_at<uint16_t>(next + 30), comment = number_at<uint16_t>(next + 32);
    if (size_t(stop - next) - central_size < name + extra + comment) fail(fmt::format("entry {} of the directory is cut off", i));
    ZipEntry e;
    e.flags = number_at<uint16_t>(next + 8);
    e.method = number_at<uint16_t>(next + 10);
    e.crc = number_at<uint32_t>(next + 16);
    e.compressed = number_at<uint32_t>(next + 20);
    e.size = number_at<uint32_t>(next + 24);
    e.header = number_at<uint32_t>(next + 42);
    e.name.assign(reinterpret_cast<const char*>(next) + central_size, name);
    if (!take_zip64({next + central_size + name, extra}, {&e.size, &e.compressed, &e.header}))
      fail(fmt::format("entry {} lacks its zip64 sizes", in_quotes(e.name)));
    next += central_size + name + extra + comment;

    if (e.header > directory || directory - e.header < local_size || e.compressed > directory - e.header - local_size)
      fail(fmt::format("entry {} of {} bytes at {} does not lie before the directory at {}", in_quotes(e.name), e.compressed, e.header,
                       directory));
    used += local_size + e.compressed;
    if (used > directory) fail(fmt::format("entries overlap: up to {} they take more bytes than the file has", in_quotes(e.name)));
    if (!index_.emplace(e.name, entries_.size()).second) fail(fmt::format("the entry {} is there twice", in_quotes(e.name)));
    entries_.push_back(std::move(e));
  }
}

const ZipEntry* ZipReader::find(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &entries_[found->second];
}

ZipContent ZipReader::read(const ZipEntry& e) const {
  const auto bad = [&](const std::string& what) { fail(fmt::format("entry {}: {}", in_quotes(e.name), what)); };
  if (e.flags & encrypted) bad("it is encrypted");
  if (e.method != stored && e.method != deflated)
    bad(fmt::format("compression method {} is not supported; stored (0) and deflated (8) are", e.method));
  const std::byte* header = data_ + e.header;
  if (number_at<uint32_t>(header) != local_signature) bad(fmt::format("there is no local header at {}", e.header));
  const size_t name = number_at<uint16_t>(header + 26), extra = number_at<uint16_t>(header + 28);
  const uint64_t room = size_ - e.header - local_size;
  if (name + extra > room || e.compressed > room - name - extra) bad("its data lies outside the file");
  if (std::string_view(reinterpret_cast<const char*>(header) + local_size, name) != e.name) bad("its local header has another name");
  const std::byte* from = header + local_size + name + extra;

  ZipContent content{from, size_t(e.size), owner_};
  if (e.method == stored) {
    if (e.size != e.compressed) bad(fmt::format("it is stored, but {} bytes are said to take {}", e.size, e.compressed));
  } else {
    if (e.size / largest_ratio > e.compressed) bad(fmt::format("{} bytes cannot come from {} deflated ones", e.size, e.compressed));
    const auto copy = Ref<Bytes>::adopt(new Bytes);
    copy->bytes.resize(size_t(e.size));
    z_stream stream{};
    if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) bad("zlib has no memory");
    uint64_t in = 0, out = 0;
    int status = Z_OK;
    while (status == Z_OK) {
      const auto in_step = uInt(std::min<uint64_t>(e.compressed - in, 1u << 30)),
                 out_step = uInt(std::min<uint64_t>(e.size - out, 1u << 30));
      Bytef none = 0;  // zlib wants a place also for nothing
      stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(from + in));
      stream.avail_in = in_step;
      stream.next_out = out_step ? reinterpret_cast<Bytef*>(copy->bytes.data() + out) : &none;
      stream.avail_out = out_step;
      status = inflate(&stream, Z_NO_FLUSH);
      in += in_step - stream.avail_in;
      out += out_step - stream.avail_out;
    }
    inflateEnd(&stream);
    if (status != Z_STREAM_END || in != e.compressed || out != e.size)
      bad(fmt::format("its deflated data is damaged after {} of {} bytes", out, e.size));
    content.data = copy->bytes.data();
    content.owner = Ref<Object>::share(copy.get());
  }
#ifndef RETAPE_FUZZ  // a fuzzer would not get past it
  const auto crc = uint32_t(crc32_z(0, reinterpret_cast<const Bytef*>(content.data), content.size));
  if (content.size && crc != e.crc) bad(fmt::format("its CRC is {:08x} instead of {:08x}; the file is damaged", crc, e.crc));
#endif
  return content;
}

// ---- writing --------------------------------------------------------------------------------------------------------

namespace {

std::string deflate_parts(const std::vector<std::string_view>& parts) {
  std::string out;
  z_stream stream{};
  if (deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY) != Z_OK) throw std::bad_alloc();
  char buffer[1 << 16];
  const auto run = [&](std::string_view part, int flush) {
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(part.data()));
    stream.avail_in = uInt(part.size());
    do {
      stream.next_out = reinterpret_cast<Bytef*>(buffer);
      stream.avail_out = sizeof buffer;
      deflate(&stream, flush);
      out.append(buffer, sizeof buffer - stream.avail_out);
    } while (stream.avail_out == 0);
  };
  for (std::string_view part : parts)
    for (; !part.empty(); part.remove_prefix(std::min<size_t>(part.size(), 1u << 30))) run(part.substr(0, 1u << 30), Z_NO_FLUSH);
  run({}, Z_FINISH);
  deflateEnd(&stream);
  return out;
}

}  // namespace

void ZipWriter::add(const std::string& name, const std::vector<std::string_view>& parts, bool compress) {
  if (name.size() > 0xffff)
    throw Error(fmt::format("zip: the name {} has {} bytes; at most 65535 are possible", in_quotes(name), name.size()));
  ZipEntry e;
  e.name = name;
  e.header = writer_.size();
  e.method = compress ? deflated : stored;
  e.flags = utf8_names;
  uLong crc = 0;
  for (const auto part : parts) {
    e.size += part.size();
    crc = crc32_z(crc, reinterpret_cast<const Bytef*>(part.data()), part.size());
  }
  e.crc = uint32_t(crc);
  std::string packed;
  if (compress) packed = deflate_parts(parts);
  e.compressed = compress ? packed.size() : e.size;

  const bool wide = e.size >= limit_ || e.compressed >= limit_;
  std::string header;
  put(header, local_signature);
  put(header, uint16_t(wide ? 45 : 20));
  put(header, e.flags);
  put(header, e.method);
  put(header, uint16_t{0}), put(header, uint16_t{0x21});  // time, date
  put(header, e.crc);
  put(header, wide ? 0xffffffffu : uint32_t(e.compressed)), put(header, wide ? 0xffffffffu : uint32_t(e.size));
  put(header, uint16_t(name.size())), put(header, uint16_t(wide ? 20 : 0));
  header += name;
  if (wide) put(header, zip64_field), put(header, uint16_t{16}), put(header, e.size), put(header, e.compressed);
  writer_.write(header);
  if (compress) writer_.write(packed);
  else
    for (const auto part : parts) writer_.write(part);
  entries_.push_back(std::move(e));
}

void ZipWriter::finish() {
  const uint64_t begin = writer_.size();
  for (auto& e : entries_) {
    const bool wide = e.size >= limit_ || e.compressed >= limit_ || e.header >= limit_;
    std::string entry;
    put(entry, central_signature);
    put(entry, uint16_t(wide ? 45 : 20)), put(entry, uint16_t(wide ? 45 : 20));
    put(entry, e.flags), put(entry, e.method);
    put(entry, uint16_t{0}), put(entry, uint16_t{0x21});
    put(entry, e.crc);
    put(entry, wide ? 0xffffffffu : uint32_t(e.compressed)), put(entry, wide ? 0xffffffffu : uint32_t(e.size));
    put(entry, uint16_t(e.name.size())), put(entry, uint16_t(wide ? 28 : 0)), put(entry, uint16_t{0});
    put(entry, uint16_t{0}), put(entry, uint16_t{0}), put(entry, uint32_t{0});  // disk, attributes
    put(entry, wide ? 0xffffffffu : uint32_t(e.header));
    entry += e.name;
    if (wide) put(entry, zip64_field), put(entry, uint16_t{24}), put(entry, e.size), put(entry, e.compressed), put(entry, e.header);
    writer_.write(entry);
  }
  const uint64_t end = writer_.size(), size = end - begin, count = entries_.size();
  const bool wide = begin >= limit_ || size >= limit_ || count >= std::min<uint64_t>(limit_, 0xffff);
  std::string tail;
  if (wide) {
    put(tail, end64_signature), put(tail, uint64_t{end64_size - 12});
    put(tail, uint16_t{45}), put(tail, uint16_t{45}), put(tail, uint32_t{0}), put(tail, uint32_t{0});
    put(tail, count), put(tail, count), put(tail, size), put(tail, begin);
    put(tail, locator64_signature), put(tail, uint32_t{0}), put(tail, end), put(tail, uint32_t{1});
  }
  put(tail, end_signature);
  put(tail, uint16_t{0}), put(tail, uint16_t{0});
  put(tail, wide ? uint16_t{0xffff} : uint16_t(count)), put(tail, wide ? uint16_t{0xffff} : uint16_t(count));
  put(tail, wide ? 0xffffffffu : uint32_t(size)), put(tail, wide ? 0xffffffffu : uint32_t(begin));
  put(tail, uint16_t{0});
  writer_.write(tail);
}

}  // namespace retape
