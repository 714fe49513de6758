"""The tests that are known not to pass, and why."""

import re
from pathlib import Path

HERE = Path(__file__).resolve().parent

# 'never': what the kernel makes impossible. 'not yet': what Overcoat could do.
FILES = {"never": HERE / "never", "not yet": HERE / "not-yet"}
# Why tests say of themselves that they cannot be run.
LACKING = HERE / "lacking"


def read(path):
    """Lines of `TEST  # REASON`, and comments."""
    lines = [line for line in path.read_text().splitlines() if re.match(r"\w", line)]
    return {test.strip(): reason.strip() for test, _, reason in (x.partition("#") for x in lines)}


def reasons():
    return {
        test: f"{kind}: {reason}"
        for kind, path in FILES.items()
        for test, reason in read(path).items()
    }


def arguments():
    """For check."""
    return [word for path in FILES.values() for word in ("-E", str(path))]
