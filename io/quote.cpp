#include <retape/io/quote.h>

#include <nlohmann/json.hpp>

namespace retape {

std::string in_quotes(std::string_view text) {
  using nlohmann::json;
  const bool cut = text.size() > 100;
  std::string shown = json(std::string(text.substr(0, 100))).dump(-1, ' ', false, json::error_handler_t::replace);
  return cut ? shown + "..." : shown;
}

}  // namespace retape
