#include <retape/examples/common/cli.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>
#include <string_view>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <retape/core/error.h>

namespace retape::examples {
namespace {

int fail(int status, std::string message) {
  std::replace(message.begin(), message.end(), '\n', ' ');
  std::fflush(stdout);
  fmt::print(stderr, "error: {}\n", message);
  return status;
}

int usage_error(std::string_view what, std::string_view program) {
  return fail(2, fmt::format("{}; see {} --help", what, program));
}

std::string verb_names(const std::vector<Verb>& verbs) {
  std::vector<std::string> names;
  for (const auto& verb : verbs) names.push_back(verb.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace

int run_program(int argc, char** argv, const std::string& name, const std::string& description, const std::vector<Verb>& verbs) {
  CLI::App app(description, name);
  app.get_formatter()->column_width(34);
  app.require_subcommand(1);
  std::vector<std::pair<CLI::App*, std::function<void()>>> actions;
  for (const auto& verb : verbs) {
    CLI::App* command = app.add_subcommand(verb.name, verb.description);
    command->option_defaults()->always_capture_default();
    actions.emplace_back(command, verb.setup(*command));
  }

  const std::string_view first = argc > 1 ? argv[1] : "";
  const auto is_first = [&](const Verb& verb) { return verb.name == first; };
  if (first.empty()) return usage_error(fmt::format("{} needs a verb: {}", name, verb_names(verbs)), name);
  const bool known = std::any_of(verbs.begin(), verbs.end(), is_first);
  if (first[0] != '-' && !known) {
    return usage_error(fmt::format("{} has no verb \"{}\"; it has: {}", name, first, verb_names(verbs)), name);
  }
  const std::string program = known ? fmt::format("{} {}", name, first) : name;

  try {
    app.parse(argc, argv);
    for (const auto& [command, action] : actions) {
      if (command->parsed()) action();
    }
    errno = 0;
    if (std::fflush(stdout) != 0) throw Error(fmt::format("cannot write the output: {}", std::strerror(errno)));
    return 0;
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    return usage_error(error.what(), program);
  } catch (const std::bad_alloc&) {
    return fail(1, "there is not enough memory");
  } catch (const std::exception& error) {
    return fail(1, error.what());
  }
}

}  // namespace retape::examples
