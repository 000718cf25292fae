"""Connections that nobody can hold for nothing: a head is sent in time and is not endless, and answers are read."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Connection(HttpToolsProtocol):
    """uvicorn's connection, which by itself waits without end for a request's head and for a reader that does not read.

    Between two requests its own keep-alive time-out counts; how long a body may take is the application's affair.
    """

    head_seconds = 10.0
    most_head_bytes = 64 * 1024
    unread_seconds = 60.0

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head_bytes = 0
        self._head_ends: asyncio.TimerHandle | None = None
        self._reading_ends: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Wait for a head, but not for ever."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._stop(self._head_ends, self._reading_ends)
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Another head begins."""
        super().on_message_begin()
        self._head_bytes = 0
        if self._head_ends is None:
            self._expect_head()

    def on_headers_complete(self) -> None:
        """The head is here."""
        self._stop(self._head_ends)
        self._head_ends = None
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Part of a request; one whose head is too long is not waited for."""
        super().data_received(data)
        self._head_bytes += len(data)
        if self._head_ends is not None and self._head_bytes > self.most_head_bytes:
            self.transport.close()

    def pause_writing(self) -> None:
        """Nobody reads what is answered."""
        super().pause_writing()
        self._reading_ends = self.loop.call_later(self.unread_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Somebody does again."""
        self._stop(self._reading_ends)
        super().resume_writing()

    def _expect_head(self) -> None:
        self._head_ends = self.loop.call_later(self.head_seconds, self.transport.close)

    @staticmethod
    def _stop(*timers: asyncio.TimerHandle | None) -> None:
        for timer in timers:
            if timer is not None:
                timer.cancel()
