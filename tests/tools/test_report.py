"""The report: its contents, that it is self-contained, and that a browser shows it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from hvd_dqn.common.errors import UserError
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.tools.report.curves import Curve, group_runs
from hvd_dqn.tools.report.figures import Figure, Line
from hvd_dqn.tools.report.page import run_settings, stage_shares, write_report
from hvd_dqn.tools.report.svg import draw_svg
from hvd_dqn.tools.runs import Run
from hvd_dqn.tools.scores import score
from hvd_dqn.training import train
from tests.distributed.workers import small_config
from tests.launching import hvd_dqn


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three seeds of one configuration, and one of another."""
    directory = tmp_path_factory.mktemp("reported")
    for name, changes in {
        "a": {"seed": 1},
        "b": {"seed": 2},
        "c": {"seed": 3},
        "other": {"seed": 1, "optimizer.learning_rate": 1e-4},
    }.items():
        config = small_config().changed(changes | {"evaluation.period_env_steps": 800})
        train(config, LocalCommunicator(), RunDirectory(directory / name))
    return directory


class Reader(HTMLParser):
    """Collects open tags, external links, texts and ids."""

    VOID = ("meta", "input", "br", "img", "line", "circle", "polyline", "polygon")

    def __init__(self, page):
        super().__init__()
        self.open, self.external, self.texts, self.ids = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href") and not value.startswith(("#", "data:")):
                self.external.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())


def written(runs, *names, tmp_path):
    file = tmp_path / "new" / "report.html"
    write_report([runs / name for name in names], file)
    return file.read_text()


@pytest.mark.parametrize("names", [("a",), ("a", "b", "c", "other")])
def test_the_page_is_valid_and_self_contained(runs, tmp_path, names):
    page = written(runs, *names, tmp_path=tmp_path)
    reader = Reader(page)
    assert reader.open == []
    assert reader.external == []
    assert "<script" not in page
    assert "url(" not in page
    assert len(reader.ids) == len(set(reader.ids))
    assert {link[1:] for link in re.findall(r'href="(#[a-z]+)"', page)} <= set(reader.ids)
    assert len(page) < 300_000


def test_the_numbers_of_one_run(runs, tmp_path):
    run = Run(runs / "a")
    page = written(runs, "a", tmp_path=tmp_path)
    assert f"{run.final['closing/return_mean']:.1f} ± " in page
    for text in ("CartPole-v1 · test · 1 rank (local) · seed 1", "Exploration rate ε", "gradients"):
        assert text in page
    shares = stage_shares(run)
    assert f"{100 * shares['gradients']:.1f} %" in page
    assert sum(shares.values()) == pytest.approx(1)
    assert "env.num-envs" in page
    assert run.last_start["platform"] in page


def test_seeds_are_grouped(runs, tmp_path):
    every = [Run(runs / name) for name in ("a", "other", "b", "c")]
    groups = group_runs(every)
    assert [[run.name for run in group.runs] for group in groups] == [["a", "b", "c"], ["other"]]
    assert [group.label for group in groups] == ["learning-rate 0.001", "learning-rate 0.0001"]
    curve = groups[0].curve("evaluation/return_mean")
    for place, step in enumerate(curve.env_steps):
        values = [
            record["evaluation/return_mean"]
            for run in groups[0].runs
            for record in run.records
            if record["env_steps"] == step and "evaluation/return_mean" in record
        ]
        assert len(values) == 3
        expected = score(values)
        assert curve.values[place] == pytest.approx(expected.iqm)
        assert (curve.low[place], curve.high[place]) == (expected.iqm_low, expected.iqm_high)
    page = written(runs, "a", "other", "b", "c", tmp_path=tmp_path)
    assert "learning-rate 0.001, 3 seeds" in page
    assert "3 of 3" in page


def test_changes_from_the_preset(runs):
    run = Run(runs / "a")
    run.config = run.config | {"preset": "cartpole"}
    changed = {name: (value, preset) for name, value, preset in run_settings(run) if preset}
    assert changed["total-env-steps"] == ("2,400", "50,000")
    assert "env.id" not in changed


def test_a_long_curve_keeps_its_spikes():
    x = np.arange(50_000.0)
    values = np.zeros(50_000)
    values[31_234], values[777] = 9.0, -4.0
    values[40] = np.nan
    figure = Figure("loss", "Loss", [Line("l", Curve(x, x / 10, values), 0)])
    chart = str(draw_svg(figure, over="seconds"))
    points = re.search(r'<polyline[^>]* points="([^"]*)"', chart).group(1).split()
    assert len(points) <= 302
    heights = [float(point.partition(",")[2]) for point in points]
    assert min(heights) == pytest.approx(10, abs=0.1), "the top"
    assert max(heights) == pytest.approx(232, abs=0.1), "the bottom"


def test_names_are_escaped(runs, tmp_path):
    evil = tmp_path / "<script>alert(1)<"
    shutil.copytree(runs / "a", evil)
    page = written(runs, evil, runs / "b", tmp_path=tmp_path)
    assert "<script" not in page


def test_unfinished_runs(runs, tmp_path):
    young, begun = tmp_path / "young", tmp_path / "begun"
    for place in (young, begun):
        shutil.copytree(runs / "a", place)
    (young / "metrics.jsonl").unlink()
    lines = (begun / "metrics.jsonl").read_text().splitlines(keepends=True)
    (begun / "metrics.jsonl").write_text("".join(lines[:2]) + '{"cut sh')
    assert "No records yet" in written(runs, young, tmp_path=tmp_path)
    assert "Exploration rate ε" in written(runs, begun, tmp_path=tmp_path)
    assert "0 of 2" in written(runs, young, begun, "other", tmp_path=tmp_path)


def test_facts_of_another_version_stay_blank(runs, tmp_path):
    place = tmp_path / "older"
    shutil.copytree(runs / "a", place)
    facts = json.loads((place / "run.json").read_text())
    (place / "run.json").write_text(json.dumps({"world_size": 1, "backend": "local", "new": [1]}))
    assert "Exploration rate ε" in written(runs, place, tmp_path=tmp_path)
    (place / "run.json").write_text(json.dumps(facts | {"resumed": [facts, facts]}))
    assert "resumed 2 times" in written(runs, place, tmp_path=tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        {"closing/return_std": None},
        {"closing/return_mean": None, "closing/return_std": None},
        {"evaluation/return_std": None},
        {"episode/return_p10": None},
        {"time/checkpoints": None},
        {"speed/env_steps_per_second": None, "loss/td_huber": None},
    ],
    ids=lambda damage: ", ".join(damage),
)
def test_incomplete_records(runs, tmp_path, damage):
    place = tmp_path / "lacking"
    shutil.copytree(runs / "a", place)
    records = map(json.loads, (runs / "a" / "metrics.jsonl").read_text().splitlines())
    lines = [{k: damage.get(k, v) for k, v in record.items()} for record in records]
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (place / "broken.gif").symlink_to(tmp_path / "nowhere.gif")
    (place / "empty.mp4").touch()
    page = written(runs, place, tmp_path=tmp_path)
    assert "Exploration rate ε" in page
    assert "data:" not in page
    written(runs, place, "b", "other", tmp_path=tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("config.json", "[]", "not written by hvd_dqn"),
        ("run.json", "7", "not written by hvd_dqn"),
        ("metrics.jsonl", "[1]\n[2]\n", "line 1 is not a record"),
        ("metrics.jsonl", '{"env_steps": 1}\n{}\n', "line 1 is not a record"),
    ],
)
def test_damaged_runs(runs, tmp_path, name, text, said):
    place = tmp_path / "foreign"
    shutil.copytree(runs / "a", place)
    (place / name).write_text(text)
    with pytest.raises(UserError, match=said):
        written(runs, place, tmp_path=tmp_path)


def test_a_video_is_embedded(runs, tmp_path):
    place = tmp_path / "seen"
    shutil.copytree(runs / "a", place)
    Image.new("RGB", (8, 8)).save(place / "episode.gif")
    page = written(runs, place, tmp_path=tmp_path)
    assert 'src="data:image/gif;base64,' in page
    assert Reader(page).external == []


def test_the_command(runs, tmp_path):
    done = hvd_dqn("report", str(runs / "b"), launcher="none")
    assert done.code == 0, done.output
    assert done.output.splitlines()[-1] == str(runs / "b" / "report.html")
    for words, said in (
        ([], "name at least one run directory"),
        ([str(tmp_path)], "config.json"),
        ([str(runs / "b"), "--output", "/proc/x/y.html"], "/proc/x/y.html cannot be written"),
    ):
        done = hvd_dqn("report", *words, launcher="none")
        assert done.code == 2, done.output
        assert said in done.output.splitlines()[-1]


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def browse(tmp_path, *arguments):
    """Headless Chromium, with a new profile."""
    return subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
            *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
            *("--disable-sync", "--hide-scrollbars", f"--user-data-dir={tmp_path / 'profile'}"),
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    ).stdout


ASK = """<script>
function shown(selector) {
  return [...document.querySelectorAll(selector)].filter(e => e.getClientRects().length).length;
}
const answer = {before: [shown(".by-steps"), shown(".by-seconds")]};
document.getElementById("over-seconds").click();
answer.after = [shown(".by-steps"), shown(".by-seconds")];
answer.wide = document.documentElement.scrollWidth <= document.documentElement.clientWidth;
const reachable = [...document.querySelectorAll("a, input, summary")];
answer.focus = reachable.filter(e => e.checkVisibility()).every(
  e => { e.focus(); return document.activeElement === e; });
answer.svg = [...document.querySelectorAll("svg")].every(e => e.getAttribute("aria-label"));
const rules = [...document.querySelectorAll("summary")];
rules.forEach(e => e.click());
answer.paper = getComputedStyle(document.body).backgroundColor;
document.title = JSON.stringify(answer);
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_shows_it(runs, tmp_path, width):
    page = written(runs, "a", "b", "other", tmp_path=tmp_path)
    asking = tmp_path / "asking.html"
    asking.write_text(page.replace("</body>", ASK + "</body>"))
    dom = browse(tmp_path, f"--window-size={width},900", "--dump-dom", asking.as_uri())
    title = re.search(r"<title>(.*?)</title>", dom).group(1).replace("&quot;", '"')
    answer = json.loads(title)
    count = answer["before"][0]
    assert count > 8
    assert answer["before"] == [count, 0]
    assert answer["after"] == [0, count]
    assert answer["wide"], "no horizontal scrolling"
    assert answer["focus"], "everything is reachable by keyboard"
    assert answer["svg"], "every chart has a description"


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_dark_mode(runs, tmp_path):
    page = tmp_path / "report.html"
    write_report([runs / "a"], page)
    brightness = []
    for options in ([], ["--blink-settings=preferredColorScheme=0"]):
        picture = tmp_path / "page.png"
        browse(
            tmp_path, *options, "--window-size=900,1200", f"--screenshot={picture}", page.as_uri()
        )
        with Image.open(picture) as image:
            pixels = np.asarray(image.convert("RGB"))
        brightness.append(float(np.median(pixels)))
        colours = np.unique(pixels.reshape(-1, 3), axis=0)
        assert len(colours) > 50, "charts are drawn"
    assert brightness[0] > 200
    assert brightness[1] < 60
