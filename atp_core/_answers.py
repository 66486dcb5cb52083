"""Whether what a hook returned is what the specifications ask for, down to its parts.

A wrong part would otherwise be found far from the plugin that is to blame, in an error that does
not name it. Faults are told as what the hook did: "gave str, not LoadedModel".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from .records import (
    Block,
    Calibration,
    Chain,
    Evaluation,
    LoadedModel,
    Metric,
    Observations,
    Offer,
    PrunableWeight,
    Recognition,
    Workload,
)

__all__ = ["answer_faults"]


def answer_faults(hook: str, answer: Any, arguments: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with an answer; nothing where it is as it should be.

    Args:
        hook: name of the hook.
        answer: what it returned.
        arguments: what it was called with.
    """
    yield from _JUDGES.get(hook, _something)(answer, arguments)


def _something(answer: Any, arguments: Mapping[str, Any]) -> Iterator[str]:
    if answer is None:
        yield f"gave {_what(answer)}"


# --- hooks for models ----------------------------------------------------------------------------


def _recognition(answer: Any, arguments: Mapping[str, Any]) -> Iterator[str]:
    if not _is(answer, Recognition):
        yield f"gave {_what(answer)}, not Recognition or None"
    elif not _number(answer.confidence) or not 0.0 <= answer.confidence <= 1.0:
        yield (
            f"gave a Recognition of confidence {answer.confidence!r}, which is no number from 0 to "
            "1"
        )
    elif not _is(answer.reason, str):
        yield f"gave a Recognition whose reason is {_what(answer.reason)}, not a phrase"


def _loaded(answer: Any, arguments: Mapping[str, Any]) -> Iterator[str]:
    from torch import nn

    if not _is(answer, LoadedModel):
        yield f"gave {_what(answer)}, not LoadedModel"
        return
    if not _is(answer.model, nn.Module):
        yield f"gave a LoadedModel whose model is {_what(answer.model)}, not a torch.nn.Module"
    if not _is(answer.takes, set | frozenset | list | tuple):
        yield f"gave a LoadedModel whose `takes` is {_what(answer.takes)}, not a set of names"
    for name in ("cache", "card", "defaults", "provenance"):
        if not _is(getattr(answer, name), Mapping):
            yield f"gave a LoadedModel whose `{name}` is {_what(getattr(answer, name))}, not a dict"


def _chains(answer: Any, arguments: Mapping[str, Any]) -> Iterator[str]:
    from torch import nn

    yield from _list_of(answer, Chain, "")
    if not _sequence(answer):
        return
    if not answer:
        yield "gave no chain; where none is found it must raise ModelError naming the architecture"
    for chain in answer:
        if not _is(chain, Chain):
            continue
        label = f"chain {chain.name!r}"
        yield from _named(chain.name, "a chain")
        yield from _list_of(chain.blocks, Block, f" {label} with")
        if not _is(chain.dense, Mapping):
            yield f"gave {label} whose `dense` is {_what(chain.dense)}, not a dict of names"
        for block in chain.blocks if _sequence(chain.blocks) else ():
            if not _is(block, Block):
                continue
            label = f"block {block.name!r}"
            yield from _named(block.name, "a block")
            if not _is(block.module, nn.Module):
                yield f"gave {label} whose module is {_what(block.module)}, not a torch.nn.Module"
            yield from _list_of(block.weights, PrunableWeight, f" {label} with")
            for weight in block.weights if _sequence(block.weights) else ():
                if _is(weight, PrunableWeight):
                    yield from _weight(weight)


def _weight(weight: Any) -> Iterator[str]:
    from torch import nn

    label = f"the weight {weight.name!r}"
    yield from _named(weight.name, "a weight")
    if not _is(weight.module, nn.Module):
        yield f"gave {label} whose module is {_what(weight.module)}, not a torch.nn.Module"
    if not _is(weight.parameter, str):
        yield f"gave {label} whose parameter is {_what(weight.parameter)}, not a name"
    if not _sequence(weight.index) or not all(map(_whole, weight.index)):
        yield f"gave {label} whose index is {weight.index!r}, not a tuple of whole numbers"
    rows = weight.rows
    if rows is not None and not (_sequence(rows) and len(rows) == 2 and all(map(_whole, rows))):
        yield f"gave {label} whose rows are {rows!r}, not (start, stop)"


def _calibration(answer: Any, arguments: Mapping[str, Any]) -> Iterator[str]:
    if not _is(answer, Calibration):
        yield f"gave {_what(answer)}, not Calibration"
        return
    yield from _texts(answer, ("unit", "dataset", "fingerprint"))
    yield from _examples(answer)
    if not callable(answer.forward):
        yield f"gave a Calibration whose forward is {_what(answer.forward)}, which cannot be called"
    sizes = answer.batch_samples
    if not hasattr(answer.batches, "__len__") or not hasattr(answer.batches, "__getitem__"):
        yield f"gave a Calibration whose batches are {_what(answer.batches)}, not a list"
    elif not _sequence(sizes) or not all(_whole(n) and n > 0 for n in sizes):
        yield "gave a Calibration whose batch_samples are not a list of whole numbers above 0"
    elif len(sizes) != len(answer.batches):
        yield (
            f"gave a Calibration of {len(answer.batches)} batches whose batch_samples tell of "
            f"{len(sizes)}"
        )
    elif sum(sizes) != answer.samples:
        yield (
            f"gave a Calibration whose batches hold {sum(sizes)} samples, and whose `samples` says "
            f"{answer.samples!r}"
        )


def _report(answer: Any, arguments: Mapping[str, Any]) -> Iterator[str]:
    from .engine.pruning import BlockReport, PruneReport

    if not _is(answer, PruneReport):
        yield f"gave {_what(answer)}, not PruneReport"
        return
    if not _number(answer.seconds):
        yield f"gave a PruneReport whose seconds are {_what(answer.seconds)}, not a number"
    faults = list(_list_of(answer.blocks, BlockReport, " a PruneReport with"))
    yield from faults
    if faults:
        return
    for report in answer.blocks:
        if not (_whole(report.zeros) and 0 <= report.zeros <= report.parameters):
            yield (
                f"reported {report.zeros!r} zeros in block {report.name!r}, which has "
                f"{report.parameters!r} prunable weights"
            )
    told = [(report.chain, report.name) for report in answer.blocks]
    asked = [(chain.name, block.name) for chain in arguments["chains"] for block in chain.blocks]
    missing = [block for block in asked if block not in set(told)]
    surplus = [block for block in told if block not in set(asked)]
    if missing:
        yield f"reported nothing of block {missing[0][1]!r} of chain {missing[0][0]!r}"
    elif surplus:
        chain, block = surplus[0]
        yield f"reported block {block!r} of chain {chain!r}, which was not asked for"
    elif len(told) != len(asked):
        yield "reported a block twice"


def _evaluation(answer: Any, arguments: Mapping[str, Any]) -> Iterator[str]:
    if not _is(answer, Evaluation):
        yield f"gave {_what(answer)}, not Evaluation"
        return
    yield from _examples(answer)
    yield from _list_of(answer.metrics, Metric, " an Evaluation with")
    if not _sequence(answer.metrics):
        return
    metrics = [metric for metric in answer.metrics if _is(metric, Metric)]
    for metric in metrics:
        label = f"the metric {metric.name!r}"
        yield from _named(metric.name, "a metric")
        if not _number(metric.value):
            yield f"gave {label} whose value is {_what(metric.value)}, not a number"
        if metric.stderr is not None and not _number(metric.stderr):
            yield f"gave {label} whose stderr is {_what(metric.stderr)}, not a number or None"
        if not _whole(metric.n):
            yield f"gave {label} whose n is {_what(metric.n)}, not a whole number"
        if not _is(metric.higher_is_better, bool):
            yield f"gave {label} whose higher_is_better is {_what(metric.higher_is_better)}"
        if metric.split != arguments["split"]:
            yield (
                f"gave {label} of the split {metric.split!r} where {arguments['split']!r} was "
                "asked for"
            )
    yield from _twice([metric.name for metric in metrics], "metrics")
    if not _is(answer.observations, Mapping):
        yield f"gave an Evaluation whose observations are {_what(answer.observations)}, not a dict"
        return
    for name, made in answer.observations.items():
        if not _is(made, Observations):
            yield f"gave observations of {name!r} that are {_what(made)}, not Observations"
            continue
        sizes = [len(made.ids), len(made.values)]
        if made.weights is not None:
            sizes.append(len(made.weights))
        if len(set(sizes)) > 1:
            yield (
                f"gave observations of {name!r} whose ids, values and weights are "
                f"{' and '.join(map(str, sizes))} in number"
            )


def _workloads(answer: Any, arguments: Mapping[str, Any]) -> Iterator[str]:
    faults = list(_list_of(answer, Workload, ""))
    yield from faults
    if faults:
        return
    if not answer:
        yield "gave no workload; leave the hook out where a model cannot be timed"
    for work in answer:
        label = f"the workload {work.name!r}"
        yield from _named(work.name, "a workload")
        if not (_whole(work.items) and work.items > 0 and _whole(work.batch) and work.batch > 0):
            yield f"gave {label} of {work.items!r} items in batches of {work.batch!r}"
        if not callable(work.start):
            yield f"gave {label} whose start is {_what(work.start)}, which cannot be called"
        yield from _texts(work, ("unit", "convention"))
    yield from _twice([(work.name, work.batch) for work in answer], "workloads")


def _files(answer: Any, arguments: Mapping[str, Any]) -> Iterator[str]:
    faults = list(_list_of(answer, Path, ""))
    yield from faults
    if faults:
        return
    if not answer:
        yield "named no file; it must return the files that hold weights"
    directory = arguments["directory"].resolve()
    for file in answer:
        if not file.is_file():
            yield f"named {file}, and there is no such file"
        elif not file.resolve().is_relative_to(directory):
            yield f"named {file}, which lies outside the directory it was to write"


# --- hooks that register by name -----------------------------------------------------------------


def _offers(answer: Any, arguments: Mapping[str, Any]) -> Iterator[str]:
    yield from _list_of(answer, Offer, "")
    if not _sequence(answer):
        return
    offers = [offer for offer in answer if _is(offer, Offer)]
    for offer in offers:
        yield from _named(offer.name, "an Offer")
        if not _is(offer.target, str) and not callable(offer.target):
            yield (
                f"gave the Offer {offer.name!r} whose target is {_what(offer.target)}, neither a "
                'callable nor "module:attribute"'
            )
        if not _is(offer.summary, str):
            yield f"gave the Offer {offer.name!r} whose summary is {_what(offer.summary)}"
    yield from _twice([offer.name for offer in offers], "offers")


def _commands(answer: Any, arguments: Mapping[str, Any]) -> Iterator[str]:
    import click

    yield from _list_of(answer, click.Command, "")
    if _sequence(answer):
        commands = [command for command in answer if _is(command, click.Command)]
        for command in commands:
            yield from _named(command.name, "a command")
        yield from _twice([command.name for command in commands], "commands")


# --- parts ---------------------------------------------------------------------------------------


def _is(value: Any, kind: Any) -> bool:
    """`isinstance`, by which no type checker takes the parts of `value` for what they should be."""
    return isinstance(value, kind)


def _what(value: Any) -> str:
    """The type of a value, for a message."""
    return type(value).__name__


def _sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _number(value: Any) -> bool:
    return _is(value, Real) and not _is(value, bool)


def _whole(value: Any) -> bool:
    return _is(value, Integral) and not _is(value, bool)


def _list_of(found: Any, kind: type, where: str) -> Iterator[str]:
    """Faults of what should be a list or tuple of `kind`; `where` ends in "with" or is empty."""
    if not _sequence(found):
        yield f"gave{where} {_what(found)}, not a list of {kind.__name__}"
        return
    for i, item in enumerate(found):
        if not _is(item, kind):
            yield f"gave{where} a list whose item {i} is {_what(item)}, not {kind.__name__}"
            return


def _named(name: Any, what: str) -> Iterator[str]:
    if not _is(name, str) or not name:
        yield f"gave {what} whose name is {name!r}"


def _twice(names: Iterable[Any], what: str) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield f"gave two {what} called {name!r}"
            return
        seen.add(name)


def _texts(answer: Any, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        value = getattr(answer, name)
        if not _is(value, str):
            yield f"gave a {_what(answer)} whose {name} is {_what(value)}, not text"


def _examples(answer: Calibration | Evaluation) -> Iterator[str]:
    if not _is(answer.examples, frozenset | set):
        yield (
            f"gave a {_what(answer)} whose examples are {_what(answer.examples)}, not a frozenset "
            "of identities"
        )


_Judge = Callable[[Any, Mapping[str, Any]], Iterator[str]]

_JUDGES: dict[str, _Judge] = {
    "atp_recognize": _recognition,
    "atp_load": _loaded,
    "atp_locate": _chains,
    "atp_calibrate": _calibration,
    "atp_prune": _report,
    "atp_evaluate": _evaluation,
    "atp_workloads": _workloads,
    "atp_save": _files,
    "atp_methods": _offers,
    "atp_allocators": _offers,
    "atp_objectives": _offers,
    "atp_executors": _offers,
    "atp_runtimes": _offers,
    "atp_examples": _offers,
    "atp_commands": _commands,
}
