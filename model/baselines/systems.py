"""The systems by name: EMMR, the six it is compared with, and two references; how each is built and decides."""

from collections.abc import Mapping
from typing import Final

import torch

from model.baselines.autoencoders import AE, CRA
from model.baselines.base import Baseline
from model.baselines.mctn import MCTN
from model.baselines.mmin import MMIN
from model.baselines.references import BestClassical, LateFusion
from model.baselines.tate import TATE
from model.baselines.transm import TransM
from model.config import EMMR as EMMR_NAME
from model.config import ModelConfig, System
from model.network.batch import Batch
from model.network.decision import Decision
from model.network.emmr import EMMR
from model.network.inference import sparse
from model.network.inference.fused import FusedNetwork

Network = EMMR | Baseline

TITLES: Final[Mapping[System, str]] = {
    "emmr": "EMMR",
    "ae": "AE (Baldi 2012)",
    "cra": "CRA (Tran et al. 2017)",
    "mctn": "MCTN (Pham et al. 2019)",
    "transm": "TransM (Wang et al. 2020)",
    "mmin": "MMIN (Zhao et al. 2021)",
    "tate": "TATE (Zeng et al. 2022)",
    "late-fusion": "Late fusion by Bayes' rule",
    "classical": "Best classical classifier of each subset",
}
"""Every system, with its source, in the order of reports."""

BASELINES: Final[Mapping[str, type[Baseline]]] = {
    "ae": AE,
    "cra": CRA,
    "mctn": MCTN,
    "transm": TransM,
    "mmin": MMIN,
    "tate": TATE,
    "late-fusion": LateFusion,
    "classical": BestClassical,
}


def build_network(config: ModelConfig) -> Network:
    """The untrained network of a config's system."""
    return EMMR(config) if config.system == EMMR_NAME else BASELINES[config.system](config)


def decide(
    network: Network | FusedNetwork, batch: Batch, *, explain: bool = False, both_paths: bool = False
) -> list[Decision]:
    """Decide on each utterance of a batch with any system.

    A baseline gives probabilities alone: it has no votes, no ensemble and no score of key missing modalities.

    Args:
        network: in eval mode.
        batch: any mixture of subsets, on the network's device.
        explain: of EMMR, as for `model.network.inference.sparse.decide`.
        both_paths: the same.

    Raises:
        ValueError: the network is in training mode, where dropout would make answers random.
    """
    if not isinstance(network, Baseline):
        return sparse.decide(network, batch, explain=explain, both_paths=both_paths)
    if network.training:
        raise ValueError("a network in training mode does not give reproducible answers")
    with torch.inference_mode():
        answers = network(batch).float().softmax(dim=-1).tolist()
    return [Decision.of_answer(tuple(answer)) for answer in answers]


def count_parameters(config: ModelConfig) -> dict[System, int]:
    """Trained parameters of every system under a config, for example `ModelConfig.paper()`.

    Copies that are frozen in training do not count. The references have 0: the number of their coefficients depends on
    the data.
    """
    networks = {system: build_network(config.model_copy(update={"system": system})) for system in TITLES}
    return {
        system: sum(p.numel() for p in network.parameters() if p.requires_grad) for system, network in networks.items()
    }
