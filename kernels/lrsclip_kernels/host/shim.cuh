// CUDA's words for a C++17 compiler, so that a kernel's source runs on the host as it is.
//
// One block runs at a time, blocks in an order that the seed shuffles. The threads of a block are fibres: each
// runs to its next barrier, in an order that is shuffled anew after every barrier. Shared memory is exactly as
// long as the launch asked for, filled with a poison before every block, and every access to it is held
// against what other threads did since the last barrier. A launch ends with the first thing that went wrong:
//
//   - two threads touch a word of shared memory between two barriers and one of them writes (a race)
//   - a thread reads a word that no thread of the block has written
//   - an access outside shared memory, or not aligned to its type
//   - a barrier that only some threads of the block reach
//
// Global memory is plain memory: AddressSanitizer watches it.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)

#include "block.cuh"
#include "shared_memory.cuh"

#define threadIdx (shim::block().thread_index())
#define blockIdx (shim::block().index)
#define blockDim (shim::block().shape)
#define gridDim (shim::block().grid)
#define __syncthreads() shim::block().barrier(__LINE__)

using std::max;
using std::min;

inline unsigned int __float_as_uint(float value) {
    unsigned int bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float __uint_as_float(unsigned int bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline int __dp4a(int a, int b, int total) {
    for (int byte = 0; byte < 32; byte += 8) {
        total += static_cast<signed char>(a >> byte) * static_cast<signed char>(b >> byte);
    }
    return total;
}

inline float float_from_half(unsigned short bits) {
    const unsigned int sign = (bits & 0x8000u) << 16;
    const int exponent = bits >> 10 & 31;
    const unsigned int fraction = bits & 0x3ffu;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
    const float size = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                     : std::ldexp(static_cast<float>(fraction | 0x400u), exponent - 25);
    return sign ? -size : size;
}

namespace shim {

template <typename... Parameters, std::size_t... I>
void call(void (*kernel)(Parameters...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_const_t<Parameters>*>(arguments[I])...);
}

// Run a kernel. `arguments` are addresses of its parameters, as in cuLaunchKernel. What went wrong, or nullptr.
template <typename... Parameters>
const char* launch(void (*kernel)(Parameters...), const unsigned* grid, const unsigned* shape, unsigned shared_bytes,
                   unsigned long long seed, void** arguments) {
    return run_grid({grid[0], grid[1], grid[2]}, {shape[0], shape[1], shape[2]}, shared_bytes, seed, [&] {
        call(kernel, arguments, std::index_sequence_for<Parameters...>());
    });
}

}  // namespace shim

#define LRSCLIP_HOST_KERNEL(name)                                                                                \
    extern "C" const char* launch_##name(const unsigned* grid, const unsigned* shape, unsigned shared_bytes,     \
                                         unsigned long long seed, void** arguments) {                            \
        return shim::launch(name, grid, shape, shared_bytes, seed, arguments);                                   \
    }
