/* Matrix products with one operand packed: C[rows, n] (+)= A[rows, k] B[k, n] (+ bias).
 *
 * A recurrent layer multiplies by the same matrix at every step, so B is packed once into the order in which it will be
 * read: panels of PANEL columns, each holding its rows one after the other (the last panel may be half as wide, with
 * AVX-512 also a quarter).
 *
 *     B (k x n)                     packed
 *     +-------+-------+---+         [row 0 of panel 0][row 1 of panel 0] ... [row 0 of panel 1] ...
 *     | panel | panel | p |
 *     |   0   |   1   | 2 |
 *     +-------+-------+---+
 *
 * A comes fresh and is copied strip by strip: TILE_ROWS rows, column after column. The micro-kernel `tile` then keeps a
 * tile of C, TILE_ROWS x PANEL, in registers while it walks down k. A very long k is cut into blocks, so that strips
 * stay in the caches.
 *
 * With PRODUCTS_BF16 both operands are packed as bfloat16 in pairs along k, two to a 32-bit lane, and sums stay float:
 * k floats become depth(k) lanes, half as many. Where the processor has tile registers (AMX), gemm_amx.h brings another
 * micro-kernel, and the strips that it wants.
 */
#ifndef NASREPRO_GEMM_H
#define NASREPRO_GEMM_H

#include "vec.h"

#if defined(PRODUCTS_BF16) && defined(__AMX_BF16__) && !defined(WITHOUT_TILES)
#define TILE_REGISTERS 1
#endif
#if defined(PRODUCTS_BF16) && defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#define PANEL (2 * LANES)
/* The narrowest panel. 200 columns are 25 of eight: with whole vectors a twenty-sixth of the work would be for nothing.
 * That saves time where a processor takes two passes for a vector; products of bfloat16 have no such panel. */
#if LANES == 16 && !defined(PRODUCTS_BF16)
#define NARROW 8
#else
#define NARROW LANES
#endif
/* Lanes of depth that are worked through at a time, and strips of A that are copied at a time: together a quarter of a
 * megabyte (AVX2), half of one (AVX-512) or one (AMX), for the second-level cache. To cut the depth further, for panels
 * that stay in the first level, costs more than it gains: C would come and go once for each cut. */
#define BLOCK 2400
#define STRIPS 4
#ifdef TILE_REGISTERS
#define TILE_ROWS 32
#define STEP 16 /* depth and blocks are whole steps */
#else
#define TILE_ROWS (REGISTERS == 32 ? 14 : 6)
#define STEP 1
#endif

static inline long least(long a, long b) { return a < b ? a : b; }
static inline long round_up(long a, long unit) { return (a + unit - 1) / unit * unit; }

/* Where so many floats lie in a memory that is given out piece by piece: in floats from its start. */
INLINE long take(long *size, long floats) {
    const long here = *size;
    *size += round_up(floats, 16); /* 64 bytes: a whole vector, a whole cache line */
    return here;
}

#ifdef PRODUCTS_BF16
#define ELEMENTS 2 /* of k in a lane */
#else
#define ELEMENTS 1
#endif
INLINE long depth(long k) { return round_up((k + ELEMENTS - 1) / ELEMENTS, STEP); }

INLINE long panel_count(long n) { return (n + PANEL - 1) / PANEL; }
INLINE int panel_width(long n, long panel) {
    const long columns = n - panel * PANEL;
    return columns <= NARROW ? NARROW : columns <= LANES ? LANES : PANEL;
}

/* Floats that a packed B of k rows and n columns takes. Packing stores whole vectors, so the last may overhang. */
static long packed_size(long k, long n) {
    if (!n) return 0;
    return depth(k) * ((panel_count(n) - 1) * PANEL + panel_width(n, panel_count(n) - 1)) + LANES - NARROW;
}

/* Floats that `multiply` needs to work in. */
static long scratch_size(void) { return STRIPS * TILE_ROWS * BLOCK + LANES; }

/* --- packing ------------------------------------------------------------------------------------------------- */

/* Reading lanes of an operand; beyond its depth they are 0. */
#ifdef PRODUCTS_BF16
/* bfloat16, rounded to nearest even, in the lower half of every lane. A NaN stays one: rounding could carry it over
 * into an infinity. */
INLINE ints bf16(vec a) {
    const ints bits = (ints)a;
    const ints rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return (ints)pick(a != a, (vec)((bits >> 16) | 0x40), (vec)rounded) & 0xffff;
}
INLINE vec pairs(vec even, vec odd) { return (vec)(bf16(even) | (bf16(odd) << 16)); }

/* LANES lanes along k from row `a`, beginning with lane i. */
INLINE vec lanes_along(const float *a, long k, long i) {
    const vec low = load(a + 2 * i, k - 2 * i), high = load(a + 2 * i + LANES, k - 2 * i - LANES);
#ifdef CAN_SHUFFLE
    return pairs(__builtin_shufflevector(low, high, EACH_LANE(TWICE, 0)),
                 __builtin_shufflevector(low, high, EACH_LANE(TWICE, 1)));
#else
    vec even, odd;
    for (int lane = 0; lane < LANES; lane++) {
        even[lane] = 2 * lane < LANES ? low[2 * lane] : high[2 * lane - LANES];
        odd[lane] = 2 * lane < LANES ? low[2 * lane + 1] : high[2 * lane + 1 - LANES];
    }
    return pairs(even, odd);
#endif
}

/* The lane i of n <= LANES neighbouring columns, whose elements lie `stride` apart. */
INLINE vec lanes_across(const float *a, long stride, long k, long i, long n) {
    const vec even = 2 * i < k ? load(a + 2 * i * stride, n) : (vec){0};
    return pairs(even, 2 * i + 1 < k ? load(a + (2 * i + 1) * stride, n) : (vec){0});
}
#else
INLINE vec lanes_along(const float *a, long k, long i) { return load(a + i, k - i); }
INLINE vec lanes_across(const float *a, long stride, long k, long i, long n) { return (void)k, load(a + i * stride, n); }
#endif

/* Rows of which lanes run along k, turned into columns: lane i0 + l of rows r0 ... r0 + n - 1 goes to
 * to[l * width], and as many vectors of it as LANES fit; rows from n on count as 0. */
INLINE void turn(const float *a, long row_stride, long n, long k, long i, long count, float *to, long width) {
    vec square[LANES];
    for (long r = 0; r < LANES; r++) square[r] = r < n ? lanes_along(a + r * row_stride, k, i) : (vec){0};
    transpose(square);
    for (long l = 0; l < count; l++) store(to + l * width, square[l], LANES);
}

/* `pack` for a B whose rows lie in memory as they are: row by row, as the processor likes to read, a few panels at a time
 * so that it writes to few places. */
static void pack_rows(const float *b, long row_stride, long k, long n, float *packed, long first, long last) {
    for (long p0 = first; p0 < last; p0 += 8)
        for (long i = 0; i < depth(k); i++)
            for (long p = p0; p < least(p0 + 8, last); p++) {
                const long width = panel_width(n, p);
                float *to = packed + p * PANEL * depth(k) + i * width;
                for (long j = 0; j < width; j += LANES) {
                    const long column = p * PANEL + j;
                    store(to + j, lanes_across(b + column, row_stride, k, i, n - column), LANES);
                }
            }
}

/* `pack` for a B whose columns lie in memory as rows: a weight that is applied transposed. */
static void pack_columns(const float *b, long column_stride, long k, long n, float *packed, long first, long last) {
    for (long p = first; p < last; p++) {
        const long width = panel_width(n, p);
        for (long j = 0; j < width; j += LANES) {
            const long column = p * PANEL + j;
            float *to = packed + p * PANEL * depth(k) + j;
            for (long i = 0; i < depth(k); i += LANES)
                turn(b + column * column_stride, column_stride, n - column, k, i, least(LANES, depth(k) - i),
                     to + i * width, width);
        }
    }
}

/* Panels first .. last - 1 of a B whose element (i, j) is b[i * row_stride + j * column_stride]; one stride is 1. */
static void pack(const float *b, long row_stride, long column_stride, long k, long n, float *packed, long first,
                 long last) {
    if (column_stride == 1) pack_rows(b, row_stride, k, n, packed, first, last);
    else pack_columns(b, column_stride, k, n, packed, first, last);
}

#ifdef TILE_REGISTERS
#include "gemm_amx.h"
#else
INLINE void begin_products(void) {}
INLINE void end_products(void) {}

/* Rows 0 .. rows - 1 of A, lanes i0 .. i1 - 1 of their depth: (i1 - i0, rows). What is stored beyond a column's end is
 * overwritten by the next column; after the last there is room for it. */
static void pack_strip(const float *a, long row_stride, long column_stride, long k, long rows, long i0, long i1,
                       float *strip) {
    for (long r = (rows - 1) / LANES * LANES; r >= 0; r -= LANES) { /* last first: what overhangs it is the first's */
        const long n = least(LANES, rows - r);
        if (row_stride == 1) /* A is stored transposed */
            for (long i = i0; i < i1; i++) {
                /* Too far apart for the processor to guess. */
                __builtin_prefetch(a + r + (i + 16) * ELEMENTS * column_stride);
                store(strip + (i - i0) * rows + r, lanes_across(a + r, column_stride, k, i, n), LANES);
            }
        else
            for (long i = i0; i < i1; i += LANES)
                turn(a + r * row_stride, row_stride, n, k, i, least(LANES, i1 - i), strip + (i - i0) * rows + r, rows);
    }
}

/* --- the micro-kernel ---------------------------------------------------------------------------------------- */

/* sums += (one lane of A, for all columns) x (a vector of lanes of B) */
INLINE vec multiply_add(vec sums, float a, vec b) {
#if defined(PRODUCTS_BF16) && defined(__AVX512BF16__)
    int pair;
    memcpy(&pair, &a, 4);
    return (vec)_mm512_dpbf16_ps((__m512)sums, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)b);
#elif defined(PRODUCTS_BF16)
    /* A bfloat16 is the upper half of a float, so each half of a lane becomes a float by moving bits alone. */
    const ints pairs_a = (ints)all(a), pairs_b = (ints)b, upper = (ints){0} - 65536;
    sums += (vec)(pairs_a << 16) * (vec)(pairs_b << 16);
    return sums + (vec)(pairs_a & upper) * (vec)(pairs_b & upper);
#else
    return sums + a * b;
#endif
}

#define EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13)

/* C[rows, vectors * LANES] = A B, plus C itself if we accumulate, plus the bias if there is one. `rows` and `vectors` are
 * constants wherever this is inlined, so the sums of rows that are not there fall away and the others are registers. C is
 * asked for at the beginning and touched at the end: by then it has come from wherever it was. */
INLINE void tile(const int rows, const int vectors, long lanes, const float *a, const float *b, float *c, long ldc,
                 int accumulate, const float *bias) {
#define BEGIN(r)                                                                                                       \
    vec left##r = {0}, right##r = {0};                                                                                 \
    if (r < rows) __builtin_prefetch(c + r * ldc, 1);                                                                  \
    if (r < rows && vectors == 2) __builtin_prefetch(c + r * ldc + LANES, 1);                                          \
    if (r < rows && bias) {                                                                                            \
        left##r += load(bias, LANES);                                                                                  \
        if (vectors == 2) right##r += load(bias + LANES, LANES);                                                       \
    }
#define MULTIPLY(r)                                                                                                    \
    if (r < rows) {                                                                                                    \
        left##r = multiply_add(left##r, a[r], b_left);                                                                 \
        if (vectors == 2) right##r = multiply_add(right##r, a[r], b_right);                                            \
    }
#define END(r)                                                                                                         \
    if (r < rows && accumulate) {                                                                                      \
        left##r += load(c + r * ldc, LANES);                                                                           \
        if (vectors == 2) right##r += load(c + r * ldc + LANES, LANES);                                                \
    }                                                                                                                  \
    if (r < rows) {                                                                                                    \
        store(c + r * ldc, left##r, LANES);                                                                            \
        if (vectors == 2) store(c + r * ldc + LANES, right##r, LANES);                                                 \
    }
    EACH_ROW(BEGIN)
    for (long i = 0; i < lanes; i++, a += rows, b += vectors * LANES) {
        const vec b_left = load(b, LANES), b_right = vectors == 2 ? load(b + LANES, LANES) : b_left;
        __builtin_prefetch(b + 32 * PANEL);
        if (vectors == 2) __builtin_prefetch(b + 32 * PANEL + LANES);
        EACH_ROW(MULTIPLY)
    }
    EACH_ROW(END)
#undef BEGIN
#undef MULTIPLY
#undef END
}

#if NARROW < LANES
typedef float narrow_vec __attribute__((vector_size(4 * NARROW), aligned(4), may_alias));

/* The same for a panel of NARROW columns. */
INLINE void narrow_tile(const int rows, long lanes, const float *a, const float *b, float *c, long ldc, int accumulate,
                        const float *bias) {
#define BEGIN(r)                                                                                                       \
    narrow_vec sum##r = {0};                                                                                           \
    if (r < rows && bias) sum##r += *(const narrow_vec *)bias;
#define MULTIPLY(r)                                                                                                    \
    if (r < rows) sum##r += a[r] * columns;
#define END(r)                                                                                                         \
    if (r < rows && accumulate) sum##r += *(const narrow_vec *)(c + r * ldc);                                          \
    if (r < rows) *(narrow_vec *)(c + r * ldc) = sum##r;
    EACH_ROW(BEGIN)
    for (long i = 0; i < lanes; i++, a += rows, b += NARROW) {
        const narrow_vec columns = *(const narrow_vec *)b;
        EACH_ROW(MULTIPLY)
    }
    EACH_ROW(END)
#undef BEGIN
#undef MULTIPLY
#undef END
}
#endif
#undef EACH_ROW

static void any_tile(long rows, int width, long lanes, const float *a, const float *b, float *c, long ldc,
                     int accumulate, const float *bias) {
#if NARROW < LANES
#define UNLESS_NARROW(r)                                                                                               \
    if (width == NARROW) narrow_tile(r, lanes, a, b, c, ldc, accumulate, bias);                                        \
    else
#else
#define UNLESS_NARROW(r)
#endif
#define TILE(r)                                                                                                        \
    case r:                                                                                                            \
        UNLESS_NARROW(r)                                                                                               \
        if (width == PANEL) tile(r, 2, lanes, a, b, c, ldc, accumulate, bias);                                         \
        else tile(r, 1, lanes, a, b, c, ldc, accumulate, bias);                                                        \
        break;
    switch (rows) {
        TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)
#if REGISTERS == 32
        TILE(7) TILE(8) TILE(9) TILE(10) TILE(11) TILE(12) TILE(13) TILE(14)
#endif
    }
#undef TILE
#undef UNLESS_NARROW
}

#endif

/* The same where C has only the first `columns` of the tile's columns: through a copy of the tile. */
static void edge_tile(long rows, int width, long columns, long lanes, const float *a, const float *b, float *c,
                      long ldc, int accumulate, const float *bias) {
    float copy[TILE_ROWS * PANEL] = {0}, whole_bias[PANEL] = {0};
    if (accumulate)
        for (long r = 0; r < rows; r++) memcpy(copy + r * PANEL, c + r * ldc, columns * sizeof(float));
    if (bias) memcpy(whole_bias, bias, columns * sizeof(float));
    any_tile(rows, width, lanes, a, b, copy, PANEL, accumulate, bias ? whole_bias : 0);
    for (long r = 0; r < rows; r++) memcpy(c + r * ldc, copy + r * PANEL, columns * sizeof(float));
}

/* --- the product --------------------------------------------------------------------------------------------- */

/* C[rows, n] (+)= A B (+ bias), for panels first .. last - 1 of B only. Element (i, j) of A is
 * a[i * row_stride + j * column_stride], C's rows lie ldc apart. */
static void multiply(long rows, long k, const float *a, long row_stride, long column_stride, const float *packed,
                     long n, long first, long last, float *c, long ldc, int accumulate, const float *bias,
                     float *scratch) {
    const long strips = (rows + TILE_ROWS - 1) / TILE_ROWS;
    const long blocks = (depth(k) + BLOCK - 1) / BLOCK;
    for (long block = 0; block < blocks; block++) {
        const long i0 = depth(k) / STEP * block / blocks * STEP, i1 = depth(k) / STEP * (block + 1) / blocks * STEP;
        for (long s0 = 0; s0 < strips; s0 += STRIPS) {
            const long s1 = least(s0 + STRIPS, strips);
            for (long s = s0; s < s1; s++) {
                const long r0 = rows * s / strips, r1 = rows * (s + 1) / strips;
                pack_strip(a + r0 * row_stride, row_stride, column_stride, k, r1 - r0, i0, i1,
                           scratch + (s - s0) * TILE_ROWS * BLOCK);
            }
            for (long p = first; p < last; p++) {
                const int width = panel_width(n, p);
                const long columns = least(width, n - p * PANEL);
                const float *b = packed + p * PANEL * depth(k) + i0 * width;
                for (long s = s0; s < s1; s++) {
                    const long r0 = rows * s / strips, r1 = rows * (s + 1) / strips;
                    const float *strip = scratch + (s - s0) * TILE_ROWS * BLOCK;
                    float *to = c + r0 * ldc + p * PANEL;
                    const float *add = bias && block == 0 ? bias + p * PANEL : 0;
                    if (columns == width)
                        any_tile(r1 - r0, width, i1 - i0, strip, b, to, ldc, accumulate || block, add);
                    else
                        edge_tile(r1 - r0, width, columns, i1 - i0, strip, b, to, ldc, accumulate || block, add);
                }
            }
        }
    }
}

#endif
