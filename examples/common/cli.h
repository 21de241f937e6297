// The main() that every example shares: one program, some verbs, flags by CLI11.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace retape::examples {

/// One thing that a program can do. Its options are a struct whose members hold the defaults: `flags` binds a flag to each,
/// `action` runs once they are parsed.
struct Verb {
  template <class Options>
  Verb(std::string verb, std::string what, void (*declare)(CLI::App&, Options&), void (*run)(const Options&))
      : name(std::move(verb)), description(std::move(what)) {
    auto options = std::make_shared<Options>();
    flags = [=](CLI::App& app) { declare(app, *options); };
    action = [=] { run(*options); };
  }

  std::string name, description;
  std::function<void(CLI::App&)> flags;
  std::function<void()> action;
};

/// Runs the verb that argv[1] names and returns the exit status: 0; 1 with `error: ...` on stderr if it threw; 2 with such
/// a line if the arguments make no sense. `--help`, after the program or after a verb, prints flags and defaults and gives 0.
///
///     struct TrainOptions { std::string data; int steps = 2000; };
///     void train_flags(CLI::App& app, TrainOptions& options) { app.add_option("--steps", options.steps, "optimizer steps"); }
///     void train(const TrainOptions& options) { ... }
///     int main(int argc, char** argv) {
///       return run_program(argc, argv, "gpt", "A character GPT", {{"train", "Trains on a text file", train_flags, train}});
///     }
int run_program(int argc, const char* const* argv, const std::string& name, const std::string& description,
                const std::vector<Verb>& verbs);

}  // namespace retape::examples
