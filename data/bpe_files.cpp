// The files of BPE vocabularies: Hugging Face's tokenizer.json, GPT-2's folders, and the format of earlier versions.
#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include <retape/core/error.h>
#include <retape/data/bpe_tokenizer.h>
#include <retape/data/utf8.h>
#include <retape/io/file.h>
#include <retape/io/quote.h>

namespace retape {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

struct Source {
  std::string file;
  [[noreturn]] void fail(const std::string& what) const { throw Error(fmt::format("bpe_tokenizer: {}: {}", file, what)); }
};

bool is_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();)
    if (utf8::next(text, at) == utf8::invalid) return false;
  return true;
}

// A value of the file for a message. What is inside lists and objects is left out: they may be nested a million deep.
std::string shown(const json& value) {
  if (value.is_structured() && !value.empty()) return in_quotes(value.is_array() ? "[...]" : "{...}");
  return in_quotes(value.dump());
}
// The "type" of an object, or what is there instead.
const json& type_of(const json& value) { return value.is_object() && value.contains("type") ? value["type"] : value; }

// ---- what both have -------------------------------------------------------------------------------------------------

// {"token": id, ...}. Ids are 0, 1, ... without gaps, the `more` tokens included.
std::vector<std::string> names_by_id(const json& vocabulary, const std::map<std::string, int64_t>& more, const Source& from) {
  if (!vocabulary.is_object()) from.fail(R"(not a vocabulary, which is an object {"token": id, ...})");
  std::vector<std::string> names(vocabulary.size() + more.size());
  std::vector<bool> known(names.size());
  const auto put = [&](const std::string& name, const json& id) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= names.size())
      from.fail(fmt::format("token {} has the id {}; the ids of {} tokens must be 0 to {}", in_quotes(name), shown(id), names.size(),
                            names.size() - 1));
    const size_t i = id.get<size_t>();
    if (known[i]) from.fail(fmt::format("tokens {} and {} have the same id {}", in_quotes(names[i]), in_quotes(name), i));
    known[i] = true;
    names[i] = name;
  };
  for (auto& [name, id] : vocabulary.items()) put(name, id);
  for (auto& [name, id] : more) put(name, json(uint64_t(id)));
  return names;
}

std::pair<std::string, std::string> merge_of(const std::string& line, size_t index, const Source& from) {
  const size_t space = line.find(' ');
  if (space == std::string::npos || space == 0 || space + 1 == line.size() || line.find(' ', space + 1) != std::string::npos)
    from.fail(fmt::format("merge {} {} is not two tokens with a space between them", index + 1, in_quotes(line)));
  return {line.substr(0, space), line.substr(space + 1)};
}

// ---- GPT-2's files and our older ones -------------------------------------------------------------------------------

// A token that no merge makes and that is no byte is special, if what it stands for is text and not the name of another token.
BpeVocabulary gpt2_vocabulary(std::vector<std::string> names, std::vector<std::pair<std::string, std::string>> merges) {
  std::set<std::string> made, known(names.begin(), names.end());
  for (int b = 0; b < 256; ++b) made.insert(byte_alphabet::name_of(uint8_t(b)));
  for (auto& [left, right] : merges) made.insert(left + right);
  BpeVocabulary vocabulary{.tokens = std::move(names), .merges = std::move(merges)};
  std::set<std::string> used;  // as a part of a merge; those keep their names
  for (auto& [left, right] : vocabulary.merges) used.insert(left), used.insert(right);
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    std::string& name = vocabulary.tokens[id];
    if (name.empty() || made.contains(name)) continue;
    std::string text = byte_alphabet::bytes_of(name);
    if (text != name && (!is_utf8(text) || used.contains(name) || !known.insert(text).second)) continue;
    name = text;
    vocabulary.special_tokens.emplace(std::move(text), BpeVocabulary::Special{int64_t(id)});
  }
  return vocabulary;
}

BpeVocabulary read_gpt2(std::string_view vocabulary_json, const std::string& vocabulary_file, std::string_view merges,
                        const Source& merges_file) {
  const json vocabulary = json::parse(vocabulary_json, nullptr, false);
  if (vocabulary.is_discarded()) Source{vocabulary_file}.fail("not valid JSON");
  auto names = names_by_id(vocabulary, {}, {vocabulary_file});
  std::vector<std::pair<std::string, std::string>> pairs;
  for (bool first = true; !merges.empty(); first = false) {
    const std::string line(merges.substr(0, merges.find('\n')));
    merges.remove_prefix(std::min(line.size() + 1, merges.size()));
    if (!first || !line.starts_with("#version")) pairs.push_back(merge_of(line, pairs.size(), merges_file));
  }
  return gpt2_vocabulary(std::move(names), std::move(pairs));
}

BpeVocabulary read_older(const json& saved, const Source& from) {
  const auto strings = [&](const char* key) {
    if (!saved.contains(key) || !saved[key].is_array()) from.fail(fmt::format("\"{}\" is missing or is no list", key));
    std::vector<std::string> list;
    for (auto& entry : saved[key]) {
      if (!entry.is_string()) from.fail(fmt::format("\"{}\" has {}; all must be strings", key, shown(entry)));
      list.push_back(entry.get<std::string>());
    }
    return list;
  };
  auto tokens = strings("tokens");
  std::vector<std::pair<std::string, std::string>> merges;
  for (auto& line : strings("merges")) merges.push_back(merge_of(line, merges.size(), from));
  return gpt2_vocabulary(std::move(tokens), std::move(merges));
}

// ---- tokenizer.json -------------------------------------------------------------------------------------------------

// An object of the file, whose every key must be asked for: what nobody has asked for is something that we do not know.
class Part {
 public:
  Part(const json& object, std::string name, const Source& from) : object_(object), name_(std::move(name)), from_(from) {
    if (!object.is_object()) fail(fmt::format("is {}; expected an object", shown(object)));
  }
  [[noreturn]] void fail(const std::string& what) const { from_.fail(name_.empty() ? what : fmt::format("{} {}", name_, what)); }
  const json& get(const char* key) {
    static const json null;
    asked_.insert(key);
    const auto found = object_.find(key);
    return found == object_.end() ? null : *found;
  }
  bool flag(const char* key, bool otherwise) {
    const json& value = get(key);
    if (value.is_null()) return otherwise;
    if (!value.is_boolean()) fail(fmt::format("has \"{}\": {}; expected true or false", key, shown(value)));
    return value.get<bool>();
  }
  std::string text(const char* key) {
    const json& value = get(key);
    if (!value.is_string()) fail(fmt::format("has \"{}\": {}; expected a string", key, shown(value)));
    return value.get<std::string>();
  }
  // What would change ids or text if it were there.
  void must_be(const char* key, std::initializer_list<json> values) {
    const json& value = get(key);
    if (std::find(values.begin(), values.end(), value) != values.end()) return;
    std::string expected;
    for (auto& v : values) expected += (expected.empty() ? "" : " or ") + v.dump();
    fail(fmt::format("{}\"{}\": {} is not implemented; expected {}", name_.empty() ? "" : "has ", key, shown(type_of(value)), expected));
  }
  void nothing_else() const {
    for (auto& [key, value] : object_.items())
      if (!asked_.contains(key)) fail(fmt::format("{}{}, which is not known", name_.empty() ? "it has " : "has ", in_quotes(key)));
  }

 private:
  const json& object_;
  std::string name_;
  const Source& from_;
  std::set<std::string> asked_;
};

PrependScheme scheme_of(Part& metaspace) {
  metaspace.must_be("replacement", {json(metaspace_character)});
  metaspace.must_be("str_rep", {json(), json(metaspace_character)});
  metaspace.must_be("split", {json(), true});
  const bool older = metaspace.flag("add_prefix_space", true);  // what files had before there were schemes
  const json& scheme = metaspace.get("prepend_scheme");
  if (scheme == "never" || (scheme.is_null() && !older)) return PrependScheme::never;
  if (older && (scheme == "always" || scheme.is_null())) return PrependScheme::always;
  if (older && scheme == "first") return PrependScheme::first;
  metaspace.fail(
      fmt::format("has \"prepend_scheme\": {} and \"add_prefix_space\": {}; expected a scheme always, first or never, and the two to agree",
                  shown(scheme), older));
}

// Which of the kinds a pre_tokenizer or decoder is.
Part part_of(const json& value, const char* name, std::string& type, const Source& from) {
  if (!value.is_object() || !value.contains("type") || !value["type"].is_string() ||
      (value["type"] != "ByteLevel" && value["type"] != "Metaspace"))
    from.fail(fmt::format("\"{}\": {} is not implemented; expected ByteLevel or Metaspace", name, shown(type_of(value))));
  Part part(value, name, from);
  type = part.text("type");
  return part;
}

void read_words(Part& top, BpeVocabulary& vocabulary, const Source& from) {
  std::string words_type, text_type;
  Part words = part_of(top.get("pre_tokenizer"), "pre_tokenizer", words_type, from);
  Part text = part_of(top.get("decoder"), "decoder", text_type, from);
  if (words_type != text_type) from.fail(fmt::format("a pre_tokenizer {} with a decoder {} is not implemented", words_type, text_type));
  if (words_type == "ByteLevel") {
    vocabulary.kind = BpeKind::byte_level;
    vocabulary.prepend_scheme = words.flag("add_prefix_space", true) ? PrependScheme::always : PrependScheme::never;
    words.must_be("use_regex", {json(), true});
    words.get("trim_offsets");  // offsets we have none, and decoding does the same with all options
    for (const char* key : {"add_prefix_space", "trim_offsets", "use_regex"}) text.get(key);
  } else {
    vocabulary.kind = BpeKind::metaspace;
    vocabulary.prepend_scheme = scheme_of(words);
    const PrependScheme decoded = scheme_of(text);
    if ((decoded == PrependScheme::never) != (vocabulary.prepend_scheme == PrependScheme::never))
      from.fail("a pre_tokenizer and a decoder Metaspace of which only one has a prefix space are not implemented");
  }
  words.nothing_else(), text.nothing_else();
  const json& after = top.get("post_processor");
  if (after.is_object() && after.contains("type") && after["type"] == "ByteLevel") return;  // changes offsets only
  top.must_be("post_processor", {json()});
}

BpeVocabulary read_tokenizer_json(const json& content, const Source& from) {
  BpeVocabulary vocabulary;
  Part top(content, "", from);
  top.must_be("version", {json("1.0")});
  for (const char* key : {"truncation", "padding", "normalizer"}) top.must_be(key, {json()});
  read_words(top, vocabulary, from);

  Part model(top.get("model"), "model", from);
  model.must_be("type", {json("BPE"), json()});
  model.must_be("dropout", {json(), json(0.0)});
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) model.must_be(key, {json(), json("")});
  for (const char* key : {"byte_fallback", "ignore_merges"}) model.must_be(key, {json(), json(false)});
  vocabulary.fuse_unk = model.flag("fuse_unk", false);
  if (!model.get("unk_token").is_null()) vocabulary.unk_token = model.text("unk_token");
  const json& ids = model.get("vocab");
  if (!ids.is_object()) model.fail(R"(has no "vocab": {"token": id, ...})");

  std::map<std::string, int64_t> added;  // those that the model does not have
  const json& list = top.get("added_tokens");
  if (!list.is_null() && !list.is_array()) from.fail("\"added_tokens\" is no list");
  for (auto& entry : list) {
    Part token(entry, "an added token", from);
    const std::string name = token.text("content");
    Part named(entry, fmt::format("the added token {}", in_quotes(name)), from);
    for (const char* key : {"single_word", "lstrip", "rstrip"}) named.must_be(key, {json(), json(false)});
    named.flag("normalized", false);  // there is no normalizer
    named.get("content");
    const json& id = named.get("id");
    if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX)
      named.fail(fmt::format("has the id {}; expected a number from 0", shown(id)));
    const BpeVocabulary::Special special{id.get<int64_t>(), named.flag("special", true)};
    named.nothing_else();
    if (!vocabulary.special_tokens.emplace(name, special).second) named.fail("is there twice");
    const auto in_model = ids.find(name);
    if (in_model == ids.end()) added.emplace(name, special.id);
    else if (*in_model != id) named.fail(fmt::format("has the id {}, but the model's vocabulary says {}", special.id, shown(*in_model)));
  }
  vocabulary.tokens = names_by_id(ids, added, from);

  const json& merges = model.get("merges");
  if (!merges.is_array()) model.fail("has no list of \"merges\"");
  for (auto& entry : merges) {
    const bool pair = entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_string();
    if (!pair && !entry.is_string())
      from.fail(fmt::format("merge {} {} is neither a string nor a pair of strings", vocabulary.merges.size() + 1, shown(entry)));
    if (pair) vocabulary.merges.emplace_back(entry[0].get<std::string>(), entry[1].get<std::string>());
    else vocabulary.merges.push_back(merge_of(entry.get<std::string>(), vocabulary.merges.size(), from));
  }
  model.nothing_else(), top.nothing_else();
  return vocabulary;
}

BpeVocabulary read_file_content(std::string_view content, const Source& from) {
  const json saved = json::parse(content, nullptr, false);
  if (saved.is_discarded()) from.fail("not valid JSON");
  if (saved.is_object() && saved.contains("model")) return read_tokenizer_json(saved, from);
  if (type_of(saved) == "gpt2") return read_older(saved, from);
  from.fail("not a saved tokenizer of \"type\": \"gpt2\", nor one of Hugging Face's tokenizers, which has a \"model\"");
}

}  // namespace

BpeTokenizer BpeTokenizer::from_files(std::string_view vocabulary_json, std::string_view merges) {
  return BpeTokenizer(checked(read_gpt2(vocabulary_json, "vocabulary", merges, {"vocabulary and merges"}), "vocabulary and merges"));
}

BpeTokenizer BpeTokenizer::from_json(std::string_view content) {
  return BpeTokenizer(checked(read_file_content(content, {"tokenizer.json"}), "tokenizer.json"));
}

BpeTokenizer BpeTokenizer::load(const fs::path& path) {
  if (!fs::is_directory(path)) return BpeTokenizer(checked(read_file_content(read_file(path), {path.string()}), path.string()));
  for (const auto& [vocabulary, merges] : {std::pair{"encoder.json", "vocab.bpe"}, std::pair{"vocab.json", "merges.txt"}}) {
    if (!fs::exists(path / vocabulary) && !fs::exists(path / merges)) continue;
    const std::string file = (path / merges).string();
    return BpeTokenizer(
        checked(read_gpt2(read_file(path / vocabulary), (path / vocabulary).string(), read_file(path / merges), {file}), file));
  }
  throw Error(fmt::format("bpe_tokenizer: {} has neither encoder.json and vocab.bpe nor vocab.json and merges.txt", path.string()));
}

// Laid out as Hugging Face writes it, but with a token and a merge a line. Strings go through the JSON library, which escapes them.
std::string BpeTokenizer::to_json() const {
  const BpeVocabulary& v = vocabulary();
  const bool bytes = v.kind == BpeKind::byte_level;
  const auto scheme = [&] {
    return v.prepend_scheme == PrependScheme::always ? "always" : v.prepend_scheme == PrependScheme::first ? "first" : "never";
  };
  const std::string words = bytes
                                ? fmt::format(R"({{"type": "ByteLevel", "add_prefix_space": {}, "trim_offsets": true, "use_regex": true}})",
                                              v.prepend_scheme == PrependScheme::always)
                                : fmt::format(R"({{"type": "Metaspace", "replacement": "{}", "prepend_scheme": "{}", "split": true}})",
                                              metaspace_character, scheme());
  std::vector<std::pair<int64_t, std::string>> specials;
  for (auto& [name, special] : v.special_tokens)
    specials.emplace_back(
        special.id,
        fmt::format(
            R"({{"id": {}, "content": {}, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": {}}})",
            special.id, json(name).dump(), special.special));
  std::sort(specials.begin(), specials.end());

  std::string text = "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [";
  const char* separator = "\n    ";
  for (auto& [id, entry] : specials) text += separator + entry, separator = ",\n    ";
  text +=
      fmt::format("\n  ],\n  \"normalizer\": null,\n  \"pre_tokenizer\": {0},\n  \"post_processor\": null,\n  \"decoder\": {0},\n", words);
  text += fmt::format(
      "  \"model\": {{\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": {},\n    \"continuing_subword_prefix\": null,\n"
      "    \"end_of_word_suffix\": null,\n    \"fuse_unk\": {},\n    \"byte_fallback\": false,\n    \"ignore_merges\": false,\n    \"vocab\": {{",
      v.unk_token ? json(*v.unk_token).dump() : "null", v.fuse_unk);
  separator = "\n      ";
  for (size_t id = 0; id < v.tokens.size(); ++id)
    text += fmt::format("{}{}: {}", separator, json(v.tokens[id]).dump(), id), separator = ",\n      ";
  text += "\n    },\n    \"merges\": [";
  separator = "\n      ";
  for (auto& [left, right] : v.merges)
    text += fmt::format("{}[{}, {}]", separator, json(left).dump(), json(right).dump()), separator = ",\n      ";
  return text + "\n    ]\n  }\n}\n";
}

void BpeTokenizer::save(const fs::path& path) const { write_file_atomically(path, to_json()); }

}  // namespace retape
