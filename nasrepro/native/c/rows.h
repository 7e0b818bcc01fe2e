/* How a generated kernel goes over rows: its elementwise work is a loop over whole vectors of units. */
#ifndef NASREPRO_ROWS_H
#define NASREPRO_ROWS_H

#include "cell.h"
#include "vec.h"

/* A column block of a space. */
struct place {
    short space, column, wide, written;
};

/* Units j ... end - 1 of one row, a multiple of LANES of them; at[i] is where place i begins in the row. */
typedef void unit_loop(float *const *at, long j, long end);

/* The last units of a row need not fill a vector. They are worked on in a copy that does, so that the loop is compiled
 * only once, for whole vectors. */
static inline void over_rows(const struct place *places, int count, unit_loop *work, float *const *at, const long *row,
                             long rows, long hidden, long input, long first, long last) {
    const long whole = first + (last - first) / LANES * LANES, rest = (last - whole) * sizeof(float);
    float *here[count], *copy_at[count], copies[count][LANES];
    memset(copies, 0, sizeof copies);
    for (int i = 0; i < count; i++) copy_at[i] = copies[i];
    for (long r = 0; r < rows; r++) {
        for (int i = 0; i < count; i++)
            here[i] = at[places[i].space] + r * row[places[i].space] + places[i].column * (places[i].wide ? input : hidden);
        work(here, first, whole);
        if (!rest) continue;
        for (int i = 0; i < count; i++) memcpy(copies[i], here[i] + whole, rest);
        work(copy_at, 0, LANES);
        for (int i = 0; i < count; i++)
            if (places[i].written) memcpy(here[i] + whole, copies[i], rest);
    }
}

#define KERNEL_ARGUMENTS                                                                                               \
    float *const *at, const long *row, long rows, long hidden, long input, long first, long last
#define OVER_ROWS(places, work, from, to)                                                                              \
    over_rows(places, sizeof(places) / sizeof(*places), work, at, row, rows, hidden, input, from, to);                 \
    (void)first, (void)last

#endif
