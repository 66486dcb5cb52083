"""Options of the executor, and what is refused before Ray is started."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from atp_core import Recipe, search
from atp_core.cli import main
from atp_core.errors import AtpError, DataError, ModelError, UnknownNameError, UsageError
from atp_ray._executor import Ray
from atp_ray._options import Options
from atp_ray._worker import portable


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"adress": "x"}, "no option 'adress'; it has address, trial_gpus"),
        ({"address": 6379}, "one such as 10.0.0.1:6379, not 6379"),
        ({"trial_gpus": -1}, "a number from 0, not -1"),
        ({"trial_gpus": "all"}, "a number from 0, not 'all'"),
        ({"trial_gpus": True}, "a number from 0, not True"),
        ({"trial_gpus": float("nan")}, "a number from 0"),
        ({"trial_cpus": 1.5}, "whole where it is above 1"),
        ({"workers": 0}, "a whole number from 1, not 0"),
        ({"threads": 1.0}, "a whole number from 1, not 1.0"),
        ({"retries": -1}, "a whole number from 0, not -1"),
    ],
)
def test_wrong_options_are_told(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Ray().configure(options)


def test_good_options_are_taken() -> None:
    found = Options.of({"address": "h:1", "trial_gpus": 0.5, "trial_cpus": 4, "retries": 0})
    assert found == Options(address="h:1", trial_gpus=0.5, trial_cpus=4, retries=0)


def test_wrong_options_are_told_before_anything_is_loaded() -> None:
    with pytest.raises(UsageError, match="no option 'wokers'"):
        search(
            "embedded:digits-vit", sparsity=0.5, executor="ray", executor_options={"wokers": 2}
        )


def test_a_model_in_memory_is_refused() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet18")
    with pytest.raises(UsageError, match=r"cannot see a model in\s+memory: save the model"):
        search(model, sparsity=0.5, executor="ray")


@pytest.mark.parametrize("option", [["--ray-address", "h:1"], ["--trial-gpus", "1"]])
def test_options_of_ray_without_ray_are_refused(
    option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", "embedded:digits-vit", "-s", "0.5", *option]) == 2
    assert "are for --executor ray; add it" in capsys.readouterr().err


def test_no_jobs_start_nothing() -> None:
    assert list(Ray().run(len, [])) == []


def test_the_plugin_does_not_import_ray_before_it_runs() -> None:
    code = (
        "import sys; from atp_core._plugins import build_manager; p = build_manager(); "
        "p.offers('executors').create('ray'); "
        "import json; print(json.dumps([m in sys.modules for m in ('ray', 'torch')]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert json.loads(done.stdout) == [False, False], done.stderr


class Strange(ModelError):
    """An error that cannot be made again from its arguments."""

    def __init__(self, name: str, *, code: int) -> None:
        super().__init__(f"{name} is strange ({code})")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DataError("no data"), DataError),
        (UnknownNameError("pruning method", "wandaa", ["wanda"]), UnknownNameError),
        (Strange("it", code=7), ModelError),
    ],
)
def test_errors_survive_the_way(error: AtpError, kind: type[AtpError]) -> None:
    found = portable(error)
    assert type(found) is kind
    assert str(found) == str(error) and found.exit_code == error.exit_code


def test_the_address_is_not_published() -> None:
    recipe = Recipe.make(
        {
            "source": "m",
            "sparsity": 0.5,
            "executor": "ray",
            "executor_options": {"address": "10.0.0.1:6379", "trial_gpus": 1},
        }
    )
    assert "--executor-options address=10.0.0.1:6379,trial_gpus=1" in recipe.command()
    assert "10.0.0.1" not in recipe.portable().to_yaml()
