"""Log-probabilities of the answers that a question offers, against the plain computation on whole texts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import language_lab as lab
import pytest
import torch

from randlora.data.question import options
from randlora.tasks import likelihood
from randlora.tasks.likelihood import OptionScore, Scored, option_log_likelihoods
from randlora.tasks.prompt_batches import ScoresError, left_padded

CLOSE = 1e-4


def asked(each: int = 3) -> tuple[list[str], list[list[str]]]:
    questions = lab.questions(each)
    completions = [[f"the correct answer is {word}" for word in options(question)] for question in questions]
    return [lab.FORM.evaluation(question) for question in questions], completions


def scores(model: Any, prompts: Sequence[str], offered: Sequence[Sequence[str]], **settings: Any) -> list[Scored]:
    return option_log_likelihoods(model, lab.tokenizer(), prompts, offered, **({"batch_size": 8} | settings))


@torch.no_grad()
def plain(model: Any, prompt: str, option: str) -> OptionScore:
    """The same from the whole text, one text at a time and without a cache."""
    head, whole = (lab.tokenizer()(text).input_ids for text in (prompt, prompt + option))
    begin = next(place for place, pair in enumerate(zip([*head, None], whole, strict=False)) if pair[0] != pair[1])
    logs = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
    return OptionScore(
        log_probability=sum(float(logs[place - 1, whole[place]]) for place in range(begin, len(whole))),
        tokens=len(whole) - begin,
    )


@cache
def learned_positions() -> Any:
    """A model whose positions are learned, so that a wrong position is another score."""
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=512, n_positions=640, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3)
        return GPT2LMHeadModel(config).eval()


@pytest.mark.parametrize("model", [lab.trained, learned_positions], ids=["rotary", "learned"])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_scores_are_those_of_whole_texts(model: Any, batch_size: int) -> None:
    prompts, offered = asked(1)
    offered[0] = ["true", "a rather longer answer that shares nothing", "the correct answer is false"]
    offered[1] = ["the only answer"]
    found = scores(model(), prompts, offered, batch_size=batch_size)
    for prompt, texts, scored in zip(prompts, offered, found, strict=True):
        assert len(scored.options) == len(texts)
        for text, option in zip(texts, scored.options, strict=True):
            expected = plain(model(), prompt, text)
            assert option.tokens == expected.tokens
            assert option.log_probability == pytest.approx(expected.log_probability, abs=CLOSE)


@pytest.mark.parametrize("batch_size", [5, 16])
def test_decisions_are_the_same_for_every_batch_size(batch_size: int) -> None:
    prompts, offered = asked()
    alone, batched = (scores(lab.trained(), prompts, offered, batch_size=size) for size in (1, batch_size))
    assert len({one.best() for one in alone}) > 1
    assert [one.best() for one in batched] == [one.best() for one in alone]
    assert [one.best_per_token() for one in batched] == [one.best_per_token() for one in alone]


@pytest.mark.parametrize("broken", ["mask", "positions"])
def test_padding_that_was_seen_or_counted_would_change_scores(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, offered = asked(1)
    right = scores(learned_positions(), prompts, offered)

    def unmasked(sequences: Any, **settings: Any) -> Any:
        ids, mask = left_padded(sequences, **settings)
        return ids, torch.ones_like(mask)

    if broken == "mask":
        monkeypatch.setattr(likelihood, "left_padded", unmasked)
    else:
        monkeypatch.setattr(likelihood, "positions", lambda mask: torch.arange(mask.shape[1]).expand_as(mask))
    wrong = scores(learned_positions(), prompts, offered)
    differences = [
        abs(here.log_probability - there.log_probability)
        for one, other in zip(right, wrong, strict=True)
        for here, there in zip(one.options, other.options, strict=True)
    ]
    assert max(differences) > 100 * CLOSE


def test_the_sum_and_the_mean_per_token_may_choose_differently() -> None:
    short, long = OptionScore(log_probability=-4.0, tokens=1), OptionScore(log_probability=-6.0, tokens=3)
    scored = Scored(options=(short, long), alone=False)
    assert (scored.best(), scored.best_per_token()) == (0, 1)
    assert scored.margin() == 2.0  # of sums 2, of means 2
    assert Scored(options=(short,), alone=False).margin() == torch.inf
    assert Scored(options=(short, short), alone=False).best() == 0  # of equal ones the first
    assert Scored(options=(short, short), alone=False).margin() == 0


def test_close_questions_are_scored_again_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, offered = asked(1)
    margins = sorted(one.margin() for one in scores(lab.trained(), prompts, offered))
    monkeypatch.setattr(likelihood, "TOLERANCE", (margins[0] + margins[1]) / 2)
    rows: list[int] = []
    score = likelihood._score
    monkeypatch.setattr(
        likelihood, "_score", lambda model, group, **rest: (rows.append(len(group)), score(model, group, **rest))[1]
    )
    found = scores(lab.trained(), prompts, offered, batch_size=len(prompts))
    assert [one.alone for one in found].count(True) == 1
    assert rows == [len(prompts), 1]


def test_what_is_done_is_not_done_again() -> None:
    prompts, offered = asked(1)
    known = {index: Scored(options=(), alone=False) for index in range(len(prompts)) if index != 1}
    batches: list[Sequence[int]] = []
    found = scores(
        lab.trained(),
        prompts,
        offered,
        batch_size=1,
        done=known,
        on_done=lambda batch, new: batches.append(batch),
    )
    assert batches == [(1,)]
    assert len(found[1].options) == len(offered[1])
    assert found[0] is known[0]


@pytest.mark.parametrize(
    ("offered", "message"),
    [
        ([[]], "valid: one or more, none of them empty"),
        ([["true", ""]], "valid: one or more, none of them empty"),
        ([], "0 lists of answers for 1 prompts"),
    ],
)
def test_a_question_must_offer_answers(offered: list[list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scores(lab.trained(), asked(1)[0][:1], offered)


def test_scores_that_are_not_finite_are_an_error() -> None:
    model = lab.untrained()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("inf"))
    prompts, offered = asked(1)
    with pytest.raises(ScoresError, match="not finite"):
        scores(model, prompts[:2], offered[:2])
