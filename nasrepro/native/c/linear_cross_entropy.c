/* Linear layer, softmax and cross-entropy in one: the mean loss, and its gradients in the same call.
 *
 *     logits = features x weight^T + bias;  loss = mean of log(sum(exp(logits))) - logits[target]
 *     d_logits = (softmax(logits) - onehot(target)) / rows
 *     d_weight = d_logits^T x features;  d_features = d_logits x weight;  d_bias = sums of d_logits
 *
 * All logits are kept transposed, (words, rows). So the weight is the operand that products take unpacked, and maxima
 * and sums over words are vectors of rows. Logits are made in blocks of words, and all that can be done with a block is
 * done while it lies in a core's cache:
 *
 *     forward pass     logits of the block; in their place exp(logits - the block's own maximum); that and their sum
 *     all blocks       maxima and sums of the blocks make those of each row, which are the loss
 *     backward pass    exponentials x scale of (block, row), in place; and the products with them
 *
 * The target's logit is kept apart from the others. Where a model is sure of it, its probability has few digits left
 * that tell it from 1, but the others' sum has all: the loss is log(1 + others), d_logits[target] is minus their share.
 *
 * Threads share the blocks, so a row of d_weight is written by one thread, and d_features is summed over the threads.
 * Long texts are cut into chunks of rows, so that never more than one chunk's logits are in memory; without gradients
 * only a block's are.
 */
#include <float.h>
#include <math.h>
#include <stdint.h>

#include "functions.h"
#include "gemm.h"
#include "threads.h"

#define BLOCK_WORDS 224 /* their logits for some hundred rows fill half of a level 2 cache */

struct call {
    long rows, width, words; /* features (rows, width), weight (words, width) */
    long rows_at_once;       /* in a chunk */
    long threads;
    const float *features, *weight, *bias; /* bias (words), or NULL */
    const int64_t *targets;                /* (rows), each in 0 .. words - 1 */
    float *d_features, *d_weight, *d_bias; /* like features, weight and bias; NULL where nobody wants one */
    float *scratch;
    double *losses; /* (threads): sums of rows' losses, to be filled in */
};

static int wants_gradients(const struct call *call) { return call->d_features || call->d_weight || call->d_bias; }

/* --- where things lie in the scratch memory ----------------------------------------------------------------------- */

/* Rows of the chunk, rounded up: columns of all that is transposed. An odd number of cache lines, because lines a power
 * of two apart would all want the same places in the cache. */
static long stride_of(long rows) { return round_up(rows, 16) | 16; }

struct layout {
    long stride;
    long blocks;                        /* of words */
    long features, features_transposed; /* packed; floats from the start of the scratch memory, as all below */
    long logits;                        /* (words, stride), or a block for each thread if nobody wants gradients */
    long maxima, sums;                  /* (blocks, stride) */
    long own;                           /* (stride): the targets' logits, and then their gradients */
    long threads, thread;               /* where the first thread's own memory is, and how much each has */
    long d_features, weight, strips;    /* in there: (rows, width), a packed block of the weight, and for products */
    long size;
};

static struct layout lay_out(const struct call *call) {
    const long rows = call->rows_at_once, gradients = wants_gradients(call);
    const long whole_blocks = round_up((call->words + BLOCK_WORDS - 1) / BLOCK_WORDS, call->threads);
    struct layout layout = {.stride = stride_of(rows), .blocks = least(whole_blocks, call->words)};
    long *const size = &layout.size, *const own = &layout.thread;
    layout.features = take(size, call->d_weight ? packed_size(rows, call->width) : 0);
    layout.features_transposed = take(size, packed_size(call->width, rows));
    layout.logits = take(size, (gradients ? call->words : call->threads * BLOCK_WORDS) * layout.stride);
    layout.maxima = take(size, layout.blocks * layout.stride);
    layout.sums = take(size, layout.blocks * layout.stride);
    layout.own = take(size, layout.stride);
    layout.d_features = take(own, call->d_features ? rows * call->width : 0);
    layout.weight = take(own, call->d_features ? packed_size(BLOCK_WORDS, call->width) : 0);
    layout.strips = take(own, scratch_size());
    layout.threads = take(size, call->threads * layout.thread);
    return layout;
}

/* Floats of scratch memory that a call needs; it must begin at a multiple of 64 bytes. */
long scratch_floats(const struct call *call) { return lay_out(call).size; }

/* --- a chunk, and a block of its logits --------------------------------------------------------------------------- */

/* Some rows of the call, and what one thread needs to work on them. */
struct chunk {
    const struct call *call;
    const struct layout *layout;
    struct team team;
    long first, rows;
    const float *features; /* (rows, width) */
    const int64_t *targets;
    float *own; /* this thread's memory */
};

/* Words first .. first + words - 1. Loops over rows work on whole vectors: what they make of the floats between the
 * last row and the stride is never looked at. */
struct block {
    long first, words;
    float *logits;        /* (words, stride) */
    float *maxima, *sums; /* (stride) */
};

static struct block block_of(const struct chunk *chunk, long number) {
    const struct call *call = chunk->call;
    const struct layout *layout = chunk->layout;
    const long first = call->words * number / layout->blocks, last = call->words * (number + 1) / layout->blocks;
    const long logits = wants_gradients(call) ? first : chunk->team.me * BLOCK_WORDS;
    return (struct block){
        .first = first,
        .words = last - first,
        .logits = call->scratch + layout->logits + logits * layout->stride,
        .maxima = call->scratch + layout->maxima + number * layout->stride,
        .sums = call->scratch + layout->sums + number * layout->stride,
    };
}

/* --- packing ------------------------------------------------------------------------------------------------------ */

static void pack_features(const struct chunk *chunk) {
    const struct call *call = chunk->call;
    const struct share of_rows = share_of(chunk->team, panel_count(chunk->rows));
    const struct share of_width = share_of(chunk->team, panel_count(call->width));
    pack(chunk->features, 1, call->width, call->width, chunk->rows,
         call->scratch + chunk->layout->features_transposed, of_rows.first, of_rows.last);
    if (call->d_weight)
        pack(chunk->features, call->width, 1, chunk->rows, call->width, call->scratch + chunk->layout->features,
             of_width.first, of_width.last);
}

/* --- forward pass ------------------------------------------------------------------------------------------------- */

static void block_logits(const struct chunk *chunk, const struct block *block) {
    const struct call *call = chunk->call;
    multiply(block->words, call->width, call->weight + block->first * call->width, call->width, 1,
             call->scratch + chunk->layout->features_transposed, chunk->rows, 0, panel_count(chunk->rows),
             block->logits, chunk->layout->stride, 0, 0, chunk->own + chunk->layout->strips);
}

/* Takes the targets' logits out of the block: what is left there counts for nothing. */
static void take_targets(const struct chunk *chunk, const struct block *block) {
    const float *bias = chunk->call->bias ? chunk->call->bias + block->first : 0;
    float *own = chunk->call->scratch + chunk->layout->own;
    for (long r = 0; r < chunk->rows; r++) {
        const long word = chunk->targets[r] - block->first;
        if (word < 0 || word >= block->words) continue;
        float *logit = block->logits + word * chunk->layout->stride + r;
        own[r] = *logit + (bias ? bias[word] : 0);
        *logit = -INFINITY;
    }
}

/* Logits of `vectors` vectors of rows, side by side, become exp(logit + bias - the row's maximum in the block); that and
 * their sum are noted. They stay in the level 1 cache from the search for the maximum to the exponentials.
 *
 * Maxima begin at the lowest number, not at minus infinity, whose difference from itself would be NaN. A NaN among the
 * logits is no maximum, but makes the sum NaN, and so does plus infinity. */
INLINE void exponentials_of(const int vectors, const struct block *block, long stride, const float *bias, long row) {
    float *logits = block->logits + row;
    vec maximum[2] = {all(-FLT_MAX), all(-FLT_MAX)}, sum[2] = {{0}, {0}};
    for (long v = 0; v < block->words; v++)
        for (int i = 0; i < vectors; i++) {
            const vec logit = load(logits + v * stride + i * LANES, LANES) + (bias ? bias[v] : 0);
            maximum[i] = pick(logit > maximum[i], logit, maximum[i]);
        }
    for (long v = 0; v < block->words; v++)
        for (int i = 0; i < vectors; i++) {
            const vec logit = load(logits + v * stride + i * LANES, LANES) + (bias ? bias[v] : 0);
            const vec e = exp_of_negative(logit - maximum[i]);
            store(logits + v * stride + i * LANES, e, LANES);
            sum[i] += e;
        }
    for (int i = 0; i < vectors; i++) {
        store(block->maxima + row + i * LANES, maximum[i], LANES);
        store(block->sums + row + i * LANES, sum[i], LANES);
    }
}

static void exponentials(const struct chunk *chunk, const struct block *block) {
    const long stride = chunk->layout->stride;
    const float *bias = chunk->call->bias ? chunk->call->bias + block->first : 0;
    long row = 0;
    for (; row + LANES < chunk->rows; row += 2 * LANES) exponentials_of(2, block, stride, bias, row);
    if (row < chunk->rows) exponentials_of(1, block, stride, bias, row);
}

/* --- all blocks: the loss, and what makes exponentials probabilities ---------------------------------------------- */

/* The sum of the losses of this thread's share of the rows, a vector of rows at a time. The blocks' maxima become
 * scales, exponential x scale = probability / rows, and the targets' logits become their gradients. */
static double sum_of_losses(const struct chunk *chunk) {
    const struct call *call = chunk->call;
    const long stride = chunk->layout->stride, blocks = chunk->layout->blocks;
    const float *sums = call->scratch + chunk->layout->sums;
    float *maxima = call->scratch + chunk->layout->maxima, *own = call->scratch + chunk->layout->own;
    const struct share mine = share_of(chunk->team, (chunk->rows + LANES - 1) / LANES);
    double loss = 0;
    for (long r = mine.first * LANES; r < mine.last * LANES; r += LANES) {
        const vec logit = load(own + r, LANES);
        vec maximum = logit, scale, gradient;
        double others[LANES] = {0};
        for (long b = 0; b < blocks; b++) {
            const vec of_block = load(maxima + b * stride + r, LANES);
            maximum = pick(of_block > maximum, of_block, maximum);
        }
        for (long b = 0; b < blocks; b++) {
            const vec weight = exp_of_negative(load(maxima + b * stride + r, LANES) - maximum);
            const vec sum = weight * load(sums + b * stride + r, LANES);
            store(maxima + b * stride + r, weight, LANES);
            for (int lane = 0; lane < LANES; lane++) others[lane] += sum[lane];
        }
        const vec e = exp_of_negative(logit - maximum);
        for (int lane = 0; lane < LANES; lane++) {
            scale[lane] = 1 / ((others[lane] + e[lane]) * call->rows);
            gradient[lane] = -others[lane] / ((others[lane] + e[lane]) * call->rows);
            /* e is exactly 1 where the target's logit is the maximum: then this is log(1 + others) to the last digit */
            const double log_of_sum = log1p(others[lane] + (e[lane] - 1));
            if (r + lane < chunk->rows) loss += log_of_sum + ((double)maximum[lane] - logit[lane]);
        }
        store(own + r, gradient, LANES);
        for (long b = 0; b < blocks; b++)
            store(maxima + b * stride + r, load(maxima + b * stride + r, LANES) * scale, LANES);
    }
    return loss;
}

/* --- backward pass ------------------------------------------------------------------------------------------------ */

static float sum_of(vec a) {
    float sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += a[lane];
    return sum;
}

/* Exponentials become d_logits, whose sums over the rows are d_bias. */
static void logit_gradients(const struct chunk *chunk, const struct block *block) {
    const struct call *call = chunk->call;
    const long stride = chunk->layout->stride;
    const float *own = call->scratch + chunk->layout->own;
    float sums[BLOCK_WORDS];
    for (long v = 0; v < block->words; v++) {
        float *row = block->logits + v * stride;
        vec total = {0};
        for (long r = 0; r < chunk->rows; r += LANES) {
            const vec d_logits = load(row + r, LANES) * load(block->maxima + r, LANES);
            store(row + r, d_logits, LANES);
            total += load(row + r, chunk->rows - r);
        }
        sums[v] = sum_of(total);
    }
    for (long r = 0; r < chunk->rows; r++) {
        const long word = chunk->targets[r] - block->first;
        if (word < 0 || word >= block->words) continue;
        block->logits[word * stride + r] = own[r];
        sums[word] += own[r];
    }
    for (long v = 0; call->d_bias && v < block->words; v++)
        call->d_bias[block->first + v] = chunk->first ? call->d_bias[block->first + v] + sums[v] : sums[v];
}

static void weight_gradient(const struct chunk *chunk, const struct block *block) {
    const struct call *call = chunk->call;
    multiply(block->words, chunk->rows, block->logits, chunk->layout->stride, 1,
             call->scratch + chunk->layout->features, call->width, 0, panel_count(call->width),
             call->d_weight + block->first * call->width, call->width, chunk->first > 0, 0,
             chunk->own + chunk->layout->strips);
}

/* Adds the block's part to this thread's d_features. */
static void feature_gradient(const struct chunk *chunk, const struct block *block) {
    const struct call *call = chunk->call;
    const long panels = panel_count(call->width);
    float *weight = chunk->own + chunk->layout->weight;
    pack(call->weight + block->first * call->width, call->width, 1, block->words, call->width, weight, 0, panels);
    multiply(chunk->rows, block->words, block->logits, 1, chunk->layout->stride, weight, call->width, 0, panels,
             chunk->own + chunk->layout->d_features, call->width, 1, 0, chunk->own + chunk->layout->strips);
}

/* The sum over all threads, for this thread's share of the chunk. */
static void sum_feature_gradients(const struct chunk *chunk) {
    const struct call *call = chunk->call;
    const float *parts = call->scratch + chunk->layout->threads + chunk->layout->d_features;
    float *d_features = call->d_features + chunk->first * call->width;
    const struct share mine = share_of(chunk->team, chunk->rows * call->width);
    for (long i = mine.first; i < mine.last; i++) {
        float sum = 0;
        for (int t = 0; t < chunk->team.size; t++) sum += parts[t * chunk->layout->thread + i];
        d_features[i] = sum;
    }
}

/* --- one thread's work -------------------------------------------------------------------------------------------- */

static void forward_pass(const struct chunk *chunk, struct share blocks) {
    for (long b = blocks.first; b < blocks.last; b++) {
        const struct block block = block_of(chunk, b);
        block_logits(chunk, &block);
        take_targets(chunk, &block);
        exponentials(chunk, &block);
    }
}

static void backward_pass(const struct chunk *chunk, struct share blocks) {
    const struct call *call = chunk->call;
    if (call->d_features)
        memset(chunk->own + chunk->layout->d_features, 0, chunk->rows * call->width * sizeof(float));
    for (long b = blocks.first; b < blocks.last; b++) {
        const struct block block = block_of(chunk, b);
        logit_gradients(chunk, &block);
        if (call->d_weight) weight_gradient(chunk, &block);
        if (call->d_features) feature_gradient(chunk, &block);
    }
}

static void member(const void *what, struct team team) {
    const struct call *call = what;
    const struct layout layout = lay_out(call);
    const struct share blocks = share_of(team, layout.blocks);
    begin_products();
    for (long first = 0; first < call->rows; first += call->rows_at_once) {
        const struct chunk chunk = {
            .call = call,
            .layout = &layout,
            .team = team,
            .first = first,
            .rows = least(call->rows_at_once, call->rows - first),
            .features = call->features + first * call->width,
            .targets = call->targets + first,
            .own = call->scratch + layout.threads + team.me * layout.thread,
        };
        pack_features(&chunk);
        wait_for_all();
        forward_pass(&chunk, blocks);
        wait_for_all();
        call->losses[team.me] += sum_of_losses(&chunk);
        wait_for_all();
        if (!wants_gradients(call)) continue;
        backward_pass(&chunk, blocks);
        wait_for_all();
        if (call->d_features) sum_feature_gradients(&chunk);
    }
    end_products();
}

/* The mean loss of all rows; gradients go where the call says. */
double linear_cross_entropy(const struct call *call) {
    double sum = 0;
    for (long t = 0; t < call->threads; t++) call->losses[t] = 0;
    in_parallel(call->threads, member, call);
    for (long t = 0; t < call->threads; t++) sum += call->losses[t];
    return sum / call->rows;
}
