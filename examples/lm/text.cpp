#include "text.h"

#include <filesystem>

#include <fmt/format.h>

#include <examples/common/run_folder.h>
#include <retape/io/file.h>

namespace retape::lm {
namespace fs = std::filesystem;
namespace {

void declare_tokenizer(examples::Settings& settings, TextOptions& o) {
  settings.add("--tokenizer", o.tokenizer, "char: the text's characters; gpt2: byte pair encoding, with --vocab").one_of({"char", "gpt2"});
  settings
      .add("--vocab", o.vocab, "vocabulary: a folder with encoder.json and vocab.bpe, or vocab.json and merges.txt, or a tokenizer.json",
           examples::OnResume::refuse)
      .not_stored();
}

// What --data is, as the flag or the file itself says.
std::string format_of(const TextOptions& o) {
  if (o.data_format != "auto") return o.data_format;
  return fs::is_regular_file(o.data) && TokenFile::has_header(o.data) ? "tokens" : "text";
}

std::shared_ptr<const Tokenizer> tokenizer_for(TextOptions& o, const examples::Settings& settings, const std::string& format,
                                               std::string_view text) {
  std::string from = o.vocab;
  if (from.empty() && format != "text") {
    from = (fs::path(o.data).parent_path() / "tokenizer.json").string();
    if (!fs::exists(from))
      throw Error(fmt::format("{} has token ids, and there is no tokenizer.json beside it; name their vocabulary with --vocab", o.data));
  }
  if (from.empty()) {
    if (o.tokenizer != "char")
      throw Error(
          fmt::format("--tokenizer {} needs --vocab: a folder with encoder.json and vocab.bpe, or vocab.json and merges.txt", o.tokenizer));
    return std::make_shared<const CharTokenizer>(CharTokenizer::from_text(text));
  }
  auto tokenizer = load_tokenizer(from);
  if (settings.given("--tokenizer") && o.tokenizer != tokenizer->type())
    throw Error(fmt::format("--tokenizer {} does not fit {}, which is a vocabulary of {}", o.tokenizer, from, tokenizer->type()));
  o.tokenizer = tokenizer->type();
  return tokenizer;
}

}  // namespace

void declare_text(examples::Settings& settings, TextOptions& o, examples::OnResume on_resume) {
  settings
      .add("--data", o.data, "text file (UTF-8), or tokens.bin that tokenize has made, to train on; the last 10% of it validates",
           on_resume)
      .path()
      .required();
  settings
      .add("--data-format", o.data_format,
           "text; tokens: with our header; u16: ids of two bytes, as nanoGPT writes them; auto: text or tokens", on_resume)
      .one_of({"auto", "text", "tokens", "u16"});
  declare_tokenizer(settings, o);
}

Text::Text(TextOptions& o, const examples::Settings& settings, std::shared_ptr<const Tokenizer> tokenizer)
    : data_(o.data), format_(format_of(o)), text_(format_ == "text" ? read_file(o.data) : ""), tokenizer_(std::move(tokenizer)) {
  if (format_ == "text" && text_.empty()) throw Error(fmt::format("{} is empty; there is nothing to train on", o.data));
  if (!tokenizer_) tokenizer_ = tokenizer_for(o, settings, format_, text_);
}
TokenDataset Text::dataset(const TokenDatasetOptions& options) const {
  if (format_ == "text") return TokenDataset(tokenizer_->encode(text_), options);
  const TokenFile file = TokenFile::open(data_, format_ == "u16" ? TokenLayout::u16 : TokenLayout::with_header);
  if (format_ == "tokens" && file.vocabulary() != tokenizer_->size())
    throw Error(fmt::format("{} was made with a vocabulary of {}, but the tokenizer has {}", data_, file.vocabulary(), tokenizer_->size()));
  return TokenDataset(file, options);
}

std::vector<int64_t> in_order(const TokenDataset& data, Split part) {
  std::vector<int64_t> all;
  for (int64_t i = 0; i < data.batches(64, part); ++i) {
    const TokenBatch batch = data.batch(i, 64, part);
    if (all.empty()) all.push_back(batch.x.to_vector<int64_t>().front());
    const auto next = batch.y.to_vector<int64_t>();
    all.insert(all.end(), next.begin(), next.end());
  }
  return all;
}

void declare_tokenize(examples::Settings& settings, TokenizeOptions& o) {
  settings.add("--data", o.data, "text file (UTF-8); may be larger than memory").required();
  settings.add("--out", o.out, "folder to create for tokens.bin and tokenizer.json").required();
  declare_tokenizer(settings, o);
  settings.add("--quiet", o.quiet, "print nothing but errors");
}

void tokenize(TokenizeOptions& o, examples::Settings& settings) {
  settings.check();
  const Ref<MappedFile> text = MappedFile::open(o.data);
  const auto tokenizer = tokenizer_for(o, settings, "text", {reinterpret_cast<const char*>(text->data()), text->size()});
  const fs::path folder = examples::create_run_folder(program + "-tokens", o.out);
  tokenizer->save(folder / "tokenizer.json");
  const int64_t count = tokenize_file(*tokenizer, o.data, folder / "tokens.bin");
  if (!o.quiet)
    fmt::print("{} tokens (vocabulary of {}); train with: --data {}\n", count, tokenizer->size(), (folder / "tokens.bin").string());
}

}  // namespace retape::lm
