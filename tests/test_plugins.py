"""Finding plugins and containing their faults, with real distributions on the path."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from faulty import Write, atp

from atp_core._plugins import Plugins, build_manager
from atp_core.errors import ModelError, PluginError, UnknownNameError
from atp_core.hookspecs import HOOK_API_VERSION
from atp_core.records import LoadedModel, Offer, Recognition, Source

GOOD = """
    from atp_core.hookspecs import hookimpl
    from atp_core.records import Offer, Recognition
    ATP_HOOK_API = 1
    @hookimpl
    def atp_recognize(source):
        return Recognition(0.5, "it is called thing") if source.text == "thing" else None
    @hookimpl
    def atp_load(source, request):
        return None
"""


@pytest.fixture
def install(tmp_plugin: Write) -> Write:
    """Writes a distribution of version 1.2 that Python finds where its folder is on the path."""
    return partial(tmp_plugin, version="1.2")


def listed(path: Path, **environment: str) -> tuple[dict[str, Any], str]:
    done = atp("plugins", "list", "--json", path=path, **environment)
    assert done.returncode == 0, done.stderr
    return {entry["name"]: entry for entry in json.loads(done.stdout)}, done.stderr


def test_a_good_plugin_is_listed(install: Write) -> None:
    found, told = listed(install("good", GOOD))
    assert found["good"] == {
        "name": "good",
        "distribution": "atp-prune-good",
        "version": "1.2",
        "status": "ok",
        "hooks": ["atp_load", "atp_recognize"],
        "error": None,
    }
    assert found["core"]["status"] == "ok"
    assert told == ""


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import no_such_module", "no_such_module"),
        ("raise SystemExit(3)", "SystemExit"),
        ("1 +", "SyntaxError"),
        ("ATP_HOOK_API = 1", "implements no hook"),
        (GOOD.replace("ATP_HOOK_API = 1", ""), "does not declare the hook API"),
        (
            GOOD.replace("ATP_HOOK_API = 1", "ATP_HOOK_API = 99"),
            f"needs hook API 99 and this atp-prune offers {HOOK_API_VERSION}",
        ),
        (GOOD.replace("ATP_HOOK_API = 1", "ATP_HOOK_API = 0"), "hook API 0"),
        (GOOD.replace("ATP_HOOK_API = 1", "ATP_HOOK_API = 'one'"), "does not declare"),
        (GOOD.replace("atp_load(source, request)", "atp_load(source, reqest)"), "reqest"),
        (GOOD.replace("atp_recognize", "atp_recognise"), "did you mean atp_recognize"),
    ],
    ids=["import", "exit", "syntax", "empty", "no-api", "new", "old", "no-int", "args", "name"],
)
def test_a_broken_plugin_stops_nothing(install: Write, code: str, why: str) -> None:
    path = install("bad", code)
    install("good", GOOD)
    found, told = listed(path)
    assert found["bad"]["status"] == "broken"
    assert found["bad"]["hooks"] == []
    assert why in found["bad"]["error"]
    assert "ATP_DISABLE_PLUGINS=bad" in found["bad"]["error"]
    assert found["good"]["status"] == "ok"
    assert told.count("atp-prune-bad 1.2") == 1, "named once, with distribution and version"
    strict = atp("plugins", "list", path=path, ATP_STRICT_PLUGINS="1")
    assert strict.returncode == 3
    assert "atp-prune-bad 1.2" in strict.stderr


def test_disabling_by_plugin_or_distribution(install: Write) -> None:
    path = install("bad", "import no_such_module")
    install("good", GOOD)
    for names in ("bad,good", "atp-prune-bad, atp-prune-good"):
        found, told = listed(path, ATP_DISABLE_PLUGINS=names)
        assert found["bad"]["status"] == found["good"]["status"] == "disabled"
        assert told == ""
    _, told = listed(path, ATP_DISABLE_PLUGINS="god,bad")
    assert "did you mean 'good'" in told
    found, told = listed(path, ATP_DISABLE_PLUGINS="core,bad")
    assert found["core"]["status"] == "ok"
    assert "cannot be disabled" in told


def test_two_distributions_with_one_plugin_name(install: Write) -> None:
    path = install("good", GOOD)
    install("good", GOOD, distribution="other-good")
    done = atp("plugins", "list", "--json", path=path)
    entries = [entry for entry in json.loads(done.stdout) if entry["name"] == "good"]
    assert [entry["status"] for entry in entries] == ["ok", "broken"]
    assert "atp-prune-good and other-good" in entries[1]["error"]


def test_a_table_for_people(install: Write) -> None:
    done = atp("plugins", "list", path=install("good", GOOD))
    assert done.returncode == 0
    assert "atp-prune-good" in done.stdout and "recognize" in done.stdout


# --- which plugin handles a source ---------------------------------------------------------------


class Handler:
    """A plugin for models, as an object."""

    ATP_HOOK_API = 1

    def __init__(self, answer: Any) -> None:
        self.answer = answer


def handler(answer: Any) -> Any:
    from atp_core.hookspecs import hookimpl

    class Made(Handler):
        @hookimpl
        def atp_recognize(self, source: Source) -> Any:
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

        @hookimpl
        def atp_load(self, source: Source, request: Any) -> Any:
            return self.answer

    return Made(answer)


def plugins(**answers: Any) -> Plugins:
    extra = [(name, handler(answer)) for name, answer in answers.items()]
    return build_manager(discover=False, extra=extra)


def test_the_surest_plugin_wins() -> None:
    found = plugins(a=Recognition(0.3, "maybe"), b=Recognition(0.9, "sure"), c=None)
    assert found.recognize(Source("x")) == Recognition(0.9, "sure", "b")
    assert found.recognize(Source("x"), plugin="a") == Recognition(0.3, "maybe", "a")


def test_a_tie_names_both() -> None:
    found = plugins(a=Recognition(0.5, ""), b=Recognition(0.5, ""))
    with pytest.raises(PluginError, match=r"'a' and 'b'.*--plugin"):
        found.recognize(Source("x"))


def test_nobody_knows_the_source() -> None:
    with pytest.raises(ModelError, match=r"no plugin handles 'x'.*Plugins for models: a"):
        plugins(a=None).recognize(Source("x"))
    with pytest.raises(ModelError, match="Install one"):
        build_manager(discover=False).recognize(Source("x"))
    with pytest.raises(PluginError, match="'a' does not handle 'x'"):
        plugins(a=None).recognize(Source("x"), plugin="a")


def test_unknown_plugins_are_told_with_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'handler'"):
        plugins(handler=None).recognize(Source("x"), plugin="handlr")
    with pytest.raises(PluginError, match="handles no models"):
        plugins().recognize(Source("x"), plugin="core")


def test_an_exception_in_recognize_does_not_stop_others() -> None:
    found = plugins(bad=ValueError("oh"), good=Recognition(0.5, "fine"))
    with pytest.warns(UserWarning, match=r"'bad'.*ValueError: oh"):
        assert found.recognize(Source("x")).plugin == "good"
    with pytest.raises(PluginError, match="ValueError: oh"):
        found.recognize(Source("x"), plugin="bad")


def test_wrong_types_are_blamed_on_the_plugin() -> None:
    with pytest.raises(PluginError, match=r"'a'.*str, not Recognition"):
        plugins(a="yes").recognize(Source("x"))
    ask = plugins(a="model").caller("atp_load", "a")
    with pytest.raises(PluginError, match="atp_load gave str"):
        ask(source=Source("x"), request=None)
    with pytest.raises(PluginError, match="gave NoneType"):
        plugins(a=None).caller("atp_load", "a")(source=Source("x"), request=None)


def test_only_the_chosen_plugin_is_asked() -> None:
    import torch

    mine = LoadedModel(torch.nn.Identity(), Source("x"))
    found = plugins(a=mine, b=LoadedModel(torch.nn.Identity(), Source("y")))
    assert found.caller("atp_load", "a")(source=Source("x"), request=None) is mine


# --- what is registered by name ------------------------------------------------------------------


def offering(*offers: Any) -> Any:
    from atp_core.hookspecs import hookimpl

    class Made:
        ATP_HOOK_API = 1

        @hookimpl
        def atp_methods(self) -> Any:
            return list(offers)

    return Made()


def test_core_offers_its_methods_like_anyone() -> None:
    found = build_manager(discover=False)
    assert list(found.offers("methods")) == ["alps", "dsnot", "magnitude", "sparsegpt", "wanda"]
    assert list(found.offers("allocators")) == [
        "alphapruning", "als", "atp", "atp-sensitivity", "bayes-gp", "bayes-tpe", "dlp", "dsa",
        "ecoflap", "er", "er-plus", "erk", "global", "lamp", "losa", "owl", "power", "uniform",
    ]  # fmt: skip
    assert found.offers("methods")["wanda"].origin == "atp-prune"
    assert found.offers("methods").create("wanda").name == "wanda"


def test_a_third_party_method() -> None:
    extra = [("mine", offering(Offer("mine", lambda: "built", "")))]
    found = build_manager(discover=False, extra=extra).offers("methods")
    assert found.create("mine") == "built"
    with pytest.raises(UnknownNameError, match="Did you mean 'mine'"):
        found.create("mime")


def test_clashing_names_tell_both_origins() -> None:
    extra = [("mine", offering(Offer("wanda", "mine:Wanda", "")))]
    found = build_manager(discover=False, extra=extra).offers("methods")
    with pytest.raises(PluginError, match=r"atp-prune and given in code .*'mine'.* both offer"):
        found["wanda"]
    assert found.create("sparsegpt").name == "sparsegpt"


@pytest.mark.parametrize("target", ["no_such_module:X", "atp_core.methods.wanda:Nope", "x"])
def test_an_offer_that_cannot_be_built(target: str) -> None:
    extra = [("mine", offering(Offer("mine", target, "")))]
    with pytest.raises(PluginError, match=r"'mine' of given in code cannot be built"):
        build_manager(discover=False, extra=extra).offers("methods").create("mine")


def test_what_is_no_offer() -> None:
    found = build_manager(discover=False, extra=[("mine", offering("wanda"))])
    with pytest.raises(PluginError, match="str, not Offer"):
        found.offers("methods", "mine")


# --- subcommands ---------------------------------------------------------------------------------

COMMANDS = """
    import click
    from atp_core.hookspecs import hookimpl
    ATP_HOOK_API = 1
    @click.command(NAME, help="Say hello.")
    def hello():
        click.echo("hello from a plugin")
    @hookimpl
    def atp_commands():
        return [hello]
"""


def test_a_plugins_subcommand(install: Write) -> None:
    path = install("hello", COMMANDS.replace("NAME", "'hello'"))
    assert "Say hello." in atp("--help", path=path).stdout
    assert atp("hello", path=path).stdout == "hello from a plugin\n"


def test_a_subcommand_that_clashes_does_not_win(install: Write) -> None:
    path = install("hello", COMMANDS.replace("NAME", "'prune'"))
    done = atp("--help", path=path)
    assert done.returncode == 0
    assert "atp-prune and atp-prune-hello both offer the command 'prune'" in done.stderr
    assert "Say hello." not in done.stdout
