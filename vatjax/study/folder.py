"""The folder of a study's results: refused where it can't be, and marked with the design that is studied there."""

from __future__ import annotations

import os
import pathlib
import tempfile
from typing import Any

from vatjax import config, errors, store
from vatjax.study.design import Design
from vatjax.study.planned import shelf_of


def begin(design: Design, folder: Any) -> None:
    """Writes the resolved design into the folder of its results.

    Raises:
        InputError: where the folder can't be written to, or holds another study.
    """
    text = design.text()
    there = check(design, folder)
    try:
        # Of a design that is there only the places may differ.
        if there is None or config.to_dict(design) != config.to_dict(there):
            store.commit(folder / "study.yaml", text.encode())
    except OSError as error:
        raise errors.InputError(f"{design.out}: {store.reason(error)}") from None


def check(design: Design, folder: Any = None) -> Design | None:
    """Returns the design that is studied in the folder of results, None where there is none; nothing is written.

    Args:
        design: of the study.
        folder: of its results, in place of the design's own.

    Raises:
        InputError: where the folder can't be written to, or holds another study or anything else.
    """
    refuse_places(design)
    folder = store.path(design.out) if folder is None else folder
    where = folder / "study.yaml"
    try:
        if where.exists():
            there = _there(where)
            own, other = config.to_dict(design), config.to_dict(there)
            differs = [key for key in own if own[key] != other[key] and key not in ("out", "pieces")]
            if differs:
                raise errors.InputError(
                    f"{design.out}: another study is there: it differs in {', '.join(differs)}; give another out (with the "
                    f"same pieces, {shelf_of(there).folder}, what both have is taken again)"
                )
            return there
        if folder.exists() and (not folder.is_dir() or any(map(_foreign, folder.iterdir()))):
            raise errors.InputError(f"{design.out}: something is there that is no study; give another out")
    except OSError as error:
        raise errors.InputError(f"{design.out}: {store.reason(error)}") from None
    return None


def _there(where: Any) -> Design:
    """The design that is studied in a folder."""
    try:
        return config.parse(Design, store.read_text(where), str(where))
    except errors.InputError as error:
        raise errors.InputError(f"{error}\nThe design that was studied there is damaged: remove this file.") from None


def refuse_places(design: Design) -> None:
    """Refuses folders that can't be written to, before anything is written.

    Raises:
        InputError: for such a folder of results or of pieces.
    """
    for name, where in (("out", store.path(design.out)), ("pieces", shelf_of(design).folder)):
        if not isinstance(where, pathlib.Path):
            continue
        above = next(folder for folder in (where, *where.absolute().parents) if folder.exists())
        if not above.is_dir():
            raise errors.InputError(f"{name}: {above} is a file; give a folder")
        if not os.access(above, os.W_OK | os.X_OK) or (above != where and not _makes(above)):
            raise errors.InputError(f"{name}: {above} can't be written to; give another folder")


def _makes(folder: pathlib.Path) -> bool:
    """Whether folders can be made in a folder; of some file systems only trying tells."""
    try:
        os.rmdir(tempfile.mkdtemp(dir=folder))
        return True
    except OSError:
        return False


def _foreign(path: Any) -> bool:
    """Whether a file is none that a run leaves before it has written its design."""
    return not (path.name == "claims" or (path.name.startswith(".study.yaml") and path.name.endswith(".tmp")))
