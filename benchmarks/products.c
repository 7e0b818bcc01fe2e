/* One matrix product by gemm.h, shared by threads: C[rows, n] = A[rows, k] B[k, n]. */
#include "gemm.h"
#include "threads.h"

struct call {
    long rows, k, n;
    const float *a; /* its element (i, j) lies at i * a_strides[0] + j * a_strides[1]; one stride is 1; b's alike */
    long a_strides[2];
    const float *b;
    long b_strides[2];
    float *c; /* (rows, n) */
    float *packed, *scratch; /* (packed_floats), (threads, scratch_floats) */
    long is_packed;          /* B, by an earlier call */
};

long packed_floats(const struct call *call) { return packed_size(call->k, call->n); }
long scratch_floats(void) { return round_up(scratch_size(), 16); }

/* B is packed, by all threads; then each multiplies its share of the rows, or of the columns where those are more. */
static void member(const void *what, struct team team) {
    const struct call *call = what;
    const long panels = panel_count(call->n);
    const struct share of_panels = share_of(team, panels);
    begin_products();
    if (!call->is_packed)
        pack(call->b, call->b_strides[0], call->b_strides[1], call->k, call->n, call->packed, of_panels.first,
             of_panels.last);
    wait_for_all();
    const int by_rows = call->rows >= call->n;
    const struct share rows = by_rows ? share_of(team, call->rows) : (struct share){0, call->rows};
    const struct share columns = by_rows ? (struct share){0, panels} : of_panels;
    multiply(rows.last - rows.first, call->k, call->a + rows.first * call->a_strides[0], call->a_strides[0],
             call->a_strides[1], call->packed, call->n, columns.first, columns.last, call->c + rows.first * call->n,
             call->n, 0, 0, call->scratch + team.me * scratch_floats());
    end_products();
}

void product(const struct call *call, long threads) { in_parallel(threads, member, call); }
