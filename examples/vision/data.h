// Images for the trainers: which data, how they are augmented, and batches of them.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include <examples/common/settings.h>
#include <retape/retape.h>

namespace retape::vision {

struct DataOptions {
  std::string data;
  int64_t image_size = 0;        // 0: that of the data, whose images are all of one size then
  std::string augment;           // see parse_augment()
  std::string mean, std;         // a number for all channels or one for each; empty: of the training images
  int64_t labels = 0;            // images to train on; 0: all
  double mixup = 0, cutmix = 0;  // alpha; 0: off
  int64_t workers = 1;
  bool skip_broken = false;
};
/// The flags; those about labels only with `labels`. Returns --data.
examples::Setting& declare(examples::Settings& settings, DataOptions& options, bool labels);

/// A list such as "crop,flip,randaugment:9": the names may have a number. `none` or nothing: no augmentation. Throws Error for other names
/// and for numbers out of range. u8 images of size x size come out, whatever went in; but without `resize` an image of another size is an Error.
transforms::Transform parse_augment(const std::string& text, int64_t size, bool resize);
/// "0.5" or "0.5,0.4,0.3" as a number for each channel. Throws Error, naming the flag.
std::vector<double> parse_channels(const std::string& flag, const std::string& text, int64_t channels);
/// `count` images of the dataset, of every class as many as of any other as far as there are, chosen by the seed. In order.
std::vector<int64_t> stratified(const ImageDataset& data, int64_t count, uint64_t seed);

/// images f32 (B, C, S, S); targets i64 (B), or after mixup and cutmix f32 (B, classes).
struct Batch {
  Tensor images, targets;
};

/// Both parts of the data, with sizes, mean and std known.
class Images {
 public:
  /// Opens options.data and sets options.mean and std if they are empty. Throws Error.
  Images(DataOptions& options, uint64_t seed);

  const ImageDataset& train() const { return train_; }
  const ImageDataset& val() const { return val_; }
  int64_t channels() const { return channels_; }
  int64_t size() const { return size_; }  // of a side
  /// How many images are trained on.
  int64_t count() const { return subset_.empty() ? train_.size() : int64_t(subset_.size()); }
  /// What turns an image of the validation part into what a model gets.
  const transforms::Transform& plain() const { return plain_; }

  /// Endless batches of the training part, `per_epoch` of them in each epoch.
  std::unique_ptr<DataLoader<Batch>> loader(int64_t batch) const;
  int64_t batches_per_epoch(int64_t batch) const { return sampler(batch).batches_per_epoch(); }
  /// The validation part in order, once.
  std::unique_ptr<DataLoader<ImageBatch>> validation(int64_t batch) const;
  /// The pixels, u8, that a model's images (..., C, H, W) are made of.
  Tensor to_pixels(const Tensor& images) const;

 private:
  BatchSampler sampler(int64_t batch) const;
  DataOptions options_;
  uint64_t seed_;
  ImageDataset train_, val_;
  int64_t channels_ = 0, size_ = 0;
  std::vector<int64_t> subset_;
  std::vector<double> mean_, std_;
  transforms::Transform plain_, augmented_;
};

/// Images of another source as the model of a run takes them: f32 (C, S, S).
transforms::Transform plain_transform(int64_t size, bool resize, const std::vector<double>& mean, const std::vector<double>& std);

}  // namespace retape::vision
