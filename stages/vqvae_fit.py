"""Train an F0 VQ-VAE, small, in the layout of Spirit LM's checkpoint: the stage reads both alike.

Techniques: reconstruction and commitment losses and a codebook of moving averages (van den Oord et al. 2017, arXiv
1711.00937, appendix A.1), codes that are hardly used restarted at random latents (Jukebox, arXiv 2005.00341, 3.2), a
net of Polyak et al.'s size (arXiv 2104.00355). The result is a pure function of the samples, their order and the seed,
on machines whose CPUs sum alike; one thread, whatever the environment says.
"""

import io
from collections.abc import Mapping
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.canonical import rng_for
from stages.base import FeatureSamples
from stages.kmeans import MAX_CLUSTERS
from stages.vqvae import DOWNSAMPLING, Shapes, VqvaeShape, encode, encoder_shapes, residual, residual_shapes

FEATURES = "norm_f0_interp,vuv"
EMBEDDING, WIDTH, DEPTH, GROWTH = 64, 32, 2, 3
DECAY = 0.99
"""Of the moving averages that the codes are."""

COMMITMENT = 0.02
LEARNING_RATE = 2e-3
"""At the start; it falls along half a cosine to 0."""

CLIPS, CROP = 16, 13 * DOWNSAMPLING
"""Crops of 1.04 s in a batch, as Polyak et al. take them."""

PIECE, MAX_PIECES = 2048, 4096
"""At most so many pieces of at most so many frames (10 s) are learnt from: 67 MB."""

DEAD_SHARE = 0.1
"""A code used less than this share of the mean use is restarted."""

SETTLED_SHARE = 0.9
"""After this share of the steps no code is restarted."""

Piece = npt.NDArray[np.float32]


class Codebook(NamedTuple):
    """Codes as moving averages: `codes` is sums / counts.

    Attributes:
        codes: float32 tensor, shape (bins, embedding).
        sums: float32 tensor, shape (bins, embedding).
        counts: float32 tensor, shape (bins,).
    """

    codes: Any
    sums: Any
    counts: Any


def fit_vqvae(samples: FeatureSamples, clusters: int, steps: int, seed: int) -> dict[str, bytes]:
    """Return the files of a checkpoint, `config.yaml` and `model.pt`, by name; 0.5 MB with 64 clusters.

    Reads the samples once and keeps at most 67 MB of them, a uniform choice of pieces of 10 s. 1000 steps take about
    30 s on one CPU core. Where nothing is voiced, F0 is 0 everywhere and every id stands for that.

    Args:
        samples: arrays of `VqvaeFeatures`, float32, shape (num_frames, 2), finite.
        clusters: codes, 1 to 65535.
        steps: of training, 1 or more.
        seed: of the first weights, the crops and the restarts.

    Raises:
        ValueError: if there is nothing to learn from, or an argument or an array is out of range.
    """
    import torch

    if not 1 <= clusters < MAX_CLUSTERS:
        raise ValueError(f"clusters must lie in 1 .. {MAX_CLUSTERS - 1}, got {clusters}")
    if steps < 1:
        raise ValueError(f"steps must be 1 or more, got {steps}")
    shape = _shape(clusters)
    pieces = _pieces(samples, seed)
    spread = float(np.sqrt(np.mean(np.concatenate([piece[:, 0] for piece in pieces]).astype(np.float64) ** 2)))
    spread = spread if spread > 1e-3 else 1.0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        tensors = _train(pieces, shape, spread, steps, seed)
    finally:
        torch.set_num_threads(threads)
    return {"config.yaml": _config_bytes(clusters), "model.pt": _model_bytes(tensors, spread)}


def decoder_shapes(shape: VqvaeShape) -> Shapes:
    """Return name and shape of the decoder's tensors."""
    name = "decoder.level_blocks.0.model"
    shapes: Shapes = {f"{name}.0.weight": (shape.width, shape.embedding, 3), f"{name}.0.bias": (shape.width,)}
    for level, stride in enumerate(shape.strides, start=1):
        outputs = shape.embedding if level == len(shape.strides) else shape.width
        shapes |= residual_shapes(f"{name}.{level}.0", shape)
        shapes[f"{name}.{level}.1.weight"] = (shape.width, outputs, 2 * stride)
        shapes[f"{name}.{level}.1.bias"] = (outputs,)
    return shapes | {"decoder.out.weight": (2, shape.embedding, 3), "decoder.out.bias": (2,)}


def decode(tensors: Mapping[str, Any], shape: VqvaeShape, codes: Any) -> Any:
    """Return F0 and voicing: float32 tensor, shape (num_clips, 2, 16 * num_codes).

    Args:
        tensors: by the names of `decoder_shapes`.
        shape: of the net.
        codes: float32 tensor, shape (num_clips, embedding, num_codes).
    """
    from torch.nn.functional import conv1d, conv_transpose1d

    name = "decoder.level_blocks.0.model"
    hidden = conv1d(codes, tensors[f"{name}.0.weight"], tensors[f"{name}.0.bias"], padding=1)
    for level, stride in enumerate(shape.strides, start=1):
        hidden = residual(tensors, f"{name}.{level}.0", shape, hidden, shape.dilations)
        weight, bias = tensors[f"{name}.{level}.1.weight"], tensors[f"{name}.{level}.1.bias"]
        hidden = conv_transpose1d(hidden, weight, bias, stride=stride, padding=stride // 2)
    return conv1d(hidden, tensors["decoder.out.weight"], tensors["decoder.out.bias"], padding=1)


def _pieces(samples: FeatureSamples, seed: int) -> list[Piece]:
    """Cut the clips into pieces, keep a uniform choice of them, and hold the last frame of those below one crop."""
    rng = rng_for(seed, "vqvae", "pieces")
    kept: list[Piece] = []
    seen = 0
    for rows in samples():
        if rows.ndim != 2 or rows.shape[1] != 2 or not np.isfinite(rows).all():
            raise ValueError(f"F0 features must be finite and of shape (num_frames, 2), got {list(rows.shape)}")
        for start in range(0, len(rows), PIECE):
            piece = rows[start : start + PIECE].astype(np.float32)
            place = int(rng.integers(seen + 1))
            seen += 1
            if len(kept) < MAX_PIECES:
                kept.append(piece)
            elif place < MAX_PIECES:
                kept[place] = piece
    if not kept:
        raise ValueError("no clip is left to train a pitch VQ-VAE on: every clip of the sample was rejected")
    return [np.pad(piece, ((0, max(0, CROP - len(piece))), (0, 0)), mode="edge") for piece in kept]


def _train(pieces: list[Piece], shape: VqvaeShape, spread: float, steps: int, seed: int) -> dict[str, Any]:
    import torch

    rng = rng_for(seed, "vqvae", "steps")
    shares = np.array([len(piece) for piece in pieces], dtype=np.float64)
    shares /= shares.sum()
    tensors = _first_tensors(shape, seed)
    codebook: Codebook | None = None
    optimizer = torch.optim.Adam(list(tensors.values()), lr=LEARNING_RATE, betas=(0.9, 0.99))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * 0.5 * (1 + np.cos(np.pi * step / steps))
        batch = torch.from_numpy(_batch(pieces, shares, rng) / np.array([[[spread], [1]]], np.float32))
        latent = encode(tensors, shape, batch)
        rows = latent.transpose(1, 2).reshape(-1, shape.embedding)
        codebook = codebook or _first_codebook(rows.detach(), shape, rng)
        ids = torch.cdist(rows.detach(), codebook.codes).argmin(dim=1)
        chosen = codebook.codes[ids]
        quantised = (rows + (chosen - rows).detach()).reshape(len(batch), -1, shape.embedding).transpose(1, 2)
        loss = ((decode(tensors, shape, quantised) - batch) ** 2).mean() + COMMITMENT * ((rows - chosen) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        codebook = _moved(codebook, rows.detach(), ids, rng, restart=step < SETTLED_SHARE * steps)
    trained = {name: tensor.detach() for name, tensor in tensors.items()}
    return trained if codebook is None else trained | {"vq.level_blocks.0.k": codebook.codes}


def _batch(pieces: list[Piece], shares: npt.NDArray[np.float64], rng: np.random.Generator) -> Piece:
    crops = []
    for index in rng.choice(len(pieces), CLIPS, p=shares):
        start = int(rng.integers(len(pieces[index]) - CROP + 1))
        crops.append(pieces[index][start : start + CROP].T)
    return np.stack(crops)


def _first_tensors(shape: VqvaeShape, seed: int) -> dict[str, Any]:
    """Return encoder and decoder, drawn as PyTorch draws convolutions: uniform within 1 / sqrt(inputs)."""
    import torch

    rng = rng_for(seed, "vqvae", "weights")
    tensors: dict[str, Any] = {}
    bound = 1.0
    for name, size in (encoder_shapes(shape) | decoder_shapes(shape)).items():
        if name.startswith("vq."):
            continue
        if name.endswith(".weight"):
            bound = 1 / sqrt(size[1] * size[2])
        values = rng.uniform(-bound, bound, size).astype(np.float32)
        tensors[name] = torch.from_numpy(values).requires_grad_()
    return tensors


def _first_codebook(rows: Any, shape: VqvaeShape, rng: np.random.Generator) -> Codebook:
    import torch

    codes = _random_rows(rows, shape.bins, rng)
    uses = len(rows) / shape.bins
    return Codebook(codes, codes * uses, torch.full((shape.bins,), uses))


def _moved(codebook: Codebook, rows: Any, ids: Any, rng: np.random.Generator, *, restart: bool) -> Codebook:
    """Return the codebook after one step of its moving averages; a code never used keeps its place."""
    import torch

    bins = len(codebook.codes)
    chosen = torch.nn.functional.one_hot(ids, bins).to(torch.float32)
    counts = DECAY * codebook.counts + (1 - DECAY) * chosen.sum(dim=0)
    sums = DECAY * codebook.sums + (1 - DECAY) * (chosen.T @ rows)
    uses = len(rows) / bins
    fresh = _random_rows(rows, bins, rng)  # drawn at each step: the crops do not depend on what was restarted
    dead = (counts < DEAD_SHARE * uses) & restart
    counts = torch.where(dead, torch.full_like(counts, uses), counts)
    sums = torch.where(dead[:, None], fresh * uses, sums)
    return Codebook(sums / counts[:, None], sums, counts)


def _random_rows(rows: Any, number: int, rng: np.random.Generator) -> Any:
    """Return latents drawn without repetition where there are enough, with a little noise so that no two are equal."""
    import torch

    order = np.concatenate([rng.permutation(len(rows)) for _ in range(-(-number // len(rows)))])[:number]
    noise = rng.normal(0, 0.01 / sqrt(rows.shape[1]), (number, rows.shape[1])).astype(np.float32)
    return rows[torch.from_numpy(order)] + torch.from_numpy(noise)


def _shape(clusters: int) -> VqvaeShape:
    return VqvaeShape(
        bins=clusters,
        embedding=EMBEDDING,
        width=WIDTH,
        hidden=WIDTH,
        strides=(2, 2, 2, 2),
        dilations=tuple(GROWTH**block for block in range(DEPTH)),
        scale=1.0,
        interpolated=True,
        normalised=True,
    )


def _config_bytes(clusters: int) -> bytes:
    import yaml

    net: dict[str, Any] = {
        "input_emb_width": 2,
        "output_emb_width": EMBEDDING,
        "levels": 1,
        "downs_t": [4],
        "strides_t": [2],
        "width": WIDTH,
        "depth": DEPTH,
        "m_conv": 1.0,
        "dilation_growth_rate": GROWTH,
    }
    config = {
        "features": FEATURES,
        "speaker_norm": False,
        "encoder_params": net,
        "decoder_params": net | {"downs_t": [4], "strides_t": [2]},  # no lists in common: YAML would write anchors
        "vq_params": {"l_bins": clusters, "emb_width": EMBEDDING, "mu": DECAY, "levels": 1},
    }
    return yaml.safe_dump(config, sort_keys=True).encode()


def _model_bytes(tensors: dict[str, Any], spread: float) -> bytes:
    """Return the file of a net that takes and gives Hz: the division by `spread` goes into its outer convolutions."""
    import torch

    first, last = "encoder.level_blocks.0.model.0.0.weight", "decoder.out"
    hertz = torch.tensor([spread, 1.0])
    folded = {
        first: tensors[first] / hertz[None, :, None],
        f"{last}.weight": tensors[f"{last}.weight"] * hertz[:, None, None],
        f"{last}.bias": tensors[f"{last}.bias"] * hertz,
    }
    file = io.BytesIO()
    torch.save({"model": {name: folded.get(name, tensors[name]).contiguous() for name in sorted(tensors)}}, file)
    return file.getvalue()
