"""Builds uffdtrackd.native._native, the C half of the tracker.

    native/api/*.h --+-- preprocessor lines dropped --> cffi cdef --+
                     |                                              +--> _native.abi3.so
    native/c/*.c ----+-- #include "api/x.h" ------------------------+
         |           ^
         |  parasite/*.c --> one flat page of code --> build/parasite_blob.h
         v
    native/helper/inject.c --> native/uffd-inject, a program (c/spawn.h says why)

A header in api/ is at once the C declaration and the Python one, so the two cannot drift
apart: it holds only what cffi's cdef() can parse (structs, enums, prototypes, plain integer
#defines) beside its #pragma and #include lines. A new noun is a new header and a new .c file;
nothing is listed here.
"""

from __future__ import annotations

import hashlib
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
STAMP = BUILD / "injector_stamp.h"


# What the injector consists of; whatever else it needed would fail to link.
HELPER = HERE / "uffd-inject"
HELPER_PARTS = (
    "arch_x86_64 by_call by_parasite choose eintr error fault injector limits listing ours passing"
    " place prepare remote stop strays tasks window"
)
# All symbols bound at the start: none is to be looked for while a target is stopped.
HELPER_LINK = ["-fPIE", "-pie", "-Wl,-z,relro,-z,now", "-Wl,--as-needed", "-s"]


def build_helper() -> None:
    """Compiles the program that injects, if it is stale."""
    sources = [HERE / "helper/inject.c", *(HERE / f"c/{part}.c" for part in HELPER_PARTS.split())]
    inputs = [*sources, *HERE.glob("c/*.h"), *HERE.glob("api/*.h"), BLOB, HERE / "build.py"]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(inputs))).hexdigest()
    stamp = f"#pragma once\n/* Made by build.py. */\n#define UT_INJECTOR_STAMP 0x{digest[:16]}ULL\n"
    if not STAMP.exists() or STAMP.read_text() != stamp:
        STAMP.write_text(stamp)
    inputs.append(STAMP)
    if HELPER.exists() and HELPER.stat().st_mtime > max(p.stat().st_mtime for p in inputs):
        return
    cc = shlex.split(os.environ.get("CC", "cc"))
    include = [f"-I{folder}" for folder in (HERE, PARASITE, BUILD)]
    new = HELPER.with_suffix(".new")
    subprocess.run([*cc, *CFLAGS, *include, *sources, *HELPER_LINK, "-o", new], check=True)
    new.replace(HELPER)


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
build_helper()
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
    depends=[str(path.relative_to(ROOT)) for path in (*headers, *HERE.glob("c/*.h"), BLOB, STAMP)],
    extra_compile_args=CFLAGS,
    py_limited_api=True,
)

if __name__ == "__main__":
    ffibuilder.compile(verbose="-v" in sys.argv)
