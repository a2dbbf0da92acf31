"""Where a run happens: device, precision, threads and folders. None of it is part of a run's identity."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from randlora.checks import check_choice, check_flag, check_positive, check_whole, is_number
from randlora.execution import Execution

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = ROOT / "experiments"
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "bfloat16"]
Shard = Literal["none", "model"]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine's side of a run.

    Attributes:
        device: ``auto`` takes a GPU where there is one.
        precision: of training; ``auto`` is bfloat16 autocast on a GPU that supports it and float32 elsewhere.
            Evaluation is float32.
        threads: CPU threads; None leaves torch's choice. Results are bitwise repeatable for equal numbers of threads.
        evaluation_batch_size: images that the evaluation has on the device at a time (see :mod:`runners.evaluate`).
        answering_batch_size: questions that a language model answers at a time; each takes the memory of as many texts
            as there are beams.
        workers: processes that decode training images for ``recipe.pixels=original``; 0 decodes between the steps.
        resident_mib: training images up to this size are kept on the device; larger sets are read batch by batch.
        keep_backbone_mib: between the runs of a sweep, a backbone up to this size stays in the computer's memory, and
            the next run on it starts from a copy; 0 loads it for each run.
        execution: how adapters trade time for memory (see :class:`randlora.execution.Execution`).
        recompute_blocks: keep only the inputs of transformer blocks for the backward pass and run each block again:
            less memory, more time, the same bits.
        shard: ``model`` shares the frozen weights out among the processes of a run while it trains (FSDP); adapters and
            bases stay whole on each. Loading and judging still take the whole model, the latter on one of them.
        audit: check the contract of each method on the run's own model before it trains, once per process; a run whose
            method breaks it fails.
        checkpoint_every_s: seconds between mid-run checkpoints.
        checkpoint_every_steps: steps between them as well; None for time alone.
        keep_weights: leave the trained tensors of each run beside its record.
        results: folder of this machine's records, from the suite's root.
        data_root: folder that relative paths of data sets start from; None is the suite's root.
        prepared_root: folder of decoded images (see :mod:`randlora.data.prepared`), from the suite's root.
    """

    device: Device
    precision: Precision
    threads: int | None
    evaluation_batch_size: int
    answering_batch_size: int
    workers: int
    resident_mib: float
    keep_backbone_mib: float
    execution: Execution
    recompute_blocks: bool
    shard: Shard
    audit: bool
    checkpoint_every_s: float
    checkpoint_every_steps: int | None
    keep_weights: bool
    results: str
    data_root: str | None
    prepared_root: str

    def __post_init__(self) -> None:
        check_choice(self, "device", ("auto", "cpu", "cuda"))
        check_choice(self, "precision", ("auto", "float32", "bfloat16"))
        check_choice(self, "shard", ("none", "model"))
        check_whole(self, "evaluation_batch_size", "answering_batch_size")
        check_whole(self, "workers", least=0)
        for name in ("resident_mib", "keep_backbone_mib"):
            size = getattr(self, name)
            if not is_number(size) or size < 0:
                raise ValueError(f"Machine.{name} = {size!r}; valid: a number of 0 or more")
        check_flag(self, "recompute_blocks", "audit")
        check_positive(self, "checkpoint_every_s")
        for name in ("threads", "checkpoint_every_steps"):
            if getattr(self, name) is not None:
                check_whole(self, name)

    @property
    def results_path(self) -> Path:
        """Folder of this machine's records."""
        return ROOT / Path(self.results).expanduser()

    @property
    def data_path(self) -> Path:
        """Folder that relative paths of data sets start from."""
        return Path(self.data_root).expanduser() if self.data_root is not None else ROOT

    @property
    def prepared_path(self) -> Path:
        """Folder of decoded images."""
        return ROOT / Path(self.prepared_root).expanduser()

    def torch_device(self) -> torch.device:
        """Return the device.

        Raises:
            ValueError: if ``cuda`` is asked for and there is none.
        """
        import torch

        available = torch.cuda.is_available()
        if self.device == "cuda" and not available:
            raise ValueError("machine.device=cuda, but torch sees no CUDA device; use machine.device=cpu or auto")
        return torch.device("cuda" if available and self.device != "cpu" else "cpu")

    def training_precision(self) -> Literal["float32", "bfloat16"]:
        """Return the precision that ``auto`` stands for here."""
        import torch

        if self.precision != "auto":
            return self.precision
        capable = self.torch_device().type == "cuda" and torch.cuda.is_bf16_supported()
        return "bfloat16" if capable else "float32"

    def prepare(self) -> Accelerator:
        """Set threads and determinism for this process and return its accelerator."""
        import torch
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        # read when the first matrix product runs on a GPU; without it cuBLAS may sum in another order
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
        mixed = "bf16" if self.training_precision() == "bfloat16" else "no"
        if AcceleratorState._shared_state:
            # accelerate keeps the first settings of a process; runs of one process may differ
            AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = Accelerator(mixed_precision=mixed, cpu=self.torch_device().type == "cpu")
        if self.threads is not None:
            # after accelerate, which sets its own where there are several processes
            torch.set_num_threads(self.threads)
        return accelerator
