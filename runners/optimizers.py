"""The optimizer and learning-rate schedule of a recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from randlora.training import Training


class Optimizers:
    """The optimizers of a run, stepped as one; the learning rate of every group follows the recipe's schedule."""

    def __init__(
        self, recipe: Training, *, backbone: Mapping[str, nn.Parameter], head: Iterable[nn.Parameter], total: int
    ) -> None:
        matrices, rest = _split(backbone) if recipe.optimizer == "muon" else ([], list(backbone.values()))
        self.all: list[torch.optim.Optimizer] = []
        groups = [
            {"params": rest, "lr": recipe.learning_rate},
            {"params": list(head), "lr": recipe.head_learning_rate},
        ]
        filled = [group for group in groups if group["params"]]
        beta1, beta2 = recipe.betas
        if filled:
            self.all.append(torch.optim.AdamW(filled, betas=(beta1, beta2), weight_decay=recipe.weight_decay))
        if matrices:
            self.all.append(
                torch.optim.Muon(
                    matrices,
                    lr=recipe.learning_rate,
                    weight_decay=recipe.weight_decay,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        self.schedules = [LambdaLR(one, lambda step: recipe.rate_factor(step, total)) for one in self.all]

    def step(self) -> None:
        """Apply the gradients, advance the schedule and clear the gradients."""
        for optimizer, schedule in zip(self.all, self.schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)

    def learning_rate(self) -> float:
        """Return the present rate of the first group."""
        return float(self.all[0].param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs."""
        return {
            "optimizers": [optimizer.state_dict() for optimizer in self.all],
            "schedules": [schedule.state_dict() for schedule in self.schedules],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore from a checkpoint."""
        for optimizer, saved in zip(self.all, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for schedule, saved in zip(self.schedules, state["schedules"], strict=True):
            schedule.load_state_dict(saved)


def _split(parameters: Mapping[str, nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    def hidden(name: str, parameter: nn.Parameter) -> bool:
        return parameter.ndim == 2 and ("blocks." in name or "layers." in name)

    matrices = [parameter for name, parameter in parameters.items() if hidden(name, parameter)]
    rest = [parameter for name, parameter in parameters.items() if not hidden(name, parameter)]
    return matrices, rest
