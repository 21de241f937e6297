#include <examples/common/metrics.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <string>
#include <string_view>
#include <system_error>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <retape/core/error.h>
#include <retape/io/file.h>

namespace retape::examples {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view header = "step,train_loss,val_loss,lr,tokens_per_s,seconds";
constexpr size_t columns = 6;

std::string format_row(const MetricsRow& row) {
  const std::string val_loss = row.val_loss ? fmt::format("{:.6g}", *row.val_loss) : "";
  return fmt::format("{},{:.6g},{},{:.6g},{:.6g},{:.2f}\n", row.step, row.train_loss, val_loss, row.lr, row.tokens_per_s, row.seconds);
}

template <class T> bool parse(std::string_view text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

// Returns what is wrong with the line, or "".
std::string parse_row(std::string_view line, MetricsRow& row) {
  std::array<std::string_view, columns> cell;
  for (size_t i = 0; i < columns; ++i) {
    const size_t comma = line.find(',');
    if ((comma == line.npos) != (i + 1 == columns)) return fmt::format("has not {} cells", columns);
    cell[i] = line.substr(0, comma);
    line.remove_prefix(comma == line.npos ? line.size() : comma + 1);
  }
  size_t bad = columns;
  if (!cell[2].empty() && !parse(cell[2], row.val_loss.emplace())) bad = 2;
  if (!parse(cell[0], row.step)) bad = 0;
  if (!parse(cell[1], row.train_loss)) bad = 1;
  if (!parse(cell[3], row.lr)) bad = 3;
  if (!parse(cell[4], row.tokens_per_s)) bad = 4;
  if (!parse(cell[5], row.seconds)) bad = 5;
  return bad < columns ? fmt::format("has \"{}\" where a number should be", cell[bad]) : "";
}

}  // namespace

std::vector<MetricsRow> read_metrics(const fs::path& path) {
  const std::string content = read_file(path);
  std::vector<MetricsRow> rows;
  std::string_view rest = content;
  for (int number = 1;; ++number) {
    const size_t end = rest.find('\n');
    if (end == rest.npos && number > 1) return rows;
    const std::string_view line = rest.substr(0, end);
    std::string wrong;
    if (number > 1) {
      wrong = parse_row(line, rows.emplace_back());
    } else if (line != header || end == rest.npos) {
      wrong = fmt::format("should be \"{}\"", header);
    }
    if (!wrong.empty()) throw Error(fmt::format("read_metrics: line {} of \"{}\" {}", number, path.string(), wrong));
    rest.remove_prefix(end + 1);
  }
}

MetricsFile::MetricsFile(fs::path path) : path_(std::move(path)) { replace(); }

MetricsFile::MetricsFile(fs::path path, int64_t resumed_step) : path_(std::move(path)) {
  if (fs::exists(path_)) rows_ = read_metrics(path_);
  std::erase_if(rows_, [&](const MetricsRow& row) { return row.step > resumed_step; });
  replace();
}

void MetricsFile::replace() const {
  std::string content(header);
  content += '\n';
  for (const auto& row : rows_) content += format_row(row);
  write_file_atomically(path_, content);
}

void MetricsFile::append(const MetricsRow& row) {
  const std::string line = format_row(row);
  const int file = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  struct stat before = {};
  bool written = file >= 0 && ::fstat(file, &before) == 0;
  if (written) {
    errno = ENOSPC;  // what a write means that takes only a part
    written = ::write(file, line.data(), line.size()) == static_cast<ssize_t>(line.size());
  }
  const int error = errno;
  if (!written && file >= 0 && ::ftruncate(file, before.st_size) != 0) {
    // Half a row stays; reading and resuming ignore it.
  }
  if (file >= 0) ::close(file);
  if (!written) throw Error(fmt::format("metrics: cannot write \"{}\": {}", path_.string(), std::strerror(error)));
  rows_.push_back(row);
}

}  // namespace retape::examples
