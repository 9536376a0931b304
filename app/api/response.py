"""A decision and its inputs → the response's fields. HTTP and the command line share it."""

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from app.api import schemas
from app.engine.predictor import PreparedRequest, Result
from app.transcription.transcription import Transcription
from model.modality import Modality
from model.network.decision import argmax

if TYPE_CHECKING:
    from model.checkpoint import Checkpoint
    from model.network.decision import Decision

FAMILIARITY_DIGITS: Final = 4
CONFIDENCE_DIGITS: Final = 4
SUMMARY_NOUNS: Final = {"text": "text", "audio": "voice", "visual": "face"}
WARNING_NOUNS: Final = {Modality.TEXT: "text", Modality.AUDIO: "voice", Modality.VISUAL: "face"}
_LANGUAGES: Final = """
    af Afrikaans, ar Arabic, bg Bulgarian, bn Bengali, ca Catalan, cs Czech, cy Welsh, da Danish, de German,
    el Greek, es Spanish, et Estonian, eu Basque, fa Persian, fi Finnish, fr French, ga Irish, gu Gujarati,
    he Hebrew, hi Hindi, hr Croatian, hu Hungarian, hy Armenian, id Indonesian, is Icelandic, it Italian,
    ja Japanese, ka Georgian, km Khmer, kn Kannada, ko Korean, lo Lao, lt Lithuanian, lv Latvian, ml Malayalam,
    my Burmese, nl Dutch, no Norwegian, pa Punjabi, pl Polish, pt Portuguese, ro Romanian, ru Russian, si Sinhala,
    sk Slovak, sl Slovenian, sq Albanian, sr Serbian, sv Swedish, sw Swahili, ta Tamil, te Telugu, th Thai,
    tl Tagalog, tr Turkish, uk Ukrainian, ur Urdu, vi Vietnamese, zh Chinese
"""
LANGUAGE_NAMES: Final[Mapping[str, str]] = dict(entry.split() for entry in _LANGUAGES.split(","))
"""ISO 639-1 code → name of each language that `model.features.text.language` identifies."""


def model_name(checkpoint: "Checkpoint") -> schemas.ModelName:
    """Return the name, version and classes of the weights."""
    config = checkpoint.config
    return schemas.ModelName(name=config.name, version=checkpoint.version, classes=list(config.classes))


def compose(request_id: str, result: Result, parsed: float) -> schemas.Prediction:
    """Build the response to one request; an `ExplainedPrediction` where the options request it.

    Args:
        request_id: as in `X-Request-ID`.
        result: the model's.
        parsed: seconds taken to read the body.
    """
    checkpoint, decision = result.checkpoint, result.decision
    classes = checkpoint.config.classes
    polarity, confidence = classes[decision.label_index], decision.probabilities[decision.label_index]
    key_missing = _key_missing(decision, classes)
    fitted = bool(checkpoint.reliability.verdict.fitted)
    # A baseline has no branches, and with them no votes and no reconstruction.
    has_branches = bool(decision.branch_weights)
    branch_weights = schemas.BranchWeights(**decision.branch_weights) if has_branches else None
    timings = {stage: round(seconds * 1000, 3) for stage, seconds in {"parse": parsed, **result.timings}.items()}
    prediction = schemas.Prediction(
        request_id=request_id,
        model=model_name(checkpoint),
        polarity=polarity,
        confidence=confidence,
        probabilities=dict(zip(classes, decision.probabilities, strict=True)),
        modalities=_modalities(result),
        key_missing=key_missing,
        summary=summarise(polarity, confidence, key_missing, fitted=fitted),
        ensemble=schemas.Ensemble(used=decision.ensemble_used if has_branches else None, weights=branch_weights),
        warnings=[schemas.InputWarning(code=code, detail=detail) for code, detail in _warnings(result)],
        timings_ms=schemas.Timings(**timings),
    )
    if not result.request.options.explain:
        return prediction
    votes = {head: dict(zip(classes, vote, strict=True)) for head, vote in (decision.votes or {}).items()}
    reconstruction = {str(m): dict(figures) for m, figures in (decision.reconstruction or {}).items()}
    return schemas.ExplainedPrediction(
        **dict(prediction),
        votes=votes if has_branches else None,
        reconstruction=reconstruction if has_branches else None,
    )


def _key_missing(decision: "Decision", classes: Sequence[str]) -> schemas.KeyMissing:
    """The verdict on what is missing; all null if the system gives none."""
    if decision.key_score is None:
        return schemas.KeyMissing(**dict.fromkeys(schemas.KeyMissing.model_fields))
    return schemas.KeyMissing(
        detected=bool(decision.key_modalities),
        modalities=[str(modality) for modality in decision.key_modalities],
        polarity_full=classes[argmax(decision.full)],
        polarity_available=classes[argmax(decision.available)],
        score=decision.key_score,
        by_modality={str(modality): p for modality, p in decision.key_by_modality.items()},
        threshold=decision.threshold,
        rule=schemas.Rule(detected=bool(decision.rule), modalities=[str(modality) for modality in decision.rule]),
    )


def summarise(polarity: str, confidence: float, key: schemas.KeyMissing, *, fitted: bool) -> str:
    """Summarise the prediction, and how likely the missing modalities would change it, in one sentence.

    Args:
        polarity: the predicted class.
        confidence: its probability.
        key: the missing modalities and their probabilities of another answer.
        fitted: whether the weights have fitted probabilities of another answer; unfitted ones, and those of a system
            that gives none, are not stated.
    """
    verdict = f"{polarity} ({_percent(confidence)})"
    if key.score is None or key.by_modality is None:
        return f"{verdict}."
    missing = " and ".join(SUMMARY_NOUNS[modality] for modality in key.by_modality)
    if not missing:
        return f"{verdict}; nothing is missing."
    if not fitted:
        return f"{verdict}; how likely the missing {missing} would change this is not known."
    if len(key.by_modality) == 1:
        return f"{verdict}, and the missing {missing} would change this with {_percent(key.score)}."
    likeliest = max(key.by_modality, key=key.by_modality.__getitem__)
    return (
        f"{verdict}; the missing {missing} together would change this with {_percent(key.score)}, "
        f"the {SUMMARY_NOUNS[likeliest]} alone with {_percent(key.by_modality[likeliest])}."
    )


def _percent(probability: float) -> str:
    return f"{100 * probability:.0f} %"


def _modalities(result: Result) -> schemas.Modalities:
    checkpoint, request, text = result.checkpoint, result.request, result.text
    audio, track = request.audio, request.visual

    def missing(modality: Modality) -> dict[str, Any]:
        reason = request.empty[modality].reason if modality in request.empty else "not_provided"
        return {"status": "missing", "reason": reason}

    def present(modality: Modality) -> dict[str, Any]:
        value = result.decision.familiarity.get(modality)
        # Without a fitted familiarity every value is 1 and carries no information, except 0 for doubtful input.
        fitted = isfinite(float(checkpoint.reliability.familiarity[modality].get_buffer("bounds")[0]))
        familiarity = None if value is None or not (fitted or value < 1) else round(value, FAMILIARITY_DIGITS)
        return {"status": "present", "familiarity": familiarity}

    return schemas.Modalities(
        text=schemas.TextUse(**missing(Modality.TEXT))
        if text is None
        else schemas.TextUse(
            **present(Modality.TEXT),
            source="transcribed" if request.transcribed else "provided",
            transcript=_transcript(request.transcription),
            tokens=min(text.tokens, checkpoint.config.text.max_tokens),
            truncated=text.truncated,
        ),
        audio=schemas.AudioUse(**missing(Modality.AUDIO))
        if audio is None
        else schemas.AudioUse(
            **present(Modality.AUDIO),
            seconds=round(audio.seconds, 3),
            frames=audio.frames,
            truncated=audio.truncated,
        ),
        visual=schemas.VisualUse(**missing(Modality.VISUAL))
        if track is None
        else schemas.VisualUse(
            **present(Modality.VISUAL),
            frames=track.kept,
            skipped=track.skipped_unsuccessful + track.skipped_low_confidence + track.skipped_unreadable,
            faces=track.faces,
            truncated=track.truncated,
        ),
    )


def _transcript(transcription: Transcription | None) -> schemas.Transcript | None:
    if transcription is None or transcription.refused is not None:
        return None
    return schemas.Transcript(
        text=transcription.text,
        confidence=round(transcription.confidence, CONFIDENCE_DIGITS),
        language=transcription.language,
        seconds=round(transcription.seconds, 3),
        truncated=transcription.truncated,
        words=[
            schemas.TranscribedWord(
                start=word.start, end=word.end, word=word.word, confidence=round(word.probability, CONFIDENCE_DIGITS)
            )
            for word in transcription.words
        ],
    )


def _warnings(result: Result) -> Iterator[tuple[str, str]]:
    """Yield code and detail of each warning."""
    from model.network.familiarity import FAMILIAR  # imports PyTorch, which is loaded once there is a decision

    request, text = result.request, result.text
    check, audio = request.check, request.audio
    for modality, error in request.empty.items():
        yield f"{modality}_{error.reason}", f"The {modality} counts as missing: {error.detail}."
    if text is not None and text.truncated:
        limit = result.checkpoint.config.text.max_tokens
        yield "text_truncated", f"The text has {text.tokens} tokens; only {limit} of them count."
    if check is not None and check.foreign:
        name = LANGUAGE_NAMES.get(check.language)
        likely = "in which language was not recognised" if name is None else f"likely {name}: {check.language}"
        detail = f"The text is not English ({likely}); the weights know English only, so it counts for nothing."
        yield "language", detail
    if check is not None and check.low_information:
        yield "low_information", "The text holds no word, so it counts for nothing."
    if check is not None and check.subtitles:
        yield "subtitles", "The text looks like subtitles of a recording, whose times and numbers count as words."
    if request.transcribed and request.transcription is not None and request.transcription.truncated:
        detail = f"Only the first {request.transcription.seconds:g} s of the sound were transcribed."
        yield "transcript_truncated", detail
    if audio is not None:
        if audio.truncated:
            yield "audio_truncated", "Only the beginning of the sound counts."
        yield from audio.warnings.items()
        if not audio.likely_speech:
            yield "not_speech", "The sound is likely not speech, so it counts for nothing."
    yield from _visual_warnings(request)
    for modality, noun in WARNING_NOUNS.items():
        # Doubtful input has a warning above.
        if modality not in request.doubtful and result.decision.familiarity.get(modality, 1.0) < FAMILIAR:
            detail = (
                f"The weights were trained on other kinds of recordings than this {noun} comes from, so it counts only "
                "in proportion to its familiarity."
            )
            yield f"unfamiliar_{noun}", detail


def _visual_warnings(request: PreparedRequest) -> Iterator[tuple[str, str]]:
    track = request.visual
    if track is None:
        return
    if track.truncated:
        yield "visual_truncated", "Only the first frames of the face count."
    yield from track.warnings.items()
    if track.all_zero:
        detail = "Every action unit is 0 in every frame, as in no real face, so the face counts for nothing."
        yield "unfamiliar_face", detail
