// What the kernels use of CUDA beyond the language: shared memory by offset, float16, atomics on shared memory.
//
// With LRSCLIP_HOST the shim gives the same names to a C++17 compiler. No header of the toolkit is needed, so
// NVRTC compiles the kernels as they are.

#pragma once

#ifdef LRSCLIP_HOST
#include "../host/shim.cuh"
#else

// A pointer here; on the host a guarded view that reports races.
template <typename T>
using Shared = T*;

extern __shared__ __align__(16) unsigned char lrsclip_arena[];

// The elements of T that begin `byte` bytes into the block's shared memory.
template <typename T>
__device__ __forceinline__ Shared<T> shared_at(int byte) {
    return reinterpret_cast<T*>(lrsclip_arena + byte);
}

__device__ __forceinline__ int atomic_add(Shared<int> values, int index, int amount) {
    return atomicAdd(values + index, amount);
}

__device__ __forceinline__ float float_from_half(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

#endif

struct __align__(8) Two {
    unsigned int x, y;
};

struct __align__(16) Four {
    unsigned int x, y, z, w;
};
