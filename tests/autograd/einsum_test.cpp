// Products of tensors: results against PyTorch's, and what they refuse.
#include "../sines.h"

using namespace retape;
using namespace retape::testing;

TEST_CASE("einsum equals PyTorch's", "[einsum]") {
  CHECK(close(einsum("ij,jk,kil->il", {sines({2, 3}), sines({3, 4}, 1), sines({4, 2, 2}, 2)}), {2, 2},
              {0.196119245205948, -0.0386096133065669, 0.110147997217134, 0.0933201834998141}));
  CHECK(close(einsum("bA, aC", {sines({2, 1}), sines({1, 2}, 1)}), {1, 2, 1, 2},
              {0.765147401234292, 0.901718260418007, 0.359627768707442, 0.42381758792328}));  // upper case first
  CHECK(close(einsum("...ij,...jk->...k", {sines({2, 1, 2, 2}), sines({3, 2, 2}, 1)}), {2, 3, 2},
              {1.11530764641948, -0.197173978659586, -1.59696787877058, -0.472587957005061, 1.89408997899627, 1.08773984070184,
               -1.01434387249531, 0.466758740748211, 1.6018650206548, 0.273295880142799, -2.00428214589791, -0.981769708514708}));
  CHECK(close(einsum("ij,ij->i", {sines({2, 3}), sines({2, 1}, 1)}), {2}, {2.28106259364295, -0.66150171823311}));
}

TEST_CASE("einsum takes traces, scalars, ellipses that the output drops, and integers", "[einsum]") {
  const Tensor x = reshape(arange(9), {3, 3});
  CHECK(einsum("ii", {x}).to_vector<int64_t>() == std::vector<int64_t>{12});
  CHECK(einsum("ii->i", {x}).to_vector<int64_t>() == std::vector<int64_t>{0, 4, 8});
  CHECK(einsum("ij->ji", {x}).to_vector<int64_t>() == transpose(x).to_vector<int64_t>());
  CHECK(einsum("...j->j", {x}).to_vector<int64_t>() == std::vector<int64_t>{9, 12, 15});
  CHECK(einsum(",i->i", {full({}, 2, {DType::i64}), arange(3)}).to_vector<int64_t>() == std::vector<int64_t>{0, 2, 4});
  CHECK(einsum("ij,jk->ik", {x, x}).to_vector<int64_t>() == std::vector<int64_t>{15, 18, 21, 42, 54, 66, 69, 90, 111});
  CHECK(einsum("i,i", {zeros({0}), zeros({0})}).item() == 0);
  CHECK(einsum("ij,jk->ik", {zeros({2, 0}), zeros({0, 3})}).to_vector<float>() == std::vector<float>(6, 0));
}

TEST_CASE("a contraction of floating tensors runs as a matrix product", "[einsum]") {
  Tensor a = sines({2, 3}).set_requires_grad();
  const Tensor y = einsum("ij,kj->ki", {a, sines({4, 3})});
  CHECK(difference(y, matmul(sines({4, 3}), transpose(a)), DType::f64) <= 1);
  CHECK(einsum("ij,kj->ki", {cast(a, DType::f32), sines({4, 3})}).dtype() == DType::f64);
}

TEST_CASE("einsum says what does not fit", "[einsum]") {
  const Tensor x = zeros({2, 3});
  CHECK_THAT(error_of([&] {
               einsum("ij,jk", {x, x});
             }),
             ContainsSubstring("subscript 'j'") && ContainsSubstring("size 2") && ContainsSubstring("3 before"));
  CHECK_THAT(error_of([&] { einsum("ii", {x}); }), ContainsSubstring("size 3") && ContainsSubstring("2 before"));
  CHECK_THAT(error_of([&] { einsum("ii", {zeros({1, 3})}); }), ContainsSubstring("sizes 1 and 3"));
  CHECK_THAT(error_of([&] { einsum("ijk->i", {x}); }), ContainsSubstring("3 subscripts"));
  CHECK_THAT(error_of([&] { einsum("i->i", {x}); }), ContainsSubstring("1 subscripts"));
  CHECK_THAT(error_of([&] { einsum("ij->ik", {x}); }), ContainsSubstring("'k'"));
  CHECK_THAT(error_of([&] { einsum("ij->ii", {x}); }), ContainsSubstring("occurs twice in the output"));
  CHECK_THAT(error_of([&] { einsum("ij,j", {x}); }), ContainsSubstring("2 terms for 1 operands"));
  CHECK_THAT(error_of([&] { einsum("i1->i", {x}); }), ContainsSubstring("'1'"));
  CHECK_THAT(error_of([&] { einsum("...i...->i", {x}); }), ContainsSubstring("twice"));
  CHECK_THAT(error_of([&] { einsum("...i,...j->ij", {x, zeros({3, 2})}); }), ContainsSubstring("must be equal or 1"));
  CHECK_THAT(error_of([&] { einsum("ij", {}); }), ContainsSubstring("no operands"));
}

TEST_CASE("tensordot, kron and cross equal PyTorch's", "[einsum]") {
  CHECK(close(tensordot(sines({2, 3, 2}), sines({3, 2, 2}, 1), {1, 0}, {0, 2}), {2, 2},
              {-0.204758999331055, 0.110937817222601, -0.247566083206679, -0.0420321198880747}));
  CHECK(difference(tensordot(sines({2, 3}), sines({3, 4}), 1), matmul(sines({2, 3}), sines({3, 4})), DType::f64) <= 1);
  CHECK(tensordot(sines({2}), sines({3}), 0).shape() == Shape{2, 3});
  CHECK(close(kron(sines({2, 2}), sines({1, 2, 1}, 1)), {1, 4, 2},
              {0.765147401234292, 0.901718260418007, 0.359627768707442, 0.42381758792328, 0.614196931990652, 0.0378091893562987,
               0.288679373206313, 0.0177707385307832}));
  CHECK(close(cross(sines({2, 3}), sines({1, 3}, 1)), {2, 3},
              {-0.542090491710565, 0.829227354772065, -0.542090491710565, 0.574131544347986, -0.87824005233627, 0.574131544347986}));
}

TEST_CASE("products of matrices check their dims and sizes", "[einsum]") {
  const Tensor v = ones({3}), m = ones({2, 3}), b = ones({2, 3, 4});
  CHECK(mv(m, v).to_vector<float>() == std::vector<float>{3, 3});
  CHECK(mm(m, transpose(m)).to_vector<float>() == std::vector<float>(4, 3));
  CHECK(bmm(b, transpose(b)).to_vector<float>() == std::vector<float>(18, 4));
  CHECK(inner(v, full({}, 2)).to_vector<float>() == std::vector<float>(3, 2));
  CHECK(inner(b, ones({5, 4})).shape() == Shape{2, 3, 5});
  CHECK_THAT(error_of([&] { mm(m, m); }), ContainsSubstring("mm: cannot multiply [2, 3] by [2, 3]: inner sizes 3 and 2 differ"));
  CHECK_THAT(error_of([&] { mv(m, m); }), ContainsSubstring("mv: x is [2, 3] with 2 dims; it must have 1"));
  CHECK_THAT(error_of([&] { dot(v, ones({2})); }), ContainsSubstring("inner sizes 3 and 2"));
  CHECK_THAT(error_of([&] { bmm(b, ones({1, 4, 2})); }), ContainsSubstring("batches of 2 and 1"));
  CHECK_THAT(error_of([&] { outer(m, v); }), ContainsSubstring("outer: a is [2, 3]"));
  CHECK_THAT(error_of([&] { inner(v, ones({2})); }), ContainsSubstring("3 and 2"));
  CHECK_THAT(error_of([&] { cross(m, ones({2, 2})); }), ContainsSubstring("cross"));
  CHECK_THAT(error_of([&] { cross(m, m, 0); }), ContainsSubstring("size 3 at dim 0"));
  CHECK_THAT(error_of([&] { trace(v); }), ContainsSubstring("it must have 2"));
  CHECK_THAT(error_of([&] { tensordot(m, m, 3); }), ContainsSubstring("cannot sum 3 dims"));
  CHECK_THAT(error_of([&] { tensordot(m, m, {0, 1}, {0}); }), ContainsSubstring("differ in number"));
  CHECK_THAT(error_of([&] { tensordot(m, m, {0}, {1}); }), ContainsSubstring("size 2") && ContainsSubstring("has 3"));
  CHECK_THAT(error_of([&] { tensordot(m, m, {0, 0}, {0, 0}); }), ContainsSubstring("twice"));
  CHECK_THAT(error_of([&] { kron(ones({1, 1, 1, 1, 1}), v); }), ContainsSubstring("more than 4 dims"));
}

TEST_CASE("a chain of matrices is multiplied in the cheapest order", "[einsum]") {
  // (a b) c would make a 2000 x 2000 matrix
  const Tensor a = ones({2000, 1}), b = ones({1, 2000}), c = ones({2000, 1});
  CHECK(multi_dot({a, b, c}).shape() == Shape{2000, 1});
  CHECK(chain_matmul({a, b, c}).to_vector<float>()[7] == 2000);
  CHECK(chain_matmul({a}).shape() == Shape{2000, 1});
  CHECK(multi_dot({ones({3}), ones({3, 2}), ones({2})}).item() == 6);
  CHECK_THAT(error_of([&] { multi_dot({a}); }), ContainsSubstring("at least two"));
  CHECK_THAT(error_of([&] { chain_matmul({}); }), ContainsSubstring("at least one"));
  CHECK_THAT(error_of([&] { multi_dot({a, c}); }), ContainsSubstring("inner sizes 1 and 2000 differ"));
}

TEST_CASE("sums with products do not read an input whose factor is 0", "[einsum]") {
  CHECK(close(addmv(sines({2}), sines({2, 3}, 1), sines({3}, 2), 0.5, 2), {2}, {0.710839885224299, 2.66327715837035}));
  CHECK(addmm(full({2}, NAN), ones({2, 3}), ones({3, 2}), 0, 2).to_vector<float>() == std::vector<float>(4, 6));
  CHECK(baddbmm(ones({}), ones({2, 1, 3}), ones({2, 3, 1})).to_vector<float>() == std::vector<float>{4, 4});
  CHECK(addbmm(ones({1}), ones({2, 1, 3}), ones({2, 3, 1})).to_vector<float>() == std::vector<float>{7});
  CHECK_THAT(error_of([&] { addmm(ones({3, 2, 2}), ones({2, 3}), ones({3, 2})); }), ContainsSubstring("addmm: input [3, 2, 2]"));
  CHECK_THAT(error_of([&] { addmv(ones({3}), ones({2, 3}), ones({3})); }), ContainsSubstring("addmv"));
}
