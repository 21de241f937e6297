// UTF-8 read and written one character (a Unicode code point) at a time.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>

namespace retape::utf8 {

constexpr char32_t invalid = 0xffffffff;

/// The code point at text[at], which it moves past; `invalid` for bytes that are no UTF-8 (overlong forms, surrogates and values above
/// U+10FFFF are none), of which it moves past those that cannot begin a character, at least one. `at` must be below text.size().
char32_t next(std::string_view text, size_t& at);
void append(std::string& text, char32_t c);
/// White_Space of the Unicode standard.
bool is_space(char32_t c);
/// The length of the longest prefix in which no character is cut off at the end.
size_t whole_characters(std::string_view text);

}  // namespace retape::utf8
