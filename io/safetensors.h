// The safetensors format: named tensors in one file, a JSON header before the raw bytes, as other frameworks read and write it.
//
//     save_safetensors("model.safetensors", model.state_dict(), {{"step", "2000"}});
//     model.load_state_dict(SafeTensors::open("model.safetensors").tensors());
#pragma once
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <retape/core/tensor.h>

namespace retape {

/// A tensor as the header describes it. The format knows more dtypes, and more dims, than a Tensor can have.
struct SafeTensorsEntry {
  std::string name;
  std::string dtype;  ///< as written: "F32", "BF16", "F8_E4M3", ...
  std::vector<int64_t> shape;
  size_t begin = 0, end = 0;  ///< bytes, counted from the end of the header
};
struct SafeTensorsHeader {
  std::vector<SafeTensorsEntry> entries;  // in the order of their bytes
  std::map<std::string, std::string> metadata;
  size_t data_begin = 0;  // where in the file the bytes start
};
/// Reads and checks the header of a whole file in memory: afterwards every entry lies inside it, no two overlap, no byte belongs to
/// none, and sizes fit shapes and dtypes (sizes of dtypes that are not known to this reader cannot be checked). Throws Error for
/// everything else; `file` is its name in the message.
SafeTensorsHeader parse_safetensors_header(const std::byte* data, size_t size, std::string_view file = "memory");

/// An open file.
class SafeTensors {
 public:
  /// Maps the file; nothing but the header is read. Throws Error if it cannot be read or is not well-formed.
  static SafeTensors open(const std::filesystem::path& path);
  /// The same for a file's content. `file` is its name in messages.
  static SafeTensors from_bytes(std::vector<std::byte> bytes, std::string_view file = "memory");

  const std::vector<SafeTensorsEntry>& entries() const { return header_.entries; }
  std::vector<std::string> names() const;
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  bool contains(const std::string& name) const { return index_.contains(name); }
  /// Throws Error if there is no such tensor.
  const SafeTensorsEntry& info(const std::string& name) const;
  /// The dtype as a Tensor has it; none if no Tensor has it.
  static std::optional<DType> dtype_of(const SafeTensorsEntry& entry);

  /// A tensor that reads the file's memory, which it keeps alive; only misaligned ones are copied. It is not to be written: in-place
  /// writes would stay in this process, but show in every tensor of that name. Throws Error if there is no such tensor, and for
  /// dtypes and shapes that a Tensor cannot have.
  Tensor tensor(const std::string& name) const;
  /// All of them, in the order of the file.
  NamedTensors tensors() const;

 private:
  SafeTensors(std::string file, const std::byte* data, size_t size, Ref<Object> owner);
  std::string file_;
  const std::byte* data_;
  Ref<Object> owner_;
  SafeTensorsHeader header_;
  std::unordered_map<std::string, size_t> index_;
};

/// Writes all tensors to a file, which is replaced as a whole or not at all; see write_file_atomically(). They are laid out by the
/// size of their elements, then by name. Throws Error for a name that is there twice, is "__metadata__" or is not UTF-8, for
/// undefined and meta tensors, and if writing fails.
void save_safetensors(const std::filesystem::path& path, const NamedTensors& tensors,
                      const std::map<std::string, std::string>& metadata = {});

}  // namespace retape
