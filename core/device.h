// Devices, and what a program asks of one.
#pragma once
#include <string>

#include <retape/core/memory.h>

namespace retape {

/// Where a tensor lives. `meta` tensors have a shape and a dtype but no data: no kernel runs on them.
struct Device {
  enum class Type : uint8_t { cpu, cuda, meta };
  Type type = Type::cpu;
  int8_t index = 0;
  static constexpr Device cpu() { return {}; }
  static constexpr Device cuda(int index = 0) { return {Type::cuda, int8_t(index)}; }
  static constexpr Device meta() { return {Type::meta, 0}; }
  constexpr bool operator==(const Device&) const = default;
  RETAPE_INLINE constexpr bool is_cpu() const { return type == Type::cpu; }
  RETAPE_INLINE constexpr bool is_cuda() const { return type == Type::cuda; }
  RETAPE_INLINE constexpr bool is_meta() const { return type == Type::meta; }
  std::string str() const;  ///< "cpu", "cuda:0", "meta"
  /// From "cpu", "cuda", "cuda:1" or "meta"; throws Error for anything else.
  static Device parse(const std::string& name);
};

/// Of one device. On `meta` it is what this thread's meta tensors would take on a CPU, so that a program's memory can be found without
/// running it. Throws Error for a device that is not there.
MemoryStats memory_stats(Device device);
void reset_peak_memory(Device device);

/// Waits until the device has done all that this process gave it. Throws Error for what went wrong there meanwhile, such as an index out
/// of range, with the op's name. Nothing to do for the CPU. torch: cuda.synchronize.
void synchronize(Device device);

namespace cuda {
/// How many CUDA devices this build can use here: 0 in a build without CUDA, without a device or without a driver for it.
int device_count();
inline bool is_available() { return device_count() > 0; }
/// Why device_count() is 0; empty if it is not.
std::string why_unavailable();

/// Whether matrix products of f32 on CUDA devices may round their operands to TF32 (10 bits of mantissa) where there are tensor cores:
/// several times faster, with relative errors near 1e-3 in place of 1e-6. Off at first. For all threads, from the next product on, captured
/// graphs excepted; what the tape computes again after a change differs in bits. torch: backends.cuda.matmul.allow_tf32.
void set_allow_tf32(bool on);
bool allow_tf32();
}  // namespace cuda

}  // namespace retape
