"""Runs xfstests' own runner, sees to it that it ends, and reads what it says."""

import os
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from threading import Thread

import exclusions
from outcome import EXCLUDED, FAILED, NOT_RUN, PASSED, Outcome

# How check begins the line of a test; the rest of the line comes when the test has ended.
TEST = re.compile(r"^(\w+/\d+)\s*(.*)$")
# How it tells that a test printed what it should not.
MISMATCH = "output mismatch"


class Watch:
    """Kills the test that runs for longer than `limit` seconds; check goes on with the next one."""

    def __init__(self, check, place, limit):
        self.check, self.place, self.limit = check, place, limit
        self.began, self.overdue = time.monotonic(), 0
        Thread(target=self._run, daemon=True).start()

    def test_began(self):
        self.began, self.overdue = time.monotonic(), 0

    def _run(self):
        while self.check.poll() is None:
            time.sleep(1)
            if time.monotonic() - self.began > self.limit * (1 + self.overdue / 4):
                self.overdue += 1
                kill(descendants(self.check.pid))
                if self.overdue > 1:
                    self.place.abort_mounts()


def descendants(pid):
    """Processes below `pid`."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, todo = [], [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def kill(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def run(directory, place, what, limit, everything):
    """Each test of `what` and its outcome, as they come."""
    excluded = [] if everything else exclusions.arguments()
    check = subprocess.Popen(
        ["./check", *excluded, *what],
        cwd=directory,
        env=place.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    watch = Watch(check, place, limit)
    test, said, mismatch = None, "", None
    try:
        for said, ended in lines(check.stdout):
            if ended and mismatch is not None:
                yield test, outcome(test, mismatch, place)
                mismatch = None
            if (line := TEST.match(said)) is None:
                continue
            if line[1] != test:
                watch.test_began()
                test = line[1]
            if ended and MISMATCH in line[2]:
                # What the test printed has its place by the time of the next line only.
                mismatch = line[2]
            elif ended:
                yield test, outcome(test, line[2], place)
        if mismatch is not None:
            yield test, outcome(test, mismatch, place)
    finally:
        kill([check.pid, *descendants(check.pid)] if check.poll() is None else [])
    if check.wait() not in (0, 1) or test is None:
        raise SystemExit(f"check ended with {check.returncode} after: {said}")


def lines(stream):
    """Lines as far as they have come, and whether that is all of the line. Prints whole ones."""
    line = b""
    while chunk := os.read(stream.fileno(), 4096):
        *whole, line = (line + chunk).split(b"\n")
        for text in whole:
            print(text.decode(errors="replace"), flush=True)
            yield text.decode(errors="replace"), True
        yield line.decode(errors="replace"), False


# What a test prints where the machine, and not the mount, stands in its way.
NOT_HERE = {
    "ulimit: .*: cannot modify limit: Operation not permitted": "this machine grants no CAP_SYS_RESOURCE",
}


def not_here(test, place):
    """Why a test that failed could not have passed on this machine; `None` if it could."""
    printed = place.results / f"{test}.out.bad"
    text = printed.read_text(errors="replace") if printed.exists() else ""
    return next((why for said, why in NOT_HERE.items() if re.search(said, text)), None)


def outcome(test, said, place):
    if "[not run]" in said:
        why = said.partition("[not run]")[2].strip()
        return Outcome(NOT_RUN, why.replace(f"{place.work}/", ""))
    if "[expunged]" in said:
        return Outcome(EXCLUDED, exclusions.reasons().get(test, "excluded"))
    if re.fullmatch(r"(\d+s \.\.\.)?\s*\d+s", said.strip()):
        return Outcome(PASSED)
    if (here := not_here(test, place)) is not None:
        return Outcome(NOT_RUN, here)
    return Outcome(FAILED, said.partition("...")[2].strip() or said.strip())


def summarize(section, outcomes):
    """Prints what failed and what did not run, and why; whether anything failed."""
    count = Counter(outcome.state for outcome in outcomes.values())
    print(f"\n{section.name}: " + ", ".join(f"{count[state]} {state}" for state in sorted(count)))
    for state in (FAILED, EXCLUDED):
        for test, outcome in outcomes.items():
            if outcome.state == state:
                print(f"  {state}: {test}: {outcome.reason}")
    missing = Counter(o.reason for o in outcomes.values() if o.state == NOT_RUN)
    for reason, tests in missing.most_common():
        print(f"  not run: {tests:3} for: {reason}")
    return count[FAILED] > 0
