"""C on the user's machine: compiled once, kept for later, loaded with ctypes."""

from nasrepro.native.build import CORES, INCLUDE, NativeError, cache_folder, load
from nasrepro.native.memory import in_memory, readable, refuse_second_derivative

__all__ = [
    "CORES",
    "INCLUDE",
    "NativeError",
    "cache_folder",
    "in_memory",
    "load",
    "readable",
    "refuse_second_derivative",
]
