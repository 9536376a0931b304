"""The contract of the service, by its own tests over HTTP, with two replicas on Ray Serve."""

from collections.abc import Callable, Iterator
from inspect import signature
from types import ModuleType
from typing import Any, Final

import pytest

from tests.app.api import test_batch, test_problems, test_recordings, test_response, test_routes
from tests.contract import test_prediction

pytestmark = [
    pytest.mark.ray,
    pytest.mark.ray_core,
    pytest.mark.filterwarnings("default", "ignore::DeprecationWarning"),
]

MODULES: Final = (test_prediction, test_problems, test_batch, test_recordings, test_response, test_routes)
OTHER_FIXTURES: Final = frozenset({"application", "monkeypatch", "tiny_weights", "tmp_path"})
"""Fixtures of tests that change or inspect an application in their own process."""
LEFT_OUT: Final = frozenset(
    {
        "test_a_body_over_the_limit_is_too_large",  # announces a longer body than it sends, as no client does
        "test_a_refused_item_is_counted",  # the metrics are those of the replica that is asked
    }
)


def over_http(module: ModuleType) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, found in vars(module).items():
        if name.startswith("test_") and name not in LEFT_OUT:
            parameters = set(signature(found).parameters)
            if "client" in parameters and not parameters & OTHER_FIXTURES:
                yield f"{module.__name__.rpartition('.')[2]}_{name.removeprefix('test_')}", found


for module in MODULES:
    globals().update(over_http(module))
