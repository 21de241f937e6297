// Memory that is shared with others: from_blob and DLPack.
#include <dlpack/dlpack.h>

#include "../catch.h"

using namespace retape;
using namespace retape::testing;

namespace {

// A DLPack tensor of somebody else, which counts how often it is deleted.
struct Foreign {
  std::vector<float> data = {0, 1, 2, 3, 4, 5};
  std::vector<int64_t> shape = {2, 3}, strides = {3, 1};
  int deleted = 0;
  DLManagedTensor managed{};
  Foreign() {
    managed.dl_tensor.data = data.data();
    managed.dl_tensor.device = {kDLCPU, 0};
    managed.dl_tensor.ndim = 2;
    managed.dl_tensor.dtype = {kDLFloat, 32, 1};
    managed.dl_tensor.shape = shape.data();
    managed.dl_tensor.strides = strides.data();
    managed.manager_ctx = this;
    managed.deleter = [](DLManagedTensor* self) { ++static_cast<Foreign*>(self->manager_ctx)->deleted; };
  }
};
Tensor counted() { return reshape(arange(0, 6, 1, {DType::f32}), {2, 3}); }

}  // namespace

TEST_CASE("a tensor over given memory reads and writes it, and gives it back once", "[core][from_blob]") {
  std::vector<float> memory = {0, 1, 2, 3, 4, 5};
  int deleted = 0;
  void* given = nullptr;
  {
    Tensor view;
    {
      const Tensor t = from_blob(memory.data(), {2, 3}, {}, [&](void* p) { ++deleted, given = p; });
      CHECK(same_bits(t, counted()));
      t.mutable_data<float>()[5] = 7;
      view = select(t, 0, 1);
    }
    CHECK(deleted == 0);
    CHECK(view.to_vector<float>() == std::vector<float>{3, 4, 7});
  }
  CHECK(deleted == 1);
  CHECK(given == memory.data());
  CHECK(memory[5] == 7);
  CHECK(same_bits(from_blob(memory.data(), {3, 2}, Shape{1, 3}), contiguous(transpose(from_blob(memory.data(), {2, 3})))));
  CHECK(from_blob(memory.data(), {4}, Shape{0}).to_vector<float>() == std::vector<float>{0, 0, 0, 0});
  from_blob(nullptr, {0, 3}, {}, [&](void*) { ++deleted; });
  CHECK(deleted == 2);
}

TEST_CASE("from_blob refuses what no tensor can be", "[core][from_blob]") {
  float memory[4] = {};
  int deleted = 0;
  const auto count = [&](void*) { ++deleted; };
  CHECK_THAT(error_of([&] { from_blob(nullptr, {2}, {}, count); }), ContainsSubstring("the memory is null, but shape [2] has elements"));
  CHECK_THAT(error_of([&] { from_blob(memory, {-1}, {}, count); }), ContainsSubstring("size -1 in shape [-1] is negative"));
  CHECK_THAT(error_of([&] { from_blob(memory, {2}, Shape{-1}, {}, count); }), ContainsSubstring("stride -1"));
  CHECK_THAT(error_of([&] { from_blob(memory, {2, 2}, Shape{1}, {}, count); }), ContainsSubstring("strides [1] do not fit shape [2, 2]"));
  CHECK_THAT(error_of([&] { from_blob(reinterpret_cast<char*>(memory) + 2, {1}, {}, count); }),
             ContainsSubstring("is not aligned for f32"));
  CHECK_THAT(error_of([&] { from_blob(memory, {2}, {.device = Device::meta()}, count); }), ContainsSubstring("only memory of the CPU"));
  CHECK_THAT(error_of([&] { from_blob(memory, {3, 2}, Shape{INT64_MAX, 1}, {}, count); }), ContainsSubstring("reaches over 2^63 bytes"));
  CHECK_THAT(error_of([&] {
               from_blob(memory, {INT64_MAX, INT64_MAX}, Shape{0, 0}, {}, count);
             }),
             ContainsSubstring("has more than 2^63 bytes"));
  CHECK(deleted == 0);
}

TEST_CASE("DLPack describes a tensor, and its deleter frees the memory", "[io][dlpack]") {
  struct Row {
    DType dtype;
    int code, bits;
  };
  for (const auto& [dtype, code, bits] :
       {Row{DType::f64, kDLFloat, 64}, Row{DType::f32, kDLFloat, 32}, Row{DType::f16, kDLFloat, 16}, Row{DType::bf16, kDLBfloat, 16},
        Row{DType::i64, kDLInt, 64}, Row{DType::i32, kDLInt, 32}, Row{DType::u8, kDLUInt, 8}, Row{DType::boolean, 6, 8}}) {
    INFO(name_of(dtype));
    const Tensor x = ones({2, 2}, {dtype});
    DLManagedTensor* managed = to_dlpack(x);
    CHECK(int(managed->dl_tensor.dtype.code) == code);
    CHECK(int(managed->dl_tensor.dtype.bits) == bits);
    CHECK(int(managed->dl_tensor.dtype.lanes) == 1);
    const Tensor y = from_dlpack(managed);
    CHECK(same_bits(x, y));
    CHECK(x->storage->data == y->storage->data);
  }
  const int64_t before = memory_stats().live;
  DLManagedTensor* managed = to_dlpack(slice(transpose(zeros({100, 10})), 0, 2, 10, 3));
  const DLTensor& t = managed->dl_tensor;
  CHECK(memory_stats().live > before);
  CHECK(t.ndim == 2);
  CHECK(std::vector<int64_t>(t.shape, t.shape + 2) == std::vector<int64_t>{3, 100});
  CHECK(std::vector<int64_t>(t.strides, t.strides + 2) == std::vector<int64_t>{3, 10});
  CHECK(t.byte_offset == 8);
  CHECK(t.device.device_type == kDLCPU);
  managed->deleter(managed);
  CHECK(memory_stats().live == before);

  CHECK_THAT(error_of([] { to_dlpack(Tensor{}); }), ContainsSubstring("undefined"));
  CHECK_THAT(error_of([] { to_dlpack(zeros({2}, {.device = Device::meta()})); }), ContainsSubstring("is not on the CPU"));
  CHECK_THAT(error_of([] { to_dlpack(leaf({2})); }), ContainsSubstring("use detach()"));
}

TEST_CASE("a DLPack tensor of others is read in place and deleted once", "[io][dlpack]") {
  Foreign foreign;
  {
    const Tensor t = from_dlpack(&foreign.managed);
    CHECK(same_bits(t, counted()));
    CHECK(static_cast<const void*>(t.data<float>()) == foreign.data.data());
    const Tensor other = t;
  }
  CHECK(foreign.deleted == 1);
  foreign.managed.dl_tensor.strides = nullptr;  // means row-major
  foreign.managed.dl_tensor.byte_offset = 4;
  foreign.shape = {1, 5};
  CHECK(from_dlpack(&foreign.managed).to_vector<float>() == std::vector<float>{1, 2, 3, 4, 5});
  CHECK(foreign.deleted == 2);
  foreign.managed.deleter = nullptr;
  CHECK(from_dlpack(&foreign.managed).numel() == 5);
}

TEST_CASE("a DLPack tensor that cannot be read stays the caller's", "[io][dlpack]") {
  Foreign foreign;
  DLTensor& t = foreign.managed.dl_tensor;
  const auto error = [&] { return error_of([&] { from_dlpack(&foreign.managed); }); };
  CHECK_THAT(error_of([] { from_dlpack(nullptr); }), ContainsSubstring("the tensor is null"));
  t.dtype = {kDLInt, 8, 1};
  CHECK_THAT(error(), ContainsSubstring("dtype code 0 of 8 bits and 1 lanes is not supported"));
  t.dtype = {kDLFloat, 32, 4};
  CHECK_THAT(error(), ContainsSubstring("4 lanes"));
  t.dtype = {kDLFloat, 32, 1};
  t.device = {kDLCUDA, 0};
  CHECK_THAT(error(), ContainsSubstring("device type 2 is not supported"));
  t.device = {kDLCPU, 0};
  t.ndim = 9;
  CHECK_THAT(error(), ContainsSubstring("9 dims are not supported"));
  t.ndim = -1;
  CHECK_THAT(error(), ContainsSubstring("-1 dims"));
  t.ndim = 2;
  t.shape = nullptr;
  CHECK_THAT(error(), ContainsSubstring("the shape of 2 dims is null"));
  t.shape = foreign.shape.data();
  foreign.strides = {-3, 1};
  CHECK_THAT(error(), ContainsSubstring("stride -3"));
  t.data = nullptr;
  foreign.strides = {3, 1};
  CHECK_THAT(error(), ContainsSubstring("the memory is null"));
  CHECK(foreign.deleted == 0);
}
