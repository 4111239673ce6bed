"""Ctrl-C and SIGTERM: the first waits, the second does not, and afterwards all is as before."""

from __future__ import annotations

import pickle
import signal
import threading

import pytest

from hardfast.interruption import Interrupted, exit_status, interruptible, interruption

BOTH = pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])


@pytest.fixture(autouse=True)
def _handlers_are_restored():
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == before


@BOTH
def test_the_first_is_a_request(signum, status, capsys):
    with interruption("saving") as asked:
        assert not asked.requested
        asked.raise_if_requested()
        signal.raise_signal(signum)
        assert asked.requested
        with pytest.raises(Interrupted) as stop:
            asked.raise_if_requested()
    assert (exit_status(stop.value), stop.value.at_once) == (status, False)
    assert capsys.readouterr().err == "\nsaving; Ctrl-C again stops at once\n"


@BOTH
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_the_second_stops_at_once(signum, status, first):
    def ask_twice() -> None:
        with interruption("saving"):
            signal.raise_signal(first)
            signal.raise_signal(signum)
            raise AssertionError("not reached")

    with pytest.raises(Interrupted) as stop:
        ask_twice()
    assert (exit_status(stop.value), stop.value.at_once) == (status, True)


@BOTH
def test_a_process_that_ignored_signals_is_stopped_too(signum, status):
    """As those in the background of a script do."""
    before = signal.signal(signum, signal.SIG_IGN)
    try:
        with interruption("saving") as asked:
            signal.raise_signal(signum)
            assert asked.requested
        assert signal.getsignal(signum) is signal.SIG_IGN
    finally:
        signal.signal(signum, before)


@BOTH
def test_outside_of_loops_both_raise(signum, status):
    def ask_after_a_loop() -> None:
        with interruptible():
            with interruption("saving"):
                pass
            signal.raise_signal(signum)
            raise AssertionError("not reached")

    with pytest.raises(KeyboardInterrupt) as stop:
        ask_after_a_loop()
    assert exit_status(stop.value) == status


def test_plain_keyboard_interrupts_have_the_status_of_ctrl_c():
    assert exit_status(KeyboardInterrupt()) == 130


def test_it_goes_from_one_process_to_another():
    stop = pickle.loads(pickle.dumps(Interrupted(signal.SIGTERM, at_once=True)))
    assert (stop.signum, stop.at_once) == (signal.SIGTERM, True)


def test_other_threads_may_run_loops():
    seen = []

    def loop() -> None:
        with interruptible(), interruption("saving") as asked:
            seen.append(asked.requested)

    thread = threading.Thread(target=loop)
    thread.start()
    thread.join()
    assert seen == [False]
