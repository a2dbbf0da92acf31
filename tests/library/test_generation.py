"""Beam search in batches: the same texts for every batch size, and those of the published scripts."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import language_lab as lab
import pytest
import torch

from randlora.tasks import generation
from randlora.tasks.answers import response_of
from randlora.tasks.beam_cache import share_prompt
from randlora.tasks.beam_margins import BeamMargins
from randlora.tasks.generation import Generated, generate_texts
from randlora.tasks.prompt_batches import ScoresError, batches_by_length, left_padded, run_batches, token_ids
from randlora.tasks.published_generation import respond_as_published

SEARCH = {"beams": 2, "max_new_tokens": 6}


def prompts(each: int = 3) -> list[str]:
    return [lab.FORM.evaluation(question) for question in lab.questions(each)]


def texts(model: Any, tokenizer: Any, asked: Sequence[str], **changes: Any) -> list[str]:
    settings: dict[str, Any] = {**SEARCH, "batch_size": 8} | changes
    return [one.text for one in generate_texts(model, tokenizer, asked, **settings)]


@pytest.fixture(scope="module")
def published() -> list[str]:
    """What the published way of evaluating makes of the prompts."""
    model, tokenizer = lab.untrained(), lab.tokenizer()
    return [respond_as_published(model, tokenizer, prompt, **SEARCH) for prompt in prompts()]


@pytest.mark.parametrize("batch_size", [1, 5, 16])
def test_texts_are_the_published_ones_for_every_batch_size(batch_size: int, published: list[str]) -> None:
    found = texts(lab.untrained(), lab.tokenizer(), prompts(), batch_size=batch_size)
    assert len(set(found)) > 5  # they say different things
    assert [response_of(text, "last") for text in found] == published


def test_texts_that_end_early_do_not_depend_on_their_batch_either() -> None:
    model, asked = lab.trained(), prompts(1)
    alone = texts(model, lab.tokenizer(), asked, batch_size=1, beams=3, max_new_tokens=10)
    assert any(len(text) < 12 for text in alone)
    assert texts(model, lab.tokenizer(), asked, batch_size=8, beams=3, max_new_tokens=10) == alone


def test_a_model_that_saw_the_padding_would_say_something_else(
    monkeypatch: pytest.MonkeyPatch, published: list[str]
) -> None:
    def unmasked(sequences: Any, **settings: Any) -> Any:
        ids, mask = left_padded(sequences, **settings)
        return ids, torch.ones_like(mask)

    monkeypatch.setattr(generation, "left_padded", unmasked)
    found = texts(lab.untrained(), lab.tokenizer(), prompts(), batch_size=16)
    assert [response_of(text, "last") for text in found] != published


def test_close_searches_are_repeated_alone_and_only_those(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, model = prompts(1)[:5], lab.untrained()
    search = generation._Search(model, lab.tokenizer(), attention="all", **SEARCH)
    rows: list[int] = []
    plain = search._batch
    monkeypatch.setattr(search, "_batch", lambda encoded: (rows.append(len(encoded)), plain(encoded))[1])
    encoded = token_ids(lab.tokenizer(), asked)
    margins = sorted(plain(encoded)[1])
    monkeypatch.setattr(generation, "TOLERANCE", (margins[1] + margins[2]) / 2)
    found = search.run(encoded)
    assert [one.alone for one in found].count(True) == 2
    assert rows == [len(asked), 1, 1]
    rows.clear()
    assert not any(one.alone for one in search.run(encoded[:1]))  # alone already
    assert rows == [1]
    rows.clear()
    search.exact = False  # as in bfloat16, whose noise is larger than any useful tolerance
    assert not any(one.alone for one in search.run(encoded))


@pytest.mark.parametrize(("trained", "beams"), [(False, 2), (True, 4)])
def test_margins_follow_the_search_of_transformers_to_its_score(trained: bool, beams: int) -> None:
    model = lab.trained() if trained else lab.untrained()
    ids, mask = left_padded(
        token_ids(lab.tokenizer(), prompts(1)[:4]), fill=0, attention="all", device=torch.device("cpu")
    )
    margins = BeamMargins(prompts=len(ids), beams=beams, max_new_tokens=14, ends=(2,))
    found = model.generate(
        input_ids=ids,
        attention_mask=mask,
        num_beams=beams,
        max_new_tokens=14,
        pad_token_id=0,
        logits_processor=[margins],
        return_dict_in_generate=True,
        output_scores=True,
    )
    assert margins.best() == found.sequences_scores.tolist()
    assert all(0 < margin < 3 for margin in margins.smallest())


def test_a_tie_is_seen() -> None:
    margins = BeamMargins(prompts=1, beams=2, max_new_tokens=3, ends=(0,))
    margins(torch.zeros(2, 1), torch.tensor([[-9.0, -1.0, -2.0, -2.0, -5.0], [-9.0, -1.0, -2.0, -2.0, -5.0]]))
    assert margins.smallest() == [0.0]


@torch.no_grad()
def test_beams_that_share_their_prompt_have_the_keys_and_values_of_copies() -> None:
    encoded = token_ids(lab.tokenizer(), prompts(1)[:2])
    ids, mask = left_padded(encoded, fill=0, attention="all", device=torch.device("cpu"))
    read = [lab.untrained()(input_ids=ids, attention_mask=mask, use_cache=True).past_key_values for _ in range(2)]
    copied, shared = read[0], share_prompt(read[1], beams=2, room=2)
    copied.batch_repeat_interleave(2)
    for order in ([1, 0, 3, 3], [0, 0, 2, 3]):
        new = [torch.randn(2, 4, 4, 1, 8, generator=torch.Generator().manual_seed(sum(order))) for _ in copied.layers]
        for place, (keys, values) in enumerate(new):
            expected, found = copied.update(keys, values, place), shared.update(keys, values, place)
            assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
        for one in (copied, shared):
            one.reorder_cache(torch.tensor(order))
    assert shared.get_seq_length() == ids.shape[1] + 2
    assert all(torch.equal(one.keys, other.keys) for one, other in zip(copied.layers, shared.layers, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("apart", [True, False])
def test_prompts_read_apart_or_in_a_padded_batch_are_continued_alike(
    apart: bool, monkeypatch: pytest.MonkeyPatch, published: list[str]
) -> None:
    reads: list[int] = []
    forward = generation._Search._forward
    monkeypatch.setattr(
        generation._Search, "_forward", lambda self, ids, mask: (reads.append(len(ids)), forward(self, ids, mask))[1]
    )
    monkeypatch.setattr("randlora.tasks.beam_cache.keeps_everything", lambda config: apart)
    found = texts(lab.untrained(), lab.tokenizer(), prompts(), batch_size=12)
    assert [response_of(text, "last") for text in found] == published
    assert (len(reads) > 4) == apart
    assert sum(reads) == len(found)


def test_one_beam_is_greedy_search() -> None:
    model, asked = lab.untrained(), prompts(1)
    (ids,) = token_ids(lab.tokenizer(), asked[:1])
    row = list(ids)
    with torch.no_grad():
        for _ in range(6):
            row.append(int(model(input_ids=torch.tensor([row])).logits[0, -1].argmax()))
    expected = lab.tokenizer().decode(row).removeprefix(lab.tokenizer().decode(list(ids)))
    assert texts(model, lab.tokenizer(), asked, beams=1, max_new_tokens=6)[0] == expected


def test_settings_that_a_model_was_published_with_change_nothing() -> None:
    model, asked = lab.untrained(), prompts(1)[:3]
    expected = texts(model, lab.tokenizer(), asked)
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.do_sample = True
    model.generation_config.no_repeat_ngram_size = 1
    assert texts(model, lab.tokenizer(), asked) == expected


def test_tokenizers_without_a_padding_token_pad_with_0_and_say_the_same() -> None:
    bare = copy.deepcopy(lab.tokenizer())
    bare.pad_token = None
    assert lab.tokenizer().pad_token_id != 0
    assert texts(lab.untrained(), bare, prompts(1)[:3]) == texts(lab.untrained(), lab.tokenizer(), prompts(1)[:3])


def test_a_text_may_be_empty() -> None:
    model = lab.untrained()
    ends = model.generation_config.eos_token_id
    head = torch.nn.Linear(64, 512)
    torch.nn.init.zeros_(head.weight)
    with torch.no_grad():
        head.bias[ends] = 50.0
    model.lm_head = head
    assert texts(model, lab.tokenizer(), prompts(1)[:3]) == ["", "", ""]


def test_tokens_with_the_id_of_padding_can_be_hidden_as_in_the_published_script() -> None:
    """Its padding id is 0; a tokenizer that has such a token in the middle of a text loses it from sight."""
    ids, mask = left_padded([[5, 0, 6], [7]], fill=9, attention="no_pad_id", device=torch.device("cpu"))
    assert ids.tolist() == [[5, 0, 6], [9, 9, 7]]
    assert mask.tolist() == [[1, 0, 1], [0, 0, 1]]
    assert left_padded([[5, 0, 6]], fill=9, attention="all", device=torch.device("cpu"))[1].tolist() == [[1, 1, 1]]


def test_scores_that_are_not_finite_are_an_error() -> None:
    model = lab.untrained()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ScoresError, match="not finite; lower the learning rate"):
        texts(model, lab.tokenizer(), prompts(1)[:2])


def test_what_is_done_is_not_done_again_and_every_batch_is_reported() -> None:
    asked = prompts(1)
    seen: list[tuple[Sequence[int], Sequence[Generated]]] = []
    done = {index: Generated(text=f"known {index}", alone=False) for index in range(len(asked)) if index != 2}
    found = generate_texts(
        lab.untrained(),
        lab.tokenizer(),
        asked,
        **SEARCH,
        batch_size=1,
        done=done,
        on_done=lambda batch, new: seen.append((batch, new)),
    )
    assert [batch for batch, _ in seen] == [(2,)]
    assert found[2] == seen[0][1][0]
    assert found[3] == done[3]


def test_batches_hold_every_prompt_once_longest_first() -> None:
    assert batches_by_length([3, 9, 3, 5], 2) == ((1, 3), (0, 2))
    assert batches_by_length([], 2) == ()
    for wrong in (0, -1, True, 1.5):
        with pytest.raises(ValueError, match="valid: a whole number of 1 or more"):
            batches_by_length([1], wrong)  # type: ignore[arg-type]


def test_a_batch_that_memory_does_not_hold_is_halved_and_so_are_those_after_it() -> None:
    computed: list[tuple[int, ...]] = []
    halved: list[int] = []

    def compute(batch: Sequence[int]) -> None:
        if len(batch) > 2:
            raise torch.OutOfMemoryError("full")
        computed.append(tuple(batch))

    batches = ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9))
    run_batches(batches, compute, done=(), on_halved=halved.append)
    assert computed == [(0, 1), (2, 3), (4,), (5, 6), (7, 8), (9,)]
    assert halved == [2]


def test_a_single_prompt_that_memory_does_not_hold_is_an_error() -> None:
    def compute(batch: Sequence[int]) -> None:
        raise torch.OutOfMemoryError("full")

    halved: list[int] = []
    with pytest.raises(torch.OutOfMemoryError):
        run_batches(((0, 1, 2),), compute, done=(), on_halved=halved.append)
    assert halved == [1]


def test_a_batch_of_which_a_part_is_done_is_computed_whole() -> None:
    computed: list[tuple[int, ...]] = []
    run_batches(
        ((0, 1), (2, 3)), lambda batch: computed.append(tuple(batch)), done={0, 1, 2}, on_halved=lambda size: None
    )
    assert computed == [(2, 3)]


def test_a_prompt_of_no_tokens_is_an_error() -> None:
    class Nothing:
        pad_token_id = 0

        def __call__(self, found: list[str]) -> Any:
            return type("Encoded", (), {"input_ids": [[] for _ in found]})()

    with pytest.raises(ValueError, match="a prompt of no tokens"):
        token_ids(Nothing(), [""])
