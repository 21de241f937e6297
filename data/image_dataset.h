// Datasets of images with one class each, from files as they are handed around, and batches of them.
#pragma once
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <retape/core/tensor.h>
#include <retape/data/augment.h>
#include <retape/data/sampler.h>
#include <retape/data/split.h>
#include <retape/io/image.h>

namespace retape {

struct ImageFolderOptions {
  ImageReadOptions read = {.mode = ImageReadMode::rgb};  ///< so that all images have the same channels
  /// Reads every image when the dataset is made, and leaves out those that cannot be read; ImageDataset::skipped() is their number.
  /// Without it a broken image is an Error when it is asked for.
  bool skip_broken = false;
};

/// Images u8 (channels, height, width) and labels in [0, classes()). Copies share what they hold, and any number of threads may read.
class ImageDataset {
 public:
  /// train-images-idx3-ubyte, train-labels-idx1-ubyte and for Split::val t10k-...; each also as .gz. Images have one channel. Throws
  /// Error if a file is missing or damaged, and if the two do not fit each other. torchvision: MNIST, FashionMNIST.
  static ImageDataset mnist(const std::filesystem::path& folder, Split split = Split::train);
  static ImageDataset fashion_mnist(const std::filesystem::path& folder, Split split = Split::train);
  /// CIFAR-10's data_batch_*.bin or, for Split::val, test_batch.bin; where fine_label_names.txt is in the folder, CIFAR-100's train.bin
  /// or test.bin. Each also as .gz; *test*.bin stands in for a test file of another name. Classes are named as
  /// batches.meta.txt or fine_label_names.txt says, or else by their numbers. torchvision: CIFAR10, CIFAR100.
  static ImageDataset cifar(const std::filesystem::path& folder, Split split = Split::train);
  /// train/CLASS/*.png, .jpg or .jpeg or, for Split::val, val/CLASS or else test/CLASS; folders in a class's are searched, too. Classes are
  /// the folders of train (where there is none, of the part itself) in the order of their names. Throws Error if there is no image, for a
  /// class of the training part without one, and for one of the other part that the training part does not have. torchvision: ImageFolder.
  static ImageDataset image_folder(const std::filesystem::path& folder, Split split = Split::train, const ImageFolderOptions& options = {});
  /// Whichever of these the folder's files are; Fashion-MNIST if its path has "fashion" in it. Throws Error if they are none.
  static ImageDataset open(const std::filesystem::path& folder, Split split = Split::train, const ImageFolderOptions& options = {});
  /// images u8 (N, channels, height, width), labels i64 (N). Throws Error for other shapes and dtypes and for labels that have no name.
  static ImageDataset from_tensors(const Tensor& images, const Tensor& labels, std::vector<std::string> class_names,
                                   std::string name = "memory");

  int64_t size() const;
  int64_t classes() const { return int64_t(class_names().size()); }
  const std::vector<std::string>& class_names() const;
  /// Where all images are in memory this is a view of them: not to be written to. Throws Error for i outside [0, size()), and if a
  /// file cannot be read.
  Tensor image(int64_t i) const;
  int64_t label(int64_t i) const;
  /// The file, or the dataset's name with i in brackets: for messages.
  std::string name(int64_t i) const;
  /// Broken images that skip_broken has left out.
  int64_t skipped() const;

 private:
  struct Shared;
  explicit ImageDataset(std::shared_ptr<const Shared> shared) : shared_(std::move(shared)) {}
  void check(int64_t i) const;
  std::shared_ptr<const Shared> shared_;
};

/// images (batch, channels, height, width), of the dtype that the transform gives; labels i64 (batch).
struct ImageBatch {
  Tensor images, labels;
};
/// The images of a sampled batch, each through `transform` with SampleRandom(seed, the sample's number). Throws Error, naming the image,
/// where reading or transforming one fails, and where one has another size than the first of the batch.
ImageBatch make_image_batch(const ImageDataset& dataset, const SampledBatch& batch, const transforms::Transform& transform = {},
                            uint64_t seed = 0);

}  // namespace retape
