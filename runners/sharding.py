"""Sharing the frozen weights of a model out among processes while it trains: torch's fully sharded data parallelism.

Trained tensors are left whole on each process, and so are buffers, among them the bases of adapters. So saved adapters,
checkpoints and the exchange of gradients know nothing of the shards.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from randlora.adapter import AdapterMethod, Method
from randlora.backbones.base import Backbone
from randlora.inject import Adaptation, owner_of
from runners.processes import Processes


def check_sharding(method: Method, processes: Processes, *, backbone: Backbone) -> None:
    """Raise ValueError where there are no frozen weights to share out, or nobody to share them with."""
    if processes.alone:
        raise ValueError(
            "machine.shard=model shares the weights out among processes and there is one; start several with "
            "torchrun --nproc-per-node N -m runners.cli run …, or take machine.shard=none"
        )
    if not isinstance(method, AdapterMethod) and method.trains_backbone:
        raise ValueError(
            f"machine.shard=model shares frozen weights out; {type(method).__name__} trains weights of the model or "
            "changes its modules, so take machine.shard=none"
        )
    if getattr(backbone, "quantize", None) is not None:
        raise ValueError(
            f"machine.shard=model shares floating-point weights out, and those of backbone {backbone.name} are "
            "quantised; take one of the two"
        )


def shard(adaptation: Adaptation) -> None:
    """Share the frozen weights out, block by block: each is gathered for its own passes and let go after them."""
    from torch.distributed.fsdp import fully_shard

    trained = set(adaptation.trainable().values())
    for block in _blocks(adaptation.model):
        fully_shard(block, ignored_params=trained)
    fully_shard(adaptation.model, ignored_params=trained)


def gather(adaptation: Adaptation) -> None:
    """Give every process all weights again, for good."""
    from torch.distributed.fsdp import FSDPModule

    for module in adaptation.model.modules():
        if isinstance(module, FSDPModule):
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()


def merge_gathered(adaptation: Adaptation) -> nn.Module:
    """Merge after :func:`gather`, and free the base weights, which FSDP would keep beside the merged ones."""
    bases = [_base(adaptation.model, site.name) for site in adaptation.sites]
    merged = adaptation.merge()
    for base in bases:
        base.untyped_storage().resize_(0)
    return merged


def _base(model: nn.Module, name: str) -> Tensor:
    owner, tensor = owner_of(model, name)
    return owner.get_submodule(f"parametrizations.{tensor}").get_parameter("original")


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the members of the outermost lists of modules, which transformers keep their blocks in."""
    for child in model.children():
        if isinstance(child, nn.ModuleList | nn.Sequential) and not isinstance(child, ParametrizationList):
            yield from child
        else:
            yield from _blocks(child)
