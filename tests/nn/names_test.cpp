// Programs may use both namespaces: no name of retape::nn is one of retape.
#include <retape/retape.h>

#include "golden.h"

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>

using namespace retape;
using namespace retape::nn;
using retape::testing::relative_difference;

namespace {

namespace fs = std::filesystem;

// The types, functions and values that headers declare at the beginning of a line, by namespace.
std::map<std::string, std::set<std::string>> declared() {
  const std::regex opens(R"((?:inline )?namespace ([\w:]*) ?\{)"), closes(R"(\}  // (?:inline )?namespace.*)"),
      type(R"((?:template <.*> )?(?:struct|class|enum class|enum) (\w+)\b.*)"), alias(R"((?:template <.*> )?using (\w+) =.*)"),
      other(R"((?:template <.*> )?(?:(?:inline|constexpr|extern|const|static) )*[\w:<>,&* ]+? [*&]?(\w+)(?:\(| =|;).*)");
  std::map<std::string, std::set<std::string>> names;
  for (const char* folder : {"core", "autograd", "nn", "optim", "io", "data"})
    for (const auto& entry : fs::directory_iterator(fs::path(RETAPE_GOLDEN) / "../.." / folder)) {
      if (entry.path().extension() != ".h") continue;
      std::ifstream file(entry.path());
      std::vector<std::string> inside;
      std::smatch m;
      for (std::string line; std::getline(file, line);) {
        if (line.empty() || line[0] == ' ' || line[0] == '#' || line[0] == '/') continue;
        if (std::regex_match(line, m, opens)) {
          inside.push_back((inside.empty() ? "" : inside.back() + "::") + m[1].str());
        } else if (std::regex_match(line, closes)) {
          if (!inside.empty()) inside.pop_back();
        } else if (!inside.empty() &&
                   (std::regex_match(line, m, type) || std::regex_match(line, m, alias) || std::regex_match(line, m, other))) {
          names[inside.back()].insert(m[1].str());
        }
      }
    }
  return names;
}

}  // namespace

TEST_CASE("no name of nn is one of retape", "[names]") {
  const auto names = declared();
  const auto &outer = names.at("retape"), &inner = names.at("retape::nn");
  for (const char* name : {"Tensor", "conv2d", "ConvParams", "PerDim", "DType", "Shape", "AdamW"}) CHECK(outer.contains(name));
  for (const char* name : {"Linear", "ConvOptions", "RelativeBias", "causal_conv1d", "KVCache"}) CHECK(inner.contains(name));
  for (const std::string& name : inner) {
    INFO(name);
    CHECK_FALSE(outer.contains(name));
  }
}
TEST_CASE("options of ops and of layers go by names of their own", "[names]") {
  const Conv2d layer(2, 4, ConvOptions{.kernel_size = 3, .padding = 1, .bias = false});
  const Tensor x = ones({1, 2, 5, 5});
  CHECK(relative_difference(layer.forward(x), conv2d(x, layer.weight, {}, ConvParams{.padding = 1})) == 0);
  CHECK(GatedLinearAttention(8, GatedLinearAttentionOptions{.num_heads = 2}).forward(ones({1, 3, 8})).shape() == Shape{1, 3, 8});
  const Tensor q = ones({1, 3, 2, 4});
  CHECK(gated_linear_attention(q, q, q, GatedLinearAttentionParams{.scale = 2}).y.shape() == q.shape());
  CHECK(ConvTranspose2d(2, 4, ConvTransposeOptions{.kernel_size = 2}).options.bias);
  CHECK(ConvTransposeParams{}.groups == 1);
  CHECK(DeformConv2d(2, 4, DeformConvOptions{.kernel_size = 3}).options.bias);
  CHECK(DeformConvParams{.stride = 2}.stride.at(0, 2, "", "") == 2);
}
