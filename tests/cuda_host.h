// Enough of CUDA C++ for g++ to build a kernel's own text and run it on the host, with no GPU.
//
// One block runs at a time, each of its threads as a fiber with a stack of its own. A barrier or a shuffle hands
// control to the next fiber, so that all threads reach it before any goes on, and __shared__ can be a static array.
// Threads run in rising or in falling order: code that lacks a barrier gives different results in the two. Not
// modelled: the memory model, warps whose lanes part ways, and what a shuffle reads from a lane that has ended.
#pragma once
#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <utility>
#include <vector>

struct dim3 {
    unsigned x, y, z;
};

namespace cuda_host {

constexpr size_t stack_bytes = 64 * 1024;
constexpr int divergent_barrier = 1, wrong_argument = 2;

struct Fiber {
    ucontext_t context;
    jmp_buf resume;
    dim3 thread;
    bool started, done;
    unsigned long long exchanged;  // what this lane offers to a shuffle
    char* stack = static_cast<char*>(malloc(stack_bytes));
};

inline std::vector<Fiber> fibers;
inline Fiber* current;
inline jmp_buf scheduler;
inline void (*body)(void*);
inline void* body_argument;
inline dim3 grid, block, block_index;
inline bool reversed, diverged;

inline void enter() {
    body(body_argument);
    current->done = true;
    _longjmp(scheduler, 1);
}

inline void yield() {
    if (_setjmp(current->resume) == 0) _longjmp(scheduler, 1);
}

inline void run_until_yield(Fiber& fiber) {
    current = &fiber;
    if (_setjmp(scheduler) != 0) return;
    if (fiber.started) _longjmp(fiber.resume, 1);
    fiber.started = true;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = stack_bytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
    setcontext(&fiber.context);
}

inline void run_block(unsigned threads) {
    for (unsigned t = 0; t < threads; t++) {
        fibers[t].started = fibers[t].done = false;
        fibers[t].thread = {t % block.x, t / block.x % block.y, t / (block.x * block.y)};
    }
    for (unsigned alive = threads; alive > 0;) {
        unsigned ended = 0, waiting = 0;
        for (unsigned i = 0; i < threads; i++) {
            Fiber& fiber = fibers[reversed ? threads - 1 - i : i];
            if (fiber.done) continue;
            run_until_yield(fiber);
            fiber.done ? ended++ : waiting++;
        }
        // On a GPU a barrier waits for all threads that have not ended, but no shuffle does.
        if (ended && waiting) diverged = true;
        alive -= ended;
    }
}

template <class Call> void run_grid(dim3 grid_size, dim3 block_size, Call call) {
    grid = grid_size, block = block_size;
    unsigned threads = block.x * block.y * block.z;
    if (fibers.size() < threads) fibers.resize(threads);
    body = [](void* argument) { (*static_cast<Call*>(argument))(); };
    body_argument = &call;
    for (block_index.z = 0; block_index.z < grid.z; block_index.z++)
        for (block_index.y = 0; block_index.y < grid.y; block_index.y++)
            for (block_index.x = 0; block_index.x < grid.x; block_index.x++) run_block(threads);
}

template <class... P, size_t... I>
void call(void (*kernel)(P...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<P*>(arguments[I])...);
}

// As cuLaunchKernel: a pointer to each argument. Their sizes are compared with the kernel's own parameters.
template <class... P>
int launch(void (*kernel)(P...), const unsigned* sizes, void** arguments, const size_t* bytes, size_t count,
           int order) {
    size_t wanted[] = {sizeof(P)...};
    if (count != sizeof...(P) || !std::equal(wanted, wanted + count, bytes)) return wrong_argument;
    reversed = order, diverged = false;
    run_grid({sizes[0], sizes[1], sizes[2]}, {sizes[3], sizes[4], sizes[5]},
             [&] { call(kernel, arguments, std::index_sequence_for<P...>{}); });
    return diverged ? divergent_barrier : 0;
}

inline unsigned self() { return current - &fibers[0]; }

template <class T> T from_lane(T value, unsigned source) {
    unsigned warp = self() & ~31u;
    memcpy(&current->exchanged, &value, sizeof value);
    yield();
    T result;
    memcpy(&result, &fibers[warp + (source & 31)].exchanged, sizeof result);
    yield();
    return result;
}

}  // namespace cuda_host

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __shared__ static
#define threadIdx (cuda_host::current->thread)
#define blockIdx (cuda_host::block_index)
#define blockDim (cuda_host::block)
#define gridDim (cuda_host::grid)

inline void __syncthreads() { cuda_host::yield(); }
template <class T> T __shfl_down_sync(unsigned, T v, unsigned d) {
    unsigned lane = cuda_host::self() & 31;
    return cuda_host::from_lane(v, lane + d < 32 ? lane + d : lane);
}
template <class T> T __shfl_sync(unsigned, T v, unsigned lane) { return cuda_host::from_lane(v, lane); }
inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
inline float from_half_bits(unsigned short bits) {
    _Float16 x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
inline unsigned short to_half_bits(float value) {
    _Float16 x = value;
    unsigned short bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
using std::max;
using std::min;
