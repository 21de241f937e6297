#include <retape/autograd/functional.h>

#include <fmt/format.h>

#include <retape/autograd/backward.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>

namespace retape {
namespace {

// Inputs that want gradients: with create_graph they keep their own history, else they are leaves of their own.
std::vector<Tensor> inputs_of(const char* name, const std::vector<Tensor>& x, bool create_graph) {
  std::vector<Tensor> in;
  for (const Tensor& t : x) {
    if (!t || !is_floating(t.dtype()))
      throw Error(fmt::format("{}: input {} is {}; it must be a floating tensor", name, in.size(), t ? name_of(t.dtype()) : "undefined"));
    Tensor own = create_graph && t.requires_grad() ? identity(t) : t.detach();
    if (!own.requires_grad()) own.set_requires_grad();
    in.push_back(own);
  }
  return in;
}
Tensor value_of(const char* name, const TensorFunction& f, const std::vector<Tensor>& x) {
  const Tensor y = f(x);
  if (!y || !is_floating(y.dtype()))
    throw Error(fmt::format("{}: the function gave {}; it must give a floating tensor", name, y ? name_of(y.dtype()) : "nothing"));
  return y;
}
Tensor scalar_of(const char* name, const TensorFunction& f, const std::vector<Tensor>& x) {
  const Tensor y = value_of(name, f, x);
  if (y.numel() != 1)
    throw Error(fmt::format("{}: the function gave a tensor of shape {}; it must give one number", name, y.shape().str()));
  return reshape(y, {});
}
void check_like(const char* name, const Tensor& v, const Tensor& x) {
  if (!v || !(v.shape() == x.shape()))
    throw Error(fmt::format("{}: v has shape {} where {} is needed", name, v ? v.shape().str() : "(undefined)", x.shape().str()));
}
void check_like(const char* name, const std::vector<Tensor>& v, const std::vector<Tensor>& x) {
  if (v.size() != x.size()) throw Error(fmt::format("{}: v has {} tensors for {} inputs", name, v.size(), x.size()));
  for (size_t i = 0; i < v.size(); ++i) check_like(name, v[i], x[i]);
}
// Gradients of y, with zeros where there is none.
std::vector<Tensor> gradients(const Tensor& y, const std::vector<Tensor>& x, const Tensor& dy, GradOptions options) {
  auto g = y.requires_grad() ? grad({y}, x, options, dy ? std::vector<Tensor>{dy} : std::vector<Tensor>{}) : std::vector<Tensor>(x.size());
  for (size_t i = 0; i < g.size(); ++i)
    if (!g[i]) g[i] = zeros_like(x[i]);
  return g;
}
Tensor finished(const Tensor& y, bool create_graph) { return create_graph ? y : y.detach(); }

// d y / d x_i for all elements of y, one backward each.
std::vector<Tensor> rows_of_jacobian(const Tensor& y, const std::vector<Tensor>& x, bool create_graph) {
  std::vector<std::vector<Tensor>> rows(x.size());
  const Tensor flat = reshape(y, {-1});
  for (int64_t k = 0; k < flat.numel(); ++k) {
    const auto g = gradients(select(flat, 0, k), x, {}, {.retain_graph = true, .create_graph = create_graph});
    for (size_t i = 0; i < x.size(); ++i) rows[i].push_back(g[i]);
  }
  std::vector<Tensor> out;
  for (size_t i = 0; i < x.size(); ++i) {
    Shape shape = y.shape();
    for (const int64_t n : x[i].shape()) shape.push_back(n);
    out.push_back(rows[i].empty() ? empty(shape, x[i].options()) : reshape(stack(rows[i]), shape));
  }
  return out;
}

}  // namespace

FunctionValue vjp(const TensorFunction& f, const std::vector<Tensor>& x, const Tensor& v, FunctionalOptions options) {
  const Scoped on(ctx.recording, true);
  const auto in = inputs_of("vjp", x, options.create_graph);
  const Tensor y = value_of("vjp", f, in);
  check_like("vjp", v, y);
  return {finished(y, options.create_graph), gradients(y, in, v, {.create_graph = options.create_graph})};
}
FunctionValue jvp(const TensorFunction& f, const std::vector<Tensor>& x, const std::vector<Tensor>& v, FunctionalOptions options) {
  const Scoped on(ctx.recording, true);
  check_like("jvp", v, x);
  const auto in = inputs_of("jvp", x, options.create_graph);
  const Tensor y = value_of("jvp", f, in);
  // u^T J is linear in u: its derivative by u, times v, is J v.
  Tensor u = zeros_like(y).set_requires_grad();
  const auto back = gradients(y, in, u, {.create_graph = true});
  std::vector<Tensor> reached, with;
  for (size_t i = 0; i < back.size(); ++i)
    if (back[i].requires_grad()) reached.push_back(back[i]), with.push_back(v[i]);
  Tensor product = reached.empty() ? Tensor{} : grad(reached, {u}, {.create_graph = options.create_graph}, with)[0];
  if (!product) product = zeros_like(y);
  return {finished(y, options.create_graph), {product}};
}
FunctionValue hvp(const TensorFunction& f, const std::vector<Tensor>& x, const std::vector<Tensor>& v, FunctionalOptions options) {
  const Scoped on(ctx.recording, true);
  check_like("hvp", v, x);
  const auto in = inputs_of("hvp", x, options.create_graph);
  const Tensor y = scalar_of("hvp", f, in);
  const auto first = gradients(y, in, {}, {.create_graph = true});
  std::vector<Tensor> reached, with;
  for (size_t i = 0; i < first.size(); ++i)
    if (first[i].requires_grad()) reached.push_back(first[i]), with.push_back(v[i]);
  auto products = reached.empty() ? std::vector<Tensor>(in.size()) : grad(reached, in, {.create_graph = options.create_graph}, with);
  for (size_t i = 0; i < in.size(); ++i)
    if (!products[i]) products[i] = zeros_like(in[i]);
  return {finished(y, options.create_graph), products};
}

std::vector<Tensor> jacobian(const TensorFunction& f, const std::vector<Tensor>& x, FunctionalOptions options) {
  const Scoped on(ctx.recording, true);
  const auto in = inputs_of("jacobian", x, options.create_graph);
  return rows_of_jacobian(value_of("jacobian", f, in), in, options.create_graph);
}
Tensor jacobian(const std::function<Tensor(const Tensor&)>& f, const Tensor& x, FunctionalOptions options) {
  return jacobian([&](const std::vector<Tensor>& in) { return f(in[0]); }, std::vector<Tensor>{x}, options)[0];
}
std::vector<std::vector<Tensor>> hessian(const TensorFunction& f, const std::vector<Tensor>& x, FunctionalOptions options) {
  const Scoped on(ctx.recording, true);
  const auto in = inputs_of("hessian", x, options.create_graph);
  const auto first = gradients(scalar_of("hessian", f, in), in, {}, {.create_graph = true});
  std::vector<std::vector<Tensor>> blocks;
  for (const Tensor& g : first) blocks.push_back(rows_of_jacobian(g, in, options.create_graph));
  return blocks;
}
Tensor hessian(const std::function<Tensor(const Tensor&)>& f, const Tensor& x, FunctionalOptions options) {
  return hessian([&](const std::vector<Tensor>& in) { return f(in[0]); }, std::vector<Tensor>{x}, options)[0][0];
}

}  // namespace retape
