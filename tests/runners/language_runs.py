"""Small real runs of a language model: the embedded Llama on a few of the embedded questions."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

from lab import ROOT, Lab

from randlora.data.question import read_questions
from runners.compose import compose
from runners.plan import Run, check_run

TASKS = {
    "boolq": "boolq",
    "piqa": "piqa",
    "social_i_qa": "social_i_qa",
    "hellaswag": "hellaswag",
    "winogrande": "winogrande",
    "ARC-Easy": "arc_easy",
    "ARC-Challenge": "arc_challenge",
    "openbookqa": "openbookqa",
}
TRAIN, TEST = 6, 2  # questions of each task, the shortest ones
STEPS = 4
UNCHECKED = ",".join(f"{name}:null" for name in ("train", *TASKS.values()))
SMALL = (
    "backbone=stories260k",
    "dataset=micro_commonsense",
    f"dataset.sizes={{{UNCHECKED}}}",
    f"dataset.sha256={{{UNCHECKED}}}",
    "recipe=micro_commonsense",
    f"recipe.max_steps={STEPS}",
    "recipe.batch_size=4",
    "recipe.validation=6",
    "recipe.warmup_steps=1",
    "recipe.learning_rate=1e-2",
    "recipe.task.protocol.beams=2",
    "recipe.task.protocol.max_new_tokens=6",
    "machine.answering_batch_size=8",
)


@dataclass(frozen=True, kw_only=True)
class LanguageLab(Lab):
    """A :class:`lab.Lab` of language runs; ``images`` is the folder of their questions."""

    def overrides(self, *extra: str) -> list[str]:
        return [*SMALL, *self.machine, f"dataset.sources.embedded.path={self.images}", *extra]

    def run(self, *extra: str) -> Run:
        return check_run(compose("config", self.overrides(*extra)))

    def beside(self, name: str) -> LanguageLab:
        """Return a lab with an empty folder of its own."""
        return LanguageLab(results=self.results.with_name(f"{self.results.name}-{name}"), images=self.images)


def write_questions(folder: Path) -> None:
    """Write the shortest embedded questions of each task."""
    for task in TASKS:
        for part, count in (("train", TRAIN), ("test", TEST)):
            found = read_questions(ROOT / "assets" / "data" / "commonsense" / task / f"{part}.jsonl.gz")
            short = sorted(found, key=lambda question: len(question.instruction))[:count]
            lines = [
                json.dumps({name: getattr(one, name) for name in ("instruction", "input", "output", "answer")})
                for one in short
            ]
            target = folder / task / f"{part}.jsonl.gz"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(gzip.compress("\n".join(lines).encode()))
