#include "model.h"

#include <fmt/format.h>

namespace retape::vision {

void declare(examples::Settings& settings, ModelOptions& o, bool flags, bool classify) {
  const auto add = [&]<class T>(const std::string& name, T& variable, const char* help) -> examples::Setting& {
    o.of_vit.push_back("--" + name);
    return settings.add(o.of_vit.back(), variable, flags ? help : "");
  };
  if (classify)
    settings
        .add("--model", o.kind,
             flags ? "a ViT as the flags say, or torchvision's ResNet-18, for which --epochs is 24 and --augment crop:1,flip,erasing" : "")
        .one_of({"vit", "resnet18"});
  add("patch", o.patch, "height and width of a patch; divides the image's").at_least(1);
  add("dim", o.dim, "size of a patch's vector").at_least(1);
  add("depth", o.depth, "transformer blocks").at_least(1);
  add("heads", o.heads, "attention heads; divides --dim").at_least(1);
  add("mlp-dim", o.mlp_dim, "hidden size of a block's MLP; 0: four times --dim").at_least(0);
  add("dropout", o.dropout, "probability of dropping a value").at_least(0).below(1);
  add("act", o.act, "of the MLP").one_of({"gelu", "gelu_pytorch_tanh", "gelu_new", "relu", "silu"});
  if (classify) {
    add("pool", o.pool, "what is classified: the class token, or the mean of all patches").one_of({"cls", "mean"});
    add("positions", o.positions, "of patches: learned, or fixed sines and cosines").one_of({"learned", "sincos"});
  }
  settings.store("norm_eps", o.norm_eps), settings.store("qkv_bias", o.qkv_bias);
  settings.store("channels", o.channels), settings.store("model_size", o.model_size), settings.store("classes", o.classes);
}

void check_flags(const examples::Settings& settings, const ModelOptions& o) {
  if (o.kind == "vit") return;
  for (const std::string& flag : o.of_vit)
    if (settings.given(flag))
      throw Error(fmt::format("{} is about a ViT, and --model {} has nothing of the kind; leave it out", flag, o.kind));
}

nn::ViTConfig config_of(const ModelOptions& o) {
  if (o.model_size % o.patch)
    throw Error(fmt::format("--patch {} does not divide images of {} x {}; give another one, or --image-size", o.patch, o.model_size,
                            o.model_size));
  if (o.dim % o.heads) throw Error(fmt::format("--dim {} is no multiple of --heads {}", o.dim, o.heads));
  if (o.positions == "sincos" && o.dim % 4) throw Error(fmt::format("--dim {} is no multiple of 4, as fixed positions need", o.dim));
  return {.image_size = o.model_size,
          .patch_size = o.patch,
          .num_channels = o.channels,
          .hidden_size = o.dim,
          .num_hidden_layers = o.depth,
          .num_attention_heads = o.heads,
          .intermediate_size = o.mlp_dim ? o.mlp_dim : 4 * o.dim,
          .hidden_act = o.act,
          .hidden_dropout_prob = o.dropout,
          .attention_probs_dropout_prob = o.dropout,
          .layer_norm_eps = o.norm_eps,
          .qkv_bias = o.qkv_bias,
          .num_labels = o.classes,
          .position_embedding = o.positions == "sincos" ? nn::PositionEmbedding::sincos : nn::PositionEmbedding::learned,
          .pooling = o.pool == "mean" ? nn::Pooling::mean : nn::Pooling::cls};
}
void take_config(ModelOptions& o, const nn::ViTConfig& c) {
  o.patch = c.patch_size, o.dim = c.hidden_size, o.depth = c.num_hidden_layers, o.heads = c.num_attention_heads;
  o.mlp_dim = c.intermediate_size, o.act = c.hidden_act, o.norm_eps = c.layer_norm_eps, o.qkv_bias = c.qkv_bias;
  o.channels = c.num_channels, o.model_size = c.image_size;
  o.positions = c.position_embedding == nn::PositionEmbedding::sincos ? "sincos" : "learned";
}

namespace {
std::variant<nn::ViT, nn::ResNet> make_net(const ModelOptions& o) {
  if (o.kind == "vit") return nn::ViT(config_of(o));
  nn::ResNetConfig config = nn::resnet18();
  config.num_channels = o.channels, config.num_classes = o.classes;
  return nn::ResNet(config);
}
}  // namespace

Classifier::Classifier(const ModelOptions& options) : net_(make_net(options)) {}
Tensor Classifier::operator()(const Tensor& images) {
  return std::visit([&](auto& net) { return net(images); }, net_);
}
nn::Module& Classifier::module() {
  return std::visit([](auto& net) -> nn::Module& { return net; }, net_);
}
void Classifier::recompute(const std::string& how) {
  if (nn::ViT* const model = vit()) {
    model->run_blocks = run_blocks(how, int64_t(model->blocks.size()));
  } else if (how != "none") {
    auto& resnet = std::get<nn::ResNet>(net_);
    resnet.run_blocks = [parts = examples::parse_recomputation(how, int64_t(resnet.layer1.size()))](auto& blocks, const Tensor& x) {
      return examples::run_blocks(blocks, parts, x);
    };
  }
}

nn::RunViTBlocks run_blocks(const std::string& recompute, int64_t depth) {
  return [how = examples::parse_recomputation(recompute, depth)](auto& blocks, const Tensor& x) {
    return examples::run_blocks(blocks, how, x);
  };
}

}  // namespace retape::vision
