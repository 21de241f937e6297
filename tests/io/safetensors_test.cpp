// The safetensors format and atomic writing: round trips, files of other writers, hostile headers, full disks.
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include <retape/io/file.h>

#include "../catch.h"
#include "../temporary.h"

using namespace retape;
using namespace retape::testing;
namespace fs = std::filesystem;

namespace {

std::vector<std::byte> bytes_of(std::string_view text) {
  const auto* p = reinterpret_cast<const std::byte*>(text.data());
  return {p, p + text.size()};
}
// A file with this header, whose length is right, and `data` bytes.
std::string file_with(std::string header, size_t data = 0) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + header + std::string(data, '\1');
}
SafeTensors parse(const std::string& content) { return SafeTensors::from_bytes(bytes_of(content), "test"); }
std::string error_of_header(const std::string& header, size_t data = 0) {
  return error_of([&] { parse(file_with(header, data)); });
}

}  // namespace

TEST_CASE("tensors of every dtype come back bit for bit", "[io]") {
  const TemporaryFolder folder;
  NamedTensors saved;
  for (const DType d : {DType::f64, DType::f32, DType::f16, DType::bf16, DType::i64, DType::i32, DType::u8, DType::boolean})
    saved.emplace_back(name_of(d), d == DType::boolean ? gt(values({3, 5}), 0) : cast(values({3, 5}, d == DType::u8 ? 0 : -100, 100), d));
  saved.emplace_back("a scalar", tensor(std::vector<float>{2.5f}, {}));
  saved.emplace_back("nothing", zeros({2, 0, 3}));
  saved.emplace_back("blocks.0.\"quoted\".ü", ones({1}));
  save_safetensors(folder / "a.safetensors", saved, {{"format", "retape"}, {"text", "line\nbreak \"quoted\""}});

  const SafeTensors file = SafeTensors::open(folder / "a.safetensors");
  CHECK(file.names().size() == saved.size());
  CHECK(file.metadata() == std::map<std::string, std::string>{{"format", "retape"}, {"text", "line\nbreak \"quoted\""}});
  for (auto& [name, t] : saved) {
    INFO(name);
    REQUIRE(file.contains(name));
    CHECK(same_bits(file.tensor(name), t));
    CHECK(SafeTensors::dtype_of(file.info(name)) == t.dtype());
    CHECK(file.info(name).shape == t.shape().vec());
  }
  CHECK(file.tensors().size() == saved.size());
  CHECK_FALSE(file.contains("other"));
  CHECK_THAT(error_of([&] { file.tensor("other"); }), ContainsSubstring("there is no tensor \"other\"; the file has 11"));
}

TEST_CASE("the bytes of a file are those that other writers make", "[io]") {
  // safetensors.numpy.save_file({"b": [1, 2] as int64, "a": [[0.5]] as float32, "c": [True] as bool}, metadata={"k": "v"}),
  // whose header is padded with spaces to a multiple of 8.
  const TemporaryFolder folder;
  save_safetensors(
      folder / "a.safetensors",
      {{"c", tensor(std::vector<bool>{true})}, {"a", tensor(std::vector<float>{0.5f}, {1, 1})}, {"b", tensor({int64_t{1}, int64_t{2}})}},
      {{"k", "v"}});
  const std::string header =
      R"({"__metadata__":{"k":"v"},"b":{"dtype":"I64","shape":[2],"data_offsets":[0,16]},)"
      R"("a":{"dtype":"F32","shape":[1,1],"data_offsets":[16,20]},"c":{"dtype":"BOOL","shape":[1],"data_offsets":[20,21]}})";
  std::string padded = header;
  padded.append((8 - header.size() % 8) % 8, ' ');
  const std::string content = read_file(folder / "a.safetensors");
  REQUIRE(content.size() == 8 + padded.size() + 21);
  CHECK(content.substr(8, padded.size()) == padded);
  CHECK(content.substr(8 + padded.size()) == std::string("\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0\0\0\0\x3f\1", 21));
}

TEST_CASE("tensors of a file are read in place, and stay when the file object goes", "[io]") {
  const TemporaryFolder folder;
  const Tensor big = values({1000, 1000}, -1, 1, 1, DType::f32);
  save_safetensors(folder / "a.safetensors", {{"w", big}});
  const int64_t before = memory_stats().live;
  Tensor w = SafeTensors::open(folder / "a.safetensors").tensor("w");
  CHECK(memory_stats().live == before);
  CHECK(same_bits(w, big));
  // A replaced file does not change what is mapped, nor does a write to the mapping change the file.
  save_safetensors(folder / "a.safetensors", {{"w", zeros({1000, 1000})}});
  CHECK(same_bits(w, big));
  w.mutable_data<float>()[0] = 7;
  CHECK(SafeTensors::open(folder / "a.safetensors").tensor("w").data<float>()[0] == 0);
}

TEST_CASE("tensors that are not contiguous are saved by value, and misaligned ones read by copy", "[io]") {
  const TemporaryFolder folder;
  const Tensor base = values({3, 4}), view = slice(transpose(base), 0, 1, 4, 2);
  save_safetensors(folder / "a.safetensors", {{"w", view}, {"row", select(base, 0, 1)}});
  const SafeTensors file = SafeTensors::open(folder / "a.safetensors");
  CHECK(same_bits(file.tensor("w"), contiguous(view)));
  CHECK(same_bits(file.tensor("row"), contiguous(select(base, 0, 1))));

  // The spec lets a header have any length.
  const double pi = 3.14159;
  for (int padding = 0; padding < 8; ++padding) {
    std::string odd = file_with(R"({"x":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}})" + std::string(size_t(padding), ' '));
    odd.append(reinterpret_cast<const char*>(&pi), sizeof pi);
    CHECK(parse(odd).tensor("x").item() == pi);
  }
}

TEST_CASE("what a Tensor cannot have is listed, and an error only when it is asked for", "[io]") {
  const SafeTensors file = parse(file_with(
      R"({"a":{"dtype":"F8_E4M3","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"NEW","shape":[9],"data_offsets":[3,5]},)"
      R"("c":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[5,6]},"d":{"dtype":"U8","shape":[],"data_offsets":[6,7],"new":{"x":[1,{}]}},)"
      R"("e":{"dtype":"U16","shape":[1],"data_offsets":[7,9]},"f":{"dtype":"BOOL","shape":[2],"data_offsets":[9,11]}})",
      11));
  CHECK(file.names() == std::vector<std::string>{"a", "b", "c", "d", "e", "f"});
  CHECK(file.info("a").dtype == "F8_E4M3");
  CHECK_THAT(error_of([&] { file.tensor("a"); }), ContainsSubstring("tensor \"a\" has dtype \"F8_E4M3\", which is not supported"));
  CHECK_THAT(error_of([&] { file.tensor("b"); }), ContainsSubstring("tensor \"b\" has dtype \"NEW\""));
  CHECK_THAT(error_of([&] { file.tensor("c"); }), ContainsSubstring("has 9 dims; at most 8"));
  CHECK_THAT(error_of([&] { file.tensor("e"); }), ContainsSubstring("\"U16\""));
  CHECK(file.tensor("d").item<int64_t>() == 1);
  CHECK(file.tensor("f").to_vector<int64_t>() == std::vector<int64_t>{1, 1});
  std::string bad_bool = file_with(R"({"f":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]}})", 2);
  bad_bool.back() = 2;
  CHECK_THAT(error_of([&] { parse(bad_bool).tensor("f"); }), ContainsSubstring("BOOL, but its byte 1 is 2"));
}

TEST_CASE("a malformed header is one line that says what is wrong", "[io]") {
  const auto entry = [](const std::string& fields) { return R"({"w":{)" + fields + "}}"; };
  const std::string dtype = R"("dtype":"F32")", shape = R"("shape":[2])", offsets = R"("data_offsets":[0,8])";
  const auto with_shape = [&](const std::string& s) { return entry(dtype + R"(,"shape":)" + s + "," + offsets); };
  const auto with_offsets = [&](const std::string& s) { return entry(dtype + "," + shape + R"(,"data_offsets":)" + s); };
  const auto two = [](const std::string& a, const std::string& b) {
    return R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + a + R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + b + "}}";
  };
  REQUIRE(parse(file_with(entry(dtype + "," + shape + "," + offsets), 8)).names().size() == 1);
  REQUIRE(parse(file_with("{}")).names().empty());
  REQUIRE(parse(file_with("{ }   ")).names().empty());
  REQUIRE(parse(file_with(two("[4,8]", "[0,4]"), 8)).names() == std::vector<std::string>{"b", "a"});

  struct Row {
    std::string header;
    size_t data;
    const char* message;
  };
  const std::string deep = std::string(100'000, '[');
  for (const auto& [header, data, message] : std::vector<Row>{
           {"", 0, "does not begin with {"},
           {" {}", 0, "does not begin with {"},
           {"[]", 0, "does not begin with {"},
           {"null", 0, "does not begin with {"},
           {"{", 0, "not valid JSON"},
           {"{}}", 0, "not valid JSON"},
           {"{} x", 0, "not valid JSON, at its byte 4"},
           {std::string("{}\0{}", 5), 0, "not valid JSON, at its byte 3"},
           {std::string("{\"a\0\":1}", 8), 0, "not valid JSON"},
           {"{\"\xff\":{}}", 0, "not valid JSON"},
           {"{'a':{}}", 0, "not valid JSON"},
           {"{/**/}", 0, "not valid JSON"},
           {R"({"w":)", 0, "not valid JSON"},
           {R"({"w":3})", 0, "tensor \"w\" is 3; it must be an object"},
           {R"({"w":null})", 0, "tensor \"w\" is null; it must be an object"},
           {R"({"w":[]})", 0, "tensor \"w\" is an array; it must be an object"},
           {R"({"w":{}})", 0, "tensor \"w\" has no dtype"},
           {entry(shape + "," + offsets), 8, "tensor \"w\" has no dtype"},
           {entry(dtype + "," + offsets), 8, "tensor \"w\" has no shape"},
           {entry(dtype + "," + shape), 8, "tensor \"w\" has no data_offsets"},
           {entry(R"("dtype":7,)" + shape + "," + offsets), 8, "dtype is 7; it must be a string"},
           {entry(R"("dtype":["F32"],)" + shape + "," + offsets), 8, "dtype is an array; it must be a string"},
           {entry(dtype + "," + dtype + "," + shape + "," + offsets), 8, "tensor \"w\" has \"dtype\" twice"},
           {R"({"w":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"w":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}})", 0,
            "the name \"w\" is there twice"},
           {with_shape("2"), 8, "shape is 2; it must be a list"},
           {with_shape("{}"), 8, "shape is an object; it must be a list"},
           {with_shape("null"), 8, "shape is null; it must be a list"},
           {with_shape("[[2]]"), 8, "shape has an array; it must be a list"},
           {with_shape(R"(["2"])"), 8, "shape has a string; it must be a list"},
           {with_shape("[-2]"), 8, "shape has -2"},
           {with_shape("[2.0]"), 8, "shape has 2.0"},
           {with_shape("[2e0]"), 8, "shape has 2e0"},
           {with_shape("[true]"), 8, "shape has true"},
           {with_shape("[9223372036854775808]"), 8, "shape has 9223372036854775808"},
           {with_shape("[99999999999999999999999]"), 8, "shape has 99999999999999999999999"},
           {with_shape("[9223372036854775807]"), 8, "has more than 2^64 bits"},
           {with_shape("[4294967296,4294967296,2]"), 8, "has more than 2^64 bits"},
           {with_shape("[4294967296,4294967296,0]"), 8, "has more than 2^64 bits"},
           {with_shape("[3]"), 8, "hold 8 bytes, but shape [3] of F32 takes 12"},
           {with_shape("[]"), 8, "hold 8 bytes, but shape [] of F32 takes 4"},
           {entry(R"("dtype":"F4","shape":[3],"data_offsets":[0,1])"), 1, "does not fill whole bytes"},
           {with_offsets("[0]"), 8, "data_offsets has 1 numbers; it must have 2"},
           {with_offsets("[0,8,8]"), 8, "data_offsets has 3 numbers"},
           {with_offsets("[]"), 8, "data_offsets has 0 numbers"},
           {with_offsets("8"), 8, "data_offsets is 8"},
           {with_offsets("[-8,0]"), 8, "data_offsets has -8"},
           {with_offsets("[0,8.0]"), 8, "data_offsets has 8.0"},
           {with_offsets("[8,0]"), 8, "end before they begin"},
           {with_offsets("[8,16]"), 8, "lie outside the file, which has 8 bytes of data"},
           {with_offsets("[0,9223372036854775807]"), 8, "lie outside the file"},
           {with_offsets("[8,16]"), 16, "leaves a hole of 8 bytes"},
           {with_offsets("[0,8]"), 9, "has 9 bytes of data, but its tensors take 8"},
           {"{}", 1, "has 1 bytes of data, but its tensors take 0"},
           {two("[0,4]", "[0,4]"), 4, "overlap those of another tensor, which end at 4"},
           {two("[0,4]", "[2,6]"), 6, "overlap"},
           {two("[0,4]", "[5,9]"), 9, "tensor \"b\": data_offsets begin at 5, which leaves a hole of 1 bytes"},
           {two("[0,4]", "[4,8]"), 9, "has 9 bytes of data, but its tensors take 8"},
           {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"z":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})", 4, "overlap"},
           {R"({"__metadata__":"x"})", 0, "__metadata__ is a string; it must be an object"},
           {R"({"__metadata__":null})", 0, "__metadata__ is null"},
           {R"({"__metadata__":{"a":1}})", 0, "__metadata__ has 1 under \"a\"; all must be strings"},
           {R"({"__metadata__":{"a":{}}})", 0, "__metadata__ has an object under \"a\""},
           {R"({"__metadata__":{"a":"1","a":"2"}})", 0, "__metadata__ has \"a\" twice"},
           {R"({"__metadata__":{},"__metadata__":{}})", 0, "the name \"__metadata__\" is there twice"},
           {R"({"w":)" + deep, 0, "it must be an object"},
           {R"({"w":{"x":)" + deep, 0, "nested deeper than 16 levels"},
           {R"({"w":{"shape":)" + deep, 0, "shape has an array"},
           {R"({"line\nbreak\u0007":3})", 0, R"(tensor "line\nbreak\u0007" is 3)"},
           {R"({")" + std::string(10'000, 'n') + R"(":3})", 0, "nnn\"... is 3"},
       }) {
    INFO(header.substr(0, 200));
    const std::string found = error_of_header(header, data);
    CHECK_THAT(found, ContainsSubstring(message));
    CHECK_THAT(found, ContainsSubstring("safetensors: test: "));
    CHECK(found.find('\n') == std::string::npos);
    CHECK(found.size() < 400);
  }
}

TEST_CASE("a file cut off anywhere is an error", "[io]") {
  const TemporaryFolder folder;
  save_safetensors(folder / "a.safetensors", {{"w", values({3, 3})}, {"b", values({5}, -1, 1, 2, DType::f32)}}, {{"k", "v"}});
  const std::string whole = read_file(folder / "a.safetensors");
  REQUIRE(parse(whole).names().size() == 2);
  for (size_t n = 0; n < whole.size(); ++n) {
    INFO(n << " of " << whole.size() << " bytes");
    CHECK_THAT(error_of([&] { parse(whole.substr(0, n)); }), ContainsSubstring("safetensors: test: "));
  }
  CHECK_THAT(error_of([&] { parse(whole + "x"); }), ContainsSubstring("bytes of data, but its tensors take"));
  CHECK_THAT(error_of([&] { parse(""); }), ContainsSubstring("0 bytes are too few"));
  const std::string huge("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10), above("\1\xe1\xf5\5\0\0\0\0{}", 10), beyond("\3\0\0\0\0\0\0\0{}", 10);
  CHECK_THAT(error_of([&] { parse(huge); }), ContainsSubstring("a header of 18446744073709551615 bytes is too long; at most 100000000"));
  CHECK_THAT(error_of([&] { parse(above); }), ContainsSubstring("a header of 100000001 bytes is too long"));
  CHECK_THAT(error_of([&] { parse(beyond); }), ContainsSubstring("a header of 3 bytes does not fit into a file of 10"));
}

TEST_CASE("flipping any byte of a header never crashes", "[io]") {
  const TemporaryFolder folder;
  save_safetensors(folder / "a.safetensors", {{"w", values({3, 3})}, {"b", values({5}, -1, 1, 2, DType::f32)}}, {{"k", "v"}});
  const std::string whole = read_file(folder / "a.safetensors");
  int accepted = 0;
  for (size_t i = 0; i < whole.size(); ++i)
    for (const int with : {0x00, 0x01, 0x20, 0x22, 0x2d, 0x30, 0x39, 0x5b, 0x7b, 0x7d, 0xff}) {
      std::string changed = whole;
      changed[i] = char(with);
      try {
        const SafeTensors file = parse(changed);
        for (auto& name : file.names()) file.contains(name) ? (void)file.info(name) : throw Error("lost");
        ++accepted;
      } catch (const Error& e) {
        CHECK_THAT(e.what(), ContainsSubstring("safetensors: test: "));
      }
    }
  CHECK(accepted > 0);  // changed data, names and metadata
}

TEST_CASE("what cannot be opened is an error with the system's reason", "[io]") {
  const TemporaryFolder folder;
  CHECK_THAT(error_of([&] { SafeTensors::open(folder / "none"); }), ContainsSubstring("No such file or directory"));
  CHECK_THAT(error_of([&] { SafeTensors::open(folder.path); }), ContainsSubstring("Is a directory"));
  CHECK_THAT(error_of([&] { SafeTensors::open("/dev/null"); }), ContainsSubstring("not a regular file"));
  std::ofstream(folder / "empty").close();
  CHECK_THAT(error_of([&] { SafeTensors::open(folder / "empty"); }), ContainsSubstring("0 bytes are too few"));
  CHECK_THAT(error_of([&] { read_file(folder / "none"); }), ContainsSubstring("none: No such file or directory"));
  CHECK_THAT(error_of([&] { read_file(folder.path); }), ContainsSubstring("Is a directory"));
  CHECK(read_file(folder / "empty").empty());
  CHECK(read_file("/proc/self/status").size() > 100);
}

TEST_CASE("what cannot be saved is refused before anything is written", "[io]") {
  const TemporaryFolder folder;
  const Tensor w = ones({2});
  const auto saving = [&](const NamedTensors& tensors, const std::map<std::string, std::string>& metadata = {}) {
    return error_of([&] { save_safetensors(folder / "a.safetensors", tensors, metadata); });
  };
  CHECK_THAT(saving({{"w", w}, {"w", w}}), ContainsSubstring("the name \"w\" is there twice"));
  CHECK_THAT(saving({{"__metadata__", w}}), ContainsSubstring("no tensor can be named __metadata__"));
  CHECK_THAT(saving({{"w", {}}}), ContainsSubstring("\"w\" is undefined"));
  CHECK_THAT(saving({{"w", empty({2}, {.device = Device::meta()})}}), ContainsSubstring("on the meta device"));
  CHECK_THAT(saving({{"\xff", w}}), ContainsSubstring("not valid UTF-8"));
  CHECK_THAT(saving({{"w", w}}, {{"k", "\xc3"}}), ContainsSubstring("not valid UTF-8"));
  CHECK(folder.files().empty());
  CHECK_THAT(error_of([&] {
               save_safetensors(folder / "no/such/a.safetensors", {{"w", w}});
             }),
             ContainsSubstring("No such file or directory"));
  CHECK_THAT(error_of([&] { save_safetensors(folder.path, {{"w", w}}); }), ContainsSubstring("Is a directory"));
}

TEST_CASE("a file that replaces another is complete or not there", "[io]") {
  const TemporaryFolder folder;
  write_file_atomically(folder / "a", "old");
  CHECK(read_file(folder / "a") == "old");
  CHECK_THROWS_AS(write_file_atomically(folder / "a",
                                        [](FileWriter& writer) {
                                          writer.write(std::string(5'000'000, 'x'));
                                          throw std::runtime_error("in the middle");
                                        }),
                  std::runtime_error);
  CHECK(read_file(folder / "a") == "old");
  CHECK(folder.files() == std::vector<std::string>{"a"});
  std::string expected;
  write_file_atomically(folder / "a", [&](FileWriter& writer) {
    for (int i = 0; i < 300; ++i) {
      const std::string part(size_t(i * 100), char('a' + i % 26));
      writer.write(part), expected += part;
    }
  });
  CHECK(read_file(folder / "a") == expected);

  // Permissions and links of what is replaced stay.
  REQUIRE(chmod((folder / "a").c_str(), 0640) == 0);
  fs::create_symlink("a", folder / "link");
  write_file_atomically(folder / "link", "new");
  CHECK(fs::is_symlink(folder / "link"));
  CHECK(read_file(folder / "a") == "new");
  CHECK((fs::status(folder / "a").permissions() & fs::perms::all) == fs::perms(0640));
  CHECK(folder.files() == std::vector<std::string>{"a", "link"});
}

TEST_CASE("a full disk is an error, and the old file stays", "[io]") {
  CHECK_THAT(error_of([] { write_file_atomically("/dev/full", "x"); }), ContainsSubstring("/dev/full: No space left on device"));
  CHECK(fs::is_character_file("/dev/full"));
  CHECK_THAT(error_of([] { save_safetensors("/dev/full", {{"w", ones({1 << 20})}}); }), ContainsSubstring("No space left on device"));

  const TemporaryFolder folder;
  save_safetensors(folder / "a.safetensors", {{"w", ones({4})}});
  // A limit on the size of files stands for a disk that fills up in the middle of a tensor.
  const std::string message = error_of([&] {
    const FullDisk full(3'000'000);
    save_safetensors(folder / "a.safetensors", {{"v", ones({500'000})}, {"w", ones({500'000})}});
  });
  CHECK_THAT(message, ContainsSubstring("a.safetensors: File too large"));
  CHECK(folder.files() == std::vector<std::string>{"a.safetensors"});
  CHECK(same_bits(SafeTensors::open(folder / "a.safetensors").tensor("w"), ones({4})));
}

TEST_CASE("a model's and an optimizer's state go through a file", "[io]") {
  const TemporaryFolder folder;
  nn::Linear a(3, 2), b(3, 2);
  AdamW first(a.parameters()), second(b.parameters());
  const auto train = [](nn::Linear& m, AdamW& o) {
    o.zero_grad();
    backward(sum(square(m(ones({1, 3})))));
    o.step();
  };
  train(a, first);
  save_safetensors(folder / "model.safetensors", a.state_dict());
  save_safetensors(folder / "optimizer.safetensors", first.state_dict());
  train(a, first);
  b.load_state_dict(SafeTensors::open(folder / "model.safetensors").tensors());
  second.load_state_dict(SafeTensors::open(folder / "optimizer.safetensors").tensors());
  train(b, second);
  CHECK(same_bits(a.weight.tensor().detach(), b.weight.tensor().detach()));
  CHECK(same_bits(a.bias.tensor().detach(), b.bias.tensor().detach()));
}
