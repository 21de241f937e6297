#include <retape/data/loader.h>

#include <fmt/format.h>
#include <omp.h>

#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <unordered_map>
#include <vector>

#include <retape/core/error.h>

namespace retape::detail {

struct Prefetcher::Shared {
  struct Result {
    std::shared_ptr<void> batch;
    std::exception_ptr error;
  };
  const Make make;
  const DataLoaderOptions options;

  mutable std::mutex mutex;
  std::condition_variable room, ready;  // a batch may be begun; a batch has come
  std::vector<std::thread> workers;
  bool started = false, stopped = false;
  int64_t position = 0, begun = 0;              // batches before `begun` are made or being made
  uint64_t course = 0;                          // set_position() begins another one; what an earlier one made is dropped
  std::unordered_map<int64_t, Result> results;  // made and not yet given
  double waited = 0;

  Shared(Make make, const DataLoaderOptions& options) : make(std::move(make)), options(options) {}

  // How far workers may go: as many batches as the workers have places for, without overflow.
  bool may_begin() const { return begun < options.batches && begun - position < int64_t(options.num_workers) * options.prefetch_factor; }
  Result result_of(int64_t i) const {
    Result result;
    try {
      result.batch = make(i);
    } catch (...) {
      result.error = std::current_exception();
    }
    return result;
  }
  void work() {
    omp_set_num_threads(1);
    std::unique_lock lock(mutex);
    while (true) {
      room.wait(lock, [&] { return stopped || may_begin(); });
      if (stopped) return;
      const int64_t i = begun++;
      const uint64_t mine = course;
      lock.unlock();
      Result result = result_of(i);
      lock.lock();
      if (mine == course) {
        results.emplace(i, std::move(result));
        ready.notify_all();
      } else {
        lock.unlock();  // freeing a batch may take a while
        result = {};
        lock.lock();
      }
    }
  }
  void start(std::unique_lock<std::mutex>& lock) {
    started = true;
    try {
      for (int w = 0; w < options.num_workers; ++w) workers.emplace_back([this] { work(); });
    } catch (const std::system_error& e) {
      if (!workers.empty()) return;  // fewer workers give the same batches
      started = false;
      lock.unlock();
      throw Error(fmt::format("data_loader: cannot start a worker: {}; 0 workers need no threads", e.what()));
    }
  }
};

Prefetcher::Prefetcher(Make make, const DataLoaderOptions& options) : shared_(std::make_unique<Shared>(std::move(make), options)) {
  if (options.num_workers < 0)
    throw Error(fmt::format("data_loader: num_workers {} is not valid; it must be at least 0", options.num_workers));
  if (options.prefetch_factor < 1)
    throw Error(fmt::format("data_loader: prefetch_factor {} is not valid; it must be at least 1", options.prefetch_factor));
  if (options.batches < 0) throw Error(fmt::format("data_loader: {} batches are not possible; it must be at least 0", options.batches));
}
Prefetcher::~Prefetcher() { stop(); }

std::shared_ptr<void> Prefetcher::next() {
  using Clock = std::chrono::steady_clock;
  Shared& s = *shared_;
  std::unique_lock lock(s.mutex);
  const auto stopped = [] { return Error("data_loader: the loader has been stopped; make another one to go on"); };
  if (s.stopped) throw stopped();
  if (s.position >= s.options.batches) return nullptr;
  if (!s.started) s.start(lock);
  Shared::Result result;
  const auto begin = Clock::now();
  if (s.options.num_workers == 0) {
    const int64_t i = s.position;
    lock.unlock();
    result = s.result_of(i);
    lock.lock();
  } else {
    s.ready.wait(lock, [&] { return s.stopped || s.results.contains(s.position); });
    if (s.stopped) throw stopped();
    result = std::move(s.results.extract(s.position).mapped());
  }
  s.waited += std::chrono::duration<double>(Clock::now() - begin).count();
  ++s.position;
  s.room.notify_one();
  lock.unlock();
  if (result.error) std::rethrow_exception(result.error);
  return std::move(result.batch);
}

void Prefetcher::stop() {
  std::vector<std::thread> workers;
  {
    const std::lock_guard lock(shared_->mutex);
    shared_->stopped = true;
    workers.swap(shared_->workers);
    shared_->room.notify_all();
    shared_->ready.notify_all();
  }
  for (auto& worker : workers) worker.join();
}

int64_t Prefetcher::position() const {
  const std::lock_guard lock(shared_->mutex);
  return shared_->position;
}
void Prefetcher::set_position(int64_t i) {
  if (i < 0) throw Error(fmt::format("data_loader: position {} is not possible; batches are counted from 0", i));
  std::unordered_map<int64_t, Shared::Result> dropped;
  const std::lock_guard lock(shared_->mutex);
  shared_->position = shared_->begun = i;
  ++shared_->course;
  dropped.swap(shared_->results);
  shared_->room.notify_all();
}
double Prefetcher::waited() const {
  const std::lock_guard lock(shared_->mutex);
  return shared_->waited;
}

int64_t loader_position(RandomState state, uint64_t seed) {
  if (state.seed != seed)
    throw Error(fmt::format("data_loader: a state with seed {} does not go on in a loader with seed {}; make the loader with seed {}",
                            state.seed, seed, state.seed));
  if (state.offset > uint64_t(std::numeric_limits<int64_t>::max()))
    throw Error(fmt::format("data_loader: position {} is not possible; it must be below 2^63", state.offset));
  return int64_t(state.offset);
}

}  // namespace retape::detail
