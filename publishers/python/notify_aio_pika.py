"""Publishes notifications to a lobby's players, with aio-pika. A file to copy: pip install aio-pika,
Python from 3.9 on.

    from notify_aio_pika import Publisher, broadcast, to_user

    async with Publisher("amqp://guest:guest@127.0.0.1:5672/%2f") as publisher:
        await publisher.publish(to_user(42, {"command": "notice", "style": "info", "text": "Your friend came online"}))
        await publisher.publish(broadcast({"command": "notice", "style": "info", "text": "Restart"}, expires=60))
        message_id, receipts = await publisher.publish_with_receipts(to_user(42, {"command": "notice", "text": "hi"}))

What a lobby would answer with silence is an `InvalidNotification` before anything is sent. `publish` returns when the
broker has confirmed, and raises `Unroutable` where no lobby is bound. The AMQP *property* user-id (the broker's login
name) is another thing than the header, and is never set.
"""
from __future__ import annotations

import asyncio
import json
import math
import os
import re
import time
import uuid
from typing import Any, Optional, Union

import aio_pika
from aio_pika.exceptions import AMQPError, ChannelNotFoundEntity, DeliveryError, PublishError

# ---- What is said, and to whom. The same text in notify_pika.py and notify_aio_pika.py. ----

EXCHANGE = "faf-lobby"
ROUTING_KEY = "request.client.notify"
MAX_BODY_BYTES = 4_259_840  # a lobby's default: 4 MiB and 64 KiB
MAX_EXPIRY_MS = 2**32 - 1  # the broker's: 49.7 days
_TEXTS = ("message_id", "correlation_id", "app_id")
_OPTIONS = {*_TEXTS, "expires", "headers", "priority", "timestamp", "traceparent"}
MAX_HEADERS_BYTES = 64 * 1024
_RECEIPT_HEADER = "x-lobby-receipt"
_RECEIPT_QUEUE = {"x-max-length": 100_000}
# In any spelling: lobbies would pass over `User-Id`, and what is meant for one player would reach everyone.
_RESERVED = {
    "userid": "address a player with to_user(…)",
    "channel": "address a channel with to_channel(…)",
    "traceparent": "use the option traceparent",
    "xlobbyreceipt": "use publish_with_receipts(…)",
    "cc": "the broker would route copies by it",
    "bcc": "the broker would route copies by it",
    "xlobbyundecodableheaders": "lobbies set it; choose another",
}
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_MADE_HERE = object()


class InvalidNotification(ValueError):
    """Nothing was sent: this notification would not reach whom it is meant for. The text says what to change."""


class NotPublished(Exception):
    """The broker did not confirm the message."""


class Unroutable(NotPublished):
    """Nobody heard it: no lobby is bound to the exchange, or the exchange does not exist. Publishing again is of no
    use before a lobby has started."""


class Nacked(NotPublished):
    """The broker refused the message. Publish the same notification again, later."""


class Unconfirmed(NotPublished):
    """No answer: the message may or may not have been taken. Publishing the same notification again may duplicate it,
    with the same message id."""


class RawJson:
    """A body as written, which players get byte for byte: one UTF-8 JSON object."""

    def __init__(self, text: Union[str, bytes]) -> None:
        if not isinstance(text, (str, bytes)):
            raise InvalidNotification(f"raw JSON is {_shown(text)}; give str or bytes")
        self.text = text


class Notification:
    """A checked message, made by `to_user`, `to_channel` or `broadcast` and by nothing else."""

    __slots__ = ("_headers", "body", "properties")

    def __init__(self, made_here: object, headers: dict, body: bytes, properties: dict) -> None:
        if made_here is not _MADE_HERE:
            raise InvalidNotification("make a notification with to_user(…), to_channel(…) or broadcast(…)")
        self._headers, self.body, self.properties = headers, body, properties

    @property
    def headers(self) -> dict:
        """The headers as they are sent: `user-id`, or `channel`, or neither, then `traceparent` and your own."""
        return dict(self._headers)


def to_user(user_id: int, body: Union[dict, RawJson], **options: Any) -> Notification:
    """To every session of one player. Options: see `broadcast`."""
    return _notification({"user-id": _checked_user_id(user_id)}, body, options)


def to_channel(name: str, body: Union[dict, RawJson], **options: Any) -> Notification:
    """To one channel. Reserved: today's lobbies acknowledge it and send it to nobody. Options: see `broadcast`."""
    if not isinstance(name, str):
        raise InvalidNotification(f"channel is {_shown(name)}; give a str")
    _utf8("channel", name)
    return _notification({"channel": name}, body, options)


def broadcast(body: Union[dict, RawJson], **options: Any) -> Notification:
    """To every player who is logged in.

    Options: `expires` (seconds in the broker's queue, until it is dropped), `priority` (0 to 255), `message_id` (a UUID
    of version 7 unless given), `correlation_id`, `app_id`, `timestamp` (seconds since 1970; now unless given),
    `traceparent` (W3C) and `headers` (your own, which lobbies pass over: texts, integers and booleans by name).
    """
    return _notification({}, body, options)


def _notification(headers: dict, body: Union[dict, RawJson], options: dict) -> Notification:
    unknown = sorted(options.keys() - _OPTIONS)
    if unknown:
        raise InvalidNotification(f"there is no option {', '.join(unknown)}; a player is addressed by to_user(…)")
    given = {name: value for name, value in options.items() if value is not None}
    properties = {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "delivery_mode": 2,
        "message_id": _uuid7(),
        "timestamp": _integer("timestamp", given.get("timestamp", int(time.time())), 0, 253_402_300_799),
    }
    if "expires" in given:
        properties["expiration"] = _expiration(given["expires"])
    if "priority" in given:
        properties["priority"] = _integer("priority", given["priority"], 0, 255)
    for name in _TEXTS:
        if name in given:
            if len(_utf8(name, given[name])) > 255:
                raise InvalidNotification(f"{name} is longer than 255 bytes; shorten it")
            properties[name] = given[name]
    if "traceparent" in given:
        text = given["traceparent"]
        if not isinstance(text, str) or not _TRACEPARENT.fullmatch(text):
            raise InvalidNotification(f"traceparent is {_shown(text)}; expected 00-<32 hex>-<16 hex>-<2 hex>")
        headers["traceparent"] = text
    headers.update(_checked_headers(given.get("headers", {})))
    return Notification(_MADE_HERE, headers, _checked_body(body), properties)


def _checked_user_id(value: Any) -> int:
    if value is None:
        raise InvalidNotification("user id is None, which would reach every player; mean it with broadcast(…)")
    return _integer("user id", value, -(2**63), 2**63 - 1)


def _checked_headers(headers: Any) -> dict:
    if not isinstance(headers, dict):
        raise InvalidNotification(f"headers is {_shown(headers)}; give a dict")
    size = 0
    for name, value in headers.items():
        length = len(_utf8("header name", name))
        if not 1 <= length <= 255:
            raise InvalidNotification(f"header name of {length} bytes; give 1 to 255")
        instead = _RESERVED.get(re.sub("[^a-z0-9]", "", name.lower()))
        if instead is not None:
            raise InvalidNotification(f"header {_shown(name)} means something; {instead}")
        if isinstance(value, str):
            size += len(_utf8(f"header {name}", value))
        elif not isinstance(value, bool):
            if not isinstance(value, int):
                raise InvalidNotification(f"header {name} is {_shown(value)}; give a str, an int or a bool")
            _integer(f"header {name}", value, -(2**63), 2**63 - 1)
        size += length + 10
    if size > MAX_HEADERS_BYTES:
        raise InvalidNotification(f"headers are {size} bytes, limit {MAX_HEADERS_BYTES}; put it into the body")
    return headers


def _receipt_wait(notification: Notification, scope: Any, answers: Any, wait: Any) -> tuple[float, float]:
    """How many receipts are enough, and for how many seconds they are waited for."""
    if scope not in ("written-only", "all"):
        raise InvalidNotification(f"scope is {_shown(scope)}; give 'written-only' or 'all'")
    if isinstance(wait, bool) or not isinstance(wait, (int, float)) or not 0 <= wait <= 3600:
        raise InvalidNotification(f"wait is {_shown(wait)}; give seconds, 0 to 3600")
    if answers is not None:
        return _integer("answers", answers, 1, 1_000_000), wait
    return (1 if scope == "written-only" and "user-id" in notification._headers else math.inf), wait


def _receipt_of(body: bytes) -> Optional[dict]:
    try:
        receipt = json.loads(body)
    except ValueError:
        return None
    return receipt if isinstance(receipt, dict) else None


def _checked_body(body: Any) -> bytes:
    if isinstance(body, RawJson):
        raw = body.text if isinstance(body.text, bytes) else _utf8("body", body.text)
    elif isinstance(body, dict):
        try:
            text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidNotification(f"body cannot be written as JSON: {error}") from error
        raw = _utf8("body", text)
    else:
        raise InvalidNotification(f"body is {_shown(body)}; give a dict, or RawJson(…) for text that is JSON already")
    if len(raw) > MAX_BODY_BYTES:
        raise InvalidNotification(f"body is {len(raw)} bytes, limit {MAX_BODY_BYTES}; split it or send a reference")
    if isinstance(body, RawJson):
        raw = raw[3:] if raw.startswith(b"\xef\xbb\xbf") else raw
        try:
            value = json.loads(raw.decode("utf-8"), parse_constant=_no_number, parse_int=len, parse_float=len)
        except RecursionError as error:
            raise InvalidNotification("body is nested deeper than Python can check") from error
        except ValueError as error:
            raise InvalidNotification(f"body is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise InvalidNotification(f"body is JSON of type {type(value).__name__}; wrap it in an object")
    return raw.strip(b" \t\r\n")


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


def _expiration(seconds: Any) -> str:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not math.isfinite(seconds):
        raise InvalidNotification(f"expires is {_shown(seconds)}; give seconds")
    milliseconds = math.ceil(seconds * 1000)
    if not 1 <= milliseconds <= MAX_EXPIRY_MS:
        raise InvalidNotification(f"expires is {seconds} s; give more than 0 and at most {MAX_EXPIRY_MS / 1000}")
    return str(milliseconds)


def _integer(what: str, value: Any, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidNotification(f"{what} is {_shown(value)}; give an int")
    if not least <= value <= most:
        raise InvalidNotification(f"{what} is {_shown(value)}; give {least} to {most}")
    return int(value)


def _utf8(what: str, text: Any) -> bytes:
    if not isinstance(text, str):
        raise InvalidNotification(f"{what} is {_shown(text)}; give a str")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidNotification(f"{what} is not Unicode text: {error.reason}") from error


def _uuid7() -> str:
    random = int.from_bytes(os.urandom(10), "big")
    bits = (time.time_ns() // 1_000_000) << 80 | 7 << 76 | (random >> 68) << 64 | 2 << 62 | random & (2**62 - 1)
    return str(uuid.UUID(int=bits))


def _shown(value: Any) -> str:
    text = hex(value) if type(value) is int and value.bit_length() > 200 else repr(value)
    return f"{type(value).__name__} {text if len(text) <= 64 else text[:64] + '…'}"


# ---- How it is sent. ----


class Publisher:
    """A connection that publishes with confirms, made when it is needed and made again when it is lost. For any number
    of tasks of one event loop."""

    def __init__(self, url: str, exchange: str = EXCHANGE, confirm_timeout: float = 10) -> None:
        """`confirm_timeout`, in seconds, bounds each wait for the broker: to connect, for a confirm, and to close."""
        self._url, self._exchange, self._timeout = url, exchange, confirm_timeout
        self._connection: Optional[aio_pika.abc.AbstractConnection] = None
        self._open: Optional[aio_pika.abc.AbstractChannel] = None
        self._opening = asyncio.Lock()
        self._replies: Optional[aio_pika.abc.AbstractQueue] = None
        self._asked: dict[str, list[asyncio.Queue]] = {}  # who waits for receipts, by message id

    async def __aenter__(self) -> Publisher:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection, if there is one."""
        connection, self._connection, self._open = self._connection, None, None
        if connection is not None and not connection.is_closed:
            try:
                await asyncio.wait_for(connection.close(), self._timeout)
            except asyncio.TimeoutError:
                pass  # a broker that does not answer loses the connection all the same

    async def publish(self, notification: Notification) -> str:
        """Returns the message id once the broker has confirmed. Raises `Unroutable`, `Nacked` or `Unconfirmed`; before
        anything is sent `InvalidNotification`, or `OSError` (a `ConnectionError`) where there is no broker."""
        self._check(notification)
        return await self._send(notification, notification.headers, notification.properties)

    async def publish_with_receipts(
        self, notification: Notification, scope: str = "written-only", answers: Optional[int] = None, wait: float = 2
    ) -> tuple[str, list[dict]]:
        """As `publish`, and returns the lobbies' receipts too: dicts with `instance`, `outcome` ("written",
        "not_connected", "dropped", "overflowed", "disconnected"), `sessions_written` and more, see docs/receipts.md.

        `scope` "written-only" asks the lobbies where somebody is addressed, "all" every lobby. It waits for `answers`
        receipts; unless given, for the first where one user is asked about with "written-only", else for all that come
        within `wait` seconds (0 to 3600) of the broker's confirm. A receipt may be lost: a missing one proves nothing,
        and is no error. Raises what `publish` raises, and `NotPublished` where no queue for receipts can be had."""
        self._check(notification)
        enough, wait = _receipt_wait(notification, scope, answers, wait)
        message_id = notification.properties["message_id"]
        reply = {"correlation_id": message_id, **notification.properties, "reply_to": await self._receipt_queue()}
        came: asyncio.Queue = asyncio.Queue()
        self._asked.setdefault(message_id, []).append(came)
        try:
            await self._send(notification, {**notification.headers, _RECEIPT_HEADER: scope}, reply)
            receipts: list[dict] = []
            end = time.monotonic() + wait
            while len(receipts) < enough:
                try:
                    receipts.append(await asyncio.wait_for(came.get(), max(0, end - time.monotonic())))
                except asyncio.TimeoutError:
                    break
            return message_id, receipts
        finally:
            several = self._asked[message_id]
            several.remove(came)
            if not several:
                del self._asked[message_id]

    async def _receipt_queue(self) -> str:
        """The queue for receipts, which goes with the channel."""
        channel = await self._channel()
        async with self._opening:
            if self._replies is None or self._replies.channel is not channel:
                try:
                    queue = await channel.declare_queue(
                        exclusive=True, auto_delete=True, arguments=_RECEIPT_QUEUE, timeout=self._timeout
                    )
                    await queue.consume(self._on_receipt, no_ack=True, timeout=self._timeout)
                except (AMQPError, OSError, asyncio.TimeoutError) as error:
                    raise NotPublished(f"nothing was sent: no queue for receipts: {error!r}") from error
                self._replies = queue
            return self._replies.name

    async def _on_receipt(self, message: aio_pika.abc.AbstractIncomingMessage) -> None:
        receipt = _receipt_of(message.body)
        for came in self._asked.get((receipt or {}).get("message_id") or "", []):
            came.put_nowait(receipt)

    @staticmethod
    def _check(notification: Any) -> None:
        if not isinstance(notification, Notification):
            raise InvalidNotification(f"publish got {_shown(notification)}; give it what to_user(…) returns")

    async def _send(self, notification: Notification, headers: dict, given: dict) -> str:
        channel = await self._channel()
        properties = dict(given)
        if "expiration" in properties:  # aio-pika counts seconds and cuts; half a millisecond keeps it from losing one
            properties["expiration"] = (int(properties["expiration"]) + 0.5) / 1000
        message = aio_pika.Message(notification.body, headers=headers, **properties)
        exchange = await channel.get_exchange(self._exchange, ensure=False)
        try:
            await exchange.publish(message, ROUTING_KEY, mandatory=True, timeout=self._timeout)
        except PublishError as error:
            raise Unroutable(f"no lobby is bound to exchange '{self._exchange}': nobody heard it") from error
        except DeliveryError as error:
            raise Nacked("the broker refused the message") from error
        except ChannelNotFoundEntity as error:
            raise Unroutable(f"exchange '{self._exchange}' does not exist: no lobby has been here") from error
        except (AMQPError, OSError, asyncio.TimeoutError) as error:
            raise Unconfirmed(f"no confirm: {error!r}") from error
        return notification.properties["message_id"]

    async def _channel(self) -> aio_pika.abc.AbstractChannel:
        async with self._opening:
            if self._connection is None or self._connection.is_closed:
                self._connection = await aio_pika.connect(self._url, timeout=self._timeout)
                self._open = None
            if self._open is None or self._open.is_closed:
                opening = self._connection.channel(publisher_confirms=True, on_return_raises=True)
                try:
                    self._open = await asyncio.wait_for(opening, self._timeout)
                except asyncio.TimeoutError as error:
                    raise ConnectionError("the broker does not answer: nothing was sent") from error
            return self._open
