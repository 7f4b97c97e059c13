"""Transcription: the stage around a made-up recogniser, the check of checkpoints, and a real, tiny Whisper."""

import json
import pickle
import shutil
import struct
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from schemas.canonical import rng_for
from schemas.records import Artifact
from schemas.rejects import Reason, Reject
from schemas.transcripts import Drop, DroppedSegment, Segment, Transcribed
from stages.checkpoints import BadCheckpoint, checkpoint_of
from stages.transcribe_whisperx import Transcriber, WhisperxTranscribeConfig, language_code
from stages.whisper_folder import whisper_facts
from stages.whisperx_recogniser import Heard
from tests.feature_builders import clip, noise

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "checkpoints" / "whisper_tiny"
NOWHERE = Artifact(path="nowhere", sha256="")
GOOD = Heard(" Good  morning. ", -0.2, 0.01)


class Ears:
    """Hears what it is told to, and remembers what it was asked."""

    def __init__(self, regions, heard, language="en"):
        self.found, self.heard, self.language = regions, heard, language
        self.asked = []

    def regions(self, wave, longest):
        assert wave.dtype == np.float32
        assert np.abs(wave).max(initial=0) <= 1
        self.asked.append(longest)
        return self.found

    def language_of(self, wave):
        self.asked.append("language")
        return self.language

    def texts(self, waves, language):
        self.asked.append((language, [len(wave) for wave in waves]))
        return self.heard


def outcome(ears, language="", row_language="", **settings):
    config = WhisperxTranscribeConfig(checkpoint=NOWHERE, language=language, **settings)
    item = clip(noise(64_000), text="")
    item = replace(item, utterance=replace(item.utterance, language=row_language))
    (found,) = Transcriber(config, ears, frozenset({"en", "de"})).process([item])
    return found


def test_segments_become_tidy_texts_in_their_places():
    ears = Ears([(0, 16_000), (20_000, 60_000)], [GOOD, Heard("Bye.", -0.5, 0.2)])
    found = outcome(ears, chunk_seconds=5.0)
    assert found.segments == (
        Segment(0, 16_000, "Good morning.", -0.2, 0.01),
        Segment(20_000, 60_000, "Bye.", -0.5, 0.2),
    )
    assert found.dropped == ()
    assert (found.language, found.detected, found.utterance.key) == ("en", True, "u0")
    assert ears.asked == [80_000, "language", ("en", [16_000, 40_000])]


def test_waves_are_the_samples_divided_by_full_scale():
    heard = []
    ears = Ears([(0, 3)], [GOOD])
    ears.texts = lambda waves, language: heard.extend(waves) or [GOOD]
    item = clip(np.array([-32768, 0, 8192], np.int16), text="")
    Transcriber(WhisperxTranscribeConfig(checkpoint=NOWHERE), ears, frozenset({"en"})).process([item])
    assert [wave.tolist() for wave in heard] == [[-1.0, 0.0, 0.25]]


def test_a_segment_is_judged_by_its_own_length():
    ears = Ears([(48_000, 49_600)], [Heard("much too much", -0.1, 0.0)])
    assert outcome(ears).detail == "u0: no segment passes the guards: 1 too_fast"


def test_what_a_guard_drops_is_kept_with_its_reason():
    heard = [GOOD, Heard("...", -0.1, 0.0), Heard("Yes.", -9.0, 0.0), Heard("Yes.", -0.1, 0.9)]
    found = outcome(Ears([(i * 16_000, i * 16_000 + 8000) for i in range(4)], heard))
    assert len(found.segments) == 1
    assert found.dropped == (
        DroppedSegment(16_000, 24_000, Drop.NO_TEXT),
        DroppedSegment(32_000, 40_000, Drop.LOW_LOGPROB),
        DroppedSegment(48_000, 56_000, Drop.NO_SPEECH),
    )


def test_limits_come_from_the_config():
    heard = [Heard("Yes, yes.", -2.0, 0.9)]
    assert isinstance(outcome(Ears([(0, 8000)], heard)), Reject)
    lax = {"max_no_speech": 0.95, "min_average_logprob": -3.0}
    assert isinstance(outcome(Ears([(0, 8000)], heard), **lax), Transcribed)
    assert isinstance(outcome(Ears([(0, 8000)], heard), **lax, max_characters_per_second=15.0), Reject)
    assert isinstance(outcome(Ears([(0, 8000)], heard), **lax, max_compression_ratio=0.1), Reject)


@pytest.mark.parametrize(
    ("ears", "reason", "detail"),
    [
        (Ears([], []), Reason.SILENT, "u0: the voice detector finds no speech"),
        (
            Ears([(0, 8000), (9000, 16_000)], [Heard("Yes.", -0.1, 0.9)] * 2),
            Reason.SILENT,
            "u0: no segment passes the guards: 2 no_speech",
        ),
        (
            Ears(
                [(0, 8000), (9000, 16_000), (17_000, 20_000)],
                [Heard("?", 0, 0), Heard("Yes.", -0.1, 0.9), Heard("", 0, 0)],
            ),
            Reason.EMPTY_TEXT,
            "u0: no segment passes the guards: 1 no_speech, 2 no_text",
        ),
    ],
)
def test_a_row_without_a_segment_is_rejected(ears, reason, detail):
    found = outcome(ears)
    assert (found.reason, found.detail, found.stage) == (reason, detail, "transcribe")


@pytest.mark.parametrize(
    ("language", "row_language", "told", "detected"),
    [
        ("", "", "de", True),
        ("", "en", "en", False),
        ("", "EN-us", "en", False),
        ("", "en_GB", "en", False),
        ("de", "", "de", False),
        ("de", "en", "de", False),
    ],
)
def test_the_language_is_the_recipes_else_the_rows_else_detected(language, row_language, told, detected):
    ears = Ears([(0, 16_000)], [GOOD], language="de")
    found = outcome(ears, language, row_language)
    assert (found.language, found.detected) == (told, detected)
    assert ears.asked[-1] == (told, [16_000])
    assert ("language" in ears.asked) == detected


def test_a_language_that_the_model_lacks_is_the_rows_fault():
    ears = Ears([(0, 16_000)], [GOOD])
    found = outcome(ears, row_language="tlh")
    assert found.reason is Reason.BAD_ROW
    assert found.detail.startswith("u0: the model does not know the language 'tlh'")
    assert ears.asked == []


def test_language_codes():
    assert [language_code(text) for text in ("en", "pt-BR", "zh_Hans", " De ", "")] == ["en", "pt", "zh", "de", ""]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"chunk_seconds": 0.5}, "chunk_seconds.*0.5"),
        ({"chunk_seconds": 31.0}, "chunk_seconds.*31"),
        ({"beam_size": 0}, "beam_size"),
        ({"batch_size": 0}, "batch_size"),
        ({"compute_type": "int4"}, "compute_type.*'int4'"),
        ({"max_no_speech": 2.0}, "max_no_speech.*2"),
    ],
)
def test_settings_are_checked(settings, said):
    with pytest.raises(ValueError, match=said):
        WhisperxTranscribeConfig(checkpoint=NOWHERE, **settings)


# ---------------------------------------------------------------- checkpoints


def tiny_config(**settings):
    return WhisperxTranscribeConfig(checkpoint=checkpoint_of(str(TINY)), **settings)


@pytest.fixture
def copied(tmp_path):
    return Path(shutil.copytree(TINY, tmp_path / "whisper"))


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def truncate(path, size):
    path.write_bytes(path.read_bytes()[:size])


def patch(path, old, new):
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


def retitle(path):
    tokenizer = json.loads(path.read_text())
    for item in tokenizer["added_tokens"]:
        item["id"] += 1
    path.write_text(json.dumps(tokenizer))


BREAKS = {
    "no weights": (lambda f: (f / "model.bin").unlink(), r"holds no model\.bin.*ct2-transformers-converter"),
    "empty weights": (lambda f: truncate(f / "model.bin", 0), r"model\.bin is truncated"),
    "cut in the name": (lambda f: truncate(f / "model.bin", 9), r"model\.bin is truncated"),
    "cut in a tensor": (lambda f: truncate(f / "model.bin", 300_000), r"model\.bin is truncated"),
    "cut at the end": (lambda f: truncate(f / "model.bin", (TINY / "model.bin").stat().st_size - 200), "is truncated"),
    "cut in an alias": (lambda f: truncate(f / "model.bin", (TINY / "model.bin").stat().st_size - 1), "is truncated"),
    "another model": (lambda f: patch(f / "model.bin", b"WhisperSpec", b"WhimperSpec"), "no Whisper.*'WhimperSpec'"),
    "no embeddings": (lambda f: patch(f / "model.bin", b"embeddings/weight\0", b"embeddongs/weight\0"), "embeddings"),
    "a pickle": (lambda f: (f / "model.bin").write_bytes(pickle.dumps({})), r"model\.bin (is truncated|holds no)"),
    "no config": (lambda f: (f / "config.json").unlink(), r"config\.json is missing"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), r"tokenizer\.json is missing"),
    "no special tokens": (lambda f: edit(f / "tokenizer.json", added_tokens=None), r"tokenizer\.json.*added_tokens"),
    "another tokenizer": (lambda f: retitle(f / "tokenizer.json"), r"tokenizer\.json is that of another model"),
    "no vocabulary": (lambda f: (f / "vocabulary.json").unlink(), r"neither vocabulary\.json nor"),
    "a short vocabulary": (lambda f: (f / "vocabulary.json").write_text('["a"]'), "1 tokens.* and 1865 in"),
    "no list": (lambda f: (f / "vocabulary.json").write_text('{"a": 1}'), r"vocabulary\.json must hold a list"),
    "broken list": (lambda f: (f / "vocabulary.json").write_text('["a"'), r"vocabulary\.json is damaged"),
    "another rate": (
        lambda f: edit(f / "preprocessor_config.json", sampling_rate=8000),
        r"preprocessor_config\.json: sampling_rate is 8000.*16000",
    ),
    "other mel bins": (
        lambda f: edit(f / "preprocessor_config.json", feature_size=128),
        r"feature_size is 128, the model reads 80",
    ),
}


@pytest.mark.parametrize("case", BREAKS)
def test_what_is_wrong_with_a_folder_is_said_before_work_starts(copied, case):
    breaks, message = BREAKS[case]
    breaks(copied)
    with pytest.raises(BadCheckpoint, match=message) as caught:
        WhisperxTranscribeConfig(checkpoint=Artifact(path=str(copied), sha256="")).check()
    assert "\n" not in str(caught.value)


def test_the_facts_of_a_good_folder(copied):
    facts = whisper_facts(TINY)
    assert (facts.vocabulary, facts.mel_bins) == (1865, 80)
    assert {"en", "de", "zh"} <= facts.languages
    assert len(facts.languages) == 99
    (copied / "preprocessor_config.json").unlink()
    vocabulary = json.loads((copied / "vocabulary.json").read_text())
    (copied / "vocabulary.json").unlink()
    (copied / "vocabulary.txt").write_text("".join(f"{word}\n" for word in vocabulary))
    assert whisper_facts(copied) == facts


def test_a_language_that_the_model_lacks_is_said_before_work_starts():
    tiny_config(language="de").check()
    with pytest.raises(ValueError, match="'tlh' is none of the 99"):
        tiny_config(language="tlh").check()


def test_the_index_of_a_file_written_by_hand_is_read(tmp_path):
    def text(value):
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    folder = tmp_path / "w"
    folder.mkdir()
    data = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, 2)
    for name, shape in (("encoder/conv1/weight", (4, 80, 3)), ("decoder/embeddings/weight", (2, 4))):
        data += text(name) + struct.pack(f"<B{len(shape)}I", len(shape), *shape) + struct.pack("<BI", 0, 5) + b"12345"
    (folder / "model.bin").write_bytes(data + struct.pack("<I", 0))
    (folder / "config.json").write_text("{}")
    (folder / "vocabulary.json").write_text('["a", "<|startoftranscript|>"]')
    (folder / "tokenizer.json").write_text('{"added_tokens": [{"id": 1, "content": "<|startoftranscript|>"}]}')
    facts = whisper_facts(folder)
    assert facts == (2, 80, frozenset({"en"}))


def test_a_folder_that_changed_is_refused(copied):
    config = WhisperxTranscribeConfig(checkpoint=checkpoint_of(str(copied)))
    edit(copied / "config.json", suppress_ids=[1])
    with pytest.raises(BadCheckpoint, match="sha256"):
        config.setup()


def test_the_config_travels_and_says_what_made_the_texts():
    pytest.importorskip("whisperx")
    config = tiny_config()
    assert pickle.loads(pickle.dumps(config)) == config
    found = config.metadata()
    assert found["model_sha256"] == config.checkpoint.sha256
    assert "silero" in found["voice_detector"]
    json.dumps(found)


# ---------------------------------------------------------------- the real thing


@cache
def stage(**settings):
    pytest.importorskip("whisperx")
    return tiny_config(chunk_seconds=6.0, **settings).setup()


@cache
def sentences():
    """The clips and texts that the tiny model was taught."""
    from scripts.make_whisper_tiny import sentences as taught

    return taught()


def silence(seconds):
    return np.zeros(int(seconds * 16_000), np.int16)


@pytest.mark.slow
def test_what_the_model_was_taught_is_written_down_in_its_place():
    (first, said), (second, answer) = sentences()[:2]
    pcm = np.concatenate([silence(1), first, silence(3), second, silence(2)])
    (found,) = stage().process([clip(pcm, text="")])
    assert [segment.text for segment in found.segments] == [said, answer]
    starts = [16_000, 64_000 + len(first)]
    for segment, start, length in zip(found.segments, starts, (len(first), len(second)), strict=True):
        assert abs(segment.start - start) < 8000
        assert abs(segment.end - start - length) < 8000
        assert segment.logprob > -0.7
        assert segment.no_speech < 0.1
    assert found.dropped == ()


@pytest.mark.slow
def test_every_sentence_and_its_language_is_recognised():
    batch = [clip(pcm, key=f"u{i}", text="") for i, (pcm, _) in enumerate(sentences())]
    found = stage().process(batch)
    assert [item.segments[0].text for item in found] == [text for _, text in sentences()]
    assert [item.language for item in found] == ["en", "de", "en", "de"]
    assert all(item.detected for item in found)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"batch_size": 1}, {"batch_size": 3}, {"beam_size": 1}, {"language": "en"}])
def test_texts_depend_on_no_batch_mate_and_on_no_earlier_clip(settings):
    clips = [clip(pcm, key=f"u{i}", text="") for i, (pcm, _) in enumerate(sentences())]
    clips.append(clip(np.concatenate([pcm for pcm, _ in sentences()]), key="all", text=""))
    together = stage(**settings).process(clips)
    apart = [stage(**settings).process([item])[0] for item in clips[::-1]][::-1]
    assert [item.segments for item in together] == [item.segments for item in apart]
    assert [item.dropped for item in together] == [item.dropped for item in apart]


@pytest.mark.slow
def test_noise_gives_no_text():
    loud = rng_for(1, "noise").normal(0, 2000, 5 * 16_000).astype(np.int16)
    found = stage().process([clip(silence(3), text=""), clip(loud, text="")])
    assert [item.reason for item in found] == [Reason.SILENT] * 2


@pytest.mark.slow
def test_the_check_and_the_live_model_agree_on_what_the_model_is():
    assert stage()._recogniser._multilingual == (len(whisper_facts(TINY).languages) > 1)


@pytest.mark.slow
def test_the_model_itself_takes_noise_for_no_speech():
    recogniser = stage()._recogniser
    waves = [rng_for(seed, "noise").normal(0, 0.03, 48_000).astype(np.float32) for seed in range(3)]
    assert [heard.no_speech > 0.6 for heard in recogniser.texts(waves, "en")] == [True] * 3


@pytest.mark.slow
def test_speech_that_the_model_was_not_taught_is_accounted_for():
    from pipeline.manifest import read_manifest
    from stages.decode import DecodeConfig

    rows = list(read_manifest(str(ROOT / "examples" / "corpus" / "manifest.jsonl")))[40:46]
    clips = DecodeConfig().setup().process(rows)
    for item, found in zip(clips, stage().process(clips), strict=True):
        regions = stage()._recogniser.regions(item.pcm.astype(np.float32) / 32768, 96_000)
        if isinstance(found, Transcribed):
            assert len(found.segments) + len(found.dropped) == len(regions)
        else:
            assert found.reason in (Reason.EMPTY_TEXT, Reason.SILENT)


@pytest.mark.slow
@pytest.mark.parametrize("longest", [2.0, 5.0, 30.0])
def test_regions_ascend_and_are_never_too_long(longest):
    pcm = np.concatenate([pcm for pcm, _ in sentences()] * 3)
    regions = stage()._recogniser.regions(pcm.astype(np.float32) / 32768, int(longest * 16_000))
    times = [time for region in regions for time in region]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] <= len(pcm)
    assert all(0 < end - start <= longest * 16_000 for start, end in regions)
    assert sum(end - start for start, end in regions) > 0.8 * len(pcm)


@pytest.mark.slow
def test_nothing_is_printed(capfd):
    pytest.importorskip("whisperx")
    tiny_config().setup().process([clip(sentences()[0][0], text="")])
    assert capfd.readouterr().out == ""
