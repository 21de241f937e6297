// Tables of numbers as colours, as SVG text: attention, confusion.
#pragma once
#include <string>
#include <vector>

namespace retape::examples {

struct HeatMap {
  std::string title = {}, x_label = {}, y_label = {};
  std::vector<std::string> rows = {}, columns = {};  // names
  std::vector<double> values = {};                   // row by row
  int decimals = -1;                                 // of the number that stands in a cell; -1: none does
  int cell = 24;                                     // width and height of a cell in pixels
};

/// The table as a complete SVG file. Colours go from white at 0 to dark blue at the largest value; a number that is not finite is grey.
/// Each cell says row, column and number when a pointer rests on it. Throws Error if there are not rows x columns values, or none, or one
/// is negative.
std::string to_svg(const HeatMap& map);

}  // namespace retape::examples
