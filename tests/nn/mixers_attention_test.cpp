// Layers of linear and relative attention against transcriptions of their papers.
#include <retape/retape.h>

#include "../catch.h"
#include "golden.h"

using namespace retape;
using namespace retape::testing;

TEST_CASE("layers of linear and relative attention give the numbers of their papers", "[efficient_attention][position]") {
  const Golden golden(RETAPE_GOLDEN "/mixers_attention.safetensors");
  size_t compared = 0;
  const auto check = [&](const std::string& name, auto m) {
    m.eval();
    for (const DType dtype : {DType::f64, DType::f32}) {
      INFO(name << " in " << name_of(dtype));
      m.to(dtype);
      const Tensor y = waved(m)(cast(wave({2, 11, 8}, 0.2), dtype));
      CHECK(y.dtype() == dtype);
      CHECK(relative_difference(y.detach(), golden(name)) <= (dtype == DType::f64 ? 1e-12 : 1e-5));
    }
    ++compared;
  };
  check("linear", nn::LinearAttention(8, {.num_heads = 2}));
  check("efficient", nn::EfficientAttention(8, {.num_heads = 2}));
  check("cosformer", nn::CosformerAttention(8, {.num_heads = 2, .max_length = 16}));
  check("diag", nn::DiagAttention(8, {.num_heads = 2, .block_size = 4}));
  check("norm", nn::NormAttention(8, {.num_heads = 2}));
  check("favor", nn::FavorAttention(8, {.num_heads = 2, .nb_features = 6, .eps = 0.0}));
  check("flash", nn::FLASH(8, {.chunk_size = 4, .expansion_factor = 1.5, .query_key_dim = 4}));
  check("shaw", nn::RelativeSelfAttention(8, {.num_heads = 2, .max_distance = 3}));
  check("xl", nn::TransformerXLAttention(8, {.num_heads = 2, .mem_len = 5}));
  CHECK(compared == golden.all.size());
}
