"""JSON of whisperX, whisper-timestamped, openai-whisper and faster-whisper: segments with words.

A word is {"word" or "text", "start", "end", and "score", "confidence" or "probability"}. whisperX gives no times to
words that its model has no letters for, such as numerals.
"""

from typing import Any

from stages.alignment_files.entry import (
    BadAlignment,
    Entry,
    ImportedWord,
    decode_json,
    json_list,
    json_object,
    timed_word,
)


def looks_like_whisper(value: Any) -> bool:
    """True for a JSON value with segments or words of Whisper's family."""
    return isinstance(value, dict) and bool({"segments", "word_segments"} & set(value))


def read_whisper_json(file: str, data: bytes) -> Entry:
    """Read a file; `lane` is the speaker that diarisation gave.

    Raises:
        BadAlignment: if it is no such JSON.
    """
    value = json_object(decode_json(data, file), file)
    if not looks_like_whisper(value):
        raise BadAlignment(file, None, "neither 'segments' nor 'word_segments' in it")
    words: list[ImportedWord] = []
    for item in json_list(value.get("segments"), file):
        segment = json_object(item, file)
        words += [_word(word, segment.get("speaker"), file) for word in json_list(segment.get("words"), file)]
    if not words:
        words = [_word(word, None, file) for word in json_list(value.get("word_segments"), file)]
    if not words and value.get("segments"):
        raise BadAlignment(file, None, "segments without words; align them, or ask for word times")
    return Entry(file=file, words=tuple(words))


def _word(item: Any, speaker: Any, file: str) -> ImportedWord:
    word = json_object(item, file)
    text = word.get("word", word.get("text"))
    confidence = next((word[k] for k in ("score", "confidence", "probability") if word.get(k) is not None), None)
    lane = word.get("speaker", speaker)
    return timed_word(text, word.get("start"), word.get("end"), confidence, lane, file=file, line=None)
