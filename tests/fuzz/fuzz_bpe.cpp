// A vocabulary, its merges and a text, with zeros between them: the files are refused with an Error, or the text comes back from its
// ids, also when it is cut where safe_prefix() says. An empty vocabulary stands for the bytes and some tokens of two.
#include <cstdint>

#include <retape/core/error.h>
#include <retape/data/bpe_tokenizer.h>
#include <retape/data/utf8.h>

#include "require.h"

using namespace retape;

namespace {

std::string default_vocabulary() {
  std::string json = "{";
  char32_t next = 0x100;
  for (int b = 0; b < 256; ++b) {
    const bool printable = (b > 0x20 && b < 0x7f) || (b > 0xa0 && b != 0xad);
    json += b ? ",\"" : "\"";
    if (b == '"' || b == '\\') json += '\\';
    utf8::append(json, printable ? char32_t(b) : next++);
    json += "\":" + std::to_string(b);
  }
  int id = 256;
  for (const char* token : {"aa", "ab", "ba", "aaa", "aab", "<|end|>"}) json += ",\"" + std::string(token) + "\":" + std::to_string(id++);
  return json + "}";
}

std::string_view part(std::string_view& rest) {
  const size_t end = rest.find('\0');
  const std::string_view part = rest.substr(0, end);
  rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
  return part;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::string fallback = default_vocabulary();
  std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::string_view vocabulary = part(text), merges = part(text);
  try {
    const auto tokenizer = BpeTokenizer::from_files(vocabulary.empty() ? fallback : vocabulary, merges);
    const auto ids = tokenizer.encode(text);
    require(tokenizer.decode(ids) == text);
    require(tokenizer.decode(tokenizer.encode(text, tokenizer.special_tokens())) == text);
    const size_t cut = tokenizer.safe_prefix(text);
    auto parts = tokenizer.encode(text.substr(0, cut));
    for (const int64_t id : tokenizer.encode(text.substr(cut))) parts.push_back(id);
    require(parts == ids);
  } catch (const Error&) {}
  return 0;
}
