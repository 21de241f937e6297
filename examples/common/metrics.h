// metrics.csv: one row for each report of a training run, readable while the run goes on.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

namespace retape::examples {

struct MetricsRow {
  int64_t step = 0;
  double train_loss = 0;
  std::optional<double> val_loss = {};  // an empty cell where it was not computed
  double lr = 0;
  double tokens_per_s = 0;
  double seconds = 0;  // since the run began, over all its resumptions
};

/// All rows, in the order of the file. A last line without its end, which a crash may leave, is not read.
/// Throws Error, naming the line, if the file is not a metrics file.
std::vector<MetricsRow> read_metrics(const std::filesystem::path& path);

/// Appends rows; each is in the file when append returns.
class MetricsFile {
 public:
  /// Starts a file with its header only, replacing one that is there.
  explicit MetricsFile(std::filesystem::path path);
  /// Continues after a checkpoint: rows of later steps, which the run will write again, are cut.
  MetricsFile(std::filesystem::path path, int64_t resumed_step);

  /// Throws Error if the row cannot be written; the rows before it stay.
  void append(const MetricsRow& row);
  /// What the file holds, for the plot.
  const std::vector<MetricsRow>& rows() const { return rows_; }

 private:
  void replace() const;

  std::filesystem::path path_;
  std::vector<MetricsRow> rows_;
};

}  // namespace retape::examples
