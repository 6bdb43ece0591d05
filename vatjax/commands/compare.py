"""`vatjax compare`."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Annotated, Any

from tyro.conf import Positional, arg

from vatjax import comparison, errors, summary
from vatjax.commands import show
from vatjax.commands.tax import RatingOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compare(RatingOptions):
    """Compares interventions with the same target: ratings after each of them, against the same ratings before. Prints a
    row each, the differences from the first paired by cluster, and how likely each is on the front: none has more gain for
    less shift of the others. Files are read as by `vatjax tax`; the contexts that all of them have count."""

    pre: Annotated[str, Positional, arg(metavar="PRE")]
    """Ratings before."""
    posts: Annotated[tuple[str, ...], Positional, arg(metavar="POST [POST ...]")]
    """Ratings after each intervention."""

    def run(self) -> int:
        if len(set(self.posts)) != len(self.posts) or not self.posts:
            raise errors.InputError("POST: expected one file or more, and none twice")
        pre, *posts = self.read(self.pre, *self.posts)
        if not self.json:
            show.print_message("measuring; the first time on a machine this takes up to ten seconds, to compile")
        content = comparison.compare(
            pre,
            dict(zip(_short_names(self.posts), posts, strict=True)),
            self.load_taxonomy(),
            **self.analysis_options(),
        )
        for warning in content["warnings"]:
            show.print_message(warning)
        show.print_json(content) if self.json else _print(content)
        return 0


def _short_names(paths: tuple[str, ...]) -> list[str]:
    """Returns the names of files without their folders, where these differ."""
    stems = [pathlib.PurePath(path).name.split(".")[0] for path in paths]
    return stems if len(set(stems)) == len(stems) else list(paths)


def _print(content: dict[str, Any]) -> None:
    lost = max(content["left_out"].values())
    show.print_text(
        f"{content['target']}, {content['direction']}: {content['contexts']:,} contexts that all files have, in "
        f"{content['clusters']:,} clusters{f'; up to {lost:,} of a file are left out' if lost else ''}"
    )
    columns = ("", "gain", "others' shift", "GND of others", "nVAT debiased", "noise, 95 %", "p", "on the front")
    rows = [
        (
            row["name"],
            *(summary.format_interval(row[key]) for key in ("gain", "off_target_shift", "off_target", "nvat_debiased")),
            "-" if row["nvat_floor"] is None else f"{row['nvat_floor']:.2f}",
            summary.format_p(row["nvat_p"], content["resamples"]),
            "-" if row["front_share"] is None else f"{row['front_share']:.0%}",
        )
        for row in content["rows"]
    ]
    show.print_table(columns, rows)
    first = content["rows"][0]["name"]
    against = [pair for pair in content["pairs"] if pair["first"] == first]
    if against:
        keys = ("gain", "off_target_shift", "off_target", "nvat")
        show.print_table(
            (f"{first} minus", "gain", "others' shift", "GND of others", "nVAT"),
            [(pair["second"], *(summary.format_interval(pair[key]) for key in keys)) for pair in against],
        )
    count = len(content["pairs"])
    print(
        "Intervals are at 95 %, of one number by itself; others' shift is the debiased root mean square."
        + (f" --json has all {count} differences." if count > len(against) else "")
    )
