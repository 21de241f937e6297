#include <retape/core/shape.h>

#include <fmt/format.h>

#include <retape/core/error.h>

namespace retape {

void Shape::too_many(size_t rank) { throw Error(fmt::format("shape: {} dimensions are too many; at most {}", rank, max_rank)); }

std::string Shape::str() const { return fmt::format("[{}]", fmt::join(begin(), end(), ", ")); }

int normalize_dim(const char* op, int64_t dim, int rank) {
  const int n = rank == 0 ? 1 : rank;
  if (dim < -n || dim >= n) throw Error(fmt::format("{}: dim {} is out of range; expected {} <= dim < {}", op, dim, -n, n));
  return int(dim < 0 ? dim + n : dim);
}

Shape broadcast_shapes(const char* op, const Shape& a, const Shape& b) {
  Shape s = a.rank() >= b.rank() ? a : b;
  for (int d = 1; d <= s.rank(); ++d) {
    const int64_t x = d <= a.rank() ? a[-d] : 1, y = d <= b.rank() ? b[-d] : 1;
    if (x != y && x != 1 && y != 1)
      throw Error(fmt::format("{}: cannot broadcast {} with {}: sizes {} and {} at dim {} differ; they must be equal or 1", op, a.str(),
                              b.str(), x, y, -d));
    s[-d] = x == 1 ? y : x;
  }
  return s;
}

}  // namespace retape
