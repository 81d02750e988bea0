"""Whether two processes share one address space; see api/kin.h."""

from __future__ import annotations

from ._native import lib
from .error import new_error, raised


def same_memory(one: int, other: int) -> bool:
    """kcmp(2) with KCMP_VM. Raises NativeError: ESRCH, EPERM, or ENOSYS without kcmp."""
    error = new_error()
    result = lib.ut_same_memory(one, other, error)
    if result < 0:
        raise raised(error)
    return bool(result)
