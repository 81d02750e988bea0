"""Kernels as Debian packages, from the mirror that this machine's apt is configured with.

    apt's own configuration -> the mirror ---+
    SUITES ----------------------------------+--> an apt of our own below FOLDER: lists, cache
                                                     |  which versions are there?
    Kernel(name, release, folder)  <--unpack, depmod-+  download what is missing

The machine's own lists, sources and packages stay as they are. Signatures are checked with the
archive's keys that the machine has.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

#: In the order of the columns: what one is called, and the suites of which it takes the newest.
#: bookworm-backports stopped at 6.12.95, before hangs and misses were fixed that trixie has fixed.
SUITES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("oldest", ("bookworm",)),
    ("unfixed", ("bookworm-backports",)),
    ("stable", ("trixie",)),
    ("newest", ("trixie-backports", "sid", "experimental")),
)

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

#: The kernel for virtual machines: a third of the size, and the same memory management.
PACKAGE = "linux-image-cloud-amd64"


T = TypeVar("T")

#: Seconds that one step may take with a slow mirror.
PATIENCE = 900


_GONE = re.compile(r"\bE: The repository '\S+ (\S+) Release' does not have a Release file")
_FAILED = re.compile(r"^(E: |W: .*(NO_PUBKEY|Failed to fetch|GPG error))", re.M)


class ArchiveError(Exception):
    """No kernel could be had; says what to do."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel. name: its column. release: as uname has it."""

    name: str
    release: str
    vmlinuz: Path
    modules: Path


@dataclass(frozen=True, slots=True)
class Fetched:
    """absent: columns whose suites the mirror has no more. failed: columns that could not be had.

    Both by name, with the reason.
    """

    kernels: list[Kernel]
    absent: dict[str, str]
    failed: dict[str, str]

    def demanded(self) -> list[Kernel]:
        """The kernels, where none may be missing. Raises ArchiveError."""
        for name, reason in {**self.absent, **self.failed}.items():
            raise ArchiveError(f"no kernel {name}: {reason}")
        return self.kernels


def fetch(folder: Path, names: Sequence[str]) -> Fetched:
    """The kernels of the columns `names`, unpacked below `folder`. Raises ArchiveError."""
    apt = Apt(folder, [suite for _, of_name in SUITES for suite in of_name])
    gone = _again(apt.update)
    found = Fetched([], {}, {})
    for name, suites in SUITES:
        if name not in names:
            continue
        if there := [suite for suite in suites if suite not in gone]:
            try:
                found.kernels.append(_again(functools.partial(apt.kernel, name, there)))
            except ArchiveError as error:
                found.failed[name] = str(error)
        else:
            found.absent[name] = f"the mirror has no {', '.join(suites)}"
    return found


def _again(step: Callable[[], T]) -> T:
    """Lists and packages do not fit each other while a mirror is being brought up to date."""
    try:
        return step()
    except ArchiveError:
        return step()


def mirror() -> str:
    """The base of the Debian archive that apt is configured with. Raises ArchiveError."""
    try:
        done = subprocess.run(
            ["apt-get", "update", "--print-uris"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise ArchiveError(f"apt does not tell its mirror: {error}; needs a Debian") from None
    found = mirror_of(done.stdout)
    if found is None:
        raise ArchiveError("apt has no Debian release among its sources: kernels come from there")
    return found


def mirror_of(uris: str) -> str | None:
    """The mirror in what `apt-get update --print-uris` prints; None if there is none."""
    releases = re.findall(r"^'(\S+?)/dists/(\S+)/InRelease'", uris, re.M)
    plain = re.compile(r"[a-z]+(-updates|-backports)?$")
    return next((base for base, suite in releases if plain.match(suite)), None)


class Apt:
    """An apt that keeps everything it has below one folder."""

    def __init__(self, folder: Path, suites: Sequence[str]) -> None:
        self.folder = folder.resolve()
        self.base = self.folder / "apt"
        for part in ("lists/partial", "archives/partial", "empty"):
            (self.base / part).mkdir(parents=True, exist_ok=True)
        (self.base / "status").touch()
        self.suites = suites
        options = {
            "Dir::State": self.base,
            "Dir::State::lists": self.base / "lists",
            "Dir::State::status": self.base / "status",
            "Dir::Cache": self.base,
            "Dir::Cache::archives": self.base / "archives",
            # Images for containers turn these off; each question would parse all lists again.
            "Dir::Cache::pkgcache": self.base / "pkgcache.bin",
            "Dir::Cache::srcpkgcache": self.base / "srcpkgcache.bin",
            "Dir::Etc::sourcelist": self.base / "sources.list",
            "Dir::Etc::sourceparts": self.base / "empty",
            "Dir::Etc::preferences": self.base / "no-preferences",
            "Dir::Etc::preferencesparts": self.base / "empty",
            "Acquire::Languages": "none",
            "Acquire::Retries": 3,
            # The download user of apt may not be let into a checkout below /root.
            "APT::Sandbox::User": "root",
        }
        self.options = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]

    def update(self) -> set[str]:
        """Gets the lists. Returns suites that the mirror has not; one at least it must have.

        Raises ArchiveError.
        """
        gone: set[str] = set()
        try:
            self._update(self.suites)
        except ArchiveError as error:
            gone = set(_GONE.findall(str(error)))
            there = [suite for suite in self.suites if suite not in gone]
            if not gone or not there:
                raise
            self._update(there)
        return gone

    def _update(self, suites: Sequence[str]) -> None:
        base = mirror()
        sources = "".join(f"deb [signed-by={KEYRING}] {base} {suite} main\n" for suite in suites)
        (self.base / "sources.list").write_text(sources)
        self.run("apt-get", "update")

    def run(self, program: str, *args: str, cwd: Path | None = None) -> str:
        """What it prints. Raises ArchiveError with what it complains about."""
        command = [program, "-q", *self.options, *args]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, cwd=cwd, timeout=PATIENCE
            )
        except subprocess.TimeoutExpired:
            raise ArchiveError(f"{program} {' '.join(args)}: took over {PATIENCE} s") from None
        # `update` exits 0 also when a suite could not be had, or its signature is of no key here.
        if done.returncode or _FAILED.search(done.stderr):
            raise ArchiveError(f"{program} {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout

    def kernel(self, name: str, suites: Sequence[str]) -> Kernel:
        """The newest kernel of some suites, downloaded and unpacked unless it is here already."""
        version = self._newest(suites)
        packages = self._closure(PACKAGE, version)
        images = [re.match(r"linux-image-(\d.*)", package) for package in packages]
        release = next((match[1] for match in images if match), None)
        if release is None:
            raise ArchiveError(f"{PACKAGE} {version} depends on no kernel: {packages}")
        place = self.folder / f"{release}_{version.replace('~', '-')}"
        if not place.exists():
            self._unpack(packages, version, release, place)
        # /boot/vmlinuz-RELEASE, or since Linux 7 vmlinuz beside the modules.
        vmlinuz = next(iter(place.rglob("vmlinuz*")), None)
        modules = next(iter(place.rglob(f"modules/{release}/modules.dep")), None)
        if vmlinuz is None or modules is None:
            raise ArchiveError(f"no kernel, or no modules, in the packages of {release}: {place}")
        return Kernel(name, release, vmlinuz, modules.parent)

    def _newest(self, suites: Sequence[str]) -> str:
        """The newest version of PACKAGE in some suites."""
        lines = [line.split("|") for line in self.run("apt-cache", "madison", PACKAGE).splitlines()]
        versions = {
            version.strip()
            for _, version, origin in lines
            if any(f" {suite}/main " in origin for suite in suites)
        }
        if not versions:
            raise ArchiveError(f"the mirror has no {PACKAGE} in {', '.join(suites)}")
        return max(versions, key=functools.cmp_to_key(_older))

    def _closure(self, package: str, version: str) -> list[str]:
        """What belongs to a kernel: all that it needs in exactly its own version."""
        found, left = [], [package]
        while left:
            one = left.pop()
            shown = self.run("apt-cache", "show", f"{one}={version}")
            depends = "".join(re.findall(r"^(?:Pre-)?Depends: (.*)$", shown, re.M))
            found.append(one)
            same = re.findall(rf"(linux-\S+) \(= {re.escape(version)}\)", depends)
            left += [name for name in same if name not in found + left]
        return found

    def _unpack(self, packages: list[str], version: str, release: str, place: Path) -> None:
        scratch = place.with_name(place.name + ".new")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        wanted = [f"{package}={version}" for package in packages]
        self.run("apt-get", "download", *wanted, cwd=scratch)
        for package in sorted(scratch.glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", package, scratch], check=True)
            package.unlink()
        if not (scratch / "lib").exists():
            (scratch / "lib").symlink_to("usr/lib")
        subprocess.run(["depmod", "-b", scratch, release], check=True, capture_output=True)
        scratch.rename(place)


def _older(one: str, other: str) -> int:
    """As sorting wants it, by dpkg's order of versions."""
    if one == other:
        return 0
    command = ["dpkg", "--compare-versions", one, "lt", other]
    return -1 if subprocess.run(command).returncode == 0 else 1
