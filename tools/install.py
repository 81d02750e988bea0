"""Puts a built tree into the system, and takes it out again; `make install` and `make uninstall`.

    .venv (built, with all it needs) --> PREFIX/lib/uffdtrackd/   the package and what it imports
    [project.scripts]                --> PREFIX/bin/              starters for the same Python
    systemd/ build/man build/complete--> PREFIX/{lib,share}/...   units, catalog, man pages, ...
                                     each below DESTDIR, when a package is being made

Nothing is fetched or compiled: what was tested in .venv is what is installed. A folder of its own
keeps it out of the way of the system's Python packages, and -I in the starters keeps users'
modules and variables out of a daemon that is root.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
NAME = "uffdtrackd"
# Nothing else of the package is needed at run time.
_KINDS = (".py", ".so", ".typed")
_STARTER = """\
#!{python} -I
# {script} of uffdtrackd, whose modules are in a folder of their own.
import sys

sys.path.insert(0, "{library}")
from {module} import {function}

sys.exit({function}())
"""


def table(build: Path) -> Iterator[tuple[Path, str]]:
    """Every file that is only copied, and where below PREFIX it goes."""
    units = ROOT / "systemd"
    yield units / "uffdtrackd.socket", "lib/systemd/system/uffdtrackd.socket"
    yield units / "uffdtrackd.service.in", "lib/systemd/system/uffdtrackd.service"
    yield (
        units / "10-preserve.conf",
        "lib/systemd/system/uffdtrackd.service.d/10-preserve.conf",
    )
    yield units / "uffdtrackd.sysusers", "lib/sysusers.d/uffdtrackd.conf"
    yield units / "uffdtrackd.tmpfiles", "lib/tmpfiles.d/uffdtrackd.conf"
    yield units / "uffdtrackd.catalog", "lib/systemd/catalog/uffdtrackd.catalog"
    documents = [ROOT / "README.md", ROOT / "NEWS.md", ROOT / "LICENSE"]
    samples = [*units.glob("50-*.conf"), *units.glob("*.toml")]
    for path in sorted([*documents, *samples, *(ROOT / "docs").glob("*.md")]):
        yield path, f"share/doc/{NAME}/{path.name}"
    for path in sorted((build / "man").glob("*.[1-8]")):
        yield path, f"share/man/man{path.suffix[1:]}/{path.name}"
    for path in sorted((build / "bash").glob("*")):
        yield path, f"share/bash-completion/completions/{path.name}"
    for path in sorted((build / "zsh").glob("*")):
        yield path, f"share/zsh/site-functions/{path.name}"


def scripts() -> dict[str, str]:
    """Name of a program --> module:function."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        return dict(tomllib.load(file)["project"]["scripts"])


def needed() -> dict[str, metadata.Distribution]:
    """What the package needs to run, itself not included, with what those need in turn."""
    found: dict[str, metadata.Distribution] = {}
    open_ends = [(NAME, "systemd")]
    while open_ends:
        name, extra = open_ends.pop()
        one = metadata.distribution(name)
        if name != NAME:
            found[name] = one
        for line in one.requires or ():
            wanted = Requirement(line)
            if wanted.marker and not wanted.marker.evaluate({"extra": extra}):
                continue
            if wanted.name not in found:
                open_ends.append((wanted.name, ""))
    return found


def copy(source: Path, target: Path, mode: int = 0o644) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)


def write(text: str, target: Path, mode: int = 0o644) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    target.chmod(mode)


def install_library(library: Path, destination: Path) -> None:
    """The package and all it imports into a new folder, which then takes the place of the old."""
    fresh = library.with_name(f"{library.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    for source in sorted((ROOT / NAME).rglob("*")):
        if source.suffix in _KINDS and "build" not in source.stem.split("_"):
            copy(source, fresh / source.relative_to(ROOT))
    own = metadata.distribution(NAME)
    # Only so that the version is known; what pip wrote about the tree is not true elsewhere.
    write(own.read_text("METADATA") or "", fresh / f"{NAME}-{own.version}.dist-info/METADATA")
    for one in needed().values():
        for file in one.files or ():
            # Programs of theirs (".." leads out) are not needed, nor what this Python compiled.
            if ".." not in file.parts and "__pycache__" not in file.parts:
                copy(Path(str(one.locate_file(file))), fresh / file)
    compileall.compile_dir(
        fresh, quiet=1, stripdir=str(fresh), prependdir=str("/" / library.relative_to(destination))
    )
    shutil.rmtree(library, ignore_errors=True)
    fresh.rename(library)


def install(prefix: Path, destination: Path, build: Path) -> None:
    into = destination / prefix.relative_to("/")
    library = into / "lib" / NAME
    install_library(library, destination)
    python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    for script, target in scripts().items():
        module, function = target.split(":")
        text = _STARTER.format(
            python=python,
            script=script,
            library=prefix / "lib" / NAME,
            module=module,
            function=function,
        )
        write(text, into / "bin" / script, 0o755)
    for source, place in table(build):
        if source.suffix == ".in":
            write(source.read_text().replace("@bindir@", str(prefix / "bin")), into / place)
        else:
            copy(source, into / place)


def uninstall(prefix: Path, destination: Path, build: Path) -> None:
    into = destination / prefix.relative_to("/")
    shutil.rmtree(into / "lib" / NAME, ignore_errors=True)
    gone = [into / "bin" / script for script in scripts()]
    gone += [into / place for _, place in table(build)]
    for path in gone:
        path.unlink(missing_ok=True)
    # Folders that are empty now, from the inside out: in a package all, on a machine our own.
    folders = {above for path in gone for above in path.parents if destination in above.parents}
    for folder in sorted(folders, key=lambda one: len(one.parts), reverse=True):
        if destination != Path("/") or NAME in folder.name:
            with contextlib.suppress(OSError):
                folder.rmdir()


def tell_systemd(*commands: str) -> None:
    """Runs what makes a running systemd see the change; a failure is told and no more."""
    for command in commands:
        print(f"==> {command}")
        if subprocess.run(command.split(), check=False).returncode:
            print(f"warning: `{command}` failed", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("install", "uninstall"))
    parser.add_argument("--prefix", type=Path, default=Path("/usr/local"))
    parser.add_argument("--destdir", type=Path, default=Path("/"))
    parser.add_argument("--build", type=Path, default=ROOT / "build")
    args = parser.parse_args()
    if not args.prefix.is_absolute():
        parser.error("PREFIX must be an absolute path")
    destination = args.destdir.absolute()
    # Only a machine that runs from this folder has a systemd to tell.
    live = destination == Path("/") and Path("/run/systemd/system").is_dir()
    os.umask(0o022)
    if args.what == "install":
        install(args.prefix, destination, args.build)
        if live:
            tell_systemd(
                "systemd-sysusers uffdtrackd.conf",
                "systemd-tmpfiles --create uffdtrackd.conf",
                "journalctl --update-catalog",
                "systemctl daemon-reload",
            )
            print("now: systemctl enable --now uffdtrackd.socket")
        return 0
    if live:
        tell_systemd("systemctl disable --now uffdtrackd.socket uffdtrackd.service")
    uninstall(args.prefix, destination, args.build)
    if live:
        tell_systemd("journalctl --update-catalog", "systemctl daemon-reload")
    print("left as they are: /etc/uffdtrackd, /var/lib/uffdtrackd, the group uffdtrackd")
    return 0


if __name__ == "__main__":
    sys.exit(main())
