"""Loading C that multiplies matrices: which numbers its products take, and what the system must be asked for."""

import ctypes

from nasrepro import native


def load_products(source: str, *, bfloat16: bool) -> ctypes.CDLL:
    """As `native.load`, for C that includes gemm.h: products of float32, or of numbers rounded to bfloat16.

    Raises NativeError where C cannot be compiled.
    """
    flags = ["-DPRODUCTS_BF16"] if bfloat16 else []
    library = native.load(source, flags=flags)
    # Where a processor has tile registers, a process must ask for them; a system that knows none says no.
    if hasattr(library, "ask_for_tiles") and library.ask_for_tiles() != 0:
        library = native.load(source, flags=[*flags, "-DWITHOUT_TILES"])
    return library
