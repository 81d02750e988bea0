"""What a machine boots with: one disk for all kernels, and an initramfs for each.

    this Python, its libraries, the venv, the checkout, busybox --copy--> folder --mke2fs--> disk
    busybox, the modules that a disk needs, INIT               --cpio-->              initramfs

Files are where the host has them, so that the venv's absolute paths hold. ext4, and not a view of
the host's files: direct reads, swap, holes and private mappings are then what they are elsewhere.
"""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests import victim
from tests.kernels.archive import Kernel
from uffdtrackd.native import inject

ROOT = Path(__file__).resolve().parent.parent.parent
BUSYBOX = Path("/bin/busybox")

#: Modules for a disk, in the order of loading; those built in are not found, which is fine.
MODULES = ("virtio_pci", "virtio_blk", "ext4")

#: For the linters and for building: tests that run in there need none of it.
UNUSED = ("mypy*", "*__mypyc*", "ruff*", "clang_format*", "pip*", "setuptools*", "shellcheck*")

#: What the tests attach to.
VICTIMS = ("obey", "churn", "filemap", "hugetlb", "shmem", "thp")

#: Room for what the tests write: swap, files with holes.
SIZE = "2G"

INIT = """#!/bin/busybox sh
export PATH=/bin
busybox mkdir -p /dev /proc /sys /disk
busybox mount -t devtmpfs dev /dev
for module in /modules/*; do busybox insmod $module; done
busybox mount -t ext4 -o noatime /dev/vda /disk || busybox poweroff -f
busybox mount --move /dev /disk/dev
exec busybox switch_root /disk /sbin/guest
"""

#: A word of the kernel's command line, which makes it a variable of init: what to run instead.
MODULE = "UFFDTRACKD_GUEST"

GUEST = """#!/bin/sh
export PATH={venv}/bin:/bin HOME=/root LANG=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tracefs tracing /sys/kernel/tracing 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs run /run
hostname guest
ip link set lo up
cd {root}
module=${{{module}:-tests.kernels.guest}}
setsid cttyhack {venv}/bin/python -m $module /dev/ttyS1 $(cat /proc/cmdline)
poweroff -f
"""


def root_disk(folder: Path) -> Path:
    """The disk, made anew. Raises subprocess.CalledProcessError."""
    staging = folder / "root"
    shutil.rmtree(staging, ignore_errors=True)
    for part in ("dev", "proc", "sys", "run", "root", "etc"):
        (staging / part).mkdir(parents=True)
    for part in ("bin", "sbin", "lib", "lib64"):
        (staging / "usr" / part).mkdir(parents=True)
        (staging / part).symlink_to(f"usr/{part}")
    for part in ("tmp", "var/tmp"):
        (staging / part).mkdir(parents=True)
        (staging / part).chmod(0o1777)
    _busybox(staging)
    _python(staging)
    _checkout(staging)
    (staging / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:\n")
    (staging / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    guest = staging / "sbin/guest"
    guest.write_text(GUEST.format(venv=sys.prefix, root=ROOT, module=MODULE))
    guest.chmod(0o755)
    disk = folder / "root.img"
    disk.unlink(missing_ok=True)
    options = ["-q", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=1,root_owner=0:0"]
    subprocess.run(["/sbin/mke2fs", *options, "-d", staging, disk, SIZE], check=True)
    shutil.rmtree(staging)
    return disk


def initramfs(kernel: Kernel, folder: Path) -> Path:
    """What loads the driver of the disk and goes there, for one kernel."""
    files: list[tuple[str, int, bytes]] = [
        (name, 0o40755, b"") for name in ("bin", "modules", "dev", "proc", "sys", "disk")
    ]
    files.append(("init", 0o100755, INIT.encode()))
    files.append(("bin/busybox", 0o100755, BUSYBOX.read_bytes()))
    for name, content in modules(kernel, MODULES):
        files.append((f"modules/{name}", 0o100644, content))
    archive = folder / f"initramfs-{kernel.release}.gz"
    archive.write_bytes(gzip.compress(b"".join(_cpio(files)), compresslevel=1))
    return archive


def modules(kernel: Kernel, wanted: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """File names, in the order of loading, and contents of modules and of what they need."""
    for number, path in enumerate(_modules(kernel, wanted)):
        content = path.read_bytes()
        if path.suffix == ".xz":
            content = lzma.decompress(content)
        yield f"{number:02}-{path.name.split('.')[0]}.ko", content


def _modules(kernel: Kernel, names: Iterable[str]) -> Iterator[Path]:
    """Each after what it needs; those that there are not are left out. Facts: modules.dep(5)."""
    needs: dict[str, tuple[Path, list[Path]]] = {}
    for line in (kernel.modules / "modules.dep").read_text().splitlines():
        one, _, others = line.partition(":")
        path = kernel.modules / one
        name = path.name.split(".")[0].replace("-", "_")
        needs[name] = (path, [kernel.modules / other for other in others.split()])
    done: set[Path] = set()
    for wanted in names:
        if wanted in needs:
            path, before = needs[wanted]
            # modules.dep names what is needed first last.
            for each in (*reversed(before), path):
                if each not in done:
                    done.add(each)
                    yield each


def _cpio(files: Iterable[tuple[str, int, bytes]]) -> Iterator[bytes]:
    """A newc archive: Documentation/driver-api/early-userspace/buffer-format.rst of Linux."""
    for number, (name, mode, content) in enumerate([*files, ("TRAILER!!!", 0, b"")], 1):
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        yield head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)


def _busybox(staging: Path) -> None:
    shutil.copy2(BUSYBOX, staging / "bin/busybox")
    done = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True)
    for applet in done.stdout.split():
        if applet != "busybox":
            (staging / "bin" / applet).symlink_to("busybox")


def _python(staging: Path) -> None:
    """This interpreter, the standard library, the venv, and the libraries of all of that."""
    standard, venv = Path(os.__file__).parent, Path(sys.prefix)
    skip = shutil.ignore_patterns("__pycache__", "test", "idlelib", "tkinter", *UNUSED)
    for folder in (standard, venv):
        shutil.copytree(folder, _at(staging, folder), symlinks=True, ignore=skip)
    # The chain of links by which the venv finds its interpreter.
    step = venv / "bin" / "python"
    while step.is_symlink():
        step = step.parent / step.readlink()
        _copy(staging, step, links=True)
    objects = [path for folder in (standard, venv) for path in folder.rglob("*.so")]
    objects = [path for path in objects if not any(path.match(one) for one in UNUSED)]
    for library in _libraries([step, victim.build("obey"), *objects]):
        _copy(staging, library)


def _checkout(staging: Path) -> None:
    """The sources, what was compiled of them, and the victims."""
    command = ["git", "ls-files", "-z", "-co", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    files = [ROOT / name for name in done.stdout.split("\0") if name]
    files += (ROOT / "uffdtrackd" / "native").glob("*.so")
    files.append(inject.HELPER)
    files.append(ROOT / "uffdtrackd" / "_version.py")
    files += [victim.build(name) for name in VICTIMS]
    for file in files:
        if file.exists():
            _copy(staging, file)


def _libraries(files: Iterable[Path]) -> set[Path]:
    """The shared libraries that some files need, by ldd(1)."""
    found: set[Path] = set()
    done = subprocess.run(["ldd", *files], capture_output=True, text=True)
    for line in done.stdout.splitlines():
        word = line.partition("=> ")[2] or line
        path = Path(word.split(" (")[0].strip())
        if path.is_absolute() and not line.endswith(":"):
            found.add(path)
    return found


def _at(staging: Path, path: Path) -> Path:
    return staging / path.relative_to("/")


def _copy(staging: Path, path: Path, links: bool = False) -> None:
    target = _at(staging, path)
    if not os.path.lexists(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target, follow_symlinks=not links)
