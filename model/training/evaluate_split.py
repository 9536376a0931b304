"""A network measured on one part of a corpus.

For: training and `emmr evaluate`. Needs none of the packages that only training needs.
Does not know: what is measured (`model.training.evaluation`) or how features came about.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from model.modality import Utterance
from model.network.batch import collate
from model.network.decision import Decision
from model.network.emmr import EMMR
from model.network.inference.sparse import decide
from model.network.reliability import Reliability, decide_reliably
from model.training.datasets.base import Corpus, Source, Split
from model.training.evaluation import Evaluation, evaluate, items_of
from model.types import FloatArray


@dataclass(frozen=True, slots=True)
class NetworkPredictor:
    """A network as `evaluate` asks for it."""

    network: EMMR
    device: torch.device
    reliability: Reliability

    def decide(self, utterances: Sequence[Utterance], *, both_paths: bool = False) -> list[Decision]:
        """One decision for each utterance."""
        return decide_reliably(self.network_decide, self.reliability, utterances, both_paths=both_paths)

    def network_decide(self, utterances: Sequence[Utterance], *, explain: bool, both_paths: bool) -> list[Decision]:
        """The network's own decisions."""
        batch = collate(utterances, self.network.config).to(self.device)
        return decide(self.network, batch, explain=explain, both_paths=both_paths)


def evaluate_split(
    network: EMMR,
    reliability: Reliability,
    corpus: Corpus,
    split: Split,
    features: Mapping[Source, FloatArray],
    device: torch.device,
) -> Evaluation:
    """Every protocol on one part of a corpus.

    Raises:
        ValueError: the part is empty.
    """
    items = items_of(corpus.examples(split), features, network.config.classes)
    return evaluate(NetworkPredictor(network, device, reliability), items, network.config.classes)
