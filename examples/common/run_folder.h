// The output folder of a run and its checkpoints. A checkpoint is written beside its place and then renamed, so that the one
// before it stays whole until it is complete on the disk. Single files: write_file_atomically() in <retape/io/file.h>.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace retape::examples {

/// Creates the folder of a new run and returns its path: `out` if given, else `runs/<name>-<YYYYMMDD-HHMMSS>`.
/// Throws Error if it cannot be created or if `out` is not empty, so that two runs never mix.
std::filesystem::path create_run_folder(std::string_view name, const std::filesystem::path& out = {});

struct Checkpoint {
  int64_t step = 0;
  std::filesystem::path path;
};

/// The complete checkpoints of a run, `checkpoint-<step>/`, in the order of their steps.
std::vector<Checkpoint> checkpoints(const std::filesystem::path& run);

/// The one with the largest step; none if there is no checkpoint or no such folder.
std::optional<Checkpoint> latest_checkpoint(const std::filesystem::path& run);

/// What a user means by `--from`: a checkpoint, or a run, whose latest checkpoint is taken. Throws Error if the path is neither.
Checkpoint find_checkpoint(const std::filesystem::path& path);

/// Where a run goes on that was stopped at any moment, also during a save. `--resume` names the run or one of its checkpoints.
struct ResumePoint {
  std::filesystem::path run;
  std::optional<Checkpoint> checkpoint;  // none: the run was stopped before its first one, and begins again
};
/// Deletes what interrupted saves have left. Throws Error if there is no such folder.
ResumePoint find_resume_point(const std::filesystem::path& path);
/// Whether a run that was stopped while it began may have left this folder: it holds nothing but the files named and leftovers.
bool holds_only(const std::filesystem::path& run, const std::vector<std::string>& names);

/// Writes `checkpoint-<step>/`: `fill` gets an empty folder and puts the files there. They become a checkpoint only when
/// all of them are on the disk. If `fill` throws or the disk is full, nothing changes and the exception goes on.
/// Returns the checkpoint's path.
std::filesystem::path save_checkpoint(const std::filesystem::path& run, int64_t step,
                                      const std::function<void(const std::filesystem::path&)>& fill);

/// Deletes all checkpoints up to `step` but the `keep` latest (at least one is kept), and what interrupted saves have left. Those of later
/// steps stay: they are there if a run was taken up again from an earlier one.
void prune_checkpoints(const std::filesystem::path& run, int keep, int64_t step = std::numeric_limits<int64_t>::max());

/// Calls `write`, which writes into the run's folder. An Error from it then also says which checkpoint is intact.
void write_to_run(const std::filesystem::path& run, const std::function<void()>& write);

}  // namespace retape::examples
