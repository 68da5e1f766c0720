"""Requests to stop, by signals to this process."""

from __future__ import annotations

import os
import signal
import time

import pytest

from hvd_dqn.common.signals import StopRequest, shield_children
from tests.launching import wait_until


@pytest.fixture(autouse=True)
def _handlers_are_restored():
    before = {number: signal.getsignal(number) for number in (1, 2, 10, 12, 15)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGINT"])
def test_a_signal_is_a_request(name):
    with StopRequest() as stop:
        assert not stop()
        os.kill(os.getpid(), getattr(signal, name))
        wait_until(stop, name)
        assert stop.reason == name
        assert not stop.is_by_callback


def test_a_hangup_that_is_ignored_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            stop.reclaim()
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            wait_until(stop)
            assert stop.reason == "SIGTERM"
            assert stop.taken == set()
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_signals_that_other_code_took_are_taken_back():
    with StopRequest() as stop:
        stop.reclaim()
        assert stop.taken == set()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.set_wakeup_fd(-1)
        stop.reclaim()
        assert stop.taken == {"SIGTERM", "SIGINT"}
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until(stop)
        assert stop.reason == "SIGTERM"


def test_looking_again_takes_microseconds():
    with StopRequest() as stop:
        began = time.perf_counter()
        for _ in range(100):
            stop.reclaim()
        assert (time.perf_counter() - began) / 100 < 1e-3


def test_the_second_interrupt_calls_and_can_raise_here():
    called = []
    with StopRequest() as stop:

        def at_once():
            called.append(1)
            stop.interrupt(KeyboardInterrupt())

        stop.on_second_interrupt = at_once
        os.kill(os.getpid(), signal.SIGINT)
        wait_until(stop)
        assert called == []

        def interrupted_sleep():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)

        with pytest.raises(KeyboardInterrupt):
            interrupted_sleep()
        assert called == [1]


def test_a_callbacks_request_can_be_fulfilled_and_a_signal_goes_before_it():
    stop = StopRequest()
    stop.request("enough")
    assert (stop.reason, stop.is_by_callback) == ("enough", True)
    stop.settle()
    assert not stop()
    stop.request("again")
    assert not stop()
    with StopRequest() as stop:
        stop.request("enough")
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until(lambda: stop.reason == "SIGTERM")
        assert not stop.is_by_callback


def test_children_are_shielded_from_a_terminal_that_goes_away():
    with shield_children():
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert {signal.SIGHUP, signal.SIGINT} <= blocked
    assert signal.SIGTERM not in blocked
