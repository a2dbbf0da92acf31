"""One run on two CPU processes: the numbers of one process, one record, and one reason where it fails."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lab import Lab
from language_runs import TASKS, LanguageLab
from safetensors.torch import load_file
from torch import nn
from two_processes import by_command, by_copies

from runners.interrupt import StopRequest
from runners.plan import Run
from runners.processes import ALONE, BUCKET, Processes, _buckets

# three samples for two processes, one at a time: the processes have different numbers of parts
TEXT = (
    "method=lora",
    "method.rank=2",
    "recipe.batch_size=3",
    "recipe.micro_batch_size=1",
    "recipe.max_steps=3",
    "recipe.task.protocol.scorers=[likelihood]",
)
SHARDED = ("machine.shard=model", "machine.recompute_blocks=true")
# AdamW turns the last bits of a gradient near zero into a whole step, so steps are small
IMAGES = ("method=randlora", "recipe.max_steps=2", "recipe.learning_rate=3e-4")
# the second process meets an error in the second step, and the first does not
FAULT = """
import os, sys
from runners import cli, trainer
gradient = trainer.Gradients.of
def of(self, batch, *, step, seed):
    if step == 1 and os.environ["RANK"] == "1":
        raise ValueError("no such token")
    return gradient(self, batch, step=step, seed=seed)
trainer.Gradients.of = of
raise SystemExit(cli.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, questions: Path) -> LanguageLab:
    """The language run on one process."""
    lab = LanguageLab(results=tmp_path_factory.mktemp("alone"), images=questions)
    assert lab.execute(lab.run(*TEXT)).status == "ok"
    return lab


def left(lab: Lab, run: Run) -> set[str]:
    return {path.name for path in (lab.results / run.id).iterdir()}


def check_equal(alone: Lab, run: Run, together: Lab) -> None:
    """Compare the tensors and scores of one process with those of several; the latter did train something."""
    one, several = (load_file(lab.file(run, "adapter.safetensors")) for lab in (alone, together))
    assert one.keys() == several.keys()
    assert any(tensor.abs().max() > 0 for tensor in one.values())
    assert all(torch.allclose(several[name], tensor, atol=1e-5) for name, tensor in one.items())
    record, other = alone.store.read(run.id), together.store.read(run.id)
    assert record is not None
    assert other is not None
    assert (record.status, other.status) == ("ok", "ok"), (record.reason, other.reason)
    assert record.metrics.keys() == other.metrics.keys()
    assert (record.provenance.processes, other.provenance.processes) == (1, 2)
    assert record.provenance.data_digests == other.provenance.data_digests
    assert left(together, run) == left(alone, run)
    assert together.logged(run) == alone.logged(run)


def test_two_processes_train_a_language_model_as_one_does(lm: LanguageLab, alone: LanguageLab) -> None:
    done = by_command("run", *lm.overrides(*TEXT))
    assert done.code == 0, done.err
    check_equal(alone, lm.run(*TEXT), lm)
    assert done.out.count("record: ") == 1
    assert done.err.count("step 3 of 3") == 1


def test_two_processes_share_the_weights_of_a_language_model_out(
    lm: LanguageLab, alone: LanguageLab, tmp_path: Path
) -> None:
    run = lm.run(*TEXT)
    done = by_copies(tmp_path / "logs", "run", *lm.overrides(*TEXT, *SHARDED))
    assert done.code == 0, done.err
    check_equal(alone, run, lm)
    record = lm.store.read(run.id)
    assert record is not None
    assert record.checks["frozen_unchanged"]
    assert all(f"{task}/likelihood" in record.metrics for task in TASKS.values())


def test_two_processes_train_an_image_model_as_one_does(lab: Lab, tmp_path: Path) -> None:
    run = lab.run(*IMAGES)
    assert lab.execute(run).status == "ok"
    shared = lab.beside("shared")
    done = by_copies(tmp_path / "logs", "run", *shared.overrides(*IMAGES))
    assert done.code == 0, done.err
    check_equal(lab, run, shared)


def test_an_error_in_one_process_ends_both_with_its_reason(lm: LanguageLab, tmp_path: Path) -> None:
    script = tmp_path / "faulty.py"
    script.write_text(FAULT)
    run = lm.run(*TEXT)
    done = by_command("run", *lm.overrides(*TEXT), script=script)
    assert done.code != 0
    record = lm.store.read(run.id)
    assert record is not None
    assert (record.status, record.reason) == ("failed", "ValueError: no such token")
    assert record.provenance.processes == 2
    assert done.out.count("record: ") == 1
    assert "no such token" in lm.file(run, "failure.txt").read_text()


def test_a_killed_process_ends_both_without_a_record_and_the_run_goes_on(
    lm: LanguageLab, alone: LanguageLab, tmp_path: Path
) -> None:
    run = lm.run(*TEXT)
    # sharded: the other process learns of it in the middle of a pass, not at an exchange
    arguments = lm.overrides(*TEXT, *SHARDED, "machine.checkpoint_every_steps=1")
    done = by_copies(tmp_path / "logs", "run", *arguments, killed=True)
    assert done.code != 0
    assert lm.store.read(run.id) is None, lm.store.read(run.id)
    assert lm.file(run, "checkpoint.pt").is_file()
    assert lm.execute(run).status == "ok"  # from the first step's checkpoint, on one process
    record = lm.store.read(run.id)
    assert record is not None
    assert record.timing is not None
    assert record.timing.steps == 3
    one, several = (load_file(lab.file(run, "adapter.safetensors")) for lab in (alone, lm))
    assert all(torch.allclose(several[name], tensor, atol=1e-5) for name, tensor in one.items())


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["sweep", "table=demo"], "2 processes were started, and only a single 'run'"),
        (["run", "-m", "seed=1,2"], "2 processes were started, and only a single 'run'"),
        (["run", "recipe.task.negatives=batch"], "compares the samples of a batch with one another"),
        (["run", "method=full_ft", "machine.shard=model"], "trains weights of the model"),
    ],
)
def test_what_several_processes_cannot_do_is_said(
    arguments: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch, command: object
) -> None:
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    outcome = command(*arguments)  # type: ignore[operator]
    assert outcome.code == 2
    assert complaint in outcome.err
    monkeypatch.setenv("RANK", "1")
    assert command(*arguments).err == ""  # type: ignore[operator]


def test_sharding_needs_several_processes(command: object) -> None:
    assert "there is one; start several with torchrun" in command("run", "machine.shard=model").err  # type: ignore[operator]
    assert "not for a sweep" in command("sweep", "table=demo", "machine.shard=model").err  # type: ignore[operator]


def test_one_process_exchanges_nothing() -> None:
    assert Processes.launched().alone
    parameter = nn.Parameter(torch.ones(2))
    ALONE.sum_gradients([parameter])
    assert parameter.grad is None
    assert ALONE.any(True, False) == (True, False)
    assert ALONE.value_of_main(0.1) == 0.1
    assert ALONE.claim_end()


def test_buckets_hold_one_type_and_so_many_numbers() -> None:
    sizes = [BUCKET // 2, BUCKET // 2, 1, 2 * BUCKET]
    tensors = [torch.empty(size, device="meta") for size in sizes]
    tensors.append(torch.empty(3, dtype=torch.bfloat16, device="meta"))
    found = [[tensor.numel() for tensor in bucket] for bucket in _buckets(tensors)]
    assert found == [sizes[:2], sizes[2:3], sizes[3:], [3]]


def test_a_signal_that_is_passed_on_is_the_same_one() -> None:
    passed_on, by_hand = StopRequest(again_after_s=60.0), StopRequest()
    for request in (passed_on, by_hand):
        request._ask(2, None)
        assert request()
    passed_on._ask(2, None)
    with pytest.raises(KeyboardInterrupt):
        by_hand._ask(2, None)
