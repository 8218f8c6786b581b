"""State dicts to safetensors and back: nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from storage.errors import Integrity
from storage.manifest import Manifest
from storage.store import Store


def pack(tensors: Mapping[str, Tensor], params: Mapping[str, Any] | None = None) -> bytes:
    """Return named tensors, and params as JSON beside them, as the bytes of a safetensors file."""
    plain = {name: value.detach().to("cpu", copy=False).contiguous() for name, value in tensors.items()}
    return save(plain, {"params": json.dumps(params, sort_keys=True)} if params is not None else None)


def unpack(data: bytes, what: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file. Raises Integrity naming `what` when it is none."""
    try:
        return load(data)
    except Exception as error:  # the library raises its own kinds, none of them public
        raise Integrity(f"{what}: expected safetensors, found something else ({error}); it was not used") from None


def load_weights(store: Store, manifest: Manifest, module: torch.nn.Module) -> None:
    """Fill a module with a version's weights. Raises Integrity when they are of another network."""
    where = f"{manifest.kind}@{manifest.version} checkpoint.safetensors"
    tensors = unpack(store.read(manifest.member("checkpoint.safetensors")), where)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise Integrity(f"{where}: its tensors do not fit the network its params describe: {error}") from None
