// The best rows of an archive for a batch of queries: exact, ties to the lower row.
//
// First pass: a block scores a range of rows against four queries and keeps the best of each. Second pass: a
// block merges what all blocks kept for one query. A candidate is one 64-bit key, the score in the upper half
// and the row's complement in the lower, so that the larger key is the better candidate and no two are equal:
// whatever order candidates arrive in, the k largest keys are the same and sorting them gives one
// result. NaN ranks below every number; -0 counts as 0.
//
// Rows are float16 against float32 queries with float32 sums, as in the exact search of the archive
// (lrsclip_rt.archive.scanning), or int8 against int8 with a float32 scale a row and a query:
// (float(sum) * row scale) * query scale. D is a multiple of 8, rows and queries begin at a multiple of 16 bytes.
//
// A block keeps, for each query, the best `capacity` keys sorted and as many places for newcomers. Only keys
// above the k-th best become newcomers, and they are sorted in when a further tile of rows might
// not fit, which soon is rare.

#include "device.cuh"

namespace {

constexpr int THREADS = 128;
constexpr int ROWS = THREADS;  // rows of a tile: a thread scores one
constexpr int QUERIES = 4;
constexpr int GROUP = 8;           // dimensions that are loaded at once
constexpr int GROUPS = 8;          // such loads of a row in a tile
constexpr int PITCH = GROUPS + 1;  // one more: rows of a tile then begin in different banks

using Key = unsigned long long;

__device__ __forceinline__ Key key_from_score(float score, long long row) {
    unsigned int bits = __float_as_uint(score == 0.0f ? 0.0f : score);
    bits = bits >> 31 ? ~bits : bits | 0x80000000u;
    if (score != score) bits = 0;
    return static_cast<Key>(bits) << 32 | (0xffffffffu - static_cast<unsigned int>(row));
}

__device__ __forceinline__ float score_from_key(Key key) {
    const auto bits = static_cast<unsigned int>(key >> 32);
    if (bits == 0) return __uint_as_float(0x7fc00000u);
    return __uint_as_float(bits >> 31 ? bits & 0x7fffffffu : ~bits);
}

__device__ __forceinline__ long long row_from_key(Key key) {
    return static_cast<long long>(0xffffffffu - static_cast<unsigned int>(key));
}

// The best keys of one query: `capacity` sorted ones, then newcomers, and how many these are.
struct Best {
    Shared<Key> keys;
    Shared<int> counts;
    int query;
    int capacity;
    int k;

    __device__ __forceinline__ Key least() const { return keys[k - 1]; }
    __device__ __forceinline__ int newcomers() const { return counts[query]; }

    __device__ __forceinline__ void clear() const {
        for (int i = static_cast<int>(threadIdx.x); i < 2 * capacity; i += THREADS) keys[i] = Key(0);
        if (threadIdx.x == 0) counts[query] = 0;
    }

    __device__ __forceinline__ void offer(Key key) const {
        if (key > least()) keys[capacity + atomic_add(counts, query, 1)] = key;
    }
};

// Sort all keys of a query, the largest first, and forget what is beyond `capacity`. Called by the whole block
// after a barrier; its own come before the count is reset and at the end.
__device__ __forceinline__ void take_in(const Best& best) {
    const int length = 2 * best.capacity;
    for (int width = 2; width <= length; width *= 2) {
        for (int step = width / 2; step > 0; step /= 2) {
            for (int pair = static_cast<int>(threadIdx.x); pair < length / 2; pair += THREADS) {
                const int low = 2 * pair - (pair & (step - 1)), high = low + step;
                const Key left = best.keys[low], right = best.keys[high];
                const bool falling = (low & width) == 0;
                if (falling ? left < right : left > right) {
                    best.keys[low] = right;
                    best.keys[high] = left;
                }
            }
            __syncthreads();
        }
    }
    for (int i = best.capacity + static_cast<int>(threadIdx.x); i < length; i += THREADS) best.keys[i] = Key(0);
    if (threadIdx.x == 0) best.counts[best.query] = 0;
    __syncthreads();
}

// Rows and queries by groups of eight dimensions, and the product of two groups.
struct HalfRows {
    using RowGroup = Four;  // 8 float16
    using Sum = float;
    struct __align__(16) QueryGroup {
        float value[GROUP];
    };

    static __device__ __forceinline__ QueryGroup query_group(const float* query) {
        QueryGroup group;
        for (int i = 0; i < GROUP; ++i) group.value[i] = query[i];
        return group;
    }

    static __device__ __forceinline__ QueryGroup zero() { return QueryGroup{}; }

    static __device__ __forceinline__ float add(float sum, const Four& row, const QueryGroup& query) {
        const unsigned int words[4] = {row.x, row.y, row.z, row.w};
#pragma unroll
        for (int i = 0; i < GROUP; ++i) {
            const auto bits = static_cast<unsigned short>(words[i / 2] >> (16 * (i % 2)));
            sum = fmaf(float_from_half(bits), query.value[i], sum);
        }
        return sum;
    }
};

struct ByteRows {
    using RowGroup = Two;  // 8 int8
    using Sum = int;
    using QueryGroup = Two;

    static __device__ __forceinline__ Two query_group(const signed char* query) {
        return *reinterpret_cast<const Two*>(query);
    }

    static __device__ __forceinline__ Two zero() { return Two{0, 0}; }

    static __device__ __forceinline__ int add(int sum, const Two& row, const Two& query) {
        return __dp4a(static_cast<int>(row.y), static_cast<int>(query.y),
                      __dp4a(static_cast<int>(row.x), static_cast<int>(query.x), sum));
    }
};

// The sums of the thread's row with four queries; rows from `stop` on and queries beyond the last count as 0.
template <typename Kind, typename Row, typename Query>
__device__ __forceinline__ void score_tile(typename Kind::Sum (&sums)[QUERIES], const Row* rows, long long first_row,
                                           long long stop, int dim, const Query* queries, int first_query,
                                           int query_count, int tile_byte) {
    using RowGroup = typename Kind::RowGroup;
    using QueryGroup = typename Kind::QueryGroup;
    const int thread = static_cast<int>(threadIdx.x);
    const Shared<RowGroup> tile = shared_at<RowGroup>(tile_byte);
    const Shared<QueryGroup> asked =
        shared_at<QueryGroup>(tile_byte + ROWS * PITCH * static_cast<int>(sizeof(RowGroup)));
    for (int begin = 0; begin < dim; begin += GROUPS * GROUP) {
        const int groups = min(GROUPS, (dim - begin) / GROUP);
        for (int i = thread; i < ROWS * GROUPS; i += THREADS) {
            const int row = i / GROUPS, group = i % GROUPS;
            if (group < groups) {
                const Row* place = rows + (first_row + row) * dim + begin + group * GROUP;
                tile[row * PITCH + group] =
                    first_row + row < stop ? *reinterpret_cast<const RowGroup*>(place) : RowGroup{};
            }
        }
        for (int i = thread; i < QUERIES * groups; i += THREADS) {
            const int query = i / groups, group = i % groups;
            const Query* place = queries + static_cast<long long>(first_query + query) * dim + begin + group * GROUP;
            asked[query * GROUPS + group] = first_query + query < query_count ? Kind::query_group(place) : Kind::zero();
        }
        __syncthreads();
        for (int group = 0; group < groups; ++group) {
            const RowGroup row = tile[thread * PITCH + group];
#pragma unroll
            for (int query = 0; query < QUERIES; ++query) {
                const QueryGroup other = asked[query * GROUPS + group];
                sums[query] = Kind::add(sums[query], row, other);
            }
        }
        __syncthreads();
    }
}

// One block: its rows against its four queries. Keys of the best k are written to partial[block][query][k].
template <typename Kind, typename Row, typename Query, typename Finish>
__device__ __forceinline__ void best_of_range(const Row* rows, const unsigned char* passing, long long row_count,
                                              int dim, const Query* queries, int query_count, int k, int capacity,
                                              long long rows_per_block, Key* partial, const Finish& finish) {
    const int thread = static_cast<int>(threadIdx.x);
    const int first_query = static_cast<int>(blockIdx.y) * QUERIES;
    const int own_queries = min(QUERIES, query_count - first_query);
    const long long begin = static_cast<long long>(blockIdx.x) * rows_per_block;
    const long long stop = min(begin + rows_per_block, row_count);
    const int list_bytes = 2 * capacity * static_cast<int>(sizeof(Key));
    const Shared<int> counts = shared_at<int>(QUERIES * list_bytes);
    const int tile_byte = QUERIES * list_bytes + QUERIES * static_cast<int>(sizeof(int));
    const auto best_of = [&](int query) {
        return Best{shared_at<Key>(query * list_bytes), counts, query, capacity, k};
    };

    for (int query = 0; query < QUERIES; ++query) best_of(query).clear();
    for (long long first_row = begin; first_row < stop; first_row += ROWS) {
        typename Kind::Sum sums[QUERIES] = {};
        // Its barriers also part the offers below from what came before them.
        score_tile<Kind>(sums, rows, first_row, stop, dim, queries, first_query, query_count, tile_byte);
        const long long row = first_row + thread;
        if (row < stop && (passing == nullptr || passing[row])) {
#pragma unroll
            for (int query = 0; query < QUERIES; ++query) {
                if (query < own_queries) {
                    best_of(query).offer(key_from_score(finish(sums[query], row, first_query + query), row));
                }
            }
        }
        __syncthreads();
        for (int query = 0; query < own_queries; ++query) {
            if (best_of(query).newcomers() + ROWS > capacity) take_in(best_of(query));
        }
    }
    for (int query = 0; query < own_queries; ++query) {
        take_in(best_of(query));
        Key* kept = partial + (static_cast<long long>(blockIdx.x) * query_count + first_query + query) * k;
        for (int i = thread; i < k; i += THREADS) kept[i] = best_of(query).keys[i];
    }
}

}  // namespace

// First pass. Grid: (ceil(row_count / rows_per_block), ceil(query_count / 4)), 128 threads. `passing` may be
// null; otherwise rows with a 0 there take no part. `capacity` is a power of two, 256 or more, and not below k.

extern "C" __global__ void __launch_bounds__(THREADS)
    topk_f16(const unsigned short* rows, const unsigned char* passing, long long row_count, int dim,
             const float* queries, int query_count, int k, int capacity, long long rows_per_block, Key* partial) {
    best_of_range<HalfRows>(rows, passing, row_count, dim, queries, query_count, k, capacity, rows_per_block, partial,
                            [](float sum, long long, int) { return sum; });
}

extern "C" __global__ void __launch_bounds__(THREADS)
    topk_i8(const signed char* rows, const float* row_scales, const unsigned char* passing, long long row_count,
            int dim, const signed char* queries, const float* query_scales, int query_count, int k, int capacity,
            long long rows_per_block, Key* partial) {
    best_of_range<ByteRows>(rows, passing, row_count, dim, queries, query_count, k, capacity, rows_per_block, partial,
                            [&](int sum, long long row, int query) {
                                return static_cast<float>(sum) * row_scales[row] * query_scales[query];
                            });
}

// Second pass. Grid: (query_count), 128 threads. Missing places get row -1 and the score -inf.

extern "C" __global__ void __launch_bounds__(THREADS)
    topk_merge(const Key* partial, int parts, int query_count, int k, int capacity, long long base, long long* rows,
               float* scores) {
    const int thread = static_cast<int>(threadIdx.x);
    const auto query = static_cast<int>(blockIdx.x);
    const int list_bytes = 2 * capacity * static_cast<int>(sizeof(Key));
    const Best best{shared_at<Key>(0), shared_at<int>(list_bytes), 0, capacity, k};
    best.clear();
    __syncthreads();
    const long long total = static_cast<long long>(parts) * k;
    for (long long first = 0; first < total; first += THREADS) {
        const long long i = first + thread;
        if (i < total) best.offer(partial[(i / k * query_count + query) * k + i % k]);
        __syncthreads();
        const bool full = best.newcomers() + THREADS > capacity;
        __syncthreads();
        if (full) take_in(best);
    }
    take_in(best);
    for (int i = thread; i < k; i += THREADS) {
        const Key key = best.keys[i];
        rows[static_cast<long long>(query) * k + i] = key == 0 ? -1 : base + row_from_key(key);
        scores[static_cast<long long>(query) * k + i] = key == 0 ? __uint_as_float(0xff800000u) : score_from_key(key);
    }
}
