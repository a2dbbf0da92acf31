"""Three linear layers adapted by peft, forward and backward, with bases shared and sliced over the layers."""

from __future__ import annotations

import pytest
import torch
from published import assert_close, case_names, inject_with, method_for, paired, read
from torch import Tensor, nn

from randlora.adapter import AdapterMethod
from randlora.sites import find_sites

LAYERS = ("up", "down", "sq")


class Layers(nn.Module):
    def __init__(self, data: dict[str, Tensor]) -> None:
        super().__init__()
        for name in LAYERS:
            rows, columns = data[f"base/{name}.weight"].shape
            layer = nn.Linear(columns, rows).double()
            layer.load_state_dict({part: data[f"base/{name}.{part}"] for part in ("weight", "bias")})
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.sq(self.down(torch.tanh(self.up(x))))


def peft_name(case: str, ours: str) -> tuple[str, bool]:
    """Return peft's name of a trained tensor and whether it is stored transposed."""
    return {
        ("randlora", "lambdas"): ("randlora_lambda", True),
        ("randlora", "gammas"): ("randlora_gamma", False),
        ("vera", "b"): ("vera_lambda_b", False),
        ("vera", "d"): ("vera_lambda_d", False),
        ("lora", "a"): ("lora_A.weight", False),
        ("lora", "b"): ("lora_B.weight", False),
    }[case, ours]


def setting(case: str, data: dict[str, Tensor], *, contraction: str) -> tuple[AdapterMethod, dict[str, Tensor]]:
    match case:
        case "randlora":
            b, a = data["buffer/up.randlora_B.default"], data["buffer/up.randlora_A.default"]
            n = data["param/up.randlora_gamma"].shape[0]
            bases = {"long": paired(b.transpose(0, 1), n), "short": a[:, 0]}
            return method_for(case, scale=10 / 5, contraction=contraction, rank=5), bases
        case "vera":
            bases = {"left": data["buffer/up.vera_B.default"], "right": data["buffer/up.vera_A.default"]}
            return method_for(case, scale=1.0, contraction=contraction, rank=6), bases
        case _:
            return method_for(case, scale=6 / 3, contraction=contraction, rank=3), {}


@pytest.mark.parametrize("contraction", ["weight", "activation"])
@pytest.mark.parametrize("case", ["randlora", "vera", "lora"])
def test_three_layers(case: str, contraction: str) -> None:
    assert case_names("peft.npz") == ["lora", "randlora", "vera"]
    data = read("peft.npz", case)
    model = Layers(data)
    sites = find_sites(model, [f"{name}.weight" for name in LAYERS])
    method, bases = setting(case, data, contraction=contraction)
    fields = {"randlora": ("lambdas", "gammas"), "vera": ("b", "d"), "lora": ("a", "b")}[case]

    def published(kind: str, layer: str, ours: str) -> Tensor:
        name, transposed = peft_name(case, ours)
        tensor = data[f"{kind}/{layer}.{name}"]
        return tensor.T if transposed else tensor

    trained = {f"{layer}.weight": {ours: published("param", layer, ours) for ours in fields} for layer in LAYERS}
    adaptation = inject_with(model, method, list(sites), bases=bases, trained=trained)
    x = data["x"].requires_grad_()
    y = model(x)
    y.backward(data["gy"])
    assert_close(y, data["y"], "y")
    assert_close(x.grad, data["grad_x"], "grad_x")
    for layer in LAYERS:
        for ours, parameter in adaptation.adapters[f"{layer}.weight"].named_parameters():
            assert_close(parameter.grad, published("grad", layer, ours), f"{layer} {ours}")
    with torch.no_grad():
        adaptation.merge()
        assert_close(model(x), data["y"], "merged y")
    assert not data.unread
