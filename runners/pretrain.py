"""randlora pretrain: train the embedded CLIP from nothing on named images.

The images are two or more labelled data sets that you have as parquet files (CIFAR-100 and Caltech-101 by default);
every image is contrasted with the prompts of all classes. The result is a float16 safetensors file and its
measurements.

Examples:
  randlora pretrain machine.data_root=/path/to/images
      where /path/to/images holds {cifar100,caltech101}/{train,test}.parquet
  randlora pretrain machine.data_root=/path/to/images recipe.epochs=30 machine.precision=bfloat16

Interrupt it whenever you like: the same command continues where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from results.files import write_atomically, write_text
from runners.compose import ConfigError, check_seed, instantiate, plain
from runners.machine import ROOT, Machine

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from randlora.backbones.base import ImageBackbone
    from randlora.data.cache import DecodedCache
    from randlora.data.images import ImageDataset
    from randlora.data.mix import TrainingMix
    from randlora.tasks.base import Objective
    from runners.checkpoint import Checkpointer

CONFIG = "pretrain"


def main(config: DictConfig) -> int:
    """Train, write the weights and print the measured zero-shot accuracies; return 0, or 1 if training diverged."""
    from randlora.data.cache import DecodedCache
    from randlora.data.mix import mix_training_splits
    from randlora.seeds import seed_for
    from randlora.tasks.base import Vocabulary
    from runners.trainer import DivergenceError

    check_seed(config)
    settings = instantiate(config)
    if not settings["train"] or not config.templates:
        raise ConfigError("pre-training needs at least one data set under train, and at least one of templates")
    machine, backbone, recipe = settings["machine"], settings["backbone"], settings["recipe"]
    accelerator = machine.prepare()
    model = backbone.build(root=ROOT, device=accelerator.device, seed=seed_for(config.seed, "weights"))
    cache = DecodedCache()
    size = backbone.image_size(model)
    mix = mix_training_splits(settings["train"], size=size, root=machine.data_path, cache=cache)
    for dataset in settings["test"].values():  # what is missing is found now and not after the training
        cache.get(dataset, part="test", size=size, root=machine.data_path)
    templates = tuple(config.templates)
    vocabulary = Vocabulary(classes=mix.classes, prompt=templates[0], templates=templates)
    objective = recipe.task.build(backbone=backbone, model=model, vocabulary=vocabulary, seed=config.seed)
    try:
        seconds = _train(config, settings, objective, mix=mix, accelerator=accelerator)
    except DivergenceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    output = ROOT / config.output
    _write_weights(model, output)
    shipped = dataclasses.replace(backbone, checkpoint=str(output))
    scores = {
        dataset.name: zero_shot(shipped, dataset, templates=templates, machine=machine, cache=cache)
        for dataset in settings["test"].values()
    }
    report = {
        "zero_shot_top1": scores,
        "train_seconds": round(seconds, 1),
        "device": str(accelerator.device),
        "precision": machine.training_precision(),
        "bytes": output.stat().st_size,
        "sha256": shipped.weights_digest(root=ROOT),
        **_origin(config, model, mix),
    }
    write_text(output.with_suffix(".json"), json.dumps(report, indent=2) + "\n")
    _checkpointer(config, machine).clear()
    print("\n".join([f"weights: {output}", *(f"zero-shot top-1 on {k}: {100 * v:.1f} %" for k, v in scores.items())]))
    return 0


def zero_shot(
    backbone: ImageBackbone, dataset: ImageDataset, *, templates: Sequence[str], machine: Machine, cache: DecodedCache
) -> float:
    """Return the top-1 accuracy of a backbone's weights on the test split of a data set, from the templates alone."""
    from randlora.tasks.base import Vocabulary
    from randlora.tasks.heads import FrozenTextHead
    from runners.evaluate import predict

    device = machine.torch_device()
    model = backbone.build(root=ROOT, device=device)
    vocabulary = Vocabulary(classes=dataset.classes, prompt=templates[0], templates=templates)
    objective = FrozenTextHead(label_smoothing=0.0).build(backbone=backbone, model=model, vocabulary=vocabulary, seed=0)
    split = cache.get(dataset, part="test", size=backbone.image_size(model), root=machine.data_path)
    mean, std = backbone.image_statistics(model)
    found = predict(objective, split, mean=mean, std=std, batch_size=machine.evaluation_batch_size, device=device)
    return found.top1()


def _train(
    config: DictConfig, settings: Mapping[str, Any], objective: Objective, *, mix: TrainingMix, accelerator: Accelerator
) -> float:
    import torch

    from randlora.data.feed import Look, StoredFeed
    from runners.feeding import MIB
    from runners.interrupt import stop_on_signals
    from runners.progress import run_progress
    from runners.trainer import train

    machine, backbone, model = settings["machine"], settings["backbone"], objective.model
    adaptation = settings["method"].apply(model, backbone.targets_of(model), seed=config.seed)
    mean, std = backbone.image_statistics(model)
    recipe = settings["recipe"]
    feed = StoredFeed(
        mix.images,
        torch.arange(len(mix.labels)),
        mix.labels,
        look=Look(augmentation=recipe.augmentation, mean=mean, std=std),
        device=accelerator.device,
        resident_bytes=machine.resident_mib * MIB,
    )
    with stop_on_signals() as stop, run_progress("pretrain") as shown:
        trained = train(
            objective,
            backbone=adaptation.trainable(),
            recipe=recipe,
            feed=feed,
            accelerator=accelerator,
            seed=config.seed,
            checkpointer=_checkpointer(config, machine),
            on_step=shown.on_step,
            stop=stop,
        )
    return sum(trained.clock.steps_s)


def _origin(config: DictConfig, model: nn.Module, mix: TrainingMix) -> dict[str, Any]:
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "images": len(mix.labels),
        "classes": len(mix.classes),
        "data_digests": dict(mix.digests),
        "templates": list(config.templates),
        "recipe": plain(config.recipe),
        "seed": config.seed,
    }


def _checkpointer(config: DictConfig, machine: Machine) -> Checkpointer:
    from results.record import run_id
    from runners.checkpoint import Checkpointer

    identity = {name: plain(config[name]) for name in ("backbone", "recipe", "train", "templates", "seed")}
    return Checkpointer(
        (ROOT / config.output).with_suffix(".checkpoint"),
        run=run_id(identity),
        every_s=machine.checkpoint_every_s,
        every_steps=machine.checkpoint_every_steps,
    )


def _write_weights(model: nn.Module, output: Path) -> None:
    from safetensors.torch import save

    halves = {name: tensor.detach().cpu().half().contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(output, lambda path: _fill(path, save(halves)))


def _fill(path: Path, blob: bytes) -> None:
    path.write_bytes(blob)
