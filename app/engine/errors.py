"""What can go wrong between a readable request and its answer, drawn as a tree.

For: letting the batcher, the engine and the predictor say why there is no answer.
Does not know: HTTP; `app.api.problems` maps these, and those of `model.errors` and `app.uploads.errors`, to answers.

    ServiceError
    ├── Unavailable            come back later; carries how much later
    │   ├── NotReady           still starting, or on the way out
    │   ├── QueueFull          as many wait as may, or they will take too long
    │   ├── ShortOfMemory      there is not enough of it for this item alone, though the device works
    │   └── DeviceLost         the device or the model on it is broken; the process is about to end
    ├── ReloadRefused          the weights that were to be served next cannot be; the old ones are served on
    ├── ReloadUnderway         weights are being loaded already
    ├── DeadlinePassed         an answer would come too late
    ├── NothingUsable          every modality given was empty
    └── Unprocessable          the model fails on this item, though not on others
"""

from collections.abc import Mapping

from model.errors import EmptyModality
from model.modality import Modality


class ServiceError(Exception):
    """Base of everything below. The message is for the client: it never quotes content."""


class Unavailable(ServiceError):
    """Nothing is wrong with the request.

    Args:
        detail: what is the matter.
        retry_after: seconds after which another attempt makes sense.
    """

    def __init__(self, detail: str, retry_after: int = 1) -> None:
        self.retry_after = retry_after
        super().__init__(detail)


class NotReady(Unavailable):
    """Still starting, or on the way out."""


class QueueFull(Unavailable):
    """As many requests wait as may, or as can be answered soon."""


class ShortOfMemory(Unavailable):
    """There is not enough memory for this request at this moment."""


class DeviceLost(Unavailable):
    """The device, or the model on it, no longer computes."""


class DeadlinePassed(ServiceError):
    """An answer would come too late."""


class NothingUsable(ServiceError):
    """Every modality that was given is empty.

    Args:
        empty: modality → why it counts as missing; at least one.
    """

    def __init__(self, empty: Mapping[Modality, EmptyModality]) -> None:
        self.empty = dict(empty)
        super().__init__("Nothing usable remains: " + "; ".join(str(error) for error in empty.values()))


class Unprocessable(ServiceError):
    """The model fails on this item, though not on others."""


class ReloadRefused(ServiceError):
    """The weights that were to be served next cannot be; those before are served on."""


class ReloadUnderway(ServiceError):
    """Weights are being loaded already."""
