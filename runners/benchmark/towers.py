"""Image models, alone or with their text tower, as workloads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch
from torch import nn

from randlora.adapter import Targets
from randlora.backbones.base import ImageBackbone
from randlora.checks import check_flag, check_text, check_whole
from randlora.sites import find_sites
from runners.benchmark.cases import Case, Workload, generator, weigh
from runners.machine import ROOT

if TYPE_CHECKING:
    from torch import Tensor

LOGIT_SCALE = 100.0  # of a trained CLIP


@dataclass(frozen=True, kw_only=True)
class Towers(Workload):
    """A step of an image backbone.

    Attributes:
        backbone: the model; it starts at random, whatever weights it names.
        part: submodule that is built, adapted and run alone on images (``visual`` of a CLIP); None for all.
        text: run the text tower too, under CLIP's contrastive loss; otherwise a fixed gradient comes down on the image
            features.
        batch: images per step, and texts.
        sites: patterns of the adapted weights; None for the backbone's own.
        scope: globs of what full fine-tuning trains; None for the backbone's own.
    """

    backbone: ImageBackbone
    part: str | None
    text: bool
    batch: int
    sites: Sequence[str] | None
    scope: Sequence[str] | None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text(self, "part", optional=True)
        check_flag(self, "text")
        check_whole(self, "batch")
        if not isinstance(self.backbone, ImageBackbone):
            raise ValueError(f"Towers: backbone {self.backbone.name} takes no images")
        if self.text and not self.backbone.has_text:
            raise ValueError(f"Towers: backbone {self.backbone.name} has no text tower; set text to false")
        if self.part is not None and self.text:
            raise ValueError(f"Towers: part = {self.part!r} runs on images alone; set text to false, or part to null")

    def cases(self) -> Sequence[Case]:
        """Return the one case."""
        return (TowersCase(name=f"batch {self.batch}", precision=self.precision, workload=self),)


@dataclass(frozen=True, kw_only=True)
class TowersCase(Case):
    """The case of a :class:`Towers` workload."""

    workload: Towers

    def build(self, *, device: torch.device, seed: int) -> nn.Module:
        """Return the backbone or its part."""
        whole = self.workload.backbone.with_random_weights().build(root=ROOT, device=torch.device("cpu"), seed=seed)
        return self._part(whole).to(device=device, dtype=self.dtype)

    def targets(self, model: nn.Module) -> Targets:
        """Return the sites and scope of the backbone, or those of the workload."""
        work = self.workload
        name = work.backbone.name if work.part is None else f"{work.part} of {work.backbone.name}"
        sites = find_sites(model, tuple(work.sites or work.backbone.targets), model_name=name)
        scope = tuple(work.scope or work.backbone.scope)
        parameters = {
            name: parameter.numel()
            for name, parameter in model.named_parameters()
            if any(fnmatchcase(name, pattern) for pattern in scope)
        }
        return Targets(sites=sites, parameters=parameters)

    def inputs(self, model: nn.Module, *, device: torch.device, seed: int) -> Mapping[str, Tensor]:
        """Return images, and texts or the gradient of the features."""
        work, source = self.workload, generator(seed)
        size = work.backbone.image_size(work.backbone.skeleton())
        images = torch.randn(work.batch, 3, size, size, generator=source).to(device=device, dtype=self.dtype)
        if work.text:
            tokens = work.backbone.tokenize([f"a photo of thing {number}" for number in range(work.batch)])
            return {"images": images, "tokens": tokens.to(device)}
        with torch.no_grad():
            features = self._features(model, images[:1])
        direction = torch.randn(work.batch, features.shape[1], generator=source) / work.batch
        return {"images": images, "direction": direction.to(device=device, dtype=self.dtype)}

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the contrastive loss with texts, the weighed features without."""
        features = self._features(model, inputs["images"])
        if not self.workload.text:
            return weigh(features, inputs["direction"])
        texts = self.workload.backbone.text_features(model, inputs["tokens"])
        logits = LOGIT_SCALE * features @ texts.T
        labels = torch.arange(len(logits), device=logits.device)
        cross_entropy = nn.functional.cross_entropy
        return (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2

    def _part(self, whole: nn.Module) -> nn.Module:
        part = self.workload.part
        if part is None:
            return whole
        try:
            return whole.get_submodule(part)
        except AttributeError as error:
            known = ", ".join(name for name, _ in whole.named_children())
            raise ValueError(
                f"backbone {self.workload.backbone.name} has no part {part!r}; its parts are: {known}"
            ) from error

    def _features(self, model: nn.Module, images: Tensor) -> Tensor:
        if self.workload.part is None:
            return self.workload.backbone.image_features(model, images)
        return model(images)
