"""Next-token training: padding changes nothing, parts add up to the batch, and only what should be learnt is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from configs import build
from torch import Tensor, nn
from torch.nn import functional as F

from randlora.data.batches import BatchPlan
from randlora.data.encode import NO_LOSS, Example
from randlora.data.text_feed import MULTIPLE, TextFeed
from randlora.tasks.next_token import NextToken, mean_loss

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def objective() -> NextToken:
    backbone = build("backbone", "stories260k")
    task = build("recipe", "commonsense").task
    return task.build(backbone=backbone, model=backbone.build(root=ROOT, device=CPU)).eval()


def example(*, length: int, silent: int = 0, seed: int = 1) -> Example:
    ids = torch.randint(3, 500, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return Example(ids=tuple(ids), targets=tuple([NO_LOSS] * silent + ids[silent:]), truncated=False)


EXAMPLES = [example(length=9, seed=1), example(length=21, silent=15, seed=2), example(length=14, silent=3, seed=3)]


def feed(side: str = "left", padding: int = 0) -> TextFeed:
    return TextFeed(EXAMPLES, padding=padding, side=side, device=CPU)


def alone(objective: NextToken, one: Example) -> tuple[float, int]:
    """The summed loss of a text by itself, by the definition, and the number of its terms."""
    logits = objective.model(input_ids=torch.tensor([one.ids])).logits[0]
    terms = [place for place in range(1, len(one.ids)) if one.targets[place] != NO_LOSS]
    losses = [F.cross_entropy(logits[place - 1], torch.tensor(one.ids[place])) for place in terms]
    return float(sum(losses)), len(terms)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("padding", [0, 2, 77])
@torch.no_grad()
def test_the_loss_is_the_mean_over_the_tokens_to_learn_whatever_the_padding(
    objective: NextToken, side: str, padding: int
) -> None:
    batch = feed(side, padding).collate(EXAMPLES)
    assert batch[0].shape[1] == 24
    sums, counts = zip(*(alone(objective, one) for one in EXAMPLES), strict=True)
    assert counts == (8, 6, 11)
    assert float(objective(*batch, step=0)) == pytest.approx(sum(sums) / sum(counts), abs=1e-5)
    assert float(objective.units(*batch)) == sum(counts)


@torch.no_grad()
def test_parts_of_a_batch_add_up_by_their_tokens(objective: NextToken) -> None:
    batch = feed().collate(EXAMPLES)
    whole = float(objective(*batch, step=0)) * float(objective.units(*batch))
    parts = [tuple(side[row : row + 1] for side in batch) for row in range(3)]
    assert sum(float(objective(*part, step=0) * objective.units(*part)) for part in parts) == pytest.approx(whole, 1e-5)
    # a mean of means would be another number: the parts have 8, 6 and 11 terms
    assert sum(float(objective(*part, step=0)) for part in parts) / 3 != pytest.approx(whole / 25, abs=1e-3)


def test_a_text_without_a_token_to_learn_has_no_loss_and_no_gradient(objective: NextToken) -> None:
    batch = feed().collate([example(length=10, silent=10)])
    loss = objective(*batch, step=0)
    assert float(loss.detach()) == 0
    weight = objective.model.get_parameter("model.embed_tokens.weight")
    assert not torch.autograd.grad(loss, weight)[0].count_nonzero()


def test_batches_are_whole_texts_in_order_of_their_length() -> None:
    plan = BatchPlan(n=3, batch_size=2, epochs=2, min_steps_per_epoch=0, seed=4, replacement=False)
    seen: list[int] = []
    for ids, mask, targets in feed().batches(plan, start=0, stop=4):
        assert ids.shape == mask.shape == targets.shape
        assert ids.shape[1] % MULTIPLE == 0
        lengths = mask.sum(1).tolist()
        assert lengths == sorted(lengths)
        assert max(lengths) > ids.shape[1] - MULTIPLE
        for row, length in zip(ids, lengths, strict=True):
            one = next(one for one in EXAMPLES if len(one.ids) == length)
            assert row[-length:].tolist() == list(one.ids)
            assert not row[:-length].count_nonzero()
        seen += lengths
    assert sorted(seen) == sorted(2 * [9, 14, 21])


def test_a_continued_run_sees_the_batches_of_a_whole_one() -> None:
    plan = BatchPlan(n=3, batch_size=2, epochs=3, min_steps_per_epoch=0, seed=4, replacement=False)
    whole = list(feed().batches(plan, start=0, stop=6))
    rest = list(feed().batches(plan, start=4, stop=6))
    assert all(
        torch.equal(one, other)
        for left, right in zip(whole[4:], rest, strict=True)
        for one, other in zip(left, right, strict=True)
    )


def test_validation_is_without_dropout_and_leaves_the_model_in_training(objective: NextToken) -> None:
    class Noisy(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, **inputs: Tensor) -> object:
            assert not self.training
            return self.model(**inputs)

    watched = NextToken(objective.backbone, Noisy(objective.model)).train()
    batches: list[tuple[Tensor, ...]] = [feed().collate(EXAMPLES[:1]), feed().collate(EXAMPLES[1:])]
    with torch.no_grad():
        expected = float(objective.eval()(*feed().collate(EXAMPLES), step=0))
    assert mean_loss(watched, batches) == pytest.approx(expected, abs=1e-5)
    assert watched.training
    objective.eval()


def test_an_image_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match=r"micro_clip is an image backbone.*needs a language model"):
        build("recipe", "commonsense").task.check_backbone(build("backbone", "micro_clip"))
