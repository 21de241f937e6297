#include <examples/common/settings.h>

#include <algorithm>

namespace retape::examples {
using nlohmann::json;

std::string Setting::key() const {
  std::string key = flag_.substr(2);
  std::replace(key.begin(), key.end(), '-', '_');
  return key;
}

void Setting::check_number(double value, const std::string& text) const {
  const auto require = [&](bool holds, const char* what, double limit) {
    if (!holds) throw Error(fmt::format("{} {} is not valid; it must be {} {}", flag_, text, what, limit));
  };
  if (least_) require(value >= *least_, "at least", *least_);
  if (most_) require(value <= *most_, "at most", *most_);
  if (limit_) require(value < *limit_, "below", *limit_);
  if (floor_) require(value > *floor_, "above", *floor_);
  if (std::isnan(value)) throw Error(fmt::format("{} {} is not valid; it must be a number", flag_, text));
}

void Settings::add_to(CLI::App& app) const {
  for (auto& s : settings_)
    if (!s->help_.empty()) s->add_to(app);
}

bool Settings::given(const std::string& flag) const {
  return std::any_of(settings_.begin(), settings_.end(), [&](auto& s) { return s->flag_ == flag && s->given(); });
}

void Settings::check() const {
  for (auto& s : settings_) {
    if (s->missing()) throw Error(fmt::format("{} is missing: {}", s->flag_, s->help_));
    s->check();
  }
}

std::string Settings::missing() const {
  for (auto& s : settings_)
    if (s->missing()) return s->flag_;
  return "";
}

json Settings::to_json() const {
  json config = json::object();
  for (auto& s : settings_)
    if (s->stored()) config[s->key()] = s->to_json();
  return config;
}

void Settings::read_one(Setting& s, const json& config, const std::filesystem::path& file) const {
  const auto value = config.find(s.key());
  if (value == config.end() && (s.may_be_missing_ || s.on_resume_ != OnResume::keep)) return;
  try {
    if (value == config.end()) throw Error("is missing");
    s.from_json(*value);
  } catch (const std::exception&) {
    throw Error(fmt::format("{}: \"{}\" is missing or of the wrong type", file.string(), s.key()));
  }
}

void Settings::read(const json& config, const std::filesystem::path& file) {
  for (auto& s : settings_)
    if (s->stored()) read_one(*s, config, file);
}

void Settings::resume(const json& config, const std::filesystem::path& file) {
  for (auto& s : settings_) {
    if (s->given() && s->on_resume_ == OnResume::refuse)
      throw Error(
          fmt::format("{} and --resume exclude each other: a resumed run goes on in its own folder, from its own checkpoint", s->flag_));
    if (!s->stored() || (s->on_resume_ == OnResume::replace && s->given())) continue;
    const std::string given = s->text();
    const json value = s->to_json();
    read_one(*s, config, file);
    if (s->given() && s->differs_from(value))
      throw Error(fmt::format("{} {} does not fit the run to resume, which has {}; leave the flag out, or start a new run", s->flag_, given,
                              s->text()));
  }
}

std::string Settings::replaceable() const {
  std::string flags;
  for (auto& s : settings_)
    if (!s->help_.empty() && (s->on_resume_ == OnResume::replace || s->on_resume_ == OnResume::forget))
      flags += (flags.empty() ? "" : ", ") + s->flag_;
  return flags;
}

}  // namespace retape::examples
