// Losses: PyTorch's numbers, papers' numbers, and what they do with bad input.
#include "layer_cases.h"

using namespace retape;
using namespace retape::testing;

namespace {

const Reduction reductions[] = {Reduction::none, Reduction::mean, Reduction::sum, Reduction::batchmean};
const char* const reduction_names[] = {"none", "mean", "sum", "batchmean"};

std::vector<LayerCase> loss_cases() {
  using In = const CaseInputs&;
  std::vector<LayerCase> cases;
  for (int i = 0; i < 4; ++i) {
    const Reduction r = reductions[i];
    const auto add = [&](const std::string& name, auto f) { cases.push_back({name + "_" + reduction_names[i], f}); };
    add("kl_div", [r](In x) { return nn::KLDivLoss({.reduction = r})(x["x"], x["t"]); });
    if (r == Reduction::batchmean) continue;
    add("l1", [r](In x) { return nn::L1Loss({r})(x["a"], x["b"]); });
    add("smooth_l1", [r](In x) { return nn::SmoothL1Loss({r, 0.7})(x["a"], x["b"]); });
    add("nll", [r](In x) { return nn::NLLLoss({.weight = x["w"], .reduction = r})(x["x"], x["t"]); });
    add("cross_entropy",
        [r](In x) { return nn::CrossEntropyLoss({.weight = x["w"], .label_smoothing = 0.2, .reduction = r})(x["x"], x["t"]); });
    add("cross_entropy_shares",
        [r](In x) { return cross_entropy(x["x"], x["t"], {.weight = x["w"], .label_smoothing = 0.1, .reduction = r}); });
    add("ctc", [r](In x) { return nn::CTCLoss({.reduction = r})(log_softmax(x["x"], 2), x["t"], x["i"], x["l"]); });
  }
  const auto rle = [](In x, nn::RLEDistribution q) {
    nn::RLELoss loss({.q_distribution = q}, {.hidden_dim = 5, .layers = 4});
    loss.to(x["pred"].dtype());
    // Gradients go to the file's tensors, so that they, too, are compared.
    for (int i = 0; i < 4; ++i)
      for (const bool scale : {true, false}) {
        auto& net = scale ? loss.flow.s[size_t(i)] : loss.flow.t[size_t(i)];
        int j = 0;
        for (nn::Linear* layer : {&net.first, &net.second, &net.last}) {
          const std::string at = std::string(scale ? "s_" : "t_") + std::to_string(i) + "_" + std::to_string(j);
          layer->weight = Parameter(x[at + "_weight"]), layer->bias = Parameter(x[at + "_bias"]);
          j += 2;
        }
      }
    const Tensor y = loss(x["pred"], x["sigma"], x["target"], x["weight"]);
    // Parameters are leaves of their own: their gradients of this value are handed on.
    Tensor carried = y;
    for (auto& [name, p] : loss.named_parameters()) {
      const auto g = grad({y}, {p}, {.retain_graph = true});
      std::string key = name.substr(name.find('.') + 1);
      std::replace(key.begin(), key.end(), '.', '_');
      carried = carried + sum((x[key] - x[key].detach()) * g[0]);
    }
    return carried;
  };
  const std::vector<LayerCase> more = {
      {"mse", [](In x) { return nn::MSELoss()(x["input"], x["target"]); }},
      {"smooth_l1_beta_0", [](In x) { return smooth_l1_loss(x["a"], x["b"], Reduction::mean, 0); }},
      {"huber", [](In x) { return nn::HuberLoss({.delta = 0.8})(x["a"], x["b"]); }},
      {"bce", [](In x) { return nn::BCELoss()(x["p"], x["t"]); }},
      {"bce_at_0_and_1", [](In x) { return binary_cross_entropy(x["p"], x["t"], {.reduction = Reduction::none}); }},
      {"bce_weight", [](In x) { return nn::BCELoss({.weight = x["w"], .reduction = Reduction::sum})(x["p"], x["t"]); }},
      {"bce_logits", [](In x) { return nn::BCEWithLogitsLoss()(x["a"], x["t"]); }},
      {"bce_logits_weights",
       [](In x) { return nn::BCEWithLogitsLoss({.weight = x["w"], .reduction = Reduction::none, .pos_weight = x["p"]})(x["a"], x["t"]); }},
      {"kl_div_log_target", [](In x) { return kl_div(x["x"], x["t"], {.reduction = Reduction::batchmean, .log_target = true}); }},
      {"poisson", [](In x) { return nn::PoissonNLLLoss()(x["input"], x["target"]); }},
      {"poisson_full",
       [](In x) { return poisson_nll_loss(x["x"], x["t"], {.log_input = false, .full = true, .reduction = Reduction::none}); }},
      {"gaussian", [](In x) { return nn::GaussianNLLLoss()(x["input"], x["target"], x["var"]); }},
      {"gaussian_full",
       [](In x) { return gaussian_nll_loss(x["a"], x["b"], x["v"], {.full = true, .eps = 0.5, .reduction = Reduction::none}); }},
      {"gaussian_row", [](In x) { return gaussian_nll_loss(x["a"], x["b"], x["v"], {.reduction = Reduction::sum}); }},
      {"soft_margin", [](In x) { return nn::SoftMarginLoss()(x["input"], x["target"]); }},
      {"nll_pixels", [](In x) { return nll_loss(x["x"], x["t"]); }},
      {"nll_one", [](In x) { return nll_loss(x["x"], x["t"]); }},
      {"cross_entropy_pixels", [](In x) { return cross_entropy(x["x"], x["t"], {.weight = x["w"], .label_smoothing = 0.3}); }},
      {"cross_entropy_pixels_plain", [](In x) { return cross_entropy(x["x"], x["t"], {.ignore_index = 3, .reduction = Reduction::none}); }},
      {"cross_entropy_one", [](In x) { return cross_entropy(x["x"], x["t"], {.weight = x["w"]}); }},
      {"multi_margin", [](In x) { return nn::MultiMarginLoss()(x["x"], x["t"]); }},
      {"multi_margin_squared",
       [](In x) { return multi_margin_loss(x["x"], x["t"], {.p = 2, .margin = 0.6, .weight = x["w"], .reduction = Reduction::none}); }},
      {"multilabel_margin", [](In x) { return nn::MultiLabelMarginLoss()(x["x"], x["t"]); }},
      {"multilabel_margin_none", [](In x) { return multilabel_margin_loss(x["x"], x["t"], Reduction::none); }},
      {"multilabel_soft_margin", [](In x) { return nn::MultiLabelSoftMarginLoss({.weight = x["w"]})(x["x"], x["t"]); }},
      {"focal", [](In x) { return nn::SigmoidFocalLoss()(x["x"], x["t"]); }},
      {"focal_gamma", [](In x) { return sigmoid_focal_loss(x["x"], x["t"], {.alpha = -1, .gamma = 1.5, .reduction = Reduction::mean}); }},
      {"ctc_concatenated",
       [](In x) {
         return ctc_loss(log_softmax(x["x"], 2), x["t"], x["i"], x["l"], {.blank = 2, .reduction = Reduction::none, .zero_infinity = true});
       }},
      {"ctc_one", [](In x) { return ctc_loss(log_softmax(x["x"], 1), x["t"], x["i"], x["l"]); }},
      {"cosine_embedding", [](In x) { return nn::CosineEmbeddingLoss({.margin = 0.2})(x["a"], x["b"], x["t"]); }},
      {"cosine_embedding_none", [](In x) { return cosine_embedding_loss(x["a"], x["b"], x["t"], {.reduction = Reduction::none}); }},
      {"margin_ranking", [](In x) { return nn::MarginRankingLoss({.margin = 0.3})(x["a"], x["b"], x["t"]); }},
      {"hinge_embedding", [](In x) { return nn::HingeEmbeddingLoss()(x["input"], x["target"]); }},
      {"triplet", [](In x) { return nn::TripletMarginLoss()(x["anchor"], x["positive"], x["negative"]); }},
      {"triplet_swap",
       [](In x) { return triplet_margin_loss(x["a"], x["b"], x["c"], {.margin = 2, .p = 3, .swap = true, .reduction = Reduction::none}); }},
      {"triplet_distance",
       [](In x) {
         return nn::TripletMarginWithDistanceLoss({.distance_function = [](auto& p, auto& q) { return 1 - cosine_similarity(p, q); }})(
             x["a"], x["b"], x["c"]);
       }},
      {"pairwise_distance", [](In x) { return nn::PairwiseDistance({.p = 1.5})(x["a"], x["b"]); }},
      {"cosine_similarity", [](In x) { return nn::CosineSimilarity({.dim = 0})(x["a"], x["b"]); }},
      {"info_nce", [](In x) { return nn::InfoNCE({.temperature = 0.2})(x["a"], x["b"]); }},
      {"info_nce_shared", [](In x) { return info_nce_loss(x["a"], x["b"], x["n"], {.reduction = Reduction::none}); }},
      {"info_nce_own", [](In x) { return info_nce_loss(x["a"], x["b"], x["n"]); }},
      {"nce", [](In x) { return nn::NCELoss()(x["s"], x["n"], x["q"], x["nq"]); }},
      {"clip", [](In x) { return clip_loss(x["a"], x["b"], x["scale"]); }},
      {"siglip", [](In x) { return siglip_loss(x["a"], x["b"], x["scale"], x["bias"]); }},
      {"rle", [rle](In x) { return rle(x, nn::RLEDistribution::laplace); }},
      {"rle_gaussian", [rle](In x) { return rle(x, nn::RLEDistribution::gaussian); }},
  };
  cases.insert(cases.end(), more.begin(), more.end());
  return cases;
}
Tensor f64(const std::vector<double>& v, const Shape& shape) { return tensor(v, shape); }

}  // namespace

TEST_CASE("losses and their gradients are PyTorch's, and their papers'", "[loss][golden]") {
  check_layer_cases(SafeTensors::open(RETAPE_GOLDEN "/layers_losses.safetensors").tensors(), loss_cases());
}

TEST_CASE("losses refuse what does not fit, with both values", "[loss]") {
  const Tensor x = ones({2, 3}), y = ones({3, 2}), classes = tensor<int64_t>({0, 3}), few = tensor<int64_t>({0});
  for (const std::string& error :
       {error_of([&] { l1_loss(x, y); }), error_of([&] { mse_loss(x, y); }), error_of([&] { smooth_l1_loss(x, y); }),
        error_of([&] { huber_loss(x, y); }), error_of([&] { binary_cross_entropy(x, y); }),
        error_of([&] { binary_cross_entropy_with_logits(x, y); }), error_of([&] { kl_div(x, y); }),
        error_of([&] { poisson_nll_loss(x, y); }), error_of([&] { soft_margin_loss(x, y); }), error_of([&] { gaussian_nll_loss(x, x, y); }),
        error_of([&] { cosine_embedding_loss(x, y, few); }), error_of([&] { triplet_margin_loss(x, x, y); }),
        error_of([&] { info_nce_loss(x, y); }), error_of([&] { clip_loss(x, y, 1); })})
    CHECK_THAT(error, ContainsSubstring("[2, 3]") && ContainsSubstring("[3, 2]"));
  CHECK_THAT(error_of([&] { nll_loss(x, few); }), ContainsSubstring("target of shape [1]") && ContainsSubstring("[2]"));
  CHECK_THAT(error_of([&] { nll_loss(x, classes); }), ContainsSubstring("class 3 is out of range; expected 0 <= class < 3"));
  CHECK_THAT(error_of([&] { multi_margin_loss(x, classes); }), ContainsSubstring("class 3 is out of range"));
  CHECK_THAT(error_of([&] { multilabel_margin_loss(x, tensor<int64_t>({0, -1, 0, 1, -2, 0}, {2, 3})); }), ContainsSubstring("class -2"));
  CHECK_THAT(error_of([&] { cross_entropy(x, classes); }), ContainsSubstring("3"));
  CHECK_THAT(error_of([&] {
               cross_entropy(x, tensor<int64_t>({0, 1}), {.weight = ones({2})});
             }),
             ContainsSubstring("weight has shape [2]; there are 3 classes"));
  CHECK_THAT(error_of([&] { binary_cross_entropy(x * 2, x); }), ContainsSubstring("an input is 2"));
  CHECK_THAT(error_of([&] { gaussian_nll_loss(x, x, neg(x)); }), ContainsSubstring("a variance is -1"));
  CHECK_THAT(error_of([&] { l1_loss(cast(x, DType::i64), cast(x, DType::i64)); }), ContainsSubstring("i64"));
  CHECK_THAT(error_of([&] {
               cross_entropy(x, tensor<int64_t>({0, 1}), {.reduction = Reduction::batchmean});
             }),
             ContainsSubstring("batchmean"));
}

TEST_CASE("a target that is ignored everywhere leaves no mean, and no sum", "[loss]") {
  const Tensor x = leaf({2, 3}), ignored = tensor<int64_t>({-100, -100});
  CHECK(std::isnan(nll_loss(x, ignored).item()));
  const Tensor loss = nll_loss(x, ignored, {.reduction = Reduction::sum});
  CHECK(loss.item() == 0);
  backward(loss);
  CHECK(norm(x.grad()).item() == 0);
}

TEST_CASE("nan reaches a loss", "[loss]") {
  const Tensor x = f64({NAN, 1}, {2}), y = f64({1, 1}, {2});
  for (const Tensor& loss : {l1_loss(x, y), smooth_l1_loss(x, y), huber_loss(x, y), binary_cross_entropy(x, y),
                             binary_cross_entropy_with_logits(x, y), kl_div(x, y), soft_margin_loss(x, y)})
    CHECK(std::isnan(loss.item()));
}

TEST_CASE("losses in mixed precision are f32", "[loss][autocast]") {
  const Tensor x = cast(uniform({2, 3}, 0.1, 0.9), DType::bf16), y = cast(uniform({2, 3}, 0.1, 0.9), DType::bf16);
  const Autocast amp(DType::bf16);
  for (const Tensor& loss : {l1_loss(x, y), mse_loss(x, y), smooth_l1_loss(x, y), huber_loss(x, y), binary_cross_entropy_with_logits(x, y),
                             kl_div(x, y), nll_loss(x, tensor<int64_t>({0, 1})), margin_ranking_loss(x, y, y)})
    CHECK(loss.dtype() == DType::f32);
}

TEST_CASE("a flow's density is that of its samples, and forward inverts inverse", "[loss]") {
  manual_seed(4);
  nn::RealNVP flow({.dim = 3, .hidden_dim = 8, .layers = 5});
  flow.to(DType::f64);
  const Tensor x = values({6, 3});
  const auto [z, log_det] = flow.inverse(x);
  CHECK(difference(flow(z), x, DType::f64) <= 1);
  for (int64_t i = 0; i < 6; ++i) {
    const Tensor j = jacobian([&](const Tensor& in) { return squeeze(flow.inverse(unsqueeze(in, 0)).z, 0); }, clone(select(x, 0, i)));
    CHECK(log_det.to_vector<double>()[size_t(i)] == Approx(std::log(std::abs(det(j).item()))).margin(1e-10));
  }
  CHECK(flow.state_dict().front().first == "s.0.0.weight");
  CHECK_THAT(error_of([&] { flow.log_prob(ones({2, 2})); }), ContainsSubstring("[2, 2]"));
}

TEST_CASE("CLIP's and SigLIP's losses are smallest for matching pairs", "[loss]") {
  const Tensor a = eye(4), wrong = eye(4).at({tensor<int64_t>({1, 0, 3, 2})});
  nn::CLIPLoss clip;
  nn::SigLIPLoss siglip;
  CHECK(clip(a, a).item() < 0.01);
  CHECK(clip(a, wrong).item() > 5);
  CHECK(siglip(a, a).item() < siglip(a, wrong).item());
  backward(clip(a, wrong));
  CHECK(clip.logit_scale->grad().item() > 0);
}
