"""`make bench-criu`: CRIU's pre-dump beside one of our iterations, where CRIU can track at all.

    Debian's kernel with soft-dirty --tests.kernels--> emulated machine
    Debian's criu and its libraries --second disk----> /criu in it
                                        tests.bench.criu_guest --lines of JSON--> rows

CRIU is a peer to measure, not a dependency: it and the kernel come from the same release of
Debian, are unpacked below build/kernels and never installed. The machine is emulated instruction
by instruction: both sides are some ten times as slow as on a real one. Ratios hold, times do not.

The rows go to docs/benchmarks/criu.json and into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests import victim
from tests.bench import page, run, table
from tests.bench.case import Result
from tests.bench.document import Document
from tests.bench.programs import FLAGS, FOLDER
from tests.bench.sample import Row, Spread, compare, single
from tests.kernels import archive, image, machine

PLACE = image.ROOT / "build" / "kernels"
KEPT = run.COMMITTED / "criu.json"

#: The column of tests.kernels whose kernel has soft-dirty and whose suite has a CRIU for it.
KERNEL, SUITE = "stable", "trixie"

#: Without some of these CRIU does not find out what the kernel has, and gives up.
MODULES = ("nf_tables", "unix_diag", "inet_diag", "tcp_diag", "udp_diag", "netlink_diag", "veth")

#: Seconds until a silent machine is taken for hung: populating half a GiB takes some.
SILENCE = 300.0
MEMORY_MIB = 3072
DISK = "256M"


class BootFailed(Exception):
    """The machine did not say what it should: the message has the end of what it did say."""


def packages(kernel: archive.Kernel, folder: Path) -> Path:
    """A disk with CRIU, its libraries and modules, and the victim. Raises ArchiveError."""
    staging = folder / "criu"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    for part in ("bin", "sbin", "lib", "lib64"):
        (staging / "usr" / part).mkdir(parents=True)
        (staging / part).symlink_to(f"usr/{part}")
    apt = archive.Apt(folder / "criu-apt", (SUITE,))
    apt.update()
    apt.run("apt-get", "-y", "-d", "--no-install-recommends", "install", "criu")
    for package in sorted((apt.base / "archives").glob("*.deb")):
        # Through tar: dpkg-deb -x would put folders where the links are.
        with subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE
        ) as unpacked:
            command = ["tar", "-x", "--keep-directory-symlink", "-C", str(staging)]
            subprocess.run(command, stdin=unpacked.stdout, check=True)
    (staging / "targets").mkdir()
    shutil.copy2(victim.build("victim", FLAGS, FOLDER), staging / "targets")
    (staging / "modules").mkdir()
    for name, content in image.modules(kernel, MODULES):
        (staging / "modules" / name).write_bytes(content)
    shutil.rmtree(staging / "usr/share", ignore_errors=True)
    disk = folder / "criu.img"
    disk.unlink(missing_ok=True)
    options = ["-q", "-t", "ext4", "-O", "^has_journal", "-E", "root_owner=0:0"]
    subprocess.run(["/sbin/mke2fs", *options, "-d", staging, disk, DISK], check=True)
    return disk


def boot(kernel: archive.Kernel, disks: list[Path], folder: Path) -> Iterator[dict[str, Any]]:
    """What tests.bench.criu_guest says, line by line. Raises BootFailed."""
    console = folder / "console-criu.log"
    words = f"{machine.KERNEL} {image.MODULE}=tests.bench.criu_guest"
    drives = [f"file={disk},if=virtio,format=raw,snapshot=on" for disk in disks]
    command = [
        machine.QEMU,
        *("-accel", "tcg,thread=multi", "-cpu", machine.PROCESSOR, "-smp", "2"),
        *("-m", str(MEMORY_MIB), "-nodefaults", "-display", "none", "-no-reboot"),
        *("-kernel", str(kernel.vmlinuz), "-initrd", str(image.initramfs(kernel, folder))),
        *("-append", words, "-serial", f"file:{console}", "-serial", "stdio"),
        *(word for drive in drives for word in ("-drive", drive)),
    ]
    log = folder / "qemu-criu.log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        ) as process,
    ):
        try:
            yield from _lines(process)
        except TimeoutError:
            pass
        else:
            return
        finally:
            process.kill()
    tails = [path.read_text(errors="replace")[-2000:] for path in (log, console) if path.exists()]
    raise BootFailed("it fell silent, or ended:\n" + "\n".join(tails))


def _lines(process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    """Up to the one that says that it ended. Raises TimeoutError, BootFailed."""
    assert process.stdout is not None
    while select.select([process.stdout.fileno()], [], [], SILENCE)[0]:
        line = process.stdout.readline()
        if not line:
            break
        if not line.startswith(b"{"):
            continue
        said = json.loads(line)
        if "ended" in said:
            return
        if "failed" in said:
            raise BootFailed(said["failed"])
        yield said
    raise TimeoutError


def rows(said: list[dict[str, Any]]) -> list[Row]:
    """What was measured, load by load."""
    found: list[Row] = []
    for load in dict.fromkeys(one["load"] for one in said):
        theirs, mine = (
            [one for one in said if one["load"] == load and one["how"] == how]
            for how in ("criu", "ours")
        )

        def series(lines: list[dict[str, Any]], key: str) -> list[float]:
            return [float(line[key]) for line in lines]

        stopped = "stopped by attaching" if load == "first time" else "frozen"
        found += [
            compare(
                f"criu: {load}, {stopped}", "ms", series(theirs, "frozen"), series(mine, "frozen")
            ),
            compare(
                f"criu: {load}, whole, pages written to a file",
                "ms",
                series(theirs, "whole"),
                series(mine, "whole"),
            ),
            single(f"criu: {load}, our iteration alone", "ms", series(mine, "found")),
            Row(
                f"criu: {load}, pages reported",
                "",
                Spread.of(series(theirs, "pages")),
                Spread.of(series(mine, "pages")),
            ),
        ]
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make bench-criu", description=__doc__.split("\n")[0])
    parser.parse_args(argv)
    PLACE.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    _tell("fetching the kernel and CRIU")
    try:
        (kernel,) = archive.fetch(PLACE, [KERNEL]).demanded()
        disks = [image.root_disk(PLACE), packages(kernel, PLACE)]
    except archive.ArchiveError as error:
        _tell(f"error: {error}")
        return 1
    said: list[dict[str, Any]] = []
    where: dict[str, Any] = {}
    try:
        for line in boot(kernel, disks, PLACE):
            if "kernel" in line:
                where = line
                _tell(f"Linux {line['kernel']}, {line['criu']}, {line['mib']} MiB")
            else:
                said.append(line)
                _tell(f"{line['how']}, {line['load']}: frozen {line['frozen'] / 1e6:.2f} ms")
    except BootFailed as error:
        _tell(f"error: {error}")
        return 1
    where["date"] = time.strftime("%Y-%m-%d", time.gmtime())
    where["load"] = round(os.getloadavg()[0], 1)
    place = "Linux {kernel}, CRIU {criu}, {mib} MiB, {date}, load of the host {load}"
    found = [Row("criu: where", "", note=place.format(**where)), *rows(said)]
    document = Document(where, quick=False)
    document.results["criu: pre-dump"] = Result(found, time.monotonic() - began, False)
    document.save(KEPT)
    run.PAGE.write_text(page.fill(run.PAGE.read_text(), {}, {"criu": found}))
    print(table.markdown(found))
    return 0


def _tell(text: str) -> None:
    print(f"bench-criu: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
