"""Answers generated the way the published scripts do it: one prompt at a time, nothing shared.

It is what batches are compared with, in tests and in ``randlora answer_bench``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from randlora.tasks.answers import MARKER
from randlora.tasks.prompt_batches import PAD_ID

if TYPE_CHECKING:
    from torch import nn


@torch.no_grad()
def respond_as_published(model: nn.Module, tokenizer: Any, prompt: str, *, beams: int, max_new_tokens: int) -> str:
    """Return what a model responds to one prompt.

    As in RandLoRA's script, padding has the id 0, no mask is given, prompt and continuation are decoded together, and
    the response is what follows the last ``### Response:``.
    """
    from transformers import GenerationConfig

    language: Any = model
    ids = tokenizer([prompt], return_tensors="pt").input_ids.to(next(model.parameters()).device)
    settings = GenerationConfig(
        num_beams=beams, max_new_tokens=max_new_tokens, do_sample=False, repetition_penalty=1.0, pad_token_id=PAD_ID
    )
    written = language.generate(input_ids=ids, generation_config=settings)
    (text,) = tokenizer.batch_decode(written, skip_special_tokens=True)
    return text.split(MARKER)[-1].strip()
