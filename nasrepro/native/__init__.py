"""C on the user's machine: compiled once, kept for later, loaded with ctypes."""

from nasrepro.native.build import CORES, INCLUDE, NativeError, cache_folder, load

__all__ = ["CORES", "INCLUDE", "NativeError", "cache_folder", "load"]
