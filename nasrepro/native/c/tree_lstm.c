/* A TreeLSTM over a schedule of groups, forward and back, on one thread (equations: nasrepro/ranking/tree_lstm.py).
 *
 * A group is a few nodes whose children are all done, so torch would spend more time on beginning an operation than on
 * doing it. Here a group takes one product and one loop over its nodes:
 *
 *     unordered   gates of a node = input of its operator + its children's shares; a share, U h, is made with its h
 *     ordered     gates of the group = inputs + (children's h side by side) U
 *
 * States lie by slot: the leaves, then the nodes, group by group. Slot 0 is the missing child; its state is zero, and
 * what is added to its gradient is never looked at.
 */
#include <stdint.h>

#include "functions.h"
#include "gemm.h"

#define WIDTH 3 /* children of an ordered node */
#define MISSING 0

struct call {
    long groups, leaves, hidden;
    long keeps;                              /* whether gates and reads stay for the way back, or are each group's own */
    const int64_t *ordered, *sizes;          /* (groups): whether it is, and its nodes */
    const int64_t *operators, *children;     /* (nodes); (nodes, WIDTH) slots */
    const float *unordered_input, *ordered_input; /* (operators, 4 hidden): W x + b of i, o, u, f */
    const float *of_child;                   /* U (hidden, 4 hidden) */
    const float *of_children;                /* U (WIDTH hidden, (3 + WIDTH) hidden) */
    float *h, *c, *share;                    /* (slots, hidden), the same, (slots, 4 hidden); h and c of leaves are given */
    float *gates;                            /* (nodes, (3 + WIDTH) hidden): i, o, u, and one f for each child */
    float *squashed;                         /* (nodes, hidden): tanh(c) */
    float *read;                             /* (ordered nodes, WIDTH hidden): what they read */
    float *d_h, *d_c, *d_share, *d_gates;    /* like h, c, share; (ordered nodes, (3 + WIDTH) hidden) */
    float *d_unordered_input, *d_ordered_input;
    float *scratch;
};

struct layout {
    long of_child, of_children, strips, d_read, size; /* in floats from the start of the scratch memory */
};

static long most_ordered(const struct call *call) {
    long most = 0;
    for (long g = 0; g < call->groups; g++)
        if (call->ordered[g] && call->sizes[g] > most) most = call->sizes[g];
    return most;
}

static struct layout lay_out(const struct call *call) {
    const long H = call->hidden, most = most_ordered(call);
    const long there = packed_size(H, 4 * H), back = packed_size(4 * H, H);
    const long there_wide = packed_size(WIDTH * H, (3 + WIDTH) * H), back_wide = packed_size((3 + WIDTH) * H, WIDTH * H);
    struct layout layout = {0};
    layout.of_child = take(&layout.size, there > back ? there : back);
    layout.of_children = take(&layout.size, !most ? 0 : there_wide > back_wide ? there_wide : back_wide);
    layout.strips = take(&layout.size, scratch_size());
    layout.d_read = take(&layout.size, most * WIDTH * H);
    return layout;
}

/* Floats of scratch memory that a call needs, either way; it must begin at a multiple of 64 bytes. */
long scratch_floats(const struct call *call) { return lay_out(call).size; }

/* C[rows, n] (+)= A[rows, k] B, B packed. */
static void product(const struct call *call, long rows, long k, const float *a, const float *packed, long n, float *c,
                    int accumulate) {
    multiply(rows, k, a, k, 1, packed, n, 0, panel_count(n), c, n, accumulate, 0, call->scratch + lay_out(call).strips);
}

static long child_count(const int64_t *children) { return 1 + (children[1] != MISSING) + (children[2] != MISSING); }

/* --- forward ------------------------------------------------------------------------------------------------- */

/* A node from the sums that go into its gates: i, o, u, f ... in gates become the gates, c, tanh(c) and h follow. */
INLINE void node_state(const struct call *call, const int64_t *children, long count, float *gates, float *c, float *h,
                       float *squashed, long j) {
    const long H = call->hidden, n = H - j;
    const vec i = sigmoid(load(gates + j, n)), o = sigmoid(load(gates + H + j, n));
    const vec u = tanh_(load(gates + 2 * H + j, n));
    vec sum = i * u;
    for (long k = 0; k < count; k++) {
        float *at = gates + (3 + k) * H + j;
        const vec f = sigmoid(load(at, n));
        store(at, f, n);
        sum += f * load(call->c + children[k] * H + j, n);
    }
    const vec t = tanh_(sum);
    store(gates + j, i, n), store(gates + H + j, o, n), store(gates + 2 * H + j, u, n);
    store(c + j, sum, n), store(squashed + j, t, n), store(h + j, o * t, n);
}

static void unordered_sums(const struct call *call, const float *input, const int64_t *children, long count,
                           float *gates) {
    const long H = call->hidden;
    for (long j = 0; j < 3 * H; j += LANES) {
        vec sum = load(input + j, 3 * H - j);
        for (long k = 0; k < count; k++) sum += load(call->share + children[k] * 4 * H + j, 3 * H - j);
        store(gates + j, sum, 3 * H - j);
    }
    for (long k = 0; k < count; k++)
        for (long j = 0; j < H; j += LANES) {
            const vec own = load(call->share + (children[k] * 4 + 3) * H + j, H - j);
            store(gates + (3 + k) * H + j, load(input + 3 * H + j, H - j) + own, H - j);
        }
}

static void ordered_sums(const struct call *call, const float *input, float *gates) {
    const long H = call->hidden;
    for (long part = 0; part < 3 + WIDTH; part++)
        for (long j = 0; j < H; j += LANES) {
            float *at = gates + part * H + j;
            store(at, load(at, H - j) + load(input + least(part, 3) * H + j, H - j), H - j);
        }
}

void encode(const struct call *call) {
    const long H = call->hidden, wide = (3 + WIDTH) * H;
    const struct layout layout = lay_out(call);
    float *of_child = call->scratch + layout.of_child, *of_children = call->scratch + layout.of_children;
    pack(call->of_child, 4 * H, 1, H, 4 * H, of_child, 0, panel_count(4 * H));
    if (most_ordered(call)) pack(call->of_children, wide, 1, WIDTH * H, wide, of_children, 0, panel_count(wide));
    product(call, call->leaves, H, call->h, of_child, 4 * H, call->share, 0);
    float *gates = call->gates, *squashed = call->squashed, *read = call->read;
    const int64_t *operators = call->operators, *children = call->children;
    long slot = call->leaves;
    for (long g = 0; g < call->groups; g++) {
        const long nodes = call->sizes[g];
        float *h = call->h + slot * H, *c = call->c + slot * H;
        if (call->ordered[g]) {
            for (long k = 0; k < nodes * WIDTH; k++) memcpy(read + k * H, call->h + children[k] * H, H * sizeof(float));
            product(call, nodes, WIDTH * H, read, of_children, wide, gates, 0);
        }
        for (long m = 0; m < nodes; m++) {
            const int64_t *of_node = children + m * WIDTH;
            const long count = child_count(of_node);
            if (call->ordered[g]) ordered_sums(call, call->ordered_input + operators[m] * 4 * H, gates + m * wide);
            else unordered_sums(call, call->unordered_input + operators[m] * 4 * H, of_node, count, gates + m * wide);
            for (long j = 0; j < H; j += LANES)
                node_state(call, of_node, count, gates + m * wide, c + m * H, h + m * H, squashed + m * H, j);
        }
        product(call, nodes, H, h, of_child, 4 * H, call->share + slot * 4 * H, 0);
        if (call->keeps) {
            gates += nodes * wide, squashed += nodes * H;
            if (call->ordered[g]) read += nodes * WIDTH * H;
        }
        slot += nodes, operators += nodes, children += nodes * WIDTH;
    }
}

/* --- back ---------------------------------------------------------------------------------------------------- */

INLINE void add(float *to, vec v, long n) { store(to, load(to, n) + v, n); }

/* From d_h and d_c of a node to its children's d_c and to the gradients of the sums in its gates: an ordered node's go
 * to d_gates, an unordered one's (d_gates NULL) to its children's shares. */
INLINE void node_back(const struct call *call, const int64_t *children, long count, long slot, const float *gates,
                      const float *squashed, float *d_input, float *d_gates, long j) {
    const long H = call->hidden, n = H - j;
    const vec i = load(gates + j, n), o = load(gates + H + j, n), u = load(gates + 2 * H + j, n);
    const vec t = load(squashed + j, n), d_h = load(call->d_h + slot * H + j, n);
    const vec d_c = load(call->d_c + slot * H + j, n) + d_h * o * (1.f - t * t);
    const vec d[3] = {d_c * u * i * (1.f - i), d_h * t * o * (1.f - o), d_c * i * (1.f - u * u)};
    for (long part = 0; part < 3; part++) {
        add(d_input + part * H + j, d[part], n);
        if (d_gates) store(d_gates + part * H + j, d[part], n);
    }
    for (long k = 0; k < count; k++) {
        const vec f = load(gates + (3 + k) * H + j, n);
        const vec d_f = d_c * load(call->c + children[k] * H + j, n) * f * (1.f - f);
        add(call->d_c + children[k] * H + j, d_c * f, n);
        add(d_input + 3 * H + j, d_f, n);
        if (d_gates) store(d_gates + (3 + k) * H + j, d_f, n);
        else {
            float *d_share = call->d_share + children[k] * 4 * H + j;
            for (long part = 0; part < 3; part++) add(d_share + part * H, d[part], n);
            add(d_share + 3 * H, d_f, n);
        }
    }
    for (long k = count; d_gates && k < WIDTH; k++) store(d_gates + (3 + k) * H + j, (vec){0}, n);
}

/* Adds to d_h, d_c and d_share of all slots, of which those of the roots are given, and to the inputs' gradients. */
void encode_back(const struct call *call) {
    const long H = call->hidden, wide = (3 + WIDTH) * H;
    const struct layout layout = lay_out(call);
    float *of_child = call->scratch + layout.of_child, *of_children = call->scratch + layout.of_children;
    float *d_read = call->scratch + layout.d_read;
    pack(call->of_child, 1, 4 * H, 4 * H, H, of_child, 0, panel_count(H));
    if (most_ordered(call)) pack(call->of_children, 1, wide, wide, WIDTH * H, of_children, 0, panel_count(WIDTH * H));
    long node = 0, reader = 0;
    for (long g = 0; g < call->groups; g++) node += call->sizes[g], reader += call->ordered[g] ? call->sizes[g] : 0;
    for (long g = call->groups - 1; g >= 0; g--) {
        const long nodes = call->sizes[g], is_ordered = call->ordered[g];
        node -= nodes;
        if (is_ordered) reader -= nodes;
        const long slot = call->leaves + node;
        const int64_t *operators = call->operators + node, *children = call->children + node * WIDTH;
        product(call, nodes, 4 * H, call->d_share + slot * 4 * H, of_child, H, call->d_h + slot * H, 1);
        for (long m = 0; m < nodes; m++) {
            const int64_t *of_node = children + m * WIDTH;
            const long count = child_count(of_node);
            const float *gates = call->gates + (node + m) * wide, *squashed = call->squashed + (node + m) * H;
            float *d_input = (is_ordered ? call->d_ordered_input : call->d_unordered_input) + operators[m] * 4 * H;
            float *d_gates = is_ordered ? call->d_gates + (reader + m) * wide : 0;
            for (long j = 0; j < H; j += LANES)
                node_back(call, of_node, count, slot + m, gates, squashed, d_input, d_gates, j);
        }
        if (!is_ordered) continue;
        product(call, nodes, wide, call->d_gates + reader * wide, of_children, WIDTH * H, d_read, 0);
        for (long k = 0; k < nodes * WIDTH; k++)
            for (long j = 0; j < H; j += LANES) add(call->d_h + children[k] * H + j, load(d_read + k * H + j, H - j), H - j);
    }
    product(call, call->leaves, 4 * H, call->d_share, of_child, H, call->d_h, 1);
}
