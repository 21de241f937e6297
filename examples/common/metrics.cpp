#include <examples/common/metrics.h>

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

std::string header_of(const std::vector<std::string>& columns) { return fmt::format("step,{}", fmt::join(columns, ",")); }

template <class T> bool parse(std::string_view text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

// Returns what is wrong with the line, or "".
std::string parse_row(std::string_view line, const std::vector<std::string>& columns, MetricsRow& row) {
  std::vector<std::string_view> cells;
  for (size_t comma = 0; comma != line.npos; line.remove_prefix(comma == line.npos ? 0 : comma + 1)) {
    comma = line.find(',');
    cells.push_back(line.substr(0, comma));
  }
  if (cells.size() != columns.size() + 1) return fmt::format("has not {} cells", columns.size() + 1);
  const auto wrong = [](std::string_view cell) { return fmt::format("has \"{}\" where a number should be", cell); };
  if (!parse(cells[0], row.step)) return wrong(cells[0]);
  for (size_t i = 0; i < columns.size(); ++i)
    if (const auto cell = cells[i + 1]; !cell.empty() && !parse(cell, row.values[columns[i]])) return wrong(cell);
  return "";
}

}  // namespace

std::optional<double> MetricsRow::operator[](const std::string& column) const {
  const auto value = values.find(column);
  return value == values.end() ? std::nullopt : std::optional(value->second);
}

std::vector<MetricsRow> read_metrics(const fs::path& path, const std::vector<std::string>& columns) {
  const std::string content = read_file(path), header = header_of(columns);
  std::vector<MetricsRow> rows;
  std::string_view rest = content;
  for (int number = 1;; ++number) {
    const size_t end = rest.find('\n');
    if (end == rest.npos && number > 1) return rows;
    const std::string_view line = rest.substr(0, end);
    std::string wrong;
    if (number > 1) {
      wrong = parse_row(line, columns, rows.emplace_back());
    } else if (line != header || end == rest.npos) {
      wrong = fmt::format("should be \"{}\"", header);
    }
    if (!wrong.empty()) throw Error(fmt::format("read_metrics: line {} of \"{}\" {}", number, path.string(), wrong));
    rest.remove_prefix(end + 1);
  }
}

MetricsFile::MetricsFile(fs::path path, std::vector<std::string> columns) : path_(std::move(path)), columns_(std::move(columns)) {
  replace();
}

MetricsFile::MetricsFile(fs::path path, std::vector<std::string> columns, int64_t resumed_step)
    : path_(std::move(path)), columns_(std::move(columns)) {
  if (fs::exists(path_)) rows_ = read_metrics(path_, columns_);
  std::erase_if(rows_, [&](const MetricsRow& row) { return row.step > resumed_step; });
  replace();
}

std::string MetricsFile::format(const MetricsRow& row) const {
  std::string line = fmt::format("{}", row.step);
  size_t used = 0;
  for (auto& column : columns_) {
    line += ',';
    const auto value = row[column];
    if (value) line += fmt::format("{:.6g}", *value), ++used;
  }
  if (used != row.values.size())
    throw Error(fmt::format("metrics: a row has {} values, of which {} belong to the columns {}", row.values.size(), used,
                            fmt::join(columns_, ", ")));
  return line + '\n';
}

void MetricsFile::replace() const {
  std::string content = header_of(columns_) + '\n';
  for (const auto& row : rows_) content += format(row);
  write_file_atomically(path_, content);
}

void MetricsFile::append(const MetricsRow& row) {
  const std::string line = format(row);
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
