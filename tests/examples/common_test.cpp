// What all trainers share: progress line, metrics.csv, charts, run folder, Ctrl-C, command line.
#include <algorithm>
#include <array>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>
#include <CLI/CLI.hpp>

#include <examples/common/cli.h>
#include <examples/common/interrupt.h>
#include <examples/common/metrics.h>
#include <examples/common/plot.h>
#include <examples/common/progress.h>
#include <examples/common/run_folder.h>
#include <retape/core/error.h>
#include <retape/io/file.h>

#include "../catch.h"
#include "../temporary.h"

namespace fs = std::filesystem;
using namespace retape::examples;
using retape::Error;
using retape::read_file;
using retape::write_file_atomically;
using retape::testing::error_of;
using retape::testing::FullDisk;
using retape::testing::TemporaryFolder;

namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr double inf = std::numeric_limits<double>::infinity();

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++n;
  return n;
}

std::string content_of(std::FILE* file) {
  std::rewind(file);
  std::string content;
  for (int c = std::fgetc(file); c != EOF; c = std::fgetc(file)) content += static_cast<char>(c);
  return content;
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

// Elements nest, attributes are quoted, references are among the five of XML. Returns what is wrong, or "".
std::string xml_error(const std::string& xml) {
  std::vector<std::string> open;
  for (size_t i = 0; i < xml.size(); ++i) {
    if (xml[i] == '&') {
      bool known = false;
      for (const char* name : {"&amp;", "&lt;", "&gt;", "&quot;", "&apos;"}) known |= xml.compare(i, std::strlen(name), name) == 0;
      if (!known) return "reference at " + std::to_string(i);
    }
    if (xml[i] == '>') return "> at " + std::to_string(i);
    if (xml[i] != '<') continue;
    const size_t end = xml.find('>', i);
    if (end == std::string::npos) return "open tag at " + std::to_string(i);
    const std::string tag = xml.substr(i + 1, end - i - 1);
    const std::string name = tag.substr(0, tag.find_first_of(" /", 1));
    if (count(tag, "\"") % 2 != 0 || count(tag, "=\"") * 2 != count(tag, "\"")) return "attributes of " + tag;
    if (tag[0] == '/') {
      if (open.empty() || "/" + open.back() != tag) return "end of " + tag;
      open.pop_back();
    } else if (tag.back() != '/') {
      open.push_back(name);
    }
    i = end;
  }
  return open.empty() ? "" : "no end of " + open.back();
}

}  // namespace

// --- run folder ---

TEST_CASE("a new run gets a folder of its own", "[examples]") {
  const TemporaryFolder folder;
  const fs::path out = folder / "deep/run";
  CHECK(create_run_folder("gpt", out) == out);
  CHECK(create_run_folder("gpt", out) == out);  // still empty
  write_file_atomically(out / "config.json", "{}");
  CHECK(contains(error_of([&] { create_run_folder("gpt", out); }), "is not empty"));
  CHECK(contains(error_of([&] { create_run_folder("gpt", out / "config.json"); }), "cannot create"));

  const fs::path before = fs::current_path();
  fs::current_path(folder.path);
  const fs::path first = create_run_folder("gpt"), second = create_run_folder("gpt");
  const bool both = fs::is_directory(first) && fs::is_directory(second);
  fs::current_path(before);
  CHECK(both);
  CHECK(first != second);
  CHECK(first.parent_path() == "runs");
  CHECK(first.filename().string().size() == std::string("gpt-20260102-030405").size());
}

TEST_CASE("checkpoints are found in the order of their steps", "[examples]") {
  const TemporaryFolder run;
  CHECK_FALSE(latest_checkpoint(run.path).has_value());
  CHECK_FALSE(latest_checkpoint(run / "absent").has_value());
  for (const int step : {900, 1000, 80}) {
    save_checkpoint(run.path, step, [&](const fs::path& folder) { write_file_atomically(folder / "step", std::to_string(step)); });
  }
  fs::create_directory(run / "checkpoint-x");
  fs::create_directory(run / "checkpoint-2000b");
  write_file_atomically(run / "checkpoint-3000", "a file");
  CHECK(latest_checkpoint(run.path)->step == 1000);
  CHECK(read_file(latest_checkpoint(run.path)->path / "step") == "1000");
  CHECK(find_checkpoint(run.path).step == 1000);
  CHECK(find_checkpoint(run / "checkpoint-80").step == 80);
  CHECK(find_checkpoint(run / "checkpoint-80/").path.filename() == "checkpoint-80");
  CHECK(contains(error_of([&] { find_checkpoint(run / "checkpoint-x"); }), "holds no checkpoint"));
  CHECK(contains(error_of([&] { find_checkpoint(run / "absent"); }), "there is no folder"));
}

TEST_CASE("a checkpoint that fails half-way changes nothing", "[examples]") {
  const TemporaryFolder run;
  const auto fill = [](size_t bytes) {
    return [bytes](const fs::path& folder) {
      write_file_atomically(folder / "small", "new");
      write_file_atomically(folder / "large", std::string(bytes, 'x'));
    };
  };
  save_checkpoint(run.path, 100, fill(10));
  std::string error;
  {
    const FullDisk full(1000);
    error = error_of([&] { save_checkpoint(run.path, 100, fill(5000)); }) + error_of([&] { save_checkpoint(run.path, 200, fill(5000)); });
  }
  CHECK(count(error, "File too large") == 2);
  CHECK(names_in(run.path) == std::vector<std::string>{"checkpoint-100"});
  CHECK(read_file(run / "checkpoint-100/large") == std::string(10, 'x'));
  CHECK_THROWS_AS(save_checkpoint(run.path, 300, [](const fs::path&) { throw std::bad_alloc(); }), std::bad_alloc);
  CHECK(names_in(run.path) == std::vector<std::string>{"checkpoint-100"});
}

TEST_CASE("saving a step again replaces its checkpoint as a whole", "[examples]") {
  const TemporaryFolder run;
  save_checkpoint(run.path, 7, [](const fs::path& folder) { write_file_atomically(folder / "old", ""); });
  const fs::path place = save_checkpoint(run.path, 7, [](const fs::path& folder) { write_file_atomically(folder / "new", ""); });
  CHECK(place == run / "checkpoint-7");
  CHECK(names_in(place) == std::vector<std::string>{"new"});
  CHECK(names_in(run.path) == std::vector<std::string>{"checkpoint-7"});
}

namespace {

std::string content_at(int64_t step, char name) { return std::string(50000, name) + std::to_string(step); }
// Saves two files of content that only this step has.
void save_step(
    const fs::path& run, int64_t step, const std::function<void(int)>& between = [](int) {}) {
  save_checkpoint(run, step, [&](const fs::path& folder) {
    between(0);
    write_file_atomically(folder / "a", content_at(step, 'a'));
    between(1);
    write_file_atomically(folder / "b", content_at(step, 'b'));
    between(2);
  });
}
bool is_whole(const Checkpoint& c) {
  return names_in(c.path) == std::vector<std::string>{"a", "b"} && read_file(c.path / "a") == content_at(c.step, 'a') &&
         read_file(c.path / "b") == content_at(c.step, 'b');
}
// Runs f(report) in a process of its own, which is killed so many microseconds after its n-th report, or runs to its end.
template <class F> void in_child(const F& f, int reports = -1, int64_t microseconds = 0) {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    f([&](int) { return ::write(ends[1], "", 1); });
    ::_exit(0);
  }
  char byte = 0;
  for (int i = 0; i < reports; ++i)
    if (::read(ends[0], &byte, 1) != 1) break;
  ::usleep(useconds_t(microseconds));
  if (reports >= 0) ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ::close(ends[0]);
  ::close(ends[1]);
}

}  // namespace

TEST_CASE("a kill at any moment of saving and pruning leaves the latest checkpoint whole", "[examples]") {
  const TemporaryFolder run;
  save_step(run.path, 1);
  int64_t last = 1, saved = 0;
  for (int kill = 0; kill < 60; ++kill) {
    in_child(
        [&](const auto& report) {
          for (int64_t step = last + 1;; ++step) {
            save_step(run.path, step - 1, report);  // once more, which replaces it
            save_step(run.path, step, report);
            report(3);
            prune_checkpoints(run.path, 2, step);
          }
        },
        kill % 12, kill * 977 % 5000);
    const auto point = find_resume_point(run.path);
    REQUIRE(point.checkpoint);
    REQUIRE(point.checkpoint->step >= last);
    saved += point.checkpoint->step - last;
    last = point.checkpoint->step;
    for (const auto& c : checkpoints(run.path)) REQUIRE(is_whole(c));
    REQUIRE(names_in(run.path).size() == checkpoints(run.path).size());
    REQUIRE(checkpoints(run.path).size() <= 3);
    prune_checkpoints(run.path, 2, last);  // or each child that is killed in front of it would leave one more
  }
  CHECK(saved > 5);
}

TEST_CASE("a process that ends between two files of a checkpoint leaves the one before it", "[examples]") {
  for (const int64_t step : {5, 6})  // over a checkpoint that is there, and a new one
    for (int at = 0; at < 3; ++at) {
      const TemporaryFolder run;
      save_step(run.path, 5);
      in_child([&](const auto&) {
        save_step(run.path, step, [&](int place) {
          if (place == at) ::_exit(0);
        });
      });
      CHECK(names_in(run.path).size() == 2);
      CHECK(find_resume_point(run.path).checkpoint->step == 5);
      CHECK(names_in(run.path) == std::vector<std::string>{"checkpoint-5"});
      CHECK(is_whole({5, run / "checkpoint-5"}));
    }
}

TEST_CASE("a checkpoint that was being replaced where folders cannot change places is found again", "[examples]") {
  const TemporaryFolder run;
  save_step(run.path, 5);
  fs::rename(run / "checkpoint-5", run / ".checkpoint-5.part.old");
  fs::create_directory(run / ".checkpoint-5.part");
  CHECK(find_resume_point(run.path).checkpoint->step == 5);
  CHECK(names_in(run.path) == std::vector<std::string>{"checkpoint-5"});
}

TEST_CASE("a run is resumed from its latest checkpoint, from the one that is named, or from its beginning", "[examples]") {
  const TemporaryFolder folder;
  CHECK(contains(error_of([&] { find_resume_point(folder / "absent"); }), "there is no folder"));
  CHECK_FALSE(find_resume_point(folder.path).checkpoint);
  for (int step = 1; step <= 3; ++step) save_step(folder.path, step);
  CHECK(find_resume_point(folder.path).checkpoint->step == 3);
  const auto point = find_resume_point(folder / "checkpoint-2/");
  CHECK(point.run == folder.path);
  CHECK(point.checkpoint->step == 2);
  save_step(folder.path, 2);
  prune_checkpoints(folder.path, 1, 2);  // 3 is later than where this run is
  CHECK(names_in(folder.path) == std::vector<std::string>{"checkpoint-2", "checkpoint-3"});
  CHECK(holds_only(folder.path, {"checkpoint-2", "checkpoint-3"}));
  CHECK_FALSE(holds_only(folder.path, {"checkpoint-2"}));
}

TEST_CASE("an error while a run is written to says which checkpoint is intact", "[examples]") {
  const TemporaryFolder run;
  const auto full = [] { throw Error("No space left on device"); };
  CHECK(error_of([&] { write_to_run(run.path, full); }) == "No space left on device; no checkpoint was saved before");
  save_step(run.path, 4);
  CHECK(contains(error_of([&] { write_to_run(run.path, full); }),
                 "No space left on device; checkpoint-4 is intact: go on from it with --resume"));
}

TEST_CASE("pruning keeps the latest checkpoints and sweeps away what a crash left", "[examples]") {
  const TemporaryFolder run;
  for (int step = 1; step <= 12; ++step) save_checkpoint(run.path, step, [](const fs::path&) {});
  fs::create_directory(run / ".checkpoint-13.part");
  prune_checkpoints(run.path, 2);
  CHECK(names_in(run.path) == std::vector<std::string>{"checkpoint-11", "checkpoint-12"});
  prune_checkpoints(run.path, 0);
  CHECK(names_in(run.path) == std::vector<std::string>{"checkpoint-12"});
}

// --- metrics ---

const std::vector<std::string> columns{"train_loss", "val_loss", "seconds"};

TEST_CASE("metrics come back as they were appended", "[examples]") {
  const TemporaryFolder folder;
  const fs::path path = folder / "metrics.csv";
  MetricsFile file(path, columns);
  file.append({.step = 10, .values = {{"train_loss", 2.5}, {"seconds", 1.25}}});
  file.append({.step = 20, .values = {{"train_loss", not_a_number}, {"val_loss", 1.875}, {"seconds", 2.5}}});
  CHECK(read_file(path) ==
        "step,train_loss,val_loss,seconds\n"
        "10,2.5,,1.25\n"
        "20,nan,1.875,2.5\n");
  const auto rows = read_metrics(path, columns);
  REQUIRE(rows.size() == 2);
  CHECK_FALSE(rows[0]["val_loss"].has_value());
  CHECK(rows[0]["seconds"] == 1.25);
  CHECK(rows[1]["val_loss"] == 1.875);
  CHECK(std::isnan(*rows[1]["train_loss"]));
  CHECK(file.rows().size() == 2);
  CHECK(contains(error_of([&] { file.append({.step = 30, .values = {{"train_loss", 1}, {"accuracy", 2}}}); }), "of which 1 belong to"));
  CHECK(read_metrics(path, columns).size() == 2);
}

TEST_CASE("a resumed run cuts the rows that it will write again", "[examples]") {
  const TemporaryFolder folder;
  const fs::path path = folder / "metrics.csv";
  {
    MetricsFile file(path, columns);
    for (int step = 10; step <= 50; step += 10) file.append({.step = step, .values = {{"train_loss", 1.0 / step}}});
  }
  MetricsFile resumed(path, columns, 30);
  CHECK(read_metrics(path, columns).back().step == 30);
  resumed.append({.step = 40, .values = {{"train_loss", 9}}});
  const auto rows = read_metrics(path, columns);
  REQUIRE(rows.size() == 4);
  CHECK(rows[2]["train_loss"] == 0.0333333);
  CHECK(rows[3]["train_loss"] == 9);
  CHECK(resumed.rows().size() == 4);

  CHECK(MetricsFile(folder / "absent.csv", columns, 30).rows().empty());
  CHECK(MetricsFile(path, columns).rows().empty());  // a new run starts afresh
  CHECK(read_metrics(path, columns).empty());
}

TEST_CASE("a row that a crash cut short is ignored", "[examples]") {
  const TemporaryFolder folder;
  const fs::path path = folder / "metrics.csv";
  write_file_atomically(path, "step,train_loss,val_loss,seconds\n1,2,,3\n2,1.");
  CHECK(read_metrics(path, columns).size() == 1);
  MetricsFile(path, columns, 5).append({.step = 2});
  CHECK(read_metrics(path, columns).size() == 2);
}

TEST_CASE("a metrics file that is not one is an error that names the line", "[examples]") {
  const TemporaryFolder folder;
  const fs::path path = folder / "metrics.csv";
  const std::string header = "step,train_loss,val_loss,seconds\n";
  const auto error = [&](const std::string& content) {
    write_file_atomically(path, content);
    return error_of([&] { read_metrics(path, columns); });
  };
  CHECK(contains(error(""), "line 1 of"));
  CHECK(contains(error("step,loss\n1,2\n"), "should be \"step,train_loss"));
  CHECK(contains(error(header + "1,2,,3\n1,2,3\n"), "line 3 of"));
  CHECK(contains(error(header + "1,2,3\n"), "has not 4 cells"));
  CHECK(contains(error(header + "1,2,3,4,5\n"), "has not 4 cells"));
  CHECK(contains(error(header + "1,two,,4\n"), "\"two\" where a number"));
  CHECK(contains(error(header + "1.5,2,,4\n"), "\"1.5\""));
  CHECK(contains(error(header + "1,2,x,4\n"), "\"x\""));
  CHECK(contains(error(header + "\n"), "has not 4 cells"));
  CHECK(error(header) == "(no error)");
  CHECK(contains(error_of([&] { MetricsFile(folder / "absent/metrics.csv", columns); }), "No such file"));
}

TEST_CASE("on a full disk appending throws and the rows before stay", "[examples]") {
  const TemporaryFolder folder;
  const fs::path path = folder / "metrics.csv";
  MetricsFile file(path, columns);
  file.append({.step = 1});
  const std::string before = read_file(path);
  std::string error;
  {
    const FullDisk full(before.size() + 3);  // room for a part of the row
    error = error_of([&] { file.append({.step = 2}); });
  }
  CHECK(contains(error, "metrics: cannot write"));
  CHECK(read_file(path) == before);
  file.append({.step = 2});
  CHECK(read_metrics(path, columns).size() == 2);
}

// --- charts ---

TEST_CASE("linear ticks are round numbers within the range", "[examples]") {
  CHECK(linear_ticks(0, 2000, 5) == std::vector<double>{0, 500, 1000, 1500, 2000});
  CHECK(linear_ticks(-0.35, 0.31, 7) == std::vector<double>{-0.3, -0.2, -0.1, 0, 0.1, 0.2, 0.3});
  CHECK(linear_ticks(1.83, 4.27, 5) == std::vector<double>{2, 2.5, 3, 3.5, 4});
  CHECK(linear_ticks(3e-9, 9e-9, 3) == std::vector<double>{4e-9, 6e-9, 8e-9});
  CHECK(linear_ticks(5, 5, 4) == std::vector<double>{5});
}

TEST_CASE("logarithmic ticks are powers of ten, and 2 and 5 times those where there are few", "[examples]") {
  CHECK(log_ticks(1, 2000, 8) == std::vector<double>{1, 10, 100, 1000});
  CHECK(log_ticks(1, 20, 8) == std::vector<double>{1, 2, 5, 10, 20});
  CHECK(log_ticks(3, 80, 3) == std::vector<double>{5, 10, 20, 50});
  CHECK(log_ticks(1e-12, 1e12, 6).size() == 7);
  CHECK(log_ticks(2.1, 4.4, 5) == std::vector<double>{2.5, 3, 3.5, 4});
}

TEST_CASE("tick labels have as many digits as tell them apart", "[examples]") {
  using Labels = std::vector<std::string>;
  CHECK(tick_labels({1.8, 2, 2.2}) == Labels{"1.8", "2.0", "2.2"});
  CHECK(tick_labels({-0.1, 0, 0.05}) == Labels{"-0.10", "0", "0.05"});
  CHECK(tick_labels({0, 500, 1000}) == Labels{"0", "500", "1000"});
  CHECK(tick_labels({0, 5000, 10000}) == Labels{"0", "5k", "10k"});
  CHECK(tick_labels({1000000, 1000002, 1000004}) == Labels{"1M", "1.000002M", "1.000004M"});
  CHECK(tick_labels({0.001, 0.1, 10, 1000, 100000}) == Labels{"0.001", "0.1", "10", "1000", "100k"});
  CHECK(tick_labels({1e-6, 2e-6}) == Labels{"1e-06", "2e-06"});
  CHECK(tick_labels({0.001, 0.1}) == Labels{"0.001", "0.100"});
  CHECK(tick_labels({2.5}) == Labels{"2.5"});
}

TEST_CASE("a chart is well-formed SVG with title, labels, ticks and legend", "[examples]") {
  Chart chart{"loss <of> a & b", "step", "nats", {{"training \"x\"", {}, {}}, {"validation", {0, 1000, 2000}, {4, 2, 1.5}}}};
  for (int i = 0; i <= 2000; ++i) {
    chart.curves[0].x.push_back(i);
    chart.curves[0].y.push_back(1.5 + 3 * std::exp(-i / 300.0));
  }
  for (const bool log : {false, true}) {
    chart.log_x = chart.log_y = log;
    const std::string svg = to_svg(chart);
    CHECK(xml_error(svg) == "");
    CHECK(contains(svg, ">loss &lt;of&gt; a &amp; b</text>"));
    CHECK(contains(svg, ">training &quot;x&quot;</text>"));
    CHECK(contains(svg, ">step</text>"));
    CHECK(contains(svg, ">nats</text>"));
    CHECK(contains(svg, ">1000</text>"));
    CHECK(contains(svg, log ? ">10</text>" : ">500</text>"));
    CHECK(count(svg, "<circle") == (log ? 2 : 3) + 1);  // 0 is not on a logarithmic axis; the legend has one
  }
}

TEST_CASE("points that are not finite leave gaps, a single one is a dot", "[examples]") {
  const std::string svg = to_svg({"", "", "", {{"a", {0, 1, 2, 3, 4, 5}, {1, not_a_number, 2, 3, inf, 4}}}});
  CHECK(xml_error(svg) == "");
  CHECK(count(svg, "<polyline") == 1 + 1);  // from 2 to 3, and in the legend
  CHECK(count(svg, "<circle") == 4 + 1);
  CHECK_FALSE(contains(svg, "nan"));
  CHECK_FALSE(contains(svg, "inf"));
}

TEST_CASE("charts without a usable range are drawn", "[examples]") {
  const std::vector<Curve> cases = {
      {"empty", {}, {}},
      {"one", {3}, {5}},
      {"zero", {0}, {0}},
      {"flat", {1, 2}, {7, 7}},
      {"none", {not_a_number, 1}, {1, inf}},
      {"huge", {-1e308, 1e300}, {1e308, -1e300}},
      {"tiny", {1e-320, 2e-320}, {1e-310, 3e-310}},
      {"close", {1e9, 1e9 + 1e-6}, {1, 1 + 1e-15}},
      {"negative", {-1, -2}, {-3, -4}},
      {"wide", {1e-300, 1e300}, {1e-300, 1e300}},
  };
  for (const auto& curve : cases) {
    for (const bool log : {false, true}) {
      const std::string svg = to_svg({"", "x", "y", {curve}, log, log, 200, 150});
      INFO(curve.name << (log ? ", logarithmic" : ""));
      CHECK(xml_error(svg) == "");
      CHECK_FALSE(contains(svg, "nan"));
      CHECK_FALSE(contains(svg, "inf"));
      CHECK(svg.size() < 20000);
    }
  }
  CHECK(xml_error(to_svg({})) == "");
}

TEST_CASE("a long run's chart stays small and keeps its peaks", "[examples]") {
  Curve curve{"a", {}, {}};
  for (int i = 0; i < 300000; ++i) {
    curve.x.push_back(i);
    curve.y.push_back(i == 123456 ? 100 : std::sin(i));
  }
  const Chart chart{"", "", "", {curve}};
  const std::string svg = to_svg(chart);
  CHECK(svg.size() < 200000);
  // The peak is 4 % of the range below the upper border of the drawing, so that some point lies that high.
  const Chart low{"", "", "", {{"a", {0, 299999}, {-1, 100}}}};
  const std::string point = to_svg(low);
  const size_t at = point.find("<circle", point.find("<circle") + 1);
  const size_t y = point.find("cy=\"", at) + 4;
  CHECK(contains(svg, "," + point.substr(y, point.find('"', y) - y)));
}

TEST_CASE("a chart whose curves do not fit it is an error", "[examples]") {
  CHECK(contains(error_of([] { to_svg({"", "", "", {{"a", {1, 2}, {1}}}}); }), "2 x and 1 y"));
  CHECK(contains(error_of([] { to_svg({.curves = {}, .width = 10}); }), "too small"));
}

TEST_CASE("text that XML does not allow is replaced", "[examples]") {
  const std::string bad = "\xEF\xBF\xBD";
  CHECK(escape_xml("a<b>&\"c\"") == "a&lt;b&gt;&amp;&quot;c&quot;");
  CHECK(escape_xml("é 数 😀") == "é 数 😀");
  CHECK(escape_xml("a\nb\tc") == "a b c");
  CHECK(escape_xml("\x01 \x7F") == bad + " " + bad);
  CHECK(escape_xml("\xFF\xC3") == bad + bad);
  CHECK(escape_xml("\xC0\xAF") == bad + bad);            // a slash that is written too long
  CHECK(escape_xml("\xED\xA0\x80") == bad + bad + bad);  // half of a surrogate pair
}

// --- progress ---

TEST_CASE("durations and counts are short", "[examples]") {
  CHECK(format_duration(0.4) == "0:00");
  CHECK(format_duration(59.6) == "1:00");
  CHECK(format_duration(3599) == "59:59");
  CHECK(format_duration(3661) == "1:01:01");
  CHECK(format_duration(-1) == "-:--");
  CHECK(format_duration(not_a_number) == "-:--");
  CHECK(format_duration(inf) == "-:--");
  CHECK(format_count(7) == "7");
  CHECK(format_count(999.7) == "1.00k");
  CHECK(format_count(61234) == "61.2k");
  CHECK(format_count(99960) == "100k");
  CHECK(format_count(1.5e6) == "1.50M");
}

TEST_CASE("a rate follows a change of speed", "[examples]") {
  Rate rate(10);
  CHECK(rate.per_second() == 0);
  for (int i = 0; i < 100; ++i) rate.add(1000, 1);
  CHECK(std::abs(rate.per_second() - 1000) < 1e-6);
  for (int i = 0; i < 60; ++i) rate.add(100, 1);
  CHECK(std::abs(rate.per_second() - 100) < 10);
}

TEST_CASE("without a terminal progress prints lines now and then", "[examples]") {
  std::FILE* out = std::tmpfile();
  double time = 0;
  SECTION("every twentieth of a run") {
    {
      Progress progress(1000, {.out = out, .now = [&] { return time; }});
      for (int step = 1; step <= 1000; ++step) {
        time += 0.01;
        progress.update(step, 2.5, 50);
      }
      CHECK(std::abs(progress.items_per_second() - 5000) < 1e-6);
    }
    const std::string text = content_of(out);
    CHECK(count(text, "\n") == 21);
    CHECK(text.starts_with("step 1/1000  loss 2.5000  5.00k tokens/s  ETA 0:10\n"));
    CHECK(text.ends_with("step 1000/1000  loss 2.5000  5.00k tokens/s  ETA 0:00\n"));
  }
  SECTION("every ten seconds, and at an end before the last step") {
    {
      Progress progress(1000, {.first_step = 500, .out = out, .now = [&] { return time; }});
      for (int step = 501; step <= 507; ++step) {
        time += 5;
        progress.update(step, 2.5, 50);
      }
      progress.note("saved");
      progress.update(508, 2.5, 50);
      progress.finish();
      progress.finish();
    }
    const std::string text = content_of(out);
    CHECK(count(text, "\n") == 6);
    CHECK(text.starts_with("step 501/1000  loss 2.5000  10 tokens/s  ETA 41:35\n"));
    CHECK(contains(text, "\nsaved\nstep 508/1000"));
  }
  SECTION("nothing when quiet") {
    {
      Progress progress(2, {.quiet = true, .out = out, .now = [&] { return time += 100; }});
      progress.update(1, 1, 1);
      progress.note("a note");
      progress.update(2, 1, 1);
    }
    CHECK(content_of(out) == "");
  }
  std::fclose(out);
}

// --- interrupt ---

TEST_CASE("the first Ctrl-C sets a flag", "[examples]") {
  for (const int signal : {SIGINT, SIGTERM}) {
    const InterruptGuard interrupt;
    CHECK_FALSE(interrupt.requested());
    std::raise(signal);
    CHECK(interrupt.requested());
  }
}

TEST_CASE("the second Ctrl-C ends the program, an ignored one is ignored", "[examples]") {
  const auto status_of = [](void (*f)()) {
    const pid_t child = ::fork();
    if (child == 0) {
      std::signal(SIGINT, SIG_DFL);  // the test program has handlers of its own
      std::signal(SIGTERM, SIG_DFL);
      f();
      ::_exit(7);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return status;
  };
  const int second = status_of([] {
    const InterruptGuard interrupt;
    std::raise(SIGINT);
    std::raise(SIGTERM);
  });
  CHECK(WIFSIGNALED(second));
  CHECK(WTERMSIG(second) == SIGTERM);
  const int after = status_of([] {
    { const InterruptGuard interrupt; }
    std::raise(SIGINT);
  });
  CHECK(WIFSIGNALED(after));
  const int ignored = status_of([] {
    std::signal(SIGINT, SIG_IGN);
    const InterruptGuard interrupt;
    std::raise(SIGINT);
    ::_exit(interrupt.requested() ? 1 : 7);
  });
  CHECK(WIFEXITED(ignored));
  CHECK(WEXITSTATUS(ignored) == 7);
}

TEST_CASE("a handler for Ctrl-C needs no room below the stack pointer", "[examples]") {
  static ucontext_t context;
  static pid_t self;
  const pid_t child = ::fork();
  if (child == 0) {
    const InterruptGuard interrupt;
    // A page that cannot be written, and 1 KiB of stack above it: a signal's frame takes more.
    char* pages = static_cast<char*>(::mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ::mprotect(pages, 4096, PROT_NONE);
    ::getcontext(&context);
    context.uc_stack.ss_sp = pages + 4096, context.uc_stack.ss_size = 1024;
    self = ::getpid();
    ::syscall(SYS_kill, self, 0);  // the linker's search for a function takes stack, too
    ::makecontext(
        &context, [] { ::syscall(SYS_kill, self, SIGINT), ::syscall(SYS_exit_group, 7); }, 0);
    ::setcontext(&context);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 7);
}

// --- command line ---

namespace {

struct TrainOptions {
  std::string data;
  int steps = 2000;
};
int trained_steps = 0;

void train(const TrainOptions& options) {
  if (options.data == "bad") throw Error("train: cannot read\n\"bad\"");
  if (options.data == "large") throw std::bad_alloc();
  trained_steps = options.steps;
}

std::function<void()> train_verb(CLI::App& app) {
  auto options = std::make_shared<TrainOptions>();
  app.add_option("--data", options->data, "text to train on")->required();
  app.add_option("--steps", options->steps, "optimizer steps");
  return [options] { train(*options); };
}

std::function<void()> sample_verb(CLI::App&) {
  return [] { std::puts("sampled"); };
}

struct Outcome {
  int status;
  std::string out, error;
};

// Runs the program with its output going to files.
Outcome run(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "/some/bin/toy");
  const std::array<std::FILE*, 2> captured = {std::tmpfile(), std::tmpfile()};
  std::fflush(stdout);
  std::fflush(stderr);
  const std::array<int, 2> saved = {::dup(1), ::dup(2)};
  for (int i = 0; i < 2; ++i) ::dup2(::fileno(captured[i]), i + 1);
  const int status = run_program(static_cast<int>(arguments.size()), arguments.data(), "toy", "A toy",
                                 {{"train", "Trains on a text", train_verb}, {"sample", "Samples", sample_verb}});
  std::fflush(stdout);
  std::fflush(stderr);
  for (int i = 0; i < 2; ++i) {
    ::dup2(saved[i], i + 1);
    ::close(saved[i]);
  }
  Outcome outcome{status, content_of(captured[0]), content_of(captured[1])};
  for (std::FILE* file : captured) std::fclose(file);
  return outcome;
}

}  // namespace

TEST_CASE("a verb runs with its defaults and flags", "[examples]") {
  CHECK(run({"train", "--data", "x"}).status == 0);
  CHECK(trained_steps == 2000);
  CHECK(run({"train", "--data", "x", "--steps", "7"}).status == 0);
  CHECK(trained_steps == 7);
  CHECK(run({"sample"}).out == "sampled\n");
}

TEST_CASE("help shows verbs, flags and defaults", "[examples]") {
  const Outcome program = run({"--help"}), verb = run({"train", "--help"});
  CHECK(program.status == 0);
  CHECK(contains(program.out, "sample"));
  CHECK(contains(program.out, "Trains on a text"));
  CHECK(verb.status == 0);
  CHECK(contains(verb.out, "--steps INT"));
  CHECK(contains(verb.out, "2000"));
  CHECK(contains(verb.out, "optimizer steps"));
  CHECK(program.error + verb.error == "");
}

TEST_CASE("arguments that make no sense give one line and status 2", "[examples]") {
  const auto error = [](std::vector<const char*> arguments) {
    const Outcome outcome = run(std::move(arguments));
    CHECK(outcome.status == 2);
    CHECK(outcome.out == "");
    CHECK(count(outcome.error, "\n") == 1);
    CHECK(outcome.error.starts_with("error: "));
    return outcome.error;
  };
  CHECK(contains(error({}), "toy needs a verb: train, sample"));
  CHECK(contains(error({"dance"}), "toy has no verb \"dance\"; it has: train, sample"));
  CHECK(contains(error({"--loud"}), "unknown argument \"--loud\""));
  CHECK(contains(error({"train"}), "--data is required; see toy train --help"));
  CHECK(contains(error({"train", "--date", "x"}), "unknown argument \"--date\""));
  CHECK(contains(error({"train", "--data", "x", "--steps", "many"}), "--steps = many"));
  CHECK(contains(error({"sample", "more"}), "unknown argument \"more\""));
}

TEST_CASE("a verb that throws gives one line and status 1", "[examples]") {
  CHECK(run({"train", "--data", "bad"}).status == 1);
  CHECK(run({"train", "--data", "bad"}).error == "error: train: cannot read \"bad\"\n");
  CHECK(run({"train", "--data", "large"}).status == 1);
  CHECK(contains(run({"train", "--data", "large"}).error, "memory"));
}
