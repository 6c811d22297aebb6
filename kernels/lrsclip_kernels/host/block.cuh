// A block of threads: fibres that run from barrier to barrier.

#pragma once

#include <cstdarg>
#include <cstdio>
#include <functional>
#include <memory>
#include <numeric>
#include <vector>

#include "fibre.cuh"

namespace shim {

struct Index {
    unsigned x, y, z;
    unsigned long long count() const { return 1ull * x * y * z; }
};

inline Index index_from_number(unsigned long long number, const Index& shape) {
    return {static_cast<unsigned>(number % shape.x), static_cast<unsigned>(number / shape.x % shape.y),
            static_cast<unsigned>(number / shape.x / shape.y)};
}

// SplitMix64: a seed gives the same schedule everywhere.
class Random {
  public:
    explicit Random(unsigned long long seed) : state_(seed) {}

    unsigned long long below(unsigned long long end) {
        unsigned long long z = state_ += 0x9e3779b97f4a7c15ull;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ z >> 27) * 0x94d049bb133111ebull;
        return (z ^ z >> 31) % end;
    }

    template <typename T>
    void shuffle(std::vector<T>& values) {
        for (std::size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[below(i)]);
    }

  private:
    unsigned long long state_;
};

// What threads did to a word of shared memory; intervals between barriers count from 1, 0 is never.
struct Word {
    static constexpr int SEVERAL = -1;
    unsigned written = 0, read = 0, added = 0;
    int writer = 0, reader = 0;
};

class Block {
  public:
    static constexpr unsigned char POISON = 0xa5;

    Index index{}, shape{}, grid{};
    std::unique_ptr<unsigned char[]> arena;
    std::size_t arena_bytes = 0;
    std::vector<Word> words;
    unsigned interval = 1;
    int thread = 0;

    void prepare(const Index& grid_shape, const Index& block_shape, std::size_t shared_bytes,
                 const std::function<void()>& kernel) {
        grid = grid_shape;
        shape = block_shape;
        kernel_ = &kernel;
        report_[0] = '\0';
        arena_bytes = shared_bytes;
        arena = std::make_unique<unsigned char[]>(shared_bytes);
        const auto count = static_cast<std::size_t>(shape.count());
        if (threads_.size() < count) {
            stacks_ = std::make_unique<Stacks>(count);
            threads_.resize(count);
        }
    }

    // Every thread from its beginning to its end; false if something went wrong.
    bool run(const Index& where, Random& random) {
        index = where;
        std::memset(arena.get(), POISON, arena_bytes);
        words.assign((arena_bytes + 3) / 4, Word());
        interval = 1;
        const auto count = static_cast<std::size_t>(shape.count());
        order_.resize(count);
        std::iota(order_.begin(), order_.end(), 0);
        for (std::size_t i = 0; i < count; ++i) threads_[i].fibre.start(stacks_->bottom(i), enter);
        do {
            random.shuffle(order_);
            for (const int next : order_) {
                thread = next;
                threads_[next].line = 0;
                scheduler_.switch_to(threads_[next].fibre);
                if (report_[0]) return false;
            }
            ++interval;
        } while (all_wait());
        return !report_[0];
    }

    void barrier(int line) {
        threads_[thread].line = line;
        threads_[thread].fibre.switch_to(scheduler_);
    }

    // Note what went wrong and leave the launch; the fibres are not entered again.
    [[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 2, 3))) {
        const int begin = std::snprintf(report_, sizeof report_, "block (%u, %u, %u), thread %d: ", index.x, index.y,
                                        index.z, thread);
        va_list values;
        va_start(values, format);
        std::vsnprintf(report_ + begin, sizeof report_ - begin, format, values);
        va_end(values);
        threads_[thread].fibre.switch_to(scheduler_);
        std::abort();
    }

    Index thread_index() const { return index_from_number(thread, shape); }
    const char* report() const { return report_; }

  private:
    struct Thread {
        Fibre fibre;
        int line = 0;  // of the barrier it waits at, 0 once it has ended
    };

    static void enter();

    // After a round: false when all threads have ended, or some have and others wait for them.
    bool all_wait() {
        const int line = threads_[0].line;
        for (const int other : order_) {
            if (threads_[other].line != line) {
                std::snprintf(report_, sizeof report_, "block (%u, %u, %u): thread 0 %s line %d, thread %d %s line %d",
                              index.x, index.y, index.z, line ? "waits at the barrier of" : "has ended,", line, other,
                              threads_[other].line ? "at the barrier of" : "has ended,", threads_[other].line);
                return false;
            }
        }
        return line != 0;
    }

    const std::function<void()>* kernel_ = nullptr;
    std::unique_ptr<Stacks> stacks_;
    std::vector<Thread> threads_;
    std::vector<int> order_;
    Fibre scheduler_;
    char report_[256] = "";
};

// The block that runs. Not inline: a process would then have one for all libraries that it loads.
static Block& block() {
    static Block only;
    return only;
}

inline void Block::enter() {
    Block& self = block();
    Thread& own = self.threads_[self.thread];
    own.fibre.arrived(self.scheduler_);
    (*self.kernel_)();
    own.line = 0;
    own.fibre.switch_to(self.scheduler_);
    std::abort();  // an ended fibre is never entered again
}

inline const char* run_grid(const Index& grid, const Index& shape, unsigned shared_bytes, unsigned long long seed,
                            const std::function<void()>& kernel) {
    if (grid.count() == 0) return "the grid has no block";
    if (shape.count() == 0 || shape.count() > 1024) return "a block needs 1 to 1024 threads";
    Random random(seed);
    std::vector<unsigned long long> order(grid.count());
    std::iota(order.begin(), order.end(), 0ull);
    random.shuffle(order);
    block().prepare(grid, shape, shared_bytes, kernel);
    for (const unsigned long long number : order) {
        if (!block().run(index_from_number(number, grid), random)) return block().report();
    }
    return nullptr;
}

}  // namespace shim
