"""What became of each test of a section, kept from run to run."""

import json
from dataclasses import asdict, dataclass

PASSED, FAILED, NOT_RUN, EXCLUDED = "passed", "failed", "not run", "excluded"


@dataclass(frozen=True)
class Outcome:
    state: str
    reason: str = ""


class Outcomes(dict):
    """Outcomes by test, bound to the file that keeps them."""

    def __init__(self, path, *args):
        super().__init__(*args)
        self.path = path

    @classmethod
    def load(cls, work, section):
        path = work / f"{section}.json"
        kept = json.loads(path.read_text()) if path.exists() else {}
        return cls(path, {test: Outcome(**outcome) for test, outcome in kept.items()})

    def save(self):
        kept = {test: asdict(outcome) for test, outcome in sorted(self.items())}
        self.path.write_text(json.dumps(kept, indent=1))

    def in_state(self, state):
        return {test: outcome for test, outcome in sorted(self.items()) if outcome.state == state}
