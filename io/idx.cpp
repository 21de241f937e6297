#include <retape/io/idx.h>

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <vector>

#include <retape/io/file.h>
#include <retape/io/gzip.h>
#include <retape/io/quote.h>

namespace retape {
namespace {

static_assert(std::endian::native == std::endian::little, "IDX files are big-endian, and their bytes are turned around");

struct IdxType {
  uint8_t code;
  const char* name;
  size_t width;
  DType dtype;
};
constexpr IdxType types[] = {{0x08, "u8", 1, DType::u8},   {0x09, "i8", 1, DType::i32},  {0x0b, "i16", 2, DType::i32},
                             {0x0c, "i32", 4, DType::i32}, {0x0d, "f32", 4, DType::f32}, {0x0e, "f64", 8, DType::f64}};

template <class T> void widen(const std::vector<uint8_t>& from, int32_t* to) {
  for (size_t i = 0; i < from.size() / sizeof(T); ++i) {
    unsigned value = 0;
    for (size_t b = 0; b < sizeof(T); ++b) value = value << 8 | from[i * sizeof(T) + b];
    to[i] = T(value);
  }
}

}  // namespace

Tensor decode_idx(std::string_view bytes, std::string_view file) {
  const auto fail = [&](const std::string& what) { throw Error(fmt::format("read_idx: {}: {}", file, what)); };
  GzipReader reader(bytes, "read_idx", file);
  uint8_t head[4];
  const size_t got = reader.read(head, sizeof head);
  if (got < sizeof head || head[0] || head[1])
    fail(fmt::format("not an IDX file: it begins with {}; expected two zero bytes, a type and the number of dims",
                     in_quotes({reinterpret_cast<const char*>(head), got})));
  const IdxType* type = std::find_if(std::begin(types), std::end(types), [&](const IdxType& t) { return t.code == head[2]; });
  if (type == std::end(types)) fail(fmt::format("type 0x{:02x} is not known; expected 0x08, 0x09, 0x0b, 0x0c, 0x0d or 0x0e", head[2]));
  if (head[3] > Shape::max_rank) fail(fmt::format("an array of {} dims is not supported; at most {} are", head[3], int(Shape::max_rank)));

  Shape shape;
  size_t wanted = type->width;
  bool too_large = false;
  for (int d = 0; d < head[3]; ++d) {
    uint8_t size[4];
    if (reader.read(size, sizeof size) < sizeof size) fail(fmt::format("the header is cut off: it says {} dims, but has {}", head[3], d));
    shape.push_back(int64_t(size[0]) << 24 | size[1] << 16 | size[2] << 8 | size[3]);
    too_large = too_large || __builtin_mul_overflow(wanted, std::max<size_t>(size_t(shape[d]), 1), &wanted);
  }
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) wanted = 0, too_large = false;
  const std::string says = fmt::format("the header says {} of {}", shape.str(), type->name);
  if (too_large || wanted > reader.most())
    fail(fmt::format("{}, more than a file of {} bytes can hold; is it cut off?", says, bytes.size()));

  const Tensor out = empty(shape, {type->dtype});
  const bool widened = type->width < size_of(type->dtype);
  std::vector<uint8_t> narrow(widened ? wanted : 0);
  std::byte* const data = widened ? reinterpret_cast<std::byte*>(narrow.data()) : out->storage->data;
  const size_t have = reader.read(data, wanted);
  if (have < wanted) fail(fmt::format("{}, {} bytes, but has only {}; it is cut off", says, wanted, have));
  if (char more; reader.read(&more, 1)) fail(fmt::format("{}, {} bytes, but more follow; expected the end of the file", says, wanted));
  if (type->code == 0x09) widen<int8_t>(narrow, out.mutable_data<int32_t>());
  else if (type->code == 0x0b) widen<int16_t>(narrow, out.mutable_data<int32_t>());
  else if (type->width > 1)
    for (size_t i = 0; i < wanted; i += type->width) std::reverse(data + i, data + i + type->width);
  return out;
}

Tensor read_idx(const std::filesystem::path& path) { return decode_idx(read_file(path), path.string()); }

}  // namespace retape
