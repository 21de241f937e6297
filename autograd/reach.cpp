#include <retape/autograd/reach.h>

#include <algorithm>
#include <map>
#include <optional>

#include <retape/autograd/node.h>

namespace retape {
namespace {

Interval join(const Interval& a, const Interval& b) { return {std::min(a.begin, b.begin), std::max(a.end, b.end)}; }
bool is_empty(const Intervals& box) {
  return std::any_of(box.begin(), box.end(), [](const Interval& i) { return i.empty(); });
}
void add(std::optional<Intervals>& to, const Intervals& more) {
  if (!to) to = more;
  else
    for (size_t d = 0; d < more.size(); ++d) (*to)[d] = join((*to)[d], more[d]);
}
Intervals cut(Intervals box, const Shape& shape) {
  for (size_t d = 0; d < box.size(); ++d) box[d] = {std::max<int64_t>(box[d].begin, 0), std::min(box[d].end, shape[int(d)])};
  return box;
}
// The elements first to last of dims of these sizes, laid flat, as a box. They may lie beyond the first dim.
void unflatten(int64_t first, int64_t last, const Shape& shape, int begin, int end, Intervals& box) {
  int64_t inner = 1;
  for (int d = begin; d < end; ++d) inner *= shape[d];
  bool one = true;  // all dims so far have a single element
  for (int d = begin; d < end; ++d) {
    inner /= shape[d];
    const int64_t a = detail::floor_div(first, inner), b = detail::floor_div(last, inner);
    box[size_t(d)] = one ? Interval{a, b + 1} : Interval{0, shape[d]};
    one &= a == b;
    first -= a * inner, last -= b * inner;
  }
}

}  // namespace

Intervals all_elements(const Shape& shape) {
  Intervals box;
  for (const int64_t n : shape) box.push_back({0, n});
  return box;
}
Intervals same_elements(const Reach& r) {
  Intervals box = all_elements(r.in);
  const int skip = r.out.rank() - r.in.rank();
  for (int d = 0; d < r.in.rank(); ++d)
    if (d + skip >= 0 && r.in[d] == r.out[d + skip]) box[size_t(d)] = r.box[size_t(d + skip)];
  return box;
}
Intervals all_of_dim(const Reach& r, int d) {
  Intervals box = same_elements(r);
  d = d < 0 ? d + r.in.rank() : d;
  box[size_t(d)] = {0, r.in[d]};
  return box;
}
Intervals reshaped_elements(const Reach& r) {
  Intervals box = all_elements(r.in);
  if (r.in.numel() == 0) return box;
  int i = 0, o = 0;
  while (i < r.in.rank() || o < r.out.rank()) {
    const int i0 = i, o0 = o;
    int64_t have = 1, made = 1;
    if (i < r.in.rank()) have *= r.in[i++];
    if (o < r.out.rank()) made *= r.out[o++];
    while (have != made) have < made ? have *= r.in[i++] : made *= r.out[o++];
    if (i - i0 == 1 && o - o0 == 1) {
      box[size_t(i0)] = r.box[size_t(o0)];
      continue;
    }
    int64_t first = 0, last = 0;
    for (int d = o0; d < o; ++d) {
      const int64_t a = r.box[size_t(d)].begin, b = r.box[size_t(d)].end - 1, size = r.out[d];
      first = first * size + (d > o0 ? std::clamp<int64_t>(a, 0, size - 1) : a);
      last = last * size + (d > o0 ? std::clamp<int64_t>(b, 0, size - 1) : b);
    }
    unflatten(first, last, r.in, i0, i, box);
  }
  return box;
}

Intervals reached_elements(const Tensor& y, const Intervals& box, const Tensor& x, bool within) {
  using Outputs = std::vector<std::optional<Intervals>>;  // absent: nobody has asked
  std::map<std::pair<uint64_t, Node*>, Outputs> waiting;  // the last by sequence is asked by nobody else any more
  std::optional<Intervals> result;
  const auto arrive = [&](const Intervals& at, Node* node, int index) {
    if (!node) return add(result, at);
    Outputs& outputs = waiting[{node->sequence, node}];
    outputs.resize(size_t(node->outputs.size()));
    add(outputs[size_t(index)], at);
  };
  if (!y->producer && y.impl() != x.impl()) return {};
  arrive(within ? cut(box, y.shape()) : box, y->producer ? node_of(y->producer) : nullptr, y->index);
  while (!waiting.empty()) {
    const auto last = std::prev(waiting.end());
    Node& node = *last->first.second;
    const Outputs outputs = std::move(last->second);
    waiting.erase(last);
    for (int i = 0; i < node.edges.size(); ++i) {
      const Edge& edge = node.edges[i];
      if (!edge.node && edge.leaf.get() != x.impl()) continue;
      const Shape& in = edge.leaf ? edge.leaf->layout.shape : edge.node->outputs[edge.index].shape;
      for (int j = 0; j < int(outputs.size()); ++j) {
        if (!outputs[size_t(j)]) continue;
        Intervals part = node.reach({i, j, *outputs[size_t(j)], in, node.outputs[j].shape, within});
        if (within) part = cut(std::move(part), in);
        if (!is_empty(part)) arrive(part, edge.node.get(), edge.index);
      }
    }
  }
  return result.value_or(Intervals{});
}

}  // namespace retape
