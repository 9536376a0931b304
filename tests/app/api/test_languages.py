from app.api.languages import NAMES
from model.features.text.language import ENGLISH, LATIN, OTHER_SCRIPTS


def test_every_language_that_is_told_apart_has_a_name() -> None:
    codes = {*LATIN, *(code for codes in OTHER_SCRIPTS.values() for code in codes)} - {ENGLISH}
    assert set(NAMES) == codes
    assert len(set(NAMES.values())) == len(codes)
