"""The command `hvd-dqn`. Exit codes: 0 done, 1 the run failed, 2 bad input (one line, said by one
rank), 75 stopped on request with a checkpoint saved.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import tyro

import hvd_dqn
from hvd_dqn.command_line import TrainOptions, parse, parse_train, preset
from hvd_dqn.distributed.agreement import require_same
from hvd_dqn.distributed.communicator import Communicator, hostname
from hvd_dqn.distributed.connect import connect
from hvd_dqn.distributed.launcher import detect_launch
from hvd_dqn.errors import (
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    EXIT_OK,
    EXIT_STOPPED,
    AgreedError,
    LostContactError,
    RunError,
    StoppedError,
    UserError,
)
from hvd_dqn.presets import PRESETS
from hvd_dqn.signals import StopRequest

if TYPE_CHECKING:
    from hvd_dqn.observer import Summary
    from hvd_dqn.run_directory import RunDirectory

_SECONDS_FOR_ROOT_TO_SPEAK = 3.0


def main() -> NoReturn:
    """Run one command and exit with its code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage())
        return EXIT_OK if arguments else EXIT_BAD_INPUT
    if arguments[0] == "--version":
        print(f"hvd-dqn {hvd_dqn.__version__}")
        return EXIT_OK
    name, rest = arguments[0], arguments[1:]
    if not _is_root() and {"-h", "--help"} & set(rest):
        return EXIT_OK  # the root prints it
    try:
        if name not in _COMMANDS:
            raise UserError(f"unknown command {name!r}: the commands are {', '.join(_COMMANDS)}")
        return _COMMANDS[name][0](rest)
    except AgreedError as error:
        if _is_root():
            print(f"hvd-dqn: {error}", file=sys.stderr, flush=True)
        return EXIT_BAD_INPUT
    except UserError as error:
        _let_root_speak_first()
        print(f"hvd-dqn: {error}", file=sys.stderr, flush=True)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("hvd-dqn: interrupted", file=sys.stderr)
        return EXIT_FAILED


def _usage() -> str:
    lines = [
        "usage: hvd-dqn COMMAND …",
        "",
        *(f"  {name:14} {text}" for name, (_, text) in _COMMANDS.items()),
    ]
    return "\n".join(
        [
            *lines,
            "",
            "hvd-dqn COMMAND --help says more; hvd-dqn train PRESET --help lists every option.",
        ]
    )


def _train(arguments: Sequence[str]) -> int:
    if arguments in (["-h"], ["--help"]):
        print(
            "usage: hvd-dqn train PRESET [--section.field VALUE …] [--run-dir DIR]\n       "
            "hvd-dqn train --config FILE …"
        )
        print(
            f"presets: {', '.join(PRESETS)}\nhvd-dqn train PRESET --help lists every option with "
            "that preset's values."
        )
        return EXIT_OK
    problem: UserError | None = None
    options = TrainOptions(config=next(iter(PRESETS.values()))())
    try:
        options = parse_train(arguments)
    except UserError as error:
        problem = error
    with StopRequest() as stop:
        comm = connect(options.config.distributed.backend, problem)
        stop.at_once = lambda: _end_at_once(comm)
        return _together(comm, lambda: _train_together(comm, options, stop))


def _end_at_once(comm: Communicator) -> NoReturn:
    """A second Ctrl-C."""
    if comm.is_root:
        print("hvd-dqn: interrupted", file=sys.stderr, flush=True)
    comm.abort(EXIT_FAILED)
    os._exit(EXIT_FAILED)


def _train_together(comm: Communicator, options: TrainOptions, stop: StopRequest) -> None:
    from hvd_dqn.run_directory import RunDirectory, default_path
    from hvd_dqn.train import train

    require_same(comm, "the config", options.config.flat())
    how = {"--resume": options.resume, "--resume-changes": options.resume_changes}
    require_same(comm, "the command line", how)
    path = comm.gather(str(options.run_dir or default_path(options.config.preset)))[0]
    run_dir = RunDirectory(Path(path))
    changes = {name for name in options.resume_changes.split(",") if name}
    try:
        summary = train(
            options.config, comm, run_dir, resume=options.resume, changes=changes, stop=stop
        )
        if comm.is_root:
            _report(options, summary, run_dir)
    except StoppedError as error:
        raise StoppedError(f"{error}; run it again with --run-dir {path} to go on") from None
    except (UserError, RunError, LostContactError):
        raise
    except Exception as error:
        raise _LoneError(run_dir, error) from error


def _report(options: TrainOptions, summary: Summary, run_dir: RunDirectory) -> None:
    """The picture, and the closing line."""
    from hvd_dqn.tools.plot import plot_runs

    try:
        plot_runs([run_dir.path], run_dir.plots / "learning_curve.png")
    except Exception as error:  # a picture is not worth a run
        print(f"hvd-dqn: {error}", file=sys.stderr, flush=True)
    progress, score = summary.progress, summary.score
    print(
        f"{options.config.preset}: return {score.mean:.1f} ± {score.std:.1f} over "
        f"{len(score.returns)} greedy episodes · {progress.env_steps:,} env steps · "
        f"{progress.updates:,} updates · {summary.seconds:.1f} s · {run_dir.path}",
        flush=True,
    )


_CODES: dict[type[Exception], int] = {AgreedError: EXIT_BAD_INPUT, StoppedError: EXIT_STOPPED}


class _LoneError(Exception):
    """Something broke on this rank alone, within a run."""

    def __init__(self, run_dir: RunDirectory, cause: Exception) -> None:
        super().__init__(str(cause))
        self.run_dir = run_dir
        self.cause = cause


def _together(comm: Communicator, work: Callable[[], None]) -> int:
    """Run what every rank runs. What all raise alike, the root says; a rank that breaks alone says
    so and ends the others, which may be waiting for it.
    """
    try:
        work()
        code = EXIT_OK
    except (AgreedError, RunError, StoppedError) as error:
        code = _CODES.get(type(error), EXIT_FAILED)
        if comm.is_root:
            print(f"hvd-dqn: {error}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        if comm.is_root:
            print("hvd-dqn: interrupted", file=sys.stderr, flush=True)
        comm.abort(EXIT_FAILED)
        return EXIT_FAILED
    except LostContactError as error:
        if error.told is not None:
            print(f"hvd-dqn: {error.told}", file=sys.stderr, flush=True)
        comm.abort(EXIT_FAILED)
        return EXIT_FAILED
    except BaseException as error:
        cause = error.cause if isinstance(error, _LoneError) else error
        where = f"rank {comm.rank} on {hostname()}: " if comm.world_size > 1 else ""
        text = " ".join(f"{type(cause).__name__}: {cause}".split())
        log = _keep_traceback(error, comm.rank)
        print(f"hvd-dqn: {where}{text} ({log})", file=sys.stderr, flush=True)
        comm.abort(EXIT_FAILED)
        return EXIT_FAILED
    comm.close()
    return code


def _keep_traceback(error: BaseException, rank: int) -> str:
    """Write the traceback beside the run, or print it where no run has begun; which of the two."""
    cause = error.cause if isinstance(error, _LoneError) else error
    if isinstance(error, _LoneError) and error.run_dir.path.is_dir():
        path = error.run_dir.crash_file(rank)
        try:
            path.write_text("".join(traceback.format_exception(cause)))
            return f"traceback in {path}"
        except OSError:
            pass  # the traceback goes to standard error instead
    traceback.print_exception(cause)
    return "traceback above"


def _let_root_speak_first() -> None:
    """Ranks that could not even meet say nothing twice: the launcher ends the others when the root
    has spoken and left.
    """
    if not _is_root():
        time.sleep(_SECONDS_FOR_ROOT_TO_SPEAK)


def _is_root() -> bool:
    launch = detect_launch()
    return launch is None or launch.rank == 0


@dataclass(frozen=True, kw_only=True)
class _LaunchOptions:
    """Run `hvd-dqn COMMAND` on several ranks, start it again where it fails, and stop it gently:
    hvd-dqn launch --np 4 --max-restarts 3 -- train cartpole --run-dir runs/a
    """

    np: int
    """Ranks."""
    hosts: str = ""
    """Where, as `a:4,b:4`; by default on this host."""
    launcher: str = "horovodrun"
    """What starts the ranks, with its options: horovodrun, or another that takes -np and -H."""
    max_restarts: int = 3
    """Attempts after the first."""
    min_np: int | None = None
    """Go on with so few ranks where a host is gone; by default with no fewer than --np."""


def _launch(arguments: Sequence[str]) -> int:
    from hvd_dqn.run_directory import default_path
    from hvd_dqn.tools.launch import launch, option, parse_hosts

    split = arguments.index("--") if "--" in arguments else len(arguments)
    flags = ["--np" if a == "-np" else "--hosts" if a == "-H" else a for a in arguments[:split]]
    options = parse(_LaunchOptions, flags, program="hvd-dqn launch")
    command = list(arguments[split + 1 :])
    if command[:1] != ["train"]:
        raise UserError("hvd-dqn launch: write what to run behind --, such as -- train cartpole")
    if options.np < 1 or options.max_restarts < 0:
        raise UserError(f"--np {options.np} --max-restarts {options.max_restarts}", "too few")
    if not option(command, "run-dir") and len(command) > 1:
        command += ["--run-dir", str(default_path(command[1].lstrip("-")))]
    return launch(
        command,
        ranks=options.np,
        hosts=parse_hosts(options.hosts),
        launcher=options.launcher,
        max_restarts=options.max_restarts,
        min_ranks=options.np if options.min_np is None else options.min_np,
    )


@dataclass(frozen=True, kw_only=True)
class _EvaluateOptions:
    """Play greedy episodes with the best network of a run."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR")]
    """The run's directory."""
    episodes: int = 100
    """How many, over all ranks."""
    seed: int = 0
    """Which episodes; none of them is one that the run was judged by."""
    json: bool = False
    """Print one JSON object with every return."""


def _evaluate(arguments: Sequence[str]) -> int:
    options = parse(_EvaluateOptions, _flags(arguments, "json"), program="hvd-dqn evaluate")
    problem = None
    if options.episodes < 1:
        problem = UserError(f"--episodes {options.episodes}", "must be 1 or more")
    comm = connect("auto", problem)

    def work() -> None:
        from hvd_dqn.tools.evaluate import evaluate_run

        saved, result = evaluate_run(options.run_dir, options.episodes, options.seed, comm)
        if not comm.is_root:
            return
        if options.json:
            print(
                json.dumps(
                    {
                        "checkpoint": str(saved.path),
                        "env_steps": saved.env_steps,
                        "mean": result.mean,
                        "std": result.std,
                        **result._asdict(),
                    }
                )
            )
        else:
            print(
                f"return {result.mean:.1f} ± {result.std:.1f} over {len(result.returns)} greedy "
                f"episodes · {saved.path}"
            )

    return _together(comm, work)


@dataclass(frozen=True, kw_only=True)
class _PlotOptions:
    """Draw the learning curves of one or more runs."""

    run_dirs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN_DIR …")]
    """The runs' directories."""
    output: Path | None = None
    """The picture; by default `plots/learning_curve.png` of the first run."""


def _plot(arguments: Sequence[str]) -> int:
    from hvd_dqn.run_directory import RunDirectory
    from hvd_dqn.tools.plot import plot_runs

    options = parse(_PlotOptions, arguments, program="hvd-dqn plot")
    if not options.run_dirs:
        raise UserError("hvd-dqn plot: name one run directory or more")
    output = options.output or RunDirectory(options.run_dirs[0]).plots / "learning_curve.png"
    plot_runs(list(options.run_dirs), output)
    print(output)
    return EXIT_OK


@dataclass(frozen=True, kw_only=True)
class _PresetsOptions:
    """List the presets, or every setting of one."""

    name: Annotated[str | None, tyro.conf.Positional] = None
    """A preset."""


def _presets(arguments: Sequence[str]) -> int:
    options = parse(_PresetsOptions, arguments, program="hvd-dqn presets")
    if options.name is None:
        for name, make in PRESETS.items():
            print(f"{name:18} {(make.__doc__ or '').strip().splitlines()[0]}")
    else:
        print(preset(options.name).to_json(), end="")
    return EXIT_OK


@dataclass(frozen=True, kw_only=True)
class _DoctorOptions:
    """Check torch, MPI, Horovod, whether they fit each other, GPUs and threads; each line with its
    remedy.
    """

    json: bool = False
    """Print one JSON object."""


def _doctor(arguments: Sequence[str]) -> int:
    from hvd_dqn.tools.doctor import diagnose, print_checks

    options = parse(_DoctorOptions, _flags(arguments, "json"), program="hvd-dqn doctor")
    checks = diagnose()
    if options.json:
        print(json.dumps([check._asdict() for check in checks], indent=2))
    else:
        print_checks(checks)
    return EXIT_FAILED if any(check.state == "fail" for check in checks) else EXIT_OK


@dataclass(frozen=True, kw_only=True)
class _BuildOptions:
    """Build and install Horovod against this torch and this MPI; one that is there and works is
    kept.
    """

    force: bool = False
    """Build it anew, whatever is there or in the cache."""


def _build_horovod(arguments: Sequence[str]) -> int:
    from hvd_dqn.tools.build_horovod import build_horovod

    build_horovod(
        force=parse(
            _BuildOptions, _flags(arguments, "force"), program="hvd-dqn build-horovod"
        ).force
    )
    return EXIT_OK


def _flags(arguments: Sequence[str], *names: str) -> list[str]:
    """`--name` alone means `--name True`: switches of commands read like switches, options of a
    config like values.
    """
    return [
        part
        for argument in arguments
        for part in ((argument, "True") if argument in {f"--{n}" for n in names} else (argument,))
    ]


_COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "train": (_train, "train PRESET, on every rank of this launch"),
    "launch": (_launch, "start ranks, again where they fail, and stop them gently"),
    "evaluate": (_evaluate, "play greedy episodes with a run's best network"),
    "plot": (_plot, "draw learning curves"),
    "presets": (_presets, "list the presets, or one preset's settings"),
    "doctor": (_doctor, "check torch, MPI, Horovod and GPUs"),
    "build-horovod": (_build_horovod, "build Horovod against this torch and this MPI"),
}
