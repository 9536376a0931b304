"""`emmr doctor`: whether everything that answering needs is there."""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Final

import typer

from app.cli.common import EXTRAS, Device, Weights, read_settings

if TYPE_CHECKING:
    from app.settings import Settings

EXIT_ABSENT: Final = 1
VERSIONS: Final = ("emmr", "torch", "transformers", "numpy", "fastapi", "uvicorn")
SOUND_FORMATS: Final = ("WAV", "FLAC", "OGG", "MP3")
"""Read by libsndfile."""
CODECS: Final = ("opus", "aac")
"""Read by FFmpeg, of WebM and MP4 files."""


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Args:
        name: what was checked.
        ok: whether it is there.
        detail: what was found, or what is wrong.
        needed: whether answering needs it.
    """

    name: str
    ok: bool
    detail: str
    needed: bool = True


def doctor(
    weights: Weights = None,
    device: Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="The checks as JSON.")] = False,
) -> None:
    """Check device, weights, encoders, decoders, limits and packages; status 1 where something needed is absent."""
    import json

    settings = read_settings(weights=weights, device=device)
    checks = list(_checks(settings))
    ok = all(check.ok for check in checks if check.needed)
    if as_json:
        typer.echo(json.dumps({"ok": ok, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table("check", "", "found")
        for check in checks:
            table.add_row(check.name, "ok" if check.ok else "absent" if check.needed else "–", check.detail)
        Console().print(table)
        typer.echo("Everything needed is there." if ok else "Something needed is absent.", err=not ok)
    raise typer.Exit(0 if ok else EXIT_ABSENT)


def _checks(settings: "Settings") -> Iterator[Check]:
    yield Check("python", sys.version_info >= (3, 11), f"{platform.python_version()} on {platform.platform()}")
    for name in VERSIONS:
        try:
            yield Check(name, True, version(name))
        except PackageNotFoundError:
            yield Check(name, False, "not installed")
    yield _device(settings)
    yield from _weights(settings)
    yield from _decoders(settings)
    yield from _limits(settings)
    for extra in sorted(set(EXTRAS.values())):
        absent = [module for module, of in EXTRAS.items() if of == extra and find_spec(module) is None]
        detail = f"without {', '.join(absent)}: pip install 'emmr[{extra}]'" if absent else "installed"
        yield Check(f"extra {extra}", not absent, detail, needed=False)


def _device(settings: "Settings") -> Check:
    import torch

    from model.errors import ConfigError
    from model.pipeline import choose_device

    try:
        device = choose_device(settings.device)
        torch.zeros(1, device=device)
    except (ConfigError, RuntimeError, AssertionError) as error:  # the last one: PyTorch without CUDA
        return Check("device", False, str(error).partition("\n")[0])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} processors"
    return Check("device", True, f"{device}, {name}")


def _weights(settings: "Settings") -> Iterator[Check]:
    import torch

    from model.checkpoint import load_checkpoint
    from model.errors import EMMRError

    try:
        loaded = load_checkpoint(settings.weights, torch.device("cpu"))  # verifies the hash of every file
    except (EMMRError, OSError) as error:
        yield Check("weights", False, str(error))
        return
    config = loaded.config
    yield Check("weights", True, f"{config.name}, hash {loaded.version}, {settings.weights}")
    yield Check("text encoder", True, f"{config.text.encoder}, {config.text.size} features")
    yield Check("voice encoder", True, config.audio.encoder)


def _decoders(settings: "Settings") -> Iterator[Check]:
    import av
    import soundfile

    absent = [name for name in SOUND_FORMATS if name not in soundfile.available_formats()]
    detail = f"libsndfile {soundfile.__libsndfile_version__}" + (f" without {', '.join(absent)}" if absent else "")
    yield Check("WAV, FLAC, OGG and MP3", not absent, detail)
    absent = [name for name in CODECS if name not in av.codecs_available]
    detail = f"FFmpeg {av.ffmpeg_version_info}" + (f" without {', '.join(absent)}" if absent else "")
    yield Check("WebM and M4A", not absent, detail)
    program = shutil.which(settings.openface or "FeatureExtraction")
    yield Check("OpenFace, for videos", program is not None, program or "not found", needed=False)


def _limits(settings: "Settings") -> Iterator[Check]:
    from app.server import connection_limits, raise_descriptor_limit

    descriptors = raise_descriptor_limit()
    total, _, _ = connection_limits(settings, descriptors)
    yield Check("open files", total > 0, f"{descriptors}, for {total} connections")
    folder = tempfile.gettempdir()
    free, wanted = shutil.disk_usage(folder).free, settings.max_spooled_bytes
    detail = f"{free / 2**20:.0f} MiB free in {folder}, {wanted / 2**20:.0f} MiB for uploads"
    yield Check("temporary space", free >= wanted, detail)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    yield Check("memory", True, f"{memory / 2**30:.1f} GiB")
