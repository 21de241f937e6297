#include <retape/core/error.h>

#include <fmt/format.h>

#include <retape/core/dtype.h>

namespace retape {
namespace {
std::string with_path(const std::string& what) {
  if (!module_path_hook || what.find(" (in ") != std::string::npos) return what;
  const std::string path = module_path_hook();
  return path.empty() ? what : what + " (in " + path + ")";
}
}  // namespace

Error::Error(const std::string& what) : std::runtime_error(with_path(what)) {}

namespace detail {
[[noreturn]] void kernel_error(const char* message) { throw Error(message); }
[[noreturn]] void unsupported_dtype(const char* kernel, DType dtype) {
  throw Error(fmt::format("{}: dtype {} is not supported; use a floating dtype", kernel, name_of(dtype)));
}
[[noreturn]] void index_out_of_range(const char* kernel, int64_t value, int64_t size) {
  throw Error(fmt::format("{}: index {} is out of range; expected 0 <= index < {}", kernel, value, size));
}
[[noreturn]] void index_out_of_dim(int64_t value, int64_t dim, int64_t size) {
  throw Error(fmt::format("index: {} is out of range for dim {} of size {}; expected {} <= index < {}", value, dim, size, -size, size));
}
[[noreturn]] void masked_row(int64_t batch, int64_t head, int64_t query, int64_t keys) {
  throw Error(fmt::format(
      "scaled_dot_product_attention: query {} of head {} of batch element {} sees none of its {} keys; let it see one, or set allow_masked_rows for a result of 0",
      query, head, batch, keys));
}
}  // namespace detail
}  // namespace retape
