// Event files as TensorBoard reads them.
#include <retape/core/error.h>
#include <retape/io/file.h>
#include <retape/io/tensorboard.h>

#include <bit>
#include <cstring>

#include <tests/catch.h>
#include <tests/temporary.h>

using namespace retape;
using namespace retape::testing;

namespace {

// CRC-32C a bit at a time, masked as records hold it.
uint32_t masked_crc(std::string_view bytes) {
  uint32_t crc = ~0u;
  for (const char c : bytes) {
    crc ^= uint8_t(c);
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
  }
  return std::rotr(~crc, 15) + 0xa282ead8u;
}
template <class T> T take(std::string_view& rest) {
  T value;
  REQUIRE(rest.size() >= sizeof value);
  std::memcpy(&value, rest.data(), sizeof value);
  rest.remove_prefix(sizeof value);
  return value;
}

// The events of a file without their wall time, the first field.
std::vector<std::string> events_of(const std::filesystem::path& path) {
  const std::string content = read_file(path);
  std::vector<std::string> events;
  for (std::string_view rest = content; !rest.empty();) {
    const std::string_view length_bytes = rest.substr(0, 8);
    const auto length = take<uint64_t>(rest);
    CHECK(take<uint32_t>(rest) == masked_crc(length_bytes));
    REQUIRE(length <= rest.size());
    const std::string_view event = rest.substr(0, length);
    rest.remove_prefix(length);
    CHECK(take<uint32_t>(rest) == masked_crc(event));
    CHECK(event[0] == '\x09');
    events.emplace_back(event.substr(9));
  }
  return events;
}

}  // namespace

TEST_CASE("event files hold records with their checksums", "[io]") {
  const TemporaryFolder folder;
  EventWriter events(folder / "run");
  events.add_scalar("loss", 1.5, 300);
  events.add_png("grid", "PNG", 2, 3, 4, 7);
  const auto seen = events_of(events.path());
  REQUIRE(seen.size() == 3);
  CHECK(seen[0] ==
        "\x1a\x0d"
        "brain.Event:2");  // field 3
  // Field 2: the step; field 5: a summary, a value, its tag, its number.
  CHECK(seen[1] == std::string("\x10\xac\x02\x2a\x0d\x0a\x0b\x0a\x04loss\x15\x00\x00\xc0\x3f", 18));
  CHECK(seen[2] == "\x10\x07\x2a\x15\x0a\x13\x0a\x04grid\x22\x0b\x08\x02\x10\x03\x18\x04\x22\x03PNG");
  CHECK(read_file(events.path()).starts_with(std::string_view("\x18\0\0\0\0\0\0\0\xa3\x7f\x4b\x22", 12)));
  CHECK(events.path().filename().string().starts_with("events.out.tfevents."));
}

TEST_CASE("a run that goes on says from which step on earlier events are void", "[io]") {
  const TemporaryFolder folder;
  const EventWriter first(folder.path), second(folder.path, 21);
  CHECK(first.path() != second.path());
  const auto seen = events_of(second.path());
  REQUIRE(seen.size() == 2);
  CHECK(seen[1] == "\x10\x15\x3a\x02\x08\x01");  // step 21; field 7: a session log that says START
}

TEST_CASE("an event that does not reach the disk is an error, and the file stays whole", "[io]") {
  const TemporaryFolder folder;
  EventWriter events(folder.path);
  const auto size = std::filesystem::file_size(events.path());
  std::string error;
  {
    const FullDisk full(size + 10);
    error = error_of([&] { events.add_scalar("loss", 1, 1); });
  }
  CHECK(error.find("event writer: cannot write") != std::string::npos);
  CHECK(std::filesystem::file_size(events.path()) == size);
  events.add_scalar("loss", 1, 1);
  CHECK(events_of(events.path()).size() == 2);
  CHECK(error_of([&] { EventWriter(folder / events.path().filename().string()); }).find("cannot create") != std::string::npos);
}
