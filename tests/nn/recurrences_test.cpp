// Recurrences along time against transcriptions of their definitions.
#include "layer_cases.h"

using namespace retape;
using namespace retape::testing;

TEST_CASE("recurrences give the numbers of their definitions", "[linear_recurrence][selective_scan][gated_linear_attention]") {
  const auto attention = [](double scale) {
    return [=](const CaseInputs& x) {
      return gated_linear_attention(x["q"], x["k"], x["v"], {.g = x["g"], .scale = scale, .initial = x["initial"]}).y;
    };
  };
  check_layer_cases(
      SafeTensors::open(RETAPE_GOLDEN "/recurrences.safetensors").tensors(),
      {{"linear", [](auto& x) { return linear_recurrence(x["a"], x["b"], {.initial = x["initial"]}); }},
       {"linear_reverse", [](auto& x) { return linear_recurrence(x["a"], x["b"], {.initial = x["initial"], .reverse = true}); }},
       {"linear_complex", [](auto& x) { return linear_recurrence(x["a"], x["b"], {.initial = x["initial"], .complex = true}); }},
       {"selective_scan",
        [](auto& x) {
          return selective_scan(x["u"], x["delta"], x["A"], x["B"], x["C"],
                                {.D = x["D"], .z = x["z"], .delta_bias = x["delta_bias"], .delta_softplus = true, .initial = x["initial"]});
        }},
       {"attention_heads", attention(0.6)},
       {"attention_features", attention(0)}});
}
