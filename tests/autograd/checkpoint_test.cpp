// Checkpoints: what is kept, what is replayed, and that not a bit changes.
#include <array>

#include "../counted.h"

using namespace retape;
using namespace retape::testing;

TEST_CASE("a checkpoint stores nothing inside and replays each op once", "[replay]") {
  const Tensor w = leaf({width});
  const int64_t unit = one_value(), before = live();
  auto f = [&] {
    Tensor h = w;
    for (int i = 0; i < 8; ++i) h = counted_sin(h);
    return h;
  };
  forwards = 0;
  const Tensor y = checkpoint(f);
  CHECK(live() - before == unit);
  CHECK(forwards == 8);
  backward(sum(y));
  CHECK(forwards == 15);  // the last one's output is there already
  const Tensor g = w.grad();
  w.set_grad({});
  backward(sum(f()));
  CHECK(same_bits(g, w.grad()));
}

TEST_CASE("checkpoints nest", "[replay]") {
  const Tensor w = leaf({width}, 0.9, 1.1), x = values({width}, -1, 1, 2);
  auto run = [&](int depth) {
    auto layers = [&](const Tensor& start, int n) {
      Tensor h = start;
      for (int i = 0; i < n; ++i) h = sin(h * w);
      return h;
    };
    Tensor y;
    if (depth == 0) y = layers(x, 8);
    else
      y = checkpoint(
          [&](const Tensor& a) {
            Tensor h = a;
            for (int k = 0; k < 4; ++k) h = depth == 1 ? layers(h, 2) : checkpoint([&](const Tensor& b) { return layers(b, 2); }, h);
            return h;
          },
          x);
    w.set_grad({});
    backward(sum(y));
    return w.grad();
  };
  const Tensor plain = run(0);
  CHECK(same_bits(run(1), plain));
  CHECK(same_bits(run(2), plain));
}

TEST_CASE("a region pins what is captured and records plain data too", "[replay]") {
  const Tensor w = leaf({width}), data = values({width}, -1, 1, 2);
  const Tensor outside = tanh(w);
  const int64_t unit = one_value(), before = live();
  auto f = [&] {
    const Tensor mask = exp(exp(data));
    return sin(tanh(outside * mask) * mask);
  };
  const Tensor y = checkpoint(f);
  CHECK(live() - before == unit);  // y only; mask came from plain data and is not kept either
  backward(sum(y));
  const Tensor g = w.grad();
  w.set_grad({});
  backward(sum(sin(tanh(tanh(w) * exp(exp(data))) * exp(exp(data)))));
  CHECK(same_bits(g, w.grad()));
}

TEST_CASE("a value that the user still holds is not replayed", "[replay]") {
  const Tensor w = leaf({width});
  Tensor held;
  const Tensor y = checkpoint([&] {
    held = counted_sin(w);
    return sin(held);
  });
  forwards = 0;
  backward(sum(y));
  CHECK(forwards == 0);
}

TEST_CASE("views share the slot of their base: replaying it serves all of them", "[replay]") {
  const Tensor w = leaf({40, 25});
  auto f = [&] {
    const Tensor h = counted_sin(w);
    const auto p = split(reshape(transpose(h), {1000, 1}), 500);
    return sum(p[0] * p[1]) + sum(sin(transpose(h)));
  };
  const Tensor y = checkpoint(f);
  forwards = 0;
  backward(y);
  CHECK(forwards == 1);
  const Tensor g = w.grad();
  w.set_grad({});
  backward(f());
  CHECK(same_bits(g, w.grad()));
}

TEST_CASE("dropout draws once and replays the same mask", "[replay]") {
  const Tensor w = leaf({50, 20});
  auto f = [&] { return sum(tanh(dropout(w * w, 0.5))); };
  manual_seed(1);
  backward(f());
  const Tensor g = w.grad();
  const RandomState after = default_generator().state();
  w.set_grad({});
  manual_seed(1);
  backward(checkpoint(f));
  CHECK(same_bits(g, w.grad()));
  CHECK(default_generator().state().offset == after.offset);
}

TEST_CASE("a second head can still replay through nodes that the first backward passed", "[replay]") {
  const Tensor w = leaf({width}), v = leaf({width}, -1, 1, 2);
  Tensor a, b;
  checkpoint([&] {
    const Tensor h = tanh(sin(w));
    a = sin(h);
    b = h.detach() * v;
    return a;
  });
  backward(sum(a));
  a = {};
  backward(sum(b));
  CHECK(same_bits(v.grad(), tanh(sin(w)).detach()));
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

TEST_CASE("an exception in forward, backward or replay leaves no state behind", "[replay]") {
  const Tensor w = leaf({width});
  const int64_t before = live();
  int fuse = 1;
  CHECK_THROWS_WITH(tanh(record(Bomb{&fuse}, w)), "bomb: forward");
  CHECK((ctx.current == nullptr && !ctx.inside_forward && live() == before));
  for (int when : {1, 2}) {  // 1: the replayed forward throws; 2: its backward does
    fuse = 100;
    const Tensor y = checkpoint([&] { return sin(tanh(record(Bomb{&fuse}, w * w))); });
    fuse = when;
    CHECK_THROWS_WITH(backward(sum(y), {.retain_graph = true}), when == 1 ? "bomb: forward" : "bomb: backward");
    CHECK((ctx.pass == nullptr && ctx.recording && !w.grad()));
    fuse = 100;
    backward(sum(y));
    const Tensor g = w.grad();
    w.set_grad({});
    backward(sum(sin(tanh(w * w))));
    CHECK(same_bits(g, w.grad()));
    w.set_grad({});
  }
  CHECK(live() == before);
}

TEST_CASE("a checkpoint takes and returns what the function does", "[replay]") {
  const Tensor a = leaf({width}), b = leaf({width}, -1, 1, 2);
  const auto gradient = [&](const std::function<Tensor()>& f) {
    a.set_grad({}), b.set_grad({});
    backward(f());
    return std::vector<Tensor>{a.grad(), b.grad()};
  };
  const auto plain = gradient([&] { return sum(sin(a * b) * tanh(b)); });
  const auto agrees = [&](const std::function<Tensor()>& f) {
    const auto g = gradient(f);
    return same_bits(g[0], plain[0]) && same_bits(g[1], plain[1]);
  };
  CHECK(agrees([&] {
    const auto [s, t] = checkpoint([](const Tensor& x, const Tensor& y) { return std::pair(sin(x * y), tanh(y)); }, a, b);
    return sum(s * t);
  }));
  CHECK(agrees([&] {
    const auto [s, n, t] =
        checkpoint([](const std::vector<Tensor>& x, int k) { return std::tuple(sin(x[0] * x[1]), k + 1, std::vector{tanh(x[1])}); },
                   std::vector{a, b}, 2);
    CHECK(n == 3);
    return sum(s * t[0]);
  }));
  CHECK(agrees([&] {
    const auto parts = checkpoint([&](const Tensor& x) { return std::array{sin(x * b), tanh(b)}; }, a);
    return sum(parts[0] * parts[1]);
  }));
  CHECK(agrees([&] {
    Tensor y;
    checkpoint([&] { y = sum(sin(a * b) * tanh(b)); });
    return y;
  }));
  const int64_t before = live();
  const auto pair = checkpoint([](const Tensor& x) { return std::pair(sin(tanh(x)), cos(tanh(x))); }, a);
  CHECK(live() - before == 2 * one_value());
}

TEST_CASE("a sequence in segments keeps what is between them and the last one's values", "[replay]") {
  const Tensor w = leaf({width}, 0.9, 1.1);
  std::vector<std::function<Tensor(const Tensor&)>> blocks(12, [&](const Tensor& x) { return counted_sin(counted_sin(x * w)); });
  const Tensor x = values({width});
  Tensor plain;
  for (const int64_t segments : {0, 1, 3, 4, 5, 12}) {
    INFO(segments);
    w.set_grad({});
    forwards = 0;
    const int64_t before = live();
    Tensor h = x;
    if (segments) h = checkpoint_sequential(blocks, segments, x);
    else
      for (auto& block : blocks) h = block(h);
    const int64_t kept = (live() - before) / one_value();
    if (segments == 4) CHECK(kept == 3 + 3 * 3);  // the borders and three blocks
    backward(sum(h));
    if (segments <= 1) {
      CHECK((kept == 36 && forwards == 24));
      if (!segments) plain = w.grad();
    }
    if (segments == 4) CHECK(forwards == 24 + 18 - 3);  // the border itself is there
    CHECK(same_bits(w.grad(), plain));
  }
  CHECK_THROWS_WITH(checkpoint_sequential(blocks, 0, x), ContainsSubstring("0 segments do not fit 12 blocks; give 1 to 12"));
  CHECK_THROWS_WITH(checkpoint_sequential(blocks, 13, x), ContainsSubstring("13 segments do not fit 12 blocks"));
  nn::Sequential net(nn::Linear(4, 8), nn::GELU(), nn::Linear(8, 4));
  const Tensor in = values({2, 4}, -1, 1, 1, DType::f32);
  CHECK(same_bits(checkpoint_sequential(net.layers, 2, in), net(in)));
}

namespace {
// Like CountedSin, but said to be costly.
struct CostlySin : CountedSin {
  static constexpr bool expensive = true;
};
}  // namespace

TEST_CASE("a checkpoint of cheap ops keeps what is costly and runs the rest once more", "[replay]") {
  const Tensor w = leaf({width});
  const auto f = [&] {
    Tensor h = w;
    for (int i = 0; i < 4; ++i) h = tanh(counted_sin(record(CostlySin{}, h)));
    return h;
  };
  backward(sum(f()));
  const Tensor plain = w.grad();
  w.set_grad({});
  const int64_t before = live();
  forwards = 0;
  const Tensor y = checkpoint(CheckpointOptions{.recompute = Recompute::cheap}, f);
  CHECK((live() - before) / one_value() == 5);
  backward(sum(y));
  CHECK(forwards == 8 + 3);  // nobody asks for the last one again
  CHECK(same_bits(w.grad(), plain));
}

TEST_CASE("a function that writes into what it was given is an error", "[replay]") {
  const Tensor w = leaf({width}), x = values({width});
  const auto edit = [&](const Tensor& in) {
    in.mutable_data<double>()[0] = 1;
    return in * w;
  };
  CHECK_THROWS_WITH(checkpoint(edit, x), ContainsSubstring("checkpoint: the function wrote into its input 0 in place"));
  CHECK_THROWS_WITH(
      checkpoint([&](const Tensor& a, const std::vector<Tensor>& b) { return edit(b[1]) * a; }, w, std::vector{w.detach(), x}),
      ContainsSubstring("input 2"));
  CHECK(ctx.region == nullptr);
  const Tensor y = checkpoint([&] { return sin(edit(x)); });  // what is captured is found out when it is needed
  x.mutable_data<double>()[0] = 2;
  CHECK_THROWS_WITH(backward(sum(y)), ContainsSubstring("changed in place"));
}
