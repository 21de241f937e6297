// What the emulation tells the race check. In a build without -fsanitize=thread nothing happens.
#pragma once
#include <cstddef>

namespace emulation::race {
#if defined(__SANITIZE_THREAD__) || defined(RETAPE_RACE_CHECK)
void begin_grid();
void end_grid();
void begin_block(void* shared, size_t bytes);  // its dynamic shared memory
void after_barrier();
void after_warp_barrier(unsigned warp, unsigned mask);
void allocated(void* p, size_t bytes);
void freed(void* p, size_t bytes);
void check();  // throws the Mistake that has been found, if one has
#else
inline void begin_grid() {}
inline void end_grid() {}
inline void begin_block(void*, size_t) {}
inline void after_barrier() {}
inline void after_warp_barrier(unsigned, unsigned) {}
inline void allocated(void*, size_t) {}
inline void freed(void*, size_t) {}
inline void check() {}
#endif
}  // namespace emulation::race
