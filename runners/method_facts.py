"""The facts about methods that need no training, for docs/METHODS.md: counts, and ranks of updates; as CSV and PNG.

Parameters are counted on whole backbones, built without weights. Ranks are measured: of the change that an adapter with
random trained numbers makes in one weight, the largest of the first backbone, in float64. A class of methods is shown
by the file of its name in conf/method.

Example:
  python -m runners.method_facts clip_vit_b32 llama3_8b
"""

from __future__ import annotations

import csv
import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from runners.compose import CONF, ConfigError, compose, instantiate
from runners.machine import ROOT

if TYPE_CHECKING:
    from randlora.adapter import AdapterMethod, Method, Site, Targets

FOLDER = ROOT / "docs" / "figures"
LARGEST = 4096
COUNTS, RANKS = "method_parameters", "method_ranks"


def main(arguments: Sequence[str]) -> int:
    """Compute and draw; return 0, or 2 where the arguments name no backbone."""
    from results.method_plots import draw_parameters, draw_ranks
    from runners.plan import skeleton_targets

    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    methods = representatives(methods_by_file())
    try:
        targets = {name: skeleton_targets(backbone_of(name)) for name in arguments}
    except (ConfigError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    FOLDER.mkdir(parents=True, exist_ok=True)
    counts = [row for name in targets for row in count_rows(name, methods, targets[name])]
    write(FOLDER / f"{COUNTS}.csv", counts)
    draw_parameters(FOLDER / f"{COUNTS}.csv", FOLDER / f"{COUNTS}.png")
    write(FOLDER / f"{RANKS}.csv", rank_rows(methods, largest_site(targets[arguments[0]])))
    draw_ranks(FOLDER / f"{RANKS}.csv", FOLDER / f"{RANKS}.png")
    for name in (COUNTS, RANKS):
        for suffix in ("csv", "png"):
            print((FOLDER / f"{name}.{suffix}").relative_to(ROOT))
    return 0


def backbone_of(name: str) -> Any:
    """Return a backbone by the name of its file; raises ConfigError with the valid names."""
    return instantiate(compose("budget", [f"backbone={name}"]))["backbone"]


def methods_by_file() -> dict[str, Method]:
    """Return every method of the suite as its file states it, those left out that ask for a value."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        nodes = {path.stem: hydra.compose(f"method/{path.stem}").method for path in (CONF / "method").glob("*.yaml")}
        return {
            name: hydra.utils.instantiate(node, _convert_="all")
            for name, node in sorted(nodes.items())
            if not OmegaConf.missing_keys(node)
        }


def representatives(methods: Mapping[str, Method]) -> dict[str, Method]:
    """Return one method per class: the file named as the class, or its first.

    Methods that train nothing are left out, and those whose layers are another library's, which are many in one.
    """
    from randlora.adapter import AdapterMethod

    groups: dict[str, dict[str, Method]] = {}
    for name, method in methods.items():
        if method.trains_backbone and (isinstance(method, AdapterMethod) or not method.adds_parameters):
            groups.setdefault(type(method).__name__, {})[name] = method
    return {cls: group.get(cls.lower(), next(iter(group.values()))) for cls, group in groups.items()}


def count_rows(backbone: str, methods: Mapping[str, Method], targets: Targets) -> Iterator[dict[str, Any]]:
    """Yield the number of trainable parameters of every method at every size that doubles."""
    for name, method in methods.items():
        for size in sizes(method, method.largest_size(targets) if method.size_field else 0):
            sized = method if size is None else method.resized(size)
            yield {
                "backbone": backbone,
                "method": name,
                "size_field": method.size_field or "",
                "size": size or "",
                "parameters": sized.count(targets),
            }


def rank_rows(methods: Mapping[str, Method], site: Site) -> Iterator[dict[str, Any]]:
    """Yield parameters and rank of the change of one weight, for every method and size: measured for adapters."""
    from randlora.adapter import AdapterMethod, Targets

    alone = Targets(sites=(site,), parameters={site.name: site.out_features * site.in_features})
    for name, method in methods.items():
        for size in sizes(method, site.short, divide=site.short):
            sized = method if size is None else method.resized(size)
            yield {
                "out_features": site.out_features,
                "in_features": site.in_features,
                "method": name,
                "size_field": method.size_field or "",
                "size": size or "",
                "parameters": sized.count(alone),
                "rank": measured_rank(sized, site) if isinstance(sized, AdapterMethod) else site.short,
            }


def measured_rank(method: AdapterMethod, site: Site) -> int:
    """Return the rank of the change that random trained numbers make in a random weight."""
    import torch

    generator = torch.Generator().manual_seed(1)
    site = dataclasses.replace(site, transposed=False)
    weight = torch.randn(site.out_features, site.in_features, generator=generator, dtype=torch.float64)
    adapter = method.adapt(site, method.shared([site], 1), generator).double()
    with torch.no_grad():
        adapter.start_from(weight)
        for parameter in adapter.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        change = adapter.adapted(weight) - weight
        # the weight's own rounding is in the difference
        scale = float(torch.linalg.matrix_norm(weight, 2) + torch.linalg.matrix_norm(change, 2))
        return int(torch.linalg.matrix_rank(change, atol=scale * site.long * torch.finfo(torch.float64).eps))


def largest_site(targets: Targets) -> Site:
    """Return the site with the longest short side, and of these the longest."""
    return max(targets.sites, key=lambda site: (site.short, site.long, site.out_features))


def sizes(method: Method, largest: int, *, divide: int = 0) -> list[int | None]:
    """Return 1, 2, 4 and so on up to the largest size, and that itself; nothing to choose where there is no size.

    Sizes that do not divide ``divide`` are left out: a last basis of fewer columns is a matter of rules.
    """
    if method.size_field is None:
        return [None]
    largest = min(largest, LARGEST)
    doubled = (2**power for power in range(largest.bit_length()))
    return [*(size for size in doubled if size < largest and divide % size == 0), largest]


def write(path: Path, rows: Iterator[dict[str, Any]] | Sequence[dict[str, Any]]) -> None:
    """Write rows of one shape as CSV."""
    listed = list(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(listed[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(listed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
