#include <retape/nn/vision_transformer.h>

#include <fmt/format.h>

#include <cmath>

#include <retape/autograd/binary.h>
#include <retape/autograd/index.h>
#include <retape/autograd/matmul.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>
#include <retape/nn/init.h>

namespace retape {

Tensor patchify(const Tensor& images, int64_t p) {
  if (images.dim() != 4 || p < 1 || images.size(2) % p || images.size(3) % p)
    throw Error(fmt::format("patchify: images of shape {} do not divide into patches of {} x {}; expected (B, C, H, W)",
                            images.shape().str(), p, p));
  const int64_t batch = images.size(0), channels = images.size(1), rows = images.size(2) / p, columns = images.size(3) / p;
  const Tensor split = reshape(images, {batch, channels, rows, p, columns, p});
  return reshape(permute(split, {0, 2, 4, 3, 5, 1}), {batch, rows * columns, p * p * channels});
}

Tensor unpatchify(const Tensor& patches, int64_t p, int64_t channels, int64_t height) {
  const int64_t rows = p > 0 ? height / p : 0;
  if (patches.dim() != 3 || rows < 1 || height % p || patches.size(1) % rows || patches.size(2) != p * p * channels)
    throw Error(
        fmt::format("unpatchify: patches of shape {} are not (B, N, {}) with N a multiple of {}, as {} channels in patches of {} x {} "
                    "of a height of {} are",
                    patches.shape().str(), p * p * channels, rows, channels, p, p, height));
  const int64_t batch = patches.size(0), columns = patches.size(1) / rows;
  const Tensor split = reshape(patches, {batch, rows, columns, p, p, channels});
  return reshape(permute(split, {0, 5, 1, 3, 2, 4}), {batch, channels, height, columns * p});
}

namespace nn {
namespace {

bool is_tanh_gelu(const std::string& act) { return act == "gelu_pytorch_tanh" || act == "gelu_new"; }

// The rows ids (B, V) of x (B, N, D)
Tensor rows(const Tensor& x, const Tensor& ids) {
  const int64_t batch = x.size(0), n = x.size(1), dim = x.size(2);
  const Tensor first = unsqueeze(arange(0, double(batch * n), double(n), ids.options()), 1);
  return reshape(index_select(reshape(x, {batch * n, dim}), 0, reshape(ids + first, {-1})), {batch, ids.size(1), dim});
}

}  // namespace

void check(const ViTConfig& c) {
  const auto positive = [](const char* name, int64_t value) {
    if (value < 1) throw Error(fmt::format("ViT: {} {} is not valid; it must be at least 1", name, value));
  };
  positive("image_size", c.image_size), positive("patch_size", c.patch_size), positive("num_channels", c.num_channels);
  positive("hidden_size", c.hidden_size), positive("num_hidden_layers", c.num_hidden_layers);
  positive("num_attention_heads", c.num_attention_heads), positive("intermediate_size", c.intermediate_size);
  if (c.num_labels < 0) throw Error(fmt::format("ViT: num_labels {} is not valid; it must be at least 0", c.num_labels));
  if (c.image_size % c.patch_size)
    throw Error(fmt::format("ViT: image_size {} is no multiple of patch_size {}", c.image_size, c.patch_size));
  if (c.hidden_size % c.num_attention_heads)
    throw Error(fmt::format("ViT: hidden_size {} is no multiple of num_attention_heads {}", c.hidden_size, c.num_attention_heads));
  if (c.hidden_act != "gelu" && c.hidden_act != "relu" && c.hidden_act != "silu" && !is_tanh_gelu(c.hidden_act))
    throw Error(
        fmt::format("ViT: hidden_act \"{}\" is not known; it must be gelu, gelu_pytorch_tanh, gelu_new, relu or silu", c.hidden_act));
}

PatchEmbed::PatchEmbed(int64_t p, int64_t channels, int64_t dim)
    : weight(empty_parameter({dim, channels, p, p})), bias(empty_parameter({dim})) {
  init::xavier_uniform(reshape(weight.tensor().detach(), {dim, channels * p * p}));
  init::zeros(bias);
}
Tensor PatchEmbed::forward(const Tensor& patches) const {
  const Tensor& w = weight;
  return linear(patches, reshape(permute(w, {0, 2, 3, 1}), {w.size(0), -1}), bias);
}

ViTBlock::ViTBlock(const ViTConfig& c)
    : hidden_act(c.hidden_act),
      norm1(c.hidden_size, {.eps = c.layer_norm_eps}),
      attention(c.hidden_size, c.num_attention_heads, {.dropout = c.attention_probs_dropout_prob, .batch_first = true}),
      norm2(c.hidden_size, {.eps = c.layer_norm_eps}),
      fc1(c.hidden_size, c.intermediate_size),
      fc2(c.intermediate_size, c.hidden_size),
      dropout(c.hidden_dropout_prob) {
  if (!c.qkv_bias) attention.in_proj_bias = Parameter();
  for (const Linear* layer : {&attention.out_proj, &fc1, &fc2}) init::xavier_uniform(layer->weight), init::zeros(layer->bias);
}
Tensor ViTBlock::mlp(const Tensor& x) const {
  if (is_tanh_gelu(hidden_act)) return feed_forward(x, fc1.weight, fc1.bias, fc2.weight, fc2.bias);
  const Tensor h = fc1(x);
  return fc2(hidden_act == "gelu" ? gelu(h) : hidden_act == "relu" ? relu(h) : silu(h));
}
Tensor ViTBlock::forward(const Tensor& x) const {
  const Tensor in = norm1(x), h = x + dropout(attention(in, in, in, {.need_weights = false}).output);
  return h + dropout(mlp(norm2(h)));
}

ViT::ViT(const ViTConfig& c)
    : config((check(c), c)),
      patch_embed(c.patch_size, c.num_channels, c.hidden_size),
      cls_token(empty_parameter({1, 1, c.hidden_size})),
      pos_embed(empty_parameter({1, 1 + c.patches(), c.hidden_size})),
      dropout(c.hidden_dropout_prob),
      norm(c.hidden_size, {.eps = c.layer_norm_eps}) {
  init::normal(cls_token, 0, 0.02);
  const int64_t side = c.image_size / c.patch_size;
  if (c.position_embedding == PositionEmbedding::learned) {
    init::normal(pos_embed, 0, 0.02);
  } else {
    copy_into(sincos_positions(side, side, c.hidden_size), pos_embed.tensor().detach());
    pos_embed = Parameter(pos_embed, false);
  }
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) blocks.emplace_back(c);
  if (c.num_labels == 0) return;
  classifier.emplace(c.hidden_size, c.num_labels);
  init::zeros(classifier->weight), init::zeros(classifier->bias);
}

Tensor ViT::encode(const Tensor& patches, const Tensor& ids_keep) {
  const int64_t batch = patches.size(0), count = config.patches();
  if (patches.dim() != 3 || patches.size(1) != count)
    throw Error(fmt::format("ViT: patches of shape {} do not fit; expected (B, {}, {})", patches.shape().str(), count,
                            config.patch_size * config.patch_size * config.num_channels));
  const Tensor positions = narrow(pos_embed, 1, 1, count);
  const Tensor x =
      ids_keep ? patch_embed(rows(patches, ids_keep)) + embedding(select(positions, 0, 0), ids_keep) : patch_embed(patches) + positions;
  const Tensor cls = expand(cls_token + narrow(pos_embed, 1, 0, 1), {batch, 1, config.hidden_size});
  Tensor h = dropout(cat({cls, x}, 1));
  if (run_blocks) h = run_blocks(blocks, h);
  else
    for (auto& block : blocks) h = block(h);
  return norm(h);
}

Tensor ViT::features(const Tensor& images) {
  const Shape& s = images.shape();
  if (images.dim() != 4 || s[1] != config.num_channels || s[2] != config.image_size || s[3] != config.image_size)
    throw Error(fmt::format("ViT: images of shape {} do not fit; expected (B, {}, {}, {})", s.str(), config.num_channels, config.image_size,
                            config.image_size));
  const Tensor tokens = encode(patchify(images, config.patch_size));
  if (config.pooling == Pooling::cls) return select(tokens, 1, 0);
  return mean(narrow(tokens, 1, 1, config.patches()), {1});
}
Tensor ViT::forward(const Tensor& images) {
  const Tensor x = features(images);
  return classifier ? (*classifier)(x) : x;
}

}  // namespace nn
}  // namespace retape
