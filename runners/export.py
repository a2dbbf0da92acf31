"""randlora export: write the adapter of a recorded run in the files of peft.

The run is given by its id or its folder, and needs the numbers that machine.keep_weights=true has kept. The folder
to= gets adapter_config.json and adapter_model.safetensors, which peft.PeftModel.from_pretrained(base, folder) reads.
Fused attention, a trained head and methods that peft does not have cannot be written; see docs/PEFT.md.

Examples:
  randlora export run=results/runs/0123456789abcdef to=adapters/pets
  randlora export run=0123456789abcdef to=adapters/pets records=results/runs
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from results.record import Record
from runners.compose import ConfigError, instantiate
from runners.formats import size_text
from runners.machine import ROOT
from runners.tables import store_of

CONFIG = "export"
ADAPTER, WRITTEN = "adapter.safetensors", "adapter_config.json"


def main(config: DictConfig) -> int:
    """Write the files and say in one line what they hold; return 0."""
    from randlora.peft_format import PeftFormatError, export_to_peft
    from randlora.storage import StorageError, load_adapter

    record, folder = _run(as_typed(config, "run"), config.records)
    target = Path(as_typed(config, "to")).expanduser()
    _check_target(target)
    try:
        adaptation, head = load_adapter(folder / ADAPTER, _model(record))
        done = export_to_peft(adaptation, target)
    except (PeftFormatError, StorageError) as error:
        raise ConfigError(f"run {record.id}: {error}") from error
    except OSError as error:
        raise ConfigError(f"to={target}: cannot write there: {error.strerror}") from error
    bases = f" and {done.bases:,} of frozen bases" if done.bases else ""
    left_out = f"; its trained head of {sum(map(_size, head.values())):,} numbers is not part of it" if head else ""
    print(
        f"{done.peft_type} of run {record.id} ({record.key.method}, {record.key.backbone}, {record.key.dataset}): "
        f"{done.sites} layers, {done.trained:,} trained numbers{bases}, {size_text(done.bytes)} in {target}{left_out}"
    )
    return 0


def _run(given: str, records: str) -> tuple[Record, Path]:
    """Return the record of a run, given by id or folder, and where its adapter is.

    Raises:
        ConfigError: if there is none, or it has left no adapter.
    """
    path = Path(given).expanduser()
    folder = next((one for one in (path, ROOT / path) if (one / "record.json").is_file()), None)
    if folder is None and ("/" in given or path.is_dir()):
        raise ConfigError(f"run={given}: there is no record.json in this folder")
    store = store_of(records if folder is None else folder.resolve().parent)
    record = store.read(given if folder is None else folder.resolve().name)
    if record is None:
        raise ConfigError(f"run={given}: {records} holds no record of this run")
    folder = store.folder(record.id)
    if record.status != "ok":
        raise ConfigError(f"run={given}: the run is {record.status}: {record.reason}")
    if record.parameters is not None and record.parameters.adapter == 0:
        raise ConfigError(f"run={given}: {record.key.method} has trained nothing in the backbone")
    if not (folder / ADAPTER).is_file():
        raise ConfigError(
            f"run={given}: {folder} holds no {ADAPTER}; remove its record.json and run it again with "
            "machine.keep_weights=true"
        )
    return record, folder


def _model(record: Record) -> Any:
    """Return the run's backbone with its weights, on the CPU."""
    import torch

    from randlora.seeds import seed_for

    backbone = instantiate(_config(record))["backbone"]
    seed = seed_for(record.key.seed, "weights")
    return backbone.build(root=ROOT, device=torch.device("cpu"), seed=seed)


def _config(record: Record) -> DictConfig:
    return OmegaConf.create({"backbone": dict(record.config["backbone"])})


def _check_target(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise ConfigError(f"to={target}: there is a file of this name; give a folder")
    if (target / WRITTEN).exists():
        raise ConfigError(f"to={target}: it holds an adapter already ({WRITTEN}); give another folder, or remove it")


def as_typed(config: DictConfig, name: str) -> str:
    """Return a value as it was typed: an id such as 1234567890123456 or 12e4567890123456 is no number."""
    for override in reversed(list(config.hydra.overrides.task)):
        key, _, value = str(override).partition("=")
        if key.lstrip("+") == name:
            return value.strip("'\"")
    return str(config[name])


def _size(tensor: Any) -> int:
    return int(tensor.numel())
