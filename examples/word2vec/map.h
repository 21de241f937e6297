// A map of words: similar ones lie near each other.
#pragma once
#include <string>

#include "vectors.h"

namespace retape::word2vec {

/// Words [first, first + count) on a plane by t-SNE (van der Maaten & Hinton 2008) of the cosine distances, as an SVG file. The same vectors
/// give the same map. Fewer words where there are not as many; throws Error for fewer than 3.
std::string map_svg(const WordVectors& vectors, int64_t first, int64_t count, const std::string& title);

}  // namespace retape::word2vec
