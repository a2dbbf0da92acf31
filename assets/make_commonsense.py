"""Cut the embedded commonsense questions out of larger copies: python assets/make_commonsense.py --source FOLDER.

FOLDER holds one folder per task, as LLM-Adapters calls it, with train.jsonl.gz and test.jsonl.gz (instruction, input,
output, answer). Questions are taken whose training text in the published indented form takes at most 512 tokens with
the embedded stories260k tokenizer, both ends included: that is its context, and it leaves the evaluation prompts room
for 32 new tokens. Which ones is decided by a hash of seed and text, so neither the order of the rows nor the machine
matters: the same input gives the same files, byte for byte.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from randlora.data.alpaca import PromptForm  # noqa: E402 - found from the checkout
from randlora.data.errors import DataError  # noqa: E402
from randlora.data.question import Question, digest_of, read_questions  # noqa: E402

SEED = 0
MAX_TOKENS = 512
TRAIN_QUESTIONS = 15_000
TEST_QUESTIONS = 300
MAX_BYTES = 4_000_000
TOKENIZER = "assets/weights/stories260k/tokenizer.json"
COMPILATION = (
    "Hu, Wang, Lan, Xu, Lim, Bing, Xu, Poria, Lee: LLM-Adapters: An adapter family for parameter-efficient fine-tuning "
    "of large language models. EMNLP 2023"
)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """One task to embed, and what to credit.

    ``from_test_alone`` takes the training questions, too, from the test file, and none whose story a test question has.
    """

    folder: str
    source: str
    licence: str
    citation: str
    from_test_alone: bool = False


LLM_ADAPTERS = "AGI-Edgerunners/LLM-Adapters, dataset/{folder}"
ORIGINS = (
    Origin(
        folder="boolq",
        source=LLM_ADAPTERS,
        licence="CC BY-SA 3.0",
        citation="Clark, Lee, Chang, Kwiatkowski, Collins, Toutanova: BoolQ: Exploring the surprising difficulty of "
        "natural yes/no questions. NAACL 2019",
    ),
    Origin(
        folder="piqa",
        source="train: allenai/OLMo (oe_eval_tasks/piqa); test: LLM-Adapters",
        licence="AFL 3.0",
        citation="Bisk, Zellers, Le Bras, Gao, Choi: PIQA: Reasoning about physical commonsense in natural language. "
        "AAAI 2020",
    ),
    Origin(
        folder="social_i_qa",
        source="train and test: the test file of LLM-Adapters",
        licence="ODC-By, as data of LLM-Adapters; the authors state none",
        citation="Sap, Rashkin, Chen, Le Bras, Choi: Social IQa: Commonsense reasoning about social interactions. "
        "EMNLP 2019",
        from_test_alone=True,
    ),
    Origin(
        folder="hellaswag",
        source="validation items; test: allenai/OLMo (hellaswag/rc_5shot); train: others, by way of "
        "BunsenFeng/AbstainQA and RubriksCube/rubriks_cube",
        licence="MIT",
        citation="Zellers, Holtzman, Bisk, Farhadi, Choi: HellaSwag: Can a machine really finish your sentence? "
        "ACL 2019",
    ),
    Origin(
        folder="winogrande",
        source="train: allenai/OLMo (winogrande/train_rc_5shot, train_xl); test: LLM-Adapters",
        licence="CC BY",
        citation="Sakaguchi, Le Bras, Bhagavatula, Choi: WinoGrande: An adversarial Winograd schema challenge at "
        "scale. AAAI 2020",
    ),
    *(
        Origin(
            folder=folder,
            source=LLM_ADAPTERS,
            licence="CC BY-SA 4.0",
            citation="Clark, Cowhey, Etzioni, Khot, Sabharwal, Schoenick, Tafjord: Think you have solved question "
            "answering? Try ARC, the AI2 reasoning challenge. arXiv:1803.05457, 2018",
        )
        for folder in ("ARC-Easy", "ARC-Challenge")
    ),
    Origin(
        folder="openbookqa",
        source=LLM_ADAPTERS,
        licence="Apache-2.0",
        citation="Mihaylov, Clark, Khot, Sabharwal: Can a suit of armor conduct electricity? A new dataset for open "
        "book question answering. EMNLP 2018",
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write all tasks and meta.json; return 1 with a message, having written nothing, if one cannot be made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder with one folder per task")
    parser.add_argument("--destination", type=Path, default=ROOT / "assets" / "data" / "commonsense")
    options = parser.parse_args(arguments)
    try:
        files, meta = make(options.source)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    size = sum(map(len, files.values()))
    if size > MAX_BYTES:
        print(f"error: {size:,} bytes, more than {MAX_BYTES:,}; lower the numbers", file=sys.stderr)
        return 1
    for name, content in files.items():
        (options.destination / name).parent.mkdir(parents=True, exist_ok=True)
        (options.destination / name).write_bytes(content)
    text = json.dumps(meta, indent=1, ensure_ascii=False) + "\n"
    (options.destination / "meta.json").write_text(text, encoding="utf-8")
    print(f"{size:,} bytes in {options.destination}")
    return 0


def make(source: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return the files by name, and what meta.json tells of them."""
    pools = {origin.folder: pools_of(origin, source) for origin in ORIGINS}
    shares = even_shares({folder: len(pool["train"]) for folder, (pool, _) in pools.items()}, TRAIN_QUESTIONS)
    files, tasks = {}, {}
    for origin in ORIGINS:
        pool, counts = pools[origin.folder]
        parts = {}
        for part, count in (("train", shares[origin.folder]), ("test", TEST_QUESTIONS)):
            chosen = drawn(pool[part], count)
            content = written(chosen)
            files[f"{origin.folder}/{part}.jsonl.gz"] = content
            digests = {"sha256": hashlib.sha256(content).hexdigest(), "questions_sha256": digest_of(chosen)}
            parts[part] = {"questions": len(chosen), **counts[part], **digests}
            print(f"{origin.folder} {part}: {len(chosen)} of {len(pool[part])}")
        credit = {name: value for name, value in asdict(origin).items() if name in ("licence", "citation")}
        tasks[origin.folder] = {"source": origin.source.format(folder=origin.folder), **credit, **parts}
    rule = f"training text in the indented form of at most {MAX_TOKENS} tokens with {TOKENIZER}, both ends included"
    head = {"format": "one JSON object per line: instruction, input, output, answer", "seed": SEED, "rule": rule}
    return files, {**head, "compiled_by": COMPILATION, "tasks": tasks}


def pools_of(origin: Origin, source: Path) -> tuple[dict[str, list[Question]], dict[str, dict[str, int]]]:
    """Return the questions of train and test that may be drawn, and how many there were and are short enough."""
    everything = {"test": read_questions(source / origin.folder / "test.jsonl.gz")}
    if origin.from_test_alone:
        short = short_ones(distinct(everything["test"]))
        test = drawn(short, TEST_QUESTIONS)
        stories = {story(question) for question in test}
        pool = {"train": [question for question in short if story(question) not in stories], "test": test}
        counts = {"in_source": len(everything["test"]), "short_enough": len(short)}
        return pool, {"train": counts, "test": counts}
    everything["train"] = read_questions(source / origin.folder / "train.jsonl.gz")
    tested = {question.instruction for question in everything["test"]}
    unique = {
        "train": [question for question in distinct(everything["train"]) if question.instruction not in tested],
        "test": distinct(everything["test"]),
    }
    pool = {part: short_ones(questions) for part, questions in unique.items()}
    return pool, {part: {"in_source": len(everything[part]), "short_enough": len(pool[part])} for part in pool}


def short_ones(questions: Sequence[Question]) -> list[Question]:
    """Return the questions whose training text fits, in their order."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(ROOT / TOKENIZER))
    form = PromptForm(form="indented")
    # the tokenizer begins a text with its own token; the one that ends it is appended in training
    found = tokenizer.encode_batch(["".join(form.training(question)) for question in questions])
    return [question for question, text in zip(questions, found, strict=True) if len(text.ids) + 1 <= MAX_TOKENS]


def distinct(questions: Sequence[Question]) -> list[Question]:
    """Return the questions without those whose text came before."""
    first: dict[str, Question] = {}
    for question in questions:
        first.setdefault(question.instruction, question)
    return list(first.values())


def story(question: Question) -> str:
    """Return the first sentence of a question; those of Social IQa that share it are asked about one story."""
    return re.split(r"(?<=[.?!])\s", question.instruction.partition("question: ")[2], maxsplit=1)[0]


def even_shares(available: Mapping[str, int], total: int) -> dict[str, int]:
    """Return ``total`` divided evenly, as far as what is available goes; the first get one more each."""
    shares = dict.fromkeys(available, 0)
    while (left := min(total, sum(available.values())) - sum(shares.values())) > 0:
        open_ones = [name for name in available if shares[name] < available[name]]
        each, more = divmod(left, len(open_ones))
        for position, name in enumerate(open_ones):
            shares[name] = min(available[name], shares[name] + each + (position < more))
    return shares


def drawn(questions: Sequence[Question], count: int) -> list[Question]:
    """Return the ``count`` questions of the smallest hash of seed and text (fewer, if there are), in their order."""
    kept = sorted(range(len(questions)), key=lambda position: _hash(questions[position]))[:count]
    return [questions[position] for position in sorted(kept)]


def written(questions: Sequence[Question]) -> bytes:
    """Return a gzipped file with a JSON object a line; the same bytes whenever it is made."""
    lines = "".join(json.dumps(asdict(question), ensure_ascii=False) + "\n" for question in questions)
    return gzip.compress(lines.encode("utf-8"), compresslevel=9, mtime=0)


def _hash(question: Question) -> str:
    return hashlib.sha256(f"{SEED}\n{question.instruction}".encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
