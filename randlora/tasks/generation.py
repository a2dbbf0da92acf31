"""Texts that a language model writes after prompts: transformers' beam search in batches.

In float32 the texts are the same for every batch size. The last bits of a score depend on the batch, so every prompt
whose beam search was decided by less than ``TOLERANCE`` is generated again alone and unpadded, which is what the
published scripts do with every prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from randlora.tasks.answers import Attention
from randlora.tasks.beam_margins import BeamMargins
from randlora.tasks.prompt_batches import batches_by_length, left_padded, pad_id, positions, run_batches, token_ids

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor, nn

TOLERANCE = 1e-4  # nats; docs/COMMONSENSE.md states what batches were measured to change
EXACT = (torch.float32, torch.float64)  # dtypes in which the tolerance is above what batches change


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What a model wrote after one prompt.

    Attributes:
        text: the continuation, up to the end that the model set; may be empty.
        alone: whether it was generated again without a batch, since a batch could have decided it.
    """

    text: str
    alone: bool


@torch.no_grad()
def generate_texts(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    beams: int,
    max_new_tokens: int,
    batch_size: int,
    attention: Attention = "all",
    done: Mapping[int, Generated] | None = None,
    on_done: Callable[[Sequence[int], Sequence[Generated]], None] = lambda indices, found: None,
    on_halved: Callable[[int], None] = lambda size: None,
) -> list[Generated]:
    """Return the continuation of every prompt by deterministic beam search.

    Args:
        model: a causal language model of transformers, in evaluation mode, adapters merged.
        tokenizer: its tokenizer; one without a padding token pads with the id 0.
        prompts: the texts to continue.
        beams: of the search; 1 is greedy search.
        max_new_tokens: tokens at most.
        batch_size: prompts at a time. It changes speed and memory, in float32 no text.
        attention: which tokens of a prompt the model sees, see `AnswerProtocol`.
        done: texts that are known already, by index of the prompt.
        on_done: called after every batch with its indices and what was found.
        on_halved: called with the new batch size where memory did not hold a batch.

    Raises:
        ScoresError: if the model's scores are not finite.
        torch.OutOfMemoryError: if a single prompt does not fit.
    """
    encoded = token_ids(tokenizer, prompts)
    search = _Search(model, tokenizer, beams=beams, max_new_tokens=max_new_tokens, attention=attention)
    found = dict(done or {})

    def compute(batch: Sequence[int]) -> None:
        texts = search.run([encoded[index] for index in batch])
        found.update(zip(batch, texts, strict=True))
        on_done(batch, texts)

    batches = batches_by_length([len(ids) for ids in encoded], batch_size)
    run_batches(batches, compute, done=frozenset(found), on_halved=on_halved)
    return [found[index] for index in range(len(prompts))]


class _Search:
    """One setting of the beam search of one model."""

    def __init__(
        self, model: nn.Module, tokenizer: Any, *, beams: int, max_new_tokens: int, attention: Attention
    ) -> None:
        from transformers import GenerationConfig

        self.model: Any = model
        self.tokenizer = tokenizer
        self.attention: Attention = attention
        self.fill = pad_id(tokenizer)
        self.ends = _ends(model, tokenizer)
        # what generation_config.json of a hub could say otherwise is stated: Qwen2's has a repetition penalty
        self.config = GenerationConfig(
            num_beams=beams,
            max_new_tokens=max_new_tokens,
            min_length=0,
            do_sample=False,
            temperature=1.0,
            top_p=1.0,
            top_k=50,
            length_penalty=1.0,
            early_stopping=False,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            num_return_sequences=1,
            use_cache=True,
            pad_token_id=self.fill,
            eos_token_id=list(self.ends) or None,
        )
        first = next(model.parameters())
        self.device, self.exact = first.device, first.dtype in EXACT

    def run(self, encoded: Sequence[Sequence[int]]) -> list[Generated]:
        """Return the continuation of every prompt of one batch, the close ones again alone."""
        texts, margins = self._batch(encoded)
        found = []
        for ids, text, margin in zip(encoded, texts, margins, strict=True):
            alone = self.exact and len(encoded) > 1 and margin < TOLERANCE
            found.append(Generated(text=self._batch([ids])[0][0] if alone else text, alone=alone))
        return found

    def _batch(self, encoded: Sequence[Sequence[int]]) -> tuple[list[str], list[float]]:
        from transformers import LogitsProcessorList

        ids, mask = left_padded(encoded, fill=self.fill, attention=self.attention, device=self.device)
        margins = BeamMargins(
            prompts=len(encoded),
            beams=self.config.num_beams,
            max_new_tokens=self.config.max_new_tokens,
            ends=self.ends,
        )
        written = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=self._read(ids, mask, [len(one) for one in encoded]),
            generation_config=self.config,
            logits_processor=LogitsProcessorList([margins]),
        )
        rows = written[:, ids.shape[1] :].tolist()
        return [self._text(one, row) for one, row in zip(encoded, rows, strict=True)], margins.smallest()

    def _read(self, ids: Int[Tensor, "n tokens"], mask: Int[Tensor, "n tokens"], lengths: Sequence[int]) -> Any:
        """Return the keys and values of all but the last token, computed once and copied for every beam.

        Left to itself, ``generate`` reads the prompt once for every beam. On a CPU prompts of other lengths are read
        apart: without padding no mask is needed, and attention then leaves out what lies ahead.
        """
        from randlora.tasks.beam_cache import join_padded, keeps_everything, share_prompt

        width = ids.shape[1] - 1
        if width == 0:
            return None
        if self.device.type == "cpu" and min(lengths) > 1 and keeps_everything(self.model.config):
            groups: dict[int, list[int]] = {}
            for row, length in enumerate(lengths):
                groups.setdefault(length - 1, []).append(row)
            parts = [
                (rows, self._forward(ids[rows, -1 - n : -1], mask[rows, -1 - n : -1])) for n, rows in groups.items()
            ]
            read = join_padded(parts, width=width)
        else:
            read = self._forward(ids[:, :-1], mask[:, :-1])
        return share_prompt(read, beams=self.config.num_beams, room=self.config.max_new_tokens)

    def _forward(self, ids: Int[Tensor, "n tokens"], mask: Int[Tensor, "n tokens"]) -> Any:
        output = self.model(
            input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=True, logits_to_keep=1
        )
        return output.past_key_values

    def _text(self, prompt: Sequence[int], row: Sequence[int]) -> str:
        """Return a continuation as text: what the whole text adds to the prompt, up to the first end."""
        length = next((place for place, token in enumerate(row) if token in self.ends), len(row))
        before = self.tokenizer.decode(list(prompt), skip_special_tokens=True)
        whole = self.tokenizer.decode([*prompt, *row[:length]], skip_special_tokens=True)
        if whole.startswith(before):
            return whole.removeprefix(before)
        return self.tokenizer.decode(row[:length], skip_special_tokens=True)  # its tokens join those of the prompt


def _ends(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Return the ids that end a text: those that the model was published with, else the tokenizer's."""
    stated = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    stated = tokenizer.eos_token_id if stated is None else stated
    if stated is None:
        return ()
    return (stated,) if isinstance(stated, int) else tuple(stated)
