"""`vatjax doctor`."""

from __future__ import annotations

import dataclasses

from vatjax import doctor
from vatjax.commands import show


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Looks at versions, devices, memory and bundled data, and says how to get what is missing. Status 1 if something is
    wrong."""

    json: bool = False
    """Print one JSON document instead of a table."""

    def run(self) -> int:
        checks = doctor.examine()
        if self.json:
            show.as_json(doctor.as_json(checks))
        else:
            show.table(("", "status", "found", "what to do"), checks)
            wrong = sum(check.status == "wrong" for check in checks)
            print(f"{wrong} thing(s) to mend" if wrong else "vatjax can work here")
        return 0 if doctor.healthy(checks) else 1
