// Samplers, and batches that threads make ahead.

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <numeric>
#include <thread>

#include <retape/data/loader.h>
#include <retape/data/sampler.h>
#include <retape/data/shuffle.h>

#include "../catch.h"

using namespace retape;
using namespace retape::testing;

namespace {

std::vector<int64_t> epoch_of(const BatchSampler& sampler, int64_t epoch) {
  std::vector<int64_t> all;
  const int64_t n = sampler.batches_per_epoch();
  for (int64_t i = epoch * n; i < (epoch + 1) * n; ++i)
    for (const int64_t index : sampler.batch(i).indices) all.push_back(index);
  return all;
}
std::vector<int64_t> sorted(std::vector<int64_t> values) {
  std::sort(values.begin(), values.end());
  return values;
}
std::vector<int64_t> first(int64_t n) {
  std::vector<int64_t> values(static_cast<size_t>(n));
  std::iota(values.begin(), values.end(), int64_t{0});
  return values;
}

using Numbers = std::vector<int64_t>;
// Takes longer for some batches than for others, so that workers overtake each other.
Numbers slow(int64_t i) {
  std::this_thread::sleep_for(std::chrono::microseconds(i % 3 == 0 ? 300 : 10));
  return {i, i * i};
}

}  // namespace

TEST_CASE("a shuffled range is a permutation, another for each key", "[data]") {
  for (const uint64_t n : {1u, 2u, 3u, 16u, 17u, 1000u}) {
    std::vector<int64_t> seen, other;
    for (uint64_t i = 0; i < n; ++i) seen.push_back(int64_t(shuffled(i, n, 1))), other.push_back(int64_t(shuffled(i, n, 2)));
    CHECK(sorted(seen) == first(int64_t(n)));
    if (n > 3) CHECK(seen != other);
  }
}

TEST_CASE("an epoch has each sample once, in order or shuffled anew each time", "[data]") {
  const BatchSampler in_order(10, {.batch_size = 4});
  CHECK(in_order.batches_per_epoch() == 3);
  CHECK(epoch_of(in_order, 0) == first(10));
  CHECK(in_order.batch(2).indices == Numbers{8, 9});
  CHECK(in_order.batch(5).indices == Numbers{8, 9});
  const BatchSampler full(10, {.batch_size = 4, .drop_last = true});
  CHECK(full.batches_per_epoch() == 2);
  CHECK(epoch_of(full, 3) == first(8));

  const BatchSampler random(1000, {.batch_size = 64, .shuffle = true, .seed = 3}),
      same(1000, {.batch_size = 64, .shuffle = true, .seed = 3}), other(1000, {.batch_size = 64, .shuffle = true, .seed = 4});
  CHECK(sorted(epoch_of(random, 0)) == first(1000));
  CHECK(sorted(epoch_of(random, 7)) == first(1000));
  CHECK(epoch_of(random, 0) != epoch_of(random, 1));
  CHECK(epoch_of(random, 0) != epoch_of(other, 0));
  CHECK(epoch_of(random, 1) == epoch_of(same, 1));
  // The order does not depend on how it is cut, and neither does a sample's number.
  CHECK(epoch_of(random, 2) == epoch_of(BatchSampler(1000, {.batch_size = 7, .shuffle = true, .seed = 3}), 2));
  const SampledBatch batch = random.batch(16 + 2);
  CHECK(batch.number == 18);
  CHECK(batch.epoch == 1);
  CHECK(batch.first == 1000 + 2 * 64);
}

TEST_CASE("samplers that could give nothing are refused", "[data]") {
  CHECK_THAT(error_of([] { BatchSampler(0); }), ContainsSubstring("a dataset of 0 samples cannot be sampled"));
  CHECK_THAT(error_of([] { BatchSampler(5, {.batch_size = 0}); }), ContainsSubstring("batch_size 0 is not valid"));
  CHECK_THAT(error_of([] { BatchSampler(5, {.batch_size = 6, .drop_last = true}); }), ContainsSubstring("use a batch_size of at most 5"));
  CHECK(BatchSampler(5, {.batch_size = 6}).batch(1).indices.size() == 5);
  CHECK_THAT(error_of([] { BatchSampler(5).batch(-1); }), ContainsSubstring("no batch -1"));
}

TEST_CASE("batches of a loader's threads come in order, however many there are", "[data]") {
  for (const int workers : {0, 1, 2, 5}) {
    INFO(workers);
    DataLoader<Numbers> loader(slow, {.num_workers = workers, .batches = 100});
    for (int64_t i = 0; i < 100; ++i) {
      CHECK(loader.position() == i);
      const auto batch = loader.next();
      REQUIRE(batch);
      CHECK(*batch == Numbers{i, i * i});
    }
    CHECK_FALSE(loader.next());
    CHECK_FALSE(loader.next());
    loader.set_position(97);
    CHECK(loader.next()->front() == 97);
  }
}

TEST_CASE("a loader goes on where another was, and what its threads made ahead does not show", "[data]") {
  for (const int workers : {0, 3}) {
    DataLoader<Numbers> loader(slow, {.num_workers = workers, .seed = 8});
    for (int i = 0; i < 5; ++i) loader.next();
    const RandomState state = loader.state();
    CHECK(state.seed == 8);
    CHECK(state.offset == 5);
    DataLoader<Numbers> next(slow, {.num_workers = 2, .seed = 8});
    next.next();  // has batches ahead that are no longer wanted
    next.set_state(state);
    for (int64_t i = 5; i < 20; ++i) CHECK(next.next()->front() == i);
    loader.set_position(1);
    for (int64_t i = 1; i < 20; ++i) CHECK(loader.next()->front() == i);
    DataLoader<Numbers> other(slow, {.seed = 9});
    CHECK_THAT(error_of([&] { other.set_state(state); }), ContainsSubstring("a state with seed 8 does not go on in a loader with seed 9"));
    CHECK_THAT(error_of([&] { loader.set_position(-1); }), ContainsSubstring("position -1"));
  }
}

TEST_CASE("an exception of a loader's thread comes where its batch would have come, and the next call goes on", "[data]") {
  for (const int workers : {0, 1, 4}) {
    DataLoader<int64_t> loader(
        [](int64_t i) {
          if (i == 3 || i == 4) throw Error("batch " + std::to_string(i) + " is broken");
          return i;
        },
        {.num_workers = workers});
    for (int64_t i = 0; i < 10; ++i) {
      if (i == 3 || i == 4) CHECK(error_of([&] { loader.next(); }) == "batch " + std::to_string(i) + " is broken");
      else CHECK(loader.next() == i);
    }
  }
}

TEST_CASE("a loader's threads end at any time", "[data]") {
  for (int64_t taken = 0; taken < 8; ++taken) {
    DataLoader<Numbers> loader(slow, {.num_workers = 3, .prefetch_factor = 1 + int(taken % 3)});
    for (int64_t i = 0; i < taken; ++i) loader.next();
  }
  // While next() waits for a batch that never comes.
  std::atomic<bool> waits = false, give_up = false;
  DataLoader<int64_t> loader(
      [&](int64_t i) {
        waits = true;
        while (!give_up) std::this_thread::yield();
        return i;
      },
      {.num_workers = 2});
  std::string error;
  std::thread consumer([&] { error = error_of([&] { loader.next(); }); });
  while (!waits) std::this_thread::yield();
  std::thread stopper([&] { loader.stop(); });
  consumer.join();  // before the worker has ended
  give_up = true;
  stopper.join();
  CHECK_THAT(error, ContainsSubstring("the loader has been stopped"));
  CHECK_THAT(error_of([&] { loader.next(); }), ContainsSubstring("the loader has been stopped"));
}

TEST_CASE("a loader's threads stay within their places, and waiting is counted", "[data]") {
  std::atomic<int64_t> begun = 0;
  DataLoader<int64_t> loader(
      [&](int64_t i) {
        ++begun;
        return i;
      },
      {.num_workers = 2, .prefetch_factor = 3});
  CHECK(begun == 0);
  loader.next();
  for (int i = 0; i < 2000 && begun < 7; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  CHECK(begun == 7);
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  CHECK(begun == 7);

  for (const int workers : {0, 1}) {
    DataLoader<int64_t> slow_loader(
        [](int64_t i) {
          std::this_thread::sleep_for(std::chrono::milliseconds(20));
          return i;
        },
        {.num_workers = workers});
    slow_loader.next();
    CHECK(slow_loader.waited() >= 0.02);
    CHECK(slow_loader.waited() < 10);
  }
}

TEST_CASE("workers make tensors on their own thread alone", "[data]") {
  const Tensor x = rand({256, 256});
  const auto here = std::this_thread::get_id();
  const int trainer = omp_get_max_threads();
  std::atomic<int> largest_team = 0;
  const auto make = [&](int64_t i) {
    if (std::this_thread::get_id() != here) largest_team = std::max<int>(largest_team, omp_get_max_threads());
    return softmax(matmul(x, x) * double(i), -1);
  };
  DataLoader<Tensor> none(make), some(make, {.num_workers = 2});
  for (int i = 0; i < 4; ++i) CHECK(same_bits(*none.next(), *some.next()));
  CHECK(largest_team == 1);
  CHECK(omp_get_max_threads() == trainer);
}

TEST_CASE("loaders that cannot work are refused", "[data]") {
  const auto make = [](int64_t i) { return i; };
  CHECK_THAT(error_of([&] { DataLoader<int64_t>(make, {.num_workers = -1}); }), ContainsSubstring("num_workers -1 is not valid"));
  CHECK_THAT(error_of([&] { DataLoader<int64_t>(make, {.prefetch_factor = 0}); }), ContainsSubstring("prefetch_factor 0 is not valid"));
  CHECK_THAT(error_of([&] { DataLoader<int64_t>(make, {.batches = -2}); }), ContainsSubstring("-2 batches"));
}
