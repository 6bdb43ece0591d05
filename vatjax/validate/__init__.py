"""Validation of the instrument on planted values: the organism, null organisms, and the coverage of printed intervals.

measured = validate.measure_organism(model, world, items)    # the organism under words, shots and placebos
validate.check_organism(measured)                            # a list of `Check`
checks, style = validate.calibrate(seeds=40)                 # the metrics on simulated answers: coverage, false alarms
"""

from vatjax.validate.coverage import calibrate
from vatjax.validate.null_organisms import check_null_organism, push_organism
from vatjax.validate.organism_checks import check_organism, measure_organism

__all__ = [
    "calibrate",
    "check_null_organism",
    "check_organism",
    "measure_organism",
    "push_organism",
]
