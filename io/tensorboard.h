// TensorBoard's event files: records of protocol buffers (tensorflow/core/util/event.proto), each with its length and CRC-32C.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace retape {

/// Writes one event file, named events.out.tfevents and then by time, host and process, into a folder that `tensorboard --logdir` is given.
///
///     EventWriter events("runs/mine");
///     events.add_scalar("loss/train", loss, step);
///
/// Every call is in the file when it returns. torch: torch.utils.tensorboard.SummaryWriter.
class EventWriter {
 public:
  /// Creates the folder if it is not there. With `purge_step`, TensorBoard forgets what the folder's earlier files say about this step and
  /// later ones: a run that resumes at a checkpoint writes them again. Throws Error if the file cannot be created.
  explicit EventWriter(const std::filesystem::path& folder, std::optional<int64_t> purge_step = {});
  ~EventWriter();
  EventWriter(const EventWriter&) = delete;
  EventWriter& operator=(const EventWriter&) = delete;

  /// A point of the curve `tag`. Throws Error if it cannot be written; what was written before stays readable.
  void add_scalar(std::string_view tag, double value, int64_t step);
  /// A picture as the content of a PNG file of this height and width in pixels, with 1 (grey), 3 (RGB) or 4 (RGBA) channels.
  void add_png(std::string_view tag, std::string_view png, int64_t height, int64_t width, int64_t channels, int64_t step);

  const std::filesystem::path& path() const { return path_; }

 private:
  void write(std::string_view event);
  std::filesystem::path path_;
  int file_;
};

}  // namespace retape
