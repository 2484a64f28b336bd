"""The ``hamst3r`` command: one subcommand per module of :mod:`hamst3r.commands`.

A command's module is imported only when it is asked for, so that ``hamst3r --help`` is immediate.
Each has ``configure(parser)``, which adds arguments, and ``run(options) -> int``, the exit status.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence

COMMANDS = {
    "reconstruct": "photos, a video, a recording or a bag in; points, people and cameras out",
    "view": "look at a scene, or at what is being made, in a browser",
    "localize": "find where images were taken in a scene",
    "batch": "reconstruct many recordings, here or on a cluster",
    "weights": "list, describe, fetch and verify checkpoints",
    "parity": "compare our network with recorded outputs of a public one",
    "synth": "look at generated scenes, or write them for training",
    "train": "train the compact network, or go on with a run",
    "align": "align saved predictions of pairs of images, for finding faults",
    "eval": "measure what weights reach: generated scenes, a recording, public data sets",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; bad input ends in one line on stderr and status 1 (2: wrong usage)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="hamst3r", description="People and places together, from a few ordinary cameras."
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log what is being done")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    asked = next((word for word in arguments if word in COMMANDS), None)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary.capitalize() + ".")
        if name == asked:
            module = importlib.import_module(f"hamst3r.commands.{name}")
            module.configure(command)
            command.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )
    try:
        return options.run(options)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.stderr.write(f"hamst3r {options.command}: {_sentence(error)}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"hamst3r {options.command}: interrupted\n")
        return 130


def _sentence(error: Exception) -> str:
    """The system's errors as ours are: the file, then what is wrong with it."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror[:1].lower()}{error.strerror[1:]}"
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
