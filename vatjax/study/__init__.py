"""Studies: models x interventions x targets, each measured next to its placebos.

design = config.read(study.Design, "configs/quickstart.yaml")    # models x interventions x targets
results = study.write(study.run(study.plan(design)))  # a `Study`: .rows, .comparisons, .result(row), .states(row)
"""

from vatjax.study.design import Design
from vatjax.study.folder import check_folder, check_writable
from vatjax.study.locks import ShardSpec, parse_shard, run_once
from vatjax.study.planning import loader, plan
from vatjax.study.results import Study, open_study, write
from vatjax.study.runner import RunResult, run

__all__ = [
    "Design",
    "RunResult",
    "ShardSpec",
    "Study",
    "check_folder",
    "check_writable",
    "loader",
    "open_study",
    "parse_shard",
    "plan",
    "run",
    "run_once",
    "write",
]
