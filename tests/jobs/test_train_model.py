"""The model that is trained: given ones extended, attention within documents, precision."""

from pathlib import Path

import pytest

from jobs.train_data import evaluation_blocks
from pipeline.dataset import Dataset
from schemas.training import TrainSection
from stages.vocabulary import Vocabulary
from tests.sequence_builders import SIZES, ByteTokenizer, contracts, document
from tests.train_builders import SEQUENCE, tiny_checkpoint, tiny_dataset, tiny_llama


def llama_folder(path: Path, rows: int, **more: object) -> Path:
    tiny_llama(rows, **more).save_pretrained(path)
    return path


def extended(folder: Path, vocabulary: Vocabulary, **settings: str) -> tuple[object, object]:
    """A given model before and after it got the joint vocabulary."""
    from jobs.train_model import extend, load_llama

    model = load_llama(folder)
    extend(model, TrainSection(model=str(folder), **settings), vocabulary, contracts())
    return load_llama(folder), model


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize(("rows", "size"), [(256, 0), (300, 0), (900, 900)])
def test_a_given_model_keeps_its_text_and_gets_rows_for_speech(tmp_path: Path, tie: bool, rows: int, size: int) -> None:
    import torch

    vocabulary = Vocabulary(ByteTokenizer(), SIZES)
    before, after = extended(llama_folder(tmp_path, rows, tie=tie), vocabulary)
    assert (after.lm_head.weight is after.model.embed_tokens.weight) == tie
    for name in ("get_input_embeddings", "get_output_embeddings"):
        old, new = (getattr(model, name)().weight for model in (before, after))
        assert len(new) == (size or vocabulary.size) == after.config.vocab_size
        assert torch.equal(new[:256], old[:256])
        assert torch.allclose(
            new[256 : vocabulary.size], old[:256].mean(0).expand(vocabulary.size - 256, -1), atol=1e-7
        )
        assert torch.equal(new[vocabulary.size :], old[vocabulary.size :])


def test_new_rows_may_be_normal(tmp_path: Path) -> None:
    vocabulary = Vocabulary(ByteTokenizer(), SIZES)
    _, model = extended(llama_folder(tmp_path, 256, initializer_range=0.5), vocabulary, new_rows="normal")
    rows = model.get_input_embeddings().weight[256:].detach()
    assert 0.45 < float(rows.std()) < 0.55
    assert abs(float(rows.mean())) < 0.1


def test_a_model_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    from jobs.train_model import load_llama

    with pytest.raises(ValueError, match="has embeddings for 100 tokens, the tokenizer has 256"):
        extended(llama_folder(tmp_path / "small", 100), Vocabulary(ByteTokenizer(), SIZES))
    with pytest.raises(ValueError, match=r"has no config\.json"):
        load_llama(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ValueError, match="type gpt2; only llama"):
        load_llama(tmp_path)


def test_a_checkpoint_of_ours_keeps_its_rows_and_its_vocabulary(tmp_path: Path) -> None:
    import torch

    from jobs.train_model import extend, load_llama
    from pipeline.reader.vocabularies import open_vocabulary

    dataset = tiny_dataset(tmp_path / "d")
    folder = tiny_checkpoint(dataset, tmp_path / "c")
    model, before, data = load_llama(folder), load_llama(folder), Dataset.open(str(dataset))
    section, vocabulary = TrainSection(model=str(folder)), open_vocabulary(data)
    extend(model, section, vocabulary, data.contracts)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))
    with pytest.raises(ValueError, match="another vocabulary"):
        extend(model, section, Vocabulary(ByteTokenizer(), SIZES), data.contracts)
    with pytest.raises(ValueError, match="codebook_size"):
        extend(model, section, vocabulary, contracts({**SIZES, "hubert": 51}))


def learner_of(model: object, *, flex: bool = False, autocast: bool = False) -> object:
    import torch

    from jobs.train_model import Learner, use_attention

    use_attention(model, "flex" if flex else "sdpa")
    return Learner(model=model, forward=model, device=torch.device("cpu"), autocast=autocast, flex=flex)


def gradients(learner: object, blocks: list) -> tuple[object, dict]:
    from jobs.train_model import token_losses

    learner.model.zero_grad()
    losses, target, _ = token_losses(learner, blocks)
    (losses.sum() / target.sum()).backward()
    return losses.detach(), {name: p.grad.clone() for name, p in learner.model.named_parameters()}


@pytest.mark.parametrize("heads", [2, 1])
def test_flex_attention_and_recomputing_change_rounding_alone(heads: int) -> None:
    import torch

    vocabulary = Vocabulary(ByteTokenizer(), SIZES)
    blocks = evaluation_blocks([document((9,), seed=i) for i in range(3)], SEQUENCE, vocabulary, 0)[:3]
    assert max(int(block["document_ids"].max()) for block in blocks) > 0
    model = tiny_llama(vocabulary.size, num_key_value_heads=heads)
    want, slopes = gradients(learner_of(model), blocks)
    found, other = gradients(learner_of(model, flex=True), blocks)
    assert torch.allclose(found, want, atol=1e-5)
    assert all(torch.allclose(other[name], slopes[name], atol=1e-5) for name in slopes)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    again, third = gradients(learner_of(model), blocks)
    assert torch.equal(again, want)
    assert all(torch.allclose(third[name], slopes[name], atol=1e-6) for name in slopes)


def test_bfloat16_is_near_and_not_the_same() -> None:
    import torch

    vocabulary = Vocabulary(ByteTokenizer(), SIZES)
    blocks = evaluation_blocks([document((9,))], SEQUENCE, vocabulary, 0)
    model = tiny_llama(vocabulary.size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    want, _ = gradients(learner_of(model), blocks)
    found, slopes = gradients(learner_of(model, autocast=True), blocks)
    assert found.dtype == torch.float32
    assert {slope.dtype for slope in slopes.values()} == {torch.float32}
    assert not torch.equal(found, want)
    assert torch.allclose(found, want, atol=0.1)


def test_packed_documents_do_not_see_each_other() -> None:
    import torch

    from jobs.train_model import token_losses

    vocabulary = Vocabulary(ByteTokenizer(), SIZES)
    learner = learner_of(tiny_llama(vocabulary.size, context=4096))
    wide = SEQUENCE.model_copy(update={"context": 4096})
    first, second = document((4,), seed=1), document((6,), seed=2)
    with torch.no_grad():
        (both,) = evaluation_blocks([first, second], wide, vocabulary, 0)[:1]
        (alone,) = evaluation_blocks([second], wide, vocabulary, 0)[:1]
        together, target, _ = token_losses(learner, [both])
        apart, _, _ = token_losses(learner, [alone])
    length = int((alone["document_ids"] == 0).sum())
    start = int((both["document_ids"] == 0).sum())
    assert not target[0, start - 1], "the first token of a document is no target of the one before"
    assert torch.allclose(together[0, start : start + length - 1], apart[0, : length - 1], atol=1e-5)
