// State-space models and recurrences as layers: what all sequence mixers of this kind promise, one row a layer, and what is special about each.
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
