import pytest
from pydantic import ValidationError

from app.settings import Settings


def test_the_defaults_are_the_documented_limits() -> None:
    settings = Settings()
    assert settings.max_body_bytes == 96 * 2**20
    assert settings.max_text_bytes == 64 * 2**10
    assert (settings.max_audio_seconds, settings.max_audio_decoded_bytes) == (300, 64 * 2**20)
    assert (settings.min_audio_rate, settings.max_audio_rate, settings.max_audio_channels) == (8_000, 192_000, 8)
    assert settings.decode_timeout == 10
    assert (settings.max_openface_bytes, settings.max_openface_line_bytes) == (64 * 2**20, 64 * 2**10)
    assert (settings.max_openface_columns, settings.max_openface_rows) == (1_024, 20_000)
    assert settings.key_threshold is None
    assert (settings.queue_size, settings.max_wait, settings.deadline, settings.body_timeout) == (256, 3, 30, 30)


def test_the_environment_overrides_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMMR_PORT", "9000")
    monkeypatch.setenv("EMMR_API_KEYS", '["one", "two"]')
    settings = Settings()
    assert settings.port == 9000
    assert [key.get_secret_value() for key in settings.api_keys] == ["one", "two"]


def test_an_argument_takes_precedence_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMMR_PORT", "9000")
    assert Settings(port=9001).port == 9001


@pytest.mark.parametrize("name", ["api_keys", "admin_keys"])
def test_a_key_is_not_in_any_representation(name: str) -> None:
    settings = Settings.model_validate({name: ("hunter2",)})
    assert "hunter2" not in f"{settings} {settings!r} {settings.model_dump()}"


def test_the_service_is_local_by_default() -> None:
    settings = Settings()
    assert settings.host == "127.0.0.1"
    assert (settings.api_keys, settings.admin_keys, settings.cors_origins, settings.rate_limit) == ((), (), (), None)


@pytest.mark.parametrize("rate", ["600/minute", "10 per second", "5/2 hour"])
def test_a_rate_may_be_written_in_several_ways(rate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMMR_RATE_LIMIT", rate)
    assert Settings().rate_limit == rate


def test_settings_cannot_be_changed() -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        Settings.__setattr__(settings, "port", 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", 65536),
        ("queue_size", 0),
        ("max_wait", -1),
        ("deadline", 0),
        ("key_threshold", 1.01),
        ("key_threshold", -0.01),
        ("key_threshold", "nan"),
        ("log_level", "loud"),
        ("api_keys", '[""]'),
        ("admin_keys", '["good", ""]'),
        ("rate_limit", "often"),
        ("cors_origins", '["example.org"]'),
        ("cors_origins", '["https://example.org/page"]'),
        ("metrics_access", "some"),
    ],
)
def test_a_value_out_of_range_is_refused(name: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"EMMR_{name.upper()}", str(value))
    with pytest.raises(ValidationError, match=name):
        Settings()
