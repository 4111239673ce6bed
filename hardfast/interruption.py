"""Ctrl-C and SIGTERM for loops that finish what they are at: the first request waits, the second does not."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

__all__ = ["Flag", "Interrupted", "Interruption", "exit_status", "interruptible", "interruption", "obey"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The process was asked to stop.

    Args:
        signum: the signal that asked.
        at_once: whether it was asked again, so that nothing may be begun any more.
    """

    def __init__(self, signum: int = signal.SIGINT, at_once: bool = False) -> None:
        super().__init__(signum, at_once)  # its arguments, so that it can be sent from one process to another
        self.signum, self.at_once = signum, at_once


def exit_status(stop: KeyboardInterrupt) -> int:
    """What a shell reports of a command that ended by a signal: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + (stop.signum if isinstance(stop, Interrupted) else signal.SIGINT)


class Flag(Protocol):
    """An event of ``threading`` or ``multiprocessing``."""

    def is_set(self) -> bool: ...

    def set(self) -> None: ...


class Interruption:
    """Whether a loop has been asked to stop.

    Args:
        flag: shared with whoever asks; an own one if None.
    """

    def __init__(self, flag: Flag | None = None) -> None:
        self._flag = flag or threading.Event()
        self._signum: int = signal.SIGINT

    @property
    def requested(self) -> bool:
        """Whether to stop after the step at hand."""
        return self._flag.is_set()

    def request(self, signum: int) -> None:
        """Asks the loop to stop."""
        self._signum = signum
        self._flag.set()

    def raise_if_requested(self) -> None:
        """Raises :class:`Interrupted`, for a loop that has saved what it had."""
        if self.requested:
            raise Interrupted(self._signum)


#: In a process that another one started: what that one says. Signals are that one's business.
_from_parent: Interruption | None = None


def obey(flag: Flag) -> None:
    """Makes every :func:`interruption` of this process wait for a flag of the process that started it."""
    global _from_parent
    for signum in _SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    _from_parent = Interruption(flag)


@contextmanager
def interruption(told: str, flag: Flag | None = None) -> Iterator[Interruption]:
    """Turns the first Ctrl-C or SIGTERM inside the block into a request; the second raises :class:`Interrupted`.

    Args:
        told: printed after the first: what is still finished.
        flag: set by the first signal, such as one that other processes obey.
    """
    if _from_parent is not None:
        yield _from_parent
        return
    asked = Interruption(flag)
    if threading.current_thread() is not threading.main_thread():
        yield asked  # only the main thread may set what a signal does
        return

    def at_once(signum: int, _: object) -> None:
        raise Interrupted(signum, at_once=True)

    def remember(signum: int, _: object) -> None:
        asked.request(signum)
        for number in _SIGNALS:
            signal.signal(number, at_once)
        with suppress(RuntimeError):  # the signal came in the middle of another print
            print(f"\n{told}; Ctrl-C again stops at once", file=sys.stderr)

    with _handlers(remember):
        yield asked


@contextmanager
def interruptible() -> Iterator[None]:
    """Makes SIGTERM inside the block raise :class:`Interrupted`, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, _: object) -> None:
        raise Interrupted(signum)

    with _handlers(stop):
        yield


@contextmanager
def _handlers(handler: Any) -> Iterator[None]:
    before = {signum: signal.signal(signum, handler) for signum in _SIGNALS}
    try:
        yield
    finally:
        for signum, previous in before.items():
            signal.signal(signum, signal.SIG_DFL if previous is None else previous)  # None: not set from Python
