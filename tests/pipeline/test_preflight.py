"""Every mistake in what a recipe names is one clear line and exit code 2, before anything is written."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from jobs.cli import main
from pipeline.build import planned, planned_recipe
from pipeline.doctor import examine, missing_packages
from pipeline.drive import EngineSettings
from pipeline.fit import FitError, fit, fit_fingerprint
from pipeline.job import Limits
from pipeline.models import LicenceError, ModelRef, pin, pinned, portable, referenced, require_licences
from pipeline.plan import Plan
from pipeline.recipes import load_recipe
from pipeline.storage import publish_json
from schemas.canonical import sha256_hex

CHECKPOINTS = Path(__file__).resolve().parents[1] / "checkpoints"
HUBERT = CHECKPOINTS / "hubert_group"
CTC = CHECKPOINTS / "ctc_tiny"
VQVAE = CHECKPOINTS / "pitch_vqvae"
STYLE = CHECKPOINTS / "style_wav2vec2"


@pytest.fixture
def models(tmp_path) -> Path:
    """Copies of the test checkpoints that a test may damage, and a k-means codebook that fits the HuBERT."""
    root = tmp_path / "models"
    for folder in (HUBERT, VQVAE, STYLE):
        shutil.copytree(folder, root / folder.name)
    shutil.copytree(CTC, root / CTC.name, ignore=shutil.ignore_patterns("heldout"))
    width = json.loads((HUBERT / "config.json").read_text())["hidden_size"]
    np.save(root / "km.npy", np.random.default_rng(0).normal(size=(20, width)).astype(np.float32))
    return root


def overrides(models: Path, *more: str) -> list[str]:
    return [
        "units.backend=hubert",
        f"units.checkpoint={models / HUBERT.name}",
        "units.layer=2",
        f"units.quantiser.path={models / 'km.npy'}",
        "units.quantiser.clusters=20",
        "align.backend=ctc",
        f"align.checkpoint={models / CTC.name}",
        "pitch.backend=vqvae",
        f"pitch.checkpoint={models / VQVAE.name}",
        "style.backend=wav2vec2",
        f"style.checkpoint={models / STYLE.name}",
        *more,
    ]


def plan(tmp_path: Path, settings: list[str]):
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text('{"audio_filepath": "a.wav", "text": "hello"}\n')
    arguments = ["plan", "embedded", "--manifest", str(manifest), "--out", str(tmp_path / "out")]
    for setting in settings:
        arguments += ["--set", setting]
    return CliRunner().invoke(main, arguments)


def refused(tmp_path: Path, settings: list[str]) -> str:
    """Return the one line of an error with exit code 2 that left nothing behind."""
    result = plan(tmp_path, settings)
    assert result.exit_code == 2, result.output
    lines = [line for line in result.output.splitlines() if line]
    assert len(lines) == 1
    assert not (tmp_path / "out").exists()
    return lines[0]


def test_sound_models_are_accepted(tmp_path, models):
    result = plan(tmp_path, overrides(models))
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("units.layer=40", ("layer", "40")),
        ("units.quantiser.clusters=30", ("20", "30", "km.npy")),
        ("pitch.clusters=32", ("32", "64")),
        ("units.checkpoint=nowhere", ("nowhere", "missing")),
        ("units.sha256=" + "a" * 64, ("sha256", "hubert_group")),
        ("align.model=HUBERT_BASE", ("HUBERT_BASE",)),
        ("units.window_seconds=0.001", ("window_seconds",)),
        ("pitch.clusters=65536", ("pitch.clusters",)),
        ("text.sha256=" + "a" * 64, ("text", "sha256")),
        ("units.checkpoint=pyproject.toml", ("pyproject.toml",)),
        ("units.quantiser.path=tests", ("units.quantiser.path", "folder")),
        ("align.licence=CC-BY-NC-4.0", ("CC-BY-NC-4.0", "accept_noncommercial")),
        ("pitch.licence=FAIR Noncommercial Research License", ("accept_noncommercial",)),
    ],
)
def test_settings_that_do_not_fit_the_files(tmp_path, models, setting, parts):
    line = refused(tmp_path, overrides(models, setting))
    assert all(part in line for part in parts), line


def test_noncommercial_weights_pass_once_opted_in(tmp_path, models):
    settings = overrides(models, "align.licence=CC-BY-NC-4.0", "accept_noncommercial=true")
    assert plan(tmp_path, settings).exit_code == 0


@pytest.mark.parametrize("name", [HUBERT.name, CTC.name, STYLE.name])
def test_a_truncated_checkpoint(tmp_path, models, name):
    weights = models / name / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    line = refused(tmp_path, overrides(models))
    assert str(weights) in line


def test_a_truncated_pitch_model(tmp_path, models):
    weights = models / VQVAE.name / "model.pt"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert str(weights) in refused(tmp_path, overrides(models))


class Evil:
    """Its pickle writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self):
        return (open, (str(self._path), "w"))


@pytest.mark.parametrize("where", ["hubert_group/pytorch_model.bin", "pitch_vqvae/model.pt", "km.bin"])
def test_a_pickle_where_tensors_are_expected_is_never_run(tmp_path, models, where):
    (models / "hubert_group" / "model.safetensors").rename(models / "spare")
    if not where.startswith("hubert"):
        (models / "spare").rename(models / "hubert_group" / "model.safetensors")
    (models / where).write_bytes(pickle.dumps({"model": Evil(tmp_path / "ran")}))
    settings = overrides(models, *(["units.quantiser.path=" + str(models / "km.bin")] if where == "km.bin" else []))
    assert str(models / where) in refused(tmp_path, settings)
    assert not (tmp_path / "ran").exists()


def test_another_sample_rate(tmp_path, models):
    path = models / HUBERT.name / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sampling_rate": 8000}))
    line = refused(tmp_path, overrides(models))
    assert "8000" in line
    assert "16000" in line


def test_tensors_of_another_model(tmp_path, models):
    save_file({"weight": np.zeros(3, np.float32)}, models / HUBERT.name / "model.safetensors")
    assert str(models / HUBERT.name) in refused(tmp_path, overrides(models))


def test_a_replaced_model_is_refused_when_the_folder_is_planned_again(tmp_path, models):
    assert plan(tmp_path, overrides(models)).exit_code == 0
    np.save(models / "km.npy", np.zeros((19, 1), np.float32))
    assert plan(tmp_path, overrides(models)).exit_code == 2


def test_doctor_ends_with_2_where_a_run_would_not_start(models):
    settings = [argument for setting in overrides(models) for argument in ("--set", setting)]
    sound = CliRunner().invoke(main, ["doctor", "embedded", *settings])
    assert sound.exit_code == 0, sound.output
    assert "ready" in sound.output
    (models / "km.npy").unlink()
    broken = CliRunner().invoke(main, ["doctor", "embedded", *settings])
    assert broken.exit_code == 2
    assert "km.npy is missing" in broken.output


@pytest.mark.parametrize("name", ["spiritlm_base", "spiritlm_expressive", "twist_25hz", "mms_multilingual"])
def test_the_bundled_recipes_say_what_they_need(name):
    recipe = load_recipe(name)
    found = examine(recipe)
    assert found.files
    for file in found.files:
        assert file.ref.licence
        assert file.ref.origin in file.problem
        assert file.ref.licence in file.problem
    assert not missing_packages(recipe)


@pytest.mark.parametrize(
    ("licence", "noncommercial"),
    [
        ("CC-BY-NC-4.0", True),
        ("cc-by-nc-sa-4.0", True),
        ("FAIR Noncommercial Research License", True),
        ("Non-commercial use only", True),
        ("CC_BY_NC", True),
        ("(CC-BY-NC)", True),
        ("CC-BY-NC4.0", True),
        ("not for commercial use", True),
        ("research only", True),
        ("MIT", False),
        ("Apache-2.0", False),
        ("", False),
        ("CC-BY-4.0", False),
    ],
)
def test_licences(licence, noncommercial):
    assert ModelRef("n", "w", "p", "", licence, "").noncommercial == noncommercial


def test_licences_of_every_section_count():
    recipe = load_recipe("spiritlm_expressive")
    assert {ref.name for ref in referenced(recipe) if ref.noncommercial} == {
        "align_model",
        "units",
        "pitch",
        "style_model",
    }
    with pytest.raises(LicenceError, match="accept_noncommercial"):
        require_licences(recipe)
    require_licences(recipe.model_copy(update={"accept_noncommercial": True}))


def test_a_known_sha256_is_checked(tmp_path, models):
    right = sha256_hex((models / "km.npy").read_bytes())
    assert plan(tmp_path, overrides(models, f"units.quantiser.sha256={right}")).exit_code == 0


@pytest.mark.parametrize("content", [b"", b"hello\n"])
def test_a_tokenizer_that_is_none(tmp_path, models, content):
    (models / "bad.model").write_bytes(content)
    assert str(models / "bad.model") in refused(tmp_path, overrides(models, f"text.path={models / 'bad.model'}"))


def test_a_tokenizer_that_loses_characters(tmp_path, models):
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a small text of small words"] * 20),
        model_prefix=str(models / "lossy"),
        vocab_size=16,
        minloglevel=2,
    )
    line = refused(tmp_path, overrides(models, f"text.path={models / 'lossy.model'}"))
    assert "byte fallback" in line


def test_weights_that_are_not_finite(tmp_path, models):
    path = models / HUBERT.name / "model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[0]
    tensors[name] = np.full_like(tensors[name], np.nan)
    save_file(tensors, path)
    assert name.rpartition(".")[2] in refused(tmp_path, overrides(models))


def test_a_configuration_that_would_ask_for_endless_memory(tmp_path, models):
    path = models / HUBERT.name / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_hidden_layers": 10_000_000}))
    assert "10000000" in refused(tmp_path, overrides(models))


@pytest.mark.parametrize("setting", ["qc.min_score_all=-1", "qc.min_silence_score=-1"])
def test_thresholds_that_an_aligner_has_no_scores_for(tmp_path, models, setting):
    backend = ["align.backend=whisperx", f"align.checkpoint={models / CTC.name}"]
    assert setting.partition("=")[0] in refused(tmp_path, [*backend, setting])


def test_imported_alignments_that_know_no_row(tmp_path):
    (tmp_path / "other.ctm").write_text("somebody 1 0.00 0.50 hello\n")
    settings = ["align.backend=imported", f"align.path={tmp_path / 'other.ctm'}"]
    assert "a.wav" in refused(tmp_path, settings)
    (tmp_path / "other.ctm").write_text("a 1 0.00 0.50 hello\n")
    assert plan(tmp_path, settings).exit_code == 0


def test_a_device_that_is_not_there(models):
    for device in ("cuda:99", "banana"):
        result = CliRunner().invoke(main, ["doctor", "embedded", "--device", device])
        assert result.exit_code == 2
        assert device in result.output


def test_a_planned_folder_means_the_same_from_anywhere(tmp_path, models, monkeypatch):
    """Paths are made absolute and files pinned when a folder is planned; the dataset itself will not name places."""
    monkeypatch.chdir(models.parent)
    relative = [setting.replace(str(models), "models") for setting in overrides(Path("models"))]
    assert plan(tmp_path, relative).exit_code == 0
    monkeypatch.chdir("/")
    recipe = planned_recipe(str(tmp_path / "out"))
    assert recipe.units.checkpoint == str(models / HUBERT.name)
    assert pin(recipe)["units_model"].sha256 == recipe.units.sha256
    made = planned(str(tmp_path / "out"))
    assert fit_fingerprint(made, recipe, pinned(recipe)) == fit_fingerprint(made, recipe, pin(recipe))
    told = portable(recipe)
    assert (told.units.checkpoint, told.units.quantiser.path) == (HUBERT.name, "km.npy")
    assert plan(tmp_path, overrides(models)).exit_code == 0


def test_the_fit_does_not_depend_on_the_aligner_or_on_f0_that_nobody_needs(models):
    def fingerprint(*settings):
        recipe = load_recipe("embedded", [*settings, "sequence.stream=base", "pitch=null", "style=null"])
        made = Plan(root="r", base="b", fingerprint="f", sizes=(1.0,), inputs=(1,))
        return fit_fingerprint(made, recipe, pin(recipe))

    base = fingerprint()
    ctc = ("align.backend=ctc", f"align.checkpoint={models / CTC.name}")
    assert fingerprint(*ctc) == fingerprint("f0.backend=yaapt") == base
    assert fingerprint("units.clusters=7") != base
    assert fingerprint("seed=1") != base
    assert fingerprint("decode.max_seconds=60") != base


def test_a_folder_whose_codebook_is_gone_says_so(tmp_path):
    root, recipe = str(tmp_path), load_recipe("embedded")
    made = Plan(root=root, base="b", fingerprint="f", sizes=(1.0,), inputs=(1,))
    entries = {"units": {"path": "artifacts/units.npy", "sha256": "0" * 64}}
    value = {"artifacts": entries, "fingerprint": fit_fingerprint(made, recipe, {}), "format": "interloom-artifacts/1"}
    publish_json(value, f"{root}/artifacts/artifacts.json")
    with pytest.raises(FitError, match=r"units\.npy is missing or damaged"):
        fit(root, made, recipe, EngineSettings(), Limits(), lambda *_: None)
