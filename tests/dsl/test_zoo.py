"""Every cell of the zoo against its equations, written out by hand from the papers."""

import numpy as np
import pytest

from nasrepro.dsl import parse, zoo
from tests.dsl.evaluator import layer_norm, position, run_cell, selu, sigmoid

SIZE, STEPS, BATCH = 3, 4, 2


def relu(a):
    return np.maximum(a, 0)


# Each function is one step: from products m(i, a) = W_i a + b_i, where i counts the cell's matrices in the
# order in which its text closes them, and x_t, x_{t-1}, h_{t-1}, c_{t-1}, t to h_t, c_t.


def tanh_rnn(m, x, x_last, h, c, t):
    return np.tanh(m(0, x) + m(1, h)), c


def lstm(m, x, x_last, h, c, t):  # Hochreiter & Schmidhuber 1997; Gers et al. 2000
    o = sigmoid(m(0, x) + m(1, h))
    f = sigmoid(m(2, x) + m(3, h))
    i = sigmoid(m(4, x) + m(5, h))
    g = np.tanh(m(6, x) + m(7, h))
    c = f * c + i * g
    return o * np.tanh(c), c


def gru(m, x, x_last, h, c, t):  # Cho et al. 2014, with the reset gate after the product
    r = sigmoid(m(2, h) + m(3, x))
    proposal = np.tanh(m(0, x) + r * m(1, h))
    z = sigmoid(m(4, h) + m(5, x))
    return z * proposal + (1 - z) * h, c


def mgu(m, x, x_last, h, c, t):  # Zhou et al. 2016, its one gate written twice
    proposal = np.tanh(m(0, x) + m(3, sigmoid(m(1, x) + m(2, h)) * h))
    f = sigmoid(m(4, x) + m(5, h))
    return (1 - f) * h + f * proposal, c


def qrnn(m, x, x_last, h, c, t):  # Bradbury et al. 2017, window 2, fo-pooling
    o = sigmoid(m(0, x) + m(1, x_last))
    z = np.tanh(m(2, x) + m(3, x_last))
    f = sigmoid(m(4, x) + m(5, x_last))
    c = f * c + (1 - f) * z
    return o * c, c


def nas_cell(m, x, x_last, h, c, t):  # ZL17, Figure 8, top right: l0 ... l7 as in its TensorFlow code
    a, b = [m(i, x) for i in range(0, 16, 2)], [m(i, h) for i in range(1, 16, 2)]
    l0, l1, l2, l3 = sigmoid(a[0] + b[0]), relu(a[1] + b[1]), sigmoid(a[2] + b[2]), relu(a[3] * b[3])
    l4, l5, l6, l7 = np.tanh(a[4] + b[4]), sigmoid(a[5] + b[5]), np.tanh(a[6] + b[6]), sigmoid(a[7] + b[7])
    m0, m1, m2, m3 = np.tanh(l0 * l1), np.tanh(l2 + l3), np.tanh(l4 * l5), sigmoid(l6 + l7)
    c = np.tanh(m0 + c) * m1
    return np.tanh(c * np.tanh(m2 + m3)), c


def max_sin(m, x, x_last, h, c, t):  # ZL17, Figure 8, bottom; nodes n1 ... n8 from left to right
    n2, n3 = np.tanh(m(0, x) + m(1, h)), m(2, x) + m(3, h)
    n5, n6 = np.tanh(m(4, x) + m(5, h)), np.tanh(np.maximum(m(6, x), m(7, h)))
    n1, n4 = np.tanh(m(8, x) + m(9, h)), relu(m(10, x) + m(11, h))
    n7, n8 = np.maximum(m(12, x), m(13, h)), np.tanh(np.maximum(m(14, x), m(15, h)))
    p, q, r = sigmoid(n2 + n3), sigmoid(n1 + n4), sigmoid(n5 + n6)
    c = q * (n7 + (n8 + c))
    return np.tanh(sigmoid(p * r) * c), c


def bc3(m, x, x_last, h, c, t):  # S17, equations 1-5
    f = sigmoid(m(5, x) + m(6, h))
    z = m(3, m(1, c) * m(2, x)) * m(4, x)
    c = np.tanh(f * m(0, x) + (1 - f) * z)
    o = sigmoid(m(7, x) + m(8, h))
    return o * c + (1 - o) * h, c


def mt1(m, x, x_last, h, c, t):  # S17, Table 3
    f = sigmoid(m(1, h))
    return f * (m(0, x) + x) + (1 - f) * x, c


def mt2(m, x, x_last, h, c, t):
    f = sigmoid(m(1, h))
    return f * m(0, x) + (1 - f) * np.tanh(x), c


def mt3(m, x, x_last, h, c, t):
    inner = layer_norm(m(1, np.tanh(m(0, h)))), m(4, np.tanh(m(3, np.tanh(np.tanh(m(2, h))))))
    f1, f2, f3, f4, f5 = (sigmoid(m(i, h)) for i in range(5, 10))
    mixed = f1 * inner[0] + (1 - f1) * inner[1]
    for f in (f2, f3, f4):
        mixed = f * mixed + (1 - f) * h
    return f5 * mixed + (1 - f5) * x, c


def mt4(m, x, x_last, h, c, t):
    g = sigmoid(m(3, np.tanh(m(2, np.tanh(m(1, np.tanh(m(0, np.tanh(h)))))))))
    f = sigmoid(m(6, np.tanh(m(5, np.tanh(m(4, h))))))
    return f * (g * position(t, SIZE) + (1 - g) * h) + (1 - f) * x, c


def mt5(m, x, x_last, h, c, t):
    f = sigmoid(m(1, selu(h)))
    return f * m(0, x) + (1 - f) * x, c


STEP = {
    "TanhRNN": tanh_rnn,
    "LSTM": lstm,
    "GRU": gru,
    "MGU": mgu,
    "QRNN": qrnn,
    "NASCell": nas_cell,
    "MaxSin": max_sin,
    "BC3": bc3,
    "MT1": mt1,
    "MT2": mt2,
    "MT3": mt3,
    "MT4": mt4,
    "MT5": mt5,
}


def test_every_cell_has_equations_here():
    assert set(STEP) == set(zoo)


@pytest.mark.parametrize("name", STEP)
def test_cell_equals_its_equations(name):
    rng = np.random.default_rng(len(name))
    cell = zoo[name]
    count = sum(node.op == "MM" for node in cell.operators)
    matrices = [(rng.normal(size=(SIZE, SIZE)), rng.normal(size=SIZE)) for _ in range(count)]
    x = rng.normal(size=(STEPS, BATCH, SIZE))
    h, c, x_last = (rng.normal(size=(BATCH, SIZE)) for _ in range(3))
    used = set()

    def product(i, a):
        used.add(i)
        return a @ matrices[i][0].T + matrices[i][1]

    found, _ = run_cell(cell, matrices, x, h, c, x_last)
    for t in range(STEPS):
        h, c = STEP[name](product, x[t], x_last, h, c, t)
        x_last = x[t]
        np.testing.assert_allclose(found[t], h, rtol=1e-12, atol=1e-12)
    assert used == set(range(count))


def test_is_a_mapping_that_documents_itself():
    assert list(zoo)[:3] == ["TanhRNN", "LSTM", "GRU"]
    assert len(zoo) == len(dict(zoo)) == 13
    for name in zoo:
        entry = zoo.about(name)
        assert entry.cell == zoo[name] == parse(entry.text)
        assert all((entry.about, entry.citation, entry.equations))
        assert name in zoo._repr_html_()


def test_printed_cells_stand_as_printed():
    # S17, sections 2 and 4.1, appendix A.2
    assert str(zoo["TanhRNN"]) == "Tanh(Add(MM(x_t), MM(h_{t-1})))"
    assert str(zoo["GRU"]) == (
        "Gate3(Tanh(Add(MM(x_t), Mult(MM(h_{t-1}), Sigmoid(Add(MM(h_{t-1}), MM(x_t)))))), h_{t-1}, "
        "Sigmoid(Add(MM(h_{t-1}), MM(x_t))))"
    )
    assert str(zoo["BC3"]) == (
        "Gate3(Tanh(Gate3(MM(x_t), Mult(MM(Mult(MM(c_{t-1}), MM(x_t))), MM(x_t)), "
        "Sigmoid(Add(MM(x_t), MM(h_{t-1}))))), h_{t-1}, Sigmoid(Add(MM(x_t), MM(h_{t-1}))))|12"
    )


def test_bc3_has_nine_matrices_five_on_the_input():
    sources = [node.args[0].text for node in zoo["BC3"].operators if node.op == "MM"]
    assert len(sources) == 9
    assert [sources.count(name) for name in ("x_t", "h_{t-1}", "c_{t-1}")] == [5, 2, 1]


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(KeyError, match=r"no cell 'Elman' in the zoo; it holds TanhRNN, LSTM, GRU, MGU"):
        zoo["Elman"]
    with pytest.raises(KeyError, match=r"no cell 'BC4' in the zoo; did you mean 'BC3'\? it holds TanhRNN"):
        zoo["BC4"]
