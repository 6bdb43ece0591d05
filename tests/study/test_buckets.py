"""A study whose folder is in a bucket."""

import pytest

from tests.test_cli import run
from tests.tiers import quick
from vatjax import config, report, study
from vatjax.study.design import Design

TEXT = """
models: [pocket]
targets: [power]
out: {out}
scenes: 16  # as many as in other tests, whose programs serve here too
placebos: 0
resamples: 100
texts: 0
interventions:
  examples: {{kind: shots, counts: [2]}}
"""
VECTOR = """  vector: {{kind: residual, layers: ["0"], strengths: [0.5, 1]}}
"""


def design(out, more=""):
    return config.parse(Design, (TEXT + more).format(out=out), "study.yaml")


@pytest.mark.parametrize("more", quick(["", VECTOR], [""]), ids=["examples", "vector"])
def test_a_study_in_a_bucket_is_that_on_a_disk(bucket, tmp_path, more):
    found = []
    for out in (bucket, tmp_path / "out"):
        own = design(out, more)
        study.check_writable(own)
        ran = study.run(study.plan(own), shard=study.parse_shard("1/2"))
        assert ran.failed == {}
        found.append(study.write(ran))
    there, here = found
    report.write(there)
    assert there.rows == here.rows
    assert {path.name for path in (there.folder / "states").iterdir()} == {
        path.name for path in (here.folder / "states").iterdir()
    }
    assert "</html>" in (there.folder / report.PAGE).read_text()
    again = study.run(study.plan(design(bucket, more)))
    assert again.computed == 0
    damaged = next(path for path in (there.folder / "pieces").glob("*/*/state.npz"))
    damaged.write_bytes(b"cut")
    told = []
    assert study.run(study.plan(design(bucket, more)), told.append).computed == 1
    assert "is damaged: it is computed again" in told[0]


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError("Forbidden: 403")])
def test_a_bucket_that_can_not_be_written_to(bucket, tmp_path, capsys, monkeypatch, error):
    import fsspec

    kind = fsspec.get_filesystem_class("gs")
    real = kind._open

    def refused(self, path, mode="rb", **options):
        if mode != "rb":
            raise error
        return real(self, path, mode, **options)

    monkeypatch.setattr(kind, "_open", refused)
    file = tmp_path / "study.yaml"
    file.write_text(TEXT.format(out=bucket))
    status, _, said = run(capsys, "run", str(file))
    assert status == 2
    assert "Traceback" not in said
    assert bucket in said
    assert ("permission denied" in said) or ("forbidden" in said)
