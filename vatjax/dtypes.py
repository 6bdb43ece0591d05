"""The dtypes that a model is loaded in."""

from typing import Literal

Dtype = Literal["auto", "float32", "bfloat16", "mixed"]
