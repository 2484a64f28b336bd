"""Many reconstructions, each in a process of its own: what one does harms no other.

On one machine a few run side by side; on many, Ray hands the same jobs out (paths must then mean
the same on all of them).
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from queue import Queue
from typing import Any

from hamst3r.export.writer import file_names

LOG, DONE = "log.txt", "run.json"
KILL_AFTER = 10.0  # seconds that a process asked to end may take


@dataclass(frozen=True)
class Job:
    """One reconstruction.

    Attributes:
        name: Of its folder. input, out: Paths. arguments: More of ``hamst3r reconstruct``.
        timeout: Seconds, None for none. attempts: That may be made.
    """

    name: str
    input: str
    out: str
    arguments: tuple[str, ...] = ()
    timeout: float | None = None
    attempts: int = 2


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        status: "done", "failed", or "there" if it had been done before.
        attempts, seconds: Made and taken. error: The last one's last line, "" if it was done.
    """

    name: str
    input: str
    status: str
    attempts: int
    seconds: float
    error: str = ""


class Processes:
    """Children that are running, so that an interrupted batch leaves none behind."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen] = set()
        self._lock = threading.Lock()
        self._ended = False

    def run(self, command: Sequence[str], log: Path, timeout: float | None) -> int | None:
        """Exit status, negative for a signal; None after a timeout."""
        with log.open("ab") as stream:
            with self._lock:
                if self._ended:
                    return -2
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT
                )
                self._running.add(process)
            try:
                return process.wait(timeout)
            except subprocess.TimeoutExpired:
                _end(process)
                return None
            finally:
                with self._lock:
                    self._running.discard(process)

    def end(self) -> None:
        """End all, and start none any more."""
        with self._lock:
            self._ended = True
            running = list(self._running)
        for process in running:
            _end(process)


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(KILL_AFTER)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def jobs_of(
    inputs: Sequence[str | Path],
    out: Path,
    arguments: Sequence[str] = (),
    timeout: float | None = None,
    retries: int = 1,
) -> list[Job]:
    """A job for each input; those of one name get folders of different names.

    Raises:
        ValueError: No input, or numbers that make no sense.
    """
    if not inputs:
        raise ValueError("no recording to reconstruct; name some")
    if retries < 0:
        raise ValueError(f"retries must be 0 or more, got {retries}")
    if timeout is not None and not timeout > 0:
        raise ValueError(f"a timeout must be a positive number of seconds, got {timeout}")
    paths = [Path(path) for path in inputs]
    stems = [path.absolute().name if path.is_dir() else path.stem for path in paths]
    unique = [stem if stems.count(stem) == 1 else f"{stem}_{k}" for k, stem in enumerate(stems)]
    names = file_names(unique)
    return [
        Job(names[stem], str(path), str(out / names[stem]), tuple(arguments), timeout, 1 + retries)
        for stem, path in zip(unique, paths, strict=True)
    ]


def run_job(job: Job, processes: Processes | None = None) -> Outcome:
    """Run one job to its end; never raises for what the job does."""
    processes = processes or Processes()
    out, started = Path(job.out), time.monotonic()
    if (out / DONE).is_file():
        return Outcome(job.name, job.input, "there", 0, 0.0)
    error, attempt = "", 0
    for attempt in range(1, job.attempts + 1):  # noqa: B007
        try:
            out.mkdir(parents=True, exist_ok=True)
            (out / LOG).unlink(missing_ok=True)
            command = [sys.executable, "-m", "hamst3r.cli", "reconstruct", job.input]
            command += ["--out", job.out, "--quiet", *job.arguments]
            status = processes.run(command, out / LOG, job.timeout)
            error = _error(status, out / LOG, job)
        except OSError as problem:
            error = str(problem)
        if not error:
            break
    seconds = time.monotonic() - started
    return Outcome(
        job.name, job.input, "failed" if error else "done", attempt, round(seconds, 2), error
    )


def _error(status: int | None, log: Path, job: Job) -> str:
    """Why an attempt failed, one line; "" if it did not."""
    if status is None:
        return f"took longer than {job.timeout:g} s"
    if status == 0:
        # A process that only says that it did well has not.
        return "" if (Path(job.out) / DONE).is_file() else f"ended without {DONE}"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = lines[-1].removeprefix("hamst3r reconstruct: ") if lines else "said nothing"
    return last if status > 0 else f"ended by signal {-status}; last said: {last}"


def run_here(
    jobs: Sequence[Job], side_by_side: int = 1, devices: Sequence[str] = ()
) -> Iterator[Outcome]:
    """Run jobs on this machine; outcomes as they come.

    Args:
        side_by_side: How many at once. devices: Dealt out among those; none: as the job says.

    Raises:
        ValueError: Less than one at once.
    """
    if side_by_side < 1:
        raise ValueError(f"at least one job must run at once, got {side_by_side}")
    slots: Queue[tuple[str, ...]] = Queue()
    for k in range(side_by_side):
        slots.put(("--device", devices[k % len(devices)]) if devices else ())
    processes = Processes()

    def work(job: Job) -> Outcome:
        slot = slots.get()
        try:
            return run_job(replace(job, arguments=(*job.arguments, *slot)), processes)
        finally:
            slots.put(slot)

    pool = ThreadPoolExecutor(side_by_side)
    try:
        for future in as_completed([pool.submit(work, job) for job in jobs]):
            yield future.result()
    finally:
        processes.end()
        pool.shutdown(cancel_futures=True)


def run_on_ray(jobs: Sequence[Job], address: str, cpus: float, gpus: float) -> Iterator[Outcome]:
    """Run jobs on a Ray cluster; outcomes as they come. A machine that dies fails its jobs only.

    Args:
        address: Of the cluster; "local" starts one on this machine. cpus, gpus: Of each job.

    Raises:
        ValueError: Ray is not installed, or no cluster answers.
    """
    try:
        import ray
    except ImportError:
        raise ValueError("--ray needs Ray; install it: pip install 'hamst3r[cluster]'") from None
    try:
        dashboard = False if address == "local" else None  # None: as the cluster has it
        ray.init(address=address, log_to_driver=False, include_dashboard=dashboard)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ValueError(f"no Ray cluster at {address}: {error}") from error
    try:
        # A lost machine's jobs are run again elsewhere, as often as attempts are left.
        remote: Any = ray.remote(num_cpus=cpus, num_gpus=gpus)(run_job)
        running = {
            remote.options(max_retries=job.attempts - 1, name=job.name).remote(job): job
            for job in jobs
        }
        while running:
            (ready, *_), _ = ray.wait(list(running), num_returns=1)
            job = running.pop(ready)
            try:
                yield ray.get(ready)
            except ray.exceptions.RayError as error:
                why = str(error).strip().splitlines()[0]
                yield Outcome(job.name, job.input, "failed", job.attempts, 0.0, why)
    finally:
        ray.shutdown()


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """As JSON's types: counts, and every outcome by name."""
    counts = {s: sum(o.status == s for o in outcomes) for s in ("done", "there", "failed")}
    listed = sorted(outcomes, key=lambda outcome: outcome.name)
    return {"counts": counts, "jobs": [asdict(outcome) for outcome in listed]}
