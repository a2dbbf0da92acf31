"""The processes that carry out one run together, as torchrun or accelerate start them; usually one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from runners.interrupt import Interrupted

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.distributed import Store

PATIENCE = timedelta(minutes=30)  # for one exchange: others may be writing a checkpoint, or take a larger share
POLL_S = 0.1
BUCKET = 1 << 22  # numbers that are exchanged at a time; smaller tensors travel together
ENDED = "ended"


class Processes:
    """The processes of a run, seen from one of them.

    Everything that exchanges something is called by all of them in the same order, and does nothing where there is but
    one. Where another process ended, it raises Interrupted.

    Args:
        rank: the number of this process, from 0. Process 0 is the main one: it alone writes, shows and judges.
        count: how many there are.
        local_rank: its number on this computer.
    """

    def __init__(self, *, rank: int = 0, count: int = 1, local_rank: int = 0) -> None:
        self.rank, self.count, self.local_rank = rank, count, local_rank
        self._store: Store | None = None
        self._turns = 0

    @classmethod
    def launched(cls) -> Processes:
        """Return the processes that a launcher started, as its environment variables tell."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        if not all(os.environ.get(name, "").isdigit() for name in names):
            return cls()
        rank, count, local_rank = (int(os.environ[name]) for name in names)
        return cls(rank=rank, count=count, local_rank=local_rank) if count > 1 else cls()

    @property
    def main(self) -> bool:
        """Whether this is the main process."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other, or no other any more."""
        return self.count == 1

    def check_devices(self, device: torch.device) -> None:
        """Raise ValueError where this computer has fewer GPUs than processes."""
        import torch

        here, found = int(os.environ.get("LOCAL_WORLD_SIZE", self.local_rank + 1)), torch.cuda.device_count()
        if not self.alone and device.type == "cuda" and here > found:
            raise ValueError(
                f"{here} processes were started on a computer with {found} GPUs; start as many as there are GPUs "
                "(--nproc-per-node), or take machine.device=cpu"
            )

    def connect(self, device: torch.device) -> None:
        """Meet the others."""
        if self.alone:
            return
        import torch
        from torch import distributed

        accelerated = device.type == "cuda"
        if accelerated:
            torch.cuda.set_device(self.local_rank)
        with _exchange():
            store, _, _ = next(iter(distributed.rendezvous("env://", timeout=PATIENCE)))
            self._store = distributed.PrefixStore("randlora", store)
            distributed.init_process_group(
                "cpu:gloo,cuda:nccl" if accelerated else "gloo",
                store=distributed.PrefixStore("group", store),
                rank=self.rank,
                world_size=self.count,
                timeout=PATIENCE,
            )

    def part(self) -> None:
        """Part from the others, at the end of what is done together; the main process goes on alone."""
        if self.alone:
            return
        from torch import distributed

        with _exchange():
            self.wait()
            distributed.destroy_process_group()
        self.count = 1

    def lost(self, error: Exception) -> bool:
        """Return whether an error only says that another process is gone, as passes of a sharded model may meet."""
        if self.alone:
            return False
        from torch.distributed import DistError

        return isinstance(error, DistError) or "gloo/transport" in str(error)

    def claim_end(self) -> bool:
        """Return whether this process is the first of those that end before they part, and so has the reason to tell.

        What others meet after it are mere consequences.
        """
        if self.alone or self._store is None:
            return True
        with _exchange():
            return self._store.add(ENDED, 1) == 1

    @contextmanager
    def main_first(self, stop: Callable[[], bool]) -> Iterator[None]:
        """Let the main process go through the block before the others, which find what it prepared.

        Waiting has no limit but ``stop`` and the end of the main process.
        """
        if self.alone or self._store is None:
            yield
            return
        self._turns += 1
        turn = f"turn {self._turns}"
        if self.main:
            yield
            with _exchange():
                self._store.set(turn, "over")
            return
        with _exchange():
            while not self._store.check([turn]):
                if stop() or self._store.check([ENDED]):
                    raise Interrupted("stopped while the main process prepared the data; the same command continues")
                time.sleep(POLL_S)
        yield

    def wait(self) -> None:
        """Wait until all are here."""
        self.any(False)

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Return of each flag whether it is set in one of the processes."""
        if self.alone:
            return flags
        import torch
        from torch import distributed

        counts = torch.tensor([int(flag) for flag in flags])
        with _exchange():
            distributed.all_reduce(counts)
        return tuple(count > 0 for count in counts.tolist())

    def value_of_main(self, value: float) -> float:
        """Return the number that the main process gave."""
        if self.alone:
            return value
        import torch
        from torch import distributed

        shared = torch.tensor([value], dtype=torch.float64)
        with _exchange():
            distributed.broadcast(shared, src=0)
        return float(shared)

    def check_equal(self, what: Mapping[str, Any]) -> None:
        """Compare what must be the same everywhere; the values are compared as text.

        Raises:
            RuntimeError: naming the first that differs.
        """
        if self.alone:
            return
        from torch import distributed

        found: list[Any] = [None] * self.count
        with _exchange():
            distributed.all_gather_object(found, {name: str(value) for name, value in what.items()})
        for name in what:
            if len({each[name] for each in found}) > 1:
                raise RuntimeError(
                    f"the processes of this run do not have the same {name}; give all of them the same files and "
                    "results folder, and one kind of machine"
                )

    def start_equal(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give parameters the values of the main process."""
        if not self.alone:
            from torch import distributed

            with _exchange():
                for parameter in parameters:
                    distributed.broadcast(parameter.data, src=0)

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes."""
        if not self.alone:
            from torch import distributed

            with _exchange():
                distributed.all_reduce(tensor)
        return tensor

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add the gradients of all processes up; one that no process has stays None."""
        if self.alone:
            return
        import torch

        present = self.any(*(parameter.grad is not None for parameter in parameters))
        gradients = []
        for parameter, somewhere in zip(parameters, present, strict=True):
            if somewhere:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                gradients.append(parameter.grad)
        for bucket in _buckets(gradients):
            total = self.sum(torch.cat([gradient.reshape(-1) for gradient in bucket]))
            parts = total.split([gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))


ALONE = Processes()


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Yield tensors of one type together, as many as a bucket holds."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (size + tensor.numel() > BUCKET or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel()
    if bucket:
        yield bucket


@contextmanager
def _exchange() -> Iterator[None]:
    """Surround an exchange: where it fails another process has ended, and this one has no reason of its own to tell."""
    from torch import OutOfMemoryError

    try:
        yield
    except OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise Interrupted(
            f"stopped: another process of this run ended ({reason}); the same command continues"
        ) from error
