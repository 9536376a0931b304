"""Polarity of an utterance from text, voice and face, in this process (`load`) or by a service (`Client`).

Names are imported when they are first used: a client needs no PyTorch, and `load` no HTTP library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from app.api.schemas import Prediction
    from app.errors import ServiceError
    from emmr.calls import ProblemError
    from emmr.client import AsyncClient, Client
    from emmr.local import Model, load

__all__ = ["AsyncClient", "Client", "Model", "Prediction", "ProblemError", "ServiceError", "load"]

_MODULES: Final = {
    "AsyncClient": "emmr.client",
    "Client": "emmr.client",
    "Model": "emmr.local",
    "Prediction": "app.api.schemas",
    "ProblemError": "emmr.calls",
    "ServiceError": "app.errors",
    "load": "emmr.local",
}


def __getattr__(name: str) -> Any:
    """Import a public name."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_MODULES[name]), name)
    except ModuleNotFoundError as error:
        if error.name != "httpx2":
            raise
        raise ImportError(f"emmr.{name} needs the extra client: pip install 'emmr[client]'") from error
