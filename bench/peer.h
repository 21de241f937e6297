// The other side of a comparison: a Python process with PyTorch that runs peer_torch.py.
#pragma once
#include <sys/types.h>

#include <cstdio>
#include <string>
#include <vector>

#include <retape/core/error.h>

namespace retape::bench {

/// A process whose standard input and output are pipes. Throws Error if it cannot be started.
class Process {
 public:
  explicit Process(std::vector<std::string> command);
  Process(const Process&) = delete;
  ~Process();
  void write_line(const std::string& line);
  std::string read_line();  // "" at the end of its output

 private:
  pid_t pid_;
  std::FILE *to_, *from_;
};

/// What a fresh process that takes `steps` training steps of a GPT needs, from its start to the end of the last one, and by how many
/// bytes its resident memory grows from before the model is made to the peak. It runs `command` and answers with the second number.
struct FreshRun {
  double seconds, bytes;
  explicit FreshRun(std::vector<std::string> command);
};

/// What the peer lacks for a work.
struct Missing : Error {
  using Error::Error;
};
/// Answers with the median seconds of a repetition of a work.
class Peer {
 public:
  /// python: a Python that can import torch and has the device (cpu, cuda, cuda:1). Throws Error otherwise.
  explicit Peer(std::string python, const std::string& device = "cpu");
  const std::string& version() const { return version_; }
  /// Repeats the work for at least this long. Throws Error if it fails, Missing if the peer lacks a package for it,
  /// after which it takes the next one.
  double median_seconds(const std::string& work, double at_least);
  /// Whether the work can run; false if the device's memory does not hold it.
  bool fits(const std::string& work);
  FreshRun fresh_run(int steps, const std::string& gpt) const;

 private:
  std::vector<std::string> command_;
  Process process_;
  std::string version_;
};

}  // namespace retape::bench
