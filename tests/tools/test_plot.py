import json

import pytest
from PIL import Image

from hvd_dqn.common.errors import UserError
from hvd_dqn.config import Config
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.run.facts import run_facts
from hvd_dqn.tools.plot import plot_runs
from hvd_dqn.tools.report.figures import FIGURES
from hvd_dqn.tools.runs import read_metrics
from hvd_dqn.tools.summary import print_summaries, summarize
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


def test_the_curve_the_band_and_the_evaluations_are_drawn(run, tmp_path):
    output = tmp_path / "deep" / "curve.png"
    assert plot_runs([run.path], output=output) == [output]
    image = Image.open(output).convert("RGB")
    assert image.size == (1200, 720)
    colours = {colour for _, colour in image.getcolors(1_000_000)}
    assert (31, 119, 180) in colours, "the line"
    assert any(abs(r - 249) < 6 and abs(g - 223) < 6 and abs(b - 223) < 6 for r, g, b in colours), (
        "the band"
    )


def test_seeds_of_one_configuration_are_one_curve(run, tmp_path):
    """Whatever is drawn is text in an SVG: the legend, the axes."""
    other = RunDirectory(tmp_path / "other")
    other.create(Config(seed=7), run_facts(Config(), ["a"], "local", 1, ["cpu"], {}))
    other.metrics_file.write_text(run.metrics_file.read_text())
    (file,) = plot_runs([run.path, other.path], over="seconds", output=tmp_path / "x.svg")
    text = file.read_text()
    assert "cartpole, 2 seeds" in text
    assert ">seconds<" in text
    assert text == plot_runs([run.path, other.path], over="seconds", output=file)[0].read_text()


def test_all_figures_that_a_run_has(run, tmp_path):
    path = run_of(tmp_path / "short")
    files = plot_runs([path], names=["all"], kind="svg")
    assert [file.stem for file in files] == ["learning_curve", *FIGURES[1:]]
    assert all(file.parent == path / "plots" and file.stat().st_size > 1000 for file in files)
    (file,) = plot_runs([path], names=["loss", "loss"], output=tmp_path / "new")
    assert file == tmp_path / "new/loss.png"
    assert file.exists()
    with pytest.raises(UserError, match="one file for 2 figures: name a folder"):
        plot_runs([path], names=["loss", "return"], output=tmp_path / "a.png")
    run.metrics_file.write_text("")
    with pytest.raises(UserError, match="no record has what return draws"):
        plot_runs([run.path], names=["all"])


def test_a_last_line_cut_short_is_passed_over(run):
    with run.metrics_file.open("a") as file:
        file.write('{"env_steps": 99')
    assert len(read_metrics(run.path)) == 20


def test_bad_runs_are_told(run, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        plot_runs([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="cannot be written"):
        plot_runs([run.path], output=tmp_path / "x.nonsense")
    run.metrics_file.write_text('{"env_steps": 1, "updates": 0, "seconds": 1.5}\n')
    with pytest.raises(UserError, match="no record has what return draws: there is nothing"):
        plot_runs([run.path])
    with pytest.raises(UserError, match="no record has what loss draws"):
        plot_runs([run.path], names=["loss"])
    with pytest.raises(UserError, match="there is no figure 'lost': take all, or return, "):
        plot_runs([run.path], names=["lost"])
    run.metrics_file.write_text('broken\n{"env_steps": 1}\n')
    with pytest.raises(UserError, match="line 1 is not JSON"):
        read_metrics(run.path)


def test_runs_in_one_table(run, tmp_path, capsys):
    other = RunDirectory(tmp_path / "other")
    other.create(Config(seed=7), run_facts(Config(), ["a", "b"], "horovod", 1, ["cpu"] * 2, {}))
    for run_dir, score in ((run, 10.0), (other, 14.0)):
        closing = {"closing/return_mean": score, "closing/return_std": 1.0}
        record = {"env_steps": 5000, "updates": 70, "seconds": 9.0} | closing
        with run_dir.metrics_file.open("a") as file:
            file.write(json.dumps(record) + "\n")
    runs = [summarize(run.path), summarize(other.path)]
    assert [r.seed for r in runs] == [0, 7]
    assert [r.ranks for r in runs] == [1, 2]
    facts = json.loads((other.path / "run.json").read_text())
    facts["resumed"] = [{"world_size": 4}, {"world_size": 3}]
    (other.path / "run.json").write_text(json.dumps(facts))
    assert summarize(other.path).ranks == 3
    print_summaries(runs)
    assert "12.0 ± 2.8" in capsys.readouterr().out
