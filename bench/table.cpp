#include "table.h"

#include <fmt/format.h>

namespace retape::bench {
namespace {
std::string number(double v) { return fmt::format("{:.{}f}", v, v >= 100 ? 0 : v >= 10 ? 1 : v >= 1 ? 2 : 3); }
}  // namespace

std::string table_head() { return "| work | unit | Retape | peer | ratio | at least | |\n|---|---|---|---|---|---|---|\n"; }

std::string markdown(const Row& r) {
  if (!r.failure.empty()) return fmt::format("| {} | | | | | | failed: {} |\n", r.work, r.failure);
  const std::string goal = r.at_least ? fmt::format("{:.3g}", r.at_least) : r.at_most ? fmt::format("at most {:.3g}", r.at_most) : "";
  return fmt::format("| {} | {} | {} | {} | {} | {} | {} |\n", r.work, r.unit, number(r.retape), r.peer ? number(*r.peer) : "",
                     r.peer ? fmt::format("{:.2f}", r.ratio()) : "", goal, r.pass() ? "" : "falls short");
}

std::string csv(const std::vector<Row>& rows) {
  std::string text = "work,unit,retape,peer,ratio,at_least,at_most,pass\n";
  const auto goal = [](double v) { return v ? fmt::format("{:.4g}", v) : ""; };
  for (const Row& r : rows) {
    if (!r.failure.empty()) text += fmt::format("\"{}\",,,,,,,failed\n", r.work);
    else
      text += fmt::format("\"{}\",{},{:.6g},{},{},{},{},{}\n", r.work, r.unit, r.retape, r.peer ? fmt::format("{:.6g}", *r.peer) : "",
                          r.peer ? fmt::format("{:.4g}", r.ratio()) : "", goal(r.at_least), goal(r.at_most), r.pass() ? "yes" : "no");
  }
  return text;
}

}  // namespace retape::bench
