// State-space models and recurrences as layers: what all sequence mixers of this kind promise, one row a layer, and what is special
// about each.
#include "golden.h"

#include <functional>

using namespace retape;
using namespace retape::testing;

namespace {

using State = nn::AnySequenceMixer::State;
template <class S> std::vector<Tensor> tensors(const S& s);
template <> std::vector<Tensor> tensors(const nn::Mamba::State& s) { return {s.conv, s.ssm}; }
template <> std::vector<Tensor> tensors(const nn::Mamba2::State& s) { return {s.conv, s.ssm}; }
template <> std::vector<Tensor> tensors(const nn::MultiScaleRetention::State& s) { return {s.kv}; }
template <> std::vector<Tensor> tensors(const nn::GatedLinearAttention::State& s) { return {s.recurrent}; }
template <> std::vector<Tensor> tensors(const nn::RWKV::State& s) {
  return {s.last, s.average.numerator, s.average.denominator, s.average.exponent};
}
template <> std::vector<Tensor> tensors(const nn::RWKVFeedForward::State& s) { return {s.last}; }
template <> std::vector<Tensor> tensors(const nn::MinGRU::State& s) { return {s.h}; }
template <> std::vector<Tensor> tensors(const nn::MinLSTM::State& s) { return {s.h}; }
template <> std::vector<Tensor> tensors(const nn::S4::State& s) { return {s.h}; }
template <> std::vector<Tensor> tensors(const nn::S4D::State& s) { return {s.h}; }
template <> std::vector<Tensor> tensors(const nn::S5::State& s) { return {s.h}; }
template <> std::vector<Tensor> tensors(const nn::LRU::State& s) { return {s.h}; }

struct Mixer {
  std::string name;
  int64_t channels;
  std::function<nn::AnySequenceMixer()> make;
  std::function<std::vector<Tensor>(const State&)> kept;  // what a state holds in f32 whatever the activations are
};
template <class M, class O> Mixer row(const std::string& name, int64_t channels, const O& options, size_t first_kept = 0) {
  return {name, channels,
          [=] {
            manual_seed(1);
            return nn::AnySequenceMixer(M(channels, options));
          },
          [=](const State& s) {
            auto all = tensors(std::any_cast<const typename M::State&>(s));
            return std::vector<Tensor>(all.begin() + std::ptrdiff_t(first_kept), all.end());
          }};
}
const std::vector<Mixer>& mixers() {
  static const std::vector<Mixer> all{
      row<nn::Mamba>("Mamba", 6, nn::MambaOptions{.d_state = 3}, 1),
      row<nn::Mamba>("Mamba, one position wide", 5, nn::MambaOptions{.d_state = 2, .d_conv = 1, .expand = 1, .dt_rank = 2, .bias = true},
                     1),
      row<nn::Mamba2>("Mamba2", 6, nn::Mamba2Options{.d_state = 3, .headdim = 4}, 1),
      row<nn::Mamba2>("Mamba2, groups", 4,
                      nn::Mamba2Options{.d_state = 2, .d_conv = 2, .expand = 3, .headdim = 2, .d_ssm = 8, .ngroups = 2}, 1),
      row<nn::MultiScaleRetention>("MultiScaleRetention", 8, nn::MultiScaleRetentionOptions{.num_heads = 2}),
      row<nn::GatedLinearAttention>("GatedLinearAttention", 8, nn::GatedLinearAttentionOptions{.num_heads = 2}),
      row<nn::GatedLinearAttention>("GatedLinearAttention, short convolutions", 8,
                                    nn::GatedLinearAttentionOptions{.num_heads = 2, .num_kv_heads = 1, .use_short_conv = true}),
      row<nn::RWKV>("RWKV", 5, nn::RWKVOptions{.layer_id = 1, .num_layers = 3, .attention_hidden_size = 7}, 1),
      row<nn::RWKVFeedForward>("RWKVFeedForward", 5, nn::RWKVFeedForwardOptions{.layer_id = 1, .num_layers = 3}, 1),
      row<nn::MinGRU>("MinGRU", 5, nn::MinRNNOptions{}),
      row<nn::MinGRU>("MinGRU, wide", 4, nn::MinRNNOptions{.expansion_factor = 1.5}),
      row<nn::MinLSTM>("MinLSTM", 5, nn::MinRNNOptions{}),
      row<nn::MinLSTM>("MinLSTM, projected", 4, nn::MinRNNOptions{.proj_out = true}),
      row<nn::S4D>("S4D", 5, nn::S4DOptions{.d_state = 6}),
      row<nn::S4D>(
          "S4D, inverse, bilinear, states alone", 4,
          nn::S4DOptions{.d_state = 8, .output_linear = false, .init = nn::S4DInit::inv, .discretization = nn::Discretization::bilinear}),
      row<nn::S4>("S4", 4, nn::S4Options{.d_state = 6}),
      row<nn::S4>("S4, states alone", 3, nn::S4Options{.d_state = 4, .output_linear = false}),
      row<nn::S5>("S5", 5, nn::S5Options{.ssm_size = 8, .blocks = 2}),
      row<nn::S5>("S5, all conjugates", 4, nn::S5Options{.ssm_size = 4, .blocks = 1, .conj_sym = false}),
      row<nn::LRU>("LRU", 5, nn::LRUOptions{.d_state = 7}),
  };
  return all;
}
Tensor in_pieces(const nn::AnySequenceMixer& mixer, const Tensor& x, const std::vector<int64_t>& sizes) {
  State state;
  std::vector<Tensor> ys;
  for (const Tensor& piece : split(x, sizes, 1)) ys.push_back(mixer.step(piece, state));
  return cat(ys, 1);
}

// The same layer, its parameters and gradients against those of the transcription.
template <class M, class O> void check_golden(const std::string& name, int64_t channels, const O& options) {
  static const Golden golden(RETAPE_GOLDEN "/mixers_recurrent.safetensors");
  for (const DType dtype : {DType::f64, DType::f32}) {
    INFO(name << " in " << name_of(dtype));
    const double most = dtype == DType::f64 ? 1e-12 : 1e-5;
    M m(channels, options);
    m.to(dtype);
    NamedTensors parameters;
    for (auto& [key, value] : golden.all)
      if (key.starts_with(name + ".p.")) parameters.emplace_back(key.substr(name.size() + 3), value);
    m.load_state_dict(parameters, {.convert_dtype = true});
    const Tensor x = Tensor(cast(golden(name + ".x"), dtype).detach()).set_requires_grad();
    const Tensor y = m(x);
    CHECK(y.dtype() == dtype);
    CHECK(relative_difference(y, golden(name + ".y")) <= most);
    backward(sum(y * cast(wave(y.shape(), 0.5), dtype)));
    CHECK(relative_difference(x.grad(), golden(name + ".d.x")) <= most);
    for (auto& [key, p] : m.named_parameters()) {
      INFO("gradient of " << key);
      CHECK(relative_difference(p.grad(), golden(name + ".d.p." + key)) <= most);
    }
  }
}

}  // namespace

TEST_CASE("a sequence in steps and in pieces gives what the whole gives", "[nn][ssm]") {
  for (const Mixer& row : mixers())
    for (const DType dtype : {DType::f64, DType::f32}) {
      INFO(row.name << " in " << name_of(dtype));
      const auto mixer = row.make();
      mixer.module().to(dtype);
      const NoGrad off;
      const int64_t T = 70;  // beyond one chunk of the scans
      const Tensor x = values({2, T, row.channels}, -1, 1, 2, dtype), whole = mixer(x);
      const double most = dtype == DType::f64 ? 1e-10 : 2e-5;
      REQUIRE(whole.shape() == x.shape());
      REQUIRE(whole.dtype() == dtype);
      CHECK(relative_difference(in_pieces(mixer, x, std::vector<int64_t>(size_t(T), 1)), whole) <= most);
      CHECK(relative_difference(in_pieces(mixer, x, {1, 2, 3, 64}), whole) <= most);
      CHECK(relative_difference(in_pieces(mixer, x, {65, 4, 1}), whole) <= most);
    }
}

TEST_CASE("a copy of a state goes on by itself, and sequences of a batch do not mix", "[nn][ssm]") {
  for (const Mixer& row : mixers()) {
    INFO(row.name);
    const auto mixer = row.make();
    const NoGrad off;
    const Tensor x = values({2, 7, row.channels}, -1, 1, 2, DType::f32), y = values({2, 3, row.channels}, -1, 1, 3, DType::f32);
    State state;
    mixer.step(x, state);
    State copy = state;
    const Tensor first = mixer.step(y, state);
    CHECK(same_bits(mixer.step(y, copy), first));
    State of_one;
    mixer.step(narrow(x, 0, 1, 1), of_one);
    CHECK(relative_difference(mixer.step(narrow(y, 0, 1, 1), of_one), narrow(first, 0, 1, 1)) <= 1e-5);
  }
}

TEST_CASE("layers that are alike refuse each other's states", "[nn][ssm]") {
  const nn::AnySequenceMixer gru = nn::MinGRU(4), lstm = nn::MinLSTM(4), s4 = nn::S4(4), s4d = nn::S4D(4);
  State of_gru, of_s4;
  gru.step(ones({1, 2, 4}), of_gru), s4.step(ones({1, 2, 4}), of_s4);
  CHECK_THAT(error_of([&] { lstm.step(ones({1, 2, 4}), of_gru); }), ContainsSubstring("state of another layer"));
  CHECK_THAT(error_of([&] { s4d.step(ones({1, 2, 4}), of_s4); }), ContainsSubstring("state of another layer"));
}

TEST_CASE("gradients reach every parameter, and through a state", "[nn][ssm]") {
  for (const Mixer& row : mixers()) {
    INFO(row.name);
    const auto mixer = row.make();
    mixer.module().to(DType::f64);
    const Tensor x = leaf({2, 9, row.channels}), weights = wave({2, 9, row.channels});
    backward(sum(mixer(x) * weights));
    std::vector<Tensor> whole{x.grad()};
    for (auto& [name, p] : mixer.module().named_parameters()) {
      INFO(name);
      REQUIRE(p.grad());
      whole.push_back(p.grad());
      CHECK(amax(abs(p.grad())).item() > 0);
    }
    x.set_grad({});
    mixer.module().zero_grad();
    backward(sum(in_pieces(mixer, x, {4, 1, 4}) * weights));
    CHECK(relative_difference(x.grad(), whole[0]) <= 1e-10);
    size_t i = 1;
    for (auto& [name, p] : mixer.module().named_parameters()) {
      INFO(name);
      CHECK(relative_difference(p.grad(), whole[i++]) <= 1e-10);
    }
  }
}

TEST_CASE("states stay f32 under autocast and in half types", "[nn][ssm][autocast]") {
  for (const Mixer& row : mixers()) {
    INFO(row.name);
    const auto mixer = row.make();
    const NoGrad off;
    const Tensor x = values({2, 9, row.channels}, -1, 1, 2, DType::f32), exact = mixer(x);
    State state;
    {
      const Autocast amp(DType::bf16);
      const Tensor y = cat({mixer.step(narrow(x, 1, 0, 5), state), mixer.step(narrow(x, 1, 5, 4), state)}, 1);
      CHECK(relative_difference(y, exact) <= 3e-2);
      CHECK(relative_difference(mixer(x), exact) <= 3e-2);
    }
    for (const Tensor& t : row.kept(state)) CHECK(t.dtype() == DType::f32);
    mixer.module().to(DType::bf16);
    State of_half;
    const Tensor y = mixer.step(cast(x, DType::bf16), of_half);
    CHECK(y.dtype() == DType::bf16);
    CHECK(relative_difference(y, exact) <= 5e-2);
    for (const Tensor& t : row.kept(of_half)) CHECK(t.dtype() == DType::f32);
  }
}

TEST_CASE("layers with a state know their shapes on meta", "[nn][ssm][meta]") {
  for (const Mixer& row : mixers()) {
    INFO(row.name);
    const nn::DefaultOptions on_meta({.device = Device::meta()});
    const auto mixer = row.make();
    const Tensor x = empty({2, 7, row.channels}, {.device = Device::meta()});
    CHECK(mixer(x).shape() == x.shape());
    State state;
    CHECK(mixer.step(x, state).shape() == x.shape());
    CHECK(mixer.step(narrow(x, 1, 0, 1), state).shape() == Shape{2, 1, row.channels});
  }
}

TEST_CASE("layers with a state refuse what does not fit, and leave the state", "[nn][ssm]") {
  for (const Mixer& row : mixers()) {
    INFO(row.name);
    const auto mixer = row.make();
    const NoGrad off;
    const int64_t C = row.channels;
    const Tensor x = values({2, 3, C}, -1, 1, 2, DType::f32);
    CHECK_THAT(error_of([&] { mixer(ones({2, 3, C + 1})); }), ContainsSubstring("the input is [2, 3,"));
    CHECK_THAT(error_of([&] { mixer(ones({3, C})); }), ContainsSubstring("the input is [3,"));
    CHECK_THAT(error_of([&] { mixer(Tensor{}); }), ContainsSubstring("undefined"));
    State state, same;
    mixer.step(x, state), mixer.step(x, same);
    CHECK_THAT(error_of([&] { mixer.step(ones({3, 1, C}), state); }), ContainsSubstring("sequences that begin need a new state"));
    CHECK_THAT(error_of([&] { mixer.step(ones({2, 0, C}), state); }), ContainsSubstring("no positions"));
    CHECK(same_bits(mixer.step(x, state), mixer.step(x, same)));
    CHECK(mixer(ones({0, 3, C})).shape() == Shape{0, 3, C});
    CHECK(mixer(ones({2, 0, C})).shape() == Shape{2, 0, C});
  }
}

TEST_CASE("a causal convolution looks back only, and goes on from the positions before", "[nn][ssm]") {
  const Tensor x = tensor<double>({1, 10, 2, 20, 3, 30, 4, 40}, {1, 4, 2}), w = tensor<double>({1, 0, 2, 0.5, 0, 1}, {2, 1, 3}),
               b = tensor<double>({0, 100}, {2});
  CHECK(matches(nn::causal_conv1d(x, w, b), {1, 4, 2}, {2, 110, 4, 120, 7, 135, 10, 150}));
  Tensor past;
  const Tensor y = cat({nn::causal_conv1d(narrow(x, 1, 0, 1), w, b, &past), nn::causal_conv1d(narrow(x, 1, 1, 3), w, b, &past)}, 1);
  CHECK(equal(y, nn::causal_conv1d(x, w, b)));
  CHECK(matches(past, {1, 2, 2}, {3, 30, 4, 40}));
  CHECK_THAT(error_of([&] {
               nn::causal_conv1d(x, ones({2, 2, 3}));
             }),
             ContainsSubstring("weight is [2, 2, 3]; its shape must be (2, 1, K)"));
  CHECK_THAT(error_of([&] {
               nn::causal_conv1d(x, ones({3, 1, 3}));
             }),
             ContainsSubstring("the input is [1, 4, 2]; its shape must be (B, T, 3)"));
  CHECK_THAT(error_of([&] { nn::causal_conv1d(cat({x, x}), w, b, &past); }), ContainsSubstring("past of the state is [1, 2, 2]"));
  CHECK(matches(nn::long_conv(x, tensor<double>({1, 0, 2, 0, 0, 1, 0, 0}, {2, 4})), {1, 4, 2}, {1, 0, 2, 10, 5, 20, 8, 30}));
  CHECK_THAT(error_of([&] { nn::long_conv(x, ones({2, 3})); }), ContainsSubstring("kernel is [2, 3], but x [1, 4, 2] asks for [2, 4]"));
}

TEST_CASE("Mamba and its gradients are those of the paper's equations", "[nn][ssm][golden]") {
  check_golden<nn::Mamba>("mamba", 4, nn::MambaOptions{.d_state = 3});
  check_golden<nn::Mamba>("mamba_options", 3,
                          nn::MambaOptions{.d_state = 2, .d_conv = 2, .expand = 3, .dt_rank = 2, .conv_bias = false, .bias = true});
}

TEST_CASE("Mamba starts as mamba_ssm's does", "[nn][ssm]") {
  manual_seed(1);
  const nn::Mamba m(40, {.d_state = 5, .dt_min = 0.01, .dt_max = 0.2, .dt_scale = 0.5});
  CHECK(m.dt_rank == 3);  // 40 / 16, rounded up
  CHECK(relative_difference(exp(m.A_log), expand(arange(5, {.dtype = DType::f32}) + 1, {80, 5})) <= 1e-6);
  CHECK(equal(m.D, ones({80})));
  const Tensor dt = softplus(m.dt_proj.bias);
  CHECK(amin(dt).item() >= 0.0099);
  CHECK(amin(dt).item() < 0.02);
  CHECK(amax(dt).item() <= 0.2001);
  CHECK(amax(dt).item() > 0.12);
  CHECK(amax(abs(m.dt_proj.weight)).item() <= 0.5 / std::sqrt(3.0));
  CHECK(amax(abs(m.dt_proj.weight)).item() > 0.4 / std::sqrt(3.0));
  const nn::Mamba constant(8, {.dt_rank = 4, .dt_init = nn::MambaDtInit::constant, .dt_init_floor = 0.5});
  CHECK(equal(constant.dt_proj.weight, full({16, 4}, 0.5)));
  CHECK(std::abs(amin(softplus(constant.dt_proj.bias)).item() - 0.5) < 1e-6);
  CHECK_THAT(error_of([] { nn::Mamba(8, {.d_state = 0}); }), ContainsSubstring("Mamba: d_state is 0; it must be above 0"));
  CHECK_THAT(error_of([] { nn::Mamba(8, {.d_conv = 0}); }), ContainsSubstring("d_conv is 0"));
  CHECK_THAT(error_of([] { nn::Mamba(8, {.dt_rank = 0}); }), ContainsSubstring("dt_rank is 0"));
  CHECK_THAT(error_of([] { nn::Mamba(0); }), ContainsSubstring("d_model is 0"));
  CHECK_THAT(error_of([] { nn::Mamba(8, {.expand = 0}); }), ContainsSubstring("expand is 0"));
  CHECK_THAT(error_of([] { nn::Mamba(8, {.dt_min = 0.2}); }), ContainsSubstring("dt_min 0.2"));
}

TEST_CASE("Mamba2 and its gradients are those of the paper's equations", "[nn][ssm][golden]") {
  check_golden<nn::Mamba2>("mamba2", 4, nn::Mamba2Options{.d_state = 3, .headdim = 2});
  check_golden<nn::Mamba2>("mamba2_groups", 4,
                           nn::Mamba2Options{.d_state = 2,
                                             .d_conv = 2,
                                             .expand = 3,
                                             .headdim = 2,
                                             .d_ssm = 8,
                                             .ngroups = 2,
                                             .D_has_hdim = true,
                                             .norm_before_gate = true,
                                             .dt_limit = {0.3, 0.9},
                                             .bias = true,
                                             .conv_bias = false});
  check_golden<nn::Mamba2>("mamba2_plain", 4, nn::Mamba2Options{.d_state = 2, .d_conv = 3, .expand = 1, .headdim = 4, .rmsnorm = false});
}

TEST_CASE("Mamba2 starts as mamba_ssm's does", "[nn][ssm]") {
  manual_seed(1);
  const nn::Mamba2 m(64, {.conv_init = 0.01, .headdim = 1, .A_init_range = {2, 3}, .dt_min = 0.01, .dt_max = 0.2});
  const Tensor A = exp(m.A_log), dt = softplus(m.dt_bias);
  CHECK(amin(A).item() >= 1.999);
  CHECK(amin(A).item() < 2.1);
  CHECK(amax(A).item() <= 3.001);
  CHECK(amax(A).item() > 2.9);
  CHECK(amin(dt).item() >= 0.0099);
  CHECK(amin(dt).item() < 0.02);
  CHECK(amax(dt).item() <= 0.2001);
  CHECK(amax(dt).item() > 0.12);
  CHECK(amax(abs(m.conv1d.weight)).item() <= 0.01);
  CHECK(amax(abs(m.conv1d.weight)).item() > 0.009);
  CHECK(amin(softplus(nn::Mamba2(64, {.dt_init_floor = 0.5}).dt_bias)).item() > 0.499);
  CHECK_THAT(error_of([] { nn::Mamba2(8, {.headdim = 3}); }), ContainsSubstring("d_ssm 16 does not divide into heads of headdim 3"));
  CHECK_THAT(error_of([] { nn::Mamba2(8, {.headdim = 4, .ngroups = 3}); }), ContainsSubstring("ngroups 3"));
  CHECK_THAT(error_of([] { nn::Mamba2(8, {.headdim = 4, .d_ssm = 32}); }), ContainsSubstring("d_ssm 32"));
  CHECK_THAT(error_of([] { nn::Mamba2(8, {.headdim = 0}); }), ContainsSubstring("headdim is 0"));
  CHECK_THAT(error_of([] { nn::Mamba2(8, {.d_state = -1}); }), ContainsSubstring("d_state is -1"));
  CHECK_THAT(error_of([] { nn::Mamba2(8, {.headdim = 4, .A_init_range = {0, 1}}); }), ContainsSubstring("A_init_range (0, 1)"));
}

TEST_CASE("retention and its gradients are those of the parallel form", "[nn][ssm][golden]") {
  check_golden<nn::MultiScaleRetention>("retention", 8, nn::MultiScaleRetentionOptions{.num_heads = 2});
  check_golden<nn::MultiScaleRetention>("retention_rms", 6,
                                        nn::MultiScaleRetentionOptions{.num_heads = 3, .value_dim = 6, .rms_norm = true});
}

TEST_CASE("retention starts as torchscale's does", "[nn][ssm]") {
  manual_seed(1);
  const nn::MultiScaleRetention m(40, {.num_heads = 4, .value_dim = 80});
  const double bound = std::sqrt(6.0 / 80) * std::exp2(-2.5), of_out = std::sqrt(6.0 / 120);
  CHECK(amax(abs(m.k_proj.weight)).item() <= bound);
  CHECK(amax(abs(m.k_proj.weight)).item() > 0.95 * bound);
  CHECK(amax(abs(m.out_proj.weight)).item() <= of_out);
  CHECK(amax(abs(m.out_proj.weight)).item() > 0.95 * of_out);
  const Tensor x = values({1, 3, 40}, -1, 1, 2, DType::f32);
  nn::MultiScaleRetention gelu_gate(40, {.gate = nn::Gate::gelu, .eps = 1}), silu_gate(40, {.eps = 1}), small_eps(40);
  gelu_gate.load_state_dict(silu_gate.state_dict()), small_eps.load_state_dict(silu_gate.state_dict());
  CHECK(relative_difference(gelu_gate(x), silu_gate(x)) > 1e-2);
  CHECK(relative_difference(small_eps(x), silu_gate(x)) > 1e-2);
  CHECK_THAT(error_of([] { nn::MultiScaleRetention(8, {.num_heads = 3}); }),
             ContainsSubstring("embed_dim 8 and value_dim 16 do not divide into 3 heads"));
  CHECK_THAT(error_of([] { nn::MultiScaleRetention(12, {.num_heads = 4}); }), ContainsSubstring("an even share"));
  CHECK_THAT(error_of([] { nn::MultiScaleRetention(8, {.num_heads = 2, .value_dim = 3}); }), ContainsSubstring("value_dim 3"));
  CHECK_THAT(error_of([] { nn::MultiScaleRetention(8, {.num_heads = 0}); }), ContainsSubstring("num_heads is 0"));
}

TEST_CASE("gated linear attention as a layer and its gradients are fla's", "[nn][ssm][golden]") {
  check_golden<nn::GatedLinearAttention>("gla", 8, nn::GatedLinearAttentionOptions{.num_heads = 2});
  check_golden<nn::GatedLinearAttention>("gla_options", 4,
                                         nn::GatedLinearAttentionOptions{.expand_k = 2,
                                                                         .expand_v = 2,
                                                                         .num_kv_heads = 2,
                                                                         .feature_map = nn::Gate::silu,
                                                                         .use_short_conv = true,
                                                                         .conv_size = 3,
                                                                         .conv_bias = true,
                                                                         .gate_fn = nn::Gate::sigmoid,
                                                                         .gate_logit_normalizer = 4,
                                                                         .gate_low_rank_dim = 3,
                                                                         .clamp_min = -0.2});
  check_golden<nn::GatedLinearAttention>(
      "gla_plain", 4, nn::GatedLinearAttentionOptions{.num_heads = 1, .use_output_gate = false, .elementwise_affine = false});
  const Tensor x = values({1, 3, 8}, -1, 1, 2, DType::f32);
  nn::GatedLinearAttention small(8), large(8, {.norm_eps = 1});
  large.load_state_dict(small.state_dict());
  CHECK(relative_difference(large(x), small(x)) > 1e-2);
  CHECK_THAT(error_of([] { nn::GatedLinearAttention(8, {.num_heads = 3}); }),
             ContainsSubstring("hidden_size * expand_k 4 does not divide into 3 heads"));
  CHECK_THAT(error_of([] { nn::GatedLinearAttention(8, {.num_kv_heads = 3}); }), ContainsSubstring("4 heads, 3 of them with keys"));
  CHECK_THAT(error_of([] { nn::GatedLinearAttention(8, {.num_heads = 0}); }), ContainsSubstring("num_heads is 0"));
  CHECK_THAT(error_of([] { nn::GatedLinearAttention(8, {.conv_size = 0}); }), ContainsSubstring("conv_size is 0"));
}

TEST_CASE("RWKV's layers and their gradients are those of the paper's equations", "[nn][ssm][golden]") {
  check_golden<nn::RWKV>("rwkv", 4, nn::RWKVOptions{});
  check_golden<nn::RWKV>("rwkv_wide", 4, nn::RWKVOptions{.attention_hidden_size = 6});
  check_golden<nn::RWKVFeedForward>("rwkv_feed_forward", 4, nn::RWKVFeedForwardOptions{.intermediate_size = 5});
}

TEST_CASE("RWKV's layers start by their depth", "[nn][ssm]") {
  const auto near = [](const Tensor& t, const std::vector<double>& expected) {
    const auto v = t.to_vector<double>();
    if (v.size() != expected.size()) return false;
    for (size_t i = 0; i < v.size(); ++i)
      if (!(std::abs(v[i] - expected[i]) < 1e-6)) return false;
    return true;
  };
  const nn::RWKV first(2, {.num_layers = 3, .attention_hidden_size = 3}),
      last(2, {.layer_id = 2, .num_layers = 3, .attention_hidden_size = 3});
  const double bonus = std::log(0.3);
  CHECK(near(first.time_decay, {-5, -5 + 8 * std::pow(0.5, 0.7), 3}));
  CHECK(near(last.time_decay, {-5, -5 + 8 * std::pow(0.5, 2), 3}));
  CHECK(near(first.time_first, {bonus, bonus + 0.5, bonus - 0.5}));
  CHECK(near(first.time_mix_key, {0, 0.5}));
  CHECK(near(last.time_mix_key, {0, std::pow(0.5, 1 / 3.0)}));
  CHECK(near(last.time_mix_value, {0.3, 0.3 + std::pow(0.5, 1 / 3.0)}));
  CHECK(near(last.time_mix_receptance, {0, std::pow(0.5, 1 / 6.0)}));
  const nn::RWKVFeedForward channels(2, {.layer_id = 2, .num_layers = 3});
  CHECK(near(channels.time_mix_key, {0, std::pow(0.5, 1 / 3.0)}));
  CHECK(near(channels.time_mix_receptance, {0, std::pow(0.5, 1 / 3.0)}));
  CHECK(channels.key.weight->shape() == Shape{8, 2});
  CHECK_THAT(error_of([] { nn::RWKV(4, {.layer_id = 2, .num_layers = 2}); }),
             ContainsSubstring("layer_id is 2; with num_layers 2 it must lie in [0, 1]"));
  CHECK_THAT(error_of([] { nn::RWKV(4, {.attention_hidden_size = 0}); }), ContainsSubstring("attention_hidden_size is 0"));
  CHECK_THAT(error_of([] { nn::RWKVFeedForward(4, {.layer_id = -1}); }), ContainsSubstring("layer_id is -1"));
  CHECK_THAT(error_of([] { nn::RWKVFeedForward(4, {.intermediate_size = 0}); }), ContainsSubstring("intermediate_size is 0"));
  CHECK_THAT(error_of([] { nn::RWKVFeedForward(0); }), ContainsSubstring("hidden_size is 0"));
}

TEST_CASE("minGRU and minLSTM and their gradients are those of the log-space parallel form", "[nn][ssm][golden]") {
  check_golden<nn::MinGRU>("min_gru", 4, nn::MinRNNOptions{});
  check_golden<nn::MinGRU>("min_gru_wide", 4, nn::MinRNNOptions{.expansion_factor = 1.5});
  check_golden<nn::MinLSTM>("min_lstm", 4, nn::MinRNNOptions{});
  check_golden<nn::MinLSTM>("min_lstm_projected", 4, nn::MinRNNOptions{.proj_out = true});
}

TEST_CASE("minGRU and minLSTM stay finite where their gates are as good as closed", "[nn][ssm]") {
  const NoGrad off;
  nn::MinLSTM lstm(1);
  copy_into(tensor<float>({1, -1, -1}, {3, 1}), lstm.to_hidden_and_f_i_gate.weight);
  nn::MinGRU gru(1);
  copy_into(tensor<float>({1, -1}, {2, 1}), gru.to_hidden_and_gate.weight);
  const Tensor x = tensor<float>({1000, 2000, 1}, {1, 3, 1});  // both gates of the LSTM underflow, and weigh the same
  const auto y = lstm(x).to_vector<double>();
  CHECK(y[0] == 500.25);
  CHECK(y[1] == 1250.375);
  const auto g = gru(x).to_vector<double>();
  CHECK(g[0] == 0);
  CHECK(std::abs(g[2] - 1.5 / (1 + std::exp(1.0))) < 1e-6);
  CHECK_THAT(error_of([] { nn::MinGRU(4, {.expansion_factor = 2, .proj_out = false}); }),
             ContainsSubstring("MinGRU: 8 channels of state need proj_out"));
  CHECK_THAT(error_of([] { nn::MinLSTM(4, {.expansion_factor = 0.1}); }), ContainsSubstring("dim 4 times expansion_factor 0.1"));
  CHECK_THAT(error_of([] { nn::MinGRU(0); }), ContainsSubstring("dim is 0"));
}

TEST_CASE("S4D and S4 and their gradients are those of their states, position by position", "[nn][ssm][golden]") {
  check_golden<nn::S4D>("s4d", 3, nn::S4DOptions{.d_state = 4});
  check_golden<nn::S4D>("s4d_bilinear", 3,
                        nn::S4DOptions{.d_state = 4, .output_linear = false, .discretization = nn::Discretization::bilinear});
  check_golden<nn::S4>("s4", 3, nn::S4Options{.d_state = 4});
  check_golden<nn::S4>("s4_states", 2, nn::S4Options{.d_state = 6, .output_linear = false});
}

TEST_CASE("S4D and S4 start as their papers say", "[nn][ssm]") {
  manual_seed(1);
  const double pi = std::acos(-1);
  const auto values_of = [](const Tensor& t) { return t.to_vector<double>(); };
  const nn::S4D lin(3, {.d_state = 6}), inv(3, {.d_state = 6, .init = nn::S4DInit::inv}),
      real(3, {.d_state = 6, .init = nn::S4DInit::real}), many(400, {.d_state = 4, .dt_min = 0.01, .dt_max = 0.5});
  for (size_t i = 0; i < 9; ++i) {
    const double n = double(i % 3);
    CHECK(std::abs(values_of(lin.kernel.A_imag)[i] - pi * n) < 1e-6);
    CHECK(std::abs(values_of(lin.kernel.log_A_real)[i] - std::log(0.5)) < 1e-6);
    CHECK(std::abs(values_of(inv.kernel.A_imag)[i] - 6 / pi * (6 / (2 * n + 1) - 1)) < 1e-5);
    CHECK(values_of(real.kernel.A_imag)[i] == 0);
    CHECK(std::abs(values_of(real.kernel.log_A_real)[i] - std::log(n + 1)) < 1e-6);
  }
  const Tensor dt = exp(many.kernel.log_dt);
  CHECK(amin(dt).item() >= 0.0099);
  CHECK(amin(dt).item() < 0.012);
  CHECK(amax(dt).item() <= 0.5001);
  CHECK(amax(dt).item() > 0.45);
  CHECK(std::abs(retape::std(many.kernel.C).item() - std::sqrt(0.5)) < 0.03);
  CHECK_THAT(error_of([] { nn::S4D(4, {.d_state = 0}); }), ContainsSubstring("S4D: d_state is 0; it must be even, and above 0"));
  CHECK_THAT(error_of([] { nn::S4(4, {.d_state = 3}); }), ContainsSubstring("S4: d_state is 3"));
  CHECK_THAT(error_of([] { nn::S4(0); }), ContainsSubstring("d_model is 0"));
  CHECK_THAT(error_of([] { nn::S4(4, {.dt_min = 1}); }), ContainsSubstring("dt_min 1"));
}

TEST_CASE("S4 starts as HiPPO's own matrices do", "[nn][ssm][hippo]") {
  // y = C x with the states of x' = A x + B u by the bilinear rule, in HiPPO's coordinates.
  manual_seed(1);
  const int64_t N = 8, T = 40;
  nn::S4 m(1, {.d_state = N, .dt_min = 0.05, .dt_max = 0.05, .output_linear = false});
  const nn::HippoPairs pairs = nn::hippo_pairs(N);
  const nn::detail::ComplexParts c = nn::detail::parts_of(cast(select(m.kernel.C, 0, 0), DType::f64)), v = nn::detail::parts_of(pairs.V);
  const Tensor row = 2 * (matmul(v.re, c.re) + matmul(v.im, c.im));  // C V^*, both conjugates
  const nn::Hippo legs = nn::hippo(nn::HippoMeasure::legs, N);
  const Tensor I = eye(N, {.dtype = DType::f64}), below = inverse(I - 0.025 * legs.A), factor = matmul(below, I + 0.025 * legs.A);
  Tensor h = matmul(below, legs.B) * 0.05;
  std::vector<Tensor> expected;
  for (int64_t t = 0; t < T; ++t) expected.push_back(sum(row * h)), h = matmul(factor, h);
  CHECK(relative_difference(select(m.kernel(T), 0, 0), stack(expected)) < 1e-5);
  // A = V diag(a) V^* - p p^T, with V's conjugates, gives HiPPO back.
  const nn::detail::ComplexParts a = nn::detail::parts_of(pairs.A);
  const Tensor normal = 2 * (matmul(v.re * a.re - v.im * a.im, transpose(v.re)) + matmul(v.re * a.im + v.im * a.re, transpose(v.im)));
  const Tensor p = sqrt(arange(N, {.dtype = DType::f64}) + 0.5);
  CHECK(relative_difference(normal - unsqueeze(p, 1) * p, legs.A) < 1e-12);
  CHECK_THAT(error_of([] { nn::hippo_pairs(3); }), ContainsSubstring("3 numbers is not in pairs"));
}

TEST_CASE("S4 over many positions is its states, one by one", "[nn][ssm]") {
  manual_seed(1);
  nn::S4 m(2, {.d_state = 64, .output_linear = false});
  nn::S4D d(2, {.d_state = 64, .output_linear = false, .init = nn::S4DInit::inv});
  m.to(DType::f64), d.to(DType::f64);
  const NoGrad off;
  const Tensor x = values({1, 700, 2}, -1, 1, 2);
  nn::S4::State of_m;
  nn::S4D::State of_d;
  CHECK(relative_difference(m(x), m.step(x, of_m)) < 1e-10);
  CHECK(relative_difference(d(x), d.step(x, of_d)) < 1e-10);
}

TEST_CASE("dropout of S4D takes whole channels of sequences, and only while training", "[nn][ssm]") {
  manual_seed(1);
  nn::S4D m(1, {.d_state = 2, .dropout = 0.5});
  const NoGrad off;
  copy_into(tensor<float>({1, 0}, {2, 1, 1}), m.output_linear[0].weight);
  copy_into(tensor<float>({0, 100}, {2}), m.output_linear[0].bias);
  const Tensor x = values({64, 5, 1}, 1, 2, 2, DType::f32), y = m(x);
  m.eval();
  const Tensor full_y = m(x), ratio = y / full_y;
  CHECK(amax(amax(ratio, {1}) - amin(ratio, {1})).item() < 1e-5);
  const double kept = mean(amax(ratio, {1})).item();
  CHECK(kept > 0.6);
  CHECK(kept < 1.4);
  CHECK(amin(ratio).item() == 0);
  CHECK(std::abs(amax(ratio).item() - 2) < 1e-5);
}

TEST_CASE("S5 and LRU and their gradients are those of their states, position by position", "[nn][ssm][golden]") {
  check_golden<nn::S5>("s5", 3, nn::S5Options{.ssm_size = 8, .blocks = 1});
  check_golden<nn::S5>("s5_options", 3,
                       nn::S5Options{.ssm_size = 4,
                                     .blocks = 2,
                                     .discretization = nn::Discretization::bilinear,
                                     .conj_sym = false,
                                     .clip_eigs = true,
                                     .step_rescale = 0.5});
  check_golden<nn::LRU>("lru", 3, nn::LRUOptions{.d_state = 4});
}

TEST_CASE("S5 and LRU start as their papers say", "[nn][ssm]") {
  manual_seed(1);
  const nn::S5 m(40, {.ssm_size = 48, .blocks = 3, .dt_min = 0.01, .dt_max = 0.5});
  const nn::HippoPairs pairs = nn::hippo_pairs(16);
  CHECK(relative_difference(m.Lambda_im, repeat(select(pairs.A, 1, 1), {3})) < 1e-6);
  CHECK(relative_difference(m.Lambda_re, full({24}, -0.5)) < 1e-6);
  // V^* B and C V of real B and of C with variance 1 / ssm_size: rows of V^* have length 1.
  CHECK(std::abs(mean(square(m.B)).item() * 48 * 2 - 1) < 0.1);
  CHECK(std::abs(mean(square(m.C)).item() * 48 - 1) < 0.1);
  CHECK(std::abs(mean(square(nn::S5(40, {.ssm_size = 48, .blocks = 1, .C_init = nn::S5CInit::lecun_normal}).C)).item() * 48 * 40 - 1) <
        0.1);
  CHECK(std::abs(mean(square(nn::S5(40, {.ssm_size = 48, .blocks = 1, .C_init = nn::S5CInit::complex_normal}).C)).item() * 2 - 1) < 0.1);
  CHECK(amin(exp(m.log_step)).item() >= 0.0099);
  CHECK(amax(exp(m.log_step)).item() <= 0.5001);
  CHECK(amax(exp(m.log_step)).item() > 0.3);
  CHECK_THAT(error_of([] { nn::S5(4, {.ssm_size = 12, .blocks = 4}); }),
             ContainsSubstring("ssm_size 12 does not divide into 4 blocks of even size"));
  CHECK_THAT(error_of([] { nn::S5(4, {.ssm_size = 0}); }), ContainsSubstring("ssm_size is 0"));
  CHECK_THAT(error_of([] { nn::S5(4, {.dt_min = 0}); }), ContainsSubstring("dt_min 0"));

  const nn::LRU ring(8, {.d_state = 500, .r_min = 0.4, .r_max = 0.9, .max_phase = 1});
  const Tensor radius = exp(-exp(ring.nu_log)), phase = exp(ring.theta_log);
  CHECK(amin(radius).item() >= 0.4 - 1e-6);
  CHECK(amax(radius).item() <= 0.9 + 1e-6);
  CHECK(std::abs(mean(square(radius)).item() - (0.16 + 0.81) / 2) < 0.03);  // even over the ring
  CHECK(amax(phase).item() <= 1);
  CHECK(std::abs(mean(phase).item() - 0.5) < 0.05);
  CHECK(relative_difference(exp(ring.gamma_log), sqrt(1 - square(radius))) < 1e-5);
  CHECK(std::abs(mean(square(ring.B_im)).item() * 16 - 1) < 0.1);
  CHECK(std::abs(mean(square(ring.C_re)).item() * 500 - 1) < 0.1);
  CHECK_THAT(error_of([] { nn::LRU(4, {.d_state = 0}); }), ContainsSubstring("d_state is 0"));
  CHECK_THAT(error_of([] { nn::LRU(4, {.r_min = 0.9, .r_max = 0.5}); }), ContainsSubstring("r_min 0.9 and r_max 0.5"));
  CHECK_THAT(error_of([] { nn::LRU(4, {.max_phase = 0}); }), ContainsSubstring("max_phase is 0"));
}

TEST_CASE("layers whose states would not fade say so", "[nn][ssm]") {
  nn::S5 s5(3, {.ssm_size = 4, .blocks = 1}), clipped(3, {.ssm_size = 4, .blocks = 1, .clip_eigs = true});
  nn::LRU lru(3, {.d_state = 4});
  nn::S4D s4d(3, {.d_state = 4});
  s5.check_stable(), clipped.check_stable(), lru.check_stable(), s4d.check_stable();
  const NoGrad off;
  copy_into(full({2}, 2.0), s5.Lambda_re), copy_into(full({2}, 2.0), clipped.Lambda_re);
  copy_into(full({2, 1}, 0.0), s5.log_step), copy_into(full({2, 1}, 0.0), clipped.log_step);
  copy_into(full({4}, -100.0), lru.nu_log), copy_into(full({3, 2}, -100.0), s4d.kernel.log_A_real);
  CHECK_THAT(error_of([&] { s5.check_stable(); }), ContainsSubstring("S5: a step multiplies a state by up to 7.38"));
  clipped.check_stable();
  CHECK_THAT(error_of([&] { lru.check_stable(); }), ContainsSubstring("LRU: a step multiplies a state by up to 1"));
  CHECK_THAT(error_of([&] { s4d.check_stable(); }), ContainsSubstring("S4D: a step"));
}
