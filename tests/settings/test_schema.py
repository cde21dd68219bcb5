"""The published schema is the code's, and every settings file that we ship keeps to it."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given

import strategies
from monaiseg.settings.reading import load_settings, parse_settings
from monaiseg.settings.schema import json_schema
from monaiseg.settings.settings import Settings
from monaiseg.settings.writing import dump_settings

REPOSITORY = Path(__file__).parents[2]
VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def is_settings(path: Path) -> bool:
    document = json.loads(path.read_text(encoding="utf-8"))
    return isinstance(document, dict) and {"dataset", "tsk_set"} <= set(document)


SHIPPED = [
    path
    for folder in ("scripts", "bundles", "benchmarks", "docs")
    for path in sorted((REPOSITORY / folder).rglob("*.json"))
    if is_settings(path) and "settings_for_lpba" not in path.parts  # in EasyReg's spelling
]


def test_the_published_schema_is_that_of_the_code():
    published = json.loads(
        (REPOSITORY / "docs" / "settings.schema.json").read_text(encoding="utf-8")
    )
    assert published == json_schema(), "run `python scripts/build_reference.py`"


def test_the_schema_is_a_json_schema():
    jsonschema.Draft202012Validator.check_schema(json_schema())


def test_every_key_has_a_sentence():
    schema = json_schema()
    for title, section in {"Settings": schema, **schema["$defs"]}.items():
        for key, node in section["properties"].items():
            is_section = "$ref" in node
            said = node.get("description") or (
                is_section and schema["$defs"][node["$ref"].split("/")[-1]].get("description")
            )
            assert said, f"{title}.{key} has no docstring"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_settings_file_that_we_ship_keeps_to_the_schema_and_loads(path):
    VALIDATOR.validate(json.loads(path.read_text(encoding="utf-8")))
    load_settings(path)


@given(settings=strategies.settings())
def test_settings_survive_the_way_to_a_file_and_back(settings):
    text = dump_settings(settings)

    assert parse_settings(text) == settings
    VALIDATOR.validate(json.loads(text))


def test_the_defaults_keep_to_the_schema():
    VALIDATOR.validate(json.loads(dump_settings(Settings())))
    VALIDATOR.validate({})


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"tsk_set": {"epochs": 0}}, ["tsk_set", "epochs"]),
        ({"tsk_set": {"epochs": "3"}}, ["tsk_set", "epochs"]),
        ({"tsk_set": {"epoks": 3}}, ["tsk_set"]),
        ({"dataset": {"seg": {"patch_size": [64, 64]}}}, ["dataset", "seg", "patch_size"]),
    ],
)
def test_the_schema_refuses_what_the_code_refuses(document, path):
    (fault,) = VALIDATOR.iter_errors(document)
    assert list(fault.absolute_path) == path
    with pytest.raises(ValueError, match=path[-1]):
        parse_settings(json.dumps(document))
