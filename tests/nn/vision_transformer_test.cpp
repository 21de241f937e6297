// ViT and MAE: masks, what reaches the encoder, the loss, and Hugging Face's files.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>

#include <retape/io/file.h>
#include <tests/catch.h>
#include <tests/temporary.h>

using namespace retape;
using namespace retape::testing;

namespace {

namespace fs = std::filesystem;
const fs::path golden = RETAPE_GOLDEN;

nn::MAEConfig tiny_mae(double mask_ratio = 0.5, bool norm_pix_loss = true) {
  return {.encoder = {.image_size = 6,
                      .patch_size = 2,
                      .num_channels = 2,
                      .hidden_size = 8,
                      .num_hidden_layers = 2,
                      .num_attention_heads = 2,
                      .intermediate_size = 12,
                      .position_embedding = nn::PositionEmbedding::sincos},
          .decoder_hidden_size = 4,
          .decoder_num_hidden_layers = 2,
          .decoder_num_attention_heads = 2,
          .decoder_intermediate_size = 6,
          .mask_ratio = mask_ratio,
          .norm_pix_loss = norm_pix_loss};
}
nn::MaskedAutoencoder in_f64(const nn::MAEConfig& config) {
  manual_seed(3);
  nn::MaskedAutoencoder model(config);
  model.to(DType::f64);
  return model;
}
PatchMask masked(const nn::MAEConfig& config, int64_t batch = 2) {
  Generator generator(5);
  return random_masking(batch, config.encoder.patches(), config.mask_ratio, {}, generator);
}
std::vector<std::string> names_of(const fs::path& file) {
  auto names = SafeTensors::open(file).names();
  std::sort(names.begin(), names.end());
  return names;
}
bool near(const Tensor& a, const Tensor& b, double tolerance) {
  return a.shape() == b.shape() && amax(abs(a.detach() - b.detach())).item() <= tolerance;
}

}  // namespace

TEST_CASE("patches are rows of pixels with their channels together, and go back", "[vit]") {
  const Tensor images = reshape(arange(2 * 3 * 4 * 6), {2, 3, 4, 6});
  const Tensor patches = patchify(images, 2);
  REQUIRE(patches.shape() == Shape{2, 6, 12});
  // Patch 4 of image 0 is row 1, column 1: pixels (2, 2), (2, 3), (3, 2), (3, 3) of channels 24 numbers apart.
  CHECK(select(select(patches, 0, 0), 0, 4).to_vector<int64_t>() == std::vector<int64_t>{14, 38, 62, 15, 39, 63, 20, 44, 68, 21, 45, 69});
  CHECK(same_bits(unpatchify(patches, 2, 3, 4), images));
  CHECK_THAT(error_of([&] { patchify(images, 4); }), ContainsSubstring("shape [2, 3, 4, 6] do not divide into patches of 4 x 4"));
  CHECK_THAT(error_of([&] { unpatchify(patches, 2, 1, 4); }), ContainsSubstring("[2, 6, 12] are not (B, N, 4)"));
}

TEST_CASE("a mask is a permutation with its inverse, and hides the share that it should", "[mae]") {
  for (const double ratio : {0.0, 0.5, 0.75, 0.9}) {
    manual_seed(1);
    const PatchMask mask = random_masking(3, 20, ratio);
    const auto keep = int64_t(20 * (1 - ratio));
    REQUIRE(mask.ids_keep.shape() == Shape{3, keep});
    REQUIRE(mask.ids_restore.shape() == Shape{3, 20});
    const auto ids = mask.ids_keep.to_vector<int64_t>(), places = mask.ids_restore.to_vector<int64_t>();
    const auto hidden = mask.hidden.to_vector<bool>();
    for (int64_t b = 0; b < 3; ++b) {
      const std::set<int64_t> different(places.begin() + b * 20, places.begin() + (b + 1) * 20);
      CHECK((different.size() == 20 && *different.begin() == 0 && *different.rbegin() == 19));
      for (int64_t k = 0; k < keep; ++k) CHECK(places[size_t(b * 20 + ids[size_t(b * keep + k)])] == k);
      for (int64_t i = 0; i < 20; ++i) CHECK(hidden[size_t(b * 20 + i)] == (places[size_t(b * 20 + i)] >= keep));
    }
    manual_seed(1);
    CHECK(same_bits(random_masking(3, 20, ratio).ids_restore, mask.ids_restore));
    CHECK_FALSE(same_bits(random_masking(3, 20, ratio).ids_restore, mask.ids_restore));
  }
  CHECK_THAT(error_of([] { random_masking(1, 20, 0.96); }), ContainsSubstring("mask_ratio 0.96 of 20 patches is not valid"));
  CHECK_THAT(error_of([] { random_masking(1, 20, -0.1); }), ContainsSubstring("mask_ratio -0.1"));
  CHECK_THAT(error_of([] { random_masking(1, 20, 1); }), ContainsSubstring("mask_ratio 1 "));
}

TEST_CASE("only visible patches reach the encoder", "[mae]") {
  const nn::MAEConfig config = tiny_mae(0.5, false);
  nn::MaskedAutoencoder model = in_f64(config);
  const PatchMask mask = masked(config);
  Tensor images = values({2, 2, 6, 6}).set_requires_grad();
  backward(sum(square(model(images, mask).pred)));
  const Tensor grad = patchify(images.grad(), 2), hidden = unsqueeze(mask.hidden, -1);
  CHECK(sum(abs(masked_fill(grad, logical_not(hidden), 0))).item() == 0);
  CHECK(count_nonzero(masked_fill(grad, hidden, 0)).item() == 2 * 4 * 8);
  // Four of nine patches and the class token are what the encoder sees.
  CHECK(model.encoder.encode(patchify(images, 2), mask.ids_keep).shape() == Shape{2, 5, 8});
}

TEST_CASE("visible patches are encoded as by a ViT that gets only them", "[mae]") {
  const nn::MAEConfig config = tiny_mae();
  nn::MaskedAutoencoder model = in_f64(config);
  const Tensor patches = patchify(values({1, 2, 6, 6}), 2);
  // All patches in another order are the same tokens in another order.
  const Tensor order = tensor<int64_t>({3, 1, 4, 0, 5, 8, 2, 6, 7}, {1, 9});
  const Tensor shuffled = model.encoder.encode(patches, order), plain = model.encoder.encode(patches);
  CHECK(near(index_select(narrow(plain, 1, 1, 9), 1, select(order, 0, 0)), narrow(shuffled, 1, 1, 9), 1e-12));
  CHECK(near(select(plain, 1, 0), select(shuffled, 1, 0), 1e-12));
}

TEST_CASE("the loss is the mean squared error over hidden patches, normalised one by one", "[mae]") {
  for (const bool norm : {false, true}) {
    for (const double ratio : {0.0, 0.6}) {
      const nn::MAEConfig config = tiny_mae(ratio, norm);
      nn::MaskedAutoencoder model = in_f64(config);
      const PatchMask mask = masked(config);
      const Tensor images = values({2, 2, 6, 6});
      const auto [loss, pred] = model(images, mask);
      const auto x = patchify(images, 2).to_vector<double>(), y = pred.detach().to_vector<double>();
      const auto hidden = mask.hidden.to_vector<bool>();
      double total = 0, count = 0;
      for (size_t patch = 0; patch < 18; ++patch) {
        if (!hidden[patch] && ratio > 0) continue;
        double mean = 0, var = 0;
        for (size_t k = 0; k < 8; ++k) mean += x[patch * 8 + k] / 8;
        for (size_t k = 0; k < 8; ++k) var += std::pow(x[patch * 8 + k] - mean, 2) / 7;
        for (size_t k = 0; k < 8; ++k) {
          const double wanted = norm ? (x[patch * 8 + k] - mean) / std::sqrt(var + 1e-6) : x[patch * 8 + k];
          total += std::pow(y[patch * 8 + k] - wanted, 2), ++count;
        }
      }
      CHECK(count == (ratio > 0 ? 2 * 6 * 8 : 2 * 9 * 8));
      CHECK(loss.item() == Approx(total / count).epsilon(1e-12));
    }
  }
}

TEST_CASE("gradients of a masked autoencoder and of a ViT are those of differences", "[mae][vit]") {
  const nn::MAEConfig config = tiny_mae();
  nn::MaskedAutoencoder model = in_f64(config);
  const PatchMask mask = masked(config, 1);
  const Tensor images = values({1, 2, 6, 6});
  std::vector<Tensor> trained;
  for (auto& [name, p] : model.named_parameters())
    if (p.requires_grad()) trained.push_back(p);
  const auto mae = gradcheck([&](auto&) { return model(images, mask).loss; }, trained);
  CHECK(mae.report == "");

  for (const nn::Pooling pooling : {nn::Pooling::cls, nn::Pooling::mean}) {
    nn::ViTConfig c = config.encoder;
    c.position_embedding = nn::PositionEmbedding::learned, c.num_labels = 3, c.pooling = pooling, c.hidden_act = "gelu_pytorch_tanh";
    nn::ViT vit(c);
    vit.to(DType::f64);
    {
      const NoGrad off;
      copy_into(values({3, 8}), vit.classifier->weight);  // which starts at 0
    }
    CHECK(gradcheck([&](auto&) { return vit(images); }, vit.parameters()).report == "");
  }
}

TEST_CASE("recomputation of blocks changes no bit of a masked autoencoder's gradients", "[mae]") {
  nn::MAEConfig config = tiny_mae();
  config.encoder.hidden_dropout_prob = config.encoder.attention_probs_dropout_prob = 0.2;
  const Tensor images = values({3, 2, 6, 6}, -1, 1, 4, DType::f32);
  std::vector<std::vector<Tensor>> grads;
  for (const int way : {0, 1, 2}) {
    manual_seed(3);
    nn::MaskedAutoencoder model(config);
    if (way == 1) {
      model.encoder.run_blocks =
          model.decoder.run_blocks = [](auto& blocks, const Tensor& x) { return checkpoint_sequential(blocks, 2, x); };
    } else if (way == 2) {
      model.encoder.run_blocks = model.decoder.run_blocks = [](auto& blocks, Tensor x) {
        for (auto& block : blocks) x = checkpoint({.recompute = Recompute::cheap}, block, x);
        return x;
      };
    }
    backward(model.loss(images));
    auto& all = grads.emplace_back();
    for (auto& p : model.parameters())
      if (p.requires_grad()) all.push_back(p.grad());
  }
  REQUIRE(grads[0].size() > 50);
  for (const size_t way : {1, 2})
    for (size_t i = 0; i < grads[0].size(); ++i) CHECK(same_bits(grads[0][i], grads[way][i]));
}

TEST_CASE("Hugging Face's ViTs load under their own names and give the same logits", "[vit]") {
  for (const std::string name : {"vit_a", "vit_b"}) {
    nn::ViT model = nn::load_vit(golden / name);
    model.eval();
    const SafeTensors expected = SafeTensors::open(golden / name / "expected.safetensors");
    const Tensor images = expected.tensor("images");
    CHECK(difference(model(images), expected.tensor("logits"), DType::f32) <= 1);
    CHECK(difference(model.encode(patchify(images, model.config.patch_size)), expected.tensor("last_hidden_state"), DType::f32) <= 1);
    CHECK(bool(model.blocks[0].attention.in_proj_bias) == (name == "vit_a"));

    const TemporaryFolder folder;
    nn::save_vit(model, folder / "saved");
    CHECK(names_of(folder / "saved/model.safetensors") == names_of(golden / name / "model.safetensors"));
    nn::ViT again = nn::load_vit(folder / "saved");
    CHECK(again.config == model.config);
    CHECK(same_bits(again(images), model(images)));
  }
}

TEST_CASE("Hugging Face's ViTMAEs load under their own names and give the same prediction and loss", "[mae]") {
  for (const std::string name : {"mae_a", "mae_b"}) {
    nn::MaskedAutoencoder model = nn::load_vit_mae(golden / name);
    model.eval();
    const SafeTensors expected = SafeTensors::open(golden / name / "expected.safetensors");
    const Tensor images = expected.tensor("images");
    const PatchMask mask = mask_patches(expected.tensor("noise"), model.config.mask_ratio);
    CHECK(same_bits(mask.ids_restore, expected.tensor("ids_restore")));
    CHECK(same_bits(cast(mask.hidden, DType::f32), expected.tensor("hidden")));
    const auto [loss, pred] = model(images, mask);
    CHECK(difference(pred, expected.tensor("pred"), DType::f32) <= 1);
    CHECK(difference(reshape(loss, {1}), expected.tensor("loss"), DType::f32) <= 1);
    // The positions are what the formula gives.
    const int64_t side = model.config.encoder.image_size / model.config.encoder.patch_size;
    CHECK(near(model.encoder.pos_embed, sincos_positions(side, side, model.config.encoder.hidden_size), 1e-6));
    CHECK(near(model.decoder.pos_embed, sincos_positions(side, side, model.config.decoder_hidden_size), 1e-6));
    CHECK_FALSE(model.encoder.pos_embed->requires_grad());

    const TemporaryFolder folder;
    nn::save_vit_mae(model, folder / "saved");
    nn::MaskedAutoencoder again = nn::load_vit_mae(folder / "saved");
    CHECK(same_bits(again(images, mask).pred, pred));
    // The decoder's layers are named as in files that are handed around; this file has the names of transformers 5.23.
    const auto names = names_of(folder / "saved/model.safetensors");
    CHECK(std::count(names.begin(), names.end(), "decoder.decoder_layers.0.attention.attention.query.weight") == 1);
    CHECK(names.size() == names_of(golden / name / "model.safetensors").size());
    // The encoder alone.
    nn::ViT encoder = nn::load_vit(golden / name);
    const Tensor patches = patchify(images, encoder.config.patch_size);
    CHECK(same_bits(encoder.encode(patches), model.encoder.encode(patches)));
  }
}

TEST_CASE("a damaged or other model's folder is refused with what is wrong", "[vit]") {
  const TemporaryFolder folder;
  const auto config = [&](const std::string& from, const std::string& to) {
    std::string text = read_file(golden / "vit_a/config.json");
    REQUIRE(text.find(from) != std::string::npos);
    write_file_atomically(folder / "config.json", text.replace(text.find(from), from.size(), to));
  };
  const auto error = [&] { return error_of([&] { nn::load_vit(folder.path); }); };
  CHECK_THAT(error(), ContainsSubstring("config.json"));
  config("{", "[");
  CHECK_THAT(error(), ContainsSubstring("is no JSON object"));
  config("\"hidden_size\": 12", "\"hidden_size\": 12");
  CHECK_THAT(error(), ContainsSubstring("model.safetensors"));
  fs::copy(golden / "vit_a/model.safetensors", folder / "model.safetensors");
  CHECK(error() == "(no error)");
  config("\"hidden_size\": 12", "\"hidden_size\": \"12\"");
  CHECK_THAT(error(), ContainsSubstring("\"hidden_size\" is \"12\", expected a whole number"));
  config("\"hidden_size\": 12", "\"hidden_size\": 1200000000000");
  CHECK_THAT(error(), ContainsSubstring("has shape [12, 3, 4, 4], but config.json asks for [1200000000000, 3, 4, 4]"));
  config("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
  CHECK_THAT(error(), ContainsSubstring(
                          "has vit.encoder.layer.1.attention.attention.key.bias, vit.encoder.layer.1.attention.attention.key.weight, ") &&
                          ContainsSubstring("vit.encoder.layer.1.output.dense.weight, which this model does not have"));
  config("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1000000000");
  CHECK_THAT(error(), ContainsSubstring("has no vit.encoder.layer.999999999.intermediate.dense.weight"));
  config("\"num_attention_heads\": 3", "\"num_attention_heads\": 5");
  CHECK_THAT(error(), ContainsSubstring("hidden_size 12 is no multiple of num_attention_heads 5"));
  config("\"gelu\"", "\"mish\"");
  CHECK_THAT(error(), ContainsSubstring("hidden_act \"mish\" is not known"));
  config("\"vit\"", "\"bert\"");
  CHECK_THAT(error(), ContainsSubstring("has model_type \"bert\"; expected vit or vit_mae"));
  CHECK_THAT(error_of([] { nn::load_vit_mae(golden / "vit_a"); }), ContainsSubstring("has model_type \"vit\"; expected vit_mae"));
  nn::ViT mean = nn::load_vit(golden / "vit_a");
  mean.config.pooling = nn::Pooling::mean;
  CHECK_THAT(error_of([&] { nn::save_vit(mean, folder / "mean"); }), ContainsSubstring("reads the mean of all patches"));
}

TEST_CASE("a ViT says which images fit, and which sizes", "[vit]") {
  nn::MaskedAutoencoder mae(tiny_mae());
  const Tensor images = zeros({2, 3, 6, 6});
  CHECK_THAT(error_of([&] { mae.loss(images); }), ContainsSubstring("[2, 3, 6, 6] do not fit; expected (B, 2, 6, 6)"));
  CHECK_THAT(error_of([&] { mae.encoder(images); }), ContainsSubstring("[2, 3, 6, 6] do not fit; expected (B, 2, 6, 6)"));
  CHECK_THAT(error_of([] { nn::ViT({.image_size = 30}); }), ContainsSubstring("image_size 30 is no multiple of patch_size 16"));
  CHECK_THAT(error_of([] { nn::ViT({.num_attention_heads = 0}); }), ContainsSubstring("num_attention_heads 0"));
  nn::MAEConfig config = tiny_mae();
  config.encoder.num_labels = 4;
  CHECK_THAT(error_of([&] { nn::MaskedAutoencoder{config}; }), ContainsSubstring("num_labels 4"));
  config = tiny_mae(0.95);
  CHECK_THAT(error_of([&] { nn::MaskedAutoencoder{config}; }), ContainsSubstring("mask_ratio 0.95 of 9 patches"));
}
