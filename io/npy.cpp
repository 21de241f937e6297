#include <retape/io/npy.h>

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <unordered_set>

#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>
#include <retape/io/file.h>
#include <retape/io/quote.h>
#include <retape/io/zip.h>

namespace retape {
namespace {

static_assert(std::endian::native == std::endian::little, "little-endian arrays are mapped as they are");

constexpr std::string_view magic = "\x93NUMPY";
constexpr size_t alignment = 64, longest_header = 1 << 20;

struct KnownType {
  std::string_view code;
  DType dtype;
  bool complex;
};
constexpr KnownType known_types[] = {{"f8", DType::f64, false},     {"f4", DType::f32, false}, {"f2", DType::f16, false},
                                     {"i8", DType::i64, false},     {"i4", DType::i32, false}, {"u1", DType::u8, false},
                                     {"b1", DType::boolean, false}, {"c8", DType::f32, true},  {"c16", DType::f64, true}};

struct Header {
  std::string descr;
  bool fortran = false;
  std::vector<int64_t> shape;
};

// The header is a Python dictionary: {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }
class HeaderParser {
 public:
  HeaderParser(std::string_view text, std::string_view file) : text_(text), file_(file) {}
  Header parse() {
    Header header;
    bool descr = false, fortran = false, shape = false;
    expect('{');
    while (!accept('}')) {
      const std::string key = string("a key");
      expect(':');
      bool* seen = key == "descr" ? &descr : key == "fortran_order" ? &fortran : key == "shape" ? &shape : nullptr;
      if (!seen) fail(fmt::format("the header has {}, which is not known; expected descr, fortran_order and shape", in_quotes(key)));
      if (*seen) fail(fmt::format("the header has {} twice", key));
      *seen = true;
      if (seen == &descr) header.descr = dtype();
      else if (seen == &fortran) header.fortran = boolean();
      else header.shape = tuple();
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    skip();
    if (at_ != text_.size()) fail("something follows the header's dictionary");
    if (!descr || !fortran || !shape) fail("the header lacks one of descr, fortran_order and shape");
    return header;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw Error(fmt::format("load_npy: {}: {}", file_, what)); }
  void skip() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  char peek() {
    skip();
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  bool accept(char c) {
    if (peek() != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!accept(c)) fail(fmt::format("the header is malformed at its byte {}: expected '{}'", at_, c));
  }
  std::string string(const char* what) {
    const char quote = peek();
    if (quote != '\'' && quote != '"') fail(fmt::format("the header is malformed at its byte {}: expected {} in quotes", at_, what));
    const size_t begin = ++at_, end = text_.find(quote, begin);
    if (end == std::string_view::npos) fail("a string in the header has no end");
    at_ = end + 1;
    return std::string(text_.substr(begin, end - begin));
  }
  std::string dtype() {
    if (peek() == '[') fail("structured arrays are not supported");
    return string("the dtype");
  }
  bool boolean() {
    skip();
    for (const std::string_view word : {"True", "False"})
      if (text_.substr(at_).starts_with(word)) {
        at_ += word.size();
        return word == "True";
      }
    fail("fortran_order is neither True nor False");
  }
  std::vector<int64_t> tuple() {
    std::vector<int64_t> sizes;
    expect('(');
    while (!accept(')')) {
      skip();
      const size_t begin = at_;
      int64_t n = 0;
      for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_)
        if (__builtin_mul_overflow(n, int64_t{10}, &n) || __builtin_add_overflow(n, int64_t(text_[at_] - '0'), &n))
          fail("a size in the shape is 2^63 or more");
      if (at_ == begin) fail(fmt::format("the header is malformed at its byte {}: expected a size", at_));
      if (at_ < text_.size() && text_[at_] == 'L') ++at_;  // Python 2 wrote long integers so
      sizes.push_back(n);
      if (!accept(',')) {
        expect(')');
        break;
      }
    }
    return sizes;
  }
  std::string_view text_, file_;
  size_t at_ = 0;
};

void swap_bytes(std::byte* data, size_t count, size_t width) {
  for (size_t i = 0; i < count; ++i) std::reverse(data + i * width, data + (i + 1) * width);
}

// What stands before the data of a contiguous array.
std::string header_of(const char* op, const std::string& name, const Tensor& x) {
  if (!x) throw Error(fmt::format("{}: {}the tensor is undefined", op, name));
  if (x.device().is_meta()) throw Error(fmt::format("{}: {}the tensor is on the meta device and has no values", op, name));
  const KnownType* type = nullptr;
  for (auto& known : known_types)
    if (known.dtype == x.dtype() && !known.complex) type = &known;
  if (!type) throw Error(fmt::format("{}: {}NumPy has no {}; cast it to f32 first", op, name, name_of(x.dtype())));
  std::string shape;
  for (const int64_t n : x.shape()) shape += fmt::format("{}{}", shape.empty() ? "" : ", ", n);
  std::string text = fmt::format("{{'descr': '{}{}', 'fortran_order': False, 'shape': ({}{}), }}", size_of(x.dtype()) == 1 ? '|' : '<',
                                 type->code, shape, x.dim() == 1 ? "," : "");
  const size_t before = magic.size() + 4;
  text.append(alignment - 1 - (before + text.size()) % alignment, ' ');
  text += '\n';
  std::string header(magic);
  header += std::string("\1\0", 2);
  header += char(text.size() & 0xff);
  header += char(text.size() >> 8);
  return header + text;
}
std::string_view bytes_of(const Tensor& t) {
  return {reinterpret_cast<const char*>(t->storage->data) + size_t(t.offset()) * size_of(t.dtype()),
          size_t(t.numel()) * size_of(t.dtype())};
}
Tensor on_cpu(const Tensor& x) { return contiguous(to(x, Device::cpu())); }

}  // namespace

Tensor load_npy(const std::byte* data, size_t size, Ref<Object> owner, std::string_view file) {
  const auto fail = [&](const std::string& what) { throw Error(fmt::format("load_npy: {}: {}", file, what)); };
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (size < magic.size() + 4 || !text.starts_with(magic)) fail("not a .npy file");
  const int version = int(data[6]);
  if (version < 1 || version > 3) fail(fmt::format("version {} of the format is not known; expected 1 to 3", version));
  const size_t before = magic.size() + (version == 1 ? 4 : 6);
  if (size < before) fail("the header is cut off");
  size_t length = size_t(data[8]) | size_t(data[9]) << 8;
  if (version > 1) length |= size_t(data[10]) << 16 | size_t(data[11]) << 24;
  if (length > longest_header) fail(fmt::format("a header of {} bytes is too long; at most {}", length, longest_header));
  if (length > size - before) fail(fmt::format("a header of {} bytes does not fit into a file of {}; is it cut off?", length, size));
  const Header header = HeaderParser(text.substr(before, length), file).parse();

  const std::string_view descr = header.descr;
  const char order = descr.empty() ? ' ' : descr[0];
  const KnownType* type = nullptr;
  for (auto& known : known_types)
    if (descr.size() > 1 && std::string_view("<>|=").find(order) != std::string_view::npos && descr.substr(1) == known.code) type = &known;
  if (!type) fail(fmt::format("dtype {} is not supported; f8, f4, f2, i8, i4, u1, b1, c8 and c16 are", in_quotes(descr)));
  const size_t rank = header.shape.size() + type->complex, width = size_of(type->dtype);
  if (rank > size_t(Shape::max_rank)) fail(fmt::format("an array of {} dims is not supported; at most {} are", rank, int(Shape::max_rank)));
  if (order == '|' && width > 1) fail(fmt::format("dtype {} has no byte order", in_quotes(descr)));

  Shape shape(header.shape);
  if (type->complex) shape.push_back(2);
  uint64_t bytes = width;
  for (const int64_t n : shape)
    if (__builtin_mul_overflow(bytes, uint64_t(std::max<int64_t>(n, 1)), &bytes) || bytes > uint64_t(INT64_MAX))
      fail(fmt::format("shape {} has more than 2^63 bytes", shape.str()));
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) bytes = 0;
  const std::byte* from = data + before + length;
  const size_t rest = size - before - length;
  if (bytes != rest)
    fail(fmt::format("shape {} of {} takes {} bytes, but {} follow the header", shape.str(), in_quotes(descr), bytes, rest));
  if (type->dtype == DType::boolean)
    for (size_t i = 0; i < rest; ++i)
      if (from[i] > std::byte{1}) fail(fmt::format("its bool number {} is {}; it must be 0 or 1", i, int(from[i])));

  Shape strides = contiguous_strides(shape);
  if (header.fortran && bytes) {
    int64_t step = type->complex ? 2 : 1;
    for (int i = 0; i < int(header.shape.size()); step *= shape[i++]) strides[i] = step;
  }
  const Layout layout{shape, strides, 0, type->dtype};
  const bool swap = order == '>' && width > 1;
  if (bytes && !swap && owner && reinterpret_cast<uintptr_t>(from) % width == 0)
    return make_tensor(Storage::wrap(const_cast<std::byte*>(from), rest, std::move(owner)), layout);
  Ref<Storage> storage = empty({int64_t(rest / width)}, {type->dtype})->storage;
  if (bytes) std::memcpy(storage->data, from, rest);
  if (swap) swap_bytes(storage->data, rest / width, width);
  return make_tensor(std::move(storage), layout);
}
Tensor load_npy(const std::filesystem::path& path) {
  const Ref<MappedFile> mapped = MappedFile::open(path);
  return load_npy(mapped->data(), mapped->size(), Ref<Object>::share(mapped.get()), path.string());
}

void save_npy(const std::filesystem::path& path, const Tensor& x) {
  const NoGrad no_grad;
  const std::string header = header_of("save_npy", "", x);
  write_file_atomically(path, [&](FileWriter& writer) {
    const Tensor t = on_cpu(x);
    writer.write(header);
    writer.write(bytes_of(t));
  });
}

NamedTensors load_npz(const ZipReader& archive) {
  NamedTensors tensors;
  for (auto& entry : archive.entries()) {
    if (!entry.name.ends_with(".npy"))
      throw Error(fmt::format("load_npz: {}: the entry {} is no .npy file", archive.file(), in_quotes(entry.name)));
    ZipContent content = archive.read(entry);
    tensors.emplace_back(entry.name.substr(0, entry.name.size() - 4),
                         load_npy(content.data, content.size, std::move(content.owner), archive.file() + ", " + in_quotes(entry.name)));
  }
  return tensors;
}
NamedTensors load_npz(const std::filesystem::path& path) { return load_npz(ZipReader::open(path)); }

void save_npz(const std::filesystem::path& path, const NamedTensors& tensors, bool compress) {
  const NoGrad no_grad;
  std::vector<std::string> headers;
  std::unordered_set<std::string_view> names;
  for (auto& [name, tensor] : tensors) {
    if (name.empty()) throw Error("save_npz: a tensor has no name");
    if (!names.insert(name).second) throw Error(fmt::format("save_npz: the name {} is there twice", in_quotes(name)));
    headers.push_back(header_of("save_npz", in_quotes(name) + ": ", tensor));
  }
  write_file_atomically(path, [&](FileWriter& writer) {
    ZipWriter zip(writer);
    for (size_t i = 0; i < tensors.size(); ++i) {
      const Tensor t = on_cpu(tensors[i].second);
      zip.add(tensors[i].first + ".npy", {headers[i], bytes_of(t)}, compress);
    }
    zip.finish();
  });
}

}  // namespace retape
