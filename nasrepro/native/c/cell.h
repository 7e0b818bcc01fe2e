/* What a cell's generated kernels and the driver in loop.c agree on. */
#ifndef NASREPRO_CELL_H
#define NASREPRO_CELL_H

/* Buffers of rows. Python reads the names from here, in lower case; nasrepro/rnn/fused/plan.py says what they hold. */
enum space {
    X, X_BEFORE, POSITION, H, C, MASK, SUMS, SAVED, SAVED_WIDE, H_NEXT, C_NEXT,
    D_OUT, D_H_NEXT, D_C_NEXT, D_H, D_C, D_X, D_X_BEFORE, D_SUMS, D_STEP, D_EARLY, D_EARLY_WIDE,
    SPACES
};

/* Elementwise work of one level. at[s] is the first of `rows` rows of space s, which lie row[s] floats apart. Loops over
 * hidden units do units first .. last - 1, loops over input units do all. */
typedef void kernel(float *const *at, const long *row, long rows, long hidden, long input, long first, long last);

#endif
