// Windows of rasters and images to the model's input: Pillow's antialiased resize, crop, normalise, NCHW.
//
// Pillow resizes in two passes with weights of 22 fractional bits and rounds to 8 bits after each pass, so the
// result here is its result to the bit. One launch makes a pass for the whole batch, whatever the sizes of its
// windows. Both passes are one routine: it resamples lines along their samples and puts the result
// down transposed, so that the second pass again finds its samples side by side and the image ends upright. A
// window whose first pass goes down the columns differs in its strides alone.
//
// Only the source lines that the crop needs are read. Weights come from the host
// (lrsclip_rt.resampling.resample_table); the last step looks a value up, which normalises and rounds to
// float16 exactly as the host does.
//
// A block makes 32 samples of 64 lines. A warp has one sample of 32 lines in hand, so that a weight is one
// load for the whole warp and shared memory is read without conflicts; source samples pass through
// shared memory in pieces of 128, which bounds it for every scale.

#include "device.cuh"

namespace {

constexpr int PRECISION_BITS = 22;
constexpr int THREADS = 256;
constexpr int BLOCKS = 4;  // of a multiprocessor at least: 64 registers a thread, which suffice without spilling
constexpr int WARP = 32;
constexpr int WARPS = THREADS / WARP;
constexpr int LINES = 64;
constexpr int OUTPUTS = 32;
constexpr int PIECE = 128;
constexpr int PITCH = PIECE + 1;  // one more: lines of a warp then lie in different banks
constexpr int LINES_EACH = LINES / WARP;
constexpr int OUTPUTS_EACH = OUTPUTS / WARPS;

}  // namespace

// One pass over a window.
struct Pass {
    int lines;        // lines that are resampled
    int length;       // samples of a line
    int outputs;      // samples made of each line
    int taps;         // weights of a sample made
    long long table;  // in `tables`: the first source sample of each sample made, then outputs x taps weights
};

// A window of the batch; lrsclip_rt.resample_plan writes these records.
struct Window {
    unsigned long long pixels;   // address of the band's first sample: line 0, position 0, before the channel
    unsigned long long valid;    // address of its byte in the map of valid pixels, 0 where all are valid
    unsigned long long stretch;  // address of (3, levels) bytes that make a sample 8 bits, 0 for none
    long long line_bytes, position_bytes;              // from line to line, from sample to sample
    long long valid_line_bytes, valid_position_bytes;  // the same in the map of valid pixels
    long long channel_bytes[3];                        // from a pixel to its R, G, B
    long long scratch;                                 // first pixel between the passes
    long long output;                                  // first value of the result
    long long output_line, output_position;            // steps [values] in the result
    long long output_plane;
    Pass first, second;
    int levels;         // of the stretch: 256 or 65536
    unsigned int fill;  // R, G, B of pixels that are not valid, from the lowest byte
};

static_assert(sizeof(Window) == 176, "the host writes records of 176 bytes");

namespace {

__device__ __forceinline__ unsigned int rounded(int total) {
    const int value = total >> PRECISION_BITS;
    return static_cast<unsigned int>(min(max(value, 0), 255));
}

// Bring `count` samples from `begin` on of LINES lines to shared memory; neighbouring threads take what lies
// side by side in memory. Lines beyond the last become 0.
template <typename Load>
__device__ __forceinline__ void stage(Shared<unsigned int> tile, int lines_left, int begin, int count,
                                      bool lines_adjacent, const Load& load) {
    for (int i = static_cast<int>(threadIdx.x); i < LINES * PIECE; i += THREADS) {
        const int line = lines_adjacent ? i % LINES : i / PIECE;
        const int position = lines_adjacent ? i / LINES : i % PIECE;
        if (position < count) {
            tile[line * PITCH + position] = line < lines_left ? load(line, begin + position) : 0u;
        }
    }
}

// Resample the lines of one window along their samples. `load` gives R, G, B in three bytes, `store` takes them.
template <typename Load, typename Store>
__device__ __forceinline__ void resample_lines(const Pass& pass, const int* tables, bool lines_adjacent,
                                               const Load& load, const Store& store) {
    const int first_line = static_cast<int>(blockIdx.x) * LINES;
    const int first_output = static_cast<int>(blockIdx.y) * OUTPUTS;
    if (first_line >= pass.lines || first_output >= pass.outputs) return;  // the grid fits the largest window
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const int warp = static_cast<int>(threadIdx.x) / WARP;
    const int* first = tables + pass.table;
    const int* weights = first + pass.outputs;
    const int last_output = min(first_output + OUTPUTS, pass.outputs) - 1;
    const int end = min(first[last_output] + pass.taps, pass.length);
    const Shared<unsigned int> tile = shared_at<unsigned int>(0);

    int total[OUTPUTS_EACH][LINES_EACH][3];
    for (int j = 0; j < OUTPUTS_EACH; ++j) {
        for (int k = 0; k < LINES_EACH; ++k) {
            for (int channel = 0; channel < 3; ++channel) total[j][k][channel] = 1 << (PRECISION_BITS - 1);
        }
    }
    for (int piece = first[first_output]; piece < end; piece += PIECE) {
        const int count = min(PIECE, end - piece);
        stage(tile, pass.lines - first_line, piece, count, lines_adjacent,
              [&](int line, int position) { return load(first_line + line, position); });
        __syncthreads();
#pragma unroll
        for (int j = 0; j < OUTPUTS_EACH; ++j) {
            const int output = first_output + warp + j * WARPS;
            if (output > last_output) break;
            const int begin = first[output];
            const int from = max(begin, piece), to = min(begin + pass.taps, piece + count);
            const int* weight = weights + static_cast<long long>(output) * pass.taps;
            for (int position = from; position < to; ++position) {
                const int factor = weight[position - begin];
#pragma unroll
                for (int k = 0; k < LINES_EACH; ++k) {
                    const unsigned int pixel = tile[(lane + k * WARP) * PITCH + position - piece];
                    total[j][k][0] += factor * static_cast<int>(pixel & 255u);
                    total[j][k][1] += factor * static_cast<int>(pixel >> 8 & 255u);
                    total[j][k][2] += factor * static_cast<int>(pixel >> 16);
                }
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int j = 0; j < OUTPUTS_EACH; ++j) {
        const int output = first_output + warp + j * WARPS;
        for (int k = 0; k < LINES_EACH; ++k) {
            const int line = first_line + lane + k * WARP;
            if (output <= last_output && line < pass.lines) {
                store(line, output, rounded(total[j][k][0]), rounded(total[j][k][1]), rounded(total[j][k][2]));
            }
        }
    }
}

// From the source to the pixels between the passes: one word each, the other axis side by side.
template <typename Sample>
__device__ __forceinline__ void first_pass(const Window& window, const int* tables, unsigned int* scratch) {
    const auto* pixels = reinterpret_cast<const unsigned char*>(window.pixels);
    const auto* valid = reinterpret_cast<const unsigned char*>(window.valid);
    const auto* stretch = reinterpret_cast<const unsigned char*>(window.stretch);
    const auto load = [&](int line, int position) {
        if (valid != nullptr && !valid[line * window.valid_line_bytes + position * window.valid_position_bytes]) {
            return window.fill;
        }
        const unsigned char* pixel = pixels + line * window.line_bytes + position * window.position_bytes;
        unsigned int packed = 0;
#pragma unroll
        for (int channel = 0; channel < 3; ++channel) {
            unsigned int value = *reinterpret_cast<const Sample*>(pixel + window.channel_bytes[channel]);
            if (stretch != nullptr) value = stretch[channel * window.levels + static_cast<int>(value)];
            packed |= value << (8 * channel);
        }
        return packed;
    };
    const auto store = [&](int line, int output, unsigned int red, unsigned int green, unsigned int blue) {
        scratch[window.scratch + static_cast<long long>(output) * window.first.lines + line] =
            red | green << 8 | blue << 16;
    };
    resample_lines(window.first, tables, window.line_bytes < window.position_bytes, load, store);
}

// From there to the result, every value looked up in (3, 256) `values`.
template <typename Value>
__device__ __forceinline__ void second_pass(const Window& window, const int* tables, const unsigned int* scratch,
                                            const Value* values, Value* output) {
    const auto load = [&](int line, int position) {
        return scratch[window.scratch + static_cast<long long>(line) * window.second.length + position];
    };
    const auto store = [&](int line, int position, unsigned int red, unsigned int green, unsigned int blue) {
        Value* place = output + window.output + line * window.output_line + position * window.output_position;
        place[0] = values[red];
        place[window.output_plane] = values[256 + green];
        place[2 * window.output_plane] = values[512 + blue];
    };
    resample_lines(window.second, tables, false, load, store);
}

}  // namespace

// Grid: (ceil(lines / 64), ceil(outputs / 32), windows) of the largest window; 256 threads; 33,024 bytes shared.

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    resample_first_u8(const Window* windows, const int* tables, unsigned int* scratch) {
    first_pass<unsigned char>(windows[blockIdx.z], tables, scratch);
}

// For uint16 samples; every window needs a stretch.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    resample_first_u16(const Window* windows, const int* tables, unsigned int* scratch) {
    first_pass<unsigned short>(windows[blockIdx.z], tables, scratch);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    resample_second_f32(const Window* windows, const int* tables, const unsigned int* scratch, const float* values,
                        float* output) {
    second_pass<float>(windows[blockIdx.z], tables, scratch, values, output);
}

// For results of 16 bits: float16 or bfloat16, as the values are.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    resample_second_f16(const Window* windows, const int* tables, const unsigned int* scratch,
                        const unsigned short* values, unsigned short* output) {
    second_pass<unsigned short>(windows[blockIdx.z], tables, scratch, values, output);
}

// For pixels before they are normalised.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    resample_second_u8(const Window* windows, const int* tables, const unsigned int* scratch,
                       const unsigned char* values, unsigned char* output) {
    second_pass<unsigned char>(windows[blockIdx.z], tables, scratch, values, output);
}
