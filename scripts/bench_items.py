"""Times reading, checking and pairing the 29,568 bundled items, against parsing the same file and checking nothing.

    python scripts/bench_items.py [--rounds 7]

Both are timed in turn in one process, and the table gives medians and the ratio of each round's pair.
"""

from __future__ import annotations

import argparse
import gzip
import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable

from vatjax import items


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "items.jsonl.gz"
        items.write(items.bundled(), path)

        def ours() -> None:
            data = items.read(path)
            assert len(data.pair().express) == 14_784

        def parse_only() -> None:
            with gzip.open(path, "rt") as lines:
                assert sum("action" in json.loads(line) for line in lines) == 29_568

        ours(), parse_only()
        pairs = [(seconds(ours), seconds(parse_only)) for _ in range(rounds)]
    ratios = [own / bare for own, bare in pairs]
    print(f"read, check and pair 29,568 items: {statistics.median(own for own, _ in pairs):.3f} s")
    print(f"parse the same file, no checks:    {statistics.median(bare for _, bare in pairs):.3f} s")
    print(f"ratio: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}, {rounds} rounds)")


if __name__ == "__main__":
    main()
