// Integer multiply-adds as fast as they come: one of the two roofs of the resample kernels. Benchmarks alone run it.

#include "device.cuh"

namespace {

constexpr int CHAINS = 8;  // independent, so that none waits for the one before

}  // namespace

extern "C" __global__ void __launch_bounds__(256) multiply_adds(int rounds, unsigned int factor, unsigned int* sums) {
    unsigned int total[CHAINS];
    for (int i = 0; i < CHAINS; ++i) total[i] = static_cast<unsigned int>(threadIdx.x) + static_cast<unsigned int>(i);
    for (int round = 0; round < rounds; ++round) {
#pragma unroll
        for (int i = 0; i < CHAINS; ++i) total[i] = total[i] * factor + static_cast<unsigned int>(round);
    }
    unsigned int sum = 0;
    for (int i = 0; i < CHAINS; ++i) sum ^= total[i];
    sums[static_cast<int>(blockIdx.x) * 256 + static_cast<int>(threadIdx.x)] = sum;
}
