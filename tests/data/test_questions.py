"""Language datasets: reading questions, what is checked of them, draws, mixes and digests."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_questions import NAMES, ROOT, TWO, YES_NO, ask, both_tasks, dataset_of, one_task, write

from randlora.data.errors import DataError, MissingError
from randlora.data.question import digest_of, options, read_questions
from randlora.data.question_sources import GithubQuestions, QuestionFolder
from randlora.data.questions import Draw, QuestionMix

REAL = os.environ.get("RANDLORA_REAL_DATA")
TRAIN, TEST = [ask(n) for n in range(6)], [ask(n, answer="false") for n in range(10, 13)]
OPTIONS = [ask(n, answer="option2", offered="option1/option2") for n in range(4)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "tiny" / "Yes" / "train.jsonl.gz", TRAIN)
    write(tmp_path / "tiny" / "Yes" / "test.jsonl.gz", TEST)
    write(tmp_path / "tiny" / "dataset" / "Two" / "train.json", OPTIONS)
    write(tmp_path / "tiny" / "dataset" / "Two" / "test.json", OPTIONS[:2])
    write(tmp_path / "tiny" / "ft-training_set" / "mix_3k.json", [OPTIONS[1], TRAIN[2], TRAIN[0]])
    return tmp_path


def test_a_task_is_read_in_both_layouts_in_its_order(root: Path) -> None:
    yes, two = one_task(), one_task(TWO)
    assert yes.training(root=root) == tuple(TRAIN)
    assert yes.test(root=root) == tuple(TEST)
    assert two.training(root=root) == tuple(OPTIONS)
    assert two.test(root=root) == tuple(OPTIONS[:2])
    assert yes.tasks == {"yes": yes}
    assert yes.answers == ("true", "false")
    assert yes.epochs is None
    assert yes.digests(root=root) == {"train": digest_of(TRAIN), "yes": digest_of(TEST)}


def test_a_mix_reads_its_own_file_or_its_tasks_one_after_another(root: Path) -> None:
    own, joined = both_tasks(mix="mix_3k"), both_tasks()
    assert own.training(root=root) == (OPTIONS[1], TRAIN[2], TRAIN[0])
    assert joined.training(root=root) == (*TRAIN, *OPTIONS)
    for mix in (own, joined):
        assert {name: task.test(root=root) for name, task in mix.tasks.items()} == {
            "yes": tuple(TEST),
            "two": tuple(OPTIONS[:2]),
        }
    assert set(own.digests(root=root)) == {"train", "yes", "two"}


def test_a_draw_depends_on_number_and_seed_alone_and_keeps_the_order(root: Path) -> None:
    def drawn(count: int, seed: int) -> tuple[Any, ...]:
        return both_tasks(draw=Draw(count=count, seed=seed)).training(root=root)

    everything = (*TRAIN, *OPTIONS)
    assert drawn(10, 0) == everything
    assert drawn(5, 0) == drawn(5, 0)
    assert drawn(5, 0) != drawn(5, 1)
    assert [q for q in everything if q in drawn(5, 0)] == list(drawn(5, 0))
    with pytest.raises(DataError, match=r"dataset tiny: 11 questions are to be drawn, there are 10; lower draw.count"):
        drawn(11, 0)


def test_line_ends_of_unicode_inside_a_question_are_no_ends_of_lines(tmp_path: Path) -> None:
    strange = ask(instruction="one\u2028two\x85three\n\nAnswer format: true/false")
    write(tmp_path / "train.jsonl", [strange, TRAIN[0]])
    assert read_questions(tmp_path / "train.jsonl") == (strange, TRAIN[0])


def test_a_folder_that_lacks_a_part_says_where_it_looked(root: Path) -> None:
    (root / "tiny" / "Yes" / "test.jsonl.gz").unlink()
    with pytest.raises(
        MissingError, match=r"neither Yes/test\{.jsonl.gz,.jsonl,.json\} nor dataset/Yes/test.* in .*tiny"
    ):
        one_task().test(root=root)
    with pytest.raises(MissingError, match=r"neither mix_170k.* nor ft-training_set/mix_170k"):
        both_tasks(mix="mix_170k").training(root=root)


BROKEN = {
    "no JSON": ('{"instruction": "a"', r"train.jsonl, line 2 is no JSON"),
    "no object": ("[1, 2]", r"line 2 is '\[1, 2\]'; it has to be an object with instruction, input, output, answer"),
    "a field missing": ('{"instruction": "a", "input": "", "output": "b"}', "line 2 has no text 'answer'"),
    "a number": ('{"instruction": 3, "input": "", "output": "b", "answer": "c"}', "line 2 has no text 'instruction'"),
    "an empty answer": (
        '{"instruction": "a", "input": "", "output": "b", "answer": " "}',
        "line 2 has an empty 'answer'",
    ),
    "an empty output": (
        '{"instruction": "a", "input": "", "output": "", "answer": "c"}',
        "line 2 has an empty 'output'",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_malformed_line_is_named(case: str, tmp_path: Path) -> None:
    line, message = BROKEN[case]
    write(tmp_path / "tiny" / "Yes" / "train.jsonl", [TRAIN[0]])
    with (tmp_path / "tiny" / "Yes" / "train.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=message):
        one_task().training(root=tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.json", b"[{]", "is no JSON: .* in line 1"),
        ("train.json", b"{}", "holds a JSON dict; it has to be a list"),
        ("train.json", b"[]", "holds no question"),
        ("train.jsonl.gz", b"no gzip", "cannot be read: .*gzip"),
        ("train.jsonl.gz", b"\x1f\x8b\x08\x00", "cannot be read"),
        ("train.jsonl", b"\xff", "cannot be read: .*utf-8"),
    ],
)
def test_a_damaged_file_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name} {message}"):
        read_questions(tmp_path / name)


def test_an_unknown_answer_is_named_with_the_valid_ones(root: Path) -> None:
    write(root / "tiny" / "Yes" / "test.jsonl.gz", [TEST[0], ask(3, answer="True")])
    with pytest.raises(DataError, match=r"tiny, yes test questions: question 2, .*'True'; valid: true, false"):
        one_task().test(root=root)
    write(root / "tiny" / "ft-training_set" / "mix_3k.json", [ask(3, answer="maybe")])
    with pytest.raises(
        DataError, match=r"training questions: question 1, .*'maybe'; valid: true, false, option1, option2"
    ):
        both_tasks(mix="mix_3k").training(root=root)


def test_numbers_and_digests_are_held_to_what_is_stated(root: Path) -> None:
    right = one_task(sizes={"train": 6, "yes": 3}, sha256={"train": digest_of(TRAIN), "yes": digest_of(TEST)})
    assert right.training(root=root) == tuple(TRAIN)
    with pytest.raises(DataError, match=r"training questions: .* holds 6, sizes states 7; .* dataset.sizes.train"):
        replace(right, sizes={"train": 7, "yes": 3}).training(root=root)
    with pytest.raises(DataError, match=f"holds 3 questions as stated, but their digest is {digest_of(TEST)}"):
        replace(right, sha256={"train": None, "yes": digest_of(TEST[::-1])}).test(root=root)
    mix = both_tasks(sizes={"train": None, "yes": 4, "two": 2})
    assert len(mix.tasks["two"].test(root=root)) == 2
    with pytest.raises(DataError, match=r"dataset yes, yes test questions: .* holds 3, sizes states 4"):
        mix.tasks["yes"].test(root=root)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "hub"}, "source is 'hub'; give one of folder"),
        ({"sizes": {"train": None}}, "sizes has to have train, yes; see 'yes'"),
        ({"sizes": {"train": None, "yes": 0}}, "sizes.yes is 0; give a whole number from 1"),
        ({"sha256": {"train": None, "yes": None, "no": None}}, "sha256 has to have train, yes; see 'no'"),
        ({"sources": {"folder": "here"}}, "sources.folder is 'here'; give a source"),
        ({"questions": {"no": YES_NO}}, "questions.no is .*; give the questions of 'no'"),
        ({"questions": {}, "sizes": {"train": None}, "sha256": {"train": None}}, "questions has none"),
        ({"download_mib": -1}, "download_mib is -1"),
        ({"version": 0}, "version = 0"),
    ],
)
def test_a_description_that_cannot_be_meant_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        one_task(**changes)


def test_options_are_the_words_after_the_last_answer_format() -> None:
    assert options(ask(offered="answer1/answer2/answer3")) == ("answer1", "answer2", "answer3")
    same_line = ask(instruction="Answer format: a Option1: Ian Option2: Dennis Answer format: option1/option2")
    assert options(same_line) == ("option1", "option2")
    for instruction in ("Is it?", "Answer format:", "Answer format: a//b"):
        with pytest.raises(DataError, match=r"offers no answers"):
            options(ask(instruction=instruction))


def check_real(dataset: QuestionMix, root: Path, *, at_least: int) -> None:
    """Every answer is a word of its task and among the words that its question offers, and its output says it."""
    for name, task in dataset.tasks.items():
        questions = task.test(root=root)
        assert len(questions) > 200
        for question in questions:
            assert question.answer in options(question)
            assert set(options(question)) <= set(task.answers), name
    training = dataset.training(root=root)
    assert len(training) >= at_least
    for question in training:
        assert question.answer in options(question)
        assert (question.input, question.output) == ("", f"the correct answer is {question.answer}")


def test_embedded_questions_offer_their_answers() -> None:
    dataset = dataset_of("micro_commonsense")
    assert isinstance(dataset, QuestionMix)
    check_real(dataset, ROOT, at_least=15_000)
    assert dataset.digests(root=ROOT) == dataset.sha256


def test_no_embedded_question_is_trained_on_and_tested() -> None:
    dataset = dataset_of("micro_commonsense")
    trained = [question.instruction for question in dataset.training(root=ROOT)]
    tested = [question.instruction for task in dataset.tasks.values() for question in task.test(root=ROOT)]
    assert len(set(trained)) == len(trained)
    assert len(set(tested)) == len(tested) == 2305
    assert not set(trained) & set(tested)


@pytest.mark.skipif(REAL is None, reason="RANDLORA_REAL_DATA names no folder with commonsense/")
def test_questions_at_hand_offer_their_answers() -> None:
    dataset = dataset_of("commonsense_available")
    assert isinstance(dataset, QuestionMix)
    check_real(replace(dataset, draw=Draw(count=15_000, seed=0)), Path(str(REAL)), at_least=15_000)


def test_downloads_are_kept_and_found_again_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    place = tmp_path / "place"
    source = GithubQuestions(repository="someone/questions", revision="abc")
    write(place / "dataset" / "Yes" / "train.json", TRAIN)
    write(place / "ft-training_set" / "mix_3k.json", TRAIN)
    monkeypatch.setattr(GithubQuestions, "url", lambda _, path: (place / path).as_uri())
    assert source.task("Yes", "train", root=tmp_path) == tuple(TRAIN)
    with pytest.raises(MissingError, match=r"cannot download file://.*Yes/test.json"):
        source.task("Yes", "test", root=tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert source.task("Yes", "train", root=tmp_path) == tuple(TRAIN)
    assert source.on_disk().task("Yes", "train", root=tmp_path) == tuple(TRAIN)
    with pytest.raises(MissingError, match=r"HF_HUB_OFFLINE is set.*run the same command where there is a network"):
        source.mix("mix_3k", root=tmp_path)
    assert isinstance(source.on_disk(), QuestionFolder)
    assert [file.name for file in (tmp_path / "home").rglob("*") if file.is_file()] == ["train.json"]


def test_an_interrupted_download_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_off(answer: Any, file: Any) -> None:
        file.write(answer.read(5))
        raise ConnectionResetError("broken off")

    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("randlora.data.question_sources.shutil.copyfileobj", break_off)
    write(tmp_path / "train.json", TRAIN)
    monkeypatch.setattr(GithubQuestions, "url", lambda _, path: (tmp_path / "train.json").as_uri())
    with pytest.raises(MissingError, match=r"broken off"):
        GithubQuestions(repository="a/b", revision="c").task("Yes", "train", root=tmp_path)
    assert not [file for file in (tmp_path / "home").rglob("*") if file.is_file()]


def test_published_files_are_asked_for_at_their_addresses() -> None:
    source = dataset_of("commonsense_170k").chosen
    assert isinstance(source, GithubQuestions)
    start = f"https://raw.githubusercontent.com/AGI-Edgerunners/LLM-Adapters/{source.revision}/"
    assert len(source.revision) == 40
    assert source.url("ft-training_set/commonsense_170k.json") == f"{start}ft-training_set/commonsense_170k.json"
    assert tuple(dataset_of("commonsense_170k").tasks) == NAMES
