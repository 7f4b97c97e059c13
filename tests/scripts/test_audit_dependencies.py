"""The audit of dependencies over made-up distributions and advisories."""

from email.message import Message

import pytest

from scripts.audit_dependencies import licence_of, main, read_pins, unpinned, vulnerable


def metadata(**fields: str | list[str]) -> Message:
    made = Message()
    for name, values in fields.items():
        for value in [values] if isinstance(values, str) else values:
            made[name.replace("_", "-")] = value
    return made


def test_pins_are_read_by_their_normal_names() -> None:
    assert read_pins("# top\nAMFM_decompy==1.0.12\nzope.x==2 ; python_version>'3'\n\n") == {
        "amfm-decompy": "1.0.12",
        "zope-x": "2",
    }


@pytest.mark.parametrize("line", ["numpy>=2", "numpy", "-e .", "numpy==", "https://x/y.whl"])
def test_what_pins_nothing_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match="line 1 is no pin"):
        read_pins(line)


def test_what_is_not_pinned_or_differs_is_told() -> None:
    installed = {"a": "1", "b": "2", "c": "3+cpu", "pip": "9"}
    assert unpinned(installed, {"b": "3", "c": "3", "d": "4"}) == [
        "a==1 is installed and has no pin",
        "b==2 is installed, the pin says 3",
    ]


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"License_Expression": "Apache-2.0"}, "permissive"),
        ({"License": "MIT License\nCopyright"}, "permissive"),
        ({"Classifier": ["License :: OSI Approved :: BSD License"]}, "permissive"),
        ({"License_Expression": "LGPL-2.1-or-later"}, "restrictive"),
        ({"License_Expression": "MPL-2.0 AND MIT"}, "restrictive"),
        ({"License_Expression": "MIT OR GPL-2.0"}, "permissive"),
        ({"Classifier": ["License :: Other/Proprietary License"]}, "restrictive"),
        ({"Classifier": ["License :: OSI Approved"]}, "unclear"),
        ({}, "unclear"),
    ],
)
def test_licences_are_sorted(fields: dict[str, str | list[str]], kind: str) -> None:
    assert licence_of(metadata(**fields)).kind == kind


def advisory(**affected: object) -> dict[str, object]:
    package = {"ecosystem": "PyPI", "name": "Left.Pad"}
    return {"id": "X-1", "summary": "bad", "affected": [{"package": package, **affected}]}


@pytest.mark.parametrize(
    ("version", "events", "hit"),
    [
        ("1.5", [{"introduced": "0"}, {"fixed": "1.6"}], True),
        ("1.6", [{"introduced": "0"}, {"fixed": "1.6"}], False),
        ("1.10", [{"introduced": "0"}, {"fixed": "1.6"}], False),
        ("1.10", [{"introduced": "1.9"}], True),
        ("2.0", [{"introduced": "0"}, {"last_affected": "2.0"}], True),
        ("2.1", [{"introduced": "0"}, {"last_affected": "2.0"}], False),
        ("3.1", [{"introduced": "0"}, {"fixed": "1"}, {"introduced": "3"}, {"fixed": "3.2"}], True),
        ("2.5", [{"introduced": "0"}, {"fixed": "1"}, {"introduced": "3"}, {"fixed": "3.2"}], False),
    ],
)
def test_ranges_of_osv(version: str, events: list[dict[str, str]], hit: bool) -> None:
    found = vulnerable({"left-pad": version}, [advisory(ranges=[{"type": "ECOSYSTEM", "events": events}])])
    assert found == ([f"left-pad=={version}: X-1 bad"] if hit else [])


def test_listed_versions_and_other_ecosystems() -> None:
    assert vulnerable({"left-pad": "1"}, [advisory(versions=["1"])])
    other = advisory(versions=["1"])
    other["affected"][0]["package"]["ecosystem"] = "npm"  # type: ignore[index]
    assert vulnerable({"left-pad": "1"}, [other]) == []


def test_a_missing_pin_is_exit_code_1(tmp_path, capsys) -> None:
    (tmp_path / "none.txt").write_text("nothing-of-that-name==1\n")
    assert main(["--constraints", str(tmp_path / "none.txt")]) == 1
    told = capsys.readouterr()
    assert "numpy==" in told.err
    assert "not looked for" in told.out
