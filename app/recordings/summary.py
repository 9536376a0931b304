"""Summary of a recording: shares of each class by speaker and over time, moving average, and where what is missing."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from app.recordings.schemas import (
    AverageScore,
    GapLine,
    KeyMissingSpan,
    MissingSpan,
    PeriodSummary,
    SpeakerSummary,
    SummaryLine,
    UtteranceLine,
)

UNKNOWN: Final = "unknown"
PERIODS: Final = 20
"""Periods that a recording is divided into."""
MIN_PERIOD: Final = 30.0  # seconds
AVERAGED: Final = 60.0
"""Seconds around a time whose utterances are averaged."""
NOT_LISTED: Final = frozenset({"not_provided", "no_face", "face_lost"})
"""Reasons of utterances that are not listed: stretches without a face are measured in the file."""
JOINED: Final = 0.5
"""Two stretches with the same reason are one where at most this many seconds lie between them."""


class Summarizer:
    """Collects a few numbers of each line.

    Args:
        duration: of the recording in seconds.
    """

    def __init__(self, duration: float) -> None:
        self._duration = duration
        self._speakers: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self._times: list[tuple[float, float, str]] = []
        self._scores: list[tuple[float, float, float]] = []
        self._key: list[KeyMissingSpan] = []
        self._missing: dict[str, list[MissingSpan]] = {"text": [], "audio": [], "visual": []}
        self._gaps = 0

    def add(self, line: UtteranceLine | GapLine) -> None:
        """Add the next line."""
        for modality, use in line.modalities:
            if use.status == "missing" and use.reason not in NOT_LISTED:
                self._add_missing(modality, line.start, line.end, use.reason)
        if isinstance(line, GapLine):
            self._gaps += 1
            return
        seconds = line.end - line.start
        self._speakers[line.speaker or UNKNOWN][line.polarity] += seconds
        self._times.append((line.start, seconds, line.polarity))
        if {"negative", "positive"} <= line.probabilities.keys():
            score = line.probabilities["positive"] - line.probabilities["negative"]
            self._scores.append(((line.start + line.end) / 2, seconds, score))
        key = line.key_missing
        if key.detected and key.modalities and key.score is not None:
            self._key.append(KeyMissingSpan(start=line.start, end=line.end, modalities=key.modalities, score=key.score))

    def add_faceless(self, stretches: Iterable[tuple[float, float]]) -> None:
        """Add start and end of each stretch without a face."""
        self._missing["visual"] += [
            MissingSpan(start=round(start, 3), end=round(end, 3), reason="no_face") for start, end in stretches
        ]

    def trim_silent(self, stretches: Sequence[tuple[float, float]]) -> None:
        """Trim silent utterances to the start and end of measured stretches of silence, which are ordered.

        An utterance without speech ends a little before or after the speech of the next one begins.
        """
        spans = self._missing["audio"]
        for i, span in enumerate(spans):
            within = [(a, b) for a, b in stretches if a < span.end and b > span.start]
            if span.reason == "silent" and within:
                start, end = max(span.start, within[0][0]), min(span.end, within[-1][1])
                spans[i] = span.model_copy(update={"start": round(start, 3), "end": round(end, 3)})

    def summary(self) -> SummaryLine:
        """Return the last line."""
        return SummaryLine(
            utterances=len(self._times),
            gaps=self._gaps,
            by_speaker={
                speaker: SpeakerSummary(seconds=round(sum(seconds.values()), 3), shares=_shares(seconds))
                for speaker, seconds in self._speakers.items()
            },
            over_time=list(self._periods()),
            moving_average=self._averages(),
            key_missing=self._key,
            missing=self._missing,
            warnings=[],
        )

    def _add_missing(self, modality: str, start: float, end: float, reason: str | None) -> None:
        spans = self._missing[modality]
        if spans and spans[-1].reason == reason and start - spans[-1].end <= JOINED:
            spans[-1] = spans[-1].model_copy(update={"end": max(end, spans[-1].end)})
        else:
            spans.append(MissingSpan(start=start, end=end, reason=reason or ""))

    def _periods(self) -> Iterator[PeriodSummary]:
        length = max(MIN_PERIOD, self._duration / PERIODS)
        count = max(1, round(self._duration / length)) if self._times else 0
        edges = np.linspace(0, self._duration, count + 1)
        for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            last = end >= self._duration  # cues past the end belong to the last period
            seconds: dict[str, float] = defaultdict(float)
            n = 0
            for begin, length_, polarity in self._times:
                if start <= begin and (begin < end or last):
                    seconds[polarity] += length_
                    n += 1
            yield PeriodSummary(start=round(start, 3), end=round(end, 3), shares=_shares(seconds), n=n)

    def _averages(self) -> list[AverageScore]:
        if not self._scores:
            return []
        times, weights, scores = np.array(sorted(self._scores)).T
        sums = np.concatenate([[0.0], np.cumsum(weights * scores)])
        totals = np.concatenate([[0.0], np.cumsum(weights)])
        first = np.searchsorted(times, times - AVERAGED / 2, side="left")
        last = np.searchsorted(times, times + AVERAGED / 2, side="right")
        means = np.clip((sums[last] - sums[first]) / (totals[last] - totals[first]), -1, 1)
        return [
            AverageScore(time=round(time, 3), score=round(mean, 4))
            for time, mean in zip(times.tolist(), means.tolist(), strict=True)
        ]


def _shares(seconds: Mapping[str, float]) -> dict[str, float]:
    total = sum(seconds.values())
    return {name: round(share / total, 4) for name, share in seconds.items()} if total else {}
