"""make demo: a redis-server under full load, tracked, frozen, and compared byte for byte.

    redis-server <== redis-benchmark            the target never learns that it is tracked
         |
      attach -> iterate, iterate, ... -> freeze -> last iteration -> thaw
                   |                                 |
                   v                                 v
                Shadow.apply: copy what is dirty, drop what is discarded; then compare everything

The copy is fed by nothing but the iterations. If it equals the frozen memory, no write was
missed. Exit code 0 only then.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time

from redis_server import Redis, RedisFailed
from table import MIB, Row, Show

import uffdtrackd
from uffdtrackd.errors import TargetGone, TrackError
from uffdtrackd.model.iteration import Iteration
from uffdtrackd.tracking.comparison import Comparison
from uffdtrackd.tracking.shadow import Shadow

KEY_BYTES = 512


class Pace:
    """Starts iterations at a steady interval, and knows how long the last one was."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._next = time.monotonic()
        self._last: float | None = None

    def wait(self) -> float | None:
        """Sleeps until the next iteration is due; returns seconds since the one before."""
        time.sleep(max(0.0, self._next - time.monotonic()))
        now = time.monotonic()
        window = None if self._last is None else now - self._last
        self._last, self._next = now, now + self._interval
        return window


def row(iteration: Iteration, window: float | None) -> Row:
    sets = [pages.dirty for pages in iteration.processes.values()]
    return Row(
        number=iteration.number,
        frozen=iteration.frozen,
        dirty_bytes=sum(pages.bytes for pages in sets),
        dirty_pages=sum(len(pages) for pages in sets),
        window=window,
        duration_ns=iteration.duration_ns,
        stopped_ns=iteration.stopped_ns,
    )


def follow(redis: Redis, count: int, interval: float, show: Show) -> list[Comparison]:
    """Tracks redis for `count` iterations, the last one frozen, and returns the comparison."""
    pace = Pace(interval)
    with Shadow() as shadow, uffdtrackd.attach(redis.pid) as session:
        for _ in range(count - 1):
            window = pace.wait()
            iteration = session.iterate()
            shadow.apply(iteration)
            show.row(row(iteration, window))
            if not redis.loaded():
                raise RedisFailed("redis-server or redis-benchmark ended while being tracked")
        window = pace.wait()
        with session.frozen():
            last = session.iterate()
            compared = shadow.finish(last)
        show.row(row(last, window))
    return compared


def verdict(compared: list[Comparison]) -> tuple[bool, str]:
    """Whether every byte was as it should be, and the sentence that says so."""
    pages = sum(one.compared for one in compared)
    missed = sum(len(one.missed) for one in compared)
    if missed or not pages:
        first = next((f"{start:#x}" for one in compared for start, _ in one.missed), "nothing")
        return False, f"FAILED: {missed} of {pages} pages differ from the copy, first: {first}"
    size = sum(one.compared * one.missed.page_size for one in compared) / MIB
    unread = sum(len(one.unreadable | one.unverified) for one in compared)
    but = f" (but for {unread} that nobody can read)" if unread else ""
    return True, (
        f"VERIFIED: all {pages} pages ({size:.0f} MiB) of the frozen redis-server equal the copy"
        f"{but}; no write was missed"
    )


def run(options: argparse.Namespace) -> int:
    with Redis(options.keys, KEY_BYTES) as redis, Show(options.iterations) as show:
        show.say(f"redis-server {redis.pid}: writing {options.keys} keys of {KEY_BYTES} bytes")
        redis.fill()
        redis.load()
        before = redis.commands()
        began = time.monotonic()
        show.say(f"redis-benchmark at full speed; tracking, every {options.interval:g} s")
        compared = follow(redis, options.iterations, options.interval, show)
        # The server is asked after it was left: it must go on as if nothing had happened.
        rate = (redis.commands() - before) / (time.monotonic() - began)
        if not redis.loaded():
            raise RedisFailed("redis-server or redis-benchmark ended after it was tracked")
        good, sentence = verdict(compared)
    show.say(f"redis-server carried out {rate:,.0f} commands a second meanwhile, and goes on")
    show.say(sentence, style="bold green" if good else "bold red")
    return 0 if good else 1


def main() -> int:
    parser = argparse.ArgumentParser(description="track a busy redis-server and verify the copy")
    parser.add_argument("-n", "--iterations", type=int, default=20, help="default: 20")
    parser.add_argument("-i", "--interval", type=float, default=0.5, help="seconds; default: 0.5")
    parser.add_argument("--keys", type=int, default=200_000, help="default: 200000")
    options = parser.parse_args()
    if options.iterations < 2 or not options.interval >= 0 or options.keys < 1:
        parser.error("at least 2 iterations, an interval of 0 or more and 1 key")
    # So that `kill` cleans up as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        return run(options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Nobody reads on (`make demo | head`): no complaint, and none from the exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except TrackError as error:
        print(f"demo: error: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.exit_code
    except RedisFailed as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return TargetGone.exit_code


if __name__ == "__main__":
    sys.exit(main())
