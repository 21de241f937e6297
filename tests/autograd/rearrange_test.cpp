// Views and rearrangements: shapes, orders and views as in PyTorch, and what bad input says. Derivatives are checked by op_cases.h.
#include "../catch.h"

using namespace retape;
using namespace retape::testing;

using Ints = std::vector<int64_t>;

namespace {
Ints ints(const Tensor& x) { return x.to_vector<int64_t>(); }
}  // namespace

TEST_CASE("flips, turns and rolls agree with PyTorch", "[rearrange]") {
  const Tensor x = reshape(arange(1, 13), {3, 4});
  CHECK(ints(flip(x, {1})) == Ints{4, 3, 2, 1, 8, 7, 6, 5, 12, 11, 10, 9});
  CHECK(same_bits(flipud(fliplr(x)), flip(x, {-1, 0})));
  CHECK(ints(rot90(x)) == Ints{4, 8, 12, 3, 7, 11, 2, 6, 10, 1, 5, 9});
  CHECK(ints(rot90(x, 3)) == Ints{9, 5, 1, 10, 6, 2, 11, 7, 3, 12, 8, 4});
  CHECK(ints(rot90(x, -2)) == Ints{12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1});
  CHECK(ints(roll(x, {1, -2}, {0, 1})) == Ints{11, 12, 9, 10, 3, 4, 1, 2, 7, 8, 5, 6});
  CHECK(ints(roll(x, 5)) == Ints{8, 9, 10, 11, 12, 1, 2, 3, 4, 5, 6, 7});
  CHECK(roll(zeros({0, 2}), 1, 0).shape() == Shape{0, 2});
  CHECK(flip(zeros({0, 2}), {0}).shape() == Shape{0, 2});
  CHECK_FALSE(rot90(x, 4).shares_storage(x));
  CHECK_THROWS_WITH(flip(x, {0, -2}), ContainsSubstring("flip: dim 0 occurs twice in [0, -2]"));
  CHECK_THROWS_WITH(fliplr(arange(3)), ContainsSubstring("fliplr: a tensor of shape [3] has no dim 1"));
  CHECK_THROWS_WITH(rot90(x, 1, {0, 0}), ContainsSubstring("do not span a plane"));
  CHECK_THROWS_WITH(roll(x, {1, 2}, {0}), ContainsSubstring("2 shifts are given for 1 dims"));
}

TEST_CASE("repetitions agree with PyTorch", "[rearrange]") {
  const Tensor x = reshape(arange(4), {2, 2});
  CHECK(ints(repeat(x, {2, 1, 2})) == Ints{0, 1, 0, 1, 2, 3, 2, 3, 0, 1, 0, 1, 2, 3, 2, 3});
  CHECK(repeat(x, {0, 2}).shape() == Shape{0, 4});
  CHECK(same_bits(tile(x, {2}), repeat(x, {1, 2})));
  CHECK_FALSE(repeat(x, {1, 1}).shares_storage(x));
  CHECK(ints(repeat_interleave(x, 2)) == Ints{0, 0, 1, 1, 2, 2, 3, 3});
  CHECK(ints(repeat_interleave(x, 2, 0)) == Ints{0, 1, 0, 1, 2, 3, 2, 3});
  CHECK(ints(repeat_interleave(arange(3), tensor<int64_t>({2, 0, 3}))) == Ints{0, 0, 2, 2, 2});
  CHECK(ints(repeat_interleave(x, tensor<int32_t>({1, 2}), 1)) == Ints{0, 1, 1, 2, 3, 3});
  CHECK_THROWS_WITH(repeat(x, {2}), ContainsSubstring("gives 1 numbers for the 2 dims"));
  CHECK_THROWS_WITH(repeat_interleave(x, tensor<int64_t>({1, -1}), 0), ContainsSubstring("-1 repeats are not valid"));
  CHECK_THROWS_WITH(repeat_interleave(x, tensor<int64_t>({1, 1, 1}), 0), ContainsSubstring("they must be i64 or i32 of shape [2]"));
}

TEST_CASE("padding agrees with PyTorch in every mode", "[rearrange]") {
  const Tensor x = reshape(arange(1, 13), {3, 4});
  CHECK(ints(pad(x, {2, 1, 1, 2}, PadMode::reflect)) == Ints{7,  6,  5, 6,  7,  8,  7,  3, 2, 1, 2, 3, 4, 3, 7, 6, 5, 6, 7, 8, 7,
                                                             11, 10, 9, 10, 11, 12, 11, 7, 6, 5, 6, 7, 8, 7, 3, 2, 1, 2, 3, 4, 3});
  CHECK(ints(pad(x, {2, 1, 1, 2}, PadMode::circular)) == Ints{11, 12, 9, 10, 11, 12, 9, 3, 4, 1, 2, 3, 4, 1, 7, 8, 5, 6, 7, 8, 5,
                                                              11, 12, 9, 10, 11, 12, 9, 3, 4, 1, 2, 3, 4, 1, 7, 8, 5, 6, 7, 8, 5});
  CHECK(sum(pad(x, {2, 1, 1, 2}, PadMode::replicate)).item() == 292);
  CHECK(ints(pad(x, {-1, 2, 0, 1}, PadMode::constant, 7)) == Ints{2, 3, 4, 7, 7, 6, 7, 8, 7, 7, 10, 11, 12, 7, 7, 7, 7, 7, 7, 7});
  CHECK(ints(pad(x, {-2, -2}, PadMode::constant)) == Ints{});
  CHECK(ints(pad(arange(3), {-1, 1}, PadMode::circular)) == Ints{1, 2, 0});
  CHECK_THROWS_WITH(pad(x, {4, 0}, PadMode::reflect),
                    ContainsSubstring("4 before and 0 after are too many for dim 1 of [3, 4] in this mode; at most 3"));
  CHECK_THROWS_WITH(pad(x, {5, 0}, PadMode::circular), ContainsSubstring("at most 4"));
  CHECK_THROWS_WITH(pad(x, {1}), ContainsSubstring("1 numbers do not fit"));
  CHECK_THROWS_WITH(pad(x, {-3, -2}), ContainsSubstring("take more from dim 1"));
}

TEST_CASE("tensors are joined as in PyTorch", "[rearrange]") {
  const Tensor a = arange(3), b = arange(3, 6);
  CHECK(ints(hstack({a, b})) == Ints{0, 1, 2, 3, 4, 5});
  CHECK(vstack({a, b}).shape() == Shape{2, 3});
  CHECK(dstack({a, b}).shape() == Shape{1, 3, 2});
  CHECK(ints(column_stack({a, b})) == Ints{0, 3, 1, 4, 2, 5});
  CHECK(hstack({zeros({2, 1}), zeros({2, 3})}).shape() == Shape{2, 4});
  CHECK(hstack({full({}, 1), full({}, 2)}).shape() == Shape{2});
  CHECK_THROWS_WITH(hstack({}), ContainsSubstring("no tensors are given"));
}

TEST_CASE("grids, products, choices and classes agree with PyTorch", "[rearrange]") {
  const auto grid = meshgrid({arange(2), arange(3)}, Indexing::xy);
  CHECK(grid[0].shape() == Shape{3, 2});
  CHECK(ints(grid[0]) == Ints{0, 1, 0, 1, 0, 1});
  CHECK(ints(meshgrid({arange(2), arange(3)})[0]) == Ints{0, 0, 0, 1, 1, 1});
  CHECK(ints(cartesian_prod({arange(2), arange(3)})) == Ints{0, 0, 0, 1, 0, 2, 1, 0, 1, 1, 1, 2});
  CHECK(ints(combinations(arange(4), 3)) == Ints{0, 1, 2, 0, 1, 3, 0, 2, 3, 1, 2, 3});
  CHECK(ints(combinations(arange(3), 2, true)) == Ints{0, 0, 0, 1, 0, 2, 1, 1, 1, 2, 2, 2});
  CHECK(combinations(arange(2), 3).shape() == Shape{0, 3});
  CHECK(combinations(arange(2), 0).shape() == Shape{0});
  CHECK(ints(one_hot(tensor<int64_t>({2, 0}))) == Ints{0, 0, 1, 1, 0, 0});
  CHECK(one_hot(zeros({2, 3}, {DType::i64}), 5).shape() == Shape{2, 3, 5});
  CHECK_THROWS_WITH(one_hot(tensor<int64_t>({3}), 3), ContainsSubstring("class 3 is out of range; expected 0 <= class < 3"));
  CHECK_THROWS_WITH(one_hot(tensor<int64_t>({-1, 5})), ContainsSubstring("class -1"));
  CHECK_THROWS_WITH(one_hot(zeros({0}, {DType::i64})), ContainsSubstring("give num_classes"));
}

TEST_CASE("diagonals and triangles agree with PyTorch", "[rearrange]") {
  const Tensor x = reshape(arange(24), {2, 3, 4});
  CHECK(ints(diagonal(x, 1, 0, 2)) == Ints{1, 14, 5, 18, 9, 22});
  CHECK(diagonal(x).shares_storage(x));
  CHECK(diagonal(x, 7).shape() == Shape{4, 0});
  CHECK(ints(diag_embed(reshape(arange(1, 5), {2, 2}), 1, 0, 2)) == Ints{0, 1, 0, 0, 3, 0, 0, 0, 2, 0, 0, 4, 0, 0, 0, 0, 0, 0});
  CHECK(ints(diag(diag(arange(1, 4), -1), -1)) == Ints{1, 2, 3});
  CHECK(ints(diagflat(reshape(arange(1, 5), {2, 2}))) == Ints{1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 3, 0, 0, 0, 0, 4});
  CHECK(ints(tril(ones({2, 3, 3}, {DType::i32}), -1).at({1})) == Ints{0, 0, 0, 1, 0, 0, 1, 1, 0});
  CHECK(ints(triu(reshape(arange(6), {2, 3}), 1)) == Ints{0, 1, 2, 0, 0, 5});
  CHECK(triu(tensor<bool>({true, true, true, true}, {2, 2})).dtype() == DType::boolean);
  CHECK(tril(full({2, 2}, NAN)).to_vector<float>()[1] == 0);
  CHECK(ints(tril_indices(3, 4, 1)) == Ints{0, 0, 1, 1, 1, 2, 2, 2, 2, 0, 1, 0, 1, 2, 0, 1, 2, 3});
  CHECK(ints(triu_indices(4, 3, -1)) == Ints{0, 0, 0, 1, 1, 1, 2, 2, 3, 0, 1, 2, 0, 1, 2, 1, 2, 2});
  CHECK(tril_indices(2, 3, -5).shape() == Shape{2, 0});
  CHECK_THROWS_WITH(diagonal(x, 0, 1, -2), ContainsSubstring("make no matrix"));
  CHECK_THROWS_WITH(tril(arange(3)), ContainsSubstring("is no matrix"));
}

TEST_CASE("windows, moved dims and parts are views", "[rearrange]") {
  const Tensor x = reshape(arange(24), {2, 3, 4}), line = arange(7);
  const Tensor windows = unfold(line, 0, 3, 2);
  CHECK(windows.shares_storage(line));
  CHECK(ints(windows) == Ints{0, 1, 2, 2, 3, 4, 4, 5, 6});
  CHECK(unfold(x, 2, 2, 1).shape() == Shape{2, 3, 3, 2});
  CHECK_THROWS_WITH(unfold(line, 0, 8, 1), ContainsSubstring("windows of 8 elements every 1 do not fit dim 0 of [7]"));
  CHECK(movedim(zeros({2, 3, 4, 5}), {0, 3}, {2, 0}).shape() == Shape{5, 3, 2, 4});
  CHECK(movedim(x, 0, -1).shares_storage(x));
  CHECK(ints(movedim(x, 0, -1).at({0, 0})) == Ints{0, 12});
  CHECK_THROWS_WITH(movedim(x, {0, 0}, {1, 2}), ContainsSubstring("every dim may move once"));
  CHECK(swapaxes(x, 0, 2).shape() == Shape{4, 3, 2});
  CHECK(unflatten(x, -1, {2, -1}).shape() == Shape{2, 3, 2, 2});
  CHECK(unflatten(x, -1, {2, -1}).shares_storage(x));
  CHECK_THROWS_WITH(unflatten(x, 1, {2, 2}), ContainsSubstring("dim 1 of [2, 3, 4] has size 3, which [2, 2] does not make up"));
  const auto thirds = tensor_split(line, 3), cuts = tensor_split(arange(5), std::vector<int64_t>{1, 3, 9});
  CHECK(ints(thirds[0]) == Ints{0, 1, 2});
  CHECK(ints(thirds[2]) == Ints{5, 6});
  CHECK(ints(cuts[2]) == Ints{3, 4});
  CHECK(ints(cuts[3]) == Ints{});
  CHECK(unbind(x, 1).size() == 3);
  CHECK(ints(unbind(x, 1)[2]) == Ints{8, 9, 10, 11, 20, 21, 22, 23});
  CHECK(unbind(x, 1)[2].shares_storage(x));
  CHECK(atleast_3d(arange(2)).shape() == Shape{1, 2, 1});
  CHECK(atleast_3d(zeros({2, 3})).shape() == Shape{2, 3, 1});
  CHECK(atleast_2d(full({}, 1)).shape() == Shape{1, 1});
  CHECK(broadcast_tensors({zeros({2, 1}), zeros({3})})[1].shape() == Shape{2, 3});
  CHECK(expand_as(arange(4), x).shape() == x.shape());
  CHECK(reshape_as(arange(24), x).shape() == x.shape());
}

TEST_CASE("copies between any layouts keep every element", "[rearrange]") {
  // Sizes around the blocks in which transposed copies are made, in every element size; the reference goes element by element.
  for (const Shape& shape : {Shape{3, 70, 67}, Shape{1, 128, 129}, Shape{2, 9, 300}, Shape{65, 8, 8}})
    for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::u8}) {
      const Tensor x = cast(reshape(arange(double(shape.numel())), shape), dtype);
      for (const Shape& order : {Shape{0, 2, 1}, Shape{2, 1, 0}, Shape{1, 2, 0}, Shape{1, 0, 2}, Shape{2, 0, 1}}) {
        INFO(shape.str() << order.str() << name_of(dtype));
        const Tensor view = permute(x, order), y = contiguous(view);
        const auto from = x.to_vector<double>(), to = y.to_vector<double>();
        bool same = true;
        for (int64_t n = 0; n < y.numel(); ++n) {
          int64_t rest = n, at = 0;
          for (int d = 2; d >= 0; rest /= view.shape()[d--]) at += rest % view.shape()[d] * view.strides()[d];
          same = same && to[size_t(n)] == from[size_t(at)];
        }
        CHECK(same);
        const Tensor back = permute(empty(shape, {dtype}), order);  // written through transposed strides
        copy_into(y, back);
        CHECK(same_bits(y, contiguous(back)));
      }
    }
}
