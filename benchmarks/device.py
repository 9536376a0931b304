"""Report on one device: tests, latency and throughput, service under load, memory, agreement with the CPU.

`make device-report` writes `benchmarks/results/device.json` and a table in `docs/development/performance.md`.
"""

# Each section runs in its own process with a time limit, so that a failure does not affect the others.

import argparse
import asyncio
import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import uvloop

from benchmarks.accelerator import measure as measure_network
from benchmarks.accelerator import seconds_of
from benchmarks.bodies import Bodies
from benchmarks.harness import Report, machine_line, write_section
from benchmarks.network import utterances
from benchmarks.processes import OURS, ROOT, Service, service
from benchmarks.service import COMPARED, difference, measure
from model.checkpoint import CONFIG
from model.config import ModelConfig, NetworkConfig, Slots
from model.modality import COMPLETE, SUBSETS
from model.network.emmr import EMMR
from model.network.inference.fused import FusedNetwork
from model.network.inference.static import InputWriter, StaticInput, StaticNetwork
from tools.load.client import Client

Figures = dict[str, Any]

WEIGHTS: Final = ROOT / "weights" / "default"
LIMITS: Final = {"tests": 60, "network": 90, "served": 140, "memory": 140, "compiled": 75}
"""Sections in order, with their time limits in seconds."""
ADMIN_KEY: Final = "device-report"


def tests(_: argparse.Namespace) -> Figures:
    """Run every test marked `cuda`."""
    # Only their files: the others need packages that the report does not.
    files = [
        str(path)
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if "pytest.mark.cuda" in path.read_text("utf-8")
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", "-W", "default", *files]
    completed = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    outcomes = {
        name: int(count) for count, name in re.findall(r"(\d+) (passed|failed|error|skipped)", completed.stdout)
    }
    if completed.returncode:
        print(completed.stdout[-6000:], file=sys.stderr)
    return {"status": completed.returncode, **outcomes}


def network(options: argparse.Namespace) -> Figures:
    """Training step, batches and single utterances of the shipped and the paper's sizes, beside counted floors."""
    logging.basicConfig(level=logging.INFO)  # shows why a graph is not used
    device, found = torch.device(options.device), Figures()
    for name, config in _configs(options).items():
        report = Report(name, "")
        batch, large, product, rounds = (2, 7, 64, 1) if options.quick else (32, 256, 8192, 5)
        measure_network(report, config, device, batch=batch, large=large, product=product, rounds=rounds)
        found[name] = {**report.medians, **report.ratios, **report.facts}
    return found


def compiled(options: argparse.Namespace) -> Figures:
    """The static graph of any utterances, eager and with `torch.compile`, and the kernels it launches."""
    device, found = torch.device(options.device), Figures()
    for name, config in _configs(options).items():
        torch.manual_seed(0)
        ours = StaticNetwork(FusedNetwork(EMMR(config).to(device).eval()))
        figures = found[name] = Figures()
        for size in (1, 2 if options.quick else 32):
            inputs = StaticInput.empty(config, size, torch.device("cpu"))
            InputWriter(inputs, config).write(utterances(config, [COMPLETE] * size, np.random.default_rng(0)))
            inputs = StaticInput.of(inputs.buffer.to(device), config, size)

            def graph(inputs: StaticInput = inputs, ours: StaticNetwork = ours) -> torch.Tensor:
                with torch.no_grad():  # torch.compile does not accept inference tensors
                    return ours.full(inputs)

            began = time.perf_counter()
            figures[f"eager_{size}_ms"] = 1e3 * seconds_of(graph, device, rounds=5)
            figures[f"kernels_{size}"], figures[f"kernels_{size}_ms"] = _kernels(graph, device)
            print(json.dumps(found), flush=True)  # kept if a later step fails or times out
            if options.quick:
                continue
            faster = torch.compile(graph, mode="reduce-overhead" if size == 1 else None)
            figures[f"compiled_{size}_ms"] = 1e3 * seconds_of(faster, device, rounds=20)
            figures[f"compiled_{size}_differs_by"] = float((faster() - graph()).abs().max())
            figures[f"compile_{size}_s"] = time.perf_counter() - began
    return found


def served(options: argparse.Namespace) -> Figures:
    """Goodput and latency of `emmr serve` on the device and on the CPU, and the difference of their answers."""
    found, answers = Figures(), dict[str, list[dict[str, float]]]()
    for device in dict.fromkeys((options.device, "cpu")):
        with service((*OURS, "--device", device), "/health/ready") as running:
            seconds, steps = (0.3, 1) if options.quick else (2.0, 4)
            measured = uvloop.run(measure(running, COMPARED, seconds, steps, usual={}))
            answers[device] = uvloop.run(_answers(running.port, 14 if options.quick else 70))
            figures = found[device] = {"ready_s": running.seconds_to_ready, "batched_differs_by": measured.apart}
        for subset in COMPARED:
            best = max((t for t in measured.trials[subset] if t.sustained), key=lambda t: t.rate, default=None)
            figures[f"{subset.name}_most_per_s"] = measured.most[subset]
            if best is not None:
                figures |= {f"{subset.name}_goodput_per_s": best.rate, f"{subset.name}_p99_ms": best.p99}
            lowest = min(measured.trials[subset], key=lambda t: t.rate)
            figures |= {
                f"{subset.name}_at_a_quarter_p50_ms": lowest.p50,
                f"{subset.name}_at_a_quarter_p99_ms": lowest.p99,
            }
        print(json.dumps(found), flush=True)
    first, *others = answers.values()
    found["answers_differ_by"] = max(
        (difference(*pair) for other in others for pair in zip(first, other, strict=True)), default=0.0
    )
    return found


def memory(options: argparse.Namespace) -> Figures:
    """Memory of the device and of the processes before and after many requests and reloads."""
    requests, reloads = (50, 1) if options.quick else (10_000, 10)
    found = Figures(requests=requests, reloads=reloads)
    environment = {"EMMR_ADMIN_KEYS": json.dumps([ADMIN_KEY])}
    with ExitStack() as stack:
        for name, value in environment.items():
            os.environ[name] = value
            stack.callback(os.environ.pop, name)
        running = stack.enter_context(service((*OURS, "--device", options.device), "/health/ready"))
        uvloop.run(_send_requests(running.port, requests // 10))
        found["warm"] = _memory(running)
        began = time.perf_counter()
        uvloop.run(_send_requests(running.port, requests))
        found["requests_per_s"] = requests / (time.perf_counter() - began)
        found["after_requests"] = _memory(running)
        for number in range(reloads):
            _reload(running.port)
            if number == 0:
                found["after_one_reload"] = _memory(running)
        uvloop.run(_send_requests(running.port, requests // 10))
        found["after_reloads"] = _memory(running)
    return found


SECTIONS: Final[Mapping[str, Callable[[argparse.Namespace], Figures]]] = {
    "tests": tests,
    "network": network,
    "served": served,
    "memory": memory,
    "compiled": compiled,
}


def _configs(options: argparse.Namespace) -> dict[str, ModelConfig]:
    if options.quick:
        slots, widths = Slots(text=4, audio=4, visual=1), (16, 12, 10, 8, 10, 12, 16)
        sizes = NetworkConfig(hidden=16, heads=4, feedforward=32, autoencoder=widths, imputed_slots=slots)
        return {"shipped": ModelConfig(slots=slots, network=sizes)}
    shipped = ModelConfig.model_validate_json((WEIGHTS / CONFIG).read_bytes())  # does not need the encoders
    return {"shipped": shipped, "paper": ModelConfig.paper()}


def _kernels(function: Callable[[], object], device: torch.device) -> tuple[int, float]:
    """Number of kernels that a call launches, and their total time in milliseconds."""
    if device.type != "cuda":
        return 0, 0.0
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CUDA, activity.CPU]) as profile:
        function()
        torch.cuda.synchronize(device)
    kernels = [event for event in profile.events() if event.device_type.name == "CUDA"]
    return len(kernels), 1e-3 * sum(event.device_time for event in kernels)


async def _answers(port: int, count: int) -> list[dict[str, float]]:
    client, bodies = Client(port), Bodies()
    try:
        return [(await client.send(bodies.request(SUBSETS[i % 7]))).json()["probabilities"] for i in range(count)]
    finally:
        client.close()


async def _send_requests(port: int, count: int, concurrency: int = 16) -> None:
    """Send `count` requests, one in ten of them complete and the others of text."""
    client, bodies, left = Client(port), Bodies(), iter(range(count))

    async def some() -> None:
        for number in left:
            (await client.send(bodies.request(COMPARED[0] if number % 10 == 0 else COMPARED[1]))).json()

    try:
        await asyncio.gather(*(some() for _ in range(concurrency)))
    finally:
        client.close()


def _reload(port: int) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/model/reload", headers={"Authorization": f"Bearer {ADMIN_KEY}"})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    if answer.status != 200:
        raise RuntimeError(f"reload: {answer.status} {body[:300]!r}")


def _memory(running: Service) -> dict[str, float]:
    return {"device_mib": running.metric("emmr_device_memory_bytes") / 2**20, "host_mib": running.memory_mib()}


def report(options: argparse.Namespace) -> Figures:
    """Run the sections, each in its own process."""
    found: Figures = {"machine": machine_line(), "device": _device_name(options.device)}
    for name in options.sections:
        began = time.perf_counter()
        command = [sys.executable, "-m", "benchmarks.device", "--device", options.device, "--section", name]
        with subprocess.Popen(
            [*command, *(["--quick"] if options.quick else [])], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                output, _ = process.communicate(timeout=LIMITS[name])
            except subprocess.TimeoutExpired:
                process.kill()
                output, _ = process.communicate()
        lines = [line for line in output.splitlines() if line.startswith("{")]
        found[name] = json.loads(lines[-1]) if lines else {}
        found[name] |= {"status": process.returncode, "seconds": round(time.perf_counter() - began, 1)}
        print(name, json.dumps(found[name], indent=1), flush=True)
        if options.json is not None:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else device


def table(found: Figures) -> str:
    """The report as Markdown."""
    network, served, memory = (found.get(name, {}) for name in ("network", "served", "memory"))
    lines = [
        f"{found['device']}; {found['machine']}.",
        "",
        "| Network | Shipped weights | Floor | Published size | Floor |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    sizes = [network.get(name, {}) for name in ("shipped", "paper")]
    rows = {
        "one utterance, step by step": "one_step_by_step",
        "one utterance, replayed": "one_replayed",
        "256 complete utterances, step by step": "complete_256_step_by_step",
        "256 complete utterances, replayed": "complete_256_replayed",
        "256 of all subsets, step by step": "mixed_256_step_by_step",
        "256 of all subsets, replayed": "mixed_256_replayed",
        "training step of 32": "training_step_32",
    }
    for label, key in rows.items():
        cells = [
            f"{size[name]:.2f} ms" if name in size else ""
            for size in sizes
            for name in (f"{key}_ms", f"{key}_floor_ms")
        ]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    compiled = found.get("compiled", {}).get("shipped", {})
    if "compiled_1_ms" in compiled:
        lines += [
            "",
            f"The static graph of one utterance launches {compiled['kernels_1']} kernels; it takes "
            + "{eager_1_ms:.1f} ms eager and {compiled_1_ms:.1f} ms with `torch.compile`.".format_map(compiled),
        ]
    devices = [name for name in served if isinstance(served[name], dict)]
    lines += ["", f"| `emmr serve` | {' | '.join(devices)} |", f"| --- |{' ---: |' * len(devices)}"]
    for subset in COMPARED:
        for label, key, unit in (
            ("goodput", "goodput_per_s", "/s"),
            ("p99 at that rate", "p99_ms", " ms"),
            ("p50 at a quarter of the throughput", "at_a_quarter_p50_ms", " ms"),
        ):
            figures = [served[d].get(f"{subset.name}_{key}") for d in devices]
            shown = " | ".join("" if figure is None else f"{figure:.1f}{unit}" for figure in figures)
            lines.append(f"| {subset.name}: {label} | {shown} |")
    if "answers_differ_by" in served:
        lines += ["", f"Probabilities differ between the two by at most {served['answers_differ_by']:.1e}."]
    if "after_reloads" in memory:
        moments = {
            "warm": "warm",
            f"after {memory['requests']:,} requests": "after_requests",
            "after one reload": "after_one_reload",
            f"after {memory['reloads']}": "after_reloads",
        }
        shares = [f"{memory[key]['device_mib']:.0f} / {memory[key]['host_mib']:.0f} {m}" for m, key in moments.items()]
        lines += ["", f"Memory of the device / of the processes in MiB: {', '.join(shares)}."]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:1, …, cpu")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE")
    parser.add_argument("--document", type=Path, default=None, help="write the table between its markers there")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--section", choices=SECTIONS, help="run this one here and print its figures")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, as a smoke test")
    options = parser.parse_args(arguments)
    if torch.device(options.device).type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; use --device cpu to try it")
    if options.section:
        print(json.dumps(SECTIONS[options.section](options)), flush=True)
        return
    found = report(options)
    if options.document is not None:
        write_section(options.document, "device", table(found))


if __name__ == "__main__":
    main()
