// One running backward. Private to autograd's sources.
#pragma once
#include <algorithm>
#include <vector>

#include <retape/autograd/node.h>

namespace retape {

struct Pass {
  struct Refilled {
    uint64_t sequence;
    WeakStorage storage;
    bool operator<(const Refilled& o) const { return sequence < o.sequence; }
  };
  struct Capture {
    Node* node;
    int index;
    TensorImpl* leaf;
    Tensor grad;
  };
  struct Rows {
    int input;
    Tensor ids, values;
  };
  std::vector<Ref<Node>> heap;
  std::vector<Rows> rows;  // what the backward that runs has given its inputs by rows
  std::vector<Refilled> refilled;
  std::vector<Capture> captures;
  std::vector<std::pair<Ref<TensorImpl>, Tensor>> hooked;  // leaves with hooks, and their gradients so far
  bool retain = false, create_graph = false, only_captures = false;
  uint64_t stop_before = 0;  // nodes older than this are somebody else's
  Pass* outer = ctx.pass;

  Pass() { ctx.pass = this; }
  Pass(const Pass&) = delete;
  ~Pass() {
    ctx.pass = outer;
    for (auto& n : heap) {
      n->pass = nullptr;
      for (int j = 0; j < n->outputs.size(); ++j) n->outputs[j].grad = {};
    }
    drop_replayed(0);
  }
  static bool earlier(const Ref<Node>& a, const Ref<Node>& b) { return a->sequence < b->sequence; }
  void push(Ref<Node> n) {
    heap.push_back(std::move(n));
    std::push_heap(heap.begin(), heap.end(), earlier);
  }
  Ref<Node> pop() {
    std::pop_heap(heap.begin(), heap.end(), earlier);
    auto n = std::move(heap.back());
    heap.pop_back();
    return n;
  }
  // Whoever reads a replayed value has a larger sequence than its source: once the walk is past the source, nobody will ask.
  void drop_replayed(uint64_t sequence) {
    while (!refilled.empty() && refilled.front().sequence >= sequence) {
      std::pop_heap(refilled.begin(), refilled.end());
      refilled.back().storage->unkeep();
      refilled.pop_back();
    }
  }
  void note(uint64_t sequence, Storage* s) {
    refilled.push_back({sequence, WeakStorage(s)});
    std::push_heap(refilled.begin(), refilled.end());
  }
};

namespace detail {
Tensor resident(Node& owner, Entry& e);    // the value with its bytes; replays it, or throws if somebody wrote into it
void materialise(Node& asking, Entry& e);  // replay.cpp
}  // namespace detail

namespace detail {
/// In a backward: whether input `input` is a leaf whose gradient may come by rows (see sparse.h), since nobody wants to see it whole; and
/// gives it so, instead of Grads::set(). ids i64 (n), values (n, ...).
bool takes_rows(int input);
void set_rows(int input, Tensor ids, Tensor values);
}  // namespace detail

}  // namespace retape
