// MultiheadAttention against numbers from PyTorch; see layers_test.cpp for wave() and for the parameters' values.
#include "golden.h"

using namespace retape;
using namespace retape::testing;

namespace {
const Tensor query() { return wave({2, 3, 4}, 0.1); }
const Tensor key() { return wave({2, 5, 4}, 0.2); }
const Tensor value() { return wave({2, 5, 4}, 0.4); }
// nn.MultiheadAttention(4, 2, **options).eval()
nn::MultiheadAttention attention(nn::MultiheadAttentionOptions options) {
  const nn::DefaultOptions f64({.dtype = DType::f64});
  nn::MultiheadAttention m(4, 2, options);
  waved(m);
  m.eval();
  return m;
}
// What need_weights says must not change the result.
Tensor output(nn::MultiheadAttention& m, const Tensor& q, const Tensor& k, const Tensor& v, nn::MultiheadAttentionInputs inputs) {
  inputs.need_weights = false;
  const auto fused = m(q, k, v, inputs);
  CHECK(!fused.weights);
  inputs.need_weights = true;
  const auto full = m(q, k, v, inputs);
  CHECK(difference(fused.output, full.output, DType::f64) <= 1);
  return fused.output;
}
const Tensor left_out = tensor<bool>({0, 0, 0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 0}, {3, 5});
const Tensor padding = tensor<bool>({0, 0, 0, 0, 1, 1, 0, 0, 0, 0}, {2, 5});
}  // namespace

TEST_CASE("MultiheadAttention is PyTorch's") {
  auto m = attention({.batch_first = true});
  CHECK(matches(
      output(m, query(), key(), value(), {}), {2, 3, 4},
      {2.48924902198, -1.32458714295, 3.2376527995,  -3.01660224318, 0.670580765074, 0.760594123266,  1.12691230966, -1.12420981965,
       2.49610466217, -1.36797046851, 3.31255063642, -3.11435974806, 1.47601178344,  -0.28094679841,  2.28420754154, -2.26352774243,
       2.9666959838,  -1.75299853944, 3.56752341522, -3.20981377402, 1.77173728286,  -0.420754869021, 2.2519426172,  -2.06291820674}));
  CHECK(matches(m(query(), key(), value()).weights, {2, 3, 5},
                {0.00788886873895, 0.0431266733742,  0.135331156279, 0.00142160231996, 0.812231699288,   0.403799698115,
                 0.0324738632701,  0.0235606733135,  0.538883376264, 0.00128238903766, 0.0235125893411,  0.0443921822742,
                 0.161735651081,   0.00149678575816, 0.768862791546, 0.435875734233,   0.00140449276794, 0.432985324239,
                 0.0045741260961,  0.125160322664,   0.10367248246,  0.398187962987,   0.118190496289,   0.257253128524,
                 0.122695929741,   0.170544152456,   0.140073124803, 0.286639880397,   0.0772977406655,  0.325445101678}));
  const Tensor q = query();
  CHECK(matches(
      output(m, q, q, q, {}), {2, 3, 4},
      {2.97209318812, -1.73260092145,  3.52368802817, -3.14760603002, 0.392568524273, 1.02601853726,   0.904746925207, -0.970975856532,
       3.12519242148, -1.85969726248,  3.61009481868, -3.18333850581, 1.752010932,    -0.369305963063, 2.17471635086,  -1.96883848583,
       2.0308086141,  -0.911489207118, 2.91763299933, -2.82664056867, 2.40939256436,  -0.769065065254, 2.27065863244,  -1.74987730588}));
  CHECK(difference(m(q, clone(q), q).output, m(q, q, q).output, DType::f64) <= 1);  // with and without one projection for all three
}

TEST_CASE("MultiheadAttention has PyTorch's parameter names, shapes and initial values") {
  const nn::MultiheadAttention m(4, 2);
  const auto state = m.state_dict();
  REQUIRE(state.size() == 4);
  CHECK((state[0].first == "in_proj_weight" && state[0].second.shape() == Shape{12, 4}));
  CHECK((state[1].first == "in_proj_bias" && state[1].second.shape() == Shape{12}));
  CHECK((state[2].first == "out_proj.weight" && state[2].second.shape() == Shape{4, 4}));
  CHECK((state[3].first == "out_proj.bias" && state[3].second.shape() == Shape{4}));
  CHECK(state[1].second.to_vector<double>() == std::vector<double>(12, 0));
  CHECK(state[3].second.to_vector<double>() == std::vector<double>(4, 0));
  const auto v = nn::MultiheadAttention(64, 2).in_proj_weight->to_vector<double>();
  const auto [low, high] = std::minmax_element(v.begin(), v.end());
  const double bound = std::sqrt(6.0 / (4 * 64));
  CHECK((*low >= -bound && *low<-0.99 * bound&& * high <= bound&& * high> 0.99 * bound));
}

TEST_CASE("MultiheadAttention leaves out what bool masks mark with true") {
  auto m = attention({.batch_first = true});
  CHECK(matches(
      output(m, query(), key(), value(), {.key_padding_mask = padding, .attn_mask = left_out}), {2, 3, 4},
      {3.53030646103, -2.29466067239, 4.02464526352, -3.52957247681, 0.654098599779, 0.759507976784,  1.14544125792, -1.15804045115,
       3.74537534629, -2.43897231992, 4.0815236949,  -3.49244508679, 1.61701350087,  -0.564203573665, 2.67698754769, -2.7204431607,
       3.31772517618, -1.92980556894, 3.5496772892,  -2.99937670727, 1.58319448176,  -0.284087655594, 2.18294361484, -2.06956061715}));
  CHECK(matches(m(query(), key(), value(), {.key_padding_mask = padding, .attn_mask = left_out}).weights, {2, 3, 5},
                {0.0345374226356,
                 0.343445112621,
                 0.622017464744,
                 0,
                 0,
                 0.407905088615,
                 0,
                 0.023793772595,
                 0.56830113879,
                 0,
                 0,
                 0.39035428563,
                 0.599855298204,
                 0.00979041616581,
                 0,
                 0,
                 0.00431805070645,
                 0.995681949294,
                 0,
                 0,
                 0,
                 0,
                 0.306767628197,
                 0.693232371803,
                 0,
                 0,
                 0.157588712443,
                 0.359724171676,
                 0.0876742601173,
                 0.395012855764}));
}

TEST_CASE("MultiheadAttention adds floating masks to the scores, one for each head if they are given so") {
  auto m = attention({.batch_first = true});
  const Tensor mask = wave({4, 3, 5}, 0.9);
  CHECK(matches(
      output(m, query(), key(), value(), {.key_padding_mask = padding, .attn_mask = mask}), {2, 3, 4},
      {3.18150607796, -2.0102688217,  3.83752493613, -3.46134642179, 0.394261287519, 0.980863603842,  0.988146136083, -1.08298212247,
       3.41722932328, -2.21525147731, 3.98808016593, -3.54007676824, 1.66793085219,  -0.618450240975, 2.72829504007,  -2.7628826245,
       3.22706618552, -1.90718207036, 3.59770354829, -3.11250303435, 1.84402640093,  -0.646326696573, 2.60473112981,  -2.50215681542}));
  const Tensor w = m(query(), key(), value(), {.key_padding_mask = padding, .attn_mask = mask, .average_attn_weights = false}).weights;
  CHECK(w.shape() == Shape{2, 2, 3, 5});
  CHECK(matches(select(select(w, 0, 0), 0, 0), {3, 5},
                {0.0603083091828, 0.00330950875772, 0.936210136392, 0.000172045667406, 0, 0.00340378424814, 0.01946192971, 0.00019202208815,
                 0.976942263954, 0, 0.26449096353, 0.0234769361782, 0.710416712209, 0.0016153880829, 0}));
}

TEST_CASE("causal MultiheadAttention sees earlier keys only, also together with masks") {
  auto m = attention({.batch_first = true});
  const Tensor q = query();
  CHECK(matches(
      output(m, q, q, q, {.is_causal = true}), {2, 3, 4},
      {1.62140819715, -0.809531718601, 3.13490016932, -3.3380260201,  0.373112137692, 1.05020907928,   0.878617573551, -0.945927080791,
       3.12519242148, -1.85969726248,  3.61009481868, -3.18333850581, 2.30523104478,  -0.640626479359, 2.13278474195,  -1.61850017215,
       2.06847711239, -0.802336500092, 2.67427226283, -2.47719343015, 2.40939256436,  -0.769065065254, 2.27065863244,  -1.74987730588}));
  CHECK(matches(m(q, q, q, {.is_causal = true}).weights, {2, 3, 3},
                {1, 0, 0, 0.520981199178, 0.479018800822, 0, 0.0785117901395, 0.26280921827, 0.658678991591, 1, 0, 0, 0.248019251018,
                 0.751980748982, 0, 0.192598693458, 0.393680833198, 0.413720473345}));
  const Tensor none = zeros({3, 3}, {DType::boolean});
  CHECK(matches(
      output(m, q, q, q, {.attn_mask = none, .is_causal = true}), {2, 3, 4},
      {1.62140819715, -0.809531718601, 3.13490016932, -3.3380260201,  0.373112137692, 1.05020907928,   0.878617573551, -0.945927080791,
       3.12519242148, -1.85969726248,  3.61009481868, -3.18333850581, 2.30523104478,  -0.640626479359, 2.13278474195,  -1.61850017215,
       2.06847711239, -0.802336500092, 2.67427226283, -2.47719343015, 2.40939256436,  -0.769065065254, 2.27065863244,  -1.74987730588}));
  CHECK(matches(
      output(m, q, q, q, {.attn_mask = zeros({3, 3}), .is_causal = true}), {2, 3, 4},
      {1.62140819715, -0.809531718601, 3.13490016932, -3.3380260201,  0.373112137692, 1.05020907928,   0.878617573551, -0.945927080791,
       3.12519242148, -1.85969726248,  3.61009481868, -3.18333850581, 2.30523104478,  -0.640626479359, 2.13278474195,  -1.61850017215,
       2.06847711239, -0.802336500092, 2.67427226283, -2.47719343015, 2.40939256436,  -0.769065065254, 2.27065863244,  -1.74987730588}));
}

TEST_CASE("MultiheadAttention takes keys and values of other sizes") {
  auto m = attention({.bias = false, .kdim = 3, .vdim = 2, .batch_first = true});
  const auto state = m.state_dict();
  REQUIRE(state.size() == 4);
  CHECK((state[0].first == "q_proj_weight" && state[1].first == "k_proj_weight" && state[2].first == "v_proj_weight" &&
         state[3].first == "out_proj.weight"));
  CHECK(matches(output(m, query(), wave({2, 5, 3}, 0.2), wave({2, 5, 2}, 0.4), {}), {2, 3, 4},
                {-0.127810757037,  -0.192003473221, 0.489630680947,   -0.730678459309, -0.35065473474,   0.203444349127,
                 -0.0327248869204, -0.141776110022, -0.0860141696225, -0.2347889672,   0.528460990099,   -0.761066534886,
                 -0.320278858056,  0.663445470589,  -0.929947430352,  1.08898901846,   0.253232810813,   -0.0533266896031,
                 -0.152741614217,  0.341159812134,  0.612828660323,   -0.27260424302,  -0.0991210444529, 0.459392368048}));
}

TEST_CASE("MultiheadAttention takes time first, or no batch") {
  auto m = attention({});
  CHECK(matches(
      output(m, transpose(query(), 0, 1), transpose(key(), 0, 1), transpose(value(), 0, 1), {}), {3, 2, 4},
      {2.48924902198,  -1.32458714295, 3.2376527995,  -3.01660224318, 1.47601178344, -0.28094679841,  2.28420754154, -2.26352774243,
       0.670580765074, 0.760594123266, 1.12691230966, -1.12420981965, 2.9666959838,  -1.75299853944,  3.56752341522, -3.20981377402,
       2.49610466217,  -1.36797046851, 3.31255063642, -3.11435974806, 1.77173728286, -0.420754869021, 2.2519426172,  -2.06291820674}));
  const Tensor q = select(query(), 0, 0), k = select(key(), 0, 0), v = select(value(), 0, 0);
  CHECK(matches(output(m, q, k, v, {}), {3, 4},
                {2.48924902198, -1.32458714295, 3.2376527995, -3.01660224318, 0.670580765074, 0.760594123266, 1.12691230966, -1.12420981965,
                 2.49610466217, -1.36797046851, 3.31255063642, -3.11435974806}));
  CHECK(m(q, k, v).weights.shape() == Shape{3, 5});
  CHECK(m(q, k, v, {.key_padding_mask = zeros({5}, {DType::boolean})}).output.shape() == Shape{3, 4});
}

TEST_CASE("a query of MultiheadAttention that may attend to nothing gets the output's bias") {
  auto m = attention({.batch_first = true});
  const Tensor all = ones({3, 5}, {DType::boolean});
  const Tensor y = output(m, query(), key(), value(), {.attn_mask = all});
  CHECK(difference(y, expand(m.out_proj.bias, {2, 3, 4}), DType::f64) <= 1);
}

TEST_CASE("MultiheadAttention drops weights while training only") {
  const nn::DefaultOptions f64({.dtype = DType::f64});
  nn::MultiheadAttention m(4, 2, {.dropout = 0.5, .batch_first = true});
  const Tensor q = query();
  const auto w = m(q, q, q, {.average_attn_weights = false}).weights.to_vector<double>();
  CHECK(std::count(w.begin(), w.end(), 0.0) > 5);
  m.eval();
  const auto e = m(q, q, q).weights.to_vector<double>();
  CHECK(std::count(e.begin(), e.end(), 0.0) == 0);
}

TEST_CASE("gradients reach all parameters of MultiheadAttention, the same with and without stored weights") {
  auto fused = attention({.batch_first = true}), full = fused.clone();
  const Tensor q = query();
  backward(sum(square(fused(q, q, q, {.attn_mask = slice(left_out, 1, 0, 3), .need_weights = false}).output)));
  backward(sum(square(full(q, q, q, {.attn_mask = slice(left_out, 1, 0, 3)}).output)));
  const auto a = fused.parameters(), b = full.parameters();
  for (size_t i = 0; i < a.size(); ++i) {
    REQUIRE(a[i].grad());
    CHECK(difference(a[i].grad(), b[i].grad(), DType::f64) <= 1);
  }
}

TEST_CASE("a mask of MultiheadAttention may be learned") {
  const auto gradient = [](bool need_weights) {
    auto m = attention({.batch_first = true});
    Tensor bias = wave({3, 5}, 0.9).set_requires_grad();
    const auto out = m(query(), key(), value(), {.attn_mask = bias, .need_weights = need_weights});
    CHECK(bool(out.weights) == need_weights);
    backward(sum(square(out.output)));
    return bias.grad();
  };
  CHECK(same_bits(gradient(false), gradient(true)));
}

TEST_CASE("MultiheadAttention refuses what does not fit") {
  auto m = attention({.batch_first = true});
  const Tensor q = query(), k = key(), v = value();
  CHECK_THROWS_AS(nn::MultiheadAttention(5, 2), Error);
  CHECK_THROWS_AS(nn::MultiheadAttention(4, 0), Error);
  CHECK_THROWS_AS(nn::MultiheadAttention(4, 2, {.dropout = 2}), Error);
  CHECK_THROWS_AS(m(q, k, slice(v, 1, 0, 4)), Error);
  CHECK_THROWS_AS(m(q, slice(k, 0, 0, 1), v), Error);
  CHECK_THROWS_AS(m(wave({2, 3, 6}), k, v), Error);
  CHECK_THROWS_AS(m(q, select(k, 0, 0), v), Error);
  CHECK_THROWS_AS(m(wave({4}), wave({4}), wave({4})), Error);
  CHECK_THAT(error_of([&] {
               m(q, k, v, {.attn_mask = wave({3, 4})});
             }),
             ContainsSubstring("attn_mask has shape [3, 4], expected [3, 5] or [4, 3, 5]"));
  CHECK_THAT(error_of([&] { m(q, k, v, {.attn_mask = zeros({3, 5}, {DType::i64})}); }), ContainsSubstring("must be bool or floating"));
  CHECK_THAT(error_of([&] { m(q, k, v, {.key_padding_mask = zeros({5}, {DType::boolean})}); }),
             ContainsSubstring("key_padding_mask has shape [5], expected [2, 5]"));
}

TEST_CASE("MultiheadAttention with an added bias key and a zero key is PyTorch's") {
  auto m = attention({.add_bias_kv = true, .add_zero_attn = true, .batch_first = true});
  const nn::MultiheadAttentionInputs masks{.key_padding_mask = padding, .attn_mask = left_out};
  CHECK(matches(
      output(m, query(), key(), value(), masks), {2, 3, 4},
      {1.66979832381, -0.73297742914,  1.75471823041, -2.77298886659, 0.332302833422, 0.868401382864,  0.0745039357099, -1.20809678744,
       1.84264715328, -0.882750852532, 1.86410913206, -2.82935654599, 1.21535757509,  -0.220294010816, 1.24303543826,   -2.32143436872,
       2.37145294223, -1.51804093336,  2.53247235703, -3.45355998967, 1.53794325381,  -0.351128676161, 1.16700044878,   -2.04731597186}));
  CHECK(matches(m(query(), key(), value(), masks).weights, {2, 3, 7},
                {0.0283896030606,
                 0.0682827246037,
                 0.470412354509,
                 0,
                 0,
                 0.340269343806,
                 0.0926459740203,
                 0.373684635884,
                 0,
                 0.0218122200982,
                 0.466414936634,
                 0,
                 0.0947473570715,
                 0.0433408503122,
                 0,
                 0.114560166774,
                 0.43321376036,
                 0.00392757046323,
                 0,
                 0.339650558706,
                 0.108647943697,
                 0,
                 0.00151714133338,
                 0.633933508792,
                 0,
                 0,
                 0.285734919578,
                 0.0788144302962,
                 0,
                 0,
                 0.103233255158,
                 0.474281835514,
                 0,
                 0.278156382842,
                 0.144328526486,
                 0,
                 0.0576728118445,
                 0.178145304043,
                 0.0329735783099,
                 0.180610948112,
                 0.390930551333,
                 0.159666806357}));
  // Causal: every query sees the added keys, whichever way is taken.
  const Tensor q = query();
  CHECK(output(m, q, q, q, {.is_causal = true}).shape() == Shape{2, 3, 4});
  const auto w = m(q, q, q, {.is_causal = true}).weights.to_vector<double>();
  CHECK((w[1] == 0 && w[2] == 0 && w[3] > 0 && w[4] > 0));
  CHECK(m.state_dict()[2].first == "bias_k");
  CHECK(m.state_dict()[2].second.shape() == Shape{1, 1, 4});
}
