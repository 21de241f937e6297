// The two files of a folder that Hugging Face's transformers has written.
#pragma once
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <retape/io/safetensors.h>
#include <retape/nn/module.h>

namespace retape::nn::detail {

/// config.json.
class HuggingFaceConfig {
 public:
  /// Throws Error if it cannot be read or is no JSON object.
  static HuggingFaceConfig open(const std::filesystem::path& folder);
  static HuggingFaceConfig parse(const std::string& text, const std::string& file);
  /// Sets `value` (int64_t, double, bool or std::string) if the key is there and not null, which is said. Throws Error for another type.
  template <class T> bool read(const char* key, T& value) const;
  bool is_text(const char* key) const;
  /// The object at a key; without entries if there is none.
  HuggingFaceConfig at(const char* key) const;
  std::string model_type() const;
  const std::string& file() const { return file_; }

 private:
  struct Values;
  std::string file_;
  std::shared_ptr<const Values> values_;
};

/// What a parameter is there: itself, or several whose rows are joined; transposed if a matrix lies the other way round.
struct HuggingFaceSource {
  std::vector<std::string> names;
  bool transposed = false;
};

/// model.safetensors, or the files that model.safetensors.index.json names.
class HuggingFaceWeights {
 public:
  using Rename = std::string (*)(std::string);
  /// `canonical` gives names of other versions as they are today. Throws Error if a file is missing or damaged.
  explicit HuggingFaceWeights(const std::filesystem::path& folder, Rename canonical = nullptr);
  const std::string& file() const { return file_; }
  bool contains(const std::string& name) const { return names_.contains(name); }
  /// Undefined there, empty here.
  std::vector<int64_t> shape(const std::string& name) const;
  std::vector<std::string> names() const;
  /// Before a model is made of the sizes in config.json: there is a weight of this shape, so the file is large enough for them. Throws Error if not.
  void expect(const std::string& name, const std::vector<int64_t>& shape) const;
  /// Fills a model; names of `ignored` may be left over. Throws Error, naming all of them, for weights that are missing, too many or of another shape.
  void load(Module& model, const std::function<HuggingFaceSource(const std::string& name)>& source,
            const std::function<bool(const std::string& name)>& ignored) const;

 private:
  struct Entry {
    size_t file;
    std::string name;  // as written
  };
  std::string file_;
  std::vector<SafeTensors> files_;
  std::map<std::string, Entry> names_;
};

}  // namespace retape::nn::detail
