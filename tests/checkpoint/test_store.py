"""Stores of checkpoints: a directory, and a real S3 server."""

from __future__ import annotations

import hashlib
import os
import stat

import pytest

from hvd_dqn.checkpoint.store import (
    DamageError,
    FileRecord,
    LocalStore,
    open_store,
    read,
    require_name,
    verify,
)
from hvd_dqn.common.errors import StoppedError, UserError
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.training import train
from tests.checkpoints import assert_equal, everything
from tests.distributed.workers import small_config
from tests.run.test_resume import StopAfter


@pytest.fixture(scope="module")
def s3_server():
    """The URL of a server in this process."""
    server_module = pytest.importorskip("moto.server", reason="moto is not installed")
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = server_module.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_bucket(s3_server, monkeypatch):
    """A bucket for `s3://` URLs."""
    import boto3

    for name, value in {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_server,
    }.items():
        monkeypatch.setenv(name, value)
    name = "bucket-" + hashlib.sha256(os.urandom(8)).hexdigest()[:12]
    boto3.client("s3").create_bucket(Bucket=name)
    s3fs = pytest.importorskip("s3fs")
    s3fs.S3FileSystem.clear_instance_cache()  # its instances remember who asked
    yield f"s3://{name}"
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path):
    if request.param == "local":
        return open_store(str(tmp_path / "store"))
    return open_store(request.getfixturevalue("s3_bucket") + "/some/run")


def test_files_come_back_and_damage_is_noticed(store):
    chunks = [os.urandom(100_000), b"", os.urandom(3)]
    record = store.write("frames/a-1.bin", map(memoryview, chunks))
    assert record == (
        "frames/a-1.bin", 100_003, hashlib.sha256(b"".join(chunks)).hexdigest()
    )  # fmt: skip
    verify(store, record)
    assert read(store, record, limit=100_003) == b"".join(chunks)
    with pytest.raises(DamageError, match="more than"):
        read(store, record, limit=100_002)
    with store.open(record.name) as file:
        file.seek(100_000)
        assert file.read() == chunks[2]
    for other in (record._replace(size=100_002), record._replace(sha256="0" * 64)):
        with pytest.raises(DamageError, match="not what was written"):
            verify(store, other)
    with pytest.raises(DamageError, match="cannot be read"):
        verify(store, record._replace(name="frames/b.bin"))


def test_directories(store):
    assert store.list("") == []
    assert store.list("step-1") == []
    for name in ("step-1/a", "step-1/b", "step-2/a"):
        store.write(name, [memoryview(b"x")])
    store.publish("step-1/manifest.json", b"{}")
    assert sorted(store.list("")) == ["step-1", "step-2"]
    assert sorted(store.list("step-1")) == ["step-1/a", "step-1/b", "step-1/manifest.json"]
    store.publish("step-1/manifest.json", b"[]")
    with store.open("step-1/manifest.json") as file:
        assert file.read() == b"[]"
    store.remove("step-1/a")
    store.remove("step-2")
    store.remove("step-3")
    assert sorted(store.list("")) == ["step-1"]


@pytest.mark.parametrize(
    "name",
    ["", "/", "../x", "a/../b", "/etc/passwd", "a//b", ".x", "a\\b", "a b", "a\n", "x" + "\0"],
)
def test_a_name_outside_the_store_is_rejected(tmp_path, name):
    with pytest.raises(DamageError, match="is not a valid file name"):
        require_name(name)
    with pytest.raises(DamageError):
        LocalStore(tmp_path).open(name)


def test_links_pipes_and_directories_are_not_read(tmp_path):
    store = LocalStore(tmp_path / "store")
    (tmp_path / "store").mkdir()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "store" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "store" / "frames").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "store" / "pipe")
    with pytest.raises(DamageError, match="is a symbolic link"):
        store.open("link")
    with pytest.raises(DamageError, match="is a symbolic link"):
        store.write("frames/x", [memoryview(b"x")])
    with pytest.raises(DamageError, match="is a symbolic link"):
        store.remove("frames")
    with pytest.raises(UserError, match="not a regular file"):
        store.open("pipe")  # and does not wait for a writer
    with pytest.raises(DamageError):
        verify(store, FileRecord("pipe", 1, ""))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_files_are_as_private_as_the_user_asks(tmp_path):
    before = os.umask(0o077)
    try:
        LocalStore(tmp_path / "store").write("a/b", [memoryview(b"x")])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "store/a/b").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "store/a").stat().st_mode) == 0o700


def test_errors_of_a_remote_library_become_os_errors(s3_bucket, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    store = open_store(f"{s3_bucket}/run")
    for attempt in (
        lambda: store.write("a/b", [memoryview(b"x")]),
        lambda: store.publish("a/b", b"x"),
        lambda: store.remove("a/b"),
    ):
        with pytest.raises(OSError, match="redentials"):
            attempt()


def test_an_unknown_url_protocol_is_reported():
    with pytest.raises(UserError, match=r"checkpoint\.directory"):
        open_store("nonsense://x/y")


def test_a_run_resumes_from_s3_on_another_machine(tmp_path, s3_bucket):
    config = small_config().changed(
        {
            "distributed.threads_per_rank": 1,
            "checkpoint.period_env_steps": 240,
            "checkpoint.directory": f"{s3_bucket}/runs/one",
        }
    )
    with pytest.raises(StoppedError):
        train(config, LocalCommunicator(), RunDirectory(tmp_path / "here"), stop=StopAfter(60))
    train(config, LocalCommunicator(), RunDirectory(tmp_path / "there"))
    alone = config.changed({"checkpoint.directory": None})
    train(alone, LocalCommunicator(), RunDirectory(tmp_path / "alone"))
    import fsspec

    fs = fsspec.filesystem("s3")
    fs.get(f"{s3_bucket}/runs/one/", str(tmp_path / "copy") + "/", recursive=True)
    assert_equal(everything(tmp_path / "alone/checkpoints"), everything(tmp_path / "copy"))
