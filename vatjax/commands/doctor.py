"""`vatjax doctor`."""

from __future__ import annotations

import dataclasses

from vatjax import doctor
from vatjax.commands import show


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Checks versions, devices, memory and bundled data, and says how to install missing packages. Exits with status 1
    if a check fails."""

    json: bool = False
    """Print one JSON document instead of a table."""

    def run(self) -> int:
        checks = doctor.run_checks()
        if self.json:
            show.print_json(doctor.as_json(checks))
        else:
            show.print_table(("", "status", "found", "what to do"), checks)
            wrong = sum(check.status == "wrong" for check in checks)
            print(f"{wrong} problem(s) to fix" if wrong else "vatjax can work here")
        return 0 if doctor.is_healthy(checks) else 1
