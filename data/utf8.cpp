#include <retape/data/utf8.h>

#include <algorithm>
#include <cstdint>

namespace retape::utf8 {

char32_t next(std::string_view text, size_t& at) {
  const auto byte = [&](size_t i) { return i < text.size() ? uint8_t(text[i]) : uint8_t(0); };
  const uint8_t first = byte(at);
  ++at;
  if (first < 0x80) return first;
  const int more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
  char32_t c = first & (0x3f >> more);
  bool valid = first >= 0xc2 && first <= 0xf4;
  for (int i = 0; i < more && valid; ++i) {
    const uint8_t b = byte(at);
    valid = (b & 0xc0) == 0x80;
    c = c << 6 | (b & 0x3f);
    at += valid;
  }
  constexpr char32_t least[] = {0, 0x80, 0x800, 0x10000};
  valid = valid && c >= least[more] && c <= 0x10ffff && !(c >= 0xd800 && c <= 0xdfff);
  return valid ? c : invalid;
}

void append(std::string& text, char32_t c) {
  if (c < 0x80) {
    text += char(c);
    return;
  }
  const int more = c >= 0x10000 ? 3 : c >= 0x800 ? 2 : 1;
  constexpr uint8_t lead[] = {0, 0xc0, 0xe0, 0xf0};
  text += char(lead[more] | c >> (6 * more));
  for (int i = more; i-- > 0;) text += char(0x80 | (c >> (6 * i) & 0x3f));
}

bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
         c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

size_t whole_characters(std::string_view text) {
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    const uint8_t b = uint8_t(text[text.size() - back]);
    if ((b & 0xc0) == 0x80) continue;
    const size_t length = b >= 0xf0 ? 4 : b >= 0xe0 ? 3 : b >= 0xc0 ? 2 : 1;
    return length > back ? text.size() - back : text.size();
  }
  return text.size();
}

}  // namespace retape::utf8
