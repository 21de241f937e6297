// Memory budgets: what fits, what it costs, what is said when it does not fit.
#include <chrono>
#include <thread>

#include "../counted.h"
#include "../policies.h"
#include "../temporary.h"

using namespace retape;
using namespace retape::testing;

namespace {

constexpr int layers = 64;

struct Measured {
  int64_t peak = 0;  // beyond what was there, in values
  int forwards = 0;
  std::vector<Tensor> grads;
};
// A chain of layers sin(h * w_i): a product's output, a sine's output and a gradient each.
Measured chain(const std::function<void(const Loss&)>& differentiate) {
  std::vector<Tensor> w;
  for (int i = 0; i < layers; ++i) w.push_back(leaf({width}, 0.5, 1.5, uint64_t(i + 1)));
  const Tensor x = values({width}, -1, 1, 99);
  const int64_t unit = one_value(), before = live();
  forwards = 0;
  reset_peak_memory();
  differentiate([&] {
    Tensor h = x;
    for (auto& v : w) h = counted_sin(h * v);
    return sum(h);
  });
  Measured m{(memory_stats().peak - before) / unit, forwards, {}};
  for (auto& v : w) m.grads.push_back(v.grad());
  CHECK((live() - before) / unit == layers);  // nothing is left but the gradients
  return m;
}
Measured chain_within(int64_t units, MemoryBudgetOptions options = {}) {
  const int64_t unit = one_value();
  return chain([&](const Loss& f) {
    const MemoryBudget guard(live() + units * unit, options);
    backward(f());
  });
}
bool same(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  for (size_t i = 0; i < a.size(); ++i)
    if (!same_bits(a[i], b[i])) return false;
  return a.size() == b.size();
}

}  // namespace

TEST_CASE("any feasible budget gives the same bits and is never exceeded", "[budget]") {
  const Measured plain = chain([](const Loss& f) { backward(f()); });
  CHECK((plain.forwards == layers && plain.peak > 2 * layers));
  for (const int64_t units : {140, 120, 100, 84, 76, 72}) {
    INFO(units);
    const Measured m = chain_within(units);
    CHECK(m.peak <= units);
    CHECK(same(m.grads, plain.grads));
    CHECK(m.forwards >= layers);
    CHECK((units > 72 || m.forwards > layers));
    CHECK(m.forwards < 12 * layers);  // a quadratic number would be 32 times as many
  }
}

namespace {
struct SlowSin : CountedSin {
  Tensor forward(const Tensor& in) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    return CountedSin::forward(in);
  }
};
}  // namespace

TEST_CASE("what was quick to compute goes first", "[budget]") {
  const Tensor w = leaf({width});
  const int64_t unit = one_value();
  forwards = 0;
  const MemoryBudget guard(live() + 20 * unit);  // of 24 and gradients; half of them are quick
  Tensor h = w;
  for (int i = 0; i < 12; ++i) h = cos(record(SlowSin{}, h));
  backward(sum(h));
  CHECK(forwards == 12);
}

TEST_CASE("values that a budget spills come back as they were, without running an op again", "[budget]") {
  const Measured plain = chain([](const Loss& f) { backward(f()); });
  for (const int64_t units : {100, 72}) {
    const Measured m = chain_within(units, {.evict = Evict::spill});
    CHECK(m.peak <= units);
    CHECK(m.forwards == layers);
    CHECK(same(m.grads, plain.grads));
  }
}

TEST_CASE("values kept in bf16 take half the memory and change gradients by their rounding only", "[budget]") {
  const Tensor w = values({width}, 0.5, 1.5, 1, DType::f32).set_requires_grad();
  const auto f = [&] {
    Tensor h = w;
    for (int i = 0; i < 20; ++i) h = sin(h * w);
    return h;
  };
  const int64_t before = live();
  Tensor y = f();
  const int64_t kept = live() - before;
  backward(sum(y));
  const Tensor exact = w.grad(), forward = y.detach();
  w.set_grad({});
  {
    const MemoryBudget guard(MemoryBudget::least, {.evict = Evict::bf16});
    const int64_t start = live();
    y = f();
    const Tensor room = values({1});  // what an allocation makes leave
    CHECK(live() - start < kept * 6 / 10);
    CHECK(same_bits(y.detach(), forward));
    backward(sum(y));
  }
  CHECK_FALSE(same_bits(w.grad(), exact));
  CHECK(norm(w.grad() - exact).item() <= 0.01 * norm(exact).item());
}

TEST_CASE("a budget below what is needed names the op, its bytes and those that cannot go; then all goes on", "[budget]") {
  const Measured plain = chain([](const Loss& f) { backward(f()); });
  const int64_t before = live();
  CHECK_THROWS_WITH(chain_within(20), ContainsSubstring("needs 8192 bytes") && ContainsSubstring("cannot be dropped; give at least"));
  CHECK(live() == before);
  CHECK(same(chain_within(80).grads, plain.grads));
  const Tensor x = values({width});
  CHECK_THROWS_WITH(MemoryBudget(100), ContainsSubstring("100 bytes are too few") && ContainsSubstring(std::to_string(live())));
  CHECK_THROWS_WITH(MemoryBudget(0), ContainsSubstring("0 bytes are not valid"));
  CHECK_THROWS_WITH(MemoryBudget(-5), ContainsSubstring("-5 bytes are not valid"));
  CHECK_THROWS_WITH(MemoryBudget(1 << 30, {.evict = Evict::spill, .spill_folder = "/does/not/exist"}),
                    ContainsSubstring("/does/not/exist"));
  CHECK((ctx.budget == nullptr && detail::make_room == nullptr));
  const MemoryBudget guard(live() + 10000);
  CHECK_THROWS_WITH(matmul(zeros({64, 64}), zeros({64, 64})), ContainsSubstring("memory budget: "));
  CHECK_THROWS_WITH(exp(expand(x, {2, width})), ContainsSubstring("memory budget: exp needs 16384 bytes"));
}

TEST_CASE("after an error of the budget in backward the same graph can go on with more", "[budget]") {
  const Tensor w = leaf({width}), v = leaf({width}, -1, 1, 2);
  const auto f = [&] { return sum(sin(tanh(sin(w) * v) * w)); };
  backward(f());
  const Tensor expected = w.grad();
  w.set_grad({}), v.set_grad({});
  Tensor y;
  {
    const MemoryBudget guard(MemoryBudget::least);
    y = f();
    const MemoryBudget tight(live() + one_value());
    CHECK_THROWS_WITH(backward(y, {.retain_graph = true}), ContainsSubstring("memory budget: "));
  }
  w.set_grad({}), v.set_grad({});
  backward(y);
  CHECK(same_bits(w.grad(), expected));
}

TEST_CASE("two absent branches under the tightest budget end", "[budget]") {
  int64_t least = 0;
  for (int64_t units = 40; units > 3; --units) {
    std::vector<Tensor> w;
    for (int i = 0; i < 14; ++i) w.push_back(leaf({width}, -1, 1, uint64_t(i + 1)));
    const Tensor x = values({width}, -1, 1, 3);
    const int64_t before = live();
    const std::string error = error_of([&] {
      const MemoryBudget guard(before + units * one_value());
      Tensor a = x * w[0], b = x * w[1];
      for (size_t i = 2; i < 6; ++i) a = sin(a * w[i]);
      for (size_t i = 6; i < 10; ++i) b = sin(b * w[i]);
      Tensor y = a * b;
      a = b = {};
      for (size_t i = 10; i < 14; ++i) y = sin(y * w[i]);
      backward(sum(y));
    });
    if (error == "(no error)") {
      least = units;
      continue;
    }
    CHECK(error.find("memory budget: ") == 0);
    for (auto& v : w) v.set_grad({});
    CHECK(live() == before);
  }
  CHECK((least >= 15 && least <= 24));  // 14 are gradients
}

TEST_CASE("a graph differentiated twice under a tight budget gives the same bits", "[budget]") {
  const Tensor w = leaf({width}, 0.9, 1.1);
  const auto second = [&] {
    Tensor h = w;
    for (int i = 0; i < 10; ++i) h = tanh(h * w);
    const Tensor g = grad({sum(h)}, {w}, {.create_graph = true})[0];
    h = {};
    return grad({sum(g * g)}, {w})[0];
  };
  const int64_t before = live(), unit = one_value();
  reset_peak_memory();
  const Tensor free_run = second();
  const int64_t peak = (memory_stats().peak - before) / unit;
  int64_t least = peak;
  for (int64_t units = peak; units > 8; units -= 4) {
    Tensor tight;
    const std::string error = error_of([&] {
      const MemoryBudget guard(live() + units * unit);
      tight = second();
    });
    if (error != "(no error)") break;
    least = units;
    CHECK(same_bits(tight, free_run));
  }
  CHECK(least * 3 <= peak * 2);
}

TEST_CASE("a backward that is repeated under a budget gives the same again", "[budget]") {
  const Tensor w = leaf({width});
  const auto f = [&] { return sum(tanh(sin(w * w) * w)); };
  backward(f());
  const Tensor once = w.grad();
  for (const Evict evict : {Evict::recompute, Evict::spill}) {
    w.set_grad({});
    const MemoryBudget guard(MemoryBudget::least, {.evict = evict});
    const Tensor y = f();
    for (int i = 0; i < 3; ++i) {
      backward(y, {.retain_graph = i < 2});
      CHECK(same_bits(w.grad(), once));
      w.set_grad({});
    }
    CHECK_THROWS_WITH(backward(y), ContainsSubstring("retain_graph"));
  }
}

TEST_CASE("of nested budgets the smallest limit holds, and values of the outer one may go", "[budget]") {
  const int64_t unit = one_value();
  const Tensor w = leaf({width});
  const int64_t before = live();
  const MemoryBudget outer(before + 100 * unit);
  Tensor h = w;
  for (int i = 0; i < 10; ++i) h = sin(h * w);
  CHECK(live() - before >= 15 * unit);
  {
    const MemoryBudget inner(before + 6 * unit);
    CHECK(live() - before <= 6 * unit);
    const MemoryBudget larger(before + 50 * unit);
    CHECK_THROWS_WITH(values({7 * width}), ContainsSubstring(std::to_string(before + 6 * unit)));
  }
  const Tensor large = values({20 * width});
  backward(sum(h));
  const Tensor g = w.grad();
  w.set_grad({});
  h = w;
  for (int i = 0; i < 10; ++i) h = sin(h * w);
  backward(sum(h));
  CHECK(same_bits(g, w.grad()));
}

TEST_CASE("a full disk is an error that leaves the graph as it was", "[budget]") {
  const Tensor w = leaf({width});
  const auto f = [&] {
    Tensor h = w;
    for (int i = 0; i < 3; ++i) h = sin(h * w);
    return sum(h);
  };
  backward(f());
  const Tensor expected = w.grad();
  w.set_grad({});
  const MemoryBudget guard(MemoryBudget::least, {.evict = Evict::spill});
  Tensor y;
  std::string error;
  {
    const FullDisk full(4096);
    error = error_of(f);
  }
  CHECK_THAT(error, ContainsSubstring("spill: cannot write") && ContainsSubstring("temporary file in"));
  y = f();
  backward(y);
  CHECK(same_bits(w.grad(), expected));
}

namespace {
struct Bomb {
  static constexpr auto name = "bomb";
  int* fuse;
  Tensor forward(const Tensor& x) {
    if (--*fuse == 0) throw Error("bomb: forward");
    return clone(x);
  }
  void backward(const Tensor& dy, Grads& dx) {
    if (--*fuse == 0) throw Error("bomb: backward");
    dx.set(0, dy);
  }
};
}  // namespace

TEST_CASE("an exception under a budget leaves no state behind, and the graph can go on", "[budget]") {
  const Tensor w = leaf({width});
  int fuse = 100;
  const auto f = [&] {
    Tensor h = record(Bomb{&fuse}, w * w);
    h = tanh(h) * w;
    return sum(sin(h));
  };
  backward(f());
  const Tensor expected = w.grad();
  w.set_grad({});
  const int64_t before = live();
  for (const char* where : {"forward", "a replayed forward", "backward"}) {
    INFO(where);
    {
      const MemoryBudget guard(MemoryBudget::least);
      fuse = *where == 'f' ? 1 : 100;
      if (fuse == 1) CHECK_THROWS_WITH(f(), "bomb: forward");
      fuse = 100;
      const Tensor y = f();
      const Tensor room = values({1});
      fuse = *where == 'b' ? 2 : 1;
      if (*where != 'f') CHECK_THROWS_WITH(backward(y, {.retain_graph = true}), *where == 'b' ? "bomb: backward" : "bomb: forward");
      CHECK((ctx.current == nullptr && ctx.pass == nullptr && !ctx.inside_forward && ctx.recording));
      fuse = 100;
      w.set_grad({});  // of the part of backward that was done
      backward(y);
      CHECK(same_bits(w.grad(), expected));
    }
    w.set_grad({});
    CHECK(live() == before);
  }
}

TEST_CASE("a value edited after a budget has dropped it is found out", "[budget]") {
  const Tensor w = leaf({width}), x = values({width});
  const MemoryBudget guard(MemoryBudget::least);
  const Tensor y = sum(tanh(sin(x * w) * w));
  const Tensor room = values({1});
  x.mutable_data<double>()[0] = 7;
  CHECK_THROWS_WITH(backward(y), ContainsSubstring("changed in place"));
}

TEST_CASE("what is saved under pack hooks belongs to them, not to the budget", "[budget]") {
  const Tensor w = leaf({width});
  int packed = 0, unpacked = 0;
  const MemoryBudget guard(MemoryBudget::least);
  {
    const SavedTensorHooks hooks([&](const Tensor& t) { return std::any((++packed, t)); },
                                 [&](const std::any& t) { return (++unpacked, std::any_cast<Tensor>(t)); });
    backward(sum(sin(tanh(w))));
  }
  CHECK((packed == 2 && unpacked == 2));
}

TEST_CASE("budgets of two threads do not touch each other's values", "[budget]") {
  const Tensor w = leaf({width}, 0.5, 1.5);
  std::vector<Tensor> results(2);
  const auto work = [&](size_t which) {
    const Tensor own = clone(w.detach()).set_requires_grad();
    for (int round = 0; round < 20; ++round) {
      own.set_grad({});
      const MemoryBudget guard(MemoryBudget::least, {.evict = which ? Evict::spill : Evict::recompute});
      Tensor h = own;
      for (int i = 0; i < 10; ++i) h = sin(h * own);
      backward(sum(h));
    }
    results[which] = own.grad();
  };
  std::thread a(work, 0), b(work, 1);
  a.join(), b.join();
  CHECK(same_bits(results[0], results[1]));
}

TEST_CASE("thousands of small values under a budget end in reasonable time", "[budget]") {
  const Tensor w = leaf({32});
  const int64_t before = live();
  const MemoryBudget guard(before + 400000);
  Tensor h = w;
  for (int i = 0; i < 3000; ++i) h = sin(h * w);
  CHECK(live() - before <= 400000);
  backward(sum(h));
  CHECK(w.grad());
}
