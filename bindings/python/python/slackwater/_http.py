"""HTTP with the standard library: one answer for one call, kept connections, a timeout, no redirects."""

from __future__ import annotations

import http.client
import select
import socket
import ssl
import threading
from typing import Any, Callable, Optional, Union
from urllib.parse import urlsplit

from ._errors import InvalidArgument

Call = tuple[str, str, list[tuple[str, str]], Optional[str]]
Came = Union[tuple[int, Optional[str], bytes], tuple[str, str]]

#: Largest answer that is read, bytes; the native module refuses larger ones.
MAX_ANSWER_BYTES = 8 << 20
#: Number of idle connections that are kept open.
MAX_IDLE = 8


class Transport:
    """Sends calls to one host. Safe to use from several threads."""

    def __init__(
        self,
        url: str,
        *,
        api_key: Optional[str] = None,
        timeout: float = 30.0,
        ssl_context: Optional[ssl.SSLContext] = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidArgument("invalid_argument", "url: http:// or https:// with a host is needed")
        if parts.username is not None or parts.password is not None:
            raise InvalidArgument("invalid_argument", "url: credentials don't belong into it; give api_key")
        if api_key is not None and not api_key.isprintable():
            raise InvalidArgument("invalid_argument", "api_key: it holds control characters")
        self._host, self._port = parts.hostname, parts.port
        self._is_tls = parts.scheme == "https"
        self._base = parts.path.rstrip("/")
        self._query = f"?{parts.query}" if parts.query else ""
        self._api_key, self._timeout = api_key, timeout
        host = f"[{self._host}]" if ":" in self._host else self._host
        #: Base URL of all calls, without query and credentials.
        self.url = f"{parts.scheme}://{host}{'' if self._port is None else f':{self._port}'}{self._base}"
        self._ssl = (ssl_context or ssl.create_default_context()) if self._is_tls else None
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Transport({self._host!r})"

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection
        if self._ssl is not None:
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=self._ssl)
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        connection.connect()
        sock: Any = connection.sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _reuse(self) -> Optional[http.client.HTTPConnection]:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            # Readable without a pending call: the other side has closed it.
            try:
                if connection.sock is not None and not select.select([connection.sock], [], [], 0)[0]:
                    return connection
            except (OSError, ValueError):
                pass
            connection.close()

    def _headers(self, call: Call) -> dict[str, str]:
        headers = dict(call[2])
        if self._api_key is not None:
            headers["authorization"] = f"Bearer {self._api_key}"
        return headers

    def send(self, call: Call) -> Came:
        """Sends once. A failure says how far the call got, without URL and credentials."""
        connection = self._reuse()
        if connection is None:
            try:
                connection = self._connect(self._timeout)
            except OSError as error:
                return ("unreachable", describe(error))
        method, path, _, body = call
        try:
            connection.request(
                method, (self._base + path or "/") + self._query, None if body is None else body.encode(), self._headers(call)
            )
            response = connection.getresponse()
            data = response.read(MAX_ANSWER_BYTES + 1)
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            return ("timeout" if isinstance(error, TimeoutError) else "broken", describe(error))
        if len(data) > MAX_ANSWER_BYTES or response.will_close:
            connection.close()
        else:
            with self._lock:
                if len(self._idle) < MAX_IDLE:
                    self._idle.append(connection)
                else:
                    connection.close()
        return (response.status, response.getheader("retry-after"), data)

    def open(self, call: Call, on_connection: Callable[[http.client.HTTPConnection], None]) -> tuple[Came, Any]:
        """Opens a stream, and returns the response to read from if that succeeds. The connection is never reused."""
        try:
            connection = self._connect(self._timeout)
        except OSError as error:
            return ("unreachable", describe(error)), None
        on_connection(connection)
        try:
            connection.request(call[0], (self._base + call[1] or "/") + self._query, None, self._headers(call))
            response = connection.getresponse()
            retry_after = response.getheader("retry-after")
            if response.status == 200:
                return (200, retry_after, b""), response
            came: Came = (response.status, retry_after, response.read(MAX_ANSWER_BYTES + 1))
        except (OSError, http.client.HTTPException, ValueError) as error:
            came = ("timeout" if isinstance(error, TimeoutError) else "broken", describe(error))
        connection.close()
        return came, None

    def close(self) -> None:
        """Closes all idle connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


def describe(error: BaseException) -> str:
    """Describes an error without the data that was sent."""
    return f"{type(error).__name__}: {getattr(error, 'strerror', None) or ''}".rstrip(": ")
