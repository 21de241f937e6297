#include <retape/io/cifar.h>

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include <retape/io/file.h>
#include <retape/io/gzip.h>

namespace retape {

CifarImages decode_cifar(std::string_view bytes, int classes, std::string_view file) {
  const auto fail = [&](const std::string& what) { throw Error(fmt::format("read_cifar: {}: {}", file, what)); };
  if (classes != 10 && classes != 100) fail(fmt::format("there is no CIFAR-{}; expected 10 or 100", classes));
  constexpr size_t pixels = 3 * 32 * 32, piece = size_t{1} << 20;
  const size_t labels = classes == 100 ? 2 : 1, record = labels + pixels;

  GzipReader reader(bytes, "read_cifar", file);
  std::string inflated;
  if (reader.is_gzip()) {
    while (true) {
      const size_t before = inflated.size();
      inflated.resize(before + piece);
      const size_t got = reader.read(inflated.data() + before, piece);
      inflated.resize(before + got);
      if (got < piece) break;
    }
    bytes = inflated;
  }
  const size_t count = bytes.size() / record;
  if (count == 0 || bytes.size() % record != 0)
    fail(fmt::format("{} bytes are not a whole number of CIFAR-{}'s records of {} bytes; is it cut off?", bytes.size(), classes, record));

  const auto n = int64_t(count);
  CifarImages out{empty({n, 3, 32, 32}, {DType::u8}), empty({n}, {DType::i64}), {}};
  if (classes == 100) out.coarse_labels = empty({n}, {DType::i64});
  auto* images = out.images.mutable_data<uint8_t>();
  for (int64_t i = 0; i < n; ++i) {
    const auto* from = reinterpret_cast<const uint8_t*>(bytes.data()) + size_t(i) * record;
    const int label = from[labels - 1], coarse = from[0];
    if (label >= classes) fail(fmt::format("record {} has label {}; expected 0 <= label < {}", i, label, classes));
    if (classes == 100) {
      if (coarse >= 20) fail(fmt::format("record {} has coarse label {}; expected 0 <= label < 20", i, coarse));
      out.coarse_labels.mutable_data<int64_t>()[i] = coarse;
    }
    out.labels.mutable_data<int64_t>()[i] = label;
    std::copy_n(from + labels, pixels, images + size_t(i) * pixels);
  }
  return out;
}

CifarImages read_cifar(const std::filesystem::path& path, int classes) { return decode_cifar(read_file(path), classes, path.string()); }

}  // namespace retape
