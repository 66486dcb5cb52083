"""Faults in importing and registering plugins, with real distributions on the path."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from faulty import GOOD, NAMED, WELL, Write, atp, found_with, hook
from towers import Towers

from atp_core._plugins import Plugins, build_manager
from atp_core.errors import ModelError, PluginError, UnknownNameError
from atp_core.records import Source

REGISTER = [
    "atp_methods", "atp_allocators", "atp_objectives", "atp_executors", "atp_runtimes",
    "atp_examples", "atp_commands",
]  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is told once in the life of a process is told once a test."""
    monkeypatch.setattr("atp_core._discovery._told", set())


@pytest.fixture
def written(tmp_plugin: Write) -> Callable[..., Plugins]:
    """Writes the plugin that is well, with changes on top, and gives what is found then."""
    return partial(found_with, tmp_plugin)


# --- importing -----------------------------------------------------------------------------------


class TestImport:
    @pytest.mark.parametrize(
        ("code", "told"),
        [
            ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
            ("from atp_core.records import NoSuchName", "ImportError: cannot import name"),
            ("def broken(", "SyntaxError"),
            ("raise SystemExit(3)", "SystemExit: 3"),
            ("class Odd(BaseException): ...\nraise Odd('of its own')", "Odd: of its own"),
            ("raise ValueError('x' * 9999)", "ValueError"),
        ],
    )
    def test_what_it_raises(
        self, written: Callable[..., Plugins], code: str, told: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        found = written(code=code)
        status = found.status("mine")
        assert status.status == "broken" and status.hooks == []
        assert status.error is not None and told in status.error
        assert "pip install -U atp-prune-mine" in status.error, "a remedy"
        assert "ATP_DISABLE_PLUGINS=mine" in status.error, "another"
        assert len(status.error) < 700
        assert f"{NAMED} is broken and was left out" in capsys.readouterr().err
        assert "wanda" in found.offers("methods"), "others go on"

    def test_its_author_sees_the_traceback(self, tmp_plugin: Write) -> None:
        tmp_plugin("loud", GOOD + hook("atp_commands()", "raise ValueError('in a hook')"))
        path = tmp_plugin("mine", "def helper():\n    raise ValueError('oh')\nhelper()")
        for strict, code in (("", 0), ("1", 3)):
            done = atp("plugins", "list", path=path, ATP_TRACEBACK="1", ATP_STRICT_PLUGINS=strict)
            assert done.returncode == code
            assert "in helper" in done.stderr
            assert ("in atp_commands" in done.stderr) is (strict == "")
        assert "Traceback" not in atp("plugins", "list", path=path).stderr

    def test_an_interrupt_interrupts(self, tmp_plugin: Write) -> None:
        path = tmp_plugin("mine", "raise KeyboardInterrupt")
        assert atp("plugins", "list", path=path).returncode == 130

    def test_the_user_interrupts_an_import(self, tmp_plugin: Write, tmp_path: Path) -> None:
        began = tmp_path / "began"
        code = f"import pathlib, time\npathlib.Path({str(began)!r}).touch()\ntime.sleep(3600)"
        path = tmp_plugin("mine", code)
        running = subprocess.Popen(
            [sys.executable, "-m", "atp_core", "plugins", "list"],
            env={**os.environ, "PYTHONPATH": str(path)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Where the tests run in the background, they and their children ignore it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            while not began.exists():
                assert running.poll() is None
                time.sleep(0.05)
            running.send_signal(signal.SIGINT)
            assert running.wait(timeout=120) == 130
        finally:
            running.kill()
            running.wait()

    def test_what_it_prints_is_no_data(self, tmp_plugin: Write) -> None:
        tmp_plugin("mine", "import sys\nprint('hello')\nsys.stdout.write('again')" + GOOD)
        code = "print('hello'); raise ValueError('after printing')"
        path = tmp_plugin("loud", code)
        done = atp("plugins", "list", "--json", path=path)
        entries = {entry["name"]: entry for entry in json.loads(done.stdout)}
        assert entries["mine"]["status"] == "ok"
        assert "after printing" in entries["loud"]["error"]
        assert "hello\nagain" in done.stderr and done.stderr.count("hello") >= 2

    def test_a_class_that_cannot_be_made(self, tmp_plugin: Write) -> None:
        folder = tmp_plugin("mine", "class Mine:\n    def __init__(self, size): ...")
        [points] = folder.glob("*/entry_points.txt")
        points.write_text("[atp_prune]\nmine = atp_prune_mine:Mine\n")
        error = build_manager().status("mine").error
        assert error is not None and "TypeError" in error and "'size'" in error

    def test_one_object_under_two_names(self, tmp_plugin: Write) -> None:
        folder = tmp_plugin("mine", GOOD)
        [points] = folder.glob("*/entry_points.txt")
        points.write_text("[atp_prune]\nmine = atp_prune_mine\nother = atp_prune_mine\n")
        found = build_manager()
        assert found.status("mine").status == "ok"
        error = found.status("other").error
        assert error is not None and "the same object as plugin 'mine'" in error

    def test_an_entry_point_that_leads_nowhere(self, tmp_plugin: Write) -> None:
        folder = tmp_plugin("mine", GOOD)
        [points] = folder.glob("*/entry_points.txt")
        points.write_text("[atp_prune]\nmine = atp_prune_mine:nothing\n")
        error = build_manager().status("mine").error
        assert error is not None and "has no attribute 'nothing'" in error

    @pytest.mark.parametrize("ours", [True, False])
    def test_leftovers_of_an_installation_that_was_cut_off(
        self, tmp_plugin: Write, capsys: pytest.CaptureFixture[str], ours: bool
    ) -> None:
        folder = tmp_plugin("mine", GOOD)
        left = folder / "~tp_prune_other-1.0.dist-info"
        left.mkdir()
        if ours:
            (left / "entry_points.txt").write_text("[atp_prune]\nother = nowhere\n")
        garbled = folder / "garbled-1.0.dist-info"
        garbled.mkdir()
        (garbled / "METADATA").write_text("Name: garbled\nVersion: 1.0\n")
        (garbled / "entry_points.txt").write_text("no section = nowhere\n")
        assert build_manager().status("mine").status == "ok"
        told = capsys.readouterr().err
        assert (left.name in told and "install it again" in told) is ours

    def test_only_the_whole_plugin_is_registered(self, written: Callable[..., Plugins]) -> None:
        """One of seven hooks has an argument too many; none of the others stays."""
        found = written(hook("atp_save(loaded, folder)", "return []"))
        status = found.status("mine")
        assert status.status == "broken" and status.hooks == []
        assert status.error is not None and "'folder'" in status.error
        assert "mine" not in found.offers("methods")
        with pytest.raises(ModelError):
            found.recognize(Source("towers", Towers()))
        for name in ("atp_save", "atp_load"):
            with pytest.raises(PluginError, match=f"{NAMED} is broken: .*'folder'"):
                found.caller(name, "mine")

    def test_it_cannot_be_called_core(
        self, tmp_plugin: Write, capsys: pytest.CaptureFixture[str]
    ) -> None:
        tmp_plugin("core", GOOD, distribution="atp-prune-imposter")
        found = build_manager()
        assert found.status("core").distribution == "atp-prune"
        assert "good" not in found.offers("methods")
        told = capsys.readouterr().err
        assert "plugin 'core' of atp-prune-imposter 1.0 is broken" in told
        assert "ATP_DISABLE_PLUGINS=atp-prune-imposter" in told


# --- imports that hang ---------------------------------------------------------------------------


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Holds imports of ``import gate; gate.wait()`` until it is set; they get half a second."""
    event = threading.Event()
    module = types.ModuleType("gate")
    module.wait = lambda: event.wait(60)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gate", module)
    monkeypatch.setenv("ATP_PLUGIN_TIMEOUT", "0.5")
    yield event
    event.set()
    for thread in threading.enumerate():
        if thread.name.startswith("import of"):
            thread.join(10)


class TestHangingImport:
    def test_the_command_ends_and_others_work(self, tmp_plugin: Write) -> None:
        tmp_plugin("good", GOOD)
        path = tmp_plugin("mine", "import time\ntime.sleep(3600)", version="1.2")
        began = time.monotonic()
        done = atp("plugins", "list", "--json", path=path, ATP_PLUGIN_TIMEOUT="1")
        assert time.monotonic() - began < 60, "an hour of sleep was not waited for"
        assert done.returncode == 0, done.stderr
        entries = {entry["name"]: entry for entry in json.loads(done.stdout)}
        assert entries["good"]["status"] == "ok"
        assert entries["mine"]["status"] == "broken"
        assert "still importing after 1 s" in entries["mine"]["error"]
        assert "ATP_PLUGIN_TIMEOUT=SECONDS" in entries["mine"]["error"]
        assert done.stderr.count(NAMED) == 1

    def test_exit_codes_and_what_runs_at_exit_are_kept(self, tmp_plugin: Write) -> None:
        tmp_plugin("good", "import atexit\natexit.register(print, 'at exit')" + GOOD)
        path = tmp_plugin("mine", "import time\ntime.sleep(3600)")
        done = atp("no-such-command", path=path, ATP_PLUGIN_TIMEOUT="0.5")
        assert done.returncode == 2
        assert "no-such-command" in done.stderr and done.stdout == "at exit\n"

    def test_what_it_does_later_is_dropped(
        self, written: Callable[..., Plugins], gate: threading.Event,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        found = written(code="import gate\ngate.wait()\nprint('late')" + WELL)
        [thread] = [t for t in threading.enumerate() if t.name.startswith("import of 'mine'")]
        assert thread.daemon
        print("data")
        gate.set()
        thread.join(10)
        assert not thread.is_alive()
        assert found.status("mine").status == "broken"
        assert "mine" not in found.offers("methods")
        out, err = capsys.readouterr()
        assert out == "data\n" and "late" in err
        print("more data")
        assert capsys.readouterr().out == "more data\n"
        # A new manager finds it done.
        assert build_manager().status("mine").status == "ok"

    def test_it_is_waited_for_once(
        self, written: Callable[..., Plugins], gate: threading.Event,
        capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        written(code="import gate\ngate.wait()" + WELL)
        told = capsys.readouterr().err
        assert "still importing after 0.5 s" in told
        monkeypatch.setenv("ATP_PLUGIN_TIMEOUT", "3600")
        assert build_manager().status("mine").status == "broken"
        imports = [t for t in threading.enumerate() if t.name.startswith("import of 'mine'")]
        assert len(imports) == 1

    def test_another_plugin_may_wait_for_the_same_module(
        self, tmp_plugin: Write, gate: threading.Event
    ) -> None:
        folder = tmp_plugin("a-first", "import slow_part" + GOOD)
        tmp_plugin("b-second", "import slow_part" + GOOD)
        tmp_plugin("c-third", GOOD)
        (folder / "slow_part.py").write_text("import gate\ngate.wait()\n")
        found = build_manager()
        first, second = (found.status(name).error for name in ("a-first", "b-second"))
        assert first is not None and "perhaps waiting" not in first
        assert second is not None
        assert "perhaps waiting for 'a-first' of atp-prune-a-first" in second
        assert found.status("c-third").status == "ok"

    @pytest.mark.parametrize("seconds", ["soon", "0", "-3", "nan"])
    def test_a_limit_that_is_none(
        self, written: Callable[..., Plugins], capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch, seconds: str,
    ) -> None:  # fmt: skip
        monkeypatch.setenv("ATP_PLUGIN_TIMEOUT", seconds)
        assert written().status("mine").status == "ok"
        assert f"ATP_PLUGIN_TIMEOUT is '{seconds}'" in capsys.readouterr().err

    def test_no_limit(
        self, written: Callable[..., Plugins], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ATP_PLUGIN_TIMEOUT", "inf")
        assert written().status("mine").status == "ok"


# --- hooks that register by name -----------------------------------------------------------------


class TestRegistration:
    @pytest.mark.parametrize("name", REGISTER)
    @pytest.mark.parametrize(
        ("body", "told"),
        [
            ("raise ValueError('oh')", "failed in {0}: ValueError: oh"),
            ("raise SystemExit(1)", "failed in {0}: SystemExit: 1"),
            ("from atp_core.errors import UsageError; raise UsageError('oh')", "UsageError: oh"),
            ("pass", "{0} gave NoneType, not a list of "),
            ("return 'mine'", "{0} gave str, not a list of "),
            ("return ['mine']", "{0} gave a list whose item 0 is str, not "),
            ("return iter([])", "{0} gave list_iterator, not a list of "),
        ],
    )
    def test_what_it_offers_is_left_out(
        self, written: Callable[..., Plugins], capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch, name: str, body: str, told: str,
    ) -> None:  # fmt: skip
        def everything(found: Plugins) -> list[Any]:
            kinds = ("methods", "allocators", "objectives", "executors", "runtimes", "examples")
            return [*(list(found.offers(kind)) for kind in kinds), found.commands()]

        changes = "del atp_methods\n" if name != "atp_methods" else ""
        plugins = written(changes + hook(f"{name}()", body))
        assert "wanda" in everything(plugins)[0] and "atp" in everything(plugins)[1]
        everything(build_manager())
        message = capsys.readouterr().err
        assert message.count(NAMED) == 1, "told once"
        assert told.format(name) in message
        assert "ATP_DISABLE_PLUGINS=mine" in message
        [status] = [status for status in plugins.probed() if status.name == "mine"]
        assert status.status == "broken"
        assert status.error is not None and told.format(name) in status.error
        assert plugins.recognize(Source("towers", Towers())).plugin == "mine", "the rest works"
        monkeypatch.setenv("ATP_STRICT_PLUGINS", "1")
        with pytest.raises(PluginError, match=NAMED):
            everything(plugins)
        with pytest.raises(PluginError, match=NAMED):
            plugins.probed()

    @pytest.mark.parametrize(
        ("offer", "told"),
        [
            ("Offer('', 'a:b', '')", "an Offer whose name is ''"),
            ("Offer(None, 'a:b', '')", "an Offer whose name is None"),
            ("Offer('mine', 3, '')", "'mine' whose target is int"),
            ("Offer('mine', 'a:b', None)", "'mine' whose summary is NoneType"),
            ("Offer('mine', 'a:b', ''), Offer('mine', 'a:b', '')", "two offers called 'mine'"),
        ],
    )
    def test_offers_that_are_none(
        self, written: Callable[..., Plugins], offer: str, told: str
    ) -> None:
        plugins = written(hook("atp_methods()", f"return [{offer}]"))
        with pytest.raises(PluginError, match=f"{NAMED}: atp_methods gave .*{told}"):
            plugins.offers("methods", "mine")

    def test_a_missing_name_may_be_an_offer_of_the_broken_plugin(
        self, written: Callable[..., Plugins], tmp_plugin: Write
    ) -> None:
        tmp_plugin("unimportable", "import no_such_module")
        plugins = written(hook("atp_methods()", "raise ValueError('oh')"))
        offers = plugins.offers("methods")
        with pytest.raises(UnknownNameError) as caught:
            offers.check("mine")
        message = str(caught.value)
        assert "unknown pruning method 'mine'" in message and "wanda" in message
        assert (
            f"may be an offer of plugin 'unimportable' of atp-prune-unimportable 1.0 or {NAMED}"
            in (message)
        )
        assert "`atp plugins list`" in message
        with pytest.raises(UnknownNameError) as caught:
            build_manager(discover=False).offers("methods").check("mine")
        assert "may be" not in str(caught.value)

    def test_on_the_command_line(self, tmp_plugin: Write) -> None:
        code = WELL + hook("atp_methods()", "raise ValueError('oh')")
        path = tmp_plugin("mine", code, version="1.2")
        tmp_plugin("good", GOOD)
        done = atp("plugins", "list", "--json", path=path)
        assert done.returncode == 0
        entries = {entry["name"]: entry for entry in json.loads(done.stdout)}
        assert entries["mine"]["status"] == "broken"
        assert "failed in atp_methods: ValueError: oh" in entries["mine"]["error"]
        assert "atp_locate" in entries["mine"]["hooks"]
        assert entries["good"]["status"] == "ok"
        asked = atp("prune", "x", "-s", "0.5", "-o", "out", "--method", "mine", path=path)
        assert asked.returncode == 2
        assert f"may be an offer of {NAMED}" in asked.stderr
        strict = atp("prune", "x", "-s", "0.5", "-o", "out", path=path, ATP_STRICT_PLUGINS="1")
        assert strict.returncode == 3

    def test_help_shows_whatever_commands_a_plugin_offers(self, tmp_plugin: Write) -> None:
        code = GOOD + hook("atp_commands()", "return [print]")
        path = tmp_plugin("mine", code, version="1.2")
        done = atp("--help", path=path)
        assert done.returncode == 0 and "Prune a model" in done.stdout
        assert done.stderr.count(f"{NAMED}: atp_commands gave a list whose item 0 is") == 1


class TestClashes:
    def test_only_the_name_itself_is_an_error(
        self, tmp_plugin: Write, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in ("one", "two"):
            extra = f"Offer('{name}', Magnitude, ''), Offer('same', Magnitude, '')"
            imports = "from atp_core.methods.magnitude import Magnitude"
            body = f"{imports}; return [{extra}]"
            tmp_plugin(name, GOOD + hook("atp_methods()", body))
        for found in (build_manager(), build_manager()):
            methods = found.offers("methods")
            for name in ("one", "two", "wanda"):
                assert methods[name].name == name
            assert "same" in methods
            for use in (methods.check, methods.create, methods.__getitem__):
                with pytest.raises(PluginError) as caught:
                    use("same")
                message = str(caught.value)
                assert "atp-prune-one" in message and "atp-prune-two" in message
                assert "ATP_DISABLE_PLUGINS=two" in message
        told = capsys.readouterr().err
        assert told.count("both offer the pruning method 'same'") == 1
        assert found.offers("methods", "one")["same"].origin == "atp-prune-one"

    def test_with_a_name_of_core(self, tmp_plugin: Write) -> None:
        code = GOOD + hook("atp_methods()", "return [Offer('wanda', 'a:b', '')]")
        tmp_plugin("mine", code)
        methods = build_manager().offers("methods")
        with pytest.raises(PluginError, match=r"atp-prune and atp-prune-mine .* both offer"):
            methods.create("wanda")
        assert methods.create("magnitude").name == "magnitude"

    def test_the_remedy_works(self, tmp_plugin: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        code = GOOD + hook("atp_methods()", "return [Offer('wanda', 'a:b', '')]")
        tmp_plugin("mine", code)
        monkeypatch.setenv("ATP_DISABLE_PLUGINS", "mine")
        assert build_manager().offers("methods").create("wanda").name == "wanda"


def test_a_target_that_ends_the_process_when_it_is_built(
    written: Callable[..., Plugins], tmp_plugin: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    plugins = written(hook("atp_methods()", "return [Offer('mine', 'leaving:Method', '')]"))
    [folder] = [Path(p) for p in sys.path if (Path(p) / "atp_prune_mine.py").exists()]
    (folder / "leaving.py").write_text("print('goodbye')\nraise SystemExit(0)\n")
    with pytest.raises(PluginError, match="'mine' of atp-prune-mine cannot be built: SystemExit"):
        plugins.offers("methods").create("mine")
    out, err = capsys.readouterr()
    assert out == "" and "goodbye" in err
