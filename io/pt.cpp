#include <retape/io/pt.h>

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <memory>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <variant>

#include <retape/io/quote.h>
#include <retape/io/zip.h>

namespace retape {
namespace {

static_assert(std::endian::native == std::endian::little, "storages are little-endian, and mapped as they are");

constexpr size_t deepest = 100, most_values = 1'000'000, longest_number = 64;

struct StorageClass {
  std::string_view name;
  std::optional<DType> dtype;
  bool complex = false;  // two numbers an element
};
constexpr StorageClass storage_classes[] = {
    {"torch DoubleStorage", DType::f64},
    {"torch FloatStorage", DType::f32},
    {"torch HalfStorage", DType::f16},
    {"torch BFloat16Storage", DType::bf16},
    {"torch LongStorage", DType::i64},
    {"torch IntStorage", DType::i32},
    {"torch ByteStorage", DType::u8},
    {"torch BoolStorage", DType::boolean},
    {"torch ShortStorage", {}},
    {"torch CharStorage", {}},
    {"torch ComplexFloatStorage", DType::f32, true},
    {"torch ComplexDoubleStorage", DType::f64, true},
};

// What a pickle can make here.
struct Value;
struct None {};
struct Mark {};
struct Text {
  std::string text;
};
struct Tuple {
  std::vector<Value*> items;
};
struct List {
  std::vector<Value*> items;
};
struct Dict {
  std::vector<std::pair<Value*, Value*>> items;
};
enum class Function : uint8_t { ordered_dict, size, rebuild_tensor, rebuild_parameter, rebuild_parameter_with_state, storage };
struct Global {
  Function function;
  const StorageClass* storage = nullptr;
};
struct StoredData {
  const StorageClass* type;
  std::string key;
  int64_t count;
};
struct Value {
  std::variant<None, Mark, bool, int64_t, double, Text, Tuple, List, Dict, Global, StoredData, Tensor> is;
};

const char* kind_of(const Value& v) {
  constexpr const char* names[] = {"None",    "a mark", "a bool",       "an integer", "a float",   "text",
                                   "a tuple", "a list", "a dictionary", "a global",   "a storage", "a tensor"};
  return names[v.is.index()];
}

// The virtual machine for which pickles are programs (Python's pickletools describes it), without the instructions that can do anything
// but build values.
class Unpickler {
 public:
  Unpickler(const ZipReader& archive, std::string root, std::string_view program)
      : archive_(archive), root_(std::move(root)), program_(program) {}
  NamedTensors run();

 private:
  [[noreturn]] void fail(const std::string& what) const { throw Error(fmt::format("load_pt: {}: {}", archive_.file(), what)); }
  [[noreturn]] void malformed(const std::string& what) const { fail(fmt::format("the pickle is malformed at its byte {}: {}", at_, what)); }

  std::string_view take(uint64_t bytes) {
    if (bytes > program_.size() - at_) malformed(fmt::format("{} bytes are missing", bytes));
    const std::string_view part = program_.substr(at_, size_t(bytes));
    at_ += size_t(bytes);
    return part;
  }
  template <class T> T number() {
    T value;
    std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
    return value;
  }
  std::string_view line() {
    const size_t end = program_.find('\n', at_);
    if (end == std::string_view::npos) malformed("a line has no end");
    const std::string_view text = program_.substr(at_, end - at_);
    at_ = end + 1;
    return text;
  }
  template <class T> void push(T&& value) {
    if (values_.size() >= most_values * 8) fail("the pickle makes too many values");
    values_.push_back(std::make_unique<Value>());
    values_.back()->is = std::forward<T>(value);
    stack_.push_back(values_.back().get());
  }
  Value* pop() {
    if (stack_.empty() || std::holds_alternative<Mark>(stack_.back()->is)) malformed("the stack is empty");
    Value* v = stack_.back();
    stack_.pop_back();
    return v;
  }
  Value* top() {
    Value* v = pop();
    stack_.push_back(v);
    return v;
  }
  std::vector<Value*> pop_to_mark() {
    size_t mark = stack_.size();
    while (mark > 0 && !std::holds_alternative<Mark>(stack_[mark - 1]->is)) --mark;
    if (mark == 0) malformed("there is no mark on the stack");
    std::vector<Value*> items(stack_.begin() + int64_t(mark), stack_.end());
    stack_.resize(mark - 1);
    return items;
  }
  template <class T> T& as(Value* v, const char* what) {
    if (T* value = std::get_if<T>(&v->is)) return *value;
    malformed(fmt::format("{} is {}", what, kind_of(*v)));
  }
  void long_integer(uint64_t bytes);
  void global(std::string_view module, std::string_view name);
  void set_items(Dict& dict, const std::vector<Value*>& items);
  void call();
  void build();
  void persistent();
  void get(uint64_t i) {
    const auto found = memo_.find(i);
    if (found == memo_.end()) malformed(fmt::format("there is no value {} in the memo", i));
    stack_.push_back(found->second);
  }
  bool step(uint8_t opcode);

  Tensor rebuild(const std::vector<Value*>& arguments);
  Shape numbers(Value* v, const char* what);
  Ref<Storage> storage_of(const StoredData& data);
  void collect(const Value& value, const std::string& name, size_t depth, NamedTensors& tensors);

  const ZipReader& archive_;
  std::string root_;
  std::string_view program_;
  size_t at_ = 0, visited_ = 0;
  std::vector<std::unique_ptr<Value>> values_;
  std::vector<Value*> stack_;
  std::unordered_map<uint64_t, Value*> memo_;
  std::unordered_map<std::string, Ref<Storage>> storages_;
  std::unordered_set<std::string> names_;
};

void Unpickler::long_integer(uint64_t bytes) {
  const std::string_view digits = take(bytes);
  if (bytes > longest_number) malformed(fmt::format("an integer of {} bytes is too long", bytes));
  // Integers beyond 64 bits can be no size; as values they are left out like all numbers.
  const bool negative = !digits.empty() && (uint8_t(digits.back()) & 0x80);
  uint64_t value = negative ? ~uint64_t{0} : 0;
  for (size_t i = 0; i < std::min<size_t>(bytes, 8); ++i)
    value = (value & ~(uint64_t{0xff} << (8 * i))) | uint64_t(uint8_t(digits[i])) << (8 * i);
  bool fits = bytes <= 8;
  if (!fits) {
    const char fill = negative ? '\xff' : '\0';
    fits = std::all_of(digits.begin() + 8, digits.end(), [&](char c) { return c == fill; }) && (int64_t(value) < 0) == negative;
  }
  if (fits) push(int64_t(value));
  else push(negative ? -HUGE_VAL : HUGE_VAL);
}

void Unpickler::global(std::string_view module, std::string_view name) {
  const std::string full = fmt::format("{} {}", module, name);
  if (full == "collections OrderedDict") return push(Global{Function::ordered_dict});
  if (full == "torch Size") return push(Global{Function::size});
  if (full == "torch._utils _rebuild_tensor_v2") return push(Global{Function::rebuild_tensor});
  if (full == "torch._utils _rebuild_parameter") return push(Global{Function::rebuild_parameter});
  if (full == "torch._utils _rebuild_parameter_with_state") return push(Global{Function::rebuild_parameter_with_state});
  for (auto& storage : storage_classes)
    if (storage.name == full) return push(Global{Function::storage, &storage});
  fail(
      fmt::format("the pickle wants {}, which this reader does not run; it reads dictionaries, lists, tuples, numbers, text and tensors "
                  "only. Save the model's state_dict() instead",
                  in_quotes(fmt::format("{}.{}", module, name))));
}

void Unpickler::set_items(Dict& dict, const std::vector<Value*>& items) {
  if (items.size() % 2) malformed("a dictionary has a key without a value");
  for (size_t i = 0; i < items.size(); i += 2) dict.items.emplace_back(items[i], items[i + 1]);
}

// REDUCE: function, arguments -> result
void Unpickler::call() {
  Value* const arguments_value = pop();
  const auto& arguments = as<Tuple>(arguments_value, "what a function is called with").items;
  const Global function = as<Global>(pop(), "what is called");
  switch (function.function) {
    case Function::ordered_dict: {
      Dict dict;
      if (arguments.size() > 1) malformed(fmt::format("OrderedDict is called with {} values", arguments.size()));
      if (!arguments.empty())  // a list of pairs
        for (Value* item : as<List>(arguments[0], "what OrderedDict is made from").items) {
          const auto* pair = std::get_if<Tuple>(&item->is);
          const auto* list = std::get_if<List>(&item->is);
          const auto& both = pair ? pair->items : list ? list->items : as<Tuple>(item, "an item of OrderedDict").items;
          set_items(dict, both.size() == 2 ? both : std::vector<Value*>(1));
        }
      return push(std::move(dict));
    }
    case Function::size:
      if (arguments.size() != 1) malformed(fmt::format("torch.Size is called with {} values", arguments.size()));
      return push(Tuple(as<Tuple>(arguments[0], "what torch.Size is made from")));
    case Function::rebuild_tensor: return push(rebuild(arguments));
    case Function::rebuild_parameter:
    case Function::rebuild_parameter_with_state:
      if (arguments.size() < 3) malformed(fmt::format("a parameter is made from {} values", arguments.size()));
      return push(Tensor(as<Tensor>(arguments[0], "what a parameter is made from")));
    case Function::storage: malformed("a storage is made without its data");
  }
}

// BUILD: object, state -> object. state_dict() hangs `_metadata` on its OrderedDict, which says nothing about the tensors.
void Unpickler::build() {
  as<Dict>(pop(), "the state of an object");
  as<Dict>(top(), "an object with a state");
}

// BINPERSID: ("storage", class, key, device, number of elements) -> storage
void Unpickler::persistent() {
  const auto& id = as<Tuple>(pop(), "a persistent id").items;
  if (id.size() != 5 || as<Text>(id[0], "the kind of a persistent id").text != "storage") malformed("a persistent id is no storage");
  const Global type = as<Global>(id[1], "the class of a storage");
  if (type.function != Function::storage) malformed("the class of a storage is a function");
  push(StoredData{type.storage, as<Text>(id[2], "the key of a storage").text, as<int64_t>(id[4], "the size of a storage")});
}

// False at the end.
bool Unpickler::step(uint8_t opcode) {
  switch (opcode) {
    case 0x80:  // PROTO
      if (const int version = number<uint8_t>(); version < 2 || version > 5)
        fail(fmt::format("pickle protocol {} is not known; expected 2 to 5", version));
      return true;
    case 0x95: number<uint64_t>(); return true;  // FRAME: how much follows, for readers of streams
    case '.': return false;
    case '(': push(Mark{}); return true;
    case '0':
      if (!stack_.empty() && std::holds_alternative<Mark>(stack_.back()->is)) stack_.pop_back();
      else pop();
      return true;
    case '1': pop_to_mark(); return true;
    case '2': stack_.push_back(top()); return true;
    case 'N': push(None{}); return true;
    case 0x88: push(true); return true;
    case 0x89: push(false); return true;
    case 'J': push(int64_t(number<int32_t>())); return true;
    case 'K': push(int64_t(number<uint8_t>())); return true;
    case 'M': push(int64_t(number<uint16_t>())); return true;
    case 0x8a: long_integer(number<uint8_t>()); return true;
    case 0x8b: long_integer(number<uint32_t>()); return true;
    case 'G': push(std::bit_cast<double>(__builtin_bswap64(number<uint64_t>()))); return true;
    case 'X':  // BINUNICODE
    case 'B':  // BINBYTES
    case 'T':  // BINSTRING
      push(Text{std::string(take(number<uint32_t>()))});
      return true;
    case 0x8c:  // SHORT_BINUNICODE
    case 'C':   // SHORT_BINBYTES
    case 'U':   // SHORT_BINSTRING
      push(Text{std::string(take(number<uint8_t>()))});
      return true;
    case 0x8d:  // BINUNICODE8
    case 0x8e:  // BINBYTES8
      push(Text{std::string(take(number<uint64_t>()))});
      return true;
    case ')': push(Tuple{}); return true;
    case 't': push(Tuple{pop_to_mark()}); return true;
    case 0x85:
    case 0x86:
    case 0x87: {
      std::vector<Value*> items(size_t(opcode - 0x84));
      for (size_t i = items.size(); i-- > 0;) items[i] = pop();
      push(Tuple{std::move(items)});
      return true;
    }
    case ']': push(List{}); return true;
    case 'l': push(List{pop_to_mark()}); return true;
    case 'a': {
      Value* item = pop();
      as<List>(top(), "what is appended to").items.push_back(item);
      return true;
    }
    case 'e': {
      const auto items = pop_to_mark();
      auto& list = as<List>(top(), "what is appended to").items;
      list.insert(list.end(), items.begin(), items.end());
      return true;
    }
    case '}': push(Dict{}); return true;
    case 'd': {
      Dict dict;
      set_items(dict, pop_to_mark());
      push(std::move(dict));
      return true;
    }
    case 's': {
      Value *value = pop(), *key = pop();
      set_items(as<Dict>(top(), "what an item is set in"), {key, value});
      return true;
    }
    case 'u': {
      const auto items = pop_to_mark();
      set_items(as<Dict>(top(), "what items are set in"), items);
      return true;
    }
    case 'c': {
      const std::string_view module = line();
      global(module, line());
      return true;
    }
    case 0x93: {
      const Value *name = pop(), *module = pop();
      if (!std::holds_alternative<Text>(name->is) || !std::holds_alternative<Text>(module->is))
        malformed("the name of a global is no text");
      global(std::get<Text>(module->is).text, std::get<Text>(name->is).text);
      return true;
    }
    case 'R':
    case 0x81: call(); return true;  // NEWOBJ is a call of a class
    case 'b': build(); return true;
    case 'Q': persistent(); return true;
    case 'q': memo_[number<uint8_t>()] = top(); return true;
    case 'r': memo_[number<uint32_t>()] = top(); return true;
    case 0x94: memo_[memo_.size()] = top(); return true;
    case 'h': get(number<uint8_t>()); return true;
    case 'j': get(number<uint32_t>()); return true;
    default: --at_; malformed(fmt::format("the instruction 0x{:02x} is none that this reader knows", opcode));
  }
}

NamedTensors Unpickler::run() {
  while (step(number<uint8_t>())) {}
  NamedTensors tensors;
  collect(*pop(), "", 0, tensors);
  return tensors;
}

Shape Unpickler::numbers(Value* v, const char* what) {
  const auto& items = as<Tuple>(v, what).items;
  if (items.size() > size_t(Shape::max_rank))
    fail(fmt::format("a tensor of {} dims is not supported; at most {} are", items.size(), int(Shape::max_rank)));
  Shape shape;
  for (Value* item : items) {
    const int64_t n = as<int64_t>(item, what);
    if (n < 0) malformed(fmt::format("{} has {}, which is negative", what, n));
    shape.push_back(n);
  }
  return shape;
}

// _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, backward_hooks[, metadata])
Tensor Unpickler::rebuild(const std::vector<Value*>& arguments) {
  if (arguments.size() < 6 || arguments.size() > 7)
    malformed(fmt::format("a tensor is made from {} values instead of 6 or 7", arguments.size()));
  const StoredData& data = as<StoredData>(arguments[0], "the storage of a tensor");
  if (!data.type->dtype)
    fail(fmt::format("storage {} is a {}, whose dtype is not supported; f64, f32, f16, bf16, i64, i32, u8 and bool are",
                     in_quotes(data.key), data.type->name.substr(data.type->name.find(' ') + 1)));
  Layout layout{numbers(arguments[2], "the size of a tensor"), numbers(arguments[3], "the stride of a tensor"),
                as<int64_t>(arguments[1], "the offset of a tensor"), *data.type->dtype};
  const auto& [shape, strides, offset, dtype] = layout;
  if (shape.rank() != strides.rank()) malformed(fmt::format("strides {} do not fit shape {}", strides.str(), shape.str()));
  if (offset < 0) malformed(fmt::format("the offset of a tensor is {}, which is negative", offset));
  Ref<Storage> storage = storage_of(data);
  const int64_t parts = data.type->complex ? 2 : 1;
  int64_t last = offset, step = 0, numel = 1;
  bool overflow = false, empty = false;
  if (parts == 2 && shape.rank() == Shape::max_rank)
    fail(fmt::format("a complex tensor of {} dims is not supported; at most {} are", shape.rank(), Shape::max_rank - 1));
  for (const int64_t n : shape) empty |= n == 0;
  for (int i = 0; i < shape.rank(); ++i) {
    overflow |= __builtin_mul_overflow(numel, std::max<int64_t>(shape[i], 1), &numel);
    if (!empty) overflow |= __builtin_mul_overflow(shape[i] - 1, strides[i], &step) || __builtin_add_overflow(last, step, &last);
  }
  overflow |= __builtin_mul_overflow(numel, int64_t(size_of(dtype)) * parts, &step);
  if (overflow) fail(fmt::format("a tensor of shape {} and strides {} has more than 2^63 bytes", shape.str(), strides.str()));
  const auto count = int64_t(storage->bytes / size_of(dtype)) / parts;
  if (empty) {
    // Nothing is read; strides of other writers are as they like.
    if (offset > count) malformed(fmt::format("the offset {} lies outside a storage of {} elements", offset, count));
    layout.strides = contiguous_strides(shape);
  }
  if (!empty && last >= count)
    fail(fmt::format("a tensor of shape {}, strides {} and offset {} reaches outside its storage {} of {} elements", shape.str(),
                     strides.str(), offset, in_quotes(data.key), count));
  if (parts == 2) {
    for (int i = 0; i < layout.strides.rank(); ++i) layout.strides[i] = shape[i] == 1 ? 2 : 2 * strides[i];
    layout.offset *= 2;
    layout.shape.push_back(2), layout.strides.push_back(1);
  }
  return make_tensor(std::move(storage), layout);
}

Ref<Storage> Unpickler::storage_of(const StoredData& data) {
  const std::string name = root_ + "data/" + data.key;
  const size_t width = size_of(*data.type->dtype) * (data.type->complex ? 2 : 1);
  auto& storage = storages_[data.key];
  if (!storage) {
    const ZipEntry* entry = archive_.find(name);
    if (!entry) fail(fmt::format("there is no entry {} for a storage", in_quotes(name)));
    ZipContent content = archive_.read(*entry);
    if (reinterpret_cast<uintptr_t>(content.data) % alignof(std::max_align_t) == 0) {
      storage = Storage::wrap(const_cast<std::byte*>(content.data), content.size, std::move(content.owner));
    } else {
      storage = empty({int64_t(content.size)}, {DType::u8})->storage;
      if (content.size) std::memcpy(storage->data, content.data, content.size);
    }
  }
  if (data.count < 0 || uint64_t(data.count) > storage->bytes / width)
    fail(fmt::format("storage {} has {} bytes, too few for {} elements of {}", in_quotes(data.key), storage->bytes, data.count,
                     name_of(*data.type->dtype)));
  if (data.type->dtype == DType::boolean)
    for (size_t i = 0; i < storage->bytes; ++i)
      if (storage->data[i] > std::byte{1})
        fail(fmt::format("storage {} is of bool, but its byte {} is {}; it must be 0 or 1", in_quotes(data.key), i, int(storage->data[i])));
  return storage;
}

void Unpickler::collect(const Value& value, const std::string& name, size_t depth, NamedTensors& tensors) {
  if (depth > deepest) fail(fmt::format("values are nested deeper than {} levels, or contain themselves", deepest));
  if (++visited_ > most_values) fail(fmt::format("there are more than {} values", most_values));
  const auto inside = [&](const std::string& key) { return name.empty() ? key : name + "." + key; };
  const auto collect_items = [&](const std::vector<Value*>& items) {
    for (size_t i = 0; i < items.size(); ++i) collect(*items[i], inside(fmt::format("{}", i)), depth + 1, tensors);
  };
  if (const auto* tensor = std::get_if<Tensor>(&value.is)) {
    if (!names_.insert(name).second) fail(fmt::format("two tensors have the name {}", in_quotes(name)));
    tensors.emplace_back(name, make_tensor((*tensor)->storage, (*tensor)->layout));
  } else if (const auto* tuple = std::get_if<Tuple>(&value.is)) {
    collect_items(tuple->items);
  } else if (const auto* list = std::get_if<List>(&value.is)) {
    collect_items(list->items);
  } else if (const auto* dict = std::get_if<Dict>(&value.is)) {
    // A key that is set again replaces what it had, in its place.
    std::vector<std::pair<std::string, const Value*>> items;
    std::unordered_map<std::string, size_t> places;
    for (const auto& [key, item] : dict->items) {
      std::string text;
      if (const auto* string = std::get_if<Text>(&key->is)) text = string->text;
      else if (const auto* number = std::get_if<int64_t>(&key->is)) text = fmt::format("{}", *number);
      else
        fail(fmt::format("{} has {} as a key; keys must be text or integers", name.empty() ? "the outer dictionary" : in_quotes(name),
                         kind_of(*key)));
      if (const auto [place, is_new] = places.emplace(text, items.size()); is_new) items.emplace_back(text, item);
      else items[place->second].second = item;
    }
    for (const auto& [key, item] : items) collect(*item, inside(key), depth + 1, tensors);
  }
}

}  // namespace

NamedTensors load_pt(const ZipReader& archive) {
  const auto fail = [&](const std::string& what) { throw Error(fmt::format("load_pt: {}: {}", archive.file(), what)); };
  const ZipEntry* program = nullptr;
  for (auto& entry : archive.entries())
    if (entry.name == "data.pkl" || entry.name.ends_with("/data.pkl")) {
      if (program) fail("there are two entries data.pkl");
      program = &entry;
    }
  if (!program) fail("no PyTorch file: there is no entry data.pkl");
  const std::string root = program->name.substr(0, program->name.size() - std::string_view("data.pkl").size());
  if (const ZipEntry* order = archive.find(root + "byteorder"))
    if (const ZipContent content = archive.read(*order); content.text() != "little")
      fail(fmt::format("its byte order is {}; only little is supported", in_quotes(content.text())));
  const ZipContent content = archive.read(*program);
  return Unpickler(archive, root, content.text()).run();
}

NamedTensors load_pt(const std::filesystem::path& path) {
  const Ref<MappedFile> mapped = MappedFile::open(path);
  const std::string_view content(reinterpret_cast<const char*>(mapped->data()), mapped->size());
  if (!content.starts_with("PK") && content.starts_with("\x80\x02"))
    throw Error(
        fmt::format("load_pt: {}: a file in PyTorch's format before version 1.6; load and save it again with a later one", path.string()));
  return load_pt(ZipReader::open(path));
}

}  // namespace retape
