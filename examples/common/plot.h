// Line charts as SVG text.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace retape::examples {

/// y over x. A point that is not finite, or not positive on a logarithmic axis, leaves a gap.
struct Curve {
  std::string name = {};
  std::vector<double> x = {}, y = {};
};

struct Chart {
  std::string title = {}, x_label = {}, y_label = {};
  std::vector<Curve> curves = {};
  bool log_x = false, log_y = false;
  int width = 800, height = 480;  // pixels
};

/// The chart as a complete SVG file: title, axes with ticks at round numbers, grid, legend.
/// Throws Error if a curve has not as many x as y, or if the chart is smaller than 200 by 150.
std::string to_svg(const Chart& chart);

/// Round numbers (1, 2 or 5 times a power of ten apart) within [low, high], about `count` of them.
std::vector<double> linear_ticks(double low, double high, int count);

/// Powers of ten within [low, high], with 2 and 5 times those between where there are few, at most about `count`;
/// linear_ticks where fewer than two of those lie in the range.
std::vector<double> log_ticks(double low, double high, int count);

/// What stands beside each tick: as many decimals as tell them apart, large numbers as 20k or 1.5M.
std::vector<std::string> tick_labels(const std::vector<double>& ticks);

/// Text as it may stand in an SVG file: markup escaped, what XML does not allow (control characters, bytes that are not
/// UTF-8) replaced.
std::string escape_xml(std::string_view text);

}  // namespace retape::examples
