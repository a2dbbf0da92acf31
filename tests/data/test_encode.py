"""Training texts as tokens: the cutoff, the end of text and what the loss is on, with real tokenizers."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_questions import ROOT, ask, dataset_of

from randlora.backbones.torchvision_guard import import_torchvision
from randlora.data.alpaca import PromptForm
from randlora.data.encode import Example, encode

PROMPT, COMPLETION = PromptForm(form="indented").training(ask(4))
DEFAULTS: dict[str, Any] = {"cutoff": 512, "append_eos": True, "loss_on": "everything"}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    import_torchvision()
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(ROOT / "assets" / "weights" / "stories260k")


def encoded(tokenizer: Any, prompt: str = PROMPT, completion: str = COMPLETION, **changes: Any) -> Example:
    return encode(tokenizer, prompt, completion, **{**DEFAULTS, **changes})


def test_the_whole_text_is_learnt_and_ends_in_the_end_of_text(tokenizer: Any) -> None:
    example = encoded(tokenizer)
    assert example.ids == (*tokenizer(PROMPT + COMPLETION)["input_ids"], tokenizer.eos_token_id)
    assert example.targets == example.ids
    assert not example.truncated
    assert example.has_loss
    assert tokenizer.decode(example.ids[:-1], skip_special_tokens=True).endswith("the correct answer is true")


def test_truncation_drops_the_tail_exactly_at_the_cutoff(tokenizer: Any) -> None:
    whole = tokenizer(PROMPT + COMPLETION)["input_ids"]
    n = len(whole)
    for cutoff in (1, 50, n - 1):
        example = encoded(tokenizer, cutoff=cutoff)
        assert example.ids == tuple(whole[:cutoff])
        assert example.targets == example.ids
        assert example.truncated
    fits = encoded(tokenizer, cutoff=n)
    assert (fits.ids, fits.truncated) == (tuple(whole), False)  # there is no room for the end of text
    assert encoded(tokenizer, cutoff=n + 1).ids == (*whole, tokenizer.eos_token_id)


def test_the_end_of_text_is_appended_where_it_is_wanted_and_not_there(tokenizer: Any) -> None:
    whole = tuple(tokenizer(PROMPT + COMPLETION)["input_ids"])
    assert encoded(tokenizer, append_eos=False).ids == whole
    ends = encoded(tokenizer, completion=COMPLETION + tokenizer.eos_token)
    assert ends.ids[-1] == tokenizer.eos_token_id
    assert ends.ids.count(tokenizer.eos_token_id) == 1


def test_loss_on_the_answer_masks_as_many_tokens_as_the_prompt_takes_alone(tokenizer: Any) -> None:
    example = encoded(tokenizer, loss_on="answer")
    alone = len(tokenizer(PROMPT)["input_ids"])
    assert example.targets == (*[-100] * alone, *example.ids[alone:])
    assert example.ids == encoded(tokenizer).ids
    assert 0 < len(example.ids) - alone < 30


def learnt(tokenizer: Any, example: Example) -> list[str]:
    return tokenizer.decode([t for t in example.targets if t != -100], skip_special_tokens=True).split()


def test_the_boundary_of_the_indented_form_is_off_by_a_word(tokenizer: Any) -> None:
    alone, whole = tokenizer(PROMPT)["input_ids"], tokenizer(PROMPT + COMPLETION)["input_ids"]
    assert whole[: len(alone) - 1] == alone[:-1]
    assert tokenizer.convert_ids_to_tokens([alone[-1], whole[len(alone) - 1]]) == ["▁", "▁the"]
    assert learnt(tokenizer, encoded(tokenizer, loss_on="answer")) == COMPLETION.split()[1:]


def test_the_boundary_of_the_plain_form_is_that_of_prompt_and_answer(tokenizer: Any) -> None:
    prompt, completion = PromptForm(form="plain").training(ask(4))
    example = encoded(tokenizer, prompt, completion, loss_on="answer")
    assert learnt(tokenizer, example) == completion.split()


def test_a_truncated_prompt_leaves_an_answer_without_loss(tokenizer: Any) -> None:
    example = encoded(tokenizer, loss_on="answer", cutoff=40)
    assert example.truncated
    assert set(example.targets) == {-100}
    assert len(example.targets) == len(example.ids) == 40
    assert not example.has_loss
    assert encoded(tokenizer, cutoff=40).has_loss


def test_every_embedded_question_fits_the_context_with_room_for_an_answer(tokenizer: Any) -> None:
    form = PromptForm(form="indented")
    dataset = dataset_of("micro_commonsense")
    shown = dataset.training(root=ROOT)[::100]
    assert len(shown) == 150
    for question in shown:
        assert not encoded(tokenizer, *form.training(question)).truncated
    for task in dataset.tasks.values():
        for question in task.test(root=ROOT)[::10]:
            assert len(tokenizer(form.evaluation(question))["input_ids"]) + 32 <= 512


def test_texts_longer_than_the_model_takes_warn_of_nothing(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    example = encoded(tokenizer, prompt="a cat and a dog. " * 2000)
    assert (len(example.ids), example.truncated) == (512, True)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cutoff": 0}, "cutoff = 0; valid: a whole number of tokens from 1"),
        ({"cutoff": True}, "cutoff = True"),
        ({"loss_on": "output"}, "loss_on = 'output'; valid: everything, answer"),
    ],
)
def test_what_cannot_be_meant_is_refused(tokenizer: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoded(tokenizer, **changes)


def test_a_tokenizer_without_an_end_of_text_is_an_error_where_one_is_to_be_appended() -> None:
    import_torchvision()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ROOT / "assets" / "weights" / "stories260k")
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="has no end-of-text token to append; set append_eos to false"):
        encoded(tokenizer)
    assert encoded(tokenizer, append_eos=False).ids == tuple(tokenizer(PROMPT + COMPLETION)["input_ids"])
