import json
import shutil

import pytest
from PIL import Image

from hvd_dqn.common.errors import UserError
from hvd_dqn.config import Config
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.run.facts import run_facts
from hvd_dqn.tools.plot import plot_runs
from hvd_dqn.tools.report.figures import FIGURES
from hvd_dqn.tools.runs import read_records
from tests.short_runs import run_of


@pytest.fixture
def run(tmp_path):
    run_dir = RunDirectory(tmp_path / "run")
    run_dir.create(Config(), run_facts(Config(), ["a"], "local", 1, ["cpu"], {}))
    records = []
    for k in range(1, 11):
        quantiles = {
            f"episode/return_{p}": k * f for p, f in (("p10", 5), ("median", 10), ("p90", 20))
        }
        place = {"env_steps": k * 100, "updates": k, "seconds": k}
        records.append(place | quantiles)
        records.append(place | {"evaluation/return_mean": 12 * k, "evaluation/return_std": 1})
    run_dir.metrics_file.write_text("".join(json.dumps(r) + "\n" for r in records))
    return run_dir


def test_curve_interval_and_evaluations_are_drawn(run, tmp_path):
    output = tmp_path / "deep" / "curve.png"
    assert plot_runs([run.path], output=output) == [output]
    image = Image.open(output).convert("RGB")
    assert image.size == (1200, 720)
    colours = {colour for _, colour in image.getcolors(1_000_000)}
    assert (11, 98, 168) in colours, "the line"
    assert any(abs(r - 244) < 6 and abs(g - 222) < 6 and abs(b - 221) < 6 for r, g, b in colours), (
        "the interval"
    )


def test_seeds_of_one_configuration_are_one_curve(run, tmp_path):
    """The legend and the axes of an SVG are text."""
    other = RunDirectory(tmp_path / "other")
    other.create(Config(seed=7), run_facts(Config(), ["a"], "local", 1, ["cpu"], {}))
    other.metrics_file.write_text(run.metrics_file.read_text())
    (file,) = plot_runs([run.path, other.path], over="seconds", output=tmp_path / "x.svg")
    text = file.read_text()
    assert "cartpole, 2 seeds" in text
    assert ">seconds<" in text
    assert text == plot_runs([run.path, other.path], over="seconds", output=file)[0].read_text()


def test_all_figures(run, tmp_path):
    path = run_of(tmp_path / "short")
    files = plot_runs([path], names=["all"], kind="svg")
    assert [file.stem for file in files] == ["learning_curve", *FIGURES[1:-1]]
    assert all(file.parent == path / "plots" and file.stat().st_size > 1000 for file in files)
    (file,) = plot_runs([path], names=["loss", "loss"], output=tmp_path / "new")
    assert file == tmp_path / "new/loss.png"
    assert file.exists()
    with pytest.raises(UserError, match="one file for 2 figures: name a directory"):
        plot_runs([path], names=["loss", "return"], output=tmp_path / "a.png")
    run.metrics_file.write_text("")
    with pytest.raises(UserError, match="no data for the figure 'return': available: none"):
        plot_runs([run.path], names=["all"])


def test_an_incomplete_last_line_is_skipped(run):
    with run.metrics_file.open("a") as file:
        file.write('{"env_steps": 99')
    assert len(read_records(run.path)) == 20


def test_errors(run, tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        plot_runs([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="cannot be written"):
        plot_runs([run.path], output=tmp_path / "x.nonsense")
    run.metrics_file.write_text('{"env_steps": 1, "updates": 0, "seconds": 1.5}\n')
    with pytest.raises(UserError, match="no data for the figure 'return': available: none"):
        plot_runs([run.path])
    with pytest.raises(UserError, match="no data for the figure 'loss'"):
        plot_runs([run.path], names=["loss"])
    with pytest.raises(UserError, match="unknown figure 'lost': choose all, or any of return, "):
        plot_runs([run.path], names=["lost"])
    run.metrics_file.write_text('broken\n{"env_steps": 1}\n')
    with pytest.raises(UserError, match="line 1 is not JSON"):
        read_records(run.path)


def test_names_of_runs_are_not_parsed_as_formulas(run, tmp_path):
    """Dollar signs mark formulas in Matplotlib, and a leading underscore hides a label."""
    name = "_lr $\\nope$"
    paths = []
    for seed in (0, 1):
        path = tmp_path / f"seed-{seed}"
        shutil.copytree(run.path, path)
        config = json.loads((path / "config.json").read_text()) | {"preset": name, "seed": seed}
        (path / "config.json").write_text(json.dumps(config))
        paths.append(path)
    for chosen in (paths[:1], paths):
        (file,) = plot_runs(chosen, output=tmp_path / "curve.svg")
        assert name in file.read_text(), "the title of one run, and the legend of several"
