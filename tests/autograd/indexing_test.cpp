// Indexing: x.at({...}) and x.put({...}) against NumPy, and the family of ops that read and write at indices. What
// op_cases.h can express stands there.
#include <omp.h>

#include "../op_cases.h"

using namespace retape;
using namespace retape::testing;

using Ints = std::vector<int64_t>;
using Floats = std::vector<double>;

namespace {

// The sum of (1 + position) * value: another order gives another number.
int64_t weighted(const Tensor& x) {
  const auto v = x.to_vector<int64_t>();
  int64_t sum = 0;
  for (size_t i = 0; i < v.size(); ++i) sum += int64_t(i + 1) * v[i];
  return sum;
}

// x = arange(120) of shape [2, 3, 4, 5]. The numbers are NumPy's: the shape and weighted sum of x[...], and the weighted sums of x
// after x[...] = v and after np.add.at(x, ..., v), where v counts 1000, 1007, 1014, ...
struct Golden {
  const char* text;
  std::vector<Index> indices;
  Shape shape;
  int64_t read, replaced, added;
};
std::vector<Golden> goldens() {
  const Tensor i = tensor<int64_t>({1, 0, -1}), i2 = tensor<int64_t>({1, 0}), i1 = tensor<int64_t>({1}),
               j = tensor<int64_t>({0, 1}, {2, 1});
  const Tensor k = tensor<int32_t>({0, 3, 3, -2}), one = tensor<int64_t>({1}, {}), none = zeros({0}, {DType::i64});
  const Tensor m = tensor<bool>({true, false, true}), m5 = tensor<uint8_t>({0, 1, 1, 0, 1}), no = tensor<bool>({false, false});
  const Tensor m34 = tensor<bool>({true, true, false, false, false, true, true, false, false, false, true, true}, {3, 4});
  const Tensor m23 = tensor<bool>({true, false, true, false, true, false}, {2, 3});
  std::vector<bool> threes;
  for (int n = 0; n < 120; ++n) threes.push_back(n % 7 == 3);
  const Tensor all4 = tensor<bool>(threes, {2, 3, 4, 5});
  // clang-format off
  return {
      {"x[1]", {1}, {3, 4, 5}, 181780, 6749240, 7253220},
      {"x[-1, 2]", {-1, 2}, {4, 5}, 23660, 2694920, 2937580},
      {"x[1, 2, 3, 4]", {1, 2, 3, 4}, {}, 119, 681680, 695960},
      {"x[...]", {Ellipsis}, {2, 3, 4, 5}, 575960, 11291720, 11867680},
      {"x[..., 0]", {Ellipsis, 0}, {2, 3, 4}, 23000, 2023752, 2133232},
      {"x[0, ..., 1]", {0, Ellipsis, 1}, {3, 4}, 2938, 934930, 948594},
      {"x[:, 1:]", {Slice(), Slice(1)}, {2, 2, 4, 5}, 283840, 7711400, 8186040},
      {"x[:, :, 1:4:2]", {Slice(), Slice(), Slice(1, 4, 2)}, {2, 3, 2, 5}, 149330, 5081640, 5387620},
      {"x[..., ::-1]", {Ellipsis, Slice(None, None, -1)}, {2, 3, 4, 5}, 575480, 11288360, 11864320},
      {"x[:, ::-1, 3:0:-2]", {Slice(), Slice(None, None, -1), Slice(3, 0, -2)}, {2, 3, 2, 5}, 131830, 4959140, 5265120},
      {"x[1, :, ::-2, -1]", {1, Slice(), Slice(None, None, -2), -1}, {3, 2}, 2119, 1101620, 1156950},
      {"x[:, 5:, 0]", {Slice(), Slice(5), 0}, {2, 0, 5}, 0, 575960, 575960},
      {"x[:, :, 10:-10:-1]", {Slice(), Slice(), Slice(10, -10, -1)}, {2, 3, 4, 5}, 568460, 11239220, 11815180},
      {"x[:, 2:1]", {Slice(), Slice(2, 1)}, {2, 0, 4, 5}, 0, 575960, 575960},
      {"x[:, -100:100]", {Slice(), Slice(-100, 100)}, {2, 3, 4, 5}, 575960, 11291720, 11867680},
      {"x[None]", {None}, {1, 2, 3, 4, 5}, 575960, 11291720, 11867680},
      {"x[..., None]", {Ellipsis, None}, {2, 3, 4, 5, 1}, 575960, 11291720, 11867680},
      {"x[:, None, 1, None]", {Slice(), None, 1, None}, {2, 1, 1, 4, 5}, 62120, 3238280, 3419600},
      {"x[None, ..., ::2, None, 3]", {None, Ellipsis, Slice(None, None, 2), None, 3}, {1, 2, 3, 2, 1}, 5954, 1265864, 1321228},
      {"x[:, i]", {Slice(), i}, {2, 3, 4, 5}, 559960, 11179720, 11755680},
      {"x[:, :, k]", {Slice(), Slice(), k}, {2, 3, 4, 5}, 592610, 8741030, 12282130},
      {"x[one]", {one}, {3, 4, 5}, 181780, 6749240, 7253220},
      {"x[:, one, 1:]", {Slice(), one, Slice(1)}, {2, 3, 5}, 36140, 2564225, 2708965},
      {"x[none]", {none}, {0, 3, 4, 5}, 0, 575960, 575960},
      {"x[:, none, ..., 0]", {Slice(), none, Ellipsis, 0}, {0, 2, 4}, 0, 575960, 575960},
      {"x[j]", {j}, {2, 1, 3, 4, 5}, 575960, 11291720, 11867680},
      {"x[:, j, i]", {Slice(), j, i}, {2, 2, 3, 5}, 121680, 4192190, 4399670},
      {"x[:, i, :, i]", {Slice(), i, Slice(), i}, {3, 2, 4}, 20812, 2042100, 2157636},
      {"x[1, :, k]", {1, Slice(), k}, {4, 3, 5}, 175855, 5271995, 7360695},
      {"x[1, i, :, 0]", {1, i, Slice(), 0}, {3, 4}, 7220, 1585112, 1681612},
      {"x[:, 1, k]", {Slice(), 1, k}, {2, 4, 5}, 63670, 2608450, 3529750},
      {"x[:, i, 2]", {Slice(), i, 2}, {2, 3, 5}, 36640, 2560225, 2712465},
      {"x[..., i, 2]", {Ellipsis, i, 2}, {2, 3, 3}, 13242, 1651625, 1736333},
      {"x[0, ..., i]", {0, Ellipsis, i}, {3, 3, 4}, 22002, 1770530, 1813034},
      {"x[i[:2], :, j]", {i2, Slice(), j}, {2, 2, 3, 5}, 92605, 4291715, 4543695},
      {"x[:, i, None, i]", {Slice(), i, None, i}, {3, 2, 1, 5}, 32590, 2437575, 2584815},
      {"x[None, :, i, i]", {None, Slice(), i, i}, {1, 2, 3, 5}, 35590, 2458575, 2605815},
      {"x[:, i, i, None]", {Slice(), i, i, None}, {2, 3, 1, 5}, 35590, 2458575, 2605815},
      {"x[1:, i, ::2, i]", {Slice(1), i, Slice(None, None, 2), i}, {3, 1, 2}, 1927, 1064240, 1111914},
      {"x[:, i, ::-1, 1:3]", {Slice(), i, Slice(None, None, -1), Slice(1, 3)}, {2, 3, 4, 2}, 88636, 3837052, 4064484},
      {"x[..., ::-1, k]", {Ellipsis, Slice(None, None, -1), k}, {2, 3, 4, 4}, 365504, 4491988, 8958256},
      {"x[m23]", {m23}, {3, 4, 5}, 124580, 4253640, 4469620},
      {"x[m23, 1]", {m23, 1}, {3, 5}, 7670, 1295580, 1345450},
      {"x[:, m]", {Slice(), m}, {2, 2, 4, 5}, 259440, 6826200, 7220840},
      {"x[:, m34]", {Slice(), m34}, {2, 6, 5}, 146380, 4922540, 5218020},
      {"x[0, m34]", {0, m34}, {6, 5}, 18965, 1580825, 1620565},
      {"x[1, m34, ::-2]", {1, m34, Slice(None, None, -2)}, {6, 3}, 17148, 2161334, 2314790},
      {"x[:, m, :, 1]", {Slice(), m, Slice(), 1}, {2, 2, 4}, 10296, 1517328, 1594320},
      {"x[..., m5]", {Ellipsis, m5}, {2, 3, 4, 3}, 209064, 6058712, 6407144},
      {"x[:, m, i[:2]]", {Slice(), m, i2}, {2, 2, 5}, 15360, 1702520, 1787180},
      {"x[:, m, :, i[:2]]", {Slice(), m, Slice(), i2}, {2, 2, 4}, 10196, 1509940, 1585676},
      {"x[m23, None, :, 2]", {m23, None, Slice(), 2}, {3, 1, 4}, 5216, 1171604, 1214776},
      {"x[all4]", {all4}, {17}, 11883, 1592900, 1673072},
      {"x[no]", {no}, {0, 3, 4, 5}, 0, 575960, 575960},
      {"x[no, 0]", {no, 0}, {0, 4, 5}, 0, 575960, 575960},
      {"x[:, m34, 1:]", {Slice(), m34, Slice(1)}, {2, 6, 4}, 94540, 3914236, 4153476},
      {"x[True]", {true}, {1, 2, 3, 4, 5}, 575960, 11291720, 11867680},
      {"x[False]", {false}, {0, 2, 3, 4, 5}, 0, 575960, 575960},
      {"x[:, True, 1]", {Slice(), true, 1}, {2, 1, 4, 5}, 62120, 3238280, 3419600},
      {"x[True, i[:1]]", {true, i1}, {1, 3, 4, 5}, 181780, 6749240, 7253220},
  };
  // clang-format on
}

}  // namespace

TEST_CASE("x.at() and x.put() give NumPy's shapes and values", "[indexing]") {
  const Tensor x = reshape(arange(120), {2, 3, 4, 5});
  int count = 0;
  for (auto& g : goldens()) {
    INFO(g.text);
    const Tensor y = x.at(g.indices);
    REQUIRE(y.shape() == g.shape);
    CHECK(weighted(y) == g.read);
    const Tensor v = reshape(arange(1000, double(1000 + 7 * g.shape.numel()), 7), g.shape);
    Tensor replaced = x, added = x;
    replaced.put(g.indices, v);
    added.put(g.indices, v, true);
    CHECK(weighted(replaced) == g.replaced);
    CHECK(weighted(added) == g.added);
    CHECK(same_bits(index_put(x, g.indices, v), replaced));
    ++count;
  }
  CHECK(count >= 40);
  CHECK(same_bits(x, reshape(arange(120), {2, 3, 4, 5})));  // a put writes into no other handle
}

TEST_CASE("the gradient of x.at() adds up, that of x.put() goes where the values stayed", "[indexing]") {
  const Tensor x = leaf({2, 3, 4, 5});
  for (auto& g : goldens()) {
    INFO(g.text);
    const Tensor w = values(g.shape, -1, 1, 3), v = leaf(g.shape, -1, 1, 4);
    if (w.numel() == 0) continue;
    const Tensor dx = grad({sum(x.at(g.indices) * w)}, {x})[0];
    CHECK(difference(dx, index_put(zeros_like(x), g.indices, w, true), DType::f64) <= 1);
    // y = put(x, v) is linear: the directional derivative along (x, v) is y itself.
    const Tensor y = index_put(x, g.indices, v), weights = values(x.shape(), -1, 1, 5);
    const auto d = grad({sum(y * weights)}, {x, v});
    CHECK(sum(d[0] * x).item() + sum(d[1] * v).item() == Approx(sum(y * weights).item()).margin(1e-9));
    CHECK(difference(d[0], index_put(weights, g.indices, zeros(g.shape, w.options())), DType::f64) <= 1);
  }
}

TEST_CASE("at() is a view where no tensor is among the indices and no step is negative", "[indexing]") {
  const Tensor x = reshape(arange(24), {2, 3, 4});
  CHECK(x.at({1, Slice(0, 2), Ellipsis, None}).shares_storage(x));
  CHECK(x.at({Ellipsis, Slice(None, None, 2)}).shares_storage(x));
  CHECK(x.at({}).shares_storage(x));
  CHECK_FALSE(x.at({Slice(None, None, -1)}).shares_storage(x));
  CHECK_FALSE(x.at({tensor<int64_t>({0, 1})}).shares_storage(x));
  CHECK(transpose(x, 0, 2).at({Slice(), tensor<int64_t>({2, 0}), 1}).to_vector<int64_t>() == Ints{20, 12, 21, 13, 22, 14, 23, 15});
}

TEST_CASE("put() rebinds the handle, converts, broadcasts and takes numbers", "[indexing]") {
  Tensor x = zeros({2, 3});
  const Tensor before = x;
  x.put({Slice(), 1}, 2.5).put({0, Slice(1)}, tensor<int64_t>({7, 8}));
  CHECK(x.to_vector<float>() == std::vector<float>{0, 7, 8, 0, 2.5f, 0});
  CHECK(before.to_vector<float>() == std::vector<float>(6, 0));
  x.put({gt(x, 3)}, -1);
  CHECK(x.to_vector<float>() == std::vector<float>{0, -1, -1, 0, 2.5f, 0});
  x.put({tensor<int64_t>({1, 1, 1}), 0}, 1, true);
  CHECK(x.to_vector<float>()[3] == 3);
  x.put({0}, ones({1, 1, 3}));  // as NumPy, leading dims of size 1 are too many for nobody
  CHECK(x.to_vector<float>() == std::vector<float>{1, 1, 1, 3, 2.5f, 0});
  x.put({tensor<int64_t>({0, 0}), 1}, tensor<float>({5, 6}));
  CHECK(x.to_vector<float>()[1] == 6);  // the last value stays
  Tensor u = tensor<uint8_t>({1, 2, 3});
  u.put({Slice(None, None, -2)}, tensor<int64_t>({9, 8}));
  CHECK(u.to_vector<int64_t>() == Ints{8, 2, 9});
}

TEST_CASE("a bad index says which dim and size it missed", "[indexing]") {
  const Tensor x = zeros({2, 3});
  Tensor y = x;
  CHECK_THROWS_WITH(x.at({2}), ContainsSubstring("index: 2 is out of range for dim 0 of [2, 3]; expected -2 <= index < 2"));
  CHECK_THROWS_WITH(x.at({Slice(), tensor<int64_t>({0, -4})}), "index: -4 is out of range for dim 1 of size 3; expected -3 <= index < 3");
  CHECK_THROWS_WITH(x.at({None, 0, tensor<int32_t>({3})}), "index: 3 is out of range for dim 1 of size 3; expected -3 <= index < 3");
  CHECK_THROWS_WITH(x.at({0, 0, 0}), ContainsSubstring("3 dims are indexed, but a tensor of shape [2, 3] has 2"));
  CHECK_THROWS_WITH(x.at({Ellipsis, Ellipsis}), ContainsSubstring("2 Ellipsis are given"));
  CHECK_THROWS_WITH(x.at({Slice(0, 1, 0)}), ContainsSubstring("step 0"));
  CHECK_THROWS_WITH(x.at({tensor<bool>({true, false, true})}), ContainsSubstring("size 3 at dim 0 of the mask is 2 at dim 0"));
  CHECK_THROWS_WITH(x.at({ones({2})}), ContainsSubstring("an index tensor has dtype f32"));
  CHECK_THROWS_WITH(x.at({tensor<int64_t>({0, 1}), tensor<int64_t>({0, 1, 2})}), ContainsSubstring("index: cannot broadcast [2] with [3]"));
  CHECK_THROWS_WITH(x.at({Tensor()}), ContainsSubstring("undefined"));
  CHECK_THROWS_WITH(Tensor().at({0}), ContainsSubstring("the tensor is undefined"));
  CHECK_THROWS_WITH(y.put({0}, ones({2})),
                    ContainsSubstring("a value of shape [2] does not broadcast to the indexed elements of shape [3]"));
  CHECK_THROWS_WITH(y.put({5}, 1), ContainsSubstring("index: 5 is out of range"));
  const Tensor meta = empty({2, 3}, {.device = Device::meta()});
  CHECK_THROWS_WITH(meta.at({tensor<int64_t>({0})}), ContainsSubstring("different devices"));
  CHECK_THROWS_WITH(meta.at({empty({2}, {DType::boolean, Device::meta()})}), ContainsSubstring("has no values"));
  CHECK(meta.at({1, empty({4}, {DType::i64, Device::meta()})}).shape() == Shape{4});
}

TEST_CASE("second derivatives go through at() and put()", "[indexing]") {
  const Tensor i = tensor<int64_t>({1, 0, 1, -1}), mask = tensor<bool>({true, false, true});
  const auto f = [&](const std::vector<Tensor>& x) {
    Tensor y = x[0];
    y.put({Slice(), i, Slice(None, None, -1)}, square(x[1]), true).put({0, mask}, x[1].at({0, Slice(0, 2)}) * x[0].at({1, mask}));
    return square(y.at({Ellipsis, i, Slice(1)})) * y.at({None, -1, 0, 0});
  };
  const auto result = gradgradcheck(f, {leaf({2, 3, 2}), leaf({2, 4, 2}, -1, 1, 2)});
  INFO(result.report);
  CHECK(result.passed);
}

TEST_CASE("reading and adding at indices do not depend on the number of threads", "[indexing]") {
  const Tensor x = values({300, 200}, -1, 1, 1, DType::f32), mask = gt(x, 0.3), i = randint(-300, 300, {5000}), j = randint(0, 200, {5000});
  const Tensor v = values({5000}, -1, 1, 2, DType::f32);
  const auto run = [&](int threads) {
    omp_set_num_threads(threads);
    return std::vector<Tensor>{x.at({mask}),
                               index_put(x, {i, j}, v, true),
                               index_put(x, {i, j}, v),
                               nonzero(mask),
                               x.at({i, Slice(0, 7)}),
                               transpose(x).at({Slice(None, None, -1)}),
                               contiguous(transpose(x))};
  };
  const int before = omp_get_max_threads();
  const auto one = run(1);
  for (int threads : {2, 5}) {
    const auto many = run(threads);
    for (size_t k = 0; k < one.size(); ++k) CHECK(same_bits(one[k], many[k]));
  }
  omp_set_num_threads(before);
}

// ---- along a dim; numbers are PyTorch's -------------------------------------------------------------------------------

TEST_CASE("scatter_reduce and index_reduce agree with PyTorch", "[indexing]") {
  const Tensor index = tensor<int64_t>({0, 2, 1, 0, 0, 0, 2, 2}, {2, 4}), rows = tensor<int64_t>({2, 0, 2});
  const Tensor source = tensor<double>({10, -20, 30, 40, 50, 60, -70, 80}, {2, 4}), lines = tensor<double>({1, 2, 3, -4, 5, 6}, {3, 2});
  struct Row {
    ReduceMode mode;
    bool include_self;
    Floats scattered, integers, by_rows;
  };
  // clang-format off
  for (const Row& r : {
           Row{ReduceMode::sum, true, {61, 62, 3, 44, 5, 6, 37, 8, 9, -10, -59, 92}, {61, 62, 3, 44, 5, 6, 37, 8, 9, -10, -59, 92}, {5, -1, 4, 5, 12, 15}},
           Row{ReduceMode::sum, false, {60, 60, 3, 40, 5, 6, 30, 8, 9, -20, -70, 80}, {60, 60, 3, 40, 5, 6, 30, 8, 9, -20, -70, 80}, {3, -4, 4, 5, 6, 8}},
           Row{ReduceMode::prod, true, {500, 120, 3, 160, 5, 6, 210, 8, 9, -200, -770, 960}, {500, 120, 3, 160, 5, 6, 210, 8, 9, -200, -770, 960}, {6, -12, 4, 5, 30, 84}},
           Row{ReduceMode::prod, false, {500, 60, 3, 40, 5, 6, 30, 8, 9, -20, -70, 80}, {500, 60, 3, 40, 5, 6, 30, 8, 9, -20, -70, 80}, {3, -4, 4, 5, 5, 12}},
           Row{ReduceMode::mean, true, {61. / 3, 31, 3, 22, 5, 6, 18.5, 8, 9, -5, -29.5, 46}, {20, 31, 3, 22, 5, 6, 18, 8, 9, -5, -30, 46}, {2.5, -0.5, 4, 5, 4, 5}},
           Row{ReduceMode::mean, false, {30, 60, 3, 40, 5, 6, 30, 8, 9, -20, -70, 80}, {30, 60, 3, 40, 5, 6, 30, 8, 9, -20, -70, 80}, {3, -4, 4, 5, 3, 4}},
           Row{ReduceMode::amax, true, {50, 60, 3, 40, 5, 6, 30, 8, 9, 10, 11, 80}, {50, 60, 3, 40, 5, 6, 30, 8, 9, 10, 11, 80}, {3, 3, 4, 5, 6, 7}},
           Row{ReduceMode::amax, false, {50, 60, 3, 40, 5, 6, 30, 8, 9, -20, -70, 80}, {50, 60, 3, 40, 5, 6, 30, 8, 9, -20, -70, 80}, {3, -4, 4, 5, 5, 6}},
           Row{ReduceMode::amin, true, {1, 2, 3, 4, 5, 6, 7, 8, 9, -20, -70, 12}, {1, 2, 3, 4, 5, 6, 7, 8, 9, -20, -70, 12}, {2, -4, 4, 5, 1, 2}},
           Row{ReduceMode::amin, false, {10, 60, 3, 40, 5, 6, 30, 8, 9, -20, -70, 80}, {10, 60, 3, 40, 5, 6, 30, 8, 9, -20, -70, 80}, {3, -4, 4, 5, 1, 2}}}) {
    // clang-format on
    INFO(int(r.mode) << " " << r.include_self);
    const Tensor x = reshape(arange(1, 13, 1, {DType::f64}), {3, 4});
    CHECK(difference(scatter_reduce(x, 0, index, source, r.mode, r.include_self), tensor(r.scattered, {3, 4}), DType::f64) <= 1);
    for (DType dtype : {DType::i64, DType::i32})
      CHECK(scatter_reduce(cast(x, dtype), 0, index, source, r.mode, r.include_self).to_vector<double>() == r.integers);
    CHECK(index_reduce(tensor<double>({2, 3, 4, 5, 6, 7}, {3, 2}), 0, rows, lines, r.mode, r.include_self).to_vector<double>() ==
          r.by_rows);
  }
}

TEST_CASE("scatter replaces, adds and multiplies; the last value stays", "[indexing]") {
  const Tensor x = reshape(arange(1, 13), {3, 4}), index = tensor<int64_t>({0, 2, 1, 0, 0, 0, 2, 2}, {2, 4});
  const Tensor source = tensor<int64_t>({10, -20, 30, 40, 50, 60, -70, 80}, {2, 4});
  CHECK(scatter(x, 0, index, source).to_vector<int64_t>() == Ints{50, 60, 3, 40, 5, 6, 30, 8, 9, -20, -70, 80});
  CHECK(scatter(x, 0, index, source, ScatterMode::multiply).to_vector<int64_t>() ==
        Ints{500, 120, 3, 160, 5, 6, 210, 8, 9, -200, -770, 960});
  CHECK(scatter(x, 0, index, 2, ScatterMode::add).to_vector<int64_t>() == Ints{5, 4, 3, 6, 5, 6, 9, 8, 9, 12, 13, 14});
  CHECK(index_copy(x, 0, tensor<int64_t>({1, 1}), reshape(arange(8), {2, 4})).at({1}).to_vector<int64_t>() == Ints{4, 5, 6, 7});
  CHECK(index_fill(x, 1, tensor<int64_t>({3, 0}), -1).at({0}).to_vector<int64_t>() == Ints{-1, 2, 3, -1});
  CHECK_THROWS_WITH(index_fill(x, 1, tensor<int64_t>({0}), ones({2})), ContainsSubstring("it must be a number or have no dims"));
  CHECK_THROWS_WITH(index_copy(x, 1, tensor<int64_t>({4}), zeros({3, 1})), ContainsSubstring("index_copy: index 4 is out of range"));
  CHECK_THROWS_WITH(scatter(x, 1, index, ones({1, 1})), ContainsSubstring("scatter: an index of shape [2, 4] does not fit source"));
}

TEST_CASE("products with a zero factor have the gradient of the others", "[indexing]") {
  const Tensor index = tensor<int64_t>({0, 0, 1, 1, 2, 2});
  const auto leaf_of = [](std::vector<double> v) { return Tensor(tensor(v)).set_requires_grad(); };
  const Tensor x = leaf_of({2, 0, 3}), s = leaf_of({0, 5, 7, 11, 0, 0});
  const auto d = grad({sum(scatter_reduce(x, 0, index, s, ReduceMode::prod))}, {x, s});
  CHECK(d[0].to_vector<double>() == Floats{0, 77, 0});
  CHECK(d[1].to_vector<double>() == Floats{10, 0, 0, 0, 0, 0});
  CHECK_THROWS_WITH(grad({sum(scatter_reduce(x, 0, index, s, ReduceMode::prod))}, {s}, {.create_graph = true}),
                    ContainsSubstring("scatter_reduce: the product has no second derivative where several"));
  const auto result = gradgradcheck([&](auto& in) { return scatter_reduce(in[0], 0, index, in[1], ReduceMode::prod); },
                                    {leaf_of({0, 2, 3}), leaf_of({0, 5, 0, 2, 1, 3})});
  INFO(result.report);
  CHECK(result.passed);
}

TEST_CASE("equal extremes share the gradient, and nan wins", "[indexing]") {
  const Tensor x = Tensor(tensor<double>({4, 1})).set_requires_grad(), s = Tensor(tensor<double>({4, 4, 0, 2})).set_requires_grad();
  const Tensor index = tensor<int64_t>({0, 0, 0, 1});
  backward(sum(scatter_reduce(x, 0, index, s, ReduceMode::amax)));
  CHECK(x.grad().to_vector<double>() == Floats{1. / 3, 0});
  CHECK(s.grad().to_vector<double>() == Floats{1. / 3, 1. / 3, 0, 1});
  CHECK(std::isnan(scatter_reduce(x, 0, index, tensor<double>({1, NAN, 9, 2}), ReduceMode::amax).to_vector<double>()[0]));
  CHECK(scatter_reduce(tensor<int64_t>({5}), 0, tensor<int64_t>({0}), tensor<int64_t>({INT64_MIN}), ReduceMode::amax, false)
            .item<int64_t>() == INT64_MIN);
  CHECK(scatter_reduce(tensor<int64_t>({5}), 0, tensor<int64_t>({0}), tensor<int64_t>({INT64_MAX}), ReduceMode::amin, false)
            .item<int64_t>() == INT64_MAX);
}

TEST_CASE("take and put count flat positions, also from the end", "[indexing]") {
  const Tensor x = reshape(arange(6), {2, 3});
  CHECK(take(transpose(x), tensor<int64_t>({-1, 1}, {2, 1})).to_vector<int64_t>() == Ints{5, 3});
  CHECK(take(x, tensor<int64_t>({0}, {1, 1, 1})).shape() == Shape{1, 1, 1});
  CHECK(put(x, tensor<int64_t>({1, -1, 1}), tensor<int64_t>({7, 8, 9})).to_vector<int64_t>() == Ints{0, 9, 2, 3, 4, 8});
  CHECK(put(x, tensor<int64_t>({1, -1, 1}), tensor<int64_t>({7, 8, 9}), true).to_vector<int64_t>() == Ints{0, 17, 2, 3, 4, 13});
  CHECK_THROWS_WITH(take(x, tensor<int64_t>({6})), "index: 6 is out of range for dim 0 of size 6; expected -6 <= index < 6");
  CHECK_THROWS_WITH(put(x, tensor<int64_t>({0}), x), ContainsSubstring("has not as many elements as the index"));
  CHECK(take_along_dim(x, tensor<int64_t>({2, 0}, {1, 2}), 1).to_vector<int64_t>() == Ints{2, 0, 5, 3});
  CHECK(take_along_dim(x, tensor<int64_t>({5, 0})).to_vector<int64_t>() == Ints{5, 0});
}

TEST_CASE("masks select, scatter and list their elements in order", "[indexing]") {
  const Tensor x = reshape(arange(6), {2, 3}), mask = tensor<bool>({true, false, true});
  CHECK(masked_select(x, mask).to_vector<int64_t>() == Ints{0, 2, 3, 5});
  CHECK(masked_select(tensor<int64_t>({1, 2, 3}), tensor<bool>({true, false}, {2, 1})).to_vector<int64_t>() == Ints{1, 2, 3});
  CHECK(masked_scatter(x, mask, tensor<int64_t>({9, 8, 7, 6, 5})).to_vector<int64_t>() == Ints{9, 1, 8, 7, 4, 6});
  CHECK_THROWS_WITH(masked_scatter(x, mask, tensor<int64_t>({9})), ContainsSubstring("fewer elements than the 4"));
  CHECK_THROWS_WITH(masked_select(x, x), ContainsSubstring("masked_select: the mask has dtype i64; it must be bool"));
  CHECK(nonzero(tensor<float>({0, NAN, 0, 0, 2, 0}, {2, 3})).to_vector<int64_t>() == Ints{0, 1, 1, 1});
  CHECK(argwhere(transpose(gt(x, 2))).to_vector<int64_t>() == Ints{0, 1, 1, 1, 2, 1});
  CHECK(nonzero(zeros({3, 2})).shape() == Shape{0, 2});
  CHECK(nonzero(full({}, 3)).shape() == Shape{1, 0});
  CHECK_THROWS_WITH(nonzero(empty({2}, {.device = Device::meta()})), ContainsSubstring("has no values"));
  const Tensor big = gt(values({50, 1000}, -1, 1, 9), 0.9);
  CHECK(nonzero(big).shape()[0] == sum(big).item<int64_t>());
  CHECK(same_bits(take(big, sum(nonzero(big) * tensor<int64_t>({1000, 1}), {1})), ones({nonzero(big).shape()[0]}, {DType::boolean})));
  const auto result = gradgradcheck([&](auto& in) { return square(masked_scatter(in[0], mask, square(masked_select(in[1], mask)))); },
                                    {leaf({2, 3}), leaf({2, 3}, -1, 1, 2)});
  INFO(result.report);
  CHECK(result.passed);
}
