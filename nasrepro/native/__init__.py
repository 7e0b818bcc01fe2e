"""C on the user's machine: compiled once, kept for later, loaded with ctypes."""

from nasrepro.native.build import INCLUDE, NativeError, cache_folder, load

__all__ = ["INCLUDE", "NativeError", "cache_folder", "load"]
