#include <retape/data/tokenizer.h>

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include <retape/core/error.h>
#include <retape/data/bpe_tokenizer.h>
#include <retape/data/char_tokenizer.h>
#include <retape/io/file.h>

namespace retape {
namespace fs = std::filesystem;

std::shared_ptr<const Tokenizer> load_tokenizer(const fs::path& path) {
  if (fs::is_directory(path)) {
    for (const char* name : {"encoder.json", "vocab.bpe", "vocab.json", "merges.txt"})
      if (fs::exists(path / name)) return std::make_shared<const BpeTokenizer>(BpeTokenizer::load(path));
    if (!fs::exists(path / "tokenizer.json"))
      throw Error(fmt::format(
          "load_tokenizer: {} has no vocabulary: neither encoder.json and vocab.bpe nor vocab.json and merges.txt nor tokenizer.json",
          path.string()));
    return load_tokenizer(path / "tokenizer.json");
  }
  const auto saved = nlohmann::json::parse(read_file(path), nullptr, false);
  const auto is = [&](const char* type) { return saved.is_object() && saved.contains("type") && saved["type"] == type; };
  if (is("char")) return std::make_shared<const CharTokenizer>(CharTokenizer::load(path));
  if (is("gpt2") || (saved.is_object() && saved.contains("model"))) return std::make_shared<const BpeTokenizer>(BpeTokenizer::load(path));
  throw Error(
      fmt::format("load_tokenizer: {} is not a saved tokenizer, which is an object of \"type\": \"char\" or \"gpt2\", or has a \"model\"",
                  path.string()));
}

}  // namespace retape
