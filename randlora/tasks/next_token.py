"""Fine-tuning of a language model on instructions: next-token prediction, judged by the answers it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from randlora.backbones.base import Backbone, LanguageBackbone
from randlora.checks import check_choice, check_flag
from randlora.data.encode import NO_LOSS, LossOn
from randlora.tasks.answers import AnswerProtocol
from randlora.tasks.base import Objective, Task
from randlora.tasks.prompt_batches import positions

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

Side = Literal["left", "right"]


@dataclass(frozen=True, kw_only=True)
class InstructionTuning(Task):
    """Next-token prediction on prompts with their answers.

    Attributes:
        protocol: form of the prompts, and how answers are found.
        loss_on: ``everything``, the prompt included (the paper), or the ``answer`` alone.
        append_eos: end each text that the cutoff leaves whole with the end-of-text token.
        padding_side: of training batches; evaluation pads on the left. Padding is masked.
    """

    protocol: AnswerProtocol
    loss_on: LossOn
    append_eos: bool
    padding_side: Side

    def __post_init__(self) -> None:
        check_choice(self, "loss_on", ("everything", "answer"))
        check_flag(self, "append_eos")
        check_choice(self, "padding_side", ("left", "right"))

    def check_backbone(self, backbone: Backbone) -> None:
        """Raise ValueError unless the backbone is a language model."""
        if not isinstance(backbone, LanguageBackbone):
            raise ValueError(
                f"backbone {backbone.name} is an {backbone.kind}; the task {type(self).__name__} needs a language "
                "model, such as backbone=stories260k"
            )

    def build(self, *, backbone: LanguageBackbone, model: nn.Module) -> NextToken:
        """Return the objective around a model whose weights are loaded and not yet adapted."""
        return NextToken(backbone, model)


class NextToken(Objective):
    """Cross-entropy of each token after the first, given those before it; see :class:`InstructionTuning`."""

    def forward(
        self, ids: Int[Tensor, "b t"], mask: Int[Tensor, "b t"], targets: Int[Tensor, "b t"], **at: Any
    ) -> Float[Tensor, ""]:
        """Return the mean over the tokens that have a target; 0 where none has.

        Args:
            ids: tokens.
            mask: 0 where there is padding.
            targets: the tokens again, ``NO_LOSS`` where no loss is taken.
            at: the step, which changes nothing.
        """
        logits = self.model(input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False).logits
        total = F.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), targets[:, 1:].flatten(), ignore_index=NO_LOSS, reduction="sum"
        )
        return total / self.units(ids, mask, targets).clamp(min=1)

    def units(self, *batch: Tensor) -> Float[Tensor, ""]:
        """Return the number of tokens that have a target."""
        return (batch[2][:, 1:] != NO_LOSS).sum().float()


@torch.no_grad()
def mean_loss(objective: Objective, batches: list[tuple[Tensor, ...]]) -> float:
    """Return the mean loss over batches, in evaluation mode; the objective is left in training mode."""
    objective.eval()
    units = [float(objective.units(*batch)) for batch in batches]
    losses = [float(objective(*batch, step=0)) * count for batch, count in zip(batches, units, strict=True)]
    objective.train()
    return sum(losses) / sum(units)
