"""Rows as pandas data frames, where pandas is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vatjax import errors


def data_frame(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Returns rows as a `pandas.DataFrame`, a column for each key.

    Raises:
        InputError: if pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError:
        raise errors.InputError("a data frame needs pandas: pip install pandas") from None
    return pd.DataFrame(list(rows))
