#include <retape/io/safetensors.h>

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>
#include <retape/io/file.h>
#include <retape/io/quote.h>

namespace retape {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "the format is little-endian, and tensors are mapped as they are");

constexpr size_t length_bytes = 8, max_header = 100'000'000, max_depth = 16;
constexpr const char* metadata_key = "__metadata__";

struct KnownDType {
  const char* name;
  size_t bits;
  std::optional<DType> dtype;
};
constexpr KnownDType known_dtypes[] = {
    {"F64", 64, DType::f64}, {"F32", 32, DType::f32}, {"F16", 16, DType::f16}, {"BF16", 16, DType::bf16},
    {"I64", 64, DType::i64}, {"I32", 32, DType::i32}, {"U8", 8, DType::u8},    {"BOOL", 8, DType::boolean},
    {"I16", 16, {}},         {"U16", 16, {}},         {"U32", 32, {}},         {"U64", 64, {}},
    {"I8", 8, {}},           {"C64", 64, {}},         {"F8_E4M3", 8, {}},      {"F8_E5M2", 8, {}},
    {"F8_E8M0", 8, {}},      {"F8_E4M3FNUZ", 8, {}},  {"F8_E5M2FNUZ", 8, {}},  {"F4", 4, {}},
    {"F6_E2M3", 6, {}},      {"F6_E3M2", 6, {}},
};
const KnownDType* find_dtype(std::string_view name) {
  for (auto& known : known_dtypes)
    if (name == known.name) return &known;
  return nullptr;
}
const char* file_name_of(DType dtype) {
  for (auto& known : known_dtypes)
    if (known.dtype == dtype) return known.name;
  return "";
}

std::string str(const std::vector<int64_t>& shape) {
  if (shape.size() <= 16) return fmt::format("[{}]", fmt::join(shape, ", "));
  return fmt::format("[{}, ...] of {} dims", fmt::join(shape.begin(), shape.begin() + 16, ", "), shape.size());
}

// Takes the header's JSON piece by piece, so that neither its depth nor what it holds can take more memory than its entries:
// {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ..., "__metadata__": {"key": "text"}}.
// Unknown fields of an entry are skipped, as other readers do.
class HeaderReader {
 public:
  using number_integer_t = json::number_integer_t;
  using number_unsigned_t = json::number_unsigned_t;
  using number_float_t = json::number_float_t;
  using string_t = json::string_t;
  using binary_t = json::binary_t;

  HeaderReader(SafeTensorsHeader& header, std::string_view file) : header_(header), file_(file) {}
  [[noreturn]] void fail(const std::string& what) const { throw Error(fmt::format("safetensors: {}: {}", file_, what)); }

  bool start_object(size_t) {
    switch (at_) {
      case At::document: return go(At::root);
      case At::metadata_value: return go(At::metadata);
      case At::entry_value: return go(At::entry);
      default: return start_skipped("an object");
    }
  }
  bool end_object() {
    switch (at_) {
      case At::root: return go(At::document);
      case At::entry:
        for (const char* field : {"dtype", "shape", "data_offsets"})
          if (!fields_.contains(field)) fail(fmt::format("tensor {} has no {}", entry_name(), field));
        fields_.clear();
        return go(At::root);
      case At::metadata: return go(At::root);
      default: return end_skipped();
    }
  }
  bool start_array(size_t) {
    switch (at_) {
      case At::shape_value: return go(At::shape);
      case At::offsets_value: offsets_ = 0; return go(At::offsets);
      default: return start_skipped("an array");
    }
  }
  bool end_array() {
    if (at_ == At::skipped) return end_skipped();
    if (at_ == At::offsets && offsets_ != 2)
      fail(fmt::format("tensor {}: data_offsets has {} numbers; it must have 2", entry_name(), offsets_));
    return go(At::entry);
  }
  bool key(string_t& name) {
    switch (at_) {
      case At::root:
        if (!names_.insert(name).second) fail(fmt::format("the name {} is there twice", in_quotes(name)));
        if (name == metadata_key) return go(At::metadata_value);
        header_.entries.emplace_back().name = std::move(name);
        return go(At::entry_value);
      case At::metadata:
        if (header_.metadata.contains(name)) fail(fmt::format("{} has {} twice", metadata_key, in_quotes(name)));
        key_ = std::move(name);
        return true;
      case At::entry:
        at_ = name == "dtype"          ? At::dtype_value
              : name == "shape"        ? At::shape_value
              : name == "data_offsets" ? At::offsets_value
                                       : At::unknown_value;
        if (!fields_.insert(name).second) fail(fmt::format("tensor {} has {} twice", entry_name(), in_quotes(name)));
        return true;
      default: return true;
    }
  }
  bool string(string_t& text) {
    switch (at_) {
      case At::metadata: header_.metadata[key_] = std::move(text); return true;
      case At::dtype_value: entry().dtype = std::move(text); return go(At::entry);
      default: return other_value("a string");
    }
  }
  bool number_unsigned(number_unsigned_t number) {
    if ((at_ != At::shape && at_ != At::offsets) || number > uint64_t(INT64_MAX)) return other_value(fmt::format("{}", number));
    if (at_ == At::shape) entry().shape.push_back(int64_t(number));
    else if (++offsets_ <= 2) (offsets_ == 1 ? entry().begin : entry().end) = size_t(number);
    return true;
  }
  bool number_integer(number_integer_t number) { return other_value(fmt::format("{}", number)); }
  bool number_float(number_float_t, const string_t& text) { return other_value(text.substr(0, 40)); }
  bool null() { return other_value("null"); }
  bool boolean(bool value) { return other_value(value ? "true" : "false"); }
  bool binary(binary_t&) { return other_value("binary data"); }
  bool parse_error(size_t position, const std::string&, const json::exception&) {
    fail(fmt::format("the header is not valid JSON, at its byte {}", position));
  }

 private:
  enum class At : uint8_t {
    document,
    root,
    metadata_value,
    metadata,
    entry_value,
    entry,
    dtype_value,
    shape_value,
    shape,
    offsets_value,
    offsets,
    unknown_value,
    skipped
  };
  bool go(At to) {
    at_ = to;
    return true;
  }
  bool start_skipped(const char* what) {
    if (at_ != At::unknown_value && at_ != At::skipped) return other_value(what);
    if (++skipped_depth_ > max_depth) fail(fmt::format("tensor {} has a field nested deeper than {} levels", entry_name(), max_depth));
    return go(At::skipped);
  }
  bool end_skipped() { return --skipped_depth_ == 0 ? go(At::entry) : true; }
  bool other_value(std::string_view what) {
    switch (at_) {
      case At::skipped: return true;
      case At::unknown_value: return go(At::entry);
      case At::metadata_value: fail(fmt::format("{} is {}; it must be an object of strings", metadata_key, what));
      case At::metadata: fail(fmt::format("{} has {} under {}; all must be strings", metadata_key, what, in_quotes(key_)));
      case At::entry_value: fail(fmt::format("tensor {} is {}; it must be an object", entry_name(), what));
      case At::dtype_value: fail(fmt::format("tensor {}: dtype is {}; it must be a string", entry_name(), what));
      case At::shape_value:
      case At::shape:
      case At::offsets_value:
      case At::offsets:
        fail(fmt::format("tensor {}: {} {} {}; it must be a list of whole numbers from 0 to 2^63 - 1", entry_name(),
                         at_ == At::shape_value || at_ == At::shape ? "shape" : "data_offsets",
                         at_ == At::shape || at_ == At::offsets ? "has" : "is", what));
      default: fail(fmt::format("the header is {}; it must be an object", what));
    }
  }
  SafeTensorsEntry& entry() { return header_.entries.back(); }
  std::string entry_name() const { return in_quotes(header_.entries.back().name); }

  SafeTensorsHeader& header_;
  std::string_view file_;
  At at_ = At::document;
  size_t skipped_depth_ = 0;
  int offsets_ = 0;
  std::string key_;
  std::unordered_set<std::string> names_, fields_;
};

// Sizes of all entries, and that they lie one after the other and fill the data.
void check_layout(std::vector<SafeTensorsEntry>& entries, size_t data_size, std::string_view file) {
  const auto fail = [&](const SafeTensorsEntry& e, const std::string& what) {
    throw Error(fmt::format("safetensors: {}: tensor {}: {}", file, in_quotes(e.name), what));
  };
  for (auto& e : entries) {
    if (e.begin > e.end) fail(e, fmt::format("data_offsets [{}, {}] end before they begin", e.begin, e.end));
    if (e.end > data_size)
      fail(e, fmt::format("data_offsets [{}, {}] lie outside the file, which has {} bytes of data", e.begin, e.end, data_size));
    const KnownDType* known = find_dtype(e.dtype);
    if (!known) continue;
    uint64_t bits = known->bits;
    for (const int64_t n : e.shape)
      if (__builtin_mul_overflow(bits, uint64_t(std::max<int64_t>(n, 1)), &bits))
        fail(e, fmt::format("shape {} of {} has more than 2^64 bits", str(e.shape), e.dtype));
    if (std::find(e.shape.begin(), e.shape.end(), 0) != e.shape.end()) bits = 0;
    if (bits % 8 != 0) fail(e, fmt::format("shape {} of {} does not fill whole bytes", str(e.shape), e.dtype));
    if (bits / 8 != e.end - e.begin)
      fail(e, fmt::format("data_offsets [{}, {}] hold {} bytes, but shape {} of {} takes {}", e.begin, e.end, e.end - e.begin, str(e.shape),
                          e.dtype, bits / 8));
  }
  std::sort(entries.begin(), entries.end(), [](const SafeTensorsEntry& a, const SafeTensorsEntry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  size_t filled = 0;
  for (auto& e : entries) {
    if (e.begin < filled)
      fail(e, fmt::format("data_offsets [{}, {}] overlap those of another tensor, which end at {}", e.begin, e.end, filled));
    if (e.begin > filled)
      fail(e, fmt::format("data_offsets begin at {}, which leaves a hole of {} bytes before them", e.begin, e.begin - filled));
    filled = e.end;
  }
  if (filled != data_size)
    throw Error(fmt::format("safetensors: {}: the file has {} bytes of data, but its tensors take {}", file, data_size, filled));
}

}  // namespace

SafeTensorsHeader parse_safetensors_header(const std::byte* data, size_t size, std::string_view file) {
  const auto fail = [&](const std::string& what) { throw Error(fmt::format("safetensors: {}: {}", file, what)); };
  if (size < length_bytes) fail(fmt::format("{} bytes are too few; the header's length alone takes {}", size, length_bytes));
  uint64_t length = 0;
  std::memcpy(&length, data, length_bytes);
  if (length > max_header)
    fail(fmt::format("a header of {} bytes is too long; at most {}. Is this a safetensors file?", length, max_header));
  if (length > size - length_bytes) fail(fmt::format("a header of {} bytes does not fit into a file of {}; is it cut off?", length, size));
  const char* text = reinterpret_cast<const char*>(data) + length_bytes;
  if (length == 0 || *text != '{') fail("the header does not begin with {");
  // The JSON reader takes a zero for the end of the text, and would not see what follows.
  if (const void* zero = std::memchr(text, 0, length))
    fail(fmt::format("the header is not valid JSON, at its byte {}", static_cast<const char*>(zero) - text + 1));

  SafeTensorsHeader header;
  HeaderReader reader(header, file);
  json::sax_parse(text, text + length, &reader);
  header.data_begin = length_bytes + size_t(length);
  check_layout(header.entries, size - header.data_begin, file);
  return header;
}

// ---- reading --------------------------------------------------------------------------------------------------------

SafeTensors::SafeTensors(std::string file, const std::byte* data, size_t size, Ref<Object> owner)
    : file_(std::move(file)), data_(data), owner_(std::move(owner)), header_(parse_safetensors_header(data, size, file_)) {
  for (size_t i = 0; i < header_.entries.size(); ++i) index_.emplace(header_.entries[i].name, i);
}
SafeTensors SafeTensors::open(const std::filesystem::path& path) {
  const Ref<MappedFile> mapped = MappedFile::open(path);
  return {path.string(), mapped->data(), mapped->size(), Ref<Object>::share(mapped.get())};
}
SafeTensors SafeTensors::from_bytes(std::vector<std::byte> bytes, std::string_view file) {
  struct Bytes final : Object {
    std::vector<std::byte> bytes;
    void destroy() noexcept override { delete this; }
  };
  const auto owner = Ref<Bytes>::adopt(new Bytes);
  owner->bytes = std::move(bytes);
  return {std::string(file), owner->bytes.data(), owner->bytes.size(), Ref<Object>::share(owner.get())};
}

std::vector<std::string> SafeTensors::names() const {
  std::vector<std::string> names;
  for (auto& entry : header_.entries) names.push_back(entry.name);
  return names;
}
const SafeTensorsEntry& SafeTensors::info(const std::string& name) const {
  const auto found = index_.find(name);
  if (found == index_.end())
    throw Error(fmt::format("safetensors: {}: there is no tensor {}; the file has {}", file_, in_quotes(name), header_.entries.size()));
  return header_.entries[found->second];
}
std::optional<DType> SafeTensors::dtype_of(const SafeTensorsEntry& entry) {
  const KnownDType* known = find_dtype(entry.dtype);
  return known ? known->dtype : std::nullopt;
}

Tensor SafeTensors::tensor(const std::string& name) const {
  const SafeTensorsEntry& e = info(name);
  const auto dtype = dtype_of(e);
  if (!dtype)
    throw Error(
        fmt::format("safetensors: {}: tensor {} has dtype {}, which is not supported; F64, F32, F16, BF16, I64, I32, U8 and BOOL are",
                    file_, in_quotes(name), in_quotes(e.dtype)));
  if (e.shape.size() > size_t(Shape::max_rank))
    throw Error(fmt::format("safetensors: {}: tensor {} has {} dims; at most {} are supported", file_, in_quotes(name), e.shape.size(),
                            Shape::max_rank));
  const std::byte* from = data_ + header_.data_begin + e.begin;
  const size_t bytes = e.end - e.begin;
  if (*dtype == DType::boolean)
    for (size_t i = 0; i < bytes; ++i)
      if (from[i] > std::byte{1})
        throw Error(fmt::format("safetensors: {}: tensor {} is BOOL, but its byte {} is {}; it must be 0 or 1", file_, in_quotes(name), i,
                                int(from[i])));

  const Shape shape(e.shape);
  if (bytes == 0 || reinterpret_cast<uintptr_t>(from) % size_of(*dtype) != 0) {
    Tensor copy = empty(shape, {*dtype});
    std::memcpy(copy->storage->data, from, bytes);
    return copy;
  }
  return make_tensor(Storage::wrap(const_cast<std::byte*>(from), bytes, owner_), {shape, contiguous_strides(shape), 0, *dtype});
}
NamedTensors SafeTensors::tensors() const {
  NamedTensors all;
  for (auto& entry : header_.entries) all.emplace_back(entry.name, tensor(entry.name));
  return all;
}

// ---- writing --------------------------------------------------------------------------------------------------------

namespace {
std::string escaped(const std::string& text, const char* what) {
  try {
    return json(text).dump();
  } catch (const json::exception&) {
    throw Error(fmt::format("save_safetensors: {} {} is not valid UTF-8", what, in_quotes(text)));
  }
}
}  // namespace

void save_safetensors(const std::filesystem::path& path, const NamedTensors& tensors, const std::map<std::string, std::string>& metadata) {
  const NoGrad no_grad;
  std::vector<const std::pair<std::string, Tensor>*> order;
  std::unordered_set<std::string_view> names;
  for (auto& named : tensors) {
    auto& [name, tensor] = named;
    if (!tensor) throw Error(fmt::format("save_safetensors: tensor {} is undefined", in_quotes(name)));
    if (tensor.device().is_meta())
      throw Error(fmt::format("save_safetensors: tensor {} is on the meta device and has no values", in_quotes(name)));
    if (name == metadata_key) throw Error(fmt::format("save_safetensors: no tensor can be named {}", metadata_key));
    if (!names.insert(name).second) throw Error(fmt::format("save_safetensors: the name {} is there twice", in_quotes(name)));
    order.push_back(&named);
  }
  // Large elements first: then all are aligned, since the data begins at a multiple of 8.
  std::sort(order.begin(), order.end(), [](auto* a, auto* b) {
    const size_t x = size_of(a->second.dtype()), y = size_of(b->second.dtype());
    return x != y ? x > y : a->first < b->first;
  });

  std::string header = "{";
  if (!metadata.empty()) {
    for (auto& [key, text] : metadata)
      header += fmt::format("{}{}:{}", header.size() == 1 ? fmt::format("\"{}\":{{", metadata_key) : ",", escaped(key, "metadata key"),
                            escaped(text, "metadata"));
    header += "}";
  }
  size_t begin = 0;
  for (auto* named : order) {
    auto& [name, tensor] = *named;
    const size_t end = begin + size_t(tensor.numel()) * size_of(tensor.dtype());
    header += fmt::format("{}{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", header.size() == 1 ? "" : ",",
                          escaped(name, "name"), file_name_of(tensor.dtype()), fmt::join(tensor.shape().begin(), tensor.shape().end(), ","),
                          begin, end);
    begin = end;
  }
  header += "}";
  header.append((8 - header.size() % 8) % 8, ' ');
  if (header.size() > max_header)
    throw Error(fmt::format("save_safetensors: the names of {} tensors make a header of {} bytes; at most {}", order.size(), header.size(),
                            max_header));

  write_file_atomically(path, [&](FileWriter& writer) {
    const uint64_t length = header.size();
    writer.write(&length, sizeof length);
    writer.write(header);
    for (auto* named : order) {
      const Tensor t = contiguous(to(named->second, Device::cpu()));
      writer.write(t->storage->data + t.offset() * int64_t(size_of(t.dtype())), size_t(t.numel()) * size_of(t.dtype()));
    }
  });
}

}  // namespace retape
