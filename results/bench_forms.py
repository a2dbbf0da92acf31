"""Weight form, activation form and the choice between them, side by side over the cases of a benchmark."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from results.bench_record import Benchmark, CaseResult, Spread, SubjectResult, ratio, spread

FORMS = ("weight", "activation", "auto")


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """One single-layer case in its three forms.

    Attributes:
        case: the case.
        weight: the weight form.
        activation: the activation form.
        auto: the choice left to `auto`.
        better: the form with the smaller median.
        taken: the form that `auto` ran in, told by its operations; None where they are those of neither.
        cost: step time of `auto` relative to the better form, within rounds.
    """

    case: CaseResult
    weight: SubjectResult
    activation: SubjectResult
    auto: SubjectResult
    better: str
    taken: str | None
    cost: Spread


def crossings(benchmark: Benchmark) -> tuple[Crossing, ...]:
    """Return the single-layer cases that have one method in all three forms (the first such method)."""
    found = (_crossing(case) for case in benchmark.cases if case.layer is not None)
    return tuple(one for one in found if one is not None)


def switches(found: Sequence[Crossing]) -> tuple[str, ...]:
    """Return a sentence per layer: which form is faster, where that changes, and where `auto` changes its choice."""
    lines = []
    for layer in dict.fromkeys(one.case.layer for one in found):
        assert layer is not None
        own = sorted((one for one in found if one.case.layer == layer), key=lambda one: one.case.tokens or 0)
        faster = _runs([(one.case.tokens or 0, one.better) for one in own])
        taken = _runs([(one.case.tokens or 0, one.taken or "neither") for one in own])
        lines.append(f"{layer[0]} x {layer[1]}, by tokens: faster is {faster}; auto takes {taken}")
    return tuple(lines)


def largest_cost(found: Sequence[Crossing]) -> Crossing | None:
    """Return the case in which `auto` is slowest relative to the better form."""
    return max(found, key=lambda one: one.cost.median, default=None)


def _crossing(case: CaseResult) -> Crossing | None:
    families: dict[str, dict[str, SubjectResult]] = {}
    for subject in case.subjects:
        method = dict(subject.config["method"])
        form = method.pop("contraction", None)
        if form is not None and not subject.compiled:
            families.setdefault(json.dumps({**subject.config, "method": method}, sort_keys=True), {})[form] = subject
    for forms in families.values():
        if set(forms) == set(FORMS):
            weight, activation, auto = (forms[form] for form in FORMS)
            medians = {form: spread(forms[form].times_s).median for form in ("weight", "activation")}
            better = min(medians, key=lambda form: medians[form])
            same = [form for form in ("weight", "activation") if forms[form].flops == auto.flops]
            return Crossing(
                case=case,
                weight=weight,
                activation=activation,
                auto=auto,
                better=better,
                taken=same[0] if same else None,
                cost=ratio(auto, forms[better]),
            )
    return None


def _runs(found: Sequence[tuple[int, str]]) -> str:
    """Return which form holds over which numbers of tokens: `activation (32 to 512 tokens), weight (2,048)`."""
    parts = []
    for form, run in groupby(found, key=lambda one: one[1]):
        tokens = [each[0] for each in run]
        parts.append(f"{form} ({tokens[0]:,}" + (f" to {tokens[-1]:,})" if len(tokens) > 1 else ")"))
    return ", ".join(parts)
