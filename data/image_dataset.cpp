#include <retape/data/image_dataset.h>

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include <retape/core/error.h>
#include <retape/io/cifar.h>
#include <retape/io/file.h>
#include <retape/io/idx.h>

namespace retape {

namespace fs = std::filesystem;

struct ImageDataset::Shared {
  std::string name;
  std::vector<std::string> class_names;
  // Either all images in memory,
  Tensor images, labels;
  // or files.
  struct File {
    fs::path path;
    int64_t label;
  };
  std::vector<File> files;
  ImageReadOptions read;
  int64_t skipped = 0;
};

namespace {

constexpr const char* fashion_names[] = {"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
                                         "Sandal",      "Shirt",   "Sneaker",  "Bag",   "Ankle boot"};

std::vector<std::string> numbers(int64_t n) {
  std::vector<std::string> names;
  for (int64_t i = 0; i < n; ++i) names.push_back(std::to_string(i));
  return names;
}

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}
bool is_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}
// Itself, or compressed.
std::optional<fs::path> find_file(const fs::path& folder, const std::string& name) {
  for (const char* ending : {"", ".gz"})
    if (fs::path path = folder / (name + ending); is_file(path)) return path;
  return {};
}
bool is_bin(std::string_view name) { return name.ends_with(".bin") || name.ends_with(".bin.gz"); }

// Names in order, so that nothing depends on how a file system lists them.
std::vector<std::string> names_in(const fs::path& folder, bool folders) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error))
    if (std::error_code ignored; folders ? at->is_directory(ignored) : at->is_regular_file(ignored))
      names.push_back(at->path().filename().string());
  if (error) throw Error(fmt::format("image_dataset: {}: {}", folder.string(), error.message()));
  std::sort(names.begin(), names.end());
  return names;
}

std::string lower(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = char(c - 'A' + 'a');
  return text;
}
bool is_image(const fs::path& path) {
  const std::string ending = lower(path.extension().string());
  return ending == ".png" || ending == ".jpg" || ending == ".jpeg";
}
std::vector<fs::path> images_below(const fs::path& folder) {
  std::vector<fs::path> paths;
  std::error_code error;
  for (fs::recursive_directory_iterator at(folder, fs::directory_options::follow_directory_symlink, error), end; !error && at != end;
       at.increment(error))
    if (std::error_code ignored; is_image(at->path()) && at->is_regular_file(ignored)) paths.push_back(at->path());
  if (error) throw Error(fmt::format("image_dataset: {}: {}", folder.string(), error.message()));
  std::sort(paths.begin(), paths.end());
  return paths;
}

std::vector<std::string> lines_of(const fs::path& path) {
  std::vector<std::string> lines;
  std::string text = read_file(path), line;
  text += '\n';
  for (const char c : text) {
    if (c == '\n') {
      if (!line.empty()) lines.push_back(line);
      line.clear();
    } else if (c != '\r') line += c;
  }
  return lines;
}

std::string mnist_name(Split split) { return split == Split::train ? "train" : "t10k"; }
ImageDataset read_mnist(const fs::path& folder, Split split, std::vector<std::string> names) {
  fs::path paths[2];
  for (int i = 0; i < 2; ++i) {
    const std::string name = mnist_name(split) + (i == 0 ? "-images-idx3-ubyte" : "-labels-idx1-ubyte");
    const auto path = find_file(folder, name);
    if (!path) throw Error(fmt::format("image_dataset: {} has neither {} nor {}.gz", folder.string(), name, name));
    paths[i] = *path;
  }
  const Tensor images = read_idx(paths[0]), bytes = read_idx(paths[1]);
  if (images.dim() != 3 || images.dtype() != DType::u8)
    throw Error(fmt::format("image_dataset: {} has {} of {}; expected u8 (images, height, width)", paths[0].string(), images.shape().str(),
                            retape::name_of(images.dtype())));
  if (bytes.dim() != 1 || bytes.dtype() != DType::u8 || bytes.size(0) != images.size(0))
    throw Error(fmt::format("image_dataset: {} has {} of {}; expected u8 ({}), a label for each image of {}", paths[1].string(),
                            bytes.shape().str(), retape::name_of(bytes.dtype()), images.size(0), paths[0].string()));
  const Tensor labels = empty({bytes.size(0)}, {DType::i64});
  std::copy_n(bytes.data<uint8_t>(), bytes.numel(), labels.mutable_data<int64_t>());
  const Shape shape{images.size(0), 1, images.size(1), images.size(2)};
  return ImageDataset::from_tensors(
      make_tensor(images->storage,
                  {shape, {images.size(1) * images.size(2), images.size(1) * images.size(2), images.size(2), 1}, 0, DType::u8}),
      labels, std::move(names), paths[0].string());
}

}  // namespace

ImageDataset ImageDataset::mnist(const fs::path& folder, Split split) { return read_mnist(folder, split, numbers(10)); }
ImageDataset ImageDataset::fashion_mnist(const fs::path& folder, Split split) {
  return read_mnist(folder, split, {std::begin(fashion_names), std::end(fashion_names)});
}

ImageDataset ImageDataset::cifar(const fs::path& folder, Split split) {
  const bool hundred = is_file(folder / "fine_label_names.txt");
  const int classes = hundred ? 100 : 10;
  const fs::path names_file = folder / (hundred ? "fine_label_names.txt" : "batches.meta.txt");
  std::vector<std::string> names = is_file(names_file) ? lines_of(names_file) : numbers(classes);
  if (int64_t(names.size()) != classes)
    throw Error(fmt::format("image_dataset: {} names {} classes; expected {}", names_file.string(), names.size(), classes));

  const std::string wanted =
      split == Split::train ? (hundred ? "train.bin" : "data_batch_*.bin") : (hundred ? "test.bin" : "test_batch.bin");
  std::vector<fs::path> paths;
  for (const std::string& name : names_in(folder, false)) {
    if (!is_bin(name)) continue;
    const bool is_train = name.starts_with(hundred ? "train." : "data_batch_"), is_test = name.find("test") != std::string::npos;
    if (split == Split::train ? is_train : is_test) paths.push_back(folder / name);
  }
  if (split == Split::val)  // the usual name goes first, if it is there
    if (const auto usual = find_file(folder, wanted)) paths = {*usual};
  if (paths.empty()) throw Error(fmt::format("image_dataset: {} has no {}, plain or .gz", folder.string(), wanted));

  std::vector<CifarImages> parts;
  int64_t n = 0;
  for (const auto& path : paths) n += parts.emplace_back(read_cifar(path, classes)).labels.size(0);
  const Tensor images = empty({n, 3, 32, 32}, {DType::u8}), labels = empty({n}, {DType::i64});
  uint8_t* to = images.mutable_data<uint8_t>();
  int64_t* label = labels.mutable_data<int64_t>();
  for (const auto& part : parts) {
    to = std::copy_n(part.images.data<uint8_t>(), part.images.numel(), to);
    label = std::copy_n(part.labels.data<int64_t>(), part.labels.numel(), label);
  }
  return from_tensors(images, labels, std::move(names), paths.size() == 1 ? paths[0].string() : (folder / wanted).string());
}

ImageDataset ImageDataset::image_folder(const fs::path& folder, Split split, const ImageFolderOptions& options) {
  const fs::path train = folder / "train";
  fs::path part = train;
  if (split == Split::val) part = is_folder(folder / "val") ? folder / "val" : folder / "test";
  if (!is_folder(part))
    throw Error(fmt::format("image_dataset: {} has no folder {}", folder.string(), split == Split::train ? "train" : "val or test"));
  const auto shared = std::make_shared<Shared>();
  shared->name = part.string();
  shared->read = options.read;
  const std::vector<std::string> found = names_in(part, true);
  shared->class_names = is_folder(train) ? names_in(train, true) : found;
  for (const std::string& name : found) {
    const auto at = std::lower_bound(shared->class_names.begin(), shared->class_names.end(), name);
    if (at == shared->class_names.end() || *at != name)
      throw Error(fmt::format("image_dataset: {} has class \"{}\", which {} does not have", part.string(), name, train.string()));
    const auto paths = images_below(part / name);
    if (paths.empty() && split == Split::train)
      throw Error(fmt::format("image_dataset: class {} has no .png, .jpg or .jpeg file", (part / name).string()));
    for (const auto& path : paths) shared->files.push_back({path, at - shared->class_names.begin()});
  }
  if (options.skip_broken)
    shared->skipped = int64_t(std::erase_if(shared->files, [&](const Shared::File& file) {
      try {
        read_image(file.path, options.read);
        return false;
      } catch (const Error&) {
        return true;
      }
    }));
  if (shared->files.empty())
    throw Error(fmt::format("image_dataset: {} has no image{}; expected CLASS/*.png, .jpg or .jpeg", part.string(),
                            shared->skipped ? fmt::format(" that can be read, but {} that cannot", shared->skipped) : ""));
  return ImageDataset(shared);
}

ImageDataset ImageDataset::open(const fs::path& folder, Split split, const ImageFolderOptions& options) {
  const auto files = names_in(folder, false);
  if (std::any_of(files.begin(), files.end(), [](const std::string& name) { return name.find("-images-idx3-ubyte") != std::string::npos; }))
    return lower(folder.string()).find("fashion") != std::string::npos ? fashion_mnist(folder, split) : mnist(folder, split);
  if (std::any_of(files.begin(), files.end(), is_bin)) return cifar(folder, split);
  for (const char* part : {"train", "val", "test"})
    if (is_folder(folder / part)) return image_folder(folder, split, options);
  throw Error(fmt::format(
      "image_dataset: {} is no known dataset; expected *-images-idx3-ubyte (MNIST), *.bin (CIFAR) or folders train, val or test "
      "of classes",
      folder.string()));
}

ImageDataset ImageDataset::from_tensors(const Tensor& images, const Tensor& labels, std::vector<std::string> class_names,
                                        std::string name) {
  if (!images || images.dim() != 4 || images.dtype() != DType::u8 || images.numel() == 0 || !images.is_contiguous() ||
      !images.device().is_cpu())
    throw Error(
        fmt::format("image_dataset: {}: images are {}; expected contiguous u8 (images, channels, height, width) on the CPU, not empty",
                    name, images ? fmt::format("{} {}", retape::name_of(images.dtype()), images.shape().str()) : "undefined"));
  if (!labels || labels.dim() != 1 || labels.dtype() != DType::i64 || labels.size(0) != images.size(0) || !labels.is_contiguous())
    throw Error(fmt::format("image_dataset: {}: labels are {}; expected i64 ({})", name,
                            labels ? fmt::format("{} {}", retape::name_of(labels.dtype()), labels.shape().str()) : "undefined",
                            images.size(0)));
  for (int64_t i = 0; i < labels.size(0); ++i)
    if (const int64_t label = labels.data<int64_t>()[i]; label < 0 || label >= int64_t(class_names.size()))
      throw Error(fmt::format("image_dataset: {}: image {} has label {}; expected 0 <= label < {}", name, i, label, class_names.size()));
  const auto shared = std::make_shared<Shared>();
  shared->name = std::move(name);
  shared->class_names = std::move(class_names);
  shared->images = images;
  shared->labels = labels;
  return ImageDataset(shared);
}

int64_t ImageDataset::size() const { return shared_->images ? shared_->images.size(0) : int64_t(shared_->files.size()); }
const std::vector<std::string>& ImageDataset::class_names() const { return shared_->class_names; }
int64_t ImageDataset::skipped() const { return shared_->skipped; }

void ImageDataset::check(int64_t i) const {
  if (i < 0 || i >= size()) throw Error(fmt::format("image_dataset: {} has no image {}; expected 0 <= i < {}", shared_->name, i, size()));
}
Tensor ImageDataset::image(int64_t i) const {
  check(i);
  if (!shared_->images) return read_image(shared_->files[size_t(i)].path, shared_->read);
  const Tensor& all = shared_->images;
  const int64_t channels = all.size(1), height = all.size(2), width = all.size(3);
  return make_tensor(all->storage,
                     {{channels, height, width}, {height * width, width, 1}, all.offset() + i * channels * height * width, DType::u8});
}
int64_t ImageDataset::label(int64_t i) const {
  check(i);
  return shared_->images ? shared_->labels.data<int64_t>()[i] : shared_->files[size_t(i)].label;
}
std::string ImageDataset::name(int64_t i) const {
  check(i);
  return shared_->images ? fmt::format("{}[{}]", shared_->name, i) : shared_->files[size_t(i)].path.string();
}

ImageBatch make_image_batch(const ImageDataset& dataset, const SampledBatch& batch, const transforms::Transform& transform, uint64_t seed) {
  const auto n = int64_t(batch.indices.size());
  if (n == 0) throw Error("make_image_batch: the batch is empty; expected at least one sample");
  ImageBatch out{{}, empty({n}, {DType::i64})};
  Tensor first;
  for (int64_t k = 0; k < n; ++k) {
    const int64_t index = batch.indices[size_t(k)];
    Tensor image = dataset.image(index);  // its errors name the file
    if (transform) {
      SampleRandom random(seed, batch.first + k);
      try {
        image = transform(image, random);
      } catch (const Error& e) {
        throw Error(fmt::format("{} (image {})", e.what(), dataset.name(index)));
      }
    }
    if (!image || !image.device().is_cpu() || !image.is_contiguous())
      throw Error(fmt::format("make_image_batch: the transform gives no contiguous tensor on the CPU (image {})", dataset.name(index)));
    if (k == 0) {
      first = image;
      Shape shape{n};
      for (const int64_t size : image.shape()) shape.push_back(size);
      out.images = empty(shape, {image.dtype()});
    }
    if (!(image.shape() == first.shape()) || image.dtype() != first.dtype())
      throw Error(fmt::format("make_image_batch: {} is {} {}, but {}, the first of the batch, is {} {}; resize or crop them to one size",
                              dataset.name(index), name_of(image.dtype()), image.shape().str(), dataset.name(batch.indices[0]),
                              name_of(first.dtype()), first.shape().str()));
    const size_t bytes = size_t(image.numel()) * size_of(image.dtype());
    std::memcpy(out.images->storage->data + size_t(k) * bytes, image->storage->data + size_t(image.offset()) * size_of(image.dtype()),
                bytes);
    out.labels.mutable_data<int64_t>()[k] = dataset.label(index);
  }
  return out;
}

}  // namespace retape
