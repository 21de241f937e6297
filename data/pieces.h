// Text that need not fit into memory, cut where nothing is lost.
#pragma once
#include <algorithm>
#include <string_view>

namespace retape {

/// The first piece of a text that is not empty: the longest safe prefix of its first `piece` bytes, or of twice as many where there is
/// none, and so on; the whole text if it is no longer. safe_prefix(text) returns the length of such a prefix, or 0.
template <class SafePrefix> std::string_view next_piece(std::string_view text, size_t piece, SafePrefix&& safe_prefix) {
  for (size_t length = piece; length<text.size(); length = length> text.size() / 2 ? text.size() : 2 * length)
    if (const size_t cut = safe_prefix(text.substr(0, length))) return text.substr(0, cut);
  return text;
}

}  // namespace retape
