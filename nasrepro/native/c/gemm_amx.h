/* Strips and micro-kernel for tile registers (AMX): 16 rows of 16 lanes each, multiplied 16 x 16 x 16 lanes at once.
 *
 * Part of gemm.h. The right operand's tile is 16 rows of a panel as packed there. The left one's is 16 rows of A, 16
 * lanes of each; a strip is a row of such tiles, two high: tile (row / 16, lane / 16) begins at 2 x 256 floats for each
 * 16 lanes, plus 256 for the lower one.
 */
#define TILE 256 /* floats, or lanes, in a tile register */

/* Linux gives a process tiles if it asks. 0 if it has them. */
#include <sys/syscall.h>
#include <unistd.h>
int ask_for_tiles(void) { return (int)syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */); }

/* Every thread says once how it uses the tiles, and lets go of them when done: oneDNN uses them in its own way. */
INLINE void begin_products(void) {
    struct {
        unsigned char palette, start_row, reserved[14];
        unsigned short bytes_per_row[16];
        unsigned char rows[16];
    } config = {.palette = 1};
    for (int t = 0; t < 8; t++) config.bytes_per_row[t] = 64, config.rows[t] = 16;
    /* not _tile_loadconfig: gcc 12 believes that it reads 8 bytes only, and leaves out storing the others */
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
}
INLINE void end_products(void) { _tile_release(); }

static void pack_strip(const float *a, long row_stride, long column_stride, long k, long rows, long i0, long i1,
                       float *strip) {
    for (long i = i0; i < i1; i += STEP, strip += 2 * TILE)
        for (long r = 0; r < rows; r += 16) {
            float *to = strip + r * 16;
            const long n = least(16, rows - r);
            if (row_stride != 1) {
                for (long j = 0; j < n; j++) store(to + 16 * j, lanes_along(a + (r + j) * row_stride, k, i), LANES);
                continue;
            }
            vec square[LANES];
            for (int l = 0; l < LANES; l++) square[l] = lanes_across(a + r, column_stride, k, i + l, n);
            transpose(square);
            for (long j = 0; j < n; j++) store(to + 16 * j, square[j], LANES);
        }
}

/* As in gemm.h. Rows of the strip beyond `rows` hold anything; what comes of them is not used. */
static void any_tile(long rows, int width, long lanes, const float *a, const float *b, float *c, long ldc,
                     int accumulate, const float *bias) {
    float sums[TILE_ROWS * PANEL] __attribute__((aligned(64)));
    const int low = rows > 16, right = width == PANEL;
    __asm__ volatile("" : : : "memory"); /* gcc does not know that loading a tile reads memory */
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (long i = 0; i < lanes; i += STEP, a += 2 * TILE, b += STEP * width) {
        _tile_loadd(4, a, 64);
        _tile_loadd(6, b, 4 * width);
        _tile_dpbf16ps(0, 4, 6);
        if (right) {
            _tile_loadd(7, b + 16, 4 * width);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (low) {
            _tile_loadd(5, a + TILE, 64);
            _tile_dpbf16ps(2, 5, 6);
            if (right) _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, sums, 4 * PANEL);
    _tile_stored(1, sums + 16, 4 * PANEL);
    _tile_stored(2, sums + 16 * PANEL, 4 * PANEL);
    _tile_stored(3, sums + 16 * PANEL + 16, 4 * PANEL);
    for (long r = 0; r < rows; r++)
        for (long j = 0; j < width; j += LANES) {
            vec sum = load(sums + r * PANEL + j, LANES);
            if (accumulate) sum += load(c + r * ldc + j, LANES);
            if (bias) sum += load(bias + j, LANES);
            store(c + r * ldc + j, sum, LANES);
        }
}
