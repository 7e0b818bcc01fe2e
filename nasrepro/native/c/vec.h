/* Vectors of floats, as wide as the registers of the processor that this is compiled for.
 *
 * GCC's vector extensions, which clang has too: + - * / and comparisons work on whole vectors, and one source serves
 * AVX-512, AVX2, SSE2 and NEON.
 */
#ifndef NASREPRO_VEC_H
#define NASREPRO_VEC_H

#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#define REGISTERS 32
#elif defined(__AVX__)
#define LANES 8
#define REGISTERS 16
#else
#define LANES 4
#if defined(__aarch64__)
#define REGISTERS 32
#else
#define REGISTERS 16
#endif
#endif

#define INLINE static inline __attribute__((always_inline, unused))

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int ints __attribute__((vector_size(4 * LANES)));
/* The same vector at any address: rows of a tensor begin where they begin. */
typedef float loose_vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE vec all(float a) { return a - (vec){0}; }

/* The first n of LANES floats; the other lanes are 0. */
INLINE vec load(const float *from, long n) {
    if (n >= LANES) return *(const loose_vec *)from;
    vec v = {0};
    memcpy(&v, from, n * sizeof(float));
    return v;
}

INLINE void store(float *to, vec v, long n) {
    if (n >= LANES) *(loose_vec *)to = v;
    else memcpy(to, &v, n * sizeof(float));
}

/* where[i] ? a[i] : b[i] */
INLINE vec pick(ints where, vec a, vec b) { return (vec)((where & (ints)a) | (~where & (ints)b)); }

#endif
