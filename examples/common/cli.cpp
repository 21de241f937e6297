#include <examples/common/cli.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>
#include <string_view>

#include <fmt/format.h>
#include <retape/core/error.h>
#include <CLI/CLI.hpp>

namespace retape::examples {
namespace {

int fail(int status, std::string message) {
  std::replace(message.begin(), message.end(), '\n', ' ');
  std::fflush(stdout);
  fmt::print(stderr, "error: {}\n", message);
  return status;
}

int usage_error(const CLI::App& app, std::string_view what) {
  const auto chosen = app.get_subcommands();
  return fail(2, fmt::format("{}; see {} {}--help", what, app.get_name(), chosen.empty() ? "" : chosen[0]->get_name() + " "));
}

std::string verb_names(const std::vector<Verb>& verbs) {
  std::string names;
  for (const auto& verb : verbs) names += (names.empty() ? "" : ", ") + verb.name;
  return names;
}

// Output that does not reach its file, on a full disk for instance, is a failure too.
int flush_output() {
  errno = 0;
  if (std::fflush(stdout) == 0 && !std::ferror(stdout)) return 0;
  return fail(1, fmt::format("cannot write the output: {}", std::strerror(errno)));
}

}  // namespace

Device device_of(const std::string& name) {
  if (name == "auto") return cuda::is_available() ? Device::cuda() : Device::cpu();
  const Device device = Device::parse(name);
  if (device.is_meta()) throw Error("--device meta has no data to compute with; use cpu or cuda");
  if (!device.is_cuda()) return device;
  if (const std::string why = cuda::why_unavailable(); !why.empty()) throw Error(fmt::format("--device {}: {}", name, why));
  if (device.index >= cuda::device_count())
    throw Error(fmt::format("--device {} is not there: this machine has {} CUDA device{}, from cuda:0 on", name, cuda::device_count(),
                            cuda::device_count() > 1 ? "s" : ""));
  return device;
}

int run_program(int argc, const char* const* argv, const std::string& name, const std::string& description,
                const std::vector<Verb>& verbs) {
  CLI::App app(description, name);
  app.get_formatter()->column_width(34);
  app.get_formatter()->label("SUBCOMMAND", "VERB");
  app.require_subcommand(1);
  std::vector<std::function<void()>> actions;
  for (const auto& verb : verbs) {
    CLI::App* command = app.add_subcommand(verb.name, verb.description)->group("Verbs");
    command->option_defaults()->always_capture_default()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    actions.push_back(verb.setup(*command));
  }

  const std::string first = argc > 1 ? argv[1] : "";
  if (first.empty()) return usage_error(app, fmt::format("{} needs a verb: {}", name, verb_names(verbs)));
  const auto is_first = [&](const Verb& verb) { return verb.name == first; };
  const auto verb = std::find_if(verbs.begin(), verbs.end(), is_first);
  if (verb == verbs.end() && first[0] != '-')
    return usage_error(app, fmt::format("{} has no verb \"{}\"; it has: {}", name, first, verb_names(verbs)));

  try {
    app.parse(argc, argv);
    actions[static_cast<size_t>(verb - verbs.begin())]();
    return flush_output();
  } catch (const CLI::Success& help) {
    app.exit(help);
    return flush_output();
  } catch (const CLI::ParseError& error) {
    // CLI11 mentions an unknown flag last, after a missing one that may be the same flag spelled right.
    const auto unknown = app.remaining(true);
    return usage_error(app, unknown.empty() ? error.what() : fmt::format("unknown argument \"{}\"", unknown[0]));
  } catch (const std::bad_alloc&) {
    return fail(1, "there is not enough memory");
  } catch (const std::exception& error) {
    return fail(1, error.what());
  }
}

}  // namespace retape::examples
