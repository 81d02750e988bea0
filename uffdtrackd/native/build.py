"""Builds uffdtrackd.native._native, the C half of the tracker.

    native/api/*.h --+-- preprocessor lines dropped --> cffi cdef --+
                     |                                              +--> _native.abi3.so
    native/c/*.c ----+-- #include "api/x.h" ------------------------+

A header in api/ is at once the C declaration and the Python one, so the two cannot drift
apart: it holds only what cffi's cdef() can parse (structs, enums, prototypes, plain integer
#defines) beside its #pragma and #include lines. A new noun is a new header and a new .c file;
nothing is listed here.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

CFLAGS = [
    "-std=gnu11",
    "-O2",
    "-g",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unused-parameter",
    "-fvisibility=hidden",
]


def declarations(header: Path) -> str:
    """The text of an api header as cdef() wants it: without #pragma and #include lines."""
    return "\n".join(
        line
        for line in header.read_text().splitlines()
        if not line.startswith(("#pragma", "#include"))
    )


headers = sorted((HERE / "api").glob("*.h"))
sources = sorted((HERE / "c").glob("*.c"))

ffibuilder = FFI()
for header in headers:
    ffibuilder.cdef(declarations(header))
ffibuilder.set_source(
    "uffdtrackd.native._native",
    "\n".join(f'#include "api/{header.name}"' for header in headers),
    # setuptools wants paths relative to the folder of setup.py.
    sources=[str(path.relative_to(ROOT)) for path in sources],
    include_dirs=["uffdtrackd/native", "parasite", "build"],
    depends=[str(path.relative_to(ROOT)) for path in (*headers, *HERE.glob("c/*.h"))],
    extra_compile_args=CFLAGS,
    py_limited_api=True,
)

if __name__ == "__main__":
    ffibuilder.compile(verbose="-v" in sys.argv)
