// Fibres: stacks of their own that are switched without the system's help.
//
// swapcontext asks the kernel for the signal mask at each switch, which costs more than the work between two
// barriers; on x86-64 a few instructions do instead.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include <sys/mman.h>

#if !defined(__x86_64__) || defined(LRSCLIP_UCONTEXT)
#define LRSCLIP_UCONTEXT 1
#include <ucontext.h>
#endif

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace shim {

// Stacks of equal size in one mapping, each below it a page that may not be touched.
class Stacks {
  public:
    static constexpr std::size_t PAGE = 4096, BYTES = 128 * 1024;

    explicit Stacks(std::size_t count) : length_(count * (PAGE + BYTES)) {
        void* base = mmap(nullptr, length_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (base == MAP_FAILED) std::abort();
        base_ = static_cast<unsigned char*>(base);
        for (std::size_t i = 0; i < count; ++i) {
            if (mprotect(base_ + i * (PAGE + BYTES), PAGE, PROT_NONE) != 0) std::abort();
        }
    }
    ~Stacks() { munmap(base_, length_); }
    Stacks(const Stacks&) = delete;
    Stacks& operator=(const Stacks&) = delete;

    unsigned char* bottom(std::size_t index) const { return base_ + index * (PAGE + BYTES) + PAGE; }

  private:
    std::size_t length_;
    unsigned char* base_;
};

#ifdef LRSCLIP_UCONTEXT

class Context {
  public:
    void start(unsigned char* bottom, void (*entry)()) {
        getcontext(&state_);
        state_.uc_stack.ss_sp = bottom;
        state_.uc_stack.ss_size = Stacks::BYTES;
        state_.uc_link = nullptr;
        makecontext(&state_, entry, 0);
    }
    void switch_to(Context& other) { swapcontext(&state_, &other.state_); }

  private:
    ucontext_t state_{};
};

#else

extern "C" void lrsclip_switch(void** save, void* load);
asm(R"(
    .text
    .type lrsclip_switch, @function
lrsclip_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size lrsclip_switch, .-lrsclip_switch
)");

class Context {
  public:
    void start(unsigned char* bottom, void (*entry)()) {
        // Six registers, the entry as return address, and above it the place of a return address: the entry
        // finds the stack as after a call.
        auto* top = reinterpret_cast<std::uintptr_t*>(bottom + Stacks::BYTES) - 8;
        for (int i = 0; i < 8; ++i) top[i] = 0;
        top[6] = reinterpret_cast<std::uintptr_t>(entry);
        pointer_ = top;
    }
    void switch_to(Context& other) { lrsclip_switch(&pointer_, other.pointer_); }

  private:
    void* pointer_ = nullptr;
};

#endif

// A context together with what AddressSanitizer wants to know about its stack.
class Fibre {
  public:
    void start(unsigned char* bottom, void (*entry)()) {
        bottom_ = bottom;
#ifdef __SANITIZE_ADDRESS__
        __asan_unpoison_memory_region(bottom, Stacks::BYTES);  // frames of a fibre that was never left
#endif
        context_.start(bottom, entry);
    }

    void switch_to(Fibre& other) {
#ifdef __SANITIZE_ADDRESS__
        __sanitizer_start_switch_fiber(&fake_stack_, other.bottom_, other.bytes_);
        context_.switch_to(other.context_);
        __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
#else
        context_.switch_to(other.context_);
#endif
    }

    // First thing in an entry: `from` is the system's own stack, whose place is only known here.
    void arrived([[maybe_unused]] Fibre& from) {
#ifdef __SANITIZE_ADDRESS__
        const void* bottom;
        std::size_t bytes;
        __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
        from.bottom_ = bottom;
        from.bytes_ = bytes;
#endif
    }

  private:
    Context context_;
    const void* bottom_ = nullptr;
    std::size_t bytes_ = Stacks::BYTES;
    void* fake_stack_ = nullptr;
};

}  // namespace shim
