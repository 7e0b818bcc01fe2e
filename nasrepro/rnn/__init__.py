"""A cell of the language as a recurrent layer (S17 section 2.4, appendix A.1)."""

from nasrepro.rnn.layer import RNN as RNN
from nasrepro.rnn.layer import RNNLayer as RNNLayer
from nasrepro.rnn.program import Program as Program
from nasrepro.rnn.program import compile_cell as compile_cell
from nasrepro.rnn.state import State as State
