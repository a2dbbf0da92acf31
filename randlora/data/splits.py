"""How the official splits of a dataset become train, validation and test: by name, or drawn at random and pinned.

Nothing here depends on the seed of a run: a dataset is split once for all runs. Where images are drawn, the draw
depends on the number of images (of each class) alone, so that it can be pinned before anything is downloaded.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self

import torch

from randlora.checks import check_choice, check_flag, check_whole
from randlora.data.amounts import amount, check_amount
from randlora.data.errors import DataError
from randlora.seeds import generator_for

if TYPE_CHECKING:
    from jaxtyping import Int64
    from torch import Tensor

Part = Literal["train", "validation", "test"]
TrainOn = Literal["full", "without_validation"]
Needs = Literal["nothing", "count", "labels"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class SplitRule(ABC):
    """Which images of a source form the parts of a dataset.

    Attributes:
        train_on: ``full``: validation images that are drawn from the training images stay in the training part (the
            paper's released code, section 4); ``without_validation``: they do not (the sizes of the paper's Table 7).
    """

    train_on: TrainOn

    @abstractmethod
    def keys(self, part: Part) -> tuple[str, ...]:
        """Return the keys of the source's ``splits`` that a part is taken from, in the order they are read."""

    @abstractmethod
    def needs(self, part: Part) -> Needs:
        """Return what ``positions`` has to know of the images under ``keys(part)``."""

    @abstractmethod
    def positions(
        self, part: Part, *, count: int | None = None, labels: Int64[Tensor, " n"] | None = None
    ) -> Int64[Tensor, " k"] | None:
        """Return the positions of a part among the images under ``keys(part)``, ascending; None for all of them.

        Raises:
            DataError: if the images do not suffice, or are not those that the rule is pinned to.
        """

    @property
    @abstractmethod
    def has_validation(self) -> bool:
        """Whether there is a validation part."""

    @property
    @abstractmethod
    def draws_validation(self) -> bool:
        """Whether the validation part is drawn from the images that ``train_on: full`` trains on."""

    def without_validation(self) -> Self:
        """Return the rule under which no image is in the training part and in another."""
        return replace(self, train_on="without_validation")

    def _check_keys(self, field: str, *, optional: bool = False) -> None:
        value = getattr(self, field)
        if optional and value is None:
            return
        if isinstance(value, str) or not isinstance(value, Sequence) or not value:
            raise ValueError(f"{type(self).__name__}.{field} = {value!r}; valid: a list of keys of the source's splits")
        object.__setattr__(self, field, tuple(value))


@dataclass(frozen=True, kw_only=True)
class OfficialSplits(SplitRule):
    """Parts by the names of official splits; validation images may be held out of the training images at random.

    Attributes:
        train: keys of the source's ``splits`` that are trained on, one after another.
        validation: keys of the validation part; None: see ``hold_out``.
        test: keys of the test part.
        hold_out: share (a float, rounded down) or number (an int) of the images under ``train`` that form the
            validation part where ``validation`` is None; None: there is no validation part.
        hold_out_at_most: upper limit of their number (5,000 in the paper's code); None for no limit.
        train_on: see :class:`SplitRule`.
    """

    train: Sequence[str]
    validation: Sequence[str] | None
    test: Sequence[str]
    hold_out: float | None
    hold_out_at_most: int | None

    def __post_init__(self) -> None:
        check_choice(self, "train_on", ("full", "without_validation"))
        self._check_keys("train")
        self._check_keys("validation", optional=True)
        self._check_keys("test")
        if self.hold_out is not None:
            check_amount(self, "hold_out")
        if self.hold_out_at_most is not None:
            check_whole(self, "hold_out_at_most")
        if self.validation is not None and self.hold_out is not None:
            raise ValueError(
                f"OfficialSplits.hold_out = {self.hold_out!r} although validation is {list(self.validation)}; "
                "valid: null, or validation: null to hold images out of train"
            )
        named = [*self.train, *(self.validation or ()), *self.test]
        twice = sorted({key for key in named if named.count(key) > 1})
        if twice:
            raise ValueError(f"OfficialSplits: {twice[0]!r} is named twice; valid: every key in one part, once")

    @property
    def has_validation(self) -> bool:
        """Whether there is a validation part."""
        return self.validation is not None or self.hold_out is not None

    @property
    def draws_validation(self) -> bool:
        """Whether the validation part is held out of ``train``."""
        return self.validation is None and self.hold_out is not None

    def keys(self, part: Part) -> tuple[str, ...]:
        """Return the keys of a part; see :class:`SplitRule`."""
        named = {"train": self.train, "validation": self.validation or self.train, "test": self.test}
        return tuple(named[part])

    def needs(self, part: Part) -> Needs:
        """Return ``count`` for a part that images are held out of or that holds them."""
        drawn = part == "validation" or (part == "train" and self.train_on == "without_validation")
        return "count" if drawn and self.draws_validation else "nothing"

    def positions(
        self, part: Part, *, count: int | None = None, labels: Int64[Tensor, " n"] | None = None
    ) -> Int64[Tensor, " k"] | None:
        """Return the positions of a part; see :class:`SplitRule`."""
        if self.needs(part) == "nothing":
            return None
        assert count is not None
        number = amount(self.hold_out, count)
        if self.hold_out_at_most is not None:
            number = min(number, self.hold_out_at_most)
        if not 0 < number < count:
            raise DataError(
                f"holding {number} of {count} training images out for validation leaves {count - number} to train on; "
                f"set splits.hold_out to a share or number that leaves both parts an image (now {self.hold_out!r})"
            )
        order = torch.randperm(count, generator=generator_for(0, "hold out"))
        return (order[:number] if part == "validation" else order[number:]).sort().values


@dataclass(frozen=True, kw_only=True)
class RandomSplits(SplitRule):
    """Parts drawn at random from a pool of images, as the paper does for EuroSAT, Caltech101 and Caltech256.

    The test part is drawn first, then the validation part out of what is left; the rest is trained on. The draw rests
    on the seed and on the number of images in the pool (``per_class``: of each class, in label order), not on the
    images; ``digest`` pins it and can be computed from those numbers with :func:`split_digest`.

    Attributes:
        pool: keys of the source's ``splits`` whose images are drawn from, one after another.
        per_class: draw the same share or number of every class, by positions within the class in the order of the pool.
        validation: share (a float, of what the test part leaves, rounded down) or number (an int).
        test: share (a float, rounded up, which gives the paper's sizes) or number (an int).
        seed: seed of the draw.
        digest: SHA-256 of the three lists of positions, in hexadecimal; None: not pinned.
        train_on: see :class:`SplitRule`.
    """

    pool: Sequence[str]
    per_class: bool
    validation: float
    test: float
    seed: int
    digest: str | None

    def __post_init__(self) -> None:
        check_choice(self, "train_on", ("full", "without_validation"))
        self._check_keys("pool")
        check_flag(self, "per_class")
        check_amount(self, "validation", "test")
        check_whole(self, "seed", least=0)
        if self.digest is not None and (not isinstance(self.digest, str) or len(self.digest) != 64):
            raise ValueError(f"RandomSplits.digest = {self.digest!r}; valid: 64 hexadecimal digits, or null")

    @property
    def has_validation(self) -> bool:
        """Always true: a validation part is drawn."""
        return True

    @property
    def draws_validation(self) -> bool:
        """Always true: the validation part is drawn from what is not tested on."""
        return True

    def keys(self, part: Part) -> tuple[str, ...]:
        """Return the keys of the pool, for every part."""
        return tuple(self.pool)

    def needs(self, part: Part) -> Needs:
        """Return what a draw rests on."""
        return "labels" if self.per_class else "count"

    def positions(
        self, part: Part, *, count: int | None = None, labels: Int64[Tensor, " n"] | None = None
    ) -> Int64[Tensor, " k"] | None:
        """Return the positions of a part; see :class:`SplitRule`."""
        if self.per_class:
            assert labels is not None
            groups = [(labels == label).nonzero().flatten() for label in range(int(labels.max()) + 1)]
        else:
            assert count is not None
            groups = [torch.arange(count)]
        counts = [len(group) for group in groups]
        found = split_digest(self, counts)
        if self.digest is not None and found != self.digest:
            raise DataError(
                f"the random split is {found}, but splits.digest pins {self.digest}: the source holds {sum(counts)} "
                f"images{f' ({counts} per class)' if self.per_class and len(counts) <= 12 else ''} and not those the "
                "split was pinned for; use the same images, or set splits.digest=null for a split of your own"
            )
        draws = [self._draw(group, len(positions)) for group, positions in enumerate(groups)]
        parts: tuple[Part, ...] = ("train", "validation") if part == "train" and self.train_on == "full" else (part,)
        chosen = [positions[draw[one]] for positions, draw in zip(groups, draws, strict=True) for one in parts]
        return torch.cat(chosen).sort().values

    def _draw(self, group: int, count: int) -> dict[Part, Int64[Tensor, " k"]]:
        test = amount(self.test, count, up=True)
        validation = amount(self.validation, count - test)
        if test < 1 or validation < 1 or test + validation >= count:
            raise DataError(
                f"{f'class {group} has' if self.per_class else 'the pool has'} {count} images; test: {self.test!r} and "
                f"validation: {self.validation!r} leave {test} to test, {validation} to validate and "
                f"{count - test - validation} to train on: every part needs one"
            )
        order = torch.randperm(count, generator=generator_for(self.seed, "split", group))
        parts = {
            "test": order[:test],
            "validation": order[test : test + validation],
            "train": order[test + validation :],
        }
        return {part: parts[part].sort().values for part in PARTS}


def split_digest(rule: RandomSplits, counts: Sequence[int]) -> str:
    """Return the digest of a random split, from numbers of images alone.

    It is the SHA-256 of the JSON list with one entry a group (a class, or the whole pool), each the ascending positions
    of train, validation and test within the group. It rests on ``seed``, ``validation``, ``test`` and ``counts`` only.

    Args:
        rule: the rule; its own ``digest`` and ``train_on`` do not matter.
        counts: images of each class in label order where ``rule.per_class``, else one entry: images in the pool.

    Raises:
        ValueError: for several counts although the rule does not draw per class.
        DataError: if there are too few images.
    """
    if not rule.per_class and len(counts) != 1:
        raise ValueError(f"split_digest: {len(counts)} counts for a pool that is not drawn per class; give their sum")
    draws = [rule._draw(group, count) for group, count in enumerate(counts)]
    lists = [[draw[part].tolist() for part in PARTS] for draw in draws]
    return hashlib.sha256(json.dumps(lists, separators=(",", ":")).encode()).hexdigest()
