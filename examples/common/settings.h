// A trainer's settings, each declared once: a flag, an entry of config.json, and what a resumed run does with it.
#pragma once
#include <cmath>
#include <concepts>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <retape/core/error.h>

namespace retape::examples {

/// What a flag means beside --resume.
enum class OnResume : uint8_t {
  keep,     ///< the run keeps its own value; a flag that says otherwise is an Error
  replace,  ///< a flag replaces the run's value
  refuse,   ///< the flag is an Error: it says how a new run begins
  forget,   ///< not in config.json: it holds for this call of the program only
};

/// One setting; Settings::add makes it. The functions return the setting, so that calls can be chained.
class Setting {
 public:
  virtual ~Setting() = default;
  Setting& at_least(double low) { return least_ = low, *this; }
  Setting& at_most(double high) { return most_ = high, *this; }
  Setting& below(double limit) { return limit_ = limit, *this; }
  Setting& above(double limit) { return floor_ = limit, *this; }
  Setting& one_of(std::vector<std::string> values) { return values_ = std::move(values), *this; }
  /// Takes 10KB, 600MiB, ... too.
  Setting& bytes() { return bytes_ = true, *this; }
  /// A path, which config.json names from the root on.
  Setting& path() { return path_ = true, *this; }
  /// Leaves it out of config.json.
  Setting& not_stored() { return stored_ = false, *this; }
  /// config.json of an earlier version may lack it; the default holds then.
  Setting& may_be_missing() { return may_be_missing_ = true, *this; }
  /// check() wants a text here that is not empty.
  Setting& required() { return required_ = true, *this; }

 protected:
  friend class Settings;
  std::string flag_, help_;
  OnResume on_resume_ = OnResume::keep;
  std::optional<double> least_, most_, limit_, floor_;
  std::vector<std::string> values_;
  bool bytes_ = false, path_ = false, required_ = false, stored_ = true, may_be_missing_ = false;
  CLI::Option* option_ = nullptr;

  std::string key() const;  // --eval-every is "eval_every"
  bool stored() const { return stored_ && on_resume_ != OnResume::forget; }
  bool given() const { return option_ && option_->count(); }
  void check_number(double value, const std::string& text) const;
  virtual void add_to(CLI::App& app) = 0;
  virtual nlohmann::json to_json() const = 0;
  virtual void from_json(const nlohmann::json& value) = 0;
  virtual bool differs_from(const nlohmann::json& value) const = 0;
  virtual std::string text() const = 0;
  virtual void check() const = 0;
  bool missing() const { return required_ && text().empty(); }
};

/// The settings of one verb. The variables that they fill must outlive it.
///
///     Settings settings;
///     settings.add("--layers", o.layers, "transformer blocks").at_least(1);
///     settings.add("--steps", o.steps, "optimizer steps", OnResume::replace).at_least(1);
///     settings.add_to(app);           // flags, with the variables' values as defaults
///     ...                             // the command line is parsed
///     settings.resume(config, file);  // a resumed run's values, but for flags that may replace them
///     settings.check();
class Settings {
 public:
  template <class T> Setting& add(std::string flag, T& variable, std::string help, OnResume on_resume = OnResume::keep) {
    auto setting = std::make_unique<Typed<T>>(variable);
    setting->flag_ = std::move(flag), setting->help_ = std::move(help), setting->on_resume_ = on_resume;
    settings_.push_back(std::move(setting));
    return *settings_.back();
  }
  /// A value that config.json holds and no flag sets.
  template <class T> Setting& store(const std::string& key, T& variable) { return add("--" + key, variable, "", OnResume::keep); }

  void add_to(CLI::App& app) const;
  /// Whether a flag stood on the command line.
  bool given(const std::string& flag) const;
  /// Throws Error, with the flag and what it may be, for a value out of range.
  void check() const;

  nlohmann::json to_json() const;
  /// Sets every variable from a config.json. Throws Error, naming `file` and the entry, if one is missing or of the wrong type; an entry
  /// that a flag may replace may be missing.
  void read(const nlohmann::json& config, const std::filesystem::path& file);
  /// The same, but flags that were given hold or are an Error, as their OnResume says.
  void resume(const nlohmann::json& config, const std::filesystem::path& file);
  /// The first flag that is required() and has no value; "" if there is none.
  std::string missing() const;
  /// The flags that may be given anew when a run is resumed, for its help text.
  std::string replaceable() const;

 private:
  template <class T> class Typed;
  void read_one(Setting& setting, const nlohmann::json& config, const std::filesystem::path& file) const;
  std::vector<std::unique_ptr<Setting>> settings_;
};

/// What a Verb (cli.h) sets up whose options are declared settings: `run` gets both after the command line has been parsed.
template <class Options, void (*declare)(Settings&, Options&), void (*run)(Options&, Settings&)> std::function<void()> verb(CLI::App& app) {
  struct State {
    Options options;
    Settings settings;
  };
  auto state = std::make_shared<State>();
  declare(state->settings, state->options);
  state->settings.add_to(app);
  return [state] { run(state->options, state->settings); };
}

template <class T> class Settings::Typed final : public Setting {
 public:
  explicit Typed(T& variable) : variable_(variable) {}

 private:
  T& variable_;
  void add_to(CLI::App& app) override {
    if constexpr (std::same_as<T, bool>) {
      option_ = app.add_flag(flag_, variable_, help_);
    } else {
      option_ = app.add_option(flag_, variable_, help_);
      if constexpr (std::same_as<T, std::string>)
        if (!values_.empty()) option_->check(CLI::IsMember(values_));
      if constexpr (std::same_as<T, int64_t>)
        if (bytes_) option_->transform(CLI::AsSizeValue(false));
    }
  }
  nlohmann::json to_json() const override {
    if constexpr (std::same_as<T, std::string>)
      if (path_ && !variable_.empty()) return std::filesystem::absolute(variable_).string();
    return variable_;
  }
  void from_json(const nlohmann::json& value) override {
    constexpr bool number = std::is_arithmetic_v<T> && !std::same_as<T, bool>;
    if (number && !value.is_number()) throw Error("is no number");  // JSON's library would take true for 1
    if (std::is_integral_v<T> && number && !value.is_number_integer()) throw Error("is no whole number");
    variable_ = value.get<T>();
  }
  bool differs_from(const nlohmann::json& value) const override { return to_json() != nlohmann::json(value.get<T>()); }
  std::string text() const override { return fmt::format("{}", variable_); }
  void check() const override {
    if constexpr (std::is_arithmetic_v<T>) check_number(double(variable_), text());
  }
};

}  // namespace retape::examples
