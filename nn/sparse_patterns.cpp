#include <retape/nn/sparse_patterns.h>

#include <fmt/format.h>

#include <cstdlib>

#include <retape/autograd/views.h>

namespace retape::nn {
namespace {

int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }
void check_size(const char* name, int64_t block_size) {
  if (block_size <= 0 || block_size % 64 != 0)
    throw Error(fmt::format("{}: a block_size of {} does not divide into tiles; it must be a positive multiple of 64", name, block_size));
}
int64_t blocks_of(const char* name, const char* what, int64_t positions, int64_t block_size) {
  if (positions <= 0 || positions % block_size != 0)
    throw Error(fmt::format("{}: {} of {} positions is no number of blocks of {}; it must be a positive multiple", name, what, positions,
                            block_size));
  return positions / block_size;
}

}  // namespace

Tensor BlockPattern::mask(int64_t queries, int64_t keys, int64_t query_offset, Device device) const {
  check_size("BlockPattern", block_size);
  if (!sees) throw Error("BlockPattern: there is no function `sees`; set one, or take one of sparse_patterns");
  if (queries < 0 || keys < 0 || query_offset < 0)
    throw Error(fmt::format("BlockPattern: {} queries from position {} and {} keys are not valid; none may be negative", queries,
                            query_offset, keys));
  const Shape shape{1, divide_up(queries + query_offset, block_size), divide_up(keys, block_size)};
  Tensor all = zeros(shape, {DType::boolean});
  bool* const seen = all.mutable_data<bool>();
  for (int64_t i = query_offset / block_size; i < shape[1]; ++i)
    for (int64_t j = 0; j < shape[2]; ++j) seen[i * shape[2] + j] = sees(i, j);
  return to(all, device);
}

namespace sparse_patterns {

BlockPattern strided(int64_t stride, int64_t block_size) {
  check_size("strided", block_size);
  const int64_t n = blocks_of("strided", "a stride", stride, block_size);
  return {block_size, [n](int64_t i, int64_t j) {
            const int64_t distance = std::abs(i - j);
            return distance <= n || distance % n == 0;
          }};
}

BlockPattern fixed(int64_t stride, int64_t summary, int64_t block_size) {
  check_size("fixed", block_size);
  const int64_t n = blocks_of("fixed", "a stride", stride, block_size), last = blocks_of("fixed", "a summary", summary, block_size);
  if (last > n)
    throw Error(fmt::format("fixed: a summary of {} positions does not fit a stride of {}; it must be no longer", summary, stride));
  return {block_size, [n, last](int64_t i, int64_t j) { return i / n == j / n || j % n >= n - last; }};
}

BlockPattern longformer(int64_t window, int64_t global_tokens, int64_t block_size) {
  check_size("longformer", block_size);
  if (window < 0 || global_tokens < 0)
    throw Error(
        fmt::format("longformer: a window of {} and {} global tokens are not valid; neither may be negative", window, global_tokens));
  const int64_t n = divide_up(window / 2, block_size), global = divide_up(global_tokens, block_size);
  return {block_size, [n, global](int64_t i, int64_t j) { return std::abs(i - j) <= n || i < global || j < global; }};
}

}  // namespace sparse_patterns
}  // namespace retape::nn
