#include <retape/nn/hugging_face_files.h>

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include <set>

#include <retape/autograd/rearrange.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>
#include <retape/io/file.h>

namespace retape::nn::detail {

namespace fs = std::filesystem;
using nlohmann::json;

// ---- config.json ----------------------------------------------------------------------------------------------------

struct HuggingFaceConfig::Values {
  json object;
};

HuggingFaceConfig HuggingFaceConfig::open(const fs::path& folder) {
  const std::string file = (folder / "config.json").string();
  return parse(read_file(file), file);
}
HuggingFaceConfig HuggingFaceConfig::parse(const std::string& text, const std::string& file) {
  json object = json::parse(text, nullptr, false);
  if (!object.is_object()) throw Error(fmt::format("hugging_face: {} is no JSON object", file));
  HuggingFaceConfig config;
  config.file_ = file;
  config.values_ = std::make_shared<const Values>(Values{std::move(object)});
  return config;
}
template <class T> bool HuggingFaceConfig::read(const char* key, T& value) const {
  const auto found = values_->object.find(key);
  if (found == values_->object.end() || found->is_null()) return false;
  constexpr bool whole = std::is_same_v<T, int64_t>;
  if (!(whole                       ? found->is_number_integer()
        : std::is_same_v<T, double> ? found->is_number()
        : std::is_same_v<T, bool>   ? found->is_boolean()
                                    : found->is_string()))
    throw Error(fmt::format("hugging_face: {}: \"{}\" is {}, expected {}", file_, key, found->dump(),
                            whole                       ? "a whole number"
                            : std::is_same_v<T, double> ? "a number"
                            : std::is_same_v<T, bool>   ? "true or false"
                                                        : "a text"));
  value = found->template get<T>();
  return true;
}
template bool HuggingFaceConfig::read(const char*, int64_t&) const;
template bool HuggingFaceConfig::read(const char*, double&) const;
template bool HuggingFaceConfig::read(const char*, bool&) const;
template bool HuggingFaceConfig::read(const char*, std::string&) const;
HuggingFaceConfig HuggingFaceConfig::at(const char* key) const {
  const auto found = values_->object.find(key);
  const bool there = found != values_->object.end() && !found->is_null();
  return parse(there ? found->dump() : "{}", fmt::format("{}: \"{}\"", file_, key));
}
std::string HuggingFaceConfig::model_type() const {
  std::string type;
  read("model_type", type);
  return type;
}
bool HuggingFaceConfig::is_text(const char* key) const {
  const auto found = values_->object.find(key);
  return found != values_->object.end() && found->is_string();
}

// ---- weights --------------------------------------------------------------------------------------------------------

HuggingFaceWeights::HuggingFaceWeights(const fs::path& folder, Rename canonical) {
  std::vector<fs::path> paths{folder / "model.safetensors"};
  const fs::path index = folder / "model.safetensors.index.json";
  if (!fs::exists(paths[0]) && fs::exists(index)) {
    const json list = json::parse(read_file(index), nullptr, false);
    const auto map = list.is_object() ? list.find("weight_map") : list.end();
    if (map == list.end() || !map->is_object()) throw Error(fmt::format("hugging_face: {} has no \"weight_map\"", index.string()));
    std::set<std::string> names;
    for (auto& [name, file] : map->items()) {
      // A name of a file beside it, not a way to elsewhere.
      if (!file.is_string() || fs::path(file.get<std::string>()).has_parent_path())
        throw Error(fmt::format("hugging_face: {}: \"{}\" is in {}, expected the name of a file in this folder", index.string(), name,
                                file.dump()));
      names.insert(file.get<std::string>());
    }
    paths.clear();
    for (auto& name : names) paths.push_back(folder / name);
    file_ = index.string();
  } else {
    file_ = paths[0].string();
  }
  for (auto& path : paths) {
    files_.push_back(SafeTensors::open(path));
    for (auto& name : files_.back().names()) names_[canonical ? canonical(name) : name] = {files_.size() - 1, name};
  }
}
std::vector<int64_t> HuggingFaceWeights::shape(const std::string& name) const {
  const auto found = names_.find(name);
  return found == names_.end() ? std::vector<int64_t>{} : files_[found->second.file].info(found->second.name).shape;
}
std::vector<std::string> HuggingFaceWeights::names() const {
  std::vector<std::string> all;
  for (auto& [name, entry] : names_) all.push_back(name);
  return all;
}
void HuggingFaceWeights::expect(const std::string& name, const std::vector<int64_t>& expected) const {
  if (!contains(name)) throw Error(fmt::format("hugging_face: {} has no {}", file(), name));
  if (const auto has = shape(name); has != expected)
    throw Error(fmt::format("hugging_face: {}: {} has shape [{}], but config.json asks for [{}]", file(), name, fmt::join(has, ", "),
                            fmt::join(expected, ", ")));
}
void HuggingFaceWeights::load(Module& model, const std::function<HuggingFaceSource(const std::string& name)>& source,
                              const std::function<bool(const std::string& name)>& ignored) const {
  const NoGrad off;
  NamedTensors state;
  std::set<std::string> used;
  std::vector<std::string> missing, unexpected;
  for (auto& [name, value] : model.state_dict()) {
    std::vector<Tensor> parts;
    const auto [names, transposed] = source(name);
    for (auto& there : names) {
      const auto found = names_.find(there);
      if (found == names_.end()) {
        missing.push_back(there);
        continue;
      }
      used.insert(there);
      const Tensor part = files_[found->second.file].tensor(found->second.name);
      parts.push_back(transposed && part.dim() == 2 ? transpose(part) : part);
    }
    if (parts.size() == names.size()) state.emplace_back(name, parts.size() == 1 ? parts[0] : cat(parts));
  }
  for (auto& [name, entry] : names_)
    if (!used.contains(name) && !ignored(name)) unexpected.push_back(entry.name);
  if (!missing.empty()) throw Error(fmt::format("hugging_face: {} has no {}", file(), fmt::join(missing, ", ")));
  if (!unexpected.empty())
    throw Error(fmt::format("hugging_face: {} has {}, which this model does not have", file(), fmt::join(unexpected, ", ")));
  try {
    model.load_state_dict(state, {.convert_dtype = true});
  } catch (const Error& e) {
    throw Error(fmt::format("hugging_face: {}: {}", file(), e.what()));
  }
}

}  // namespace retape::nn::detail
