"""A CLIP small enough to audit every method on it, and what an audit must leave alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from configs import build
from torch import nn

from randlora.adapter import AdapterMethod, Method, Targets
from randlora.audit.contract import audit
from randlora.audit.findings import Finding
from randlora.backbones.clip import OpenClip
from randlora.backbones.torchvision_guard import import_torchvision
from randlora.inject import fingerprint

CHECKS = [
    "count_as_predicted",
    "grown_from_seed",
    "bases_kept_once",
    "starts_at_base",
    "trainable_move",
    "frozen_unchanged",
    "evaluation_changes_nothing",
    "forms_agree",
    "gradients_exact",
    "update_rank",
    "saves_trained_only",
    "reloads_bitwise",
    "merged_as_adapted",
    "merge_leaves_nothing",
    "model_restored",
]


class SmallClip(OpenClip):
    """A CLIP of open_clip's own class with one block of width 32 and one of width 16."""

    def _architecture(self) -> nn.Module:
        import_torchvision()
        import open_clip.model

        vision = {"image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16}
        text = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
        return open_clip.model.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text)


def small_clip() -> SmallClip:
    return SmallClip(**vars(build("backbone", "micro_clip")) | {"name": "small_clip", "checkpoint": None})


def small_model() -> nn.Module:
    return small_clip().build(root=Path(), device=torch.device("cpu"), seed=2)


def look(method: Method, model: nn.Module | None = None, **settings: Any) -> dict[str, Finding]:
    """Audit a method on the sites it can adapt of a small CLIP, a fresh one where none is given."""
    clip, model = small_clip(), small_model() if model is None else model
    probe = clip.probe(model, batch=2, generator=torch.Generator().manual_seed(0))
    targets = adaptable(method, clip.targets_of(model))
    return {one.name: one for one in audit(model, method, targets, probe=probe, **settings)}


def adaptable(method: Method, targets: Targets) -> Targets:
    """Return the sites a method can adapt: other libraries wrap linear layers and cannot take fused attention."""
    if isinstance(method, AdapterMethod) or not method.adds_parameters:
        return targets
    return dataclasses.replace(targets, sites=tuple(site for site in targets.sites if site.linear))


def state_of(model: nn.Module) -> list[Any]:
    """Everything about a model and the process that an audit must leave alone, order of parameters included."""
    return [
        list(fingerprint(model.named_parameters()).items()),
        list(fingerprint(model.named_buffers()).items()),
        [(name, id(parameter), parameter.requires_grad) for name, parameter in model.named_parameters()],
        [
            None if parameter.grad is None else fingerprint(iter([("", parameter.grad)]))
            for parameter in model.parameters()
        ],
        [(name, type(module), module.training) for name, module in model.named_modules()],
        torch.get_rng_state().tolist(),
    ]
