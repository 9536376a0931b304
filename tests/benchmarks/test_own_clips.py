"""The clips of a person, drawn from a generated corpus."""

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.own_clips import all_but_one, draw_clips, few_speakers, recordings_of, write_clips
from model.training.datasets.base import CLASSES, SPLITS
from model.training.datasets.manifest import ManifestCorpus
from tests.support.corpus import write_composite2


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_composite2(tmp_path_factory.mktemp("data"), rounds=1)


def test_clips_of_few_speakers_are_written_as_an_export(data: Path, tmp_path: Path) -> None:
    recordings = recordings_of(data, "nemo")
    speakers = all_but_one(recordings, 0)
    clips, others = draw_clips(data, recordings, speakers, seed=0)
    assert {speaker for speaker, _ in clips} <= speakers
    held_out = {r.speaker for r in recordings} - speakers
    assert len(held_out) == 1
    assert {e.id for e in others} == {r.id for r in recordings if r.speaker in held_out}
    path = write_clips(tmp_path, clips)
    assert path.read_text(encoding="utf-8-sig").splitlines()[0] == "Audio;Text;Group;Label"
    corpus = ManifestCorpus(path)
    assert corpus.classes == CLASSES
    listed = [e for part in SPLITS for e in corpus.examples(part)]
    assert Counter(e.label for e in listed) == Counter(e.label for _, e in clips)


def test_speakers_are_drawn_until_there_are_enough_clips(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.own_clips.CLIPS", 5)
    recordings = recordings_of(data, "nemo")
    speakers = few_speakers(recordings, 0)
    assert 0 < len(speakers) < len({r.speaker for r in recordings})
    assert sum(r.speaker in speakers for r in recordings) >= 5
