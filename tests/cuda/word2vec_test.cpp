// Word vectors and sparse gradients on a device: as on the CPU.
#include "../catch.h"

#include <omp.h>
#include <retape/retape.h>

using namespace retape;
using namespace retape::testing;

namespace {

const Device gpu = Device::cuda();

Tensor below(int64_t n, int64_t limit, uint64_t seed) {
  Generator generator(seed);
  return cast(randint(0, limit, {n}, {DType::i64}, generator), DType::i32);
}

// 30 windows of 0 to 20 contexts and 1 to 20 targets, so that some take several tiles.
Word2VecWindows some_windows(int64_t words) {
  std::vector<int32_t> context_begin{0}, target_begin{0};
  for (int w = 0; w < 30; ++w) {
    context_begin.push_back(context_begin.back() + w * 7 % 21);
    target_begin.push_back(target_begin.back() + 1 + w * 11 % 20);
  }
  const int64_t contexts = context_begin.back(), targets = target_begin.back();
  return {below(contexts, words, 1), tensor(context_begin), below(targets, words, 2), tensor(target_begin),
          cast(below(targets, 2, 3), DType::f32)};
}
Word2VecWindows there(const Word2VecWindows& w) {
  return {to(w.contexts, gpu), to(w.context_begin, gpu), to(w.targets, gpu), to(w.target_begin, gpu), to(w.labels, gpu)};
}

}  // namespace

TEST_CASE("a step on windows is the same on a device", "[cuda][word2vec]") {
  const bool mean = GENERATE(false, true);
  const int64_t batch = GENERATE(1, 8, 100);
  CAPTURE(mean, batch);
  const int64_t words = 50, dim = 37;
  const Word2VecWindows windows = some_windows(words);
  const Tensor in = values({words, dim}, -0.5, 0.5, 1, DType::f32), out = values({words, dim}, -0.5, 0.5, 2, DType::f32);
  const Tensor in_there = to(in, gpu), out_there = to(out, gpu);
  const Tensor before = clone(in);
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);  // several would race
  const Tensor loss = word2vec_step(windows, in, out, 0.1, {.mean = mean, .batch = batch, .loss = true});
  omp_set_num_threads(threads);
  const Tensor loss_there = word2vec_step(there(windows), in_there, out_there, 0.1, {.mean = mean, .batch = batch, .loss = true});
  CHECK(std::abs(loss.item() - loss_there.item()) < 1e-4 * loss.item());
  CHECK(difference(to(in_there, Device::cpu()), in, DType::f32) <= 1);
  CHECK(difference(to(out_there, Device::cpu()), out, DType::f32) <= 1);
  CHECK(difference(in, before, DType::f32) > 1);
}

TEST_CASE("an id that is out of range is an error, and nothing is written there", "[cuda][word2vec]") {
  Word2VecWindows windows = some_windows(50);
  const Tensor in = to(zeros({40, 4}), gpu), out = to(zeros({50, 4}), gpu);
  const std::string error = error_of([&] {
    word2vec_step(there(windows), in, out, 0.1);
    to(in, Device::cpu());
  });
  CHECK(error.find("word2vec") != std::string::npos);
  CHECK(error.find("40") != std::string::npos);
}

TEMPLATE_TEST_CASE("sparse gradients on a device", "[cuda][optim]", SGD, Adagrad, SparseAdam) {
  const Tensor ids = tensor(std::vector<int64_t>{4, 1, 4, 0, 1, 1});
  Tensor w = values({6, 3}, -1, 1, 1, DType::f32).set_requires_grad();
  Tensor x = to(w.detach(), gpu).set_requires_grad();
  TestType here({w}, {.lr = 0.1}), away({x}, {.lr = 0.1});
  for (int step = 0; step < 2; ++step) {
    here.zero_grad(), away.zero_grad();
    backward(sum(square(embedding(w, ids, 0, true))));
    backward(sum(square(embedding(x, to(ids, gpu), 0, true))));
    REQUIRE(sparse_grad(x));
    CHECK(sparse_grad(x)->ids.numel() == 2);
    here.step(), away.step();
  }
  CHECK(difference(to(x.detach(), Device::cpu()), w.detach(), DType::f32) <= 1);
}
