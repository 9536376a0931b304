"""A network measured on one part of a corpus."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from model.baselines.systems import Network, decide
from model.modality import Utterance
from model.network.batch import collate
from model.network.decision import Decision
from model.network.reliability import Reliability, decide_with_reliability
from model.training.datasets.base import Corpus, Source, Split
from model.training.decision_table import items_of
from model.training.evaluation import Evaluation, evaluate
from model.types import FloatArray


@dataclass(frozen=True, slots=True)
class NetworkPredictor:
    """A network and its calibration as a `Predictor`; the network is in eval mode and on `device`."""

    network: Network
    device: torch.device
    reliability: Reliability

    def decide(self, utterances: Sequence[Utterance], *, both_paths: bool = False) -> list[Decision]:
        """One calibrated decision for each utterance."""
        network_decide = partial(self.network_decide, both_paths=both_paths)
        return decide_with_reliability(network_decide, self.reliability, utterances)

    def network_decide(self, utterances: Sequence[Utterance], *, both_paths: bool = False) -> list[Decision]:
        """The network's own decisions, before calibration."""
        batch = collate(utterances, self.network.config).to(self.device)
        return decide(self.network, batch, both_paths=both_paths)


def evaluate_split(
    network: Network,
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
