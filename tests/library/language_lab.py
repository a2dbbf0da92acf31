"""The embedded language model, briefly trained to answer, and real prompts: what tests of the evaluation share."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from configs import ROOT, build

from randlora.data.alpaca import PromptForm
from randlora.data.encode import encode
from randlora.data.question import Question

FORM = PromptForm(form="indented")
STEPS = 25


def questions(each: int) -> list[Question]:
    """The shortest test questions of every task."""
    tasks = build("dataset", "micro_commonsense").tasks
    short = (sorted(task.test(root=ROOT), key=lambda one: len(one.instruction)) for task in tasks.values())
    return [question for task in short for question in task[:each]]


@cache
def tokenizer() -> Any:
    return build("backbone", "stories260k").tokenizer(root=ROOT)


def untrained() -> Any:
    return build("backbone", "stories260k").build(root=ROOT, device=torch.device("cpu")).eval()


@cache
def trained() -> Any:
    """A model after a few steps on answers: it has learnt the form of an answer, and still hesitates."""
    model = untrained().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    tasks = build("dataset", "micro_commonsense").tasks.values()
    shown = [one for task in tasks for one in task.training(root=ROOT)[:30] if len(one.instruction) < 200]
    order = torch.randperm(len(shown), generator=torch.Generator().manual_seed(0)).tolist()
    for step in range(STEPS):
        question = shown[order[step % len(order)]]
        prompt, completion = FORM.training(question)
        example = encode(tokenizer(), prompt, completion, cutoff=512, append_eos=True, loss_on="answer")
        ids, targets = torch.tensor([example.ids]), torch.tensor([example.targets])
        loss = torch.nn.functional.cross_entropy(model(input_ids=ids).logits[0, :-1], targets[0, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()
