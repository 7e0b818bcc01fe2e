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
    /* One instruction, where copying a number of bytes that varies is a call. A sanitizer would not see it overrun. */
#if LANES == 16 && !defined(__SANITIZE_ADDRESS__)
    return __builtin_ia32_loadups512_mask((const void *)from, (vec){0}, n > 0 ? (1u << n) - 1 : 0);
#elif LANES == 8 && !defined(__SANITIZE_ADDRESS__)
    const ints lane = {0, 1, 2, 3, 4, 5, 6, 7};
    return (vec)__builtin_ia32_maskloadps256((const void *)from, (ints)(lane < (int)n));
#else
    vec v = {0};
    if (n > 0) memcpy(&v, from, n * sizeof(float));
    return v;
#endif
}

INLINE void store(float *to, vec v, long n) {
    if (n >= LANES) *(loose_vec *)to = v;
    else memcpy(to, &v, n * sizeof(float));
}

/* --- transposing: LANES vectors as the rows of a square become its columns --------------------------------------- */

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define CAN_SHUFFLE 1
#endif
#endif

#ifdef CAN_SHUFFLE
#if LANES == 16
#define EACH_LANE(OF, d)                                                                                               \
    OF(0, d), OF(1, d), OF(2, d), OF(3, d), OF(4, d), OF(5, d), OF(6, d), OF(7, d), OF(8, d), OF(9, d), OF(10, d),     \
        OF(11, d), OF(12, d), OF(13, d), OF(14, d), OF(15, d)
#elif LANES == 8
#define EACH_LANE(OF, d) OF(0, d), OF(1, d), OF(2, d), OF(3, d), OF(4, d), OF(5, d), OF(6, d), OF(7, d)
#else
#define EACH_LANE(OF, d) OF(0, d), OF(1, d), OF(2, d), OF(3, d)
#endif
#define TWICE(lane, d) (2 * (lane) + (d))
#define LOW(lane, d) ((lane) & (d) ? LANES + (lane) - (d) : (lane))
#define HIGH(lane, d) ((lane) & (d) ? LANES + (lane) : (lane) + (d))

/* Swap the off-diagonal d x d blocks of every 2d x 2d block on the diagonal. */
#define EXCHANGE(d)                                                                                                    \
    for (int i = 0; i < LANES; i++)                                                                                    \
        if (!(i & (d))) {                                                                                              \
            const vec low = __builtin_shufflevector(rows[i], rows[i + (d)], EACH_LANE(LOW, d));                        \
            rows[i + (d)] = __builtin_shufflevector(rows[i], rows[i + (d)], EACH_LANE(HIGH, d));                       \
            rows[i] = low;                                                                                             \
        }

INLINE void transpose(vec rows[LANES]) {
#if LANES == 16
    EXCHANGE(8)
#endif
#if LANES >= 8
    EXCHANGE(4)
#endif
    EXCHANGE(2)
    EXCHANGE(1)
}
#undef EXCHANGE
#else
INLINE void transpose(vec rows[LANES]) {
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < i; j++) {
            const float swapped = rows[i][j];
            rows[i][j] = rows[j][i];
            rows[j][i] = swapped;
        }
}
#endif

/* where[i] ? a[i] : b[i] */
INLINE vec pick(ints where, vec a, vec b) { return (vec)((where & (ints)a) | (~where & (ints)b)); }

#endif
