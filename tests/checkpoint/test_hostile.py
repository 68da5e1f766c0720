"""Malicious and damaged checkpoints are refused in bounded time and memory."""

from __future__ import annotations

import json
import resource
import shutil
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hvd_dqn.checkpoint.finder import find, require_config
from hvd_dqn.checkpoint.manifest import Manifest, _checksum
from hvd_dqn.checkpoint.store import DamageError, LocalStore
from hvd_dqn.common.errors import UserError
from hvd_dqn.common.state import pack, unpack
from hvd_dqn.config import Config
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.training import train
from tests.distributed.workers import small_config

CONFIG = small_config().changed(
    {"distributed.threads_per_rank": 1, "checkpoint.period_env_steps": 600, "checkpoint.keep": 3}
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run directory with three checkpoints."""
    path = tmp_path_factory.mktemp("run") / "run"
    train(CONFIG, LocalCommunicator(), RunDirectory(path))
    return path


@pytest.fixture
def run_dir(finished, tmp_path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def newest(run_dir: Path) -> Path:
    return max(run_dir.glob("checkpoints/step-*"))


def go_on(run_dir: Path, **changes):
    config = CONFIG.changed({"total_env_steps": 3000})
    return train(
        config, LocalCommunicator(), RunDirectory(run_dir), changes={"total_env_steps", *changes}
    )


def rewrite(manifest: Path, **changes) -> None:
    """Write a valid manifest with other contents."""
    body = json.loads(manifest.read_text())["body"] | changes
    manifest.write_text(json.dumps({"checksum": _checksum(body), "body": body}))


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_flipped_bit_and_any_missing_end_is_noticed(finished, data):
    store = LocalStore(finished / "checkpoints")
    latest = newest(finished).name
    body = json.loads((newest(finished) / "manifest.json").read_text())["body"]
    names = [body["shared"][0], *(state[0] for state, _ in body["ranks"])]
    names += [segment[0][0] for _, segments in body["ranks"] for segment in segments]
    file = (
        finished / "checkpoints" / data.draw(st.sampled_from([*names, f"{latest}/manifest.json"]))
    )
    good = file.read_bytes()
    place = data.draw(st.integers(0, len(good) - 1))
    cut_short = data.draw(st.booleans())
    flipped = bytes([good[place] ^ (1 << data.draw(st.integers(0, 7)))])
    file.write_bytes(good[:place] if cut_short else good[:place] + flipped + good[place + 1 :])
    try:
        found = find(store, LocalCommunicator())
        assert found.manifest is None or found.manifest.directory != latest
        assert found.passed_over[0].startswith(f"{latest}: ")
    finally:
        file.write_bytes(good)


def test_a_damaged_checkpoint_is_passed_over_and_reported(run_dir, capsys):
    (newest(run_dir) / "shared.safetensors").write_bytes(b"")
    summary = go_on(run_dir)
    assert summary.progress.env_steps >= 3000
    said = capsys.readouterr().out
    assert "skipped" in said
    assert "shared.safetensors is not what was written" in said
    facts = json.loads((run_dir / "run.json").read_text())
    assert len(facts["resumed"][0]["from"]["passed_over"]) == 1


def test_if_all_checkpoints_are_damaged_nothing_is_restarted(run_dir):
    for manifest in run_dir.glob("checkpoints/step-*/manifest.json"):
        manifest.write_text("{}")
    before = (run_dir / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"no checkpoint in .* can be used"):
        go_on(run_dir)
    assert (run_dir / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b'{"body": {}, "checksum": ""}',
        b"[" * 100_000,
        b'{"body":' * 50_000,
        b"9" * 10_000,
        b"\xff\xfe",
        b'{"checksum": 1, "body": {"ranks": 1e999}}',
    ],
)
def test_json_that_is_not_a_manifest(run_dir, text):
    (newest(run_dir) / "manifest.json").write_bytes(text)
    found = find(LocalStore(run_dir / "checkpoints"), LocalCommunicator())
    assert len(found.passed_over) == 1
    with pytest.raises(DamageError):
        Manifest.from_bytes(text)


@pytest.mark.parametrize(
    "change",
    [
        {"shared": ["../../../etc/passwd", 10, "0"]},
        {"shared": ["/etc/passwd", 10, "0"]},
        {"shared": ["x", -1, "0"]},
        {"shared": ["x", 10**30, "0"]},
        {"shared": []},
        {"ranks": [1]},
        {"ranks": [[["x", 1, "0"], [[["y", 1, "0"], [0], [1.5]]]]]},
        {"ranks": [[["x", 1, "0"], [[["y", 1, "0"], [-5], [10**18]]]]]},
        {"env_steps": None},
        {"env_steps": 7},
        {"config": []},
        {"format": 2},
        {"surprise": 1},
    ],
)
def test_a_manifest_with_a_valid_checksum_and_invalid_contents(run_dir, change):
    rewrite(newest(run_dir) / "manifest.json", **change)
    found = find(LocalStore(run_dir / "checkpoints"), LocalCommunicator())
    assert len(found.passed_over) == 1


def test_a_huge_sparse_file_is_rejected_without_reading_it(run_dir):
    file = newest(run_dir) / "shared.safetensors"
    with file.open("r+b") as giant:
        giant.truncate(2**42)
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = find(LocalStore(run_dir / "checkpoints"), LocalCommunicator())
    assert "shared.safetensors is not what was written" in found.passed_over[0]
    assert time.monotonic() - began < 10
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100_000, "KiB"


def test_a_state_of_another_form_is_rejected_in_one_line(run_dir):
    directory = newest(run_dir)
    manifest = directory / "manifest.json"
    states = {
        "of other shapes": pack({"progress": {"env_steps": 5, "updates": 1}, "learner": {},
                                 "observer": {}, "t": torch.zeros(3)}),
        "no state": b"x" * 100,
        "a header larger than the file": (2**40).to_bytes(8, "little") + b"{}",
        "JSON that is not an object": pack({}).replace(b"{}", b"[]"),
    }  # fmt: skip
    import hashlib

    for data in states.values():
        (directory / "shared.safetensors").write_bytes(data)
        record = [f"{directory.name}/shared.safetensors", len(data),
                  hashlib.sha256(data).hexdigest()]  # fmt: skip
        rewrite(manifest, shared=record)
        with pytest.raises(UserError) as told:
            go_on(run_dir)
        assert "\n" not in str(told.value)


def test_a_damaged_state_is_a_value_error():
    for data in (b"", b"x", b"\0" * 8, pack({"a": torch.zeros(2)})[:-1]):
        with pytest.raises(ValueError, match="not a saved state"):
            unpack(data)
    whole = {"a": {"b": torch.arange(3), "c": [1, None, "x"]}, "d": 0.5}
    back = unpack(pack(whole))
    assert torch.equal(back["a"]["b"], torch.arange(3))
    assert back["a"]["c"] == [1, None, "x"]
    assert back["d"] == 0.5


def test_another_config_is_rejected_unless_allowed(run_dir):
    config = CONFIG.changed({"optimizer.learning_rate": 0.5, "env.num_envs": 8})
    with pytest.raises(UserError) as told:
        train(config, LocalCommunicator(), RunDirectory(run_dir))
    assert "env.num-envs = 4" in str(told.value)
    assert "--resume-changes env.num-envs,optimizer.learning-rate" in str(told.value)
    with pytest.raises(UserError, match="unknown option"):
        train(config, LocalCommunicator(), RunDirectory(run_dir), changes={"nonsense"})
    with pytest.raises(UserError, match="is not empty"):
        train(CONFIG, LocalCommunicator(), RunDirectory(run_dir), resume="never")


def test_a_new_run_can_start_from_a_named_checkpoint(run_dir, tmp_path):
    oldest = min(run_dir.glob("checkpoints/step-*"))
    other = RunDirectory(tmp_path / "other")
    train(CONFIG, LocalCommunicator(), other, resume=str(oldest))
    ours = json.loads((newest(run_dir) / "manifest.json").read_text())["body"]
    theirs = json.loads((newest(other.path) / "manifest.json").read_text())["body"]
    assert ours["env_steps"] == theirs["env_steps"]
    assert ours["shared"][2] == theirs["shared"][2], "the result is the same bit for bit"
    with pytest.raises(UserError, match="it has no manifest"):
        train(CONFIG, LocalCommunicator(), RunDirectory(tmp_path / "third"),
              resume=str(run_dir / "checkpoints/step-000000000007"))  # fmt: skip


def test_two_runs_do_not_share_a_directory(run_dir):
    held = RunDirectory(run_dir).lock()
    with pytest.raises(UserError, match="another process is running"):
        go_on(run_dir)
    held.close()
    go_on(run_dir)


def test_an_option_of_a_later_version_is_not_a_change():
    now = Config().flat()
    older = {name: value for name, value in now.items() if name != "env.overlap_updates"}
    assert require_config(older, now, free=(), allowed=set()) == {}
    with pytest.raises(UserError, match=r"with env\.overlap-updates = False, not True"):
        require_config(older, now | {"env.overlap_updates": True}, free=(), allowed=set())


def test_the_same_keyword_arguments_may_be_written_in_several_ways():
    saved = Config().flat() | {"env.kwargs": '{"b":[1], "a": 1}'}
    now = Config().flat() | {"env.kwargs": '{"a": 1, "b": [1]}'}
    assert require_config(saved, now, free=(), allowed=set()) == {}
    with pytest.raises(UserError, match=r"env\.kwargs"):
        require_config(saved, now | {"env.kwargs": '{"a": 2, "b": [1]}'}, free=(), allowed=set())
