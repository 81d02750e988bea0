"""What a consumer that followed every iteration holds."""

from __future__ import annotations

from ..model.pageset import PageSet


class Known:
    """A growing set of pages, cheap to add to.

    Most iterations add pages that are in it already, and only some need to look at it: what
    was added is merged when somebody looks.
    """

    # Merging costs as much as the set is large: not at every iteration, but before a crowd waits.
    _MOST_WAITING = 16

    def __init__(self, page_size: int) -> None:
        self._pages = PageSet(page_size)
        self._waiting: list[PageSet] = []

    def __bool__(self) -> bool:
        return bool(self._pages) or bool(self._waiting)

    @property
    def pages(self) -> PageSet:
        for pages in self._waiting:
            self._pages |= pages
        self._waiting.clear()
        return self._pages

    def update(self, dirty: PageSet, discarded: PageSet) -> None:
        """Adds dirty, then takes discarded away; the two do not meet."""
        if dirty:
            self._waiting.append(dirty)
        if discarded:
            self._pages = self.pages - discarded
        elif len(self._waiting) > self._MOST_WAITING:
            _ = self.pages
