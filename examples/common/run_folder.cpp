#include <examples/common/run_folder.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <ctime>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <stdio.h>
#include <unistd.h>

#include <retape/core/error.h>

namespace retape::examples {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view checkpoint_prefix = "checkpoint-", part_suffix = ".part", replaced_suffix = ".part.old";

[[noreturn]] void fail(std::string_view op, std::string_view what, const fs::path& path, int error = errno) {
  throw Error(fmt::format("{}: cannot {} \"{}\": {}", op, what, path.string(), std::strerror(error)));
}

// Makes a file's content, or a folder's list of names, survive a power cut.
void sync_to_disk(const fs::path& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  // Some file systems cannot sync a folder and say EINVAL.
  const bool synced = file >= 0 && (::fsync(file) == 0 || errno == EINVAL);
  const int error = errno;
  if (file >= 0) ::close(file);
  if (!synced) fail("save_checkpoint", "write", path, error);
}

std::optional<int64_t> step_of(const fs::path& path) {
  const std::string name = path.filename().string();
  if (!name.starts_with(checkpoint_prefix)) return {};
  const char* first = name.data() + checkpoint_prefix.size();
  const char* last = name.data() + name.size();
  int64_t step = -1;
  const auto [end, error] = std::from_chars(first, last, step);
  if (error != std::errc() || end != last || step < 0) return {};
  return step;
}

// Puts a complete folder in its place. One that is there already changes places with it in one step where the file system
// can do that; where not, there is an instant in which only its other name exists.
void put_in_place(const fs::path& fresh, const fs::path& place) {
  if (::rename(fresh.c_str(), place.c_str()) == 0) return;
  if (errno != ENOTEMPTY && errno != EEXIST) fail("save_checkpoint", "create", place);
  if (::renameat2(AT_FDCWD, fresh.c_str(), AT_FDCWD, place.c_str(), RENAME_EXCHANGE) == 0) {
    fs::remove_all(fresh);
    return;
  }
  const fs::path old = fresh.parent_path() / fmt::format(".{}{}", place.filename().string(), replaced_suffix);
  fs::remove_all(old);
  if (::rename(place.c_str(), old.c_str()) != 0) fail("save_checkpoint", "replace", place);
  if (::rename(fresh.c_str(), place.c_str()) != 0) {
    const int error = errno;
    ::rename(old.c_str(), place.c_str());
    fail("save_checkpoint", "replace", place, error);
  }
  fs::remove_all(old);
}

// What write_file_atomically() or save_checkpoint() did not come to rename.
bool is_leftover(const std::string& name) {
  return name.starts_with(fmt::format(".{}", checkpoint_prefix)) || (name.starts_with(".retape-") && name.ends_with(".tmp"));
}
void remove_leftovers(const fs::path& run) {
  std::error_code error;
  std::vector<fs::path> leftovers;
  for (const auto& entry : fs::directory_iterator(run, error))
    if (is_leftover(entry.path().filename().string())) leftovers.push_back(entry.path());
  for (const auto& path : leftovers) fs::remove_all(path, error);
}
// put_in_place() was stopped while the old checkpoint had its other name only.
void restore_replaced(const fs::path& run) {
  std::error_code error;
  std::vector<std::pair<fs::path, fs::path>> names;
  for (const auto& entry : fs::directory_iterator(run, error)) {
    std::string name = entry.path().filename().string();
    if (!name.starts_with('.') || !name.ends_with(replaced_suffix)) continue;
    name = name.substr(1, name.size() - 1 - replaced_suffix.size());
    if (step_of(name) && !fs::exists(run / name, error)) names.emplace_back(entry.path(), run / name);
  }
  for (const auto& [from, to] : names) fs::rename(from, to, error);
}

fs::path without_trailing_slash(const fs::path& path) { return path.has_filename() ? path : path.parent_path(); }

}  // namespace

fs::path create_run_folder(std::string_view name, const fs::path& out) {
  std::error_code error;
  if (!out.empty()) {
    fs::create_directories(out, error);
    if (error || !fs::is_directory(out, error)) fail("create_run_folder", "create", out, error ? error.value() : ENOTDIR);
    const bool empty = fs::is_empty(out, error);
    if (error) fail("create_run_folder", "read", out, error.value());
    if (!empty) throw Error(fmt::format("create_run_folder: \"{}\" is not empty; name a new folder, or continue its run", out.string()));
    return out;
  }
  const auto now = fmt::localtime(std::time(nullptr));
  const fs::path first = fs::path("runs") / fmt::format("{}-{:%Y%m%d-%H%M%S}", name, now);
  fs::create_directories("runs", error);
  if (error) fail("create_run_folder", "create", "runs", error.value());
  fs::path path = first;
  for (int i = 2; !fs::create_directory(path, error); ++i) {  // false without an error: another run began in this second
    if (error) fail("create_run_folder", "create", path, error.value());
    path = first.string() + fmt::format("-{}", i);
  }
  return path;
}

std::vector<Checkpoint> checkpoints(const fs::path& run) {
  std::vector<Checkpoint> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(run, error)) {
    if (const auto step = step_of(entry.path()); step && entry.is_directory()) found.push_back({*step, entry.path()});
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.step < b.step; });
  return found;
}

std::optional<Checkpoint> latest_checkpoint(const fs::path& run) {
  auto found = checkpoints(run);
  if (found.empty()) return {};
  return std::move(found.back());
}

Checkpoint find_checkpoint(const fs::path& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) throw Error(fmt::format("find_checkpoint: there is no folder \"{}\"", path.string()));
  const fs::path itself = without_trailing_slash(path);
  if (const auto step = step_of(itself)) return {*step, itself};
  if (auto latest = latest_checkpoint(path)) return *std::move(latest);
  throw Error(
      fmt::format("find_checkpoint: \"{}\" holds no checkpoint; give the folder of a run, or a checkpoint-N folder in it", path.string()));
}

ResumePoint find_resume_point(const fs::path& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) throw Error(fmt::format("find_resume_point: there is no folder \"{}\"", path.string()));
  const fs::path itself = without_trailing_slash(path);
  if (const auto step = step_of(itself)) {
    const fs::path run = itself.has_parent_path() ? itself.parent_path() : ".";
    remove_leftovers(run);
    return {run, Checkpoint{*step, itself}};
  }
  restore_replaced(path);
  remove_leftovers(path);
  return {path, latest_checkpoint(path)};
}

bool holds_only(const fs::path& run, const std::vector<std::string>& names) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(run, error)) {
    const std::string name = entry.path().filename().string();
    if (!is_leftover(name) && std::find(names.begin(), names.end(), name) == names.end()) return false;
  }
  return !error;
}

fs::path save_checkpoint(const fs::path& run, int64_t step, const std::function<void(const fs::path&)>& fill) {
  const fs::path place = run / fmt::format("{}{}", checkpoint_prefix, step);
  const fs::path part = run / fmt::format(".{}{}{}", checkpoint_prefix, step, part_suffix);
  std::error_code error;
  fs::remove_all(part, error);
  if (!fs::create_directory(part, error)) fail("save_checkpoint", "create", place, error ? error.value() : EEXIST);
  try {
    fill(part);
    for (const auto& entry : fs::recursive_directory_iterator(part)) sync_to_disk(entry.path());
    sync_to_disk(part);
    put_in_place(part, place);
    sync_to_disk(run);
  } catch (...) {
    fs::remove_all(part, error);
    throw;
  }
  return place;
}

void prune_checkpoints(const fs::path& run, int keep, int64_t step) {
  std::error_code error;
  auto found = checkpoints(run);
  std::erase_if(found, [&](const Checkpoint& c) { return c.step > step; });
  found.resize(found.size() - std::min(found.size(), static_cast<size_t>(std::max(keep, 1))));
  for (const auto& old : found) {
    // Renamed first: a checkpoint that is deleted half-way must not look like one.
    const fs::path doomed = run / fmt::format(".{}{}{}", checkpoint_prefix, old.step, part_suffix);
    fs::remove_all(doomed, error);
    fs::rename(old.path, doomed, error);
    if (error) fail("prune_checkpoints", "delete", old.path, error.value());
  }
  remove_leftovers(run);
}

void write_to_run(const fs::path& run, const std::function<void()>& write) {
  try {
    write();
  } catch (const std::exception& e) {
    const auto intact = latest_checkpoint(run);
    throw Error(
        fmt::format("{}; {}", e.what(),
                    intact ? fmt::format("{} is intact: go on from it with --resume {}", intact->path.filename().string(), run.string())
                           : "no checkpoint was saved before"));
  }
}

}  // namespace retape::examples
