// A tokenizer.json and a text, with a zero between them: the file is refused with an Error, or what it becomes when it is saved is the
// same tokenizer. Text has the same ids when it is cut where safe_prefix() says.
#include <cstdint>

#include <retape/core/error.h>
#include <retape/data/bpe_tokenizer.h>

#include "require.h"

using namespace retape;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = input.find('\0');
  const std::string_view text = end == std::string_view::npos ? "" : input.substr(end + 1);
  try {
    const auto tokenizer = BpeTokenizer::from_json(input.substr(0, end));
    const std::string saved = tokenizer.to_json();
    const auto again = [&] {
      try {
        return BpeTokenizer::from_json(saved);
      } catch (const Error&) {
        std::abort();
      }
    }();
    require(again.to_json() == saved);
    require(again.special_tokens() == tokenizer.special_tokens());
    for (int64_t id = 0; id < tokenizer.size(); ++id) require(again.decode({id}) == tokenizer.decode({id}));
    for (auto& name : tokenizer.special_tokens()) require(tokenizer.decode({tokenizer.special_id(name)}, false) == name);
    const auto ids = tokenizer.encode(text);
    require(again.encode(text) == ids);
    require(again.encode(text, again.special_tokens()) == tokenizer.encode(text, tokenizer.special_tokens()));
    const size_t cut = tokenizer.safe_prefix(text);
    auto parts = tokenizer.encode(text.substr(0, cut));
    for (const int64_t id : tokenizer.encode(text.substr(cut))) parts.push_back(id);
    require(parts == ids);
    if (tokenizer.vocabulary().kind == BpeKind::byte_level && !tokenizer.unk_id() &&
        tokenizer.vocabulary().prepend_scheme == PrependScheme::never)
      require(tokenizer.decode(ids) == text);
  } catch (const Error&) {}
  return 0;
}
