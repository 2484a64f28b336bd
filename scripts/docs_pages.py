"""Pages of the site that are made of the code itself, so that they cannot be out of date.

A hook of mkdocs (mkdocs.yml): the messages of ``msg/``, the commands of ``hamst3r``,
CONTRIBUTING.md, and the list of data sets in evaluation.md.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
_CONSTANT = re.compile(r"^(\S+)\s+([A-Z0-9_]+)\s*=\s*(\S+)\s*(?:#\s*(.*))?$")
_FIELD = re.compile(r"^(\S+)\s+(\w+)\s*(?:#\s*(.*))?$")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called by mkdocs: add the generated pages."""
    pages = {
        "messages.md": messages(),
        "commands.md": commands(),
        "contributing.md": contributing(),
    }
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Called by mkdocs: fill in the list of data sets."""
    return markdown.replace("<!-- list of data sets -->", datasets())


def contributing() -> str:
    """CONTRIBUTING.md, with links as seen from the site."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.sub(r"\]\(docs/", "](", text)


# --- messages -------------------------------------------------------------------------------------


def messages() -> str:
    """All messages and services, as their files describe them."""
    parts = ["# Messages", "", "Package `hamst3r_msgs`. Made of `msg/` itself.", ""]
    for path in sorted((ROOT / "msg").glob("*.msg")):
        parts += [f"## {path.stem}", "", *_interface(path.read_text(encoding="utf-8"))]
    for path in sorted((ROOT / "msg" / "srv").glob("*.srv")):
        request, response = path.read_text(encoding="utf-8").split("\n---\n")
        parts += [f"## {path.stem} (service)", "", *_interface(request)]
        parts += ["Response:", "", *_interface(response)]
    return "\n".join(parts) + "\n"


def _interface(text: str) -> list[str]:
    """One message: its comments, and tables of constants and fields."""
    lines: list[str] = []
    rows: list[str] = []
    heading = ""

    def flush() -> None:
        if rows:
            head = "| constant | value | what |" if heading == "constants" else _FIELDS
            lines.extend(["", head, "| --- | --- | --- |", *rows, ""])
            rows.clear()

    for line in text.splitlines():
        constant, field = _CONSTANT.match(line), _FIELD.match(line)
        kind = "constants" if constant else "fields" if field else ""
        if kind != heading:
            flush()
            heading = kind
        if constant:
            _, name, value, what = constant.groups()
            rows.append(f"| `{name}` | {value} | {_cell(what)} |")
        elif field:
            type_, name, what = field.groups()
            rows.append(f"| `{name}` | `{type_}` | {_cell(what)} |")
        elif line.startswith("#"):
            lines.append(_prose(line.lstrip("# ")))
        elif lines and lines[-1]:
            lines.append("")
    flush()
    return lines


_FIELDS = "| field | type | what |"


def _cell(text: str | None) -> str:
    return _prose(text or "").replace("|", "\\|")


def _prose(text: str) -> str:
    """A comment as Markdown: topics as code, angle brackets as themselves."""
    text = text.replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"(~/\w+)", r"`\1`", text)


# --- commands -------------------------------------------------------------------------------------


def commands() -> str:
    """The help of every command."""
    from hamst3r import cli

    os.environ["COLUMNS"] = "100"  # as wide as argparse shall write
    parts = ["# Commands", "", "`hamst3r --help` and `hamst3r COMMAND --help`, as installed.", ""]
    for name, summary in cli.COMMANDS.items():
        parser = argparse.ArgumentParser(
            prog=f"hamst3r {name}", description=summary.capitalize() + "."
        )
        importlib.import_module(f"hamst3r.commands.{name}").configure(parser)
        parts += [f"## hamst3r {name}", "", *_help(parser)]
        for sub, child in _children(parser).items():
            parts += [f"### hamst3r {name} {sub}", "", *_help(child)]
    return "\n".join(parts) + "\n"


def _help(parser: argparse.ArgumentParser) -> list[str]:
    return ["```text", parser.format_help().rstrip(), "```", ""]


def _children(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    actions = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return {name: child for action in actions for name, child in action.choices.items()}


# --- data sets ------------------------------------------------------------------------------------


def datasets() -> str:
    """The data sets that ``hamst3r eval`` reads."""
    from hamst3r.evaluation.datasets.registry import DATASETS

    parts = []
    for name, dataset in DATASETS.items():
        parts += [f"### {name}", "", f"{dataset.title} ({dataset.paper}).", ""]
        parts += [f"- layout: `{dataset.layout}`", f"- images: {dataset.choice}"]
        parts += [f"- protocol: {dataset.protocol.about}", ""]
    return "\n".join(parts)
