// Scores of windows to heat maps on a regular grid: the weighted mean of the windows that cover a cell, for
// many texts at once.
//
// Every cell gathers from the windows over it, in their order, so that no two threads add to one place and the
// result is the same each time. A block is a tile of 16 x 16 cells with a list of the windows that reach it; a
// thread has one cell and eight texts in hand. Weights come from the host
// (lrsclip_rt.localization.hann): one factor a row and one a column of each window.

#include "device.cuh"

namespace {

constexpr int TILE = 16;
constexpr int TEXTS = 8;

}  // namespace

// The cells that a window covers, and where the factors of its rows and columns begin.
struct Span {
    int first_row, end_row;
    int first_col, end_col;
    int row_factors, col_factors;
};

static_assert(sizeof(Span) == 24, "the host writes records of 24 bytes");

// Grid: (tiles across, tiles down, ceil(texts / 8)); 16 x 16 threads; no shared memory.
//
// `tile_starts` (tiles + 1) and `tile_windows` list the windows of each tile, row-major and rising; `scores` is
// (windows, texts), `means` (texts, rows, cols). Cells under no window become `missing`.
extern "C" __global__ void __launch_bounds__(256)
    fuse_windows(const Span* spans, const float* factors, const int* tile_starts, const int* tile_windows,
                 const float* scores, int texts, int rows, int cols, float missing, float* means) {
    const int col = static_cast<int>(blockIdx.x) * TILE + static_cast<int>(threadIdx.x);
    const int row = static_cast<int>(blockIdx.y) * TILE + static_cast<int>(threadIdx.y);
    const int first_text = static_cast<int>(blockIdx.z) * TEXTS;
    const int own_texts = min(TEXTS, texts - first_text);
    if (row >= rows || col >= cols) return;
    const int tile = static_cast<int>(blockIdx.y * gridDim.x + blockIdx.x);
    float total[TEXTS] = {};
    float weight = 0.0f;
    for (int i = tile_starts[tile]; i < tile_starts[tile + 1]; ++i) {
        const int window = tile_windows[i];
        const Span span = spans[window];
        if (row < span.first_row || row >= span.end_row || col < span.first_col || col >= span.end_col) continue;
        const float factor = factors[span.row_factors + row - span.first_row] *
                             factors[span.col_factors + col - span.first_col];
        const float* score = scores + static_cast<long long>(window) * texts + first_text;
        weight += factor;
#pragma unroll
        for (int text = 0; text < TEXTS; ++text) {
            if (text < own_texts) total[text] = fmaf(factor, score[text], total[text]);
        }
    }
    float* place = means + (static_cast<long long>(first_text) * rows + row) * cols + col;
    const long long plane = static_cast<long long>(rows) * cols;
#pragma unroll
    for (int text = 0; text < TEXTS; ++text) {
        if (text < own_texts) place[text * plane] = weight > 0.0f ? total[text] / weight : missing;
    }
}
