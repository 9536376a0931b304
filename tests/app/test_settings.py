import pytest
from pydantic import SecretStr, ValidationError

from app.settings import Settings


def test_the_defaults_are_the_contracts_limits() -> None:
    settings = Settings()
    assert settings.max_body_bytes == 25 * 2**20
    assert settings.max_text_bytes == 64 * 2**10
    assert (settings.max_audio_seconds, settings.max_audio_decoded_bytes) == (300, 64 * 2**20)
    assert (settings.min_audio_rate, settings.max_audio_rate, settings.max_audio_channels) == (8_000, 192_000, 8)
    assert settings.decode_timeout == 10
    assert (settings.max_openface_bytes, settings.max_openface_line_bytes) == (8 * 2**20, 64 * 2**10)
    assert (settings.max_openface_columns, settings.max_openface_rows) == (1_024, 20_000)
    assert (settings.queue_size, settings.deadline, settings.body_timeout) == (256, 30, 30)


def test_the_environment_overrides_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMMR_PORT", "9000")
    monkeypatch.setenv("EMMR_API_KEYS", '["one", "two"]')
    settings = Settings()
    assert settings.port == 9000
    assert [key.get_secret_value() for key in settings.api_keys] == ["one", "two"]


def test_what_is_given_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMMR_PORT", "9000")
    assert Settings(port=9001).port == 9001


def test_a_key_never_shows_in_a_representation() -> None:
    assert "hunter2" not in repr(Settings(api_keys=(SecretStr("hunter2"),)))


def test_settings_cannot_be_changed() -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        Settings.__setattr__(settings, "port", 1)


@pytest.mark.parametrize(
    ("name", "value"), [("port", 65536), ("queue_size", 0), ("deadline", 0), ("log_level", "loud")]
)
def test_a_value_out_of_range_is_refused(name: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"EMMR_{name.upper()}", str(value))
    with pytest.raises(ValidationError, match=name):
        Settings()
