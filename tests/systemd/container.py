"""A machine with a real systemd for some seconds, that leaves nothing on this one.

    own mount namespace (unshare -m): all below goes away with its last process
    +-- tmpfs --- upper, work, root
    |   +-- overlay on root: lower = / of this machine, upper in the tmpfs
    +-- tmpfs on /run: what systemd-nspawn notes about its containers
    +-- systemd-nspawn --boot --> systemd --> uffdtrackd-tests.service --> pytest inside
                                              its exit status --> systemd's --> nspawn's --> ours

The sources are seen inside under the same path, read-only. What the tests print goes to a file in
a folder that both sides see.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from . import cgroups

ROOT = Path(__file__).resolve().parents[2]

# What the container boots into; pytest's exit status is that of the container.
_UNIT = """\
[Unit]
Description=Tests of uffdtrackd under systemd
Requires=basic.target
After=basic.target systemd-sysusers.service
SuccessAction=exit
FailureAction=exit

[Service]
Type=oneshot
ExecStart={command}
WorkingDirectory={root}
Environment=PATH={path} PYTHONDONTWRITEBYTECODE=1
StandardOutput=append:/run/results/output
StandardError=inherit
TimeoutStartSec=infinity
"""

# $1: an empty folder, the unit on stdin, then files to join control groups by, --, the command.
_SETUP = r"""
set -eu
base=$1; shift
while [ "$1" != -- ]; do echo $$ >"$1"; shift; done; shift
mount -t tmpfs -o mode=755 tmpfs "$base"
mkdir "$base/upper" "$base/work" "$base/root"
mount -t overlay -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" overlay "$base/root"
mkdir -p "$base/root/etc/systemd/system"
cat >"$base/root/etc/systemd/system/uffdtrackd-tests.service"
mount -t tmpfs -o mode=755 tmpfs /run
exec "$@" </dev/null
"""

_NSPAWN = [
    "systemd-nspawn",
    "--quiet",
    "--boot",
    "--register=no",
    "--link-journal=no",
    "--private-network",
    "--resolv-conf=off",
    "--timezone=off",
    "--settings=no",
    "--console=pipe",
    "--capability=CAP_CHECKPOINT_RESTORE,CAP_SYS_RESOURCE",
]


class CannotRun(Exception):
    """This machine cannot boot one, and why."""


def run(tests: Sequence[str], seconds: float) -> int:
    """Boots, runs pytest with these arguments inside, shows its output, returns its exit status.

    seconds: after which the whole is killed. Raises CannotRun.
    """
    if os.geteuid() != 0:
        raise CannotRun("only root can boot a container")
    if shutil.which(_NSPAWN[0]) is None:
        raise CannotRun("systemd-nspawn is missing: apt-get install systemd-container")
    name = f"uffdtrackd-{os.getpid()}"
    with contextlib.ExitStack() as undo:
        base = Path(tempfile.mkdtemp(prefix="uffdtrackd-systemd-"))
        undo.callback(base.rmdir)
        results = Path(tempfile.mkdtemp(prefix="uffdtrackd-results-"))
        undo.callback(shutil.rmtree, results)
        hosted = Path("/run/systemd/system").is_dir()
        # A systemd of this machine gives nspawn a group itself.
        joined = [] if hosted else undo.enter_context(cgroups.own(name))
        machine = [*_NSPAWN, *([] if hosted else ["--keep-unit"]), f"--machine={name}"]
        machine += [f"--directory={base}/root", f"--bind={results}:/run/results"]
        machine += [f"--bind-ro={ROOT}"]
        machine += [f"--bind={one}" for one in ("/dev/userfaultfd",) if os.path.exists(one)]
        machine += ["systemd.unit=uffdtrackd-tests.service", "systemd.show_status=no"]
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *tests]
        unit = _UNIT.format(command=shlex.join(command), root=ROOT, path=os.environ["PATH"])
        setup = ["bash", "-c", _SETUP, "-", str(base), *map(str, joined), "--", *machine]
        return _boot(setup, unit, results, seconds)


def _boot(setup: list[str], unit: str, results: Path, seconds: float) -> int:
    output = results / "output"
    output.touch()
    # nspawn's own filter of system calls would make every target one with a filter.
    environment = os.environ | {"SYSTEMD_SECCOMP": "0"}
    # --kill-child: should we be killed, the namespace and all in it goes too.
    command = ["unshare", "-m", "--propagation", "private", "--kill-child", *setup]
    with open(results / "console", "w+", errors="replace") as console:
        process = subprocess.Popen(
            command,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=console,
            stderr=console,
        )
        done = threading.Event()
        shown = threading.Thread(target=_follow, args=(output, done))
        shown.start()
        try:
            process.communicate(unit, seconds)
            status = process.returncode
        except subprocess.TimeoutExpired:
            print(f"\nerror: not done after {seconds:g} s: killed", file=sys.stderr)
            status = 124
        finally:
            # The container's init dies with nspawn (PR_SET_PDEATHSIG), and all with it.
            process.kill()
            process.wait()
            done.set()
            shown.join()
        if status and not output.stat().st_size:
            console.seek(0)
            sys.stderr.write(console.read())
    return status


def _follow(path: Path, done: threading.Event) -> None:
    """Shows what is appended to a file until `done`, and then the rest."""
    with open(path) as file:
        last = False
        while not last:
            last = done.wait(0.1)
            sys.stdout.write(file.read())
            sys.stdout.flush()
