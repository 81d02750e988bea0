"""The iteration log beside a running command: a full disk must not end the tracking."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType

from ..model.errors import LogError
from ..model.iteration import Iteration
from ..store.log import LogMeta, LogWriter


class Recorder:
    """Writes iterations to a new log, and says on stderr where it has a gap.

    path: of the file to make. pid: the process it is about. note: shows a line that is no data.
    Raises LogError if the file cannot be made.
    """

    def __init__(self, path: str, pid: int, page_size: int, note: Callable[[str], None]) -> None:
        self._log = LogWriter(path, LogMeta.of_process(pid, page_size))
        self._path = path
        self._note = note

    def append(self, iteration: Iteration) -> None:
        """Stores it, or says once that it and what follows are not stored."""
        behind = self._log.needs_full
        try:
            stored = self._log.append(iteration)
        except LogError as error:
            self._warn(f"{error.message}; tracking goes on")
            if error.hint:
                self._note(f"hint: {error.hint}")
            return
        if behind and stored:
            self._warn(
                f"the log {os.path.basename(self._path)} goes on with iteration"
                f" {iteration.number}, a full record that covers the gap"
            )

    def _warn(self, line: str) -> None:
        self._note(f"uffdtrack: warning: {line}")

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._log.close()
        except LogError as failure:
            # What ended the command says more; without such, this is what failed.
            if kind is None:
                raise
            self._warn(failure.message)
