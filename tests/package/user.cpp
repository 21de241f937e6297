// Outside the library: a model, an op of one's own, and an error that is caught.
#include <cstdio>

#include <retape/retape.h>

using namespace retape;

struct Mlp : nn::Module {
  nn::Linear up, down;
  Mlp(int64_t dim, int64_t hidden) : up(dim, hidden), down(hidden, 1) {}
  Tensor forward(const Tensor& x) { return down(tanh(up(x))); }
  RETAPE_FIELDS(up, down)
};

struct Cube {  // y = x^3
  static constexpr auto name = "cube";
  Saved x = {};
  Tensor forward(const Tensor& in) {
    x = save(in);
    return in * in * in;
  }
  void backward(const Tensor& dy, Grads& dx) { dx.set(0, dy * square(*x) * 3); }
};

int main() {
  Tensor x = full({2}, 2);
  x.set_requires_grad();
  backward(sum(record(Cube{}, x)));
  if (x.grad().to_vector<float>()[0] != 12) return 1;

  manual_seed(1);
  Mlp model(2, 16);
  AdamW optimizer(model.parameters(), {.lr = 1e-2});
  const Tensor input = rand({64, 2}), target = sum(input, {1}, true);
  double first = 0, last = 0;
  for (int step = 0; step < 200; ++step) {
    const Tensor loss = mean(square(model(input) - target));
    optimizer.zero_grad();
    backward(loss);
    optimizer.step();
    last = loss.item();
    if (step == 0) first = last;
  }
  std::printf("loss %.4f -> %.6f\n", first, last);
  if (!(last < first / 50)) return 2;

  try {
    model(rand({64, 3}));
  } catch (const Error& e) {
    std::printf("%s\n", e.what());
    return 0;
  }
  return 3;
}
