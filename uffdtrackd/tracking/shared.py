"""Shared memory: pages live in an object (memfd, SysV, tmpfs, a file), not in an address space.

The page tables of a process tell what it wrote through its own mappings, and no more. So the
mappings of all processes of a session are looked at together, object by object (`object`):

    page tables of A --written--> offsets --+
    page tables of B --written--> offsets --+--> dirty in A and in B, wherever the offset shows
    what no page table tells ---------------+

What no page table of the session tells:             so
    a mapping came that was not tracked before,      what it shows is dirty
      or went (munmap, exit, exec) with all that
      its page table knew
    a process of the session forked: the child may   all of the object is dirty, and once more
      have come, written and gone (`births`)
    somebody else maps it, or has it open            always, with the reason, and once more after
      (`neighbours`), or is attached (`sysv`)
    it has a name: anybody may come and go           always
    it ever had a descriptor (memfd, tmpfs, disk):   always, unless sealed against writers to come
      that may be in flight in a socket, or held       (F_SEAL_FUTURE_WRITE)
      by a ring, where nobody can see it
    a process of the session has it pinned, or       always, and once more after
      something that it may be (`pinned`)
    huge pages: hugetlbfs moves no ctime and         always
      tells no holes
    a hole was punched, the file cut                 no data extent there: discarded
      and read again: a zero page                    ctime moved, so clean pages must show a word
                                                     that is not zero, or be dirty
    ctime moved although nobody wrote                somebody did: all of it is dirty

A hole is never listed: reading one through a mapping would fill it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ..model.pageset import PageSet
from ..model.region import Window
from ..native.layout import Vma
from . import neighbours, sysv
from .backing import identity
from .births import Births, Born
from .neighbours import FIRST_LOOK_NS, LOOK_NS
from .object import SharedObject, Verdict, View

_TOO_FAST = "processes are born faster than they can be looked at"

# While a fork server makes children faster than we can look, somebody new is always there.
_LOOKS = 3


@dataclass(frozen=True, slots=True)
class SharedPages:
    """The answer to a View: pages of its shared regions, and what was found about these.

    always: the part of dirty listed every time. data: what exists of the rest, dirty or not.
    reasons: of the regions that are listed every time, by start. windows: what the regions show.
    """

    dirty: PageSet
    discarded: PageSet
    always: PageSet
    data: PageSet
    reasons: Mapping[int, str] = field(default_factory=dict)
    windows: tuple[Window, ...] = ()


class SharedMemory:
    """The shared, writable regions of all processes of a session. `close()` it."""

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        none = PageSet(page_size)
        self._nothing = SharedPages(none, none, none, none)
        self._objects: dict[str, SharedObject] = {}
        self._names: dict[int, tuple[Sequence[Vma], list[str]]] = {}  # by pid
        self._births: Births | None = None
        self._family: set[int] = set()  # all of the session at the last look, and their children
        self._complete = True

    def close(self) -> None:
        """May be called twice."""
        if self._births is not None:
            self._births.close()
            self._births = None

    def relist(self) -> None:
        """The last answer was not told to anybody: the next one lists everything."""
        self._complete = False

    def settle(self, views: Sequence[View], sharing: Collection[int] = ()) -> list[SharedPages]:
        """One iteration, when all page tables were scanned: an answer for each view, in order.

        sharing: processes that run in the memory of one of them. Raises NativeError.
        """
        for view in views:
            if view.regions:
                break
        else:
            # Most targets share nothing, and this is in the way of every iteration.
            self._objects, self._names, self._complete = {}, {}, True
            return [self._nothing] * len(views)
        complete, self._complete = self._complete, False
        self._sort(views)
        pids = {view.pid for view in views} | set(sharing)
        unseen = {(*vma.device, vma.inode) for view in views for vma in view.unseen}
        pinned = [view.pid for view in views if view.pinned]
        why = f"pinned by process {pinned[0]}, where writes cannot be seen" if pinned else ""
        reasons = {
            name: _reason_at_sight(name, one, unseen) or why for name, one in self._objects.items()
        }
        verdicts = self._judge(reasons, pids, views[0].pid if views else 0, not complete)
        answers = [self._answer(view, verdicts) for view in views]
        self._complete = True
        return answers

    def _sort(self, views: Sequence[View]) -> None:
        """Finds out what each region shows."""
        before, self._names = self._names, {}
        objects: dict[str, SharedObject] = {}
        for view in views:
            if not view.regions:
                continue
            regions, names = before.get(view.pid, ((), []))
            if regions is not view.regions or view.fresh:
                names = [_name(view, vma) for vma in view.regions]
            self._names[view.pid] = view.regions, names
            for vma, name in zip(view.regions, names, strict=True):
                if name not in objects:
                    known = self._objects.get(name)
                    objects[name] = known or SharedObject(self._page_size, name)
                    objects[name].views = []
                objects[name].views.append((view, vma))
        self._objects = objects

    def _judge(
        self, reasons: dict[str, str], pids: set[int], first: int, everything: bool
    ) -> dict[str, Verdict]:
        """reasons: why the objects cannot be trusted, as far as known, else ""."""
        hopeful = {name: self._objects[name] for name, why in reasons.items() if not why}
        attached: dict[str, bool] = {}
        # Children that are to be attached to: until then what they share may be written.
        born = Born(False, frozenset())
        if hopeful:
            # Before the look at who is there: a child is seen as born, or as alive.
            born = self._born(pids)
            segments = {name: one for name, one in hopeful.items() if one.segment}
            if segments:
                asked, attached = _ask_the_books(segments, bool(born.pids))
                reasons |= asked
            others = {name: one for name, one in hopeful.items() if not one.segment}
            found, born = self._look_around(others, pids, first, born)
            reasons |= found
        self._family = pids | born.pids
        return {
            name: one.judge(
                reasons[name],
                everything or born.some or attached.get(name, False),
                bool(born.pids),
            )
            for name, one in self._objects.items()
        }

    def _look_around(
        self, objects: Mapping[str, SharedObject], pids: set[int], first: int, born: Born
    ) -> tuple[dict[str, str], Born]:
        """Reasons, of the objects that somebody else has; and who was born until that was known."""
        found: dict[str, str] = {}
        for _ in range(_LOOKS):
            ours = pids | born.pids
            found = self._look(objects, ours, first)
            # Whoever was met may have been born a moment ago: then it is a child like others.
            ask = found or not (self._births and self._births.exact)
            late = self._born(ours) if ask else Born(False, frozenset())
            born = Born(born.some or late.some, born.pids | late.pids)
            if not late.pids:
                break
            objects = {name: objects[name] for name in found}
        return found, born

    def _look(
        self, objects: Mapping[str, SharedObject], ours: set[int], first: int
    ) -> dict[str, str]:
        """Who can have unnamed memory that was ours alone is known; else all are asked."""
        exact = self._births is not None and self._births.exact
        known = {name for name, one in objects.items() if exact and one.inherited and one.trusted}
        found: dict[str, str] = {}
        # A child that could not be attached to, a member that is not one any more.
        lost = self._family - ours
        for name in known:
            found |= _look_around({name: objects[name]}, ours, first, LOOK_NS, lost)
        others = {name: one for name, one in objects.items() if name not in known}
        once = exact and any(one.inherited and one.looks < _LOOKS for one in others.values())
        for one in others.values():
            one.looks += 1
        found |= _look_around(others, ours, first, FIRST_LOOK_NS if once else LOOK_NS)
        if exact:
            asked = objects if lost else others
            left = {name: one for name, one in asked.items() if name not in found}
            found |= self._look_at_the_new(left, ours, first)
        return found

    def _look_at_the_new(
        self, objects: Mapping[str, SharedObject], ours: set[int], first: int
    ) -> dict[str, str]:
        """The same of who was born to others during a look, and may have been in no list of it."""
        assert self._births is not None
        reasons: dict[str, str] = {}
        seen = set(ours)
        for _ in range(_LOOKS):
            born = self._births.meanwhile()
            if not objects or born is None:
                break
            if born <= seen:
                return reasons
            reasons |= _look_around(objects, ours, first, LOOK_NS, born - seen)
            seen |= born
            objects = {name: one for name, one in objects.items() if name not in reasons}
        return reasons | dict.fromkeys(objects, _TOO_FAST)

    def _born(self, pids: set[int]) -> Born:
        if self._births is None:
            self._births = Births()
            return Born(True, frozenset())
        # Also to those who have gone meanwhile, or could not be attached to.
        return self._births.since(pids | self._family)

    def _answer(self, view: View, verdicts: Mapping[str, Verdict]) -> SharedPages:
        size = self._page_size
        dirty = always = data = extent = PageSet(size)
        if not view.regions:
            return SharedPages(dirty, dirty, dirty, dirty)
        reasons: dict[int, str] = {}
        windows = []
        for vma, name in zip(view.regions, self._names[view.pid][1], strict=True):
            verdict, shift = verdicts[name], vma.start - vma.offset
            region = PageSet.from_ranges([(vma.start, vma.end)], size)
            shown = region.shifted(-shift)
            pages = (verdict.dirty & shown).shifted(shift)
            dirty |= pages
            extent |= region
            data |= (verdict.data & shown).shifted(shift)
            if verdict.reason:
                always |= pages
                reasons[vma.start] = verdict.reason
            windows.append(Window(vma.start, vma.end, name, vma.offset))
        discarded = (view.known & extent) - data
        return SharedPages(dirty, discarded, always, data - always, reasons, tuple(windows))


def _name(view: View, vma: Vma) -> str:
    """Of what a region shows; where that cannot be told each region is by itself."""
    return identity(view.tid, vma) or f"?{view.pid}:{vma.start:x}"


def _reason_at_sight(name: str, one: SharedObject, unseen: Collection[tuple[int, ...]]) -> str:
    """Why an object cannot be trusted whoever has it; "" if it may be."""
    if one.huge:
        # fs/hugetlbfs/inode.c: punching a hole leaves its times alone, and a hole that is read
        # again has as many blocks as before.
        return "huge pages whose holes leave no trace"
    place = one.place()
    if place is None or name.startswith("?"):
        return "shared memory that we may not examine"
    if place.number in unseen:
        return "mapped by the target where writes to it cannot be seen"
    if place.links:
        return "a file that any process may open by its name"
    if one.inherited or one.segment or one.sealed:
        return ""
    # In flight in a UNIX socket, held by a ring that has no descriptor itself: no /proc tells.
    return "a file whose descriptors others may hold where nobody can look"


def _look_around(
    objects: Mapping[str, SharedObject],
    ours: set[int],
    first: int,
    most_ns: int,
    among: Collection[int] | None = None,
) -> dict[str, str]:
    """Reasons, of the objects that somebody else maps or has open; among: as neighbours.look()."""
    if not objects or (among is not None and not among):
        return {}
    wanted: dict[neighbours.Place, neighbours.Wanted] = {}
    names: dict[neighbours.Place, list[str]] = {}
    for name, one in objects.items():
        if place := one.place():
            key = place.device, place.inode
            wanted[key] = neighbours.Wanted(place.number, one.made(), not one.sealed)
            names.setdefault(key, []).append(name)
    found = neighbours.look(wanted, ours, first, most_ns, among)
    return {name: why for key, why in found.items() for name in names[key]}


def _ask_the_books(
    segments: Mapping[str, SharedObject], children: bool
) -> tuple[dict[str, str], dict[str, bool]]:
    """Reasons, of the segments that others are attached to; and whose books have moved.

    children: whether there are some that are yet to be attached to.
    """
    books = sysv.read()
    reasons, moved = {}, {}
    for name, one in segments.items():
        ours = all(sysv.same_namespace(view.tid) for view, _ in one.views)
        book = books.get(one.some[1].inode) if ours else None
        moved[name] = one.attached(book.stamp if book else None)
        if book is None:
            reasons[name] = "a SysV segment of an IPC namespace that is not ours"
        elif book.attached != len(one.views) and not children:
            reasons[name] = "a SysV segment that others are attached to"
    return reasons, moved
