import pytest

from vatjax import config, errors, items


def test_the_shipped_configuration_stands_for_the_defaults(root):
    from vatjax.commands.items import Check

    assert config.read(Check, root / "configs" / "items.yaml") == Check()


def test_filters_of_a_source_apply(tmp_path):
    source = items.Source(country=("Egypt",), type=("Power",))
    assert len(items.open_source(source)) == 22 * 5 * 2
    inspected = items.inspect_source(source)
    assert (len(inspected.items), inspected.rows) == (220, 29_568)
    path = tmp_path / "egypt.jsonl"
    items.write(items.open_source(source), path)
    assert len(items.open_source(items.Source(file=str(path), value=("Wealth",)))) == 44


def test_filters_that_leave_nothing_are_refused():
    with pytest.raises(errors.InputError, match="no item matches"):
        items.open_source(items.Source(type=("Power",), value=("Curious",)))


@pytest.mark.parametrize("change", [{"columns": {"action": "text"}}, {"layout": "vatjax"}, {"taxonomy": "own.yaml"}])
def test_the_bundled_items_take_no_reading_options(change):
    with pytest.raises(errors.InputError, match="bundled items have their own"):
        items.open_source(items.Source(**change))


def test_a_source_checks_its_share():
    with pytest.raises(errors.InputError, match="between 0 and 1"):
        items.Source(test=1.0)
