"""What a person sees."""

import io
import re

from hvd_dqn.common.structs import Progress
from hvd_dqn.reporting import display

METRICS = {
    "episode/return_mean": 123.456,
    "loss/td_huber": 0.01234,
    "exploration/epsilon": 0.04,
    "speed/env_steps_per_second": 5912.3,
    "speed/updates_per_second": 2956.0,
    "time/averaging": 0.123,
}


def test_a_log_file_gets_plain_lines_not_too_many(monkeypatch, capsys):
    clock = iter([0.0, 1.0, 10.0, 11.0, 20.0])
    monkeypatch.setattr(display.time, "monotonic", lambda: next(clock))
    shown = display.PlainDisplay(10_000)
    shown.start("title", 0)
    for env_steps in (1000, 2500, 3000, 5000):
        shown.update(Progress(env_steps=env_steps), METRICS)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "title"
    assert len(lines) == 4, "the first, and then every few seconds"
    assert lines[2] == (
        "2,500/10,000 env steps · return 123.5 · loss 0.01234 · ε 0.04 · env steps/s 5,912 · "
        "updates/s 2,956 · waiting for ranks 12% · ETA 0:30"
    )
    assert not any(ord(c) == 27 for c in "".join(lines)), "no escape codes in a log"


def test_a_run_that_goes_on_knows_its_own_speed(monkeypatch, capsys):
    clock = iter([0.0, 10.0])
    monkeypatch.setattr(display.time, "monotonic", lambda: next(clock))
    shown = display.PlainDisplay(10_000)
    shown.start("title", 8000)
    shown.update(Progress(env_steps=9000), METRICS)
    assert "ETA 0:10" in capsys.readouterr().out


def test_the_panel_shows_every_figure():
    terminal = io.StringIO()
    shown = display.LiveDisplay(terminal, 10_000)
    shown.start("a run", 0)
    shown.update(Progress(env_steps=2500), METRICS)
    shown.say("evaluation at 2,500 env steps")
    shown.stop()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())
    for word in (
        "a run",
        "2,500 / 10,000",
        "25 %",
        "123.5",
        "0.01234",
        "5,912",
        "12%",
        "ETA",
        "evaluation at",
    ):
        assert word in text


def test_the_panel_of_a_run_that_goes_on_begins_where_it_was():
    terminal = io.StringIO()
    shown = display.LiveDisplay(terminal, 10_000)
    shown.start("a run", 8000)
    shown.stop()
    assert "8,000 / 10,000" in terminal.getvalue()


def test_a_run_of_a_day_shows_hours():
    assert display._clock(59.6) == "1:00"
    assert display._clock(3661) == "1:01:01"
