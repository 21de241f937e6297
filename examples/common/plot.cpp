#include <examples/common/plot.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include <retape/core/error.h>

namespace retape::examples {
namespace {

// Colours that people with any kind of colour vision can tell apart (Okabe and Ito 2008); dashes when they begin anew.
constexpr std::array colours = {"#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444"};
constexpr std::array dashes = {"", "6 3", "2 3"};
constexpr double text_width = 7;   // a generous mean for a character of 12 pixels
constexpr double largest = 1e300;  // numbers beyond are not drawn: their differences would overflow
constexpr size_t few_points = 60;  // so few are marked by dots
constexpr double line_height = 20, tick_space = 90;

double power_of_ten(int exponent) { return std::pow(10.0, exponent); }

// One axis: data to pixels. The range is that of the data, in log10 on a logarithmic axis.
struct Axis {
  bool log = false;
  double from = 0, to = 1;  // pixels
  double low = std::numeric_limits<double>::infinity(), high = -low;

  bool shows(double v) const { return std::abs(v) <= largest && (!log || v >= 1 / largest); }
  double scale(double v) const { return log ? std::log10(v) : v; }
  double pixel(double v) const { return from + (scale(v) - low) / (high - low) * (to - from); }
  void include(double v) {
    low = std::min(low, scale(v));
    high = std::max(high, scale(v));
  }

  // Widens the range by a margin, and one that is empty or only a point so that there is something to draw.
  void finish(double margin) {
    if (!(low <= high)) low = 0, high = 1;
    double pad = margin * (high - low);
    const double size = std::max(std::abs(low), std::abs(high));
    if (high - low <= std::max(1e-9 * size, 1 / largest)) pad = !log && size > 1e-9 ? 0.1 * size : 0.5;
    low -= pad;
    high += pad;
    if (log) low = std::max(low, -305.0), high = std::min(high, 305.0);  // what a double can hold
  }

  std::vector<double> ticks() const {
    const int count = std::max(2, static_cast<int>(std::abs(to - from) / (to > from ? tick_space : tick_space / 2)));
    return log ? log_ticks(std::pow(10, low), std::pow(10, high), count) : linear_ticks(low, high, count);
  }
};

// A power of ten with 1, 2 or 5 before it, the smallest that is not below `least`.
double round_up(double least) {
  const double unit = power_of_ten(static_cast<int>(std::floor(std::log10(least))));
  for (const double digit : {1, 2, 5}) {
    if (digit * unit >= least * (1 - 1e-9)) return digit * unit;
  }
  return 10 * unit;
}

struct Point {
  double x, y;  // pixels
};

// The pieces of a curve between its gaps. Where there are several points in a column of pixels, only its first, lowest,
// highest and last are kept: the picture is the same, and a long run's file stays small.
std::vector<std::vector<Point>> pieces(const Curve& curve, const Axis& x, const Axis& y) {
  std::vector<std::vector<Point>> all;
  std::vector<Point> column;
  const auto flush = [&] {
    if (column.empty()) return;
    const auto lower = [](const Point& a, const Point& b) { return a.y < b.y; };
    const auto [low, high] = std::minmax_element(column.begin(), column.end(), lower);
    std::vector keep = {column.begin(), low, high, column.end() - 1};
    std::sort(keep.begin(), keep.end());
    keep.erase(std::unique(keep.begin(), keep.end()), keep.end());
    for (const auto point : keep) all.back().push_back(*point);
    column.clear();
  };
  bool gap = true;
  for (size_t i = 0; i < curve.x.size(); ++i) {
    if (!x.shows(curve.x[i]) || !y.shows(curve.y[i])) {
      flush();
      gap = true;
      continue;
    }
    const Point point{x.pixel(curve.x[i]), y.pixel(curve.y[i])};
    if (!column.empty() && std::floor(2 * point.x) != std::floor(2 * column.back().x)) flush();
    if (std::exchange(gap, false)) all.emplace_back();
    column.push_back(point);
  }
  flush();
  return all;
}

// A piece of one point is always marked by a dot, since it has no line.
std::string draw_curve(const std::vector<std::vector<Point>>& all, size_t index, bool dotted) {
  const std::string_view colour = colours[index % colours.size()];
  const std::string_view dash = dashes[index / colours.size() % dashes.size()];
  std::string svg = fmt::format("<g fill=\"none\" stroke=\"{}\" stroke-width=\"1.8\" stroke-linejoin=\"round\"", colour);
  svg += dash.empty() ? ">\n" : fmt::format(" stroke-dasharray=\"{}\">\n", dash);
  std::string dots;
  for (const auto& piece : all) {
    if (piece.size() > 1) {
      svg += "<polyline points=\"";
      for (const auto& p : piece) svg += fmt::format("{:.1f},{:.1f} ", p.x, p.y);
      svg.back() = '"';
      svg += "/>\n";
    }
    if (piece.size() > 1 && !dotted) continue;
    for (const auto& p : piece) dots += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2.8\"/>\n", p.x, p.y);
  }
  svg += "</g>\n";
  if (!dots.empty()) svg += fmt::format("<g fill=\"{}\">\n{}</g>\n", colour, dots);
  return svg;
}

std::string text(double x, double y, std::string_view attributes, std::string_view content) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" {}>{}</text>\n", x, y, attributes, escape_xml(content));
}

size_t character_count(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

// The number of bytes of the UTF-8 character that `text` begins with; 0 if it is none or one that XML does not allow.
size_t xml_character(std::string_view text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<uint32_t>(static_cast<unsigned char>(text[i])) : 0u; };
  const uint32_t first = byte(0);
  if (first < 0x80) return first >= 0x20 && first != 0x7F ? 1 : 0;
  const size_t size = first >= 0xC2 && first < 0xE0 ? 2 : first >= 0xE0 && first < 0xF0 ? 3 : first >= 0xF0 && first < 0xF5 ? 4 : 0;
  uint32_t code = size == 0 ? 0 : first & (0x7Fu >> size);
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
    code = code << 6 | (byte(i) & 0x3F);
  }
  const bool too_long = (size == 3 && code < 0x800) || (size == 4 && code < 0x10000);
  const bool not_a_character = (code >= 0xD800 && code < 0xE000) || code == 0xFFFE || code == 0xFFFF || code > 0x10FFFF;
  return too_long || not_a_character ? 0 : size;
}

}  // namespace

std::string escape_xml(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t size = xml_character(text);
    switch (text[0]) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      case '\n':
      case '\t': out += ' '; break;
      default: out += size > 0 ? text.substr(0, size) : "\uFFFD";
    }
    text.remove_prefix(std::max<size_t>(size, 1));
  }
  return out;
}

std::vector<double> linear_ticks(double low, double high, int count) {
  if (!(high > low)) return {low};
  const double step = round_up((high - low) / std::max(count, 1));
  std::vector<double> ticks;
  const double first = std::ceil(low / step - 1e-9), last = std::floor(high / step + 1e-9);
  if (std::abs(first) > 1e15) return {low, high};  // nothing round lies between neighbours
  // The quotient of two integers is the nearest double: 3 * 0.1 would be 0.30000000000000004.
  for (double i = first; i <= last; ++i) ticks.push_back(step < 1 ? i / std::round(1 / step) : i * step);
  return ticks;
}

std::vector<double> log_ticks(double low, double high, int count) {
  const int first = static_cast<int>(std::floor(std::log10(low) + 1e-9)), last = static_cast<int>(std::floor(std::log10(high) + 1e-9));
  const auto within = [&](double v) { return v >= low * (1 - 1e-9) && v <= high * (1 + 1e-9); };
  std::vector<double> powers, between;
  const int stride = std::max(1, (last - first + count - 1) / std::max(count, 1));
  for (int exponent = first; exponent <= last; ++exponent) {
    for (const double digit : {1, 2, 5}) {
      const double v = digit * power_of_ten(exponent);
      if (!within(v)) continue;
      between.push_back(v);
      if (digit == 1 && exponent % stride == 0) powers.push_back(v);
    }
  }
  if (between.size() < 2) return linear_ticks(low, high, count);
  const bool few = stride == 1 && between.size() <= static_cast<size_t>(std::max(count, 4));
  return few || powers.size() < 2 ? between : powers;
}

std::vector<std::string> tick_labels(const std::vector<double>& ticks) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  double size = 0, step = infinity, smallest = infinity;
  for (size_t i = 0; i < ticks.size(); ++i) {
    size = std::max(size, std::abs(ticks[i]));
    if (ticks[i] != 0) smallest = std::min(smallest, std::abs(ticks[i]));
    if (i > 0) step = std::min(step, ticks[i] - ticks[i - 1]);
  }
  // Ticks at equal distances share unit and decimals; on a logarithmic axis each number has its own.
  const bool even = ticks.size() < 3 || ticks[ticks.size() - 1] - ticks[ticks.size() - 2] < 1.5 * (ticks[1] - ticks[0]);
  const int digits = step < infinity && step > 0 ? std::clamp(static_cast<int>(std::log10(size / step)) + 2, 6, 17) : 6;
  std::vector<std::string> labels;
  for (const double v : ticks) {
    const double unit = even ? size : std::abs(v);
    if (v == 0) {
      labels.push_back("0");
    } else if (unit >= 1e13 || unit < 1e-4 || (even && step < 1e-6) || ticks.size() == 1) {
      labels.push_back(fmt::format("{:.{}g}", v, digits));
    } else if (unit >= 1e4) {
      const auto [divisor, suffix] = unit >= 1e9 ? std::pair(1e9, "G") : unit >= 1e6 ? std::pair(1e6, "M") : std::pair(1e3, "k");
      labels.push_back(fmt::format("{:.{}g}{}", v / divisor, digits, suffix));
    } else {
      const double last_digit = even ? std::min(step, smallest) : std::abs(v);
      labels.push_back(fmt::format("{:.{}f}", v, std::max(0, -static_cast<int>(std::floor(std::log10(last_digit) + 1e-6)))));
    }
  }
  return labels;
}

std::string to_svg(const Chart& chart) {
  if (chart.width < 200 || chart.height < 150)
    throw Error(fmt::format("to_svg: a chart of {} by {} is too small; at least 200 by 150", chart.width, chart.height));
  Axis x{.log = chart.log_x}, y{.log = chart.log_y};
  for (const auto& curve : chart.curves) {
    if (curve.x.size() != curve.y.size())
      throw Error(
          fmt::format("to_svg: curve \"{}\" has {} x and {} y; they should be as many", curve.name, curve.x.size(), curve.y.size()));
    for (size_t i = 0; i < curve.x.size(); ++i) {
      if (!x.shows(curve.x[i]) || !y.shows(curve.y[i])) continue;
      x.include(curve.x[i]);
      y.include(curve.y[i]);
    }
  }
  x.finish(0.01);
  y.finish(0.04);

  // The legend fills lines below the title, so that it hides no curve.
  const double width = chart.width, height = chart.height;
  double top = chart.title.empty() ? 14 : 40, legend_x = 0;
  std::vector<Point> legend;
  for (const auto& curve : chart.curves) {
    const double entry = 44 + text_width * static_cast<double>(character_count(curve.name));
    if (legend_x > 0 && legend_x + entry > width - 90) {
      legend_x = 0;
      top += line_height;
    }
    legend.push_back({legend_x, top + 6});
    legend_x += entry;
  }
  if (!legend.empty()) top += line_height + 4;

  // The vertical axis first: its labels decide where the horizontal one begins.
  y.from = height - (chart.x_label.empty() ? 34 : 54);
  y.to = std::min(top, y.from - 40);
  const auto y_ticks = y.ticks();
  const auto y_labels = tick_labels(y_ticks);
  size_t longest = 0;
  for (const auto& label : y_labels) longest = std::max(longest, label.size());
  x.from = 16 + text_width * static_cast<double>(longest) + (chart.y_label.empty() ? 0 : 24);
  x.to = width - 24;
  const auto x_ticks = x.ticks();
  const auto x_labels = tick_labels(x_ticks);

  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" "
      "font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\" font-size=\"12\" fill=\"#333\">\n"
      "<rect width=\"{0}\" height=\"{1}\" fill=\"#fff\"/>\n",
      chart.width, chart.height);
  if (!chart.title.empty())
    svg += text((x.from + x.to) / 2, 25, "text-anchor=\"middle\" font-size=\"16\" font-weight=\"bold\"", chart.title);

  std::string grid, labels;
  for (size_t i = 0; i < x_ticks.size(); ++i) {
    const double at = x.pixel(x_ticks[i]);
    grid += fmt::format("<path d=\"M{:.1f} {:.1f}V{:.1f}\"/>\n", at, y.from, y.to);
    labels += text(at, y.from + 18, "text-anchor=\"middle\"", x_labels[i]);
  }
  for (size_t i = 0; i < y_ticks.size(); ++i) {
    const double at = y.pixel(y_ticks[i]);
    grid += fmt::format("<path d=\"M{:.1f} {:.1f}H{:.1f}\"/>\n", x.from, at, x.to);
    labels += text(x.from - 8, at + 4, "text-anchor=\"end\"", y_labels[i]);
  }
  svg += "<g stroke=\"#e3e3e3\">\n" + grid + "</g>\n" + labels;
  svg += fmt::format("<path d=\"M{:.1f} {:.1f}V{:.1f}H{:.1f}\" fill=\"none\" stroke=\"#666\"/>\n", x.from, y.to, y.from, x.to);
  if (!chart.x_label.empty()) svg += text((x.from + x.to) / 2, height - 12, "text-anchor=\"middle\" font-size=\"13\"", chart.x_label);
  if (!chart.y_label.empty()) {
    const double middle = (y.from + y.to) / 2;
    svg +=
        text(18, middle, fmt::format("text-anchor=\"middle\" font-size=\"13\" transform=\"rotate(-90 18 {:.1f})\"", middle), chart.y_label);
  }

  for (size_t i = 0; i < chart.curves.size(); ++i) {
    const auto& curve = chart.curves[i];
    const bool dotted = curve.x.size() <= few_points;
    svg += draw_curve(pieces(curve, x, y), i, dotted);
    const double at = x.from + legend[i].x, middle = legend[i].y;
    svg += draw_curve({{{at, middle}, {at + 22, middle}}}, i, false);
    if (dotted) svg += draw_curve({{{at + 11, middle}}}, i, true);
    svg += text(at + 29, middle + 4, "", curve.name);
  }
  return svg + "</svg>\n";
}

}  // namespace retape::examples
