"""`uffdtrackd.errors`: the public name of the error tree (see `uffdtrackd.model.errors`)."""

from .model.errors import (
    AlreadyTracked,
    BeingTraced,
    ConfigError,
    LogError,
    NoDaemon,
    NotPermitted,
    NotSupported,
    TargetExecuted,
    TargetGone,
    TimedOut,
    TrackError,
    UsageError,
)

__all__ = [
    "AlreadyTracked",
    "BeingTraced",
    "ConfigError",
    "LogError",
    "NoDaemon",
    "NotPermitted",
    "NotSupported",
    "TargetExecuted",
    "TargetGone",
    "TimedOut",
    "TrackError",
    "UsageError",
]
