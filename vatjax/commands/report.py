"""`vatjax report`."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import tyro

from vatjax import errors
from vatjax.commands import show


@dataclasses.dataclass(frozen=True)
class Report:
    """Writes the page and the figures of a study that was run; `vatjax run` does so at its end."""

    folder: Annotated[str, tyro.conf.Positional]
    """The study's folder."""
    portraits: int = 24
    """Number of arms with figures of their own."""
    json: bool = False
    """Print one JSON document."""

    def run(self) -> int:
        if self.portraits < 0:
            raise errors.InputError(f"portraits: expected 0 or more, found {self.portraits}")
        from vatjax import report, study

        page = report.write(study.open_study(self.folder), self.portraits)
        show.print_json({"report": str(page)}) if self.json else show.print_text(page)
        return 0
