// The main() that every example shares: one program, some verbs, flags by CLI11.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include <retape/core/device.h>

namespace CLI {
class App;
}

namespace retape::examples {

/// One thing that a program can do. `setup` binds flags to options, whose values are the defaults, and returns what runs once
/// they are parsed. What it returns owns the options.
struct Verb {
  std::string name, description;
  std::function<std::function<void()>(CLI::App&)> setup;
};

/// Runs the verb that argv[1] names and returns the exit status: 0; 1 with `error: ...` on stderr if it threw; 2 with such
/// a line if the arguments make no sense. `--help`, after the program or after a verb, prints flags and defaults and gives 0.
///
///     std::function<void()> train_verb(CLI::App& app) {
///       auto options = std::make_shared<TrainOptions>();
///       app.add_option("--steps", options->steps, "optimizer steps");
///       return [options] { train(*options); };
///     }
///     int main(int argc, char** argv) {
///       return run_program(argc, argv, "gpt", "a character GPT", {{"train", "trains on a text file", train_verb}});
///     }
int run_program(int argc, const char* const* argv, const std::string& name, const std::string& description, const std::vector<Verb>& verbs);

constexpr auto device_help = "where the model is: auto (a GPU, if there is one that this build can use), cpu, cuda, cuda:1, ...";

/// The device that a flag --device names; `auto` is cuda:0 where it can be used, else the CPU. Throws Error if it names none that tensors
/// can be on, or one that cannot be used here, and says why.
Device device_of(const std::string& name);

}  // namespace retape::examples
