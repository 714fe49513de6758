"""The results table."""

import datetime
import os
import re
import subprocess
from collections import Counter

from exclusions import FILES, LACKING, read
from outcome import EXCLUDED, FAILED, NOT_RUN, PASSED, Outcome, Outcomes
from sections import SECTIONS

STATES = (PASSED, FAILED, NOT_RUN, EXCLUDED)
UNKNOWN = Outcome("")

HEAD = """# What xfstests says

Made by `xfstests/run --dir XFSTESTS -g GROUP --table doc/XFSTESTS.md` on {date}: Linux {kernel},
xfstests of {commit}, {version}.

"""


def output(*command, **kwargs):
    return subprocess.run(command, capture_output=True, text=True, **kwargs).stdout.strip()


def row(*cells):
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |\n"


def head(*cells):
    return row(*cells) + "|" + "---|" * len(cells) + "\n"


def render(directory, work):
    results = {s: Outcomes.load(work, s.name) for s in SECTIONS}
    results = {section: outcomes for section, outcomes in results.items() if outcomes}
    tests = sorted({test for outcomes in results.values() for test in outcomes})
    return "".join(
        [
            HEAD.format(
                date=datetime.date.today(),
                kernel=os.uname().release,
                commit=output("git", "log", "-1", "--format=%cs (%h)", cwd=directory),
                version=output("mount.fuse.overcoat", "-V").replace("mount.fuse.", ""),
            ),
            sections(results),
            excluded(),
            not_run(results),
            each(results, tests),
        ]
    )


def sections(results):
    text = head("section", "mounted", *STATES)
    for section, outcomes in results.items():
        count = Counter(outcome.state for outcome in outcomes.values())
        text += row(section.name, section.what, *(count[state] for state in STATES))
    return text


def excluded():
    text = "\n## Excluded\n"
    for kind, path in FILES.items():
        text += f"\n{kind.capitalize()}:\n\n" + head("test", "why")
        text += "".join(row(test, reason) for test, reason in read(path).items())
    return text


def not_run(results):
    """By reason, of the section where most of them came up."""
    reasons = {}
    for outcomes in results.values():
        for test, outcome in outcomes.in_state(NOT_RUN).items():
            reasons.setdefault(outcome.reason, set()).add(test)
    text = "\n## Not run\n\n" + head("tests", "what they lack", "why")
    for reason, tests in sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0])):
        text += row(len(tests), reason, why(reason))
    return text


def why(reason):
    """Whose it is that a test does not run; nothing where nobody has said so yet."""
    return next((why for what, why in read(LACKING).items() if re.search(what, reason)), "")


def each(results, tests):
    text = "\n## Test by test\n\n" + head("test", *(section.name for section in results), "")
    for test in tests:
        found = [outcomes.get(test, UNKNOWN) for outcomes in results.values()]
        reason = next((o.reason for o in found if o.reason), "")
        text += row(test, *(outcome.state for outcome in found), reason)
    return text
