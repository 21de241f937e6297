// Word vectors: the kernel for windows against the recorded form and against a plain transcription of word2vec.
#include <retape/retape.h>

#include <cmath>

#include <tests/catch.h>

using namespace retape;
using namespace retape::testing;

namespace {

template <class T> Tensor list(const std::vector<T>& values) { return tensor(values); }

struct Made {
  std::vector<int32_t> contexts, context_begin{0}, targets, target_begin{0};
  std::vector<float> labels;
  void window(const std::vector<int32_t>& c, const std::vector<int32_t>& t) {
    contexts.insert(contexts.end(), c.begin(), c.end());
    targets.insert(targets.end(), t.begin(), t.end());
    for (size_t i = 0; i < t.size(); ++i) labels.push_back(i == 0 ? 1.f : 0.f);
    context_begin.push_back(int32_t(contexts.size()));
    target_begin.push_back(int32_t(targets.size()));
  }
  Word2VecWindows windows() const { return {list(contexts), list(context_begin), list(targets), list(target_begin), list(labels)}; }
};

// Windows of 0 to 9 contexts and 1 to 20 targets, in which words repeat.
Made random_windows(int64_t count, int64_t words, uint64_t seed) {
  Made made;
  for (int64_t w = 0; w < count; ++w) {
    const Philox random(seed, uint64_t(w));
    std::vector<int32_t> contexts, targets;
    for (uint32_t c = 0; c < random.x[0] % 10; ++c) contexts.push_back(int32_t(Philox(seed, uint64_t(1000 + w * 100 + c)).x[0] % words));
    for (uint32_t t = 0; t <= random.x[1] % 20; ++t) targets.push_back(int32_t(Philox(seed, uint64_t(900000 + w * 100 + t)).x[0] % words));
    made.window(contexts, targets);
  }
  return made;
}

nn::Word2Vec random_model(int64_t words, int64_t dim, bool cbow, bool sparse = true) {
  nn::Word2Vec model(words, words, dim, {.cbow = cbow, .sparse = sparse});
  const NoGrad off;
  Generator generator(7);
  copy_into(randn({words, dim}, {}, generator) * 0.3, model.in_embeddings.weight.tensor());
  copy_into(randn({words, dim}, {}, generator) * 0.3, model.out_embeddings.weight.tensor());
  return model;
}

double distance(const Tensor& a, const Tensor& b) { return amax(abs(a.detach() - b.detach())).item(); }

// word2vec.c's loop for one window, with all gradients taken before they are added.
void plain_step(std::vector<double>& in, std::vector<double>& out, int64_t dim, const std::vector<int32_t>& contexts,
                const std::vector<int32_t>& targets, const std::vector<float>& labels, double lr, bool mean, double& loss) {
  std::vector<double> d_in(in.size()), d_out(out.size());
  const auto pair = [&](const std::vector<double>& x, int32_t target, double label, std::vector<double>& dx) {
    double dot = 0;
    for (int64_t k = 0; k < dim; ++k) dot += x[size_t(k)] * out[size_t(target * dim + k)];
    const double g = label - 1 / (1 + std::exp(-dot));
    loss += std::log1p(std::exp(label > 0.5 ? -dot : dot));
    for (int64_t k = 0; k < dim; ++k)
      dx[size_t(k)] += g * out[size_t(target * dim + k)], d_out[size_t(target * dim + k)] += g * x[size_t(k)];
  };
  const double share = mean ? 1 / double(contexts.size()) : 1;
  std::vector<double> average(static_cast<size_t>(dim)), d_average(static_cast<size_t>(dim));
  for (const int32_t c : contexts) {
    std::vector<double> x(in.begin() + c * dim, in.begin() + (c + 1) * dim), dx(static_cast<size_t>(dim));
    for (int64_t k = 0; k < dim; ++k) average[size_t(k)] += x[size_t(k)] * share;
    if (mean) continue;
    for (size_t t = 0; t < targets.size(); ++t) pair(x, targets[t], labels[t], dx);
    for (int64_t k = 0; k < dim; ++k) d_in[size_t(c * dim + k)] += dx[size_t(k)];
  }
  if (mean && !contexts.empty()) {
    for (size_t t = 0; t < targets.size(); ++t) pair(average, targets[t], labels[t], d_average);
    for (const int32_t c : contexts)
      for (int64_t k = 0; k < dim; ++k) d_in[size_t(c * dim + k)] += d_average[size_t(k)] * share;
  }
  for (size_t i = 0; i < in.size(); ++i) in[i] += lr * d_in[i];
  for (size_t i = 0; i < out.size(); ++i) out[i] += lr * d_out[i];
}

}  // namespace

TEST_CASE("a step on windows is word2vec's", "[nn]") {
  const bool cbow = GENERATE(false, true);
  const int64_t dim = GENERATE(1, 5, 16, 100);
  CAPTURE(cbow, dim);
  const Made made = random_windows(30, 40, 3);
  nn::Word2Vec model = random_model(40, dim, cbow);
  auto in = model.in_embeddings.weight->to_vector<double>(), out = model.out_embeddings.weight->to_vector<double>();
  double expected = 0;
  for (size_t w = 0; w + 1 < made.context_begin.size(); ++w) {
    const auto part = [&](const auto& all, const auto& begin) {
      return std::decay_t<decltype(all)>(all.begin() + begin[w], all.begin() + begin[w + 1]);
    };
    plain_step(in, out, dim, part(made.contexts, made.context_begin), part(made.targets, made.target_begin),
               part(made.labels, made.target_begin), 0.1, cbow, expected);
  }
  const Tensor loss = model.step(made.windows(), 0.1, 1, true);
  CHECK(std::abs(loss.item() - expected) < 1e-5 * expected);
  CHECK(distance(model.in_embeddings.weight.tensor(), cast(tensor(in, {40, dim}), DType::f32)) < 1e-5);
  CHECK(distance(model.out_embeddings.weight.tensor(), cast(tensor(out, {40, dim}), DType::f32)) < 1e-5);
}

TEST_CASE("a step on a batch is one step of the recorded form with SGD", "[nn]") {
  const bool cbow = GENERATE(false, true), sparse = GENERATE(true, false);
  CAPTURE(cbow, sparse);
  const Word2VecWindows windows = random_windows(50, 60, 5).windows();
  nn::Word2Vec fast = random_model(60, 33, cbow), tape = random_model(60, 33, cbow, sparse);
  SGD sgd(tape.parameters(), {.lr = 0.05});
  const Tensor loss = tape.loss(windows);
  backward(loss);
  CHECK(bool(tape.in_embeddings.weight->grad()) == !sparse);
  CHECK(bool(sparse_grad(tape.in_embeddings.weight)) == sparse);
  sgd.step();
  const Tensor before = clone(fast.in_embeddings.weight.tensor().detach());
  const Tensor fast_loss = fast.step(windows, 0.05, 50, true);
  CHECK(std::abs(fast_loss.item() - loss.item()) < 1e-4 * loss.item());
  CHECK(distance(fast.in_embeddings.weight.tensor(), tape.in_embeddings.weight.tensor()) < 1e-5);
  CHECK(distance(fast.out_embeddings.weight.tensor(), tape.out_embeddings.weight.tensor()) < 1e-5);
  CHECK(distance(fast.in_embeddings.weight.tensor(), before) > 1e-3);
}

TEST_CASE("word vectors begin as in word2vec", "[nn]") {
  nn::Word2Vec model(50, 49, 20);
  CHECK(model.in_embeddings.weight->shape() == Shape{50, 20});
  CHECK(model.out_embeddings.weight->shape() == Shape{49, 20});
  CHECK(amax(abs(model.in_embeddings.weight.tensor().detach())).item() <= 0.025);
  CHECK(amax(abs(model.in_embeddings.weight.tensor().detach())).item() > 0.02);
  CHECK(amax(abs(model.out_embeddings.weight.tensor().detach())).item() == 0);
}

TEST_CASE("windows that are none are an error", "[nn]") {
  nn::Word2Vec model(10, 10, 4);
  const auto error = [&](auto change) {
    Made made;
    made.window({1, 2}, {3, 4});
    change(made);
    return error_of([&] { model.step(made.windows(), 0.1); });
  };
  const auto has = [](const std::string& text, const char* part) { return text.find(part) != std::string::npos; };
  CHECK(error([](Made&) {}) == "(no error)");
  CHECK(has(error([](Made& m) { m.contexts[1] = 10; }), "10 is out of range"));
  CHECK(has(error([](Made& m) { m.targets[0] = -1; }), "-1 is out of range"));
  CHECK(has(error([](Made& m) { m.context_begin[1] = 1; }), "must rise"));
  CHECK(has(error([](Made& m) { m.target_begin[0] = 1; }), "must rise"));
  CHECK(has(error([](Made& m) { m.labels.pop_back(); }), "every target one label"));
  CHECK(has(error([](Made& m) { m.context_begin.push_back(2); }), "one more than there are windows"));
  Word2VecWindows windows = random_windows(2, 10, 1).windows();
  windows.contexts = cast(windows.contexts, DType::i64);
  CHECK(has(error_of([&] { model.step(windows, 0.1); }), "contexts i64"));
  CHECK(has(error_of([&] { model.loss(windows); }), "contexts i64"));
  windows = random_windows(2, 10, 1).windows();
  CHECK(has(error_of([&] { word2vec_step(windows, zeros({10, 4}), zeros({10, 5}), 0.1); }), "4 and 5 dims"));
  CHECK(has(error_of([&] { word2vec_step(windows, zeros({10, 4}, {DType::f64}), zeros({10, 4}), 0.1); }), "f64"));
  CHECK(has(error_of([&] { word2vec_step(windows, transpose(zeros({4, 10}), 0, 1), zeros({10, 4}), 0.1); }), "contiguous"));
  CHECK(has(error_of([&] { word2vec_step(windows, zeros({10, 4}), zeros({10, 4}), 0.1, {.batch = 0}); }), "batch of 0"));
}
