"""How probable a language model finds every answer that a question offers.

Every answer is a text that continues the prompt. What all answers of a question begin with is computed once, with the
prompt; the rest of each, often a token or two, continues from a copy of its keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from randlora.tasks.answers import Attention
from randlora.tasks.generation import EXACT, TOLERANCE
from randlora.tasks.prompt_batches import (
    batches_by_length,
    check_finite,
    left_padded,
    pad_id,
    positions,
    run_batches,
    token_ids,
)

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class OptionScore:
    """What a model makes of one answer.

    Attributes:
        log_probability: of its text after the prompt, in nats: the sum over its tokens.
        tokens: their number.
    """

    log_probability: float
    tokens: int

    @property
    def per_token(self) -> float:
        """The mean log-probability of its tokens."""
        return self.log_probability / self.tokens


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a model makes of the answers of one question.

    Attributes:
        options: one score per answer, in the order given.
        alone: whether it was computed again without a batch, since a batch could have decided which is best.
    """

    options: tuple[OptionScore, ...]
    alone: bool

    def best(self) -> int:
        """Return the index of the most probable answer; of equal ones the first."""
        return max(range(len(self.options)), key=lambda index: self.options[index].log_probability)

    def best_per_token(self) -> int:
        """Return the index of the answer with the highest mean log-probability per token; of equal ones the first."""
        return max(range(len(self.options)), key=lambda index: self.options[index].per_token)

    def margin(self) -> float:
        """Return how close the second answer comes in either order, in nats; infinite with a single answer."""
        sums = sorted((one.log_probability for one in self.options), reverse=True)
        means = sorted((one.per_token for one in self.options), reverse=True)
        return min((order[0] - order[1] for order in (sums, means) if len(order) > 1), default=torch.inf)


@torch.no_grad()
def option_log_likelihoods(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    options: Sequence[Sequence[str]],
    *,
    batch_size: int,
    attention: Attention = "all",
    done: Mapping[int, Scored] | None = None,
    on_done: Callable[[Sequence[int], Sequence[Scored]], None] = lambda indices, found: None,
    on_halved: Callable[[int], None] = lambda size: None,
) -> list[Scored]:
    """Return the scores of the answers to every prompt.

    Prompt and answer are tokenised as one text, as in training. A tokenizer may join the last blank of the prompt to
    the first word of the answer; the joint token then counts for the answer.

    Args:
        model: a causal language model of transformers, in evaluation mode, adapters merged.
        tokenizer: its tokenizer; one without a padding token pads with the id 0.
        prompts: the texts that the answers continue.
        options: the texts of the answers to each prompt, at least one.
        batch_size: prompts at a time. It changes speed and memory, in float32 no decision.
        attention: which tokens the model sees, see `AnswerProtocol`.
        done: scores that are known already, by index of the prompt.
        on_done: called after every batch with its indices and what was found.
        on_halved: called with the new batch size where memory did not hold a batch.

    Raises:
        ValueError: if a prompt has no answers, or one adds no token to it.
        ScoresError: if the model's scores are not finite.
        torch.OutOfMemoryError: if a single prompt does not fit.
    """
    asked = _asked(tokenizer, prompts, options)
    first = next(model.parameters())
    exact, fill = first.dtype in EXACT, pad_id(tokenizer)
    found = dict(done or {})

    def compute(batch: Sequence[int]) -> None:
        scored = _score(model, [asked[index] for index in batch], fill=fill, attention=attention, device=first.device)
        for place, index in enumerate(batch):
            if exact and len(batch) > 1 and scored[place].margin() < TOLERANCE:
                (again,) = _score(model, [asked[index]], fill=fill, attention=attention, device=first.device)
                scored[place] = Scored(options=again.options, alone=True)
        found.update(zip(batch, scored, strict=True))
        on_done(batch, scored)

    batches = batches_by_length([len(one.shared) for one in asked], batch_size)
    run_batches(batches, compute, done=frozenset(found), on_halved=on_halved)
    return [found[index] for index in range(len(prompts))]


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """The tokens of one prompt and its answers.

    Attributes:
        shared: what all texts of prompt and answer begin with.
        begin: where the answers begin in it; not after its end.
        tails: what each text adds to it.
    """

    shared: tuple[int, ...]
    begin: int
    tails: tuple[tuple[int, ...], ...]


def _asked(tokenizer: Any, prompts: Sequence[str], options: Sequence[Sequence[str]]) -> list[_Asked]:
    if len(options) != len(prompts):
        raise ValueError(f"{len(options)} lists of answers for {len(prompts)} prompts; give one for each")
    for prompt, offered in zip(prompts, options, strict=True):
        if not offered or not all(offered):
            raise ValueError(f"answers {list(offered)!r} to {prompt[-60:]!r}; valid: one or more, none of them empty")
    heads = token_ids(tokenizer, prompts)
    texts = [prompt + option for prompt, offered in zip(prompts, options, strict=True) for option in offered]
    whole = iter(token_ids(tokenizer, texts))
    return [_split(head, [next(whole) for _ in offered]) for head, offered in zip(heads, options, strict=True)]


def _split(prompt: Sequence[int], texts: Sequence[tuple[int, ...]]) -> _Asked:
    begin = _common([prompt, *texts])
    if begin == 0:
        raise ValueError("prompt and answer share no token, so there is nothing that the answer continues")
    end = max(begin, min(_common(texts), min(map(len, texts))))
    if any(len(text) <= begin for text in texts):
        raise ValueError("an answer adds no token to its prompt; it cannot be scored")
    return _Asked(shared=texts[0][:end], begin=begin, tails=tuple(text[end:] for text in texts))


def _common(sequences: Sequence[Sequence[int]]) -> int:
    """Return how many tokens all sequences begin with alike."""
    length = 0
    for tokens in zip(*sequences, strict=False):
        if any(here != there for here, there in pairwise(tokens)):
            break
        length += 1
    return length


def _score(
    model: Any, asked: Sequence[_Asked], *, fill: int, attention: Attention, device: torch.device
) -> list[Scored]:
    ids, mask = left_padded([one.shared for one in asked], fill=fill, attention=attention, device=device)
    steps = max(len(one.shared) - one.begin for one in asked) + 1
    output = model(
        input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=True, logits_to_keep=steps
    )
    logs = _log_softmax(output.logits)
    # the answers' part of what is shared: its token at place t is scored by the position before it
    shared = [_sum(logs[row, -1 - length : -1], ids[row, ids.shape[1] - length :]) for row, length in _lengths(asked)]
    rows = torch.tensor([row for row, one in enumerate(asked) for _ in one.tails], device=device)
    tails = [tail for one in asked for tail in one.tails]
    ends = _tails(model, output.past_key_values, tails, rows=rows, mask=mask, first=logs[:, -1], attention=attention)
    sums = [shared[row] + end for row, end in zip(rows.tolist(), ends, strict=True)]
    found, start = [], 0
    for row, length in _lengths(asked):
        stop = start + len(asked[row].tails)
        found.append(
            Scored(
                options=tuple(
                    OptionScore(log_probability=value, tokens=length + len(tail))
                    for value, tail in zip(sums[start:stop], asked[row].tails, strict=True)
                ),
                alone=False,
            )
        )
        start = stop
    return found


def _tails(
    model: Any,
    cache: Any,
    tails: Sequence[Sequence[int]],
    *,
    rows: Int[Tensor, " options"],
    mask: Int[Tensor, "n tokens"],
    first: Float[Tensor, "n vocabulary"],
    attention: Attention,
) -> list[float]:
    """Return the log-probability of each tail after the row of the batch that it continues."""
    sums = [float(first[row, tail[0]]) if tail else 0.0 for row, tail in zip(rows.tolist(), tails, strict=True)]
    width = max(map(len, tails)) - 1
    if width < 1:
        return sums
    device = mask.device
    ids = torch.tensor([[*tail[:-1], *[0] * (width - len(tail[:-1]))] for tail in tails], device=device)
    own = torch.tensor([[1] * len(tail[:-1]) + [0] * (width - len(tail[:-1])) for tail in tails], device=device)
    seen = torch.cat([mask[rows], own if attention == "all" else own * (ids != 0)], dim=1)
    cache.batch_select_indices(rows)
    output = model(
        input_ids=ids,
        attention_mask=seen,
        position_ids=positions(seen)[:, -width:],
        past_key_values=cache,
        use_cache=True,
    )
    logs = _log_softmax(output.logits)
    for place, tail in enumerate(tails):
        if len(tail) > 1:
            sums[place] += _sum(logs[place, : len(tail) - 1], torch.tensor(tail[1:], device=device))
    return sums


def _lengths(asked: Sequence[_Asked]) -> list[tuple[int, int]]:
    """Return each row with the number of its shared tokens that belong to the answers."""
    return [(row, len(one.shared) - one.begin) for row, one in enumerate(asked)]


def _log_softmax(logits: Float[Tensor, "n tokens vocabulary"]) -> Float[Tensor, "n tokens vocabulary"]:
    check_finite(logits)
    return logits.float().log_softmax(-1)


def _sum(logs: Float[Tensor, "tokens vocabulary"], tokens: Int[Tensor, " tokens"]) -> float:
    return float(logs.gather(1, tokens[:, None]).sum())
