"""How close a beam search came to another result.

The last bits of a float32 score depend on what else is in the batch. Where two candidates are closer than that, the
batch decides which of them a beam search keeps. This follows transformers' beam search step by step and records, for
every prompt, the smallest difference that decided anything; whoever generates can then do the close ones again alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from randlora.tasks.prompt_batches import check_finite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int
    from torch import Tensor

LOST = -1e9  # what transformers gives to beams that must not be kept


class BeamMargins:
    """A logits processor that changes nothing and records margins.

    It holds for ``length_penalty`` 1, ``early_stopping`` False and no other processor. With one beam it follows greedy
    search.

    Args:
        prompts: number of prompts in the batch.
        beams: beams of each.
        max_new_tokens: steps at most.
        ends: ids of the tokens that end a text.
    """

    def __init__(self, *, prompts: int, beams: int, max_new_tokens: int, ends: Sequence[int]) -> None:
        self.shape = (prompts, beams)
        self.max_new_tokens = max_new_tokens
        self.ends = tuple(ends)
        self.step = 0
        self._running: Tensor | None = None

    def __call__(
        self, input_ids: Int[Tensor, "rows tokens"], scores: Float[Tensor, "rows vocabulary"]
    ) -> Float[Tensor, "rows vocabulary"]:
        """Follow one step; return the scores as they came.

        Raises:
            ScoresError: if one is not finite.
        """
        check_finite(scores)
        if self._running is None:
            self._begin(scores.device)
        self.step += 1
        if self.shape[1] == 1:
            self._follow_greedy(scores)
        else:
            self._follow_beams(scores)
        return scores

    def smallest(self) -> list[float]:
        """Return the smallest margin of each prompt, in nats, once the search is over."""
        if self._running is None:
            return [torch.inf] * self.shape[0]
        margins = self._margin
        if self.shape[1] > 1:
            margins = torch.minimum(margins, self.finished[:, 0] - self.finished[:, 1])
        return [float(margin) for margin in margins]

    def best(self) -> list[float]:
        """Return the score of each prompt's result: its mean log-probability per token. Needs more than one beam."""
        return [float(score) for score in self.finished[:, 0]]

    def _begin(self, device: torch.device) -> None:
        self._running = torch.full(self.shape, LOST, device=device)
        self._running[:, 0] = 0
        self.finished = torch.full(self.shape, LOST, device=device)
        self.over = torch.zeros(self.shape[0], dtype=torch.bool, device=device)
        self._margin = torch.full(self.shape[:1], torch.inf, device=device)
        self._ends = torch.tensor(self.ends, dtype=torch.long, device=device)

    def _follow_greedy(self, scores: Float[Tensor, "n vocabulary"]) -> None:
        best = scores.topk(2)
        self._record(best.values[:, 0] - best.values[:, 1])
        self.over |= torch.isin(best.indices[:, 0], self._ends)

    def _follow_beams(self, scores: Float[Tensor, "rows vocabulary"]) -> None:
        prompts, beams = self.shape
        vocabulary = scores.shape[-1]
        assert self._running is not None
        total = (scores.view(prompts, beams, vocabulary) + self._running[:, :, None]).flatten(1)
        # enough for the beams that go on and one more, whatever ends
        kept = min((1 + max(1, len(self.ends))) * beams + 1, total.shape[1])
        values, where = total.topk(kept)
        last = self.step == self.max_new_tokens
        ends = torch.isin(where % vocabulary, self._ends)
        going = torch.where(ends, LOST, values).topk(min(beams + 1, kept)).values
        if not last:
            self._record(going[:, beams - 1] - going[:, -1])
            # only the best ones may end, so their border counts where one of those that reach it ends
            border = values[:, beams - 1] - values[:, beams]
            self._record(torch.where(ends[:, : beams + 1].any(1), border, torch.inf))
        ended = (ends | last)[:, :beams] & ~self.over[:, None]
        scored = torch.where(ended, values[:, :beams] / self.step, LOST)
        self.finished = torch.cat([self.finished, scored], dim=1).topk(beams).values
        self._running = going[:, :beams]
        if not last:
            self._stop()

    def _stop(self) -> None:
        """Mark the prompts whose running beams cannot come before the finished ones any more."""
        assert self._running is not None
        full = (self.finished > LOST / 2).all(1)
        lead = self._running[:, 0] / self.step - self.finished[:, -1]
        self._record(torch.where(full, lead.abs(), torch.inf))
        self.over |= full & (lead <= 0)

    def _record(self, margin: Float[Tensor, " n"]) -> None:
        self._margin = torch.where(self.over, self._margin, torch.minimum(self._margin, margin))
