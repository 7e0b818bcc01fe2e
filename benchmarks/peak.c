/* What the processor's multiply-add units can do: sums that stay in registers, and wait for nothing but themselves. */
#include "threads.h"
#include "vec.h"

struct call {
    long rounds; /* in each, every lane of every sum is multiplied by the factor and the term is added */
    float factor, term;
    float *results; /* (threads): the compiler cannot leave out what is looked at */
};

/* Enough sums that a unit never waits for its last result; they and both factors fit in the registers. Each is named,
 * because compilers may leave an array of so many in memory. */
#if REGISTERS == 32
#define EACH_SUM(DO)                                                                                                   \
    DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)                                          \
    DO(12) DO(13) DO(14) DO(15) DO(16) DO(17) DO(18) DO(19) DO(20) DO(21) DO(22) DO(23)
#else
#define EACH_SUM(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
#endif
#define BEGIN(i) vec sum##i = all(i);
#define COUNT(i) +1
#define MULTIPLY_ADD(i) sum##i = sum##i * factor + term;
#define TOTAL(i) total += sum##i;

/* Floating-point operations of one thread in a round. */
long operations_of_round(void) { return 2L * LANES * (0 EACH_SUM(COUNT)); }

static void member(const void *what, struct team team) {
    const struct call *call = what;
    const vec factor = all(call->factor), term = all(call->term);
    vec total = {0};
    EACH_SUM(BEGIN)
    for (long round = 0; round < call->rounds; round++) { EACH_SUM(MULTIPLY_ADD) }
    EACH_SUM(TOTAL)
    for (int lane = 0; lane < LANES; lane++) call->results[team.me] += total[lane];
}

void multiply_and_add(const struct call *call, long threads) { in_parallel(threads, member, call); }
