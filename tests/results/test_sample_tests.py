"""Outcomes per sample, and tests of two methods on the same samples."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy
import pandas
import pytest
from record_factory import make_record
from scipy import stats

from results.outcomes import NoOutcomesError, OutcomeReader, Outcomes, outcomes_of
from results.record import Record
from results.sample_tests import Swings, samples_interval, swap_p, swings_of
from results.store import RecordStore

IMAGES = pandas.DataFrame({"label": [0, 1, 2, 1], "predicted": [0, 1, 1, 0], "probability": [0.9, 0.8, 0.1, 0.2]})
QUESTIONS = pandas.DataFrame(
    {
        "task": ["boolq", "boolq", "piqa", "piqa", "piqa"],
        "index": [0, 1, 0, 1, 2],
        "answer": ["true", "false", "solution1", "solution2", "solution1"],
        "extracted": ["true", "", "solution1", "solution1", "solution1"],
        "likelihood": ["false", "false", "solution2", "solution2", "solution1"],
    }
)


def outcomes(*right: int, samples: str = "same") -> Outcomes:
    return Outcomes(samples=samples, right=numpy.array(right, dtype=bool))


def test_outcomes_of_images_and_questions() -> None:
    assert outcomes_of(IMAGES, "test/top1").right.tolist() == [True, True, False, False]
    assert outcomes_of(QUESTIONS, "piqa/accuracy").right.tolist() == [True, False, True]
    assert outcomes_of(QUESTIONS, "piqa/likelihood").right.tolist() == [False, True, True]
    assert outcomes_of(QUESTIONS, "boolq/accuracy").samples != outcomes_of(QUESTIONS, "piqa/accuracy").samples
    assert outcomes_of(QUESTIONS, "boolq/accuracy").samples == outcomes_of(QUESTIONS, "boolq/likelihood").samples


@pytest.mark.parametrize(
    ("frame", "metric"),
    [
        (IMAGES, "cost/step_s"),
        (QUESTIONS, "average/accuracy"),
        (QUESTIONS, "boolq/answer_probability"),
        (QUESTIONS, "boolq/likelihood_normalised"),
        (QUESTIONS, "boolq/chance"),
        (QUESTIONS, "test/top1"),
        (IMAGES, "boolq/accuracy"),
    ],
)
def test_a_metric_that_is_no_mean_of_outcomes_has_none(frame: pandas.DataFrame, metric: str) -> None:
    with pytest.raises(NoOutcomesError, match=f"{metric} is no mean of outcomes per sample"):
        outcomes_of(frame, metric)


def _recorded(tmp_path: Path, *, top1: float, name: str = "test/top1", seed: int = 1) -> tuple[OutcomeReader, Record]:
    store = RecordStore(tmp_path)
    record = make_record(seed=seed, metrics={name: top1})
    store.write(record)
    store.write_predictions(record.id, IMAGES)
    return OutcomeReader(store), record


def test_the_reader_takes_predictions_that_add_up_to_the_record(tmp_path: Path) -> None:
    reader, record = _recorded(tmp_path, top1=0.5)
    assert reader.read(record, "test/top1").right.sum() == 2
    other, wrong = _recorded(tmp_path / "other", top1=0.75)
    with pytest.raises(NoOutcomesError, match="do not add up to the recorded test/top1"):
        other.read(wrong, "test/top1")


def test_the_reader_says_what_is_missing(tmp_path: Path) -> None:
    reader, record = _recorded(tmp_path, top1=0.5)
    with pytest.raises(NoOutcomesError, match=r"no predictions\.parquet beside the record"):
        reader.read(make_record(seed=9), "test/top1")
    (tmp_path / record.id / "predictions.parquet").write_bytes(b"torn")
    with pytest.raises(NoOutcomesError, match="cannot be read"):
        OutcomeReader(RecordStore(tmp_path)).read(record, "test/top1")


def test_validation_images_of_two_seeds_are_other_images(tmp_path: Path) -> None:
    reader, one = _recorded(tmp_path, top1=0.5, name="validation/top1", seed=1)
    _, other = _recorded(tmp_path, top1=0.5, name="validation/top1", seed=2)
    pair = [reader.read(record, "validation/top1") for record in (one, other)]
    with pytest.raises(NoOutcomesError, match="other test samples"):
        swings_of([(pair[0], pair[1])])


def test_one_seed_is_mcnemars_exact_test() -> None:
    first = outcomes(*[1] * 15, *[0] * 5, *[1] * 30, *[0] * 10)
    second = outcomes(*[0] * 15, *[1] * 5, *[1] * 30, *[0] * 10)
    swings = swings_of([(first, second)])
    assert (swings.samples, swings.first_alone, swings.second_alone) == (60, 15, 5)
    assert swings.mean == pytest.approx(10 / 60)
    assert swap_p([swings]) == stats.binomtest(5, 20).pvalue
    assert swap_p([swings_of([(second, first)])]) == swap_p([swings])
    assert swap_p([swings_of([(first, first)])]) == 1.0


def test_other_samples_are_refused() -> None:
    with pytest.raises(NoOutcomesError, match="other test samples"):
        swings_of([(outcomes(1, 0), outcomes(1, 0, samples="other"))])


def _by_hand(swings: list[int]) -> float:
    flips = [
        sum(s * w for s, w in zip(signs, swings, strict=True))
        for signs in itertools.product((1, -1), repeat=len(swings))
    ]
    return sum(abs(flip) >= abs(sum(swings)) for flip in flips) / len(flips)


def test_seeds_are_exchanged_together_and_counted_once() -> None:
    generator = numpy.random.default_rng(4)
    seeds = [(outcomes(*generator.integers(0, 2, 11)), outcomes(*generator.integers(0, 2, 11))) for _ in range(3)]
    total = sum(one.right.astype(int) - other.right.astype(int) for one, other in seeds)
    swings = swings_of(seeds)
    assert swings.seeds == 3
    assert swings.samples == 11
    assert swap_p([swings]) == pytest.approx(_by_hand(total.tolist()))


def test_the_same_seed_three_times_is_no_more_evidence() -> None:
    pair = (outcomes(*[1] * 9, *[0] * 2, *[1] * 20), outcomes(*[0] * 9, *[1] * 2, *[1] * 20))
    once, thrice = swings_of([pair]), swings_of([pair] * 3)
    assert swap_p([thrice]) == pytest.approx(swap_p([once]))
    assert thrice.mean == pytest.approx(once.mean)
    assert samples_interval([thrice]) == samples_interval([once])


def test_datasets_of_one_size_are_pooled_exactly_and_others_by_drawing() -> None:
    one = Swings(counts={1: 40, 0: 140, -1: 20}, seeds=1)
    assert swap_p([one, one]) == pytest.approx(stats.binomtest(80, 120).pvalue)
    nearly = Swings(counts={1: 40, 0: 141, -1: 20}, seeds=1)  # another size, almost the same test
    drawn = swap_p([one, nearly])
    assert drawn == pytest.approx(swap_p([one, one]), abs=4e-4)
    assert drawn == swap_p([one, nearly]) > 0


def test_every_dataset_counts_the_same_in_the_pooled_test() -> None:
    small = Swings(counts={1: 30, 0: 65, -1: 5}, seeds=1)  # +25 points
    large = Swings(counts={1: 500, 0: 8900, -1: 600}, seeds=1)  # -1 point
    assert swap_p([small, large]) < 0.001
    interval = samples_interval([small, large])
    assert 0 < interval.low < (0.25 - 0.01) / 2 < interval.high


def test_the_interval_is_that_of_the_mean_over_samples() -> None:
    swings = Swings(counts={2: 30, 1: 50, 0: 300, -1: 40, -2: 10}, seeds=2)
    values = [swing / 2 for swing, count in swings.counts.items() for _ in range(count)]
    low, high = stats.norm.interval(0.95, loc=numpy.mean(values), scale=stats.sem(values))
    found = samples_interval([swings])
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
