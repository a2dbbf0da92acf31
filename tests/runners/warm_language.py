"""Imported by the process that others are copies of: loads what a language run on several processes needs."""

import torch.distributed.fsdp  # noqa: F401

from randlora.backbones import language

transformers = language._transformers()
transformers.LlamaForCausalLM  # noqa: B018 - found, and so loaded, when it is asked for
transformers.AutoTokenizer  # noqa: B018
