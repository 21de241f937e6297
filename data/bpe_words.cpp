#include <retape/data/bpe_words.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <unordered_map>

#include <retape/core/error.h>
#include <retape/data/utf8.h>

namespace retape {
namespace {

// GPT-2's pattern. White space is spelled out because PCRE's \s differs from Unicode's in U+180E.
#define RETAPE_SPACE R"(\t-\r \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})"
constexpr const char* word_pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{L}\p{N})" RETAPE_SPACE R"(]+|[)" RETAPE_SPACE
                                     R"(]+(?![^)" RETAPE_SPACE R"(])|[)" RETAPE_SPACE R"(]+)";
#undef RETAPE_SPACE

struct Alphabet {
  std::array<char32_t, 256> character;
  std::array<std::string, 256> name;
  std::array<uint8_t, 256> order;
  std::unordered_map<char32_t, uint8_t> byte;
  Alphabet() {
    char32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
      character[size_t(b)] = printable ? char32_t(b) : next++;
      utf8::append(name[size_t(b)], character[size_t(b)]);
      byte.emplace(character[size_t(b)], uint8_t(b));
    }
    std::iota(order.begin(), order.end(), uint8_t{0});
    std::sort(order.begin(), order.end(), [&](uint8_t a, uint8_t b) { return character[a] < character[b]; });
  }
};
const Alphabet& alphabet() {
  static const Alphabet a;
  return a;
}

// Compiled once; any number of threads may match with it.
const pcre2_code* pattern() {
  static const std::unique_ptr<pcre2_code, void (*)(pcre2_code*)> code = [] {
    int error = 0;
    PCRE2_SIZE offset = 0;
    std::unique_ptr<pcre2_code, void (*)(pcre2_code*)> compiled(
        pcre2_compile(reinterpret_cast<PCRE2_SPTR>(word_pattern), PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &error,
                      &offset, nullptr),
        pcre2_code_free);
    if (!compiled) throw Error(fmt::format("bpe: libpcre2 refuses the pattern at {}: error {}", offset, error));
    pcre2_jit_compile(compiled.get(), PCRE2_JIT_COMPLETE);  // where it cannot, pcre2_match interprets the pattern
    return compiled;
  }();
  return code.get();
}

}  // namespace

namespace byte_alphabet {

const std::string& name_of(uint8_t byte) { return alphabet().name[byte]; }
const std::array<uint8_t, 256>& in_order() { return alphabet().order; }
std::string bytes_of(const std::string& name) {
  std::string bytes;
  for (size_t at = 0; at < name.size();) {
    const auto found = alphabet().byte.find(utf8::next(name, at));
    if (found == alphabet().byte.end()) return name;
    bytes += char(found->second);
  }
  return bytes;
}

}  // namespace byte_alphabet

BpeWords::Scratch::Scratch() : match_(pcre2_match_data_create(1, nullptr)) {
  if (!match_) throw std::bad_alloc();
}
BpeWords::Scratch::~Scratch() { pcre2_match_data_free(static_cast<pcre2_match_data*>(match_)); }

void BpeWords::split(std::string_view part, bool first, Scratch& scratch, const Take& take) const {
  if (part.empty()) return;
  const bool prepend = prepend_scheme_ == PrependScheme::always || (first && prepend_scheme_ == PrependScheme::first);
  std::string& text = scratch.text_;
  text.clear();
  if (kind_ == BpeKind::byte_level) {
    if (!prepend || part.front() == ' ') return split_bytes(part, scratch, take);
    text.append(" ").append(part);
    return split_bytes(text, scratch, take);
  }
  if (prepend && part.front() != ' ' && !part.starts_with(metaspace_character)) text += metaspace_character;
  for (size_t at = 0; at < part.size();) {
    const size_t start = at;
    if (part[at] == ' ') text += metaspace_character, ++at;
    else if (uint8_t(part[at]) < 0x80) text += part[at++];
    else if (utf8::next(part, at) != utf8::invalid) text += part.substr(start, at - start);
    else throw Error(fmt::format("bpe: the text is not valid UTF-8: byte 0x{:02x} at offset {}", uint8_t(part[start]), start));
  }
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(metaspace_character, at + 1), text.size());
    take(std::string_view(text).substr(at, end - at));
    at = end;
  }
}

void BpeWords::split_bytes(std::string_view text, Scratch& scratch, const Take& take) const {
  size_t begin = 0;  // of the run of valid, or of invalid, bytes
  bool valid = true;
  const auto flush = [&](size_t end) {
    if (end == begin) return;
    if (valid) match(text.substr(begin, end - begin), scratch, take);
    else take(text.substr(begin, end - begin));
    begin = end;
  };
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    const bool good = uint8_t(text[at]) < 0x80 ? (++at, true) : utf8::next(text, at) != utf8::invalid;
    if (good == valid) continue;
    flush(start);
    valid = good;
  }
  flush(text.size());
}

// Splits valid UTF-8 by the pattern, which matches at every character.
void BpeWords::match(std::string_view text, Scratch& scratch, const Take& take) const {
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  auto* const match = static_cast<pcre2_match_data*>(scratch.match_);
  for (size_t at = 0; at < text.size();) {
    const int matches = pcre2_match(pattern(), subject, text.size(), at, PCRE2_NO_UTF_CHECK, match, nullptr);
    const size_t end = matches > 0 ? pcre2_get_ovector_pointer(match)[1] : 0;
    if (end <= at) throw Error(fmt::format("encode: libpcre2 cannot split the text at byte {}: error {}", at, matches));
    take(text.substr(at, end - at));
    at = end;
  }
}

// By GPT-2's pattern no word reaches from another character into white space, so text can be cut before a white space that follows none;
// with a prefix space, only before a space. A word of kind metaspace begins at every space.
size_t BpeWords::safe_prefix(std::string_view text) const {
  if (kind_ == BpeKind::metaspace) {
    const size_t cut = text.rfind(' ');
    return cut == std::string_view::npos ? 0 : cut;
  }
  const auto may_begin = [&](char c) { return c == ' ' || (prepend_scheme_ == PrependScheme::never && c >= '\t' && c <= '\r'); };
  for (size_t cut = text.size(); cut-- > 1;) {
    if (!may_begin(text[cut])) continue;
    size_t start = cut - 1;  // of the character before
    while (start > 0 && cut - start < 4 && (uint8_t(text[start]) & 0xc0) == 0x80) --start;
    const char32_t c = utf8::next(text.substr(0, cut), start);
    if (start != cut || !utf8::is_space(c)) return cut;
  }
  return 0;
}

}  // namespace retape
