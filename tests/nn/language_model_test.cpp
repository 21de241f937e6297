// Language models: whole and in steps, as nanoGPT, and with the weights of transformers, see tests/golden/make_language_models.py.
#include <filesystem>
#include <fstream>

#include <retape/io/file.h>

#include "../temporary.h"
#include "mixer_checks.h"

using namespace retape;
using namespace retape::testing;

namespace {

namespace fs = std::filesystem;
const fs::path golden = RETAPE_GOLDEN;

nn::AnySequenceMixer attention(int64_t) { return nn::CausalSelfAttention(8, {.num_heads = 2, .position = nn::AttentionPosition::none}); }
nn::LanguageModelConfig small() { return {.vocab_size = 11, .hidden_size = 8, .num_layers = 2}; }
Tensor some_ids(int64_t batch, int64_t length, int64_t vocab = 11) {
  manual_seed(2);
  return randint(0, vocab, {batch, length});
}

}  // namespace

TEST_CASE("a language model in steps gives what it gives for the whole", "[language_model]") {
  const NoGrad off;
  using nn::LanguageModelMlp, nn::LanguageModelNorm, nn::LanguageModelPositions;
  const std::vector<std::pair<nn::LanguageModelConfig, nn::MakeMixer>> models = {
      {{.vocab_size = 11,
        .hidden_size = 8,
        .num_layers = 2,
        .positions = LanguageModelPositions::learned,
        .max_positions = 9,
        .bias = true},
       attention},
      {{.vocab_size = 11, .hidden_size = 8, .num_layers = 2, .positions = LanguageModelPositions::sinusoidal, .dropout = 0.5}, attention},
      {{.vocab_size = 11, .hidden_size = 8, .num_layers = 1, .norm = LanguageModelNorm::rms_norm, .mlp = LanguageModelMlp::none},
       [](int64_t) { return nn::AnySequenceMixer(nn::Mamba(8)); }},
      {{.vocab_size = 11, .hidden_size = 8, .num_layers = 1, .mlp = LanguageModelMlp::swiglu, .tie_word_embeddings = false},
       [](int64_t) { return nn::AnySequenceMixer(nn::MinGRU(8)); }}};
  for (auto& [config, mixer] : models) {
    manual_seed(1);
    nn::LanguageModel model(config, mixer);
    model.to(DType::f64);
    for (auto& [name, p] : model.named_parameters())
      if (p.dim() == 2) nn::init::normal(p, 0, 0.5);
    const Tensor ids = some_ids(2, 9);
    nn::LanguageModel::State state;
    CHECK(model.is_training());
    const Tensor first = model.step(narrow(ids, 1, 0, 4), state);  // without dropout, though it trains
    model.eval();
    const Tensor whole = model(ids);
    CHECK(relative_difference(first, select(whole, 1, 3)) <= 1e-10);
    for (int64_t t = 4; t < 9; ++t) CHECK(relative_difference(model.step(narrow(ids, 1, t, 1), state), select(whole, 1, t)) <= 1e-10);
    CHECK(state.length == 9);
  }
}

TEST_CASE("an MLP that mixes positions has a state of its own", "[language_model]") {
  const NoGrad off;
  manual_seed(1);
  nn::LanguageModel model(
      small(), [](int64_t layer) { return nn::AnySequenceMixer(nn::RWKV(8, {.layer_id = layer, .num_layers = 2})); },
      [](int64_t layer) { return nn::AnySequenceMixer(nn::RWKVFeedForward(8, {.layer_id = layer, .num_layers = 2})); });
  const auto names = model.state_dict();
  CHECK(std::count_if(names.begin(), names.end(), [](auto& p) { return p.first == "transformer.h.1.mlp.time_mix_key"; }) == 1);
  for (auto& [name, p] : model.named_parameters())
    if (p.dim() == 2) nn::init::normal(p, 0, 0.5);
  model.to(DType::f64);
  model.eval();
  const Tensor ids = some_ids(1, 6), whole = model(ids);
  nn::LanguageModel::State state;
  for (int64_t t = 0; t < 6; ++t) CHECK(relative_difference(model.step(narrow(ids, 1, t, 1), state), select(whole, 1, t)) <= 1e-10);
}

TEST_CASE("a language model generates from its state, and from the last positions where it knows no more", "[language_model]") {
  manual_seed(1);
  nn::LanguageModelConfig config = small();
  config.positions = nn::LanguageModelPositions::learned, config.max_positions = 6;
  nn::LanguageModel model(config, attention);
  for (auto& [name, p] : model.named_parameters())
    if (p.dim() == 2) nn::init::normal(p, 0, 0.5);
  model.eval();
  const NoGrad off;
  std::vector<int64_t> expected{3, 1};
  for (int64_t i = 0; i < 9; ++i) {
    const int64_t n = std::min<int64_t>(6, int64_t(expected.size()));
    const Tensor logits = select(model(tensor(std::vector<int64_t>(expected.end() - n, expected.end()), {1, n})), 1, -1);
    expected.push_back(argmax(logits, -1).to_vector<int64_t>().at(0));
  }
  const auto tokens = model.generate({3, 1}, 9, {.temperature = 0});
  CHECK(tokens == std::vector<int64_t>(expected.begin() + 2, expected.end()));
  Generator one(5), two(5), three(6);
  const auto drawn = model.generate({3}, 40, {}, one);
  CHECK(drawn == model.generate({3}, 40, {}, two));
  CHECK(drawn != model.generate({3}, 40, {}, three));
  CHECK(model.generate({3}, 5, {.top_k = 1}) == model.generate({3}, 5, {.temperature = 0}));
  for (const int64_t token : model.generate({3}, 40, {.vocab_size = 4})) CHECK(token < 4);
  CHECK_THAT(error_of([&] { model.generate({3}, 1, {.vocab_size = 12}); }), ContainsSubstring("vocab_size 12, but the model's is 11"));
}

TEST_CASE("a language model's weights have nanoGPT's names and spread", "[language_model]") {
  manual_seed(1);
  nn::LanguageModelConfig config{.vocab_size = 50, .hidden_size = 64, .num_layers = 2, .mixer_name = "attn"};
  config.positions = nn::LanguageModelPositions::learned, config.max_positions = 4;
  nn::LanguageModel model(config, [](int64_t) { return nn::AnySequenceMixer(nn::CausalSelfAttention(64, {.num_heads = 2})); });
  std::vector<std::string> names;
  for (auto& [name, value] : model.state_dict()) names.push_back(name);
  CHECK(names == std::vector<std::string>{
                     "transformer.wte.weight", "transformer.wpe.weight", "transformer.h.0.ln_1.weight",
                     "transformer.h.0.attn.c_attn.weight", "transformer.h.0.attn.c_proj.weight", "transformer.h.0.ln_2.weight",
                     "transformer.h.0.mlp.c_fc.weight", "transformer.h.0.mlp.c_proj.weight", "transformer.h.1.ln_1.weight",
                     "transformer.h.1.attn.c_attn.weight", "transformer.h.1.attn.c_proj.weight", "transformer.h.1.ln_2.weight",
                     "transformer.h.1.mlp.c_fc.weight", "transformer.h.1.mlp.c_proj.weight", "transformer.ln_f.weight", "lm_head.weight"});
  CHECK(model.lm_head.weight.tensor().impl() == model.transformer.wte.weight.tensor().impl());
  const auto spread = [](const Tensor& w) { return std::sqrt(mean(square(w)).item()); };
  CHECK(std::abs(spread(model.transformer.wte.weight) - 0.02) < 0.001);
  auto& mlp = dynamic_cast<nn::FeedForward&>(model.transformer.h[0].mlp->module());
  CHECK(std::abs(spread(mlp.c_fc.weight) - 0.02) < 0.001);
  CHECK(std::abs(spread(mlp.c_proj.weight) - 0.01) < 0.0005);
}

TEST_CASE("language models of transformers load under their own names and give the same logits", "[language_model]") {
  for (const std::string name : {"gpt2_a", "gpt2_b", "llama_a", "llama_b", "mamba_a", "mamba_b"}) {
    INFO(name);
    nn::LanguageModel model = nn::load_language_model(golden / name);
    model.eval();
    const NoGrad off;
    const SafeTensors expected = SafeTensors::open(golden / name / "expected.safetensors");
    const Tensor ids = expected.tensor("ids"), logits = expected.tensor("logits");
    CHECK(amax(abs(model(ids) - logits)).item() <= 1e-4);
    CHECK(relative_difference(model(ids), logits) <= 1e-5);
    nn::LanguageModel::State state;  // and in the form that generates
    model.step(narrow(ids, 1, 0, 3), state);
    CHECK(relative_difference(model.step(narrow(ids, 1, 3, ids.size(1) - 3), state), select(logits, 1, -1)) <= 1e-5);
    // An untrained one of the same configuration takes the same state.
    nn::LanguageModel again = nn::make_language_model(read_file(golden / name / "config.json"));
    again.load_state_dict(model.state_dict());
    again.eval();
    CHECK(same_bits(again(ids), model(ids)));
  }
}

TEST_CASE("a config.json that does not match the weights is refused key by key", "[language_model]") {
  const TemporaryFolder folder;
  const auto changed = [&](const std::string& model, const std::vector<std::pair<std::string, std::string>>& changes) {
    fs::remove_all(folder / model);
    fs::copy(golden / model, folder / model, fs::copy_options::recursive);
    std::string text = read_file(golden / model / "config.json");
    for (auto& [from, to] : changes) {
      REQUIRE(text.find(from) != std::string::npos);
      text.replace(text.find(from), from.size(), to);
    }
    write_file_atomically(folder / model / "config.json", text);
    return error_of([&] { nn::load_language_model(folder / model); });
  };
  CHECK(changed("llama_a", {}) == "(no error)");
  const std::string all = changed("llama_a", {{"\"hidden_size\": 16", "\"hidden_size\": 32"},
                                              {"\"vocab_size\": 23", "\"vocab_size\": 24"},
                                              {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3"},
                                              {"\"intermediate_size\": 28", "\"intermediate_size\": 14"},
                                              {"\"num_key_value_heads\": 2", "\"num_key_value_heads\": 4"}});
  for (const char* part : {"\"hidden_size\" is 32, but model.embed_tokens.weight of shape [23, 16] says 16", "\"vocab_size\" is 24",
                           "says 23", "\"num_hidden_layers\" is 3, but there are weights of 2 layers", "\"intermediate_size\" is 14",
                           "says 28", "\"num_key_value_heads\" is 4, but model.layers.0.self_attn.k_proj.weight of shape [8, 16] says 2"})
    CHECK_THAT(all, ContainsSubstring(part));
  CHECK_THAT(changed("gpt2_a", {{"\"n_positions\": 16", "\"n_positions\": 8"}}), ContainsSubstring("\"n_positions\" is 8"));
  CHECK_THAT(changed("gpt2_a", {{"\"n_head\": 3", "\"n_head\": 5"}}), ContainsSubstring("does not divide into 5 heads"));
  CHECK_THAT(changed("gpt2_a", {{"\"gelu_new\"", "\"mish\""}}), ContainsSubstring("\"activation_function\" is \"mish\"; expected gelu"));
  CHECK_THAT(changed("gpt2_a", {{"\"scale_attn_by_inverse_layer_idx\": false", "\"scale_attn_by_inverse_layer_idx\": true"}}),
             ContainsSubstring("\"scale_attn_by_inverse_layer_idx\" is true; only false can be read"));
  CHECK_THAT(changed("gpt2_a", {{"\"n_layer\": 2", "\"n_layer\": 1000000000000"}}), ContainsSubstring("\"n_layer\" is 1000000000000"));
  CHECK_THAT(changed("mamba_a", {{"\"state_size\": 5", "\"state_size\": 6"}}), ContainsSubstring("\"state_size\" is 6"));
  CHECK_THAT(changed("mamba_a", {{"\"model_type\": \"mamba\"", "\"model_type\": \"bert\""}}),
             ContainsSubstring("has model_type \"bert\"; expected gpt2, llama or mamba"));
  CHECK_THAT(changed("llama_b", {{"\"rope_type\": \"llama3\"", "\"rope_type\": \"longrope\""}}),
             ContainsSubstring("\"rope_type\" is \"longrope\""));
  CHECK_THAT(changed("llama_b", {{"\"attention_bias\": true", "\"attention_bias\": false"}}),
             ContainsSubstring("which this model does not have"));
  CHECK_THAT(changed("llama_b", {{"\"mlp_bias\": true", "\"mlp_bias\": 1"}}),
             ContainsSubstring("\"mlp_bias\" is 1, expected true or false"));
  // A shard that is gone, and one elsewhere.
  fs::remove(folder / "llama_a/model-00003-of-00006.safetensors");
  CHECK_THAT(error_of([&] { nn::load_language_model(folder / "llama_a"); }), ContainsSubstring("model-00003-of-00006.safetensors"));
  std::string index = read_file(golden / "llama_a/model.safetensors.index.json");
  index.replace(index.find("model-00003"), 0, "../");
  write_file_atomically(folder / "llama_a/model.safetensors.index.json", index);
  CHECK_THAT(error_of([&] { nn::load_language_model(folder / "llama_a"); }),
             ContainsSubstring("expected the name of a file in this folder"));
}

TEST_CASE("a language model refuses what does not fit", "[language_model]") {
  CHECK_THAT(error_of([] { nn::LanguageModel({.vocab_size = 0, .hidden_size = 8, .num_layers = 1}, attention); }),
             ContainsSubstring("vocab_size 0"));
  CHECK_THAT(error_of([] { nn::LanguageModel({.vocab_size = 3, .hidden_size = 8, .num_layers = 1, .dropout = 1}, attention); }),
             ContainsSubstring("dropout 1"));
  CHECK_THAT(error_of([] {
               nn::LanguageModel({.vocab_size = 3, .hidden_size = 8, .num_layers = 1, .positions = nn::LanguageModelPositions::learned},
                                 attention);
             }),
             ContainsSubstring("max_positions 0"));
  manual_seed(1);
  nn::LanguageModelConfig config = small();
  config.max_positions = 5;
  nn::LanguageModel model(config, attention);
  const NoGrad off;
  CHECK_THAT(error_of([&] { model(some_ids(1, 6)); }), ContainsSubstring("6 tokens do not fit the 5 positions"));
  CHECK_THAT(error_of([&] { model(zeros({3}, {.dtype = DType::i64})); }), ContainsSubstring("expected 2 dims"));
  nn::LanguageModel::State state;
  model.step(some_ids(1, 4), state);
  CHECK_THAT(error_of([&] { model.step(some_ids(1, 2), state); }), ContainsSubstring("6 tokens do not fit the 5 positions"));
  CHECK(state.length == 4);
  CHECK_THAT(error_of([&] { model.step(some_ids(1, 0), state); }), ContainsSubstring("it needs a token"));
  state.layers.pop_back();
  CHECK_THAT(error_of([&] { model.step(some_ids(1, 1), state); }), ContainsSubstring("state of 1 layers, expected 2"));
  CHECK_THAT(error_of([&] { model.generate({}, 1); }), ContainsSubstring("empty prompt"));
  CHECK_THAT(error_of([&] { model.generate({1}, 1, {.temperature = -1}); }), ContainsSubstring("temperature -1"));
}

TEST_CASE("any sequence mixer keeps states of other layers out", "[sequence_mixer]") {
  const NoGrad off;
  const nn::AnySequenceMixer one = nn::MinGRU(4), two = nn::MinLSTM(4);
  nn::AnySequenceMixer::State state;
  one.step(zeros({1, 2, 4}), state);
  CHECK_THAT(error_of([&] { two.step(zeros({1, 2, 4}), state); }), ContainsSubstring("state of another layer"));
}
