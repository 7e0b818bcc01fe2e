/* Work shared by threads: by OpenMP, or by the caller alone where the compiler has none. */
#ifndef NASREPRO_THREADS_H
#define NASREPRO_THREADS_H

#ifdef _OPENMP
#include <omp.h>
#endif

struct team {
    int me, size;
};

struct share {
    long first, last;
};

/* This member's part of n things: its ends are whole numbers, and all parts together are the n. */
static inline struct share share_of(struct team team, long n) {
    return (struct share){n * team.me / team.size, n * (team.me + 1) / team.size};
}

static inline void wait_for_all(void) {
#ifdef _OPENMP
#pragma omp barrier
#endif
}

/* Gradients that vanish over long sequences become denormal, and those are slow on many processors. Inside our parallel
 * regions they count as zero; every thread gets its own mode back at the end, so nobody else sees a difference. */
#if defined(__SSE__)
static inline unsigned flush_denormals(void) {
    const unsigned mode = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(mode | 0x8040);
    return mode;
}
static inline void restore_denormals(unsigned mode) { __builtin_ia32_ldmxcsr(mode); }
#else
static inline unsigned flush_denormals(void) { return 0; }
static inline void restore_denormals(unsigned mode) { (void)mode; }
#endif

/* Let `threads` members do the work, and come back when all have. There may be fewer than asked for. */
static inline void in_parallel(long threads, void (*work)(const void *what, struct team team), const void *what) {
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
    {
        const unsigned mode = flush_denormals();
        work(what, (struct team){omp_get_thread_num(), omp_get_num_threads()});
        restore_denormals(mode);
    }
#else
    (void)threads;
    const unsigned mode = flush_denormals();
    work(what, (struct team){0, 1});
    restore_denormals(mode);
#endif
}

#endif
