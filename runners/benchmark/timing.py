"""Times of steps taken in turns in one process."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping

LEAST_ROUNDS = 3


def interleave(
    steps: Mapping[str, Callable[[], None]],
    *,
    rounds: int,
    seconds: float,
    on_round: Callable[[int], None],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Take one step of each subject per round and return the seconds of each, by subject and round.

    The order is rotated by one every round, so that no subject always follows the same other. Whatever slows the
    machine down for a while slows all subjects of a round down; ratios are therefore taken within rounds.

    Args:
        steps: the step of each subject; returns when the step is done.
        rounds: the most rounds to take.
        seconds: no round starts later than this after the first one, but for the first three.
        on_round: called after each round with the number of rounds taken.
        clock: seconds that only grow.
    """
    labels = list(steps)
    times: dict[str, list[float]] = {label: [] for label in labels}
    began = clock()
    collecting = gc.isenabled()
    for done in range(rounds):
        if done >= LEAST_ROUNDS and clock() - began >= seconds:
            break
        turn = done % max(1, len(labels))
        gc.collect()
        gc.disable()
        try:
            for label in labels[turn:] + labels[:turn]:
                start = clock()
                steps[label]()
                times[label].append(clock() - start)
        finally:
            if collecting:
                gc.enable()
        on_round(done + 1)
    return times
