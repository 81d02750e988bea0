"""What a consumer that followed every iteration holds."""

from __future__ import annotations

from ..model.pageset import PageSet


class Known:
    """A growing set of pages, cheap to add to.

    Most iterations add pages that are in it already. To find that out is far cheaper than a
    union, whose result would be as large as both; and a set that nobody keeps can give its memory
    to the next one.
    """

    def __init__(self, page_size: int) -> None:
        self._none = self.pages = PageSet(page_size)

    def __bool__(self) -> bool:
        return bool(self.pages)

    def update(self, dirty: PageSet, discarded: PageSet) -> PageSet:
        """Adds dirty, then takes discarded away; the two do not meet. Returns what is new."""
        fresh = self._none
        if not dirty <= self.pages:
            fresh = dirty - self.pages
            self.pages |= fresh
        if discarded:
            self.pages -= discarded
        return fresh
