// Optimizer kernels run once a device; parameters of one model may lie on several. Private to optim's sources.
#pragma once
#include <vector>

#include <retape/core/storage.h>

namespace retape::detail {

/// The items of each device, in their order.
template <class T, class DeviceOf> std::vector<std::vector<T>> split_by_device(const std::vector<T>& items, const DeviceOf& device_of) {
  std::vector<std::vector<T>> parts;
  for (const T& item : items) {
    std::vector<T>* part = nullptr;
    for (auto& p : parts)
      if (device_of(p.front()) == device_of(item)) part = &p;
    if (!part) part = &parts.emplace_back();
    part->push_back(item);
  }
  return parts;
}

}  // namespace retape::detail
