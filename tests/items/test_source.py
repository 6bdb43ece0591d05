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


def test_a_source_reads_as_it_says(tmp_path, root):
    path = tmp_path / "own.csv"
    path.write_text("country,topic,scene,value,polarity,text\nEgypt,Religion,S.,sanctity,express,I pray.\n,,,,,x\n")
    own = root / "configs" / "taxonomies" / "moral_foundations.yaml"
    source = items.Source(file=str(path), taxonomy=str(own), columns={"action": "text"}, skip_bad=True)
    with pytest.warns(UserWarning, match="skipped 1 of 2 rows"):
        read = items.open_source(source)
    assert read[0].value == "Purity"
    assert len(items.inspect_source(source).items) == 1
    with pytest.raises(errors.InputError, match="country: empty text"):
        items.open_source(items.Source(file=str(path), taxonomy=str(own), columns={"action": "text"}))
    with pytest.raises(errors.InputError, match="unknown value 'sanctity'"):
        items.open_source(items.Source(file=str(path), columns={"action": "text"}))
    with pytest.raises(errors.InputError, match="did you mean 'schwartz'"):
        items.open_source(items.Source(file=str(path), taxonomy="schwarz"))


def test_a_files_problems_are_not_hidden_by_a_filter(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text(
        "country,topic,scene,value,polarity,action\nEgypt,R,S.,Wealth,express,I ask.\nFrance,R,S.,Welth,express,I ask.\n"
    )
    found = items.inspect_source(items.Source(file=str(path), country=("France",)))
    assert "Welth" in found.problems[0].message


def test_filters_that_leave_nothing_are_refused():
    with pytest.raises(errors.InputError, match="no item matches"):
        items.open_source(items.Source(type=("Power",), value=("Curious",)))


@pytest.mark.parametrize("change", [{"columns": {"action": "text"}}, {"layout": "vatjax"}, {"taxonomy": "own.yaml"}])
def test_the_bundled_items_take_no_reading_options(change):
    with pytest.raises(errors.InputError, match="bundled items have their own"):
        items.open_source(items.Source(**change))


def test_a_source_checks_its_share():
    with pytest.raises(errors.InputError, match="more than 0 and less than 1"):
        items.Source(test=1.0)
