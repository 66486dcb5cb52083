"""Problems of a plugin that show without calling it."""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import Any

import pluggy
import pytest

from atp_core import _builtin
from atp_core._contract import MODEL_HOOKS, Problem, hook_problems
from atp_core._plugins import build_manager
from atp_core.errors import PluginError
from atp_core.hookspecs import HOOK_API_VERSION, hookimpl, hookspec
from atp_core.records import Source

Hooks = dict[str, Any]


@hookimpl
def _methods() -> Any:
    return []


def plugin(**hooks: Any) -> types.ModuleType:
    """A module with an API version, one good hook, and what is given on top."""
    made = types.ModuleType("atp_mine")
    made.ATP_HOOK_API = HOOK_API_VERSION  # type: ignore[attr-defined]
    made.atp_methods = _methods  # type: ignore[attr-defined]
    for name, value in hooks.items():
        setattr(made, name, value)
    return made


def only(made: object) -> Problem:
    [problem] = hook_problems(made)
    return problem


def test_a_good_plugin_has_none() -> None:
    assert hook_problems(plugin()) == []
    assert hook_problems(_builtin) == []


@pytest.mark.parametrize("name", ["llm", "timm", "open-clip", "llava"])
def test_the_plugins_of_this_repository_have_none(name: str) -> None:
    found = build_manager()
    if all(status.name != name for status in found.statuses):
        pytest.skip(f"plugin {name!r} is not installed")
    assert hook_problems(found.status(name).plugin) == []


class TestVersion:
    def test_missing(self) -> None:
        made = plugin()
        del made.ATP_HOOK_API
        problem = only(made)
        assert problem.fatal
        assert f"add ATP_HOOK_API = {HOOK_API_VERSION}" in str(problem)

    @pytest.mark.parametrize("version", ["1", 1.0, True, None])
    def test_no_whole_number(self, version: Any) -> None:
        problem = only(plugin(ATP_HOOK_API=version))
        assert problem.fatal and repr(version) in str(problem)

    def test_too_new_tells_both_numbers_and_what_to_upgrade(self) -> None:
        problem = only(plugin(ATP_HOOK_API=HOOK_API_VERSION + 7))
        assert problem.fatal and problem.outdated
        assert f"needs hook API {HOOK_API_VERSION + 7}" in problem.fault
        assert f"offers {HOOK_API_VERSION}" in problem.fault
        assert "pip install -U atp-prune" in problem.remedy

    def test_too_old_tells_both_numbers(self) -> None:
        problem = only(plugin(ATP_HOOK_API=0))
        assert problem.fatal and not problem.outdated
        assert "hook API 0" in problem.fault and f"1 to {HOOK_API_VERSION}" in problem.fault


class TestNames:
    def test_misspelt(self) -> None:
        @hookimpl
        def atp_recognise(source: Source) -> Any: ...

        problem = only(plugin(atp_recognise=atp_recognise))
        assert problem.fatal and "did you mean atp_recognize?" in problem.fault

    def test_misspelt_but_declared_optional(self) -> None:
        @hookimpl(optionalhook=True)
        def atp_of_the_future(source: Source) -> Any: ...

        assert hook_problems(plugin(atp_of_the_future=atp_of_the_future)) == []

    def test_another_name_for_a_hook(self) -> None:
        @hookimpl(specname="atp_allocators")
        def mine() -> Any: ...

        @hookimpl(specname="atp_alocators")
        def misspelt() -> Any: ...

        assert hook_problems(plugin(mine=mine)) == []
        problem = only(plugin(misspelt=misspelt))
        assert problem.fatal and "did you mean atp_allocators?" in problem.fault

    def test_forgotten_decorator(self) -> None:
        def atp_allocators() -> Any: ...

        problem = only(plugin(atp_allocators=atp_allocators))
        assert problem.fatal
        assert "atp_allocators is not marked as a hook" in problem.fault
        assert "atp_core.hookspecs.hookimpl" in problem.remedy

    def test_marker_of_another_project(self) -> None:
        @pluggy.HookimplMarker("atp")
        def atp_allocators() -> Any: ...

        assert only(plugin(atp_allocators=atp_allocators)).fatal

    def test_marked_as_a_specification(self) -> None:
        @hookspec
        def atp_allocators() -> Any: ...

        problem = only(plugin(atp_allocators=atp_allocators))
        assert problem.fatal and "hookspec" in problem.fault

    def test_an_unmarked_function_that_is_no_hook_is_no_reason_to_refuse(self) -> None:
        def atp_alocators() -> Any: ...

        problem = only(plugin(atp_alocators=atp_alocators))
        assert not problem.fatal and "did you mean atp_allocators?" in problem.fault

    def test_modules_classes_and_values_are_not_taken_for_hooks(self) -> None:
        others = {"atp_part": types.ModuleType("part"), "atp_number": 3, "atp_class": Source}
        assert hook_problems(plugin(**others)) == []

    def test_no_hooks_at_all(self) -> None:
        made = plugin()
        del made.atp_methods
        problem = only(made)
        assert problem.fatal and "implements no hook" in problem.fault


class TestArguments:
    def test_unknown(self) -> None:
        @hookimpl
        def atp_load(source: Source, reqest: Any) -> Any: ...

        [problem, half] = hook_problems(plugin(atp_load=atp_load))
        assert problem.fatal and not half.fatal
        assert "'reqest'" in problem.fault and "did you mean request?" in problem.fault
        assert "its arguments are source, request" in problem.remedy

    def test_fewer_are_fine(self) -> None:
        @hookimpl
        def atp_prune(loaded: Any, method: Any) -> Any: ...

        assert hook_problems(plugin(atp_prune=atp_prune)) == []

    def test_an_unknown_one_with_a_default_is_the_plugins_own_business(self) -> None:
        @hookimpl
        def atp_prune(loaded: Any, known: Any = ()) -> Any: ...

        assert hook_problems(plugin(atp_prune=atp_prune)) == []

    def test_a_default_hides_what_is_given(self) -> None:
        """Old versions of pluggy replace no default; where that is so it is refused."""

        @hookimpl
        def atp_prune(loaded: Any, method: Any = "mine") -> Any:
            return method

        manager = pluggy.PluginManager("atp_prune")
        manager.register(plugin(atp_prune=atp_prune))
        [method] = manager.hook.atp_prune(loaded=0, method="theirs")
        problem = only(plugin(atp_prune=atp_prune))
        assert problem.fatal is (method == "mine")
        assert "default for 'method'" in problem.fault

    def test_keyword_only(self) -> None:
        @hookimpl
        def atp_prune(*, loaded: Any) -> Any: ...

        problem = only(plugin(atp_prune=atp_prune))
        assert problem.fatal and "'loaded' as a keyword only" in problem.fault

    def test_stars_stay_empty(self) -> None:
        @hookimpl
        def atp_prune(loaded: Any, **rest: Any) -> Any: ...

        problem = only(plugin(atp_prune=atp_prune))
        assert not problem.fatal and "**rest" in problem.fault

    def test_forgotten_self(self) -> None:
        class Mine:
            ATP_HOOK_API = 1

            @hookimpl
            def atp_prune(loaded: Any, method: Any) -> Any: ...

            @hookimpl
            def atp_methods() -> Any: ...  # type: ignore[misc]

        problems = hook_problems(Mine())
        assert len(problems) == 2 and all(problem.fatal for problem in problems)
        assert all("not self" in problem.fault for problem in problems)

    def test_static_methods_and_class_methods(self) -> None:
        class Mine:
            ATP_HOOK_API = 1

            @staticmethod
            @hookimpl
            def atp_prune(loaded: Any) -> Any: ...

            @classmethod
            @hookimpl
            def atp_methods(cls) -> Any: ...

        assert hook_problems(Mine()) == []


class TestKindsOfFunctions:
    def test_async(self) -> None:
        @hookimpl
        async def atp_allocators() -> Any: ...

        problem = only(plugin(atp_allocators=atp_allocators))
        assert problem.fatal and "async" in problem.fault

    def test_generator(self) -> None:
        @hookimpl
        def atp_allocators() -> Any:
            yield None

        problem = only(plugin(atp_allocators=atp_allocators))
        assert problem.fatal and "return a list" in problem.remedy

    def test_wrapper(self) -> None:
        @hookimpl(wrapper=True)
        def atp_prune(loaded: Any) -> Any:
            return (yield)

        assert hook_problems(plugin(atp_prune=atp_prune)) == []

        @hookimpl(wrapper=True)
        def atp_allocators() -> Any: ...

        problem = only(plugin(atp_allocators=atp_allocators))
        assert problem.fatal and "wrapper" in problem.fault


class TestWhole:
    def test_half_a_plugin_for_models_is_told_and_not_refused(self) -> None:
        @hookimpl
        def atp_load(source: Source) -> Any: ...

        problem = only(plugin(atp_load=atp_load))
        assert not problem.fatal
        for hook in MODEL_HOOKS:
            assert (hook in problem.fault) is (hook != "atp_load")

    def test_what_cannot_be_hashed_would_break_calls_of_other_plugins(self) -> None:
        @dataclass
        class Mine:
            ATP_HOOK_API = 1
            size: int = 3

            @hookimpl
            def atp_methods(self) -> Any:
                return []

        problem = only(Mine())
        assert problem.fatal and "eq=False" in problem.remedy
        found = build_manager(discover=False, extra=[("mine", Mine()), ("other", plugin())])
        assert [status.status for status in found.statuses] == ["ok", "broken", "ok"]
        assert "wanda" in found.offers("methods")

    def test_properties_are_not_run(self) -> None:
        class Mine:
            ATP_HOOK_API = 1

            @property
            def atp_allocators(self) -> Any:
                raise AssertionError("looked at")

            @hookimpl
            def atp_methods(self) -> Any: ...

        assert hook_problems(Mine()) == []

    def test_every_fatal_problem_is_in_the_error_and_the_fatal_ones_come_first(self) -> None:
        @hookimpl
        def atp_load(source: Source, reqest: Any) -> Any: ...

        @hookimpl
        def atp_recognise(source: Source) -> Any: ...

        def atp_helper() -> None: ...

        made = plugin(
            ATP_HOOK_API=99, atp_load=atp_load, atp_recognise=atp_recognise, atp_helper=atp_helper
        )
        problems = hook_problems(made)
        assert [problem.fatal for problem in problems] == [True] * 3 + [False] * 2
        found = build_manager(discover=False, extra=[("mine", made)])
        error = found.status("mine").error
        assert error is not None
        for problem in problems:
            assert (str(problem) in error) is problem.fatal
        with pytest.raises(PluginError, match="'mine', given in code is broken"):
            found.caller("atp_load", "mine")
