"""Recipes: what is refused and how it is told, YAML, schema and command line."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from atp_core.errors import UsageError
from atp_core.recipe import Recipe


def make(**settings: Any) -> Recipe:
    return Recipe.make({"source": "model", "sparsity": 0.5, **settings})


def refused(**settings: Any) -> str:
    with pytest.raises(UsageError) as caught:
        make(**settings)
    return str(caught.value)


def test_defaults_are_those_of_the_documentation() -> None:
    recipe = make()
    assert (recipe.method, recipe.allocation, recipe.beta) == ("wanda", "atp", "search")
    assert (recipe.device, recipe.dtype, recipe.seed, recipe.batch_size) == ("auto", "auto", 0, 1)
    assert recipe.baseline and not recipe.trust_remote_code
    assert recipe.output is None and recipe.schedule is None


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.999, {"vision": 0.3, "text": 0.0}])
def test_legal_sparsity(sparsity: Any) -> None:
    assert make(sparsity=sparsity).sparsity == sparsity


@pytest.mark.parametrize(
    "sparsity", [1.0, -0.1, 70, float("nan"), float("inf"), "half", None, {"text": 1.0}]
)
def test_illegal_sparsity_is_told_with_the_range(sparsity: Any) -> None:
    told = refused(sparsity=sparsity)
    assert "sparsity" in told
    assert "[0, 1)" in told


def test_percentage_is_recognized() -> None:
    assert "for 70 %, write 0.7" in refused(sparsity=70)


def test_illegal_sparsity_of_a_chain_names_the_chain() -> None:
    told = refused(sparsity={"vision": 0.5, "text": 1.2})
    assert "`sparsity.text`" in told
    assert "vision" not in told


@pytest.mark.parametrize("sparsity", [True, {"text": True}, {}])
def test_yaml_traps_in_sparsity(sparsity: Any) -> None:
    assert "sparsity" in refused(sparsity=sparsity)


@pytest.mark.parametrize(("beta", "expected"), [(0, 0.0), (0.01, 0.01), ("auto", "auto")])
def test_beta(beta: Any, expected: Any) -> None:
    found = make(beta=beta).beta
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("beta", ["serch", True, float("nan"), None, []])
def test_illegal_beta(beta: Any) -> None:
    assert "`beta` must be 'search', 'auto', a finite number" in refused(beta=beta)


@pytest.mark.parametrize(
    "settings",
    [
        {"samples": 0},
        {"samples": True},
        {"samples": 1.5},
        {"batch_size": -1},
        {"seqlen": 1},
        {"seed": -1},
        {"beta_step": 0.0},
        {"chains": []},
        {"method": ""},
        {"source": ""},
    ],
)
def test_illegal_settings_are_named(settings: dict[str, Any]) -> None:
    assert next(iter(settings)) in refused(**settings)


def test_misspelt_setting_gets_a_suggestion() -> None:
    assert "unknown setting `calibratoin`; did you mean `calibration`?" in refused(calibratoin="x")


def test_every_wrong_setting_is_named_at_once() -> None:
    told = refused(samples=0, sed=3)
    assert "`samples`" in told
    assert "`sed`" in told


def test_missing_setting() -> None:
    with pytest.raises(UsageError, match="`sparsity` is missing"):
        Recipe.make({"source": "model"})


def test_chains_and_sparsity_must_name_the_same_chains() -> None:
    make(chains=["a", "b"], sparsity={"b": 0.5, "a": 0.1})
    assert "'b' is named in only one" in refused(chains=["a"], sparsity={"a": 0.5, "b": 0.5})


def test_yaml_round_trip(tmp_path: Path) -> None:
    recipe = make(
        source="ünï",
        sparsity={"a": 0.5},
        beta=0.01,
        schedule="s.json",
        output=tmp_path,
        chains=["a"],
    )
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe.to_yaml(), encoding="utf-8")
    assert Recipe.load(file) == recipe


def test_file_errors_name_the_file_and_the_key(tmp_path: Path) -> None:
    file = tmp_path / "my-recipe.yaml"
    file.write_text("source: model\nsparsity: 0.5\nsampels: 3\n", encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        Recipe.read(file)
    assert str(file) in str(caught.value)
    assert "did you mean `samples`?" in str(caught.value)


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text", "a: [1,", "\t"])
def test_unfit_files(tmp_path: Path, text: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"recipe\.yaml"):
        Recipe.read(file)


def test_binary_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("binary", "missing", "."):
        with pytest.raises(UsageError, match="recipe"):
            Recipe.read(tmp_path / name)


def test_a_file_may_leave_to_options_what_they_add(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("sparsity: 0.6\n", encoding="utf-8")
    assert Recipe.read(file) == {"sparsity": 0.6}
    with pytest.raises(UsageError, match="`source` is missing"):
        Recipe.load(file)


def test_json_schema_describes_every_setting() -> None:
    schema = Recipe.json_schema()
    json.dumps(schema)
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(Recipe.model_fields)
    assert all("description" in field for field in schema["properties"].values())
    rate = schema["properties"]["sparsity"]["oneOf"][0]
    assert (rate["minimum"], rate["exclusiveMaximum"]) == (0, 1)
    assert schema["required"] == ["source", "sparsity"]


def test_command_has_what_differs_from_the_defaults() -> None:
    recipe = make(source="a model", beta=0.01, baseline=False, chains=["x", "y"], output="out")
    assert shlex.split(recipe.command()) == [
        "atp", "prune", "a model", "--sparsity", "0.5", "--beta", "0.01", "--chains", "x,y",
        "--no-baseline", "-o", "out",
    ]  # fmt: skip


def test_portable_recipe_tells_nothing_of_the_disk() -> None:
    recipe = make(source="/home/me/model", calibration="/data/c4.txt", output="/tmp/out")
    assert "/home" in recipe.command()
    assert "/" not in recipe.portable().command()
    assert recipe.portable().source == "model"


def test_import_is_light() -> None:
    code = "import sys, atp_core.recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tasks_are_spelt_out_however_they_are_given() -> None:
    """A preset means the same on the command line, in a file and in Python."""
    seven = make(tasks="zeroshot7").tasks
    assert seven is not None and seven[0] == "boolq" and len(seven) == 7
    assert make(tasks=["zeroshot7"]).tasks == seven
    assert make(tasks=["piqa", "zeroshot7"]).tasks == ["piqa", *(t for t in seven if t != "piqa")]
    assert make(tasks="copa, piqa").tasks == ["copa", "piqa"]
    with pytest.raises(UsageError, match="names no task"):
        make(tasks=" ,")
    with pytest.raises(UsageError, match="tasks"):
        make(tasks=[1])
