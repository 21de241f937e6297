// What the tape holds: a Node keeps an op, the values it saved, and where the gradients of its inputs go.
//
// Two references make the graph. Tensor -> producer (whose backward gets this tensor's gradient) and Node -> edges (where its
// own input gradients go). Inside a checkpoint a third: Tensor -> source, the node whose forward can make the bytes again.
#pragma once
#include <any>
#include <memory>
#include <vector>

#include <retape/autograd/reach.h>
#include <retape/core/tensor.h>

namespace retape {

// A vector whose first N elements need no heap.
template <class T, int N> class Few {
 public:
  T& push(T value) {
    if (size_ < N) return first_[size_++] = std::move(value);
    ++size_;
    return more_.emplace_back(std::move(value));
  }
  T& operator[](int i) { return i < N ? first_[i] : more_[size_t(i - N)]; }
  const T& operator[](int i) const { return i < N ? first_[i] : more_[size_t(i - N)]; }
  int size() const { return size_; }
  void clear() {
    for (int i = 0; i < (size_ < N ? size_ : N); ++i) first_[i] = T{};
    more_.clear();
    size_ = 0;
  }

 private:
  T first_[N]{};
  std::vector<T> more_;
  int size_ = 0;
};

// Where the gradient of an input goes: to a node's output, to a leaf, or nowhere.
struct Edge {
  Ref<Node> node;
  Ref<TensorImpl> leaf;
  int index = 0;
  bool wants() const { return node || leaf; }
};

// A value as the tape remembers it: `held` (the bytes stay), or a weak reference and the node that can make it again.
struct Entry {
  struct Absent {
    WeakStorage storage;
    Layout layout;
    Ref<Node> source;  // null: the node that owns this entry, so that no node ever owns itself
    Absent(Storage* s, const Layout& l, Ref<Node> n);
    ~Absent();
  };
  static constexpr int hidden = -1, pending = -2;  // else input i >= 0, or own output j as own_output - j
  static constexpr int own_output = -3;
  struct Packed {  // what a pack hook has made of the value
    std::any value;
    std::shared_ptr<SavedHookPair> hooks;
    Shape shape;
    DType dtype;
  };
  Tensor held;
  std::unique_ptr<Absent> absent;
  std::unique_ptr<Packed> packed;
  uint32_t version = 0;
  int what = hidden;
  Storage* storage() const { return absent ? absent->storage.get() : held->storage.get(); }
  bool is_here() const { return !absent || absent->storage->data; }
};

struct Output {
  Shape shape;
  DType dtype = DType::f32;
  Device device;
  Tensor grad;        // belongs to the running pass, which also clears it when it ends early
  Ref<Object> hooks;  // called with the whole gradient before backward gets it
};

// What replaying a node's forward needs; only on nodes made inside a checkpoint or under a memory budget.
struct Replay {
  Ref<Region> region;  // innermost checkpoint around the op; null: none
  const Region* home;  // the one whose replay makes its values again; null: the tape keeps them, until a budget drops them
  bool again = false;  // inputs and outputs are remembered
  std::vector<Entry> inputs;
  std::vector<WeakStorage> outputs;
  size_t place = 0;      // in region->nodes
  int dependents = 0;    // entries of other nodes that name this one as their source
  double seconds = 0;    // that forward took, measured under a budget
  uint64_t visited = 0;  // mark of a walk over absent values
};
// What save() was given during a replay, in order.
struct Replayed {
  std::vector<Tensor> saved;
};

class Grads;

struct Node : Object {
  uint64_t sequence = 0;  // larger than that of every node it takes input from
  Few<Edge, 3> edges;
  Few<Entry, 3> saved;
  Few<Output, 1> outputs;
  std::unique_ptr<Replay> replay;
  const ModulePath* where = nullptr;  // the module whose forward recorded it
  bool passed = false;
  bool shared = false;         // saves nothing and is in several graphs, each of which may pass: a cast that autocast keeps
  const Pass* pass = nullptr;  // which backward holds gradients here
  Node* next_dead = nullptr;

  ~Node() override;
  virtual const char* name() const = 0;
  virtual void forward(const std::vector<Tensor>& in, std::vector<Tensor>& out) = 0;  // on a copy of the op
  virtual void backward(Few<Tensor, 1>& dy, Grads& dx) = 0;
  virtual Intervals reach(const Reach& r) const = 0;
  virtual void free() noexcept = 0;  // ends the object and gives its memory back
  void destroy() noexcept final;     // queues it: chains of a million nodes are freed without recursion
  Tensor read(int ticket);
  void forget();  // called when backward has passed
};
inline Node* node_of(const Ref<Object>& p) { return static_cast<Node*>(p.get()); }
inline Ref<Node> share_node(const Ref<Object>& p) { return Ref<Node>::share(node_of(p)); }

/// What a checkpoint computes again; see CheckpointOptions.
enum class Recompute : uint8_t { all, cheap };

// A checkpoint: its values are not kept; a backward that needs one replays all that the region saved.
struct Region {
  Count refs;
  Ref<Region> outer;
  Recompute recompute = Recompute::all;
  std::vector<Node*> nodes;  // null: already gone
  void retain() { refs.up(); }
  void release() {
    if (refs.down()) delete this;
  }
  bool is_around(const Region* r) const {
    while (r && r != this) r = r->outer.get();
    return r == this;
  }
};

/// What an op writes down instead of a tensor: a number. It owns nothing, so it cannot leak, and copying an op is free.
class Saved {
 public:
  /// The saved value, in backward only. Throws Error if it was changed in place since, or was not saved.
  Tensor operator*() const;
  /// Was anything saved?
  explicit operator bool() const { return ticket_ >= 0; }

 private:
  friend Saved save(const Tensor&, int);
  int16_t ticket_ = -1;
};

/// Remembers t for backward; to be called in an op's forward. With `for_input`, only the gradient of that input needs it, and
/// nothing is kept if nobody wants it (no activations for a frozen weight).
Saved save(const Tensor& t, int for_input = -1);

/// Where an op's backward puts the gradients of its inputs, numbered as forward takes them.
class Grads {
 public:
  explicit Grads(Node& n) : node_(n) {}
  bool wants(int i) const { return node_.edges[i].wants(); }
  int size() const { return node_.edges.size(); }
  /// The gradient of input i. Broadcast dimensions are summed and the dtype is cast to the input's; nothing happens if nobody
  /// wants it. Throws Error, naming the op, if the shape does not fit.
  void set(int i, Tensor dx);
  /// The gradient of input i is zero.
  void none(int i) { none_.push_back(i); }
  Tensor& at(int i);
  bool is_none(int i) const;

 private:
  Node& node_;
  Few<Tensor, 3> values_;
  std::vector<int> none_;
};

}  // namespace retape
