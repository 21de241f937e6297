#include "peer.h"

#include <fmt/format.h>
#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>

#ifndef RETAPE_BENCH_DIR
#error "set by CMake: where peer_torch.py is"
#endif

namespace retape {

GptStep::GptStep(const StepSettings& s)
    : model_(gpt::Config{.vocab = s.vocab, .block = s.block, .layers = s.layers, .heads = s.heads, .width = s.width}),
      optimizer_(model_.parameters(), {.lr = 1e-3, .betas = {0.9, 0.99}, .weight_decay = 0.1}),
      ids_(randint(0, s.vocab, {s.batch, s.block})),
      targets_(randint(0, s.vocab, {s.batch, s.block})) {}
void GptStep::run() {
  optimizer_.zero_grad();
  backward(model_.loss(ids_, targets_));
  clip_grad_norm(model_.parameters(), 1);
  optimizer_.step();
}

namespace {

double median_ms(const std::function<void()>& work, int times) {
  std::vector<double> ms;
  for (int i = 0; i < times; ++i) {
    const auto start = std::chrono::steady_clock::now();
    work();
    ms.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
  }
  std::nth_element(ms.begin(), ms.begin() + times / 2, ms.end());
  return ms[size_t(times / 2)];
}

// A Python process that answers a line with a line.
class Peer {
 public:
  Peer(const char* python, int threads) {
    int in[2], out[2];
    if (pipe(in) || pipe(out)) throw Error("bench: cannot make a pipe");
    if (const pid_t pid = fork(); pid < 0) {
      throw Error("bench: cannot start a process");
    } else if (pid == 0) {
      dup2(in[0], 0), dup2(out[1], 1);
      close(in[1]), close(out[0]);
      execlp(python, python, RETAPE_BENCH_DIR "/peer_torch.py", std::to_string(threads).c_str(), nullptr);
      _exit(127);
    }
    close(in[0]), close(out[1]);
    to_ = fdopen(in[1], "w");
    from_ = fdopen(out[0], "r");
    version = line();
    if (version.empty()) throw Error(fmt::format("bench: {} cannot import torch; name a Python that can: bench --peer PYTHON", python));
  }
  Peer(const Peer&) = delete;
  ~Peer() {
    std::fclose(to_);
    std::fclose(from_);
  }
  double ask(const std::string& work) {
    std::fputs((work + "\n").c_str(), to_);
    std::fflush(to_);
    const std::string answer = line();
    if (answer.empty()) throw Error(fmt::format("bench: the peer failed at {}", work));
    return std::stod(answer);
  }
  std::string version;

 private:
  std::string line() {
    char text[256];
    if (!std::fgets(text, sizeof text, from_)) return {};
    std::string s = text;
    s.pop_back();
    return s;
  }
  std::FILE *to_, *from_;
};

struct Work {
  std::string name;
  int steps;         // a round
  std::string peer;  // what the peer is asked: a work, steps, and the work's numbers
  double at_least;   // how many times faster Retape should be
  std::function<void()> run;
};

}  // namespace

int compare_with_peer(const char* python) try {
  const int threads = omp_get_max_threads();
  Peer peer(python, threads);
  const StepSettings nano;
  GptStep step(nano);
  Tensor x = full({4}, 0.5), w = ones({4});
  w.set_requires_grad();
  const std::vector<Work> works = {
      {"chain of 1000 multiplications, forward + backward", 30, "chain 30", 8,
       [&] {
         Tensor h = x;
         for (int i = 0; i < 1000; ++i) h = h * w;
         backward(sum(h));
       }},
      {"training step, nanoGPT's CPU settings", 20,
       fmt::format("gpt 20 {} {} {} {} {} {}", nano.vocab, nano.layers, nano.heads, nano.width, nano.block, nano.batch), 1.5,
       [&] { step.run(); }},
  };
  fmt::print("Retape ({} threads, level {}) and {}; median ms over rounds taken in turn\n\n", threads, cpu_level(), peer.version);
  fmt::print("| work | Retape | peer | ratio | at least |\n|---|---|---|---|---|\n");
  bool all = true;
  for (auto& work : works) {
    work.run();
    std::vector<double> ours, theirs;
    for (int round = 0; round < 7; ++round) {
      ours.push_back(median_ms(work.run, work.steps));
      theirs.push_back(peer.ask(work.peer));
    }
    std::sort(ours.begin(), ours.end()), std::sort(theirs.begin(), theirs.end());
    const double ratio = theirs[3] / ours[3];
    fmt::print("| {} | {:.2f} | {:.2f} | {:.2f} | {} |{}\n", work.name, ours[3], theirs[3], ratio, work.at_least,
               ratio < work.at_least ? " falls short" : "");
    std::fflush(stdout);
    all = all && ratio >= work.at_least;
  }
  return all ? 0 : 1;
} catch (const Error& e) {
  fmt::print(stderr, "error: {}\n", e.what());
  return 1;
}

}  // namespace retape
