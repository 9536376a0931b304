import numpy as np
import pytest

from model.features.audio import SAMPLE_RATE
from model.training.nonspeech import FAMILIES, SECONDS, nonspeech


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_audible_finite_sounds(family: str) -> None:
    for seed in range(4):
        sound = nonspeech(np.random.default_rng(seed), family)
        assert sound.dtype == np.float32
        assert np.isfinite(sound).all()
        assert 1e-4 < np.abs(sound).max() < 16
        assert 0.25 * SECONDS[0] * SAMPLE_RATE < sound.size < 2 * SECONDS[1] * SAMPLE_RATE


def test_equal_seeds_give_equal_sounds() -> None:
    first, again, other = (nonspeech(np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)
