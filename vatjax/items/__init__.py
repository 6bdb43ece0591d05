"""Items: (scene, action) pairs, read, checked, split by situation or scene, paired and written back.

    items.bundled()                                  # the 29,568 bundled items
    data = items.read("actions.csv.gz", columns={"action": "text"})
    train, test = data.split(test=0.25, seed=0)      # by situation, else by scene; stable when data are added
    data.where(country="Egypt", type="Power")        # filters
    data.pair()                                      # express and suppress actions of a value in a scene
    items.protocols(data)                            # elicitation protocols that they allow, with reasons

This package is independent of models.
"""

from vatjax.items.asset import bundled
from vatjax.items.protocols import protocols
from vatjax.items.read import COLUMNS, Inspected, inspect, read, write
from vatjax.items.source import Source, inspect_source, open_source
from vatjax.items.table import EXPRESS, SITUATION, SUPPRESS, Item, Items

__all__ = [
    "COLUMNS",
    "EXPRESS",
    "SITUATION",
    "SUPPRESS",
    "Inspected",
    "Item",
    "Items",
    "Source",
    "bundled",
    "inspect",
    "inspect_source",
    "open_source",
    "protocols",
    "read",
    "write",
]
