"""``hamst3r batch INPUT... --out DIR``: many recordings; what fails is tried again and listed."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "inputs", type=Path, nargs="*", metavar="INPUT", help="each as for hamst3r reconstruct"
    )
    parser.add_argument("--list", type=Path, metavar="FILE", help="file with an input per line")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a folder per input")
    parser.add_argument(
        "--options",
        default="",
        metavar="'...'",
        help="options of hamst3r reconstruct, as one text: --options='--sets 0 --pairs swin-3'",
    )
    parser.add_argument("--retries", type=int, default=1, metavar="N", help="after a failure (1)")
    parser.add_argument("--timeout", type=float, metavar="S", help="of an attempt (none)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="at once, here (1)")
    parser.add_argument("--devices", default="", metavar="LIST", help="for these, cuda:0,cuda:1")
    parser.add_argument(
        "--ray", metavar="ADDRESS", help="run on a Ray cluster: auto, HOST:PORT, or local"
    )
    parser.add_argument("--cpus", type=float, default=1, help="of each job, on Ray (1)")
    parser.add_argument("--gpus", type=float, default=0, help="of each job, on Ray (0)")


def run(options: argparse.Namespace) -> int:
    """Run them all; 0 if none failed in the end."""
    from hamst3r.batch import jobs_of, run_here, run_on_ray, summary
    from hamst3r.export.writer import write_json

    inputs = [*options.inputs, *(_listed(options.list) if options.list else ())]
    arguments = _arguments(options.options)
    out: Path = options.out.absolute()
    jobs = jobs_of(
        [path.absolute() for path in inputs], out, arguments, options.timeout, options.retries
    )
    out.mkdir(parents=True, exist_ok=True)
    if options.ray:
        outcomes = run_on_ray(jobs, options.ray, options.cpus, options.gpus)
    else:
        devices = [name for name in options.devices.split(",") if name]
        outcomes = run_here(jobs, options.jobs, devices)
    finished = []
    for outcome in outcomes:
        finished.append(outcome)
        write_json(out / "batch.json", summary(finished))
        attempts = f" after {outcome.attempts} attempts" if outcome.attempts > 1 else ""
        error = f": {outcome.error}" if outcome.error else ""
        print(
            f"[{len(finished)}/{len(jobs)}] {outcome.name}: {outcome.status}{attempts}, "
            f"{outcome.seconds:.1f} s{error}",
            flush=True,
        )
    failed = [outcome.name for outcome in finished if outcome.status == "failed"]
    print(f"{len(jobs) - len(failed)} of {len(jobs)} reconstructed; {out / 'batch.json'}")
    if failed:
        print(f"failed: {', '.join(sorted(failed))} (log.txt in their folders)")
    return 1 if failed else 0


def _listed(file: Path) -> list[Path]:
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [file.parent / line for line in lines if line and not line.startswith("#")]


def _arguments(text: str) -> list[str]:
    """The options of reconstruct, checked once here rather than by every job."""
    from hamst3r.commands import reconstruct

    arguments = shlex.split(text)
    parser = argparse.ArgumentParser(prog="hamst3r batch --options", add_help=False)
    reconstruct.configure(parser)
    parser.parse_args(["INPUT", "--out", "DIR", *arguments])
    if "--out" in arguments:
        raise ValueError("--options must not hold --out: every input gets a folder in batch's own")
    return arguments
