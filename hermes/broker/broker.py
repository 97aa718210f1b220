"""A broker: opens what a configuration names, runs the loop, and stops in order.

For a program that embeds one it is a context manager with a thread of its own; ``hermes serve``
calls :meth:`Broker.run`.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack
from typing import Any, NamedTuple, NoReturn, Self, TypeVar

from hermes.base import checks
from hermes.base.closing import AtExit, Closable, at_exit
from hermes.base.forks import close_in_children
from hermes.base.rlimits import start_thread
from hermes.broker import queries
from hermes.broker.config import Config, checked, from_values
from hermes.broker.hooks import Hooks
from hermes.broker.kernel import Kernel
from hermes.broker.loop import Loop
from hermes.broker.signals import Signals, quiet_collector
from hermes.broker.streams import Streams
from hermes.errors import Closed, HermesError, UsageError, WrongType
from hermes.plugins.discovery import Plugins, default_plugins
from hermes.spi.storage import Progress
from hermes.spi.transport import refuse_dial_options
from hermes.spi.url import parse_url

LOG = logging.getLogger("hermes.broker")

T = TypeVar("T")

NS_PER_S = 1_000_000_000
EXIT_S = 1.0
"""Seconds over ``limits.stop`` that the end of the program waits for a broker to stop."""
_started: weakref.WeakSet[Broker] = weakref.WeakSet()
"""Brokers that serve in a thread of their own."""
STOP_POLL_NS = 2_000_000
"""How often a stopping broker looks whether its clients have what they are owed."""


class Listener(NamedTuple):
    """One bound listener."""

    url: str
    transport: str
    doors: dict[str, str]
    """Further addresses, by role."""


class Broker(Closable):
    """One broker; made closed, opened by :meth:`open`, :meth:`start`, :meth:`run` or entering a
    ``with``.

    Takes a :class:`~hermes.broker.config.Config`, or its fields as keyword arguments with plain
    values, as in ``Broker(listeners=["inproc://orders"], storage="memory:")``.  ``registry`` is
    where plugins are looked up, instead of what is installed.

    Threads: :meth:`run` serves in the caller's; :meth:`stop`, :meth:`stats` and the properties may
    be used by any.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        registry: Plugins | None = None,
        progress: Progress | None = None,
        **settings: Any,
    ) -> None:
        if config is not None and settings:
            raise WrongType("config takes a Config, or leave it out and pass its fields; not both")
        if config is not None and not isinstance(config, Config):
            checks.wrong_type("config", "a hermes.broker.config.Config", config)
        if registry is not None and not isinstance(registry, Plugins):
            checks.wrong_type("registry", "a hermes.plugins.Plugins", registry)
        if progress is not None and not callable(progress):
            checks.wrong_type("progress", "a function", progress)
        self.config = from_values(settings) if config is None else checked(config)
        self._registry = registry
        self._progress = progress
        self._kernel: Kernel | None = None
        self._loop: Loop | None = None
        self._hooks: Hooks | None = None
        self._undo = ExitStack()
        self._thread: threading.Thread | None = None
        self._at = ""
        self._failure: BaseException | None = None
        self._untold: BaseException | None = None
        self._serving: int | None = None
        self._asked: set[Future[Any]] = set()
        self._stopping = self._aborting = False
        self._finished = False
        close_in_children(self)

    # Opening.

    def open(self) -> None:
        """Activate the plugins, open the storage, bind every listener and open the streams; nothing
        is served yet.

        Raises:
            InvalidUrl, InvalidConfig: the configuration makes no sense.
            PluginNotFound, PluginFailed: a transport, storage or other plugin cannot be used.
            AddressInUse, DirectoryLocked, StorageFailed, StorageFull, StorageDamaged: the machine
            says no.
        """
        if self._finished:
            raise Closed("this broker has been stopped: make another")
        if self._kernel is not None:
            return
        with self._undo as undo:
            self._open(undo)
            self._undo = undo.pop_all()

    def _open(self, undo: ExitStack) -> None:
        config, plugins = self.config, self._registry or default_plugins()
        urls = [parse_url(text) for text in config.listeners]
        transports = [plugins.transport_of(url) for url in urls]
        storage_url = parse_url(config.storage)
        backend = plugins.storage(storage_url.scheme)
        hooks = self._hooks = Hooks(plugins, config.plugins)
        undo.callback(hooks.stopped)
        storage = backend.open(storage_url)
        undo.callback(storage.close)
        streams = Streams(config, storage)
        undo.callback(streams.close)
        loop = Loop(idle=config.idle, spin_ns=int(config.spin))
        undo.callback(loop.close)
        kernel = Kernel(config, storage, streams, loop, hooks)
        undo.callback(kernel.turns.close_discarded)
        positions = kernel.context.durables.positions
        undo.callback(positions.close)
        for url, transport in zip(urls, transports, strict=True):
            refuse_dial_options(transport, url)
            agent = transport.listen(url, kernel)
            undo.callback(agent.close)
            kernel.agents.append(agent)
            loop.add(agent)
        # Last: where anything before is refused, no new stream is left in the storage.
        streams.open(self._progress, positions.farthest())
        positions.rewind({stream.name: stream.last_sequence for stream in streams})
        kernel.watch_logs()
        if len(kernel.agents) == 1:  # others would wait meanwhile
            kernel.context.serve_spin_ns = loop.spin_ns
        hooks.started(kernel.describe())
        self._kernel, self._loop = kernel, loop
        self._at = ", ".join(self.urls)

    # What is there.

    @property
    def listeners(self) -> list[Listener]:
        """Every bound listener, in the configuration's order."""
        agents = self._opened().agents
        return [
            Listener(agent.url, parse_url(agent.url).scheme, dict(agent.doors)) for agent in agents
        ]

    @property
    def urls(self) -> list[str]:
        """URLs of its listeners, ports resolved."""
        return [listener.url for listener in self.listeners]

    @property
    def url(self) -> str:
        """URL of its first listener."""
        return self.urls[0]

    @property
    def failure(self) -> BaseException | None:
        """The error that ended a started broker; None: none did, or it was asked to end.
        :meth:`close` raises it."""
        return self._failure

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._stopping

    @property
    def storage_url(self) -> str:
        """URL of the storage that keeps its streams."""
        return self._opened().context.storage.url

    @property
    def message_max(self) -> int:
        """Bytes of the largest payload that it takes."""
        return self._opened().context.limits.message_max

    @property
    def plugins(self) -> list[str]:
        """The plugins it has activated, in the order in which they are asked."""
        self._opened()
        return self._hooks.names if self._hooks is not None else []

    def streams(self) -> list[dict[str, Any]]:
        """Every stream: what it holds, claims and keeps."""
        context = self._opened().context
        return self._ask(lambda: [queries.describe(stream) for stream in context.streams])

    def stats(self) -> dict[str, Any]:
        """Every counter."""
        context = self._opened().context
        return self._ask(lambda: queries.counters(context))

    # Running.

    def run(self, *, signals: bool = True) -> None:
        """Serve until :meth:`stop`, or with ``signals`` until SIGTERM, SIGINT, SIGQUIT or SIGHUP; a signal while it
        stops forces the end.

        With ``signals`` it must be called in the main thread.
        """
        signals = checks.flag(signals, "signals")
        if signals and threading.current_thread() is not threading.main_thread():
            raise UsageError("signals can be handled in the main thread only: run(signals=False)")
        self.open()
        if not signals:
            self._serve()
            return
        with Signals(self, opened=True).handled():
            quiet_collector()
            self._serve()

    def start(self) -> Self:
        """Open it and serve in a thread of its own."""
        if self._thread is None:
            self.open()
            self._thread = threading.Thread(
                target=self._serve_guarded, name="hermes-broker", daemon=True
            )
            _started.add(self)
            start_thread(self._thread)
        return self

    def stop(self) -> None:
        """Ask it to stop: take no more connections, hand over what is owed, sync and close.

        Returns at once; may be called from any thread or a signal handler.  Idempotent.
        """
        self._stopping = True
        if self._loop is not None:
            self._loop.wake()

    def abort(self) -> None:
        """Ask it to stop without handing over what clients are owed; else as :meth:`stop`, which it
        cuts short."""
        self._aborting = True
        self.stop()

    def close(self) -> None:
        """Stop, wait until it has stopped, and raise what went wrong meanwhile.  Idempotent."""
        self.stop()
        thread = self._thread
        if thread is not None:
            thread.join()
        elif not self._finished:
            self._release()
        failure, self._untold = self._untold, None
        if failure is not None:
            raise failure

    def end_at_exit(self) -> None:
        """Stop in order because the program ends, and wait no longer than that may take."""
        thread = self._thread
        if thread is not None and thread.is_alive():
            self.stop()
            thread.join(self.config.limits.stop / NS_PER_S + EXIT_S)

    def __enter__(self) -> Self:
        return self.start()

    def __reduce__(self) -> NoReturn:
        raise WrongType(
            "a Broker cannot be pickled or copied: it is made of threads, sockets and files of this "
            "process; pass its URLs, and connect there"
        )

    def abandon(self) -> list[int]:
        """A forked child has no part in its parent's broker: there it is closed, and nothing that
        it holds is written to; see :class:`hermes.base.forks.Owner`."""
        if self._kernel is not None:
            self._finished = self._stopping = True
        self._undo = ExitStack()
        self._thread = None
        return []

    # Inside.

    def _serve_guarded(self) -> None:
        try:
            self._serve()
        except BaseException as error:  # close() raises it, in the thread that asks
            LOG.exception("the broker at %s has failed, and serves no more", self._at)
            self._failure = self._untold = error

    def _serve(self) -> None:
        kernel, loop = self._opened(), self._loop
        assert loop is not None
        loop.on_wake = self._look_at_stops
        self._serving = threading.get_ident()
        try:
            if not self._stopping:
                loop.run(kernel)
            if not self._aborting:
                self._drain(kernel, loop)
        finally:
            self._release()

    def _look_at_stops(self) -> None:
        if self._stopping:
            assert self._loop is not None
            self._loop.stop()

    def _drain(self, kernel: Kernel, loop: Loop) -> None:
        """Serve on until every client has what it is owed and has said goodbye, or the deadline has
        passed."""
        deadline = time.monotonic_ns() + self.config.limits.stop
        kernel.begin_stop()

        def look() -> None:
            left = kernel.close_connections()
            if not left or time.monotonic_ns() >= deadline:
                loop.stop()
            else:
                loop.call_at(time.monotonic_ns() + STOP_POLL_NS, look)

        loop.on_wake = lambda: loop.stop() if self._aborting else None
        loop.resume()
        look()
        loop.run(kernel)

    def _release(self) -> None:
        self._finished = True
        for future in list(self._asked):
            future.cancel()
        self._undo.close()

    def _opened(self) -> Kernel:
        if self._kernel is None:
            raise Closed(
                "the broker is not open: call open(), start() or run(), or use it in a with "
                "statement"
            )
        return self._kernel

    def _ask(self, question: Callable[[], T]) -> T:
        """The answer, computed in the loop's thread if it has one."""
        if self._finished:
            raise Closed("the broker has been stopped")
        idle = self._serving is None and self._thread is None
        if idle or self._serving == threading.get_ident():
            return question()
        assert self._loop is not None
        future: Future[T] = Future()

        def answer() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(question())
            except HermesError as error:
                future.set_exception(error)

        self._asked.add(future)
        self._loop.call(answer)
        if self._finished:  # it ended meanwhile and may not have seen the call
            future.cancel()
        try:
            return future.result()
        except CancelledError:
            raise Closed("the broker has been stopped") from None
        finally:
            self._asked.discard(future)


def _end_all() -> None:
    """The program ends: so does every broker in it, behind its clients."""
    for broker in list(_started):
        broker.end_at_exit()


at_exit(AtExit.BROKERS, _end_all)
