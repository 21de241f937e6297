// A table of what was measured: a line of Markdown a row, and all rows as CSV.
#pragma once
#include <optional>
#include <string>
#include <vector>

namespace retape::bench {

struct Row {
  std::string work = {}, unit = {};
  double retape = 0;
  std::optional<double> peer = {};
  double at_least = 0;          // of the ratio where there is a peer, else of Retape's number; 0: no goal
  double at_most = 0;           // of Retape's number, where there is no peer; 0: no goal
  bool more_is_better = false;  // of a row with a peer: a rate, where times and bytes are better if less
  std::string failure = {};     // why there are no numbers
  double ratio() const { return more_is_better ? retape / *peer : *peer / retape; }
  bool pass() const { return failure.empty() && (peer ? ratio() : retape) >= at_least && (at_most == 0 || retape <= at_most); }
};

/// The lines above the first row.
std::string table_head();
std::string markdown(const Row& row);
std::string csv(const std::vector<Row>& rows);

}  // namespace retape::bench
