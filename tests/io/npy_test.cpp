// .npy and .npz files, and the zip archives below them: files that NumPy has written (golden/make_golden.py), round trips, hostile files.

#include <filesystem>

#include <retape/io/file.h>
#include <retape/io/zip.h>

#include "../catch.h"
#include "../temporary.h"

using namespace retape;
using namespace retape::testing;
namespace fs = std::filesystem;

namespace {

const fs::path golden = RETAPE_GOLDEN;

std::vector<std::byte> bytes_of(std::string_view text) {
  const auto* p = reinterpret_cast<const std::byte*>(text.data());
  return {p, p + text.size()};
}
Tensor count(const Shape& shape, DType dtype = DType::f32) { return cast(reshape(arange(double(shape.numel())), shape), dtype); }

// A version 1 file with this header and `data` bytes of 1.
std::string npy_with(const std::string& header, size_t data) {
  std::string file("\x93NUMPY\1\0", 8);
  file += char(header.size() & 0xff);
  file += char(header.size() >> 8);
  return file + header + std::string(data, '\1');
}
std::string error_of_npy(const std::string& content) {
  const auto bytes = bytes_of(content);
  return error_of([&] { load_npy(bytes.data(), bytes.size(), {}, "test"); });
}
std::string error_of_header(const std::string& header, size_t data = 0) { return error_of_npy(npy_with(header, data)); }

std::string zip_of(const std::vector<std::pair<std::string, std::string>>& files, bool compress, uint64_t limit = 0xffffffff) {
  const TemporaryFolder folder;
  write_file_atomically(folder / "a.zip", [&](FileWriter& writer) {
    ZipWriter zip(writer, limit);
    for (auto& [name, content] : files)
      zip.add(name, {content.substr(0, content.size() / 2), std::string_view(content).substr(content.size() / 2)}, compress);
    zip.finish();
  });
  return read_file(folder / "a.zip");
}
std::string error_of_zip(const std::string& content) {
  return error_of([&] {
    const auto zip = ZipReader::from_bytes(bytes_of(content), "test");
    for (auto& entry : zip.entries()) zip.read(entry);
  });
}

}  // namespace

TEST_CASE("arrays that NumPy has written are read", "[io][npy]") {
  const std::pair<const char*, DType> dtypes[] = {
      {"f8", DType::f64}, {"f4", DType::f32}, {"f2", DType::f16}, {"i8", DType::i64}, {"i4", DType::i32}};
  for (const auto& [name, dtype] : dtypes) {
    INFO(name);
    CHECK(same_bits(load_npy(golden / (name + std::string(".npy"))), count({2, 3}, dtype)));
    CHECK(same_bits(load_npy(golden / ("big_" + std::string(name) + ".npy")), count({2, 3}, dtype)));
  }
  CHECK(same_bits(load_npy(golden / "u1.npy"), count({2, 3}, DType::u8)));
  CHECK(same_bits(load_npy(golden / "b1.npy"), tensor(std::vector<bool>{false, true, false, true, false, true}, {2, 3})));
  CHECK(same_bits(load_npy(golden / "scalar.npy"), tensor(std::vector<double>{2.5}, {})));
  CHECK(same_bits(load_npy(golden / "empty.npy"), zeros({0, 3})));
  CHECK(same_bits(load_npy(golden / "vector.npy"), count({3})));
  CHECK(same_bits(load_npy(golden / "version2.npy"), count({2, 3})));
  CHECK(same_bits(load_npy(golden / "version3.npy"), count({2, 3})));
}

TEST_CASE("Fortran order becomes strides, and complex numbers a last dim of two", "[io][npy]") {
  const Tensor fortran = load_npy(golden / "fortran.npy");
  CHECK(fortran.strides() == Shape{1, 2, 6});
  CHECK(same_bits(fortran, count({2, 3, 4})));
  CHECK(same_bits(load_npy(golden / "big_fortran.npy"), count({2, 3}, DType::i32)));
  const Tensor c8 = load_npy(golden / "c8.npy"), c16 = load_npy(golden / "fortran_c16.npy");
  CHECK(c8.dtype() == DType::f32);
  CHECK(same_bits(select(c8, 2, 0), count({2, 3})));
  CHECK(same_bits(select(c8, 2, 1), full({2, 3}, 0.5)));
  CHECK(c16.dtype() == DType::f64);
  CHECK(c16.strides() == Shape{2, 4, 1});
  CHECK(same_bits(select(c16, 2, 0), count({2, 3}, DType::f64)));
  CHECK(same_bits(select(c16, 2, 1), full({2, 3}, 0.5, {DType::f64})));
}

TEST_CASE("what is saved is what NumPy saves", "[io][npy]") {
  const TemporaryFolder folder;
  for (const auto& [name, dtype] : {std::pair{"f8.npy", DType::f64}, std::pair{"f4.npy", DType::f32}, std::pair{"f2.npy", DType::f16},
                                    std::pair{"i8.npy", DType::i64}, std::pair{"i4.npy", DType::i32}, std::pair{"u1.npy", DType::u8}}) {
    INFO(name);
    save_npy(folder / name, count({2, 3}, dtype));
    CHECK(read_file(folder / name) == read_file(golden / name));
  }
  save_npy(folder / "a", load_npy(golden / "b1.npy"));
  CHECK(read_file(folder / "a") == read_file(golden / "b1.npy"));
  save_npy(folder / "a", tensor(std::vector<double>{2.5}, {}));
  CHECK(read_file(folder / "a") == read_file(golden / "scalar.npy"));
  save_npy(folder / "a", count({3}));
  CHECK(read_file(folder / "a") == read_file(golden / "vector.npy"));
  save_npy(folder / "a", zeros({0, 3}));
  CHECK(read_file(folder / "a") == read_file(golden / "empty.npy"));
  save_npy(folder / "a", transpose(count({3, 2})));
  CHECK(same_bits(load_npy(folder / "a"), contiguous(transpose(count({3, 2})))));

  CHECK_THAT(error_of([&] { save_npy(folder / "b", zeros({2}, {DType::bf16})); }), ContainsSubstring("NumPy has no bf16; cast it to f32"));
  CHECK_THAT(error_of([&] { save_npy(folder / "b", Tensor{}); }), ContainsSubstring("undefined"));
  CHECK_THAT(error_of([&] { save_npy(folder / "b", zeros({2}, {.device = Device::meta()})); }), ContainsSubstring("meta"));
  CHECK_FALSE(fs::exists(folder / "b"));
}

TEST_CASE("an array is read in place, and writing to it does not change the file", "[io][npy]") {
  const TemporaryFolder folder;
  const Tensor big = values({1000, 100}, -1, 1, 1, DType::f32);
  save_npy(folder / "a.npy", big);
  const int64_t before = memory_stats().live;
  const Tensor w = load_npy(folder / "a.npy");
  CHECK(memory_stats().live == before);
  w.mutable_data<float>()[0] = 7;
  CHECK(same_bits(load_npy(folder / "a.npy"), big));
}

TEST_CASE("malformed arrays are refused", "[io][npy]") {
  const std::string good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n";
  CHECK(error_of_header(good, 24) == "(no error)");
  CHECK(error_of_header("{\"shape\":(2L,3L),\"descr\":\"<f4\",\"fortran_order\":True}", 24) == "(no error)");
  CHECK_THAT(error_of_header(good, 23), ContainsSubstring("takes 24 bytes, but 23 follow the header"));
  CHECK_THAT(error_of_header(good, 25), ContainsSubstring("takes 24 bytes, but 25 follow the header"));
  for (const auto& [header, message] : std::vector<std::pair<const char*, const char*>>{
           {"", "expected '{'"},
           {"{", "expected a key in quotes"},
           {"{}", "lacks one of descr, fortran_order and shape"},
           {"{'descr': '<f4', 'shape': ()}", "lacks one of"},
           {"{'descr' '<f4'}", "expected ':'"},
           {"{'descr: }", "has no end"},
           {"{'descr': 4}", "expected the dtype in quotes"},
           {"{'x': 4}", "\"x\", which is not known"},
           {"{'descr': '<f4', 'descr': '<f4'}", "descr twice"},
           {"{'fortran_order': 1}", "neither True nor False"},
           {"{'shape': 3}", "expected '('"},
           {"{'shape': (-1,)}", "expected a size"},
           {"{'shape': (3", "expected ')'"},
           {"{'shape': (9223372036854775808,)}", "2^63 or more"},
           {"{'descr': '<f4', 'fortran_order': False, 'shape': ()} x", "something follows"},
           {"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': ()}", "structured arrays are not supported"},
           {"{'descr': '', 'fortran_order': False, 'shape': ()}", "dtype \"\" is not supported"},
           {"{'descr': '<', 'fortran_order': False, 'shape': ()}", "dtype \"<\" is not supported"},
           {"{'descr': 'f4', 'fortran_order': False, 'shape': ()}", "dtype \"f4\" is not supported"},
           {"{'descr': '|f4', 'fortran_order': False, 'shape': ()}", "has no byte order"},
           {"{'descr': '<V2', 'fortran_order': False, 'shape': ()}", "dtype \"<V2\" is not supported"},
           {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1)}", "an array of 9 dims"},
           {"{'descr': '<c8', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1)}", "an array of 9 dims"},
           {"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}", "more than 2^63 bytes"},
           {"{'descr': '<f4', 'fortran_order': False, 'shape': (0, 4294967296, 4294967296)}", "more than 2^63 bytes"},
       }) {
    INFO(header);
    CHECK_THAT(error_of_header(header), ContainsSubstring(message));
  }
  CHECK_THAT(error_of_header("{'descr': '|b1', 'fortran_order': False, 'shape': (2,)}", 2), ContainsSubstring("(no error)"));
  std::string boolean = npy_with("{'descr': '|b1', 'fortran_order': False, 'shape': (2,)}", 2);
  boolean.back() = 2;
  CHECK_THAT(error_of_npy(boolean), ContainsSubstring("its bool number 1 is 2"));
  CHECK_THAT(error_of_npy(""), ContainsSubstring("not a .npy file"));
  CHECK_THAT(error_of_npy("\x93NUMPX\1\0\0\0"), ContainsSubstring("not a .npy file"));
  CHECK_THAT(error_of_npy(std::string("\x93NUMPY\4\0\0\0\0\0", 12)), ContainsSubstring("version 4 of the format is not known"));
  CHECK_THAT(error_of_npy(std::string("\x93NUMPY\2\0\0\0", 10)), ContainsSubstring("the header is cut off"));
  CHECK_THAT(error_of_npy(std::string("\x93NUMPY\1\0\5\0{", 11)), ContainsSubstring("a header of 5 bytes does not fit"));
  CHECK_THAT(error_of_npy(std::string("\x93NUMPY\2\0\0\0\0\xff", 12)), ContainsSubstring("is too long"));
  CHECK_THAT(error_of([] { load_npy(golden / "u2.npy"); }), ContainsSubstring("dtype \"<u2\" is not supported"));
  CHECK_THAT(error_of([] { load_npy(golden / "structured.npy"); }), ContainsSubstring("structured"));
  CHECK_THAT(error_of([] { load_npy(golden / "object.npy"); }), ContainsSubstring("dtype \"|O\" is not supported"));
  CHECK_THAT(error_of([] { load_npy(golden / "none.npy"); }), ContainsSubstring("No such file"));
}

TEST_CASE("archives that NumPy has written are read, deflated or not", "[io][npz]") {
  for (const char* name : {"plain.npz", "compressed.npz"}) {
    INFO(name);
    const NamedTensors tensors = load_npz(golden / name);
    REQUIRE(tensors.size() == 3);
    CHECK(tensors[0].first == "a");
    CHECK(same_bits(tensors[0].second, count({2, 3})));
    CHECK(tensors[1].first == "b.c");
    CHECK(same_bits(tensors[1].second, count({3}, DType::i64)));
    CHECK(tensors[2].first == "f");
    CHECK(same_bits(tensors[2].second, count({10, 20}, DType::f64)));
  }
  CHECK_THAT(error_of([] { load_npz(golden / "not_arrays.npz"); }), ContainsSubstring("the entry \"readme.txt\" is no .npy file"));
}

TEST_CASE("named tensors come back from an archive", "[io][npz]") {
  const TemporaryFolder folder;
  const NamedTensors saved = {{"up.weight", values({30, 50})},
                              {"scalar", tensor(std::vector<float>{1.5f}, {})},
                              {"none", zeros({0})},
                              {"folder/\u00e4", count({4}, DType::i64)}};
  for (const bool compress : {false, true}) {
    save_npz(folder / "a.npz", saved, compress);
    const NamedTensors loaded = load_npz(folder / "a.npz");
    REQUIRE(loaded.size() == saved.size());
    for (size_t i = 0; i < saved.size(); ++i) {
      CHECK(loaded[i].first == saved[i].first);
      CHECK(same_bits(loaded[i].second, saved[i].second));
    }
  }
  save_npz(folder / "a.npz", {{"zeros", zeros({100, 100})}}, true);
  CHECK(fs::file_size(folder / "a.npz") < 1000);
  save_npz(folder / "a.npz", {});
  CHECK(load_npz(folder / "a.npz").empty());
  CHECK_THAT(error_of([&] {
               save_npz(folder / "b", {{"x", zeros({1})}, {"x", zeros({1})}});
             }),
             ContainsSubstring("the name \"x\" is there twice"));
  CHECK_THAT(error_of([&] { save_npz(folder / "b", {{"", zeros({1})}}); }), ContainsSubstring("has no name"));
  CHECK_THAT(error_of([&] { save_npz(folder / "b", {{"x", zeros({1}, {DType::bf16})}}); }), ContainsSubstring("\"x\": NumPy has no bf16"));
}

TEST_CASE("zip64 fields are written and read", "[io][zip]") {
  const std::vector<std::pair<std::string, std::string>> files = {{"a", "hello"}, {"b", std::string(100000, 'x')}, {"c", ""}};
  for (const uint64_t limit : {uint64_t{0}, uint64_t{6}, uint64_t{60}, uint64_t{0xffffffff}})
    for (const bool compress : {false, true}) {
      INFO(limit << ' ' << compress);
      const auto zip = ZipReader::from_bytes(bytes_of(zip_of(files, compress, limit)));
      REQUIRE(zip.entries().size() == 3);
      for (auto& [name, content] : files) {
        REQUIRE(zip.find(name));
        CHECK(zip.read(*zip.find(name)).text() == content);
      }
      CHECK_FALSE(zip.find("d"));
    }
}

TEST_CASE("damaged archives are refused", "[io][zip]") {
  const std::string content = "hello, hello, hello, hello, hello";
  for (const bool compress : {false, true}) {
    const std::string good = zip_of({{"name", content}}, compress);
    CHECK(error_of_zip(good) == "(no error)");
    for (size_t n = 0; n < good.size(); ++n) CHECK_THAT(error_of_zip(good.substr(0, n)), ContainsSubstring("zip: test: "));
    // Any byte may be wrong: nothing but an Error comes of it, or the content as it was.
    for (size_t at = 0; at < good.size(); ++at)
      for (const char flip : {1, 8, 64, -1}) {
        std::string bad = good;
        bad[at] = char(bad[at] ^ flip);
        const std::string error = error_of_zip(bad);
        CHECK((error == "(no error)" || error.starts_with("zip: test: ")));
      }
  }
  const auto changed = [&](size_t at, char to, bool compress = false) {
    std::string bad = zip_of({{"name", content}}, compress);
    bad[at] = to;
    return bad;
  };
  const size_t data = 30 + 4, directory = data + content.size(), end = directory + 46 + 4;
  CHECK_THAT(error_of_zip(changed(data, 'H')), ContainsSubstring("entry \"name\": its CRC is"));
  CHECK_THAT(error_of_zip(changed(30, 'N')), ContainsSubstring("its local header has another name"));
  CHECK_THAT(error_of_zip(changed(0, 'Q')), ContainsSubstring("there is no local header at 0"));
  CHECK_THAT(error_of_zip(changed(directory + 8, 1)), ContainsSubstring("it is encrypted"));
  CHECK_THAT(error_of_zip(changed(directory + 10, 12)), ContainsSubstring("compression method 12 is not supported"));
  CHECK_THAT(error_of_zip(changed(directory + 24, 1)), ContainsSubstring("it is stored, but 1 bytes are said to take 33"));
  CHECK_THAT(error_of_zip(changed(directory + 20, 99)), ContainsSubstring("does not lie before the directory"));
  CHECK_THAT(error_of_zip(changed(end + 10, 2)), ContainsSubstring("cannot have 2 entries"));
  CHECK_THAT(error_of_zip(changed(end + 19, 1)), ContainsSubstring("does not lie before its end"));
  CHECK_THAT(error_of_zip(zip_of({{"a", "1"}, {"a", "2"}}, false)), ContainsSubstring("the entry \"a\" is there twice"));
  CHECK_THAT(error_of_zip(""), ContainsSubstring("0 bytes are too few"));
  CHECK_THAT(error_of_zip(std::string(100, 'x')), ContainsSubstring("not a zip archive"));
  // A few bytes that say they become many are refused before memory is taken for them.
  std::string bomb = zip_of({{"name", content}}, true);
  const size_t bomb_directory = bomb.find("PK\1\2");
  bomb[bomb_directory + 27] = 0x7f;
  CHECK_THAT(error_of_zip(bomb), ContainsSubstring("bytes cannot come from"));
}
