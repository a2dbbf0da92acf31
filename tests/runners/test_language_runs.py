"""Runs of a language model from questions to record: bitwise repeatable, continued, selected, judged on eight tasks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from language_runs import TASKS, TEST, TRAIN, LanguageLab, write_questions
from safetensors.torch import load_file

from results.record import Record
from runners.compose import ConfigError, compose
from runners.interrupt import Interrupted
from runners.plan import QuestionRun, Run, check_run
from runners.run import describe

LORA = ("method=lora_llm", "method.rank=2")
LANGUAGE = ("backbone=stories260k", "dataset=micro_commonsense", "recipe=micro_commonsense")
QUICK = ("recipe.task.protocol.scorers=[likelihood]",)
Finished = tuple[LanguageLab, Run, Record]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, questions: Path) -> Finished:
    """One run with both scorers, for tests that only look at it."""
    lab = LanguageLab(results=tmp_path_factory.mktemp("done"), images=questions)
    run = lab.run(*LORA)
    return lab, run, lab.execute(run)


def test_a_record_has_both_scores_of_every_task(done: Finished) -> None:
    lab, run, record = done
    assert record.status == "ok", record.reason
    assert isinstance(run, QuestionRun)
    scores = ("accuracy", "no_match", "likelihood", "likelihood_normalised", "answer_probability")
    scores += ("disagreement", "chance", "majority")
    for name in (*TASKS.values(), "average"):
        assert all(0 <= record.metrics[f"{name}/{score}"] <= 1 for score in scores)
    mean = sum(record.metrics[f"{name}/likelihood"] for name in TASKS.values()) / len(TASKS)
    assert record.metrics["average/likelihood"] == pytest.approx(mean)
    assert set(record.provenance.data_digests) == {"train", *TASKS.values()}
    assert record.parameters is not None
    assert record.parameters.adapter == record.parameters.predicted > 0
    frame = lab.store.read_predictions(run.id)
    assert len(frame) == TEST * len(TASKS)
    right = (frame["extracted"] == frame["answer"]).groupby(frame["task"]).mean()
    assert all(record.metrics[f"{name}/accuracy"] == pytest.approx(right[name]) for name in TASKS.values())


def test_a_record_is_told_in_one_line_per_task(done: Finished) -> None:
    _, _, record = done
    lines = describe(record).splitlines()
    header = next(line for line in lines if "accuracy" in line)
    assert header.split()[:2] == ["in", "%"]
    columns = header.split().index("accuracy") - 1  # "in %" is one heading
    for name in (*TASKS.values(), "average"):
        row = next(line for line in lines if line.split()[0] == name)
        assert row.split()[columns] == f"{100 * record.metrics[f'{name}/accuracy']:.1f}"


def test_a_finished_run_leaves_nothing_to_continue_from(done: Finished) -> None:
    lab, run, _ = done
    left = {path.name for path in (lab.results / run.id).iterdir()}
    assert left == {"record.json", "metrics.jsonl", "adapter.safetensors", "predictions.parquet"}


def test_the_same_run_gives_the_same_bits(done: Finished, lm: LanguageLab) -> None:
    first, run, _ = done
    again = lm.run(*LORA)
    assert again.id == run.id
    lm.execute(again)
    assert lm.trained(again) == first.trained(run)


def test_where_it_runs_and_how_much_at_a_time_changes_no_answer(done: Finished, lm: LanguageLab) -> None:
    first, run, _ = done
    other = lm.run(*LORA, "machine.answering_batch_size=3", "machine.recompute_blocks=true")
    assert other.id == run.id
    lm.execute(other)
    # recomputed blocks give the same bits, so the adapters are equal; scores of other batches differ in their last ones
    assert lm.file(other, "adapter.safetensors").read_bytes() == first.file(run, "adapter.safetensors").read_bytes()
    ours, theirs = (lab.store.read_predictions(run.id) for lab in (lm, first))
    for column in ("generated", "extracted", "likelihood", "likelihood_normalised"):
        assert ours[column].tolist() == theirs[column].tolist()


@pytest.mark.parametrize("extra", [(), ("recipe.select=best_validation", "recipe.validate_every=1")])
def test_an_interrupted_run_continues_to_the_same_bits(lm: LanguageLab, extra: tuple[str, ...]) -> None:
    choice = (*LORA, *QUICK, "recipe.dropout=0.1", *extra)
    whole = lm.beside("whole")
    whole.execute(whole.run(*choice))
    parts = lm.beside("parts")
    run = parts.run(*choice)
    with pytest.raises(Interrupted):
        parts.execute(run, stop_after=2)
    assert parts.file(run, "checkpoint.pt").is_file()
    parts.execute(run)
    assert parts.trained(run) == whole.trained(run)
    assert not parts.file(run, "checkpoint.pt").exists()
    assert not parts.file(run, "best.pt").exists()


def test_the_step_of_the_lowest_validation_loss_is_judged(lm: LanguageLab) -> None:
    """A rate that overshoots: the first steps help, the last ones do not."""
    choice = ("method=full_ft", *QUICK, "recipe.learning_rate=0.03", "recipe.schedule=constant", "recipe.max_steps=6")
    last, best = lm.run(*choice), lm.run(*choice, "recipe.select=best_validation", "recipe.validate_every=1")
    lm.execute(last)
    record = lm.execute(best)
    note = next(note for note in record.notes if "lowest validation loss" in note)
    step = int(note.partition("step ")[2].partition(",")[0])
    assert step < 6
    short = lm.run(*choice, f"recipe.max_steps={step}")
    lm.execute(short)
    chosen, stopped, final = (load_file(lm.file(run, "adapter.safetensors")) for run in (best, short, last))
    assert all(torch.equal(chosen[name], stopped[name]) for name in chosen)
    assert not all(torch.equal(chosen[name], final[name]) for name in chosen)


def test_a_frozen_model_is_judged_without_training_questions(lm: LanguageLab, tmp_path: Path) -> None:
    write_questions(tmp_path / "questions")
    for task in TASKS:
        (tmp_path / "questions" / task / "train.jsonl.gz").unlink()
    alone = LanguageLab(results=tmp_path / "results", images=tmp_path / "questions")
    record = alone.execute(alone.run("method=zero_shot", *QUICK))
    assert record.status == "ok", record.reason
    assert record.timing is not None
    assert record.timing.steps == 0
    failed = alone.execute(alone.run(*LORA, *QUICK))
    assert failed.status == "failed"
    assert "in %" not in describe(failed)
    assert "train" in str(failed.reason)


def test_micro_batches_add_up_to_the_batch(lm: LanguageLab) -> None:
    whole, parts = lm.run(*LORA, *QUICK), lm.run(*LORA, *QUICK, "recipe.micro_batch_size=1")
    lm.execute(whole)
    lm.execute(parts)
    left, right = (load_file(lm.file(run, "adapter.safetensors")) for run in (whole, parts))
    assert all(torch.allclose(left[name], right[name], atol=1e-5) for name in left)


def test_validation_questions_are_judged_instead_of_the_test(lm: LanguageLab) -> None:
    record = lm.execute(lm.run(*LORA, *QUICK, "recipe.evaluate_on=validation"))
    assert {name.partition("/")[0] for name in record.metrics} == {"validation", "average"}
    assert set(record.provenance.data_digests) == {"train"}


@pytest.mark.parametrize(
    ("extra", "status", "words"),
    [
        (("recipe.cutoff=300", "recipe.too_long=truncate"), "ok", "were truncated; "),
        (("recipe.cutoff=300", "recipe.too_long=leave_out"), "ok", "and were left out"),
        (("recipe.cutoff=300",), "failed", "raise recipe.cutoff, or set recipe.too_long"),
        (("recipe.cutoff=9", "recipe.too_long=leave_out"), "failed", "no other is left"),
        (("recipe.questions=1000",), "failed", f"there are {TRAIN * len(TASKS) - 6} training questions beside the 6"),
        (("recipe.validation=48",), "failed", "leaves none to train on"),
    ],
)
def test_what_does_not_fit_is_noted_or_refused(
    lm: LanguageLab, extra: tuple[str, ...], status: str, words: str
) -> None:
    record = lm.execute(lm.run(*LORA, *QUICK, *extra))
    assert record.status == status, record.reason
    assert words in (str(record.reason) if status == "failed" else " ".join(record.notes))


def test_fewer_questions_are_part_of_more(lm: LanguageLab) -> None:
    from runners.question_workload import QuestionWorkload

    def drawn(count: int, seed: int) -> set[tuple[int, ...]]:
        run = lm.run(*LORA, f"recipe.questions={count}", f"seed={seed}")
        assert isinstance(run, QuestionRun)
        model = torch.nn.Linear(1, 1)
        work = QuestionWorkload(
            run, model, folder=lm.results, device=torch.device("cpu"), stop=lambda: False, on_judged=lambda *_: None
        )
        return {example.ids for example in work.feed.examples}

    assert len(drawn(8, 1)) == 8
    assert drawn(8, 1) < drawn(20, 1)
    assert drawn(8, 1) != drawn(8, 2)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["dataset=micro_commonsense"], "holds questions and the recipe trains on images"),
        (["backbone=stories260k", "recipe=micro_commonsense"], "holds images and the recipe trains on questions"),
        (["recipe=micro_commonsense", "dataset=micro_commonsense"], "micro_clip is an image backbone"),
        (["backbone=stories260k"], "stories260k is a language model; the task ImageText needs an image backbone"),
        (
            ["backbone=stories260k", "dataset=micro_commonsense", "recipe=micro_commonsense", "method=linear_probe"],
            "head",
        ),
        (
            ["recipe=micro_commonsense", "recipe.validation=0", "recipe.select=best_validation"],
            "no question is held out",
        ),
        ([*LANGUAGE, "recipe.too_long=cut"], "'truncate', 'leave_out', 'error'"),
        ([*LANGUAGE, "recipe.dropout=1.0"], "and below 1"),
        ([*LANGUAGE, "recipe.task.loss_on=prompt"], "'everything', 'answer'"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_loaded(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_run(compose("config", overrides))


def test_steps_of_the_paper_recipe() -> None:
    run = check_run(compose("config", [*LANGUAGE[:2], "recipe=commonsense"]))
    recipe = run.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.warmup_steps) == (3, 16, 1e-4, 100)
    assert recipe.rate_factor(99, 1000) == 1.0
    assert recipe.rate_factor(1000, 1000) == 0.0
    released = check_run(compose("config", [*LANGUAGE[:2], "recipe=commonsense_released"]))
    assert released.recipe.epochs == 1
    assert released.id != run.id
