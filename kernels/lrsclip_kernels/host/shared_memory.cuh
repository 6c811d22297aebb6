// Shared memory whose every access is checked.

#pragma once

#include "block.cuh"

namespace shim {

enum class Access { READ, WRITE, ADD };

// Check one access of the running thread against the accesses of others since the last barrier.
inline void check(Access access, std::size_t byte, std::size_t bytes, std::size_t alignment) {
    Block& own = block();
    const char* verb = access == Access::READ ? "read" : access == Access::WRITE ? "write" : "addition";
    if (byte % alignment != 0) own.fail("%s at byte %zu of shared memory, aligned to %zu", verb, byte, alignment);
    if (byte + bytes > own.arena_bytes || byte + bytes < bytes) {
        own.fail("%s of %zu bytes at byte %zu of %zu bytes of shared memory", verb, bytes, byte, own.arena_bytes);
    }
    for (std::size_t i = byte / 4; i < (byte + bytes) / 4; ++i) {
        Word& word = own.words[i];
        const bool written_by_another = word.written == own.interval && word.writer != own.thread;
        const bool read_by_another = word.read == own.interval && word.reader != own.thread;
        if (access != Access::WRITE && word.written == 0) own.fail("%s of byte %zu, never written", verb, 4 * i);
        if (access == Access::ADD) {
            if (word.added != own.interval && (written_by_another || read_by_another)) {
                own.fail("race: %s at byte %zu, used by another thread", verb, 4 * i);
            }
            word.added = own.interval;
            continue;
        }
        if (word.added == own.interval) own.fail("race: %s of byte %zu, an atomic's", verb, 4 * i);
        if (written_by_another) own.fail("race: %s of byte %zu, written by thread %d", verb, 4 * i, word.writer);
        if (access == Access::READ) {
            word.reader = word.read == own.interval && word.reader != own.thread ? Word::SEVERAL : own.thread;
            word.read = own.interval;
        } else {
            if (read_by_another) own.fail("race: write of byte %zu, read by another thread", 4 * i);
            word.written = own.interval;
            word.writer = own.thread;
        }
    }
}

}  // namespace shim

// Stands for T* into shared memory.
template <typename T>
class Shared {
    static_assert(sizeof(T) % 4 == 0 && std::is_trivially_copyable_v<T>, "accesses are checked by words of 4 bytes");

  public:
    explicit Shared(std::size_t byte) : byte_(byte) {}

    class Element {
      public:
        explicit Element(std::size_t byte) : byte_(byte) {}
        operator T() const {
            shim::check(shim::Access::READ, byte_, sizeof(T), alignof(T));
            T value;
            std::memcpy(&value, shim::block().arena.get() + byte_, sizeof value);
            return value;
        }
        Element& operator=(const T& value) {
            shim::check(shim::Access::WRITE, byte_, sizeof(T), alignof(T));
            std::memcpy(shim::block().arena.get() + byte_, &value, sizeof value);
            return *this;
        }
        Element& operator=(const Element& other) { return *this = static_cast<T>(other); }
        T add(T amount) {
            shim::check(shim::Access::ADD, byte_, sizeof(T), alignof(T));
            T before;
            std::memcpy(&before, shim::block().arena.get() + byte_, sizeof before);
            const T after = before + amount;
            std::memcpy(shim::block().arena.get() + byte_, &after, sizeof after);
            return before;
        }

      private:
        std::size_t byte_;
    };

    Element operator[](long long index) const { return Element(byte_ + static_cast<std::size_t>(index) * sizeof(T)); }
    Shared operator+(long long count) const { return Shared(byte_ + static_cast<std::size_t>(count) * sizeof(T)); }

  private:
    std::size_t byte_;
};

template <typename T>
Shared<T> shared_at(int byte) {
    return Shared<T>(static_cast<std::size_t>(byte));
}

inline int atomic_add(Shared<int> values, int index, int amount) { return values[index].add(amount); }
