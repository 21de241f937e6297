// metrics.csv: one row for each report of a training run, readable while the run goes on.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace retape::examples {

/// What is known after a step, by column; a column without a value has an empty cell.
struct MetricsRow {
  int64_t step = 0;
  std::map<std::string, double> values = {};
  std::optional<double> operator[](const std::string& column) const;
};

/// All rows, in the order of the file, whose first line is "step," and the columns. A last line without its end, which a crash may leave,
/// is not read. Throws Error, naming the line, if the file is not such a file.
std::vector<MetricsRow> read_metrics(const std::filesystem::path& path, const std::vector<std::string>& columns);

/// Appends rows; each is in the file when append returns.
class MetricsFile {
 public:
  /// Starts a file with its header only, replacing one that is there.
  MetricsFile(std::filesystem::path path, std::vector<std::string> columns);
  /// Continues after a checkpoint: rows of later steps, which the run will write again, are cut.
  MetricsFile(std::filesystem::path path, std::vector<std::string> columns, int64_t resumed_step);

  /// Throws Error for a value of a column that is not there, and if the row cannot be written; the rows before it stay.
  void append(const MetricsRow& row);
  /// What the file holds, for the plot.
  const std::vector<MetricsRow>& rows() const { return rows_; }

 private:
  std::string format(const MetricsRow& row) const;
  void replace() const;

  std::filesystem::path path_;
  std::vector<std::string> columns_;
  std::vector<MetricsRow> rows_;
};

}  // namespace retape::examples
