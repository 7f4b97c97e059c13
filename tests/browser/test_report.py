"""The report in a real browser without a network: it renders, it plays, and hostile data stays text."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from pipeline.audit import audit
from tests import audit_builders as builders

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="chromium and chromedriver are not installed"),
]

Browser = webdriver.Chrome


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    built = builders.hostile_dataset(folder / "data")
    audit(str(built.root), folder / "report.html", examples=3)
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser(report: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-dev-shm-usage", "--window-size=1400,1000", "--autoplay-policy=no-user-gesture-required",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    try:
        driver.execute_cdp_cmd("Network.enable", {})
        driver.execute_cdp_cmd(
            "Network.emulateNetworkConditions",
            {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0},
        )
        driver.get(report.as_uri())
        WebDriverWait(driver, 60).until(lambda d: d.find_elements(By.CSS_SELECTOR, "svg.main-svg"))
        yield driver
    finally:
        driver.quit()


def test_nothing_is_wrong_in_the_console(browser: Browser) -> None:
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def test_nothing_is_asked_of_the_network(browser: Browser) -> None:
    names = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in names if not name.startswith("data:")] == []


def test_every_chart_is_drawn_with_its_data(browser: Browser) -> None:
    plots = browser.find_elements(By.CSS_SELECTOR, ".plot")
    assert len(plots) >= 15
    for plot in plots:
        assert plot.find_elements(By.CSS_SELECTOR, "svg.main-svg"), plot.get_attribute("id")
        marks = ".trace path, .trace .point, .hm image, .boxlayer path"
        assert plot.find_elements(By.CSS_SELECTOR, marks), plot.get_attribute("id")


def test_hostile_data_runs_nothing_and_reads_literally(browser: Browser) -> None:
    assert browser.execute_script("return window.pwned === undefined")
    assert browser.find_elements(By.ID, "injected") == []
    assert browser.find_elements(By.CSS_SELECTOR, "main img, main a, main [onerror]") == []
    ticks = [t.get_attribute("textContent") for t in browser.find_elements(By.CSS_SELECTOR, "#chart-f0 .ytick text")]
    assert any(t.startswith("<script>window.pwned") for t in ticks)
    assert any(t.startswith('anna <a href="') for t in ticks)


def test_every_sound_can_be_played(browser: Browser) -> None:
    ready = "return [...document.querySelectorAll('audio')].map(a => a.readyState)"
    WebDriverWait(browser, 30).until(lambda d: all(state >= 2 for state in d.execute_script(ready)))
    lengths = browser.execute_script("return [...document.querySelectorAll('audio')].map(a => a.duration)")
    figures = browser.find_elements(By.CSS_SELECTOR, ".example:has(audio) svg.utterance")
    assert len(lengths) == len(figures) == 6
    assert lengths == pytest.approx([float(f.get_attribute("data-seconds")) for f in figures], abs=0.01)


def test_the_cursor_follows_the_sound_and_one_sound_plays_at_a_time(browser: Browser) -> None:
    browser.execute_script("window.sounds = [...document.querySelectorAll('audio')]; sounds[0].play()")
    WebDriverWait(browser, 20).until(lambda d: d.execute_script("return sounds[0].currentTime > 0.5"))
    cursor = browser.find_elements(By.CSS_SELECTOR, "svg.utterance .cursor")[0]
    first = float(cursor.get_attribute("x1"))
    WebDriverWait(browser, 20).until(lambda _: float(cursor.get_attribute("x1")) > first)
    browser.execute_script("sounds[1].play()")
    WebDriverWait(browser, 20).until(lambda d: d.execute_script("return sounds[0].paused && !sounds[1].paused"))
    browser.execute_script("sounds[1].pause()")


def test_a_click_on_the_figure_seeks_and_marks_the_word(browser: Browser) -> None:
    wanted = browser.execute_script(
        """
        const card = document.querySelectorAll('.example')[2], svg = card.querySelector('svg.utterance');
        const word = svg.querySelectorAll('.word')[4], box = word.querySelector('rect').getBoundingClientRect();
        const at = {bubbles: true, clientX: box.left + box.width / 2, clientY: box.top + box.height / 2};
        svg.dispatchEvent(new MouseEvent('click', at));
        return (Number(word.dataset.start) + Number(word.dataset.end)) / 2;
        """
    )
    now = "return document.querySelectorAll('.example')[2].querySelector('audio').currentTime"
    WebDriverWait(browser, 10).until(lambda d: abs(d.execute_script(now) - wanted) < 0.02)
    card = browser.find_elements(By.CSS_SELECTOR, ".example")[2]
    marked = card.find_elements(By.CSS_SELECTOR, ".transcript .now")
    boxes = card.find_elements(By.CSS_SELECTOR, "svg .word.now")
    assert len(marked) == len(boxes) == 1
    assert marked[0].get_attribute("data-word") == boxes[0].get_attribute("data-word")


def test_units_are_shortened_until_asked_for(browser: Browser) -> None:
    card = next(
        c for c in browser.find_elements(By.CSS_SELECTOR, ".example") if c.find_elements(By.CSS_SELECTOR, ".units")
    )
    units = card.find_element(By.CSS_SELECTOR, ".units")
    short = "return arguments[0].scrollWidth > arguments[0].clientWidth && getComputedStyle(arguments[0]).overflow"
    assert browser.execute_script(short, units) == "hidden"
    browser.execute_script("arguments[0].click()", card.find_element(By.CSS_SELECTOR, ".inter label"))
    assert browser.execute_script("return getComputedStyle(arguments[0]).overflow", units) == "visible"


@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_never_scrolls_sideways(browser: Browser, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    # Charts follow the window's size a moment later.
    fits = f"const r = document.documentElement; return r.clientWidth <= {width} && r.scrollWidth <= r.clientWidth"
    WebDriverWait(browser, 10).until(lambda d: d.execute_script(fits))
