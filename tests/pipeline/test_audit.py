"""The audit against oracles computed from the records themselves, and the report against hostile data."""

import base64
import hashlib
import io
import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from xml.etree import ElementTree

import fsspec
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pipeline.audit import audit, print_tables
from pipeline.audit.aggregate import BINS, MAX_REJECTS, round_bins
from pipeline.audit.charts import label
from pipeline.audit.draws import recipe_draw
from pipeline.audit.figure import LEFT, scale_for, utterance_svg
from pipeline.audit.report import json_for_script
from pipeline.audit.summary import DrawnExample, DrawnSpan
from pipeline.dataset import BadDataset, Dataset
from stages.documents import document_from
from stages.interleave import interleaved_string
from tests import audit_builders as builders
from tests.audit_builders import Built, hostile_dataset, record, write_dataset


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return hostile_dataset(tmp_path_factory.mktemp("audit") / "data")


@pytest.fixture(scope="module")
def summary(built: Built):
    return audit(str(built.root), None, examples=4)


@pytest.fixture(scope="module")
def page(built: Built, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("report") / "report.html"
    audit(str(built.root), out, examples=4)
    return out.read_text(encoding="utf-8")


def whole_text(records) -> DrawnExample:
    words = sum(len(r.words) for r in records)
    return DrawnExample(spans=(DrawnSpan(modality="text", words=words, tokens=1, content="x", last=True),))


# Aggregates


def test_totals_are_sums_over_the_records(built: Built, summary) -> None:
    records, totals = built.records, summary.totals
    assert totals.utterances == len(records)
    assert totals.num_samples == sum(r.num_samples for r in records)
    assert totals.words == sum(len(r.words) for r in records)
    assert totals.unaligned == sum(w.start is None for r in records for w in r.words)
    assert totals.doubtful == sum(len(r.doubtful) for r in records)
    assert totals.recordings == len({r.meta["recording"] for r in records})
    assert totals.speakers == len({r.meta["speaker"] for r in records})
    assert totals.speech_tokens == sum(builders.runs(r.streams["hubert"]) for r in records)
    assert totals.hours == pytest.approx(sum(r.num_samples for r in records) / 16_000 / 3_600)


@pytest.mark.parametrize("column", ["source", "speaker", "language", "license"])
def test_a_breakdown_groups_the_records_by_their_own_values(built: Built, summary, column: str) -> None:
    breakdown = next(b for b in summary.breakdowns if b.column == column)
    want = Counter(r.meta[column] for r in built.records)
    assert {g.value: g.utterances for g in breakdown.groups} == want
    assert breakdown.distinct == len(want)
    assert sum(g.num_samples for g in breakdown.groups) == summary.totals.num_samples
    assert sum(g.words for g in breakdown.groups) == summary.totals.words
    samples = [g.num_samples for g in breakdown.groups]
    assert samples == sorted(samples, reverse=True)


def test_histograms_count_like_numpy(built: Built, summary) -> None:
    records = built.records
    values = {
        "duration": [r.num_samples / 16_000 for r in records],
        "rate": [len(r.words) * 16_000 / r.num_samples for r in records],
        "score_all": [r.meta["score_all"] for r in records],
        "score_worst": [min(w.score for w in r.words if w.score is not None) for r in records],
    }
    for name, expected in values.items():
        shape = summary.histograms[name]
        edges = np.array(shape.edges)
        # The last bin of numpy is closed, ours are half-open: nudge the oracle's last edge.
        assert shape.counts == tuple(np.histogram(expected, [*edges[:-1], edges[-1] + 1e-9])[0])
        assert shape.quantiles == pytest.approx(np.quantile(expected, [0.05, 0.25, 0.5, 0.75, 0.95]))
        assert shape.mean == pytest.approx(np.mean(expected))


@given(low=st.floats(-1e4, 1e4), span=st.floats(1e-3, 1e5), most=st.integers(8, BINS))
def test_round_bins_cover_the_range_with_few_bins(low: float, span: float, most: int) -> None:
    first, step, bins = round_bins(low, low + span, most=most)
    slack = 1e-9 * max(1.0, abs(low) + span)
    assert first <= low + slack
    assert first + bins * step >= low + span - slack
    assert 1 <= bins <= most + 1
    assert f"{step:e}"[0] in "125"


def test_unit_usage_is_counted_over_all_frames(built: Built, summary) -> None:
    for usage in summary.units:
        ids = np.concatenate([r.streams[usage.contract.stream] for r in built.records])
        counts = np.bincount(ids, minlength=usage.contract.codebook_size)
        assert usage.counts == tuple(counts)
        share = counts[counts > 0] / counts.sum()
        assert usage.entropy_bits == pytest.approx(float(-(share * np.log2(share)).sum()))
        assert usage.dead == int((counts == 0).sum()) > 0


def test_pitch_by_speaker_is_over_voiced_utterances(built: Built, summary) -> None:
    for found in summary.pitch:
        mine = [r for r in built.records if r.meta["speaker"] == found.speaker]
        medians = [float(np.median(r.f0[r.f0 > 0])) for r in mine]
        assert found.utterances == len(mine)
        assert found.quantiles[2] == pytest.approx(np.median(medians))


def test_rejects_are_counted_by_reason_and_the_first_are_kept(built: Built, summary) -> None:
    assert dict(summary.rejects.reasons) == Counter(r["reason"] for r in built.rejects)
    assert summary.rejects.first == built.rejects
    assert summary.rejects.rate == len(built.rejects) / (len(built.rejects) + len(built.records))


def test_no_more_rejects_are_read_than_shown(tmp_path) -> None:
    many = [{"key": f"r{i}", "id": f"r{i}", "stage": "decode", "reason": "silent", "detail": ""} for i in range(80)]
    built = write_dataset(tmp_path / "d", [[record("a")], [record("b")]], [many[:45], many[45:]])
    found = audit(str(built.root), None, examples=0).rejects
    assert found.count == 80
    assert [r["id"] for r in found.first] == [f"r{i}" for i in range(MAX_REJECTS)]


def test_counts_that_disagree_are_reported(built: Built, tmp_path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(built.root, root)
    path = root / "shards" / "shard-000001.commit.json"
    commit = json.loads(path.read_text())
    commit["inputs"] += 1
    path.write_text(json.dumps(commit))
    bad = [check.name for check in audit(str(root), tmp_path / "r.html", examples=0).checks if not check.ok]
    assert bad == ["commit records count every input"]
    assert "1 count differs" in (tmp_path / "r.html").read_text(encoding="utf-8")


# Draws and examples


def test_draws_see_documents_of_consecutive_records_of_one_recording(built: Built) -> None:
    seen = []

    def draw(records) -> DrawnExample:
        seen.append([(r.meta["recording"], r.meta["index"]) for r in records])
        return whole_text(records)

    found = audit(str(built.root), None, examples=0, draw=draw).draws
    assert found.documents == len(seen) == 6
    assert found.records == len(built.records)
    for document in seen:
        assert len({recording for recording, _ in document}) == 1
        assert [i for _, i in document] == list(range(document[0][1], document[0][1] + len(document)))
    assert found.words == {"text": sum(len(r.words) for r in built.records), "speech": 0}


@pytest.mark.parametrize("most", [0, 1, 5, 9, 1_000])
def test_no_more_records_are_drawn_from_than_allowed(built: Built, most: int) -> None:
    found = audit(str(built.root), None, examples=0, max_draws=most, draw=whole_text).draws
    assert found.records <= most
    assert found.records >= min(most, 1)


def test_a_few_draws_still_come_from_every_shard(built: Built) -> None:
    keys = []

    def draw(records) -> DrawnExample:
        keys.extend(r.key[:2] for r in records)
        return whole_text(records)

    audit(str(built.root), None, examples=0, max_draws=4, draw=draw)
    assert Counter(keys) == {"k0": 2, "k1": 2}


def test_span_lengths_and_shares_are_tallied(tmp_path) -> None:
    built = write_dataset(tmp_path / "d", [[record("a", words=20)]])
    spans = (
        DrawnSpan(modality="text", words=12, tokens=20, content="t"),
        DrawnSpan(modality="speech", words=4, tokens=60, content="[Hu1]"),
        DrawnSpan(modality="text", words=4, tokens=20, content="t", last=True),
    )
    found = audit(str(built.root), None, examples=0, draw=lambda _: DrawnExample(spans=spans)).draws
    assert found.lengths == {"text": {12: 1}, "speech": {4: 1}}
    assert found.final == {"text": {4: 1}, "speech": {}}
    assert found.within_bounds("text") == 1
    assert found.within_bounds("speech") == 0
    assert found.word_shares == (0.2,)
    assert found.token_shares == (0.6,)


def test_the_recipes_draw_is_the_interleaved_string_of_the_stage(built: Built) -> None:
    import sentencepiece

    from schemas.canonical import rng_for
    from stages.policies import draw_spans

    dataset = Dataset.open(str(built.root))
    document = document_from(list(built.splits[0][:4]), dataset.contracts)
    sequence = dataset.recipe.sequence
    rng = rng_for(3, 0, document.key)
    spans = draw_spans(len(document.words), document.closed_boundaries(), sequence.policy, rng)
    drawn = recipe_draw(dataset, seed=3)(list(built.splits[0][:4]))
    joined = "".join(f"[{span.modality.title()}]{span.content}" for span in drawn.spans)
    assert joined == interleaved_string(document, spans, sequence)
    assert [span.words for span in drawn.spans] == [span.end_word - span.start_word for span in spans]
    assert [span.last for span in drawn.spans] == [False] * (len(spans) - 1) + [True]
    processor = sentencepiece.SentencePieceProcessor(model_proto=builders.tokenizer())
    for span in drawn.spans:
        body = len(processor.encode(span.content)) if span.modality == "text" else span.content.count("[")
        assert span.tokens == 1 + body


def test_the_worst_examples_hold_the_lowest_scores(built: Built, summary) -> None:
    worst_mean = min(built.records, key=lambda r: (r.meta["score_all"], r.key))
    worst_word = min(built.records, key=lambda r: (min(w.score for w in r.words if w.score is not None), r.key))
    keys = [example.record.key for example in summary.worst]
    assert len(set(keys)) == len(keys) == 4
    assert keys[0] == worst_mean.key
    assert worst_word.key in keys


def test_the_worst_are_taken_by_mean_score_and_by_word_score_in_turns(tmp_path) -> None:
    def scored(key: str, score_all: float, worst: float):
        item = record(key, score_all=score_all)
        return builders.with_words(item, [item.words[0]._replace(score=worst), *item.words[1:]])

    items = [scored("a", -5.0, -7.5), scored("b", -8.0, -7.6), scored("c", -4.0, -9.5), scored("d", -7.0, -7.7)]
    built = write_dataset(tmp_path / "d", [items])
    found = audit(str(built.root), None, examples=3, max_draws=0, draw=whole_text).worst
    assert [(example.record.key, example.why) for example in found] == [
        ("b", "lowest mean score"),
        ("c", "lowest word score"),
        ("d", "lowest mean score"),
    ]


def test_random_examples_depend_on_the_seed_alone(built: Built) -> None:
    def chosen(seed: int) -> list[str]:
        found = audit(str(built.root), None, seed=seed, examples=6, max_draws=0, draw=whole_text)
        return [example.record.key for example in found.random]

    want = sorted((r.key for r in built.records), key=lambda k: hashlib.md5(f"7/{k}".encode()).hexdigest())[:6]
    assert chosen(7) == want
    assert chosen(7) != chosen(8)


# The report


class Page(HTMLParser):
    """Collects elements and the text of scripts as a browser's parser sees them."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text: list[str] = []
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        else:
            self.text.append(data)


def test_hostile_strings_stay_text(page: str) -> None:
    found = Page(page)
    names = Counter(tag for tag, _ in found.tags)
    assert names["script"] == 3
    assert names["img"] == 0
    assert not any(attrs.get("id") == "injected" for _, attrs in found.tags)
    assert not any(name.startswith("on") for _, attrs in found.tags for name in attrs)
    seen = "\n".join(found.text)
    for hostile in (*builders.HOSTILE[:2], builders.FORMULA, builders.LINK):
        assert hostile in seen


def test_the_page_refers_to_nothing_outside_itself(page: str) -> None:
    for tag, attrs in Page(page).tags:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            target = attrs.get(name)
            assert target is None or target.startswith(("data:", "#")), (tag, target)
    assert "@import" not in page[: page.index("<body>")]
    assert "url(" not in page[: page.index("<body>")]


def test_the_policy_allows_exactly_the_scripts_of_the_page(page: str) -> None:
    found = Page(page)
    policy = next(a["content"] for t, a in found.tags if a.get("http-equiv") == "Content-Security-Policy")
    run = [text for attrs, text in found.scripts if attrs.get("type") != "application/json"]
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(t.encode()).digest()).decode()}'" for t in run]
    assert re.search(r"script-src ([^;]*);", policy)[1].split() == hashes
    assert policy.startswith("default-src 'none';")
    assert "unsafe-eval" not in policy


def test_every_chart_has_a_place_and_axis_titles(page: str) -> None:
    found = Page(page)
    figures = json.loads(next(text for attrs, text in found.scripts if attrs.get("type") == "application/json"))
    places = [a["id"] for _, a in found.tags if (a.get("id") or "").startswith("chart-")]
    assert sorted(places) == sorted(f"chart-{key}" for key in figures)
    assert len(figures) >= 15
    for figure in figures.values():
        assert figure["layout"]["xaxis"]["title"]["text"]


def test_the_page_says_what_made_each_label(page: str) -> None:
    text = "\n".join(Page(page).text)
    for want in ("pocketsphinx", "mfcc-kmeans", "f0-codebook", "prosody-kmeans", "sentencepiece", "units at 12.5 Hz"):
        assert want in text
    assert "these are not HuBERT units" in text


def test_the_audio_of_the_page_is_the_audio_of_the_records(page: str, summary) -> None:
    sounds = [attrs["src"] for tag, attrs in Page(page).tags if tag == "audio"]
    examples = [*summary.worst, *summary.random]
    assert [base64.b64decode(s.partition(",")[2]) for s in sounds] == [e.record.flac for e in examples]
    assert all(s.startswith("data:audio/flac;base64,") for s in sounds)


def test_the_report_is_a_pure_function_of_the_dataset(built: Built, page: str, tmp_path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(built.root, copy)
    audit(str(copy), tmp_path / "again.html", examples=4)
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page


def test_records_without_audio_or_f0_get_a_note_instead(tmp_path) -> None:
    built = hostile_dataset(tmp_path / "d", audio=False, f0=False, per_split=4)
    audit(str(built.root), tmp_path / "r.html", examples=2)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    found = Page(text)
    assert not any(tag == "audio" for tag, _ in found.tags)
    assert "This record holds no audio" in text
    assert "no F0 in this record" in text


def test_audio_that_cannot_be_decoded_gets_a_note(tmp_path) -> None:
    from dataclasses import replace

    broken = replace(record("a"), flac=b"fLaC not really")
    assert "cannot be decoded" in utterance_svg(broken, [])


def test_a_dataset_without_records_still_has_a_report(tmp_path) -> None:
    reject = {"key": "r", "id": "r", "stage": "decode", "reason": "silent", "detail": "r.flac"}
    built = write_dataset(tmp_path / "d", [[]], [[reject]])
    summary = audit(str(built.root), tmp_path / "r.html")
    assert summary.totals.utterances == 0
    assert summary.rejects.rate == 1
    assert "silent" in (tmp_path / "r.html").read_text(encoding="utf-8")
    print_tables(summary, Console(file=io.StringIO()))


def test_the_figure_is_well_formed_and_true_to_time(built: Built) -> None:
    item = next(r for r in built.records if r.doubtful)
    modalities = ["text"] * len(item.words)
    svg = ElementTree.fromstring(utterance_svg(item, modalities))
    scale = scale_for(item.num_samples)
    boxes = {int(g.get("data-word")): g for g in svg.iter("g")}
    assert sorted(boxes) == [i for i, w in enumerate(item.words) if w.start is not None]
    for index, box in boxes.items():
        word, rect = item.words[index], box.find("rect")
        assert float(rect.get("x")) == pytest.approx(LEFT + word.start / 16_000 * scale.per_second, abs=0.06)
        assert float(rect.get("width")) == pytest.approx((word.end - word.start) / 16_000 * scale.per_second, abs=0.06)
        assert ("doubt" in box.get("class").split()) == (index in item.doubtful)
        assert box.find("title").text.startswith(word.text)


def test_the_waveform_spans_the_clip_and_touches_its_peak(built: Built) -> None:
    item = built.records[0]
    svg = ElementTree.fromstring(utterance_svg(item, []))
    path = next(p for p in svg.iter("path") if p.get("class") == "wave")
    points = np.array([[float(v) for v in p.split()] for p in path.get("d")[1:-1].split("L")])
    wave, _ = soundfile.read(io.BytesIO(item.flac))
    loudest = LEFT + np.argmax(np.abs(wave)) / 16_000 * scale_for(item.num_samples).per_second
    middle = points[:, 1].mean()
    peak = points[np.argmax(np.abs(points[:, 1] - middle)), 0]
    assert abs(peak - loudest) < 3 or np.sum(np.abs(wave) > 0.999 * np.abs(wave).max()) > 1
    assert points[:, 0].max() == pytest.approx(scale_for(item.num_samples).x(item.num_samples), abs=2)


json_values = st.recursive(
    st.text() | st.integers() | st.booleans(), lambda v: st.lists(v) | st.dictionaries(st.text(), v), max_leaves=6
)


@given(value=json_values)
def test_json_in_a_script_cannot_end_it_and_reads_back(value) -> None:
    text = json_for_script(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == value


@given(value=st.text() | st.text(alphabet="<>&\"'/ab\x1b\u202e"))
def test_labels_hold_no_tag_and_no_control_character(value: str) -> None:
    text = label(value)
    assert "<" not in text
    assert text.isprintable()


# The terminal, and what goes wrong


def test_the_tables_show_hostile_values_literally(tmp_path) -> None:
    items = [record("a", speaker=builders.TERMINAL), record("b", speaker="[bold]b[/bold]")]
    built = write_dataset(tmp_path / "d", [items])
    stream = io.StringIO()
    print_tables(audit(str(built.root), None, examples=0), Console(file=stream, width=160))
    text = stream.getvalue()
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]" in text
    assert "[bold]b[/bold]" in text


def test_the_tables_show_the_headline_figures(summary) -> None:
    stream = io.StringIO()
    print_tables(summary, Console(file=stream, width=160))
    text = stream.getvalue()
    for want in ("river", f"{summary.totals.words:,}", "mfcc-kmeans", "no_alignment", "By license", "pocketsphinx"):
        assert want in text


def test_a_dataset_in_another_store_is_read_through_fsspec(built: Built) -> None:
    store = fsspec.filesystem("memory")
    store.put(str(built.root), "/audit-test", recursive=True)
    try:
        found = audit("memory://audit-test", None, examples=1)
    finally:
        store.rm("/audit-test", recursive=True)
    assert found.totals.utterances == len(built.records)
    assert len(found.worst) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [("shards/shard-000001.stats.parquet", "statistics"), ("artifacts/tokenizer.model", "sha256")],
)
def test_a_damaged_file_is_named(built: Built, tmp_path, name: str, message: str) -> None:
    root = tmp_path / "copy"
    shutil.copytree(built.root, root)
    (root / name).write_bytes(b"damaged")
    with pytest.raises(ValueError, match=message):
        audit(str(root), None)


def test_a_record_missing_from_its_shard_is_named(built: Built, tmp_path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(built.root, root)
    shutil.copy(root / "shards" / "shard-000000.tar", root / "shards" / "shard-000001.tar")
    with pytest.raises(BadDataset, match=r"shard-000001\.tar lacks"):
        audit(str(root), None, max_draws=0, draw=whole_text)


def test_negative_counts_are_refused(built: Built) -> None:
    with pytest.raises(ValueError, match="-1"):
        audit(str(built.root), None, examples=-1)
