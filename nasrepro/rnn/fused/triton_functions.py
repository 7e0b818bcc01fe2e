"""The language's functions in Triton: what functions.h and the normalisation in loop.c are in C, to the same accuracy.

Why they are computed as they are is explained there. Importing this module needs Triton. With
TRITON_INTERPRET=1 set before that, Triton runs its kernels on the CPU, element by element: slow, but without a GPU.
"""

import triton
import triton.language as tl

# --- elementwise functions -----------------------------------------------------------------------------------------


@triton.jit
def nearest(a):
    """To the nearest whole number, for |a| < 2^22."""
    return (a + 12582912.0) - 12582912.0


@triton.jit
def exp_parts(a):
    """exp(a) = 2^k e^f with k whole and |f| <= log(2) / 2: gives e^f - 1 and 2^k."""
    k = nearest(a * 1.44269504088896341)
    f = a - k * 0.693359375
    f = f + k * 2.12194440e-4
    p = 1.9875691500e-4 * f + 1.3981999507e-3
    p = p * f + 8.3334519073e-3
    p = p * f + 4.1665795894e-2
    p = p * f + 1.6666665459e-1
    p = p * f + 5.0000001201e-1
    power = ((k.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
    return p * (f * f) + f, power


@triton.jit
def exp_of_negative(a):
    """exp(a) for a <= 0, to 0 below -87; NaN stays NaN."""
    e, power = exp_parts(tl.where(a < -87.0, -87.0, a))
    return tl.where(a < -87.0, 0.0, e * power + power)


@triton.jit
def expm1_of_negative(a):
    """exp(a) - 1 for a <= 0, with all digits near 0."""
    e, power = exp_parts(tl.where(a < -87.0, -87.0, a))
    return e * power + (power - 1.0)


@triton.jit
def sigmoid(a):
    """1 / (1 + exp(-a))."""
    e = exp_of_negative(-tl.abs(a))
    return tl.where(a < 0.0, e, 1.0) / (1.0 + e)


@triton.jit
def sigmoid_slope(a):
    """The derivative of sigmoid at a."""
    e = exp_of_negative(-tl.abs(a))
    return e / ((1.0 + e) * (1.0 + e))


@triton.jit
def sigmoid_rest(a):
    """1 - sigmoid(a)."""
    return sigmoid(-a)


@triton.jit
def tanh_(a):
    """The hyperbolic tangent."""
    e = expm1_of_negative(-2.0 * tl.abs(a))
    y = -e / (e + 2.0)
    return tl.where(a < 0.0, -y, y)


@triton.jit
def tanh_slope(a):
    """The derivative of tanh at a."""
    e = exp_of_negative(-2.0 * tl.abs(a))
    return 4.0 * e / ((1.0 + e) * (1.0 + e))


@triton.jit
def sine(a, quarters):
    """sin(a + quarters * pi / 2), for |a| up to some 1e8."""
    wide = a.to(tl.float64)  # a multiple of pi / 2 is taken off large arguments too
    k = (wide * 0.63661977236758134 + 6755399441055744.0) - 6755399441055744.0  # to the nearest whole number
    r = (wide - k * 1.5707963267948966).to(tl.float32)
    quarter = k.to(tl.int64) + quarters
    z = r * r
    s = ((-1.9515295891e-4 * z + 8.3321608736e-3) * z - 1.6666654611e-1) * (z * r) + r
    c = ((2.443315711809948e-5 * z - 1.388731625493765e-3) * z + 4.166664568298827e-2) * (z * z) + (1.0 - 0.5 * z)
    y = tl.where((quarter & 1) == 1, c, s)
    return tl.where((quarter & 2) == 2, -y, y)


@triton.jit
def sin_(a):
    """The sine."""
    return sine(a, 0)


@triton.jit
def cos_(a):
    """The cosine."""
    return sine(a, 1)


@triton.jit
def relu(a):
    """a, or 0 below 0."""
    return tl.where(a < 0.0, 0.0, a)


@triton.jit
def relu_back(d, a):
    """What of d goes to a in relu(a)."""
    return tl.where(a <= 0.0, 0.0, d)


@triton.jit
def selu(a):
    """torch.selu: 1.05 a, below 0 1.05 * 1.67 (exp(a) - 1)."""
    low = 1.7580993408473766 * expm1_of_negative(tl.where(a > 0.0, 0.0, a))
    return tl.where(a > 0.0, 1.0507009873554805 * a, low)


@triton.jit
def selu_slope(a):
    """The derivative of selu at a."""
    low = 1.7580993408473766 * exp_of_negative(tl.where(a > 0.0, 0.0, a))
    return tl.where(a > 0.0, 1.0507009873554805, low)


@triton.jit
def larger(a, b):
    """The larger of two; NaN if one is NaN."""
    return tl.where((a > b) | (a != a), a, b)


@triton.jit
def larger_back(d, a, b):
    """What of d goes to a in larger(a, b): all, half where both are equal, or nothing."""
    return tl.where(a < b, 0.0, tl.where(a == b, 0.5 * d, d))


@triton.jit
def rest(f):
    """1 - f."""
    return 1.0 - f


@triton.jit
def gate(a, b, f, r):
    """f a + r b with r = 1 - f, from the end that is nearer, as torch.lerp; f need not lie in 0 .. 1."""
    return tl.where(tl.abs(f) < 0.5, b + f * (a - b), a - r * (a - b))


# --- layer normalisation: one program for each row -------------------------------------------------------------------


@triton.jit
def _normalised(places, inside, width):
    """(a - mean(a)) / deviation(a) of the row at `places`, 0 outside it; and 1 / deviation(a)."""
    a = tl.load(places, mask=inside, other=0.0)
    centred = tl.where(inside, a - tl.sum(a) / width, 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(centred * centred) / width + 1e-5)
    return centred * inverse, inverse


@triton.jit(do_not_specialize=["at", "at_row", "to", "to_row", "width"])
def normalise(at, at_row, to, to_row, width, BLOCK: tl.constexpr):
    """y = (a - mean(a)) / sqrt(var(a) + 1e-5): rows of `width` floats, `at_row` and `to_row` apart; BLOCK >= width."""
    row = tl.program_id(0).to(tl.int64)
    unit = tl.arange(0, BLOCK)
    inside = unit < width
    y, _ = _normalised(at + row * at_row + unit, inside, width)
    tl.store(to + row * to_row + unit, y, mask=inside)


@triton.jit(do_not_specialize=["at", "at_row", "given", "given_row", "to", "to_row", "width"])
def normalise_back(at, at_row, given, given_row, to, to_row, width, ADD: tl.constexpr, BLOCK: tl.constexpr):
    """d_a = (d_y - mean(d_y) - y mean(d_y y)) / sqrt(var(a) + 1e-5), added to what is there if ADD."""
    row = tl.program_id(0).to(tl.int64)
    unit = tl.arange(0, BLOCK)
    inside = unit < width
    y, inverse = _normalised(at + row * at_row + unit, inside, width)
    d_y = tl.load(given + row * given_row + unit, mask=inside, other=0.0)
    d_a = (d_y - tl.sum(d_y) / width - y * (tl.sum(d_y * y) / width)) * inverse
    place = to + row * to_row + unit
    if ADD:
        d_a += tl.load(place, mask=inside)
    tl.store(place, d_a, mask=inside)
