#include "heat_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include <retape/core/error.h>

#include "plot.h"

namespace retape::examples {
namespace {

constexpr double character = 6.6, line = 16;  // pixels

double width_of(const std::vector<std::string>& names) {
  size_t longest = 0;
  for (auto& name : names)
    longest = std::max(longest, size_t(std::count_if(name.begin(), name.end(), [](char c) { return (c & 0xc0) != 0x80; })));
  return character * double(longest);
}

// White to dark blue.
std::string colour(double share) {
  const auto mix = [&](int dark) { return int(std::lround(255 + share * (dark - 255))); };
  return fmt::format("#{:02x}{:02x}{:02x}", mix(8), mix(48), mix(107));
}

}  // namespace

std::string to_svg(const HeatMap& map) {
  const size_t rows = map.rows.size(), columns = map.columns.size();
  if (map.values.size() != rows * columns || map.values.empty())
    throw Error(fmt::format("to_svg: a heat map of {} rows and {} columns needs {} values, one at least, not {}", rows, columns,
                            rows * columns, map.values.size()));
  double largest = 0;
  for (const double v : map.values) {
    if (v < 0) throw Error(fmt::format("to_svg: {} is negative; a heat map shows numbers from 0", v));
    if (std::isfinite(v)) largest = std::max(largest, v);
  }
  const double cell = map.cell, left = width_of(map.rows) + 16 + (map.y_label.empty() ? 0 : line + 6);
  // Names of columns lean upwards to the right.
  const double slope = std::sqrt(0.5), names = width_of(map.columns) * slope;
  const double top = 16 + names + (map.title.empty() ? 0 : line + 10) + (map.x_label.empty() ? 0 : line + 4);
  const double right = left + cell * double(columns),
               width = std::max(right + names + 16, left + character * 1.3 * double(map.title.size()));
  const double height = top + cell * double(rows) + 16;
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" viewBox=\"0 0 {0:.0f} {1:.0f}\" "
      "font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\" font-size=\"12\" fill=\"#333\">\n"
      "<rect width=\"{0:.0f}\" height=\"{1:.0f}\" fill=\"#fff\"/>\n",
      width, height);
  double y = 4;
  if (!map.title.empty())
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" font-size=\"15\" font-weight=\"bold\">{}</text>\n", left, y += line + 2,
                       escape_xml(map.title));
  if (!map.x_label.empty())
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" font-size=\"13\">{}</text>\n", left, y + line + 2, escape_xml(map.x_label));
  if (!map.y_label.empty())
    svg += fmt::format(
        "<text x=\"16\" y=\"{0:.1f}\" text-anchor=\"middle\" font-size=\"13\" transform=\"rotate(-90 16 {0:.1f})\">{1}</text>\n",
        top + cell * double(rows) / 2, escape_xml(map.y_label));
  for (size_t j = 0; j < columns; ++j) {
    const double x = left + cell * (double(j) + 0.5) + 4;
    svg += fmt::format("<text x=\"{0:.1f}\" y=\"{1:.1f}\" transform=\"rotate(-45 {0:.1f} {1:.1f})\">{2}</text>\n", x, top - 6,
                       escape_xml(map.columns[j]));
  }
  for (size_t i = 0; i < rows; ++i) {
    const double at = top + cell * double(i);
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n", left - 6, at + cell / 2 + 4,
                       escape_xml(map.rows[i]));
    for (size_t j = 0; j < columns; ++j) {
      const double v = map.values[i * columns + j], x = left + cell * double(j), share = largest > 0 ? v / largest : 0;
      svg += fmt::format(
          "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"{}\"><title>{}, {}: {:.4g}</title></rect>\n", x, at,
          cell, cell, std::isfinite(v) ? colour(share) : "#bbb", escape_xml(map.rows[i]), escape_xml(map.columns[j]), v);
      if (map.decimals >= 0)
        svg += fmt::format(
            "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\" font-size=\"10\" fill=\"{}\" pointer-events=\"none\">{:.{}f}</text>\n",
            x + cell / 2, at + cell / 2 + 4, share > 0.5 ? "#fff" : "#333", v, map.decimals);
    }
  }
  svg += fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"none\" stroke=\"#999\"/>\n", left, top,
                     cell * double(columns), cell * double(rows));
  return svg + "</svg>\n";
}

}  // namespace retape::examples
