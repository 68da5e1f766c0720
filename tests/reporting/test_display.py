"""What the display shows."""

import io
import math
import re
from pathlib import Path

from hvd_dqn.common.structs import Progress
from hvd_dqn.reporting import display

METRICS = {
    "episode/return_mean": 123.456,
    "loss/td_huber": 0.01234,
    "exploration/epsilon": 0.04,
    "speed/env_steps_per_second": 5912.3,
    "speed/updates_per_second": 2956.0,
    "time/averaging": 0.123,
    "rank/waiting/1": 0.123,
}
EVALUATION = {
    "evaluation/return_mean": 12.34,
    "evaluation/return_std": 0.5,
    "evaluation/episodes": 20.0,
}
RUN = ("a run", "two ranks", Path("runs/a"))


def test_plain_lines_are_at_least_seconds_apart(monkeypatch, capsys):
    clock = iter([0.0, 1.0, 10.0, 11.0, 20.0])
    monkeypatch.setattr(display.time, "monotonic", lambda: next(clock))
    shown = display.PlainDisplay(10_000)
    shown.start(*RUN, 0)
    for env_steps in (1000, 2500, 3000, 5000):
        shown.update(Progress(env_steps=env_steps), METRICS)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["a run · two ranks", "run directory: runs/a"]
    assert len(lines) == 5, "the first, and then every few seconds"
    assert lines[3] == (
        "2,500/10,000 env steps · return 123.5 · loss 0.01234 · ε 0.04 · env steps/s 5,912 · "
        "updates/s 2,956 · waiting for ranks 12% · ETA 0:30"
    )
    assert not any(ord(c) == 27 for c in "".join(lines)), "no escape codes in a log"


def test_the_remaining_time_of_a_resumed_run(monkeypatch, capsys):
    clock = iter([0.0, 10.0])
    monkeypatch.setattr(display.time, "monotonic", lambda: next(clock))
    shown = display.PlainDisplay(10_000)
    shown.start(*RUN, 8000)
    shown.update(Progress(env_steps=9000), METRICS)
    assert "ETA 0:10" in capsys.readouterr().out


def test_one_rank_does_not_wait_for_others(capsys):
    one = {name: value for name, value in METRICS.items() if name != "rank/waiting/1"}
    shown = display.PlainDisplay(10_000)
    shown.update(Progress(env_steps=1000), one)
    assert "waiting" not in capsys.readouterr().out


def text_of(terminal):
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())


def test_the_panel_shows_every_figure(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    terminal = io.StringIO()
    shown = display.LiveDisplay(terminal, 10_000)
    shown.start(*RUN, 0)
    shown.update(Progress(env_steps=2500), METRICS)
    shown.say("[a line] of text")
    shown.stop()
    text = text_of(terminal)
    for word in (
        *("a run", "two ranks", "runs/a", "2,500 / 10,000", "25 %", "123.5", "0.01234", "5,912"),
        *("12%", "ETA", "[a line] of text"),
    ):
        assert word in text
    assert "evaluati" not in text


def test_the_panel_shows_evaluations(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")  # a terminal whose cursor moves
    terminal = io.StringIO()
    shown = display.LiveDisplay(terminal, 10_000)
    shown.start(*RUN, 0)
    shown.evaluating()
    assert "evaluating …" in text_of(terminal)
    terminal.seek(0)
    terminal.truncate()
    shown.evaluated(3000, EVALUATION, (15.0, 1500))
    shown.stop()
    text = text_of(terminal)
    assert "evaluating" not in text
    assert "evaluation at 3,000 env steps: 12.3 ± 0.5 over 20 episodes" in text
    assert "last evaluation 12.3 ± 0.5  best 15.0 at 1,500 env steps" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_panel_of_a_resumed_run_starts_where_it_stopped():
    terminal = io.StringIO()
    shown = display.LiveDisplay(terminal, 10_000)
    shown.start(*RUN, 8000)
    shown.stop()
    assert "8,000 / 10,000" in terminal.getvalue()


def test_a_long_time_shows_hours():
    assert display._clock(59.6) == "1:00"
    assert display._clock(3661) == "1:01:01"


def test_the_remaining_time_is_that_of_the_newest_records():
    """Steps before the first update are fast and say nothing of the rest."""
    countdown = display.Countdown(10_000)
    assert math.isnan(countdown.seconds_left(0, 100.0))
    assert countdown.seconds_left(1000, 101.0) == 9.0
    for k in range(1, 31):
        left = countdown.seconds_left(1000 + 100 * k, 101.0 + 10 * k)
    assert left == (10_000 - 4000) / 10
    assert math.isnan(countdown.seconds_left(2000, 500.0)), "resumed from an older checkpoint"
    assert countdown.seconds_left(10_000, 600.0) == 0.0


def test_the_panel_fits_a_terminal_of_80_columns(monkeypatch):
    """Text from outside is not parsed as markup, and the run directory can be copied whole."""
    monkeypatch.setenv("COLUMNS", "80")
    terminal = io.StringIO()
    shown = display.LiveDisplay(terminal, 10_000)
    run_dir = Path("/scratch/[red]project[/red]") / ("x" * 90) / "run"
    shown.start(f"preset: {'long' * 30}:[bold]Env-v0", "a [/] of :bell:", run_dir, 0)
    shown.update(Progress(env_steps=9999), METRICS)
    shown.stop()
    text = text_of(terminal)
    assert max(map(len, text.splitlines())) <= 80
    assert "a [/] of :bell:" in text
    assert str(run_dir) in re.sub(r"[\s│]", "", text)


def test_an_evaluation_takes_the_place_of_the_percentage(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    terminal = io.StringIO()
    shown = display.LiveDisplay(terminal, 10_000)
    shown.start(*RUN, 0)
    shown.update(Progress(env_steps=10_000), METRICS)
    terminal.seek(0)
    terminal.truncate()
    shown.evaluating()
    text = text_of(terminal)
    assert "evaluating …" in text
    assert "100 %" not in text
    assert "ETA" not in text
    shown.stop()
