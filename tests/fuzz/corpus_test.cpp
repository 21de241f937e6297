// The fuzz targets on what fuzzing begins with: a target that finds something wrong ends the program.
#include <filesystem>
#include <map>

#include <retape/io/file.h>

#include "../catch.h"

using namespace retape;
namespace fs = std::filesystem;

// LLVMFuzzerTestOneInput of each file, which is compiled here under the file's name
#define RETAPE_FUZZ_TARGETS(X) X(bpe) X(bpe_trainer) X(idx) X(jpeg) X(npy) X(npz) X(png) X(pt) X(safetensors) X(tokenizer_json)
#define RETAPE_DECLARE(name) extern "C" int fuzz_##name(const uint8_t* data, size_t size);
RETAPE_FUZZ_TARGETS(RETAPE_DECLARE)

TEST_CASE("fuzz targets find nothing wrong in their corpus", "[fuzz]") {
#define RETAPE_ENTRY(name) {#name, fuzz_##name},
  const std::map<std::string, int (*)(const uint8_t*, size_t)> targets = {RETAPE_FUZZ_TARGETS(RETAPE_ENTRY)};
  std::map<std::string, std::vector<fs::path>> inputs;
  for (auto& file : fs::recursive_directory_iterator(RETAPE_CORPUS))
    if (file.is_regular_file()) inputs[file.path().parent_path().filename().string()].push_back(file.path());
  for (auto& file : fs::directory_iterator(RETAPE_GOLDEN)) {
    const std::string extension = file.path().extension().string();
    if (!extension.empty() && targets.contains(extension.substr(1))) inputs[extension.substr(1)].push_back(file.path());
  }
  for (auto& [name, target] : targets) {
    INFO(name);
    CHECK_FALSE(inputs[name].empty());
  }
  for (auto& [name, files] : inputs) {
    INFO(name);
    REQUIRE(targets.contains(name));
    for (auto& file : files) {
      INFO(file);
      const std::string content = read_file(file);
      CHECK(targets.at(name)(reinterpret_cast<const uint8_t*>(content.data()), content.size()) == 0);
    }
  }
}
