"""An adversary that tells the planner's answers from the executor's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from agentkd.distillation.restoring import restore_adam
from agentkd.distillation.terms.answers import Soft, SoftLabels, blocks
from agentkd.distillation.terms.term import Batch, Ground, Loss, Term
from agentkd.dists import action_size
from agentkd.errors import check_range

_SLOPE = 0.2
_WIDEST = 4096


@dataclass(frozen=True, slots=True)
class Adversarial(Term):
    """Be taken for the planner by a discriminator D of (observation, answer) pairs.

    D learns softplus(-D(planner)) + softplus(D(executor)), the cross-entropy of the logit D with 1
    for the planner, and the executor minimises softplus(-D) of its whole answer, the probabilities
    or the action (conditional adversarial distillation; Xu et al. 2018). The terms beside it are
    the floor. Spectral norms of 1 keep D smooth: it changes at most as much as its input.

    Attributes:
        until: The share of the run at which the term has faded to nothing.
        width: Of D's two hidden layers, 1 to 4,096.
        rate: D's learning rate, above 0 and up to 1.
    """

    until: float = 1.0
    width: int = 64
    rate: float = 1e-3

    def __post_init__(self) -> None:
        check_range("until", self.until, above=0, most=1, hint="It is a share of the run.")
        check_range("width", self.width, least=1, most=_WIDEST, whole=True)
        check_range("rate", self.rate, above=0, most=1)

    def build(self, ground: Ground) -> Loss:
        """Make the adversary."""
        return Adversary(self, ground)


@final
class Adversary(Loss):
    """`Adversarial` at work: a discriminator, and its optimiser."""

    def __init__(self, term: Adversarial, ground: Ground) -> None:
        super().__init__()
        self._term, self._ground = term, ground
        self._choices = action_size(ground.action) * (2 if ground.kind == "bernoulli" else 1)
        self._units = ground.units()
        self._soft = SoftLabels(Soft(), ground) if self._units is None else None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(ground.seed)
            self.discriminator = _discriminator(ground.obs + self._choices, term)
        self.restart()

    def restart(self) -> None:
        """Begin the optimiser anew."""
        parameters = self.discriminator.parameters()
        self._adam = torch.optim.Adam(parameters, lr=self._term.rate, betas=(0.5, 0.9))

    def get_extra_state(self) -> Any:
        """The optimiser's averages."""
        return self._adam.state_dict()

    def set_extra_state(self, state: Any) -> None:
        """Go on with an optimiser's averages."""
        restore_adam(self._adam, state, "The discriminator")

    def logits(self, obs: Tensor, answers: Tensor) -> Tensor:
        """How much pairs look like the planner's, above 0 for yes: (batch,).

        Observations are in the environment's units, (batch, obs); answers are probabilities, or
        actions in halves of the box, (batch, n).
        """
        pairs = torch.cat([self._ground.normalised(obs), answers], 1)
        result: Tensor = self.discriminator(pairs).squeeze(1)
        return result

    def _probabilities(self, scores: Tensor, tau: float | Tensor) -> Tensor:
        choices = blocks(self._ground.kind, self._ground.action, scores)
        return torch.cat([torch.softmax(each / tau, 1) for each in choices], 1)

    def _sides(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The executor's and the planner's answers as D sees them, (batch, n) each."""
        if self._units is not None:
            return self._units.executor(batch.outputs), self._units.planner(batch.planner)
        assert self._soft is not None
        mine = self._probabilities(batch.outputs, 1.0)
        return mine, self._probabilities(batch.planner, self._soft.tau)

    def forward(self, batch: Batch) -> Tensor:
        """Train the discriminator by one step; give what it holds against each row."""
        fading = max(0.0, 1.0 - batch.progress / self._term.until)
        if self._soft is not None:
            self._soft.observe(batch.planner)
        if fading == 0:
            return torch.zeros_like(batch.outputs[:, 0])
        mine, theirs = self._sides(batch)
        self._learn(batch.obs, theirs, mine.detach())
        self.discriminator.requires_grad_(requires_grad=False)
        try:
            loss = functional.softplus(-self.logits(batch.obs, mine))
        finally:
            self.discriminator.requires_grad_(requires_grad=True)
        return fading * loss

    def _learn(self, obs: Tensor, theirs: Tensor, mine: Tensor) -> None:
        real, fake = self.logits(obs, theirs), self.logits(obs, mine)
        loss = (functional.softplus(-real) + functional.softplus(fake)).mean()
        self._adam.zero_grad(set_to_none=True)
        loss.backward()
        self._adam.step()
        right = (real > 0).float().mean() + (fake < 0).float().mean()
        # The share of pairs that are told apart: 0.5 is chance.
        self.shown["told"] = right.item() / 2


def _discriminator(size: int, term: Adversarial) -> nn.Sequential:
    sizes = (size, term.width), (term.width, term.width), (term.width, 1)
    # Miyato et al. 2018, "Spectral normalization for GANs".
    first, second, last = (spectral_norm(nn.Linear(*each)) for each in sizes)
    slope = nn.LeakyReLU(_SLOPE)
    return nn.Sequential(first, slope, second, slope, last)
