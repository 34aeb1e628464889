"""A job of the campaign: `step.py NAME`. It tells the ledger, FAULTS_LEDGER, what happens to it, and works.

The ledger's directory also has a lock for each job, so that a second copy of a living job is noticed.
Nothing that a step does can be done twice without showing in the end.
"""

# Importing pathlib would cost more than all the rest.
# ruff: noqa: PTH101, PTH103, PTH104, PTH106, PTH108, PTH113, PTH120, PTH123, PTH208, PTH211

import fcntl
import hashlib
import os
import sys
import time

LEDGER, NAME = os.environ["FAULTS_LEDGER"], sys.argv[1]
PAUSE_S = 0.01


def tell(what):
    line = f"{NAME} {what} {os.getpid()} {time.time():.6f}\n"
    file = os.open(LEDGER, os.O_WRONLY | os.O_APPEND)
    os.write(file, line.encode())
    os.close(file)


def rewrite(path, change):
    """Change the lines of a file in place; there is a moment when half of them are changed."""
    with open(path, "r+") as file:
        lines = [change(line) for line in file.read().splitlines()]
        file.seek(0)
        file.truncate()
        middle = len(lines) // 2
        file.write("".join(f"{line}\n" for line in lines[:middle]))
        file.flush()
        time.sleep(PAUSE_S)
        file.write("".join(f"{line}\n" for line in lines[middle:]))


def append(path, *lines):
    with open(path, "a") as file:
        for line in lines:
            file.write(line + "\n")
            file.flush()
            time.sleep(PAUSE_S)


def double(line):
    return str(int(line) * 2)


def increment(line):
    return str(int(line) + 1)


def make():
    os.makedirs("scratch/deep")
    append("scratch/one", "1")
    append("scratch/deep/two", "2")
    append("table", *(str(number) for number in range(3)))
    append("notes", "made")


def drop():
    os.unlink("scratch/one")
    time.sleep(PAUSE_S)
    os.unlink("scratch/deep/two")
    os.rmdir("scratch/deep")


def move():
    os.rename("table", "moved")
    time.sleep(PAUSE_S)
    os.symlink("moved", "latest")
    os.chmod("notes", 0o755)


def total():
    digest = hashlib.sha256()
    for path in ("moved", "notes", "counts", "scratch"):
        digest.update(path.encode())
        if os.path.isfile(path):
            with open(path, "rb") as file:
                digest.update(file.read())
    os.makedirs("results")
    append("results/total", digest.hexdigest())


CHAIN = {
    "make": make,
    "double": lambda: rewrite("table", double),
    "note": lambda: append("notes", "doubled", "and noted"),
    "drop": drop,
    "count": lambda: rewrite("counts", increment),
    "move": move,
    "again": lambda: (rewrite("moved", double), append("notes", "again")),
    "total": total,
}


def part():
    append(NAME, NAME, "x" * 100)


def gather():
    names = sorted(name for name in os.listdir() if name.startswith("part-"))
    with open("all", "a") as file:
        for name in names:
            with open(name) as piece:
                file.write(piece.read())


if __name__ == "__main__":
    lock = os.open(f"{os.path.dirname(LEDGER)}/lock-{NAME}", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        tell("overlap")
    tell("start")
    CHAIN.get(NAME, gather if NAME == "all" else part)()
    tell("end")
