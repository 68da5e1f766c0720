"""The end of a process that has used MPI."""

from types import SimpleNamespace

import pytest

from hvd_dqn.distributed import mpi


@pytest.mark.parametrize(
    ("environ", "last"),
    [
        ({"HYDI_CONTROL_FD": "7", "MPI_LOCALRANKID": "0"}, ["Finalize", "sleep"]),
        ({"HYDI_CONTROL_FD": "7", "MPI_LOCALRANKID": "1"}, ["Finalize"]),
        ({"MPI_LOCALRANKID": "0"}, ["Finalize"]),  # Intel MPI and others
        ({}, ["Finalize"]),
    ],
)
def test_under_mpich_the_first_rank_of_a_node_exits_last(monkeypatch, environ, last):
    for name in ("HYDI_CONTROL_FD", "MPI_LOCALRANKID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    did = []
    monkeypatch.setattr(mpi.time, "sleep", lambda seconds: did.append("sleep"))
    library = SimpleNamespace(Is_finalized=lambda: False, Finalize=lambda: did.append("Finalize"))
    mpi._finalize(library)
    assert did == last
