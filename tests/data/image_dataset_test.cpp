// Datasets of images from files, and batches of them.

#include <cstdlib>

#include <retape/data/image_dataset.h>
#include <retape/data/loader.h>
#include <retape/io/file.h>

#include "../catch.h"
#include "../temporary.h"

using namespace retape;
using namespace retape::testing;
using namespace retape::transforms;

namespace {

const std::filesystem::path golden = RETAPE_GOLDEN;

std::string idx(const std::vector<int>& sizes, const std::string& data) {
  std::string out("\0\0\x08", 3);
  out += char(sizes.size());
  for (const int n : sizes) out += std::string(3, '\0') + char(n);
  return out + data;
}
Tensor plain(int value, int64_t height = 4, int64_t width = 6) { return full({3, height, width}, value, {DType::u8}); }

// cat: 10 and 11, dog: 20 (in a folder of its own) and 21, and a folder without images that only val has.
struct Folder : TemporaryFolder {
  Folder() {
    for (const char* name : {"train/dog/more", "train/cat", "val/dog", "val/cat"}) std::filesystem::create_directories(path / name);
    write_png(path / "train/cat/b.PNG", plain(11));
    write_png(path / "train/cat/a.png", plain(10));
    write_file_atomically(path / "train/cat/notes.txt", "no image");
    write_png(path / "train/dog/more/a.png", plain(20));
    write_png(path / "train/dog/z.png", plain(21));
    write_png(path / "val/dog/a.png", plain(99));
  }
};

}  // namespace

TEST_CASE("MNIST's files are images with one channel and labels", "[data][image]") {
  const TemporaryFolder folder;
  write_file_atomically(folder / "train-images-idx3-ubyte", idx({3, 2, 2}, "abcdefghijkl"));
  write_file_atomically(folder / "train-labels-idx1-ubyte", idx({3}, {0, 9, 4}));
  for (const auto& data : {ImageDataset::mnist(folder.path), ImageDataset::open(folder.path)}) {
    CHECK(data.size() == 3);
    CHECK(data.classes() == 10);
    CHECK(data.class_names()[9] == "9");
    CHECK(same_bits(data.image(1), reshape(cast(tensor<int>({'e', 'f', 'g', 'h'}), DType::u8), {1, 2, 2})));
    CHECK(data.label(1) == 9);
    CHECK_THAT(data.name(1), ContainsSubstring("train-images-idx3-ubyte[1]"));
    CHECK_THAT(error_of([&, &data = data] { data.image(3); }), ContainsSubstring("has no image 3; expected 0 <= i < 3"));
  }
  CHECK(ImageDataset::fashion_mnist(folder.path).class_names()[9] == "Ankle boot");
  std::filesystem::create_directories(folder / "FashionMNIST/raw");
  for (const char* name : {"train-images-idx3-ubyte", "train-labels-idx1-ubyte"})
    std::filesystem::copy(folder / name, folder / "FashionMNIST/raw");
  CHECK(ImageDataset::open(folder / "FashionMNIST/raw").class_names()[9] == "Ankle boot");
  CHECK_THAT(error_of([&] { ImageDataset::open(folder.path, Split::val); }),
             ContainsSubstring("has neither t10k-images-idx3-ubyte nor t10k-images-idx3-ubyte.gz"));
  write_file_atomically(folder / "train-labels-idx1-ubyte", idx({2}, {0, 9}));
  CHECK_THAT(error_of([&] { ImageDataset::mnist(folder.path); }),
             ContainsSubstring("has [2] of u8; expected u8 (3), a label for each image"));
  write_file_atomically(folder / "train-labels-idx1-ubyte", idx({3}, {0, 10, 1}));
  CHECK_THAT(error_of([&] { ImageDataset::mnist(folder.path); }), ContainsSubstring("image 1 has label 10; expected 0 <= label < 10"));
  write_file_atomically(folder / "train-images-idx3-ubyte", idx({12}, "abcdefghijkl"));
  CHECK_THAT(error_of([&] { ImageDataset::mnist(folder.path); }), ContainsSubstring("has [12] of u8; expected u8 (images, height, width)"));
}

TEST_CASE("CIFAR's folders are read batch after batch", "[data][image]") {
  const TemporaryFolder folder;
  const auto record = [](std::string labels, char pixels) { return labels + std::string(3072, pixels); };
  write_file_atomically(folder / "data_batch_2.bin", record("\3", 'c'));
  write_file_atomically(folder / "data_batch_1.bin", record("\1", 'a') + record("\2", 'b'));
  write_file_atomically(folder / "some_test_images.bin", record("\5", 'x'));
  write_file_atomically(folder / "batches.meta.txt", "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n\n");
  const auto train = ImageDataset::open(folder.path), val = ImageDataset::open(folder.path, Split::val);
  CHECK(train.size() == 3);
  CHECK(train.image(2).shape() == Shape{3, 32, 32});
  CHECK(amax(train.image(2)).item<int>() == 'c');
  CHECK(train.label(1) == 2);
  CHECK(train.class_names()[3] == "d");
  CHECK(val.size() == 1);
  write_file_atomically(folder / "test_batch.bin", record("\6", 'x') + record("\7", 'x'));
  CHECK(ImageDataset::cifar(folder.path, Split::val).label(1) == 7);

  const TemporaryFolder hundred;
  std::string names;
  for (int i = 0; i < 100; ++i) names += "class " + std::to_string(i) + "\r\n";
  write_file_atomically(hundred / "fine_label_names.txt", names);
  write_file_atomically(hundred / "train.bin", record("\1\x62", 'x'));
  const auto fine = ImageDataset::open(hundred.path);
  CHECK(fine.classes() == 100);
  CHECK(fine.class_names().at(size_t(fine.label(0))) == "class 98");
  CHECK_THAT(error_of([&] { ImageDataset::open(hundred.path, Split::val); }), ContainsSubstring("has no test.bin, plain or .gz"));
  write_file_atomically(folder / "batches.meta.txt", "a\nb\n");
  CHECK_THAT(error_of([&] { ImageDataset::open(folder.path); }), ContainsSubstring("names 2 classes; expected 10"));
}

TEST_CASE("a folder of images has a class for each of its folders", "[data][image]") {
  const Folder folder;
  const auto train = ImageDataset::open(folder.path), val = ImageDataset::open(folder.path, Split::val);
  CHECK(train.class_names() == std::vector<std::string>{"cat", "dog"});
  REQUIRE(train.size() == 4);
  const int values[] = {10, 11, 20, 21};
  for (int64_t i = 0; i < 4; ++i) {
    CHECK(same_bits(train.image(i), plain(values[i])));
    CHECK(train.label(i) == i / 2);
  }
  CHECK(train.name(2) == (folder / "train/dog/more/a.png").string());
  CHECK(val.size() == 1);
  CHECK(val.label(0) == 1);  // as in training, though val has no cat
  CHECK(ImageDataset::image_folder(folder.path, Split::train, {.read = {.mode = ImageReadMode::gray}}).image(0).size(0) == 1);

  std::filesystem::rename(folder / "val", folder / "test");
  CHECK(ImageDataset::open(folder.path, Split::val).size() == 1);
  std::filesystem::create_directories(folder / "test/fox");
  CHECK_THAT(error_of([&] { ImageDataset::open(folder.path, Split::val); }), ContainsSubstring("has class \"fox\", which"));
  std::filesystem::create_directories(folder / "train/fox");
  CHECK_THAT(error_of([&] { ImageDataset::open(folder.path); }), ContainsSubstring("train/fox has no .png, .jpg or .jpeg file"));
  const TemporaryFolder empty;
  CHECK_THAT(error_of([&] { ImageDataset::open(empty.path); }), ContainsSubstring("is no known dataset; expected *-images-idx3-ubyte"));
  CHECK_THAT(error_of([&] { ImageDataset::image_folder(empty.path); }), ContainsSubstring("has no folder train"));
  CHECK_THAT(error_of([&] { ImageDataset::open(empty / "none"); }), ContainsSubstring("none: No such file"));
}

TEST_CASE("a broken image is named, or left out and counted", "[data][image]") {
  const Folder folder;
  const std::string whole = read_file(golden / "rgb.jpeg");
  write_file_atomically(folder / "train/cat/broken.jpg", whole.substr(0, whole.size() / 2));
  const auto data = ImageDataset::open(folder.path);
  CHECK(data.size() == 5);
  CHECK(data.skipped() == 0);
  CHECK_THAT(error_of([&] { data.image(2); }), ContainsSubstring("train/cat/broken.jpg: damaged JPEG"));
  const auto rest = ImageDataset::open(folder.path, Split::train, {.skip_broken = true});
  CHECK(rest.size() == 4);
  CHECK(rest.skipped() == 1);
  CHECK(same_bits(rest.image(2), plain(20)));
  CHECK(rest.label(2) == 1);
}

TEST_CASE("a batch has each image through the transform, with numbers of its own", "[data][image]") {
  const Tensor images = cast(reshape(arange(8 * 2 * 2), {8, 1, 2, 2}), DType::u8);
  const auto data = ImageDataset::from_tensors(images, tensor<int64_t>({0, 1, 0, 1, 0, 1, 0, 1}), {"even", "odd"});
  const ImageBatch batch = make_image_batch(data, {.indices = {5, 0}});
  CHECK(same_bits(batch.images, index_select(images, 0, tensor<int64_t>({5, 0}))));
  CHECK(same_bits(batch.labels, tensor<int64_t>({1, 0})));

  const Transform draw = [](const Tensor&, SampleRandom& random) { return full({1}, random.uniform()); };
  const auto drawn = [&](const SampledBatch& sampled, uint64_t seed = 7) { return make_image_batch(data, sampled, draw, seed).images; };
  const Tensor all = drawn({.indices = {0, 1, 2, 3}, .first = 16});
  CHECK(same_bits(drawn({.indices = {3}, .first = 19}), all.at({Slice(3, 4)})));
  CHECK_FALSE(same_bits(drawn({.indices = {3}, .first = 18}), all.at({Slice(3, 4)})));
  CHECK_FALSE(same_bits(drawn({.indices = {3}, .first = 19}, 8), all.at({Slice(3, 4)})));
}

TEST_CASE("images of mixed sizes need a transform, and errors name the image", "[data][image]") {
  const Folder folder;
  write_png(folder / "train/dog/y.png", plain(5, 7, 9));
  const auto data = ImageDataset::open(folder.path);
  const SampledBatch all{.indices = {0, 1, 2, 3}};
  const std::string error = error_of([&] { make_image_batch(data, all); });
  CHECK_THAT(error, ContainsSubstring("train/dog/y.png is u8 [3, 7, 9], but "));
  CHECK_THAT(error, ContainsSubstring("train/cat/a.png, the first of the batch, is u8 [3, 4, 6]; resize or crop them to one size"));
  CHECK(make_image_batch(data, all, RandomResizedCrop{.height = 8, .width = 8}).images.shape() == Shape{4, 3, 8, 8});
  CHECK_THAT(error_of([&] { make_image_batch(data, all, RandomCrop{5, 5}); }), ContainsSubstring("do not fit into 4 x 6"));
  CHECK_THAT(error_of([&] { make_image_batch(data, all, RandomCrop{5, 5}); }), ContainsSubstring("train/cat/a.png)"));
  CHECK_THAT(error_of([&] { make_image_batch(data, {}); }), ContainsSubstring("the batch is empty"));
}

TEST_CASE("augmented batches of a loader's threads are the same as without threads, also after a restart", "[data][image]") {
  const Folder folder;
  const auto data = ImageDataset::open(folder.path);
  const BatchSampler sampler(data.size(), {.batch_size = 3, .shuffle = true, .seed = 5});
  const Transform transform =
      compose({RandomResizedCrop{.height = 5, .width = 5}, RandomHorizontalFlip{}, ColorJitter{0.4, 0.4, 0.4, 0.1}, RandAugment{},
               ToFloat{}, Normalize{{0.5, 0.5, 0.5}, {0.2, 0.2, 0.2}}, RandomErasing{.random = true}});
  const auto make = [&](int64_t i) { return make_image_batch(data, sampler.batch(i), transform, 5); };
  DataLoader<ImageBatch> loader(make, {.num_workers = 3}), restarted(make, {.num_workers = 2});
  restarted.set_position(7);
  for (int64_t i = 0; i < 12; ++i) {
    const ImageBatch batch = *loader.next(), expected = make(i);
    CHECK(same_bits(batch.images, expected.images));
    CHECK(same_bits(batch.labels, expected.labels));
    if (i >= 7) CHECK(same_bits(restarted.next()->images, expected.images));
  }
}

TEST_CASE("real datasets are read", "[data][image]") {
  const char* data = std::getenv("RETAPE_DATA");
  const std::filesystem::path root = data ? data : "";
  if (!data || !std::filesystem::is_directory(root / "mnist") || !std::filesystem::is_directory(root / "cifar10")) {
    WARN("skipped: RETAPE_DATA does not name a folder with mnist and cifar10");
    return;
  }
  const auto digits = ImageDataset::open(root / "mnist", Split::val);
  CHECK(digits.size() == 10000);
  CHECK(digits.image(0).shape() == Shape{1, 28, 28});
  CHECK(digits.label(0) == 7);
  CHECK(mean(to_float(digits.image(0))).item() == Approx(18454 / 255. / 784).epsilon(0.01));
  const auto cifar = ImageDataset::open(root / "cifar10", Split::val);
  CHECK(cifar.size() == 2000);
  CHECK(cifar.classes() == 10);
  CHECK(cifar.class_names()[1] == "automobile");
}

TEST_CASE("tensors that are no dataset are refused", "[data][image]") {
  const Tensor images = zeros({2, 1, 3, 3}, {DType::u8}), labels = tensor<int64_t>({0, 1});
  CHECK_THAT(error_of([&] {
               ImageDataset::from_tensors(cast(images, DType::f32), labels, {"a", "b"});
             }),
             ContainsSubstring("images are f32 [2, 1, 3, 3]; expected contiguous u8"));
  CHECK_THAT(error_of([&] {
               ImageDataset::from_tensors(images, tensor<int64_t>({0}), {"a", "b"});
             }),
             ContainsSubstring("labels are i64 [1]; expected i64 (2)"));
  CHECK_THAT(error_of([&] { ImageDataset::from_tensors(images, labels, {"a"}); }),
             ContainsSubstring("image 1 has label 1; expected 0 <= label < 1"));
}
