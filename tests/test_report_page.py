"""`atp report`: structure, escaping, privacy, sameness and missing parts, on synthetic runs."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from markup import Element, read_html

from atp_core._document import (
    Bullets,
    Code,
    Column,
    Details,
    Document,
    Image,
    Link,
    Listing,
    Paragraph,
    Section,
    Strong,
    Table,
    to_markdown,
)
from atp_core.checkpoint import Sidecar, write_sidecar
from atp_core.cli import main
from atp_core.errors import AtpError, ModelError, UsageError
from atp_core.records import Metric
from atp_core.report.page import page_text, read_runs, write_page
from atp_core.report.page._private import shortened

BLOCKS = 4
NASTY = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onload='alert(1)",
    "</title></style><b>",
    "a|b `c` *d* _e_ [f](javascript:alert(1)) &amp; $g$ \\",
    "_hidden",
    "ein 名前",
]


# --- directories to make pages of ----------------------------------------------------------------


def metric(name: str, value: float, stderr: float | None = 0.25, **changes: Any) -> dict[str, Any]:
    known = Metric(
        name=name,
        value=value,
        stderr=stderr,
        n=1000,
        unit="per token",
        higher_is_better=name == "accuracy",
        split="report",
        dataset="some text",
        fingerprint="abc123",
        convention="windows of 64 tokens",
    )
    return {**asdict(known), **changes}


def rates(beta: float, start: float = 0.35) -> list[float]:
    return [start + beta * i for i in range(BLOCKS)]


def trial(beta: Any, objective: Any, stage: str = "search") -> dict[str, Any]:
    return {
        "beta": beta,
        "objective": objective,
        "seconds": 1.5,
        "stage": stage,
        "samples": 8 if stage == "search" else 32,
        "schedule": "digest",
        "peak_memory_bytes": 10**9,
    }


def data(
    chains: tuple[str, ...] = ("decoder",),
    beta: Any = 0.1,
    *,
    pruned: bool = True,
    blocks: str = "layers.{}",
    trials: list[dict[str, Any]] | None = None,
    recipe: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    **report: Any,
) -> dict[str, Any]:
    """What atp.json holds of a run."""
    own = beta if isinstance(beta, dict) else dict.fromkeys(chains, beta)
    lines = {chain: rates(own[chain]) for chain in chains}
    outcome = {
        "source": "some-model",
        "plugin": "llm",
        "method": "wanda",
        "allocation": "atp",
        "sparsity_target": 0.5,
        "beta": beta,
        "beta_limit": 0.3,
        "beta_auto": None,
        "objective": {"name": "perplexity", "higher_is_better": False},
        "seconds": 75.0,
        "peak_memory_bytes": 1_500_000_000,
    }
    if pruned:
        outcome |= {
            "sparsity_achieved": 0.5,
            "sparsity_unweighted": 0.5,
            "chains": [
                {
                    "name": chain,
                    "blocks": [
                        {
                            "name": blocks.format(i),
                            "rate": rate,
                            "achieved": rate,
                            "parameters": 1000 * (i + 1),
                        }
                        for i, rate in enumerate(line)
                    ],
                }
                for chain, line in lines.items()
            ],
            "notes": ["a note", "a note"],
            "total_parameters": 20_000,
            "bytes_on_disk": 80_000_000,
        }
    if metrics is None:
        metrics = {
            "dense": {"perplexity": metric("perplexity", 30.0)},
            "uniform": {"perplexity": metric("perplexity", 60.0)},
            "pruned": {"perplexity": metric("perplexity", 48.0)},
        }
    if trials is None:
        trials = [trial(0.0, 61.5), trial(0.1, 50.5), trial(0.2, 55.25)]
        trials += [trial(0.0, 59.5, "final"), trial(0.1, 49.5, "final")]
    settings = {
        "source": "some-model",
        "sparsity": 0.5,
        "method": "wanda",
        "allocation": "atp",
        "beta": "search",
        "seed": 3,
        **(recipe or {}),
    }
    return {
        "recipe": settings,
        "schedule": {
            "version": 1,
            "allocation": "atp",
            "sparsity": 0.5,
            "beta": beta,
            "rates": {
                chain: {blocks.format(i): rate for i, rate in enumerate(line)}
                for chain, line in lines.items()
            },
        },
        "provenance": {
            "versions": {"atp-prune": "0.1.0", "atp-prune-llm": "0.1.0", "torch": "2.9.9"},
            "python": "3.11.7",
            "platform": "Linux 6 x86_64",
            "cpu": "Some CPU",
            "cpu_count": 2,
            "threads": 1,
            "gpus": [],
            "plugin_distribution": "atp-prune-llm",
            "seed": 3,
            "model": {"format": "safetensors", "weights": [{"file": "m", "sha256": "77aa"}]},
            "base_model": None,
            "command": "atp prune some-model --sparsity 0.5 --seed 3 -o out",
            "calibration": {
                "dataset": "more text",
                "fingerprint": "def456",
                "samples": 32,
                "unit": "sequences of 64 tokens",
            },
        },
        "metrics": dict(metrics) if pruned else {},
        "trials": trials,
        "report": {**outcome, **report},
    }


def auto() -> dict[str, Any]:
    errors = [(8.0, 8.0, 40.0), (24.0, 6.0, 60.0), (60.0, 7.0, 80.0), (90.0, 9.0, 90.0)]
    return {
        "beta": 0.1,
        "closed_form": 0.1,
        "growth": {"decoder": 1.5},
        "slope": {"decoder": 5.0},
        "drift": {"decoder": 0.01},
        "blocks": [
            {"chain": "decoder", "name": f"layers.{i}", "total": total, "fresh": fresh,
             "lower": 1.0, "upper": 2.0, "norm": norm}
            for i, (total, fresh, norm) in enumerate(errors)
        ],
    }  # fmt: skip


def comparison(reference: str) -> dict[str, Any]:
    return {
        "metric": "perplexity",
        "reference": reference,
        "value": 48.0,
        "reference_value": 60.0,
        "difference": -12.0,
        "stderr": 1.5,
        "interval": [-15.25, -9.125],
        "level": 0.95,
        "n": 40,
        "unit": "per token",
        "verdict": "better",
        "text": "better by 12.0 ± 1.5 (-20.0%)",
    }


def evaluated(**changes: Any) -> dict[str, Any]:
    """What eval.json holds."""
    model = {
        "source": "out",
        "plugin": "llm",
        "metrics": {"perplexity": metric("perplexity", 47.5, fingerprint="fff999")},
    }
    other = {**model, "source": "dense-model"}
    return {
        **model,
        "version": 1,
        "others": [other],
        "comparisons": [comparison("dense-model")],
        "environment": {"versions": {"atp-prune": "0.1.0"}, "python": "3.11.7"},
        "command": "atp eval out --compare dense-model",
        **changes,
    }


def write(folder: Path, content: Mapping[str, Any], evaluation: Any = None) -> Path:
    folder.mkdir(parents=True)
    if content:
        write_sidecar(folder, Sidecar(**content))
    if evaluation is not None:
        (folder / "eval.json").write_text(json.dumps(evaluation), encoding="utf-8")
    return folder


def chain_trials() -> list[dict[str, Any]]:
    both = {"vision": 0.05, "text": 0.15}
    found = [trial(0.0, 61.5), trial(0.1, 50.5)]
    for chain in both:
        found += [trial({**both, chain: b}, 40 + b, f"search {chain}") for b in (0.0, 0.05, 0.15)]
    return [*found, trial(0.0, 60.0, "final"), trial(both, 40.0, "final")]


def nonfinite() -> dict[str, Any]:
    nan, inf = metric("perplexity", math.nan, math.nan), metric("perplexity", math.inf, None)
    return data(
        metrics={"dense": {"perplexity": nan}, "pruned": {"perplexity": inf}},
        trials=[trial(0.0, math.nan), trial(0.1, math.inf), trial(0.1, math.inf, "final")],
    )


def nasty() -> dict[str, Any]:
    """Names that would do something, wherever a name can stand."""
    name = " ".join(NASTY)
    content = data(
        chains=tuple(NASTY[:3]),
        blocks="{} " + name,
        trials=[trial(0.0, 61.5, name), trial(0.1, 50.5, name)],
        metrics={"pruned": {name: metric(name, 48.0, unit=name, dataset=name, convention=name)}},
        recipe=dict.fromkeys(("source", "method", "calibration"), name),
        objective={"name": name, "higher_is_better": False},
        **dict.fromkeys(("plugin", "method"), name),
    )
    content["provenance"] |= dict.fromkeys(("cpu", "platform", "command", "base_model"), name)
    content["provenance"]["model"] = {name: [name, name]}
    content["provenance"]["versions"] |= {name: name}
    return content


CASES: dict[str, list[tuple[str, Mapping[str, Any], Any]]] = {
    "plain": [("out", data(), None)],
    "two chains": [
        (
            "out",
            data(("vision", "text"), {"vision": 0.05, "text": 0.15}, trials=chain_trials(),
                 recipe={"sparsity": {"vision": 0.4, "text": 0.6}, "beta_per_chain": True}),
            None,
        )
    ],
    "measured": [
        (
            "out",
            data(beta_auto=auto(), comparisons=[comparison("dense"), comparison("uniform")],
                 recipe={"beta": "auto"}),
            evaluated(),
        )
    ],
    "search only": [("found", data(pruned=False), None)],
    "no trials": [("out", data(trials=[], recipe={"beta": 0.1}), None)],
    "not measured": [("out", data(metrics={"dense": {}, "pruned": {}}), None)],
    "not finite": [("out", nonfinite(), None)],
    "bare": [("out", {"recipe": {}}, None)],
    "evaluation only": [("measured", {}, evaluated())],
    "nasty": [("out", nasty(), evaluated(source=NASTY[0]))],
    "several": [
        ("a/out", data(), None),
        ("b/out", data(beta=0.0), evaluated()),
        ("c", data(("vision", "text")), None),
        ("d", data(pruned=False), None),
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """Case → its page and its Markdown."""
    pages = {}
    for case, content in CASES.items():
        folder = tmp_path_factory.mktemp("case")
        runs = read_runs([write(folder / name, *rest) for name, *rest in content])
        pages[case] = page_text(runs), page_text(runs, "markdown")
    return pages


def page(folder: Path, content: Mapping[str, Any], evaluation: Any = None) -> Element:
    return read_html(page_text(read_runs([write(folder / "out", content, evaluation)])))


def title(root: Element) -> str:
    return " ".join(root.one("h1").text().split())


def headings(root: Element) -> list[str]:
    return [h.text().strip() for h in root.all("h2")]


def cells(table: Element) -> list[list[str]]:
    return [
        [" ".join(cell.text().split()) for cell in row.all("th", "td")] for row in table.all("tr")
    ]


def table(root: Element, caption: str) -> list[list[str]]:
    (found,) = [t for t in root.all("table") if caption in t.one("caption").text()]
    return cells(found)


# --- structure -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_page_has_landmarks_and_headings_in_order(
    made: dict[str, tuple[str, str]], case: str
) -> None:
    text = made[case][0]
    assert text.startswith("<!DOCTYPE html>\n")
    root = read_html(text)
    assert root.one("html").attributes["lang"] == "en"
    assert root.one("title").text().strip() == root.one("h1").text().strip().replace("\xa0", " ")
    for landmark in ("header", "nav", "main", "footer"):
        assert root.one(landmark)
    levels = [int(h.tag[1]) for h in root.all("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels
    names = [e.attributes["id"] for e in root.walk() if "id" in e.attributes]
    assert len(names) == len(set(names))
    links = [e.attributes["href"] for e in root.walk() if "href" in e.attributes]
    assert all(link[1:] in names for link in links if link.startswith("#"))
    first = root.one("body").all("a")[0]
    assert first.attributes["href"] == f"#{root.one('main').attributes['id']}"
    assert [a.text().strip() for a in root.one("nav").all("a")] == headings(root)


@pytest.mark.parametrize("case", CASES)
def test_tables_and_figures_say_what_they_are(made: dict[str, tuple[str, str]], case: str) -> None:
    root = read_html(made[case][0])
    for found in root.all("table"):
        assert found.one("caption").text().strip()
        head, *rows = found.all("tr")
        assert {cell.attributes["scope"] for cell in head.all("th")} == {"col"}
        for row in rows:
            assert [cell.attributes["scope"] for cell in row.all("th")] == ["row"]
            assert len(row.all("th", "td")) == len(head.all("th"))
    for figure in root.all("figure"):
        assert figure.one("figcaption").text().strip()
        drawing = figure.one("svg")
        assert drawing.attributes["role"] == "img"
        assert len(drawing.attributes["aria-label"]) > 20
    # What scrolls can be scrolled by keys.
    for box in [e for e in root.walk() if e.attributes.get("class") == "scroll"]:
        assert box.attributes["tabindex"] == "0" and box.attributes["aria-label"]


@pytest.mark.parametrize("case", CASES)
def test_page_loads_nothing_and_runs_only_its_own_line(
    made: dict[str, tuple[str, str]], case: str
) -> None:
    text = made[case][0]
    root = read_html(text)
    assert not root.all("link", "img", "iframe", "object", "embed", "image", "base", "form")
    assert not [e for e in root.walk() if "src" in e.attributes]
    assert not re.search(r"url\((?!#)|@import", text.partition("</style>")[0])
    for element in root.walk():
        assert not [name for name in element.attributes if name.startswith("on")]
        for name, value in element.attributes.items():
            assert "url(" not in value or value.startswith("url(#"), (name, value)
        if element.tag == "a":
            target = element.attributes["href"]
            assert target.startswith(("#", "https://pypi.org/", "https://arxiv.org/"))
    script = "".join(map(str, root.one("script").children))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [
        e.attributes["content"]
        for e in root.all("meta")
        if e.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert "default-src 'none'" in policy and f"script-src 'sha256-{digest}'" in policy


def test_colours_can_be_told_from_the_paper(made: dict[str, tuple[str, str]]) -> None:
    style = "".join(map(str, read_html(made["plain"][0]).one("style").children))
    light, dark = (dict(re.findall(r"(--[\w-]+): (#\w{6})", part))
                   for part in style.split("prefers-color-scheme: dark", 1))  # fmt: skip
    assert set(light) == set(dark)

    def brightness(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(first: str, second: str) -> float:
        low, high = sorted((brightness(first), brightness(second)))
        return (high + 0.05) / (low + 0.05)

    for colours in (light, dark):
        for text in ("--ink", "--muted", "--link"):
            for paper in ("--paper", "--shade"):
                assert contrast(colours[text], colours[paper]) >= 4.5, (text, paper)
        for line in [name for name in colours if name.startswith("--line")]:
            assert contrast(colours[line], colours["--paper"]) >= 3, line


def test_drawings_take_the_colours_of_the_page(made: dict[str, tuple[str, str]]) -> None:
    for case in ("plain", "measured", "several"):
        drawings = re.findall(r"<svg.*?</svg>", made[case][0], re.DOTALL)
        assert drawings
        for drawing in drawings:
            assert not re.findall(r"#[0-9a-f]{6}\b", re.sub(r'"#[^"]*"|url\(#\w', "", drawing))
            assert "currentColor" in drawing and "font-family" not in drawing


# --- the same again, and nothing else ------------------------------------------------------------


def test_same_runs_give_the_same_page(tmp_path: Path, made: dict[str, tuple[str, str]]) -> None:
    folders = [str(write(tmp_path / name, *rest)) for name, *rest in CASES["several"]]
    for seed, form in (("1", "html"), ("2", "markdown")):
        done = subprocess.run(
            [sys.executable, "-m", "atp_core", "report", *folders, "--format", form],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONUTF8": "1"},
            capture_output=True,
            check=True,
        )
        assert done.stderr == b""
        assert done.stdout.decode() == made["several"][form == "markdown"]


@pytest.mark.parametrize("case", CASES)
def test_markdown_has_the_figures_of_the_page(made: dict[str, tuple[str, str]], case: str) -> None:
    html, markdown = made[case]
    body = read_html(html).one("main").text()

    def numbers(text: str) -> list[str]:
        return sorted(re.findall(r"\d+(?:[.,:]\d+)*", text))

    _, _, rest = markdown.partition("\n# ")  # the mark, and the title beside the page's own
    plain = re.sub(r"\]\(https:[^)]*\)", "", rest.partition("\n")[2])
    assert numbers(plain) == numbers(body)
    assert case == "bare" or numbers(body)


@pytest.mark.parametrize("form", ["html", "markdown"])
def test_nothing_tells_how_a_disk_is_laid_out(tmp_path: Path, form: Any) -> None:
    private = "/mnt/somebody/hidden/thing"

    def told(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: told(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [told(inner) for inner in value]
        if not isinstance(value, str) or value in ("report", "better", "search", "final"):
            return value
        return private if value.startswith("some") else f"{value} {private} ~/hidden/x"

    content, evaluation = told(data(comparisons=[comparison("dense")])), told(evaluated())
    content["provenance"]["command"] = f"atp prune {private} --calibration={private}.txt"
    content["recipe"]["report_data"] = "https://user:hidden@host/data"
    text = page_text(read_runs([write(tmp_path / "out", content, evaluation)]), form)
    for word in ("somebody", "hidden", str(tmp_path), tmp_path.name):
        assert word not in text
    assert "thing" in text and "https://host/data" in text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/mnt/me/model", "model"),
        ("/mnt/my name/a b/", "a b"),
        ("/data", "data"),
        ("atp prune /a/b --x=/c/d.txt -o ~/e/f", "atp prune b --x=d.txt -o f"),
        ("~me/secret/x", "x"),
        ("see '/a/b', (/c/d)", "see 'b', (d)"),
        ("file:///a/b", "b"),
        ("https://me:word@host/a/b", "https://host/a/b"),
        ("hf:org/name and/or a / b, 1/2 @1/5/10", "hf:org/name and/or a / b, 1/2 @1/5/10"),
        ("./a/b ../c", "./a/b ../c"),
        ("</script>", "</script>"),
        ("a\x00b\ud800", "a\ufffdb\ufffd"),
    ],
)
def test_paths_are_cut_to_their_last_part(text: str, left: str) -> None:
    assert shortened({text: [text, 1, None]}) == {left: [left, 1, None]}


# --- names that would do something ---------------------------------------------------------------


def test_names_are_text_on_a_page(made: dict[str, tuple[str, str]]) -> None:
    root = read_html(made["nasty"][0])
    assert len(root.all("script")) == len(root.all("title")) == len(root.all("style")) == 1
    assert not root.all("img", "b")
    words = " ".join(root.text().replace("\xa0", " ").split())
    for name in NASTY:
        assert " ".join(name.split()) in words


def test_names_are_text_in_markdown(made: dict[str, tuple[str, str]]) -> None:
    text = made["nasty"][1]
    outside = re.sub(r"(?ms)^(`{3,}).*?^\1$", "", text)
    outside = re.sub(r"(?s)(?<![\\`])(`+)(?!`).*?(?<!`)\1(?!`)", "", outside)
    outside = re.sub(r"</?(details|summary)>|<!-- made by atp report -->", "", outside)
    assert "<" not in outside
    assert not re.search(r"\]\((?!https://(pypi|arxiv)\.org/)", outside)
    widths = {}
    for block in re.findall(r"(?m)(?:^\|.*\n)+", text):
        lines = [len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()]
        widths[block[:40]] = set(lines)
    assert widths and all(len(found) == 1 for found in widths.values())


def test_markdown_of_every_part() -> None:
    text = to_markdown(
        Document(
            "T",
            [
                Paragraph(["a ", Code("b`c"), " ", Strong("d"), " ", Link("e", "https://f")]),
                Section(
                    "S",
                    [
                        Bullets(["one\ntwo"]),
                        Table("", [Column("x"), Column("y", numeric=True)], [[Code("a|b"), "1"]]),
                        Details("M < N", [Listing("```\nx", "sh")]),
                        Image("a b.png", "it [is]"),
                    ],
                ),
            ],
        )
    )
    assert text == (
        "# T\n\na ``b`c`` **d** [e](https://f)\n\n## S\n\n- one two\n\n"
        "| x | y |\n|---|---:|\n| `a\\|b` | 1 |\n\n"
        "<details>\n<summary>M &lt; N</summary>\n\n````sh\n```\nx\n````\n\n</details>\n\n"
        "![it (is)](a%20b.png)\n"
    )


# --- what is shown -------------------------------------------------------------------------------


def test_a_pruned_model(tmp_path: Path) -> None:
    root = page(tmp_path, data())
    assert title(root) == "some-model, 50 % of its prunable weights cut"
    assert headings(root) == [
        "Results", "Rates over depth", "Choice of β", "Provenance", "Repeat it",
    ]  # fmt: skip
    assert table(root, "Quality")[1] == ["perplexity ↓", "30 ± 0.25", "60 ± 0.25", "48 ± 0.25"]
    words = " ".join(root.text().split())
    assert "perplexity is 48 ± 0.25 (lower is better), against 30 ± 0.25 of the dense" in words
    # Σ rate · size over blocks of 1000 to 4000 weights at 0.35, 0.45, 0.55 and 0.65
    assert "5,500 of 10,000 prunable weights are zero (55 %), 27.5 % of all 20,000" in words
    assert words.count("a note") == 1
    assert table(root, "Rate asked for")[4] == ["decoder", "layers.3", "0.6500", "0.6500", "4,000"]
    assert table(root, "Every trial")[5] == ["0.1 (taken)", "final", "49.5", "32", "1.5 s"]
    assert ["calibration", "more text, 32 sequences of 64 tokens", "def456"] in table(root, "Data")
    commands = root.all("pre")[0].text()
    assert "pip install atp-prune==0.1.0 atp-prune-llm==0.1.0" in commands
    joined = commands.replace("\\\n", " ").split()
    assert " ".join(joined[4:]) == "atp prune some-model --sparsity 0.5 --seed 3 -o out"
    assert "sparsity: 0.5" in root.all("pre")[1].text()


def test_figures_are_told_in_words(tmp_path: Path) -> None:
    root = page(tmp_path, data(beta_auto=auto(), recipe={"beta": "auto"}))
    rate, curve, error = (s.attributes["aria-label"] for s in root.all("svg"))
    assert "uniform: 50 % in every block." in rate
    assert "atp, β = 0.1: from 35 % in the first block to 65 % in the last." in rate
    assert "Uniform, β = 0: 59.5. Best perplexity: 49.5 at β = 0.1. Taken: β = 0.1." in curve
    assert "from 0.2 in the first block to 1 in the last" in error
    assert "dense inputs: from 0.2 to 0.1." in error


def test_growth_of_the_error(tmp_path: Path) -> None:
    root = page(tmp_path, data(beta_auto=auto(), recipe={"beta": "auto"}))
    assert "Error over depth" in headings(root)
    row = table(root, "Growth of the error")[1]
    assert row[:3] == ["decoder", "1.5", "5"]
    assert float(row[3]) == pytest.approx(math.log(1.5) / 5.0, rel=1e-3)
    errors = table(root, "Squared error of every block")
    assert [line[2:] for line in errors[1:]] == [
        ["0.2", "0.2"], ["0.4", "0.1"], ["0.75", "0.0875"], ["1", "0.1"],
    ]  # fmt: skip


def test_comparisons_and_evaluation(tmp_path: Path) -> None:
    root = page(tmp_path, data(comparisons=[comparison("uniform")]), evaluated())
    assert "Evaluation" in headings(root)
    both = [cells(t) for t in root.all("table") if "paired" in t.one("caption").text()]
    assert both[0][0][4] == "95 % interval"
    line = ["better by 12.0 ± 1.5 (-20.0%)", "-12", "-15.25 to -9.125"]
    assert [found[1] for found in both] == [
        ["perplexity", "uniform", *line], ["perplexity", "dense-model", *line],
    ]  # fmt: skip
    measured = table(root, "Measured by atp eval")
    assert measured == [
        ["metric", "this model", "dense-model"], ["perplexity ↓", "47.5 ± 0.25", "47.5 ± 0.25"],
    ]  # fmt: skip
    assert ["atp eval, report", "some text", "fff999"] in table(root, "Data")
    assert "atp-prune 0.1.0; Python 3.11.7" in " ".join(root.text().split())
    assert "--compare dense-model" in root.all("pre")[0].text()


def test_two_chains_with_a_beta_each(made: dict[str, tuple[str, str]]) -> None:
    root = read_html(made["two chains"][0])
    captions = [f.one("figcaption").text() for f in root.all("figure")]
    assert len([c for c in captions if "blocks" in c]) == 2
    assert [re.search(r"against (.*);", c)[1] for c in captions if "against" in c] == [  # type: ignore[index]
        "β, one for all chains",
        "the β of chain vision, the others' fixed",
        "the β of chain text, the others' fixed",
    ]
    labels = [s.attributes["aria-label"] for s in root.all("svg")]
    assert "uniform: 40 % in every block. atp, β = 0.05: from 35 %" in labels[0]
    assert "uniform: 60 % in every block. atp, β = 0.15: from 35 %" in labels[1]
    words = " ".join(root.text().split())
    assert "50 % asked for (vision 40 %, text 60 %)" in words
    assert "vision 0.05, text 0.15 (legal: 0 to 0.3)" in words


@pytest.mark.parametrize(
    ("case", "missing"),
    [
        ("search only", ["Evaluation", "Error over depth"]),
        ("no trials", ["Choice of β"]),
        ("bare", ["Results", "Rates over depth", "Choice of β", "Provenance"]),
        ("evaluation only", ["Results", "Rates over depth", "Choice of β"]),
    ],
)
def test_parts_that_are_not_there_have_no_heading(
    made: dict[str, tuple[str, str]], case: str, missing: list[str]
) -> None:
    found = headings(read_html(made[case][0]))
    assert not set(found) & set(missing)


def test_a_search_says_that_nothing_was_pruned(made: dict[str, tuple[str, str]]) -> None:
    root = read_html(made["search only"][0])
    words = " ".join(root.text().split())
    assert "No model was pruned." in words
    assert "prunable weights are zero" not in words
    assert table(root, "Rate asked for")[0] == ["chain", "block", "rate"]
    assert root.all("pre")[0].text().split()[4:6] == ["atp", "search"]


def test_figures_that_are_not_finite(made: dict[str, tuple[str, str]]) -> None:
    root = read_html(made["not finite"][0])
    assert table(root, "Quality")[1] == ["perplexity ↓", "nan", "inf"]
    assert [line[2] for line in table(root, "Every trial")[1:]] == ["nan", "inf", "inf"]
    assert "No trial gave a finite value." in made["not finite"][1]


def test_a_flat_schedule_has_one_line(tmp_path: Path) -> None:
    content = data()
    for block in content["report"]["chains"][0]["blocks"]:
        block["rate"] = 0.5
    label = page(tmp_path, content).all("svg")[0].attributes["aria-label"]
    assert label == "atp, β = 0.1: 50 % in every block."


# --- several -------------------------------------------------------------------------------------


def test_several_stand_in_the_same_tables(made: dict[str, tuple[str, str]]) -> None:
    root = read_html(made["several"][0])
    assert title(root) == "some-model: 4 runs side by side"
    runs = table(root, "The runs")
    assert [line[0] for line in runs[1:]] == ["out", "out (2)", "c", "d"]
    assert [line[5] for line in runs[1:]] == ["50 %", "50 %", "50 %", "-"]
    (own,) = [t for t in root.all("table") if "perplexity" in t.one("caption").text()
              and "pruned" in cells(t)[0]]  # fmt: skip
    assert cells(own) == [
        ["run", "dense", "uniform", "pruned"],
        *([name, "30 ± 0.25", "60 ± 0.25", "48 ± 0.25"] for name in ("out", "out (2)", "c")),
    ]
    (later,) = [t for t in root.all("table") if cells(t)[0] == ["run", "atp eval"]]
    assert cells(later)[1:] == [["out (2)", "47.5 ± 0.25"]]
    assert "compare within a table only" in " ".join(root.text().split())
    drawing = root.all("svg")[0].attributes["aria-label"]
    assert "out: from 35 %" in drawing and "out (2): 35 % in every block" in drawing
    assert len(headings(root)) == 5


# --- wrong requests ------------------------------------------------------------------------------


def damaged(folder: Path, file: str, text: str) -> Path:
    write(folder, data())
    (folder / file).write_text(text, encoding="utf-8")
    return folder


def test_what_atp_did_not_write_is_named(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "file").write_text("x")
    for name, told in (("other", "atp did not write it"), ("file", "no directory"),
                       ("nowhere", "does not exist")):  # fmt: skip
        with pytest.raises(ModelError, match=told) as caught:
            read_runs([tmp_path / name])
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("atp.json", "{", "damaged"),
        ("atp.json", '{"version": 99}', "upgrade"),
        ("atp.json", '{"version": 1, "trials": [{"beta": "x", "objective": 1}]}', "trials.0.beta"),
        ("atp.json", '{"version": 1, "schedule": {"rates": 1}}', "not a schedule"),
        ("atp.json", '{"version": 1, "report": {"chains": 3}}', "chains"),
        ("atp.json", '{"version": 1, "metrics": {"dense": {"a": {}}}}', "metrics.dense.a"),
        ("eval.json", "[", "damaged"),
        ("eval.json", "[]", "damaged"),
        ("eval.json", '{"version": 1}', "damaged"),
        ("eval.json", '{"version": 99}', "upgrade"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, file: str, text: str, told: str) -> None:
    folder = damaged(tmp_path / "out", file, text)
    with pytest.raises(ModelError, match=re.escape(told)) as caught:
        read_runs([folder])
    assert str(folder / file) in str(caught.value)


def test_a_directory_twice_or_none(tmp_path: Path) -> None:
    folder = write(tmp_path / "out", data())
    with pytest.raises(UsageError, match="named twice"):
        read_runs([folder, folder / ".." / "out"])
    with pytest.raises(UsageError, match="name a directory"):
        read_runs([])


def test_only_an_earlier_report_is_replaced(tmp_path: Path) -> None:
    text = page_text(read_runs([write(tmp_path / "out", data())]), "markdown")
    file = tmp_path / "page.md"
    write_page(text, file)
    write_page(text + "more", file)
    assert file.read_text(encoding="utf-8") == text + "more"
    file.write_text("mine " * 100 + text, encoding="utf-8")
    for path, told in ((file, "did not write it"), (tmp_path / "out", "is a directory"),
                       (tmp_path / "no" / "page.md", "no folder")):  # fmt: skip
        with pytest.raises(UsageError, match=told):
            write_page(text, path)
    assert file.read_text(encoding="utf-8").startswith("mine")
    assert not [path for path in tmp_path.iterdir() if ".atp-" in path.name]


# --- the command ---------------------------------------------------------------------------------


def test_command_writes_what_the_name_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "out", data())
    for name, start in (("a.html", "<!DOCTYPE html>"), ("a.md", "<!-- made by atp report -->")):
        target = tmp_path / name
        assert main(["report", str(folder), "-o", str(target), "--title", "My <title>"]) == 0
        text = target.read_text(encoding="utf-8")
        assert text.startswith(start) and "My &lt;title" in text
        assert capsys.readouterr().out == ""
    assert main(["report", str(folder), "-o", str(tmp_path / "a.txt")]) == 2
    assert "does not tell a format" in capsys.readouterr().err
    assert main(["report", str(folder), "--format", "markdown", "--title", "a\x1b\udcff"]) == 0
    assert "# a\ufffd\ufffd\n" in capsys.readouterr().out
    forced = tmp_path / "a.txt"
    assert main(["report", str(folder), "-o", str(forced), "--format", "markdown"]) == 0
    assert forced.read_text(encoding="utf-8").startswith("<!-- made by atp report -->")


def test_command_prints_to_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "out", data())
    capsys.readouterr()
    assert main(["report", str(folder), "--format", "markdown"]) == 0
    assert capsys.readouterr().out == page_text(read_runs([folder]), "markdown")
    assert main(["report", str(tmp_path)]) == 4
    assert str(tmp_path) in capsys.readouterr().err
    assert main(["report"]) == 2


def test_command_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [write(tmp_path / "a", nonfinite()), write(tmp_path / "b", data(), evaluated())]
    target = tmp_path / "page.html"
    assert main(["report", *map(str, folders), "-o", str(target), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["output"], found["format"]) == (str(target), "html")
    assert target.exists()
    first, second = found["runs"]
    assert first["metrics"]["pruned"]["perplexity"]["value"] == "Infinity"
    assert second["evaluation"]["metrics"]["perplexity"]["value"] == 47.5
    assert (second["name"], second["beta"], second["sparsity_achieved"]) == ("b", 0.1, 0.5)
    assert main(["report", *map(str, folders), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["output"] is None


def test_markdown_beside_the_figures_shows_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "out", data())
    for name in ("rates.png", "objective.png"):
        (folder / name).write_bytes(b"")
    inside, outside = folder / "report.md", tmp_path / "report.md"
    for target in (inside, outside):
        assert main(["report", str(folder), "-o", str(target)]) == 0
    shown = re.findall(r"!\[[^]]*\]\(([^)]*)\)", inside.read_text(encoding="utf-8"))
    assert shown == ["rates.png", "objective.png"]
    assert "![" not in outside.read_text(encoding="utf-8")


def test_a_page_is_not_for_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "out", data())
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["report", str(folder)]) == 2
    assert "-o report.html" in capsys.readouterr().err


def test_drawing_and_templates_are_imported_when_needed_only(tmp_path: Path) -> None:
    folder = write(tmp_path / "out", data())
    code = (
        "import sys; from atp_core.cli import main; "
        f"assert main(['report', {str(folder)!r}, '--format', 'markdown']) == 0; "
        "sys.exit(' '.join({'jinja2', 'matplotlib', 'torch'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_error_is_ours(tmp_path: Path) -> None:
    """Whatever a file holds, the error names it."""
    samples = ["null", "3", '"x"', "[]", "{}", '{"version": 1, "report": []}',
               '{"version": 1, "report": {"beta_auto": {"beta": 1, "blocks": [{}]}}}',
               '{"version": 1, "recipe": 7}',
               '{"version": 1, "metrics": {"pruned": 2}}']  # fmt: skip
    for i, text in enumerate(samples):
        folder = damaged(tmp_path / str(i), "atp.json", text)
        with pytest.raises(AtpError, match=re.escape(str(folder))):
            page_text(read_runs([folder]))
