"""The tiny CTC model: a Wav2Vec2ForCTC of 0.4 million weights, and its training on speech with known word times."""

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.signal import lfilter

from scripts.ctc_tiny_data import RATE, Said, Wave, letters
from scripts.ctc_tiny_lattice import Group, Lattice, lattice_of, posteriors

LABELS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPB", "V", "K", "'", "X", "J", "Q", "Z"]
VOCAB = {label: index for index, label in enumerate(LABELS)}
CONFIG: dict[str, Any] = {
    "vocab_size": len(LABELS),
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "conv_dim": [16, 32, 64, 96, 96, 96, 96],
    "conv_bias": True,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "num_conv_pos_embeddings": 32,
    "num_conv_pos_embedding_groups": 8,
    "hidden_dropout": 0.0,
    "activation_dropout": 0.0,
    "attention_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "final_dropout": 0.0,
    "layerdrop": 0.0,
    "mask_time_prob": 0.0,
    "mask_feature_prob": 0.0,
    "apply_spec_augment": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "ctc_loss_reduction": "mean",
}
BATCH_SECONDS = 24.0
WARM_UP = 100
PEAK_RATE = 2.5e-3
SLOWEST = 0.87


def build(seed: int) -> Any:
    """Return an untrained model whose first layer is a bank of windowed tones."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    torch.manual_seed(seed)
    model = Wav2Vec2ForCTC(Wav2Vec2Config(**CONFIG))
    first = model.wav2vec2.feature_extractor.conv_layers[0].conv
    width, count = first.kernel_size[0], first.out_channels
    tone = torch.linspace(0.0, math.pi, count // 2)[:, None] * torch.arange(width)
    bank = torch.cat([torch.cos(tone), torch.sin(tone)]) * torch.hann_window(width + 2)[1:-1]
    with torch.no_grad():
        first.weight.copy_(bank[:, None] / bank.norm(dim=1).clamp(min=0.3)[:, None, None])
    return model


def logits_of(model: Any, waves: torch.Tensor) -> torch.Tensor:
    """Return what the model returns, float32 (batch, num_frames, num_labels), with its convolutions as matrix products.

    That is three times as fast as the model's own forward pass, whose layers keep channels before time.
    """
    x = waves[:, :, None]
    for layer in model.wav2vec2.feature_extractor.conv_layers:
        conv = layer.conv
        width, stride = conv.kernel_size[0], conv.stride[0]
        x = x.contiguous()
        batch, length, channels = x.shape
        shape = (batch, (length - width) // stride + 1, width * channels)
        patches = x.as_strided(shape, (length * channels, stride * channels, 1))
        x = F.linear(patches, conv.weight.permute(0, 2, 1).reshape(conv.out_channels, -1), conv.bias)
        x = layer.activation(layer.layer_norm(x))
    hidden, _ = model.wav2vec2.feature_projection(x)
    logits: torch.Tensor = model.lm_head(model.wav2vec2.encoder(hidden)[0])
    return logits


def groups_of(said: Said, shift: float, tempo: float) -> list[Group]:
    """Return the words with their times in a clip in which the utterance starts at `shift` and runs `tempo` faster."""
    starts = [index for index, word in enumerate(said.words) if word.start is not None]
    groups = []
    for index, stop in zip(starts, [*starts[1:], len(said.words)], strict=True):
        words = tuple(letters(token.spoken) for token in said.tokens[index:stop])
        first, last = said.words[index], said.words[stop - 1]
        following = said.words[stop].start if stop < len(said.words) else len(said.wave) / RATE
        end = last.end if last.end is not None else following
        groups.append(Group(words, shift + (first.start or 0.0) / tempo, shift + (end or 0.0) / tempo))
    return groups


def varied(wave: Wave, tempo: float, rng: np.random.Generator) -> Wave:
    """Play the wave `tempo` times as fast, with another balance of low and high."""
    at = np.arange(0, len(wave) - 1, tempo)
    faster = np.interp(at, np.arange(len(wave)), wave)
    tilt, gain = rng.uniform(-0.5, 0.7), 10 ** rng.uniform(-0.4, 0.4)
    tilted: Wave = lfilter([1.0, -tilt], [1.0, -rng.uniform(-0.3, 0.3)], faster).astype(np.float32)
    return gain * tilted / max(float(np.sqrt(np.mean(tilted**2))), 1e-4)


def clip_of(parts: Sequence[Said], seconds: float, rng: np.random.Generator) -> tuple[Wave, Lattice]:
    """Put utterances one after the other into a clip of a fixed length, over noise, with mean 0.

    The variance is 1 or, in every third clip, lower: not every program that loads the model normalises.
    """
    tempos = rng.uniform(SLOWEST, 1.15, len(parts))
    waves = [varied(said.wave, tempo, rng) for said, tempo in zip(parts, tempos, strict=True)]
    spare = max(0.0, seconds - sum(map(len, waves)) / RATE)
    weights = rng.dirichlet(np.full(len(parts) + 1, 2.0)) * spare
    clip = rng.standard_normal(round(seconds * RATE)).astype(np.float32) * 10 ** rng.uniform(-4.0, -1.0)
    groups: list[Group] = []
    position = 0.0
    for said, wave, tempo, gap in zip(parts, waves, tempos, weights, strict=False):
        position += float(gap)
        first = round(position * RATE)
        clip[first : first + len(wave)] += wave[: max(0, len(clip) - first)]
        groups += groups_of(said, position, float(tempo))
        position += len(wave) / RATE
    frames = (len(clip) - 400) // 320 + 1
    gain = 10 ** rng.uniform(-2.0, 0.0) if rng.random() < 1 / 3 else 1.0
    normal = gain * (clip - clip.mean()) / np.sqrt(clip.var() + 1e-7)
    return normal.astype(np.float32), lattice_of(groups, VOCAB, frames)


def batches(speech: Sequence[Said], steps: int, seed: int) -> Iterator[tuple[torch.Tensor, list[Lattice]]]:
    """Yield waves of shape (batch, num_samples) and their lattices; later batches hold longer clips now and then."""
    rng = np.random.default_rng(seed)
    order: list[int] = []
    for step in range(steps):
        long = step > steps // 3 and step % 4 == 0
        parts = int(rng.integers(3, 10)) if long else 1
        clips_wanted = max(2, round(BATCH_SECONDS / (3.0 * parts)))
        if len(order) < clips_wanted * parts:
            order = _mixed(speech, rng)
        picked = [[speech[order.pop()] for _ in range(parts)] for _ in range(clips_wanted)]
        longest = max(sum(len(said.wave) for said in clip) / RATE / SLOWEST for clip in picked)
        pauses = float(rng.uniform(0.1, 0.6)) * parts + float(rng.uniform(0.0, 2.0)) * (rng.random() < 0.1)
        clips = [clip_of(clip, longest + pauses, rng) for clip in picked]
        yield torch.from_numpy(np.stack([wave for wave, _ in clips])), [lattice for _, lattice in clips]


def _mixed(speech: Sequence[Said], rng: np.random.Generator) -> list[int]:
    """All utterances, neighbours of like length."""
    length = np.array([len(said.wave) / RATE for said in speech])
    by_length = np.argsort(length + rng.uniform(-0.3, 0.3, len(speech)))
    blocks = [by_length[i : i + 16] for i in range(0, len(by_length), 16)]
    return [int(i) for block in rng.permutation(len(blocks)) for i in blocks[block]]


def rate_at(step: int, steps: int) -> float:
    """Warm up, then go down along a cosine."""
    if step < WARM_UP:
        return PEAK_RATE * (step + 1) / WARM_UP
    return PEAK_RATE * (0.02 + 0.49 * (1 + math.cos(math.pi * (step - WARM_UP) / max(1, steps - WARM_UP))))


def train(model: Any, speech: Sequence[Said], steps: int, seed: int) -> None:
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.02}, {"params": rest, "weight_decay": 0.0}], betas=(0.9, 0.98)
    )
    model.train()
    begun, losses = time.monotonic(), []
    for step, (waves, lattices) in enumerate(batches(speech, steps, seed)):
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, steps)
        log_probs = torch.log_softmax(logits_of(model, waves), dim=-1)
        with torch.no_grad():
            wanted, reached = posteriors(log_probs.detach(), lattices)
        loss = -(wanted * log_probs).sum() / wanted.sum().clamp(min=1.0)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
        if step % 20 == 19:
            seconds = time.monotonic() - begun
            print(
                f"step {step + 1} loss {np.mean(losses[-20:]):.3f} fits {reached.float().mean():.2f} {seconds:.0f} s",
                flush=True,
            )
