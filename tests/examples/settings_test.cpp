// Settings: declared once, they are flags, entries of config.json, and what a resumed run keeps.
#include <examples/common/settings.h>

#include <tests/catch.h>

using namespace retape;
using namespace retape::examples;
using namespace retape::testing;
using nlohmann::json;

namespace {

struct Options {
  int64_t layers = 4, steps = 10, budget = 0;
  double lr = 0.5;
  std::string kind = "a", data, weights;
  bool quiet = false;
};

struct Parsed {
  Options o;
  Settings settings;
  CLI::App app;
  explicit Parsed(std::string line) {
    settings.add("--layers", o.layers, "blocks").at_least(1).at_most(8);
    settings.add("--steps", o.steps, "steps", OnResume::replace).at_least(1);
    settings.add("--budget", o.budget, "bytes", OnResume::replace).bytes();
    settings.add("--lr", o.lr, "rate").above(0).below(1);
    settings.add("--kind", o.kind, "kind").one_of({"a", "b"});
    settings.add("--data", o.data, "a file", OnResume::replace).path().required();
    settings.add("--weights", o.weights, "weights", OnResume::refuse).not_stored();
    settings.add("--quiet", o.quiet, "no output", OnResume::forget);
    settings.add_to(app);
    app.parse(line);
  }
};

json config() { return {{"layers", 2}, {"steps", 5}, {"budget", 7}, {"lr", 0.25}, {"kind", "b"}, {"data", "/there"}}; }

std::string resume_error(const std::string& line, const json& stored = config()) {
  return error_of([&] { Parsed(line).settings.resume(stored, "run/config.json"); });
}

}  // namespace

TEST_CASE("settings are flags, checked, and written", "[examples]") {
  Parsed p("--layers 3 --budget 2KB --data /text --quiet");
  p.settings.check();
  CHECK(p.o.budget == 2048);
  CHECK(p.settings.given("--layers"));
  CHECK_FALSE(p.settings.given("--lr"));
  CHECK(p.settings.to_json() == json{{"layers", 3}, {"steps", 10}, {"budget", 2048}, {"lr", 0.5}, {"kind", "a"}, {"data", "/text"}});
  CHECK(p.settings.replaceable() == "--steps, --budget, --data, --quiet");
  CHECK_THROWS_AS(Parsed("--kind c"), CLI::ValidationError);
  const auto check_error = [](const std::string& line) { return error_of([&] { Parsed("--data x " + line).settings.check(); }); };
  CHECK(check_error("--layers 0") == "--layers 0 is not valid; it must be at least 1");
  CHECK(check_error("--layers 9") == "--layers 9 is not valid; it must be at most 8");
  CHECK(check_error("--lr 1") == "--lr 1 is not valid; it must be below 1");
  CHECK(check_error("--lr 0") == "--lr 0 is not valid; it must be above 0");
  CHECK(check_error("--lr nan") == "--lr nan is not valid; it must be below 1");
  CHECK(error_of([] { Parsed("").settings.check(); }) == "--data is missing: a file");
  CHECK(Parsed("").settings.missing() == "--data");
}

TEST_CASE("a resumed run keeps its settings but for what may change", "[examples]") {
  Parsed p("--steps 20 --layers 2 --quiet");
  p.settings.resume(config(), "run/config.json");
  CHECK(p.o.steps == 20);
  CHECK(p.o.layers == 2);
  CHECK(p.o.budget == 7);
  CHECK(p.o.lr == 0.25);
  CHECK(p.o.kind == "b");
  CHECK(p.o.data == "/there");
  CHECK(p.o.quiet);
  CHECK(resume_error("--layers 3").find("--layers 3 does not fit the run to resume, which has 2") != std::string::npos);
  CHECK(resume_error("--weights w").find("--weights and --resume exclude each other") != std::string::npos);
}

TEST_CASE("a config.json that lacks a setting or has another type is an error", "[examples]") {
  const auto with = [](const char* key, const json& value) {
    json stored = config();
    if (value.is_null()) stored.erase(key);
    else stored[key] = value;
    return stored;
  };
  CHECK(resume_error("", with("layers", nullptr)) == "run/config.json: \"layers\" is missing or of the wrong type");
  CHECK(resume_error("", with("steps", nullptr)) == "(no error)");
  CHECK(resume_error("", with("layers", true)).find("\"layers\"") != std::string::npos);
  CHECK(resume_error("", with("layers", 1.5)).find("\"layers\"") != std::string::npos);
  CHECK(resume_error("", with("lr", "fast")).find("\"lr\"") != std::string::npos);
  CHECK(resume_error("", with("data", 3)).find("\"data\"") != std::string::npos);
  Parsed p("");
  p.settings.read(with("lr", 1), "config.json");  // a whole number is a number
  CHECK(p.o.lr == 1);
}
