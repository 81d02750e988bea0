"""Builds uffdtrackd.native._native, the C half of the tracker.

    native/api/*.h --+-- preprocessor lines dropped --> cffi cdef --+
                     |                                              +--> _native.abi3.so
    native/c/*.c ----+-- #include "api/x.h" ------------------------+
                     ^
    parasite/*.c --> one flat page of code --> build/parasite_blob.h

A header in api/ is at once the C declaration and the Python one, so the two cannot drift
apart: it holds only what cffi's cdef() can parse (structs, enums, prototypes, plain integer
#defines) beside its #pragma and #include lines. A new noun is a new header and a new .c file;
nothing is listed here.
"""

from __future__ import annotations

import os
import shlex
import subprocess
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


# What the parasite's laws (parasite/parasite.c) ask of the compiler, one a line.
PARASITE_CFLAGS = [
    "-std=gnu11",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-ffreestanding",
    "-fno-builtin",
    "-fpie",
    "-mgeneral-regs-only",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-fno-jump-tables",
    "-fcf-protection=none",
    "-U_FORTIFY_SOURCE",
]
PARASITE = ROOT / "parasite"
BUILD = ROOT / "build"
BLOB = BUILD / "parasite_blob.h"


def build_parasite() -> None:
    """Compiles and links the parasite and writes its bytes as a C header, if it is stale."""
    inputs = [*PARASITE.rglob("*.[ch]"), PARASITE / "parasite.lds", HERE / "build.py"]
    if BLOB.exists() and BLOB.stat().st_mtime > max(p.stat().st_mtime for p in inputs):
        return
    BUILD.mkdir(exist_ok=True)
    cc = shlex.split(os.environ.get("CC", "cc"))
    elf, flat = BUILD / "parasite.elf", BUILD / "parasite.bin"
    link = ["-nostdlib", "-static", "-Wl,--build-id=none", f"-Wl,-T,{PARASITE / 'parasite.lds'}"]
    source = PARASITE / "parasite.c"
    subprocess.run([*cc, *PARASITE_CFLAGS, f"-I{PARASITE}", source, *link, "-o", elf], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", elf, flat], check=True)
    code = ", ".join(f"0x{byte:02x}" for byte in flat.read_bytes())
    BLOB.write_text(
        "#pragma once\n/* Made by uffdtrackd/native/build.py from parasite/. */\n"
        f"#define UT_BLOB {{ {code} }}\n"
    )


def declarations(header: Path) -> str:
    """The text of an api header as cdef() wants it: without #pragma and #include lines."""
    return "\n".join(
        line
        for line in header.read_text().splitlines()
        if not line.startswith(("#pragma", "#include"))
    )


build_parasite()
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
    depends=[str(path.relative_to(ROOT)) for path in (*headers, *HERE.glob("c/*.h"), BLOB)],
    extra_compile_args=CFLAGS,
    py_limited_api=True,
)

if __name__ == "__main__":
    ffibuilder.compile(verbose="-v" in sys.argv)
