import pytest

from vatjax.errors import InputError
from vatjax.estimate import accelerators


@pytest.mark.parametrize(
    ("name", "chips", "hosts", "topology"),
    [
        ("v5e-256", 256, 64, "v5e:16x16"),
        ("v5litepod-8", 8, 2, "v5e:2x4"),
        ("v5p-128", 64, 16, "v5p:4x4x4"),  # its name counts cores
        ("v4-8", 4, 1, "v4:2x2x1"),
        ("v6e-1", 1, 1, "v6e:1x1"),
        ("8xH200", 8, 1, ""),
        ("12 x h100", 12, 2, ""),
    ],
)
def test_names(name: str, chips: int, hosts: int, topology: str) -> None:
    found = accelerators.parse_slice(name)
    assert (found.chips, found.hosts, found.topology) == (chips, hosts, topology)


@pytest.mark.parametrize("chip", [kind for kind, chip in accelerators.CHIPS.items() if chip.shapes])
def test_shapes_have_as_many_chips_as_they_say(chip: str) -> None:
    for chips, shape in accelerators.CHIPS[chip].shapes.items():
        product = 1
        for length in shape.split("x"):
            product *= int(length)
        assert product == chips


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v5e", "expected a slice such as v5e-256"),
        ("v5p-100", "expected v5p-8, v5p-16"),
        ("v9-8", "accelerator"),
        ("8xH20", "did you mean"),
        ("0xH200", "at least one"),
        ("8xv5e", "8xv5e"),
    ],
)
def test_what_is_none_is_refused(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        accelerators.parse_slice(name)
