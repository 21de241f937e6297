#include "peer.h"

#include <fmt/format.h>
#include <omp.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <sstream>

#include <retape/core/error.h>
#include "timing.h"

#ifndef RETAPE_BENCH_DIR
#error "set by CMake: where peer_torch.py is"
#endif

namespace retape::bench {

Process::Process(std::vector<std::string> command) {
  int in[2], out[2];
  if (pipe(in) || pipe(out)) throw Error("bench: cannot make a pipe");
  std::signal(SIGPIPE, SIG_IGN);  // a process that ended shows in read_line
  std::vector<char*> arguments;
  for (std::string& word : command) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  pid_ = fork();
  if (pid_ < 0) throw Error("bench: cannot start a process");
  if (pid_ == 0) {
    dup2(in[0], 0), dup2(out[1], 1);
    for (const int file : {in[0], in[1], out[0], out[1]}) close(file);
    execvp(arguments[0], arguments.data());
    _exit(127);
  }
  close(in[0]), close(out[1]);
  to_ = fdopen(in[1], "w"), from_ = fdopen(out[0], "r");
}
Process::~Process() {
  std::fclose(to_), std::fclose(from_);
  waitpid(pid_, nullptr, 0);
}
void Process::write_line(const std::string& line) {
  std::fputs((line + "\n").c_str(), to_);
  std::fflush(to_);
}
std::string Process::read_line() {
  std::string line;
  for (int c; (c = std::fgetc(from_)) != EOF && c != '\n';) line += char(c);
  return line;
}

namespace {
double number_of(const std::string& answer, const std::string& work) {
  std::istringstream in(answer);
  double value = 0;
  if (!(in >> value))
    throw Error(fmt::format("bench: a process failed at \"{}\": {}", work, answer.empty() ? "what it said is above" : answer));
  return value;
}
}  // namespace

FreshRun::FreshRun(std::vector<std::string> command) {
  seconds = seconds_of([&] {
    Process process(command);
    bytes = number_of(process.read_line(), command.back());
  });
}

Peer::Peer(std::string python, const std::string& device)
    : command_{std::move(python), RETAPE_BENCH_DIR "/peer_torch.py", std::to_string(omp_get_max_threads()), device},
      process_(command_),
      version_(process_.read_line()) {
  if (version_.empty())
    throw Error(fmt::format("bench: {} cannot import torch, or has no {}; name a Python that can, or torch to get one: --peer torch",
                            command_[0], device));
}
double Peer::median_seconds(const std::string& work, double at_least) {
  process_.write_line(fmt::format("{} {}", at_least, work));
  const std::string answer = process_.read_line(), missing = "missing: ";
  if (answer.starts_with(missing)) throw Missing(answer.substr(missing.size()));
  return number_of(answer, work);
}
bool Peer::fits(const std::string& work) {
  process_.write_line("0 " + work);
  const std::string answer = process_.read_line();
  if (answer == "out of memory") return false;
  number_of(answer, work);
  return true;
}
FreshRun Peer::fresh_run(int steps, const std::string& gpt) const {
  std::vector<std::string> command = command_;
  command.insert(command.end(), {"--fresh", std::to_string(steps)});
  std::istringstream numbers(gpt);
  for (std::string word; numbers >> word;) command.push_back(word);
  return FreshRun(std::move(command));
}

}  // namespace retape::bench
