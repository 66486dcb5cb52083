"""Packed weights in the layout of compressed-tensors, which transformers loads by itself."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from atp_core.errors import ModelError
from atp_core.records import Chain, LoadedModel

from ._grid import QuantizedWeight

__all__ = ["cannot_pack", "check_packed", "pack", "packed_bytes"]

_FORMAT = "pack-quantized"


def cannot_pack(
    loaded: LoadedModel, chains: Sequence[Chain], *, symmetric: bool
) -> str | None:
    """Why the model cannot be packed, or None if it can."""
    library = sys.modules.get("transformers")  # whose models exist only where it is imported
    if library is None or not isinstance(loaded.model, library.PreTrainedModel):
        return "compressed-tensors is for models of transformers, which this is not"
    if not symmetric:
        # It makes room for zero points as if they were not packed (compressed-tensors 0.20).
        return "transformers loads no packed weights with zero points"
    names = {id(module): name for name, module in loaded.model.named_modules()}
    for chain in chains:
        for block in chain.blocks:
            for weight in block.weights:
                plain = type(weight.module) is nn.Linear and weight.parameter == "weight"
                if not plain or weight.index or weight.rows is not None or weight.transposed:
                    return (
                        f"{weight.name} is not the weight of a torch.nn.Linear, and "
                        "compressed-tensors packs no other"
                    )
                if f"{names.get(id(weight.module))}.weight" != weight.name:
                    return f"{weight.name} is not named as its module in the model is"
    return None


def pack(
    directory: Path, weights: Mapping[str, QuantizedWeight], group_size: int | None
) -> None:
    """Turn the dense weights of a directory in transformers' layout into packed ones.

    Args:
        directory: what `atp_save` wrote; changed in place.
        weights: name → codes, symmetric.
        group_size: neighbouring weights of a row that share a scale; None is the whole row.

    Raises:
        ModelError: the directory does not hold a weight under its name.
    """
    left = set(weights)
    total, where = 0, {}
    files = sorted(directory.glob("*.safetensors"))
    for file in files:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata()
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        for name in list(tensors):
            if name in weights:
                del tensors[name]
                left.discard(name)
                tensors.update(_packed(name.removesuffix(".weight"), weights[name]))
        mode = file.stat().st_mode
        save_file(tensors, file, metadata=metadata)
        file.chmod(mode)
        total += sum(tensor.nbytes for tensor in tensors.values())
        where.update(dict.fromkeys(tensors, file.name))
    if left:
        raise ModelError(
            f"{min(left)} is saved under another name, so it cannot be packed; take --format dense"
        )
    if len(files) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        text = json.dumps(index, indent=2) + "\n"
        (directory / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["quantization_config"] = _config(weights, group_size)
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def packed_bytes(weights: Mapping[str, QuantizedWeight]) -> int:
    """Bytes of the packed tensors: codes in words of 32 bits a row, scales, zeros and shapes."""
    total = 0
    for weight in weights.values():
        rows, columns = weight.codes.shape
        groups = weight.scale.shape[1]
        total += rows * _words(columns, weight.bits) * 4 + weight.scale.nbytes + 16
        if weight.zero is not None:
            total += _words(rows, weight.bits) * groups * 4
    return total


def check_packed(directory: Path, loaded: LoadedModel, names: Sequence[str]) -> float | None:
    """Load a packed directory with transformers, and compare it with the model in memory.

    Args:
        directory: what was written.
        loaded: the model whose weights are what the codes stand for.
        names: its quantized weights.

    Returns:
        The largest difference of an output, as a share of the largest output; None where the model
        takes more than token ids, so that only weights were compared.

    Raises:
        ModelError: it does not load, or is another model.
    """
    model: Any = loaded.model
    kind: Any = type(model)
    dtype = next(model.parameters()).dtype
    try:
        # Its bars would stand beside core's.
        with contextlib.redirect_stderr(io.StringIO()):
            found = kind.from_pretrained(directory, dtype=dtype).eval()
            found.hf_quantizer.compressor.decompress_model(found)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"transformers does not load what was packed: {error}; take --format dense"
        ) from error
    theirs, ours = dict(found.named_parameters()), dict(model.named_parameters())
    for name in names:
        if name not in theirs or not torch.equal(theirs[name].cpu(), ours[name].cpu()):
            raise ModelError(
                f"{name} is another after packing and loading with transformers; "
                "take --format dense, and report this"
            )
    inputs = model.dummy_inputs
    if set(inputs) != {"input_ids"}:
        return None
    with torch.inference_mode():
        tokens = inputs["input_ids"] % model.get_input_embeddings().num_embeddings
        mine = model(input_ids=tokens.to(next(model.parameters()).device))[0].float().cpu()
        other = found(input_ids=tokens)[0].float()
    difference = float((mine - other).abs().max() / mine.abs().max().clamp(min=1e-12))
    if not difference <= 4 * torch.finfo(dtype).eps:
        raise ModelError(
            f"outputs differ by {difference:.2g} of the largest after packing and loading with "
            "transformers; take --format dense, and report this"
        )
    return difference


def _packed(module: str, weight: QuantizedWeight) -> dict[str, torch.Tensor]:
    from compressed_tensors.compressors.pack_quantized import pack_to_int32

    return {
        f"{module}.weight_packed": pack_to_int32(weight.codes, weight.bits),
        f"{module}.weight_scale": weight.scale.contiguous(),
        f"{module}.weight_shape": torch.tensor(weight.codes.shape),
    }


def _config(weights: Mapping[str, QuantizedWeight], group_size: int | None) -> dict[str, Any]:
    """The quantization config: one group a width, whose layers are named one by one."""
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        QuantizationStatus,
    )

    layers: dict[int, list[str]] = defaultdict(list)
    for name, weight in weights.items():
        layers[weight.bits].append(name.removesuffix(".weight"))
    groups = {
        f"bits_{bits}": QuantizationScheme(
            targets=names,
            format=_FORMAT,
            weights=QuantizationArgs(
                num_bits=bits,
                symmetric=True,
                group_size=group_size,
                strategy="channel" if group_size is None else "group",
            ),
        )
        for bits, names in sorted(layers.items())
    }
    config = QuantizationConfig(
        config_groups=groups,
        format=_FORMAT,
        quantization_status=QuantizationStatus.COMPRESSED,
    )
    data: dict[str, Any] = config.model_dump(mode="json", exclude_none=True)
    return data


def _words(codes: int, bits: int) -> int:
    return -(-codes * bits // 32)
