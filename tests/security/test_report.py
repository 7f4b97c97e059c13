"""The report as an attacker sees it: what a browser would run or fetch in a page made of hostile data."""

from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.audit import audit
from tests import audit_builders as builders

URLS = {"src", "href", "action", "formaction", "data", "poster", "background", "srcset", "ping", "xlink:href", "cite"}


class Page(HTMLParser):
    """Collects the elements of a page, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def policy(self) -> dict[str, list[str]]:
        content = next(a["content"] for _, a in self.elements if a.get("http-equiv") == "Content-Security-Policy")
        return {part.split()[0]: part.split()[1:] for part in content.split(";") if part.strip()}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = tmp_path_factory.mktemp("report")
    built = builders.hostile_dataset(folder / "data")
    audit(str(built.root), folder / "report.html", examples=2)
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def handlers(page: Page) -> list[str]:
    return [name for _, attributes in page.elements for name in attributes if name.startswith("on")]


def fetched(page: Page) -> list[str]:
    found = [a[name] for _, a in page.elements for name in URLS & set(a)]
    return [url for url in found if not url.startswith(("data:", "#"))]


def test_no_element_has_an_inline_handler(page: Page) -> None:
    assert handlers(page) == []


def test_nothing_is_fetched_and_no_url_runs(page: Page) -> None:
    assert fetched(page) == []
    assert {tag for tag, _ in page.elements} & {"iframe", "object", "embed", "base", "form", "img", "applet"} == set()


def test_the_checks_would_see_them() -> None:
    bad = Page('<a href="javascript:x()">a</a><p OnClick="x()">b</p><img src="//host/x">')
    assert handlers(bad) == ["onclick"]
    assert fetched(bad) == ["javascript:x()", "//host/x"]


def test_the_policy_stands_before_anything_that_it_governs(page: Page) -> None:
    tags = [tag if "http-equiv" not in a else "policy" for tag, a in page.elements]
    assert tags[: tags.index("policy")] == ["html", "head", "meta"]


def test_the_policy_allows_two_scripts_by_hash_and_nothing_from_elsewhere(page: Page) -> None:
    policy = page.policy()
    assert policy["default-src"] == ["'none'"]
    assert policy["base-uri"] == policy["form-action"] == ["'none'"]
    assert len(policy["script-src"]) == 2
    assert all(source.startswith("'sha256-") for source in policy["script-src"])
    sources = {source for name, all_ in policy.items() if name != "script-src" for source in all_}
    assert sources == {"'none'", "data:", "'unsafe-inline'"}
    assert [name for name, all_ in policy.items() if "'unsafe-inline'" in all_] == ["style-src"]


def test_our_script_writes_no_html() -> None:
    script = (Path(__file__).resolve().parents[2] / "pipeline" / "templates" / "report.js").read_text()
    for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "setTimeout("):
        assert sink not in script
