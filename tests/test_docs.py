"""The documentation says what the code does, and the site can be built."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import re
import runpy
import shlex
import struct
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import click
import documented
import pytest
import raised

from atp_core import errors, hookspecs
from atp_core.cli import main
from atp_core.cli._main import group

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
# The pages of the site; the example plugins are tested with the tutorial that makes them.
SITE = [
    page
    for page in sorted(DOCS.rglob("*.md"))
    if not page.name.endswith(".template.md") and "examples" not in page.relative_to(DOCS).parts
]
PAGES = [ROOT / "README.md", *SITE]
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
_RUN = ("ci", "evaluate", "export-and-run", "in-memory", "schedules")
HOWTOS = [DOCS / "howto" / f"{name}.md" for name in _RUN]
SOURCES = [*(ROOT / "atp_core").rglob("*.py"), *(ROOT / "plugins").glob("*/src/**/*.py")]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def generated() -> dict[Path, Any]:
    pages: dict[Path, Any] = runpy.run_path(str(DOCS / "generate.py"))["PAGES"]
    return pages


# --- what follows from the code ------------------------------------------------------------------


@pytest.mark.parametrize("path", generated(), ids=name_of)
def test_generated_pages_are_current(path: Path) -> None:
    assert path.read_text("utf-8") == generated()[path](), "run `make docs`"


def test_figures_show_the_recorded_results() -> None:
    drawing = runpy.run_path(str(DOCS / "draw.py"))
    for name in drawing["DRAWN"]:
        for suffix in ("", "-dark"):
            text = (DOCS / "figures" / f"{name}{suffix}.svg").read_text("utf-8")
            assert f"results {drawing['digest']()}" in text, "run `python docs/draw.py`"


def test_every_hook_is_documented_with_its_exact_signature() -> None:
    page = (DOCS / "hooks.md").read_text("utf-8")
    flat = re.sub(r"\s+", "", page).replace(",)", ")")
    for node in ast.parse(inspect.getsource(hookspecs)).body:
        if isinstance(node, ast.FunctionDef):
            arguments = ast.unparse(node.args)
            returns = ast.unparse(node.returns) if node.returns else "None"
            signature = re.sub(r"\s+", "", f"def {node.name}({arguments})->{returns}")
            assert signature in flat, node.name
    named = set(re.findall(r"^## (atp_\w+)", page, re.MULTILINE))
    assert named == {name for name in vars(hookspecs) if name.startswith("atp_")}


def test_the_hookspec_file_is_short() -> None:
    assert len(inspect.getsource(hookspecs).splitlines()) <= 200


def test_environment_variables_are_documented() -> None:
    code = "".join(path.read_text("utf-8") for path in SOURCES)
    read = set(re.findall(r"\"(ATP_[A-Z_]+)\"", code)) - {"ATP_HOOK_API"}
    page = (DOCS / "environment.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(ATP_\w+)", page, re.MULTILINE)) == read
    others = "".join(page.read_text("utf-8") for page in PAGES)
    no_variables = {"ATP_HOOK_API", "ATP_SHARED"}
    assert set(re.findall(r"\bATP_[A-Z_]+[A-Z]\b", others)) <= read | no_variables


# --- commands and code ---------------------------------------------------------------------------


def commands() -> list[tuple[str, str]]:
    told = [*PAGES, *sorted((ROOT / "plugins").glob("*/README.md"))]
    return [(name_of(p), line) for p in told for line in documented.commands(p.read_text("utf-8"))]


@pytest.mark.parametrize(("page", "line"), commands())
def test_documented_commands_parse(page: str, line: str) -> None:
    """Every `atp …` line of the documentation names commands and options that exist."""
    words = shlex.split(line, comments=True)[1:]
    context = click.Context(group, info_name="atp")
    command: click.Command = group
    while isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None, line
        command = found
    parsed = command.make_context("atp", words)
    assert parsed.params


def test_commands_are_found_in_every_form() -> None:
    text = (
        "```sh\natp a \\\n  -b\nX=1 atp c > file &\natp d --fail-if 'x>1' # why\n```\n"
        "    atp e\n\n```console\n$ atp f\nerror: no\n```\n`atp g`\n"
    )
    found = list(documented.commands(text))
    assert found == ["atp a -b", "atp c", "atp d --fail-if 'x>1'", "atp e", "atp f"]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_on_pages_is_python(page: Path) -> None:
    for code in documented.fenced(page.read_text("utf-8"), "python"):
        ast.parse(code)


def test_make_targets_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for page in PAGES:
        for block in documented.fenced(page.read_text("utf-8"), "sh"):
            for target in re.findall(r"^make (\w+)", block, re.MULTILINE):
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: {target}"


@pytest.mark.slow
@pytest.mark.parametrize("page", [*TUTORIALS, *HOWTOS], ids=name_of)
def test_what_a_page_says_to_run_runs(page: Path, tmp_path: Path) -> None:
    found = documented.steps(page)
    if page in TUTORIALS:
        kinds = [step.kind for step in found]
        assert kinds.count("python") == 1 and kinds.count("sh") >= 5
    documented.run(found, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_the_sweep_with_ray_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")  # which Ray would send over the network
    found = documented.steps(DOCS / "howto" / "many-gpus.md")
    [sweep] = [step for step in found if step.kind == "python"]
    [printed] = documented.run([sweep], tmp_path)
    assert len(re.findall(r"β = .*; top1: dense", printed)) == 6


# --- errors --------------------------------------------------------------------------------------


def error_sections() -> dict[str, str]:
    """Name of the error → its section of the page."""
    text = (DOCS / "errors.md").read_text("utf-8")
    parts = re.split(r"^## (\w+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def shown_commands() -> Iterator[tuple[str, str, str]]:
    """Error, command, and the message that the page shows below it."""
    for error, section in error_sections().items():
        for block in documented.fenced(section, "console"):
            command, message = block.rstrip("\n").split("\n", 1)
            yield error, command.removeprefix("$ "), message


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_on_its_page(name: str) -> None:
    section = error_sections()[name]
    code = getattr(errors, name).exit_code
    assert f"xit code {code}" in section or f"exit\ncode is {code}" in section, name
    assert documented.fenced(section, "text", "console"), f"{name} has no example"


@pytest.fixture
def scenery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that the commands on the page of errors name."""
    from PIL import Image

    for i in range(20):
        for name, colour in (("cat", (200, 20 + i, 20)), ("dog", (20, 20 + i, 200))):
            image = tmp_path / "photos" / name / f"{i}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), colour).save(image)
    (tmp_path / "mixed" / "cat").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(tmp_path / "mixed" / "cat" / "0.png")
    Image.new("RGB", (32, 32)).save(tmp_path / "mixed" / "stray.png")
    recipe = "source: timm:resnet18@random\nsparsity: 1.5\nmehtod: wanda\n"
    (tmp_path / "wrong.yaml").write_text(recipe, encoding="utf-8")
    schedule = {"allocation": "uniform", "sparsity": 0.5, "rates": {"vision": {"blocks.0": 0.5}}}
    (tmp_path / "other.json").write_text(json.dumps(schedule), encoding="utf-8")
    (tmp_path / "weights.pth").write_bytes(b"\x80\x02.")
    tensor = {"w": {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4000]}}
    header = json.dumps(tensor).encode()
    cut = struct.pack("<Q", len(header)) + header + bytes(1000)
    (tmp_path / "truncated.safetensors").write_bytes(cut)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("error", "command", "message"), list(shown_commands()))
def test_shown_errors_are_what_commands_say(
    error: str,
    command: str,
    message: str,
    scenery: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from importlib.metadata import entry_points

    # Messages list the plugins that there are: those of this repository.
    folders = (ROOT / "plugins").glob("atp-*")
    ours = {"core", *(folder.name.removeprefix("atp-") for folder in folders)}
    others = {point.name for point in entry_points(group="atp_prune")} - ours
    monkeypatch.setenv("ATP_DISABLE_PLUGINS", ",".join(sorted(others)))
    assert main(shlex.split(command)[1:]) == getattr(errors, error).exit_code
    assert message in capsys.readouterr().err


def test_shown_messages_are_ones_the_code_gives() -> None:
    known = list(raised.templates(SOURCES))
    for error, section in error_sections().items():
        for block in documented.fenced(section, "text"):
            message = re.sub(r"^(error|warning): ", "", block.strip())
            matching = [t for t in known if t.pattern.fullmatch(message)]
            assert matching, f"no code gives: {message}"
            if error in errors.__all__:
                assert {t.error for t in matching} & {error, ""}, f"not a {error}: {message}"


def test_templates_are_told_apart_by_their_text(tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text(
        'raise DataError(f"{path} holds no images; " + remedy)\nx = f"{a} both offer the {b}"\n'
        'raise DataError(f"{a}: {b}")\n',
        encoding="utf-8",
    )
    found = {t.error: t.pattern for t in raised.templates([file])}
    assert set(found) == {"DataError", ""}
    assert found["DataError"].fullmatch("photos holds no images; give some")
    assert not found["DataError"].fullmatch("photos holds images; give some")
    assert found[""].fullmatch("one and two both offer the method 'x'")


# --- pages and links -----------------------------------------------------------------------------


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for link, anchor in re.findall(r"\]\(([^)#\s]*)(#[^)\s]+)?\)", page.read_text("utf-8")):
            if link.startswith(("http", "mailto")):
                continue
            target = page.parent / link if link else page
            assert target.exists(), f"{name_of(page)}: {link}"
            if anchor and target.suffix == ".md":
                known = documented.anchors(documented.content(target))
                assert anchor[1:] in known, f"{name_of(page)}: {link}{anchor}"


def test_anchors_are_those_of_a_code_host() -> None:
    text = "# One, two & `three`\n## Choosing β\n## Choosing β\n```\n# no\n```\n"
    assert documented.anchors(text) == {"one-two--three", "choosing-β", "choosing-β-1"}


def test_every_page_can_be_reached() -> None:
    listed: list[str] = []
    for toctree in re.findall(
        r"```\{toctree\}\n(.*?)```", (DOCS / "index.md").read_text("utf-8"), re.DOTALL
    ):
        lines = toctree.splitlines()
        listed += [line for line in lines if line and not line.startswith(":")]
    assert len(listed) == len(set(listed))
    pages = {str(page.relative_to(DOCS).with_suffix("")) for page in SITE} - {"index"}
    examples = {name for name in listed if name.startswith("examples/")}
    assert set(listed) - examples == pages
    for name in examples:
        assert (DOCS / f"{name}.md").exists()


class Resources(HTMLParser):
    """What a page loads, and its images without a description."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.bare: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag in ("img", "script", "iframe") and found.get("src"):
            self.loaded.append(str(found["src"]))
        if tag == "link" and found.get("rel") in ("stylesheet", "icon", "preload"):
            self.loaded.append(str(found["href"]))
        if tag == "img" and not found.get("alt"):
            self.bare.append(str(found.get("src")))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("sphinx") is None, reason="sphinx is not installed")
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "html"]
    command += ["-d", str(tmp_path / "doctrees"), str(DOCS), str(tmp_path / "html")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    built = sorted((tmp_path / "html").rglob("*.html"))
    assert len(built) > len(SITE)
    for page in built:
        seen = Resources()
        seen.feed(page.read_text("utf-8"))
        away = [resource for resource in seen.loaded if resource.startswith(("http", "//"))]
        assert not away, f"{page.name} loads from the network: {away}"
        assert not seen.bare, f"{page.name} has images without a description: {seen.bare}"
    styles = "".join(sheet.read_text("utf-8") for sheet in (tmp_path / "html").rglob("*.css"))
    assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", styles)
