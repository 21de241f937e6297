// Rotary position embedding.
#pragma once
#include <utility>
#include <vector>

#include <retape/core/tensor.h>

namespace retape {

/// Rotates pairs of features of x (..., T, D) by the angles whose cosines and sines are given, (T, D / 2) each. Pairs are features i and
/// i + D / 2 (as in GPT-NeoX and in Llama of Hugging Face), or 2i and 2i + 1 if interleaved (as in the paper). x floating; the tables
/// are cast to f32 (f64 for f64) and have no gradient. Throws Error unless the shapes fit. Su et al. 2021.
Tensor rope(const Tensor& x, const Tensor& cos, const Tensor& sin, bool interleaved = false);
/// Cosines and sines of position * base^(-2i / head_dim) for positions 0 .. length-1: {cos, sin}, each (length, head_dim / 2).
std::pair<Tensor, Tensor> rope_tables(int64_t length, int64_t head_dim, double base = 10000, Options options = {});
/// Those of position * frequency, times `factor`: {cos, sin}, each (length, number of frequencies).
std::pair<Tensor, Tensor> rope_tables(int64_t length, const std::vector<double>& frequencies, double factor, Options options = {});

}  // namespace retape
