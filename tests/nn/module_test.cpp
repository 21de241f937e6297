// Modules: names, paths, ties, left-out parameters, state, moves and clones.
#include "../catch.h"

#include <list>
#include <map>
#include <optional>

using namespace retape;
using namespace retape::testing;

namespace {

struct Dense : nn::Module {
  Parameter weight;
  explicit Dense(int64_t n, uint64_t seed = 1) : weight(values({n, n}, -1, 1, seed)) {}
  Tensor forward(const Tensor& x) { return matmul(x, weight); }
  RETAPE_FIELDS(weight)
};
struct Pair : nn::Module {
  Dense qkv, out;
  explicit Pair(int64_t n) : qkv(n), out(n + 1) {}
  Tensor forward(const Tensor& x) { return out(qkv(x)); }
  RETAPE_FIELDS(qkv, out)
};
struct Block : nn::Module {
  std::optional<Dense> skip;
  Dense up;
  Pair attn;
  Buffer mean{zeros({3})};
  explicit Block(int64_t n) : up(n), attn(n) {}
  Tensor forward(const Tensor& x) { return attn(up(x)); }
  RETAPE_FIELDS(skip, up, attn, mean)
};
struct Decoder : nn::Module {
  std::vector<Block> blocks;
  explicit Decoder(int n) {
    for (int i = 0; i < n; ++i) blocks.emplace_back(3);
  }
  Tensor forward(Tensor x) {
    for (auto& b : blocks) x = b(x);
    return x;
  }
  RETAPE_FIELDS(blocks)
};
// A language model in miniature: the head is the embedding's weight.
struct Tied : nn::Module {
  Parameter table{values({5, 2}, -1, 1, 7)};
  Dense mix{2};
  Parameter head{values({5, 2}, -1, 1, 8)};
  Buffer scale{full({2}, 3, {DType::f64})};
  Buffer cache{full({1}, 1, {DType::f64}), false};
  Tied() { head = table; }
  Tensor forward(const Tensor& x) { return matmul(mix(matmul(x, table) * scale), transpose(head)); }
  RETAPE_FIELDS(table, mix, head, scale, cache)
};
struct Everything : nn::Module {
  std::array<Dense, 2> pair{Dense(1), Dense(2)};
  std::vector<std::vector<Dense>> grid;
  std::vector<Parameter> loose;
  std::unique_ptr<Dense> owned = std::make_unique<Dense>(1), absent;
  Dense plain[2]{Dense(1), Dense(1)};
  Parameter none;
  Everything() {
    grid.resize(2);
    grid[1].emplace_back(3);
    loose.emplace_back(values({2}));
  }
  RETAPE_FIELDS(pair, grid, loose, owned, absent, plain, none)
};

std::vector<std::string> names(const nn::NamedTensors& tensors) {
  std::vector<std::string> out;
  for (auto& t : tensors) out.push_back(t.first);
  return out;
}
using Names = std::vector<std::string>;

}  // namespace

TEST_CASE("modules are values: names follow the fields, and a moved module keeps its parameters") {
  Decoder first(3);
  const Decoder m = std::move(first);
  const auto p = m.named_parameters();
  REQUIRE(p.size() == 9);
  CHECK(p[4].first == "blocks.1.attn.qkv.weight");
  CHECK(m.named_buffers()[2].first == "blocks.2.mean");
  CHECK(m.state_dict().size() == 12);
  CHECK(m.num_parameters() == 3 * (9 + 9 + 16));
}

TEST_CASE("names change with the container that holds the modules") {
  Decoder m(3);
  m.blocks.erase(m.blocks.begin());
  m.blocks[1].skip.emplace(3);
  const auto n = names(m.named_parameters());
  CHECK(n[0] == "blocks.0.up.weight");
  CHECK(n[3] == "blocks.1.skip.weight");
}

TEST_CASE("fields may be arrays, nested vectors, vectors of parameters and owning pointers") {
  const Everything m;
  CHECK(names(m.state_dict()) ==
        Names{"pair.0.weight", "pair.1.weight", "grid.1.0.weight", "loose.0", "owned.weight", "plain.0.weight", "plain.1.weight"});
}

namespace {
struct Wide : nn::Module {
#define RETAPE_TEN(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9)
#define RETAPE_DECLARE(i)                                                                                                                 \
  Parameter a##i{zeros({1})}, b##i{zeros({1})}, c##i{zeros({1})}, d##i{zeros({1})}, e##i{zeros({1})}, f##i{zeros({1})}, g##i{zeros({1})}, \
      h##i{zeros({1})};
  RETAPE_TEN(RETAPE_DECLARE)
  RETAPE_FIELDS(a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, d0,
                d1, d2, d3, d4, d5, d6, d7, d8, d9, e0, e1, e2, e3, e4, e5, e6, e7, e8, e9, f0, f1, f2, f3, f4, f5, f6, f7, f8, f9, g0, g1,
                g2, g3, g4, g5, g6, g7, g8, g9, h0, h1, h2, h3, h4, h5, h6, h7, h8, h9)
};
}  // namespace
TEST_CASE("a module may list 80 fields") {
  const auto n = names(Wide().named_parameters());
  REQUIRE(n.size() == 80);
  CHECK(n.back() == "h9");
}

TEST_CASE("an error names the module in which it happened") {
  Decoder m(3);
  CHECK_THAT(error_of([&] { m(values({2, 3})); }), ContainsSubstring("(in blocks.0.attn.out)"));
  m.blocks[0].attn.out = Dense(3);
  CHECK_THAT(error_of([&] { m(values({2, 3})); }), ContainsSubstring("(in blocks.1.attn.out)"));
  CHECK(error_of([&] { m.blocks[1].attn.qkv(values({2, 2})); }).find("(in") == std::string::npos);  // it runs alone: there is no path
}

// ---- parameters that were forgotten ----------------------------------------------------------------------------------------

namespace {
struct LeftOut : nn::Module {
  Dense a{2}, b{2};
  Parameter scale{values({2})};
  Tensor forward(const Tensor& x) { return b(a(x)) * scale; }
  RETAPE_FIELDS(a, b)
};
struct LeftOutChild : LeftOut {
  RETAPE_FIELDS(a, scale)
};
struct Outer : nn::Module {
  LeftOut inner;
  RETAPE_FIELDS(inner)
};
struct LeftOutOnHeap : nn::Module {
  std::vector<Dense> layers;
  std::list<Parameter> loose;
  Parameter listed_one{values({2})};
  Tensor forward(const Tensor& x) { return layers.empty() ? x * loose.front() : layers[0](x); }
  RETAPE_FIELDS(listed_one)
};
struct Alias : nn::Module {
  Parameter weight{values({2})}, same = weight;
  RETAPE_FIELDS(weight)
};
struct Growing : nn::Module {
  std::optional<Dense> late;
  Tensor forward(const Tensor& x) {
    const nn::ReLU activation;  // has nothing to train: need not be listed
    return activation((*late)(x));
  }
  RETAPE_FIELDS(late)
};
}  // namespace

TEST_CASE("a Parameter inside a module that RETAPE_FIELDS forgot is found by every traversal") {
  LeftOut m;
  CHECK_THAT(error_of([&] { m.parameters(); }), ContainsSubstring("LeftOut: the Parameter of shape [2] at byte"));
  CHECK_THAT(error_of([&] { m.to(DType::f32); }), ContainsSubstring("not in its RETAPE_FIELDS"));
  CHECK_THAT(error_of([&] { m.train(); }), ContainsSubstring("not in its RETAPE_FIELDS"));
  LeftOutChild child;
  CHECK_THAT(error_of([&] { child.state_dict(); }), ContainsSubstring("LeftOutChild: the Parameter of shape [2, 2] at byte"));
  Outer outer;
  CHECK_THAT(error_of([&] { outer.parameters(); }), ContainsSubstring("LeftOut inner: the Parameter of shape [2]"));
}

TEST_CASE("a Parameter on the heap that RETAPE_FIELDS forgot is found when it is used") {
  LeftOutOnHeap module, parameter;
  module.layers.emplace_back(2);
  parameter.loose.emplace_back(values({2}));
  const Tensor x = values({2, 2});
  CHECK_NOTHROW(module(x));  // nobody has asked for its parameters yet
  module.parameters();
  parameter.parameters();
  CHECK_THAT(error_of([&] { module(x); }), ContainsSubstring("Dense: runs inside LeftOutOnHeap, but no RETAPE_FIELDS lists it"));
  CHECK_THAT(error_of([&] { parameter(x); }),
             ContainsSubstring("mul: LeftOutOnHeap reads a Parameter of shape [2] that no RETAPE_FIELDS lists"));
  const NoGrad off;  // nothing would be trained anyway
  CHECK_NOTHROW(module(x));
  CHECK_NOTHROW(parameter(x));
}

TEST_CASE("what is tied to a listed parameter, frozen, without parameters or added later is no mistake") {
  CHECK(Alias().parameters().size() == 1);
  Growing m;
  CHECK(m.parameters().empty());
  m.late.emplace(2);
  CHECK_NOTHROW(m(values({2, 2})));
  LeftOutOnHeap frozen;
  frozen.layers.emplace_back(2);
  frozen.parameters();
  frozen.layers[0].freeze();
  CHECK_NOTHROW(frozen(values({2, 2})));
}

// ---- ties ----------------------------------------------------------------------------------------------------------------

TEST_CASE("tied parameters are listed once and saved under both names") {
  const Tied m;
  CHECK(names(m.named_parameters()) == Names{"table", "mix.weight"});
  CHECK(m.parameters().size() == 2);
  CHECK(m.num_parameters() == 14);
  CHECK(names(m.state_dict()) == Names{"table", "mix.weight", "head", "scale"});
  CHECK(names(m.named_buffers()) == Names{"scale", "cache"});
}

TEST_CASE("both uses of a tied parameter add to one gradient") {
  Tied m;
  const Tensor x = values({3, 5});
  backward(sum(m(x)));
  const Tensor tied = m.table->grad();
  CHECK(m.head->grad().shares_storage(tied));
  Tied apart;
  apart.head = Parameter(clone(apart.table));
  backward(sum(apart(x)));
  CHECK(difference(tied, apart.table->grad() + apart.head->grad(), DType::f64) <= 1);
}

TEST_CASE("to() keeps ties, references held by optimizers, and gradients") {
  Tied m;
  const auto held = m.parameters();
  backward(sum(m(values({3, 5}))));
  const auto before = m.table->to_vector<float>(), grad = m.table->grad().to_vector<float>();
  m.to(DType::f32);
  CHECK(m.table.tensor().impl() == m.head.tensor().impl());
  CHECK(held[0].impl() == m.table.tensor().impl());
  CHECK(held[0].dtype() == DType::f32);
  CHECK(held[0].requires_grad());
  CHECK(held[0].to_vector<float>() == before);
  CHECK(held[0].grad().dtype() == DType::f32);
  CHECK(held[0].grad().to_vector<float>() == grad);
  CHECK(m.scale->dtype() == DType::f32);
  CHECK_THROWS_AS(m.to(DType::i64), Error);
}

TEST_CASE("a weight that was converted between forward and backward is an error") {
  Tied m;
  const Tensor y = sum(m(values({3, 5})));
  m.to(DType::f32);
  CHECK_THROWS_AS(backward(y), Error);
}

namespace {
template <class P, class T> constexpr bool adds_in_place = requires(P& p, const T& t) { p += t; };
template <class P, class T> constexpr bool puts_in_place = requires(P& p, const T& t) { p.put({Index(0)}, t); };
}  // namespace
TEST_CASE("arithmetic reads a Parameter like a tensor, and assigning a sum to it does not compile") {
  const Parameter p(values({2}));
  Tensor x = values({2});
  x += p;
  CHECK(difference(x, add(p, p.tensor()), DType::f64) <= 1);
  CHECK(maximum(p, 0).shape() == Shape{2});
  CHECK(sum(p * 2.0 + p * p - p / 2.0).numel() == 1);
  STATIC_REQUIRE(!adds_in_place<Parameter, Tensor>);
  STATIC_REQUIRE((puts_in_place<Tensor, Tensor> && puts_in_place<Tensor, double>));
  STATIC_REQUIRE((!puts_in_place<Parameter, Tensor> && !puts_in_place<Parameter, double> && !puts_in_place<const Tensor, Tensor>));
  STATIC_REQUIRE(!std::is_assignable_v<Parameter&, Tensor>);
}

// ---- state ---------------------------------------------------------------------------------------------------------------

TEST_CASE("load_state_dict restores what state_dict gave, in place") {
  Tied from, to;
  nn::init::normal(from.table);
  nn::init::normal(from.mix.weight);
  from.scale = full({2}, 5, {DType::f64});
  const auto held = to.parameters();
  const auto report = to.load_state_dict(from.state_dict());
  CHECK((report.missing.empty() && report.unexpected.empty()));
  CHECK(same_bits(to.table, from.table));
  CHECK(same_bits(to.mix.weight, from.mix.weight));
  CHECK(same_bits(to.scale, from.scale));
  CHECK(held[0].impl() == to.head.tensor().impl());
  CHECK(!to.table->shares_storage(from.table));
  std::map<std::string, Tensor> map;
  for (auto& [name, value] : from.state_dict()) map[name] = value;
  map.erase("head");  // tied to table, which is there
  Tied again;
  CHECK(again.load_state_dict(map).missing.empty());
  CHECK(same_bits(again.head, from.table));
}

TEST_CASE("a state that does not fit changes nothing, and one error lists all that is wrong") {
  Tied m;
  const Tensor before = clone(m.table), scale = clone(m.scale);
  auto state = Tied().state_dict();
  nn::NamedTensors bad;
  bad.emplace_back("table", zeros({5, 2}, {DType::f64}));
  bad.emplace_back("mix.weight", zeros({3, 2}, {DType::f64}));
  bad.emplace_back("head", ones({5, 2}, {DType::f64}));
  bad.emplace_back("sclae", zeros({2}));
  const std::string error = error_of([&] { m.load_state_dict(bad); });
  CHECK_THAT(error, ContainsSubstring("mix.weight has shape [3, 2], expected [2, 2]"));
  CHECK_THAT(error, ContainsSubstring("table and head are tied, but their values differ"));
  CHECK_THAT(error, ContainsSubstring("missing scale"));
  CHECK_THAT(error, ContainsSubstring("unexpected sclae"));
  CHECK(same_bits(m.table, before));
  CHECK(same_bits(m.scale, scale));

  state[3].second = zeros({2}, {DType::f32});
  CHECK_THAT(error_of([&] { m.load_state_dict(state); }), ContainsSubstring("scale has dtype f32, expected f64"));
  CHECK(same_bits(m.table, before));
  m.load_state_dict(state, {.convert_dtype = true});
  CHECK(m.scale->to_vector<double>() == std::vector<double>{0, 0});
  CHECK(m.scale->dtype() == DType::f64);

  state[3].second = Tensor();
  CHECK_THAT(error_of([&] { m.load_state_dict(state); }), ContainsSubstring("scale has no data"));
  state[3] = state[0];
  CHECK_THAT(error_of([&] { m.load_state_dict(state); }), ContainsSubstring("table is given twice"));
}

TEST_CASE("a load that is not strict reports what was missing and unexpected") {
  Tied m;
  const auto report = m.load_state_dict({{"scale", full({2}, 9, {DType::f64})}, {"other", zeros({1})}}, {.strict = false});
  CHECK(report.missing == Names{"table", "mix.weight", "head"});
  CHECK(report.unexpected == Names{"other"});
  CHECK(m.scale->to_vector<double>() == std::vector<double>{9, 9});
}

// ---- modes, devices, copies ------------------------------------------------------------------------------------------------

TEST_CASE("train, eval, freeze and zero_grad reach every module below") {
  Decoder m(2);
  m.blocks[0].attn.out = Dense(3);
  m.blocks[1].attn.out = Dense(3);
  CHECK(m.blocks[1].attn.qkv.is_training());
  m.eval();
  CHECK(!m.blocks[1].attn.qkv.is_training());
  m.train();
  CHECK(m.blocks[1].attn.qkv.is_training());
  backward(sum(m(values({2, 3}))));
  CHECK(m.blocks[0].up.weight->grad());
  m.zero_grad();
  CHECK(!m.blocks[0].up.weight->grad());
  m.blocks[0].freeze();
  backward(sum(m(values({2, 3}))));
  CHECK(!m.blocks[0].attn.out.weight->grad());
  CHECK(m.blocks[1].attn.out.weight->grad());
  m.set_requires_grad();
  CHECK(m.blocks[0].up.weight->requires_grad());
}

TEST_CASE("a module on meta has shapes and no bytes, and returns through to_empty and a state") {
  Tied m;
  const Tied source;
  m.to(Device::meta());
  CHECK(m.table->device().is_meta());
  CHECK(m.scale->device().is_meta());
  CHECK(m(empty({3, 5}, {DType::f64, Device::meta()})).shape() == Shape{3, 5});
  CHECK(m.num_parameters() == 14);
  CHECK_THAT(error_of([&] { m.load_state_dict(source.state_dict()); }), ContainsSubstring("table is on the meta device"));
  m.to_empty(Device::cpu());
  m.load_state_dict(source.state_dict());
  CHECK(same_bits(m.head, source.table));
}

TEST_CASE("a scope decides where and as what new layers are made") {
  const auto before = memory_stats().live;
  {
    const nn::DefaultOptions on_meta({.dtype = DType::bf16, .device = Device::meta()});
    const nn::Linear huge(int64_t{1} << 20, int64_t{1} << 20);
    CHECK(huge.num_parameters() == (int64_t{1} << 40) + (int64_t{1} << 20));
    CHECK(huge.weight->dtype() == DType::bf16);
  }
  CHECK(memory_stats().live == before);
  CHECK(nn::Linear(2, 2).weight->device().is_cpu());
}

TEST_CASE("a clone has its own parameters, tied as in the original") {
  Tied m;
  m.eval();
  m.mix.freeze();
  Tied copy = m.clone();
  CHECK(!copy.is_training());
  CHECK(copy.table.tensor().impl() == copy.head.tensor().impl());
  CHECK(!copy.table->shares_storage(m.table));
  CHECK(!copy.scale->shares_storage(m.scale));
  CHECK(same_bits(copy.table, m.table));
  CHECK(copy.table->requires_grad());
  CHECK(!copy.mix.weight->requires_grad());
  CHECK(names(copy.state_dict()) == names(m.state_dict()));
  CHECK(names(copy.named_buffers()) == names(m.named_buffers()));
  nn::init::zeros(copy.table);
  CHECK(!same_bits(copy.table, m.table));
  const Tensor x = values({3, 5});
  copy.load_state_dict(m.state_dict());
  CHECK(same_bits(copy(x), m(x)));
}

TEST_CASE("copying a module by accident is an error") {
  const Dense m(2);
  CHECK_THAT(error_of([&] { const Dense copy = m; }), ContainsSubstring("Dense: copied by accident"));
  STATIC_REQUIRE(!std::is_copy_assignable_v<Dense>);
}

TEST_CASE("apply visits modules of a type, those below first") {
  Decoder m(2);
  std::vector<int64_t> sizes;
  m.apply<Dense>([&](Dense& d) { sizes.push_back(d.weight->size(0)); });
  CHECK(sizes == std::vector<int64_t>{4, 3, 3, 4, 3, 3});
  Names types;
  m.apply([&](nn::Module& any) { types.push_back(any.type_name()); });
  CHECK(types.size() == 11);
  CHECK(types.back() == "Decoder");
}

TEST_CASE("modules can be made, used and destroyed by several threads") {
  std::vector<size_t> counts(64);
#pragma omp parallel for
  for (int i = 0; i < 64; ++i) {
    Decoder m(2);
    counts[size_t(i)] = m.parameters().size();
  }
  CHECK(counts == std::vector<size_t>(64, 6));
}

TEST_CASE("a const module runs if its forward is const") {
  const nn::Linear m(3, 2);
  CHECK(m(ones({4, 3})).shape() == Shape{4, 2});
}

// ---- hooks --------------------------------------------------------------------------------------------------------------

namespace {
struct TwoResults : nn::Module {
  nn::Linear layer{2, 2, {.bias = false}};
  std::pair<Tensor, int> forward(const Tensor& x, int times) { return {layer(x) * times, times}; }
  RETAPE_FIELDS(layer)
};
}  // namespace

TEST_CASE("forward hooks see inputs and outputs and may replace them", "[hooks]") {
  TwoResults m;
  nn::init::constant(m.layer.weight, 1);
  std::vector<std::string> order;
  m.register_forward_pre_hook([&](nn::Module& module, std::vector<Tensor>& in) {
    order.push_back("pre " + module.type_name());
    in.at(0) = in[0] + 1;
  });
  auto handle = m.register_forward_hook([&](nn::Module&, const std::vector<Tensor>& in, std::vector<Tensor>& out) {
    order.push_back("after");
    CHECK(in.at(0).to_vector<float>() == std::vector<float>{2, 3});
    CHECK(out.size() == 1);
    out[0] = out[0] + 100;
  });
  const auto [y, n] = m(tensor<float>({1, 2}), 2);
  CHECK(y.to_vector<float>() == std::vector<float>{110, 110});
  CHECK(n == 2);
  CHECK(order == std::vector<std::string>{"pre TwoResults", "after"});
  handle.remove();
  CHECK(m(tensor<float>({1, 2}), 2).first.to_vector<float>() == std::vector<float>{10, 10});
  CHECK(m.clone()(tensor<float>({1, 2}), 2).first.to_vector<float>() == std::vector<float>{6, 6});  // a clone has no hooks
}

TEST_CASE("backward hooks see the gradients of inputs and outputs and may replace them", "[hooks]") {
  nn::Linear m(2, 1, {.bias = false});
  nn::init::constant(m.weight, 3);
  std::vector<double> seen;
  m.register_full_backward_pre_hook([](std::vector<Tensor>& grad_outputs) { grad_outputs.at(0) = grad_outputs[0] * 2; });
  m.register_full_backward_hook([&](std::vector<Tensor>& grad_inputs, const std::vector<Tensor>& grad_outputs) {
    seen.push_back(sum(grad_outputs.at(0)).item());
    if (grad_inputs.empty()) return;
    seen.push_back(sum(grad_inputs[0]).item());
    grad_inputs[0] = grad_inputs[0] * -1;
  });
  Tensor x = tensor<float>({1, 2}, {1, 2});
  x.set_requires_grad();
  backward(sum(m(x)));
  CHECK(seen == std::vector<double>{2, 12});
  CHECK(x.grad().to_vector<float>() == std::vector<float>{-6, -6});
  CHECK(m.weight->grad().to_vector<float>() == std::vector<float>{2, 4});
  seen.clear();
  backward(sum(m(tensor<float>({1, 2}, {1, 2}))));  // plain data goes in: no gradient of inputs
  CHECK(seen == std::vector<double>{2});
}

TEST_CASE("hooks that change how many tensors there are are errors", "[hooks]") {
  nn::Linear m(2, 1);
  auto handle = m.register_forward_pre_hook([](nn::Module&, std::vector<Tensor>& in) { in.clear(); });
  CHECK_THAT(error_of([&] { m(zeros({1, 2})); }), ContainsSubstring("Linear: a forward pre-hook changed the number of inputs from 1 to 0"));
  handle.remove();
  m.register_forward_hook([](nn::Module&, const std::vector<Tensor>&, std::vector<Tensor>& out) { out.push_back({}); });
  CHECK_THAT(error_of([&] { m(zeros({1, 2})); }), ContainsSubstring("a forward hook changed the number of outputs from 1 to 2"));
}
