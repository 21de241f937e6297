// What differs between compilers and between host and device code, in one place.
#pragma once

#if defined(__CUDACC__)
#define RETAPE_HD __host__ __device__ __forceinline__
#else
#define RETAPE_HD inline __attribute__((always_inline))
#endif

// For everything that a kernel file includes from outside its level's namespace: a function that is not inlined there would
// be one weak symbol for all levels, and the linker may keep the copy that the processor cannot run.
#define RETAPE_INLINE inline __attribute__((always_inline))

#if defined(RETAPE_KEEP_POOL)
// Sanitized files that share their objects with a library that is not.
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define RETAPE_NO_POOL 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define RETAPE_NO_POOL 1  // a sanitizer must see every free
#endif
#endif
