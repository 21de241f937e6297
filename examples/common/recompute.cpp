#include <examples/common/recompute.h>

#include <charconv>
#include <cmath>

#include <fmt/format.h>

namespace retape::examples {

Recomputation parse_recomputation(const std::string& text, int64_t layers) {
  using Kind = Recomputation::Kind;
  if (text == "none") return {};
  if (text == "pointwise") return {.kind = Kind::pointwise};
  if (text == "sqrt") return {.kind = Kind::segments, .segments = int64_t(std::ceil(std::sqrt(double(layers))))};
  int64_t blocks = 0;
  const char* const end = text.data() + text.size();
  if (text.starts_with("every:"))
    if (const auto [stop, error] = std::from_chars(text.data() + 6, end, blocks); error == std::errc() && stop == end && blocks > 0)
      return {.kind = Kind::segments, .segments = (layers + blocks - 1) / blocks};
  throw Error(fmt::format("--recompute {} is not valid; expected none, sqrt, pointwise, or every:N with a positive N", text));
}

}  // namespace retape::examples
