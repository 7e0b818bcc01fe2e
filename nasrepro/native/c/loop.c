/* Runs the plan of a cell over a sequence: forward, and backward through time. One call each, for any cell.
 *
 *     forward    pack the weights; the part before the loop, all T * B rows at once; then T steps
 *     backward   pack the weights the other way round; T steps in reverse; the part before the loop; then the weight
 *                gradients, each one product over all T * B rows
 *
 * What a cell computes elementwise comes in as kernels (generated C), what it multiplies as a table of runs.
 *
 * Work is split over threads by rows of the batch: every thread takes its sequences through all steps and waits for
 * nobody. With few rows per thread that would read all weights for little work, so then each thread takes some columns
 * of every product instead, and they meet after each.
 */
#include <math.h>
#include <stdint.h>

#include "cell.h"
#include "gemm.h"
#include "threads.h"

struct space_layout {
    float *base;
    long step, row; /* floats from one step, and from one row of the batch, to the next */
};

/* sums[target ...] (+)= source x weight^T + bias, weight (n, k). Backward: gradient (+)= d_sums[target ...] x weight. */
struct run {
    long source, source_column; /* space, and where in its rows */
    long gradient, gradient_column; /* the same for the source's gradient; space -1 if nobody wants it */
    long target_column;
    long k, n;
    long accumulate, gradient_accumulates;
    long operand; /* number of the source among those that weight gradients are computed from */
    const float *weight, *bias;
    float *weight_gradient, *bias_gradient; /* NULL if nobody wants it */
};

struct operand {
    long space, column, k;
};

struct norm {
    long source, source_column, target, target_column;
    long gradient, gradient_column, source_gradient, source_gradient_column;
    long width, accumulates;
};

struct level {
    long first_run, last_run, first_norm, last_norm;
    kernel *forward, *backward; /* NULL if there is nothing to do */
};

struct call {
    long steps, batch, hidden, input;
    long threads, by_columns;
    long levels_before, levels; /* those before the loop come first */
    long runs, operands;
    long writes_h, writes_c;    /* whether anything is written to D_H and D_C */
    const struct level *level;
    const struct run *run;
    const struct norm *norm;
    const struct operand *operand;
    const int64_t *lengths; /* (batch), or NULL when all sequences are `steps` long */
    float *scratch;
    struct space_layout space[SPACES];
};

/* --- where things lie in the scratch memory ------------------------------------------------------------------- */

struct layout {
    long packed[256], operand[256], strips; /* floats from the start of the scratch memory */
    long size;
};

static struct layout lay_out(const struct call *call, int backward) {
    struct layout layout = {.size = 0};
    for (long i = 0; i < call->runs; i++) {
        const struct run *run = call->run + i;
        layout.packed[i] = take(&layout.size, backward ? packed_size(run->n, run->k) : packed_size(run->k, run->n));
    }
    for (long i = 0; backward && i < call->operands; i++)
        layout.operand[i] = take(&layout.size, packed_size(call->steps * call->batch, call->operand[i].k));
    layout.strips = take(&layout.size, call->threads * round_up(scratch_size(), 16));
    return layout;
}

/* The most runs that a cell may have. */
long most_runs(void) { return sizeof(((struct layout *)0)->packed) / sizeof(long); }

/* Floats of scratch memory that forward or backward needs; it must begin at a multiple of 64 bytes. */
long scratch_floats(const struct call *call, int backward) { return lay_out(call, backward).size; }

/* --- rows ------------------------------------------------------------------------------------------------------ */

/* Some rows of all spaces, and the share of their columns that this thread works on. */
struct rows {
    float *at[SPACES];
    long row[SPACES];
    long count;
    struct share units;
    struct team team; /* of one when the rows are this thread's own */
};

static struct rows rows_of(const struct call *call, long step, long first, long count, struct team team) {
    struct rows rows = {.count = count, .units = share_of(team, call->hidden), .team = team};
    for (int s = 0; s < SPACES; s++) {
        const struct space_layout *space = call->space + s;
        rows.at[s] = space->base ? space->base + step * space->step + first * space->row : 0;
        rows.row[s] = space->row;
    }
    return rows;
}

/* Threads that share rows wait for each other; one that has its own goes on. */
static void meet(const struct rows *rows) {
    if (rows->team.size > 1) wait_for_all();
}

static void run_kernel(const struct call *call, kernel *work, const struct rows *rows) {
    if (work) work(rows->at, rows->row, rows->count, call->hidden, call->input, rows->units.first, rows->units.last);
    meet(rows);
}

/* --- layer normalisation: y = (a - mean(a)) / sqrt(var(a) + 1e-5) over each row --------------------------------- */

/* Sum over a row of (a - shift) * (b - shift), or of a alone without b. */
static float sum(const float *a, const float *b, float shift, long width) {
    vec total = {0};
    long j = 0;
    for (; j + LANES <= width; j += LANES)
        total += b ? (load(a + j, LANES) - shift) * (load(b + j, LANES) - shift) : load(a + j, LANES);
    float rest = 0;
    for (; j < width; j++) rest += b ? (a[j] - shift) * (b[j] - shift) : a[j];
    for (int lane = 0; lane < LANES; lane++) rest += total[lane];
    return rest;
}

static float inverse_deviation(const float *a, long width) {
    const float mean = sum(a, 0, 0, width) / width;
    return 1 / sqrtf(sum(a, a, mean, width) / width + 1e-5f);
}

static void normalise(const struct norm *norm, const struct rows *rows) {
    const struct share mine = share_of(rows->team, rows->count);
    for (long r = mine.first; r < mine.last; r++) {
        const float *a = rows->at[norm->source] + r * rows->row[norm->source] + norm->source_column;
        float *y = rows->at[norm->target] + r * rows->row[norm->target] + norm->target_column;
        const float mean = sum(a, 0, 0, norm->width) / norm->width, inverse = inverse_deviation(a, norm->width);
        for (long j = 0; j < norm->width; j++) y[j] = (a[j] - mean) * inverse;
    }
}

/* d_a = (d_y - mean(d_y) - y mean(d_y y)) / sqrt(var(a) + 1e-5) */
static void normalise_back(const struct norm *norm, const struct rows *rows) {
    if (norm->source_gradient < 0) return;
    const struct share mine = share_of(rows->team, rows->count);
    for (long r = mine.first; r < mine.last; r++) {
        const float *a = rows->at[norm->source] + r * rows->row[norm->source] + norm->source_column;
        const float *y = rows->at[norm->target] + r * rows->row[norm->target] + norm->target_column;
        const float *d_y = rows->at[norm->gradient] + r * rows->row[norm->gradient] + norm->gradient_column;
        float *d_a = rows->at[norm->source_gradient] + r * rows->row[norm->source_gradient] +
                     norm->source_gradient_column;
        const float inverse = inverse_deviation(a, norm->width), mean = sum(d_y, 0, 0, norm->width) / norm->width;
        const float slope = sum(d_y, y, 0, norm->width) / norm->width;
        for (long j = 0; j < norm->width; j++) {
            const float d = (d_y[j] - mean - y[j] * slope) * inverse;
            d_a[j] = norm->accumulates ? d_a[j] + d : d;
        }
    }
}

/* --- sequences that have ended ---------------------------------------------------------------------------------
 * Their rows are still computed, from whatever pads them, and could become infinite; so what they leave is set to 0
 * before a matrix product or a weight gradient reads it, and their state stays what it was. */

static const enum space values_of_a_step[] = {SUMS, SAVED, SAVED_WIDE};
static const enum space gradients_of_a_step[] = {D_STEP, D_SUMS, D_EARLY, D_EARLY_WIDE, D_X, D_X_BEFORE};
static const enum space *const gradients_of_all = gradients_of_a_step + 1; /* D_STEP holds the rows of one step only */

static void clear_row(const struct rows *rows, long r, const enum space *spaces, int count) {
    for (int i = 0; i < count; i++)
        if (rows->at[spaces[i]])
            memset(rows->at[spaces[i]] + r * rows->row[spaces[i]], 0, rows->row[spaces[i]] * sizeof(float));
}

static void clear(const struct rows *rows, const int64_t *lengths, long step, const enum space *spaces, int count) {
    for (long r = 0; lengths && r < rows->count; r++)
        if (lengths[r] <= step) clear_row(rows, r, spaces, count);
}

/* The same for rows of any steps, of which `first` is the first one's number among all. */
static void clear_flat(const struct call *call, const struct rows *rows, long first, const enum space *spaces,
                       int count) {
    for (long r = 0; call->lengths && r < rows->count; r++)
        if (call->lengths[(first + r) % call->batch] <= (first + r) / call->batch) clear_row(rows, r, spaces, count);
}

static void keep(const struct rows *rows, const int64_t *lengths, long step, enum space from, enum space to) {
    for (long r = 0; lengths && rows->at[from] && r < rows->count; r++)
        if (lengths[r] <= step)
            memcpy(rows->at[to] + r * rows->row[to], rows->at[from] + r * rows->row[from],
                   rows->row[from] * sizeof(float));
}

/* --- levels ----------------------------------------------------------------------------------------------------- */

/* Memory of one thread's own, and what was packed for all. */
struct memory {
    const struct layout *layout;
    float *start, *strips;
};

static void forward_level(const struct call *call, const struct level *level, const struct rows *rows,
                          const struct memory *memory) {
    for (long i = level->first_run; i < level->last_run; i++) {
        const struct run *run = call->run + i;
        const struct share panels = share_of(rows->team, panel_count(run->n));
        multiply(rows->count, run->k, rows->at[run->source] + run->source_column, rows->row[run->source], 1,
                 memory->start + memory->layout->packed[i], run->n, panels.first, panels.last,
                 rows->at[SUMS] + run->target_column, rows->row[SUMS], run->accumulate, run->bias, memory->strips);
        meet(rows);
    }
    for (long i = level->first_norm; i < level->last_norm; i++) normalise(call->norm + i, rows);
    if (level->first_norm < level->last_norm) meet(rows);
    run_kernel(call, level->forward, rows);
}

static void backward_level(const struct call *call, const struct level *level, const struct rows *rows,
                           const struct memory *memory) {
    for (long i = level->last_norm - 1; i >= level->first_norm; i--) {
        normalise_back(call->norm + i, rows);
        meet(rows);
    }
    for (long i = level->last_run - 1; i >= level->first_run; i--) {
        const struct run *run = call->run + i;
        if (run->gradient < 0) continue;
        const struct share panels = share_of(rows->team, panel_count(run->k));
        multiply(rows->count, run->n, rows->at[D_SUMS] + run->target_column, rows->row[D_SUMS], 1,
                 memory->start + memory->layout->packed[i], run->k, panels.first, panels.last,
                 rows->at[run->gradient] + run->gradient_column, rows->row[run->gradient], run->gradient_accumulates,
                 0, memory->strips);
        meet(rows);
    }
}

/* --- forward ---------------------------------------------------------------------------------------------------- */

static void forward_of_thread(const struct call *call, const struct layout *layout, struct team team) {
    const struct memory memory = {layout, call->scratch,
                                  call->scratch + layout->strips + team.me * round_up(scratch_size(), 16)};
    for (long i = 0; i < call->runs; i++) {
        const struct run *run = call->run + i;
        const struct share panels = share_of(team, panel_count(run->n));
        pack(run->weight, 1, run->k, run->k, run->n, call->scratch + layout->packed[i], panels.first, panels.last);
    }
    wait_for_all();

    const struct team alone = {0, 1};
    const struct share flat = share_of(team, call->steps * call->batch);
    const struct rows before = rows_of(call, 0, flat.first, flat.last - flat.first, alone);
    for (long l = 0; l < call->levels_before; l++) forward_level(call, call->level + l, &before, &memory);
    wait_for_all();

    const struct share mine = share_of(call->by_columns ? alone : team, call->batch);
    const int64_t *lengths = call->lengths ? call->lengths + mine.first : 0;
    for (long t = 0; t < call->steps; t++) {
        const struct rows rows =
            rows_of(call, t, mine.first, mine.last - mine.first, call->by_columns ? team : alone);
        for (long l = call->levels_before; l < call->levels; l++) {
            forward_level(call, call->level + l, &rows, &memory);
            clear(&rows, lengths, t, values_of_a_step, 3);
        }
        keep(&rows, lengths, t, H, H_NEXT);
        keep(&rows, lengths, t, C, C_NEXT);
    }
}

/* --- backward --------------------------------------------------------------------------------------------------- */

/* Whether somebody wants the gradient of a weight that an operand goes into. */
static int wanted(const struct call *call, long operand) {
    for (long i = 0; i < call->runs; i++)
        if (call->run[i].operand == operand && call->run[i].weight_gradient) return 1;
    return 0;
}

static void pack_for_backward(const struct call *call, const struct layout *layout, struct team team) {
    for (long i = 0; i < call->runs; i++) {
        const struct run *run = call->run + i;
        const struct share panels = share_of(team, panel_count(run->k));
        if (run->gradient < 0) continue;
        pack(run->weight, run->k, 1, run->n, run->k, call->scratch + layout->packed[i], panels.first, panels.last);
    }
    for (long i = 0; i < call->operands; i++) {
        const struct operand *operand = call->operand + i;
        if (!wanted(call, i)) continue;
        const struct space_layout *space = call->space + operand->space;
        const struct share panels = share_of(team, panel_count(operand->k));
        pack(space->base + operand->column, space->row, 1, call->steps * call->batch, operand->k,
             call->scratch + layout->operand[i], panels.first, panels.last);
    }
}

static void forget(const struct rows *rows, enum space space) {
    if (rows->at[space]) memset(rows->at[space], 0, rows->count * rows->row[space] * sizeof(float));
    meet(rows);
}

static void backward_steps(const struct call *call, const struct memory *memory, struct team team) {
    const struct team alone = {0, 1};
    const struct share mine = share_of(call->by_columns ? alone : team, call->batch);
    const int64_t *lengths = call->lengths ? call->lengths + mine.first : 0;
    for (long t = call->steps - 1; t >= 0; t--) {
        struct rows rows = rows_of(call, t, mine.first, mine.last - mine.first, call->by_columns ? team : alone);
        if ((call->steps - 1 - t) % 2) { /* what one step writes is what the step before it reads */
            float *const d_h = rows.at[D_H], *const d_c = rows.at[D_C];
            rows.at[D_H] = rows.at[D_H_NEXT], rows.at[D_H_NEXT] = d_h;
            rows.at[D_C] = rows.at[D_C_NEXT], rows.at[D_C_NEXT] = d_c;
        }
        if (!call->writes_h) forget(&rows, D_H);
        if (!call->writes_c) forget(&rows, D_C);
        for (long l = call->levels - 1; l >= call->levels_before; l--) {
            run_kernel(call, call->level[l].backward, &rows);
            clear(&rows, lengths, t, gradients_of_a_step, 6);
            backward_level(call, call->level + l, &rows, memory);
        }
        keep(&rows, lengths, t, D_H_NEXT, D_H);
        keep(&rows, lengths, t, D_C_NEXT, D_C);
    }
}

/* sums[j] = the sum of column j of all rows; eight rows at a time, since the sums go to memory and back each time. */
static void sum_rows(const float *restrict a, long row, long rows, long columns, float *restrict sums) {
    memset(sums, 0, columns * sizeof(float));
    for (long r = 0; r < rows; r += 8)
        for (long j = 0; j < columns; j += LANES) {
            vec total = load(sums + j, columns - j);
            for (long i = r; i < least(r + 8, rows); i++) total += load(a + i * row + j, columns - j);
            store(sums + j, total, columns - j);
        }
}

static void weight_gradients(const struct call *call, const struct memory *memory, struct team team) {
    const long rows = call->steps * call->batch, row = call->space[D_SUMS].row;
    for (long i = 0; i < call->runs; i++) {
        const struct run *run = call->run + i;
        const struct share mine = share_of(team, run->n);
        const long count = mine.last - mine.first;
        const float *d_sums = call->space[D_SUMS].base + run->target_column + mine.first;
        if (run->weight_gradient)
            multiply(count, rows, d_sums, 1, row, memory->start + memory->layout->operand[run->operand], run->k, 0,
                     panel_count(run->k), run->weight_gradient + mine.first * run->k, run->k, 0, 0, memory->strips);
        if (run->bias_gradient) sum_rows(d_sums, row, rows, count, run->bias_gradient + mine.first);
    }
}

/* What reaches an input through the step after it, which reads it as x_{t-1}. */
static void add_from_the_step_after(const struct call *call, struct team team) {
    const long step = call->batch * call->input;
    float *d_x = call->space[D_X].base;
    const float *d_x_before = call->space[D_X_BEFORE].base;
    const struct share mine = share_of(team, d_x && d_x_before ? (call->steps - 1) * step : 0);
    for (long i = mine.first; i < mine.last; i++) d_x[i] += d_x_before[i + step];
}

static void backward_of_thread(const struct call *call, const struct layout *layout, struct team team) {
    const struct memory memory = {layout, call->scratch,
                                  call->scratch + layout->strips + team.me * round_up(scratch_size(), 16)};
    pack_for_backward(call, layout, team);
    wait_for_all();
    backward_steps(call, &memory, team);
    wait_for_all();

    const struct share flat = share_of(team, call->steps * call->batch);
    const struct rows before = rows_of(call, 0, flat.first, flat.last - flat.first, (struct team){0, 1});
    for (long l = call->levels_before - 1; l >= 0; l--) {
        run_kernel(call, call->level[l].backward, &before);
        clear_flat(call, &before, flat.first, gradients_of_all, 5);
        backward_level(call, call->level + l, &before, &memory);
    }
    wait_for_all();
    add_from_the_step_after(call, team);
    weight_gradients(call, &memory, team);
}

/* --- entry points ----------------------------------------------------------------------------------------------- */

static void forward_member(const void *call, struct team team) {
    const struct layout layout = lay_out(call, 0);
    begin_products();
    forward_of_thread(call, &layout, team);
    end_products();
}

static void backward_member(const void *call, struct team team) {
    const struct layout layout = lay_out(call, 1);
    begin_products();
    backward_of_thread(call, &layout, team);
    end_products();
}

void forward(const struct call *call) { in_parallel(call->threads, forward_member, call); }
void backward(const struct call *call) { in_parallel(call->threads, backward_member, call); }
