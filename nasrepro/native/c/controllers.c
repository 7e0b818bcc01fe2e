/* ZL17's token controllers side by side, each alone: strings are drawn, and then each makes one step by their rewards, on
 * one thread (the network: nasrepro/controllers/token_agent.py; its step: nasrepro/controllers/side_by_side.py).
 *
 * Strings that begin alike leave the network in the same state. So the strings of one controller are a tree, and whatever
 * its *nodes*, the distinct beginnings, need is worked out once, there and back. Node 0 stands before all strings: its
 * state is zero, and what is added to its gradient is never looked at. Those from which token t is drawn are neighbours.
 *
 * All of a controller fits the second-level cache, and a controller is done before the next one begins.
 */
#include <math.h>
#include <stdint.h>

#include "functions.h"
#include "gemm.h"

struct call {
    long controllers, children, places, layers, units, parameters;
    const int64_t *words;               /* (places): how many choices there are */
    float *weights, *means, *squares;   /* (controllers, parameters): as in TokenAgent; Adam's two moments */
    const float *uniform;               /* (controllers, places, children): numbers in [0, 1) that draw */
    int64_t *tokens;                    /* (controllers, children, places) */
    int64_t *trees;                     /* (controllers, tree_numbers) and (controllers, state_floats): kept in between */
    float *states;
    const float *advantages;            /* (controllers, children) */
    float entropy, longest;             /* the entropy's weight, the longest gradient */
    float rate, unbiased, decays[2];    /* Adam's: the rate over its first correction; 1 / sqrt(the second) */
    float tiny;
    float *scratch;
};

/* --- what lies where ----------------------------------------------------------------------------------------- */

struct tree {
    int64_t *first;  /* (places + 1): the first node from which token t is drawn; at the end, how many nodes there are */
    int64_t *parent; /* (nodes) */
    int64_t *row;    /* (nodes): the embedding that the network reads there */
    int64_t *of;     /* (places, children): the node from which a string's token is drawn */
};

static long most_nodes(const struct call *call) { return 1 + call->places * call->children; }

long tree_numbers(const struct call *call) {
    return call->places + 1 + 2 * most_nodes(call) + call->places * call->children;
}

static struct tree tree_of(const struct call *call, long controller) {
    int64_t *at = call->trees + controller * tree_numbers(call);
    int64_t *parent = at + call->places + 1, *row = parent + most_nodes(call);
    return (struct tree){at, parent, row, row + most_nodes(call)};
}

static long most_words(const struct call *call) {
    long most = 0;
    for (long t = 0; t < call->places; t++) most = call->words[t] > most ? call->words[t] : most;
    return most;
}

/* The rows of the output; embeddings have one more, the input before the first token. */
static long all_words(const struct call *call) {
    long sum = 0;
    for (long t = 0; t < call->places; t++) sum += call->words[t];
    return sum;
}

/* Of what a layer multiplies: the layer below and its own last state. The first one reads embeddings from a table, in
 * which they are multiplied already. */
INLINE long width(const struct call *call, long layer) { return layer ? 2 * call->units : call->units; }

/* What a layer keeps of each node. */
struct layer_state {
    float *read;     /* (nodes, width) */
    float *gates;    /* (nodes, 4 units): i, f, g, o; on the way back the gradients of the sums in them */
    float *c, *h;    /* (nodes, units) */
    float *squashed; /* (nodes, units): tanh(c) */
};

static long layer_floats(const struct call *call, long layer) {
    return most_nodes(call) * (width(call, layer) + 7 * call->units);
}

long state_floats(const struct call *call) {
    long size = most_nodes(call) * most_words(call);
    for (long layer = 0; layer < call->layers; layer++) size += layer_floats(call, layer);
    return size;
}

static struct layer_state layer_state(const struct call *call, long controller, long layer) {
    const long nodes = most_nodes(call), H = call->units;
    float *at = call->states + controller * state_floats(call) + nodes * most_words(call);
    for (long below = 0; below < layer; below++) at += layer_floats(call, below);
    float *gates = at + nodes * width(call, layer), *c = gates + nodes * 4 * H, *h = c + nodes * H;
    return (struct layer_state){at, gates, c, h, h + nodes * H};
}

/* (nodes, most words): log probabilities */
static float *policy_of(const struct call *call, long controller) {
    return call->states + controller * state_floats(call);
}

/* The parts of a controller's weights, or of their gradient, in the order of TokenAgent. */
struct weights {
    float *embedding;                                /* (all words + 1, units) */
    float *input, *state, *input_bias, *state_bias;  /* of a layer: (4 units, units) both, (4 units) both */
    float *out, *out_bias;                           /* (all words, units), (all words) */
};

static struct weights weights_at(const struct call *call, float *at, long layer) {
    const long H = call->units, words = all_words(call);
    struct weights w;
    w.embedding = at;
    w.input = at + (words + 1) * H + layer * (8 * H * H + 8 * H);
    w.state = w.input + 4 * H * H;
    w.input_bias = w.state + 4 * H * H;
    w.state_bias = w.input_bias + 4 * H;
    w.out = at + (words + 1) * H + call->layers * (8 * H * H + 8 * H);
    w.out_bias = w.out + words * H;
    return w;
}

/* Room for the packed matrix of a layer, there or back. */
static long packed_room(const struct call *call) {
    const long H = call->units, there = packed_size(2 * H, 4 * H), back = packed_size(4 * H, 2 * H);
    return round_up(there > back ? there : back, 16);
}

struct layout { /* in floats from the start of the scratch memory */
    long table, joined, bias, packed, factor, strips, cumulative, seen, gradient, d_table, d_h, d_c, d_read, size;
};

static struct layout lay_out(const struct call *call) {
    const long H = call->units, L = call->layers, rows = all_words(call) + 1, nodes = most_nodes(call);
    const long several = call->children * most_words(call), all_rows = rows > nodes ? rows : nodes;
    const long factor = packed_size(all_rows, 2 * H), out = packed_size(H, most_words(call));
    struct layout layout = {0};
    layout.table = take(&layout.size, rows * 4 * H);
    layout.joined = take(&layout.size, L * 8 * H * H);
    layout.bias = take(&layout.size, L * 4 * H);
    layout.packed = take(&layout.size, L * packed_room(call)); /* the layers' matrices, either way */
    layout.factor = take(&layout.size, factor > out ? factor : out); /* another one that is packed for one product */
    layout.strips = take(&layout.size, scratch_size());
    layout.cumulative = take(&layout.size, several);
    layout.seen = take(&layout.size, 2 * several); /* whole numbers of 64 bits */
    layout.gradient = take(&layout.size, call->parameters);
    layout.d_table = take(&layout.size, rows * 4 * H);
    layout.d_h = take(&layout.size, L * nodes * H);
    layout.d_c = take(&layout.size, L * nodes * H);
    layout.d_read = take(&layout.size, (call->children > 4 * H ? call->children : 4 * H) * 2 * H);
    return layout;
}

/* Floats of scratch memory that a call needs, either way; it must begin at a multiple of 64 bytes. */
long scratch_floats(const struct call *call) { return lay_out(call).size; }

/* --- pieces -------------------------------------------------------------------------------------------------- */

/* C[rows, n] (+)= A[rows, k] B (+ bias), B packed; C's rows lie ldc apart. */
static void product(const struct call *call, long rows, long k, const float *a, const float *packed, long n, float *c,
                    long ldc, int accumulate, const float *bias) {
    multiply(rows, k, a, k, 1, packed, n, 0, panel_count(n), c, ldc, accumulate, bias,
             call->scratch + lay_out(call).strips);
}

/* C[rows, n] = transposed A[k, rows] times B[k, n] */
static void product_of_transposed(const struct call *call, long rows, long k, const float *a, const float *b, long n,
                                  float *c) {
    const struct layout at = lay_out(call);
    float *packed = call->scratch + at.factor;
    pack(b, n, 1, k, n, packed, 0, panel_count(n));
    multiply(rows, k, a, 1, rows, packed, n, 0, panel_count(n), c, n, 0, 0, call->scratch + at.strips);
}

INLINE void add(float *to, const float *from, long n) {
    for (long j = 0; j < n; j += LANES) store(to + j, load(to + j, n - j) + load(from + j, n - j), n - j);
}

static void copy(float *to, const float *from, long n) { memcpy(to, from, n * sizeof(float)); }
static void zero(float *to, long n) { memset(to, 0, n * sizeof(float)); }

/* Both matrices of a layer, row beside row: (4 units, width). The first layer has that of its state alone. */
static void join(const struct call *call, const struct weights *w, long layer, float *joined) {
    const long H = call->units;
    for (long j = 0; j < 4 * H; j++, joined += width(call, layer)) {
        if (layer) copy(joined, w->input + j * H, H);
        copy(joined + width(call, layer) - H, w->state + j * H, H);
    }
}

/* --- drawing ------------------------------------------------------------------------------------------------- */

/* From the sums in the gates of a node to its state. */
static void node_state(const struct call *call, const struct layer_state *s, long node, long parent) {
    const long H = call->units;
    float *gates = s->gates + node * 4 * H, *c = s->c + node * H, *h = s->h + node * H;
    for (long j = 0; j < H; j += LANES) {
        const long n = H - j;
        const vec i = sigmoid(load(gates + j, n)), f = sigmoid(load(gates + H + j, n));
        const vec g = tanh_(load(gates + 2 * H + j, n)), o = sigmoid(load(gates + 3 * H + j, n));
        const vec sum = f * load(s->c + parent * H + j, n) + i * g, t = tanh_(sum);
        store(gates + j, i, n), store(gates + H + j, f, n);
        store(gates + 2 * H + j, g, n), store(gates + 3 * H + j, o, n);
        store(c + j, sum, n), store(h + j, o * t, n), store(s->squashed + node * H + j, t, n);
    }
}

/* Scores become log probabilities, and their probabilities are added up. */
static void log_softmax(float *scores, float *cumulative, long n) {
    float largest = scores[0], sum = 0;
    for (long j = 1; j < n; j++) largest = scores[j] > largest ? scores[j] : largest;
    for (long j = 0; j < n; j++) sum += expf(scores[j] - largest);
    const float log_sum = largest + logf(sum);
    for (long j = 0; j < n; j++) {
        scores[j] -= log_sum;
        cumulative[j] = expf(scores[j]) + (j ? cumulative[j - 1] : 0);
    }
}

/* As many words as there are whose cumulative probability is not above the number, for they come before the drawn one. */
static long drawn(const float *cumulative, long n, float uniform) {
    long token = 0;
    for (long j = 0; j < n; j++) token += cumulative[j] <= uniform * cumulative[n - 1];
    return token;
}

static void ask_one(const struct call *call, long controller) {
    const long H = call->units, C = call->children, L = call->layers, most = most_words(call);
    const struct layout at = lay_out(call);
    const struct tree tree = tree_of(call, controller);
    float *own = call->weights + controller * call->parameters, *policy = policy_of(call, controller);
    float *table = call->scratch + at.table, *bias = call->scratch + at.bias, *joined = call->scratch + at.joined;
    float *packed = call->scratch + at.packed, *cumulative = call->scratch + at.cumulative;
    int64_t *seen = (int64_t *)(call->scratch + at.seen);
    for (long layer = 0; layer < L; layer++) {
        const struct weights w = weights_at(call, own, layer);
        const struct layer_state s = layer_state(call, controller, layer);
        const long wide = width(call, layer);
        float *here = packed + layer * packed_room(call);
        for (long j = 0; j < 4 * H; j++) bias[layer * 4 * H + j] = w.input_bias[j] + w.state_bias[j];
        if (!layer) {
            pack(w.input, 1, H, H, 4 * H, here, 0, panel_count(4 * H));
            product(call, all_words(call) + 1, H, w.embedding, here, 4 * H, table, 4 * H, 0, bias);
        }
        join(call, &w, layer, joined);
        pack(joined, 1, wide, wide, 4 * H, here, 0, panel_count(4 * H));
        zero(s.h, H), zero(s.c, H);
    }
    const struct weights w = weights_at(call, own, 0);
    tree.first[0] = 1, tree.first[1] = 2, tree.parent[1] = 0, tree.row[1] = all_words(call);
    for (long child = 0; child < C; child++) tree.of[child] = 1;
    for (long t = 0, row = 0; t < call->places; row += call->words[t++]) {
        const long first = tree.first[t], end = tree.first[t + 1], words = call->words[t];
        struct layer_state s = {0}, below;
        for (long layer = 0; layer < L; layer++) {
            const long wide = width(call, layer);
            below = s, s = layer_state(call, controller, layer);
            for (long node = first; node < end; node++) {
                if (layer) copy(s.read + node * wide, below.h + node * H, H);
                else copy(s.gates + node * 4 * H, table + tree.row[node] * 4 * H, 4 * H);
                copy(s.read + (node + 1) * wide - H, s.h + tree.parent[node] * H, H);
            }
            product(call, end - first, wide, s.read + first * wide, packed + layer * packed_room(call), 4 * H,
                    s.gates + first * 4 * H, 4 * H, !layer, layer ? bias + layer * 4 * H : 0);
            for (long node = first; node < end; node++) node_state(call, &s, node, tree.parent[node]);
        }
        float *out = call->scratch + at.factor;
        pack(w.out + row * H, 1, H, H, words, out, 0, panel_count(words));
        product(call, end - first, H, s.h + first * H, out, words, policy + first * most, most, 0, w.out_bias + row);
        for (long node = first; node < end; node++)
            log_softmax(policy + node * most, cumulative + (node - first) * most, words);
        memset(seen, 0, (end - first) * most * sizeof(int64_t));
        long next = end;
        for (long child = 0; child < C; child++) {
            const long node = tree.of[t * C + child], beside = (node - first) * most;
            const float number = call->uniform[(controller * call->places + t) * C + child];
            const long token = drawn(cumulative + beside, words, number);
            call->tokens[(controller * C + child) * call->places + t] = token;
            if (t + 1 == call->places) continue;
            int64_t *met = seen + beside + token;
            if (!*met) *met = next, tree.parent[next] = node, tree.row[next++] = row + token;
            tree.of[(t + 1) * C + child] = *met;
        }
        if (t + 1 < call->places) tree.first[t + 2] = next;
    }
}

void ask(const struct call *call) {
    for (long controller = 0; controller < call->controllers; controller++) ask_one(call, controller);
}

/* --- learning ------------------------------------------------------------------------------------------------ */

/* From d_h and d_c of a node to its parent's d_c and to the gradients of the sums in its gates, which take their place. */
static void node_back(const struct call *call, const struct layer_state *s, long node, long parent, const float *d_h,
                      float *d_c) {
    const long H = call->units;
    float *gates = s->gates + node * 4 * H;
    for (long j = 0; j < H; j += LANES) {
        const long n = H - j;
        const vec i = load(gates + j, n), f = load(gates + H + j, n), g = load(gates + 2 * H + j, n);
        const vec o = load(gates + 3 * H + j, n), t = load(s->squashed + node * H + j, n);
        const vec of_h = load(d_h + node * H + j, n), of_c = load(d_c + node * H + j, n) + of_h * o * (1.f - t * t);
        float *before = d_c + parent * H + j;
        store(gates + j, of_c * g * i * (1.f - i), n);
        store(gates + H + j, of_c * load(s->c + parent * H + j, n) * f * (1.f - f), n);
        store(gates + 2 * H + j, of_c * i * (1.f - g * g), n);
        store(gates + 3 * H + j, of_h * t * o * (1.f - o), n);
        store(before, load(before, n) + of_c * f, n);
    }
}

/* The way back from the choices at place t, whose words have the output's rows from `row` on: adds to the gradients of
 * the top layer's h and of the output. A string's part of the loss is -(advantage log P + entropy's weight times the mean
 * entropy of its places) / strings. */
static void policy_back(const struct call *call, long controller, long t, long row, float *d_h, struct weights *d) {
    const long H = call->units, C = call->children, words = call->words[t];
    const struct tree tree = tree_of(call, controller);
    const struct weights w = weights_at(call, call->weights + controller * call->parameters, 0);
    const float *h = layer_state(call, controller, call->layers - 1).h;
    for (long node = tree.first[t]; node < tree.first[t + 1]; node++) {
        const float *log_p = policy_of(call, controller) + node * most_words(call);
        float d_score[words], all_advantages = 0, strings = 0, entropy = 0;
        zero(d_score, words);
        for (long child = 0; child < C; child++) {
            if (tree.of[t * C + child] != node) continue;
            const float advantage = call->advantages[controller * C + child];
            all_advantages += advantage, strings += 1;
            d_score[call->tokens[(controller * C + child) * call->places + t]] -= advantage;
        }
        for (long j = 0; j < words; j++) entropy -= expf(log_p[j]) * log_p[j];
        for (long j = 0; j < words; j++) {
            const float p = expf(log_p[j]), bonus = call->entropy * strings / call->places * (log_p[j] + entropy);
            const float of = (d_score[j] + p * (all_advantages + bonus)) / C;
            for (long k = 0; k < H; k += LANES) {
                const long n = H - k;
                float *to_h = d_h + node * H + k, *to_out = d->out + (row + j) * H + k;
                store(to_h, load(to_h, n) + of * load(w.out + (row + j) * H + k, n), n);
                store(to_out, load(to_out, n) + of * load(h + node * H + k, n), n);
            }
            d->out_bias[row + j] += of;
        }
    }
}

/* The gradients of a layer's weights, once those of the sums in the gates of all nodes are known. */
static void layer_gradient(const struct call *call, long controller, long layer, struct weights *d) {
    const long H = call->units, wide = width(call, layer), rows = all_words(call) + 1;
    const struct layout at = lay_out(call);
    const struct tree tree = tree_of(call, controller);
    const struct layer_state s = layer_state(call, controller, layer);
    const long end = tree.first[call->places];
    float *d_joined = call->scratch + at.d_read, *d_table = call->scratch + at.d_table;
    product_of_transposed(call, 4 * H, end - 1, s.gates + 4 * H, s.read + wide, wide, d_joined);
    for (long j = 0; j < 4 * H; j++) {
        if (layer) copy(d->input + j * H, d_joined + j * wide, H);
        copy(d->state + j * H, d_joined + (j + 1) * wide - H, H);
    }
    for (long node = 1; node < end; node++) add(d->state_bias, s.gates + node * 4 * H, 4 * H);
    copy(d->input_bias, d->state_bias, 4 * H);
    if (layer) return;
    const struct weights w = weights_at(call, call->weights + controller * call->parameters, 0);
    float *packed = call->scratch + at.packed;
    zero(d_table, rows * 4 * H);
    for (long node = 1; node < end; node++) add(d_table + tree.row[node] * 4 * H, s.gates + node * 4 * H, 4 * H);
    product_of_transposed(call, 4 * H, rows, d_table, w.embedding, H, d->input);
    pack(w.input, H, 1, 4 * H, H, packed, 0, panel_count(H));
    product(call, rows, 4 * H, d_table, packed, H, d->embedding, H, 0, 0);
}

/* A step of Adam (Kingma & Ba 2015, algorithm 1), of a gradient that is shortened first. */
static void step(const struct call *call, long controller, const float *gradient) {
    float *weights = call->weights + controller * call->parameters, *means = call->means + controller * call->parameters;
    float *squares = call->squares + controller * call->parameters, length = 0;
    vec lengths = {0};
    for (long j = 0; j < call->parameters; j += LANES) {
        const vec g = load(gradient + j, call->parameters - j);
        lengths += g * g;
    }
    for (long lane = 0; lane < LANES; lane++) length += lengths[lane];
    const float share = fminf(1.f, call->longest / (sqrtf(length) + 1e-6f));
    const float a = call->decays[0], b = call->decays[1], rate = call->rate, unbiased = call->unbiased, tiny = call->tiny;
    for (long j = 0; j < call->parameters; j++) {
        const float g = share * gradient[j];
        means[j] = a * means[j] + (1.f - a) * g;
        squares[j] = b * squares[j] + (1.f - b) * g * g;
        weights[j] -= rate * means[j] / (sqrtf(squares[j]) * unbiased + tiny);
    }
}

static void tell_one(const struct call *call, long controller) {
    const long H = call->units, L = call->layers, nodes = most_nodes(call);
    const struct layout at = lay_out(call);
    const struct tree tree = tree_of(call, controller);
    float *own = call->weights + controller * call->parameters, *gradient = call->scratch + at.gradient;
    float *d_h = call->scratch + at.d_h, *d_c = call->scratch + at.d_c, *d_read = call->scratch + at.d_read;
    float *packed = call->scratch + at.packed, *joined = call->scratch + at.joined;
    zero(gradient, call->parameters), zero(d_h, L * nodes * H), zero(d_c, L * nodes * H);
    for (long layer = 0; layer < L; layer++) {
        const struct weights w = weights_at(call, own, layer);
        const long wide = width(call, layer);
        join(call, &w, layer, joined);
        pack(joined, wide, 1, 4 * H, wide, packed + layer * packed_room(call), 0, panel_count(wide));
    }
    struct weights d = weights_at(call, gradient, 0);
    for (long t = call->places - 1, row = all_words(call); t >= 0; t--) {
        const long first = tree.first[t], end = tree.first[t + 1];
        row -= call->words[t];
        policy_back(call, controller, t, row, d_h + (L - 1) * nodes * H, &d);
        for (long layer = L - 1; layer >= 0; layer--) {
            const struct layer_state s = layer_state(call, controller, layer);
            const long wide = width(call, layer);
            float *own_d_h = d_h + layer * nodes * H;
            for (long node = first; node < end; node++)
                node_back(call, &s, node, tree.parent[node], own_d_h, d_c + layer * nodes * H);
            product(call, end - first, 4 * H, s.gates + first * 4 * H, packed + layer * packed_room(call), wide, d_read,
                    wide, 0, 0);
            for (long node = first; node < end; node++) {
                const float *from = d_read + (node - first) * wide;
                if (layer) add(own_d_h - nodes * H + node * H, from, H);
                add(own_d_h + tree.parent[node] * H, from + wide - H, H);
            }
        }
    }
    for (long layer = 0; layer < L; layer++) {
        d = weights_at(call, gradient, layer);
        layer_gradient(call, controller, layer, &d);
    }
    step(call, controller, gradient);
}

void tell(const struct call *call) {
    for (long controller = 0; controller < call->controllers; controller++) tell_one(call, controller);
}
