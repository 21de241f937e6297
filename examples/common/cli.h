// The main() that every example shares: one program, some verbs, flags by CLI11.
#pragma once
#include <functional>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace retape::examples {

/// `setup` declares the verb's flags and returns what runs once they are parsed.
struct Verb {
  std::string name, description;
  std::function<std::function<void()>(CLI::App&)> setup;
};

/// Runs the verb that argv[1] names and returns the exit status: 0; 1 with `error: ...` on stderr if it threw; 2 with such
/// a line if the arguments make no sense. `--help`, after the program or after a verb, prints flags and defaults and gives 0.
///
///     int main(int argc, char** argv) {
///       return run_program(argc, argv, "gpt", "a character-level GPT", {
///           {"train", "trains on a text file", [](CLI::App& app) -> std::function<void()> {
///              auto options = std::make_shared<TrainOptions>();
///              app.add_option("--steps", options->steps, "optimizer steps");
///              return [options] { train(*options); };
///            }}});
///     }
int run_program(int argc, char** argv, const std::string& name, const std::string& description, const std::vector<Verb>& verbs);

}  // namespace retape::examples
