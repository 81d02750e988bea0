"""`make test-systemd`: the tests of inside/, under a systemd of their own.

python -m tests.systemd.run [arguments for pytest]
"""

from __future__ import annotations

import sys

from tests import victim

from . import container

# Booting takes two seconds; the rest is for a machine with much else to do.
_SECONDS = 600.0
# Compiled here: the sources are read-only inside.
_VICTIMS = ("churn", "obey")


def main() -> int:
    for name in _VICTIMS:
        victim.build(name)
    try:
        return container.run(["-q", "tests/systemd/inside", *sys.argv[1:]], _SECONDS)
    except container.CannotRun as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
