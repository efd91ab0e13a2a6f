"""Who of several processes is still alive: a connection each, which the kernel closes at its end.

The first process listens, the others connect and say nothing. A connection that closes without a
farewell means that its process died, whatever it died of and whatever the others are doing; the
first process then tells all others. Nothing is measured in time, so a busy or sleeping process is
never taken for a dead one.
"""

import ctypes
import os
import secrets
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.distributed as dist

from vireid_fast._collectives import CollectiveError

LEAVE = 5.0
"""Seconds in which a process finds out by itself that another is gone, before it is interrupted."""

GRACE = 20.0
"""Seconds that an interrupted process has to stop, before it is ended."""

WORDLESS = "ended without a word: killed, or out of memory"
"""What is said of a process that has said nothing."""

_FAREWELL = b"."
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
"""A machine that vanished is noticed after 15 + 4 x 5 seconds."""


@dataclass(frozen=True)
class Loss:
    """A process that died.

    Attributes:
        rank: Its number; -1 where only the first process knows.
        text: What to say of it.
    """

    rank: int
    text: str


class Watch:
    """Watches the connections in a thread of its own, from when it is made until `close`.

    Args:
        store: Where the processes met.
        rank: This process.
        names: How messages name each process.
        host: Where the first process can be reached.
        on_loss: Called once, in the thread, when a process is found dead; returns what to say.
        timeout: Seconds in which all processes must have connected.

    Raises:
        CollectiveError: The first process cannot be reached.
    """

    def __init__(
        self,
        store: dist.Store,
        rank: int,
        names: Sequence[str],
        host: str,
        on_loss: Callable[[Loss], str],
        timeout: float,
    ) -> None:
        self._names, self._rank, self._on_loss = names, rank, on_loss
        self._leaving = threading.Event()
        self._stop, self._wake = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stop, selectors.EVENT_READ, -1)
        self._peers: dict[int, socket.socket] = {}
        self.loss: Loss | None = None
        try:
            if rank == 0:
                self._listen(store, len(names), timeout)
            else:
                self._connect(store, host, timeout)
        except OSError as error:
            raise CollectiveError(
                f"distributed: the first process must be reachable at {host} within {timeout:g} "
                f"s, got {error}. See what the other processes printed."
            ) from error
        self._thread = threading.Thread(target=self._run, name="liveness", daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """This process is on its way out: it need not be interrupted any more."""
        self._leaving.set()

    def close(self, *, farewell: bool) -> None:
        """End the watch; without a farewell the others take this process for dead."""
        self.leave()
        for peer in self._peers.values():
            if farewell:
                _send(peer, _FAREWELL)
        self._wake.close()
        self._thread.join()
        for peer in self._peers.values():
            peer.close()
        self._stop.close()
        self._selector.close()

    def _listen(self, store: dist.Store, size: int, timeout: float) -> None:
        token = secrets.token_hex(8)
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        with socket.create_server(("", 0), family=family, dualstack_ipv6=dual) as server:
            store.set("watch", f"{server.getsockname()[1]} {token}")
            end = time.monotonic() + timeout
            while len(self._peers) < size - 1:
                server.settimeout(max(0.01, end - time.monotonic()))
                peer, _ = server.accept()
                peer.settimeout(5)
                said = _receive_line(peer).split()
                # Whoever else comes to this port does not know the word.
                if len(said) == 2 and said[0] == token and said[1].isdecimal():
                    self._add(int(said[1]), peer)
                else:
                    peer.close()

    def _connect(self, store: dist.Store, host: str, timeout: float) -> None:
        port, token = store.get("watch").decode().split()
        peer = socket.create_connection((host, int(port)), timeout=timeout)
        peer.sendall(f"{token} {self._rank}\n".encode())
        self._add(0, peer)

    def _add(self, rank: int, peer: socket.socket) -> None:
        peer.settimeout(None)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            # Not every system can set them.
            if hasattr(socket, option):
                peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        self._peers[rank] = peer
        self._selector.register(peer, selectors.EVENT_READ, rank)

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data < 0:
                    return
                loss = self._heard(key.data)
                if loss is not None:
                    self._lost(loss)
                    return

    def _heard(self, rank: int) -> Loss | None:
        """What a readable connection means: the end of a process, news of one, or a farewell."""
        peer = self._peers[rank]
        try:
            said = peer.recv(4096)
        except OSError:
            said = b""
        if said == _FAREWELL:
            self._selector.unregister(peer)
            return None
        if said:
            dead, _, text = said.decode(errors="replace").partition(" ")
            return Loss(int(dead) if dead.isdecimal() else -1, text)
        name = self._names[rank]
        return Loss(rank, f"{name} {WORDLESS}")

    def _lost(self, loss: Loss) -> None:
        loss = Loss(loss.rank, self._on_loss(loss))
        self.loss = loss
        for rank, peer in self._peers.items():
            if rank != loss.rank:
                _send(peer, f"{loss.rank} {loss.text}".encode())
        if self._leaving.wait(LEAVE):
            return
        # The process computes alone or waits where nothing wakes it.
        _interrupt_main()
        if not self._leaving.wait(GRACE):
            print(f"error: distributed: {loss.text}.", file=sys.stderr, flush=True)  # noqa: T201
            os._exit(1)


def _interrupt_main() -> None:
    """Raise KeyboardInterrupt in the main thread."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        os.kill(os.getpid(), signal.SIGINT)
        return
    # Shells start what runs in the background with SIGINT ignored; this wakes no sleeper.
    main = ctypes.c_ulong(threading.main_thread().ident or 0)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(main, ctypes.py_object(KeyboardInterrupt))


def process_name(rank: int) -> str:
    """How messages name this process."""
    return f"rank {rank} (pid {os.getpid()} on {socket.gethostname()})"


def _send(peer: socket.socket, content: bytes) -> None:
    try:
        peer.sendall(content)
    except OSError:
        # That process is gone; its own end has been noticed, or will be.
        return


def _receive_line(peer: socket.socket) -> str:
    content = b""
    try:
        while not content.endswith(b"\n") and len(content) < 100:
            part = peer.recv(100)
            if not part:
                break
            content += part
    except OSError:
        return ""
    return content.decode(errors="replace")
