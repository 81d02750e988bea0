"""A Python program at work, as a victim: it knows what its data must be and checks it.

Protocol as in tests/victim.py: `ready`, any line is answered with the rounds done, `stop` or the
end of stdin ends it with `ok`.
"""

import gc
import hashlib
import mmap
import select
import subprocess
import sys
import threading

ROUNDS = 0
FAULTS: list[str] = []
STOP = threading.Event()


def churn(number: int) -> None:
    """One round after the other of allocating, changing, checking and dropping."""
    global ROUNDS
    kept: dict[int, tuple[bytes, str]] = {}
    turn = 0
    while not STOP.is_set():
        turn += 1
        data = hashlib.sha256(b"%d %d" % (number, turn)).digest() * (1 + turn * 37 % 2000)
        kept[turn] = (data, hashlib.md5(data).hexdigest())
        if len(kept) > 60:
            old = min(kept)
            data, digest = kept.pop(old)
            if hashlib.md5(data).hexdigest() != digest:
                FAULTS.append(f"thread {number}: the data of turn {old} changed")
        table = {f"key {i}": [i] * (i % 50) for i in range(turn % 800)}
        table["itself"] = [0]
        if sum(len(value) for key, value in table.items() if key != "itself") != sum(
            i % 50 for i in range(turn % 800)
        ):
            FAULTS.append(f"thread {number}: a table is wrong")
        cycle: list[object] = [table]
        cycle.append(cycle)
        with mmap.mmap(-1, 1 << 18) as memory:
            memory[:100] = bytes(range(100))
            if turn % 3 == 0:
                memory.madvise(mmap.MADV_DONTNEED)
        if turn % 20 == 0:
            gc.collect()
        if turn % 50 == 0 and number == 0:
            words = subprocess.run(["echo", str(turn)], capture_output=True, check=True).stdout
            if words != b"%d\n" % turn:
                FAULTS.append(f"echo said {words!r}")
        ROUNDS += 1


def main() -> int:
    threads = [threading.Thread(target=churn, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    while select.select([sys.stdin], [], []):
        line = sys.stdin.readline().strip()
        if line in ("", "stop"):
            break
        print(ROUNDS, flush=True)
    STOP.set()
    for thread in threads:
        thread.join()
    print(f"FAILED {FAULTS[0]}" if FAULTS else "ok", flush=True)
    return 1 if FAULTS else 0


if __name__ == "__main__":
    sys.exit(main())
