"""The parasite obeys its laws (parasite/parasite.c) and survives its own test under sanitizers."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARASITE = ROOT / "parasite"
BUILD = ROOT / "build"
PAGE = 4096

#: Every instruction that writes or reads a vector, mask, x87 or MMX register, in AT&T syntax.
NOT_SAVED = re.compile(r"%[xyz]mm|%st\b|%mm\d|%k[0-7]\b|\bf(x?save|x?rstor|ld|st)")


def output(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def elf() -> Path:
    """Linked by the build of the package, from the same sources and with the same flags."""
    path = BUILD / "parasite.elf"
    assert path.exists(), "build the package first: make build"
    return path


def instructions(elf: Path) -> list[str]:
    """Mnemonic and operands, one instruction each."""
    lines = output("objdump", "-d", "--no-show-raw-insn", elf).splitlines()
    return [line.split("\t", 1)[1].strip() for line in lines if re.match(r" +[0-9a-f]+:\t", line)]


def test_is_one_page_of_nothing_but_code(elf: Path) -> None:
    sections = output("objdump", "-h", "-w", elf)
    names = re.findall(r"^ +\d+ (\S+) +([0-9a-f]+) +([0-9a-f]+)", sections, re.MULTILINE)
    loaded = [(name, int(size, 16), int(at, 16)) for name, size, at in names if int(size, 16)]
    loaded = [found for found in loaded if not found[0].startswith(".debug")]
    assert [name for name, _, _ in loaded] == [".text"]
    _, size, at = loaded[0]
    assert at == 0
    assert 0 < size == (BUILD / "parasite.bin").stat().st_size <= PAGE


def test_needs_nobody_to_link_or_relocate_it(elf: Path) -> None:
    assert "There are no relocations" in output("readelf", "-r", elf)
    assert output("nm", "--undefined-only", elf) == ""
    symbols = {line.split()[2]: int(line.split()[0], 16) for line in output("nm", elf).splitlines()}
    assert symbols == {"parasite_main": 0, "parasite_data": PAGE}


def test_calls_and_returns_nowhere(elf: Path) -> None:
    """Or a target with a shadow stack would be killed, and one's stack be used."""
    code = instructions(elf)
    assert len(code) > 100
    assert not [text for text in code if re.match(r"(l?call|l?ret|iret|int|sysret)", text)]
    assert sum(text.startswith("syscall") for text in code) >= 9


def test_touches_no_register_that_nobody_saved(elf: Path) -> None:
    assert not [text for text in instructions(elf) if NOT_SAVED.search(text)]


def test_is_what_the_module_was_built_from(elf: Path) -> None:
    text = (BUILD / "parasite_blob.h").read_text()
    listed = bytes(int(byte, 16) for byte in re.findall(r"0x([0-9a-f]{2})\b", text))
    assert listed == (BUILD / "parasite.bin").read_bytes()
    module = next((ROOT / "uffdtrackd" / "native").glob("_native*.so"))
    assert listed in module.read_bytes()


def test_on_the_host_under_sanitizers(tmp_path: Path) -> None:
    program = tmp_path / "host_test"
    flags = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror"]
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    output("gcc", *flags, *sanitizers, PARASITE / "host_test.c", "-o", program)
    assert output(program) == "ok\n"
