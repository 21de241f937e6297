// Text from a file for an error message.
#pragma once
#include <string>
#include <string_view>

namespace retape {

/// In quotes and on one line, cut after 100 bytes; what is not printable or not UTF-8 is escaped or replaced.
std::string in_quotes(std::string_view text);

}  // namespace retape
