/* The language's elementwise functions on vectors of floats, and their slopes.
 *
 * Errors are below 2e-7 relative (sine and cosine: absolute). NaN and infinities come out
 * as they do from torch's functions. Slopes are computed from the argument, not from the function's value: at
 * sigmoid(15) = 0.9999997 the product y (1 - y) has one digit left, e / (1 + e)^2 has all of them.
 */
#ifndef NASREPRO_FUNCTIONS_H
#define NASREPRO_FUNCTIONS_H

#include <math.h>

#include "vec.h"

#define SELU_SCALE 1.0507009873554805f
#define SELU_ALPHA 1.6732632423543772f

INLINE vec magnitude(vec a) { return (vec)((ints)a & 0x7fffffff); }

/* To the nearest whole number, for |a| < 2^22: added to 1.5 * 2^23, a float has no bits left for a fraction. */
INLINE vec nearest(vec a) { return (a + 12582912.f) - 12582912.f; }

/* exp(a) = 2^k e^f with k whole and |f| <= log(2) / 2; gives 2^k and e^f - 1. The polynomial is Cephes' expf. */
INLINE vec exp_parts(vec a, vec *power) {
    const vec k = nearest(a * 1.44269504088896341f);
    vec f = a - k * 0.693359375f; /* log(2) in two pieces, the first short enough for k times it to be exact */
    f = f + k * 2.12194440e-4f;
    vec p = all(1.9875691500e-4f);
    p = p * f + 1.3981999507e-3f;
    p = p * f + 8.3334519073e-3f;
    p = p * f + 4.1665795894e-2f;
    p = p * f + 1.6666665459e-1f;
    p = p * f + 5.0000001201e-1f;
    *power = (vec)((__builtin_convertvector(k, ints) + 127) << 23);
    return p * (f * f) + f;
}

/* exp(a) for a <= 0, to 0 below -87; NaN stays NaN. */
INLINE vec exp_of_negative(vec a) {
    vec power;
    const vec e = exp_parts(pick(a < -87.f, all(-87.f), a), &power);
    return pick(a < -87.f, (vec){0}, e * power + power);
}

/* exp(a) - 1 for a <= 0, with all digits near 0. */
INLINE vec expm1_of_negative(vec a) {
    vec power;
    const vec e = exp_parts(pick(a < -87.f, all(-87.f), a), &power);
    return e * power + (power - 1.f);
}

/* A function and its slope share all that is expensive, word for word, so that compilers find it and do it once. */
INLINE vec sigmoid(vec a) {
    const vec e = exp_of_negative(-magnitude(a)), part = 1.f / (1.f + e);
    return pick(a < 0.f, e, all(1.f)) * part;
}

INLINE vec sigmoid_slope(vec a) {
    const vec e = exp_of_negative(-magnitude(a)), part = 1.f / (1.f + e);
    return e * part * part;
}

/* 1 - sigmoid(a) with all its digits */
INLINE vec sigmoid_rest(vec a) {
    const vec e = exp_of_negative(-magnitude(a)), part = 1.f / (1.f + e);
    return pick(a < 0.f, all(1.f), e) * part;
}
INLINE vec rest(vec f) { return 1.f - f; }

/* f a + r b where r = 1 - f, from the nearer end: exact at both, and infinite or NaN where torch.lerp is. */
INLINE vec gate(vec a, vec b, vec f, vec r) { return pick(magnitude(f) < 0.5f, b + f * (a - b), a - r * (a - b)); }

INLINE vec tanh_(vec a) {
    const vec b = -2.f * magnitude(a), part = 1.f / (1.f + exp_of_negative(b));
    const vec y = -expm1_of_negative(b) * part;
    return pick(a < 0.f, -y, y);
}

INLINE vec tanh_slope(vec a) {
    const vec e = exp_of_negative(-2.f * magnitude(a)), part = 1.f / (1.f + e);
    return 4.f * e * part * part;
}

/* sin(a + quarters * pi / 2) of the C library, for arguments that the pieces of pi / 2 below are too short for. */
static vec __attribute__((noinline, unused)) sine_of_large(vec a, int quarters) {
    vec y;
    for (int lane = 0; lane < LANES; lane++) y[lane] = quarters ? cosf(a[lane]) : sinf(a[lane]);
    return y;
}

INLINE int any(ints where) {
    int found = 0;
    for (int lane = 0; lane < LANES; lane++) found |= where[lane];
    return found;
}

/* sin(a + quarters * pi / 2), quarters 0 or 1 */
INLINE vec sine(vec a, int quarters) {
    if (any(magnitude(a) > 8192.f)) return sine_of_large(a, quarters);
    const vec k = nearest(a * 0.63661977236758134f);
    vec r = a - k * 1.5703125f; /* pi / 2 in three pieces, exact for as long as k has few bits */
    r = r - k * 4.837512969970703125e-4f;
    r = r - k * 7.54978995489188216e-8f;
    const ints quarter = __builtin_convertvector(k, ints) + quarters;
    const vec z = r * r;
    const vec s = ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * (z * r) + r;
    const vec c = ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * (z * z) +
                  (1.f - 0.5f * z);
    const vec y = pick((quarter & 1) == 1, c, s);
    return pick((quarter & 2) == 2, -y, y);
}

INLINE vec sin_(vec a) { return sine(a, 0); }
INLINE vec cos_(vec a) { return sine(a, 1); }

INLINE vec relu(vec a) { return pick(a < 0.f, (vec){0}, a); } /* a NaN is not below 0 and stays */
INLINE vec relu_back(vec d, vec a) { return pick(a <= 0.f, (vec){0}, d); }

INLINE vec selu(vec a) {
    const vec low = SELU_SCALE * SELU_ALPHA * expm1_of_negative(pick(a > 0.f, (vec){0}, a));
    return pick(a > 0.f, SELU_SCALE * a, low);
}

INLINE vec selu_slope(vec a) {
    const vec low = SELU_SCALE * SELU_ALPHA * exp_of_negative(pick(a > 0.f, (vec){0}, a));
    return pick(a > 0.f, all(SELU_SCALE), low);
}

INLINE vec larger(vec a, vec b) { return pick((a > b) | (a != a), a, b); }
/* What of d goes to a in larger(a, b): all, half where both are equal, or nothing; all where one is NaN, as in torch. */
INLINE vec larger_back(vec d, vec a, vec b) { return pick(a < b, (vec){0}, pick(a == b, 0.5f * d, d)); }

#endif
