import gc
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import av
import pytest
import soundfile
import typer
from starlette.testclient import TestClient
from typer.testing import CliRunner

from app.cli import cli
from app.cli.common import errors_as_messages, without_collections
from app.server import check_address
from model.errors import ConfigError
from tests.support.checkpoints import of_whisper
from tests.support.corpus import write_manifest
from tests.support.openface import simulate_openface_csv
from tests.support.service import Part
from tests.support.sound import encode
from tests.support.speech import speak

runner = CliRunner()


@pytest.fixture
def files(parts: Mapping[str, Part], tmp_path: Path) -> dict[str, str]:
    for name, suffix in (("audio", "wav"), ("openface", "csv")):
        (tmp_path / f"{name}.{suffix}").write_bytes(parts[name][1])
    return {"audio": str(tmp_path / "audio.wav"), "openface": str(tmp_path / "openface.csv")}


@pytest.mark.parametrize(
    "command",
    [[], ["serve"], ["predict"], ["score"], ["train"], ["evaluate"], ["compare"], ["convert-aus"], ["doctor"]],
)
def test_every_command_has_help(command: list[str]) -> None:
    result = runner.invoke(cli, [*command, "--help"])
    assert result.exit_code == 0
    assert "--help" in result.output


def test_help_does_not_import_pytorch_or_fastapi() -> None:
    code = "import sys; from app.cli import cli; sys.exit('torch' in sys.modules or 'fastapi' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_answer_imports_neither_tables_nor_logs_nor_training() -> None:
    code = "import sys, app.settings, app.offline; print(*{m.partition('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    unused = {"av", "fastapi", "librosa", "limits", "rich", "sklearn", "structlog", "torch", "transformers"}
    assert not unused & set(done.stdout.split())


def test_garbage_is_collected_again_after_a_pause() -> None:
    with without_collections():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_an_altered_voice_encoder_is_named_when_a_voice_is_given(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_whisper(tmp_path / "weights")
    monkeypatch.setattr("model.features.audio.whisper.PACKAGED_SHA256", "0" * 64)
    options = ["predict", "--weights", str(tmp_path / "weights"), "--transcribe", "never", "--text", "Hello."]
    assert runner.invoke(cli, options).exit_code == 0
    voice = runner.invoke(cli, [*options, "--audio", files["audio"]])
    assert voice.exit_code == 2
    assert "the voice encoder's model.bin is missing or not the published one" in voice.stderr


def test_the_version_is_shown() -> None:
    first, second = runner.invoke(cli, ["--version"]).output.splitlines()
    assert first == f"emmr {version('emmr')}"
    assert second == f"decoders: libsndfile {soundfile.__libsndfile_version__}, FFmpeg {av.ffmpeg_version_info}"


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl(2) and /proc of Linux")
def test_a_service_starts_without_keys_in_its_environment_or_dumps() -> None:
    code = (
        "import pathlib, app.server\nfrom app import linux\nfrom app.cli import main\n"
        "def serve(settings):\n"
        "    print(settings.api_keys[0].get_secret_value(), pathlib.Path('/proc/self/environ').read_bytes())\n"
        "    print(linux._libc.prctl(3))\n"  # PR_GET_DUMPABLE
        "    return 0\n"
        "app.server.serve = serve\nmain()"
    )
    environment = os.environ | {"EMMR_API_KEYS": '["hunter2"]', "EMMR_PORT": "9000"}
    command = [sys.executable, "-c", code, "serve"]
    shown, dumpable = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=True
    ).stdout.splitlines()
    assert shown.count("hunter2") == 1  # in the settings
    assert "EMMR_PORT=9000" in shown
    assert dumpable == "0"


@pytest.mark.parametrize("names", [["text"], ["audio"], ["openface"], ["text", "audio", "openface"]])
def test_the_command_line_predicts_as_the_service_does(
    client: TestClient, parts: Mapping[str, Part], files: dict[str, str], tiny_weights: Path, names: list[str]
) -> None:
    given = {**files, "text": parts["text"][1].decode()}
    options = [option for name in names for option in (f"--{name}", given[name])]
    options += ["--transcribe", "never"]  # the default of the service
    result = runner.invoke(cli, ["predict", *options, "--weights", str(tiny_weights), "--explain", "--json"])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    served = client.post("/predict?explain=true", files={name: parts[name] for name in names}).json()
    assert list(printed) == list(served)
    assert printed["probabilities"] == pytest.approx(served["probabilities"], abs=1e-5)
    for field in ("score", "by_modality"):
        assert printed["key_missing"].pop(field) == pytest.approx(served["key_missing"].pop(field), abs=1e-5)
    for field in ("model", "polarity", "modalities", "key_missing", "summary", "warnings"):
        assert printed[field] == served[field]


def test_the_words_of_a_voice_alone_are_transcribed(tmp_path: Path, tiny_weights: Path) -> None:
    voice = tmp_path / "voice.wav"
    voice.write_bytes(encode(speak("Kids are talking by the door."), "wav"))
    options = ["--audio", str(voice), "--weights", str(tiny_weights)]
    result = runner.invoke(cli, ["predict", *options, "--table"])
    assert result.exit_code == 0, result.output
    assert "source transcribed" in " ".join(result.stdout.split())
    assert "talking by the door" in result.stdout


def test_the_table_shows_the_prediction(files: dict[str, str], tiny_weights: Path) -> None:
    options = ["--audio", files["audio"], "--weights", str(tiny_weights), "--explain", "--table"]
    options += ["--transcribe", "never"]
    result = runner.invoke(cli, ["predict", *options])
    assert result.exit_code == 0, result.output
    for word in ("the missing", "text+audio", "answer", "not_provided", "seconds 1.0", "tiny"):
        assert word in result.stdout


def test_the_words_are_read_from_standard_input(tiny_weights: Path) -> None:
    options = ["predict", "--weights", str(tiny_weights), "--json", "--text"]
    piped = runner.invoke(cli, [*options, "-"], input="What a lovely day!")
    given = runner.invoke(cli, [*options, "What a lovely day!"])
    assert piped.exit_code == 0, piped.output
    assert json.loads(piped.stdout)["probabilities"] == json.loads(given.stdout)["probabilities"]
    assert runner.invoke(cli, [*options, "-"], input=b"\xff").exit_code == 2
    assert runner.invoke(cli, [*options, "-"], input="a" * (2**16 + 1)).exit_code == 2


@pytest.mark.parametrize(
    "options", [["--text", "a", "--text", "b"], ["--text=a", "--text", "b"], ["--text", "a", "--json", "--table"]]
)
def test_an_option_given_twice_is_refused(options: list[str]) -> None:
    result = runner.invoke(cli, ["predict", *options])
    assert result.exit_code == 2
    assert "given more than once" in result.output


def test_unknown_environment_variables_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMMR_QUEUE_SZE", "9")
    monkeypatch.setenv("EMMR_ZZZ", "9")
    result = runner.invoke(cli, ["serve"])
    assert result.exit_code == 2
    assert "EMMR_QUEUE_SZE (did you mean EMMR_QUEUE_SIZE?), EMMR_ZZZ" in result.stderr


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("EMMR_API_KEYS", "hunter2,hunter3", "EMMR_API_KEYS is no JSON list"),
        ("EMMR_API_KEYS", '["hunter2", 3]', "EMMR_API_KEYS.1: "),
        ("EMMR_PORT", "hunter2", "EMMR_PORT: Input should be a valid integer"),
    ],
)
def test_a_setting_of_a_wrong_type_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    result = runner.invoke(cli, ["serve"])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert message in result.stderr
    assert "hunter" not in result.stderr


def test_a_busy_port_is_refused(tiny_weights: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        check_address("127.0.0.1", 0)
        with pytest.raises(ConfigError) as refused:
            check_address("127.0.0.1", port)
    assert f"127.0.0.1 port {port}: Address already in use" in str(refused.value)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("No module named 'peft'", name="peft.tuners"), "pip install 'emmr[train]'"),
        (PermissionError(13, "Permission denied", "a.csv"), "a.csv: Permission denied"),
        (ConfigError("the config is wrong"), "the config is wrong"),
    ],
)
def test_errors_of_the_environment_are_one_line(
    error: Exception, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended, errors_as_messages():
        raise error
    shown = capsys.readouterr().err
    assert (ended.value.exit_code, shown.count("\n")) == (2, 1)
    assert message in shown


def test_an_unknown_missing_module_is_not_hidden() -> None:
    with pytest.raises(ModuleNotFoundError) as raised, errors_as_messages():
        raise ModuleNotFoundError("No module named 'app.none'", name="app.none")
    assert raised.value.name == "app.none"


@pytest.mark.parametrize(("threshold", "detected"), [("0", True), ("1", False)])
def test_the_threshold_applies(tiny_weights: Path, threshold: str, detected: bool) -> None:
    options = ["--text", "What a lovely day!", "--weights", str(tiny_weights), "--json"]
    result = runner.invoke(cli, ["predict", *options, "--threshold", threshold])
    assert result.exit_code == 0, result.output
    key = json.loads(result.stdout)["key_missing"]
    assert (key["detected"], key["threshold"]) == (detected, float(threshold))


@pytest.mark.parametrize("threshold", ["-0.1", "1.1", "nan", "half"])
def test_a_threshold_that_is_not_a_probability_is_refused(tiny_weights: Path, threshold: str) -> None:
    result = runner.invoke(
        cli, ["predict", "--text", "Hello.", "--weights", str(tiny_weights), "--threshold", threshold]
    )
    assert result.exit_code == 2
    assert "threshold" in result.output


def test_the_face_to_follow_may_be_chosen(tiny_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_bytes(simulate_openface_csv(5, faces=(0, 4), confidence=(0.9, 0.7)))
    options = ["predict", "--openface", str(tmp_path / "f.csv"), "--weights", str(tiny_weights), "--json", "--face-id"]
    result = runner.invoke(cli, [*options, "4"])
    assert result.exit_code == 0, result.output
    assert "face 4, the one asked for" in result.stdout
    unknown = runner.invoke(cli, [*options, "7"])
    assert (unknown.exit_code, "face_id 0, 4" in unknown.output) == (2, True)
    assert runner.invoke(cli, ["predict", "--text", "Hello.", "--face-id", "4"]).exit_code == 2


def test_no_input_is_refused(tiny_weights: Path) -> None:
    result = runner.invoke(cli, ["predict", "--weights", str(tiny_weights)])
    assert result.exit_code == 2
    assert "--text, --audio, --openface and --video" in result.output


def test_bad_input_is_refused_with_its_place(tmp_path: Path, tiny_weights: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("frame,AU01_r\n1,nan\n")
    result = runner.invoke(cli, ["predict", "--openface", str(bad), "--weights", str(tiny_weights)])
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert "openface" in result.output


def test_bad_audio_is_refused_before_the_weights_are_loaded(tmp_path: Path) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"This is not a sound at all.")
    result = runner.invoke(cli, ["predict", "--audio", str(bad), "--weights", str(tmp_path)])
    assert result.exit_code == 2
    assert "Unsupported part" in result.output
    assert "audio" in result.output


def test_a_blank_text_is_refused() -> None:
    result = runner.invoke(cli, ["predict", "--text", "  "])
    assert result.exit_code == 2


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    result = runner.invoke(cli, ["predict", "--text", "Hello.", "--weights", str(tmp_path)])
    assert result.exit_code == 2
    assert "hashes.json" in result.output


@pytest.mark.parametrize("device", ["abacus", "cuda:99"])
def test_an_unknown_device_is_refused(device: str, tiny_weights: Path) -> None:
    result = runner.invoke(cli, ["predict", "--text", "Hello.", "--weights", str(tiny_weights), "--device", device])
    assert result.exit_code == 2
    assert device in result.output


def test_invalid_settings_are_refused() -> None:
    result = runner.invoke(cli, ["serve", "--port", "70000"])
    assert result.exit_code == 2
    assert "port" in result.output


def test_evaluating_an_unknown_corpus_is_refused(tmp_path: Path, tiny_weights: Path) -> None:
    options = ["--corpus", "nowhere", "--data", str(tmp_path), "--weights", str(tiny_weights)]
    result = runner.invoke(cli, ["evaluate", *options])
    assert result.exit_code == 2
    assert "nowhere" in result.output


def test_a_system_is_evaluated_from_the_folder_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMMR_WEIGHTS", str(tmp_path / "default"))
    parts = (("train", "a"), ("train", "b"), ("val", "a"))
    rows: list[dict[str, object]] = [{"text": f"{s} {label}", "label": label, "split": s} for s, label in parts]
    options = ["--corpus", "manifest", "--data", str(write_manifest(tmp_path, rows)), "--split", "val"]
    result = runner.invoke(cli, ["evaluate", *options, "--system", "mmin"])
    assert result.exit_code == 2
    assert f"{tmp_path / 'mmin'} is not a weights folder" in result.output.replace("\n", "")


@pytest.mark.parametrize("command", [["train", "--out", "w"], ["evaluate"]])
def test_an_unknown_system_is_refused(tmp_path: Path, command: list[str]) -> None:
    result = runner.invoke(cli, [*command, "--corpus", "manifest", "--data", str(tmp_path), "--system", "mmim"])
    assert result.exit_code == 2
    assert "unknown system 'mmim'" in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--grid", "nowhere.yaml"], "nowhere.yaml is no grid"),
        (["--quick", "--only", "variant=mmim"], "the grid has no variant 'mmim'"),
        (["--only", "system=ae"], "'system=ae' is no filter"),
    ],
)
def test_a_grid_or_filter_that_cannot_be_used_is_refused(tmp_path: Path, options: list[str], message: str) -> None:
    result = runner.invoke(cli, ["reproduce", "--data", str(tmp_path), "--report-only", *options])
    assert result.exit_code == 2
    assert message in result.output.replace("\n", "")


def test_training_on_an_unknown_corpus_is_refused(tmp_path: Path) -> None:
    options = ["--corpus", "nowhere", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    result = runner.invoke(cli, ["train", *options])
    assert result.exit_code == 2
    assert "nowhere" in result.output


def test_action_units_of_another_tool_are_converted(tmp_path: Path) -> None:
    units = [f"au_{unit}_intensity" for unit in (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26)]
    source, out = tmp_path / "libreface.csv", tmp_path / "face.csv"
    source.write_text(f"{','.join(units)}\n{','.join(['0.5'] * len(units))}\n", encoding="utf-8")
    result = runner.invoke(cli, ["convert-aus", str(source), str(out)])
    assert result.exit_code == 0, result.output
    assert "1 rows from LibreFace" in result.output
    assert out.read_text(encoding="utf-8").splitlines()[0].endswith("converted_from_libreface")


def test_table_that_cannot_be_converted_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    result = runner.invoke(cli, ["convert-aus", str(tmp_path / "other.csv"), str(tmp_path / "face.csv")])
    assert result.exit_code == 2
    assert not (tmp_path / "face.csv").exists()


def test_answer_log_in_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    result = runner.invoke(cli, ["serve", "--log-answers", str(tmp_path / "none" / "answers.jsonl")])
    assert result.exit_code == 2
    assert "log_answers" in result.output


def test_results_have_a_known_format(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("text\nHello.\n", encoding="utf-8")
    refused = runner.invoke(cli, ["score", str(tmp_path / "m.csv"), "--out", str(tmp_path / "out.txt")])
    assert (refused.exit_code, ".csv, .jsonl, .parquet" in refused.output) == (2, True)
    refused = runner.invoke(cli, ["score", str(tmp_path), "--out", str(tmp_path / "m.csv")])
    assert (refused.exit_code, "holds no rows" in refused.output) == (2, True)


def test_an_interrupted_scoring_ends_with_130(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("app.scoring.run.score", interrupted)
    result = runner.invoke(cli, ["score", str(tmp_path), "--out", str(tmp_path / "out.csv")])
    assert (result.exit_code, "the same command goes on" in result.output) == (130, True)
