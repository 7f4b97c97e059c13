"""The transformer of a speech encoder over given tensors.

Matrix products take the frames of several clips as one matrix; attention, which looks along time, sees one clip at a
time, so nothing is padded.
"""

import math
from collections.abc import Sequence
from typing import Any

from stages.speech_facts import EncoderFacts
from stages.speech_matrices import Linear, packs

EPSILON = 1e-5
"""Torch's default, for norms that the configuration has no epsilon for."""

QUERIES = 512
"""Rows of WavLM's attention bias that are made at once: it has one number per head and pair of frames."""

PRODUCT_QUERIES = 256
"""Rows of `attention_by_products` that are made at once: 12 KB per frame of a base model."""


class Layer:
    """One transformer layer."""

    def __init__(self, facts: EncoderFacts, tensors: dict[str, Any], index: int, dtype: Any, device: Any) -> None:
        import torch

        self._facts = facts
        name = f"encoder.layers.{index}."
        parts = [f"{name}attention.{part}_proj" for part in "qkv"]
        weight, bias = (
            torch.cat([tensors[f"{part}.{kind}"] for part in parts]).to(device, dtype) for kind in ("weight", "bias")
        )
        self._qkv = Linear(weight, bias)
        self._out = linear_of(tensors, f"{name}attention.out_proj", device, dtype)
        self._up = linear_of(tensors, f"{name}feed_forward.intermediate_dense", device, dtype, facts.activation)
        self._down = linear_of(tensors, f"{name}feed_forward.output_dense", device, dtype)
        self._norm = norm_of(tensors, f"{name}layer_norm", device, dtype)
        self._final = norm_of(tensors, f"{name}final_layer_norm", device, dtype)
        self._adapter = _adapter_of(tensors, f"{name}adapter_layer.", device, dtype) if facts.adapter else None
        self._by_products = dtype == torch.bfloat16 and packs(dtype, device)
        if facts.buckets:
            self._gate = _pair(tensors, f"{name}attention.gru_rel_pos_linear", device, dtype)
            self._constant = tensors[f"{name}attention.gru_rel_pos_const"][0].to(device, dtype)

    def __call__(self, rows: Any, lengths: Sequence[int], bias: Any) -> Any:
        """Return the next hidden state of packed clips.

        Args:
            rows: (sum of lengths, width).
            lengths: frames of each clip.
            bias: for WavLM each clip's `relative_bias`, else None.
        """
        epsilon = self._facts.epsilon
        if not self._facts.norm_first:
            rows = normed(self._out(self._attended(rows, lengths, bias), plus=rows), self._norm, epsilon)
            return normed(self._down(self._up(rows), plus=rows), self._final, epsilon)
        rows = self._out(self._attended(normed(rows, self._norm, epsilon), lengths, bias), plus=rows)
        rows = self._down(self._up(normed(rows, self._final, epsilon)), plus=rows)
        if self._adapter is None:
            return rows
        norm, down, up = self._adapter
        return up(down(normed(rows, norm, EPSILON)), plus=rows)

    def _attended(self, rows: Any, lengths: Sequence[int], bias: Any) -> Any:
        import torch
        from torch.nn.functional import scaled_dot_product_attention

        heads = self._facts.heads
        mixed, start = torch.empty_like(rows), 0
        for i, part in enumerate(torch.split(self._qkv(rows), list(lengths))):
            length = len(part)
            query, key, value = part.view(length, 3, heads, -1).permute(1, 2, 0, 3)[:, None]
            end = start + length
            if bias is not None:
                given = _biased(query, key, value, self._gates(rows[start:end]), bias[i])
            elif self._by_products:
                given = attention_by_products(query, key, value)
            else:
                given = scaled_dot_product_attention(query, key, value)
            mixed[start:end] = given[0].transpose(0, 1).reshape(length, -1)
            start = end
        return mixed

    def _gates(self, rows: Any) -> Any:
        """Return WavLM's gate of the relative bias: (heads, num_frames, 1). `rows` are the attention's input."""
        from torch.nn.functional import linear

        facts = self._facts
        split = rows.view(len(rows), facts.heads, -1).transpose(0, 1)
        a, b = linear(split, *self._gate).view(facts.heads, len(rows), 2, 4).sum(-1).sigmoid().chunk(2, dim=-1)
        return a * (b * self._constant - 1) + 2


def relative_bias(table: Any, length: int, facts: EncoderFacts) -> Any:
    """Return WavLM's bias by distance: (heads, 2 * length - 1), entry length - 1 + d for a key d frames later.

    Distances up to a quarter of the buckets have one each, longer ones share them logarithmically, each direction has
    half (T5's scheme, arXiv 1910.10683, with the release's rounding).
    """
    import torch

    distance = torch.arange(1 - length, length)
    half = facts.buckets // 2
    exact = half // 2
    apart = distance.abs()
    far = torch.log(apart.float() / exact) / math.log(facts.max_distance / exact) * (half - exact)
    shared = (exact + far.clamp(min=0)).long().clamp(max=half - 1)
    bucket = (distance > 0).long() * half + torch.where(apart < exact, apart, shared)
    return table[bucket.to(table.device)].T.contiguous()


def attention_by_products(query: Any, key: Any, value: Any) -> Any:
    """Return attention in bfloat16 by oneDNN's products: (1, heads, num_frames, width of a head).

    A third faster on the CPU than torch's fused kernel. The softmax is summed in float32; scores are bfloat16.
    """
    import torch

    query = (query * query.shape[-1] ** -0.5).contiguous()
    turned, value = key.transpose(2, 3).contiguous(), value.contiguous()
    given = torch.empty_like(query)
    for first in range(0, query.shape[2], PRODUCT_QUERIES):
        end = first + PRODUCT_QUERIES
        given[:, :, first:end] = torch.softmax(query[:, :, first:end] @ turned, dim=-1) @ value
    return given


def _biased(query: Any, key: Any, value: Any, gate: Any, bias: Any) -> Any:
    """Return attention under WavLM's gated bias: (1, heads, num_frames, width of a head)."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    length, parts = query.shape[2], []
    for first in range(0, length, QUERIES):
        mask = _bias_rows(gate, bias, first, length)
        parts.append(scaled_dot_product_attention(query[:, :, first : first + QUERIES], key, value, attn_mask=mask))
    return torch.cat(parts, dim=2)


def _bias_rows(gate: Any, bias: Any, first: int, length: int) -> Any:
    """Return the gated bias of some queries: (1, heads, queries, length)."""
    queries = min(QUERIES, length - first)
    # Row q of the window needs entries length - 1 - (first + q) onwards: a view that steps back by one per row.
    band = bias[:, length - first - queries : 2 * length - 1 - first].unfold(1, length, 1).flip(1)
    return (gate[:, first : first + queries] * band)[None]


def normed(rows: Any, norm: Any, epsilon: float) -> Any:
    """Return the layer norm of each row; `norm` is its weight and bias."""
    from torch.nn.functional import layer_norm

    return layer_norm(rows, rows.shape[-1:], norm[0], norm[1], epsilon)


def linear_of(tensors: dict[str, Any], name: str, device: Any, dtype: Any, activation: str = "") -> Linear:
    return Linear(*_pair(tensors, name, device, dtype), activation)


def norm_of(tensors: dict[str, Any], name: str, device: Any, dtype: Any) -> tuple[Any, Any] | None:
    return _pair(tensors, name, device, dtype) if f"{name}.weight" in tensors else None


def _pair(tensors: dict[str, Any], name: str, device: Any, dtype: Any) -> tuple[Any, Any]:
    return tensors[f"{name}.weight"].to(device, dtype), tensors[f"{name}.bias"].to(device, dtype)


def _adapter_of(tensors: dict[str, Any], name: str, device: Any, dtype: Any) -> tuple[Any, Linear, Linear]:
    down = linear_of(tensors, f"{name}linear_1", device, dtype, "relu")
    return norm_of(tensors, f"{name}norm", device, dtype), down, linear_of(tensors, f"{name}linear_2", device, dtype)
