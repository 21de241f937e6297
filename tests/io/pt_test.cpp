// .pt files that PyTorch has written (golden/make_golden.py), and hostile ones.

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

Tensor count(const Shape& shape, DType dtype = DType::f32) { return cast(reshape(arange(double(shape.numel())), shape), dtype); }
Tensor find(const NamedTensors& tensors, const std::string& name) {
  for (auto& [n, t] : tensors)
    if (n == name) return t;
  FAIL("there is no " << name);
  return {};
}

// A .pt file with this pickle and a storage "0" of 16 bytes, the floats 0 1 2 3.
NamedTensors load_pickle(const std::string& program) {
  const TemporaryFile file;
  const Tensor floats = count({4});
  const std::string data(reinterpret_cast<const char*>(floats.data<float>()), 16);
  write_file_atomically(file.path, [&](FileWriter& writer) {
    ZipWriter zip(writer);
    zip.add("archive/data.pkl", {program}, false);
    zip.add("archive/data/0", {data}, false);
    zip.finish();
  });
  const auto bytes = read_file(file.path);
  const auto* p = reinterpret_cast<const std::byte*>(bytes.data());
  return load_pt(ZipReader::from_bytes({p, p + bytes.size()}, "test"));
}
std::string error_of_pickle(const std::string& program) {
  return error_of([&] { load_pickle(program); });
}
std::string text(const std::string& s) { return "\x8c" + std::string(1, char(s.size())) + s; }
std::string number(int64_t n) { return "\x8a\x08" + std::string(reinterpret_cast<const char*>(&n), 8); }
std::string tuple(std::initializer_list<std::string> items) {
  std::string s = "(";
  for (auto& item : items) s += item;
  return s + "t";
}
std::string storage(const std::string& type, const std::string& key, int64_t n) {
  return tuple({text("storage"), "ctorch\n" + type + "\n", text(key), text("cpu"), number(n)}) + "Q";
}
std::string tensor_pickle(const std::string& stored, int64_t offset, std::initializer_list<std::string> size,
                          std::initializer_list<std::string> stride) {
  return "\x80\x02"
         "ctorch._utils\n_rebuild_tensor_v2\n" +
         tuple({stored, number(offset), tuple(size), tuple(stride), "\x89", "N"}) + "R.";
}

}  // namespace

TEST_CASE("a state dict of PyTorch loads into the same module", "[io][pt]") {
  for (const char* name : {"state_dict2.pt", "state_dict4.pt"}) {
    INFO(name);
    const NamedTensors state = load_pt(golden / name);
    REQUIRE(state.size() == 7);
    CHECK(state[0].first == "0.weight");
    CHECK(same_bits(state[0].second, count({2, 3})));
    CHECK(same_bits(find(state, "0.bias"), count({2}) + 10));
    CHECK(same_bits(find(state, "1.weight"), count({2}) + 20));
    CHECK(same_bits(find(state, "1.running_var"), ones({2})));
    CHECK(same_bits(find(state, "1.num_batches_tracked"), tensor(std::vector<int64_t>{0}, {})));
    nn::Linear linear(3, 2);
    linear.load_state_dict({{"weight", find(state, "0.weight")}, {"bias", find(state, "0.bias")}});
    CHECK(linear(ones({1, 3})).to_vector<float>() == std::vector<float>{13, 23});
  }
}

TEST_CASE("nested values give dotted names; strides and shared storages stay", "[io][pt]") {
  const NamedTensors all = load_pt(golden / "nested.pt");
  const Tensor base = find(all, "base"), transposed = find(all, "transposed"), column = find(all, "column");
  CHECK(same_bits(base, count({3, 4})));
  CHECK(same_bits(transposed, transpose(count({3, 4}))));
  CHECK(transposed.strides() == Shape{1, 4});
  CHECK(column.to_vector<float>() == std::vector<float>{1, 5, 9});
  CHECK(column.offset() == 1);
  CHECK(base.shares_storage(transposed));
  CHECK(base.shares_storage(column));
  const DType dtypes[] = {DType::f64, DType::f16, DType::bf16, DType::i64, DType::i32, DType::u8};
  for (int i = 0; i < 6; ++i) CHECK(same_bits(find(all, "dtypes." + std::to_string(i)), count({3}, dtypes[i])));
  CHECK(same_bits(find(all, "mask"), tensor(std::vector<bool>{true, false, true})));
  CHECK(same_bits(find(all, "scalar"), tensor(std::vector<float>{2.5f}, {})));
  CHECK(same_bits(find(all, "empty"), zeros({0, 3})));
  CHECK(same_bits(find(all, "expanded"), full({2, 3}, 3)));
  CHECK(find(all, "expanded").strides() == Shape{0, 0 + find(all, "expanded").strides()[1]});
  CHECK(same_bits(find(all, "state.0.exp_avg"), ones({2})));
  CHECK(same_bits(find(all, "state.1.exp_avg"), zeros({2})));
  CHECK(same_bits(find(all, "parameter"), count({2})));
  CHECK(same_bits(find(all, "ordered.z"), tensor({int64_t{1}})));
  CHECK(same_bits(find(all, "ordered.a"), tensor({int64_t{2}})));
  CHECK(all.size() == 18);
  const NamedTensors lone = load_pt(golden / "tensor.pt");
  REQUIRE(lone.size() == 1);
  CHECK(lone[0].first.empty());
  CHECK(same_bits(lone[0].second, count({4})));
  CHECK(same_bits(load_pt(golden / "complex.pt")[0].second, zeros({2, 2})));
}

TEST_CASE("nothing in a pickle is executed", "[io][pt]") {
  CHECK_THAT(error_of([] { load_pt(golden / "evil.pt"); }),
             ContainsSubstring("the pickle wants \"posix.system\", which this reader does not run"));
  CHECK_THAT(error_of([] { load_pt(golden / "module.pt"); }), ContainsSubstring("\"torch.nn.modules.container.Sequential\""));
  CHECK_THAT(error_of_pickle("\x80\x02"
                             "cbuiltins\neval\n."),
             ContainsSubstring("\"builtins.eval\""));
  CHECK_THAT(error_of_pickle("\x80\x04" + text("os") + text("system") + "\x93."), ContainsSubstring("\"os.system\""));
}

TEST_CASE("files of other kinds are refused", "[io][pt]") {
  CHECK_THAT(error_of([] { load_pt(golden / "int8.pt"); }), ContainsSubstring("is a CharStorage, whose dtype is not supported"));
  CHECK_THAT(error_of([] { load_pt(golden / "legacy.pt"); }), ContainsSubstring("before version 1.6"));
  CHECK_THAT(error_of([] { load_pt(golden / "plain.npz"); }), ContainsSubstring("there is no entry data.pkl"));
  CHECK_THAT(error_of([] { load_pt(golden / "f4.npy"); }), ContainsSubstring("not a zip archive"));
  CHECK_THAT(error_of([] { load_pt(golden / "none.pt"); }), ContainsSubstring("No such file"));
}

TEST_CASE("a tensor that reaches outside its storage is refused", "[io][pt]") {
  const std::string floats = storage("FloatStorage", "0", 4);
  CHECK(same_bits(load_pickle(tensor_pickle(floats, 0, {number(2), number(2)}, {number(2), number(1)}))[0].second, count({2, 2})));
  CHECK(same_bits(load_pickle(tensor_pickle(floats, 1, {number(3)}, {number(1)}))[0].second, count({3}) + 1));
  CHECK_THAT(error_of_pickle(tensor_pickle(floats, 1, {number(4)}, {number(1)})),
             ContainsSubstring("reaches outside its storage \"0\" of 4 elements"));
  CHECK_THAT(error_of_pickle(tensor_pickle(floats, 0, {number(2)}, {number(4)})), ContainsSubstring("reaches outside"));
  CHECK_THAT(error_of_pickle(tensor_pickle(floats, 4, {}, {})), ContainsSubstring("reaches outside"));
  CHECK_THAT(error_of_pickle(tensor_pickle(floats, 5, {number(0)}, {number(1)})), ContainsSubstring("lies outside"));
  CHECK_THAT(error_of_pickle(tensor_pickle(floats, -1, {number(1)}, {number(1)})), ContainsSubstring("negative"));
  CHECK_THAT(error_of_pickle(tensor_pickle(floats, 0, {number(-1)}, {number(1)})), ContainsSubstring("negative"));
  CHECK_THAT(error_of_pickle(tensor_pickle(floats, 0, {number(2)}, {number(-1)})), ContainsSubstring("negative"));
  CHECK_THAT(error_of_pickle(tensor_pickle(floats, 0, {number(INT64_MAX), number(INT64_MAX)}, {number(INT64_MAX), number(1)})),
             ContainsSubstring("more than 2^63 bytes"));
  CHECK_THAT(error_of_pickle(tensor_pickle(floats, 0, {number(INT64_MAX), number(INT64_MAX)}, {number(0), number(0)})),
             ContainsSubstring("more than 2^63 bytes"));
  CHECK_THAT(error_of_pickle(tensor_pickle(floats, 0, {number(1), number(1)}, {number(1)})), ContainsSubstring("do not fit shape"));
  const std::string one = number(1);
  CHECK_THAT(error_of_pickle(tensor_pickle(floats, 0, {one, one, one, one, one, one, one, one, one}, {one})),
             ContainsSubstring("a tensor of 9 dims"));
  CHECK_THAT(error_of_pickle(tensor_pickle(storage("FloatStorage", "0", 5), 0, {one}, {one})),
             ContainsSubstring("too few for 5 elements of f32"));
  CHECK_THAT(error_of_pickle(tensor_pickle(storage("DoubleStorage", "0", 4), 0, {one}, {one})),
             ContainsSubstring("too few for 4 elements of f64"));
  CHECK_THAT(error_of_pickle(tensor_pickle(storage("FloatStorage", "0", -1), 0, {one}, {one})), ContainsSubstring("too few for -1"));
  CHECK_THAT(error_of_pickle(tensor_pickle(storage("FloatStorage", "1", 4), 0, {one}, {one})),
             ContainsSubstring("no entry \"archive/data/1\""));
  CHECK_THAT(error_of_pickle(tensor_pickle(storage("BoolStorage", "0", 4), 0, {one}, {one})),
             ContainsSubstring("is of bool, but its byte"));
}

TEST_CASE("malformed pickles are refused", "[io][pt]") {
  for (const auto& [program, message] : std::vector<std::pair<std::string, const char*>>{
           {"", "1 bytes are missing"},
           {"\x80", "1 bytes are missing"},
           {"\x80\x01", "protocol 1 is not known"},
           {"\x80\x06", "protocol 6 is not known"},
           {".", "the stack is empty"},
           {"(.", "the stack is empty"},
           {"a", "the stack is empty"},
           {"]a", "the stack is empty"},
           {"NNa", "what is appended to is None"},
           {"t", "there is no mark"},
           {"NNs", "the stack is empty"},
           {"N)Ns", "what an item is set in is None"},
           {"}(Nu", "a key without a value"},
           {"}NNs.", "has None as a key"},
           {"}]Ns.", "has a list as a key"},
           {"hA", "there is no value 65 in the memo"},
           {"i", "the instruction 0x69 is none that this reader knows"},
           {"\x8f", "the instruction 0x8f"},
           {"cos", "a line has no end"},
           {"N)R", "what is called is None"},
           {"NNR", "what a function is called with is None"},
           {"NNQ", "a persistent id is None"},
           {")Q", "a persistent id is no storage"},
           {"ctorch\nFloatStorage\n)R", "a storage is made without its data"},
           {"ctorch._utils\n_rebuild_tensor_v2\n)R", "made from 0 values"},
           {"ctorch._utils\n_rebuild_parameter\n)R", "made from 0 values"},
           {"ctorch._utils\n_rebuild_parameter\n(NNNtR", "what a parameter is made from is None"},
           {"ccollections\nOrderedDict\n)R]b", "the state of an object is a list"},
           {"]}b", "an object with a state is a list"},
           {"ccollections\nOrderedDict\n](Nla\x85R", "a dictionary has a key without a value"},
           {"X\xff\xff\xff\xff", "4294967295 bytes are missing"},
           {std::string("\x8d\xff\xff\xff\xff\xff\xff\xff\xff", 9), "bytes are missing"},
           {"]2a.", "nested deeper than 100 levels, or contain themselves"},
       }) {
    INFO(program);
    CHECK_THAT(error_of_pickle(program), ContainsSubstring(message));
  }
  // 2^40 values from 80 instructions
  std::string bomb = "]";
  for (int i = 0; i < 40; ++i) bomb += std::string("q\0]h\0ah\0a", 9);
  CHECK_THAT(error_of_pickle(bomb + "."), ContainsSubstring("more than 1000000 values"));
  CHECK(load_pickle("N.").empty());
  CHECK(load_pickle(std::string("\x80\x02}(X\1\0\0\0aK\1X\1\0\0\0bG\0\0\0\0\0\0\0\0u.", 29)).empty());
}
