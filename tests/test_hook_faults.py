"""Hooks for models that raise, return something else, or are missing, each blamed by name."""

from __future__ import annotations

import errno
import math
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from faulty import NAMED, WELL, Write, found_with, hook
from towers import Towers

from atp_core import api
from atp_core._plugins import Plugins, build_manager
from atp_core.errors import ModelError, PluginError, UsageError
from atp_core.hookspecs import hookimpl
from atp_core.methods.magnitude import Magnitude
from atp_core.records import DataRequest, LoadedModel, Schedule, Source

SIGNATURES = {
    "atp_load": "atp_load(source, request)",
    "atp_locate": "atp_locate(loaded)",
    "atp_calibrate": "atp_calibrate(loaded, data)",
    "atp_evaluate": "atp_evaluate(loaded, data, split, metrics)",
    "atp_prune": "atp_prune(loaded, chains)",
    "atp_save": "atp_save(loaded, directory)",
}


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is told once in the life of a process is told once a test."""
    monkeypatch.setattr("atp_core._discovery._told", set())


@pytest.fixture
def written(tmp_plugin: Write) -> Callable[..., Plugins]:
    """Writes the plugin that is well, with changes on top, and gives what is found then."""
    return partial(found_with, tmp_plugin)


def ask(plugins: Plugins, name: str, directory: Path) -> Any:
    """Ask a hook of the plugin for two towers."""
    loaded = LoadedModel(Towers(), Source("towers"))
    rates = {"left": {"left.0": 0.5}}
    arguments: dict[str, dict[str, Any]] = {
        "atp_load": {"source": Source("towers", Towers()), "request": None},
        "atp_locate": {"loaded": loaded},
        "atp_calibrate": {"loaded": loaded, "data": DataRequest()},
        "atp_evaluate": {
            "loaded": loaded, "data": DataRequest(), "split": "report", "metrics": None,
        },
        "atp_prune": {
            "loaded": loaded, "chains": [], "schedule": Schedule(rates, 0.5, "uniform"),
            "method": Magnitude(), "calibration": None, "options": None,
        },
        "atp_save": {"loaded": loaded, "directory": directory},
    }  # fmt: skip
    return plugins.caller(name, "mine")(**arguments[name])


def test_a_plugin_that_is_well_goes_the_whole_way(
    written: Callable[..., Plugins], tmp_path: Path
) -> None:
    """Nothing legitimate is refused: what is broken below is well here."""
    assert written().status("mine").status == "ok"
    result = api.prune(
        Towers(), sparsity=0.5, beta=0.02, plugin="mine", method="mine", output=tmp_path / "out"
    )
    assert result.report.achieved == pytest.approx(0.5, abs=1e-2)
    assert (tmp_path / "out" / "model.safetensors").is_file()


# --- hooks for models that raise -----------------------------------------------------------------


class TestHooksThatRaise:
    @pytest.mark.parametrize("name", SIGNATURES)
    @pytest.mark.parametrize(
        ("raised", "told"),
        [
            ("ValueError('of its own')", "ValueError: of its own"),
            ("KeyError('key')", "KeyError: 'key'"),
            ("SystemExit('leaving')", "SystemExit: leaving"),
            ("FileNotFoundError(2, 'none', 'file')", "FileNotFoundError"),
        ],
    )
    def test_it_is_named(
        self, written: Callable[..., Plugins], tmp_path: Path, name: str, raised: str, told: str
    ) -> None:
        plugins = written(hook(SIGNATURES[name], f"raise {raised}"))
        with pytest.raises(PluginError) as caught:
            ask(plugins, name, tmp_path)
        message = str(caught.value)
        assert message.startswith(f"{NAMED} failed in {name}: {told}")
        assert "report it to the plugin's authors" in message
        assert "ATP_TRACEBACK=1" in message and "--plugin NAME" in message

    @pytest.mark.parametrize(
        ("raised", "kind"),
        [
            ("ModelError('truncated')", ModelError),
            ("MemoryError()", MemoryError),
            ("KeyboardInterrupt()", KeyboardInterrupt),
            ("BrokenPipeError(32, 'gone')", BrokenPipeError),
            (f"OSError({errno.ENOSPC}, 'full')", OSError),
            ("torch.OutOfMemoryError('full')", torch.OutOfMemoryError),
        ],
    )
    def test_what_is_raised_on_purpose_or_by_the_machine_passes(
        self, written: Callable[..., Plugins], tmp_path: Path, raised: str,
        kind: type[BaseException],
    ) -> None:  # fmt: skip
        body = f"import torch; from atp_core.errors import ModelError; raise {raised}"
        plugins = written(hook("atp_load(source)", body))
        with pytest.raises(kind) as caught:
            ask(plugins, "atp_load", tmp_path)
        assert type(caught.value) is kind

    def test_the_engine_and_the_method_are_named_where_they_fail(
        self, written: Callable[..., Plugins]
    ) -> None:
        changes = """
            class Failing:
                name, calibrated = "failing", False
                def statistics(self, in_features, device): ...
                def prune(self, weight, rate, statistics):
                    raise ZeroDivisionError("in the method")
            @hookimpl
            def atp_methods():
                return [Offer("failing", Failing, "fails")]
        """
        written(changes)
        with pytest.raises(PluginError) as caught:
            api.prune(Towers(), sparsity=0.5, beta=0.0, plugin="mine", method="failing")
        message = str(caught.value)
        assert "failed in atp_prune with the method 'failing' of atp-prune-mine" in message
        assert "ZeroDivisionError: in the method" in message
        assert message.startswith("plugin 'core' of atp-prune ")

    def test_a_handler_that_exits_while_core_prunes_is_no_fault_of_anyone(
        self, written: Callable[..., Plugins]
    ) -> None:
        changes = """
            class Terminated:
                name, calibrated = "terminated", False
                def statistics(self, in_features, device): ...
                def prune(self, weight, rate, statistics):
                    import os, signal
                    signal.signal(signal.SIGUSR1, lambda *_: sys.exit(7))
                    os.kill(os.getpid(), signal.SIGUSR1)
            @hookimpl
            def atp_methods():
                return [Offer("terminated", Terminated, "is terminated")]
        """
        written(changes)
        before = signal.getsignal(signal.SIGUSR1)
        try:
            with pytest.raises(SystemExit) as caught:
                api.prune(Towers(), sparsity=0.5, beta=0.0, plugin="mine", method="terminated")
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert caught.value.code == 7

    def test_what_they_print_is_no_data(
        self, written: Callable[..., Plugins], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        body = "print('from the hook'); import threading; other = threading.Thread(target=print, "
        body += "args=('from elsewhere',)); other.start(); other.join(); return towers()"
        body += ".atp_load(source, request)"
        plugins = written(hook("atp_load(source, request)", body))
        ask(plugins, "atp_load", tmp_path)
        print("data")
        out, err = capsys.readouterr()
        assert "from the hook" in err
        # The other thread was printing to stdout before, and goes on.
        assert out == "from elsewhere\ndata\n"


class TestRecognize:
    SOURCE = Source("towers", Towers())

    @pytest.mark.parametrize(
        ("body", "told"),
        [
            ("raise ValueError('oh')", "failed in atp_recognize: ValueError: oh"),
            ("raise SystemExit(1)", "failed in atp_recognize: SystemExit: 1"),
            ("return 'yes'", "atp_recognize gave str, not Recognition or None"),
            ("return True", "gave bool, not Recognition"),
            ("return Recognition(2, 'sure')", "confidence 2, which is no number from 0 to 1"),
            ("return Recognition(-0.5, 'no')", "confidence -0.5"),
            ("return Recognition(math.nan, 'well')", "confidence nan"),
            ("return Recognition('high', 'sure')", "confidence 'high'"),
            ("return Recognition(True, 'sure')", "confidence True"),
            ("return Recognition(0.5, None)", "reason is NoneType"),
        ],
    )
    def test_others_go_on(
        self, written: Callable[..., Plugins], tmp_plugin: Write, body: str, told: str
    ) -> None:
        tmp_plugin("other", WELL)
        plugins = written(hook("atp_recognize(source)", body))
        with pytest.warns(UserWarning) as warned:
            assert plugins.recognize(self.SOURCE).plugin == "other"
        [warning] = warned
        assert NAMED in str(warning.message) and told in str(warning.message)
        assert "it was passed over" in str(warning.message)
        with pytest.raises(PluginError) as caught:
            plugins.recognize(self.SOURCE, plugin="mine")
        assert NAMED in str(caught.value) and told in str(caught.value)

    def test_nobody_else_knows_the_source(self, written: Callable[..., Plugins]) -> None:
        plugins = written(hook("atp_recognize(source)", "raise ValueError('oh')"))
        with pytest.raises(PluginError, match=f"no plugin handles 'x'.*{NAMED} failed in"):
            plugins.recognize(Source("x", model=object()))

    def test_an_error_on_purpose_is_the_answer_where_nobody_knows_better(
        self, written: Callable[..., Plugins], tmp_plugin: Write
    ) -> None:
        body = "from atp_core.errors import UsageError; raise UsageError('write towers:NAME')"
        plugins = written(hook("atp_recognize(source)", body))
        with pytest.raises(UsageError, match=r"^write towers:NAME$"):
            plugins.recognize(self.SOURCE)
        tmp_plugin("other", WELL)
        with pytest.warns(UserWarning, match=f"{NAMED}: write towers:NAME; it was passed over"):
            assert build_manager().recognize(self.SOURCE).plugin == "other"


class TestHalfAPlugin:
    @staticmethod
    def without(written: Callable[..., Plugins], *names: str) -> Plugins:
        return written("".join(f"del {name}\n" for name in names))

    def test_it_recognizes_and_cannot_load(self, written: Callable[..., Plugins]) -> None:
        plugins = self.without(written, "atp_load", "atp_save")
        assert plugins.status("mine").status == "ok", "what else it offers can be used"
        for asked in (None, "mine"):
            with pytest.raises(PluginError) as caught:
                plugins.recognize(Source("towers", Towers()), plugin=asked)
            message = str(caught.value)
            assert f"{NAMED} has no atp_load (and no atp_save)" in message
            assert "--plugin NAME" in message and "pip install -U atp-prune-mine" in message

    def test_it_loads_and_does_not_recognize(self, written: Callable[..., Plugins]) -> None:
        plugins = self.without(written, "atp_recognize")
        with pytest.raises(PluginError, match=f"{NAMED} has no atp_recognize, and so"):
            plugins.recognize(Source("towers", Towers()), plugin="mine")
        with pytest.raises(ModelError, match=f"no plugin handles.*{NAMED} has no atp_recognize"):
            plugins.recognize(Source("towers", object()))

    @pytest.mark.parametrize("name", ["atp_locate", "atp_calibrate", "atp_evaluate", "atp_save"])
    def test_it_lacks_another_hook(self, written: Callable[..., Plugins], name: str) -> None:
        plugins = self.without(written, name)
        with pytest.raises(PluginError, match=f"{NAMED} has no {name}, and so"):
            plugins.caller(name, "mine")

    def test_a_whole_one_needs_no_procedure_of_its_own(
        self, written: Callable[..., Plugins]
    ) -> None:
        assert callable(written().caller("atp_prune", "mine"))


# --- hooks for models that return something else -------------------------------------------------

CALIBRATION = "found = towers().atp_calibrate(loaded, data)"
EVALUATION = "found = towers().atp_evaluate(loaded, data, split, metrics)"
CHAINS = "found = towers().atp_locate(loaded)"
SAVED = "[file] = towers().atp_save(loaded, directory)"
REPLACE = "from dataclasses import replace"


class TestWrongAnswers:
    @pytest.mark.parametrize(
        ("name", "body", "told"),
        [
            ("atp_load", "return 'model'", "gave str, not LoadedModel"),
            ("atp_load", "return None", "gave NoneType, not LoadedModel"),
            ("atp_load", "return LoadedModel('model', source)", "whose model is str"),
            ("atp_load", "return LoadedModel(source.model, source, takes='seqlen')",
             "`takes` is str, not a set"),
            ("atp_load", "return LoadedModel(source.model, source, card=None)",
             "`card` is NoneType"),
            ("atp_locate", "return ['left.0']", "a list whose item 0 is str, not Chain"),
            ("atp_locate", "return 'left'", "gave str, not a list of Chain"),
            ("atp_locate", f"{CHAINS}; return (chain for chain in found)", "gave generator"),
            ("atp_locate", f"{CHAINS}; return {{c.name: c for c in found}}", "gave dict"),
            ("atp_locate", "return []", "must raise ModelError naming the architecture"),
            ("atp_locate", "return [Chain('left', ['left.0', 'left.1'])]",
             "gave chain 'left' with a list whose item 0 is str, not Block"),
            ("atp_locate", "return [Chain('left', 'left.0')]", "chain 'left' with str"),
            ("atp_locate", "return [Chain('', [])]", "a chain whose name is ''"),
            ("atp_locate", "return [Chain('left', [], dense=['head'])]", "`dense` is list"),
            ("atp_locate", "return [Chain('left', [Block('b', loaded.model.left[0], ['weight'])])]",
             "block 'b' with a list whose item 0 is str, not PrunableWeight"),
            ("atp_locate", "return [Chain('left', [Block('b', 'left.0', [])])]",
             "block 'b' whose module is str"),
            ("atp_locate", f"{CHAINS}; found[0].blocks[0].weights[0].module = None; return found",
             "'left.0.weight' whose module is NoneType"),
            ("atp_locate", f"{CHAINS}; found[0].blocks[0].weights[0].rows = 3; return found",
             "'left.0.weight' whose rows are 3"),
            ("atp_locate", f"{CHAINS}; found[0].blocks[0].weights[0].index = 0; return found",
             "'left.0.weight' whose index is 0"),
            ("atp_calibrate", "return [1, 2]", "gave list, not Calibration"),
            ("atp_calibrate", f"{CALIBRATION}; found.batch_samples = [8]; return found",
             "2 batches whose batch_samples tell of 1"),
            ("atp_calibrate", f"{CALIBRATION}; found.batch_samples = [8, 9]; return found",
             "hold 17 samples, and whose `samples` says 16"),
            ("atp_calibrate", f"{CALIBRATION}; found.batch_samples = [16, 0]; return found",
             "whole numbers above 0"),
            ("atp_calibrate", f"{CALIBRATION}; found.forward = None; return found",
             "forward is NoneType, which cannot be called"),
            ("atp_calibrate", f"{CALIBRATION}; found.batches = iter(found.batches); return found",
             "batches are list_iterator"),
            ("atp_calibrate", f"{CALIBRATION}; found.examples = ['a']; return found",
             "examples are list, not a frozenset"),
            ("atp_calibrate", f"{CALIBRATION}; found.dataset = None; return found",
             "dataset is NoneType, not text"),
            ("atp_evaluate", "return 0.5", "gave float, not Evaluation"),
            ("atp_evaluate", "return Evaluation([0.5], frozenset())",
             "item 0 is float, not Metric"),
            ("atp_evaluate", "return Evaluation({'a': 1}, frozenset())", "with dict, not a list"),
            ("atp_evaluate", "return Evaluation([], None)", "examples are NoneType"),
            ("atp_evaluate", f"{REPLACE}; {EVALUATION}; metric = replace(found.metrics[0], "
             "value='low'); return Evaluation([metric], found.examples)",
             "'norm' whose value is str, not a number"),
            ("atp_evaluate", f"{REPLACE}; {EVALUATION}; metric = replace(found.metrics[0], "
             "split='search'); return Evaluation([metric], found.examples)",
             "of the split 'search' where 'report' was asked for"),
            ("atp_evaluate", f"{REPLACE}; {EVALUATION}; metric = replace(found.metrics[0], "
             "stderr='?', n=1.5, higher_is_better=0); return Evaluation([metric], frozenset())",
             "stderr is str, not a number or None; it gave the metric 'norm' whose n is float"),
            ("atp_evaluate", f"{EVALUATION}; return Evaluation(found.metrics * 2, frozenset())",
             "gave two metrics called 'norm'"),
            ("atp_evaluate", "return Evaluation([], frozenset(), [])", "observations are list"),
            ("atp_evaluate", "return Evaluation([], frozenset(), {'norm': [1]})",
             "observations of 'norm' that are list, not Observations"),
            ("atp_evaluate", "made = Observations(['a', 'b'], [1.0, 2.0], [1.0]); "
             "return Evaluation([], frozenset(), {'norm': made})",
             "'norm' whose ids, values and weights are 2 and 2 and 1 in number"),
            ("atp_prune", "return 0.5", "gave float, not PruneReport"),
            ("atp_save", "return None", "gave NoneType, not a list of Path"),
            ("atp_save", "return []", "named no file"),
            ("atp_save", f"{SAVED}; return [str(file)]", "item 0 is str, not Path"),
            ("atp_save", f"{SAVED}; return [file.name]", "item 0 is str, not Path"),
            ("atp_save", "return [directory / 'nothing']", "there is no such file"),
            ("atp_save", "return [directory]", "there is no such file"),
            ("atp_save", "file = directory.parent / 'outside'; file.touch(); return [file]",
             "outside the directory"),
            ("atp_save", "file = directory.parent / 'outside'; file.touch(); "
             "link = directory / 'link'; link.symlink_to(file); return [link]",
             "outside the directory"),
        ],
    )  # fmt: skip
    def test_it_is_told_which_part(
        self, written: Callable[..., Plugins], tmp_path: Path, name: str, body: str, told: str
    ) -> None:
        plugins = written(hook(SIGNATURES[name], body))
        directory = tmp_path / "out"
        directory.mkdir()
        with pytest.raises(PluginError) as caught:
            ask(plugins, name, directory)
        message = str(caught.value)
        assert message.startswith(f"{NAMED}: {name} ") and told in message, message
        assert "report it to the plugin's authors" in message

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ("blocks = blocks[1:]", "reported nothing of block 'left.0' of chain 'left'"),
            ("blocks = [*blocks, blocks[0]]", "reported a block twice"),
            ("blocks[0] = replace(blocks[0], zeros=10**9)", "reported 1000000000 zeros in block"),
            ("blocks[0] = replace(blocks[0], zeros=0.5)", "reported 0.5 zeros"),
            ("blocks += [replace(blocks[0], name='other')]", "'other' of chain 'left', which was"),
            ("blocks = [None]", "item 0 is NoneType, not BlockReport"),
        ],
    )
    def test_a_report_of_something_else(
        self, written: Callable[..., Plugins], change: str, told: str
    ) -> None:
        changes = f"""
            @hookimpl(wrapper=True)
            def atp_prune(loaded):
                from dataclasses import replace
                found = yield
                blocks = list(found.blocks)
                {change}
                return replace(found, blocks=blocks)
        """
        written(changes)
        with pytest.raises(PluginError) as caught:
            api.prune(Towers(), sparsity=0.5, beta=0.0, plugin="mine", method="magnitude")
        assert str(caught.value).startswith(f"{NAMED}: atp_prune ")
        assert told in str(caught.value)

    def test_not_more_than_three_faults_are_told(
        self, written: Callable[..., Plugins], tmp_path: Path
    ) -> None:
        body = "return [Chain('', []), Chain('', []), Chain('', []), Chain('', [])]"
        with pytest.raises(PluginError) as caught:
            ask(written(hook("atp_locate(loaded)", body)), "atp_locate", tmp_path)
        assert str(caught.value).count("whose name is ''") == 3


class TestLocating:
    """What is located is looked at once more by core; tests/test_located_faults.py has the rest."""

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ("found[0].blocks[0].weights[0].rows = (0, 99)", "'left.0.weight'.*rows .0, 99."),
            ("found[1].name = 'left'", "two chains called 'left'"),
            ("found[0].blocks[1].name = 'left.0'", "two blocks called 'left.0'"),
            ("found[0].blocks[1].weights = found[0].blocks[0].weights", "outside the block"),
            ("found[0].blocks = []", "'left' without a block"),
        ],
    )
    def test_what_is_not_there(
        self, written: Callable[..., Plugins], tmp_path: Path, change: str, told: str
    ) -> None:
        plugins = written(hook("atp_locate(loaded)", f"{CHAINS}; {change}; return found"))
        with pytest.raises(PluginError, match=f"^{NAMED}: atp_locate located .*{told}"):
            ask(plugins, "atp_locate", tmp_path)

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ("loaded.model.eval()", "was put into eval mode"),
            ("loaded.model.requires_grad_(False)", "requires_grad of left.0.weight became False"),
            ("loaded.model.left[0].weight.data.zero_()", "values of left.0.weight were written"),
            (
                "loaded.model.left[0].register_forward_hook(print)",
                "hooks were registered on left.0",
            ),
            ("loaded.model = towers()", "put another model into LoadedModel.model"),
        ],
    )
    def test_a_model_that_is_changed(
        self, written: Callable[..., Plugins], tmp_path: Path, change: str, told: str
    ) -> None:
        plugins = written(hook("atp_locate(loaded)", f"{CHAINS}; {change}; return found"))
        with pytest.raises(PluginError) as caught:
            ask(plugins, "atp_locate", tmp_path)
        message = str(caught.value)
        assert message.startswith(f"{NAMED}: atp_locate ") and told in message
        assert "it must change nothing" in message


def test_a_wrapper_around_core_is_asked_too(written: Callable[..., Plugins]) -> None:
    changes = """
        @hookimpl(wrapper=True)
        def atp_prune(loaded):
            from dataclasses import replace
            found = yield
            return replace(found, notes=("wrapped",))
    """
    written(changes)
    result = api.prune(Towers(), sparsity=0.5, beta=0.0, plugin="mine", method="magnitude")
    assert result.report.notes == ("wrapped",)


def test_objects_given_in_code_are_named_too() -> None:
    class Given:
        ATP_HOOK_API = 1

        @hookimpl
        def atp_recognize(self, source: Source) -> Any:
            return math.inf

    found = build_manager(discover=False, extra=[("given", Given())])
    with pytest.raises(
        PluginError, match="plugin 'given', given in code: atp_recognize gave float"
    ):
        found.recognize(Source("x"), plugin="given")
