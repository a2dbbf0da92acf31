"""A training text as tokens and targets, by the rules of the published script (paper, section C.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LossOn = Literal["everything", "answer"]
NO_LOSS = -100


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A training text.

    Attributes:
        ids: its tokens, without padding.
        targets: as many; the token, or -100 where it adds nothing to the loss. Not shifted.
        truncated: whether the text was longer than the cutoff, so that its end, the answer first of all, is missing.
    """

    ids: tuple[int, ...]
    targets: tuple[int, ...]
    truncated: bool

    @property
    def has_loss(self) -> bool:
        """Whether any token after the first adds to the loss; without, the example trains nothing."""
        return any(target != NO_LOSS for target in self.targets[1:])


def encode(
    tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str, *, cutoff: int, append_eos: bool, loss_on: LossOn
) -> Example:
    """Return a training text as an example.

    The whole text is tokenised at once and truncated to ``cutoff`` tokens, as the tokenizer truncates (its end is
    dropped). The end-of-text token follows where there is room for it and the text does not end in it already.

    With ``loss_on="answer"`` as many tokens are left out of the loss as the prompt takes when it is tokenised alone
    and truncated alike. That is the published rule, and a trap: where the last token of the prompt and the first of the
    completion merge in the whole text, the boundary is off. The indented prompt ends in 16 spaces, the last of which
    goes with the next word. A tokenizer with a token for each space (GPT-2, stories260k) so makes one token less of it,
    and the answer's first word is left out of the loss; one with a token for many spaces (Phi-3) makes as many, of
    which the last differs.

    Args:
        tokenizer: of the model.
        prompt: what is given.
        completion: what is to be said; it follows the prompt directly.
        cutoff: most tokens, from 1 (256 in the paper).
        append_eos: append the end-of-text token.
        loss_on: ``everything`` (the published scripts), or the ``answer`` only.

    Raises:
        ValueError: for a cutoff below 1, another ``loss_on``, a text without tokens, or a tokenizer without an
            end-of-text token where one is to be appended.
    """
    if isinstance(cutoff, bool) or not isinstance(cutoff, int) or cutoff < 1:
        raise ValueError(f"cutoff = {cutoff!r}; valid: a whole number of tokens from 1")
    if loss_on not in get_args(LossOn):
        raise ValueError(f"loss_on = {loss_on!r}; valid: {', '.join(get_args(LossOn))}")
    ids, truncated = _tokens(tokenizer, prompt + completion, cutoff)
    if not ids:
        raise ValueError(f"{type(tokenizer).__name__} makes no token of {prompt + completion!r}; give a text")
    if append_eos and len(ids) < cutoff:
        end = tokenizer.eos_token_id
        if end is None:
            raise ValueError(
                f"{type(tokenizer).__name__} has no end-of-text token to append; set append_eos to false, or give the "
                "tokenizer an eos_token"
            )
        if ids[-1] != end:
            ids.append(end)
    masked = 0 if loss_on == "everything" else len(_tokens(tokenizer, prompt, cutoff)[0])
    targets = [NO_LOSS] * min(masked, len(ids)) + ids[masked:]
    return Example(ids=tuple(ids), targets=tuple(targets), truncated=truncated)


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str, cutoff: int) -> tuple[list[int], bool]:
    """Return the tokens of a text, at most ``cutoff``, and whether there were more."""
    # verbose: a text longer than the model takes is cut here, there is nothing to warn of
    ids = list(tokenizer(text, verbose=False)["input_ids"])
    if len(ids) <= cutoff:
        return ids, False
    # cut by the tokenizer, which knows the special tokens that it adds
    return list(tokenizer(text, truncation=True, max_length=cutoff)["input_ids"]), True
