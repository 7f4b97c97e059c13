"""docs/vocabulary.md: its code runs, and its ids are those that the code gives."""

import json
import re
from pathlib import Path

import pytest

from schemas.sequence import VocabularySection
from stages.interleave import Modality, Piece
from stages.vocabulary import Vocabulary
from tests.sequence_builders import ByteTokenizer, corpus, write_dataset
from tests.stages.tokenizer_builders import byte_level, opened

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "vocabulary.md").read_text()


class Llama32000(ByteTokenizer):
    vocab_size = 32_000


def test_the_table_of_ids_is_right() -> None:
    sections = (VocabularySection(), VocabularySection(layout="append", first_id=32_064, pad_to_multiple=64))
    table = re.search(r"\| block \|.*?\n\n", PAGE, re.DOTALL)
    assert table is not None
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[0].strip().splitlines()[2:]]
    for column, section in enumerate(sections, start=2):
        described = Vocabulary(Llama32000(), {"hubert": 501, "pitch": 64, "style": 100}, section).describe()
        told = {row[1]: [int(number) for number in re.findall(r"\d+", row[column])] for row in rows if row[1]}
        blocks = described["blocks"]
        assert told.pop("the tokenizer's") == [0, blocks["text"][1] - 1]
        assert told.pop("`[Text]`") == [blocks["[Text]"][0]]
        assert told.pop("`[Speech]`") == [blocks["[Speech]"][0]]
        assert told.pop("`[ASR]`, `[TTS]`") == [blocks["[ASR]"][0], blocks["[TTS]"][0]]
        units = [[blocks[slot][0], blocks[slot][1] - 1] for slot in ("hubert", "pitch", "style")]
        assert list(told.values()) == units
        unused = [row[column] for row in rows if row[0] == "unused"]
        used = {i for start, end in blocks.values() for i in range(start, end)}
        holes = sorted(set(range(described["size"])) - used)
        assert [i for cell in unused if cell != "none" for i in inclusive(cell)] == holes
        assert rows[-1][column] == str(described["size"])


def inclusive(cell: str) -> range:
    first, last = map(int, cell.split(" - "))
    return range(first, last + 1)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("spare", [0, 40, 400])
def test_a_model_is_resized_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tied: bool, spare: int
) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "units", [corpus(1)])
    known = opened(byte_level("llama3")).vocab_size
    torch.manual_seed(0)
    old = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=known + spare,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            tie_word_embeddings=tied,
            initializer_range=0.05,
        )
    )
    old.save_pretrained("llama")
    (tmp_path / "llama" / "tokenizer.json").write_text(byte_level("llama3"))

    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict = {}
    exec(compile(code, "docs/vocabulary.md", "exec"), names)

    vocabulary = names["vocabulary"]
    new = LlamaForCausalLM.from_pretrained("llama-speech", local_files_only=True)
    rows = max(known + spare, vocabulary.size)
    assert vocabulary.size % 64 == 0
    assert new.config.vocab_size == rows
    assert json.loads(Path("llama-speech/config.json").read_text())["tie_word_embeddings"] is tied
    for before, after in (
        (old.get_input_embeddings().weight, new.get_input_embeddings().weight),
        (old.get_output_embeddings().weight, new.get_output_embeddings().weight),
    ):
        assert after.shape == (rows, 16)
        assert torch.equal(after[:known], before[:known])
        assert torch.equal(after[vocabulary.size : known + spare], before[vocabulary.size :])
        drawn = after[vocabulary.first_id : vocabulary.size]
        assert drawn.std().item() == pytest.approx(0.05, rel=0.2)
        shared = min(len(before), vocabulary.size) - known
        assert not (drawn[:shared] == before[known : known + shared]).any()
    assert (new.get_input_embeddings().weight is new.get_output_embeddings().weight) == tied
    ids = vocabulary.encode([Piece(modality=Modality.SPEECH, tokens=("[Hu3]", "[St1]"), task="asr")]).ids
    assert new(torch.tensor(ids)[None]).logits.isfinite().all()
