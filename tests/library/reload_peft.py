"""Run by ``test_peft_bridge`` in a process of its own: reload every saved adapter and print its outputs as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from tiny_models import Tiny, inputs

from randlora.storage import load_adapter


def main(folder: Path) -> None:
    torch.manual_seed(987654321)
    base = torch.load(folder / "base.pt", weights_only=True)
    expected = torch.load(folder / "outputs.pt", weights_only=True)
    same = {}
    for file in sorted(folder.glob("*.safetensors")):
        model = Tiny().eval()
        model.load_state_dict(base)
        adaptation, _ = load_adapter(file, model)
        with torch.no_grad():
            same[file.stem] = torch.equal(adaptation.model(inputs()), expected[file.stem])
    print(json.dumps(same))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
