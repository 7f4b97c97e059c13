"""Speech to train and to judge the tiny CTC model on: espeak-ng says our own word sequences and reports their times.

Needs libespeak-ng1. One process for each voice, which always says the same things in the same order: espeak-ng keeps
state between calls.
"""

import random
import re
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soxr

from examples.espeak_events import Speaker, Synthesiser, Timed, Token

RATE = 16_000
Wave = npt.NDArray[np.float32]

WORDS = (Path(__file__).parent / "ctc_tiny_words.txt").read_text(encoding="utf-8").split()


def _parts(text: str, separator: str = "/") -> list[str]:
    return text.strip().replace("\n", " ").split(separator)


ENDINGS = ("s", "ed", "ing", "er", "ly", "ness", "able")

TEMPLATES = _parts("""
the {} {} is near the {}/we saw a {} and a {} by the {}/she has a {} {} in her {}/can you {} the {} for me/I think
that {} {} was here/there is no {} in the {}/put the {} on the {} {}/he said {} and then {}/they {} to the {} every
{}/my {} is as {} as your {}/what did the {} {} do/if you {} it I will {} it/some {} and some {} for the {}/do not {}
my {}
""")

TRAINING_VOICES = _parts(
    """
en-us en-us+m1 en-us+m2 en-us+m3 en-us+m4 en-us+m6 en-us+m7 en-us+f1 en-us+f2 en-us+f3 en-us+f5 en-us+Alex en-us+Andy
en-us+Annie en-us+Gene en-us+Lee en-us+Michael en-us+belinda en-us+caleb en-us+edward en-us+klatt en-us+klatt2 en-us+max
en-us+paul en-us+quincy en-us+rob en-us+steph en-us+travis gmw/en gmw/en-GB-x-rp+f2 gmw/en-GB-x-rp+m2
gmw/en-GB-scotland+m3 gmw/en-US-nyc+m4 gmw/en+f3
""",
    " ",
)
HELD_OUT_VOICES = ("en-us+m5", "en-us+f4", "en-us+m8", "en-us+Alicia", "en-us+linda", "gmw/en-US-nyc+f4")

HELD_OUT_TEXTS = _parts("""
The gardener forgot his yellow gloves again/Nobody expected such a bright winter morning/Please bring the ladder back
before supper/Her brother repairs old clocks and radios/Seven ducks crossed the muddy lane, then stopped/I would
rather walk than wait for another bus/They painted the kitchen door dark green/Our ship left the harbour at
sunrise/Every window in the tower was broken/A small boat drifted slowly down the river/We could hear thunder behind
the hills/Take your umbrella, it looks like rain/The baker sold us two warm loaves/My uncle keeps bees and writes
letters/Which of these pictures do you prefer/He carried the heavy basket upstairs/Children laughed when the clown
fell over/Leave a message with the woman at the desk/The soup needs pepper and a little salt/Somebody left a jacket
under the bench/You never told me why the concert ended early/Snow covered the fields for several weeks/The judge
asked him a simple question/Turn left at the bridge and follow the path/Room {12|twelve} is open today/We waited
{45|forty five} minutes for the train/The word {дом|dome} means a house/She counted {300|three hundred} stars last
night/Bus {7|seven} stops near the market/He shouted {東京|tokyo} and waved his hat
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What one voice is to say."""

    tokens: tuple[Token, ...]
    speaker: Speaker


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Said:
    """One utterance: float32 at 16 kHz, shape (num_samples,), peak at most 1, without silence at its ends.

    Word times are seconds from the first sample; None where espeak-ng reports no time for the word alone.
    """

    wave: Wave
    words: tuple[Timed, ...]
    tokens: tuple[Token, ...]
    voice: str


def tokens_of(text: str) -> tuple[Token, ...]:
    """Split a text, in which `{written|spoken}` is one token, into tokens."""
    found = re.findall(r"\{([^|}]+)\|([^}]*)\}|(\S+)", text)
    return tuple(Token(written or plain, spoken if written else plain) for written, spoken, plain in found)


def training_text(rng: random.Random) -> str:
    """Draw a template with random words, or random words with a comma here and there."""
    if rng.random() < 0.3:
        template = rng.choice(TEMPLATES)
        return template.format(*rng.choices(WORDS, k=template.count("{}")))
    words = [inflected(word, rng) for word in rng.choices(WORDS, k=rng.randint(4, 11))]
    return " ".join(word + "," * (rng.random() < 0.12) for word in words).strip(",")


def inflected(word: str, rng: random.Random) -> str:
    """The word, or now and then with an ending that the list lacks; espeak-ng can say those that do not exist too."""
    return word + rng.choice(ENDINGS) if len(word) > 2 and word[-1] in "dklmnprt" and rng.random() < 0.25 else word


def random_speaker(voice: str, rng: random.Random) -> Speaker:
    return Speaker(voice=voice, rate=rng.randint(135, 200), pitch=rng.randint(25, 75), range=rng.randint(30, 75))


def training_lines(per_voice: int, seed: int) -> list[list[Line]]:
    """The lines of each training voice."""
    rng = random.Random(seed)
    return [
        [Line(tokens=tokens_of(training_text(rng)), speaker=random_speaker(voice, rng)) for _ in range(per_voice)]
        for voice in TRAINING_VOICES
    ]


def held_out_lines(seed: int) -> list[list[Line]]:
    """The lines of each held-out voice: every text once."""
    rng = random.Random(seed)
    return [
        [Line(tokens=tokens_of(text), speaker=random_speaker(voice, rng)) for text in HELD_OUT_TEXTS]
        for voice in HELD_OUT_VOICES
    ]


def say(lines: Sequence[Line]) -> list[Said]:
    """Synthesise the lines of one voice, in order. Runs in a process of its own."""
    synthesiser = Synthesiser()
    said = []
    for line in lines:
        speech = synthesiser.speak(list(line.tokens), line.speaker)
        wave = soxr.resample(speech.pcm.astype(np.float32) / 32768, speech.rate, RATE)
        loud = np.flatnonzero(np.abs(wave) > 1e-3)
        first, last = int(loud[0]), int(loud[-1]) + 1
        words = tuple(
            Timed(w.written, _moved(w.start, first, last), _moved(w.end, first, last)) for w in speech.words
        )  # fmt: skip
        said.append(Said(wave=wave[first:last], words=words, tokens=line.tokens, voice=line.speaker.voice))
    return said


def _moved(seconds: float | None, first: int, last: int) -> float | None:
    return None if seconds is None else max(0.0, min(seconds, last / RATE) - first / RATE)


def say_all(groups: Sequence[Sequence[Line]]) -> list[Said]:
    """Synthesise all voices, each in a process of its own, in order."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        return [said for group in pool.map(say, groups) for said in group]


def letters(text: str) -> str:
    """The word in the model's labels: A to Z and the apostrophe."""
    return re.sub("[^A-Z']", "", text.upper())
