"""Writers of alignment files in every format, and of the utterances that go with them."""

import csv
import io
import json

import numpy as np

from schemas.records import Clip, Spoken, Token, Utterance
from stages.align_imported import ImportedConfig, alignment_source

RATE = 16_000


def spoken(text, seconds, **fields):
    """An utterance of silence; tokens are spoken as they are written, unless `text` holds (text, spoken) pairs."""
    pairs = [(t, (t.lower().strip(".,!?-"),)) for t in text.split()] if isinstance(text, str) else text
    given = {"key": "u", "id": "u", "audio": "u.wav", "location": "", "recording": "", "index": 0, **fields}
    utterance = Utterance(text=" ".join(t for t, _ in pairs), **given)
    pcm = np.zeros(round(seconds * RATE), np.int16)
    clip = Clip(utterance=utterance, pcm=pcm, source_rate=RATE, source_channels=1)
    return Spoken(clip=clip, tokens=tuple(Token(t, tuple(w for w in words if w)) for t, words in pairs))


def aligner(path, **fields):
    return imported(path, **fields).setup()


def imported(path, **fields):
    return ImportedConfig(source=alignment_source(str(path)), **fields)


def align(path, *items, **fields):
    outcomes = aligner(path, **fields).process(items)
    return outcomes[0] if len(items) == 1 else outcomes


def times(outcome):
    """(text, start, end) of the words, in seconds."""
    second = [[None if at is None else at / RATE for at in (word.start, word.end)] for word in outcome.words]
    return [(word.text, *pair) for word, pair in zip(outcome.words, second, strict=True)]


def with_silences(words, seconds):
    """Intervals that fill the time: [(label, start, end)], with empty labels between the words."""
    filled, at = [], 0.0
    for text, start, end in words:
        if start > at:
            filled.append(("", at, start))
        filled.append((text, start, end))
        at = end
    return [*filled, ("", at, seconds)] if seconds > at else filled


def ctm(words, key="u", scores=None, channel="1"):
    scores = scores or [None] * len(words)
    lines = [
        f"{key} {channel} {start:.4f} {end - start:.4f} {text}" + ("" if score is None else f" {score:.6f}")
        for (text, start, end), score in zip(words, scores, strict=True)
    ]
    return "".join(line + "\n" for line in lines)


def quoted(text):
    return '"' + text.replace('"', '""') + '"'


def long_textgrid(tiers, seconds):
    """`tiers`: {name: [(text, start, end)]}, completed with silences."""
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {seconds!r}"]
    lines += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for i, (name, words) in enumerate(tiers.items(), 1):
        filled = with_silences(words, seconds)
        lines += [f"    item [{i}]:", '        class = "IntervalTier"', f"        name = {quoted(name)}"]
        lines += ["        xmin = 0", f"        xmax = {seconds!r}", f"        intervals: size = {len(filled)}"]
        for j, (text, start, end) in enumerate(filled, 1):
            lines += [f"        intervals [{j}]:", f"            xmin = {start!r}", f"            xmax = {end!r}"]
            lines += [f"            text = {quoted(text)}"]
    return "\n".join(lines) + "\n"


def short_textgrid(tiers, seconds):
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "0",
        repr(seconds),
        "<exists>",
        str(len(tiers)),
    ]
    for name, words in tiers.items():
        filled = with_silences(words, seconds)
        lines += ['"IntervalTier"', quoted(name), "0", repr(seconds), str(len(filled))]
        for text, start, end in filled:
            lines += [repr(start), repr(end), quoted(text)]
    return "\n".join(lines) + "\n"


def mfa_csv(words, speaker="ann"):
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(["Begin", "End", "Label", "Type", "Speaker"])
    writer.writerows([start, end, text, "words", speaker] for text, start, end in words)
    writer.writerows([start, end, "AH0", "phones", speaker] for _, start, end in words)
    return out.getvalue()


def mfa_json(words, seconds, name="words"):
    entries = [[start, end, text] for text, start, end in words]
    tiers = {name: {"type": "interval", "entries": entries}, "phones": {"type": "interval", "entries": entries}}
    return json.dumps({"start": 0, "end": seconds, "tiers": tiers}, ensure_ascii=False)


def librispeech(words, seconds, key="u"):
    filled = with_silences(words, seconds)
    labels, ends = ",".join(text for text, _, _ in filled), ",".join(repr(end) for _, _, end in filled)
    return f'{key} "{labels}" "{ends}"\n'


def whisperx(words, scores=None, per_segment=3):
    scores = scores or [None] * len(words)
    items = [
        {"word": text, "start": start, "end": end, **({} if score is None else {"score": score})}
        for (text, start, end), score in zip(words, scores, strict=True)
    ]
    parts = [items[i : i + per_segment] for i in range(0, len(items), per_segment)]
    segments = [{"text": " ".join(w["word"] for w in part), "words": part} for part in parts]
    return json.dumps({"segments": segments, "word_segments": items, "language": "en"}, ensure_ascii=False)


def whisper_timestamped(words, scores=None):
    scores = scores or [None] * len(words)
    items = [
        {"text": text, "start": start, "end": end, "confidence": score}
        for (text, start, end), score in zip(words, scores, strict=True)
    ]
    return json.dumps({"text": "", "segments": [{"id": 0, "words": items}], "language": "English"})


def lhotse(words, seconds, key="u", recording="u", scores=None, start=0.0, speaker=None):
    """A supervision that starts at `start` of its recording; `words` are on the recording's clock."""
    scores = scores or [None] * len(words)
    items = [[text, begin, end - begin, score] for (text, begin, end), score in zip(words, scores, strict=True)]
    value = {"id": key, "recording_id": recording, "start": start, "duration": seconds, "channel": 0}
    return json.dumps({**value, "speaker": speaker, "alignment": {"word": items}}, ensure_ascii=False) + "\n"


def written(folder, words, seconds, scores=None):
    """Write one alignment of an utterance `u` in every format; returns {name: path}."""
    texts = {
        "u.ctm": ctm(words, scores=scores),
        "long/u.TextGrid": long_textgrid({"phones": words, "words": words}, seconds),
        "short/u.TextGrid": short_textgrid({"words": words, "phones": words}, seconds),
        "csv/u.csv": mfa_csv(words),
        "json/u.json": mfa_json(words, seconds),
        "u.alignment.txt": librispeech(words, seconds),
        "x/u.json": whisperx(words, scores),
        "wt/u.json": whisper_timestamped(words, scores),
        "u.jsonl": lhotse(words, seconds, scores=scores),
    }
    paths = {}
    for name, text in texts.items():
        paths[name] = folder / name
        paths[name].parent.mkdir(parents=True, exist_ok=True)
        paths[name].write_text(text, encoding="utf-8", newline="")
    return paths
