"""Clients of the service, synchronous and asynchronous, with the service's schemas as answers."""

import asyncio
import time
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import aclosing, closing
from itertools import count
from typing import Any, Final, Self, TypeVar

import httpx2

from app.api.schemas import BatchAnswers, Health, ModelCard, Prediction
from app.recordings.schemas import Line
from emmr import calls
from emmr.calls import Call, Channels, IncompleteAnswer, Lines, ProblemError, Retries, Utterance, raise_for_problem
from emmr.files import File, Transcribe

__all__ = ["AsyncClient", "Client", "IncompleteAnswer", "ProblemError", "Utterance"]

T = TypeVar("T")

CONNECT_TIMEOUT: Final = 10.0  # seconds


def _options(url: str, api_key: str | None, timeout: float) -> dict[str, Any]:
    return {
        "base_url": url,
        "headers": {"User-Agent": "emmr", **({"Authorization": f"Bearer {api_key}"} if api_key else {})},
        "timeout": httpx2.Timeout(timeout, connect=CONNECT_TIMEOUT),
    }


class Client:
    """A client of the service; a context manager. It may be used from several threads.

    Every method raises `ProblemError` for an answer with an error status, `OSError` for a file that cannot be read, and
    `httpx2.TransportError` where there is no answer.

    Args:
        url: of the service, `http://127.0.0.1:8000` for example.
        api_key: if the service requires one.
        timeout: seconds without a byte, in either direction.
        retries: how often a request is sent again, at most: after 429 and 503, and after a connection that failed
            before the body was sent.
        max_retry_wait: seconds; a longer Retry-After is not waited for.
        transport: of httpx2: for a proxy, or a service in the same process.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = 120.0,
        retries: int = 3,
        max_retry_wait: float = 30.0,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self._client = httpx2.Client(transport=transport, **_options(url, api_key, timeout))
        self._retries = Retries(retries, max_retry_wait)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def predict(
        self,
        *,
        text: str | None = None,
        audio: File | None = None,
        openface: File | None = None,
        explain: bool = False,
        threshold: float | None = None,
        face_id: int | None = None,
        transcribe: Transcribe | None = None,
    ) -> Prediction:
        """Answer for one utterance (`POST /predict`).

        The arguments are those of `emmr.Model.predict`; those that are None are the service's choice.
        """
        return self._send(calls.predict(text, audio, openface, explain, threshold, face_id, transcribe))

    def predict_batch(
        self,
        utterances: Mapping[str, Utterance],
        *,
        explain: bool = False,
        threshold: float | None = None,
        transcribe: Transcribe | None = None,
    ) -> BatchAnswers:
        """Return an answer or a problem for each utterance (`POST /predict/batch`), by an id of the caller's."""
        return self._send(calls.predict_batch(utterances, explain, threshold, transcribe))

    def timeline(
        self,
        *,
        audio: File | None = None,
        transcript: File | None = None,
        openface: File | None = None,
        channels: Channels = "mix",
        explain: bool = False,
        threshold: float | None = None,
        transcribe: Transcribe | None = None,
        speaker_normalization: bool = True,
    ) -> Generator[Line, None, None]:
        """Yield the lines of a recording as they arrive (`POST /recordings`).

        The arguments are those of `emmr.Model.timeline`; those that are None are the service's choice.

        Raises:
            IncompleteAnswer: the answer ended before its summary.
        """
        call = calls.timeline(
            audio, transcript, openface, channels, explain, threshold, transcribe, speaker_normalization
        )
        response = self._open(call)
        lines = Lines()
        try:
            raise_for_problem(response)
            yield from map(lines.read, filter(None, response.iter_lines()))
        finally:
            response.close()
        lines.end()

    def health(self) -> Health:
        """Return the state of the service (`GET /health`), also where it is not ready."""
        with closing(self._try(calls.HEALTH)) as response:
            response.read()
            return calls.HEALTH.read(response)

    def model(self) -> ModelCard:
        """Return the weights, the limits and the model card (`GET /model`)."""
        return self._send(calls.MODEL)

    def _send(self, call: Call[T]) -> T:
        with closing(self._open(call)) as response:
            raise_for_problem(response)
            response.read()
            return call.read(response)

    def _open(self, call: Call[T]) -> httpx2.Response:
        """Send a request as often as needed; return the response, which is read if it is an error."""
        for attempt in count():
            outcome: httpx2.Response | httpx2.TransportError
            try:
                outcome = self._try(call)
            except calls.RETRIED_ERRORS as error:
                outcome = error
            delay = self._retries.delay(attempt, outcome)
            if delay is None:
                return calls.final(outcome)
            time.sleep(delay)
        raise AssertionError

    def _try(self, call: Call[T]) -> httpx2.Response:
        with call.arguments() as arguments:
            response = self._client.send(self._client.build_request(**arguments), stream=True)
        if response.is_error:
            response.read()
        return response


class AsyncClient:
    """The client for asyncio; an asynchronous context manager. Arguments and methods are those of `Client`."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = 120.0,
        retries: int = 3,
        max_retry_wait: float = 30.0,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._client = httpx2.AsyncClient(transport=transport, **_options(url, api_key, timeout))
        self._retries = Retries(retries, max_retry_wait)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def predict(
        self,
        *,
        text: str | None = None,
        audio: File | None = None,
        openface: File | None = None,
        explain: bool = False,
        threshold: float | None = None,
        face_id: int | None = None,
        transcribe: Transcribe | None = None,
    ) -> Prediction:
        """See `Client.predict`."""
        return await self._send(calls.predict(text, audio, openface, explain, threshold, face_id, transcribe))

    async def predict_batch(
        self,
        utterances: Mapping[str, Utterance],
        *,
        explain: bool = False,
        threshold: float | None = None,
        transcribe: Transcribe | None = None,
    ) -> BatchAnswers:
        """See `Client.predict_batch`."""
        return await self._send(calls.predict_batch(utterances, explain, threshold, transcribe))

    async def timeline(
        self,
        *,
        audio: File | None = None,
        transcript: File | None = None,
        openface: File | None = None,
        channels: Channels = "mix",
        explain: bool = False,
        threshold: float | None = None,
        transcribe: Transcribe | None = None,
        speaker_normalization: bool = True,
    ) -> AsyncGenerator[Line, None]:
        """See `Client.timeline`."""
        call = calls.timeline(
            audio, transcript, openface, channels, explain, threshold, transcribe, speaker_normalization
        )
        response = await self._open(call)
        lines = Lines()
        try:
            raise_for_problem(response)
            async for line in response.aiter_lines():
                if line:
                    yield lines.read(line)
        finally:
            await response.aclose()
        lines.end()

    async def health(self) -> Health:
        """See `Client.health`."""
        async with aclosing(await self._try(calls.HEALTH)) as response:
            await response.aread()
            return calls.HEALTH.read(response)

    async def model(self) -> ModelCard:
        """See `Client.model`."""
        return await self._send(calls.MODEL)

    async def _send(self, call: Call[T]) -> T:
        async with aclosing(await self._open(call)) as response:
            raise_for_problem(response)
            await response.aread()
            return call.read(response)

    async def _open(self, call: Call[T]) -> httpx2.Response:
        for attempt in count():
            outcome: httpx2.Response | httpx2.TransportError
            try:
                outcome = await self._try(call)
            except calls.RETRIED_ERRORS as error:
                outcome = error
            delay = self._retries.delay(attempt, outcome)
            if delay is None:
                return calls.final(outcome)
            await asyncio.sleep(delay)
        raise AssertionError

    async def _try(self, call: Call[T]) -> httpx2.Response:
        with call.arguments() as arguments:
            response = await self._client.send(self._client.build_request(**arguments), stream=True)
        if response.is_error:
            await response.aread()
        return response
