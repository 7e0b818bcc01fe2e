"""C on the user's machine: compiled once, kept for later, loaded with ctypes."""

from nasrepro.native.build import CORES as CORES
from nasrepro.native.build import INCLUDE as INCLUDE
from nasrepro.native.build import NativeError as NativeError
from nasrepro.native.build import cache_folder as cache_folder
from nasrepro.native.build import load as load
from nasrepro.native.memory import in_memory as in_memory
from nasrepro.native.memory import readable as readable
from nasrepro.native.memory import refuse_second_derivative as refuse_second_derivative
